"""Puts artifacts into a registry in plain HTTP, with nothing of the project's own registry code."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from support.oci_registry import RunningRegistry

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MODEL_CONFIG = "application/vnd.docker.ai.model.config.v0.1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
GGUF_LAYER = "application/vnd.docker.ai.gguf.v3"


@dataclass(frozen=True)
class Artifact:
    """A manifest and the blobs that it names, by digest."""

    manifest: bytes
    blobs: Mapping[str, bytes]

    @property
    def id(self) -> str:
        """The model's ID."""
        return sha256(self.manifest)

    @property
    def layers(self) -> list[str]:
        """The digests of the layers."""
        return [layer["digest"] for layer in json.loads(self.manifest)["layers"]]


def sha256(data: bytes) -> str:
    """`sha256:…` of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that differ everywhere, the same in each run."""
    return random.Random(seed).randbytes(size)


def make_artifact(*layers: bytes, config_type: str = MODEL_CONFIG) -> Artifact:
    """A model of some layers as Docker's tools write it, config v0.1 unless told otherwise."""
    config = json.dumps(
        {
            "config": {"format": "gguf", "quantization": "F32", "parameters": "1", "size": "1KiB"},
            "descriptor": {"created": "2025-06-15T12:00:00Z"},
            "rootfs": {"type": "rootfs", "diff_ids": [sha256(layer) for layer in layers]},
        },
        separators=(",", ":"),
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(config_type, config),
        "layers": [_descriptor(GGUF_LAYER, layer) for layer in layers],
    }
    body = json.dumps(manifest, separators=(",", ":")).encode()
    return Artifact(body, {sha256(blob): blob for blob in (*layers, config)})


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "size": len(data), "digest": sha256(data)}


def stored_artifact(root: Path, model_id: str) -> Artifact:
    """A model of a store on disk, read without the project's own store."""
    manifest = (root / "manifests" / model_id.replace(":", "/")).read_bytes()
    fields = json.loads(manifest)
    digests = [blob["digest"] for blob in (fields["config"], *fields["layers"])]
    blobs = {name: (root / "blobs" / name.replace(":", "/")).read_bytes() for name in digests}
    return Artifact(manifest, blobs)


def basic(username: str, password: str) -> str:
    """The value of an `Authorization` header."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def push(
    registry: RunningRegistry,
    repository: str,
    tag: str,
    artifact: Artifact,
    *,
    authorization: str | None = None,
) -> None:
    """Upload an artifact: each blob in one piece, then the manifest."""
    with _Pusher(registry, authorization) as pusher:
        for digest, blob in artifact.blobs.items():
            pusher.push_blob(repository, digest, blob)
        pusher.push_manifest(repository, tag, OCI_MANIFEST, artifact.manifest)


def push_index(
    registry: RunningRegistry, repository: str, tag: str, entries: Sequence[Mapping[str, Any]]
) -> None:
    """Upload an index of manifests that are there already."""
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
    with _Pusher(registry, None) as pusher:
        pusher.push_manifest(repository, tag, OCI_INDEX, json.dumps(index).encode())


class _Pusher:
    def __init__(self, registry: RunningRegistry, authorization: str | None) -> None:
        if registry.authority is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", registry.port)
        else:
            trust = ssl.create_default_context(cafile=str(registry.authority.certificate))
            self._connection = http.client.HTTPSConnection(
                "127.0.0.1", registry.port, context=trust
            )
        self._headers = {"Authorization": authorization} if authorization else {}

    def __enter__(self) -> _Pusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def push_blob(self, repository: str, digest: str, blob: bytes) -> None:
        location = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"", 202)
        parts = urlsplit(location)
        query = f"{parts.query}&" if parts.query else ""
        self._ask("PUT", f"{parts.path}?{query}digest={digest}", blob, 201)

    def push_manifest(self, repository: str, tag: str, media_type: str, manifest: bytes) -> None:
        path = f"/v2/{repository}/manifests/{tag}"
        self._ask("PUT", path, manifest, 201, media_type)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes,
        wanted: int,
        media_type: str = "application/octet-stream",
    ) -> str:
        headers = {**self._headers, "Content-Type": media_type}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        assert response.status == wanted, f"{method} {path}: {response.status} {answer!r}"
        return response.headers.get("Location", "")
