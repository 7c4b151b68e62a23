use serde_json::{Value, json};

use super::reworded;

fn put_right(message: &str) -> Option<(u16, Value)> {
    let error = json!({ "code": 500, "message": message, "type": "server_error" });
    let document = json!({ "error": error }).to_string();
    reworded(document.as_bytes())
        .map(|(status, document)| (status, serde_json::from_slice(&document).unwrap()))
}

#[test]
fn what_is_the_clients_fault_is_a_bad_request() {
    // As llama-server b11434 said them.
    for message in [
        "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        "audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] parse error",
        "Failed to parse messages: Missing 'role' in message: {\"content\":\"x\"}",
        "Failed to parse tools: Expected 'tools' to be an array, got \"x\"; tools = \"x\"",
    ] {
        let error = json!({ "code": 400, "message": message, "type": "invalid_request_error" });
        assert_eq!(put_right(message), Some((400, json!({ "error": error }))));
    }
}

#[test]
fn an_input_that_does_not_fit_says_how_much_would() {
    let message = "input (3002 tokens) is too large to process. increase the physical batch size (current batch size: 512)";
    let (status, document) = put_right(message).unwrap();
    let error = &document["error"];
    assert_eq!((status, &error["type"]), (400, &json!("exceed_context_size_error")));
    assert_eq!((&error["n_prompt_tokens"], &error["n_ctx"]), (&json!(3002), &json!(512)));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("3002 tokens") && message.contains("at most 512"), "{message}");
}

#[test]
fn what_is_the_engines_fault_stays_its_own() {
    for message in
        ["", "Context size has been exceeded.", "input (many tokens) is too large to process"]
    {
        assert_eq!(put_right(message), None, "{message}");
    }
    let refused = br#"{"error":{"code":400,"message":"image input is not supported","type":"x"}}"#;
    assert_eq!(reworded(refused), None);
    for unreadable in ["", "oops", "[]", "{\"error\":null}"] {
        assert_eq!(reworded(unreadable.as_bytes()), None, "{unreadable}");
    }
}
