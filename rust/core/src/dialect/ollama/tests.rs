//! Ollama's requests and answers, to the letter.

use serde_json::{Value, json};

use crate::dialect::translation::tests::{
    answered, asked, assert_refused, lines, obliging, relayed, request, streamed, timeless, wish,
    with,
};
use crate::dialect::translation::{Needs, Task};
use crate::endpoint::Foreign;

mod embed;
mod generate;

const CHAT: Foreign = Foreign::OllamaChat;

fn body() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] })
}

/// What the engine is asked beside the messages, if `name` is given.
fn more(name: &str, value: Value) -> Value {
    let mut asked = asked(CHAT, &with(body(), name, value));
    let members = asked.as_object_mut().expect("an object");
    assert!(members.remove("messages").is_some() && members.remove("model").is_some());
    asked
}

fn said(message: &Value) -> Value {
    asked(CHAT, &with(body(), "messages", json!([message])))["messages"][0].clone()
}

#[test]
fn options_become_the_engines() {
    for (options, expected) in [
        (json!({}), json!({})),
        (
            json!({ "temperature": 0, "top_p": 0.25, "min_p": 0.1 }),
            json!({ "temperature": 0, "top_p": 0.25, "min_p": 0.1 }),
        ),
        (json!({ "top_k": 4.9, "seed": -1 }), json!({ "top_k": 4, "seed": -1 })),
        (
            json!({ "repeat_penalty": 1.1, "repeat_last_n": 64 }),
            json!({ "repeat_penalty": 1.1, "repeat_last_n": 64 }),
        ),
        (
            json!({ "presence_penalty": 1, "frequency_penalty": 2, "typical_p": 1 }),
            json!({ "presence_penalty": 1, "frequency_penalty": 2, "typical_p": 1 }),
        ),
        (json!({ "num_keep": 4 }), json!({ "n_keep": 4 })),
        (json!({ "num_predict": 5, "stop": ["a"] }), json!({ "max_tokens": 5, "stop": ["a"] })),
        (json!({ "num_predict": -1 }), json!({})),
        (json!({ "num_predict": 0 }), json!({})),
        // What is for loading, and what nobody knows.
        (json!({ "num_gpu": 1, "numa": true, "unknown": 1, "seed": null }), json!({})),
    ] {
        assert_eq!(more("options", options.clone()), expected, "{options}");
    }
}

fn needs(body: &Value) -> Needs {
    request(CHAT, body).needs
}

#[test]
fn what_a_request_needs_of_its_runner() {
    let none = Needs::default();
    assert_eq!(needs(&body()), none);
    for (context, size) in [(json!(4096), 4096), (json!(1), 4), (json!(1e12), u32::MAX)] {
        let body = with(body(), "options", json!({ "num_ctx": context }));
        assert_eq!(needs(&body), Needs { context_size: Some(size), ..none });
    }
    for (keep_alive, seconds) in [
        (json!(0), 0.0),
        (json!(-1), -1.0),
        (json!(2.5), 2.5),
        (json!("5m"), 300.0),
        (json!("1h30m"), 5400.0),
        (json!("-1.5s"), -1.5),
        (json!("+100ms"), 0.1),
        (json!("0"), 0.0),
    ] {
        let found = needs(&with(body(), "keep_alive", keep_alive.clone())).keep_alive;
        assert!(found.is_some_and(|it| (it - seconds).abs() < 1e-9), "{keep_alive}: {found:?}");
    }
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let able = with(with(body(), "think", json!("high")), "tools", json!([tool]));
    assert_eq!(needs(&able), Needs { thinking: true, tools: true, ..none });
}

#[test]
fn thinking_is_for_the_template() {
    for (think, expected) in [
        (json!(true), json!({ "enable_thinking": true })),
        (json!(false), json!({ "enable_thinking": false })),
        (json!("low"), json!({ "enable_thinking": true, "reasoning_effort": "low" })),
        (json!("max"), json!({ "enable_thinking": true, "reasoning_effort": "high" })),
    ] {
        assert_eq!(more("think", think), json!({ "chat_template_kwargs": expected }));
    }
}

#[test]
fn formats_and_probabilities() {
    assert_eq!(
        more("format", json!("json")),
        json!({ "response_format": { "type": "json_object" } })
    );
    assert_eq!(more("format", json!("")), json!({}));
    let schema = json!({ "type": "object" });
    assert_eq!(
        more("format", schema.clone()),
        json!({ "response_format": {
            "type": "json_schema", "json_schema": { "name": "output", "schema": schema },
        }})
    );
    assert_eq!(more("logprobs", json!(true)), json!({ "logprobs": true, "top_logprobs": 1 }));
    let wanted = with(with(body(), "logprobs", json!(true)), "top_logprobs", json!(3));
    assert_eq!(asked(CHAT, &wanted)["top_logprobs"], 3);
}

#[test]
fn messages_become_the_engines() {
    assert_eq!(
        said(&json!({ "Role": "USER", "CONTENT": "x" })),
        json!({ "role": "user", "content": "x" })
    );
    let image = "iVBORw0KGgo=";
    assert_eq!(
        said(
            &json!({ "role": "user", "content": "x", "images": [image, "UklGRiQAAABXQVZF", "AAAA"] })
        )["content"],
        json!([
            { "type": "text", "text": "x" },
            { "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{image}") } },
            { "type": "input_audio", "input_audio": { "data": "UklGRiQAAABXQVZF", "format": "wav" } },
            { "type": "image_url", "image_url": { "url": "data:image/jpeg;base64,AAAA" } },
        ])
    );
    let function = json!({ "name": "f", "arguments": { "a": 1 } });
    assert_eq!(
        said(
            &json!({ "role": "assistant", "thinking": "Hm", "tool_calls": [{ "id": "1", "function": function }] })
        ),
        json!({
            "role": "assistant", "content": "", "reasoning_content": "Hm",
            "tool_calls": [{ "id": "1", "type": "function",
                             "function": { "name": "f", "arguments": "{\"a\":1}" } }],
        })
    );
    assert_eq!(
        said(&json!({ "role": "tool", "content": "18", "tool_name": "f", "tool_call_id": "1" })),
        json!({ "role": "tool", "content": "18", "name": "f", "tool_call_id": "1" })
    );
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let call = |function: Value| json!([{ "role": "assistant", "tool_calls": [{ "function": function }] }]);
    for (name, value, path) in [
        ("messages", json!("Hi"), "messages"),
        ("messages", json!([7]), "messages.0"),
        ("messages", json!([{ "role": "user", "content": 7 }]), "messages.0.content"),
        ("messages", json!([{ "role": "user", "images": [7] }]), "messages.0.images.0"),
        ("messages", json!([{ "role": "user", "images": ["$"] }]), "messages.0.images.0"),
        ("messages", json!([{ "role": "user", "images": "AA" }]), "messages.0.images"),
        ("messages", call(json!(null)), "messages.0.tool_calls.0.function"),
        (
            "messages",
            call(json!({ "arguments": "{}" })),
            "messages.0.tool_calls.0.function.arguments",
        ),
        ("tools", json!([{ "type": "function" }]), "tools.0.function"),
        ("tools", json!([{ "function": {} }]), "tools.0.function.name"),
        ("options", json!([]), "options"),
        ("options", json!({ "temperature": "hot" }), "options.temperature"),
        ("options", json!({ "stop": "a" }), "options.stop"),
        ("options", json!({ "stop": [1] }), "options.stop.0"),
        ("keep_alive", json!("5"), "keep_alive"),
        ("keep_alive", json!("5 minutes"), "keep_alive"),
        ("keep_alive", json!(true), "keep_alive"),
        ("keep_alive", json!(""), "keep_alive"),
        ("think", json!("hard"), "think"),
        ("think", json!(1), "think"),
        ("format", json!("xml"), "format"),
        ("format", json!([1]), "format"),
        ("top_logprobs", json!(21), "top_logprobs"),
        ("stream", json!("no"), "stream"),
        ("truncate", json!(1), "truncate"),
    ] {
        assert_refused(CHAT, &with(body(), name, value), path);
    }
}

#[test]
fn a_model_has_an_older_name_and_may_be_local() {
    for body in
        [json!({ "name": "m", "messages": [] }), json!({ "MODEL": "m:local", "messages": [] })]
    {
        assert_eq!(request(CHAT, &body).model, "m");
    }
}

#[test]
fn without_messages_the_model_is_loaded_or_unloaded() {
    let empty =
        |keep_alive: Value| json!({ "model": "m", "messages": [], "keep_alive": keep_alive });
    let Task::Unload { answer } = request(CHAT, &empty(json!(0))).task else {
        panic!("no unloading")
    };
    let expected = |reason: &str| {
        json!({
            "model": "m", "message": { "role": "assistant", "content": "" }, "done": true,
            "done_reason": reason,
        })
    };
    let parse = |answer: &[u8]| timeless(serde_json::from_slice(answer).expect("JSON"));
    assert_eq!(parse(&answer), expected("unload"));
    assert!(matches!(request(CHAT, &empty(json!("5m"))).task, Task::Load { .. }));
}

#[test]
fn a_recorded_stream_line_by_line() {
    let said = lines(&streamed(CHAT, include_bytes!("../decoder/recorded/calls.sse")));
    assert!(said.iter().all(|line| line["created_at"].as_str().expect("a time").ends_with('Z')));
    let said: Vec<Value> = said.into_iter().map(timeless).collect();
    let line = |message: Value| json!({ "model": "m", "message": message, "done": false });
    let text = |text| line(json!({ "role": "assistant", "content": text }));
    let thought = |text| line(json!({ "role": "assistant", "content": "", "thinking": text }));
    assert_eq!(said[..4], [" Hmm", " weather", " ?", "\n"].map(thought));
    assert_eq!(said[4..7], [" Sure", " thing", " now"].map(text));
    for (line, (index, city, days)) in said[7..9].iter().zip([(0, "Paris", 3), (1, "Rome", 4)]) {
        let call = &line["message"]["tool_calls"][0];
        assert!(!call["id"].as_str().expect("an ID").is_empty());
        assert_eq!(
            call["function"],
            json!({ "index": index, "name": "get_weather", "arguments": { "city": city, "days": days } })
        );
    }
    let end = &said[9];
    assert_eq!(
        (&end["done"], &end["done_reason"], &end["eval_count"], &end["prompt_eval_count"]),
        (&json!(true), &json!("stop"), &json!(22), &json!(275))
    );
    assert_eq!(end["prompt_eval_duration"], 37_482_000);
    assert_eq!(said.len(), 10);
}

#[test]
fn a_whole_answer_is_one_object() {
    let answer = answered(CHAT, include_bytes!("../decoder/recorded/calls.json"));
    let message = &answer["message"];
    assert_eq!(
        (&message["content"], &message["thinking"]),
        (&json!(" Sure thing now"), &json!(" Hmm weather ?\n"))
    );
    let calls = message["tool_calls"].as_array().expect("calls");
    assert_eq!(calls[1]["function"]["arguments"], json!({ "city": "Rome", "days": 4 }));
    assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!("stop")));
}

#[test]
fn a_call_that_was_cut_off_is_told_as_text() {
    let said = lines(&streamed(CHAT, include_bytes!("../decoder/recorded/cut.sse")));
    let [.., text, end] = &said[..] else { panic!("{said:?}") };
    assert_eq!(text["message"]["content"], "{\"city\":");
    assert_eq!(end["done_reason"], "length");
    let answer = answered(CHAT, include_bytes!("../decoder/recorded/cut.json"));
    assert_eq!(answer["message"]["content"], " Sure thing now{\"city\":");
}

#[test]
fn a_call_over_several_lines_is_one_line() {
    let call = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":\
        {\"name\":\"f\",\"arguments\":\"{\\n  \\\"a\\\": \\\"b\\\\nc\\\"\\r\\n}\"}}]}}]}\n\ndata: [DONE]\n\n";
    let said = lines(&streamed(CHAT, call.as_bytes()));
    let arguments = &said[0]["message"]["tool_calls"][0]["function"]["arguments"];
    assert_eq!(arguments, &json!({ "a": "b\nc" }));
}

#[test]
fn probabilities_are_told_with_what_they_are_of() {
    let body = with(with(wish(CHAT, true), "logprobs", json!(true)), "top_logprobs", json!(1));
    let recorded = include_bytes!("../decoder/recorded/logprobs.sse");
    let said = lines(&relayed(request(CHAT, &body), [&recorded[..]], obliging));
    let names: Vec<_> = said
        .iter()
        .map(|line| line["logprobs"][0]["token"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(names, [" Hmm", " weather", " ?", "\n</think>\n\n", " Sure", " thing", ""]);
    assert_eq!(
        said[0]["logprobs"][0],
        json!({
            "token": " Hmm", "logprob": 0.0, "bytes": [32, 72, 109, 109],
            "top_logprobs": [{ "token": " Hmm", "logprob": 0.0, "bytes": [32, 72, 109, 109] }],
        })
    );
    // Who did not ask gets none.
    let said = lines(&streamed(CHAT, recorded));
    assert!(said.iter().all(|line| line.get("logprobs").is_none()));
}

#[test]
fn an_engine_that_fails_is_a_last_line() {
    let call = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":\
        {\"name\":\"f\",\"arguments\":\"{\\\"a\\\":\"}}]}}]}\n\n";
    let stream = format!("{call}data: {{\"error\":{{\"message\":\"no\"}}}}\n\n");
    let said = lines(&streamed(CHAT, stream.as_bytes()));
    assert_eq!(said.len(), 2);
    assert_eq!(said[0]["message"]["content"], "{\"a\":", "what was said is told");
    assert_eq!(said[1], json!({ "error": "no" }));
}
