use super::{local, words};
use crate::error::{Complaint, Error, Refusal};

fn refusal(code: &str, reference: Option<&str>) -> Error {
    Error::Refused(Box::new(Refusal {
        status: 404,
        code: code.to_owned(),
        kind: "invalid_request_error".to_owned(),
        message: "invalid model reference `x`".to_owned(),
        hint: Some("pull it".to_owned()),
        param: None,
        retry_after: None,
        reference: reference.map(str::to_owned),
    }))
}

#[test]
fn clients_find_the_words_that_they_look_for() {
    assert_eq!(words(&refusal("model_not_found", Some("x"))), "model 'x' not found (pull it)");
    assert_eq!(
        words(&refusal("invalid_reference", None)),
        "invalid model name: invalid model reference `x` (pull it)"
    );
    assert_eq!(words(&refusal("no_capacity", None)), "invalid model reference `x` (pull it)");
    assert_eq!(words(&Error::MissingModel), "model is required");
    let busy = "server busy, please try again.  maximum pending requests exceeded";
    assert!(words(&Error::QueueFull { limit: 3 }).starts_with(busy));
    let reason = "raw mode does not support template, system, or context".to_owned();
    let told = Error::InvalidField { param: "raw".to_owned(), reason: reason.clone() };
    assert_eq!(words(&told), reason);
    let long = Error::EngineRefused(Box::new(Complaint {
        status: 400,
        message: "600 tokens".to_owned(),
        kind: "exceed_context_size_error".to_owned(),
        ..Complaint::default()
    }));
    assert_eq!(
        words(&long),
        "the prompt is longer than the context length currently available to the model: 600 tokens"
    );
    let died = "an error was encountered while running the model";
    assert!(words(&Error::EngineDied).starts_with(died));
}

#[test]
fn models_are_local_in_whatever_case_that_is_said() {
    assert_eq!(local("m:local").unwrap(), "m");
    assert_eq!(local("m:7b:LOCAL").unwrap(), "m:7b");
    assert_eq!(local("a/m-cloud:7b").unwrap(), "a/m-cloud:7b");
}

#[test]
fn hosted_models_are_refused_as_in_lists() {
    for name in ["m:cloud", "a/m:7b-Cloud", "localhost:5000/m:cloud"] {
        let error = local(name).unwrap_err();
        assert_eq!(error.status(), 403, "{name}");
        let text = "ollama cloud is disabled: remote model is unavailable";
        assert_eq!(words(&error), text);
    }
    for name in ["m:cloud:local", "m:local:cloud"] {
        assert_eq!(local(name).unwrap_err().status(), 400, "{name}");
    }
}
