"""Both real engines, llama-server and the embedded one, under the scheduler."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from model_runner.engines import discover
from model_runner.errors import EngineFailed, EngineNotInstalled
from support.lifecycles import Config, MemoryStore, run, scene, wait_gone
from support.tiny_gguf import SCRIPT, tiny_embed, tiny_random, tiny_rerank, tiny_script
from support.unix_http import ask

if TYPE_CHECKING:
    from support.lifecycles import Scene

_BERT = Config(gguf={"general.architecture": "bert", "bert.pooling_type": "1"})
_RANKER = Config(gguf={"general.architecture": "bert", "bert.pooling_type": "4"})


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    tiny_script(directory / "script.gguf")
    tiny_embed(directory / "embed.gguf")
    tiny_rerank(directory / "rerank.gguf")
    tiny_random(directory / "sharded.gguf", shards=3)
    whole = (directory / "script.gguf").read_bytes()
    (directory / "cut.gguf").write_bytes(whole[: len(whole) * 3 // 5])
    return directory


@pytest.fixture
def store(models) -> MemoryStore:
    store = MemoryStore(script=models / "script.gguf", cut=models / "cut.gguf")
    store.add("docker.io/ai/embed:latest", models / "embed.gguf", _BERT)
    store.add("docker.io/ai/rerank:latest", models / "rerank.gguf", _RANKER)
    store.add("docker.io/ai/sharded:latest", next(models.glob("sharded-00001-of-*.gguf")))
    return store


def test_a_model_answers_under_its_name_with_its_key(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            answer = await _post(stage, "ai/script", "completion", "/v1/chat/completions", _CHAT)
            assert answer["choices"][0]["message"]["content"].strip() == SCRIPT.strip()
            assert answer["model"] == "ai/script"
            (info,) = stage.scheduler.runners()
            status, _ = await asyncio.to_thread(
                ask, info.socket_path, "/v1/chat/completions", _CHAT
            )
            assert status == 401

    run(main())


def test_a_model_in_shards_answers(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            answer = await _post(stage, "ai/sharded", "completion", "/v1/completions", _TEXT)
            assert answer["usage"]["completion_tokens"] == 4

    run(main())


def test_embeddings_of_an_encoder_and_of_a_generative_model(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            for model in ("ai/embed", "ai/script"):
                question = {"input": ["hello", "world"], "model": model}
                answer = await _post(stage, model, "embedding", "/v1/embeddings", question)
                vectors = [item["embedding"] for item in answer["data"]]
                assert len(vectors) == 2
                assert len(vectors[0]) == len(vectors[1]) > 1

    run(main())


def test_reranking(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            question = {"query": "hello", "documents": ["hello", "world"], "model": "m"}
            answer = await _post(stage, "ai/rerank", "reranking", "/v1/rerank", question)
            assert sorted(item["index"] for item in answer["results"]) == [0, 1]

    run(main())


def test_slots_and_context_are_what_was_asked_for(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, slots=3, **engine) as stage:
            await stage.use("ai/script")
            (info,) = stage.scheduler.runners()
            _, props = await asyncio.to_thread(ask, info.socket_path, "/props", key=info.api_key)
            assert props["total_slots"] == 3
            assert props["default_generation_settings"]["n_ctx"] == 512

    run(main())


def test_the_engine_says_why_it_cannot_load_a_truncated_model(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            with pytest.raises(EngineFailed, match="corrupted or incomplete") as failure:
                await stage.scheduler.lease("ai/cut", "completion")
            assert "llama.cpp could not load `ai/cut`" in str(failure.value)
            assert "data is not within the file bounds" in str(failure.value)
            assert str(tmp_path) not in str(failure.value)
            assert stage.scheduler.runners() == []

    run(main())


def test_a_killed_engine_is_replaced(tmp_path, store, engine):
    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            first = await stage.use("ai/script")
            os.kill(stage.pid(first), signal.SIGKILL)
            await stage.plane.until(lambda: not stage.plane.is_routed(first))
            answer = await _post(stage, "ai/script", "completion", "/v1/completions", _TEXT)
            assert answer["usage"]["completion_tokens"] == 4

    run(main())


def test_nothing_of_the_user_reaches_the_engine(tmp_path, store, engine, monkeypatch):
    config = tmp_path / "config" / "llama.cpp" / "config.ini"
    config.parent.mkdir(parents=True)
    config.write_text("[*]\nctx-size = 4096\nalias = stray\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LLAMA_ARG_N_PARALLEL", "7")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    async def main() -> None:
        async with scene(tmp_path, store, discover, **engine) as stage:
            await stage.use("ai/script")
            (info,) = stage.scheduler.runners()
            _, props = await asyncio.to_thread(ask, info.socket_path, "/props", key=info.api_key)
            assert props["default_generation_settings"]["n_ctx"] == 512
            assert props["total_slots"] == 2
            assert props["model_alias"] == "ai/script"
            process = Path("/proc") / str(info.pid)
            environment = (process / "environ").read_bytes().decode()
            assert "secret" not in environment
            assert "LLAMA_ARG" not in environment
            assert "CUDA_VISIBLE_DEVICES" in environment
            assert info.api_key in environment
            assert info.api_key not in (process / "cmdline").read_bytes().decode()
            assert info.socket_path.stat().st_mode & 0o077 == 0 or (
                info.socket_path.parent.stat().st_mode & 0o077 == 0
            )

    run(main())


def test_status_names_the_build(tmp_path, engine):
    from support.lifecycles import settings

    status = str(discover(settings(tmp_path, **engine)).status())
    assert status.startswith("Running: llama.cpp ")


@pytest.mark.parametrize("kind", ["missing", "empty directory", "something else"])
def test_a_wrong_path_is_named_and_nothing_else_is_run(tmp_path, store, kind):
    wrong = {
        "missing": tmp_path / "nowhere",
        "empty directory": tmp_path,
        "something else": Path("/bin/true"),
    }[kind]

    async def main() -> None:
        async with scene(tmp_path, store, discover, llama_server_path=wrong) as stage:
            with pytest.raises(EngineNotInstalled) as failure:
                await stage.scheduler.lease("ai/script", "completion")
            assert str(wrong) in str(failure.value)
            assert "LLAMA_SERVER_PATH" in str(failure.value)
            assert "model-runner[embedded]" in str(failure.value)
            assert str(stage.engine.status()).startswith("Error: ")

    run(main())


_KILLED_SERVER = """
import asyncio, sys
from pathlib import Path
from support.lifecycles import MemoryStore, scene
from model_runner.engines import discover

async def main(directory, model):
    async with scene(directory, MemoryStore(script=model), discover) as stage:
        runner_id = await stage.use("ai/script")
        print(stage.pid(runner_id), flush=True)
        await asyncio.Event().wait()

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_no_engine_survives_a_killed_server(tmp_path, models, engine):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "LLAMA_SERVER_PATH": str(engine["llama_server_path"] or ""),
    }
    if not engine["llama_server_path"]:
        del environment["LLAMA_SERVER_PATH"]
    command = [sys.executable, "-c", _KILLED_SERVER, str(tmp_path), str(models / "script.gguf")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        try:
            pidfd = os.pidfd_open(int(line))
        finally:
            server.kill()
    assert wait_gone(pidfd)


_CHAT = {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}
_TEXT = {"model": "m", "prompt": "hello", "max_tokens": 4}


async def _post(
    stage: Scene, model: str, mode: str, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    """Ask the runner of a model directly."""
    runner_id = await stage.use(model, mode)
    runner = next(info for info in stage.scheduler.runners() if info.runner_id == runner_id)
    status, answer = await asyncio.to_thread(
        ask, runner.socket_path, path, body, key=runner.api_key
    )
    assert status == 200, answer
    return answer
