"""A server with a thread that holds the GIL on command.

    python -m support.gil_holder

Each line on standard input is a number of seconds for which a C call keeps the GIL. The line comes
back on standard error once it is over.
"""

from __future__ import annotations

import ctypes
import sys
import threading

from model_runner.app import serve
from model_runner.config import Settings


def hold_on_command() -> None:
    """Hold the GIL for as long as each line says."""
    # PyDLL, unlike CDLL, does not release the GIL around a call.
    library = ctypes.PyDLL(None)
    for line in sys.stdin:
        library.usleep(int(float(line) * 1e6))
        print("held", line.strip(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    threading.Thread(target=hold_on_command, daemon=True).start()
    sys.exit(serve(Settings(port=0)))
