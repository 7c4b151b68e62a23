"""The story of a push, from a model in the store to a name in a registry."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from model_runner import names
from model_runner.errors import InvalidReference, StoreError
from model_runner.registry.auth import Access
from model_runner.registry.progress import LayerProgress, Progress
from model_runner.registry.together import together
from model_runner.registry.upload import Target
from model_runner.store.manifests import OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from model_runner.names import Reference
    from model_runner.registry.wire import Wire
    from model_runner.store import Model, Store
    from model_runner.store.manifests import Descriptor

# As many as Docker Model Runner sends at the same time.
_PARALLEL_LAYERS = 5


class Push:
    """One push.

    Args:
        store: Where the model is.
        wire: The connections.
        report: Takes the progress.
    """

    def __init__(self, store: Store, wire: Wire, report: Callable[[Progress], None]) -> None:
        self._store = store
        self._wire = wire
        self._report = report

    async def run(self, reference: str, token: str | None, *, insecure: bool = False) -> None:
        """Send what the registry lacks, layers first: a manifest there names what is there."""
        if names.is_id(reference.strip()):
            raise await asyncio.to_thread(self._no_place, reference.strip())
        wanted = names.parse(reference, default_registry=self._store.default_registry)
        model = await asyncio.to_thread(self._store.get, reference)
        elsewhere = await asyncio.to_thread(self._elsewhere, model, wanted)
        access = Access(wanted.registry, wanted.repository, token, writes=True, insecure=insecure)
        target = Target(self._wire, access)
        version = wanted.tag or model.id
        present = await target.digest_of(version)
        turns = asyncio.Semaphore(_PARALLEL_LAYERS)

        async def send(layer: Descriptor) -> None:
            progress = LayerProgress(
                self._report,
                total=layer.size,
                layer_id=layer.digest,
                size=layer.size,
                mode="push",
            )
            try:
                async with turns:
                    await self._send(target, layer, elsewhere, progress.advance)
            finally:
                progress.stop()
            progress.finish()

        # A file that a model has twice is one blob.
        layers = {layer.digest: layer for layer in model.manifest.layers}.values()
        await together(send(layer) for layer in layers)
        await self._send(target, model.manifest.config, elsewhere, lambda _: None)
        if present != model.id:
            raw = model.manifest.raw
            await target.put_manifest(version, raw, _media_type(raw), model.id)
        self._report(Progress("success", "Model pushed successfully", mode="push"))

    def _no_place(self, model_id: str) -> InvalidReference:
        """An ID names a model and no registry: say which names it has, or how it gets one."""
        registry = self._store.default_registry
        tags = self._store.resolve(model_id).tags
        known = ", ".join(f"`{names.display(tag, default_registry=registry)}`" for tag in tags)
        give = f"`model-runner tag {model_id} REGISTRY/NAME:TAG`"
        return InvalidReference(
            model_id,
            "an ID does not say where to push to",
            hint=f"push it by its name ({known}), or give it another with {give}"
            if known
            else f"give it a name that does with {give}, and push that",
        )

    async def _send(
        self,
        target: Target,
        blob: Descriptor,
        elsewhere: Mapping[str, str],
        watch: Callable[[int], None],
    ) -> None:
        if not await asyncio.to_thread(self._store.blobs.has, blob.digest, blob.size):
            raise StoreError(
                f"the blob `{blob.digest}` of {blob.size} bytes is missing or torn",
                hint="pull the model again, which fetches what is missing",
            )
        if await target.has(blob):
            return
        other = elsewhere.get(blob.digest)
        if other is not None and await target.mount(blob, other):
            return
        await target.send(blob, self._store.blobs.path(blob.digest), watch)

    def _elsewhere(self, model: Model, wanted: Reference) -> dict[str, str]:
        """Blobs of the model that other repositories of the same registry may have.

        They are those of models that the store knows by names there.
        """
        needed = {blob.digest for blob in model.manifest.blobs}
        found: dict[str, str] = {}
        for other in self._store.list():
            shared = needed.intersection(blob.digest for blob in other.manifest.blobs)
            for tag in other.tags if shared else ():
                registry, _, rest = tag.partition("/")
                repository = rest.rpartition(":")[0]
                if registry == wanted.registry and repository not in {"", wanted.repository}:
                    found.update(dict.fromkeys(shared, repository))
        return found


def _media_type(manifest: bytes) -> str:
    """What a manifest says that it is; it was read before, so it is JSON."""
    declared = json.loads(manifest).get("mediaType")
    return declared if isinstance(declared, str) else OCI_MANIFEST
