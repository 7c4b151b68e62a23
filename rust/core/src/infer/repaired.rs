//! Repairs that take an answer as a whole.

use http::Response;
use http_body_util::{BodyExt as _, Collected};

use crate::error::Error;
use crate::relay::Answer;
use crate::repair;

/// An engine's embeddings with so many dimensions.
///
/// # Errors
/// Why there cannot be so many.
pub(super) async fn shorten(
    response: Response<Answer>,
    count: usize,
) -> Result<Response<Answer>, Error> {
    if !response.status().is_success() {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    let whole = body.collect().await.map(Collected::to_bytes).map_err(|_| Error::EngineDied)?;
    Ok(Response::from_parts(head, Answer::own(repair::shorten(&whole, count)?)))
}
