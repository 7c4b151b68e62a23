"""The command `package`, which works on the local store and needs no server."""

from __future__ import annotations

from pathlib import Path

import click

from model_runner import names
from model_runner.cli.output import model_name, waiting
from model_runner.cli.settings import load_settings
from model_runner.errors import InvalidReference

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("name")
@click.option("--gguf", type=_FILE, required=True, help="The model; of several shards, the first.")
@click.option(
    "-l", "--license", "licenses", type=_FILE, multiple=True, help="A licence file; repeatable."
)
@click.option("--chat-template", type=_FILE, help="A Jinja template, instead of the model's own.")
@click.option("--context-size", type=click.IntRange(1), metavar="N", help="Tokens of context.")
def package(
    name: str,
    gguf: Path,
    licenses: tuple[Path, ...],
    chat_template: Path | None,
    context_size: int | None,
) -> None:
    """Put a GGUF file into the model store.

    NAME is like ai/mine or registry.example.com/org/mine:tag. No server is needed.
    """
    if names.is_id(name):
        raise InvalidReference(name, "a model is packaged under a name, not under an ID")
    settings = load_settings()
    from model_runner.packaging import Extras, package_gguf
    from model_runner.store import Store

    registry = settings.default_registry
    tag = names.normalize(name, default_registry=registry)
    store = Store.open(settings.models_path, default_registry=registry)
    with waiting(f"Packaging {gguf.name}"):
        model = package_gguf(store, gguf, tag, Extras(licenses, chat_template, context_size))
    click.echo(f"Packaged {gguf.name} as {model_name(tag, default_registry=registry)}")
    click.echo(f"ID: {model.id}")
