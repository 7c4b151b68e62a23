//! Runners that are taken off the table: what they have begun they end, and nothing new reaches them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use crate::harness::engine::EVENT;
use crate::harness::{Engine, Piece, Rig, wait_until};

#[test]
fn a_retired_runner_ends_its_streams_and_takes_nothing_new() {
    let (rig, first) = Rig::with_engine();
    let mut client = rig.asking(true);
    let mut upstream = first.begin_stream();
    client.head();
    client.chunk();
    assert_eq!(rig.plane.retire("first"), 1);
    assert_eq!(rig.plane.retire("first"), 1, "asking again changes nothing");
    let mut other = rig.asking(true);
    let (mut call, wanted) = rig.control.lease_call();
    assert_eq!(wanted["failed_runner"], serde_json::Value::Null);
    let second = rig.engine("second");
    rig.publish(&[&second]);
    call.grant("second");
    second.begin_stream().end_stream();
    assert_eq!(other.head().status(), 200);
    assert!(first.try_accept().is_none());
    assert_eq!(rig.plane.retire("first"), 1, "still, after another table was published");
    upstream.send_chunk(EVENT);
    assert_eq!(client.chunk(), EVENT.as_bytes());
    upstream.end_stream();
    assert_eq!(client.pieces().1, Piece::Last);
    wait_until("its leases have ended", || rig.plane.retire("first") == 0);
    rig.assert_outcomes([2, 0, 0, 0]);
}

#[test]
fn a_runner_without_leases_is_gone_at_once() {
    let (rig, _engine) = Rig::with_engine();
    assert_eq!(rig.plane.retire("first"), 0);
    assert!(rig.plane.snapshot().runners.is_empty());
    assert_eq!(rig.plane.retire("first"), 0);
    assert_eq!(rig.plane.retire("never-heard-of"), 0);
}

#[test]
fn requests_that_wait_for_a_retired_runner_ask_for_another() {
    let (rig, first) = Rig::with_one_slot();
    let mut client = rig.asking(true);
    let upstream = first.begin_stream();
    let mut waiting = [rig.waiting(0), rig.waiting(1)];
    assert_eq!(rig.plane.retire("first"), 1);
    let calls = [rig.control.lease_call(), rig.control.lease_call()];
    assert_eq!(rig.runner().queued, 0);
    let second = rig.engine("second");
    rig.publish(&[&second]);
    for (mut call, wanted) in calls {
        assert_eq!(wanted["failed_runner"], serde_json::Value::Null, "nothing has failed");
        call.grant("second");
    }
    for _ in &waiting {
        second.receive().0.answer("200 OK", "Connection: close\r\n", "{}");
    }
    for client in &mut waiting {
        assert_eq!(client.message().head.status(), 200);
    }
    upstream.end_stream();
    client.head();
    assert_eq!(client.pieces().1, Piece::Last);
    rig.assert_outcomes([3, 0, 0, 0]);
}

#[test]
fn requests_that_wait_go_to_the_successor_if_there_is_one_already() {
    let (rig, first) = Rig::with_one_slot();
    let _client = rig.asking(true);
    let _upstream = first.begin_stream();
    let mut waiting = rig.waiting(0);
    let second = rig.engine("second");
    rig.publish(&[&second]);
    second.receive().0.answer_ok("{}");
    assert_eq!(waiting.message().head.status(), 200);
    assert!(rig.control.try_accept().is_none());
}

#[test]
fn a_new_table_keeps_streams_and_queues_of_runners_that_stay() {
    let (rig, first) = Rig::with_one_slot();
    let mut client = rig.asking(true);
    let upstream = first.begin_stream();
    client.head();
    let mut waiting = rig.waiting(0);
    let second = rig.engine("second");
    for _ in 0..3 {
        rig.publish(&[&second, &first]);
        rig.publish(&[&first]);
    }
    assert_eq!((rig.runner().leases, rig.runner().queued), (1, 1));
    upstream.end_stream();
    client.chunk();
    assert_eq!(client.pieces().1, Piece::Last);
    first.receive().0.answer_ok("{}");
    assert_eq!(waiting.message().head.status(), 200);
}

#[test]
fn a_new_table_keeps_streams_of_runners_that_leave_it() {
    let (rig, first) = Rig::with_engine();
    let mut client = rig.asking(true);
    let upstream = first.begin_stream();
    client.head();
    rig.plane.publish(&[]);
    assert_eq!(rig.plane.retire("first"), 1);
    upstream.end_stream();
    assert_eq!(client.pieces().1, Piece::Last);
    wait_until("its leases have ended", || rig.plane.retire("first") == 0);
}

#[test]
fn totals_outlive_their_runners() {
    let (rig, first) = Rig::with_engine();
    let mut client = rig.asking(false);
    first.receive().0.answer_ok("{}");
    client.message();
    rig.assert_outcomes([1, 0, 0, 0]);
    rig.plane.retire("first");
    let second = rig.engine("second");
    rig.publish(&[&second]);
    client.ask_chat(false);
    second.receive().0.answer_ok("{}");
    client.message();
    rig.assert_outcomes([2, 0, 0, 0]);
}

/// Answer every request, each on a connection of its own, until told to stop. Then nothing may come any more.
fn serve(engine: &Engine, stop: &Receiver<()>) {
    while stop.try_recv() == Err(TryRecvError::Empty) {
        if let Some(mut upstream) = engine.try_accept() {
            upstream.message();
            upstream.answer("200 OK", "Connection: close\r\n", "{}");
            upstream.assert_ended();
        } else {
            std::thread::yield_now();
        }
    }
    assert!(
        engine.try_accept().is_none(),
        "a request came to {} after its last lease had ended",
        engine.id
    );
}

#[test]
fn no_request_is_lost_while_runners_come_and_go() {
    const RUNNERS: usize = 30;
    let rig = Rig::with(|config| {
        config.threads = 2;
        config.queue_limit = 100;
    });
    let running = AtomicBool::new(true);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let ask = || {
            let mut client = rig.client();
            while running.load(Ordering::Relaxed) {
                client.ask_chat(false);
                let answer = client.message();
                assert_eq!(answer.head.status(), 200, "{}", String::from_utf8_lossy(&answer.body));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let mut before: Option<(String, Sender<()>)> = None;
        for number in 0..RUNNERS {
            let engine = rig.engine(&format!("runner-{number}")).with_slots(1);
            let id = engine.id.clone();
            rig.publish(&[&engine]);
            let (stop, stopped) = mpsc::channel();
            scope.spawn(move || serve(&engine, &stopped));
            if let Some((id, stop)) = before.replace((id.clone(), stop)) {
                wait_until("its leases have ended", || rig.plane.retire(&id) == 0);
                drop(stop);
            }
            let enough = answered.load(Ordering::Relaxed) + 10;
            wait_until("requests are answered", || {
                // Who found the table empty for a moment asks for a lease, and is given what there is.
                if let Some(mut call) = rig.control.try_accept() {
                    assert_eq!(call.message().json()["failed_runner"], serde_json::Value::Null);
                    call.grant(&id);
                }
                answered.load(Ordering::Relaxed) >= enough
            });
        }
        running.store(false, Ordering::Relaxed);
        wait_until("the clients are done", || {
            if let Some(mut call) = rig.control.try_accept() {
                call.message();
                call.grant(&format!("runner-{}", RUNNERS - 1));
            }
            clients.iter().all(std::thread::ScopedJoinHandle::is_finished)
        });
    });
    rig.assert_outcomes([answered.load(Ordering::Relaxed) as u64, 0, 0, 0]);
}
