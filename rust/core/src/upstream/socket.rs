//! A Unix socket that is tried before it is waited for, and known to the runtime only for what is waited for.
//!
//! A new connection is written to at once: what tokio does first (register, wait until it is writable, ask for an error)
//! costs three system calls and a turn of the event loop before the engine hears anything. And a Unix socket that is
//! watched for room to write wakes its owner each time the peer reads, so that is asked for only when there is none.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use socket2::{Domain, SockAddr, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A full accept queue makes `connect` on a Unix socket fail at once instead of waiting; so we wait, this often at most.
const CONNECT_TRIES: u32 = 12;

/// A stream socket that never blocks.
#[derive(Debug)]
pub(super) struct Socket {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Not known to the runtime yet.
    Loose(UnixStream),
    /// Watched for bytes.
    Reading(AsyncFd<UnixStream>),
    /// Watched for bytes, and for room to write.
    Both(AsyncFd<UnixStream>),
    /// It could not be registered.
    #[default]
    Lost,
}

impl Socket {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { state: State::Loose(stream) }
    }

    /// Write what there is room for; waits if there is none.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.stream()?.write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let watched = self.watched(true)?;
                    // There was room once, and there is none now.
                    ready!(watched.poll_write_ready(context))?.clear_ready();
                }
                written => return Poll::Ready(written),
            }
        }
    }

    /// Read once there is something; 0 is the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let watched = self.watched(false)?;
        loop {
            let mut ready = ready!(watched.poll_read_ready(context))?;
            match watched.get_ref().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Ok(count) => {
                    // Less than asked for is all there was: no second read is needed to learn that.
                    if count > 0 && count < buffer.len() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Whether the peer has neither sent anything nor closed, as far as the runtime knows.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        self.poll_read(&mut Context::from_waker(Waker::noop()), &mut byte).is_pending()
    }

    fn stream(&self) -> io::Result<&UnixStream> {
        match &self.state {
            State::Loose(stream) => Ok(stream),
            State::Reading(watched) | State::Both(watched) => Ok(watched.get_ref()),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Have it watched for bytes, and if need be for room to write.
    fn watched(&mut self, for_room: bool) -> io::Result<&AsyncFd<UnixStream>> {
        let enough = match &self.state {
            State::Reading(_) => !for_room,
            State::Both(_) => true,
            State::Loose(_) | State::Lost => false,
        };
        if !enough {
            let stream = match std::mem::take(&mut self.state) {
                State::Loose(stream) => stream,
                State::Reading(watched) | State::Both(watched) => watched.into_inner(),
                State::Lost => return Err(io::ErrorKind::NotConnected.into()),
            };
            self.state = if for_room {
                State::Both(watch(stream, Interest::READABLE | Interest::WRITABLE)?)
            } else {
                State::Reading(watch(stream, Interest::READABLE)?)
            };
        }
        match &self.state {
            State::Reading(watched) | State::Both(watched) => Ok(watched),
            State::Loose(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

#[expect(deprecated, reason = "what replaces it is unsafe, for types that change descriptors")]
fn watch(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}

/// Connect without blocking; waits if too many others wait to be accepted.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    for _ in 1..CONNECT_TRIES {
        match connect_now(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(250));
            }
            other => return other,
        }
    }
    connect_now(path)
}

/// Connect without blocking or waiting.
pub(super) fn connect_now(path: &Path) -> io::Result<UnixStream> {
    // One system call instead of three, where the system can.
    #[cfg(target_os = "linux")]
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    #[cfg(not(target_os = "linux"))]
    let socket = {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket
    };
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}
