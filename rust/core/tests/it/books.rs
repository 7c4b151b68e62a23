//! The books hold what the engine said, whatever becomes of the requests: random mixes of streams, whole answers and
//! documents, of choices and prompts, of clients that leave and engines that die.

use model_runner_core::Route;
use model_runner_core::endpoint::Mode;
use model_runner_core::snapshot::{Histogram, ModelTotals};
use proptest::prelude::*;
use serde_json::json;

use crate::harness::engine::STREAM_HEAD;
use crate::harness::{Engine, MODEL, Rig, Wire, wait_until};

/// What is asked of the engine, and how it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ChatStream,
    ChatWhole,
    TextStream,
    TextWhole,
    /// A chat that is forwarded as it is.
    ChatForwarded,
    Embeddings,
    Rerank,
}

impl Kind {
    fn is_text(self) -> bool {
        matches!(self, Self::TextStream | Self::TextWhole)
    }

    /// The client reads a stream.
    fn is_stream(self) -> bool {
        matches!(self, Self::ChatStream | Self::TextStream)
    }

    fn is_document(self) -> bool {
        matches!(self, Self::ChatForwarded | Self::Embeddings | Self::Rerank)
    }

    fn mode(self) -> Mode {
        match self {
            Self::Embeddings => Mode::Embedding,
            Self::Rerank => Mode::Reranking,
            _ => Mode::Completion,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::ChatStream | Self::ChatWhole | Self::ChatForwarded => "/v1/chat/completions",
            Self::TextStream | Self::TextWhole => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    ClientLeaves,
    EngineDies,
    EngineFails,
}

#[derive(Clone, Debug)]
struct Prompt {
    cached: u64,
    processed: u64,
    choices: Vec<Choice>,
}

#[derive(Clone, Debug)]
struct Choice {
    /// A token a piece; whether it is a thought, where there are any.
    said: Vec<bool>,
    /// Tokens that no event tells of.
    withheld: u64,
}

/// One request, and what shall become of it.
#[derive(Clone, Debug)]
struct Plan {
    kind: Kind,
    prompts: Vec<Prompt>,
    wants_usage: bool,
    per_token: bool,
    end: End,
    /// Of its events, how many come before it is cut.
    cut: prop::sample::Index,
}

fn plan() -> impl Strategy<Value = Plan> {
    let kind = prop::sample::select(vec![
        Kind::ChatStream,
        Kind::ChatStream,
        Kind::ChatWhole,
        Kind::ChatWhole,
        Kind::TextStream,
        Kind::TextWhole,
        Kind::ChatForwarded,
        Kind::Embeddings,
        Kind::Rerank,
    ]);
    let end = prop::sample::select(vec![
        End::Complete,
        End::Complete,
        End::ClientLeaves,
        End::EngineDies,
        End::EngineFails,
    ]);
    // Few values, so that prompts often look alike.
    let shape = (1..4_usize, 1..4_usize).prop_flat_map(|(prompts, choices)| {
        let choice = (prop::collection::vec(any::<bool>(), 0..4), 0..3_u64)
            .prop_map(|(said, withheld)| Choice { said, withheld });
        let prompt = (0..2_u64, 1..3_u64, prop::collection::vec(choice, choices))
            .prop_map(|(cached, processed, choices)| Prompt { cached, processed, choices });
        prop::collection::vec(prompt, prompts)
    });
    (kind, shape, any::<bool>(), any::<bool>(), end, any::<prop::sample::Index>()).prop_map(
        |(kind, mut prompts, wants_usage, per_token, end, cut)| {
            if !kind.is_text() {
                prompts.truncate(1);
            }
            Plan { kind, prompts, wants_usage, per_token, end, cut }
        },
    )
}

/// What shall stand in the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Books {
    /// Ended well, as the client's fault, as the engine's, cancelled, timed out.
    outcomes: [u64; 5],
    prompt: u64,
    cached: u64,
    completion: u64,
    reasoning: u64,
    events: u64,
}

impl Books {
    fn of(totals: &ModelTotals) -> Self {
        Self {
            outcomes: [
                totals.requests_ok,
                totals.requests_client_error,
                totals.requests_engine_error,
                totals.requests_cancelled,
                totals.requests_timed_out,
            ],
            prompt: totals.prompt_tokens,
            cached: totals.cached_prompt_tokens,
            completion: totals.completion_tokens,
            reasoning: totals.reasoning_tokens,
            events: totals.stream_events,
        }
    }

    fn add(&mut self, other: Self) {
        for (count, more) in self.outcomes.iter_mut().zip(other.outcomes) {
            *count += more;
        }
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.completion += other.completion;
        self.reasoning += other.reasoning;
        self.events += other.events;
    }
}

/// One event of an answer.
#[derive(Clone, Debug)]
struct Event {
    data: String,
    prompt: usize,
    choice: usize,
    /// The data of this many events; llama-server sends a choice's last two as one.
    count: u64,
    /// A token, and whether it is a thought.
    said: Option<bool>,
    /// How many tokens the engine says the choice has.
    counted: Option<u64>,
}

impl Plan {
    fn choices(&self) -> usize {
        self.prompts.first().map_or(1, |prompt| prompt.choices.len())
    }

    fn body(&self) -> String {
        let mut body = json!({"model": MODEL, "stream": self.kind.is_stream()});
        match self.kind {
            Kind::Embeddings => body["input"] = json!("Hi"),
            Kind::Rerank => body["query"] = json!("Hi"),
            _ => body["n"] = json!(self.choices()),
        }
        if self.kind.is_text() {
            body["prompt"] = json!(vec!["Hi"; self.prompts.len()]);
        }
        if self.kind == Kind::ChatForwarded {
            body["stop"] = json!(["x"]);
        }
        if self.kind.is_stream() && self.wants_usage {
            body["stream_options"] = json!({"include_usage": true});
        }
        if self.per_token {
            body["timings_per_token"] = json!(true);
        }
        body.to_string()
    }

    /// All events, the choices' side by side.
    fn events(&self, include_usage: bool) -> Vec<Event> {
        let mut rounds: Vec<(usize, Event)> = Vec::new();
        for (prompt, of) in self.prompts.iter().enumerate() {
            for choice in 0..of.choices.len() {
                let events = self.events_of(prompt, choice, include_usage);
                rounds.extend(events.into_iter().enumerate());
            }
        }
        rounds.sort_by_key(|(round, _)| *round);
        rounds.into_iter().map(|(_, event)| event).collect()
    }

    fn events_of(&self, prompt: usize, choice: usize, include_usage: bool) -> Vec<Event> {
        let of = &self.prompts[prompt];
        let index = prompt * self.choices() + choice;
        let Choice { said, withheld } = &of.choices[choice];
        let timings = |predicted: u64| json!({"cache_n": of.cached, "prompt_n": of.processed, "predicted_n": predicted});
        let event =
            |data: String| Event { data, prompt, choice, count: 1, said: None, counted: None };
        let mut events = Vec::new();
        if !self.kind.is_text() {
            let delta = json!({"role": "assistant", "content": null});
            let choices = json!([{"finish_reason": null, "index": index, "delta": delta}]);
            events.push(event(framed(&json!({"choices": choices}))));
        }
        for (position, thought) in said.iter().enumerate() {
            let choice = if self.kind.is_text() {
                json!({"text": " a", "index": index, "logprobs": null, "finish_reason": null})
            } else {
                let name = if *thought { "reasoning_content" } else { "content" };
                json!({"finish_reason": null, "index": index, "delta": {name: " a"}})
            };
            let mut data = json!({"choices": [choice], "created": 1, "model": "m"});
            let predicted = position as u64 + 1;
            if self.per_token {
                data["timings"] = timings(predicted);
            }
            let thought = *thought && !self.kind.is_text();
            let counted = self.per_token.then_some(predicted);
            events.push(Event { said: Some(thought), counted, ..event(framed(&data)) });
        }
        let predicted = said.len() as u64 + withheld;
        let usage = json!({
            "completion_tokens": predicted, "prompt_tokens": of.cached + of.processed,
            "total_tokens": of.cached + of.processed + predicted,
            "prompt_tokens_details": {"cached_tokens": of.cached},
        });
        let mut last = if self.kind.is_text() {
            let choice = json!({"text": "", "index": index, "finish_reason": "length"});
            json!({"choices": [choice], "usage": usage, "timings": timings(predicted)})
        } else {
            json!({"choices": [{"finish_reason": "length", "index": index, "delta": {}}]})
        };
        let (data, count) = if self.kind.is_text() {
            (framed(&last), 1)
        } else if include_usage {
            let counts = json!({"choices": [], "usage": usage, "timings": timings(predicted)});
            (framed(&last) + &framed(&counts), 2)
        } else {
            last["timings"] = timings(predicted);
            (framed(&last), 1)
        };
        events.push(Event { counted: Some(predicted), count, ..event(data) });
        events
    }

    /// What the books shall have of it, if these events were sent.
    fn books(&self, sent: &[Event]) -> Books {
        let mut books = Books::default();
        let outcome = match self.end {
            End::Complete => 0,
            End::EngineDies | End::EngineFails => 2,
            End::ClientLeaves => 3,
        };
        books.outcomes[outcome] = 1;
        for (prompt, of) in self.prompts.iter().enumerate() {
            let mut reported = false;
            for choice in 0..of.choices.len() {
                let own =
                    || sent.iter().filter(|event| (event.prompt, event.choice) == (prompt, choice));
                let said = own().filter(|event| event.said.is_some()).count() as u64;
                let counted = own().filter_map(|event| event.counted).next_back();
                books.completion += counted.unwrap_or(said);
                books.reasoning += own().filter(|event| event.said == Some(true)).count() as u64;
                reported |= counted.is_some();
            }
            if reported {
                books.prompt += of.cached + of.processed;
                books.cached += of.cached;
            }
        }
        if self.kind.is_stream() {
            books.events = sent.iter().map(|event| event.count).sum();
            // The engine's own error is an event, too; ours is not.
            books.events += u64::from(self.end == End::EngineFails);
        }
        books
    }

    /// The answer of a document, and what the books shall have of it.
    fn document(&self) -> (String, Books) {
        let mut books = Books::default();
        let Prompt { cached, processed, choices } = &self.prompts[0];
        let mut document = json!({"object": "list", "data": [0.5]});
        if self.kind == Kind::ChatForwarded {
            // The engine speaks of the first choice only.
            let predicted = choices[0].said.len() as u64 + choices[0].withheld;
            document["timings"] =
                json!({"cache_n": cached, "prompt_n": processed, "predicted_n": predicted});
            books.cached = *cached;
            books.completion = predicted;
        }
        document["usage"] = json!({"prompt_tokens": cached + processed});
        books.prompt = cached + processed;
        (document.to_string(), books)
    }
}

fn framed(data: &serde_json::Value) -> String {
    format!("data: {data}\n\n")
}

/// A request under way.
struct Live {
    plan: Plan,
    client: Wire,
    upstream: Wire,
    /// What is still to be sent before the end, the next at the back.
    ahead: Vec<Event>,
    sent: Vec<Event>,
}

impl Live {
    fn begin(rig: &Rig, engines: &Engines, plan: Plan) -> Self {
        let mut client = rig.client();
        client.ask("POST", plan.kind.path(), &[("Connection", "close")], plan.body());
        let (mut upstream, request) = engines.of(plan.kind.mode()).receive();
        let mut ahead = Vec::new();
        if !plan.kind.is_document() {
            // A stream asks for usage if its client does; a whole answer always needs it.
            let asked = request.json()["stream_options"]["include_usage"] == true;
            assert_eq!(asked, plan.wants_usage || !plan.kind.is_stream());
            upstream.send(STREAM_HEAD);
            ahead = plan.events(asked);
            if plan.end != End::Complete {
                ahead.truncate(plan.cut.index(ahead.len() + 1));
            }
            ahead.reverse();
            if plan.kind.is_stream() {
                client.head();
            }
        }
        Self { plan, client, upstream, ahead, sent: Vec::new() }
    }

    /// Send the next event; false if there is none.
    fn step(&mut self, rig: &Rig) -> bool {
        let Some(event) = self.ahead.pop() else { return false };
        self.upstream.send_chunk(&event.data);
        if self.plan.kind.is_stream() {
            // Of several choices of a chat what each counts is held back, for one sum at the end.
            let choices: usize = self.plan.prompts.iter().map(|prompt| prompt.choices.len()).sum();
            let held = choices > 1 && !self.plan.kind.is_text();
            let expected = if held { 1 } else { event.count };
            let mut heard = Vec::new();
            while heard.windows(2).filter(|pair| *pair == b"\n\n").count() as u64 != expected {
                heard.extend(self.client.chunk());
            }
        } else {
            rig.client().ping();
        }
        self.sent.push(event);
        true
    }

    fn end(mut self) -> Books {
        if self.plan.kind.is_document() {
            return self.end_document();
        }
        let books = self.plan.books(&self.sent);
        match self.plan.end {
            End::Complete => {
                self.upstream.send_chunk("data: [DONE]\n\n");
                self.upstream.end_chunks_if_read();
                if self.plan.kind.is_stream() {
                    self.client.pieces();
                } else {
                    self.check_usage(books);
                }
            }
            End::ClientLeaves => {
                drop(self.client);
                self.upstream.rest();
            }
            End::EngineDies => {
                drop(self.upstream);
                self.client.rest();
            }
            End::EngineFails => {
                self.upstream
                    .send_chunk("data: {\"error\":{\"code\":500,\"message\":\"no room\"}}\n\n");
                self.upstream.end_chunks_if_read();
                self.client.rest();
            }
        }
        books
    }

    /// The client of a whole answer is told what stands in the books.
    fn check_usage(&mut self, books: Books) {
        let usage = &self.client.message().json()["usage"];
        assert_eq!(usage["prompt_tokens"], books.prompt);
        assert_eq!(usage["completion_tokens"], books.completion);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], books.cached);
    }

    fn end_document(mut self) -> Books {
        let (document, mut books) = self.plan.document();
        let half = &document[..document.len() / 2];
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{half}",
            document.len()
        );
        match self.plan.end {
            End::Complete => {
                self.upstream.answer("200 OK", "Connection: close\r\n", &document);
                assert_eq!(self.client.message().body, document.as_bytes());
                books.outcomes = [1, 0, 0, 0, 0];
                return books;
            }
            End::ClientLeaves => {
                self.upstream.send(head);
                drop(self.client);
                self.upstream.rest();
                books = Books { outcomes: [0, 0, 0, 1, 0], ..Books::default() };
            }
            End::EngineDies => {
                self.upstream.send(head);
                drop(self.upstream);
                self.client.rest();
                books = Books { outcomes: [0, 0, 1, 0, 0], ..Books::default() };
            }
            End::EngineFails => {
                let error = r#"{"error":{"code":400,"message":"too long"}}"#;
                self.upstream.answer("400 Bad Request", "Connection: close\r\n", error);
                assert_eq!(self.client.message().head.status(), 400);
                books = Books { outcomes: [0, 1, 0, 0, 0], ..Books::default() };
            }
        }
        books
    }
}

/// One engine a mode.
struct Engines(Vec<(Mode, Engine)>);

impl Engines {
    fn publish(rig: &Rig) -> Self {
        let make = |mode: Mode| (mode, rig.engine(mode.name()).with_slots(64));
        let engines: Vec<(Mode, Engine)> = Mode::ALL.into_iter().map(make).collect();
        let routes: Vec<Route> =
            engines.iter().map(|(mode, engine)| Route { mode: *mode, ..engine.route() }).collect();
        rig.plane.publish(&routes);
        Self(engines)
    }

    fn of(&self, mode: Mode) -> &Engine {
        let found = self.0.iter().find(|(known, _)| *known == mode);
        &found.expect("one for each mode").1
    }
}

fn count(histogram: &Histogram) -> u64 {
    histogram.counts.iter().sum()
}

/// What the histograms say must be what the counters say.
fn check_histograms(totals: &ModelTotals) {
    let books = Books::of(totals);
    let all = |of: fn(&model_runner_core::snapshot::OperationTotals) -> &Histogram| {
        totals.operations.iter().map(of).map(|histogram| histogram.sum).sum::<f64>()
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let [prompt, completion] = [books.prompt as f64, books.completion as f64];
    assert!((all(|operation| &operation.input_tokens) - prompt).abs() < 0.5);
    assert!((all(|operation| &operation.output_tokens) - completion).abs() < 0.5);
    let names = ["ok", "client_error", "engine_error", "cancelled", "timed_out"];
    for (name, expected) in names.into_iter().zip(books.outcomes) {
        let durations = totals.operations.iter().flat_map(|operation| &operation.durations);
        let counted: u64 =
            durations.filter(|(of, _)| *of == name).map(|(_, times)| count(times)).sum();
        assert_eq!(counted, expected, "{name}");
    }
    assert_eq!(count(&totals.queue_waits), books.outcomes.iter().sum::<u64>());
    assert_eq!(count(&totals.load_waits), 0, "all runners were ready");
}

fn check(plans: Vec<Plan>, order: &[prop::sample::Index]) {
    let rig = Rig::new();
    let engines = Engines::publish(&rig);
    let mut expected = Mode::ALL.map(|mode| (mode.name(), Books::default()));
    let mut end = |live: Live| {
        let mode = live.plan.kind.mode() as usize;
        expected[mode].1.add(live.end());
    };
    let mut lives: Vec<Live> =
        plans.into_iter().map(|plan| Live::begin(&rig, &engines, plan)).collect();
    for pick in order {
        if lives.is_empty() {
            break;
        }
        let at = pick.index(lives.len());
        if !lives[at].step(&rig) {
            end(lives.swap_remove(at));
        }
    }
    for mut live in lives {
        while live.step(&rig) {}
        end(live);
    }
    rig.assert_at_rest();
    wait_until("all leases have ended", || {
        rig.plane.snapshot().runners.iter().all(|runner| runner.leases == 0)
    });
    let mut models = rig.plane.snapshot().models;
    models.sort_by_key(|totals| Mode::from_name(totals.mode).map(|mode| mode as usize));
    for (totals, (mode, books)) in models.iter().zip(expected) {
        assert_eq!((totals.mode, Books::of(totals)), (mode, books));
        check_histograms(totals);
    }
    assert_eq!(models.len(), Mode::ALL.len());
}

#[test]
fn the_books_are_the_sum_of_what_the_engines_said() {
    let config =
        ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    let order = prop::collection::vec(any::<prop::sample::Index>(), 0..60);
    proptest!(config, |(plans in prop::collection::vec(plan(), 1..8), order in order)| {
        check(plans, &order);
    });
}
