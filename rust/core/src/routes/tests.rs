use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Capabilities, LeaseError, Route, Routes, Runner};
use crate::endpoint::Mode;

fn route(id: &str, names: &[&str]) -> Route {
    Route {
        runner_id: id.to_owned(),
        socket: "/nowhere.sock".into(),
        api_key: "secret".to_owned(),
        slots: 1,
        context_size: 4096,
        context_limit: 8192,
        has_stops: false,
        capabilities: Capabilities::from_names(["completion"]).expect("known"),
        backend: "llama.cpp".to_owned(),
        model: "ai/x".to_owned(),
        model_id: "sha256:00".to_owned(),
        mode: Mode::Completion,
        names: names.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn only(routes: &Routes, name: &str) -> Arc<Runner> {
    routes.find(name, Mode::Completion).expect("published")
}

#[test]
fn a_name_leads_to_its_runner_in_its_mode_only() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["ai/x", "x"])]);
    assert_eq!(only(&routes, "x").id, "1");
    assert!(routes.find("x", Mode::Embedding).is_none());
    assert!(routes.find("y", Mode::Completion).is_none());
}

#[test]
fn publishing_again_keeps_leases_and_counts() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let lease = now(only(&routes, "x").lease(1, 1)).unwrap().unwrap();
    routes.publish(&[route("1", &["x", "y"]), route("2", &["z"])]);
    assert_eq!(only(&routes, "y").leases(), 1);
    drop(lease);
    assert_eq!(only(&routes, "y").leases(), 0);
}

#[test]
fn a_runner_has_the_context_that_its_model_can_have() {
    let routes = Routes::new(1);
    let small = Route { context_size: 512, context_limit: 2048, ..route("1", &["small"]) };
    let whole = Route { context_size: 2048, context_limit: 2048, ..route("2", &["whole"]) };
    routes.publish(&[small, whole]);
    assert!(only(&routes, "small").has_context(512));
    assert!(!only(&routes, "small").has_context(513));
    // More than the model was trained for is asked for in vain: no reason to load it anew.
    assert!(only(&routes, "whole").has_context(u32::MAX));
}

#[test]
fn a_runner_can_do_what_its_route_says() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    assert!(only(&routes, "x").capabilities.completion());
    assert!(!only(&routes, "x").capabilities.vision());
}

#[test]
fn a_runner_takes_as_many_requests_as_it_has_slots_and_queues_the_rest_in_order() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let runner = only(&routes, "x");
    let first = now(runner.lease(1, 1)).unwrap().unwrap();
    {
        let mut second = pin!(runner.lease(1, 1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert_eq!(runner.snapshot().queued, 1);
        assert_eq!(now(runner.lease(1, 1)).unwrap().unwrap_err(), LeaseError::QueueFull);
        drop(first);
        assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    }
    assert_eq!(runner.snapshot().queued, 0);
    assert_eq!(runner.leases(), 0);
}

#[test]
fn a_client_that_leaves_the_queue_gives_its_place_back() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let runner = only(&routes, "x");
    let held = now(runner.lease(1, 1)).unwrap().unwrap();
    assert!(now(runner.lease(1, 1)).is_none());
    assert_eq!(runner.snapshot().queued, 0);
    drop(held);
    assert!(now(runner.lease(1, 1)).unwrap().is_ok());
}

#[test]
fn retiring_sends_the_queue_away_and_counts_down_the_leases() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let runner = only(&routes, "x");
    let lease = now(runner.lease(1, 9)).unwrap().unwrap();
    let mut waiting = pin!(runner.lease(1, 9));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(routes.retire("1"), 1);
    assert_eq!(now(waiting).unwrap().unwrap_err(), LeaseError::Retired);
    assert!(routes.find("x", Mode::Completion).is_none());
    drop(lease);
    assert_eq!(routes.retire("1"), 0);
    assert!(routes.runners().is_empty());
    assert_eq!(routes.models().len(), 1, "totals are never forgotten");
}

#[test]
fn a_runner_that_is_not_published_again_is_retired() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let runner = only(&routes, "x");
    routes.publish(&[]);
    assert_eq!(now(runner.lease(1, 1)).unwrap().unwrap_err(), LeaseError::Retired);
    routes.publish(&[route("1", &["x"])]);
    assert_eq!(only(&routes, "x").leases(), 0, "a new runner under the old name");
}

#[test]
fn totals_are_shared_by_successive_runners_of_a_model() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let first = Arc::clone(&only(&routes, "x").totals);
    routes.publish(&[]);
    routes.publish(&[route("2", &["x"])]);
    assert!(Arc::ptr_eq(&first, &only(&routes, "x").totals));
}

#[test]
fn what_takes_no_slot_does_not_wait_for_one() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let runner = only(&routes, "x");
    let generation = now(runner.lease(1, 0)).unwrap().unwrap();
    let asides: Vec<_> = (0..super::ASIDES).map(|_| runner.lease_now(0).unwrap()).collect();
    assert_eq!(runner.leases(), super::ASIDES + 1);
    assert!(runner.lease_now(0).is_none(), "they are bounded");
    let mut waiting = pin!(runner.lease(0, 1));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    drop(asides);
    assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    assert!(runner.lease_now(1).is_none(), "they give no slot back");
    drop(generation);
    assert!(runner.lease_now(1).is_some());
}

#[test]
fn who_waits_without_a_slot_is_told_of_the_end_too() {
    let routes = Routes::new(1);
    routes.publish(&[route("1", &["x"])]);
    let runner = only(&routes, "x");
    let _asides: Vec<_> = (0..super::ASIDES).map(|_| runner.lease_now(0).unwrap()).collect();
    let mut waiting = pin!(runner.lease(0, 1));
    let mut context = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    routes.retire("1");
    assert!(matches!(waiting.as_mut().poll(&mut context), Poll::Ready(Err(LeaseError::Retired))));
}
