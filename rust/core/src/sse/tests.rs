use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{MAX_EVENT, Splitter};

fn limited(limit: usize) -> Splitter {
    Splitter { limit, ..Splitter::default() }
}

fn split(splitter: &mut Splitter, chunks: &[&[u8]]) -> Vec<Bytes> {
    let mut events = Vec::new();
    for chunk in chunks {
        splitter.push(&Bytes::copy_from_slice(chunk), |data| events.push(data));
    }
    events
}

fn data_of(stream: &[u8]) -> Vec<Bytes> {
    split(&mut Splitter::default(), &[stream])
}

#[test]
fn reads_what_llama_server_sends() {
    let stream = b"data: {\"a\":1}\n\ndata: {\"a\":2}\n\n:\n\ndata: [DONE]\n\n";
    assert_eq!(data_of(stream), ["{\"a\":1}", "{\"a\":2}", "[DONE]"]);
}

#[test]
fn one_space_after_the_colon_is_not_data() {
    assert_eq!(
        data_of(b"data:a\n\ndata: b\n\ndata:  c\n\ndata:\n\ndata\n\n"),
        ["a", "b", " c", "", ""]
    );
}

#[test]
fn several_data_lines_are_joined() {
    assert_eq!(data_of(b"data: a\ndata: b\ndata:\ndata: c\n\n"), ["a\nb\n\nc"]);
}

#[test]
fn other_fields_and_comments_are_passed_over() {
    let stream =
        b": ping\n\nevent: x\nid: 1\ndata: a\nretry: 5\ndataset: b\n data: c\n\nevent: y\n\n\n\n";
    assert_eq!(data_of(stream), ["a"]);
}

#[test]
fn lines_end_in_every_way_even_cut_in_two() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = ["data: a", "data: b", "", ": c", "data: d", "", ""].join(end);
        for cut in 0..=stream.len() {
            let (head, tail) = stream.as_bytes().split_at(cut);
            let mut splitter = Splitter::default();
            assert_eq!(split(&mut splitter, &[head, b"", tail]), ["a\nb", "d"], "{end:?} {cut}");
            assert!(!splitter.pending(), "{end:?} {cut}");
        }
    }
}

#[test]
fn an_event_ends_with_its_return_not_with_the_line_feed_after_it() {
    let mut splitter = Splitter::default();
    assert_eq!(split(&mut splitter, &[b"data: a\r\n\r"]), ["a"]);
    assert!(!splitter.pending());
    assert_eq!(split(&mut splitter, &[b"\ndata: b\r\n\r\n"]), ["b"]);
}

#[test]
fn pending_tells_a_stream_that_was_cut_off() {
    for (stream, pending) in [
        ("", false),
        ("data: a\n\n", false),
        (": ping\n", false),
        ("data: a\n\n: pi", true),
        ("data: a\n\nda", true),
        ("data: a\n", true),
        ("event: a\n", true),
        ("data: a\r\n\r", false),
    ] {
        let mut splitter = Splitter::default();
        split(&mut splitter, &[stream.as_bytes()]);
        assert_eq!(splitter.pending(), pending, "{stream:?}");
    }
}

#[test]
fn events_inside_a_chunk_are_slices_of_it() {
    let chunk = Bytes::from_static(b"data: a\n\nevent: x\r\ndata: b\r\n\r\ndata: c");
    let mut copied = Vec::new();
    Splitter::default().push(&chunk, |data| {
        copied.push(!chunk.as_ptr_range().contains(&data.as_ptr()));
    });
    assert_eq!(copied, [false, false]);
}

#[test]
fn a_line_over_many_chunks_is_put_together() {
    let chunks: Vec<&[u8]> = b"data: abcdef\n\ndata: g\n\n".chunks(1).collect();
    assert_eq!(split(&mut Splitter::default(), &chunks), ["abcdef", "g"]);
}

#[test]
fn an_event_that_is_too_long_is_counted_without_its_data() {
    let block = vec![b'a'; 1 << 16];
    let mut splitter = Splitter::default();
    let mut events = split(&mut splitter, &[b"data: "]);
    for _ in 0..(MAX_EVENT / block.len()) {
        events.extend(split(&mut splitter, &[&block]));
    }
    assert!(splitter.line.len() <= MAX_EVENT + 6);
    events.extend(split(&mut splitter, &[b"a", &block, b"\n\ndata: b\n\n"]));
    assert_eq!(events, ["", "b"]);
}

#[test]
fn the_longest_event_is_kept_however_it_arrives() {
    let data = "a".repeat(MAX_EVENT);
    let stream = format!("data: {data}\n\n");
    let (head, tail) = stream.as_bytes().split_at(1000);
    assert_eq!(data_of(stream.as_bytes()), [&data]);
    assert_eq!(split(&mut Splitter::default(), &[head, tail]), [data]);
}

/// What the events of a whole stream are, by the letter of the standard.
fn naive(stream: &str, limit: usize) -> Vec<String> {
    let lines = stream.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = lines.split('\n').collect();
    lines.pop();
    let mut events = Vec::new();
    let mut data: Option<Vec<&str>> = None;
    for line in lines {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if line.is_empty() {
            let event = data.take().map(|lines| lines.join("\n"));
            events.extend(event.map(|data| if data.len() > limit { String::new() } else { data }));
        } else if field == "data" {
            data.get_or_insert_default().push(value.strip_prefix(' ').unwrap_or(value));
        }
    }
    events
}

fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "data",
        "data:",
        "data: ",
        "event: x",
        ":",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\r\n\r\n",
        "a",
        "bcdef",
        "é",
        "id:",
        "data: {}\n\n",
    ])
}

proptest! {
    #[test]
    fn any_chunking_gives_the_events_of_the_whole(
        fragments in vec(fragment(), 0..60),
        sizes in vec(1_usize..12, 1..20),
        limit in prop_oneof![0_usize..12, Just(MAX_EVENT)],
    ) {
        let stream = fragments.concat();
        let mut splitter = limited(limit);
        let mut events = Vec::new();
        let mut ahead = Bytes::copy_from_slice(stream.as_bytes());
        for size in sizes.iter().cycle() {
            if ahead.is_empty() {
                break;
            }
            let chunk = ahead.split_to(ahead.len().min(*size));
            splitter.push(&chunk, |data| events.push(data));
            prop_assert!(splitter.line.len() <= limit + 6);
        }
        prop_assert_eq!(events, naive(&stream, limit));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(chunks in vec(vec(any::<u8>(), 0..40), 0..10)) {
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let together = chunks.concat();
        prop_assert_eq!(split(&mut Splitter::default(), &chunks), data_of(&together));
    }
}
