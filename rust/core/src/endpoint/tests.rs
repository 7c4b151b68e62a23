use http::Method;

use super::{Endpoint, Mode, classify, clean};

fn endpoint<'a>(method: &Method, path: &'a str) -> Endpoint<'a> {
    classify(method, path, &["llama.cpp".to_owned()])
}

#[test]
fn every_alias_of_chat_reaches_the_same_engine_path() {
    for path in [
        "/v1/chat/completions",
        "/engines/v1/chat/completions",
        "/engines/llama.cpp/v1/chat/completions",
    ] {
        assert_eq!(
            endpoint(&Method::POST, path),
            Endpoint::Inference { mode: Mode::Completion, upstream_path: "/v1/chat/completions" }
        );
    }
}

#[test]
fn modes_follow_the_path() {
    let mode = |path| match endpoint(&Method::POST, path) {
        Endpoint::Inference { mode, .. } => mode.name(),
        other => panic!("{other:?}"),
    };
    assert_eq!(mode("/v1/completions"), "completion");
    assert_eq!(mode("/engines/v1/embeddings"), "embedding");
    assert_eq!(mode("/rerank"), "reranking");
    assert_eq!(mode("/engines/rerank"), "reranking");
    assert_eq!(mode("/engines/llama.cpp/rerank"), "reranking");
}

#[test]
fn a_backend_that_does_not_exist_is_named() {
    assert_eq!(
        endpoint(&Method::POST, "/engines/vroom/v1/chat/completions"),
        Endpoint::UnknownBackend("vroom")
    );
}

#[test]
fn inference_takes_post_only() {
    assert_eq!(endpoint(&Method::GET, "/v1/chat/completions"), Endpoint::MethodNotAllowed);
}

#[test]
fn the_private_door_is_shut() {
    assert_eq!(endpoint(&Method::POST, "/_control/leases"), Endpoint::Private);
    assert_eq!(endpoint(&Method::POST, "/_control"), Endpoint::Private);
    assert_eq!(endpoint(&Method::POST, &clean("//_control//leases")), Endpoint::Private);
    for escaped in ["/%5Fcontrol/leases", "/%5f%63ontrol", "/_control%2Fleases", "/%2f_control/x"] {
        assert_eq!(endpoint(&Method::POST, escaped), Endpoint::Private, "{escaped}");
    }
    for other in ["/_controlled", "/models/_control", "/%", "/%5", "/%zzcontrol", "/%ff"] {
        assert_eq!(endpoint(&Method::POST, other), Endpoint::Management, "{other}");
    }
}

#[test]
fn the_rest_goes_to_the_control_plane() {
    for path in ["/", "/models", "/models/ai/v1/chat", "/engines/ps", "/v1/models", "/metrics"] {
        assert_eq!(endpoint(&Method::GET, path), Endpoint::Management, "{path}");
    }
}

#[test]
fn double_slashes_are_cleaned_and_other_paths_are_left_alone() {
    assert_eq!(clean("//engines//v1//models"), "/engines/v1/models");
    assert_eq!(clean("/a//b/../c/./d/"), "/a/c/d");
    assert_eq!(clean("/models/a/../b"), "/models/a/../b");
    assert_eq!(clean("//"), "/");
}
