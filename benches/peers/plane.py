"""The data plane alone, without a control plane: one route to an engine that already runs."""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path

from model_runner._core import Config, DataPlane, Route

# More than any load here, so that no request waits for a slot.
SLOTS = 4096


def main() -> None:
    """Serve until SIGTERM. Prints its address as one line of JSON when it listens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine-socket", type=Path, required=True)
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
        )
    )
    modes = ("completion", "embedding")
    plane.publish([bench_route(options.engine_socket, mode) for mode in modes])
    print(json.dumps(list(plane.addresses)), flush=True)
    signal.sigwait(stop_signals)
    plane.stop(1.0)


def bench_route(engine_socket: Path, mode: str) -> Route:
    """Requests for the model `bench` in one mode."""
    return Route(
        runner_id=f"bench-{mode}",
        socket_path=str(engine_socket),
        api_key="bench",
        slots=SLOTS,
        backend="llama.cpp",
        model="bench",
        model_id="sha256:" + "0" * 64,
        mode=mode,
        names=["bench"],
    )


if __name__ == "__main__":
    main()
