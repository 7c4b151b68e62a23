//! Flaws of llama-server that would reach clients of its own dialect, made good where a request or an answer shows one.
//! What does not show one is not touched.

mod choice;
mod refusal;
mod stream;
mod vectors;

pub(crate) use choice::narrow;
pub(crate) use refusal::{judge, reworded};
pub(crate) use stream::Mend;
pub(crate) use vectors::{dimensions, shorten};
