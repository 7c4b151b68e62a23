use bytes::Bytes;

use super::Mend;
use crate::assemble::Shape;
use crate::usage::Usage;

const TAIL: &str = r#""created":1,"id":"c","model":"m","object":"chat.completion.chunk""#;

fn chat(index: u64, delta: &str) -> String {
    let choice = format!(r#"{{"finish_reason":null,"index":{index},"delta":{delta}}}"#);
    format!("data: {{\"choices\":[{choice}],{TAIL}}}\n\n")
}

fn role(index: u64) -> String {
    chat(index, r#"{"role":"assistant","content":null}"#)
}

fn counts(tokens: u64) -> String {
    let total = tokens + 10;
    format!(
        "data: {{\"choices\":[],{TAIL},\"usage\":{{\"completion_tokens\":{tokens},\"prompt_tokens\":10,\
         \"total_tokens\":{total},\"prompt_tokens_details\":{{\"cached_tokens\":9}}}},\"timings\":{{\"prompt_n\":1}}}}\n\n"
    )
}

fn text(index: u64, usage: &str) -> String {
    format!("data: {{\"choices\":[{{\"text\":\"\",\"index\":{index}}}]{usage},\"id\":\"c\"}}\n\n")
}

fn used(tokens: u64, total: u64) -> String {
    format!(
        ",\"usage\":{{\"completion_tokens\":{tokens},\"prompt_tokens\":10,\"total_tokens\":{total}}}"
    )
}

const DONE: &str = "data: [DONE]\n\n";

const COUNTED: Usage =
    Usage { prompt_tokens: 10, cached_prompt_tokens: 9, completion_tokens: 7, reasoning_tokens: 0 };

/// What becomes of a stream, in whatever pieces it comes.
fn mended(shape: Shape, choices: usize, events: &[String]) -> String {
    let sent = events.concat();
    let whole = in_pieces(shape, choices, &sent, sent.len());
    for size in [1, 2, 7, 100] {
        assert_eq!(in_pieces(shape, choices, &sent, size), whole, "in pieces of {size}");
    }
    whole
}

fn in_pieces(shape: Shape, choices: usize, sent: &str, size: usize) -> String {
    let mut mend = Mend::new(shape, choices);
    let mut got = Vec::new();
    for piece in sent.as_bytes().chunks(size) {
        let piece = Bytes::copy_from_slice(piece);
        got.extend(match &mut mend {
            Some(mend) if !mend.is_done() => mend.pass(piece, || COUNTED),
            _ => piece,
        });
    }
    String::from_utf8(got).unwrap()
}

#[test]
fn a_stream_that_begins_as_it_should_is_passed_uncopied_and_left() {
    let sent = Bytes::from(role(0) + &chat(0, r#"{"content":"a"}"#));
    let mut mend = Mend::new(Shape::Chat, 1).unwrap();
    let got = mend.pass(sent.clone(), || unreachable!("nothing is counted"));
    assert_eq!((got.as_ptr(), got.len()), (sent.as_ptr(), sent.len()));
    assert!(mend.is_done());
    assert!(Mend::new(Shape::Text, 1).is_none());
}

#[test]
fn a_chat_whose_first_token_was_withheld_begins_with_a_role() {
    let rest = [chat(0, r#"{"content":"🌞"}"#), chat(0, "{}"), counts(5), DONE.to_owned()];
    let got = mended(Shape::Chat, 1, &[vec![":\n\n".to_owned()], rest.to_vec()].concat());
    assert_eq!(got, [":\n\n", &role(0), &rest.concat()].concat());
}

#[test]
fn the_event_that_begins_has_nothing_of_what_was_said() {
    let said = r#"data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{}}],"id":"c","timings":{},"usage":null}"#;
    let got = mended(Shape::Chat, 1, &[format!("{said}\n\n")]);
    let begin = r#"data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"id":"c"}"#;
    assert_eq!(got, format!("{begin}\n\n{said}\n\n"));
}

#[test]
fn of_several_choices_each_begins_and_all_are_counted_once_at_the_end() {
    let (first, second) = (chat(1, r#"{"content":"a"}"#), chat(0, r#"{"content":"b"}"#));
    let sent = [first.clone(), counts(3), role(0), second.clone(), counts(4), DONE.to_owned()];
    let sum = counts(7);
    let expected = [role(1), first, role(0), second, sum, DONE.to_owned()].concat();
    assert_eq!(mended(Shape::Chat, 2, &sent), expected);
}

#[test]
fn several_choices_that_are_not_counted_stay_as_they_are() {
    let sent = [role(1), role(0), chat(1, "{}"), chat(0, "{}"), DONE.to_owned()];
    assert_eq!(mended(Shape::Chat, 2, &sent), sent.concat());
}

#[test]
fn texts_of_several_prompts_begin_with_text_and_end_with_the_sum() {
    let sent = [
        "data: null\n\n".to_owned(),
        text(1, ""),
        text(1, &used(3, 13)),
        text(0, &used(4, 14)),
        DONE.to_owned(),
    ];
    let sum = text(1, "") + &text(1, &used(7, 17)) + &text(0, &used(7, 17)) + DONE;
    assert_eq!(mended(Shape::Text, 2, &sent), sum);
}

#[test]
fn errors_and_what_is_no_event_pass() {
    let error = "data: {\"error\":{\"code\":500,\"message\":\"x\"}}\n\n".to_owned();
    for events in [
        vec![error.clone()],
        vec![role(0), error],
        vec!["data: {oops\n\n".to_owned(), "event: x\ndata: 7\n\n".to_owned()],
        vec!["data: {\"choices\":7}\n\ndata: {\"choices\":[7]}\n\n".to_owned()],
    ] {
        for choices in [1, 2] {
            assert_eq!(mended(Shape::Chat, choices, &events), events.concat());
        }
    }
}

#[test]
fn lines_that_end_otherwise_and_endless_events_are_left_alone() {
    let other = "data: {\"choices\":[{\"index\":0,\"delta\":{}}]}\r\n\r\ndata: ".to_owned();
    assert_eq!(mended(Shape::Chat, 1, std::slice::from_ref(&other)), other);
    let endless = format!("data: {}", "x".repeat(super::LONGEST + 9));
    assert_eq!(in_pieces(Shape::Chat, 2, &endless, 65_536), endless);
}
