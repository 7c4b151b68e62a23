//! Names for what is answered, which nobody can guess.

use std::cell::Cell;
use std::hash::{BuildHasher as _, RandomState};

thread_local! {
    static RANDOM: [RandomState; 2] = [RandomState::new(), RandomState::new()];
    static MADE: Cell<u64> = const { Cell::new(0) };
}

/// The name of an item of a response, in which that of the response is, so that one leads to the other.
pub(crate) fn of_item(prefix: &str, response_id: &str, number: usize) -> String {
    let response = response_id.split_once('_').map_or(response_id, |(_, digits)| digits);
    format!("{prefix}{response}{number:04x}")
}

/// `prefix` and 24 hexadecimal digits; never the same twice.
pub(crate) fn fresh(prefix: &str) -> String {
    let number = MADE.with(|made| made.replace(made.get().wrapping_add(1)));
    let (first, second) =
        RANDOM.with(|[first, second]| (first.hash_one(number), second.hash_one(number)));
    // Half of the second is enough: 96 bits.
    format!("{prefix}{first:016x}{:08x}", second & 0xffff_ffff)
}
