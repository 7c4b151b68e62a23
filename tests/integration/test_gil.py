"""A warm request never needs Python: while a C call holds the GIL, requests go on as before."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from support.server import DEADLINE, Server, base_environment, chat_body, events

MODEL = "ai/tiny-script"
HOLD = 3.0
CLIENTS = 4
# Two cores carry the engine, the server and these clients, so a single measurement may be unlucky.
ATTEMPTS = 3


@dataclass
class Load:
    """Streams one after the other on each of a few keep-alive connections, until told to stop."""

    server: Server
    durations: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _run(self) -> None:
        connection = self.server.connect()
        body = json.dumps(chat_body(MODEL, stream=True, max_tokens=16))
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/chat/completions", body)
                response = connection.getresponse()
                received = events(response.read())
            except OSError as error:
                self.faults.append(repr(error))
                return
            self.durations.append(time.perf_counter() - began)
            # The role, 16 tokens, the reason to finish, [DONE].
            if response.status != 200 or len(received) != 19:
                self.faults.append(f"{response.status}: {len(received)} events")
        connection.close()

    def p99(self) -> float:
        return statistics.quantiles(self.durations, n=100)[98]


def test_requests_go_on_while_the_gil_is_held(chat_server, tmp_path):
    environment = {**chat_server.environment, **base_environment(tmp_path)}
    environment["MODELS_PATH"] = chat_server.environment["MODELS_PATH"]
    for name in ("LLAMA_SERVER_PATH", "PATH"):
        environment[name] = chat_server.environment[name]
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "support.gil_holder"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        address = process.stdout.readline().split()[-1]
        server = Server(process, [address], environment, tmp_path / "unused")
        assert server.chat(MODEL).status == 200
        for _ in range(ATTEMPTS):
            ratio = compare(server, process)
            print(f"p99 with the GIL held / without: {ratio:.2f}")
            if ratio <= 1.5:
                break
        else:
            raise AssertionError(f"p99 grew by {ratio:.2f} in the last of {ATTEMPTS} attempts")
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)


def wait_for(stream: TextIO, word: str) -> None:
    """Read lines until one begins with a word."""
    for line in stream:
        if line.startswith(word):
            return
    raise AssertionError("the server ended")


def compare(server: Server, process: subprocess.Popen[str]) -> float:
    """The p99 of a stream's duration while the GIL is held, against the p99 before."""
    assert process.stdin is not None
    assert process.stderr is not None
    pause = threading.Event()
    with Load(server) as free:
        pause.wait(HOLD)
    with Load(server) as held:
        process.stdin.write(f"{HOLD}\n")
        process.stdin.flush()
        wait_for(process.stderr, "held")
    assert free.faults == []
    assert held.faults == []
    assert len(held.durations) > CLIENTS, "nothing was answered while the GIL was held"
    return held.p99() / free.p99()
