use proptest::prelude::*;

use super::{PIECE, Tape, UNFOLDED};

fn taped<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Tape {
    let mut tape = Tape::default();
    for piece in pieces {
        tape.push(piece, |_, wanted| wanted);
    }
    tape.close();
    tape
}

#[test]
fn an_event_takes_little_more_than_what_is_new_in_it() {
    let event = |token: &str| {
        format!(
            "data: {{\"choices\":[{{\"finish_reason\":null,\"index\":0,\"delta\":{{\"content\":\"{token}\"}}}}],\"created\":1795411010,\
             \"id\":\"chatcmpl-SvM1cOojsoYYwq8vEvrXd9YMqieEuKiI\",\"model\":\"ai/smollm2\",\"object\":\"chat.completion.chunk\"}}\n\n"
        )
    };
    let events: Vec<String> = (0..1000).map(|number| event(&format!(" word{number}"))).collect();
    let tape = taped(events.iter().map(String::as_bytes));
    assert_eq!(tape.unfolded(), events.concat().into_bytes());
    assert!(tape.length() > 190_000 && tape.size() < 15_000, "{} {}", tape.length(), tape.size());
}

#[test]
fn it_never_takes_more_than_it_is_given() {
    for limit in [0, 5, 6, 7, 100, PIECE + 3, 3 * PIECE] {
        let mut tape = Tape::default();
        let bytes: Vec<u8> = (0..4 * PIECE).map(|at| u8::try_from(at % 251).unwrap()).collect();
        tape.push(&bytes, |_, _| limit);
        assert!(
            tape.size() <= limit.max(6) && tape.size() + 6 * 4 >= limit,
            "{limit}: {}",
            tape.size()
        );
        assert_eq!(tape.unfolded(), bytes[..tape.length()]);
    }
}

#[test]
fn what_folds_well_is_bounded_too() {
    let mut tape = Tape::default();
    for _ in 0..10_000 {
        tape.push(&[b'x'; 1024], |_, wanted| wanted);
    }
    assert_eq!(tape.length(), UNFOLDED);
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(pieces in prop::collection::vec("[ab]{0,40}", 0..50)) {
        let tape = taped(pieces.iter().map(String::as_bytes));
        prop_assert_eq!(tape.length(), pieces.concat().len());
        prop_assert_eq!(tape.unfolded(), pieces.concat().into_bytes());
    }
}
