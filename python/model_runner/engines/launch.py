"""Becomes an engine process that cannot outlive the server that started it.

Run as `python -I -S launch.py PARENT_PID -- COMMAND ARGUMENT…`, with nothing but the standard
library. It is a program of its own, because the server has Rust threads: Python code between fork
and exec could deadlock there, and PR_SET_PDEATHSIG, once set, survives the exec.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> int:
    """Prepare this process and turn it into the command.

    Returns:
        The exit status if that was not possible: 2 wrong usage, 127 no such command, 1 our parent
        is gone.
    """
    if len(arguments) < 3 or arguments[1] != "--":
        print("usage: launch.py PARENT_PID -- COMMAND [ARGUMENT…]", file=sys.stderr)
        return 2
    command = arguments[2:]
    if sys.platform == "linux" and not _die_with(int(arguments[0])):
        return 1
    # Ctrl-C in the server's terminal is for the server, which drains before it stops its engines.
    os.setsid()
    _reset_signals()
    try:
        os.execve(command[0], command, os.environ)  # noqa: S606 - no shell is the point
    except OSError as error:
        print(f"error: cannot start `{command[0]}`: {error.strerror}", file=sys.stderr)
        return 127


def _die_with(parent: int) -> bool:
    """Ask the kernel to kill us when our parent dies; say whether it is still there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        print(f"error: prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return False
    # A parent that died before the call above is never reported.
    return os.getppid() == parent


def _reset_signals() -> None:
    """Undo what Python ignores (SIGPIPE, SIGXFSZ): ignored and blocked signals survive an exec."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
