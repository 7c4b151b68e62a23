use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::set;

const WANTED: [(&str, &[u8]); 2] =
    [("stream", b"true"), ("stream_options", b"{\"include_usage\":true}")];

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
        let edited = set(body.as_bytes(), &WANTED).expect("an object");
        prop_assert_eq!(serde_json::from_slice::<Map<String, Value>>(&edited).unwrap(), expected);
    }

    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
        set(&body, &WANTED);
    }
}
