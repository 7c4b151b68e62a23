"""The bytes of a package: configuration v0.1 and manifest, as Docker Model Runner writes them.

Field order and escapes matter, for a model's ID is the digest of its manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from model_runner.store import gojson, manifests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import stat_result
    from pathlib import Path

    from model_runner.formats.gguf import ModelMetadata
    from model_runner.store import Store

_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Layer:
    """A file that has been brought into the store.

    Attributes:
        media_type: What it is.
        digest: Of its bytes.
        size: In bytes.
        name: Its file name.
        mode: Its permission bits.
        modified: When it was last written, in nanoseconds since 1970.
    """

    media_type: str
    digest: str
    size: int
    name: str
    mode: int
    modified: int


def add_layer(store: Store, path: Path, media_type: str) -> Layer:
    """Bring a file into the store.

    Raises:
        StoreError: The disk refused; DiskFull if there is no room.
    """
    status: stat_result = path.stat()
    digest, size = store.blobs.ingest_file(path)
    return Layer(media_type, digest, size, path.name, status.st_mode & 0o777, status.st_mtime_ns)


def config_v01(
    metadata: ModelMetadata, layers: Sequence[Layer], created: datetime, context_size: int | None
) -> bytes:
    """The configuration of a GGUF model. No layer is compressed: their digests are diff IDs."""
    fields = {
        "format": "gguf",
        "quantization": metadata.quantization,
        "parameters": metadata.parameters,
        "architecture": metadata.architecture,
        "size": metadata.size,
        "gguf": dict(sorted(metadata.gguf.items(), key=lambda item: item[0].encode())),
        "context_size": context_size,
    }
    moment = created.astimezone(timezone.utc)
    seconds = int(moment.replace(microsecond=0).timestamp())
    return gojson.encode(
        {
            "config": {name: value for name, value in fields.items() if value},
            "descriptor": {"created": timestamp(seconds, moment.microsecond * 1000)},
            "rootfs": {"type": "rootfs", "diff_ids": [layer.digest for layer in layers]},
        }
    )


def manifest_v01(config: bytes, layers: Sequence[Layer]) -> bytes:
    """The manifest of a package with a v0.1 configuration."""
    return gojson.encode(
        {
            "schemaVersion": 2,
            "mediaType": manifests.OCI_MANIFEST,
            "config": {
                "mediaType": manifests.CONFIG_V01,
                "size": len(config),
                "digest": manifests.sha256(config),
            },
            "layers": [
                {
                    "mediaType": layer.media_type,
                    "size": layer.size,
                    "digest": layer.digest,
                    "annotations": _annotations(layer),
                }
                for layer in layers
            ],
        }
    )


def _annotations(layer: Layer) -> dict[str, str]:
    """Keys in the order of their bytes. Owner and time zone would say nothing elsewhere."""
    metadata = {
        "name": layer.name,
        "mode": layer.mode,
        "uid": 0,
        "gid": 0,
        "size": layer.size,
        "mtime": timestamp(*divmod(layer.modified, _NANOSECONDS)),
        "typeflag": 0,
    }
    return {
        "org.cncf.model.file.mediatype.untested": "false",
        "org.cncf.model.file.metadata+json": gojson.encode(metadata).decode(),
        manifests.FILEPATH: layer.name,
    }


def timestamp(seconds: int, nanoseconds: int) -> str:
    """RFC 3339 in UTC with as many digits of a second as it needs, like Go's RFC3339Nano."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    fraction = f".{nanoseconds:09d}".rstrip("0").rstrip(".")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"
