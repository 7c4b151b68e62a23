"""The private directory of a running server: its sockets. Those of killed servers are removed.

A server that is stopped removes its own. One that is killed cannot, so the next one does.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from pathlib import Path

from model_runner.errors import ModelRunnerError

_logger = logging.getLogger(__name__)

CONTROL_SOCKET = "control.sock"

_PREFIX = "model-runner-"
# What `tempfile.mkdtemp` makes of the prefix, so that nothing else of that name is taken for ours.
_NAME = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
# The longest name in the directory is a runner's ID, 12 digits, with `.sock`.
_LONGEST = len(f"/{_PREFIX}12345678/123456789012.sock")
# `sun_path` of unix(7) has 108 bytes, the last of which is 0.
_PATH_BYTES = 107
# Between `bind` and `listen` a socket refuses connections as a dead one does.
_SETTLED_SECONDS = 5.0
# Between making the directory and the socket in it a server opens its store.
_STARTING_SECONDS = 3600.0


def make() -> Path:
    """Make the directory with mode 0700, in `$XDG_RUNTIME_DIR` if that will do, else in `$TMPDIR`.

    Raises:
        ModelRunnerError: It cannot be made, or its path would be too long for sockets.
    """
    temporary = Path(tempfile.gettempdir())
    session = _session_directory()
    for parent in filter(None, (session, temporary)):
        _sweep(parent)
    parent = session if session is not None and _is_short(session) else temporary
    if not _is_short(parent):
        raise ModelRunnerError(
            f"the path of `{parent}` is too long for sockets in it",
            hint="set TMPDIR to a directory with a shorter one",
        )
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    except OSError as error:
        reason = f"no directory can be made in `{parent}`: {error.strerror}"
        raise ModelRunnerError(reason, hint="set TMPDIR to another one") from error


def _session_directory() -> Path | None:
    """The login session's place for sockets, if it is there and ours: `sudo` may keep another's."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        is_ours = given.startswith("/") and Path(given).stat().st_uid == os.geteuid()
    except OSError:
        return None
    return Path(given) if is_ours and os.access(given, os.W_OK | os.X_OK) else None


def _is_short(parent: Path) -> bool:
    return len(os.fsencode(parent)) + _LONGEST <= _PATH_BYTES


def _sweep(parent: Path) -> None:
    """Remove what killed servers of ours left in a directory."""
    try:
        candidates = [path for path in parent.iterdir() if _NAME.fullmatch(path.name)]
    except OSError:
        return
    for directory in candidates:
        _remove_if_stale(directory)


def _remove_if_stale(directory: Path) -> None:
    try:
        if _is_stale(directory):
            shutil.rmtree(directory)
            _logger.info("removed `%s`, which a killed server left", directory)
    except OSError as error:  # it went away by itself, or is not as we make them
        _logger.debug("`%s` stays: %s", directory, error)


def _is_stale(directory: Path) -> bool:
    """Whether this is a directory of ours whose server is gone.

    Raises:
        OSError: It cannot be looked at.
    """
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or stat.S_IMODE(status.st_mode) != 0o700:
        return False
    if status.st_uid != os.geteuid():
        return False
    entries = list(directory.iterdir())
    newest = max(status.st_mtime, *(entry.lstat().st_mtime for entry in entries), 0.0)
    age = time.time() - newest
    if directory / CONTROL_SOCKET in entries:
        return age > _SETTLED_SECONDS and _refuses(directory / CONTROL_SOCKET)
    return not entries and age > _STARTING_SECONDS


def _refuses(path: Path) -> bool:
    """Whether nobody listens on a Unix socket; one whose queue is full has a listener."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED
