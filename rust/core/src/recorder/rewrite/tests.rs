use proptest::prelude::*;
use serde_json::Value;

use super::super::rules::Rule;
use super::{begin, rewrite};

const RULES: [Rule; 4] = [Rule::Plain, Rule::Answer, Rule::Request, Rule::Response];

fn shown(document: &str, rule: Rule) -> Option<String> {
    rewrite(document.as_bytes(), rule).map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn everything_else_stays_as_it_is_spelled() {
    for document in [
        r#" { "b" : 1.50e+3 , "a":[ 1e400,-0, 12345678901234567890123,null ] } "#,
        r#"{"a":"\u0041\/","a":{},"c":[],"":"\\\"","n":[[]]}"#,
        r#""data:,short""#,
        "7",
    ] {
        assert_eq!(shown(document, Rule::Plain).as_deref(), Some(document));
    }
}

#[test]
fn what_is_not_one_json_value_is_not_taken_for_one() {
    for document in [
        "",
        " ",
        "{",
        "}",
        "[1",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "\"a",
        "[\"a]",
        "1 2",
        "tru",
        "[secret]",
        "{\"a\":1}x",
        "-",
        "\u{feff}{}",
    ] {
        for rule in RULES {
            assert_eq!(shown(document, rule), None, "{document} {rule:?}");
        }
    }
}

#[test]
fn nesting_is_no_danger() {
    for depth in [10, 63, 64, 65, 100_000] {
        let document = format!("{}\"secret\"{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(shown(&document, Rule::Plain).as_deref(), Some(&*document));
        assert!(!shown(&document, Rule::Request).unwrap().contains("secret"), "{depth}");
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        let key =
            prop_oneof![Just("content".to_owned()), Just("messages".to_owned()), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_stays_json_under_every_rule(document in json()) {
        let text = document.to_string();
        prop_assert_eq!(shown(&text, Rule::Plain), Some(text.clone()));
        for rule in RULES {
            let output = rewrite(text.as_bytes(), rule).unwrap();
            prop_assert!(serde_json::from_slice::<Value>(&output).is_ok());
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for rule in RULES {
            let _ = rewrite(&bytes, rule);
        }
    }

    /// No secret of a user stays, wherever in a request it stands.
    #[test]
    fn no_string_of_a_request_is_shown(mut document in json(), steps in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        plant(&mut document, &steps);
        let output = shown(&document.to_string(), Rule::Request).unwrap();
        prop_assert!(!output.contains("the secret"), "{}", output);
    }
}

#[test]
fn what_would_not_be_kept_is_not_looked_at() {
    // Nobody could tell that it is malformed without reading all of it.
    let document = format!("[\"data:image/png;base64,{}\"{}!", "A".repeat(200), ",1".repeat(500));
    assert_eq!(begin(document.as_bytes(), Rule::Plain, usize::MAX), None);
    let (shown, unseen) = begin(document.as_bytes(), Rule::Plain, 300).unwrap();
    assert!((300..310).contains(&shown.len()), "{}", shown.len());
    assert!(shown.starts_with(b"[\"data:image/png;base64,AAAA"));
    assert_eq!(document.as_bytes()[document.len() - unseen..].first(), Some(&b'1'));
    // One that is short is read to its end.
    assert_eq!(begin(b"[1,2]", Rule::Plain, 300), Some((b"[1,2]".to_vec(), 0)));
}

/// Put a secret somewhere into a document.
fn plant(value: &mut Value, steps: &[prop::sample::Index]) {
    match (value, steps) {
        (Value::Array(elements), [step, rest @ ..]) if !elements.is_empty() => {
            let at = step.index(elements.len());
            plant(&mut elements[at], rest);
        }
        (Value::Object(members), [step, rest @ ..]) if !members.is_empty() => {
            let at = step.index(members.len());
            members.insert("the secret".to_owned(), Value::from(1));
            if let Some(inner) = members.values_mut().nth(at) {
                plant(inner, rest);
            }
        }
        (other, _) => *other = Value::from("this is the secret"),
    }
}
