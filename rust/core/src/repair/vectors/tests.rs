use serde_json::{Value, json};

use super::{decode, dimensions, encode, shorten};

fn shortened(vector: &Value, count: usize) -> Result<Value, String> {
    let entry =
        |index: usize| json!({ "embedding": vector, "index": index, "object": "embedding" });
    let answer =
        json!({ "model": "m", "data": [entry(0), entry(1)], "usage": { "prompt_tokens": 3 } });
    let answer =
        shorten(answer.to_string().as_bytes(), count).map_err(|error| error.to_string())?;
    let mut answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((&answer["model"], &answer["usage"]), (&json!("m"), &json!({ "prompt_tokens": 3 })));
    assert_eq!(answer["data"][0]["embedding"], answer["data"][1]["embedding"]);
    assert_eq!(answer["data"][1]["index"], 1);
    Ok(answer["data"][0]["embedding"].take())
}

fn in_base64(numbers: &[f32]) -> Value {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    String::from_utf8(encode(&bytes)).unwrap().into()
}

#[test]
fn the_first_dimensions_are_at_length_1_again() {
    assert_eq!(shortened(&json!([3.0, -4.0, 12.0]), 2), Ok(json!([0.6, -0.8])));
    assert_eq!(shortened(&in_base64(&[3.0, -4.0, 12.0]), 2), Ok(in_base64(&[0.6, -0.8])));
    assert_eq!(shortened(&json!([0.0, 0.0, 1.0]), 2), Ok(json!([0, 0])), "nothing to divide by");
}

#[test]
fn as_many_as_there_are_change_nothing_and_more_are_refused() {
    let vector = json!([0.1, 0.7]);
    assert_eq!(shortened(&vector, 2), Ok(vector.clone()));
    let refusal = Err("dimensions: the embeddings of this model have 2".to_owned());
    assert_eq!(shortened(&vector, 3), refusal);
    assert_eq!(shortened(&in_base64(&[1.0, 2.0]), 3), refusal);
}

#[test]
fn only_whole_numbers_from_1_up_are_dimensions() {
    assert_eq!(dimensions(b"null").unwrap(), None);
    assert_eq!(dimensions(b"7").unwrap(), Some(7));
    for wrong in ["0", "-1", "1.5", "\"7\"", "[]", "true", "99999999999999999999999"] {
        assert!(dimensions(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn base64_is_what_everybody_takes_it_for() {
    for (bytes, digits) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("~~~>", "fn5+Pg==")]
    {
        assert_eq!(encode(bytes.as_bytes()), digits.as_bytes());
        assert_eq!(decode(digits.as_bytes()).unwrap(), bytes.as_bytes());
    }
    assert_eq!(decode(b"a b="), None);
}

#[test]
fn an_answer_that_is_none_is_the_engines_failure() {
    for answer in ["", "{}", r#"{"data":[{}]}"#, r#"{"data":[{"embedding":["x"]}]}"#] {
        assert_eq!(shorten(answer.as_bytes(), 2).unwrap_err().status(), 502, "{answer}");
    }
}
