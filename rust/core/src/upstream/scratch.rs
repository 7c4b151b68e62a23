//! One buffer a thread that every read goes through, so that a connection that waits holds none.

use std::cell::Cell;

/// As much as is read at once: more than a burst of 200 events.
pub(super) const SIZE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lend the thread's buffer. What is in it is whatever was read last.
pub(super) fn with<R>(work: impl FnOnce(&mut [u8]) -> R) -> R {
    // Taken out meanwhile: a loan inside a loan would get a buffer of its own.
    let mut buffer = SCRATCH.take();
    if buffer.is_empty() {
        buffer = vec![0; SIZE];
    }
    let result = work(&mut buffer);
    SCRATCH.set(buffer);
    result
}
