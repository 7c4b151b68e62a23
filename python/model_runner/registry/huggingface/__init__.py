"""Models of Hugging Face: repositories of files, of which some are chosen and become a model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import (
    ModelNotFound,
    ModelRunnerError,
    RegistryUnreachable,
)
from model_runner.packaging import file_time
from model_runner.registry.huggingface.client import check_token, find_token
from model_runner.registry.huggingface.commit import Commit
from model_runner.registry.huggingface.files import HubAccess
from model_runner.registry.huggingface.looking import look
from model_runner.registry.huggingface.pull import HubPull
from model_runner.registry.huggingface.upload import upload
from model_runner.registry.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from model_runner.config import Settings
    from model_runner.names import HubReference
    from model_runner.registry.huggingface.source import HubSource
    from model_runner.registry.transfer import Transfers
    from model_runner.registry.wire import Wire
    from model_runner.store import Model, Store, Writer
    from model_runner.store.manifests import Descriptor, Manifest

# Looks at models that are not here, at the same time: a hostile one holds 150 MiB of memory.
_PARALLEL_LOOKS = 2

__all__ = ["HuggingFace"]


class HuggingFace:
    """Pulls models from one hub, and pushes them. Belongs to one event loop.

    Args:
        store: Where models go.
        settings: Which hub, and whether it may be asked.
        wire: The connections.
        transfers: What is on its way into the store.
    """

    def __init__(self, store: Store, settings: Settings, wire: Wire, transfers: Transfers) -> None:
        self._store = store
        self._settings = settings
        self._wire = wire
        self._transfers = transfers
        self._looks = asyncio.Semaphore(_PARALLEL_LOOKS)

    async def pull(
        self,
        reference: str,
        writer: Writer,
        *,
        token: str | None,
        report: Callable[[Progress], None],
    ) -> Model:
        """Fetch a model, or find that it is here; as `Registry.pull`."""
        wanted = self._parse(reference)
        if self._settings.hub_offline:
            return await asyncio.to_thread(self._local, wanted, report)
        access = await self._access(wanted, token)
        try:
            pull = HubPull(self._store, writer, self._wire, self._transfers, report)
            return await pull.run(wanted, access)
        except RegistryUnreachable as error:
            raise await asyncio.to_thread(self._explain, wanted, error) from error

    async def push(
        self, reference: str, *, token: str | None, report: Callable[[Progress], None]
    ) -> None:
        """Send a model to the repository that its name leads to; as `Registry.push`."""
        wanted = self._parse(reference)
        model = await asyncio.to_thread(self._store.get, reference)
        if self._settings.hub_offline:
            raise RegistryUnreachable(
                f"HF_HUB_OFFLINE is set, and so nothing is sent to `{wanted}`", hint="unset it"
            )
        await upload(self._store, model, wanted, await self._access(wanted, token), report)

    async def inspect(self, reference: str) -> Model:
        """Look at a model without its weights; as `Registry.inspect`."""
        wanted = self._asking(reference)
        access = await self._access(wanted, None)
        async with self._looks:
            return await look(self._wire, wanted, access)

    async def pinned(self, reference: str, manifest: Manifest) -> str | None:
        """The name with the commit that a model was made of, if that is known."""
        wanted = self._asking(reference)
        moment = file_time(manifest.layers)
        access = await self._access(wanted, None)
        commit = await Commit.find_by_time(self._wire, access, moment) if moment else None
        return f"hf.co/{wanted.repository}:{wanted.label}@{commit}" if commit else None

    async def source(self, reference: str, blob: Descriptor) -> HubSource | None:
        """Where a blob can be had by itself; None if it is no large file of the repository."""
        wanted = self._asking(reference)
        commit = await Commit.find(self._wire, wanted, await self._access(wanted, None))
        for file in await commit.files():
            if (file.digest, file.size) == (blob.digest, blob.size):
                return commit.source(file)
        return None

    def _asking(self, reference: str) -> HubReference:
        """What a reference stands for, if the hub may be asked."""
        wanted = self._parse(reference)
        if self._settings.hub_offline:
            raise RegistryUnreachable(
                f"HF_HUB_OFFLINE is set, and so nobody is asked about `{wanted}`", hint="unset it"
            )
        return wanted

    def _parse(self, reference: str) -> HubReference:
        registry = self._settings.default_registry
        return names.parse_hub(reference, default_registry=registry)

    async def _access(self, wanted: HubReference, token: str | None) -> HubAccess:
        found = check_token(token) or await find_token()
        return HubAccess(self._settings.hub_endpoint, wanted.repository, found)

    def _local(self, wanted: HubReference, report: Callable[[Progress], None]) -> Model:
        """The model of the store, where no hub may be asked."""
        try:
            model = self._store.get(wanted.tag)
        except ModelNotFound as error:
            raise RegistryUnreachable(
                f"HF_HUB_OFFLINE is set, and `{wanted}` is not in the local store",
                hint="unset it, or pull the model where there is a network and bring it here",
            ) from error
        if wanted.revision:
            raise RegistryUnreachable(
                f"HF_HUB_OFFLINE is set: nobody can tell whether `{wanted.tag}` is that revision",
                hint=f"the copy in the local store stays usable as `{wanted.tag}`",
            )
        text = "HF_HUB_OFFLINE is set: the hub was not asked whether there is a newer one"
        report(Progress("warning", text))
        report(Progress("success", f"Using cached model: {model.config.size}"))
        return model

    def _explain(self, wanted: HubReference, error: RegistryUnreachable) -> RegistryUnreachable:
        """The same error, with the good news if there is any."""
        try:
            self._store.get(wanted.tag)
        except ModelRunnerError:
            return error
        shown = names.display(wanted.tag, default_registry=self._settings.default_registry)
        hint = f"the copy of `{shown}` in the local store stays usable"
        return RegistryUnreachable(error.message, hint=hint)
