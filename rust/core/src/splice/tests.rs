use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{as_stream, set};
use crate::assemble::Shape;

fn edited(body: &str) -> Option<String> {
    as_stream(body.as_bytes(), Shape::Chat).map(|body| String::from_utf8(body).expect("text"))
}

#[test]
fn only_the_two_members_change() {
    for (body, expected) in [
        (r"{}", r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
        (
            r#" { "model" : "x" , "y":[1, {"stream":false}] } "#,
            r#" { "model" : "x" , "y":[1, {"stream":false}] ,"stream":true,"stream_options":{"include_usage":true}} "#,
        ),
        (
            r#"{"stream": false ,"a":1}"#,
            r#"{"stream": true ,"a":1,"stream_options":{"include_usage":true}}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":false,"x":[]},"stream":null}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true}"#,
        ),
        (
            r#"{"stream":true,"str\u0065am":false}"#,
            r#"{"stream":true,"str\u0065am":true,"stream_options":{"include_usage":true}}"#,
        ),
    ] {
        assert_eq!(edited(body).as_deref(), Some(expected), "{body}");
    }
}

#[test]
fn what_cannot_be_assembled_stays_as_it_is() {
    for body in [
        r#"{"stream":true}"#,
        r#"{"stream":"x"}"#,
        r#"{"stream":0}"#,
        r#"{"stream":false,"stream":1}"#,
        r#"{"verbose":true}"#,
        r#"{"logprobs":true}"#,
        r#"{"logprobs":true,"tools":[{}]}"#,
        r#"{"n_probs":3}"#,
        r#"{"stop":"x"}"#,
        r#"{"stop":["x"]}"#,
        "[]",
        r#"{"a"}"#,
        "",
    ] {
        assert_eq!(edited(body), None, "{body}");
    }
    let text = |body: &str| as_stream(body.as_bytes(), Shape::Text).is_some();
    assert!(text(r#"{"logprobs":3}"#) && text(r#"{"logprobs":3,"stop":null}"#));
    assert!(!text(r#"{"stop":["x"]}"#));
}

#[test]
fn what_is_off_does_not_count() {
    for body in [
        r#"{"logprobs":false,"verbose":false,"n_probs":0}"#,
        r#"{"logprobs":null,"verbose":null,"n_probs":null}"#,
        r#"{"tools":[{}],"stop":[]}"#,
    ] {
        assert!(edited(body).is_some(), "{body}");
    }
}

fn space() -> impl Strategy<Value = String> {
    "[ \n\r\t]{0,3}"
}

/// Names that matter, and others; spelled plainly or with each character as an escape.
fn key() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("stream".to_owned()),
        Just("stream_options".to_owned()),
        Just("streams".to_owned()),
        "[a-z\"\\\\]{0,3}",
    ];
    (name, any::<bool>()).prop_map(|(name, escaped)| {
        if escaped {
            let escapes: Vec<String> =
                name.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{}\"", escapes.concat())
        } else {
            json!(name).to_string()
        }
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z\"\\\\{},:]{0,6}".prop_map(Value::from),
        Just(json!({"stream": false})),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from))
}

proptest! {
    #[test]
    fn the_result_is_the_same_object_but_for_the_members_set(
        members in prop::collection::vec((space(), key(), space(), space(), value(), space()), 0..6),
        around in (space(), space(), space()),
    ) {
        let members: Vec<String> = members
            .into_iter()
            .map(|(a, key, b, c, value, d)| format!("{a}{key}{b}:{c}{value}{d}"))
            .collect();
        let inside = if members.is_empty() { around.1.clone() } else { members.join(",") };
        let body = format!("{}{{{inside}}}{}", around.0, around.2);
        let mut expected: Map<String, Value> = serde_json::from_str(&body).unwrap();
        expected.insert("stream".to_owned(), json!(true));
        expected.insert("stream_options".to_owned(), json!({"include_usage": true}));
        let edited = set(body.as_bytes(), &super::AS_STREAM).expect("an object");
        prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&edited).unwrap(), expected);
    }

    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
        set(&body, &super::AS_STREAM);
        as_stream(&body, Shape::Text);
    }
}
