//! Requests for responses and their answers, to the letter.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dialect::read;
use crate::dialect::translation::tests::{
    answered, asked, assert_refused, events, full, relayed, request, streamed, wish, with,
};
use crate::dialect::translation::{Place, Reading, Task};
use crate::endpoint::Foreign;
use crate::error::{Complaint, Error};

const RESPONSES: Foreign = Foreign::Responses;
const CALLS: &[u8] = include_bytes!("../decoder/recorded/calls.sse");

fn body() -> Value {
    json!({ "model": "m", "input": "Hi" })
}

/// What the engine is asked beside the messages, if `name` is given.
fn more(name: &str, value: Value) -> Value {
    let mut asked = asked(RESPONSES, &with(body(), name, value));
    let members = asked.as_object_mut().expect("an object");
    assert!(members.remove("messages").is_some() && members.remove("model").is_some());
    asked
}

fn said(items: Value) -> Value {
    asked(RESPONSES, &with(body(), "input", items))["messages"].clone()
}

#[test]
fn members_become_the_engines() {
    assert_eq!(
        asked(RESPONSES, &with(body(), "instructions", json!("Be brief")))["messages"],
        json!([{ "role": "system", "content": "Be brief" }, { "role": "user", "content": "Hi" }])
    );
    for (name, value, expected) in [
        ("temperature", json!(0.5), json!({ "temperature": 0.5 })),
        ("top_p", json!(1), json!({ "top_p": 1 })),
        ("max_output_tokens", json!(9), json!({ "max_tokens": 9 })),
        ("parallel_tool_calls", json!(false), json!({ "parallel_tool_calls": false })),
        ("top_logprobs", json!(3), json!({ "logprobs": true, "top_logprobs": 3 })),
        (
            "include",
            json!(["message.output_text.logprobs"]),
            json!({ "logprobs": true, "top_logprobs": 1 }),
        ),
        ("include", json!(["reasoning.encrypted_content"]), json!({})),
        (
            "reasoning",
            json!({ "effort": "high" }),
            json!({ "chat_template_kwargs": { "enable_thinking": true, "reasoning_effort": "high" } }),
        ),
        (
            "reasoning",
            json!({ "effort": "none" }),
            json!({ "chat_template_kwargs": { "enable_thinking": false } }),
        ),
        ("reasoning", json!({ "summary": "auto" }), json!({})),
        ("text", json!({ "format": { "type": "text" } }), json!({})),
        ("text", json!({ "verbosity": "low" }), json!({})),
        (
            "text",
            json!({ "format": { "type": "json_object" } }),
            json!({ "response_format": { "type": "json_object" } }),
        ),
        (
            "text",
            json!({ "format": { "type": "json_schema", "name": "n", "schema": { "type": "object" } } }),
            json!({ "response_format": {
                "type": "json_schema", "json_schema": { "name": "n", "schema": { "type": "object" } },
            }}),
        ),
        ("metadata", json!({ "k": "v" }), json!({})),
        ("store", json!(false), json!({})),
        ("user", json!("u"), json!({})),
    ] {
        assert_eq!(more(name, value.clone()), expected, "{name}: {value}");
    }
}

#[test]
fn items_become_messages() {
    let call = |id: &str| json!({ "type": "function_call", "call_id": id, "name": "f", "arguments": "{}" });
    let items = json!([
        { "role": "developer", "content": "D" },
        { "type": "message", "role": "user", "content": [
            { "type": "input_text", "text": "T" },
            { "type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "auto" },
            { "type": "input_audio", "input_audio": { "data": "AA", "format": "wav" } },
        ]},
        { "type": "reasoning", "id": "rs_1", "summary": [], "content": [{ "type": "reasoning_text", "text": "Hm" }] },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "A", "annotations": [] }] },
        call("1"),
        call("2"),
        { "type": "function_call_output", "call_id": "1", "output": "18" },
        { "type": "function_call_output", "call_id": "2", "output": [{ "type": "input_text", "text": "19" }] },
    ]);
    let made = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "f", "arguments": "{}" } });
    assert_eq!(
        said(items),
        json!([
            { "role": "system", "content": "D" },
            { "role": "user", "content": [
                { "type": "text", "text": "T" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AA" } },
                { "type": "input_audio", "input_audio": { "data": "AA", "format": "wav" } },
            ]},
            { "role": "assistant", "content": "A", "reasoning_content": "Hm", "tool_calls": [made("1"), made("2")] },
            { "role": "tool", "tool_call_id": "1", "content": "18" },
            { "role": "tool", "tool_call_id": "2", "content": "19" },
        ])
    );
}

#[test]
fn which_tools_must_be_called() {
    let tool = |name: &str| json!({ "type": "function", "name": name, "parameters": { "type": "object" } });
    let with_tools = with(body(), "tools", json!([tool("f"), tool("g")]));
    for (choice, expected, left) in [
        (json!("auto"), "auto", 2),
        (json!("none"), "none", 2),
        (json!("required"), "required", 2),
        (json!({ "type": "function", "name": "g" }), "required", 1),
        (
            json!({ "type": "allowed_tools", "mode": "auto", "tools": [{ "type": "function", "name": "f" }] }),
            "auto",
            1,
        ),
    ] {
        let asked = asked(RESPONSES, &with(with_tools.clone(), "tool_choice", choice));
        assert_eq!(asked["tool_choice"], expected);
        assert_eq!(asked["tools"].as_array().expect("tools").len(), left);
    }
    for wrong in [json!("must"), json!(7), json!({ "type": "function", "name": "h" })] {
        assert_refused(RESPONSES, &with(with_tools.clone(), "tool_choice", wrong), "tool_choice");
    }
    for none in [json!([]), json!([{ "type": "web_search" }])] {
        let asking = with(with(body(), "tools", none), "tool_choice", json!("required"));
        assert_refused(RESPONSES, &asking, "tool_choice");
    }
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let call = |member: &str| {
        let mut call =
            json!({ "type": "function_call", "call_id": "1", "name": "f", "arguments": "{}" });
        call[member] = json!(null);
        json!([call])
    };
    for (name, value, path) in [
        ("input", json!(null), "input"),
        ("input", json!([]), "input"),
        ("input", json!(7), "input"),
        ("input", json!(["x"]), "input.0"),
        ("input", json!([{ "role": "tool", "content": "x" }]), "input.0.role"),
        ("input", json!([{ "type": "web_search_call" }]), "input.0.type"),
        ("input", json!([{ "role": "user", "content": 7 }]), "input.0.content"),
        (
            "input",
            json!([{ "role": "user", "content": [{ "type": "input_file" }] }]),
            "input.0.content.0.type",
        ),
        (
            "input",
            json!([{ "role": "user", "content": [{ "type": "input_text" }] }]),
            "input.0.content.0.text",
        ),
        (
            "input",
            json!([{ "role": "user", "content": [{ "type": "input_image", "file_id": "f" }] }]),
            "input.0.content.0.image_url",
        ),
        ("input", call("call_id"), "input.0.call_id"),
        ("input", call("name"), "input.0.name"),
        ("input", call("arguments"), "input.0.arguments"),
        ("input", json!([{ "type": "function_call_output", "call_id": "1" }]), "input.0.output"),
        ("instructions", json!(7), "instructions"),
        ("max_output_tokens", json!(0), "max_output_tokens"),
        ("top_logprobs", json!(-1), "top_logprobs"),
        ("include", json!("x"), "include"),
        ("tools", json!([{ "type": "custom" }]), "tools.0.type"),
        ("tools", json!([{ "type": "function" }]), "tools.0.name"),
        ("text", json!({ "format": { "type": "xml" } }), "text.format.type"),
        ("text", json!({ "format": { "type": "json_schema", "name": "a b" } }), "text.format.name"),
        ("text", json!({ "format": { "type": "json_schema", "name": "n" } }), "text.format.schema"),
        ("reasoning", json!("high"), "reasoning"),
        ("truncation", json!("some"), "truncation"),
        ("conversation", json!("c"), "conversation"),
        ("prompt", json!({ "id": "p" }), "prompt"),
        ("store", json!("no"), "store"),
        ("previous_response_id", json!(7), "previous_response_id"),
    ] {
        assert_refused(RESPONSES, &with(body(), name, value), path);
    }
    let background = with(body(), "background", json!(true));
    assert_refused(RESPONSES, &with(background.clone(), "store", json!(false)), "background");
    assert_refused(RESPONSES, &with(background, "stream", json!(true)), "stream");
}

#[test]
fn what_was_said_before_is_asked_for_and_put_in_front() {
    let body = with(body(), "previous_response_id", json!("resp_1"));
    let Ok(Reading::Asks { question, then, .. }) = read(RESPONSES, &Bytes::from(body.to_string()))
    else {
        panic!("nothing is asked")
    };
    assert_eq!(question.place, Place::Control("/_control/responses/history"));
    assert_eq!(question.body, br#"{"id":"resp_1"}"#);
    let history =
        br#"{"items":[{"role":"user","content":"A"},{"role":"assistant","content":"B"}]}"#;
    let Ok(Reading::Read(request)) = then(history) else { panic!("it asks again") };
    let Task::Speak { body, .. } = request.task else { panic!("it does not speak") };
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    let contents: Vec<_> =
        asked["messages"].as_array().expect("messages").iter().map(|it| &it["content"]).collect();
    assert_eq!(contents, ["A", "B", "Hi"]);
}

#[test]
fn a_prompt_that_is_too_long_is_cut_if_that_is_wanted() {
    let items = json!([{ "role": "user", "content": "x".repeat(900) }, { "role": "user", "content": "Hi" }]);
    let too_long = Complaint {
        kind: "exceed_context_size_error".to_owned(),
        prompt_tokens: Some(632),
        context_size: Some(512),
        ..Complaint::default()
    };
    let body = with(body(), "input", items);
    assert!(request(RESPONSES, &body).retry.is_none());
    let retry =
        request(RESPONSES, &with(body, "truncation", json!("auto"))).retry.expect("a retry");
    let Some(Ok(Reading::Read(shorter))) = retry(&too_long) else {
        panic!("it is not put shorter")
    };
    let Task::Speak { body, .. } = shorter.task else { panic!("it does not speak") };
    let asked: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(asked["messages"], json!([{ "role": "user", "content": "Hi" }]));
}

#[test]
fn a_recorded_stream_event_by_event() {
    let said = events(&streamed(RESPONSES, CALLS));
    let kinds: Vec<_> = said
        .iter()
        .map(|it| it["type"].as_str().expect("a type").trim_start_matches("response."))
        .collect();
    let mut expected = vec!["created", "in_progress"];
    expected.extend(["output_item.added", "content_part.added"]);
    expected.extend(["reasoning_text.delta"; 4]);
    expected.extend(["reasoning_text.done", "content_part.done", "output_item.done"]);
    expected.extend(["output_item.added", "content_part.added"]);
    expected.extend(["output_text.delta"; 3]);
    expected.extend(["output_text.done", "content_part.done", "output_item.done"]);
    for pieces in [5, 3] {
        expected.push("output_item.added");
        expected.extend(std::iter::repeat_n("function_call_arguments.delta", pieces));
        expected.extend(["function_call_arguments.done", "output_item.done"]);
    }
    expected.push("completed");
    assert_eq!(kinds, expected);
    let response = &said.last().expect("an end")["response"];
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], 4);
    assert_eq!(response["usage"]["total_tokens"], 297);
    let output = response["output"].as_array().expect("items");
    let kinds: Vec<_> = output.iter().map(|item| item["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(output[3]["arguments"], "{\"city\": \"Rome\", \"days\": 4}");
    assert_eq!(output[1]["content"][0]["text"], " Sure thing now");
    assert!(output.iter().all(|item| item["status"] == "completed"));
}

#[test]
fn a_whole_answer_repeats_what_was_asked_for() {
    let answer = answered(RESPONSES, include_bytes!("../decoder/recorded/calls.json"));
    assert_eq!((&answer["object"], &answer["status"]), (&json!("response"), &json!("completed")));
    assert_eq!(answer["output"][1]["content"][0]["text"], " Sure thing now");
    assert_eq!(answer["metadata"], json!({}));
    assert_eq!(answer["store"], true);
    let answer = answered(RESPONSES, include_bytes!("../decoder/recorded/cut.json"));
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    assert_eq!(answer["output"][2]["status"], "incomplete");
    assert_eq!(answer["output"][2]["arguments"], "{\"city\":");
}

#[test]
fn what_is_repeated_of_a_body_stays_in_one_line() {
    let tool = json!({ "type": "function", "name": "f", "parameters": { "type": "object" } });
    let mut body = with(wish(RESPONSES, true), "metadata", json!({ "k": "a\nb", "l": "\r" }));
    body["tools"] = json!([tool]);
    let pretty = format!("{body:#}").replace('\n', "\r\n");
    let Ok(Reading::Read(request)) = read(RESPONSES, &Bytes::from(pretty)) else { panic!("taken") };
    let said = events(&relayed(*request, [CALLS], full));
    for place in [0, 1, said.len() - 1] {
        assert_eq!(said[place]["response"]["metadata"], body["metadata"]);
        assert_eq!(said[place]["response"]["tools"], body["tools"]);
    }
}

#[test]
fn probabilities_are_told_of_the_text_alone() {
    let recorded = include_bytes!("../decoder/recorded/logprobs.sse");
    let body = with(wish(RESPONSES, true), "top_logprobs", json!(2));
    let said = events(&relayed(request(RESPONSES, &body), [&recorded[..]], full));
    let deltas: Vec<_> = said
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["logprobs"].as_array().expect("a list"))
        .collect();
    assert_eq!(deltas.len(), 2);
    for (tokens, name) in deltas.iter().zip([" Sure", " thing"]) {
        assert_eq!((tokens.len(), &tokens[0]["token"]), (1, &json!(name)));
    }
    let response = &said.last().expect("an end")["response"];
    let all = &response["output"][1]["content"][0]["logprobs"];
    assert_eq!(all.as_array().expect("a list").len(), 2);
}

#[test]
fn what_could_not_be_kept_says_so() {
    let said = events(&relayed(request(RESPONSES, &wish(RESPONSES, true)), [CALLS], full));
    assert_eq!(said.last().expect("an end")["response"]["store"], false);
    let said = events(&streamed(RESPONSES, CALLS));
    assert_eq!(said.last().expect("an end")["response"]["store"], true);
}

#[test]
fn an_engine_that_fails_fails_the_response() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
        data: {\"error\":{\"code\":503,\"message\":\"no memory\"}}\n\n";
    let said = events(&streamed(RESPONSES, stream.as_bytes()));
    let end = said.last().expect("an end");
    assert_eq!(end["type"], "response.failed");
    let response = &end["response"];
    assert_eq!(response["error"], json!({ "code": "engine_refused", "message": "no memory" }));
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output"][0]["content"][0]["text"], "a");
}

#[test]
fn what_is_kept_is_the_response_and_its_input() {
    let items = json!([{ "role": "user", "content": "Hi" }, { "type": "function_call_output", "call_id": "1", "output": "x" }]);
    let body = with(body(), "input", items);
    let background = with(body, "background", json!(true));
    let found = request(RESPONSES, &background).background.expect("it goes on");
    let begun: Value = serde_json::from_slice(&found.answer).expect("JSON");
    assert_eq!((&begun["status"], &begun["id"]), (&json!("in_progress"), &json!(found.id)));
    assert_eq!(found.keep.place, Place::Control("/_control/responses"));
    let kept: Value = serde_json::from_slice(&found.keep.body).expect("JSON");
    assert_eq!((&kept["response"], &kept["id"]), (&begun, &begun["id"]));
    let input = &kept["input"];
    assert_eq!(input[0]["content"], json!([{ "type": "input_text", "text": "Hi" }]));
    assert!(input[0]["id"].as_str().expect("an ID").starts_with("msg_"));
    assert!(input[1]["id"].as_str().expect("an ID").starts_with("fco_"));
    for (error, status) in [(Error::Cancelled, "cancelled"), (Error::EngineDied, "failed")] {
        let found = request(RESPONSES, &background).background.expect("it goes on");
        let kept: Value = serde_json::from_slice(&(found.failed)(&error).body).expect("JSON");
        assert_eq!(kept["response"]["status"], status);
    }
}
