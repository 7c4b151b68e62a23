use serde_json::{Value, json};

use super::narrow;
use crate::assemble::Wishes;

fn tool(name: &str) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": {} } })
}

fn narrowed(choice: &Value, tools: &Value) -> Result<Option<Value>, String> {
    let body = json!({ "model": "m", "tools": tools, "tool_choice": choice, "n": 1 }).to_string();
    let wishes = Wishes::read(body.as_bytes()).unwrap();
    let narrowed = narrow(body.as_bytes(), wishes.tool_choice.unwrap(), wishes.tools);
    let narrowed = narrowed.map_err(|error| error.to_string())?;
    Ok(narrowed.map(|body| serde_json::from_slice(&body).unwrap()))
}

fn assert_narrowed(choice: &Value, word: &str, names: &[&str]) {
    let tools = json!([tool("a"), { "type": "wizard" }, tool("b"), tool("c")]);
    let names: Vec<Value> = names.iter().map(|name| tool(name)).collect();
    let expected = json!({ "model": "m", "tools": names, "tool_choice": word, "n": 1 });
    assert_eq!(narrowed(choice, &tools), Ok(Some(expected)), "{choice}");
}

#[test]
fn a_named_function_is_the_only_one_and_required() {
    let named = json!({ "type": "function", "function": { "name": "b" } });
    assert_narrowed(&named, "required", &["b"]);
    assert_narrowed(&json!({ "type": "function", "name": "b" }), "required", &["b"]);
}

#[test]
fn allowed_tools_are_the_only_ones_in_their_mode() {
    let tools = json!([{ "type": "function", "function": { "name": "c" } }, { "name": "a" }]);
    for mode in ["auto", "required"] {
        let inside = json!({ "mode": mode, "tools": tools });
        let choice = json!({ "type": "allowed_tools", "allowed_tools": inside });
        assert_narrowed(&choice, mode, &["a", "c"]);
    }
    let flat = json!({ "type": "allowed_tools", "mode": "required", "tools": tools });
    assert_narrowed(&flat, "required", &["a", "c"]);
}

#[test]
fn words_in_objects_are_words() {
    let tools = json!([tool("a")]);
    assert_eq!(narrowed(&json!({ "type": "auto" }), &tools), Ok(None));
    for (kind, word) in [("none", "none"), ("required", "required"), ("any", "required")] {
        let choice = narrowed(&json!({ "type": kind }), &tools).unwrap().unwrap();
        assert_eq!((&choice["tool_choice"], &choice["tools"]), (&json!(word), &tools));
    }
    for word in ["auto", "none", "required"] {
        assert_eq!(narrowed(&json!(word), &tools), Ok(None), "the engine knows it");
    }
}

#[test]
fn what_cannot_be_chosen_is_refused_by_name() {
    let function = |name: Value| json!({ "type": "function", "function": { "name": name } });
    let mode = json!({ "type": "allowed_tools", "allowed_tools": { "mode": "x", "tools": [] } });
    for (choice, reason) in [
        (function(json!("x")), "tool_choice: no tool is called `x`"),
        (function(json!(7)), "tool_choice.name: must be a string"),
        (function(Value::Null), "tool_choice.function.name: must be a string"),
        (json!({ "type": "custom" }), "tool_choice.type: must be `function` or `allowed_tools`"),
        (json!({}), "tool_choice.type: must be `function` or `allowed_tools`"),
        (mode, "tool_choice.allowed_tools.mode: must be `auto` or `required`"),
    ] {
        assert_eq!(narrowed(&choice, &json!([tool("a")])), Err(reason.to_owned()), "{choice}");
    }
    for tools in [json!([]), json!("x"), Value::Null] {
        let reason = "tool_choice: no tool is called `a`".to_owned();
        assert_eq!(narrowed(&function(json!("a")), &tools), Err(reason), "{tools}");
    }
}

#[test]
fn every_other_byte_stays() {
    let body = br#"{ "tool_choice" : {"type":"function","function":{"name":"\u0061"}}, "x":1e400 ,"tools": [ {"function":{"name":"a"} }, 7 ] }"#;
    let wishes = Wishes::read(body).unwrap();
    let narrowed = narrow(body, wishes.tool_choice.unwrap(), wishes.tools).unwrap().unwrap();
    let expected =
        r#"{ "tool_choice" : "required", "x":1e400 ,"tools": [{"function":{"name":"a"} }] }"#;
    assert_eq!(String::from_utf8(narrowed).unwrap(), expected);
}
