"""The commands `save` and `load`: models as files, for machines without a network."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO

import click

from model_runner.cli.calls import complete
from model_runner.cli.copying import copying
from model_runner.cli.output import byte_size, model_name, short_id
from model_runner.cli.settings import default_registry
from model_runner.errors import InvalidRequest, ModelRunnerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from model_runner.client import Download, LoadedModel

    Report = Callable[[str, int, int], None] | None

_PIECE_BYTES = 1 << 20


@click.command()
@click.argument("model")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="-",
    help="Where to write; by default, or for `-`, standard output.",
)
def save(model: str, output: str) -> None:
    """Write a model to a tar archive, for `load` on another machine.

    Saved by a name, it gets that name there again; saved by its ID, it has none.
    """
    if output == "-":
        if sys.stdout.isatty():
            raise InvalidRequest(
                "an archive is not for a terminal",
                hint="name a file with `-o FILE`, or redirect the output",
            )
        complete(_save(model, sys.stdout.buffer))
        return
    path = Path(output)
    with _replaced(path) as file:
        written = complete(_save(model, file))
    click.echo(f"Saved {model} to {output} ({byte_size(written)})")


@click.command()
@click.option(
    "-i",
    "--input",
    "source",
    metavar="FILE",
    default="-",
    help="What to read; by default, or for `-`, standard input.",
)
@click.option(
    "-t",
    "--tag",
    "tags",
    metavar="NAME",
    multiple=True,
    help="A name for the model, instead of those that the archive says; repeatable.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only the ID of the model.")
def load(source: str, tags: tuple[str, ...], quiet: bool) -> None:
    """Add the model of a tar archive that `save` has written.

    It may be compressed with gzip. OCI archives with one model, as `skopeo copy` writes them, are
    taken, too.
    """
    if source == "-":
        if sys.stdin.isatty():
            raise InvalidRequest(
                "an archive is not typed in",
                hint="name a file with `-i FILE`, or redirect the input",
            )
        loaded = complete(_load(sys.stdin.buffer, "standard input", tags))
    else:
        with _reading(Path(source)) as file:
            loaded = complete(_load(file, Path(source).name, tags))
    _tell(loaded, quiet=quiet)


def _tell(loaded: LoadedModel, *, quiet: bool) -> None:
    if quiet:
        click.echo(loaded.id)
        return
    if loaded.tags:
        registry = default_registry()
        shown = ", ".join(model_name(tag, default_registry=registry) for tag in loaded.tags)
        click.echo(f"Loaded {shown}")
    else:
        short = short_id(loaded.id)
        click.echo(f"Loaded a model without a name; `model-runner tag {short} NAME` gives it one")
    click.echo(f"ID: {loaded.id}")


async def _save(model: str, file: IO[bytes]) -> int:
    from model_runner.client import Client

    async with Client() as client, client.export(model) as download:
        with copying("Saving") as report:
            return await _receive(download, file, model, report)


async def _receive(download: Download, file: IO[bytes], name: str, report: Report) -> int:
    """Write what arrives, in pieces that are worth calling a thread for."""
    import asyncio

    gathered, written = bytearray(), 0
    async for piece in download.pieces:
        gathered += piece
        if len(gathered) >= _PIECE_BYTES:
            await asyncio.to_thread(_write, file, gathered)
            written += len(gathered)
            gathered = bytearray()
            if report:
                report(name, written, download.size or 0)
    await asyncio.to_thread(_write, file, gathered)
    return written + len(gathered)


def _write(file: IO[bytes], data: bytearray) -> None:
    file.write(data)
    file.flush()


async def _load(file: BinaryIO, name: str, tags: Sequence[str]) -> LoadedModel:
    from model_runner.client import Client

    status = os.fstat(file.fileno())
    size = status.st_size - file.tell() if stat.S_ISREG(status.st_mode) else None
    with copying("Loading") as report:
        async with Client() as client:
            return await client.load(_pieces(file, name, size, report), size=size, tags=tags)


async def _pieces(
    file: BinaryIO, name: str, size: int | None, report: Report
) -> AsyncIterator[bytes]:
    import asyncio

    done = 0
    while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
        yield piece
        done += len(piece)
        if report:
            report(name, done, size or 0)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unusable("read", path, error) from error
    with file:
        yield file


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` only if all of it was written.

    What is no regular file, such as a pipe, is written to as it is. A link stays one.
    """
    real = Path(os.path.realpath(path))
    # Of the same length whatever the name, which may be as long as names can be.
    temporary = real.with_name(f".save.tmp-{secrets.token_hex(8)}")
    try:
        if os.path.lexists(real) and not real.is_file():
            with real.open("wb") as file:
                yield file
            return
        with temporary.open("xb") as file:
            yield file
            os.fsync(file.fileno())
        temporary.replace(real)
    except OSError as error:
        raise _unusable("write", path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _unusable(what: str, path: Path, error: OSError) -> ModelRunnerError:
    reason = (error.strerror or str(error)).lower()
    return ModelRunnerError(f"cannot {what} `{path}`: {reason}")
