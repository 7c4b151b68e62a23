use proptest::prelude::*;
use serde_json::{Value, json};

use super::{MediaError, addresses, replace};

const CAT: &str = "https://example.com/cat.png";

fn chat(part: &Value) -> String {
    json!({ "model": "m", "messages": [{ "role": "user", "content": [
        { "type": "text", "text": CAT }, part,
    ] }] })
    .to_string()
}

fn urls(body: &str) -> Vec<String> {
    let found = addresses(body.as_bytes()).unwrap();
    for address in &found {
        let literal = &body[address.literal.clone()];
        assert_eq!(serde_json::from_str::<String>(literal).unwrap(), address.url);
    }
    found.into_iter().map(|address| address.url).collect()
}

#[test]
fn addresses_are_found_where_the_engine_would_look_for_them() {
    for part in [
        json!({ "type": "image_url", "image_url": { "url": CAT } }),
        json!({ "type": "image_url", "image_url": { "detail": "low", "url": CAT } }),
        json!({ "type": "image_url", "image_url": CAT }),
        json!({ "type": "input_image", "image_url": CAT }),
    ] {
        assert_eq!(urls(&chat(&part)), [CAT], "{part}");
        let responses = json!({ "input": [{ "role": "user", "content": [part] }] }).to_string();
        assert_eq!(urls(&responses), [CAT]);
    }
}

#[test]
fn escapes_hide_nothing() {
    let body = r#"{"mess\u0061ges":[{"cont\u0065nt":[{"\u0069mage\u005furl":{"u\u0072l":"\u0068ttps:\/\/x\/"}}]}]}"#;
    assert_eq!(urls(body), ["https://x/"]);
}

#[test]
fn a_key_given_twice_hides_nothing() {
    let part = r#"{"type":"image_url","image_url":{"url":"data:,"},"image_url":{"url":"http://a/","url":"http://b/"}}"#;
    let body = format!(r#"{{"messages":[],"messages":[{{"content":[],"content":[{part}]}}]}}"#);
    assert_eq!(urls(&body), ["http://a/", "http://b/"]);
}

#[test]
fn other_text_is_left_alone() {
    for part in [
        json!({ "type": "text", "text": "image_url http://x/" }),
        json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }),
        json!({ "type": "image_url", "image_url": { "url": "DATA:image/png;base64,AAAA" } }),
        json!({ "type": "image_url", "image_url": { "url": "AAAA" } }),
        json!({ "type": "image_url", "image_url": { "url": 1, "detail": CAT } }),
        json!({ "type": "input_audio", "input_audio": { "data": "AAAA", "format": "wav" } }),
        json!({ "type": "image_url", "image_url": null }),
        json!("image_url"),
    ] {
        assert_eq!(urls(&chat(&part)), [""; 0], "{part}");
    }
    for body in
        ["", "[]", "{\"messages\":\"_url\"}", "{\"messages\":[{\"content\":\"_url\"}]}", "_url"]
    {
        assert_eq!(urls(body), [""; 0], "{body}");
    }
    let tools = json!({ "tools": [{ "parameters": { "image_url": { "url": CAT } } }] }).to_string();
    assert_eq!(urls(&tools), [""; 0]);
}

#[test]
fn what_nobody_fetches_is_refused() {
    for url in
        ["file:///etc/passwd", "ftp://x/", "httpx://x/", "http:/x", "http", " http://x/", "FILE:x"]
    {
        for part in [
            json!({ "type": "image_url", "image_url": { "url": url } }),
            json!({ "type": "input_image", "image_url": url }),
        ] {
            let refused = addresses(chat(&part).as_bytes()).unwrap_err();
            assert_eq!(refused, MediaError::Scheme("image_url"), "{url}");
        }
    }
    for (holder, member) in [
        ("input_audio", "data"),
        ("input_audio", "url"),
        ("input_video", "data"),
        ("video_url", "url"),
        ("audio_url", "url"),
    ] {
        let part = json!({ "type": holder, holder: { member: CAT } });
        let refused = addresses(chat(&part).as_bytes()).unwrap_err();
        assert_eq!((refused.param(), refused), (holder, MediaError::NotAnImage(holder)));
    }
}

#[test]
fn only_the_addresses_are_replaced() {
    let part =
        |url: &str| format!("{{ \"type\":\"image_url\",\"image_url\" : {{\"url\": {url} }}}}");
    let body = |one: &str, two: &str| {
        format!(
            "{{\"x\":1e2,\n\"messages\":[{{\"content\":[{},{},{}]}}]}} ",
            part(one),
            part(two),
            part(one)
        )
    };
    let original = body("\"http://a/\"", r#""http:\/\/b/""#);
    let found = addresses(original.as_bytes()).unwrap();
    let fetched = [("http://b/", "data:b".to_owned()), ("http://a/", "data:a".to_owned())];
    let expected = body("\"data:a\"", "\"data:b\"");
    let edited = replace(original.as_bytes(), &found, &fetched, expected.len()).unwrap();
    assert_eq!(String::from_utf8(edited).unwrap(), expected);
    assert_eq!(replace(original.as_bytes(), &found, &fetched, expected.len() - 1), None);
    assert_eq!(replace(original.as_bytes(), &found, &fetched[..1], expected.len()), None);
}

#[test]
fn an_image_that_is_asked_for_over_and_over_takes_no_more_memory_than_the_limit() {
    let parts = vec![json!({ "image_url": CAT }); 100_000];
    let body = json!({ "messages": [{ "content": parts }] }).to_string();
    let found = addresses(body.as_bytes()).unwrap();
    // One terabyte in all.
    let fetched = [(CAT, "x".repeat(10_000_000))];
    assert_eq!(replace(body.as_bytes(), &found, &fetched, 64 << 20), None);
}

proptest! {
    #[test]
    fn any_bytes_are_answered_for(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = addresses(&bytes);
        let _ = addresses(&[br#"{"messages":[{"content":[{"image_url":{"url":""#.as_slice(), &bytes, b"\"}}]}]}"].concat());
    }

    #[test]
    fn any_address_is_found_and_replaced(url in "https?://[^\u{0}-\u{1f}]{0,20}", text in ".{0,20}") {
        let part = json!({ "type": "image_url", "image_url": { "url": url } });
        let body = json!({ "messages": [{ "content": [{ "text": text }, part] }], "n": text }).to_string();
        prop_assert_eq!(&urls(&body), std::slice::from_ref(&url));
        let found = addresses(body.as_bytes()).unwrap();
        let edited = replace(body.as_bytes(), &found, &[(&url, "data:x".to_owned())], 1000).unwrap();
        let part = json!({ "type": "image_url", "image_url": { "url": "data:x" } });
        let expected = json!({ "messages": [{ "content": [{ "text": text }, part] }], "n": text });
        prop_assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), expected);
    }
}
