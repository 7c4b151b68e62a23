"""Model stores for tests: one that a real Docker Model Runner wrote, and small ones of our own."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_runner.store import Model, Store, gojson, manifests

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIXTURES = Path(__file__).parent.parent / "fixtures"


def unpack_fixture(tmp_path: Path) -> Path:
    """Unpack Docker Model Runner's store of nine models below a directory; its root."""
    root = tmp_path / "docker-models"
    root.mkdir()
    with tarfile.open(_FIXTURES / "docker-model-runner-store.tar.gz") as archive:
        for member in archive:
            if member.isfile():
                target = root / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
    return root


def fixture_models() -> list[dict[str, Any]]:
    """What Docker Model Runner answered to `GET /models` for that store."""
    models: list[dict[str, Any]] = json.loads(
        (_FIXTURES / "docker-model-runner-store.models.json").read_text("utf-8")
    )
    return models


def add_model(store: Store, *contents: bytes, tags: Sequence[str] = ()) -> Model:
    """Write a model whose GGUF layers are these bytes; they need not be GGUF."""
    layers = [layer(store, content) for content in contents]
    return add_layers(store, layers, tags=tags)


def add_layers(
    store: Store,
    layers: Sequence[dict[str, object]],
    *,
    tags: Sequence[str] = (),
    config_type: str = manifests.CONFIG_V01,
) -> Model:
    """Write a model of layers as they stand in a manifest; their blobs are in the store."""
    digests = [layer["digest"] for layer in layers]
    config = gojson.encode(
        {
            "config": {"format": "gguf"},
            "descriptor": {"created": "2025-06-15T12:00:00Z"},
            "rootfs": {"type": "rootfs", "diff_ids": digests},
        }
    )
    digest = store.blobs.put_bytes(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifests.OCI_MANIFEST,
        "config": {"mediaType": config_type, "size": len(config), "digest": digest},
        "layers": layers,
    }
    return store.write(gojson.encode(manifest), tags=tags)


def layer(
    store: Store, content: bytes, media_type: str = manifests.GGUF, path: str | None = None
) -> dict[str, object]:
    """Store a blob, and describe it as a layer."""
    described: dict[str, object] = {
        "mediaType": media_type,
        "size": len(content),
        "digest": store.blobs.put_bytes(content),
    }
    if path is not None:
        described["annotations"] = {manifests.FILEPATH: path}
    return described


def files_below(root: Path) -> set[str]:
    """Relative paths of all files below a directory."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
