"""A model in the store, and the one shape in which all kinds of configuration are shown.

Docker's configurations (v0.1 and v0.2) and the CNCF's say the same things under different names;
what comes out has Docker's names.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from typing_extensions import NotRequired, TypedDict

from model_runner.errors import UnsupportedModel
from model_runner.store import manifests as media
from model_runner.store.modelfile import Modelfile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model_runner.store.manifests import Manifest

# What fits into the 32 bits that Docker's tools have for it.
MAX_CONTEXT = 2**31 - 1
_NUMBER = re.compile("[0-9]{1,10}")
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?(?:([Zz])|([+-]\d\d:\d\d))"
)
# What the weights of a CNCF artifact are, when its configuration does not say.
_FORMATS = {".gguf": "gguf", ".safetensors": "safetensors", ".dduf": "dduf"}


class ConfigDescription(TypedDict):
    """The `config` of a model in `GET /models`; empty fields are left out."""

    format: NotRequired[str]
    quantization: NotRequired[str]
    parameters: NotRequired[str]
    architecture: NotRequired[str]
    size: NotRequired[str]
    gguf: NotRequired[dict[str, str]]
    safetensors: NotRequired[dict[str, str]]
    diffusers: NotRequired[dict[str, str]]
    context_size: NotRequired[int]


class ModelDescription(TypedDict):
    """A model in `GET /models`; `tags` is left out when there are none.

    `missing` are digests of files that are not here or torn: the model cannot be loaded before it
    is pulled again.
    """

    id: str
    tags: NotRequired[list[str]]
    created: int
    config: ConfigDescription
    missing: NotRequired[list[str]]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What a package says about its model; empty where it says nothing.

    Attributes:
        format: `gguf`, `safetensors` or `dduf`.
        quantization: Such as `MOSTLY_Q4_K_M`.
        parameters: Such as `361.82M`; older packages have a space before the unit.
        architecture: Such as `llama`.
        size: Of the weights, such as `256.35MiB`; for CNCF packages the parameters again.
        gguf: Key-values of the GGUF header as text.
        safetensors: Metadata of the safetensors header.
        diffusers: What a DDUF file holds.
        context_size: Tokens, -1 for no limit, None if unknown.
        context_is_chosen: Whether the package says that somebody chose it. Docker's tools do not
            say; without it, a size that is not the trained one counts as chosen.
        modelfile: What the Modelfile that it was made with said; nobody has checked its values.
    """

    format: str = ""
    quantization: str = ""
    parameters: str = ""
    architecture: str = ""
    size: str = ""
    gguf: Mapping[str, str] = field(default_factory=dict)
    safetensors: Mapping[str, str] = field(default_factory=dict)
    diffusers: Mapping[str, str] = field(default_factory=dict)
    context_size: int | None = None
    context_is_chosen: bool = False
    modelfile: Modelfile = field(default_factory=Modelfile)

    def describe(self) -> ConfigDescription:
        """The shape of `GET /models`."""
        described = ConfigDescription()
        if self.format:
            described["format"] = self.format
        if self.quantization:
            described["quantization"] = self.quantization
        if self.parameters:
            described["parameters"] = self.parameters
        if self.architecture:
            described["architecture"] = self.architecture
        if self.size:
            described["size"] = self.size
        if self.gguf:
            described["gguf"] = dict(self.gguf)
        if self.safetensors:
            described["safetensors"] = dict(self.safetensors)
        if self.diffusers:
            described["diffusers"] = dict(self.diffusers)
        if self.context_size:
            described["context_size"] = self.context_size
        return described


@dataclass(frozen=True, slots=True)
class Model:
    """A model in the store.

    Attributes:
        id: `sha256:…`, the digest of its manifest.
        tags: Canonical names, oldest first; may be empty.
        manifest: Its layers.
        config: What its package says about it.
        created: Unix seconds; 0 if unknown.
    """

    id: str
    tags: tuple[str, ...]
    manifest: Manifest
    config: ModelConfig
    created: int

    def describe(self) -> ModelDescription:
        """The shape of `GET /models`."""
        if not self.tags:
            return {"id": self.id, "created": self.created, "config": self.config.describe()}
        return {
            "id": self.id,
            "tags": list(self.tags),
            "created": self.created,
            "config": self.config.describe(),
        }


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The configuration blob of a package.

    Attributes:
        config: What it says about the model.
        created: Unix seconds; 0 if unknown.
        diff_ids: Digests of the layers when unpacked.
        document: What an engine's bundle gets as `config.json`.
    """

    config: ModelConfig
    created: int
    diff_ids: tuple[str, ...]
    document: Mapping[str, object]


def parse_config(raw: bytes, manifest: Manifest) -> ConfigFile:
    """Read a configuration of any of the three kinds.

    Raises:
        UnsupportedModel: It is none.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:  # thousands of brackets recurse
        raise UnsupportedModel(f"the model's configuration is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModel("the model's configuration is not a JSON object")
    config, descriptor = _object(content, "config"), _object(content, "descriptor")
    if is_cncf(content):
        return ConfigFile(
            config=_cncf(config, manifest),
            created=_unix(descriptor.get("createdAt")),
            diff_ids=_texts(_object(content, "modelfs").get("diffIds")),
            document=content,
        )
    return ConfigFile(
        config=_docker(config, _chosen_context(manifest), Modelfile.of(manifest)),
        created=_unix(descriptor.get("created")),
        diff_ids=_texts(_object(content, "rootfs").get("diff_ids")),
        document=config,
    )


def is_cncf(content: Mapping[str, object]) -> bool:
    """Whether a configuration has the CNCF's form, whatever its media type says."""
    config, descriptor = _object(content, "config"), _object(content, "descriptor")
    return "modelfs" in content or "paramSize" in config or "createdAt" in descriptor


def _docker(config: Mapping[str, object], chosen: int | None, modelfile: Modelfile) -> ModelConfig:
    context_size = config.get("context_size")
    return ModelConfig(
        format=_text(config, "format"),
        quantization=_text(config, "quantization"),
        parameters=_text(config, "parameters"),
        architecture=_text(config, "architecture"),
        size=_text(config, "size"),
        gguf=_map(config, "gguf"),
        safetensors=_map(config, "safetensors"),
        diffusers=_map(config, "diffusers"),
        context_size=context_size if isinstance(context_size, int) else None,
        # Docker's tools write another size beside what we noted, and keep our note.
        context_is_chosen=chosen is not None and chosen == context_size,
        modelfile=modelfile,
    )


def _cncf(config: Mapping[str, object], manifest: Manifest) -> ModelConfig:
    """Docker's API shows the parameters as the size too, since the CNCF has no field for it."""
    parameters = _text(config, "paramSize")
    chosen = _chosen_context(manifest)
    return ModelConfig(
        format=_text(config, "format").lower() or _format_of_weights(manifest),
        quantization=_text(config, "quantization"),
        parameters=parameters,
        architecture=_text(config, "architecture"),
        size=parameters,
        context_size=chosen,
        context_is_chosen=chosen is not None,
        modelfile=Modelfile.of(manifest),
    )


def _chosen_context(manifest: Manifest) -> int | None:
    text = manifest.annotations.get(media.CONTEXT_SIZE, "")
    size = int(text) if _NUMBER.fullmatch(text) else 0
    return size if 0 < size <= MAX_CONTEXT else None


def _format_of_weights(manifest: Manifest) -> str:
    for layer in manifest.layers:
        for suffix, name in _FORMATS.items():
            if (layer.filepath or "").lower().endswith(suffix):
                return name
    return ""


def _unix(value: object) -> int:
    """Seconds of an RFC 3339 time. Go writes up to nine digits of a second; Python reads six."""
    match = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if not match:
        return 0
    date, time, _, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{offset or '+00:00'}")
        return int(moment.astimezone(timezone.utc).timestamp())
    except (ValueError, OverflowError):
        return 0


def _object(content: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def _text(content: Mapping[str, object], key: str) -> str:
    value = content.get(key)
    return value if isinstance(value, str) else ""


def _map(content: Mapping[str, object], key: str) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in _object(content, key).items()}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
