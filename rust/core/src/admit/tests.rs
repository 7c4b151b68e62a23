use http::{HeaderValue, Request, Version};

use super::{Admission, Admitted, allow, matches, preflight};
use crate::error::Error;

fn request(fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().uri("/v1/models");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if !fields.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    request.body(()).unwrap()
}

fn admit(fields: &[(&str, &str)], loopback: bool) -> Result<Admitted, Error> {
    Admission::new(&["https://app.example.com".to_owned(), "http://intranet:*".to_owned()])
        .admit(&request(fields), loopback)
}

#[test]
fn a_name_that_a_stranger_could_point_at_us_is_refused_on_loopback_only() {
    for host in [
        "evil.example",
        "evil.example:12434",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
    ] {
        assert!(matches!(admit(&[("host", host)], true), Err(Error::HostNotAllowed(_))), "{host}");
        assert!(admit(&[("host", host)], false).is_ok(), "{host}");
    }
}

#[test]
fn our_own_names_and_addresses_are_let_in() {
    for host in [
        "localhost",
        "LOCALHOST:12434",
        "localhost.",
        "127.0.0.1:12434",
        "[::1]:12434",
        "192.168.1.5",
        "models.localhost:80",
        "box.local:12434",
        "host.docker.internal:12434",
    ] {
        assert!(admit(&[("host", host)], true).is_ok(), "{host}");
    }
}

#[test]
fn only_old_clients_need_not_say_who_they_talk_to() {
    for (version, is_let_in) in
        [(Version::HTTP_10, true), (Version::HTTP_11, false), (Version::HTTP_2, true)]
    {
        let request = Request::builder().version(version).uri("/v1/models").body(()).unwrap();
        assert_eq!(Admission::new(&[]).admit(&request, true).is_ok(), is_let_in, "{version:?}");
    }
}

#[test]
fn the_target_of_the_absolute_form_counts_and_not_the_host() {
    let absolute = Request::builder()
        .uri("http://evil.example/models")
        .header("host", "localhost")
        .body(())
        .unwrap();
    assert!(Admission::new(&[]).admit(&absolute, true).is_err());
}

#[test]
fn pages_of_this_machine_and_those_named_may_ask_others_may_not() {
    for origin in [
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1:8443",
        "http://[::1]:5173",
        "https://app.example.com",
        "http://intranet:8000",
        "http://intranet",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "http://tauri.localhost",
        "vscode-webview://1f6d3c",
        "vscode-file://vscode-app",
    ] {
        let page = Ok::<_, ()>(Admitted::Page(HeaderValue::from_static(origin)));
        assert_eq!(admit(&[("origin", origin)], true).map_err(drop), page, "{origin}");
    }
    for origin in [
        "null",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost:3000.evil.example",
        "http://localhost:",
        "https://app.example.com:444",
        "http://app.example.com",
        "http://tauri.localhost.evil.example",
        "https://app.evil.example",
        "app.evil.example",
        "chrome-extension://abcdefgh",
        "moz-extension://1f6d3c",
    ] {
        assert!(
            matches!(admit(&[("origin", origin)], true), Err(Error::OriginNotAllowed(_))),
            "{origin}"
        );
    }
}

#[test]
fn a_star_lets_every_page_in() {
    let all = Admission::new(&["*".to_owned()]);
    assert!(all.admit(&request(&[("origin", "https://anything.example")]), true).is_ok());
}

#[test]
fn all_of_a_scheme_may_be_let_in() {
    let extensions = Admission::new(&["chrome-extension://*".to_owned()]);
    let admits = |origin: &str| extensions.admit(&request(&[("origin", origin)]), true).is_ok();
    assert!(admits("chrome-extension://abcdefgh"));
    assert!(!admits("moz-extension://abcdefgh"));
    assert!(!admits("https://chrome-extension://"));
}

#[test]
fn a_preflight_is_answered_with_what_it_asked_for() {
    let asking = Request::builder()
        .method("OPTIONS")
        .uri("/v1/chat/completions")
        .header("host", "localhost")
        .header("origin", "http://localhost:3000")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .body(())
        .unwrap();
    let Ok(Admitted::Preflight(origin)) = Admission::new(&[]).admit(&asking, true) else {
        panic!("no preflight")
    };
    let answer = preflight::<_, ()>(&asking, origin);
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["access-control-allow-origin"], "http://localhost:3000");
    assert_eq!(answer.headers()["access-control-allow-headers"], "authorization,content-type");
    assert!(answer.headers()["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));
    assert_eq!(answer.headers()["vary"], "Origin");
}

#[test]
fn caches_learn_that_the_answer_depends_on_the_origin() {
    let mut headers = http::HeaderMap::new();
    headers.insert("vary", HeaderValue::from_static("Accept"));
    allow(&mut headers, HeaderValue::from_static("http://localhost"));
    assert_eq!(headers.get_all("vary").iter().count(), 2);
}

#[test]
fn a_pattern_without_a_wildcard_is_one_origin() {
    assert!(matches("http://a", "http://a"));
    assert!(!matches("http://a", "http://a:80"));
}
