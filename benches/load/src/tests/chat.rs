//! Chats with servers of which nothing is known but OpenAI's API.

use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::{Load, arguments, measure, measure_against, run};
use crate::address::Listener;

const CHAT: &str = "chat --model m --requests 1 --warm-up 0";

/// A stream of these pieces, ended by the end of the connection.
fn stream(pieces: &[&str]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    format!("{head}{}", pieces.concat()).into_bytes()
}

fn chat_with(line: &'static str, answer: Vec<u8>) -> Value {
    measure_against(line, move |_| answer.clone())
}

#[test]
fn whole_answers_are_counted_by_usage() {
    let report = measure("chat --model bench --requests 10 --connections 2");
    assert_eq!((&report["requests"], &report["errors"]), (&json!(10), &json!(0)), "{report}");
    let tokens = &report["tokens"];
    assert_eq!((&tokens["completion"], &tokens["prompt"]), (&json!(40), &json!(120)), "{report}");
    assert_eq!(tokens["from_usage"], 10, "{report}");
    assert_eq!(report.get("ttft_us"), None);
}

#[test]
fn streams_are_timed_and_counted() {
    let report = measure("chat --model bench --requests 10 --stream --slo-ttft-ms 5000");
    assert_eq!((&report["requests"], &report["errors"]), (&json!(10), &json!(0)), "{report}");
    assert_eq!((&report["tokens"]["completion"], &report["events"]), (&json!(40), &json!(40)));
    assert_eq!(report["ttft_us"]["count"], 10, "{report}");
    assert_eq!((&report["gap_us"]["count"], &report["tpot_us"]["count"]), (&json!(30), &json!(10)));
    assert_eq!(report["goodput"]["streams"], 10, "{report}");
}

#[test]
fn other_servers_ways_to_write_a_stream_are_read() {
    let report = chat_with(
        "chat --model m --requests 1 --warm-up 0 --stream",
        stream(&[
            ": OPENROUTER PROCESSING\r\n\r\n",
            "data:{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}],\"usage\":null}\r\n\r\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"yes\"},\"finish_reason\":\"stop\"}]}\r\n\r\n",
            "data: [DONE]\r\n\r\n",
        ]),
    );
    assert_eq!((&report["requests"], &report["errors"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!(report["ttft_us"]["count"], 1, "{report}");
    // No count was sent: what is known is that there were two events.
    assert_eq!(
        (&report["tokens"]["completion"], &report["tokens"]["from_events"]),
        (&json!(2), &json!(1))
    );
}

#[test]
fn timings_count_where_there_is_no_usage() {
    let report = chat_with(
        "chat --model m --requests 1 --warm-up 0 --stream",
        stream(&[
            "data: {\"choices\":[{\"delta\":{\"content\":\"a b c\"}}]}\n\n",
            "data: {\"choices\":[],\"timings\":{\"predicted_n\":3,\"prompt_n\":5,\"cache_n\":2}}\n\n",
            "data: [DONE]\n\n",
        ]),
    );
    let tokens = &report["tokens"];
    assert_eq!((&tokens["completion"], &tokens["prompt"]), (&json!(3), &json!(7)), "{report}");
    assert_eq!(tokens["from_timings"], 1, "{report}");
}

#[test]
fn a_stream_that_is_cut_or_ends_in_an_error_has_failed() {
    let cut = ["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"];
    let report = chat_with("chat --model m --requests 1 --warm-up 0 --stream", stream(&cut));
    assert_eq!((&report["requests"], &report["errors"]), (&json!(0), &json!(1)), "{report}");
    let broken = ["data: {\"error\":{\"message\":\"engine died\"}}\n\n"];
    let report = chat_with("chat --model m --requests 1 --warm-up 0 --stream", stream(&broken));
    assert!(report["error_samples"][0].as_str().unwrap().contains("engine died"), "{report}");
}

#[test]
fn a_refusal_is_explained() {
    let body = json!({"error": {"message": "model `m` is not known"}}).to_string();
    let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
    let report = chat_with(CHAT, [head, body].concat().into_bytes());
    assert_eq!(report["error_samples"], json!(["status 404: model `m` is not known"]), "{report}");
}

#[test]
fn a_first_chat_that_fails_is_the_answer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Load::Chat(options) = arguments("chat --model m", "unix:/nonexistent") else {
        unreachable!()
    };
    let outcome = LocalSet::new().block_on(&runtime, crate::load::chat::run(*options));
    let error = format!("{:#}", outcome.unwrap_err());
    assert!(error.contains("nothing was measured") && error.contains("cannot connect"), "{error}");
}

/// The bytes of the request that a chat sends to a server at the URL, `{}` standing for its address.
fn request(url: &str, more: &str) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
        let target = url.replace("{}", &listener.address().unwrap());
        let server = tokio::task::spawn_local(async move {
            let mut stream = listener.accept().await.unwrap();
            let mut inbox = bytes::BytesMut::new();
            while !inbox.ends_with(b"}") {
                stream.read(&mut inbox).await.unwrap();
            }
            String::from_utf8(inbox.to_vec()).unwrap()
        });
        run(arguments(&format!("{CHAT}{more}"), &target)).await;
        server.await.unwrap()
    })
}

#[test]
fn requests_say_what_was_asked_for() {
    let more =
        " --header X-Org:a --api-key secret --max-tokens 7 --prompt hello --extra {\"seed\":1}";
    let request = request("{}", more);
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nX-Org:a\r\n"), "{head}");
    assert!(head.contains("\r\nAuthorization: Bearer secret\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    let expected = json!({
        "model": "m", "max_tokens": 7, "seed": 1, "stream": false,
        "messages": [{"role": "user", "content": "hello"}],
    });
    assert_eq!(body, expected);
}

#[test]
fn a_base_url_leads_to_its_chats() {
    for (url, path) in [
        ("{}/", "/v1/chat/completions"),
        ("{}/v1", "/v1/chat/completions"),
        ("{}/engines/v1/", "/engines/v1/chat/completions"),
        ("{}/x/chat/completions", "/x/chat/completions"),
    ] {
        let request = request(url, "");
        assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{url}: {request}");
    }
}
