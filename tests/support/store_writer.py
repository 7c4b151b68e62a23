"""A program that uses a store, for tests that run several of them or kill them.

    python -m support.store_writer write ROOT PREFIX COUNT    writes models `ai/PREFIX-0` and so on
    python -m support.store_writer crash DIRECTORY            leaves stores `1`, `2`, … behind

`crash` writes, bundles and deletes models in as many stores as that takes operations that change
the disk. In store N it is killed by SIGKILL just before operation N. It prints how many.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_runner.store import Store
from support.stores import add_model

if TYPE_CHECKING:
    from collections.abc import Callable

_OPERATIONS = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir", "symlink", "chmod")


def write(root: Path, prefix: str, count: int) -> None:
    """Write models from as many threads at once, each with a store of its own."""

    def one(number: int) -> None:
        barrier.wait()
        name = f"ai/{prefix}-{number}"
        add_model(Store.open(root), name.encode(), b"shared", tags=[name])

    barrier = threading.Barrier(count)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crash(directory: Path) -> int:
    """Let a child die at each operation in turn; how many died."""
    for step in itertools.count(1):
        child = os.fork()
        if child == 0:
            _work_until(directory / str(step), step)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return step - 1
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError


def _work_until(root: Path, step: int) -> None:
    steps = itertools.count(1)

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return run

    # The page cache outlives a process: here, syncing would only take time.
    os.fsync = lambda _: None  # type: ignore[assignment]
    for name in _OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    work(root)


def work(root: Path) -> None:
    """What `crash` is interrupted in; it can be done again whatever was left."""
    store = Store.open(root)
    store.bundle(add_model(store, b"first", b"shared", tags=["ai/first"]))
    add_model(store, b"second", b"shared", tags=["ai/second", "ai/moved"])
    add_model(store, b"third", tags=["ai/moved"])
    store.delete("ai/first")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        print(crash(Path(sys.argv[2])))
