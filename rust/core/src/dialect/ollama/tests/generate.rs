use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::read;
use crate::dialect::translation::tests::{
    answered, asked, assert_refused, full, lines, obliging, relayed, request, streamed, with,
};
use crate::dialect::translation::{Place, Question, Reading, Task};
use crate::endpoint::Foreign;
use crate::error::{Complaint, Error};

const GENERATE: Foreign = Foreign::OllamaGenerate;
const TEXT: &[u8] = include_bytes!("../../decoder/recorded/withheld.sse");

fn body() -> Value {
    json!({ "model": "m", "prompt": "Hi", "stream": true })
}

/// The question that a body leaves open, and what is known when it is answered.
fn question(reading: Result<Reading, Error>, answer: &str) -> (Question, Reading) {
    match reading.expect("it is taken") {
        Reading::Asks { question, then, .. } => {
            (question, then(answer.as_bytes()).expect("the answer is taken"))
        }
        Reading::Read(_) => panic!("it asks nothing"),
    }
}

fn reading(body: &Value) -> Result<Reading, Error> {
    read(GENERATE, &Bytes::from(body.to_string()))
}

fn speech(reading: Reading) -> (&'static str, Value) {
    let Reading::Read(request) = reading else { panic!("it asks") };
    let Task::Speak { path, body, .. } = request.task else { panic!("it does not speak") };
    (path, serde_json::from_slice(&body).expect("JSON"))
}

#[test]
fn a_prompt_is_what_a_user_says() {
    let body = with(body(), "system", json!("Be brief"));
    assert_eq!(
        asked(GENERATE, &body),
        json!({ "model": "m", "messages": [
            { "role": "system", "content": "Be brief" }, { "role": "user", "content": "Hi" },
        ]})
    );
}

#[test]
fn raw_is_gone_on_with_as_it_is() {
    let mut body = with(body(), "raw", json!(true));
    body["options"] = json!({ "num_predict": 3, "stop": ["x"] });
    body["format"] = json!("json");
    let (path, asked) = speech(reading(&body).expect("it is taken"));
    assert_eq!(path, "/v1/completions");
    assert_eq!(
        asked,
        json!({ "model": "m", "prompt": "Hi", "n_predict": 3, "stop": ["x"], "json_schema": {} })
    );
    for (name, value) in [("system", json!("S")), ("template", json!("T")), ("context", json!([1]))]
    {
        assert_refused(GENERATE, &with(body.clone(), name, value), "raw");
    }
    assert_refused(GENERATE, &with(body, "images", json!(["AA"])), "images");
}

#[test]
fn the_middle_is_filled_in() {
    let (path, asked) = speech(reading(&with(body(), "suffix", json!("end"))).expect("taken"));
    assert_eq!(path, "/infill");
    assert_eq!(asked, json!({ "model": "m", "input_prefix": "Hi", "input_suffix": "end" }));
    assert!(request(GENERATE, &with(body(), "suffix", json!("end"))).needs.insert);
    let said = lines(&streamed(GENERATE, include_bytes!("../../decoder/recorded/infill.sse")));
    let text: String = said.iter().map(|line| line["response"].as_str().expect("text")).collect();
    assert_eq!(text, " who man b");
    let answer = answered(GENERATE, include_bytes!("../../decoder/recorded/infill.json"));
    assert_eq!(
        (&answer["response"], &answer["done_reason"]),
        (&json!(" who man b"), &json!("length"))
    );
}

#[test]
fn a_template_of_its_own_is_rendered_first() {
    let asking = reading(&with(body(), "template", json!("{{ .Prompt }}!")));
    let (asked, then) = question(asking, r#"{"prompt":"Hi!"}"#);
    assert_eq!(asked.place, Place::Control("/_control/templates"));
    assert_eq!(speech(then), ("/v1/completions", json!({ "model": "m", "prompt": "Hi!" })));
}

#[test]
fn the_context_of_an_earlier_answer_comes_before_the_prompt() {
    let asking = reading(&with(body(), "context", json!([1, 2])));
    let (asked, then) = question(asking, r#"{"prompt":"<u>Hi"}"#);
    assert_eq!(asked.place, Place::Engine("/apply-template"));
    let (asked, then) = question(Ok(then), r#"{"content":"before"}"#);
    assert_eq!(asked.place, Place::Engine("/detokenize"));
    assert_eq!(asked.body, br#"{"tokens":[1,2]}"#);
    assert_eq!(speech(then), ("/v1/completions", json!({ "model": "m", "prompt": "before<u>Hi" })));
    for wrong in [json!("x"), json!([1.5]), json!({})] {
        assert_refused(GENERATE, &with(body(), "context", wrong), "context");
    }
    let Ok(Reading::Asks { then, .. }) = reading(&with(body(), "context", json!([1]))) else {
        panic!("it asks nothing")
    };
    assert!(matches!(then(b"{}"), Err(Error::EngineUnreachable(_))));
}

#[test]
fn the_last_line_has_the_tokens_to_go_on_with() {
    let said = lines(&streamed(GENERATE, TEXT));
    let text: String = said.iter().map(|line| line["response"].as_str().expect("text")).collect();
    assert_eq!(text, "🌞 sunny日");
    let end = said.last().expect("an end");
    assert_eq!((&end["context"], &end["eval_count"]), (&json!([1, 2]), &json!(9)));
    // An engine that does not say changes nothing else.
    let said = lines(&relayed(request(GENERATE, &body()), [TEXT], full));
    assert_eq!(said.last().expect("an end").get("context"), None);
    // It is asked for the prompt with the answer behind it.
    relayed(request(GENERATE, &body()), [TEXT], whole_prompt);
}

fn whole_prompt(question: &Question) -> Result<Bytes, Error> {
    if question.place == Place::Engine("/tokenize") {
        let asked: Value = serde_json::from_slice(&question.body).expect("JSON");
        assert_eq!(asked["content"], "Hi🌞 sunny日");
    }
    obliging(question)
}

#[test]
fn without_a_prompt_the_model_is_loaded() {
    for body in [json!({ "model": "m" }), json!({ "model": "m", "prompt": "", "images": [] })] {
        assert!(matches!(request(GENERATE, &body).task, Task::Load { .. }));
    }
    assert_refused(GENERATE, &with(body(), "prompt", json!(7)), "prompt");
    assert_refused(GENERATE, &with(body(), "suffix", json!(7)), "suffix");
}

#[test]
fn without_tokens_for_a_gap_the_template_is_asked() {
    let body = with(body(), "suffix", json!("end"));
    let incapable = Complaint { status: 501, ..Complaint::default() };
    let retry = request(GENERATE, &body).retry.expect("another way");
    let again = retry(&incapable).expect("it is asked for otherwise");
    let (Question { place, body: asked }, then) = question(again, r#"{"prompt":"<Hi|end>"}"#);
    assert_eq!(place, Place::Control("/_control/templates"));
    let asked: Value = serde_json::from_slice(&asked).expect("JSON");
    assert_eq!(asked, json!({ "model": "m", "prompt": "Hi", "suffix": "end" }));
    let (path, asked) = speech(then);
    assert_eq!((path, &asked["prompt"]), ("/v1/completions", &json!("<Hi|end>")));
    // Whatever else is wrong would be wrong again.
    let retry = request(GENERATE, &body).retry.expect("another way");
    assert!(retry(&Complaint { status: 400, ..Complaint::default() }).is_none());
}

#[test]
fn a_prompt_of_which_nothing_may_be_forgotten_is_not_cut() {
    assert!(request(GENERATE, &body()).retry.is_some());
    for name in ["shift", "truncate"] {
        assert!(request(GENERATE, &with(body(), name, json!(false))).retry.is_none(), "{name}");
    }
}
