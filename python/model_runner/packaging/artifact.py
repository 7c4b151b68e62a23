"""The bytes of a package: configuration and manifest, as Docker Model Runner writes them.

Field order and escapes matter, for a model's ID is the digest of its manifest.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from model_runner.errors import InvalidRequest, UnsupportedModel
from model_runner.store import gojson, manifests
from model_runner.store.models import is_cncf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model_runner.store import Model, ModelConfig, Store, Writer
    from model_runner.store.manifests import Descriptor

_NANOSECONDS = 1_000_000_000
_METADATA = "org.cncf.model.file.metadata+json"
_NUMBER = re.compile("[0-9]{1,10}")
# What registries take: the specification asks them for 4 MiB.
_MAX_MANIFEST = 4 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose layers are in the store, and which is not written yet.

    Attributes:
        config_type: The media type of its configuration.
        config: The configuration, in which the digests of the layers need not be right.
        layers: In order.
        artifact_type: Empty for Docker's packages.
        annotations: Of the manifest.
    """

    config_type: str
    config: Mapping[str, object]
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_cncf(self) -> bool:
        """Whether the configuration has the CNCF's form."""
        return is_cncf(self.config)

    def annotated(self, annotations: Mapping[str, str]) -> Package:
        """The same with further annotations; one that is empty removes what was there."""
        merged = {**self.annotations, **annotations}
        return replace(self, annotations={key: text for key, text in merged.items() if text})


def docker_config(config: ModelConfig, created: datetime) -> dict[str, object]:
    """The configuration of Docker's packages, without the digests of the layers."""
    fields = {
        "format": config.format,
        "quantization": config.quantization,
        "parameters": config.parameters,
        "architecture": config.architecture,
        "size": config.size,
        "gguf": _by_bytes(config.gguf),
        "safetensors": _by_bytes(config.safetensors),
        "diffusers": _by_bytes(config.diffusers),
        "context_size": config.context_size,
    }
    return {
        "config": {name: value for name, value in fields.items() if value},
        "descriptor": {"created": moment(created)},
        "rootfs": {"type": "rootfs", "diff_ids": []},
    }


def trained_context(gguf: object) -> int | None:
    """The context that a model was trained for, of the metadata of its GGUF file as text."""
    texts = gguf if isinstance(gguf, dict) else {}
    text = str(texts.get(f"{texts.get('general.architecture')}.context_length", ""))
    return int(text) if _NUMBER.fullmatch(text) else None


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of a package that are not its layers'."""

    config: bytes
    manifest: bytes


def encode(package: Package) -> Encoded:
    """The bytes that make the package what it is, and give it its ID.

    Raises:
        UnsupportedModel: No registry would take its manifest.
    """
    config = _config_bytes(package)
    manifest = _manifest(package, config)
    if len(manifest) > _MAX_MANIFEST:
        raise UnsupportedModel(
            f"the package would have a manifest of {len(manifest)} bytes, with "
            f"{len(package.layers)} files in it",
            hint="leave files out; registries take manifests of 4 MiB",
        )
    return Encoded(config, manifest)


def write(store: Store, writer: Writer, package: Package, tag: str) -> Model:
    """Write a package under a name.

    Raises:
        InvalidReference: The name is outside the grammar.
        UnsupportedModel: No registry would take its manifest.
        Conflict: The store is being emptied.
        StoreError: The disk refused; DiskFull if there is no room.
    """
    encoded = encode(package)
    writer.check()
    writer.needs({manifests.sha256(encoded.config): 0})
    store.blobs.put_bytes(encoded.config)
    return store.write(encoded.manifest, tags=[tag])


def annotations_of_file(path: str, *, size: int, mode: int, modified: int) -> dict[str, str]:
    """What a layer says about its file. Owner and time zone would say nothing elsewhere.

    Args:
        path: Where it goes, relative to the model's directory.
        size: In bytes.
        mode: Its permission bits.
        modified: When it was last written, in nanoseconds since 1970.
    """
    metadata = {
        "name": path.rpartition("/")[2],
        "mode": mode,
        "uid": 0,
        "gid": 0,
        "size": size,
        "mtime": timestamp(*divmod(modified, _NANOSECONDS)),
        "typeflag": 0,
    }
    return {
        "org.cncf.model.file.mediatype.untested": "false",
        _METADATA: gojson.encode(metadata).decode(),
        manifests.FILEPATH: path,
    }


def file_time(layers: Sequence[Descriptor]) -> str | None:
    """When the first of a package's files was last written, as `annotations_of_file` notes it."""
    text = layers[0].annotations.get(_METADATA, "") if layers else ""
    try:
        noted = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = noted.get("mtime") if isinstance(noted, dict) else None
    return found if isinstance(found, str) else None


def timestamp(seconds: int, nanoseconds: int) -> str:
    """RFC 3339 in UTC with as many digits of a second as it needs, like Go's RFC3339Nano.

    Raises:
        InvalidRequest: It is not in the years from 1 to 9999.
    """
    try:
        time = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidRequest(f"{seconds} seconds since 1970 is no time") from error
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{time:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def moment(time: datetime) -> str:
    """The same of a point in time."""
    return timestamp(int(time.replace(microsecond=0).timestamp()), time.microsecond * 1000)


def _config_bytes(package: Package) -> bytes:
    """No layer is compressed: their digests are those of what they hold."""
    digests = [layer.digest for layer in package.layers]
    if package.is_cncf:
        content = {"modelfs": {"type": "layers", "diffIds": digests}}
    else:
        content = {"rootfs": {"type": "rootfs", "diff_ids": digests}}
    return gojson.encode({**package.config, **content})


def _manifest(package: Package, config: bytes) -> bytes:
    artifact = {"artifactType": package.artifact_type} if package.artifact_type else {}
    notes = {"annotations": _by_bytes(package.annotations)} if package.annotations else {}
    return gojson.encode(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            **artifact,
            "config": {
                "mediaType": package.config_type,
                "size": len(config),
                "digest": manifests.sha256(config),
            },
            "layers": [_layer(layer) for layer in package.layers],
            **notes,
        }
    )


def _layer(layer: Descriptor) -> dict[str, object]:
    described: dict[str, object] = {
        "mediaType": layer.media_type,
        "size": layer.size,
        "digest": layer.digest,
    }
    if layer.annotations:
        described["annotations"] = _by_bytes(layer.annotations)
    return described


def _by_bytes(texts: Mapping[str, str]) -> dict[str, str]:
    """In the order in which Go writes a map."""
    return dict(sorted(texts.items(), key=lambda item: item[0].encode()))
