"""Looks at a model of a hub without fetching its weights: headers and small files are enough.

What a pull would make of them is made here, so the ID is the one that the pull would give. What
has no digest in the listing must be read for it: that is what git itself keeps, texts and settings.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from model_runner.errors import RegistryError, RegistryUnreachable, UnsupportedModel
from model_runner.formats import gguf, safetensors
from model_runner.formats.beginnings import HeaderGoesOn
from model_runner.packaging import dduf_config, encode, gguf_config, safetensors_config
from model_runner.registry.huggingface.building import (
    Fetched,
    package_of,
    settings_among,
    template_file,
)
from model_runner.registry.huggingface.commit import Commit
from model_runner.registry.huggingface.files import check_small
from model_runner.registry.huggingface.selection import select
from model_runner.registry.huggingface.templates import find_template
from model_runner.registry.ranges import NoRangesError, Ranges
from model_runner.registry.together import together
from model_runner.store import Descriptor, Model
from model_runner.store.manifests import parse_manifest, sha256
from model_runner.store.models import parse_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias, TypeVar

    from model_runner.formats.beginnings import Beginning
    from model_runner.names import HubReference
    from model_runner.registry.huggingface.files import HubAccess, HubFile
    from model_runner.registry.huggingface.selection import Chosen, Selection
    from model_runner.registry.wire import Wire
    from model_runner.store import ModelConfig

    _Header = TypeVar("_Header")
    # Reads a header out of the first bytes of a file with that name and size.
    _Parser: TypeAlias = Callable[[Beginning, str, int], _Header]

# What is fetched at first of a file with weights; then twice as much each time. A GGUF header has
# some 10 MB of vocabulary; a safetensors header, of which a model may have hundreds, says at its
# beginning how long it is.
_FIRST_GGUF, _FIRST_SAFETENSORS = 1 << 20, 64 << 10
# All that is fetched for one look. The largest headers have 20 MB, settings and tokenizers as much.
_MAX_LOOK = 64 << 20
_PARALLEL_FILES = 4


async def look(wire: Wire, wanted: HubReference, access: HubAccess) -> Model:
    """What a pull would make of a name now, without tags.

    Raises:
        UnsupportedModel: It is no model, not there in that quantization, or to see what it is
            takes too much of it.
        RemoteModelNotFound: The hub does not have it.
        RegistryError: The hub refuses, cannot be reached, or sends other bytes than it listed.
    """
    commit = await Commit.find(wire, wanted, access)
    files = await commit.files()
    selection = await asyncio.to_thread(select, files, wanted.quantization, commit.name)
    seconds = wire.patience.small
    try:
        return await asyncio.wait_for(_Look(commit, selection).model(), seconds)
    except asyncio.TimeoutError as error:
        raise RegistryUnreachable(
            f"`{access.host}` has not sent the headers of `{wanted}` within {seconds:.0f} seconds",
            hint="try again later, or pull the model",
        ) from error


class _Look:
    """One look at what was selected of a commit."""

    def __init__(self, commit: Commit, selection: Selection) -> None:
        self._commit = commit
        self._selection = selection
        self._left = _MAX_LOOK
        self._turns = asyncio.Semaphore(_PARALLEL_FILES)
        self._found: dict[str, Fetched] = {}
        self._gguf: dict[str, gguf.GGUFHeader] = {}
        self._safetensors: dict[str, safetensors.SafetensorsHeader] = {}
        self._dduf: dict[str, tuple[bytes, int]] = {}
        self._settings_path = settings_among(chosen.path for chosen in selection.layers)
        self._settings = b""

    async def model(self) -> Model:
        """What the package would be."""
        layers = self._selection.layers
        for chosen in layers:
            check_small(chosen.file)
        await together(self._look_at(chosen) for chosen in layers)
        config = await asyncio.to_thread(self._describe)
        files = [self._found[chosen.path] for chosen in layers]
        template = await find_template(self._selection, config, self._read)
        if template is not None:
            files.append(template_file(template))
        encoded = encode(package_of(config, files, self._commit.revision.modified))
        manifest = parse_manifest(encoded.manifest)
        file = parse_config(encoded.config, manifest)
        return Model(manifest.id, (), manifest, file.config, file.created)

    async def _look_at(self, chosen: Chosen) -> None:
        """Find out a file's digest, and what it says about the model."""
        async with self._turns:
            file, data = chosen.file, None
            is_settings = chosen.path == self._settings_path
            if not file.digest or is_settings:
                data = await self._read(file)
            if is_settings:
                self._settings = data or b""
            digest = file.digest or sha256(data or b"")
            self._found[chosen.path] = Fetched(
                Descriptor(chosen.media_type, file.size, digest), chosen.path
            )
            if chosen in self._selection.weights:
                await self._look_into(chosen, data)

    async def _look_into(self, chosen: Chosen, data: bytes | None) -> None:
        path = chosen.path
        if self._selection.kind == "gguf":
            self._gguf[path] = await self._header(chosen, data, _FIRST_GGUF, gguf.parse_header)
        elif self._selection.kind == "safetensors":
            self._safetensors[path] = await self._header(
                chosen, data, _FIRST_SAFETENSORS, safetensors.parse_header
            )
        else:
            self._dduf[path] = await self._header(chosen, data, 4, _beginning)

    async def _header(
        self, chosen: Chosen, data: bytes | None, first: int, parse: _Parser[_Header]
    ) -> _Header:
        """The header of a file, whose first bytes are fetched until they are enough."""
        file = chosen.file
        content = bytearray(data or b"")
        ranges = Ranges(self._commit.source(file), file.size)
        needed = first
        while True:
            end = min(file.size, max(needed, 2 * len(content)))
            if end > len(content):
                content += await self._range(file, ranges, len(content), end)
            try:
                return await asyncio.to_thread(parse, content, chosen.path, file.size)
            except HeaderGoesOn as more:
                needed = more.needed
            except UnsupportedModel as error:
                raise UnsupportedModel(
                    error.message, hint="tell the owner of the repository"
                ) from error

    async def _range(self, file: HubFile, ranges: Ranges, start: int, end: int) -> bytearray:
        self._spend(end - start)
        try:
            return await ranges.fetch(start, end)
        except NoRangesError as error:
            raise RegistryError(
                f"`{ranges.host}` sends `{file.path}` as a whole only, and its header is wanted",
                hint="pull the model, then inspect it without `--remote`",
            ) from error

    async def _read(self, file: HubFile) -> bytes:
        """All of a small file."""
        self._spend(file.size)
        return await self._commit.source(file).read()

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise UnsupportedModel(
                f"to see what `{self._commit.name}` is takes more than {_MAX_LOOK} bytes of it",
                hint="pull the model, then inspect it without `--remote`",
            )

    def _describe(self) -> ModelConfig:
        """As `building.describe` does with files."""
        paths = [chosen.path for chosen in self._selection.weights]
        try:
            if self._selection.kind == "gguf":
                return gguf_config([(path, self._gguf[path]) for path in paths])
            if self._selection.kind == "safetensors":
                headers = [(path, self._safetensors[path]) for path in paths]
                return safetensors_config(headers, self._settings)
            return dduf_config(paths[0], *self._dduf[paths[0]])
        except UnsupportedModel as error:
            raise UnsupportedModel(
                error.message, hint="tell the owner of the repository"
            ) from error


def _beginning(content: Beginning, name: str, size: int) -> tuple[bytes, int]:
    """A DDUF file's header is its first bytes; what is in it, the directory at its end says."""
    del name
    return bytes(content), size
