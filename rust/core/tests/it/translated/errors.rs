//! What goes wrong is said in the client's dialect, with the status that it has there.

use model_runner_core::endpoint::Mode;
use serde_json::{Value, json};

use super::{Tongue, begun, cancel};
use crate::harness::engine::STREAM_HEAD;
use crate::harness::{MODEL, Message, Piece, Rig};

/// An error's message, if it has the dialect's shape.
fn message(tongue: Tongue, answer: &Message) -> String {
    let body = answer.json();
    assert!(answer.head.get("content-type").is_some_and(|it| it.starts_with("application/json")));
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{body}")).to_owned();
    match tongue {
        Tongue::Anthropic => {
            assert_eq!(body["type"], "error");
            assert_eq!(body["request_id"], answer.head.get("request-id").expect("an ID"));
            assert!(body["error"]["type"].is_string());
            text(&body["error"]["message"])
        }
        Tongue::Responses => {
            answer.refusal();
            text(&body["error"]["message"])
        }
        Tongue::Chat | Tongue::Generate => {
            assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
            text(&body["error"])
        }
    }
}

#[test]
fn an_engines_refusal_keeps_its_status() {
    for (status, line) in [
        (400, "400 Bad Request"),
        (404, "404 Not Found"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
        (501, "501 Not Implemented"),
        (503, "503 Service Unavailable"),
    ] {
        for tongue in Tongue::ALL {
            for stream in [true, false] {
                let (rig, engine) = Rig::with_engine();
                let mut client = tongue.ask(&rig, &[], stream);
                let body = format!(r#"{{"error":{{"code":{status},"message":"no \"Hi\""}}}}"#);
                engine.receive().0.answer(line, "Connection: close\r\n", &body);
                let answer = client.message();
                assert_eq!(answer.head.status(), status, "{tongue:?}");
                assert!(message(tongue, &answer).contains("no \"Hi\""));
                rig.assert_outcomes([0, u64::from(status < 500), u64::from(status >= 500), 0]);
                rig.assert_at_rest();
            }
        }
    }
}

#[test]
fn an_engine_that_fails_in_its_stream_ends_it() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[], true);
        let mut upstream = begun(tongue, &engine);
        upstream.send_chunk("data: {\"error\":{\"code\":500,\"message\":\"it broke\"}}\n\n");
        upstream.end_chunks();
        client.head();
        let (said, end) = client.pieces();
        assert_eq!(end, Piece::Last);
        assert_eq!(tongue.text(&said), " word");
        assert!(tongue.complaint(&tongue.last(&said)).contains("it broke"));
        rig.assert_outcomes([0, 0, 1, 0]);
        rig.assert_at_rest();
    }
}

#[test]
fn an_engine_that_dies_in_its_stream_ends_it() {
    for tongue in Tongue::ALL {
        for words in [0, 1] {
            let (rig, engine) = Rig::with_engine();
            let mut client = tongue.ask(&rig, &[], true);
            if words == 0 {
                let (mut upstream, _) = engine.receive();
                upstream.send(STREAM_HEAD);
            } else {
                begun(tongue, &engine);
            }
            client.head();
            let (said, _) = client.pieces();
            assert_eq!(tongue.text(&said), " word".repeat(words));
            let complaint = tongue.complaint(&tongue.last(&said));
            assert!(complaint.contains("in the middle of its answer"), "{complaint}");
            rig.assert_outcomes([0, 0, 1, 0]);
            rig.assert_at_rest();
        }
    }
}

#[test]
fn an_engine_that_ends_its_stream_too_early_is_no_end() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[], true);
        let mut upstream = begun(tongue, &engine);
        // No `[DONE]`.
        upstream.end_chunks();
        client.head();
        let (said, _) = client.pieces();
        assert!(!tongue.is_whole(&tongue.last(&said)));
        tongue.complaint(&tongue.last(&said));
        rig.assert_outcomes([0, 0, 1, 0]);
    }
}

#[test]
fn an_engine_that_dies_under_a_whole_answer_is_an_error() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[], false);
        drop(begun(tongue, &engine));
        let answer = client.message();
        assert_eq!(answer.head.status(), 502);
        assert!(!message(tongue, &answer).is_empty());
        rig.assert_outcomes([0, 0, 1, 0]);
        rig.assert_at_rest();
    }
}

#[test]
fn a_whole_answer_that_is_cancelled_is_an_error() {
    for tongue in Tongue::ALL {
        let (rig, engine) = Rig::with_engine();
        let mut client = tongue.ask(&rig, &[("X-Request-Id", "one")], false);
        let mut upstream = begun(tongue, &engine);
        cancel(&rig, "one");
        upstream.assert_ended();
        let answer = client.message();
        assert_eq!(answer.head.status(), 499);
        assert_eq!(message(tongue, &answer), "the request was cancelled");
        rig.assert_outcomes([0, 0, 0, 1]);
        rig.assert_at_rest();
    }
}

#[test]
fn vectors_that_an_engine_refuses_are_an_error_of_ollamas() {
    let rig = Rig::new();
    let engine = rig.engine("first").with_mode(Mode::Embedding);
    rig.publish(&[&engine]);
    for path in ["/api/embed", "/api/embeddings"] {
        let mut client = rig.client();
        let body = json!({ "model": MODEL, "input": "Hi", "prompt": "Hi" });
        client.ask("POST", path, &[], body.to_string());
        let refusal = r#"{"error":{"code":500,"message":"no memory"}}"#;
        engine.receive().0.answer("500 Internal Server Error", "Connection: close\r\n", refusal);
        let answer = client.message();
        assert_eq!(answer.head.status(), 500);
        assert!(message(Tongue::Chat, &answer).contains("no memory"));
    }
    rig.assert_outcomes([0, 0, 2, 0]);
    rig.assert_at_rest();
}

#[test]
fn what_cannot_be_read_is_refused_in_the_dialect() {
    let (rig, _engine) = Rig::with_engine();
    for tongue in Tongue::ALL {
        for body in ["{\"model\":", "[]", "{\"messages\":[]}", "{\"model\":7}"] {
            let mut client = rig.client();
            client.ask("POST", tongue.path(), &[], body);
            let answer = client.message();
            assert_eq!(answer.head.status(), 400, "{tongue:?} {body}");
            assert!(!message(tongue, &answer).is_empty());
        }
        let mut client = rig.client();
        client.ask("POST", tongue.path(), &[], "x".repeat(crate::harness::rig::BODY_LIMIT + 1));
        let answer = client.message();
        assert_eq!(answer.head.status(), 413);
        message(tongue, &answer);
    }
}

#[test]
fn paths_methods_and_backends_that_are_none_are_refused_in_the_dialect() {
    let (rig, _engine) = Rig::with_engine();
    for (method, path, status, tongue) in [
        ("GET", "/v1/messages", 405, Tongue::Anthropic),
        ("GET", "/anthropic/v1/messages", 405, Tongue::Anthropic),
        ("POST", "/engines/none/v1/messages", 404, Tongue::Anthropic),
        ("GET", "/api/chat", 405, Tongue::Chat),
        ("GET", "/api/generate", 405, Tongue::Generate),
        ("POST", "/engines/none/v1/responses", 404, Tongue::Responses),
    ] {
        let mut client = rig.client();
        let body = if method == "POST" { tongue.body(true).to_string() } else { String::new() };
        client.ask(method, path, &[], body);
        let answer = client.message();
        assert_eq!(answer.head.status(), status, "{method} {path}");
        assert!(!message(tongue, &answer).is_empty());
    }
}

#[test]
fn a_model_that_is_not_there_is_refused_in_the_dialect() {
    for tongue in Tongue::ALL {
        let rig = Rig::new();
        let mut client = tongue.ask(&rig, &[], true);
        let (mut call, _) = rig.control.lease_call();
        let refusal = r#"{"code":"model_not_found","kind":"invalid_request_error","message":"no such model"}"#;
        call.answer("404 Not Found", "", refusal);
        let answer = client.message();
        assert_eq!(answer.head.status(), 404);
        assert!(message(tongue, &answer).contains("no such model"));
        rig.assert_at_rest();
    }
}
