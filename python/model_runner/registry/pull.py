"""The story of a pull, from what a user typed to a model in the store; and where others begin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import (
    DigestMismatch,
    ModelNotFound,
    ModelRunnerError,
    RegistryUnreachable,
    StoreError,
    UnsupportedModel,
)
from model_runner.registry.auth import Access
from model_runner.registry.huggingface import HuggingFace
from model_runner.registry.mirrors import Mirror
from model_runner.registry.oci import Repository
from model_runner.registry.progress import LayerProgress, Progress
from model_runner.registry.push import Push
from model_runner.registry.repair import Repaired, repair
from model_runner.registry.room import keep_room
from model_runner.registry.together import together
from model_runner.registry.transfer import Transfers
from model_runner.registry.wire import Patience, Wire
from model_runner.registry.writing import as_writer
from model_runner.store import Model
from model_runner.store.models import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_runner.config import Settings
    from model_runner.names import Reference
    from model_runner.registry.mirrors import FirstOf
    from model_runner.registry.source import Source
    from model_runner.store import Store, Writer
    from model_runner.store.manifests import Descriptor, Manifest

# Layers of one pull that are fetched at the same time. Sharded models have dozens, and a registry
# throttles who asks for all of them at once.
_PARALLEL_LAYERS = 4


class Registry:
    """Pulls models from registries and Hugging Face into a store, and pushes them there.

    Belongs to one event loop.

    Args:
        store: Where models go.
        settings: Default registry, and whether all registries are asked over plain http.
        patience: How long to wait for a registry and how often to try.
    """

    def __init__(
        self, store: Store, settings: Settings, *, patience: Patience | None = None
    ) -> None:
        self._store = store
        self._settings = settings
        self._wire = Wire(settings, patience or Patience())
        self._mirrors = [Mirror.parse(mirror) for mirror in settings.mirror_list]
        self._transfers = Transfers(store.blobs, settings.pull_connections)
        self._hub = HuggingFace(store, settings, self._wire, self._transfers)

    async def pull(
        self,
        reference: str,
        *,
        token: str | None = None,
        insecure: bool = False,
        report: Callable[[Progress], None],
    ) -> Model:
        """Fetch a model, or find that it is here, and tag it with the name it was asked for by.

        The registry is always asked what the name stands for today. Layers that are here are not
        fetched again. Cancelling stops the transfer, unless another pull waits for the same layers;
        the next pull goes on from there.

        Args:
            reference: What to pull, as a user types it.
            token: A registry token, in place of the logins on this machine.
            insecure: Whether plain http will do for a registry that does not speak https.
            report: Takes the progress, on the event loop; not told of an error that is raised.

        Returns:
            The model, in the store.

        Raises:
            InvalidReference: The reference is outside the grammar, or an ID.
            UnsupportedModel: It is not a model, or not of a kind that we know.
            RemoteModelNotFound: The registry does not have it.
            RegistryUnauthorized: No login, or a refused one.
            RegistryUnreachable: No connection, or one that breaks again and again.
            RegistryError: The registry answers something else than it should.
            DigestMismatch: The registry sends other bytes than it names.
            DiskFull: There is no room; what has arrived is kept.
            StoreError: The store cannot be written.
            Conflict: Somebody has emptied the store meanwhile.
            ShuttingDown: `close` was called.
        """

        async def fetch(writer: Writer) -> Model:
            if names.is_hub(reference, default_registry=self._settings.default_registry):
                return await self._hub.pull(reference, writer, token=token, report=report)
            wanted = names.parse(reference, default_registry=self._settings.default_registry)
            repository = self._repository(wanted, token, insecure=insecure)
            return await self._pull(wanted, repository, writer, report)

        return await as_writer(self._store, fetch)

    async def _pull(
        self,
        wanted: Reference,
        repository: Repository,
        writer: Writer,
        report: Callable[[Progress], None],
    ) -> Model:
        tags = [f"{wanted.name}:{wanted.tag}"] if wanted.tag else []
        try:
            remote = await repository.resolve(wanted)
            await asyncio.to_thread(writer.needs, {blob.digest: 0 for blob in remote.blobs})
            cached = await asyncio.to_thread(self._complete_model, remote)
            if cached is None:
                await self._fetch(remote, writer, repository, report)
            model = await asyncio.to_thread(self._store.write, remote.raw, tags=tags)
        except RegistryUnreachable as error:
            raise await asyncio.to_thread(self._explain, wanted, error) from error
        message = (
            f"Using cached model: {cached.config.size}" if cached else "Model pulled successfully"
        )
        report(Progress("success", message))
        return model

    async def inspect(self, reference: str) -> Model:
        """Look at a model where it is: manifest and configuration, none of the weights.

        A model at Hugging Face has neither before it is pulled: they are made of the beginnings of
        its files, as a pull would make them.

        Args:
            reference: What to look at, as a user types it.

        Returns:
            The model, without tags.

        Raises:
            InvalidReference: The reference is outside the grammar, or an ID.
            UnsupportedModel: It is not a model, or not of a kind that we know.
            RemoteModelNotFound: The registry does not have it.
            RegistryError: Talking to the registry failed; as of `pull`.
        """
        if names.is_hub(reference, default_registry=self._settings.default_registry):
            return await self._hub.inspect(reference)
        wanted = names.parse(reference, default_registry=self._settings.default_registry)
        repository = self._repository(wanted, None)
        remote = await repository.resolve(wanted)
        file = parse_config(await repository.config(remote), remote)
        return Model(remote.id, (), remote, file.config, file.created)

    async def push(
        self,
        reference: str,
        *,
        token: str | None = None,
        insecure: bool = False,
        report: Callable[[Progress], None],
    ) -> None:
        """Send a model of the store to the registry that its name leads to.

        What the registry has is not sent again. Cancelling stops the uploads; layers that have
        arrived stay there, so that the next push need not send them.

        Args:
            reference: A name of the model that says where to, as a user types it.
            token: A registry token, in place of the logins on this machine.
            insecure: Whether plain http will do for a registry that does not speak https.
            report: Takes the progress, on the event loop; not told of an error that is raised.

        Raises:
            InvalidReference: The reference is outside the grammar, or an ID.
            ModelNotFound: No model of the store has this name.
            UnsupportedModel: It cannot be laid out as files, as Hugging Face has them.
            RegistryUnauthorized: No login, or a refused one.
            RegistryUnreachable: No connection, or one that breaks again and again.
            RegistryError: The registry does not take it, or answers something else than it should.
            StoreError: A file of the model is missing or torn.
        """
        if names.is_hub(reference, default_registry=self._settings.default_registry):
            await self._hub.push(reference, token=token, report=report)
            return
        await Push(self._store, self._wire, report).run(reference, token, insecure=insecure)

    async def pinned(self, reference: str, model_id: str, manifest: Manifest | None) -> str | None:
        """The reference under which a pull brings the very model of the store.

        Wherever its name leads by now. At Hugging Face that is the commit that it was made of.

        Args:
            reference: A name of the model that says where it is, as the store has it.
            model_id: Its ID.
            manifest: Its manifest; None if that is lost.

        Returns:
            The reference; None if the hub does not know of such a commit.

        Raises:
            ModelRunnerError: As `pull`.
        """
        if not names.is_hub(reference, default_registry=self._settings.default_registry):
            wanted = names.parse(reference, default_registry=self._settings.default_registry)
            return f"{wanted.name}@{model_id}"
        # Without a manifest nobody knows the commit. It may be the newest.
        return await self._hub.pinned(reference, manifest) if manifest else reference

    async def repair(
        self, reference: str, blob: Descriptor, damaged: Path, watch: Callable[[int], None]
    ) -> Repaired | None:
        """Make a damaged blob of a model whole, from where the model came from.

        Args:
            reference: Says where that is: a name that the store has, or what `pinned` returned.
            blob: Which of its blobs.
            damaged: Its file, moved out of its place; see `repair.repair`.
            watch: Called with the number of bytes that are known to be right, on the event loop.

        Returns:
            What it took; None if the blob is not to be had by itself. A hub serves large files,
            what is made of others comes with a pull.

        Raises:
            ModelRunnerError: As `pull`; the damaged file stays as it is.
        """

        async def mend(_: Writer) -> Repaired | None:
            source: Source | None
            if names.is_hub(reference, default_registry=self._settings.default_registry):
                source = await self._hub.source(reference, blob)
            else:
                wanted = names.parse(reference, default_registry=self._settings.default_registry)
                source = self._repository(wanted, None).layer(blob)
            return await repair(self._transfers, blob, source, damaged, watch) if source else None

        return await as_writer(self._store, mend)

    async def close(self) -> None:
        """Stop all pulls, keep what has arrived, and close all connections."""
        await self._transfers.close()
        await self._wire.close()

    def _repository(
        self, wanted: Reference, token: str | None, *, insecure: bool = False
    ) -> Repository:
        """Where a reference leads; for Docker Hub by way of the mirrors."""
        mirrors = self._mirrors if wanted.registry == names.DOCKER_HUB else []
        return Repository(
            self._wire,
            Access(wanted.registry, wanted.repository, token, insecure=insecure),
            # The token of the request is for the registry that the request names.
            [Access(mirror.host, wanted.repository, mirror=mirror) for mirror in mirrors],
        )

    def _complete_model(self, remote: Manifest) -> Model | None:
        """The model from the store, unless a file of it is missing or torn."""
        try:
            model = self._store.get(remote.id)
        except (ModelNotFound, StoreError, UnsupportedModel):
            # Not here, or damaged: fetching what is missing repairs it.
            return None
        return model if self._has_files(remote) else None

    def _has_files(self, remote: Manifest) -> bool:
        has = self._store.blobs.has
        return all(has(blob.digest, blob.size) for blob in remote.blobs)

    def _explain(self, wanted: Reference, error: RegistryUnreachable) -> RegistryUnreachable:
        """The same error, with the good news if there is any."""
        try:
            model = self._store.get(str(wanted))
        except ModelRunnerError:
            return error
        if not self._has_files(model.manifest):
            return error
        shown = names.display(str(wanted), default_registry=self._settings.default_registry)
        hint = f"the copy of `{shown}` in the local store stays usable"
        return RegistryUnreachable(error.message, hint=hint)

    async def _fetch(
        self,
        remote: Manifest,
        writer: Writer,
        repository: Repository,
        report: Callable[[Progress], None],
    ) -> None:
        # A file that a model has twice is one blob.
        layers = {layer.digest: layer for layer in remote.layers}.values()
        await asyncio.to_thread(keep_room, self._store, writer, layers)
        config = await repository.config(remote)
        # A config that makes no sense is known before gigabytes are fetched.
        parse_config(config, remote)
        total = sum(layer.size for layer in layers)
        turns = asyncio.Semaphore(_PARALLEL_LAYERS)

        async def fetch_layer(layer: Descriptor) -> None:
            progress = LayerProgress(report, total=total, layer_id=layer.digest, size=layer.size)
            try:
                async with turns:
                    if not await asyncio.to_thread(self._store.blobs.has, layer.digest, layer.size):
                        source = repository.layer(layer)
                        while not await self._fetched(layer, source, progress.advance):
                            pass
            finally:
                progress.stop()
            progress.finish()

        await together(fetch_layer(layer) for layer in layers)
        await asyncio.to_thread(self._store.blobs.put_bytes, config)

    async def _fetched(
        self, layer: Descriptor, source: FirstOf, watch: Callable[[int], None]
    ) -> bool:
        """Whether a layer is here; if not, there is another server to ask for it."""
        try:
            await self._transfers.fetch(layer, source, watch)
        except DigestMismatch as error:
            # A mirror may have kept other bytes than the registry has.
            if not source.reject(str(error)):
                raise
            return False
        return True
