"""The model store: content-addressed, locked, durable, and readable by Docker Model Runner.

Everything here blocks on the disk and is safe to call from any thread; from an event loop use
`asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import (
    Conflict,
    InvalidReference,
    ModelNotFound,
    StoreError,
    UnsupportedModel,
)
from model_runner.store.blobs import BlobStore
from model_runner.store.bundles import Bundle, BundleStore
from model_runner.store.files import disk_errors, is_read_only, write_atomic
from model_runner.store.index import Entry, Index
from model_runner.store.inventory import References
from model_runner.store.layout import Layout, digest_hex, is_digest, prepare
from model_runner.store.manifests import Descriptor, Manifest, parse_manifest, sha256
from model_runner.store.models import (
    ConfigDescription,
    ConfigFile,
    Model,
    ModelConfig,
    ModelDescription,
    parse_config,
)
from model_runner.store.pruning import Pruned, PruneOptions, Pruning
from model_runner.store.purging import purge
from model_runner.store.uploads import Uploads
from model_runner.store.usage import ModelUsage, Usage, measure
from model_runner.store.verification import Finding, Step, Verification
from model_runner.store.writers import Writer, Writers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from model_runner.store.index import Snapshot

__all__ = [
    "BlobStore",
    "Bundle",
    "ConfigDescription",
    "Descriptor",
    "Entry",
    "Finding",
    "Manifest",
    "Model",
    "ModelConfig",
    "ModelDescription",
    "ModelUsage",
    "PruneOptions",
    "Pruned",
    "Step",
    "Store",
    "Usage",
    "Verification",
    "Writer",
    "disk_errors",
    "parse_manifest",
]

logger = logging.getLogger(__name__)

# A bundle without a model is left alone for so long, lest a process that is adding it be disturbed.
_ORPHAN_SECONDS = 3600

# Inside the class, `list` is a method.
Entries = list[Entry]
Deletions = list[dict[str, str]]
Descriptions = list[ModelDescription]
PruneResults = list[Pruned]

# The beginning of an ID, as `POST /models/{name}/tag` takes it.
_ID_PREFIX = re.compile(r"sha256:[0-9a-f]{1,63}")


class Store:
    """The models of one directory.

    Attributes:
        root: The directory.
        blobs: Its content-addressed files.
        uploads: Which of them were sent for a model that is yet to be made.
        default_registry: The registry of names that leave it out.
    """

    def __init__(self, layout: Layout, default_registry: str, scratch: Path | None) -> None:
        self.root = layout.root
        self._layout = layout
        self._writers = Writers(layout)
        self.blobs = BlobStore(layout, self._writers)
        self.default_registry = default_registry
        self._index = Index(layout, default_registry)
        self._bundles = BundleStore(layout, self.blobs)
        self.uploads = Uploads(layout, self.prune)
        self._scratch = BundleStore(Layout(scratch), self.blobs) if scratch else None
        self._all_bundles = [each for each in (self._bundles, self._scratch) if each]
        # Manifests and configurations are named by digest: once read, they cannot change.
        self._contents: dict[str, tuple[Manifest, ConfigFile]] = {}

    @classmethod
    def open(
        cls,
        root: Path,
        *,
        default_registry: str = names.DOCKER_HUB,
        scratch: Path | None = None,
    ) -> Store:
        """Open a store, and make the directory one if it is empty or missing.

        Args:
            root: The directory.
            default_registry: The registry of names that leave it out.
            scratch: Where bundles of a store go that this user may only read; None: nowhere.

        Raises:
            StoreError: It cannot be used, or is the directory of something else.
        """
        layout = Layout(Path(root))
        with disk_errors(layout.root):
            prepare(layout)
        store = cls(layout, default_registry, scratch)
        store._index.create()
        store._sweep_bundles()
        with contextlib.suppress(StoreError):  # a store that may only be read
            store.uploads.prune()
        return store

    def generation(self) -> int:
        """A number that changes with the index, whoever changed it. Costs one `stat`."""
        return self._index.snapshot().generation

    def writing(self) -> AbstractContextManager[Writer]:
        """Be a writer: until the end of this, nothing is pruned that is in no model yet.

        For whoever brings the files of a model one by one; entering it blocks for moments. What it
        says that it needs is not removed with other models, either.

        Raises:
            OSError: The store cannot be written.
        """
        return self._writers.writing()

    def list(self) -> list[Model]:
        """All models in the order they came; unreadable ones are skipped with a warning."""
        models = map(self._readable, self._index.snapshot().entries)
        return [model for model in models if model]

    def describe(self) -> Descriptions:
        """All models in the order they came, as `GET /models` shows them.

        Those of which a file is missing say so; of one whose configuration cannot be read, that is
        all that can be said.
        """
        return [self._describe(entry) for entry in self._index.snapshot().entries]

    def _describe(self, entry: Entry) -> ModelDescription:
        model = self._readable(entry)
        if model is None:
            described = ModelDescription(id=entry.id, created=0, config={})
            if entry.tags:
                described["tags"] = [*entry.tags]
            described["missing"] = [*self._missing(entry)] or [entry.id]
            return described
        return self.describe_model(model)

    def describe_model(self, model: Model) -> ModelDescription:
        """One of its models, as `GET /models/{name}` shows it."""
        described = model.describe()
        lost = {b.digest for b in model.manifest.blobs if not self.blobs.has(b.digest, b.size)}
        if lost:
            described["missing"] = sorted(lost)
        return described

    def entries(self) -> Sequence[Entry]:
        """All models in the order they came, whether or not their files can be read."""
        return self._index.snapshot().entries

    def modified(self, model_id: str) -> float:
        """When a model came here, in Unix seconds; 0 if its manifest is gone."""
        try:
            return (self._layout.manifests / digest_hex(model_id)).stat().st_mtime
        except (OSError, ValueError, StoreError):
            return 0.0

    def resolve(self, reference: str) -> Entry:
        """The entry of a model in the index, whether or not its files can be read.

        Raises:
            InvalidReference: The name is outside the grammar, or the short ID fits several models.
            ModelNotFound: There is none.
        """
        return self._entry(reference, self._index.snapshot())

    def resolve_loosely(self, name: str) -> Entry:
        """As `resolve`, else by the beginning of an ID, or by the last component of a name.

        Raises:
            InvalidReference: The name is outside the grammar, or an ID that fits several models.
            ModelNotFound: There is none.
        """
        if _ID_PREFIX.fullmatch(name.strip()):
            found = _by_id(name.strip(), self._index.snapshot())
            if found is None:
                raise ModelNotFound(name)
            return found
        try:
            return self.resolve(name)
        except ModelNotFound:
            for entry in self._index.snapshot().entries:
                if any(_last_component(tag) == name for tag in entry.tags):
                    return entry
            raise

    def get(self, reference: str) -> Model:
        """The model of a name, a digest or an ID.

        Raises:
            InvalidReference: The name is outside the grammar, or the short ID fits several models.
            ModelNotFound: There is none.
            StoreError: Its files are missing or damaged.
        """
        return self._model(self._entry(reference, self._index.snapshot()))

    def find(self, name: str) -> Model:
        """As `get`, else by the beginning of an ID, or by the last component of a name.

        Raises:
            InvalidReference: The name is outside the grammar, or the short ID fits several models.
            ModelNotFound: There is none.
            StoreError: Its files are missing or damaged.
        """
        return self._model(self.resolve_loosely(name))

    def write(self, manifest: bytes, *, tags: Sequence[str]) -> Model:
        """Add a model whose layers and configuration are all here. Its tags move to it.

        Args:
            manifest: Its bytes, which make the ID.
            tags: Names in any spelling. One that only pins a digest adds no tag.

        Raises:
            InvalidReference: A tag is outside the grammar.
            UnsupportedModel: The manifest or the configuration is none that this program knows.
            StoreError: A blob is missing, or the disk refused.
        """
        parsed = parse_manifest(manifest)
        canonical = [tag for tag in map(self._tag, tags) if tag]
        with self._index.change() as entries:
            # Under the lock, since a deletion elsewhere might be taking blobs that we share.
            self._verify(parsed)
            path = self._layout.manifests / digest_hex(parsed.id)
            if not path.exists() or path.read_bytes() != manifest:
                write_atomic(path, manifest)
            if not any(entry.id == parsed.id for entry in entries):
                files = tuple(blob.digest for blob in parsed.blobs)
                entries.append(Entry(parsed.id, (), files))
            for tag in canonical:
                self._move_tag(entries, parsed.id, tag)
        return self.get(parsed.id)

    def add_tag(self, model_id: str, tag: str) -> None:
        """Give a model a further name; a model that had it loses it.

        Raises:
            InvalidReference: The tag is outside the grammar, or pins a digest.
            ModelNotFound: There is no such model.
            StoreError: The disk refused.
        """
        canonical = self._tag(tag)
        if canonical is None:
            raise InvalidReference(tag, "a digest is no tag")
        with self._index.change() as entries:
            entry = self._entry(model_id, self._index.snapshot())
            self._move_tag(entries, entry.id, canonical)

    def delete(self, reference: str, *, force: bool = False) -> Deletions:
        """Remove a tag, and with its last tag the model; or a model by ID.

        Args:
            reference: A tag removes that tag. An ID or a digest removes the model.
            force: Remove by ID even when several tags name the model.

        Returns:
            What was done, in order: `{"Untagged": tag}` and `{"Deleted": id}`.

        Raises:
            InvalidReference: The name is outside the grammar, or the short ID fits several models.
            ModelNotFound: There is none.
            Conflict: By ID, several tags, and not forced.
            StoreError: The disk refused.
        """
        with self._index.change() as entries:
            entry = self._entry(reference, self._index.snapshot())
            canonical = names.normalize(reference, default_registry=self.default_registry)
            by_tag = not names.is_id(canonical) and "@" not in canonical
            if by_tag and len(entry.tags) > 1:
                kept = tuple(tag for tag in entry.tags if self._canonical(tag) != canonical)
                entries[entries.index(entry)] = replace(entry, tags=kept)
                return [{"Untagged": canonical}]
            if len(entry.tags) > 1 and not force:
                raise Conflict(
                    f'unable to delete "{reference}" (must be forced) '
                    "due to multiple tag references: resource conflict"
                )
            entries.remove(entry)
        self._remove_files(entry)
        return [*({"Untagged": tag} for tag in entry.tags), {"Deleted": entry.id}]

    def bundle(self, model: Model) -> Bundle:
        """The directory from which an engine loads the model, built if it is not there yet.

        Raises:
            ModelNotFound: The model was deleted meanwhile.
            UnsupportedModel: It has no weights, or a file that would leave the directory.
            StoreError: A blob is missing or torn, or the disk refused.
        """
        if model.id not in self._index.snapshot().by_id:
            raise _gone(model)
        try:
            bundle = self._bundle(model)
        except StoreError as error:
            if self._removed_meanwhile(model.id):
                raise _gone(model) from error
            raise
        if self._removed_meanwhile(model.id):
            raise _gone(model)
        return bundle

    def prune(self, options: PruneOptions) -> PruneResults:
        """Remove what no model needs, and if that is wanted, models without a name.

        Returns:
            What was removed, and what was kept for which reason.

        Raises:
            StoreError: The store cannot be read or written.
        """
        pruning = Pruning(
            self._layout, self._index, self._writers, self._references, self._delete_nameless
        )
        return pruning.run(options)

    def purge(self, *, force: bool = False) -> None:
        """Remove every model, and whatever else belongs to the store.

        Args:
            force: Even while somebody is bringing a model, who will be told that it failed.

        Raises:
            Conflict: Somebody is, and it is not forced; or the directory is no store any more.
            StoreError: The disk refused.
        """
        purge(self._layout, self._index, self._writers, force=force)
        self._contents.clear()
        self._sweep_scratch(older_than=0)

    def usage(self) -> Usage:
        """How much disk the store takes, and for which models.

        Raises:
            StoreError: It cannot be read.
        """
        return measure(self._layout, self._index.snapshot().entries)

    def verify(self, reference: str) -> Verification:
        """Begin to read a model's files again; damaged ones are taken out of their places.

        Raises:
            InvalidReference: The name is outside the grammar, or the short ID fits several models.
            ModelNotFound: There is none.
        """
        entry = self.resolve(reference)
        # What is read from now on is what is on the disk.
        self._contents.pop(entry.id, None)
        return Verification(self._layout, self._index, self.blobs, self._all_bundles, entry)

    def _bundle(self, model: Model) -> Bundle:
        def config() -> ConfigFile:
            return self._content(model.id)[1]

        try:
            return self._bundles.get(model, config)
        except StoreError as error:
            if self._scratch is None or not is_read_only(error):
                raise
            return self._scratch.get(model, config)

    def _references(self, entries: Sequence[Entry]) -> References:
        """What models need: what the index says, and what their manifests say."""
        blobs: set[str] = set()
        complete = True
        for entry in entries:
            blobs.update(entry.files)
            try:
                blobs.update(blob.digest for blob in self._content(entry.id)[0].blobs)
            except (StoreError, UnsupportedModel):
                complete = complete and bool(entry.files)
        return References(frozenset(entry.id for entry in entries), frozenset(blobs), complete)

    def _delete_nameless(self, model_id: str) -> bool:
        """Delete a model unless it has a name by now."""
        with self._index.change() as entries:
            entry = next((e for e in entries if e.id == model_id and not e.tags), None)
            if entry is None:
                return False
            entries.remove(entry)
        self._remove_files(entry)
        return True

    def _missing(self, entry: Entry) -> Sequence[str]:
        return [
            digest
            for digest in sorted(set(entry.files))
            if not (is_digest(digest) and self.blobs.has(digest))
        ]

    def _removed_meanwhile(self, model_id: str) -> bool:
        """Whether a model whose bundle was just built is gone; if so, its bundle goes too.

        A deletion forgets the model first and removes the bundle then, so whichever of the two is
        the later one removes it. What is left would be the last link to the weights.
        """
        if model_id in self._index.snapshot().by_id:
            return False
        if self._scratch:
            self._scratch.remove(model_id)
        return self._discard_bundle(model_id)

    def _discard_bundle(self, model_id: str) -> bool:
        """Remove the bundle of a model that is not in the index; say whether it is not."""
        try:
            with self._index.change() as entries:
                if any(entry.id == model_id for entry in entries):
                    return False
                self._bundles.remove(model_id)
        except StoreError as error:
            if not is_read_only(error):
                raise  # else it is for its owner to remove
        return True

    def _sweep_bundles(self) -> None:
        """Remove old bundles without a model: crashes leave them, and they hold whole weights."""
        known = self._index.snapshot().by_id
        try:
            for model_id in self._bundles.older_than(_ORPHAN_SECONDS):
                if model_id not in known:
                    self._discard_bundle(model_id)
        except (StoreError, OSError) as error:
            logger.warning("could not remove the bundle of no model: %s", error)
        self._sweep_scratch(_ORPHAN_SECONDS)

    def _sweep_scratch(self, older_than: float) -> None:
        if self._scratch is None:
            return
        known = self._index.snapshot().by_id
        try:
            for model_id in self._scratch.older_than(older_than):
                if model_id not in known:
                    self._scratch.remove(model_id)
        except (StoreError, OSError) as error:
            logger.warning("could not remove the bundle of no model: %s", error)

    def _model(self, entry: Entry) -> Model:
        manifest, file = self._content(entry.id)
        return Model(entry.id, entry.tags, manifest, file.config, file.created)

    def _readable(self, entry: Entry) -> Model | None:
        try:
            return self._model(entry)
        except (StoreError, UnsupportedModel) as error:
            logger.warning("skipping model %s: %s", entry.id, error)
            return None

    def _content(self, model_id: str) -> tuple[Manifest, ConfigFile]:
        known = self._contents.get(model_id)
        if known:
            return known
        with disk_errors(self.root):
            try:
                raw = (self._layout.manifests / digest_hex(model_id)).read_bytes()
            except FileNotFoundError as error:
                raise StoreError(
                    f"the manifest of model `{model_id}` is missing", hint="pull the model again"
                ) from error
            manifest = parse_manifest(raw)
            config = self.blobs.read(manifest.config.digest)
        if manifest.id != model_id or sha256(config) != manifest.config.digest:
            raise StoreError(
                f"the manifest or the configuration of model `{model_id}` is damaged",
                hint="remove the model and pull it again",
            )
        content = manifest, parse_config(config, manifest)
        self._contents[model_id] = content
        return content

    def _entry(self, reference: str, snapshot: Snapshot) -> Entry:
        canonical = names.normalize(reference, default_registry=self.default_registry)
        if names.is_id(canonical):
            found = _by_id(canonical, snapshot)
        else:
            _, pinned, digest = canonical.partition("@")
            found = snapshot.by_id.get(digest) if pinned else snapshot.by_tag.get(canonical)
        if found is None:
            raise ModelNotFound(reference)
        return found

    def _tag(self, tag: str) -> str | None:
        """A name as it stands in the index; None when it only pins a digest."""
        parsed = names.parse(tag, default_registry=self.default_registry)
        return str(replace(parsed, digest=None)) if parsed.tag else None

    def _canonical(self, tag: str) -> str:
        try:
            return names.normalize(tag, default_registry=self.default_registry)
        except InvalidReference:
            return tag  # another program put it there; it still can be removed with its model

    def _move_tag(self, entries: Entries, model_id: str, tag: str) -> None:
        for position, entry in enumerate(entries):
            tags = entry.tags
            if entry.id != model_id:
                tags = tuple(other for other in tags if self._canonical(other) != tag)
            elif all(self._canonical(other) != tag for other in tags):
                tags = (*tags, tag)
            entries[position] = replace(entry, tags=tags)

    def _verify(self, manifest: Manifest) -> None:
        for blob in manifest.blobs:
            if not self.blobs.has(blob.digest, blob.size):
                raise StoreError(
                    f"the blob `{blob.digest}` of {blob.size} bytes is missing",
                    hint="pull the model again; what is already here is kept",
                )
        config = parse_config(self.blobs.read(manifest.config.digest), manifest)
        for layer, unpacked in zip(manifest.layers, config.diff_ids, strict=False):
            if layer.digest != unpacked:
                raise UnsupportedModel("the model's layers are compressed, which is not supported")

    def _remove_files(self, entry: Entry) -> None:
        """Remove what only this model used. The index has forgotten it: a crash loses nothing."""
        self._contents.pop(entry.id, None)
        if not is_digest(entry.id):
            return  # somebody's strange index; what it names is no file of ours
        # Whoever is making a model of one of them says so; `prune` takes it if nothing comes of it.
        with self._writers.letting_go() as needed, self._index.change() as entries:
            if any(other.id == entry.id for other in entries):
                return  # it was written again meanwhile
            # Not by the index alone: somebody may have written one that lists no files.
            used = self._references(entries)
            needless = set(entry.files) - used.blobs if used.complete else set()
            needless = needless.difference(needed)
            doomed = [self._layout.manifests / digest_hex(entry.id)]
            doomed += [self.blobs.path(digest) for digest in needless if is_digest(digest)]
            for bundles in self._all_bundles:
                bundles.remove(entry.id)
            for path in doomed:
                _remove(path)


def _gone(model: Model) -> ModelNotFound:
    return ModelNotFound(model.tags[0] if model.tags else model.id)


def _remove(path: Path) -> None:
    """What cannot be removed only takes room; the model is gone all the same."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("could not remove `%s`: %s", path, error)


def _by_id(reference: str, snapshot: Snapshot) -> Entry | None:
    digits = reference.removeprefix("sha256:")
    if len(digits) == 64:
        return snapshot.by_id.get(f"sha256:{digits}")
    matches = [entry for entry in snapshot.entries if entry.id[7:].startswith(digits)]
    if len(matches) > 1:
        candidates = ", ".join(entry.id for entry in matches)
        raise InvalidReference(reference, f"several models have this short ID: {candidates}")
    return matches[0] if matches else None


def _last_component(tag: str) -> str:
    return tag.rpartition("/")[2].rpartition(":")[0]
