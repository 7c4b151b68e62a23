use proptest::prelude::*;

use super::{BodyError, Decoder, Framing, MAX_BETWEEN};

const OK: Option<Result<(), BodyError>> = Some(Ok(()));
const MALFORMED: Option<Result<(), BodyError>> = Some(Err(BodyError::Malformed));
const CUT: Option<Result<(), BodyError>> = Some(Err(BodyError::Cut));

/// All data of these pieces, and the decoder behind them.
fn decode<'a>(framing: Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Decoder) {
    let mut decoder = Decoder::new(framing);
    let mut data = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let length = decoder.decode(&mut piece);
        data.extend_from_slice(&piece[..length]);
    }
    (data, decoder)
}

fn chunked(wire: &[u8]) -> (Vec<u8>, Decoder) {
    decode(Framing::Chunked, [wire])
}

#[test]
fn chunks_become_data_without_framing() {
    let (data, decoder) =
        chunked(b"5\r\nhello\r\n1A; name=\"value\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n");
    assert_eq!(data, b"helloabcdefghijklmnopqrstuvwxyz");
    assert_eq!(decoder.outcome(), OK);
    assert!(decoder.ended_cleanly());
}

#[test]
fn trailers_are_dropped() {
    let (data, decoder) = chunked(b"1\r\na\r\n0\r\nDigest: x\r\nMore: y\r\n\r\n");
    assert_eq!(data, b"a");
    assert!(decoder.ended_cleanly());
}

#[test]
fn what_is_no_chunk_is_refused_and_what_came_before_it_is_kept() {
    let wrong: [&[u8]; 20] = [
        b"\r\n",
        b"g\r\n",
        b"-1\r\na\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 a\r\n",
        b"1\na\r\n",
        b"1\r\r\na\r\n",
        b"1;x\na\r\n",
        b"1\r\naa\r\n",
        b"1\r\na\n",
        b"1\r\na\r\r\n",
        b"1\r\na1\r\n",
        b"10000000000000000\r\n",
        b"0\r\nx\n",
        b"0\r\nx: y\r\r\n",
        b"0\r\n\n",
        b"0\r\n\r\r",
        b"\0",
    ];
    for wire in wrong {
        let (data, decoder) = chunked(&[b"3\r\nxyz\r\n", wire].concat());
        assert!(data.starts_with(b"xyz"), "{wire:?}");
        assert_eq!(decoder.outcome(), MALFORMED, "{wire:?}");
        assert!(!decoder.ended_cleanly());
    }
}

#[test]
fn endless_framing_is_refused() {
    let much = "x".repeat(MAX_BETWEEN as usize);
    for wire in [format!("1;{much}"), format!("0\r\n{much}"), "0".repeat(MAX_BETWEEN as usize + 1)]
    {
        assert_eq!(chunked(wire.as_bytes()).1.outcome(), MALFORMED);
    }
    // It is counted from one piece of data to the next.
    let chunk = format!("1;{}\r\na\r\n", "x".repeat(MAX_BETWEEN as usize / 2));
    let (data, decoder) = chunked(chunk.repeat(5).as_bytes());
    assert_eq!((data.as_slice(), decoder.outcome()), (b"aaaaa".as_slice(), None));
}

#[test]
fn the_largest_size_is_taken() {
    let (data, decoder) = chunked(b"FFFFFFFFFFFFFFFF\r\nabc");
    assert_eq!((data.as_slice(), decoder.outcome()), (b"abc".as_slice(), None));
}

#[test]
fn an_end_before_the_end_is_a_cut() {
    let whole = b"3\r\nabc\r\n0\r\n\r\n";
    for length in 0..whole.len() {
        let (_, mut decoder) = chunked(&whole[..length]);
        decoder.end();
        assert_eq!(decoder.outcome(), CUT, "after {length} bytes");
    }
    let (_, mut decoder) = chunked(whole);
    decoder.end();
    assert_eq!(decoder.outcome(), OK);

    let (data, mut decoder) = decode(Framing::Length(4), [b"abc".as_slice()]);
    assert_eq!((data.as_slice(), decoder.left()), (b"abc".as_slice(), Some(1)));
    decoder.end();
    assert_eq!(decoder.outcome(), CUT);
}

#[test]
fn a_body_without_framing_ends_with_its_connection_unless_that_fails() {
    let (data, mut decoder) = decode(Framing::UntilEnd, [b"abc".as_slice(), b"def"]);
    assert_eq!((data.as_slice(), decoder.outcome()), (b"abcdef".as_slice(), None));
    let mut failing = decoder;
    decoder.end();
    assert_eq!(decoder.outcome(), OK);
    failing.fail();
    assert_eq!(failing.outcome(), CUT);
}

#[test]
fn more_than_the_answer_is_noticed() {
    for (framing, wire) in [
        (Framing::Length(3), b"abc+".as_slice()),
        (Framing::Length(0), b"+"),
        (Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\n+"),
    ] {
        for cut in 0..=wire.len() {
            let (data, decoder) = decode(framing, [&wire[..cut], &wire[cut..]]);
            assert!(b"abc".starts_with(&data));
            assert_eq!(decoder.outcome(), OK);
            assert!(!decoder.ended_cleanly(), "{framing:?} cut at {cut}");
        }
    }
}

/// A line without its end, and what follows it; `None` if it has no end.
type Line<'a> = Option<(&'a [u8], &'a [u8])>;

/// The chunks of a body that is there as a whole, line by line.
fn naive(mut wire: &[u8]) -> (Vec<u8>, Option<Result<(), BodyError>>) {
    fn line(wire: &[u8]) -> Result<Line<'_>, BodyError> {
        let Some(end) = wire.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
            return Ok(None);
        };
        match &wire[end..] {
            [b'\r'] => Ok(None),
            [b'\r', b'\n', rest @ ..] => Ok(Some((&wire[..end], rest))),
            _ => Err(BodyError::Malformed),
        }
    }
    /// `None`: it cannot be one. It may lack its end.
    fn size(text: &[u8]) -> Option<u64> {
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let behind = text[digits..].trim_ascii_start();
        let blank = &text[digits..text.len() - behind.len()];
        let spaced = blank.iter().all(|byte| matches!(byte, b' ' | b'\t'));
        if digits == 0 || !spaced || !matches!(behind, [] | [b';', ..]) {
            return None;
        }
        u64::from_str_radix(std::str::from_utf8(&text[..digits]).unwrap(), 16).ok()
    }
    let mut data = Vec::new();
    loop {
        let (text, rest) = match line(wire) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let begun = wire.strip_suffix(b"\r").unwrap_or(wire);
                let possible = size(begun).is_some() || wire.is_empty();
                return (data, (!possible).then_some(Err(BodyError::Malformed)));
            }
            Err(error) => return (data, Some(Err(error))),
        };
        let Some(size) = size(text) else { return (data, MALFORMED) };
        if size == 0 {
            let mut wire = rest;
            return loop {
                match line(wire) {
                    Ok(Some(([], _))) => break (data, OK),
                    Ok(Some((_, rest))) => wire = rest,
                    Ok(None) => break (data, None),
                    Err(error) => break (data, Some(Err(error))),
                }
            };
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if rest.len() < size {
            data.extend_from_slice(rest);
            return (data, None);
        }
        data.extend_from_slice(&rest[..size]);
        match &rest[size..] {
            [] | [b'\r'] => return (data, None),
            [b'\r', b'\n', rest @ ..] => wire = rest,
            _ => return (data, MALFORMED),
        }
    }
}

/// Nearly a chunked body.
fn wires() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..40)
            .prop_map(|data| [format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat()),
        2 => prop::sample::select(vec![
            b"0\r\n\r\n".to_vec(), b"0\r\na: b\r\n\r\n".to_vec(), b"3 ;a=b\r\nxyz\r\n".to_vec(),
            b"ffffffffffffffff\r\n".to_vec(), b"\r\n".to_vec(), b"1\n".to_vec(), b"00001\r\n\r\r\n".to_vec(),
        ]),
        1 => prop::collection::vec(prop::sample::select(b"0 1;aF\r\n\t".to_vec()), 0..8),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn however_it_is_cut_it_is_the_same_body(
        wire in wires(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len() + 1)).collect();
        cuts.extend([0, wire.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|ends| &wire[ends[0]..ends[1]]);
        let (data, decoder) = decode(Framing::Chunked, pieces);
        let (expected, outcome) = naive(&wire);
        prop_assert_eq!(&data, &expected);
        prop_assert_eq!(decoder.outcome(), outcome);
        let (at_once, whole) = chunked(&wire);
        prop_assert_eq!(at_once, data);
        prop_assert_eq!(whole.ended_cleanly(), decoder.ended_cleanly());
    }

    #[test]
    fn a_length_is_kept_to(wire: Vec<u8>, length in 0_u64..64, cut: prop::sample::Index) {
        let (left, right) = wire.split_at(cut.index(wire.len() + 1));
        let (data, mut decoder) = decode(Framing::Length(length), [left, right]);
        let expected = wire.len().min(usize::try_from(length).unwrap());
        prop_assert_eq!(&data, &wire[..expected]);
        prop_assert_eq!(decoder.left(), Some(length - expected as u64));
        prop_assert_eq!(decoder.ended_cleanly(), wire.len() as u64 == length);
        decoder.end();
        prop_assert_eq!(decoder.outcome(), if (wire.len() as u64) < length { CUT } else { OK });
    }
}
