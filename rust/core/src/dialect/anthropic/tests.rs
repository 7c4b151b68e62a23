//! Anthropic's requests and answers, to the letter.

use serde_json::{Value, json};

use crate::dialect::translation::tests::obliging;
use crate::dialect::translation::tests::{
    answered, asked, assert_refused, events, relayed, request, streamed, timeless, whole, wish,
    with,
};
use crate::endpoint::Foreign;

const MESSAGES: Foreign = Foreign::Messages;

fn body() -> Value {
    json!({ "model": "m", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hi" }] })
}

/// The messages that the engine gets, of one that is sent.
fn said(role: &str, content: &Value) -> Value {
    let messages = json!([{ "role": role, "content": content }]);
    asked(MESSAGES, &with(body(), "messages", messages))["messages"].clone()
}

#[test]
fn a_simple_request() {
    assert_eq!(
        asked(MESSAGES, &body()),
        json!({
            "model": "m", "max_tokens": 9, "messages": [{ "role": "user", "content": "Hi" }],
            "chat_template_kwargs": { "enable_thinking": false },
        })
    );
}

#[test]
fn members_become_the_engines() {
    for (name, given, expected) in [
        ("temperature", json!(0.5), json!({ "temperature": 0.5 })),
        ("top_p", json!(0.9), json!({ "top_p": 0.9 })),
        ("top_k", json!(5), json!({ "top_k": 5 })),
        ("stop_sequences", json!(["a", "b"]), json!({ "stop": ["a", "b"] })),
        ("stream", json!(true), json!({ "return_progress": true })),
        (
            "thinking",
            json!({ "type": "enabled", "budget_tokens": 2048 }),
            json!({
                "thinking_budget_tokens": 2048,
                "chat_template_kwargs": { "enable_thinking": true },
            }),
        ),
        (
            "output_config",
            json!({ "effort": "low", "format": { "type": "json_schema", "schema": { "type": "object" } } }),
            json!({
                "chat_template_kwargs": { "enable_thinking": false, "reasoning_effort": "low" },
                "response_format": {
                    "type": "json_schema",
                    "json_schema": { "name": "output", "schema": { "type": "object" } },
                },
            }),
        ),
        // What only Anthropic's servers do changes nothing.
        ("metadata", json!({ "user_id": "u" }), json!({})),
        ("service_tier", json!("auto"), json!({})),
        ("mcp_servers", json!([]), json!({})),
    ] {
        let mut expected_body = asked(MESSAGES, &body());
        for (name, value) in expected.as_object().expect("an object") {
            expected_body[name] = value.clone();
        }
        assert_eq!(asked(MESSAGES, &with(body(), name, given)), expected_body, "{name}");
    }
}

#[test]
fn what_is_said_to_the_system_comes_first() {
    for system in [json!("Be brief"), json!([{ "type": "text", "text": "Be brief" }])] {
        let messages = asked(MESSAGES, &with(body(), "system", system))["messages"].clone();
        assert_eq!(messages[0], json!({ "role": "system", "content": "Be brief" }));
    }
    assert_eq!(asked(MESSAGES, &with(body(), "system", json!("")))["messages"], body()["messages"]);
}

#[test]
fn blocks_of_a_user_become_parts() {
    let image = json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AA" } });
    let there = json!({ "type": "image", "source": { "type": "url", "url": "http://x/y" } });
    let document = json!({ "type": "document", "source": { "type": "text", "data": "D" } });
    let content = json!([{ "type": "text", "text": "T" }, image, there, document]);
    assert_eq!(
        said("user", &content),
        json!([{ "role": "user", "content": [
            { "type": "text", "text": "T" },
            { "type": "image_url", "image_url": { "url": "data:image/png;base64,AA" } },
            { "type": "image_url", "image_url": { "url": "http://x/y" } },
            { "type": "text", "text": "D" },
        ]}])
    );
    // One text is no list: not every template takes parts.
    let text = json!([{ "type": "text", "text": "T" }]);
    assert_eq!(said("user", &text), json!([{ "role": "user", "content": "T" }]));
}

#[test]
fn results_of_tools_are_messages_of_their_own() {
    let image = json!({ "type": "image", "source": { "type": "url", "url": "u" } });
    let content = json!([
        { "type": "tool_result", "tool_use_id": "1", "content": "18" },
        { "type": "tool_result", "tool_use_id": "2", "is_error": true,
          "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }, image] },
        { "type": "tool_result", "tool_use_id": "3" },
        { "type": "text", "text": "Go on" },
    ]);
    assert_eq!(
        said("user", &content),
        json!([
            { "role": "tool", "tool_call_id": "1", "content": "18" },
            { "role": "tool", "tool_call_id": "2", "content": "Error: a\nb" },
            { "role": "user", "content": [
                { "type": "image_url", "image_url": { "url": "u" } },
            ]},
            { "role": "tool", "tool_call_id": "3", "content": "" },
            { "role": "user", "content": "Go on" },
        ])
    );
}

#[test]
fn what_the_assistant_said_goes_back_as_it_was() {
    let content = json!([
        { "type": "thinking", "thinking": "Hm", "signature": "s" },
        { "type": "redacted_thinking", "data": "x" },
        { "type": "text", "text": "Let me see" },
        { "type": "tool_use", "id": "1", "name": "f", "input": { "a": 1 } },
    ]);
    let arguments = "{\"a\":1}";
    let call = json!({ "id": "1", "type": "function", "function": { "name": "f", "arguments": arguments } });
    assert_eq!(
        said("assistant", &content),
        json!([{
            "role": "assistant", "content": "Let me see", "reasoning_content": "Hm",
            "tool_calls": [call],
        }])
    );
    assert_eq!(said("assistant", &json!("A")), json!([{ "role": "assistant", "content": "A" }]));
}

fn with_tools() -> Value {
    let tool = |name| json!({ "name": name, "input_schema": { "type": "object" } });
    with(body(), "tools", json!([tool("f"), tool("g")]))
}

#[test]
fn tools_and_which_of_them_must_be_called() {
    let names = |asked: &Value| -> Vec<String> {
        let tools = asked["tools"].as_array().expect("tools").iter();
        tools.map(|tool| tool["function"]["name"].as_str().expect("a name").to_owned()).collect()
    };
    let plain = asked(MESSAGES, &with_tools());
    assert_eq!(
        plain["tools"][0],
        json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } })
    );
    for (choice, expected, left) in [
        (json!({ "type": "auto" }), "auto", vec!["f", "g"]),
        (json!({ "type": "any" }), "required", vec!["f", "g"]),
        (json!({ "type": "none" }), "none", vec!["f", "g"]),
        (json!({ "type": "tool", "name": "g" }), "required", vec!["g"]),
    ] {
        let asked = asked(MESSAGES, &with(with_tools(), "tool_choice", choice));
        assert_eq!(asked["tool_choice"], expected);
        assert_eq!(names(&asked), left);
    }
    let one = json!({ "type": "auto", "disable_parallel_tool_use": true });
    assert_eq!(
        asked(MESSAGES, &with(with_tools(), "tool_choice", one))["parallel_tool_calls"],
        false
    );
}

#[test]
fn what_is_wrong_is_named_by_its_path() {
    let messages = |content: Value| json!([{ "role": "user", "content": content }]);
    for (name, value, path) in [
        ("messages", json!([]), "messages"),
        ("messages", json!("Hi"), "messages"),
        ("messages", json!([7]), "messages.0"),
        ("messages", json!([{ "role": "user" }]), "messages.0.content"),
        ("messages", json!([{ "role": "tool", "content": "x" }]), "messages.0.role"),
        ("messages", messages(json!(7)), "messages.0.content"),
        ("messages", messages(json!([{ "text": "T" }])), "messages.0.content.0.type"),
        ("messages", messages(json!([{ "type": "text" }])), "messages.0.content.0.text"),
        ("messages", messages(json!([{ "type": "video" }])), "messages.0.content.0"),
        ("messages", messages(json!([{ "type": "image" }])), "messages.0.content.0.source"),
        (
            "messages",
            messages(json!([{ "type": "image", "source": { "type": "base64", "data": "x" } }])),
            "messages.0.content.0.source.media_type",
        ),
        (
            "messages",
            messages(json!([{ "type": "tool_result" }])),
            "messages.0.content.0.tool_use_id",
        ),
        ("max_tokens", json!(0), "max_tokens"),
        ("max_tokens", json!("9"), "max_tokens"),
        ("system", json!(7), "system"),
        ("stop_sequences", json!(["a", 7]), "stop_sequences.1"),
        ("stop_sequences", json!("a"), "stop_sequences"),
        ("stream", json!(1), "stream"),
        ("thinking", json!({ "type": "on" }), "thinking.type"),
        ("thinking", json!(true), "thinking"),
        ("tools", json!([{ "input_schema": {} }]), "tools.0.name"),
        ("tools", json!([{ "name": "f" }]), "tools.0.input_schema"),
        ("tools", json!([{ "type": "bash_20250124", "name": "bash" }]), "tools.0"),
        ("tool_choice", json!({ "type": "must" }), "tool_choice.type"),
        ("tool_choice", json!({ "type": "tool", "name": "f" }), "tool_choice.name"),
        ("output_config", json!({ "format": { "type": "xml" } }), "output_config.format.type"),
        ("output_format", json!({ "type": "json_schema" }), "output_format.schema"),
        ("mcp_servers", json!([{ "url": "x" }]), "mcp_servers"),
        ("container", json!("c"), "container"),
    ] {
        assert_refused(MESSAGES, &with(body(), name, value), path);
    }
    let call = json!([{ "role": "assistant", "content": [{ "type": "tool_use", "id": "1" }] }]);
    assert_refused(MESSAGES, &with(body(), "messages", call), "messages.0.content.0.name");
}

#[test]
fn a_stream_to_the_byte() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"H\\\"i\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\
        \"prompt_tokens_details\":{\"cached_tokens\":3}}}\n\ndata: [DONE]\n\n";
    let said = streamed(MESSAGES, stream.as_bytes());
    let said = String::from_utf8(said).expect("text");
    let (head, rest) = said.split_once("\n\n").expect("an event");
    assert!(head.starts_with(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_"
    ));
    assert_eq!(
        rest,
        "event: content_block_start\n\
         data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
         event: content_block_delta\n\
         data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"H\\\"i\"}}\n\n\
         event: content_block_stop\n\
         data: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
         event: message_delta\n\
         data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\
         \"usage\":{\"input_tokens\":4,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":3,\"output_tokens\":2}}\n\n\
         event: message_stop\n\
         data: {\"type\":\"message_stop\"}\n\n"
    );
}

#[test]
fn a_recorded_stream_and_the_whole_answer_are_the_same_message() {
    let stream = events(&streamed(MESSAGES, include_bytes!("../decoder/recorded/calls.sse")));
    assert_eq!(stream[0]["message"]["usage"]["input_tokens"], 275, "the stream begins with it");
    let whole = answered(MESSAGES, include_bytes!("../decoder/recorded/calls.json"));
    let kinds: Vec<_> = stream
        .iter()
        .filter(|event| event["type"] == "content_block_start")
        .map(|event| event["content_block"]["type"].as_str().expect("a type"))
        .collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
    let mut expected = timeless(whole.clone());
    let content = expected["content"].as_array_mut().expect("blocks");
    for block in &mut *content {
        block.as_object_mut().expect("a block").remove("id");
    }
    assert_eq!(
        *content,
        [
            json!({ "type": "thinking", "thinking": " Hmm weather ?\n", "signature": "msg_" }),
            json!({ "type": "text", "text": " Sure thing now" }),
            json!({ "type": "tool_use", "name": "get_weather", "input": { "city": "Paris", "days": 3 } }),
            json!({ "type": "tool_use", "name": "get_weather", "input": { "city": "Rome", "days": 4 } }),
        ]
    );
    assert_eq!(whole["stop_reason"], "tool_use");
    assert_eq!(whole["role"], "assistant");
    let end = &stream[stream.len() - 2];
    assert_eq!(end["delta"], json!({ "stop_reason": "tool_use", "stop_sequence": null }));
    assert_eq!(end["usage"]["output_tokens"], 22);
}

#[test]
fn thoughts_that_nobody_asked_for_are_not_told() {
    let recorded = include_bytes!("../decoder/recorded/calls.json");
    let answer = whole(request(MESSAGES, &with(body(), "stream", json!(false))), recorded);
    assert_eq!(answer["content"][0], json!({ "type": "text", "text": " Sure thing now" }));
}

#[test]
fn input_is_an_object_whatever_the_model_said() {
    let answer = answered(MESSAGES, include_bytes!("../decoder/recorded/cut.json"));
    assert_eq!(answer["content"][2]["input"], json!({ "INVALID_JSON": "{\"city\":" }));
    assert_eq!(answer["stop_reason"], "max_tokens");
    for (arguments, input) in [
        ("", json!({})),
        ("  ", json!({})),
        ("null", json!({ "INVALID_JSON": "null" })),
        ("[1]", json!({ "INVALID_JSON": "[1]" })),
        ("{\"a\":\"\\\"\"}", json!({ "a": "\"" })),
    ] {
        let call = json!({ "function": { "name": "f", "arguments": arguments } });
        let message = json!({ "content": "", "tool_calls": [call] });
        let document =
            json!({ "choices": [{ "message": message, "finish_reason": "tool_calls" }] });
        let answer = answered(MESSAGES, document.to_string().as_bytes());
        assert_eq!(answer["content"][0]["input"], input, "{arguments:?}");
        assert!(answer["content"][0]["id"].as_str().expect("an ID").starts_with("toolu_"));
    }
}

#[test]
fn the_stop_string_is_named() {
    let body = with(wish(MESSAGES, true), "stop_sequences", json!(["thing"]));
    let recorded = include_bytes!("../decoder/recorded/stop.sse");
    let said = events(&relayed(request(MESSAGES, &body), [&recorded[..]], obliging));
    let end = json!({ "stop_reason": "stop_sequence", "stop_sequence": "thing" });
    assert_eq!(said[said.len() - 2]["delta"], end);
}

#[test]
fn an_answer_that_says_nothing_is_a_message() {
    let answer = answered(MESSAGES, br#"{"choices":[{"message":{"content":""}}]}"#);
    assert_eq!((&answer["content"], &answer["stop_reason"]), (&json!([]), &json!("end_turn")));
    let said = events(&streamed(MESSAGES, b"data: [DONE]\n\n"));
    let kinds: Vec<_> = said.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["message_start", "message_delta", "message_stop"]);
}

#[test]
fn an_engine_that_fails_is_an_error_with_the_requests_id() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n\
        data: {\"error\":{\"code\":503,\"message\":\"no memory\"}}\n\n";
    let said = events(&streamed(MESSAGES, stream.as_bytes()));
    assert_eq!(
        *said.last().expect("an error"),
        json!({
            "type": "error", "error": { "type": "overloaded_error", "message": "no memory" },
            "request_id": "req-1",
        })
    );
}

#[test]
fn tokens_are_counted_of_the_same_prompt() {
    let asked_for = asked(MESSAGES, &with_tools());
    assert_eq!(asked(Foreign::CountTokens, &with_tools()), asked_for);
}
