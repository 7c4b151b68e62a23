"""What a model's package sets, as the real engines understand it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from model_runner.engines import discover
from model_runner.packaging import Extras, package_gguf
from model_runner.store import Store
from model_runner.store.modelfile import Modelfile
from support.lifecycles import Config, MemoryStore, run, scene
from support.server import running_server
from support.tiny_gguf import SCRIPT, tiny_random, tiny_script
from support.unix_http import ask

_LLAMA = {"general.architecture": "llama", "llama.context_length": "4096"}
_SAMPLING = {
    "temperature": 0.25,
    "top_k": 7,
    "top_p": 0.5,
    "min_p": 0.125,
    "typical_p": 0.75,
    "repeat_last_n": 33,
    "repeat_penalty": 1.5,
    "presence_penalty": 0.25,
    "frequency_penalty": 0.5,
    "seed": 42,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    tiny_script(directory / "script.gguf")
    tiny_random(directory / "random.gguf")
    return directory


def made(models: Path, weights: str, **parameters: object) -> MemoryStore:
    store = MemoryStore()
    config = Config(gguf=_LLAMA, modelfile=Modelfile(parameters=parameters))
    store.add("docker.io/ai/made:latest", models / f"{weights}.gguf", config)
    return store


def answers(
    tmp_path: Path, store: MemoryStore, engine: dict[str, Any], *asked: tuple[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """What the engine of the only model answers, one after the other."""
    found: list[dict[str, Any]] = []

    async def main() -> None:
        async with scene(tmp_path, store, discover, context_size=None, **engine) as stage:
            await stage.use("ai/made")
            (runner,) = stage.scheduler.runners()
            for path, body in asked:
                status, answer = await asyncio.to_thread(
                    ask, runner.socket_path, path, body or None, key=runner.api_key
                )
                assert status == 200, answer
                found.append(answer)

    run(main())
    return found


def chat(**options: object) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "hello"}]
    return "/v1/chat/completions", {"messages": messages, "temperature": 0, **options}


def text(answer: dict[str, Any]) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


def test_sampling_is_the_engines_default(tmp_path, models, engine):
    store = made(models, "script", **_SAMPLING, num_ctx=1000, num_thread=1, num_gpu=0)
    (properties,) = answers(tmp_path, store, engine, ("/props", {}))
    settings = properties["default_generation_settings"]
    assert {name: settings["params"][name] for name in _SAMPLING} == _SAMPLING
    assert 1000 <= settings["n_ctx"] < 1000 + 256  # which llama.cpp rounds up


def test_a_limit_holds_until_a_request_has_its_own(tmp_path, models, engine):
    store = made(models, "random", num_predict=5)
    usual, longer = answers(tmp_path, store, engine, chat(), chat(max_tokens=9))
    assert usual["usage"]["completion_tokens"] == 5
    assert usual["choices"][0]["finish_reason"] == "length"
    assert longer["usage"]["completion_tokens"] == 9


def test_a_seed_makes_answers_the_same(tmp_path, models, engine):
    store = made(models, "random", seed=7, temperature=1.5)
    hot = chat(max_tokens=12, temperature=1.5)
    first, second, other = answers(
        tmp_path, store, engine, hot, hot, chat(max_tokens=12, temperature=1.5, seed=8)
    )
    assert text(first) == text(second) != text(other)


def test_stops_end_texts_until_a_request_names_others(tmp_path, models, engine):
    store = made(models, "script", stop=["--nothing", "tiny test", "a\\nb"])
    usual, own = answers(tmp_path, store, engine, chat(), chat(stop=["Every"]))
    assert text(usual).strip() == SCRIPT.partition(" tiny test")[0]
    assert text(own).strip() == SCRIPT.partition(" Every")[0]


def test_a_file_is_not_mapped_if_the_modelfile_says_so(tmp_path, models, engine):
    store = made(models, "script", use_mmap=False)

    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            await stage.use("ai/made")
            (runner,) = stage.scheduler.runners()
            maps = await asyncio.to_thread(Path(f"/proc/{runner.pid}/maps").read_text)
            assert "script.gguf" not in maps

    run(main())


def test_what_makes_no_sense_is_left_out(tmp_path, models, engine, caplog):
    caplog.set_level(logging.INFO)
    store = made(
        models, "script", temperature="hot", top_p=7, top_k=True, seed=-1, num_predict=-1, wings=2
    )
    (answer,) = answers(tmp_path, store, engine, chat())
    assert text(answer).strip() == SCRIPT.strip()
    assert "`temperature` is left out: it is 'hot'" in caplog.text
    assert "`top_p`" in caplog.text
    assert "mean nothing here: wings" in caplog.text
    assert "`seed`" not in caplog.text  # negative: at random, as usual


def test_a_whole_answer_has_what_was_withheld_for_a_stop_of_the_models_own(
    tmp_path, engine_environment
):
    store = Store.open(tmp_path / "models")
    record = json.dumps({"parameters": {"stop": ["a tiny test model speaking"]}})
    extras = Extras(annotations={"dev.model-runner.modelfile": record})
    package_gguf(store, tiny_script(tmp_path / "script.gguf"), "ai/made", extras)
    with running_server(tmp_path, **engine_environment) as server:
        for _ in ("cold", "warm"):
            body = chat(max_tokens=8)[1]
            answer = server.chat("ai/made", **body).json()
            assert text(answer).split() == SCRIPT.split()[:8]
        stopped = server.chat("ai/made", **{**body, "max_tokens": 40}).json()
        assert text(stopped).strip() == SCRIPT.partition(" a tiny")[0]
