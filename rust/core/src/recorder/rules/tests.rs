use serde_json::{Value, json};

use super::super::rewrite::rewrite;
use super::Rule;

fn shown(document: &Value, rule: Rule) -> Value {
    serde_json::from_slice(&rewrite(document.to_string().as_bytes(), rule).unwrap()).unwrap()
}

/// A payload of so many characters, and what is shown of it.
fn payload(count: usize) -> (String, String) {
    let cut = format!("{}...[truncated {} chars]", "A".repeat(100), count - 100);
    ("A".repeat(count), cut)
}

#[test]
fn media_are_cut_to_a_hundred_characters() {
    let (long, cut) = payload(205);
    assert!(cut.ends_with("...[truncated 105 chars]"));
    let (url, cut_url) =
        (format!("data:image/png;base64,{long}"), format!("data:image/png;base64,{cut}"));
    let cases = [
        (
            json!({"image_url": {"url": url, "detail": "low"}}),
            json!({"image_url": {"url": cut_url, "detail": "low"}}),
        ),
        (json!({"image_url": {"url": long}}), json!({"image_url": {"url": cut}})),
        (
            json!({"input_audio": {"data": long, "format": "wav"}}),
            json!({"input_audio": {"data": cut, "format": "wav"}}),
        ),
        // OpenAI's Responses, Anthropic's messages, files, Ollama's and llama-server's own way.
        (
            json!({"input": [{"type": "input_image", "image_url": url}]}),
            json!({"input": [{"type": "input_image", "image_url": cut_url}]}),
        ),
        (
            json!({"source": {"type": "base64", "data": long}}),
            json!({"source": {"type": "base64", "data": cut}}),
        ),
        (
            json!({"file": {"file_data": url, "filename": long}}),
            json!({"file": {"file_data": cut_url, "filename": long}}),
        ),
        (json!({"images": [long, "AAA"]}), json!({"images": [cut, "AAA"]})),
        (
            json!({"prompt": {"multimodal_data": [long]}}),
            json!({"prompt": {"multimodal_data": [cut]}}),
        ),
        // Anywhere at all.
        (json!({"prompt": url, "input": [url]}), json!({"prompt": cut_url, "input": [cut_url]})),
        (json!({"data": [{"b64_json": long}]}), json!({"data": [{"b64_json": cut}]})),
    ];
    for (document, expected) in cases {
        assert_eq!(shown(&document, Rule::Plain), expected);
    }
}

#[test]
fn text_is_not_media() {
    let (long, _) = payload(5000);
    for document in [
        json!({"messages": [{"role": "user", "content": long}], "prompt": long, "input": [long]}),
        json!({"data": long, "url": long, "content": format!("data:{long}")}),
        json!({"image_url": {"url": "data:image/png;base64,AAAA"}}),
        json!({"image_url": {"url": "https://example.com/x.png"}}),
    ] {
        assert_eq!(shown(&document, Rule::Plain), document);
    }
}

#[test]
fn of_a_redacted_request_the_structure_and_the_parameters_stay() {
    let document = json!({
        "model": "ai/smollm2", "stream": true, "temperature": 0.5, "max_tokens": 7, "user": "Ann",
        "stop": ["Ann"], "metadata": {"Ann": "Ann"}, "logit_bias": {"17": 1}, "my secret": 1,
        "stream_options": {"include_usage": true},
        "messages": [
            {"role": "user", "name": "Ann", "content": "Où?"},
            {"role": "user", "content": [{"type": "text", "text": "Ann"}, {"type": "image_url", "image_url": {"url": "Ann", "detail": "low"}}]},
            {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "id": "Ann", "function": {"name": "find", "arguments": "{\"Ann\":1}"}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "description": "Ann", "parameters": {"Ann": {"type": "string"}}}}],
    });
    let three = "[redacted: 3 characters]";
    let expected = json!({
        "model": "ai/smollm2", "stream": true, "temperature": 0.5, "max_tokens": 7, "user": three,
        "stop": "[redacted: 7 bytes]", "metadata": "[redacted: 13 bytes]", "logit_bias": "[redacted: 8 bytes]", "[redacted]": 1,
        "stream_options": {"include_usage": true},
        "messages": [
            {"role": "user", "name": three, "content": three},
            {"role": "user", "content": [{"type": "text", "text": three}, {"type": "image_url", "image_url": {"url": three, "detail": "low"}}]},
            {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "id": three, "function": {"name": "find", "arguments": "[redacted: 9 characters]"}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "find", "description": three, "parameters": "[redacted: 25 bytes]"}}],
    });
    assert_eq!(shown(&document, Rule::Request), expected);
}

#[test]
fn tokens_are_text_too() {
    let document = json!({"input": [17, 4], "prompt": [[1, 2], "Ann"]});
    let expected = json!({"input": [0, 0], "prompt": [[0, 0], "[redacted: 3 characters]"]});
    assert_eq!(shown(&document, Rule::Request), expected);
}

#[test]
fn of_a_redacted_answer_the_figures_stay() {
    let document = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "ai/smollm2",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Ann", "reasoning_content": "Ann",
                "tool_calls": [{"id": "call1", "type": "function", "function": {"name": "find", "arguments": "Ann"}}]},
            "logprobs": {"content": [{"token": "Ann", "bytes": [65], "logprob": -1.5}]},
        }],
        "data": [{"index": 0, "object": "embedding", "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
        "timings": {"prompt_ms": 1.5},
    });
    let three = "[redacted: 3 characters]";
    let expected = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "ai/smollm2",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": three, "reasoning_content": three,
                "tool_calls": [{"id": "call1", "type": "function", "function": {"name": "find", "arguments": three}}]},
            "logprobs": "[redacted: 57 bytes]",
        }],
        "data": [{"index": 0, "object": "embedding", "embedding": "[redacted: 10 bytes]"}],
        "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}},
        "timings": {"prompt_ms": 1.5},
    });
    assert_eq!(shown(&document, Rule::Response), expected);
}

#[test]
fn of_an_answer_what_the_user_wrote_is_taken_out() {
    let document = json!({
        "choices": [{"text": "Bob", "message": {"content": "Bob"}}], "prompt": "Ann",
        "__verbose": {"prompt": "Ann"}, "error": {"code": 400, "type": "invalid", "message": "Ann"},
        "results": [{"index": 0, "relevance_score": 0.5, "document": {"text": "Ann"}, "text": "Ann"}],
    });
    let output = shown(&document, Rule::Answer);
    assert_eq!(output["choices"], document["choices"]);
    assert_eq!(output["error"]["code"], 400);
    assert_eq!(output["results"][0]["relevance_score"], 0.5);
    assert!(!output.to_string().contains("Ann"), "{output}");
    let ranked = shown(&json!([{"index": 0, "score": 0.5, "text": "Ann"}]), Rule::Answer);
    assert_eq!(ranked, json!([{"index": 0, "score": 0.5, "text": "[redacted: 3 characters]"}]));
}
