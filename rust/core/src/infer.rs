//! The story of an inference request: read it, lease a runner, ask its engine.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderName, HeaderValue, Request, Response, request};
use hyper::body::Incoming;

use crate::assemble::{AsStream, Plan, Shape, Told, Wishes};
use crate::control;
use crate::decode;
use crate::dialect::translation::{Needs, Reading};
use crate::dialect::{self, Dialect};
use crate::endpoint::{Content, Takes, Target};
use crate::engine::{self, Call, Failed};
use crate::error::Error;
use crate::intake;
use crate::media::{self, Address};
use crate::multipart;
use crate::peek::{self, Member, PeekError};
use crate::recorder::{self, Capture};
use crate::relay::{Account, Answer, Clock};
use crate::repair;
use crate::routes::{Lease, LeaseError, Runner};
use crate::score::Scoring;
use crate::ticket::Ticket;
use crate::waiting;
use crate::worker::Worker;

mod background;
mod guard;
mod repaired;
mod scored;
mod translated;

use guard::Form;
use translated::Voice;

const PRELOAD_ONLY: HeaderName = HeaderName::from_static("x-preload-only");

/// What the control plane says of a model that does something else.
const WRONG_MODE: &str = "wrong_mode";

/// The engine's path for embeddings as OpenAI has them.
const EMBEDDINGS: &str = "/v1/embeddings";

/// How often a request may come back to the route table, because its runner went away under it, before it is refused.
const LEASE_ROUNDS: usize = 4;

/// Have an engine answer the request.
///
/// # Errors
/// Why no engine does; what an engine itself answers, errors included, is a response.
pub(crate) async fn infer(
    ticket: &Rc<Ticket>,
    request: Request<Incoming>,
    target: Target,
) -> Result<Response<Answer>, Error> {
    let mut asked = Asked::read(ticket, request, target).await?;
    if let Some(scoring) = asked.scoring.take() {
        return scored::answer(asked, scoring).await;
    }
    let mut voice = None;
    if let Some(reading) = asked.reading.take() {
        match Box::pin(translated::prepare(&mut asked, reading)).await? {
            Ok(mut found) => match found.background.take() {
                Some(background) => return background::begin(asked, found, background).await,
                None => voice = Some(found),
            },
            Err(answer) => return Ok(answer),
        }
    }
    let mut failed_runner = None;
    if let Some(lease) = asked.lease_now() {
        match asked.ask(lease).await {
            Err(Failed::Unread { runner_id }) => failed_runner = Some(runner_id),
            Err(Failed::Finally(error)) => return Err(error),
            Ok(response) => return say(asked, voice, response).await,
        }
    }
    // From here on it can take as long as a load does.
    let heartbeat = ticket.worker().shared.config.heartbeat;
    // Ollama's streams are lines of JSON, which have no comments.
    let heartbeat = heartbeat.filter(|_| asked.stream && ticket.dialect() != Dialect::Ollama);
    let pending = Box::pin(async move {
        let response = asked.ask_when_leased(failed_runner).await?;
        say(asked, voice, response).await
    });
    match heartbeat {
        Some(beat) => waiting::patiently(ticket, beat, pending).await,
        None => pending.await,
    }
}

/// The answer as the client reads it.
async fn say(
    asked: Asked,
    voice: Option<Voice>,
    response: Response<Answer>,
) -> Result<Response<Answer>, Error> {
    match (voice, asked.dimensions) {
        (Some(voice), _) => Box::pin(voice.say(asked, response)).await,
        (None, Some(count)) if !asked.is_preload() => {
            Box::pin(repaired::shorten(response, count)).await
        }
        (None, _) => Ok(response),
    }
}

/// A request that was read, and what is known of it.
struct Asked {
    ticket: Rc<Ticket>,
    head: request::Parts,
    target: Target,
    model: String,
    /// The client reads a stream.
    stream: bool,
    /// How many of the engine's slots it takes; none if the model has no part in the answer.
    slots: usize,
    /// As the client sent it.
    sent: Bytes,
    /// As the engine shall see it.
    body: Bytes,
    /// The rerankings that the engine is asked for instead.
    scoring: Option<Scoring>,
    /// What a body in another dialect was found to be.
    reading: Option<Reading>,
    /// What it needs of its runner.
    needs: Needs,
    /// The model is to be loaded, and nothing else.
    only_load: bool,
    /// The runner that was asked last.
    runner: RefCell<Option<Arc<Runner>>>,
    /// What becomes of its answer, if the engine is asked for a stream instead of a whole one.
    assembled: Option<Plan>,
    /// The body as it came, if its stream may withhold something.
    unassembled: Option<Bytes>,
    /// The client reads the engine's own stream, of such a shape.
    relayed: Option<Shape>,
    /// What the answer is held to.
    form: Option<Form>,
    /// So many dimensions are wanted of embeddings.
    dimensions: Option<usize>,
    received: Instant,
    complete: Instant,
    /// How long it has waited for a runner to be ready; `None` if one was.
    load: Cell<Option<Duration>>,
}

impl Asked {
    async fn read(
        ticket: &Rc<Ticket>,
        request: Request<Incoming>,
        target: Target,
    ) -> Result<Self, Error> {
        let received = Instant::now();
        let (head, body) = request.into_parts();
        let body = intake::read(ticket, body).await?;
        let limit = ticket.worker().shared.config.body_limit;
        let body = decode::decode(body, &head.headers, limit).await?;
        let mut asked = Self {
            ticket: Rc::clone(ticket),
            head,
            target,
            model: String::new(),
            stream: false,
            slots: usize::from(target.takes == Takes::Slot),
            sent: body.clone(),
            body,
            scoring: None,
            reading: None,
            needs: Needs::default(),
            only_load: false,
            runner: RefCell::new(None),
            assembled: None,
            unassembled: None,
            relayed: None,
            form: None,
            dimensions: None,
            received,
            complete: received,
            load: Cell::new(None),
        };
        asked.understand().await?;
        asked.complete = Instant::now();
        Ok(asked)
    }

    /// Find out which model it is for, and make the body what an engine shall see.
    async fn understand(&mut self) -> Result<(), Error> {
        if let Content::Foreign(foreign) = self.target.content {
            self.reading = Some(dialect::read(foreign, &self.body)?);
            return Ok(());
        }
        if self.target.content == Content::Form {
            self.model = model_of_form(&self.head.headers, &self.body)?;
            return Ok(());
        }
        let addresses = self.look_through()?;
        if !addresses.is_empty() {
            self.body = with_media(self.ticket.worker(), &self.body, &addresses).await?;
            let body = self.body.clone();
            if let Some(wishes) = Wishes::read(&body) {
                self.ask_for_a_stream(&wishes, &body);
            }
        }
        Ok(())
    }

    /// Take from the body what there is to know, all in one go, for it may be long; what it has addresses of is still to
    /// be put into it.
    fn look_through(&mut self) -> Result<Vec<Address>, Error> {
        let (target, body) = (self.target, self.body.clone());
        let mut wishes = Wishes::default();
        let (model, stream, slots) = peek(&body, |name, member| wishes.note(name, member))?;
        let narrowed = self.mend(&wishes, &body)?;
        if let Some(narrowed) = narrowed {
            self.body = narrowed.into();
            return self.look_through();
        }
        self.model = model;
        if target.takes == Takes::Slot {
            self.slots = slots;
        }
        self.stream = stream && target.streams();
        self.relayed = Shape::of(target.upstream_path).filter(|_| self.stream);
        self.note_form(&wishes);
        match target.content {
            Content::Scores => self.scoring = Some(Scoring::read(&body)?),
            Content::Messages => {
                let addresses = addresses(&body)?;
                if !addresses.is_empty() {
                    return Ok(addresses);
                }
            }
            Content::Json | Content::Form | Content::Foreign(_) => {}
        }
        self.ask_for_a_stream(&wishes, &body);
        Ok(Vec::new())
    }

    /// See to what an engine would not hear; `Some` is what it is to be asked instead.
    fn mend(&mut self, wishes: &Wishes<'_>, body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if let Some(dimensions) = wishes.dimensions
            && self.target.upstream_path == EMBEDDINGS
        {
            self.dimensions = repair::dimensions(dimensions.value)?;
        }
        match wishes.tool_choice {
            Some(choice) if self.target.content == Content::Messages => {
                repair::narrow(body, choice, wishes.tools)
            }
            _ => Ok(None),
        }
    }

    /// Note what the answer is held to, if it is a chat's.
    fn note_form(&mut self, wishes: &Wishes<'_>) {
        let is_chat = Shape::of(self.target.upstream_path) == Some(Shape::Chat);
        self.form = Form::of(wishes).filter(|_| is_chat);
    }

    /// Ask the engine for a stream, wherever that can become the same answer.
    ///
    /// llama-server notices at once that the reader of a stream has left, but that somebody who waits for a whole answer
    /// has left only while nobody gets tokens from it.
    fn ask_for_a_stream<'a>(&mut self, wishes: &Wishes<'a>, body: &'a [u8]) {
        let shape = Shape::of(self.target.upstream_path);
        // Of a runner that is still to be loaded, it is not known.
        let has_stops = self.warm_runner().is_none_or(|runner| runner.has_stops);
        let edited = shape.and_then(|shape| wishes.as_stream(body, shape, has_stops));
        let Some(AsStream { body, plan }) = edited else { return };
        let original = std::mem::replace(&mut self.body, body.into());
        self.assembled = Some(plan);
        self.unassembled = Some(original).filter(|_| plan.told != Told::Usage);
    }

    /// What it takes of a ready runner, if that is free.
    fn lease_now(&self) -> Option<Lease> {
        self.warm_runner()?.lease_now(self.slots)
    }

    /// The runner that was asked last.
    fn runner(&self) -> Option<Arc<Runner>> {
        self.runner.borrow().clone()
    }

    fn warm_runner(&self) -> Option<Arc<Runner>> {
        let routes = &self.ticket.worker().shared.routes;
        let runner = self.target.modes().find_map(|mode| routes.find(&self.model, mode))?;
        let fits = self.needs.context_size.is_none_or(|wanted| runner.has_context(wanted));
        fits.then_some(runner)
    }

    fn is_preload(&self) -> bool {
        let header = self.head.headers.get(PRELOAD_ONLY);
        self.only_load || header.is_some_and(|value| value == "true")
    }

    async fn ask(&self, lease: Lease) -> Result<Response<Answer>, Failed> {
        self.meet(lease.runner()).await.map_err(Failed::Finally)?;
        if self.is_preload() {
            self.ticket.settle(true);
            return Ok(Response::new(Answer::own(Bytes::new())));
        }
        if let Some(form) = self.form {
            let checked = form.check(&self.body, self.ticket.worker(), lease.runner());
            Box::pin(checked).await.map_err(Failed::Finally)?;
        }
        let call = Call {
            path: self.target.upstream_path,
            query: self.head.uri.query(),
            headers: &self.head.headers,
            body: &self.body,
            assembled: self.assembled,
            unassembled: self.unassembled.as_ref(),
            relayed: self.relayed.map(|shape| (shape, self.slots)),
        };
        let (received, complete, load) = (self.received, self.complete, self.load.get());
        let clock = Clock { received, complete, load, leased: Instant::now() };
        let mut account = Account::open(&self.ticket, lease, clock);
        account.capture = self.capture(&account);
        engine::ask(call, account).await
    }

    /// See that the runner can do what is needed, and knows how long it is to stay.
    async fn meet(&self, runner: &Arc<Runner>) -> Result<(), Error> {
        self.needs.check(&self.model, runner.capabilities)?;
        if let Some(seconds) = self.needs.keep_alive
            && runner.note_keep_alive(seconds)
        {
            let told = control::keep_alive(self.ticket.worker(), &runner.id, seconds).await;
            if told.is_err() {
                // The next one tells it again.
                runner.note_keep_alive(f64::NAN);
            }
            told?;
        }
        self.runner.replace(Some(Arc::clone(runner)));
        Ok(())
    }

    /// Begin to record the request, unless it must not be. What only looks something up would push out what matters.
    fn capture(&self, account: &Account) -> Option<Box<Capture>> {
        if self.target.takes != Takes::Slot {
            return None;
        }
        let recorder = self.ticket.worker().shared.recorder.as_ref()?;
        let asked = recorder::Asked {
            request_id: self.ticket.id(),
            headers: &self.head.headers,
            path: self.head.uri.path(),
            model: &self.model,
            mode: self.target.mode,
            // Of a request for scores each reranking is a record.
            body: if self.target.content == Content::Scores { &self.body } else { &self.sent },
        };
        recorder.begin(&asked, account.lease.runner()).map(Box::new)
    }

    /// Ask as soon as there is a runner with a slot; of another one, if a runner fails before it has read the request.
    async fn ask_when_leased(
        &self,
        mut failed_runner: Option<String>,
    ) -> Result<Response<Answer>, Error> {
        for _ in 0..LEASE_ROUNDS {
            let lease = self.lease(failed_runner.as_deref()).await?;
            match self.ask(lease).await {
                Ok(response) => return Ok(response),
                Err(Failed::Unread { runner_id }) => failed_runner = Some(runner_id),
                Err(Failed::Finally(error)) => return Err(error),
            }
        }
        Err(Error::EngineUnreachable("it went away each time it was asked".to_owned()))
    }

    /// Have a runner started, in the first mode that the model has.
    async fn start(&self, failed_runner: Option<&str>) -> Result<String, Error> {
        let worker = self.ticket.worker();
        let mut modes = self.target.modes();
        let mut mode = self.target.mode;
        modes.next();
        loop {
            let context_size = self.needs.context_size;
            match control::lease(worker, &self.model, mode, failed_runner, context_size).await {
                Err(Error::Refused(refusal)) if refusal.code == WRONG_MODE => match modes.next() {
                    Some(next) => mode = next,
                    None => return Err(Error::Refused(refusal)),
                },
                answer => return answer,
            }
        }
    }

    /// What it takes of a runner; waits for one to be started, and for its turn.
    async fn lease(&self, failed_runner: Option<&str>) -> Result<Lease, Error> {
        let worker = self.ticket.worker();
        let queue_limit = worker.shared.config.queue_limit;
        let mut warm = if failed_runner.is_none() { self.warm_runner() } else { None };
        for _ in 0..LEASE_ROUNDS {
            let runner = if let Some(runner) = warm.take() {
                runner
            } else {
                let asked = Instant::now();
                let runner_id = self.start(failed_runner).await?;
                self.load.set(Some(self.load.get().unwrap_or_default() + asked.elapsed()));
                // It may be gone again already; then the next round asks anew.
                let Some(runner) = worker.shared.routes.by_id(&runner_id) else { continue };
                runner
            };
            match runner.lease(self.slots, queue_limit).await {
                Ok(lease) => return Ok(lease),
                Err(LeaseError::QueueFull) => return Err(Error::QueueFull { limit: queue_limit }),
                Err(LeaseError::Retired) => warm = self.warm_runner(),
            }
        }
        Err(Error::EngineUnreachable("it was stopped each time it became ready".to_owned()))
    }
}

/// What the body says of itself: which model it is for, whether it asks for a stream, and for how many at once.
fn peek<'a>(
    body: &'a [u8],
    note: impl FnMut(&[u8], Member<'a>),
) -> Result<(String, bool, usize), Error> {
    let peeked = peek::peek_with(body, note).map_err(|error| match error {
        PeekError::ModelNotAString => Error::ModelNotAString,
        PeekError::Malformed { .. } if body.trim_ascii().is_empty() => {
            Error::MalformedBody("it is empty: send a JSON object".to_owned())
        }
        other => Error::MalformedBody(other.to_string()),
    })?;
    match peeked.model {
        Some(model) if !model.trim().is_empty() => {
            Ok((model.into_owned(), peeked.stream, peeked.sequences))
        }
        _ => Err(Error::MissingModel),
    }
}

/// The model that a form is for.
fn model_of_form(headers: &HeaderMap, body: &[u8]) -> Result<String, Error> {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let model = multipart::field(body, content_type, "model")
        .map_err(|error| Error::MalformedBody(error.to_string()))?;
    model.filter(|model| !model.trim().is_empty()).map(str::to_owned).ok_or(Error::MissingModel)
}

/// The addresses of media in the body that are to be fetched.
fn addresses(body: &[u8]) -> Result<Vec<Address>, Error> {
    media::addresses(body).map_err(|error| Error::InvalidParameter {
        param: error.param(),
        reason: error.to_string(),
    })
}

/// The body with images in place of their addresses. llama-server would fetch from anywhere, from this host's private
/// neighbours too.
async fn with_media(worker: &Worker, body: &[u8], addresses: &[Address]) -> Result<Bytes, Error> {
    let mut urls: Vec<&str> = addresses.iter().map(|address| address.url.as_str()).collect();
    urls.sort_unstable();
    urls.dedup();
    let data = control::fetch_media(worker, &urls).await?;
    let fetched: Vec<(&str, String)> = urls.into_iter().zip(data).collect();
    let limit = worker.shared.config.body_limit;
    let edited = media::replace(body, addresses, &fetched, limit);
    edited.map(Bytes::from).ok_or(Error::BodyTooLarge { limit })
}
