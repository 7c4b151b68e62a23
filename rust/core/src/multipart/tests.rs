use proptest::prelude::*;

use super::{FormError, MAX_HEAD, MAX_PARTS, Parts, boundary, field};

const KIND: &[u8] = b"multipart/form-data; boundary=xyz";

fn part(head: &str, content: &str) -> String {
    format!("--xyz\r\n{head}\r\n\r\n{content}\r\n")
}

fn form(parts: &[(&str, &str)]) -> Vec<u8> {
    let parts: Vec<String> = parts.iter().map(|(head, content)| part(head, content)).collect();
    format!("{}--xyz--\r\n", parts.concat()).into_bytes()
}

const FILE: &str =
    "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav";
const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";

#[test]
fn the_model_is_found_before_and_behind_the_file() {
    for parts in [
        [(FILE, "RIFF\r\n--xy\r\n\r\n--"), (MODEL, "ai/whisper")],
        [(MODEL, "ai/whisper"), (FILE, "RIFF")],
    ] {
        assert_eq!(field(&form(&parts), KIND, "model"), Ok(Some("ai/whisper")));
    }
}

#[test]
fn every_spelling_of_the_disposition_is_read() {
    for head in [
        "content-disposition: form-data;name=model",
        "CONTENT-DISPOSITION:FORM-DATA ; NAME = \"model\"",
        "Content-Type: text/plain\r\nContent-Disposition: form-data; x=\"a;name=no\"; name=\"model\"",
    ] {
        assert_eq!(field(&form(&[(head, "m")]), KIND, "model"), Ok(Some("m")), "{head}");
    }
}

#[test]
fn what_only_looks_like_the_field_is_not_it() {
    for head in [
        "Content-Disposition: form-data; name=\"file\"; filename=\"model\"",
        "Content-Disposition: form-data; name=\"file\"; filename=\"x\\\"; name=\\\"model\"",
        "Content-Disposition: form-data; name=\"model\"; filename=\"m.txt\"",
        "Content-Disposition: attachment; name=\"model\"",
        "Content-Disposition: form-data; name=\"models\"",
        "Content-Type: text/plain; name=\"model\"",
        "",
    ] {
        assert_eq!(field(&form(&[(head, "m")]), KIND, "model"), Ok(None), "{head}");
    }
}

#[test]
fn an_empty_field_and_an_empty_form_are_no_mistakes() {
    assert_eq!(field(&form(&[(MODEL, "")]), KIND, "model"), Ok(Some("")));
    assert_eq!(field(&form(&[]), KIND, "model"), Ok(None));
    let early = format!("--xyz\r\n{MODEL}\r\n\r\n--xyz--");
    assert_eq!(field(early.as_bytes(), KIND, "model"), Ok(Some("")), "its line break is shared");
}

#[test]
fn a_preamble_and_padding_are_passed_over() {
    let body = format!("any\r\n--xyz \t\r\n{MODEL}\r\n\r\nm\r\n--xyz--any");
    assert_eq!(field(body.as_bytes(), KIND, "model"), Ok(Some("m")));
}

#[test]
fn boundaries_are_read_as_clients_write_them() {
    let read =
        |kind: &str| boundary(kind.as_bytes()).map(|found| String::from_utf8(found).unwrap());
    assert_eq!(read("multipart/form-data; boundary=xyz").as_deref(), Some("xyz"));
    assert_eq!(
        read("Multipart/Form-Data;charset=utf-8; BOUNDARY=\"a b;c\"").as_deref(),
        Some("a b;c")
    );
    assert_eq!(
        read("multipart/form-data; boundary=----x'()+_,-./:=?").as_deref(),
        Some("----x'()+_,-./:=?")
    );
    for wrong in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"a",
        "multipart/form-data; boundary=\"a \"",
        "multipart/form-data; boundary",
        "multipart/mixed; boundary=xyz",
        "application/json",
        "",
    ] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
    assert_eq!(read(&format!("multipart/form-data; boundary={}", "b".repeat(71))), None);
}

#[test]
fn what_is_no_form_is_refused_with_the_reason() {
    fn check(body: &str) -> Result<Option<&str>, FormError> {
        field(body.as_bytes(), KIND, "model")
    }
    assert_eq!(check(""), Err(FormError::NoForm));
    assert_eq!(check("{\"model\":\"m\"}"), Err(FormError::NoForm));
    assert_eq!(check("--xyz"), Err(FormError::Cut));
    assert_eq!(check(&format!("--xyz\r\n{MODEL}")), Err(FormError::Cut));
    assert_eq!(check(&format!("--xyz\r\n{MODEL}\r\n\r\nai/wh")), Err(FormError::Cut));
    assert_eq!(check("--xyzz\r\n\r\n\r\n--xyz--"), Err(FormError::Malformed { at: 5 }));
    assert_eq!(field(b"--xyz--", b"text/plain", "model"), Err(FormError::NoBoundary));
    let not_text = [format!("--xyz\r\n{MODEL}\r\n\r\n").as_bytes(), b"\xff\r\n--xyz--"].concat();
    assert_eq!(field(&not_text, KIND, "model"), Err(FormError::NotText));
    let long = format!("X: {}", "x".repeat(MAX_HEAD));
    assert_eq!(field(&form(&[(&long, "m")]), KIND, "model"), Err(FormError::Malformed { at: 5 }));
    let many = form(&vec![("X: y", ""); MAX_PARTS + 1]);
    assert_eq!(field(&many, KIND, "model"), Err(FormError::TooManyParts));
}

/// Heads and contents, found by splitting the text.
fn naive(text: &str) -> Option<Vec<(String, String)>> {
    let mut pieces: Vec<&str> = text.split("\r\n--xyz").collect();
    let first = pieces.remove(0);
    if let Some(part) = first.strip_prefix("--xyz") {
        pieces.insert(0, part);
    }
    let mut parts = Vec::new();
    for piece in &pieces {
        if piece.starts_with("--") {
            return Some(parts);
        }
        let line = piece.trim_start_matches([' ', '\t']).strip_prefix("\r\n")?;
        let (head, content) = match line.strip_prefix("\r\n") {
            Some(content) => ("", content),
            None => match line.split_once("\r\n\r\n") {
                Some(parts) => parts,
                None => (line.strip_suffix("\r\n")?, ""),
            },
        };
        parts.push((head.to_owned(), content.to_owned()));
    }
    None
}

proptest! {
    #[test]
    fn any_bytes_are_answered_for(body in prop::collection::vec(any::<u8>(), 0..200), kind in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = field(&body, KIND, "model");
        let _ = field(&body, &kind, "model");
        let _ = field(&[b"--xyz\r\n".as_slice(), &body].concat(), KIND, "model");
    }

    #[test]
    fn the_parts_are_those_of_a_naive_splitter(
        text in prop::collection::vec(prop::sample::select(vec!["--xyz", "\r\n", "--", "X: y", "a", " ", "\r", "\n", "xyz"]), 0..40)
    ) {
        let text = format!("--xyz\r\n{}", text.concat());
        let found: Option<Vec<_>> = Parts::open(text.as_bytes(), b"xyz").unwrap()
            .map(|part| part.ok().map(|part| String::from_utf8_lossy(part.content).into_owned()))
            .collect();
        let expected: Option<Vec<_>> = naive(&text).map(|parts| parts.into_iter().map(|(_, content)| content).collect());
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_was_put_in_is_found(file in prop::collection::vec(any::<u8>(), 0..500), model in "[ -~]{0,40}") {
        prop_assume!(memchr::memmem::find(&file, b"--xyz").is_none());
        let body = [format!("--xyz\r\n{FILE}\r\n\r\n").as_bytes(), &file, format!("\r\n{}--xyz--\r\n", part(MODEL, &model)).as_bytes()].concat();
        prop_assume!(!model.contains("--xyz"));
        prop_assert_eq!(field(&body, KIND, "model"), Ok(Some(model.as_str())));
    }
}
