//! Pages of other sites are kept out; pages of this machine may ask, and may read the answer.

use std::time::Duration;

use crate::harness::client::{CHAT, chat};
use crate::harness::engine::{EVENT, STREAM_HEAD};
use crate::harness::{Rig, Wire};

fn code(client: &mut Wire) -> (u16, String) {
    client.message().refusal()
}

#[test]
fn a_name_that_a_stranger_points_at_us_reaches_nothing() {
    let rig = Rig::new();
    for target in ["/models", CHAT] {
        let mut client = rig.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n"));
        assert_eq!(code(&mut client), (403, "host_not_allowed".to_owned()), "{target}");
    }
    assert_eq!(rig.refused("host_not_allowed"), 2);
}

#[test]
fn a_unix_socket_has_no_name_that_could_be_stolen() {
    let (rig, engine) = Rig::with_engine();
    let mut client = rig.unix_client();
    client.send(format!(
        "POST {CHAT} HTTP/1.1\r\nHost: anything\r\nContent-Length: {}\r\n\r\n",
        chat(false).len()
    ));
    client.send(chat(false));
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    assert_eq!(client.message().head.status(), 200);
}

#[test]
fn a_page_of_another_site_is_refused_before_anything_happens() {
    let (rig, _engine) = Rig::with_engine();
    let mut client = rig.client();
    client.ask("POST", CHAT, &[("Origin", "https://evil.example")], chat(false));
    assert_eq!(code(&mut client), (403, "origin_not_allowed".to_owned()));
    assert_eq!(rig.runner().leases, 0);
}

#[test]
fn a_page_of_this_machine_may_read_answers_and_errors() {
    let (rig, engine) = Rig::with_engine();
    let origin = ("Origin", "http://localhost:3000");
    let mut client = rig.client();
    client.ask("POST", CHAT, &[origin], chat(false));
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    let answer = client.message();
    assert_eq!(answer.head.get("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(answer.head.get("access-control-expose-headers"), Some("x-request-id, retry-after"));
    assert_eq!(answer.head.get("vary"), Some("Origin"));
    client.ask("POST", CHAT, &[origin], "{}");
    let refused = client.message();
    assert_eq!(refused.head.status(), 400);
    assert_eq!(refused.head.get("access-control-allow-origin"), Some("http://localhost:3000"));
}

#[test]
fn a_window_of_a_program_of_this_machine_may_ask_in_ollamas_dialect() {
    let rig = Rig::new();
    let mut client = rig.client();
    // All that SDKs in such windows send.
    let wanted = "authorization,content-type,user-agent,accept,x-requested-with,openai-beta,x-stainless-retry-count,x-api-key,anthropic-version";
    let fields = [
        ("Origin", "app://obsidian.md"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", wanted),
    ];
    client.ask("OPTIONS", "/api/chat", &fields, "");
    let answer = client.message();
    assert_eq!(answer.head.status(), 204);
    assert_eq!(answer.head.get("access-control-allow-origin"), Some("app://obsidian.md"));
    assert_eq!(answer.head.get("access-control-allow-headers"), Some(wanted));
    client.ask("POST", "/api/chat", &[("Origin", "null")], "{}");
    assert_eq!(client.message().head.status(), 403, "a file in a browser may be anybody's");
}

#[test]
fn a_page_that_asks_first_is_answered_on_any_path() {
    let rig = Rig::with(|config| config.origins = vec!["https://app.example.com".to_owned()]);
    let mut client = rig.client();
    let fields = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization"),
    ];
    client.ask("OPTIONS", "/anything", &fields, "");
    let answer = client.message();
    assert_eq!(answer.head.status(), 204);
    assert_eq!(answer.head.get("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(answer.head.get("access-control-allow-headers"), Some("authorization"));
}

#[test]
fn a_reader_that_takes_nothing_for_too_long_loses_its_slot() {
    let rig = Rig::with(|config| config.write_timeout = Duration::from_millis(200));
    let engine = rig.engine("only").with_slots(1);
    rig.publish(&[&engine]);
    let mut stuck = rig.unix_client();
    stuck.ask_chat(true);
    let (mut upstream, _) = engine.receive();
    upstream.send(STREAM_HEAD);
    let mut waiting = rig.waiting(0);
    // Until the engine is told: what is under way fills up first.
    let event = EVENT.repeat(100);
    let frame = format!("{:x}\r\n{event}\r\n", event.len());
    while upstream.try_send(&frame).is_ok() {}
    let (mut upstream, _) = engine.receive();
    upstream.answer_ok("{}");
    assert_eq!(waiting.message().head.status(), 200);
    drop(stuck);
}
