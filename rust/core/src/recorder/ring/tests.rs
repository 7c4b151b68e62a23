use std::sync::{Arc, Weak};
use std::time::Duration;

use super::super::record::{Answer, End, Head, Kept};
use super::{OVERHEAD, Ring};
use crate::endpoint::Mode;
use crate::usage::Usage;

fn begin(ring: &mut Ring, model_id: &str, size: usize) -> (Arc<Head>, Weak<Kept>) {
    let head = Arc::new(Head {
        instant: ring.instant(5),
        request_id: String::new(),
        model_id: model_id.into(),
        model: model_id.to_owned(),
        mode: Mode::Completion,
        url: String::new(),
        user_agent: None,
        origin: None,
        request_length: size,
    });
    let request = Arc::new(Kept::whole(&vec![b'x'; size]));
    let weak = Arc::downgrade(&request);
    ring.begin(&head, &request, &Arc::default());
    (head, weak)
}

fn end(ring: &mut Ring, head: &Head, size: usize) {
    let end = End {
        status: 200,
        outcome: "ok",
        usage: Usage::default(),
        queued: Duration::ZERO,
        first_token: None,
        load: None,
        duration: Duration::ZERO,
        response_length: size,
    };
    let response = Some(Kept::whole(&vec![b'y'; size]));
    let answer = Answer::Settled { response, error: None };
    ring.end(head, &Arc::new(end), &Arc::new(answer));
}

/// The instants of what is kept of a model.
fn kept(ring: &Ring, model_id: &str) -> Vec<u64> {
    let shelf = ring.shelves().find(|(id, _)| &***id == model_id);
    shelf
        .map(|(_, shelf)| shelf.parts())
        .into_iter()
        .flatten()
        .map(|parts| parts.head.instant)
        .collect()
}

fn is_consistent(ring: &Ring) -> bool {
    let sizes = ring.shelves.values().flat_map(|shelf| &shelf.slots).map(|slot| slot.size);
    ring.held == sizes.sum::<usize>()
}

#[test]
fn no_two_requests_have_the_same_instant() {
    let mut ring = Ring::new(1, 1);
    assert_eq!([ring.instant(5), ring.instant(5), ring.instant(3), ring.instant(9)], [5, 6, 7, 9]);
}

#[test]
fn of_each_model_the_last_are_kept_and_those_in_flight_before_those_that_ended() {
    let mut ring = Ring::new(2, 1 << 20);
    let (first, first_request) = begin(&mut ring, "a", 10);
    let (second, second_request) = begin(&mut ring, "a", 10);
    begin(&mut ring, "b", 10);
    end(&mut ring, &second, 10);
    begin(&mut ring, "a", 10);
    assert!(second_request.upgrade().is_none(), "it ended, the older one has not");
    assert_eq!(kept(&ring, "a"), [5, 8]);
    begin(&mut ring, "a", 10);
    assert!(first_request.upgrade().is_none(), "all are in flight, so the oldest goes");
    assert!(!ring.grow(&first, 10).0);
    end(&mut ring, &first, 10);
    assert_eq!((kept(&ring, "a"), kept(&ring, "b")), (vec![8, 9], vec![7]));
    assert!(is_consistent(&ring));
}

#[test]
fn the_oldest_of_all_models_goes_when_the_bytes_run_out() {
    let mut ring = Ring::new(10, 3 * (OVERHEAD + 1000));
    let (old, request) = begin(&mut ring, "a", 500);
    end(&mut ring, &old, 500);
    let (live, _) = begin(&mut ring, "b", 500);
    let (other, _) = begin(&mut ring, "c", 500);
    assert!(ring.grow(&live, 500).0);
    assert!(ring.grow(&other, 500).0);
    assert_eq!(kept(&ring, "a").len(), 1, "it just fits");
    assert!(ring.grow(&other, 1).0);
    assert!(request.upgrade().is_none() && kept(&ring, "a").is_empty());
    assert_eq!(ring.shelves.len(), 2, "an empty shelf is no memory either");
    assert!(ring.grow(&other, OVERHEAD + 1001).0, "one in flight makes room for another");
    assert!(!ring.grow(&live, 1).0);
    assert!(!ring.grow(&other, 1 << 20).0, "nothing is larger than everything");
    assert!(ring.shelves.is_empty() && is_consistent(&ring));
}

#[test]
fn what_an_answer_did_not_need_is_given_back() {
    let mut ring = Ring::new(10, 1 << 20);
    let (head, _) = begin(&mut ring, "a", 10);
    ring.grow(&head, 4096);
    end(&mut ring, &head, 100);
    assert_eq!(ring.held, OVERHEAD + 110);
    let (struck, request) = begin(&mut ring, "a", 10);
    ring.strike(&struck);
    assert!(request.upgrade().is_none());
    assert_eq!((ring.held, kept(&ring, "a")), (OVERHEAD + 110, vec![5]));
}
