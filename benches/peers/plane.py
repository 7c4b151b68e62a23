"""The data plane alone, without a control plane: one route to an engine that already runs.

Of the control plane there is only what returns memory to the system after a burst. It says its
addresses as one line of JSON when it listens. Then it takes commands, a line each: `hold 5` keeps
the GIL for five seconds, `snapshot` tells how the engine's connections fared.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import signal
import sys
import threading
from pathlib import Path

from model_runner import allocator
from model_runner._core import Config, DataPlane, Route

# More than any load here, so that no request waits for a slot.
SLOTS = 4096


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-socket", type=Path, required=True)
    parser.add_argument("--api-key", default="bench", help="the engine's")
    parser.add_argument("--model", default="bench")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    # Blocked, so that sigwait() below gets them; the threads of the data plane inherit the mask.
    stop_signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    plane = DataPlane.start(
        Config(
            # Nothing here needs a control plane; the engine answers what is forwarded by mistake.
            control_socket=str(options.engine_socket),
            host="127.0.0.1",
            port=0,
            socket=None,
            threads=options.threads,
            backends=["llama.cpp"],
            body_limit=1 << 20,
            queue_limit=SLOTS,
            heartbeat=15.0,
            origins=[],
            record_count=10,
            record_bytes=16 << 20,
            record_redaction="off",
            head_limit=1 << 16,
            max_connections=100_000,
            idle_timeout=75.0,
            head_timeout=30.0,
            body_timeout=60.0,
            write_timeout=60.0,
            tls_port=None,
            tls_certificate=None,
            tls_key=None,
            tls_directory=None,
            tls_names=[],
        )
    )
    plane.publish([bench_route(options, mode) for mode in ("completion", "embedding")])
    say(list(plane.addresses))
    threading.Thread(target=obey, args=(plane,), daemon=True).start()
    asyncio.run(until(stop_signals, plane))
    plane.stop(1.0)


async def until(signals: set[signal.Signals], plane: DataPlane) -> None:
    """Wait for one of the signals."""
    async with allocator.after_bursts(lambda: plane.snapshot().open_connections):
        await asyncio.to_thread(signal.sigwait, signals)


def bench_route(options: argparse.Namespace, mode: str) -> Route:
    """Requests for the model in one mode."""
    return Route(
        runner_id=f"bench-{mode}",
        socket_path=str(options.engine_socket),
        api_key=options.api_key,
        slots=SLOTS,
        context_size=8192,
        context_limit=8192,
        capabilities=["completion", "embedding", "tools"],
        has_stops=False,
        backend="llama.cpp",
        model=options.model,
        model_id="sha256:" + "0" * 64,
        mode=mode,
        names=[options.model],
    )


def obey(plane: DataPlane) -> None:
    """Carry out commands until stdin ends."""
    # PyDLL, unlike CDLL, does not release the GIL around a call.
    library = ctypes.PyDLL(None)
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        if command == "hold":
            say("holding")
            library.usleep(int(float(argument) * 1e6))
            say("held")
        elif command == "snapshot":
            snapshot = plane.snapshot()
            opened = snapshot.upstream_connections_opened
            say({"opened": opened, "reused": snapshot.upstream_connections_reused})


def say(line: object) -> None:
    """One line of JSON."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
