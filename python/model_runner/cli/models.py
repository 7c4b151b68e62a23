"""The commands on models in the store: pull, list, rm."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from model_runner import names
from model_runner.cli.calls import complete, fetch_list
from model_runner.cli.group import report
from model_runner.cli.output import duration, model_name, print_json, print_table, short_id
from model_runner.cli.settings import default_registry
from model_runner.cli.transfers import transfer, transfer_raw
from model_runner.errors import ModelRunnerError, ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.client import Client, ModelEntry

_UNTAGGED = "<none>"
_HEADERS = (
    "MODEL NAME",
    "PARAMETERS",
    "QUANTIZATION",
    "ARCHITECTURE",
    "MODEL ID",
    "CREATED",
    "CONTEXT",
    "SIZE",
)
# Where those are too wide: 100 columns are enough for usual names then.
_NARROW_HEADERS = ("MODEL NAME", "PARAMS", "QUANT", "ARCH", "MODEL ID", "AGE", "CONTEXT", "SIZE")


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True, help="Print only the full name of each model.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's events, a line each.")
@click.pass_context
def pull(ctx: click.Context, models: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Download models.

    MODEL is like ai/smollm2 or registry.example.com/org/model:tag. A download that breaks off is
    tried again, up to four times, and goes on where it was.
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    exit_codes = [_pull_one(model, quiet=quiet, as_json=as_json) for model in models]
    ctx.exit(next((code for code in exit_codes if code), 0))


def _pull_one(model: str, *, quiet: bool, as_json: bool) -> int:
    """Pull, and report a failure: the others may fare better."""
    try:
        if as_json:
            complete(transfer_raw("pull", model, sys.stdout))
            return 0
        if not quiet:
            click.echo(f"Pulling {model}")
        message = complete(transfer("pull", model, sys.stdout, quiet=quiet))
        click.echo(_full_name(model) if quiet else message)
    except ServerUnreachable:
        raise
    except ModelRunnerError as error:
        report(error)
        return error.exit_code
    return 0


def _full_name(model: str) -> str:
    """The name by which a model is in the store after a pull."""
    registry = default_registry()
    if names.is_hub(model, default_registry=registry):
        return names.parse_hub(model, default_registry=registry).tag
    return names.normalize(model, default_registry=registry)


_FILTERS = ("reference", "format", "architecture", "quantization", "dangling")


@click.command("list")
@click.argument("model", required=False)
@click.option(
    "--filter",
    "filters",
    metavar="KEY=VALUE",
    multiple=True,
    help=f"Only those with {', '.join(_FILTERS[:-1])} or {_FILTERS[-1]}=true; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what the server knows, as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the short ID of each model.")
def list_models(model: str | None, filters: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """List the models that are on this machine (also: ls).

    MODEL is a name, with a tag or for all tags; `*` and `?` in it stand for anything.
    """
    from model_runner.client import ModelEntry

    document = complete(fetch_list(f"/models{_query(model, filters)}"))
    if as_json:
        print_json(document)
        return
    models = [ModelEntry.from_json(entry) for entry in document]
    if quiet:
        for entry in models:
            click.echo(short_id(entry.id))
        return
    registry = default_registry()
    rows = [row for entry in models for row in _rows(entry, model, registry)]
    # Untagged models come last.
    rows.sort(key=lambda row: (row[0] == _UNTAGGED, row))
    print_table(_HEADERS, rows, narrow=[_NARROW_HEADERS, *map(_narrowed, rows)])
    for entry in models:
        if entry.missing:
            warn_of_missing(entry, registry)


def _query(model: str | None, filters: Sequence[str]) -> str:
    """The filters as the server takes them."""
    pairs = [("reference", model)] if model else []
    for given in filters:
        key, equals, value = given.partition("=")
        if not equals or key not in _FILTERS:
            raise click.UsageError(f"`{given}` is no filter: there are {', '.join(_FILTERS)}")
        pairs.append((key, value))
    return f"?{urlencode(pairs)}" if pairs else ""


def warn_of_missing(model: ModelEntry, registry: str) -> None:
    """Say on stderr that a model cannot be used as it is, and what helps."""
    shown = model_name([*model.tags, model.id][0], default_registry=registry)
    files = "1 file" if len(model.missing) == 1 else f"{len(model.missing)} files"
    remedy = (
        f"`model-runner pull {shown}` fetches what is missing"
        if model.tags
        else f"`model-runner rm {shown}` removes it"
    )
    click.echo(f"Warning: {files} of {shown} missing or damaged; {remedy}", err=True)


def _rows(model: ModelEntry, wanted: str | None, registry: str) -> list[tuple[str, ...]]:
    """One row for each tag, or for those that are wanted, if the model was not found by its ID."""
    created = f"{duration(max(0.0, time.time() - model.created))} ago" if model.created else ""
    columns = (
        model.parameters,
        model.quantization,
        model.architecture,
        short_id(model.id),
        created,
        str(model.context_size or ""),
        model.size,
    )
    chosen = [
        t for t in model.tags if wanted and names.matches(wanted, t, default_registry=registry)
    ]
    shown = [model_name(tag, default_registry=registry) for tag in chosen or model.tags]
    return [(name, *columns) for name in shown or [_UNTAGGED]]


def _narrowed(row: tuple[str, ...]) -> tuple[str, ...]:
    """The same without what goes without saying."""
    name, parameters, quantization, architecture, short, created, context, size = row
    return (
        name,
        parameters,
        quantization.removeprefix("MOSTLY_"),
        architecture,
        short,
        created.removesuffix(" ago"),
        context,
        size,
    )


@click.command("rm")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="Also remove one that is answering requests, which ends them, and by its ID one with "
    "several tags.",
)
@click.pass_context
def remove(ctx: click.Context, models: tuple[str, ...], force: bool) -> None:
    """Remove models.

    A model that has several tags only loses the one that is named.
    """
    ctx.exit(complete(_remove(models, force=force)))


async def _remove(models: tuple[str, ...], *, force: bool) -> int:
    """Remove each of them; the exit code of the first failure, or 0."""
    from model_runner.client import Client

    async with Client() as client:
        exit_codes = [await _remove_one(client, model, force=force) for model in models]
    return next((code for code in exit_codes if code), 0)


async def _remove_one(client: Client, model: str, *, force: bool) -> int:
    try:
        removals = await client.remove(model, force=force)
    except ServerUnreachable:
        raise  # the others would fare no better
    except ModelRunnerError as error:
        report(error)
        return error.exit_code
    for removal in removals:
        click.echo(f"{removal.action}: {removal.subject}")
    return 0
