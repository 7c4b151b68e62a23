use std::time::Duration;

use super::{GAP, Histogram, TOKENS, Tally, WAIT};

#[test]
fn a_bound_belongs_to_the_bucket_below_it_and_the_rest_to_the_last() {
    let histogram = Histogram::new(&TOKENS);
    for tokens in [0, 1, 2, 4, 5, u64::MAX >> 20] {
        histogram.record(tokens);
    }
    let total = Histogram::total(&TOKENS, [&histogram].into_iter());
    assert_eq!(total.bounds.len() + 1, total.counts.len());
    assert_eq!(total.bounds[..3], [1.0, 4.0, 16.0]);
    assert_eq!(total.counts[..3], [2, 2, 1]);
    assert_eq!(total.counts.last(), Some(&1));
    assert_eq!(total.counts.iter().sum::<u64>(), 6);
}

#[test]
fn times_are_shown_in_seconds_and_threads_are_added() {
    let (one, other) = (Histogram::new(&WAIT), Histogram::new(&WAIT));
    one.record_time(Duration::from_millis(1));
    other.record_time(Duration::from_millis(1499));
    let total = Histogram::total(&WAIT, [&one, &other].into_iter());
    assert_eq!(total.bounds[..2], [0.001, 0.005]);
    assert_eq!((total.counts[0], total.counts[9], total.sum), (1, 1, 1.5));
}

#[test]
fn what_a_request_gathered_is_added_whole() {
    let mut tally = Tally::default();
    tally.record(&GAP, 400, 1);
    tally.record(&GAP, 0, 2);
    tally.record(&GAP, 10_000_000, 1);
    let histogram = Histogram::new(&GAP);
    histogram.add(&tally);
    histogram.add(&tally);
    let total = Histogram::total(&GAP, [&histogram].into_iter());
    assert_eq!((total.counts[0], total.counts[16], total.sum), (6, 2, 20.0008));
}
