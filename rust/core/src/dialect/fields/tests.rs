use serde_json::json;

use super::{Fields, join};
use crate::error::Error;

fn refused<T: std::fmt::Debug>(found: Result<T, Error>) -> (String, String) {
    match found {
        Err(Error::InvalidField { param, reason }) => (param, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_are_found_by_name() {
    let body = br#" {"a": "x", "b" : [1, {"c":2}], "n\u0061me": "y", "none": null, "a": "last"} "#;
    let fields = Fields::of_body(body).expect("an object");
    assert_eq!(fields.text("a", "").expect("a string").as_deref(), Some("last"));
    assert_eq!(fields.text("name", "").expect("a string").as_deref(), Some("y"));
    assert_eq!(fields.raw("none"), None);
    assert_eq!(fields.raw("absent"), None);
    assert_eq!(fields.raw("A"), None);
    assert_eq!(fields.list("b", "").expect("a list"), [&b"1"[..], b"{\"c\":2}"]);
    assert_eq!(fields.json("b").expect("JSON").get(), "[1, {\"c\":2}]");
    let any = fields.in_any_case();
    assert_eq!(any.raw("A"), Some(&b"\"last\""[..]));
}

#[test]
fn what_has_another_type_is_named_by_its_path() {
    let body = json!({ "text": 7, "flag": "yes", "list": {}, "count": 1.5 }).to_string();
    let fields = Fields::of_body(body.as_bytes()).expect("an object");
    assert_eq!(refused(fields.text("text", "a.0")), ("a.0.text".into(), "must be a string".into()));
    assert_eq!(refused(fields.flag("flag", "")), ("flag".into(), "must be true or false".into()));
    assert_eq!(refused(fields.list("list", "")), ("list".into(), "must be an array".into()));
    let count = fields.get::<i64>("count", "x", "a whole number");
    assert_eq!(refused(count), ("x.count".into(), "must be a whole number".into()));
    let inner = Fields::of(b"[1]", "messages.0");
    assert_eq!(refused(inner), ("messages.0".into(), "must be an object".into()));
}

#[test]
fn half_a_character_is_no_string() {
    let fields = Fields::of_body(br#"{"a":"\ud800"}"#).expect("an object");
    assert_eq!(refused(fields.text("a", "")).0, "a");
}

#[test]
fn all_of_a_body_has_to_be_json() {
    for body in ["{\"a\":[1,]}", "{\"a\":tru}", "{\"a\":\"\n\"}", "{\"a\":01}", "{\"a\":1}}"] {
        let error = Fields::of_body(body.as_bytes()).expect_err(body);
        assert!(matches!(error, Error::MalformedBody(_)), "{body}: {error:?}");
    }
    let empty = Fields::of_body(b" \n").expect_err("nothing");
    assert!(empty.to_string().contains("empty"), "{empty}");
}

#[test]
fn paths_are_joined() {
    assert_eq!((join("", "a"), join("a.0", "b")), ("a".to_owned(), "a.0.b".to_owned()));
}
