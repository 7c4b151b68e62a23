//! Waits that end when they should: tokio's are rounded up to the next millisecond, which would be
//! added to the latency of every request of an open loop.

use std::io;
use std::time::Instant;

#[cfg(target_os = "linux")]
pub(super) use precise::Timer;

#[cfg(target_os = "linux")]
mod precise {
    use std::os::fd::OwnedFd;

    use rustix::io::Errno;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    use super::{Instant, io};

    pub(in super::super) struct Timer {
        descriptor: AsyncFd<OwnedFd>,
        armed_for: Option<Instant>,
    }

    impl Timer {
        pub(in super::super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(deprecated, reason = "its successor is unsafe; this descriptor is owned here")]
            let descriptor = AsyncFd::new(timer)?;
            Ok(Self { descriptor, armed_for: None })
        }

        /// Returns at `deadline`, or at once if it has passed. May be dropped and asked again.
        pub(in super::super) async fn until(&mut self, deadline: Instant) -> io::Result<()> {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.armed_for != Some(deadline) {
                let no_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
                let value = Timespec::try_from(left).map_err(io::Error::other)?;
                let spec = Itimerspec { it_interval: no_interval, it_value: value };
                timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &spec)?;
                self.armed_for = Some(deadline);
            }
            loop {
                let mut ready = self.descriptor.readable().await?;
                let expired = ready.try_io(|descriptor| {
                    let mut expirations = [0; 8];
                    rustix::io::read(descriptor, &mut expirations).map_err(Errno::into)
                });
                if let Ok(outcome) = expired {
                    self.armed_for = None;
                    return outcome.map(|_| ());
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn until(&mut self, deadline: Instant) -> io::Result<()> {
        tokio::time::sleep_until(deadline.into()).await;
        Ok(())
    }
}
