//! Names for what is answered, which nobody can guess.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};

thread_local! {
    static RANDOM: [RandomState; 2] = [RandomState::new(), RandomState::new()];
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// `prefix` and 24 hexadecimal digits; never the same twice.
pub(crate) fn fresh(prefix: &str) -> String {
    let number = MADE.with(|made| made.replace(made.get().wrapping_add(1)));
    let (first, second) =
        RANDOM.with(|[first, second]| (first.hash_one(number), second.hash_one(number)));
    // Half of the second is enough: 96 bits.
    format!("{prefix}{first:016x}{:08x}", second & 0xffff_ffff)
}
