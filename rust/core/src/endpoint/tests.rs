use http::Method;

use super::{Content, Endpoint, Foreign, Mode, Takes, Target, classify, clean};

fn endpoint<'a>(method: &Method, path: &'a str) -> Endpoint<'a> {
    classify(method, path, &["llama.cpp".to_owned()])
}

fn target(path: &str) -> Target {
    match endpoint(&Method::POST, path) {
        Endpoint::Inference(target) => target,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn every_alias_reaches_the_same_engine_path() {
    for (name, upstream_path) in [
        ("chat/completions", "/v1/chat/completions"),
        ("embeddings", "/v1/embeddings"),
        ("rerank", "/v1/rerank"),
        ("reranking", "/v1/rerank"),
        ("score", "/v1/rerank"),
        ("audio/transcriptions", "/v1/audio/transcriptions"),
        ("tokenize", "/tokenize"),
        ("detokenize", "/detokenize"),
        ("apply-template", "/apply-template"),
        ("infill", "/infill"),
        ("chat/completions/input_tokens", "/v1/chat/completions/input_tokens"),
    ] {
        for prefix in ["", "/engines", "/engines/llama.cpp"] {
            for version in ["", "/v1"] {
                let path = format!("{prefix}{version}/{name}");
                assert_eq!(target(&path).upstream_path, upstream_path, "{path}");
                assert_eq!(target(&clean(&format!("//{path}"))).upstream_path, upstream_path);
            }
        }
    }
}

#[test]
fn llama_servers_own_completions_are_not_taken_for_openais() {
    for prefix in ["", "/engines", "/engines/llama.cpp"] {
        for openais in ["completions", "v1/completions"] {
            let path = format!("{prefix}/{openais}");
            assert_eq!(target(&path).upstream_path, "/v1/completions", "{path}");
        }
        for own in ["completion", "embedding", "v1/completion"] {
            let path = format!("{prefix}/{own}");
            assert_eq!(endpoint(&Method::POST, &path), Endpoint::Management, "{path}");
        }
    }
}

#[test]
fn modes_follow_the_path() {
    let mode = |path| target(path).mode.name();
    assert_eq!(mode("/v1/completions"), "completion");
    assert_eq!(mode("/v1/audio/transcriptions"), "completion");
    assert_eq!(mode("/engines/v1/embeddings"), "embedding");
    assert_eq!(mode("/rerank"), "reranking");
    assert_eq!(mode("/engines/score"), "reranking");
    let modes: Vec<_> = target("/tokenize").modes().map(Mode::name).collect();
    assert_eq!(modes, ["completion", "embedding", "reranking"]);
    assert_eq!(target("/apply-template").modes().count(), 1);
    assert_eq!(target("/v1/embeddings").modes().collect::<Vec<_>>(), [Mode::Embedding]);
}

#[test]
fn only_what_the_model_works_on_takes_a_slot() {
    for path in ["/tokenize", "/detokenize", "/apply-template"] {
        assert_ne!(target(path).takes, Takes::Slot, "{path}");
        assert!(!target(path).streams());
    }
    for path in ["/v1/chat/completions", "/infill", "/v1/audio/transcriptions"] {
        assert_eq!(target(path).takes, Takes::Slot, "{path}");
        assert!(target(path).streams());
    }
    assert!(!target("/v1/embeddings").streams());
    assert_eq!(target("/score").content, Content::Scores);
    assert_eq!(target("/v1/audio/transcriptions").content, Content::Form);
}

#[test]
fn what_openai_has_and_no_engine_does_is_named() {
    for name in [
        "images/generations",
        "images/edits",
        "images/variations",
        "audio/speech",
        "audio/translations",
        "moderations",
    ] {
        for prefix in ["/v1", "", "/engines/v1", "/engines/llama.cpp/v1", "/engines"] {
            let path = format!("{prefix}/{name}");
            assert!(matches!(endpoint(&Method::POST, &path), Endpoint::NotOffered(_)), "{path}");
        }
    }
    assert_eq!(
        endpoint(&Method::POST, "/engines/vroom/v1/images/edits"),
        Endpoint::UnknownBackend("vroom")
    );
    assert_eq!(endpoint(&Method::GET, "/v1/images/edits"), Endpoint::MethodNotAllowed);
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
    for path in ["/engines/chat", "/engines/tokenize/x", "/v1", "/v1/", "/v1/v1/tokenize"] {
        assert_eq!(endpoint(&Method::POST, path), Endpoint::Management, "{path}");
    }
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

#[test]
fn other_dialects_are_known_by_their_paths() {
    for (path, foreign) in [
        ("/v1/messages", Foreign::Messages),
        ("/anthropic/v1/messages", Foreign::Messages),
        ("/engines/llama.cpp/v1/messages", Foreign::Messages),
        ("/anthropic/v1/messages/count_tokens", Foreign::CountTokens),
        ("/v1/responses", Foreign::Responses),
        ("/responses", Foreign::Responses),
        ("/engines/responses", Foreign::Responses),
        ("/engines/llama.cpp/v1/responses", Foreign::Responses),
        ("/v1/responses/input_tokens", Foreign::ResponsesTokens),
        ("/api/chat", Foreign::OllamaChat),
        ("/api/generate", Foreign::OllamaGenerate),
        ("/api/embed", Foreign::OllamaEmbed),
        ("/api/embeddings", Foreign::OllamaEmbeddings),
    ] {
        assert_eq!(target(path).content, Content::Foreign(foreign), "{path}");
    }
    let cancel = |path| matches!(endpoint(&Method::POST, path), Endpoint::CancelResponse("resp_1"));
    assert!(cancel("/v1/responses/resp_1/cancel") && cancel("/engines/responses/resp_1/cancel"));
    for path in ["/messages", "/v1/responses/resp_1", "/api/tags", "/engines/api/chat"] {
        assert_eq!(endpoint(&Method::POST, path), Endpoint::Management, "{path}");
    }
}
