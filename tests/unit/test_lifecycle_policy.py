"""Decisions of the lifecycle: who is idle, who has to go, when, and with how much context."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_runner.config import Settings
from model_runner.engines import LaunchPlan
from model_runner.lifecycle import policy
from model_runner.lifecycle.preparation import Prepared
from model_runner.lifecycle.runner import Runner, RunnerKey, State
from model_runner.lifecycle.spellings import Spellings


def activity(
    name: str = "r",
    *,
    busy: bool = False,
    idle: float = 10.0,
    named: float = 20.0,
    used: bool = True,
) -> policy.Activity:
    return policy.Activity(name, busy=busy, idle_seconds=idle, named_seconds=named, used=used)


def test_the_victim_is_the_idle_runner_used_least_recently():
    candidates = [activity("a", idle=5), activity("b", idle=50, named=60), activity("c", idle=7)]
    assert policy.eviction_victim(candidates) == "b"


def test_busy_runners_are_no_victims():
    candidates = [activity("a", busy=True), activity("b", idle=1)]
    assert policy.eviction_victim(candidates) == "b"
    assert policy.eviction_victim([activity("a", busy=True)]) is None


def test_a_runner_whose_caller_is_on_the_way_is_no_victim():
    assert policy.eviction_victim([activity(idle=0.2, named=0.2, used=False)]) is None
    assert policy.eviction_victim([activity(idle=0.2, named=0.2)]) == "r"  # it has been used
    assert policy.eviction_victim([activity(idle=5, named=5, used=False)]) == "r"  # nobody came


@pytest.mark.parametrize(
    ("one", "keep_alive", "expected"),
    [
        (activity(idle=10), 300, 290),
        (activity(idle=301, named=400), 300, -1),
        (activity(idle=9999, named=9999), -1, None),
        (activity(busy=True, idle=0), 300, 300),
        (activity(busy=True, idle=0), 0, 0),
        (activity(idle=0.5, named=2), 0, -0.5),
    ],
)
def test_when_a_runner_expires(one, keep_alive, expected):
    assert policy.seconds_to_expiry(one, keep_alive) == expected


def test_a_keep_alive_of_zero_leaves_time_for_the_first_request():
    left = policy.seconds_to_expiry(activity(idle=0.3, named=0.3, used=False), 0)
    assert left == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("configured", "packaged", "trained", "expected"),
    [
        (100_000, 4096, "2048", 100_000),
        (None, 4096, "131072", 4096),
        (None, 65536, "131072", 65536),
        (None, 262144, "131072", 262144),
        (None, 131072, "131072", 8192),
        (None, 2048, "2048", 2048),
        (None, 32768, "nonsense", 32768),
        (8192, 65536, "131072", 8192),
        (None, None, "2048", 2048),
        (None, None, "131072", 8192),
        (None, -1, "2048", 2048),
        (None, None, "nonsense", 8192),
        (None, None, "0", 8192),
        (None, None, "9" * 5000, 8192),
        (None, 4096, "9" * 5000, 4096),
    ],
)
def test_context_for_each_slot(configured, packaged, trained, expected):
    metadata = {"general.architecture": "llama", "llama.context_length": trained}
    assert policy.context_size(configured, packaged, metadata) == expected


def test_context_of_a_model_that_says_nothing():
    assert policy.context_size(None, None, {}) == 8192


def test_pooling_is_read_for_the_models_architecture():
    assert policy.has_own_pooling({"general.architecture": "bert", "bert.pooling_type": "1"})
    assert not policy.has_own_pooling({"general.architecture": "llama", "bert.pooling_type": "1"})


def runner() -> Runner:
    prepared = Prepared(
        runner_id="id",
        plan=LaunchPlan([], {}),
        socket_path=Path("/run/id.sock"),
        api_key="key",
        context_size=512,
        context_limit=4096,
        capabilities=("completion",),
    )
    return Runner(
        RunnerKey("sha256:0", "completion"), prepared, model="m", tags=(), keep_alive=300.0
    )


@pytest.mark.parametrize(
    "life",
    [
        [State.READY, State.RETIRING, State.STOPPED],
        [State.READY, State.FAILED],
        [State.FAILED],
        [State.STOPPED],
    ],
)
def test_the_lives_a_runner_can_have(life):
    one = runner()
    for state in life:
        one.move(state)
    assert one.state is life[-1]


@pytest.mark.parametrize("life", [[State.RETIRING], [State.READY, State.STOPPED]])
def test_the_lives_a_runner_cannot_have(life):
    one = runner()
    for state in life[:-1]:
        one.move(state)
    with pytest.raises(RuntimeError, match="cannot go from"):
        one.move(life[-1])


def test_a_spelling_means_one_model():
    spellings = Spellings()
    assert spellings.learn("a", "x")
    assert not spellings.learn("a", "x")
    assert spellings.learn("b", "x")
    assert spellings.learned("a") == ()
    assert spellings.learned("b") == ("x",)


def test_learned_spellings_are_bounded():
    spellings = Spellings()
    for number in range(100):
        spellings.learn("a", f"x{number}")
    assert len(spellings.learned("a")) == 64
    assert "x99" in spellings.learned("a")
    assert "x0" not in spellings.learned("a")


@pytest.mark.parametrize(("cores", "expected"), [(None, 2), (1, 2), (4, 4), (64, 8)])
def test_how_many_runners_there_may_be(monkeypatch, cores, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert Settings().max_runners == expected


@pytest.mark.parametrize(
    ("header", "does", "suited"),
    [
        ({}, "completion", {"completion", "embedding"}),
        ({"pooling_type": "0"}, "completion", {"completion", "embedding"}),
        ({"pooling_type": "3"}, "embedding", {"completion", "embedding"}),
        ({"pooling_type": "4"}, "reranking", {"completion", "reranking"}),
        ({"pooling_type": "1", "attention.causal": "false"}, "embedding", {"embedding"}),
        ({"pooling_type": "4", "attention.causal": "false"}, "reranking", {"reranking"}),
        ({"attention.causal": "false"}, None, {"completion", "embedding", "reranking"}),
    ],
)
def test_what_a_model_is_suited_for_stands_in_its_header(header, does, suited):
    metadata = {"general.architecture": "x", **{f"x.{key}": text for key, text in header.items()}}
    for mode in ("completion", "embedding", "reranking"):
        assert policy.what_else(metadata, mode) == (None if mode in suited else does)
