"""The story of a pull from Hugging Face: a repository's files become a model of the store."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from model_runner.errors import ModelNotFound, StoreError, UnsupportedModel
from model_runner.packaging import write
from model_runner.registry.huggingface.building import Fetched, describe, package_of, template_file
from model_runner.registry.huggingface.cache import adopt_cached
from model_runner.registry.huggingface.commit import Commit
from model_runner.registry.huggingface.files import check_small, is_git_id_of
from model_runner.registry.huggingface.selection import select
from model_runner.registry.huggingface.templates import find_template
from model_runner.registry.progress import MIB, LayerProgress, Progress
from model_runner.registry.room import keep_room
from model_runner.registry.together import together
from model_runner.store import Descriptor
from model_runner.store.manifests import sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from model_runner.names import HubReference
    from model_runner.registry.huggingface.files import HubAccess, HubFile
    from model_runner.registry.huggingface.selection import Chosen, Selection
    from model_runner.registry.transfer import Transfers
    from model_runner.registry.wire import Wire
    from model_runner.store import Model, ModelConfig, Store, Writer

_FETCHING = "Fetching file list..."

# A listing that takes longer than this is told of.
_SILENT_SECONDS = 1.0

# Files that are fetched at the same time.
_PARALLEL_FILES = 4


class HubPull:
    """One pull.

    Args:
        store: Where the model goes.
        writer: Who needs its files.
        wire: The connections.
        transfers: What is on its way already.
        report: Takes the progress.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        wire: Wire,
        transfers: Transfers,
        report: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._wire = wire
        self._transfers = transfers
        self._report = report
        self._arrived = False

    async def run(self, wanted: HubReference, access: HubAccess) -> Model:
        """Find the files, fetch those that are missing, and make the package anew.

        From the same commit it comes out the same, so its ID tells whether it was here already.
        """
        commit = await Commit.find(self._wire, wanted, access)
        selection = await self._selection(wanted, commit)
        self._tell_choice(selection, wanted)
        known = {model.id for model in await asyncio.to_thread(self._store.list)}
        fetched = await self._fetch(selection, commit, wanted)
        config = await asyncio.to_thread(describe, self._store, selection.kind, fetched)
        template = await self._template(selection, config, commit)
        self._say("Building model artifact...")
        package = package_of(config, [*fetched, *template], commit.revision.modified)
        model = await asyncio.to_thread(write, self._store, self._writer, package, wanted.tag)
        cached = model.id in known and not self._arrived
        message = f"Using cached model: {config.size}" if cached else "Model pulled successfully"
        self._report(Progress("success", message))
        return model

    async def _selection(self, wanted: HubReference, commit: Commit) -> Selection:
        """List and choose. Nothing is said of it at first: a refusal then has an honest status."""
        listing = asyncio.ensure_future(commit.files())
        try:
            slow = not (await asyncio.wait({listing}, timeout=_SILENT_SECONDS))[0]
            if slow:
                self._say(_FETCHING)
            files = await listing
        finally:
            listing.cancel()
        selection = await asyncio.to_thread(select, files, wanted.quantization, commit.name)
        if not slow:
            self._say(_FETCHING)
        return selection

    def _say(self, message: str, total: int = 0) -> None:
        self._report(Progress("progress", message, total=total))

    def _tell_choice(self, selection: Selection, wanted: HubReference) -> None:
        if selection.label:
            default = "" if wanted.quantization else " (default)"
            self._say(f"Selected {selection.label} quantization{default}")
        total = sum(chosen.file.size for chosen in selection.layers)
        count = len(selection.layers)
        self._say(f"Found {count} files ({total / MIB:.2f} MB total)", total)

    async def _fetch(
        self, selection: Selection, commit: Commit, wanted: HubReference
    ) -> list[Fetched]:
        """See to it that all layers are in the store."""
        for chosen in selection.layers:
            check_small(chosen.file)
        # A file that a model has twice is one blob.
        large = {
            chosen.file.digest: _descriptor(chosen)
            for chosen in selection.layers
            if chosen.file.digest
        }
        await asyncio.to_thread(keep_room, self._store, self._writer, large.values())
        before = await asyncio.to_thread(self._layers_of, wanted)
        total = sum(chosen.file.size for chosen in selection.layers)
        turns = asyncio.Semaphore(_PARALLEL_FILES)
        found: dict[str, Fetched] = {}

        async def fetch(chosen: Chosen) -> None:
            async with turns:
                if chosen.file.digest:
                    blob = await self._large(chosen, commit, total)
                else:
                    blob = await self._small(chosen, commit, total, before)
            found[chosen.path] = Fetched(blob, chosen.path)

        await together(fetch(chosen) for chosen in selection.layers)
        return [found[chosen.path] for chosen in selection.layers]

    async def _large(self, chosen: Chosen, commit: Commit, total: int) -> Descriptor:
        """A file of large file storage: its digest is known, so it may be here already."""
        layer = _descriptor(chosen)
        progress = LayerProgress(self._report, total=total, layer_id=layer.digest, size=layer.size)
        blobs = self._store.blobs
        if not await asyncio.to_thread(blobs.has, layer.digest, layer.size):
            self._arrived = True
            loop = asyncio.get_running_loop()

            def watch(done: int) -> None:
                loop.call_soon_threadsafe(progress.advance, done)

            try:
                if not await asyncio.to_thread(adopt_cached, blobs, layer, watch):
                    await self._transfers.fetch(layer, commit.source(chosen.file), progress.advance)
            finally:
                progress.stop()
        progress.finish()
        return layer

    async def _small(
        self, chosen: Chosen, commit: Commit, total: int, before: Mapping[str, Descriptor]
    ) -> Descriptor:
        """A file that git itself keeps: what its digest is shows when it is here."""
        digest = await asyncio.to_thread(self._known, chosen, before)
        if digest is None:
            self._arrived = True
            data = await commit.source(chosen.file).read()
            digest = await asyncio.to_thread(self._put, data)
        size = chosen.file.size
        LayerProgress(self._report, total=total, layer_id=digest, size=size).finish()
        return Descriptor(chosen.media_type, size, digest)

    def _put(self, data: bytes) -> str:
        self._writer.needs({sha256(data): 0})
        return self._store.blobs.put_bytes(data)

    def _layers_of(self, wanted: HubReference) -> dict[str, Descriptor]:
        """What an earlier pull under this name has brought, by the paths in the package."""
        try:
            layers = self._store.get(wanted.tag).manifest.layers
        except (ModelNotFound, StoreError, UnsupportedModel):
            return {}
        return {layer.filepath: layer for layer in layers if layer.filepath}

    def _known(self, chosen: Chosen, before: Mapping[str, Descriptor]) -> str | None:
        """The digest of a small file that has not changed since."""
        layer = before.get(chosen.path)
        if layer is None or layer.size != chosen.file.size:
            return None
        self._writer.needs({layer.digest: 0})
        if not self._store.blobs.has(layer.digest, layer.size):
            return None
        data = self._store.blobs.read(layer.digest)
        return layer.digest if is_git_id_of(data, chosen.file.git_id) else None

    async def _template(
        self, selection: Selection, config: ModelConfig, commit: Commit
    ) -> list[Fetched]:
        """The chat template out of the model's settings, if the weights have none themselves."""

        async def read(file: HubFile) -> bytes:
            return await commit.source(file).read()

        data = await find_template(selection, config, read)
        if data is None:
            return []
        await asyncio.to_thread(self._put, data)
        return [template_file(data)]


def _descriptor(chosen: Chosen) -> Descriptor:
    return Descriptor(chosen.media_type, chosen.file.size, chosen.file.digest or "")
