//! Whoever follows the records as they come.

use super::*;

/// A follower, once it is told that it is one.
pub(super) fn follow(rig: &Rig, query: &str) -> Wire {
    let mut client = rig.client();
    client.ask("GET", &format!("{PATH}{query}"), &EVENTS, "");
    let head = client.head();
    assert_eq!((head.status(), head.get("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.get("cache-control"), Some("no-cache"));
    client
}

/// The next event: its name and its data.
pub(super) fn event(follower: &mut Wire, held: &mut String) -> (String, Value) {
    while !held.contains("\n\n") {
        held.push_str(&String::from_utf8(follower.chunk()).expect("text"));
    }
    let (event, rest) = held.split_once("\n\n").expect("an event");
    let (name, data) = event.split_once('\n').unwrap_or((event, ""));
    let name = name.strip_prefix("event: ").expect("a name").to_owned();
    let data = serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
    *held = rest.to_owned();
    (name, data)
}

#[test]
fn events_come_in_dockers_order() {
    let (rig, engine) = rig(|_| ());
    exchange(&rig, &engine, &chat(false));
    let mut held = String::new();
    let mut follower = follow(&rig, "?include_existing=true&model=AI/SmolLM2");
    let mut elsewhere = follow(&rig, "?model=ai/other");
    let (name, data) = event(&mut follower, &mut held);
    assert_eq!(name, "existing_request");
    assert_eq!((&data[0]["model"], &data[0]["count"]), (&json!(MODEL_ID), &json!(1)));
    assert_eq!(data[0]["records"], json!(records(&rig)));
    let connected = ("connected".to_owned(), json!({"status": "connected"}));
    assert_eq!(event(&mut follower, &mut held), connected);
    assert_eq!(event(&mut elsewhere, &mut String::new()), connected);
    exchange(&rig, &engine, &chat_with("smollm2", false));
    let (name, data) = event(&mut follower, &mut held);
    assert_eq!(name, "new_request");
    assert_eq!(
        data,
        json!([{"count": 1, "model": MODEL_ID, "config": {}, "records": [records(&rig)[1]]}])
    );
    let other = rig.engine("second");
    let mut route = other.route();
    route.model_id = "sha256:11".to_owned();
    route.names = vec!["ai/other".to_owned()];
    rig.plane.publish(&[engine.route(), route]);
    exchange(&rig, &other, &chat_with("ai/other", false));
    let (name, data) = event(&mut elsewhere, &mut String::new());
    assert_eq!((&*name, &data[0]["model"]), ("new_request", &json!("sha256:11")));
}

#[test]
fn a_silent_stream_is_kept_alive_and_ends_with_the_server() {
    let beat = std::time::Duration::from_millis(20);
    let (mut rig, _engine) = rig(|config| config.heartbeat = Some(beat));
    let mut follower = follow(&rig, "");
    event(&mut follower, &mut String::new());
    assert_eq!(follower.chunk(), b": keep-alive\n\n");
    let stopped = rig.stop(crate::harness::DEADLINE);
    assert_eq!(stopped.recv(), Ok(true), "a follower does not hold it up");
    follower.pieces();
}

#[test]
fn a_follower_that_left_is_forgotten() {
    let (rig, engine) = rig(|_| ());
    let mut follower = follow(&rig, "");
    event(&mut follower, &mut String::new());
    assert_eq!(rig.plane.snapshot().requests_in_flight, 1);
    drop(follower);
    rig.assert_at_rest();
    exchange(&rig, &engine, &chat(false));
}

#[test]
fn a_follower_that_does_not_read_learns_what_it_missed() {
    let (rig, engine) = recording(Recording { count: 2, ..RECORDING });
    let mut follower = follow(&rig, "");
    let mut held = String::new();
    event(&mut follower, &mut held);
    // More than its socket takes: each event is some 200 KB.
    let body = long_chat(200_000);
    let mut client = rig.client();
    for _ in 0..160 {
        client.ask("POST", CHAT, &[], &body);
        let (mut upstream, _) = engine.receive();
        upstream.answer("200 OK", "Connection: close\r\n", ANSWER);
        client.message();
    }
    let (mut told, mut missed) = (0, 0);
    while told + missed < 160 {
        match event(&mut follower, &mut held) {
            (name, _) if name == "new_request" => told += 1,
            (name, data) => {
                assert_eq!(name, "missed_requests");
                missed += data["count"].as_u64().expect("a number");
            }
        }
    }
    assert!(missed > 0 && told > 50, "{told} {missed}");
}
