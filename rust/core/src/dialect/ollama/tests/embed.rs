use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::read;
use crate::dialect::translation::tests::{asked, assert_refused, request};
use crate::dialect::translation::{Reading, Start, Task};
use crate::endpoint::{Foreign, Mode};
use crate::error::{Complaint, Error};

const EMBED: Foreign = Foreign::OllamaEmbed;
const ONE: Foreign = Foreign::OllamaEmbeddings;

fn told(foreign: Foreign, body: &Value, answer: &str) -> Result<Value, Error> {
    let Task::Document { encode, mode, path, .. } = request(foreign, body).task else {
        panic!("no document")
    };
    assert_eq!((mode, path), (Mode::Embedding, "/v1/embeddings"));
    let request_id = http::HeaderValue::from_static("req-1");
    let said = encode(answer.as_bytes(), &Start { load: None, request_id })?;
    Ok(serde_json::from_slice(&said).expect("JSON"))
}

const ANSWER: &str =
    r#"{"data":[{"embedding":[0.6,0.8,0]},{"embedding":[3,4,0]}],"usage":{"prompt_tokens":5}}"#;

#[test]
fn vectors_of_one_text_or_of_several() {
    for (input, expected) in [(json!("a"), json!(["a"])), (json!(["a", "b"]), json!(["a", "b"]))] {
        let asked = asked(EMBED, &json!({ "model": "m", "input": input }));
        assert_eq!(asked, json!({ "model": "m", "input": expected, "encoding_format": "float" }));
    }
    let body = json!({ "model": "m", "input": ["a", "b"] });
    let answer = told(EMBED, &body, ANSWER).expect("it can be read");
    assert_eq!(answer["model"], "m");
    assert_eq!(answer["embeddings"], json!([[0.6, 0.8, 0.0], [3.0, 4.0, 0.0]]));
    assert_eq!(answer["prompt_eval_count"], 5);
    let answer =
        told(ONE, &json!({ "model": "m", "prompt": "a" }), ANSWER).expect("it can be read");
    assert_eq!(answer, json!({ "embedding": [0.6, 0.8, 0.0] }));
    assert!(matches!(told(EMBED, &body, "{}"), Err(Error::EngineUnreachable(_))));
}

#[test]
fn shorter_vectors_have_length_one_again() {
    let body = json!({ "model": "m", "input": "a", "dimensions": 2 });
    let answer = told(EMBED, &body, ANSWER).expect("it can be read");
    let second = answer["embeddings"][1].as_array().expect("a vector");
    assert_eq!(second.len(), 2);
    assert!((second[0].as_f64().expect("a number") - 0.6).abs() < 1e-9);
}

#[test]
fn without_input_the_model_is_loaded() {
    for input in [json!(null), json!(""), json!([])] {
        let body = json!({ "model": "m", "input": input });
        assert!(matches!(request(EMBED, &body).task, Task::Load { mode: Mode::Embedding, .. }));
    }
    let body = json!({ "model": "m", "prompt": "", "keep_alive": 0 });
    assert!(matches!(request(ONE, &body).task, Task::Unload { .. }));
    for wrong in [json!(7), json!([7]), json!({})] {
        assert_refused(EMBED, &json!({ "model": "m", "input": wrong }), "input");
    }
    assert_refused(ONE, &json!({ "model": "m", "prompt": [] }), "prompt");
}

fn complaint(message: &str) -> Complaint {
    let kind = "exceed_context_size_error".to_owned();
    Complaint {
        status: 400,
        message: message.to_owned(),
        kind,
        context_size: Some(4),
        ..Complaint::default()
    }
}

/// What is asked once the engine has found an input too long.
fn again(body: &Value) -> Result<Reading, Error> {
    let retry = request(EMBED, body).retry.expect("another try");
    let refused = complaint("input exceeds the available context size");
    retry(&refused).expect("it is about the length")
}

#[test]
fn texts_that_are_too_long_are_cut_by_their_tokens() {
    let body = json!({ "model": "m", "input": ["ab", "a long one", "c", "a longer one"] });
    let mut reading = again(&body).expect("it is asked again");
    for tokens in ["[1,2,3,4,5,6]", "[7,8]"] {
        let Reading::Asks { question, then, .. } = reading else { panic!("no question") };
        let asked: Value = serde_json::from_slice(&question.body).expect("JSON");
        assert!(asked["content"].as_str().expect("a text").starts_with("a long"));
        reading = then(format!("{{\"tokens\":{tokens}}}").as_bytes()).expect("taken");
    }
    let Reading::Read(request) = reading else { panic!("another question") };
    let Task::Document { body, .. } = request.task else { panic!("no document") };
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(asked["input"], json!(["ab", [1, 2, 3, 4], "c", [7, 8]]));
    assert!(
        request.retry.expect("a refusal")(&complaint("larger than the max context size")).is_some()
    );
}

#[test]
fn a_hundred_thousand_short_texts_beside_a_long_one_are_no_burden() {
    let mut input = vec!["a"; 100_000];
    input.push("a long one");
    let reading = again(&json!({ "model": "m", "input": input }));
    let Ok(Reading::Asks { then, .. }) = reading else { panic!("no question") };
    let Ok(Reading::Read(_)) = then(b"{\"tokens\":[1]}") else { panic!("another question") };
}

#[test]
fn who_wants_nothing_cut_is_refused() {
    let body = json!({ "model": "m", "input": "a", "truncate": false });
    let retry = request(EMBED, &body).retry.expect("words of Ollama's");
    let refused = retry(&complaint("input exceeds the available context size"));
    let Some(Err(Error::InvalidField { param, .. })) = refused else { panic!("it is asked again") };
    assert_eq!(param, "input");
    let other = request(EMBED, &body).retry.expect("words of Ollama's");
    let broke = Complaint { kind: String::new(), ..complaint("it broke") };
    assert!(other(&broke).is_none(), "it is about something else");
    assert!(read(EMBED, &Bytes::from(body.to_string())).is_ok());
}
