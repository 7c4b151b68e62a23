"""The relays made for language models that PyPI has: vllm-router, sglang-router, litellm."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cache import Package
from processes import free_port, running, wait_for_listener
from targets import CHAT, Target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from targets import Engine

VLLM_ROUTER = Package("vllm-router", "0.1.17")
SGLANG_ROUTER = Package("sglang-router", "0.3.2")
LITELLM = Package("litellm", "1.102.4", "[proxy]")

# litellm imports for 6 to 9 s.
SLOW_START_SECONDS = 60.0


def _environment(directory: Path) -> dict[str, str]:
    # They are others' programs: none of this user's keys, tokens and settings.
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "LANG": "C.UTF-8"}


@contextmanager
def vllm_router(engine: Engine) -> Iterator[Target]:
    """vllm-project/router with its defaults and one worker, over TCP: it knows no Unix sockets."""
    with _router(engine, VLLM_ROUTER, [VLLM_ROUTER.program("vllm-router")]) as target:
        yield target


@contextmanager
def sglang_router(engine: Engine) -> Iterator[Target]:
    """SGLang's model gateway, likewise."""
    argv: list[str | Path] = [SGLANG_ROUTER.program("sglang-router"), "launch"]
    with _router(engine, SGLANG_ROUTER, argv) as target:
        yield target


@contextmanager
def _router(engine: Engine, package: Package, argv: list[str | Path]) -> Iterator[Target]:
    port = free_port()
    argv = [*argv, "--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    argv += ["--worker-urls", engine.address, "--policy", "round_robin"]
    argv += ["--prometheus-port", str(free_port())]
    log = engine.directory / f"{package.name}-{port}.log"
    with running(argv, environment=_environment(engine.directory), log=log) as process:
        wait_for_listener(process, port, SLOW_START_SECONDS, log)
        # They parse requests, and want one for embeddings to be one.
        yield Target(package.name, f"http://127.0.0.1:{port}", process.pid, whole_path=CHAT)


@contextmanager
def litellm(engine: Engine) -> Iterator[Target]:
    """litellm's proxy with one worker and one model."""
    port = free_port()
    # Without a key it does not start, and it judges a key's strength.
    key = f"sk-{secrets.token_hex(24)}"
    model = {"model": "openai/bench", "api_base": f"{engine.address}/v1", "api_key": "none"}
    config = engine.directory / f"litellm-{port}.yaml"
    # JSON is YAML.
    config.write_text(
        json.dumps({"model_list": [{"model_name": "bench", "litellm_params": model}]})
    )
    environment = _environment(engine.directory) | {
        "LITELLM_MASTER_KEY": key,
        # Or it asks the network for a list of prices when it starts.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    argv: list[str | Path] = [LITELLM.program("litellm"), "--config", config, "--num_workers", "1"]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    log = engine.directory / f"litellm-{port}.log"
    with running(argv, environment=environment, log=log) as process:
        wait_for_listener(process, port, SLOW_START_SECONDS, log)
        yield Target(
            "litellm",
            f"http://127.0.0.1:{port}",
            process.pid,
            whole_path=CHAT,
            api_key=key,
            remade=True,
            # At 15 ms a request and 1 ms an event it could not carry more.
            share=1 / 16,
        )
