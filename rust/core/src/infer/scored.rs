//! The story of a request for scores: one reranking after the other, each with a lease of its own, then one answer.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body_util::{BodyExt as _, Collected};

use super::Asked;
use crate::error::Error;
use crate::relay::Answer;
use crate::score::Scoring;

/// Have an engine rerank until all scores are known.
///
/// # Errors
/// Why no engine answers; an engine's own refusal is a response.
pub(super) async fn answer(
    mut asked: Asked,
    mut scoring: Scoring,
) -> Result<Response<Answer>, Error> {
    while let Some(body) = scoring.next(&asked.model) {
        asked.body = body.into();
        let response = Box::pin(asked.ask_when_leased(None)).await?;
        if asked.is_preload() || !response.status().is_success() {
            return Ok(response);
        }
        let ranked: Bytes = response
            .into_body()
            .collect()
            .await
            .map(Collected::to_bytes)
            .map_err(|_| Error::EngineDied)?;
        scoring.take(&ranked).map_err(|error| Error::EngineUnreachable(error.to_string()))?;
        // What a pair took is on its own account.
        (asked.received, asked.complete) = (Instant::now(), Instant::now());
        asked.load.set(None);
    }
    let id = format!("score-{}", asked.ticket.id().to_str().unwrap_or_default());
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut response = Response::new(Answer::own(scoring.answer(&id, &asked.model, created)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
