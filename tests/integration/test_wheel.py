"""What a user installs: the wheel in an empty environment, its own engine, a real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import base_environment, chat_body, events, run_cli, running_server

ROOT = Path(__file__).parents[2]
MODEL = "demo/gemma3-270m"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The `model-runner` of an environment that holds nothing but the wheel and what it needs."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if not wheels:
        pytest.skip("no wheel: make wheel")
    directory = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
    pip = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{wheels[-1]}[embedded]"], check=True)
    return directory / "bin" / "model-runner"


@pytest.fixture(scope="module")
def demo_store():
    """The store with the demo model that `make run` uses, kept between test runs: it is 253 MB."""
    store = ROOT / ".cache" / "demo-models"
    store.parent.mkdir(exist_ok=True)
    script = ROOT / "scripts" / "demo_model.py"
    environment = {**os.environ, "MODELS_PATH": str(store)}
    subprocess.run([sys.executable, str(script)], env=environment, check=True)
    return store


@pytest.mark.timeout(600)
def test_the_wheel_serves_a_real_model(tmp_path, installed, demo_store):
    environment = {"MODELS_PATH": str(demo_store), "LLAMA_SERVER_PATH": "", "PATH": "/nonexistent"}
    with running_server(tmp_path, command=(str(installed),), **environment) as server:
        whole = server.chat(MODEL, max_tokens=12).json()
        assert whole["model"] == MODEL
        assert whole["usage"]["completion_tokens"] == 12
        said = whole["choices"][0]["message"]["content"]
        assert said.strip()

        connection = server.connect()
        body = json.dumps(chat_body(MODEL, max_tokens=12, stream=True))
        connection.request("POST", "/engines/llama.cpp/v1/chat/completions", body)
        streamed = events(connection.getresponse().read())
        connection.close()
        assert streamed[-1] == "[DONE]"
        pieces = [
            json.loads(event)["choices"][0]["delta"].get("content") for event in streamed[:-1]
        ]
        assert "".join(piece or "" for piece in pieces) == said

        def command(*arguments):
            environment = {**server.environment, "MODEL_RUNNER_HOST": server.url}
            return run_cli(*arguments, environment=environment, command=(str(installed),))

        assert command("run", "--max-tokens", "8", MODEL, "The sky is").stdout.strip()
        assert "270m" in command("list").stdout
        assert "270m" in command("ps").stdout
        assert command("status").returncode == 0
        assert command("version").returncode == 0
        assert command("rm", "ai/absent").returncode == 4


def test_the_wheel_without_an_engine_says_how_to_get_one(tmp_path, installed):
    missing = {"LLAMA_SERVER_PATH": str(tmp_path / "nowhere")}
    with running_server(tmp_path, command=(str(installed),), **missing) as server:
        status = server.request("/engines/status").json()["llama.cpp"]
        assert status.startswith(("Not Installed", "Error"))


def test_the_command_line_starts_without_the_server_behind_it(tmp_path, installed):
    environment = {**base_environment(tmp_path), "MODEL_RUNNER_HOST": "127.0.0.1:1"}
    refused = run_cli("list", environment=environment, command=(str(installed),))
    assert refused.returncode == 3
    assert "model-runner serve" in refused.stderr
