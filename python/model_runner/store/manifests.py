"""OCI manifests of models: what media types mean, and reading a manifest that nobody has checked.

A model's ID is the digest of its manifest's bytes, so those are kept and never written anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from model_runner.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"

CONFIG_V01: Final = "application/vnd.docker.ai.model.config.v0.1+json"
CONFIG_V02: Final = "application/vnd.docker.ai.model.config.v0.2+json"
CONFIG_CNCF: Final = "application/vnd.cncf.model.config.v1+json"
CONFIG_TYPES: Final = (CONFIG_V01, CONFIG_V02, CONFIG_CNCF)
ARTIFACT_CNCF: Final = "application/vnd.cncf.model.manifest.v1+json"

GGUF: Final = "application/vnd.docker.ai.gguf.v3"
SAFETENSORS: Final = "application/vnd.docker.ai.safetensors"
DDUF: Final = "application/vnd.docker.ai.dduf"
LICENSE: Final = "application/vnd.docker.ai.license"
CHAT_TEMPLATE: Final = "application/vnd.docker.ai.chat.template.jinja"
MODEL_FILE: Final = "application/vnd.docker.ai.model.file"
# The second is how docker/model-spec spells it; Docker's code writes the first.
PROJECTORS: Final = (
    "application/vnd.docker.ai.mmproj",
    "application/vnd.docker.ai.gguf.v3.mmproj",
)
# An adapter that llama.cpp adds to the weights. In docker/model-spec; Docker's code ignores it.
LORA: Final = "application/vnd.docker.ai.gguf.v3.lora"
# Packages of 2025 carry the files around safetensors weights in tar archives.
ARCHIVES: Final = (
    "application/vnd.docker.ai.vllm.config.tar",
    "application/vnd.docker.ai.dir.tar",
)
# The last two were written by early versions of Docker Model Runner and are in no specification.
CNCF_WEIGHTS: Final = (
    "application/vnd.cncf.model.weight.v1.raw",
    "application/vnd.cncf.model.weight.v1.gguf",
    "application/vnd.cncf.model.weight.v1.safetensors",
)
CNCF_PREFIX: Final = "application/vnd.cncf.model."
CNCF_WEIGHT: Final = CNCF_WEIGHTS[0]
CNCF_FILE: Final = "application/vnd.cncf.model.weight.config.v1.raw"
CNCF_DOCUMENT: Final = "application/vnd.cncf.model.doc.v1.raw"
CNCF_ARCHIVE: Final = ".v1.tar"
COMPRESSED: Final = ("+gzip", "+zstd")

FILEPATH: Final = "org.cncf.model.filepath"
# Ours, on the manifest: the context that somebody chose. The CNCF's configuration has no field for
# it, and Docker's does not tell a chosen one from what the model was trained for.
CONTEXT_SIZE: Final = "model-runner.context-size"
# Ours too: what a Modelfile said, as JSON: parameters, system, template, messages, from.
MODELFILE: Final = "dev.model-runner.modelfile"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob as a manifest names it: what it is, how many bytes, and its digest."""

    media_type: str
    size: int
    digest: str
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def filepath(self) -> str | None:
        """Where the packager had the file, relative to the packaged directory; not yet checked."""
        return self.annotations.get(FILEPATH)


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest, and the bytes it was parsed from."""

    raw: bytes = field(repr=False)
    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """The model's ID."""
        return sha256(self.raw)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Layers in order, then the configuration."""
        return (*self.layers, self.config)

    @property
    def size(self) -> int:
        """Bytes of the whole artifact."""
        return len(self.raw) + sum(blob.size for blob in self.blobs)

    @property
    def keeps_paths(self) -> bool:
        """Whether files are laid out by their `filepath` rather than by fixed names.

        Repackaging with Docker's tools makes the configuration v0.1 and drops the artifact type,
        which the CNCF layers then still tell.
        """
        return (
            self.artifact_type == ARTIFACT_CNCF
            or self.config.media_type != CONFIG_V01
            or any(layer.media_type.startswith(CNCF_PREFIX) for layer in self.layers)
        )


def sha256(data: bytes) -> str:
    """The digest `sha256:…` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def parse_manifest(raw: bytes) -> Manifest:
    """Read the manifest of a model.

    Raises:
        UnsupportedModel: It is not the manifest of a model that this program knows.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:  # thousands of brackets recurse
        raise UnsupportedModel(f"the manifest is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModel("the manifest is not a JSON object")
    media_type = content.get("mediaType", OCI_MANIFEST)
    if media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
        raise UnsupportedModel(
            f"`{str(media_type)[:100]}` is not the manifest of a model",
            hint="indexes of several platforms and container images cannot be run",
        )
    config = _descriptor(content.get("config"), "config")
    _check_config_type(config.media_type)
    layers = content.get("layers") or []
    if not isinstance(layers, list):
        raise UnsupportedModel("the manifest's `layers` is not a list")
    return Manifest(
        raw=raw,
        artifact_type=str(content.get("artifactType", "")),
        config=config,
        layers=tuple(_descriptor(layer, f"layers[{i}]") for i, layer in enumerate(layers)),
        annotations=_annotations(content, "manifest"),
    )


def is_model(raw: bytes) -> bool:
    """Whether this is the manifest of a model that this program knows."""
    try:
        parse_manifest(raw)
    except UnsupportedModel:
        return False
    return True


def _check_config_type(media_type: str) -> None:
    if media_type not in CONFIG_TYPES:
        raise UnsupportedModel(
            f'config type "{media_type[:100]}" is not supported '
            f"(supported: {', '.join(CONFIG_TYPES)}) - try upgrading",
            hint="is it a model at all? Container images cannot be run",
        )


def _descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise UnsupportedModel(f"the manifest's `{where}` is not an object")
    media_type, size, digest = value.get("mediaType"), value.get("size"), value.get("digest")
    if not isinstance(media_type, str):
        raise UnsupportedModel(f"the manifest's `{where}` has no media type")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise UnsupportedModel(f"the manifest's `{where}` has no size")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UnsupportedModel(f"the manifest's `{where}` has no sha256 digest")
    return Descriptor(media_type, size, digest, _annotations(value, f"manifest's `{where}`"))


def _annotations(value: Mapping[str, object], where: str) -> dict[str, str]:
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise UnsupportedModel(f"the {where} has annotations that are not an object")
    return {str(name): str(text) for name, text in annotations.items()}
