"""Models as files, as users move them: curl and the command line against a real server."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from model_runner.store import Store
from support.archives import blob, entries_of, exported, oci_index, tar, temporary_files
from support.oci_push import push, stored_artifact
from support.oci_registry import oci_registry, require
from support.server import (
    DEADLINE,
    MODEL_RUNNER,
    add_model,
    base_environment,
    running_server,
    wait_until,
)
from support.stores import add_model as write_model
from support.terminal import Terminal
from support.tiny_gguf import SCRIPT

TINY = "docker.io/ai/tiny-script:latest"
MIB = 1 << 20


@pytest.fixture
def source(tmp_path):
    """A directory whose store holds `ai/tiny-script`."""
    # A path with a socket in it has 107 bytes at most.
    add_model(tmp_path / "a", "ai/tiny-script")
    return tmp_path / "a"


@pytest.fixture
def target(tmp_path):
    """A directory without a store."""
    (tmp_path / "b").mkdir()
    return tmp_path / "b"


def store_of(directory):
    return Store.open(directory / "models")


def curl(*arguments):
    return subprocess.run(
        ["curl", "-sS", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    ).stdout


def test_a_model_moves_from_one_machine_to_another_with_curl(source, target, tmp_path):
    archive = tmp_path / "tiny.tar"
    with running_server(source) as server:
        curl("-o", archive, f"{server.url}/models/ai/tiny-script/export")
        (model,) = server.request("/models").json()
    with running_server(target) as server:
        loaded = json.loads(curl("-T", archive, "-X", "POST", f"{server.url}/models/load"))
        assert loaded["message"] == "Model loaded successfully"
        assert server.request("/models").json() == [model]
        content = server.chat("ai/tiny-script").json()["choices"][0]["message"]["content"]
        assert content.strip() == SCRIPT


def test_a_model_without_a_name_is_tagged_by_its_id_as_docker_does(source, target, tmp_path):
    archive = tmp_path / "tiny.tar"
    (model,) = store_of(source).list()
    archive.write_bytes(exported(store_of(source), model))
    with running_server(target) as server:
        sent = curl("--data-binary", f"@{archive}", f"{server.url}/models/load")
        assert json.loads(sent)["model"] == {"id": model.id, "tags": []}
        assert "tags" not in server.request("/models").json()[0]
        tagged = server.request(f"/models/{model.id}/tag?repo=ai/mine&tag=v1", b"")
        assert tagged.status == 201
        assert server.request("/models").json()[0]["tags"] == ["docker.io/ai/mine:v1"]


def test_a_broken_download_goes_on_where_it_was(source, tmp_path):
    with running_server(source) as server:
        url = f"{server.url}/models/ai/tiny-script/export"
        whole, part = tmp_path / "whole.tar", tmp_path / "part.tar"
        curl("-o", whole, url)
        part.write_bytes(whole.read_bytes()[:100_000])
        curl("-C", "-", "-o", part, url)
        assert part.read_bytes() == whole.read_bytes()


def test_the_command_line_saves_and_loads(source, target, tmp_path):
    archive = tmp_path / "tiny.tar"
    with running_server(source) as server:
        saved = server.cli("save", "tiny-script", "-o", str(archive))
        assert saved.returncode == 0, saved.stderr
        assert saved.stdout.startswith(f"Saved tiny-script to {archive} (")
        (model,) = server.request("/models").json()
    with running_server(target) as server:
        loaded = server.cli("load", "-i", str(archive))
        assert loaded.stdout == f"Loaded tiny-script\nID: {model['id']}\n", loaded.stderr
        named = server.cli("load", "-i", str(archive), "--tag", "other:v1", "--quiet")
        assert named.stdout == f"{model['id']}\n"
        (listed,) = server.request("/models").json()
        assert listed["tags"] == [TINY, "docker.io/ai/other:v1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "tiny.tar"]


@pytest.mark.parametrize("through", ["cat", "gzip"])
def test_the_command_line_saves_and_loads_through_pipes(source, target, through):
    script = f"{' '.join(MODEL_RUNNER)} save ai/tiny-script | {through} > {target}/piped"
    with running_server(source) as server:
        environment = {**server.environment, "MODEL_RUNNER_HOST": server.url}
        subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=DEADLINE)
    with running_server(target) as server:
        environment = {**server.environment, "MODEL_RUNNER_HOST": server.url}
        script = f"cat {target}/piped | {' '.join(MODEL_RUNNER)} load"
        subprocess.run(["bash", "-c", script], env=environment, check=True, timeout=DEADLINE)
        assert server.request("/models").json()[0]["tags"] == [TINY]


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["save", "ai/tiny-script"], "an archive is not for a terminal"),
        (["load"], "an archive is not typed in"),
    ],
)
def test_a_terminal_is_no_place_for_an_archive(tmp_path, command, complaint):
    terminal = Terminal([*MODEL_RUNNER, *command], base_environment(tmp_path))
    assert terminal.wait() == 2
    assert complaint in terminal.shown


def test_a_failed_save_leaves_the_old_file(source, tmp_path):
    archive = tmp_path / "old.tar"
    archive.write_bytes(b"old")
    with running_server(source) as server:
        failed = server.cli("save", "ai/unknown", "-o", str(archive))
        assert failed.returncode == 4
        nowhere = server.cli("save", "ai/tiny-script", "-o", str(tmp_path / "no" / "where.tar"))
        assert nowhere.returncode == 1
        assert "no such file or directory" in nowhere.stderr
        unread = server.cli("load", "-i", str(tmp_path / "missing.tar"))
        assert unread.returncode == 1
    assert archive.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "old.tar"]


def test_a_save_goes_where_a_link_leads_and_takes_any_name(source, tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.tar"
    link.symlink_to("disk/real.tar")
    with running_server(source) as server:
        for path in (link, link, tmp_path / ("n" * 255)):
            saved = server.cli("save", "ai/tiny-script", "-o", str(path))
            assert saved.returncode == 0, saved.stderr
        too_long = server.cli("save", "ai/tiny-script", "-o", str(tmp_path / ("n" * 256)))
        assert "file name too long" in too_long.stderr
        assert "Traceback" not in too_long.stderr
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real.tar"]


def test_a_save_that_breaks_off_leaves_no_file(tmp_path):
    archive = tmp_path / "half.tar"
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        environment = {**base_environment(tmp_path / "a"), "MODEL_RUNNER_HOST": f"{host}:{port}"}
        command = [*MODEL_RUNNER, "save", "ai/x", "-o", str(archive)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as saving:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-tar\r\n"
                connection.sendall(head + b"Content-Length: 9000000\r\n\r\n" + bytes(3 * MIB))
            _, complaint = saving.communicate(timeout=DEADLINE)
    assert saving.returncode == 1
    assert b"ended early" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_small_disk_keeps_what_was_whole_and_says_what_is_missing(target, tmp_path):
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    inside += ['mount -t tmpfs -o size=12m none "$0"; exec "$@"', str(target / "models")]
    (target / "models").mkdir()
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    archive = tmp_path / "large.tar"
    archive.write_bytes(parts_of_a_large_model(tmp_path)[0])
    with running_server(target, command=(*inside, *MODEL_RUNNER)) as server:
        text = curl("-T", archive, "-X", "POST", f"{server.url}/models/load")
        assert text.startswith("error while loading model: the archive holds a file of 20971520 b")
        usage = json.loads(curl(f"{server.url}/engines/df"))
        assert server.request("/models").json() == []
        assert 5 * MIB <= usage["models_disk_usage"] < 6 * MIB


def test_a_refusal_reaches_who_is_still_sending(target, tmp_path):
    archive = tmp_path / "bad.tar"
    wrong = (f"blobs/sha256/{'ab' * 32}", b"something else")
    archive.write_bytes(tar(wrong, ("rest", bytes(64 * MIB))))
    with running_server(target) as server:
        text = curl("-T", archive, "-X", "POST", f"{server.url}/models/load")
        assert text.startswith('error while loading model: blob digest mismatch for "sha256:abab')
        refused = server.cli("load", "-i", str(archive))
        assert refused.returncode == 1
        assert "blob digest mismatch" in refused.stderr
        assert temporary_files(target / "models") == []


def test_a_model_that_is_deleted_while_it_is_exported_arrives_whole(tmp_path):
    store = store_of(tmp_path)
    model = write_model(store, os.urandom(32 * MIB), tags=["ai/large"])
    with running_server(tmp_path) as server:
        connection = server.connect()
        connection.request("GET", "/models/ai/large/export")
        response = connection.getresponse()
        head = response.read(1000)
        assert server.request("/models/ai/large", method="DELETE").status == 200
        content = head + response.read()
        connection.close()
    assert len(content) == int(response.headers["Content-Length"])
    assert entries_of(content)[-1] == ("manifest.json", model.manifest.raw)


def half_sent(server, content, position):
    """A connection on which so much of an archive was sent."""
    connection = socket.create_connection(server.host_and_port, timeout=DEADLINE)
    head = (
        f"POST /models/load HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection.sendall(head.encode() + content[:position])
    return connection


def parts_of_a_large_model(tmp_path):
    """The archive of a model of two blobs, where the second begins, and the blobs' digests."""
    store = Store.open(tmp_path / "large")
    model = write_model(store, os.urandom(5 * MIB), os.urandom(20 * MIB), tags=["ai/large"])
    content = exported(store, model, *model.tags)
    digests = [layer.digest for layer in model.manifest.layers]
    return content, content.index(digests[1].removeprefix("sha256:").encode()), digests


def test_a_connection_that_is_cut_keeps_what_was_whole(target, tmp_path):
    content, second, digests = parts_of_a_large_model(tmp_path)
    with running_server(target) as server:
        store = store_of(target)
        connection = half_sent(server, content, second + 10 * MIB)
        wait_until(lambda: temporary_files(store.root), "a part of the second blob")
        connection.close()
        wait_until(lambda: not temporary_files(store.root), "nothing half")
        assert [store.blobs.has(digest) for digest in digests] == [True, False]
        kept = store.blobs.path(digests[0]).stat().st_ino
        assert server.request("/models/load", content).status == 200
        assert store.blobs.path(digests[0]).stat().st_ino == kept
        assert server.request("/models").json()[0]["tags"] == ["docker.io/ai/large:latest"]


def test_a_server_that_is_killed_in_the_middle_loads_it_the_next_time(target, tmp_path):
    content, second, digests = parts_of_a_large_model(tmp_path)
    with running_server(target) as server:
        store = store_of(target)
        with half_sent(server, content, second + 10 * MIB):
            wait_until(lambda: temporary_files(store.root), "a part of the second blob")
            server.process.send_signal(signal.SIGKILL)
            server.process.wait(DEADLINE)
    assert [store.blobs.has(digest) for digest in digests] == [True, False]
    with running_server(target) as server:
        assert server.request("/models").json() == []
        assert server.request("/models/load", content).status == 200
        assert len(server.request("/models").json()) == 1
        pruned = server.request("/models/prune", {"grace": 0})
        assert pruned.status == 200
        assert temporary_files(target / "models") == []
        assert len(server.request("/models").json()) == 1


def test_large_archives_take_no_memory(tmp_path, target):
    store = Store.open(tmp_path / "large")
    write_model(store, *(os.urandom(64 * MIB) for _ in range(3)), tags=["ai/large"])
    archive = tmp_path / "large.tar"
    (model,) = store.list()
    archive.write_bytes(exported(store, model))
    with running_server(target) as server:
        server.request("/models")
        idle = memory(server.process.pid)
        peak = Peak(server.process.pid)
        with peak:
            curl("-T", archive, "-X", "POST", f"{server.url}/models/load?tag=ai/large")
            curl("-o", "/dev/null", f"{server.url}/models/ai/large/export")
    assert peak.highest - idle < 48 * MIB


class Peak:
    """The most memory that a process was seen to have meanwhile."""

    def __init__(self, pid):
        self.highest = 0
        self._pid = pid
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self):
        self._watching.start()

    def __exit__(self, *_):
        self._ended.set()
        self._watching.join()

    def _watch(self):
        while not self._ended.wait(0.01):
            self.highest = max(self.highest, memory(self._pid))


def memory(pid):
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024


def test_archives_pass_through_a_unix_socket_and_through_tls(source, target, tmp_path):
    socket_path, archive = tmp_path / "s.sock", tmp_path / "tiny.tar"
    with running_server(source, "--socket", str(socket_path)) as server:
        url = "http://localhost/models/ai/tiny-script/export"
        curl("--unix-socket", socket_path, "-o", archive, url)
        assert server.process.poll() is None
    options = {"MODEL_RUNNER_TLS_ENABLED": "1", "MODEL_RUNNER_TLS_PORT": "0"}
    with running_server(target, **options) as server:
        (url,) = [address for address in server.addresses if address.startswith("https:")]
        curl("-k", "-T", archive, "-X", "POST", f"{url}/models/load")
        assert server.request("/models").json()[0]["tags"] == [TINY]
        again = curl("-k", "-o", tmp_path / "again.tar", f"{url}/models/ai/tiny-script/export")
        assert again == ""
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_a_layout_that_oras_made_is_loaded(source, target, tmp_path):
    """From a registry, in a tar, without a name: oras only keeps the tag."""
    (model,) = store_of(source).list()
    layout, made = tmp_path / "layout", tmp_path / "oras.tar"
    with oci_registry(tmp_path / "registry") as registry:
        push(registry, "org/tiny", "v1", stored_artifact(source / "models", model.id))
        there = f"{registry.http_address}/org/tiny:v1"
        copy = [require("oras"), "cp", "--from-plain-http", there, "--to-oci-layout"]
        for command in ([*copy, f"{layout}:v1"], ["tar", "-cf", made, "-C", layout, "."]):
            subprocess.run(command, check=True, timeout=DEADLINE, capture_output=True)
    with running_server(target) as server:
        loaded = server.cli("load", "-i", str(made))
        assert loaded.stdout == (
            f"Loaded a model without a name; `model-runner tag {model.id[7:19]} NAME` gives it one"
            f"\nID: {model.id}\n"
        ), loaded.stderr
        assert server.cli("tag", model.id[7:19], "ai/from-oras").returncode == 0
        assert server.chat("ai/from-oras").status == 200
        # No other files than the model's are left of the layout.
        assert server.request("/models/prune", {"grace": 0}).json()["removed"] == []


def test_archives_of_skopeo_are_loaded(source, target, tmp_path):
    (model,) = store_of(source).list()
    content = [blob(store_of(source).blobs.read(part.digest)) for part in model.manifest.blobs]
    layout = tar(
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        *content,
        blob(model.manifest.raw),
        oci_index(model.manifest.raw, name="v1"),
    )
    directory = tmp_path / "layout"
    with tarfile.open(fileobj=io.BytesIO(layout)) as archive:
        archive.extractall(directory, filter="data")
    made = tmp_path / "skopeo.tar"
    name = "registry.example.com/org/tiny:v2"
    subprocess.run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            f"oci:{directory}:v1",
            f"oci-archive:{made}:{name}",
        ],
        check=True,
        timeout=DEADLINE,
        capture_output=True,
    )
    with running_server(target) as server:
        loaded = server.cli("load", "-i", str(made))
        assert loaded.stdout == f"Loaded {name}\nID: {model.id}\n", loaded.stderr
        assert server.chat(name).status == 200
