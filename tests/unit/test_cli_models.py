"""pull, list and rm against a real HTTP server."""

import asyncio
import json
import os
import sys
import time

import pytest
from click.testing import CliRunner

from model_runner.cli import inspect, main, models
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


_USUAL = {
    "docker.io/ai/smollm2:360M-Q4_K_M": ("361.82M", "MOSTLY_Q4_K_M", "llama", "256.35MiB"),
    "docker.io/ai/qwen3-coder:latest": ("30.53B", "MOSTLY_Q4_K_M", "qwen3moe", "16.45GiB"),
    "docker.io/ai/embeddinggemma:300M": ("302.86M", "MOSTLY_BF16", "gemma3", "580.20MiB"),
    "huggingface.co/bartowski/llama-3.2-1b-instruct-gguf:Q4_K_M": (
        "1.24B", "MOSTLY_Q4_K_M", "llama", "762.81MiB",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "split"), [(160, 0), (100, 1), (80, 5)])
def test_list_fits_the_terminal_and_hides_nothing(server, columns, split):
    """Long names get a line of their own, above the rest; so may the header."""
    server.models = [
        {
            "id": f"sha256:{number:012}" + "0" * 52,
            "tags": [tag],
            "created": int(time.time()) - 610 * 86400,  # 20 months
            "config": {
                "parameters": parameters,
                "quantization": quantization,
                "architecture": architecture,
                "size": size,
                "context_size": 131072,
            },
        }
        for number, (tag, (parameters, quantization, architecture, size)) in enumerate(
            _USUAL.items()
        )
    ]
    argv = [sys.executable, "-m", "model_runner.cli", "list"]
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    with Terminal(argv, environment, columns=columns) as terminal:
        assert terminal.wait() == 0
        lines = terminal.shown.splitlines()
    assert max(map(len, lines)) <= columns, terminal.shown
    assert len(lines) == 1 + len(_USUAL) + split, terminal.shown
    words = terminal.shown.split()
    for tag, (parameters, quantization, architecture, size) in _USUAL.items():
        assert tag.removeprefix("docker.io/ai/").removesuffix(":latest") in words
        shown = quantization if columns == 160 else quantization.removeprefix("MOSTLY_")
        assert {parameters, shown, architecture, size, "131072"} <= set(words)


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


@pytest.mark.parametrize(
    ("reference", "sent"),
    [
        ("ai/smollm2", {}),
        ("registry.example.com/hf.co/x", {}),
        ("hf.co/org/model", {"bearer-token": "hf_secret"}),
        ("HuggingFace.co/org/m:Q8_0", {"bearer-token": "hf_secret"}),
    ],
)
def test_a_token_for_hugging_face_goes_along_to_there_alone(server, monkeypatch, reference, sent):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    invoke("pull", reference)
    assert server.bodies("/models/create") == [{"from": reference, **sent}]


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


def test_cut_pull_is_not_taken_for_a_success(server, pauses):
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


def test_several_pulls_go_on_after_a_failure(server):
    result = invoke("pull", "-q", "ai/missing", "ai/a", "ai/private", "ai/b:v1")
    assert result.stdout == "docker.io/ai/a:latest\ndocker.io/ai/b:v1\n"
    assert result.stderr == "Error: Model not found\nError: Unauthorized\n"
    assert result.exit_code == 4


def test_pull_as_json_is_what_the_server_said(server):
    result = invoke("pull", "--json", "ai/smollm2")
    *progress, success = map(json.loads, result.stdout.splitlines())
    assert progress[0]["layer"]["size"] == 3 * 1024 * 1024
    assert (success["type"], success["message"]) == ("success", "Model pulled successfully")
    assert invoke("pull", "--json", "-q", "ai/smollm2").exit_code == 2


@pytest.fixture(name="pauses")
def _pauses(monkeypatch):
    """How long it was waited before each further try, which takes no time."""
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return pauses


def test_a_pull_that_breaks_is_tried_again(server, pauses):
    server.failures = [503, "cut", "no answer", "registry_unreachable"]
    result = invoke("pull", "ai/smollm2")
    assert (result.exit_code, pauses) == (0, [1, 2, 4, 8])
    assert result.stdout.endswith("Model pulled successfully\n")
    first, second, third, fourth = result.stderr.splitlines()
    assert first == "Warning: failed with 503; trying again in 1 s"
    assert second == "Warning: the stream ended early; trying again in 2 s"
    assert "closed the connection" in third or "reset" in third
    assert fourth == "Warning: no route; trying again in 8 s"


def test_a_pull_that_keeps_breaking_is_given_up(server, pauses):
    server.failures = [502] * 9
    result = invoke("pull", "ai/smollm2")
    assert (result.exit_code, len(pauses), len(server.failures)) == (1, 4, 4)
    assert result.stderr.splitlines()[-1] == "Error: failed with 502"


@pytest.mark.parametrize("failure", [500, 401, 422, 507, "digest_mismatch", "disk_full"])
def test_what_does_not_pass_is_not_tried_again(server, pauses, failure):
    server.failures = [failure] * 2
    assert invoke("pull", "ai/smollm2").exit_code != 0
    assert pauses == []


def test_a_registry_that_is_down_is_told_at_once(server, pauses):
    """The server itself has tried long enough; in the middle of a pull it is another matter."""
    server.failures = ["registry_unreachable at first"] * 2
    result = invoke("pull", "ai/smollm2")
    assert (result.exit_code, result.stderr, pauses) == (1, "Error: no route\n", [])


def test_no_server_is_told_at_once(monkeypatch, config, pauses):
    monkeypatch.setenv("MODEL_RUNNER_HOST", "http://127.0.0.1:9")
    assert invoke("pull", "ai/smollm2", "ai/other").exit_code == 3
    assert pauses == []


def test_the_name_of_a_model_from_hugging_face_has_no_revision(server):
    result = invoke("pull", "-q", "hf.co/Org/M:Q8_0@main")
    assert result.stdout == "huggingface.co/org/m:Q8_0\n"


def test_push_into_a_pipe_is_a_few_lines(server):
    result = invoke("push", "ai/smollm2:v1")
    assert result.stdout == (
        "Pushing ai/smollm2:v1\n3f2a1b0c3f2a: 3.1 MB uploaded\nModel pushed successfully\n"
    )
    assert server.requests[-1][:2] == ("POST", "/models/ai/smollm2:v1/push")
    assert invoke("push", "-q", "ai/smollm2").stdout == ""
    lines = invoke("push", "--json", "ai/smollm2").stdout.splitlines()
    assert json.loads(lines[-1])["mode"] == "push"


def test_push_on_a_terminal_draws_a_bar_for_each_layer(server):
    argv = [sys.executable, "-m", "model_runner.cli", "push", "ai/smollm2"]
    with Terminal(argv, {**os.environ, "TERM": "xterm-256color"}) as terminal:
        assert terminal.wait() == 0
    assert "3f2a1b0c3f2a  Push complete" in terminal.shown


def test_failed_push_says_why_on_stderr(server):
    result = invoke("push", "ai/private")
    assert (result.stderr, result.exit_code) == ("Error: Unauthorized\n", 6)
    assert invoke("push", "../x").exit_code == 2


def test_inspect_is_what_the_server_said(server):
    assert json.loads(invoke("inspect", "ai/smollm2").stdout) == MODELS[0]
    assert json.loads(invoke("inspect", "--openai", "ai/smollm2").stdout)["object"] == "model"
    assert json.loads(invoke("inspect", "-r", "ai/other").stdout)["id"] == OTHER_ID
    assert server.requests[-1][:2] == ("GET", "/models/ai/other?remote=true")
    assert invoke("inspect", "-r", "--openai", "ai/other").exit_code == 2
    missing = invoke("inspect", "ai/missing")
    assert (missing.exit_code, missing.stderr) == (4, "Error: model not found\n")


def test_show_is_for_reading(server, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    inspect.time.tzset()
    template = "{% if a %}\n\tb\x1b[31m"
    server.models[0]["config"]["gguf"] = {"z.last": "9", "a.template": template}
    result = invoke("show", "ai/smollm2")
    assert result.stdout == (
        f"Model:         {ID}\n"
        "Tags:          smollm2, example.com/tiny:v1\n"
        "Created:       2025-03-24 11:49:41 +0000\n"
        "Format:        gguf\n"
        "Architecture:  llama\n"
        "Parameters:    361.82 M\n"
        "Size:          256.35 MiB\n"
        "Quantization:  IQ2_XXS/Q4_K_M\n"
        "\n"
        "GGUF metadata:\n"
        "  a.template  {% if a %}\\n�b�[31m\n"
        "  z.last      9\n"
    )
    remote = invoke("show", "--remote", "ai/other").stdout
    assert remote == f"Model:   {OTHER_ID}\nFormat:  gguf\n"


def test_show_cuts_long_values_to_the_terminal(server):
    server.models[0]["config"]["gguf"] = {"tokens": "x" * 5000}
    argv = [sys.executable, "-m", "model_runner.cli", "show", "ai/smollm2"]
    with Terminal(argv, {**os.environ, "TERM": "xterm-256color"}) as terminal:
        assert terminal.wait() == 0
    last = terminal.shown.rstrip().splitlines()[-1]
    assert last.startswith("  tokens  xxxx")
    assert last.endswith("x…")
    assert len(last) <= 200
    assert "x" * 5000 in invoke("show", "ai/smollm2").stdout
