"""The commands on the server itself: status, version."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import click

from model_runner import __version__
from model_runner.cli.calls import complete
from model_runner.cli.output import print_json, print_table
from model_runner.errors import ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.client import Address

# Docker's names for what Python calls x86_64 and aarch64.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_STATES = ("Running", "Error", "Not Installed", "Installing")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show whether the server runs, and its engines.

    The exit code is 3 when it does not run.
    """
    from model_runner.client import Address

    address = Address.from_environment()
    try:
        backends = complete(_backends())
    except ServerUnreachable as error:
        if not as_json:
            raise
        print_json(_document(address, None))
        ctx.exit(error.exit_code)
    if as_json:
        print_json(_document(address, backends))
        return
    click.echo(f"model-runner is running at {address}\n")
    print_table(("BACKEND", "STATUS", "DETAILS"), sorted(map(_row, backends.items()), key=_order))


async def _backends() -> dict[str, str]:
    from model_runner.client import Client

    async with Client() as client:
        return await client.backends()


def _document(address: Address, backends: dict[str, str] | None) -> dict[str, object]:
    """Docker Model Runner's keys; `endpoint` is the base of the OpenAI API."""
    endpoint = str(address) if address.socket else f"{address.url}/engines/v1/"
    return {
        "running": backends is not None,
        "backends": backends or {},
        "kind": "model-runner",
        "endpoint": endpoint,
        "endpointHost": endpoint,
    }


def _row(backend: tuple[str, str]) -> tuple[str, str, str]:
    name, text = backend
    state, _, details = text.partition(":")
    return name, state.strip(), details.strip()


def _order(row: Sequence[str]) -> tuple[int, str]:
    name, state, _ = row
    return (_STATES.index(state) if state in _STATES else len(_STATES)), name


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def version(as_json: bool) -> None:
    """Show the versions of this program and of the server."""
    system, machine = platform.system().lower(), platform.machine()
    system_and_machine = f"{system}/{_ARCHITECTURES.get(machine.lower(), machine.lower())}"
    try:
        server = complete(_server_version())
    except ServerUnreachable:
        server = None
    if as_json:
        client = {"version": __version__, "platform": system_and_machine}
        print_json({"client": client, "server": {"version": server} if server else None})
        return
    click.echo(f"Client:\n Version:  {__version__}\n OS/Arch:  {system_and_machine}\n")
    click.echo(f"Server:\n Version:  {server or '(not reachable)'}")


async def _server_version() -> str:
    from model_runner.client import Client

    async with Client() as client:
        return await client.version()
