//! A request that goes on without its client, who gets an ID to ask for the answer by.

use std::rc::Rc;

use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use tokio::task::spawn_local;

use super::Asked;
use super::translated::{Voice, document};
use crate::control;
use crate::dialect::translation::{Background, Place, Question};
use crate::error::Error;
use crate::relay::Answer;
use crate::ticket::Ticket;
use crate::worker::Worker;

/// Begin, and answer that it has begun.
///
/// # Errors
/// It cannot be kept, so nobody could ask for it.
pub(super) async fn begin(
    mut asked: Asked,
    voice: Voice,
    background: Background,
) -> Result<Response<Answer>, Error> {
    let worker = Rc::clone(asked.ticket.worker());
    let Background { id, answer, keep, failed } = background;
    tell(&worker, keep).await?;
    // The connection's own ticket ends with its answer.
    let ticket = Ticket::open(&worker, &HeaderMap::new());
    ticket.speaks(asked.ticket.dialect());
    ticket.is_also(id);
    asked.ticket.settle(true);
    asked.ticket = Rc::clone(&ticket);
    // Owned by its thread: it ends with the server, and what became of it is found when that starts again.
    spawn_local(async move {
        let said = ticket.unless_cancelled(Box::pin(go_on(asked, voice))).await;
        if let Err(error) = said {
            ticket.refuse(&error);
            // Whoever asks for it then finds it in progress, until the server starts again.
            let _ = tell(&worker, failed(&error)).await;
        }
    });
    Ok(document(answer))
}

async fn go_on(asked: Asked, voice: Voice) -> Result<(), Error> {
    let response = asked.ask_when_leased(None).await?;
    let mut body = voice.say(asked, response).await?.into_body();
    // It keeps itself, whole or not, before its last event.
    while let Some(Ok(_)) = body.frame().await {}
    Ok(())
}

async fn tell(worker: &Worker, question: Question) -> Result<(), Error> {
    match question.place {
        Place::Control(path) => control::ask(worker, path, question.body).await.map(drop),
        Place::Engine(_) => Ok(()),
    }
}
