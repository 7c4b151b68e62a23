//! The story of a request in another dialect than the engine's: put in the engine's words, answered, and said in the
//! client's.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt as _, Collected};

use super::Asked;
use crate::assemble::Wishes;
use crate::control;
use crate::dialect::Dialect;
use crate::dialect::translation::{
    Answering, Background, Encode, Loaded, Place, Question, Reading, Request, Retry, Start, Task,
    Translation,
};
use crate::endpoint::{Content, Takes, Target};
use crate::engine;
use crate::error::Error;
use crate::relay::{Answer, Translated};
use crate::routes::Runner;
use crate::splice;
use crate::worker::Worker;

/// A request that the engine refuses is put otherwise so often.
const TRIES: usize = 8;

/// What becomes of an engine's answer, and what is asked instead if it refuses.
pub(super) struct Voice {
    kind: Kind,
    retry: Option<Retry>,
    pub(super) background: Option<Background>,
}

enum Kind {
    Speech(Translation),
    Document(Encode),
    Loaded(Loaded),
}

/// Have the request say what the engine is to be asked; `Err` in `Ok` is an answer that takes no engine.
///
/// # Errors
/// Why it cannot be asked.
pub(super) async fn prepare(
    asked: &mut Asked,
    reading: Reading,
) -> Result<Result<Voice, Response<Answer>>, Error> {
    // What was refused before is over.
    (asked.assembled, asked.unassembled, asked.form) = (None, None, None);
    let Request { model, task, needs, stream, retry, background } = *read(asked, reading).await?;
    (asked.model, asked.needs, asked.stream) = (model, needs, stream);
    let kind = match task {
        Task::Speak { path, body, encoder, names_stop } => {
            asked.target = Target::speech(path);
            asked.slots = 1;
            put(asked, body, names_stop).await?;
            Kind::Speech(Translation::new(encoder))
        }
        Task::Document { mode, path, aside, body, encode } => {
            let takes = if aside { Takes::Aside } else { Takes::Slot };
            asked.target = Target { mode, upstream_path: path, takes, ..asked.target };
            asked.slots = usize::from(!aside);
            (asked.sent, asked.body) = (body.clone().into(), body.into());
            Kind::Document(encode)
        }
        Task::Load { mode, answer } => {
            asked.target = Target { mode, ..asked.target };
            asked.slots = 0;
            asked.only_load = true;
            Kind::Loaded(answer)
        }
        Task::Unload { answer } => {
            let unload = serde_json::json!({ "model": asked.model }).to_string();
            control::ask(asked.ticket.worker(), "/_control/unload", unload.into_bytes()).await?;
            asked.ticket.settle(true);
            return Ok(Err(document(answer)));
        }
    };
    Ok(Ok(Voice { kind, retry, background }))
}

/// Answer the questions that the body leaves open.
async fn read(asked: &mut Asked, mut reading: Reading) -> Result<Box<Request>, Error> {
    loop {
        match reading {
            Reading::Read(request) => return Ok(request),
            Reading::Asks { model, question: Question { place, body }, then } => {
                let answer = match place {
                    Place::Control(path) => control::ask(asked.ticket.worker(), path, body).await?,
                    Place::Engine(path) => ask_aside(asked, model, path, body).await?,
                };
                reading = then(&answer)?;
            }
        }
    }
}

/// Ask an engine of the model something in which the model has no part.
async fn ask_aside(
    asked: &mut Asked,
    model: String,
    path: &'static str,
    body: Vec<u8>,
) -> Result<Bytes, Error> {
    asked.model = model;
    // What a text is in tokens every runner of the model knows; what a template makes of it does not every one.
    let takes = if path == "/apply-template" { Takes::Aside } else { Takes::AsideInAnyMode };
    asked.target = Target { upstream_path: path, takes, ..asked.target };
    asked.slots = 0;
    asked.body = body.into();
    collect(Box::pin(asked.ask_when_leased(None)).await?).await
}

/// Put the engine's words into the request: as a stream wherever there is one.
async fn put(asked: &mut Asked, body: Vec<u8>, names_stop: bool) -> Result<(), Error> {
    let mut body = Bytes::from(body);
    if asked.target.content == Content::Messages {
        let addresses = super::addresses(&body)?;
        if !addresses.is_empty() {
            body = super::with_media(asked.ticket.worker(), &body, &addresses).await?;
        }
    }
    asked.sent = body.clone();
    asked.body = body.clone();
    let Some(wishes) = Wishes::read(&body) else { return Ok(()) };
    asked.note_form(&wishes);
    if asked.stream {
        let mut wanted: Vec<(&str, &[u8])> =
            vec![("stream", b"true"), ("stream_options", b"{\"include_usage\":true}")];
        if names_stop {
            wanted.extend([("verbose", &b"true"[..]), ("response_fields", b"[\"stopping_word\"]")]);
        }
        let edited = splice::set(&body, &wanted).ok_or(Error::MissingModel)?;
        asked.body = edited.into();
    } else {
        asked.ask_for_a_stream(&wishes.naming_stop(names_stop), &body);
    }
    Ok(())
}

impl Voice {
    /// The client's answer, of the engine's.
    ///
    /// # Errors
    /// What the engine says went wrong.
    pub(super) async fn say(
        self,
        mut asked: Asked,
        mut response: Response<Answer>,
    ) -> Result<Response<Answer>, Error> {
        let mut voice = self;
        for _ in 0..TRIES {
            let error = match voice.kind.say(&asked, response).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Error::EngineRefused(complaint) = &error else { return Err(error) };
            let Some(reading) = voice.retry.and_then(|retry| retry(complaint)) else {
                return Err(error);
            };
            voice = match prepare(&mut asked, reading?).await? {
                Ok(voice) => voice,
                Err(answer) => return Ok(answer),
            };
            response = asked.ask_when_leased(None).await?;
        }
        voice.kind.say(&asked, response).await
    }
}

impl Kind {
    async fn say(
        self,
        asked: &Asked,
        response: Response<Answer>,
    ) -> Result<Response<Answer>, Error> {
        let start = Start { load: asked.load.get(), request_id: asked.ticket.id().clone() };
        match self {
            Self::Loaded(answer) => Ok(document(answer(&start))),
            Self::Document(encode) => Ok(document(encode(&collect(response).await?, &start)?)),
            Self::Speech(_) if asked.is_preload() => Ok(response),
            Self::Speech(mut translation) => {
                translation.start(&start);
                speak(asked, response, translation).await
            }
        }
    }
}

async fn speak(
    asked: &Asked,
    response: Response<Answer>,
    mut translation: Translation,
) -> Result<Response<Answer>, Error> {
    let (worker, runner) = (Rc::clone(asked.ticket.worker()), asked.runner());
    let ask = move |question| answering(question, Rc::clone(&worker), runner.clone());
    let (head, body) = response.into_parts();
    let body = match body {
        Answer::Engine(relay) if asked.stream && relay.is_stream() => {
            let answer =
                Answer::Translated(Box::new(Translated::new(*relay, translation, Box::new(ask))));
            return Ok(stream(asked.ticket.dialect(), answer));
        }
        body => body,
    };
    let whole = collect(Response::from_parts(head, body)).await?;
    translation.hear(&whole)?;
    translation.finish();
    while let Some(question) = translation.question() {
        let answer = ask(question).await;
        translation.learn(answer);
    }
    let said = translation.take().unwrap_or_default();
    if asked.stream {
        return Ok(stream(asked.ticket.dialect(), Answer::own(said)));
    }
    Ok(document(said))
}

/// A document of an engine's.
async fn collect(response: Response<Answer>) -> Result<Bytes, Error> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.map(Collected::to_bytes);
    let document = collected.map_err(|_| Error::EngineDied)?;
    if head.status.is_success() {
        Ok(document)
    } else {
        Err(engine::refused(head.status, &document))
    }
}

fn answering(question: Question, worker: Rc<Worker>, runner: Option<Arc<Runner>>) -> Answering {
    Box::pin(async move {
        let Question { place, body } = question;
        match (place, runner) {
            (Place::Control(path), _) => control::ask(&worker, path, body).await,
            (Place::Engine(path), Some(runner)) => {
                engine::question(path, body, &worker, &runner).await
            }
            (Place::Engine(_), None) => Err(Error::EngineDied),
        }
    })
}

pub(super) fn document(bytes: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::own(bytes));
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn stream(dialect: Dialect, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    let kind = match dialect {
        Dialect::Ollama => "application/x-ndjson",
        Dialect::OpenAi | Dialect::Anthropic => "text/event-stream",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
