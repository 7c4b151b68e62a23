"""The command `import`: models that are on this machine already, without a second copy."""

from __future__ import annotations

import filecmp
import shlex
from typing import TYPE_CHECKING

import click

from model_runner import names
from model_runner.cli.copying import copying
from model_runner.cli.output import byte_size, model_name, print_json, print_table
from model_runner.cli.settings import load_settings
from model_runner.errors import Conflict, InvalidReference, ModelNotFound

if TYPE_CHECKING:
    from model_runner.packaging import SourceFile
    from model_runner.packaging.neighbours import Found
    from model_runner.store import Model, Store


@click.command("import")
@click.argument("source", required=False)
@click.argument("name", required=False)
@click.option(
    "--link",
    is_flag=True,
    help="Share a file of your own or of LM Studio, too, instead of copying it. Do not edit it in "
    "place afterwards: that would change the model.",
)
@click.option("--list", "listing", is_flag=True, help="Show what other programs have, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --list: as JSON.")
def import_model(
    source: str | None, name: str | None, link: bool, listing: bool, as_json: bool
) -> None:
    """Make a model of a GGUF file that is on this machine already.

    SOURCE is a file or a directory, or a model of another program: ollama:llama3.2:3b,
    lmstudio:PUBLISHER/REPOSITORY or hf-cache:ORGANISATION/REPOSITORY, with :QUANTIZATION behind it
    if there are several. NAME is what the model is called here; if it is left out, what it is
    called there. No server is needed.

    The files of Ollama and of the Hugging Face cache are linked and take no room of their own;
    either program may remove its own.
    """
    if listing or as_json:
        if source:
            raise click.UsageError("--list shows everything: leave out SOURCE")
        _list(as_json=as_json)
        return
    if source is None:
        raise click.UsageError("say what to import, or --list to see what there is")
    _import(source, name, link=link)


def _import(source: str, name: str | None, *, link: bool) -> None:
    settings = load_settings()
    from model_runner.packaging.neighbours import Here, find, import_found
    from model_runner.store import Store

    registry = settings.default_registry
    if name is not None and names.is_id(name):
        raise InvalidReference(name, "a model is imported under a name, not under an ID")
    found = find(source, link=link)
    tag = _tag(found, name, registry)  # before a store is made for it
    store = Store.open(settings.models_path, default_registry=registry)
    before = _named(store, tag)
    with copying("Importing") as report:
        if name is None and before is not None:
            _refuse_other(store, before, found, tag)
        model = import_found(store, found, tag, report=report)
    click.echo(f"Imported {source} as {model_name(tag, default_registry=registry)}")
    click.echo(f"ID: {model.id}")
    linked = Here(store).state(found) == "linked"
    room = ", linked: it takes no room of its own" if linked else ""
    click.echo(f"Size: {byte_size(model.manifest.size)}{room}")
    for note in found.notes:
        click.echo(f"Note: {note}", err=True)


def _tag(found: Found, name: str | None, registry: str) -> str:
    if name is not None:
        return names.normalize(name, default_registry=registry)
    try:
        return names.normalize(found.name, default_registry=registry)
    except InvalidReference as error:
        reason = "so it is called there, and cannot be here"
        raise InvalidReference(found.name, reason, hint=_name_it(found)) from error


def _name_it(found: Found) -> str:
    return f"give it a name of its own: `model-runner import {shlex.quote(found.source)} NAME`"


def _named(store: Store, tag: str) -> Model | None:
    try:
        return store.get(tag)
    except ModelNotFound:
        return None


def _refuse_other(store: Store, model: Model, found: Found, tag: str) -> None:
    """A name that nobody chose is not taken from another model.

    Raises:
        Conflict: It would be.
    """
    if not all(_has(store, model, file) for file in found.files):
        raise Conflict(
            f"`{tag}` is another model already",
            hint=_name_it(found),
        )


def _has(store: Store, model: Model, file: SourceFile) -> bool:
    """Whether a model has a file. Models with the same tensors are of the same size."""
    try:
        size = file.path.stat().st_size
        same = {layer.digest for layer in model.manifest.layers if layer.size == size}
        if file.digest:
            return file.digest in same
        blobs = [store.blobs.path(digest) for digest in same if store.blobs.has(digest, size)]
        return any(filecmp.cmp(file.path, blob, shallow=False) for blob in blobs)
    except OSError:
        return True  # it cannot be read, which the import itself tells better


def _list(*, as_json: bool) -> None:
    settings = load_settings()
    from model_runner.packaging.neighbours import Here, list_all
    from model_runner.store import Store

    listing = list_all()
    store = None
    if (settings.models_path / "layout.json").exists():
        store = Store.open(settings.models_path, default_registry=settings.default_registry)
    here = Here(store)
    rows = [(found.source, found.size, here.state(found)) for found in listing.found]
    if as_json:
        print_json(
            [{"source": source, "size": size, "in_store": state} for source, size, state in rows]
        )
    elif rows:
        print_table(
            ("SOURCE", "SIZE", "IN STORE"),
            [(source, byte_size(size), state) for source, size, state in rows],
        )
    else:
        click.echo("Neither Ollama nor LM Studio nor the Hugging Face cache has a model here")
    for problem in listing.problems:
        click.echo(f"Note: {problem}", err=True)
