"""The embedded engine: llama.cpp's server out of a wheel, behind llama-server's command line.

`python -m model_runner.engines.embedded -m model.gguf --host x.sock …` takes llama-server's
spellings and answers with its exit codes: 0 for a clean stop, 1 for a bad argument or a model that
does not load. The wheel is `xllamacpp`. A flag that the binding cannot express is refused, never
dropped. It is a process of its own because an abort in C++ ends the interpreter, and because the
binding's destructor holds the GIL.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.engines.embedded_flags import OPTIONS, RERANKING, SWITCHES, Option, Switch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

# Requests in flight get this long after SIGTERM. Streams are cancelled at once; answers that are
# not streamed are waited for by the binding.
_STOP_SECONDS = 5.0
_INFORMATION = ("--help", "--version", "--list-devices")


class UsageError(Exception):
    """A command line that cannot be obeyed, in llama-server's words where it has some."""


class Parameters:
    """The binding's `CommonParams`, filled from a command line."""

    def __init__(self) -> None:
        self._binding = importlib.import_module("xllamacpp")
        self.native = self._binding.CommonParams()
        self._added: dict[str, list[object]] = {}
        self._options = {flag: option for option in OPTIONS for flag in option.spellings.split()}
        self._switches = {flag: switch for switch in SWITCHES for flag in switch.spellings.split()}

    def parse(self, arguments: Sequence[str]) -> None:
        """Take llama-server's flags.

        Raises:
            UsageError: One of them is unknown, or has no value or a wrong one.
        """
        words = iter(arguments)
        for word in words:
            flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            if flag in RERANKING:
                self.native.embedding = True
                self.native.pooling_type = (
                    self._binding.llama_pooling_type.LLAMA_POOLING_TYPE_RANK.value
                )
            elif switch := self._switches.get(flag):
                self._assign(switch.attribute, switch.value)
            elif option := self._options.get(flag):
                self._set(flag, option, value if equals else _next_value(flag, words))
            else:
                raise UsageError(f"error: invalid argument: {flag}")
        if not self.native.model.path:
            raise UsageError("error: --model is required")
        # llama-server does the same: an embedding input is one physical batch.
        if self.native.embedding and self.native.n_batch > self.native.n_ubatch:
            self.native.n_batch = self.native.n_ubatch

    def sockets(self) -> list[Path]:
        """The Unix sockets among the addresses to listen on."""
        return [Path(host) for host in self.native.hostnames if host.endswith(".sock")]

    def _set(self, flag: str, option: Option, text: str) -> None:
        try:
            value = option.convert(text)
            if option.adds and isinstance(value, list):
                added = self._added.setdefault(option.attributes, [])
                added += value
                value = list(added)  # the binding empties the list that it is given
            for attribute in option.attributes.split():
                self._assign(attribute, value)
        except KeyError as error:
            raise UsageError(
                f'error while handling argument "{flag}": unknown value {error}'
            ) from error
        except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            raise UsageError(f'error while handling argument "{flag}": {error}') from error

    def _assign(self, attribute: str, value: object) -> None:
        *parents, name = attribute.split(".")
        target = self.native
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, name, value)


def _next_value(flag: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None:
        raise UsageError(f"error: expected value for argument {flag}")
    return value


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal says stop; return the exit status."""
    for flag in arguments:
        if flag in ("-h", *_INFORMATION):
            print(_information(flag))
            return 0
    parameters = Parameters()
    # By environment, so that the key is not in the list of processes.
    key = os.environ.get("LLAMA_API_KEY")
    if key:
        parameters.native.api_keys = [key]
    try:
        parameters.parse(arguments)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1
    return _serve(parameters)


def _information(flag: str) -> str:
    if flag == "--version":
        return f"version: {importlib.metadata.version('xllamacpp')} (embedded, xllamacpp)"
    if flag == "--list-devices":
        return "Available devices:\n" + ("\n".join(_devices()) or "  (none)")
    entries: list[Option | Switch] = [*OPTIONS, *SWITCHES]
    spellings = [", ".join(entry.spellings.split()) for entry in entries]
    return "\n".join([*spellings, ", ".join(RERANKING), ", ".join(_INFORMATION)])


def _devices() -> list[str]:
    """Devices other than the processor, in the form of llama-server's list."""
    binding = importlib.import_module("xllamacpp")
    cpu = binding.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    return [
        f"  {device['name']}: {device['description']} "
        f"({device['memory_total'] >> 20} MiB, {device['memory_free'] >> 20} MiB free)"
        for device in binding.get_device_info()
        if device["type"] != cpu
    ]


def _serve(parameters: Parameters) -> int:
    _unlink(parameters.sockets())  # a stale socket makes bind fail
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_DFL
        )  # C++ loads the model now: no Python handler could run
    try:
        server = importlib.import_module("xllamacpp").Server(parameters.native)
    except (RuntimeError, ValueError) as error:
        # The reason is in the log above; this line says that there is nothing more to come.
        print(f"error: the model was not loaded: {error}", file=sys.stderr)
        return 1
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(1)  # a second signal, as with llama-server
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    stop.wait()
    _unlink(parameters.sockets())
    # The destructor waits for answers in flight while it holds the GIL: only the kernel can put an
    # end to that.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, _STOP_SECONDS)
    del server
    return 0


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the interpreter's own end would wait for threads of the C++ library
