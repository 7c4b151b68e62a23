"""What an engine prints: a file of bounded size, its tail, and its reason for a failure.

Engines write to the file themselves, never through a pipe to us: a paused server must not block
them.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

TAIL_BYTES = 64 * 1024
FILE_BYTES = 8 * 1024 * 1024
KEPT_FILES = 20
_REASON_LINES = 3
# A failed assertion is followed by a backtrace of some 40 lines; a request prints about ten.
_LAST_LINES = 50

# `0.00.006.119 E srv    load_model: text`: minutes, seconds, milliseconds, microseconds, level.
_PREFIXED = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[A-Z]) (?P<text>.*)$")
# The name of the subsystem and of the C++ function that printed.
_ORIGIN = re.compile(r"^(?:[a-z]{3,4} +)?[\w~]+(?:\(\))?: +(?=\S)")
_DIRECTORY = re.compile(r"(?<![\w/:.])(?:/[^\s/'\"]+)+/(?=[^\s/'\"])")
# Lines without a level that say why: usage errors, assertions, uncaught exceptions, the loader's.
_PLAIN_ERROR = re.compile(
    r"^(?:error\b|Error\b|\w+Error: )|GGML_ASSERT|GGML_ABORT|: fatal error"
    r"|^terminate called|what\(\):|error while loading shared libraries",
)
# True of every failed load, so no reason by itself; several of them also show a path of this host.
_GENERIC = re.compile(
    r"failed to load model|failed to initialize|exiting due to|the model was not loaded"
)


class EngineLog:
    """The log file of one engine process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the file, readable by its owner only: an engine's log may quote requests.

        Raises:
            OSError: It cannot be made, or is there already.
        """
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))

    def open(self) -> int:
        """A file descriptor for the engine to append to; the caller closes its own copy.

        Raises:
            OSError: The file cannot be written.
        """
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def size(self) -> int:
        """Bytes in the file; 0 if it is gone."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def tail(self, limit: int = TAIL_BYTES) -> list[str]:
        """The last lines, whole ones, of at most `limit` bytes together."""
        try:
            with self.path.open("rb") as file:
                start = max(0, os.fstat(file.fileno()).st_size - limit)
                file.seek(start)
                data = file.read(limit)
        except OSError:
            return []
        lines = data.decode(errors="replace").splitlines()
        # The first line is cut, unless the file starts there. A single one is better cut than lost.
        return lines[1:] if start and len(lines) > 1 else lines

    def bound(self, limit: int = FILE_BYTES) -> None:
        """Cut a file that has grown too large down to its tail.

        In place, because the engine has it open: it appends, so its next line goes behind the tail.
        What it prints during the cut can be lost.
        """
        if self.size() <= limit:
            return
        try:
            with self.path.open("r+b") as file:
                file.seek(-limit // 4, os.SEEK_END)
                kept = file.read(limit // 4).partition(b"\n")[2]
                file.truncate(0)
                file.seek(0)
                file.write(kept)
        except OSError:
            return  # the log is a courtesy; the engine goes on

    def reason(self) -> str:
        """Why the engine did not start, in its own words; empty if it said nothing."""
        return reason_in(self.tail())

    def last_error(self) -> str:
        """The errors that the engine ended with; empty if it was in the middle of its work."""
        return reason_in(self.tail()[-_LAST_LINES:], or_last_line=False)


def reason_in(lines: Iterable[str], *, or_last_line: bool = True) -> str:
    """The first errors that say more than that something failed; else the last line, or nothing."""
    specific: list[str] = []
    generic: list[str] = []
    last = ""
    for line in lines:
        is_error, text = _read(line)
        last = text or last
        if is_error and text:
            found = generic if _GENERIC.search(text) else specific
            if text not in found:
                found.append(text)
    reason = "; ".join(specific[:_REASON_LINES] or generic[:1])
    return reason or (last if or_last_line else "")


def _read(line: str) -> tuple[bool, str]:
    """Whether a line of a log is an error, and its text without decoration."""
    if line.startswith('{"type":'):
        return _read_json(line)
    if match := _PREFIXED.match(line):
        return match["level"] == "E", _bare(match["text"])
    return _PLAIN_ERROR.search(line) is not None, _DIRECTORY.sub("", line.strip())


def _read_json(line: str) -> tuple[bool, str]:
    """One line of `--log-jsonl`: `{"type":"log","time":µs,"level":"error","msg":"…"}`."""
    try:
        entry = json.loads(line)
    except ValueError:
        return False, line.strip()
    message = entry.get("msg")
    if entry.get("type") != "log" or not isinstance(message, str):
        return False, ""
    return entry.get("level") == "error", _bare(message)


def _bare(text: str) -> str:
    """Without who printed it, and without where on this host a file is: clients read it."""
    return _DIRECTORY.sub("", _ORIGIN.sub("", text.strip(), count=1))


def prune(directory: Path, *, in_use: Collection[Path], keep: int = KEPT_FILES) -> None:
    """Delete the oldest logs of a directory until `keep` are left, never one that is in use."""
    oldest_first = sorted(directory.glob("*.log"))  # their names begin with the time
    for path in oldest_first[: max(0, len(oldest_first) - keep)]:
        if path not in in_use:
            path.unlink(missing_ok=True)
