"""The command on what was asked and answered: requests."""

from __future__ import annotations

import json
from contextlib import aclosing

import click

from model_runner.cli.calls import complete
from model_runner.cli.output import print_json


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with requests as they end, one a line.")
@click.option(
    "--include-existing", is_flag=True, help="With --follow: begin with those that are there."
)
@click.option("--model", metavar="MODEL", help="Only those of this model.")
def requests(follow: bool, include_existing: bool, model: str | None) -> None:
    """Show the last requests of each model and their answers, as JSON."""
    if include_existing and not follow:
        raise click.UsageError("--include-existing needs --follow")
    if follow:
        complete(_follow(model, existing=include_existing))
    else:
        print_json(complete(_recorded(model)))


async def _recorded(model: str | None) -> list[object]:
    from model_runner.client import Client

    async with Client() as client:
        return await client.recorded(model)


async def _follow(model: str | None, *, existing: bool) -> None:
    from model_runner.client import Client

    async with Client() as client:
        following = client.follow_requests(model, existing=existing)
        async with aclosing(following) as events:
            async for event in events:
                for record in event.records:
                    click.echo(json.dumps(record, ensure_ascii=False))
                if event.missed:
                    click.echo(f"missed {event.missed} requests: too slow for them", err=True)
