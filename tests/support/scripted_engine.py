"""An engine that does as it is told, for what real engines rarely do.

`python scripted_engine.py SOCKET OPTION…`; the options are in `main`.
"""

import argparse
import http.server
import os
import signal
import socketserver
import sys
import threading
from pathlib import Path


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    ready = threading.Event()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.send_response(200 if self.server.ready.is_set() else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


def _load(server: _Server, gate: Path | None) -> None:
    if gate is not None:
        gate.read_bytes()
    server.ready.set()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("--gate", type=Path, help="loading until the writer of this pipe closes")
    parser.add_argument("--fail", help="print this and end with status 1")
    parser.add_argument("--flood", type=int, default=0, help="print so many bytes first")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    options = parser.parse_args()
    if options.fail:
        print(options.fail)
        return 1
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = b"x" * 1023 + b"\n"
    for _ in range(options.flood // len(line)):
        os.write(1, line)
    with _Server(options.socket, _Handler) as server:
        threading.Thread(target=_load, args=(server, options.gate), daemon=True).start()
        server.serve_forever(poll_interval=10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
