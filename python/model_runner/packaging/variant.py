"""Makes a model of one that is in the store: with another context, other texts, further files.

The weights are shared. What the package says is kept, and so is its form.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from model_runner.errors import InvalidRequest, UnsupportedModel
from model_runner.packaging import cncf
from model_runner.packaging.artifact import Package
from model_runner.packaging.build import NO_EXTRAS, check_name, finish
from model_runner.packaging.layers import ingest
from model_runner.packaging.layout import with_layers
from model_runner.store import disk_errors, manifests
from model_runner.store.modelfile import NUM_CTX

if TYPE_CHECKING:
    from model_runner.packaging.extras import Extras
    from model_runner.store import Model, Store, Writer


def package_variant(store: Store, source: str, tag: str, extras: Extras = NO_EXTRAS) -> Model:
    """Make a variant of a model. Without any extras it is the same model under another name.

    Args:
        store: Where both are.
        source: The model, by any of its names or IDs.
        tag: The variant's name, in any spelling.
        extras: What is different. A template or a projector takes the place of the model's; any
            other file that of one with its name.

    Raises:
        InvalidReference: A name is outside the grammar.
        InvalidRequest: Something in `extras` cannot be, as Docker's form for a package of the
            CNCF's.
        ModelNotFound: There is no such model.
        Conflict: The store is being emptied.
        UnsupportedModel: A file of `extras` is not what it should be.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    check_name(tag)
    # What is brought is in no model before the end, and would be pruned.
    with disk_errors(store.root), store.writing() as writer:
        return _package(store, writer, source, tag, extras)


def _package(store: Store, writer: Writer, source: str, tag: str, extras: Extras) -> Model:
    model = store.get(source)
    writer.needs({blob.digest: 0 for blob in model.manifest.blobs})
    store.get(model.id)  # still there: from now on its files are
    extras.check(model.config)
    package = _opened(store, model)
    if package.is_cncf and extras.format == "docker":
        raise InvalidRequest(
            f"model `{source}` has the CNCF's format, which says too little for Docker's",
            hint="keep it, for Docker's tools read it, too; or package the files anew",
        )
    by_path = model.manifest.keeps_paths or extras.format == "cncf"
    added = ingest(
        store,
        writer,
        extras.files(by_path=by_path),
        source_date_epoch=extras.source_date_epoch,
        report=extras.report,
    )
    if package.is_cncf:
        added = cncf.layers(added, by_path=True)
    changed = replace(package, layers=with_layers(package, added, by_path=by_path))
    return finish(store, writer, changed.annotated(_record(model, extras)), tag, extras)


def _record(model: Model, extras: Extras) -> dict[str, str]:
    """What was said of the model in Ollama's way, without what is not so any more."""
    record = model.config.modelfile
    if extras.chat_template:
        record = replace(record, template="", system="", messages=())
    if extras.context_size and NUM_CTX in record.parameters:
        parameters = {**record.parameters, NUM_CTX: extras.context_size}
        record = replace(record, parameters=parameters)
    return {manifests.MODELFILE: record.encode()}


def _opened(store: Store, model: Model) -> Package:
    """A package with all that it says, also what this program does not know."""
    manifest = model.manifest
    try:
        config = json.loads(store.blobs.read(manifest.config.digest))
        json.dumps(config, allow_nan=False)
    except ValueError as error:
        raise UnsupportedModel(f"the model's configuration is not JSON: {error}") from error
    return Package(
        config_type=manifest.config.media_type,
        config=config,
        layers=manifest.layers,
        artifact_type=manifest.artifact_type,
        annotations=manifest.annotations,
    )
