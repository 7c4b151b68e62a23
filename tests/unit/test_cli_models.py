"""pull, list and rm against a real HTTP server."""

import json
import os
import sys

import pytest
from click.testing import CliRunner

from model_runner.cli import main, models
from support.scripted_server import ID, MODELS, OTHER_ID, scripted_server
from support.terminal import Terminal


@pytest.fixture(name="config")
def _config(monkeypatch, tmp_path):
    """A configuration file that says nothing."""
    path = tmp_path / "config.toml"
    path.touch()
    monkeypatch.setenv("MODEL_RUNNER_CONFIG", str(path))
    return path


@pytest.fixture(name="server")
def _server(monkeypatch, config):
    monkeypatch.delenv("DEFAULT_REGISTRY", raising=False)
    with scripted_server() as server:
        monkeypatch.setenv("MODEL_RUNNER_HOST", server.address)
        yield server


def invoke(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", ["list", "ls"])
def test_list_has_one_row_for_each_tag(server, monkeypatch, command):
    monkeypatch.setattr(models.time, "time", lambda: 1742816981 + 21 * 86400)
    result = invoke(command)
    assert result.exit_code == 0
    assert result.stdout == (
        "MODEL NAME           PARAMETERS  QUANTIZATION    ARCHITECTURE  MODEL ID      "
        "CREATED      CONTEXT  SIZE\n"
        "example.com/tiny:v1  361.82 M    IQ2_XXS/Q4_K_M  llama         354bf30d0aa3  "
        "3 weeks ago  8192     256.35 MiB\n"
        "smollm2              361.82 M    IQ2_XXS/Q4_K_M  llama         354bf30d0aa3  "
        "3 weeks ago  8192     256.35 MiB\n"
        "<none>                                                         00ff00ff00ff  "
        "             2048\n"
    )


def test_list_of_a_model_whose_context_is_no_sensible_number(server):
    gguf = {"general.architecture": "llama", "llama.context_length": "9" * 5000}
    server.models = [{"id": ID, "tags": ["ai/x"], "config": {"gguf": gguf}}]
    result = invoke("list")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    assert "999" not in result.stdout


def test_list_as_json_is_what_the_server_said(server):
    result = invoke("list", "--json")
    assert json.loads(result.stdout) == MODELS
    assert result.stdout.startswith("[\n  {\n")


def test_list_quiet_is_one_short_id_for_each_model(server):
    assert invoke("list", "-q").stdout == "354bf30d0aa3\n00ff00ff00ff\n"


def test_list_of_an_empty_store_is_the_header_alone(server):
    server.models = []
    assert invoke("list").stdout.splitlines()[0].startswith("MODEL NAME  PARAMETERS")
    assert invoke("list", "--json").stdout == "[]\n"
    assert invoke("list", "-q").stdout == ""


def test_pull_into_a_pipe_is_a_few_lines(server):
    result = invoke("pull", "ai/smollm2")
    assert result.exit_code == 0
    assert result.stdout == (
        "Pulling ai/smollm2\n3f2a1b0c3f2a: 3.1 MB downloaded\nModel pulled successfully\n"
    )


def test_quiet_pull_prints_the_full_name(server):
    assert invoke("pull", "--quiet", "smollm2").stdout == "docker.io/ai/smollm2:latest\n"


@pytest.mark.parametrize("by", ["file", "variable"])
def test_default_registry_is_the_one_of_the_settings(server, config, monkeypatch, by):
    if by == "file":
        config.write_text('default_registry = "example.com"')
    else:
        monkeypatch.setenv("DEFAULT_REGISTRY", "'example.com'")
    assert invoke("pull", "-q", "smollm2").stdout == "example.com/ai/smollm2:latest\n"
    names = [line.split()[0] for line in invoke("list").stdout.splitlines()[1:]]
    # `tiny:v1` would be example.com/ai/tiny:v1.
    assert names == ["docker.io/ai/smollm2", "example.com/tiny:v1", "<none>"]


def test_pull_on_a_terminal_draws_a_bar_for_each_layer(server):
    argv = [sys.executable, "-m", "model_runner.cli", "pull", "ai/smollm2"]
    with Terminal(argv, {**os.environ, "TERM": "xterm-256color"}) as terminal:
        assert terminal.wait() == 0
    lines = terminal.shown.splitlines()
    assert lines[0] == "Pulling ai/smollm2"
    assert lines[-2].startswith("3f2a1b0c3f2a  Pull complete  ━━━━━")
    assert lines[-2].rstrip().endswith("3.1 MB")
    assert lines[-1] == "Model pulled successfully"


@pytest.mark.parametrize("reference", ["ai/smollm2", "hf.co/org/model", "huggingface.co/org/m:Q8"])
def test_no_token_of_the_user_leaves_for_the_server(server, monkeypatch, reference):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    invoke("pull", reference)
    assert server.bodies("/models/create") == [{"from": reference}]
    assert "hf_secret" not in str(server.requests)


@pytest.mark.parametrize(
    ("model", "error", "exit_code"),
    [
        ("ai/missing", "Error: Model not found\n", 4),
        ("ai/private", "Error: Unauthorized\n", 6),
        ("ai/broken", "Error: digest mismatch in sha256:3f2a\n", 1),
    ],
)
def test_failed_pull_says_why_on_stderr(server, model, error, exit_code):
    result = invoke("pull", model)
    assert (result.stderr, result.exit_code) == (error, exit_code)
    assert "Model pulled" not in result.stdout


def test_cut_pull_is_not_taken_for_a_success(server):
    result = invoke("pull", "ai/cut")
    assert result.exit_code == 1
    assert "Error: the stream ended early\nhint: " in result.stderr


def test_rm_prints_what_was_untagged_and_deleted(server):
    result = invoke("rm", "ai/smollm2")
    assert result.stdout == f"Untagged: docker.io/ai/smollm2:latest\nDeleted: {ID}\n"
    assert result.exit_code == 0


def test_rm_goes_on_after_a_failure_and_exits_with_the_first_one(server):
    result = invoke("rm", ID, "ai/unknown", "ai/smollm2")
    assert result.exit_code == 5
    assert result.stderr == (
        "Error: model has several tags, it must be forced\n"
        "Error: error while deleting model: model not found\n"
    )
    assert "Deleted: " in result.stdout
    assert invoke("rm", "ai/unknown").exit_code == 4


def test_rm_by_force_says_so_to_the_server(server):
    invoke("rm", "-f", OTHER_ID)
    assert server.requests[-1][:2] == ("DELETE", f"/models/{OTHER_ID}?force=true")


def test_rm_refuses_a_name_that_climbs(server):
    result = invoke("rm", "../engines/unload")
    assert result.exit_code == 2
    assert server.requests == []
