use proptest::prelude::*;

use super::{AsStream, Shape, Told, Wishes};

fn as_stream(body: &[u8], shape: Shape) -> Option<AsStream> {
    Wishes::read(body)?.as_stream(body, shape, false)
}

fn edited(body: &str) -> Option<String> {
    as_stream(body.as_bytes(), Shape::Chat).map(|AsStream { body, plan }| {
        let body = String::from_utf8(body).expect("text");
        assert_eq!(plan.told != Told::Usage, body.contains("timings_per_token"));
        body
    })
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
        r#"{"logprobs":true,"tools":[{}]}"#,
        r#"{"n_probs":3,"tools":{}}"#,
        r#"{"logprobs":true,"post_sampling_probs":true}"#,
        r#"{"logprobs":true,"stop":"x","verbose":true}"#,
        "[]",
        r#"{"a"}"#,
        "",
    ] {
        assert_eq!(edited(body), None, "{body}");
    }
    let text = |body: &str| as_stream(body.as_bytes(), Shape::Text).is_some();
    assert!(text(r#"{"logprobs":3}"#) && text(r#"{"logprobs":3,"stop":null}"#));
    assert!(!text(r#"{"logprobs":1,"stop":["x"],"verbose":true}"#));
}

#[test]
fn what_may_be_withheld_is_counted() {
    for (body, expected) in [
        (
            r#"{"stop":"x"}"#,
            r#"{"stop":"x","stream":true,"stream_options":{"include_usage":true},"timings_per_token":true}"#,
        ),
        (
            r#"{"timings_per_token":false,"stop":["x"],"stream":false}"#,
            r#"{"timings_per_token":true,"stop":["x"],"stream":true,"stream_options":{"include_usage":true}}"#,
        ),
    ] {
        assert_eq!(edited(body).as_deref(), Some(expected));
    }
}

#[test]
fn which_stop_string_it_was_is_asked_only_where_probabilities_depend_on_it() {
    let text = |body: &str| {
        let AsStream { body, plan } = as_stream(body.as_bytes(), Shape::Text).expect("a stream");
        (String::from_utf8(body).expect("text"), plan.told)
    };
    for (body, expected, told) in [
        (
            r#"{"logprobs":1,"stop":"x"}"#,
            r#"{"logprobs":1,"stop":"x","stream":true,"stream_options":{"include_usage":true},"timings_per_token":true,"verbose":true,"response_fields":["stopping_word"]}"#,
            Told::Tokens,
        ),
        (
            r#"{"verbose":false,"response_fields":["x"],"n_probs":1,"stop":"x"}"#,
            r#"{"verbose":true,"response_fields":["stopping_word"],"n_probs":1,"stop":"x","stream":true,"stream_options":{"include_usage":true},"timings_per_token":true}"#,
            Told::Tokens,
        ),
        (
            r#"{"logprobs":1,"stop":[]}"#,
            r#"{"logprobs":1,"stop":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            Told::Usage,
        ),
    ] {
        assert_eq!(text(body), (expected.to_owned(), told));
    }
}

#[test]
fn probabilities_of_a_chat_are_to_be_in_every_event() {
    for (body, told) in [
        (r#"{"logprobs":true}"#, Told::Probabilities),
        (r#"{"logprobs":true,"top_logprobs":3,"stop":"x","tools":[]}"#, Told::Probabilities),
        (r#"{"n_probs":3,"post_sampling_probs":false}"#, Told::Probabilities),
        (r#"{"logprobs":true,"top_logprobs":0}"#, Told::Usage),
        (r#"{"post_sampling_probs":true,"tools":[{}],"stop":"x"}"#, Told::Tokens),
    ] {
        let edited = as_stream(body.as_bytes(), Shape::Chat).expect("a stream");
        assert_eq!(edited.plan.told, told, "{body}");
        let text = String::from_utf8(edited.body).expect("text");
        assert_eq!(text.contains("stopping_word"), told == Told::Probabilities);
    }
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

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..80)) {
        as_stream(&body, Shape::Text);
    }
}

#[test]
fn where_an_engine_has_stop_strings_of_its_own_tokens_are_counted() {
    let body = br#"{"model":"m","prompt":"p"}"#;
    let wishes = Wishes::read(body).expect("an object");
    let told =
        |has_stops| wishes.as_stream(body, Shape::Text, has_stops).map(|edited| edited.plan.told);
    assert_eq!(told(false), Some(Told::Usage));
    assert_eq!(told(true), Some(Told::Tokens));
}
