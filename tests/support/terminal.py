"""A program in a real terminal: type to it, and wait for what it shows."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A child process whose stdin, stdout and stderr are one terminal."""

    def __init__(self, argv, env, *, columns=100):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        # A session of its own, so that ^C is a signal to the child and to nobody else.
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, close_fds=True,
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )  # fmt: skip
        os.close(slave)
        self.raw = ""

    @property
    def shown(self):
        """Everything so far, without colours and cursor movements."""
        return _CONTROL.sub("", self.raw).replace("\r\n", "\n")

    def type(self, text):
        os.write(self._master, text.encode())

    def expect(self, text, *, after="", timeout=30.0):
        """Wait until `text` is shown behind `after`."""
        deadline = time.monotonic() + timeout
        while text not in (self.shown.rpartition(after)[2] if after else self.shown):
            if not self._receive(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} was not shown, but:\n{self.shown}")

    def wait(self, timeout=30.0):
        """Read to the end; the exit code."""
        deadline = time.monotonic() + timeout
        while self._receive(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.0, deadline - time.monotonic()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _receive(self, timeout):
        ready, _, _ = select.select([self._master], [], [], max(0.0, timeout))
        received = b""
        with contextlib.suppress(OSError):  # EIO: the child has closed its end
            received = os.read(self._master, 65536) if ready else b""
        self.raw += received.decode("utf-8", "replace")
        return bool(received)
