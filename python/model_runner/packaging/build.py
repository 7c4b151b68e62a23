"""Makes a package of weights that have been looked at, and of what goes with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import InvalidReference
from model_runner.packaging import cncf
from model_runner.packaging.artifact import Package, docker_config, trained_context, write
from model_runner.packaging.extras import Extras
from model_runner.packaging.layers import ingest
from model_runner.packaging.layout import with_layers
from model_runner.store import disk_errors, manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.packaging.layers import SourceFile
    from model_runner.store import Descriptor, Model, ModelConfig, Store, Writer

NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class Weights:
    """What a package is made of: files, or layers that are in the store already.

    Attributes:
        config: What the package says about the model.
        files: In the order of the layers.
        layers: As an alternative: blobs that are in the store, with what they say of their files.
        by_path: Whether files keep their paths (v0.2), or get fixed names by what they are (v0.1).
    """

    config: ModelConfig
    files: Sequence[SourceFile] = ()
    layers: Sequence[Descriptor] = ()
    by_path: bool = False


def package_weights(store: Store, weights: Weights, tag: str, extras: Extras = NO_EXTRAS) -> Model:
    """Make a model of weights that have been looked at.

    Args:
        store: Where the model goes.
        weights: What it is made of.
        tag: The model's name, in any spelling.
        extras: What goes along, and how the package is made.

    Raises:
        InvalidReference: The name is outside the grammar.
        InvalidRequest: Something in `extras` cannot be.
        UnsupportedModel: A file of `extras` is not what it should be.
        Conflict: The store is being emptied.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    check_name(tag)
    extras.check(weights.config)
    # What is brought is in no model before the end, and would be pruned.
    with disk_errors(store.root), store.writing() as writer:
        writer.needs({layer.digest: 0 for layer in weights.layers})
        return _package(store, writer, weights, tag, extras)


def _package(store: Store, writer: Writer, weights: Weights, tag: str, extras: Extras) -> Model:
    by_path = weights.by_path or extras.format == "cncf"
    files = [*weights.files, *extras.files(by_path=by_path)]
    ingested = ingest(
        store, writer, files, source_date_epoch=extras.source_date_epoch, report=extras.report
    )
    own, added = ingested[: len(weights.files)], ingested[len(weights.files) :]
    package = Package(
        config_type=manifests.CONFIG_V02 if weights.by_path else manifests.CONFIG_V01,
        config=docker_config(weights.config, _created(extras)),
        layers=(*weights.layers, *own),
    )
    package = replace(package, layers=with_layers(package, added, by_path=by_path))
    return finish(store, writer, package, tag, extras)


def check_name(tag: str) -> None:
    """Refuse what no model can be called, before gigabytes are copied.

    Raises:
        InvalidReference: It is outside the grammar, or pins a digest.
    """
    if names.parse(tag).digest:
        raise InvalidReference(tag, "a model is packaged under a name, not under a digest")


def finish(store: Store, writer: Writer, package: Package, tag: str, extras: Extras) -> Model:
    """Write a package that has all its layers, in the form and with the context that were chosen.

    Raises:
        InvalidReference: The name is outside the grammar.
        UnsupportedModel: No registry would take it.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    if extras.format == "cncf" and not package.is_cncf:
        package = cncf.from_docker(package)
    if extras.context_size is not None:
        package = with_context(package, extras.context_size)
    return write(store, writer, package.annotated(extras.annotations), tag)


def with_context(package: Package, size: int) -> Package:
    """The same with a context that somebody chose.

    Docker's configuration has a field for it, in which a chosen size cannot be told from the one
    that the model was trained for, if they are the same or the latter is not known. The CNCF's has
    none. In these cases it is noted in an annotation, which this program honours.
    """
    if package.is_cncf:
        return package.annotated({manifests.CONTEXT_SIZE: str(size)})
    config = package.config.get("config")
    fields = {**config, "context_size": size} if isinstance(config, dict) else {}
    trained = trained_context(fields.get("gguf"))
    ambiguous = size == trained or fields.get("format") != "gguf"
    note = str(size) if ambiguous else ""
    changed = replace(package, config={**package.config, "config": fields})
    return changed.annotated({manifests.CONTEXT_SIZE: note})


def _created(extras: Extras) -> datetime:
    if extras.created:
        return extras.created
    if extras.source_date_epoch is not None:
        return datetime.fromtimestamp(extras.source_date_epoch, timezone.utc)
    return datetime.now(timezone.utc)
