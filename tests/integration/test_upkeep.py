"""tag, list, df, verify, prune and purge as a user runs them, on models that are running."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import subprocess
from http.client import IncompleteRead

import pytest

from model_runner.store import Store
from support.oci_push import make_artifact, noise
from support.oci_registry import oci_registry
from support.registry_double import registry_double
from support.server import MODEL_RUNNER, add_model, chat_body, events, running_server, wait_until
from support.stores import files_below
from support.terminal import Terminal

ENDLESS = "ai/tiny-random"
SCRIPTED = "ai/tiny-script"
CHAT = "/v1/chat/completions"


@contextlib.contextmanager
def streaming(server, model):
    """A chat that has begun; all of its stream is read by calling what this gives."""
    connection = server.connect()
    try:
        body = chat_body(model, stream=True, max_tokens=3900)
        connection.request("POST", CHAT, json.dumps(body))
        response = connection.getresponse()
        assert response.status == 200
        first = response.readline()
        yield lambda: first + response.read()
    finally:
        connection.close()


def move(server, name, *, to):
    """Over HTTP, for the generated models say thousands of tokens in the time of one command."""
    repository, _, tag = name.partition(":")
    query = f"repo={repository}&tag={tag or 'latest'}"
    return server.request(f"/models/{to}/tag?{query}", method="POST")


def test_a_name_that_moves_leads_to_the_new_model_and_ends_nothing(server):
    told = server.chat(SCRIPTED, max_tokens=8).json()["choices"][0]["message"]["content"]
    assert move(server, "ai/mine", to=ENDLESS).status == 201
    with streaming(server, "ai/mine") as rest:
        assert move(server, "ai/mine", to=SCRIPTED).status == 201
        answer = server.chat("ai/mine", max_tokens=8).json()
        assert answer["choices"][0]["message"]["content"] == told
        assert whole(rest())


def whole(stream):
    """Whether a stream came to its proper end, after all that it was asked for."""
    said = [json.loads(event) for event in events(stream)[:-1]]
    return stream.endswith(b"data: [DONE]\n\n") and len(said) > 3900


def test_a_model_that_lost_its_last_name_ends_its_requests_and_is_then_pruned(server):
    (model_id,) = [m["id"] for m in server.request("/models?reference=ai/tiny-random").json()]
    with streaming(server, ENDLESS) as rest:
        assert move(server, ENDLESS, to=SCRIPTED).status == 201
        kept = server.request("/models/prune", {"all": True, "grace": 0}).json()["kept"]
        assert [(item["name"], item["reason"]) for item in kept] == [(model_id, "it is loaded")]
        assert whole(rest())
    wait_until(lambda: server.request("/engines/ps").json() == [], "the retired runner's end")
    pruned = server.cli("prune", "--all", "--grace", "0")
    assert pruned.returncode == 0
    assert pruned.stdout.startswith(f"Removed model {model_id} (")
    assert re.search(r"\nReclaimed [\d.]+ kB\n$", pruned.stdout)
    assert len(server.request("/models").json()) == 1


def test_a_day_of_housekeeping(server, models):
    assert server.chat(SCRIPTED, max_tokens=2).status == 200
    server.cli("tag", SCRIPTED, "registry.example.com/org/mine:v2")
    listed = server.cli("list", "registry.example.com/*/*")
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == [
        "registry.example.com/org/mine:v2"
    ]
    assert server.cli("list", "-q", "--filter", "architecture=llama").stdout.count("\n") == 2
    wrong = server.cli("list", "--filter", "colour=red")
    assert (wrong.returncode, "`colour=red` is no filter" in wrong.stderr) == (2, True)

    usage = server.cli("df")
    assert usage.returncode == 0
    assert re.search(r"^Models +2 +[\d.]+ MB +0 B$", usage.stdout, re.MULTILINE)
    assert re.search(r"^Inference engine +[\d.]+ [kMG]B$", usage.stdout, re.MULTILINE)
    rows = r"^tiny-script +(\w{12}) .+\nregistry\.example\.com/org/mine:v2 +\1$"
    assert re.search(rows, usage.stdout, re.MULTILINE)
    assert json.loads(server.cli("df", "--json").stdout)["models_disk_usage"] > 0

    whole = server.cli("verify", "--all")
    assert whole.returncode == 0
    assert whole.stdout.count(" is whole: ") == 2

    environment = {**server.environment, "MODEL_RUNNER_HOST": server.url, "TERM": "xterm"}
    with Terminal([*MODEL_RUNNER, "verify", "--all"], environment, columns=80) as terminal:
        assert terminal.wait() == 0
    assert "Verifying tiny-script" in terminal.shown
    assert "Verifying sha256:" not in terminal.shown

    blob = Store.open(models / "models").get(SCRIPTED).manifest.layers[0]
    path = models / "models/blobs/sha256" / blob.digest[7:]
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damaged = server.cli("verify", SCRIPTED, ENDLESS)
    assert damaged.returncode == 1
    assert f"{blob.digest} has changed" in damaged.stderr
    assert "`model-runner pull ai/tiny-script` fetches what is missing" in damaged.stderr
    assert "ai/tiny-random is whole" in damaged.stdout
    listed = server.cli("list")
    assert "Warning: 1 file of tiny-script missing or damaged" in listed.stderr
    assert server.cli("show", SCRIPTED).stderr == listed.stderr
    assert json.loads(server.cli("inspect", SCRIPTED).stdout)["missing"] == [blob.digest]
    refused = server.chat(SCRIPTED, max_tokens=2)
    assert (refused.status, "pull the model again" in refused.text) == (500, True)
    # What a pull would do: the rest is here.
    path.write_bytes(content)
    assert server.chat(SCRIPTED, max_tokens=2).status == 200
    would = server.cli("prune", "--grace", "0", "--dry-run").stdout
    assert would.startswith("Would remove quarantine .quarantine/")
    assert server.cli("prune", "--grace", "1h").stdout == (
        f"Kept 1 ({len(content) / 1000:.1f} kB): it is younger than the grace period\n"
        "Nothing to remove.\n"
    )
    assert server.cli("prune", "--grace", "soon").returncode == 2


def test_purge_asks_first(server, models):
    assert server.chat(SCRIPTED, max_tokens=1).status == 200
    asked = server.cli("purge", stdin="n\n")
    assert asked.stdout.startswith("This removes all models (2, ")
    assert asked.stdout.endswith("Nothing was removed.\n")
    assert len(server.request("/models").json()) == 2
    assert server.cli("purge", stdin="y\n").stdout.endswith("All models are removed.\n")
    assert server.request("/models").json() == []
    assert server.engine_pids() == []
    assert server.chat(SCRIPTED).status == 404
    # The store goes on being one.
    add_model(models, SCRIPTED)
    assert server.chat(SCRIPTED, max_tokens=1).status == 200


def test_models_may_be_called_like_the_paths_of_something_else(server, models):
    before = server.request("/models").json()
    missing = server.cli("rm", "-f", "purge")
    assert (missing.returncode, "model `purge:latest` is not in" in missing.stderr) == (4, True)
    assert server.request("/models").json() == before
    for name in ("purge", "org/purge", "export", "org/export", "org/tag", "org/push", "create"):
        assert server.cli("tag", SCRIPTED, name).returncode == 0
        assert json.loads(server.cli("inspect", name).stdout)["tags"][-1].endswith(f"{name}:latest")
        removed = server.cli("rm", "-f", name)
        assert re.fullmatch(rf"Untagged: docker\.io/(ai/)?{name}:latest\n", removed.stdout)
    assert server.request("/models").json() == before


def interrupted(terminal):
    """The exit code after Ctrl-C; Python loses one that comes right before it begins to read."""
    for _ in range(5):
        terminal.type("\x03")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return terminal.wait(5)
    raise AssertionError("it goes on after Ctrl-C")


def test_purge_without_an_answer_removes_nothing(server, models):
    nobody = server.cli("purge", stdin="")
    assert nobody.stdout.endswith("Are you sure? [y/N]: \n")
    assert nobody.stderr == (
        "Error: nobody answered: nothing was removed\nhint: `--force` does not ask\n"
    )
    assert nobody.returncode == 2
    environment = {**server.environment, "MODEL_RUNNER_HOST": server.url, "TERM": "xterm"}
    with Terminal([*MODEL_RUNNER, "purge"], environment, columns=80) as terminal:
        terminal.expect("[y/N]: ")
        assert interrupted(terminal) == 130
    assert "Aborted" not in terminal.shown
    assert terminal.shown.endswith("\n")
    assert len(server.request("/models").json()) == 2


def test_purge_ends_requests_only_by_force(server):
    with streaming(server, ENDLESS) as rest:
        refused = server.request("/models/purge", method="DELETE")
        assert (refused.status, "is answering 1 request" in refused.text) == (409, True)
        assert len(server.request("/models").json()) == 2
        assert server.request("/models/purge?force=1", method="DELETE").status == 200
        with pytest.raises(IncompleteRead) as ended:
            rest()
        assert b"[DONE]" not in ended.value.partial
    assert server.engine_pids() == []


def test_purge_stops_a_pull_only_by_force(tmp_path):
    artifact = make_artifact(noise(1000))

    async def pull_and_purge(server):
        asked, over = asyncio.Event(), asyncio.Event()

        async def hold(request):
            if request.path.endswith(artifact.layers[0]):
                asked.set()
                await over.wait()

        async with registry_double(artifact, hold) as double:
            name = f"{double.address}/slow/model:v1"
            pulling = asyncio.create_task(asyncio.to_thread(server.cli, "pull", name))
            await asked.wait()
            refused = await asyncio.to_thread(server.request, "/models/purge", method="DELETE")
            assert (refused.status, "is being pulled" in refused.text) == (409, True)
            assert (await asyncio.to_thread(server.cli, "purge", "-f")).returncode == 0
            pulled = await pulling
            over.set()
        assert pulled.returncode != 0
        assert "the model store is being emptied: somebody has forced a purge" in pulled.stderr
        assert "try again when it is done" in pulled.stderr

    with running_server(tmp_path) as server:
        asyncio.run(pull_and_purge(server))
        assert server.request("/models").json() == []
    assert files_below(tmp_path / "models/blobs") == set()


def test_models_of_a_store_that_may_only_be_read_run(tmp_path):
    """A real read-only mount, in a namespace that ends with the server."""
    add_model(tmp_path, SCRIPTED)
    inside = ("unshare", "--map-root-user", "--mount", "sh", "-ec")
    script = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@"'
    command = (*inside, script, str(tmp_path / "models"))
    if (
        not shutil.which("unshare")
        or subprocess.run([*command, "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no mount namespaces here")
    with running_server(tmp_path, command=(*command, *MODEL_RUNNER)) as server:
        assert [model["tags"] for model in server.request("/models").json()] == [
            ["docker.io/ai/tiny-script:latest"]
        ]
        assert server.request(f"/models/{SCRIPTED}").status == 200
        assert server.cli("df").returncode == 0
        assert server.cli("verify", SCRIPTED).returncode == 0
        for _ in range(2):
            assert server.chat(SCRIPTED, max_tokens=2).status == 200
            server.cli("unload", "--all")
        for action in (("tag", SCRIPTED, "ai/x"), ("rm", SCRIPTED), ("purge", "-f"), ("prune",)):
            refused = server.cli(*action)
            assert refused.returncode == 1, action
            assert "read-only file system" in refused.stderr
            assert "MODELS_PATH" in refused.stderr
        assert server.chat(SCRIPTED, max_tokens=2).status == 200


def test_what_is_damaged_is_repaired_from_its_registry(server, models, tmp_path):
    with oci_registry(tmp_path / "registry") as registry:
        name = f"{registry.address}/org/script:v1"
        assert move(server, name, to=SCRIPTED).status == 201
        assert server.cli("push", name).returncode == 0
        root = models / "models"
        model = Store.open(root).get(name)
        told = server.chat(name, max_tokens=8).json()["choices"][0]["message"]["content"]

        weights = root / "blobs/sha256" / model.manifest.layers[0].digest[7:]
        content = weights.read_bytes()
        weights.chmod(0o644)
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        repaired = server.cli("verify", name, "--repair")
        assert repaired.returncode == 0, repaired.stderr
        assert "was damaged, and is whole again" in repaired.stdout
        assert weights.read_bytes() == content
        assert list((root / ".quarantine").iterdir()) == []

        weights.unlink()
        (root / "blobs/sha256" / model.manifest.config.digest[7:]).unlink()
        (root / "manifests/sha256" / model.id[7:]).write_bytes(b"{}")
        assert server.cli("verify", name).returncode == 1
        assert server.cli("verify", name, "--repair").returncode == 0
        assert server.cli("verify", name).returncode == 0
        answer = server.chat(name, max_tokens=8).json()
        assert answer["choices"][0]["message"]["content"] == told
    weights.unlink()
    unreachable = server.cli("verify", name, "--repair")
    assert unreachable.returncode == 1
    assert "cannot be reached" in unreachable.stderr
    assert "stays usable" not in unreachable.stderr
