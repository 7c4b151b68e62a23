"""Logs of engines: their bounds, their tails, and the reasons in them."""

from __future__ import annotations

import os

import pytest

from model_runner.lifecycle.log import EngineLog, prune, reason_in

_TRUNCATED_JSON = r"""
{"type":"log","time":4646,"level":"info","msg":"srv    load_model: loading model 'cut.gguf'\n"}
{"type":"log","time":5035,"level":"error","msg":"llama_model_load: error loading model: tensor 'x' data is not within the file bounds, model is corrupted or incomplete\n"}
{"type":"log","time":5048,"level":"error","msg":"llama_model_load_from_file_impl: failed to load model\n"}
{"type":"log","time":5050,"level":"error","msg":"srv    load_model: failed to load model, '/home/me/cut.gguf'\n"}
{"type":"log","time":5403,"level":"error","msg":"srv  llama_server: exiting due to model loading error\n"}
"""  # noqa: E501 - as the engine prints it
_TRUNCATED_PLAIN = """
0.00.005.413 I srv    load_model: loading model 'cut.gguf'
0.00.006.119 E llama_model_load: error loading model: tensor 'x' data is not within the file bounds, model is corrupted or incomplete
0.00.006.124 E llama_model_load_from_file_impl: failed to load model
0.00.006.471 E srv          init: exiting due to model loading error
error: the model was not loaded: Failed to init server, please check the input params.
"""  # noqa: E501 - as the engine prints it


@pytest.mark.parametrize("text", [_TRUNCATED_JSON, _TRUNCATED_PLAIN])
def test_the_reason_is_the_error_that_says_more_than_failed(text):
    assert reason_in(text.splitlines()) == (
        "error loading model: tensor 'x' data is not within the file bounds, "
        "model is corrupted or incomplete"
    )


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], ""),
        (["starting", "killed by a bug"], "killed by a bug"),
        (["error: invalid argument: --nope", "usage"], "error: invalid argument: --nope"),
        (["/src/ggml.c:42: GGML_ASSERT(x) failed", "[New LWP 7]"], "GGML_ASSERT(x) failed"),
        (
            ["0.00.001.000 E srv start: couldn't bind socket, hostname: /run/me/a.sock"],
            "couldn't bind socket, hostname: a.sock",
        ),
        (['{"type":"log","time":1,"lev'], '{"type":"log","time":1,"lev'),
        (["0.00.001.000 E srv init: exiting due to model loading error"], None),
    ],
)
def test_reasons_of_other_failures(lines, reason):
    found = reason_in(lines)
    if reason is None:
        assert "exiting due to model loading error" in found
    else:
        assert reason in found
    assert "/run/me" not in found


def test_the_last_error_is_near_the_end_and_an_error(tmp_path):
    log = EngineLog(tmp_path / "x.log")
    failed = "GGML_ASSERT(n > 0) failed\n"
    chatter = "0.00.001.000 I graphs reused = 3233\n"
    log.path.write_text(failed + 30 * "#1 in a backtrace\n")
    assert log.last_error() == failed.strip()
    log.path.write_text(failed + 100 * chatter)
    assert log.last_error() == ""


def test_the_tail_has_whole_lines_and_a_bound(tmp_path):
    log = EngineLog(tmp_path / "x.log")
    assert log.tail() == []
    log.path.write_text("".join(f"line {number}\n" for number in range(1000)))
    tail = log.tail(limit=100)
    assert tail[-1] == "line 999"
    assert all(line.startswith("line ") for line in tail)
    assert sum(len(line) + 1 for line in tail) <= 100


def test_a_log_that_is_cut_goes_on_behind_its_tail(tmp_path):
    log = EngineLog(tmp_path / "x.log")
    log.create()
    engine = log.open()
    try:
        for number in range(1000):
            os.write(engine, f"line {number}\n".encode())
        log.bound(limit=4000)
        os.write(engine, b"after\n")
    finally:
        os.close(engine)
    lines = log.path.read_text().splitlines()
    assert log.size() < 4000
    assert lines[-2:] == ["line 999", "after"]
    assert all(line.startswith("line ") for line in lines[:-1])


def test_a_log_is_private(tmp_path):
    log = EngineLog(tmp_path / "x.log")
    log.create()
    assert log.path.stat().st_mode & 0o077 == 0


def test_the_newest_logs_and_those_in_use_are_kept(tmp_path):
    paths = [tmp_path / f"2026-{number:02}.log" for number in range(10)]
    for path in paths:
        path.touch()
    prune(tmp_path, in_use={paths[0]}, keep=3)
    assert sorted(tmp_path.iterdir()) == [paths[0], *paths[7:]]
