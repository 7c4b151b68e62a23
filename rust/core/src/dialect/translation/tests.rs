//! Translators under test: an engine's bytes in, the client's out, as the relay has it; and readers of what clients get.

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};

use super::{Place, Question, Reading, Request, Start, Task, Translation};
use crate::dialect::{Dialect, read};
use crate::endpoint::Foreign;
use crate::error::Error;
use crate::observe::Observer;
use crate::usage::Prompts;

/// The three that speak.
pub(crate) const SPEAKERS: [Foreign; 4] =
    [Foreign::Messages, Foreign::Responses, Foreign::OllamaChat, Foreign::OllamaGenerate];

/// A request that wants all that there is: thoughts, tools, a stream or not.
pub(crate) fn wish(foreign: Foreign, stream: bool) -> Value {
    let said = json!([{ "role": "user", "content": "Hi" }]);
    match foreign {
        Foreign::Messages => json!({
            "model": "m", "max_tokens": 100, "messages": said, "stream": stream,
            "thinking": { "type": "enabled", "budget_tokens": 1024 },
        }),
        Foreign::Responses => json!({ "model": "m", "input": "Hi", "stream": stream }),
        Foreign::OllamaChat => json!({ "model": "m", "messages": said, "stream": stream }),
        _ => json!({ "model": "m", "prompt": "Hi", "stream": stream }),
    }
}

/// What a body asks for, without a question before.
pub(crate) fn request(foreign: Foreign, body: &Value) -> Request {
    match read(foreign, &Bytes::from(body.to_string())) {
        Ok(Reading::Read(request)) => *request,
        Ok(Reading::Asks { question, .. }) => panic!("it asks first: {question:?}"),
        Err(error) => panic!("{error}: {body}"),
    }
}

/// What the engine is asked.
pub(crate) fn asked(foreign: Foreign, body: &Value) -> Value {
    match request(foreign, body).task {
        Task::Speak { body, .. } | Task::Document { body, .. } => {
            serde_json::from_slice(&body).expect("the engine is asked JSON")
        }
        Task::Load { .. } | Task::Unload { .. } => panic!("the engine is not asked"),
    }
}

/// Why a body is refused: the member, and what is wrong with it.
pub(crate) fn refusal(foreign: Foreign, body: &Value) -> (String, String) {
    match read(foreign, &Bytes::from(body.to_string())) {
        Err(Error::InvalidField { param, reason }) => (param, reason),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it is taken: {body}"),
    }
}

/// Refused for a member with this path.
pub(crate) fn assert_refused(foreign: Foreign, body: &Value, path: &str) {
    let (param, reason) = refusal(foreign, body);
    assert_eq!(param, path, "{reason}: {body}");
}

/// `body` with a member more, or another one.
pub(crate) fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

/// How its answer is told.
pub(crate) fn translation(request: Request) -> Translation {
    let Task::Speak { encoder, .. } = request.task else { panic!("it does not speak") };
    let mut translation = Translation::new(encoder);
    let request_id = HeaderValue::from_static("req-1");
    translation.start(&Start { load: None, request_id });
    translation
}

/// Answers of the control plane, and of an engine, that keep everything.
pub(crate) fn obliging(question: &Question) -> Result<Bytes, Error> {
    Ok(Bytes::from_static(match question.place {
        Place::Engine("/apply-template") => b"{\"prompt\":\"Hi\"}",
        Place::Engine("/tokenize") => b"{\"tokens\":[1, 2]}",
        Place::Engine(path) => return Err(Error::EngineUnreachable(path.to_owned())),
        Place::Control(_) => b"",
    }))
}

/// The same of a control plane that keeps nothing.
pub(crate) fn full(_: &Question) -> Result<Bytes, Error> {
    Err(Error::ControlUnreachable("the disk is full".to_owned()))
}

fn end(mut translation: Translation, answer: fn(&Question) -> Result<Bytes, Error>) -> Vec<u8> {
    let mut said = Vec::new();
    while let Some(question) = translation.question() {
        said.extend(translation.take().unwrap_or_default());
        translation.learn(answer(&question));
    }
    said.extend(translation.take().unwrap_or_default());
    assert_eq!(translation.take(), None);
    said
}

/// What becomes of an engine's stream that comes in these chunks and then ends.
pub(crate) fn relayed<'a>(
    request: Request,
    chunks: impl IntoIterator<Item = &'a [u8]>,
    answer: fn(&Question) -> Result<Bytes, Error>,
) -> Vec<u8> {
    let mut translation = translation(request);
    let mut observer = Observer::stream(Prompts::One);
    let mut said = Vec::new();
    for chunk in chunks {
        let mut heard = Ok(());
        observer.observe_with(&Bytes::copy_from_slice(chunk), |data| {
            if heard.is_ok() {
                heard = translation.hear(data);
            }
        });
        if let Err(error) = heard {
            translation.fail(&error);
        }
        said.extend(translation.take().unwrap_or_default());
    }
    if translation.is_hearing() {
        translation.fail(&Error::EngineDied);
    }
    said.extend(end(translation, answer));
    said
}

/// What becomes of a stream for somebody who wants to read one.
pub(crate) fn streamed(foreign: Foreign, stream: &[u8]) -> Vec<u8> {
    relayed(request(foreign, &wish(foreign, true)), [stream], obliging)
}

/// What becomes of an engine's whole answer.
pub(crate) fn whole(request: Request, document: &[u8]) -> Value {
    let mut translation = translation(request);
    translation.hear(document).expect("the answer can be read");
    translation.finish();
    let said = end(translation, obliging);
    serde_json::from_slice(&said)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said)))
}

/// The same of somebody who wants no stream.
pub(crate) fn answered(foreign: Foreign, document: &[u8]) -> Value {
    whole(request(foreign, &wish(foreign, false)), document)
}

/// A client's events: types and data, each exactly as the dialects write them.
pub(crate) fn events(said: &[u8]) -> Vec<Value> {
    let said = std::str::from_utf8(said).expect("a stream is text");
    let mut events = Vec::new();
    for event in said.split_terminator("\n\n") {
        let lines: Vec<_> = event.split(['\n', '\r']).collect();
        let [kind, data] = lines[..] else { panic!("not two lines: {event:?}") };
        let kind = kind.strip_prefix("event: ").expect("a type");
        let data = data.strip_prefix("data: ").expect("data");
        let data: Value =
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
        assert_eq!(data["type"], kind);
        events.push(data);
    }
    assert!(said.ends_with("\n\n"), "the last event is not whole: {said}");
    events
}

/// A client's lines of JSON.
pub(crate) fn lines(said: &[u8]) -> Vec<Value> {
    let said = std::str::from_utf8(said).expect("a stream is text");
    assert!(said.ends_with('\n'), "the last line is not whole: {said}");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    said.split_terminator('\n').map(parse).collect()
}

/// What a client reads, whatever its dialect.
pub(crate) fn read_by_client(foreign: Foreign, said: &[u8]) -> Vec<Value> {
    match dialect_of(foreign) {
        Dialect::Ollama => lines(said),
        Dialect::OpenAi | Dialect::Anthropic => events(said),
    }
}

pub(crate) fn dialect_of(foreign: Foreign) -> Dialect {
    match foreign {
        Foreign::Messages | Foreign::CountTokens => Dialect::Anthropic,
        Foreign::Responses | Foreign::ResponsesTokens => Dialect::OpenAi,
        _ => Dialect::Ollama,
    }
}

/// The same without what is never the same twice: names, times.
pub(crate) fn timeless(mut value: Value) -> Value {
    scrub(&mut value);
    value
}

fn scrub(value: &mut Value) {
    match value {
        Value::String(text) => {
            let fresh = text.split_once('_').is_some_and(|(_, digits)| {
                matches!(digits.len(), 24 | 28) && digits.bytes().all(|it| it.is_ascii_hexdigit())
            });
            if fresh {
                let prefix = text.find('_').map_or(0, |at| at + 1);
                text.truncate(prefix);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(scrub),
        Value::Object(members) => {
            for name in ["created_at", "total_duration", "load_duration"] {
                members.remove(name);
            }
            members.values_mut().for_each(scrub);
        }
        _ => {}
    }
}

#[test]
fn nothing_is_said_after_the_end() {
    for foreign in SPEAKERS {
        let mut translation = translation(request(foreign, &wish(foreign, true)));
        translation.hear(b"[DONE]").expect("it is the end");
        assert!(!translation.is_hearing());
        while let Some(question) = translation.question() {
            translation.learn(obliging(&question));
        }
        assert!(translation.take().is_some());
        translation.hear(br#"{"choices":[{"delta":{"content":"more"}}]}"#).expect("not heard");
        translation.hear(b"no JSON").expect("not heard");
        translation.fail(&Error::EngineDied);
        translation.finish();
        assert_eq!(translation.question(), None);
        assert_eq!(translation.take(), None, "{foreign:?}");
    }
}

#[test]
fn the_engines_error_is_not_told_before_it_is_known_how() {
    for foreign in SPEAKERS {
        let mut translation = translation(request(foreign, &wish(foreign, true)));
        let heard = translation.hear(br#"{"error":{"code":503,"message":"no"}}"#);
        let Err(Error::EngineRefused(complaint)) = heard else { panic!("{heard:?}") };
        assert_eq!((complaint.status, complaint.message.as_str()), (503, "no"));
        assert_eq!(translation.take(), None);
        assert!(translation.is_hearing());
    }
}
