"""The private directory of a server: where it is made, and which old ones are removed."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from model_runner.errors import ModelRunnerError
from model_runner.lifecycle import runtime_directory


@pytest.fixture
def temporary(monkeypatch):
    """A directory for temporary files that nobody else uses, with a path that sockets can have."""
    with tempfile.TemporaryDirectory(prefix="t") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(directory)


def leave(parent: Path, name: str = "model-runner-abcd_123", *, age: float = 60) -> Path:
    """What a server that was killed so many seconds ago leaves."""
    directory = parent / name
    directory.mkdir(mode=0o700)
    (directory / "config").mkdir()
    for path in ("control.sock", "0123456789ab.sock"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / path))
    grow_old(directory, age)
    return directory


def grow_old(directory: Path, age: float) -> None:
    then = time.time() - age
    for path in (*directory.iterdir(), directory):
        os.utime(path, (then, then))


def test_it_is_private(temporary):
    directory = runtime_directory.make()
    assert directory.parent == temporary
    assert directory.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_server_left_is_removed(temporary):
    old = leave(temporary)
    made = runtime_directory.make()
    assert not old.exists()
    assert made.exists()


def test_the_directory_of_a_live_server_stays(temporary):
    directory = leave(temporary)
    (directory / "control.sock").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "control.sock"))
        listener.listen(0)
        grow_old(directory, 60)
        for _ in range(3):  # after the first its queue is full
            runtime_directory.make()
        assert (directory / "control.sock").exists()


def test_a_server_that_is_just_starting_is_left_alone(temporary):
    fresh = leave(temporary, age=1)
    before_its_socket = temporary / "model-runner-efgh4567"
    before_its_socket.mkdir(mode=0o700)
    grow_old(before_its_socket, 600)
    runtime_directory.make()
    assert fresh.exists()
    assert before_its_socket.exists()
    grow_old(before_its_socket, 2 * 3600)
    runtime_directory.make()
    assert not before_its_socket.exists()


def test_nothing_else_is_touched(temporary):
    (other := leave(temporary, "model-runner-notes")).joinpath("mine").touch()
    open_to_others = leave(temporary, "model-runner-abcd1234")
    open_to_others.chmod(0o755)
    (old := temporary / "model-runner-efgh5678").mkdir(mode=0o700)
    (old / "mine").touch()
    grow_old(old, 1e6)
    target = leave(temporary, "somewhere-else")
    (link := temporary / "model-runner-ijkl9012").symlink_to(target)
    (file := temporary / "model-runner-mnop3456").touch()
    runtime_directory.make()
    for path in (other, open_to_others, old, target, link, file):
        assert path.exists()


def test_another_users_directory_is_not_touched(temporary, monkeypatch):
    old = leave(temporary)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    runtime_directory.make()
    assert old.exists()


def test_the_sessions_directory_is_preferred(temporary, monkeypatch):
    session = temporary / "session"
    session.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(session))
    old = leave(temporary), leave(session)
    assert runtime_directory.make().parent == session
    assert not any(directory.exists() for directory in old)


@pytest.mark.parametrize("name", ["absent", "long" * 20, "relative"])
def test_a_sessions_directory_that_will_not_do(temporary, monkeypatch, name):
    if name != "absent":
        (temporary / name).mkdir()
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("XDG_RUNTIME_DIR", name if name == "relative" else str(temporary / name))
    assert runtime_directory.make().parent == temporary


def test_a_path_that_no_socket_can_have_is_refused(temporary, monkeypatch):
    long = temporary / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(ModelRunnerError, match="too long") as refused:
        runtime_directory.make()
    assert "TMPDIR" in str(refused.value)
    assert list(long.iterdir()) == []


def test_no_directory_can_be_made(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "absent"))
    with pytest.raises(ModelRunnerError, match="no directory can be made"):
        runtime_directory.make()
