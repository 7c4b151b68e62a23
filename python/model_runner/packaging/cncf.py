"""The CNCF's ModelPack format (v1), and the way to it from Docker's.

Its schema forbids fields of one's own, and wants parameters with at most one decimal and a unit.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from model_runner.packaging.artifact import Package, trained_context
from model_runner.packaging.layout import docker_type, path_in_directory
from model_runner.store import manifests
from model_runner.store.manifests import Descriptor, Manifest
from model_runner.store.placement import place, safe_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_UNITS = ("", "K", "M", "B", "T", "Q")
# As Docker's tools write it: `361.82M`, until 2025 with a space, or a bare number.
_PARAMETERS = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?) ?([KMBTQ]?)", re.IGNORECASE)
_SHARD = re.compile(r".*-\d{5}-of-\d{5}\.gguf")

_TYPES = {
    manifests.GGUF: manifests.CNCF_WEIGHT,
    manifests.SAFETENSORS: manifests.CNCF_WEIGHT,
    manifests.DDUF: manifests.CNCF_WEIGHT,
    manifests.LORA: manifests.CNCF_WEIGHT,
    **dict.fromkeys(manifests.PROJECTORS, manifests.CNCF_WEIGHT),
    **dict.fromkeys(manifests.ARCHIVES, manifests.CNCF_FILE.replace(".raw", ".tar")),
    manifests.CHAT_TEMPLATE: manifests.CNCF_FILE,
    manifests.MODEL_FILE: manifests.CNCF_FILE,
    manifests.LICENSE: manifests.CNCF_DOCUMENT,
}


def from_docker(package: Package) -> Package:
    """The same model in the CNCF's format, with its context if somebody chose one.

    What Docker's configuration says beyond that is in the weights.

    Raises:
        UnsupportedModel: Its files have names that cannot be.
    """
    converted = Package(
        config_type=manifests.CONFIG_CNCF,
        config=_config(package),
        layers=layers(package.layers, by_path=package.config_type != manifests.CONFIG_V01),
        artifact_type=manifests.ARTIFACT_CNCF,
        annotations=package.annotations,
    )
    return converted.annotated({manifests.CONTEXT_SIZE: _chosen_context(package)})


def layers(docker: Sequence[Descriptor], *, by_path: bool) -> tuple[Descriptor, ...]:
    """Docker's layers as the CNCF's, each under a path of its own.

    Args:
        docker: The layers.
        by_path: Whether they have paths already, which are kept.

    Raises:
        UnsupportedModel: Files have names that cannot be.
    """
    return tuple(map(_layer, docker, _distinct(_paths(docker, by_path=by_path))))


def param_size(parameters: str) -> str:
    """Parameters as the schema wants them: `361.8M`, and `0.2K` for 183; empty for none."""
    match = _PARAMETERS.fullmatch(parameters)
    if not match:
        return ""
    value, power = float(match[1]), _UNITS.index(match[2].upper())
    while power == 0 or (round(value, 1) >= 1000 and power < len(_UNITS) - 1):
        value, power = value / 1000, power + 1
    return f"{value:.1f}".removesuffix(".0") + _UNITS[power] if value else ""


def _config(package: Package) -> dict[str, object]:
    config, created = _object(package, "config"), _object(package, "descriptor").get("created")
    descriptor = {"createdAt": created, "family": config.get("architecture")}
    fields = {
        "architecture": config.get("architecture"),
        "format": config.get("format"),
        "paramSize": param_size(str(config.get("parameters", ""))),
        "quantization": config.get("quantization"),
    }
    return {
        "descriptor": {name: text for name, text in descriptor.items() if text},
        "modelfs": {"type": "layers", "diffIds": []},
        "config": {name: text for name, text in fields.items() if text},
    }


def _chosen_context(package: Package) -> str:
    """What is noted, or not the size that the model was trained for; empty if neither."""
    config = _object(package, "config")
    size, trained = config.get("context_size"), trained_context(config.get("gguf"))
    noted = package.annotations.get(manifests.CONTEXT_SIZE) == str(size)
    return str(size) if size and (noted or trained not in (None, size)) else ""


def _layer(layer: Descriptor, path: str) -> Descriptor:
    is_document = docker_type(path) == manifests.LICENSE or path.lower().endswith(".md")
    otherwise = manifests.CNCF_DOCUMENT if is_document else manifests.CNCF_FILE
    return replace(
        layer,
        media_type=_TYPES.get(layer.media_type, otherwise),
        annotations={**layer.annotations, manifests.FILEPATH: path},
    )


def _paths(layers: Sequence[Descriptor], *, by_path: bool) -> Iterator[str]:
    """Where each layer goes; several may go to the same place."""
    ggufs = [layer for layer in layers if layer.media_type == manifests.GGUF]
    named = all(layer.filepath for layer in layers)
    if len(ggufs) > 1 and not by_path:  # llama.cpp finds shards by their names
        named = named and all(_SHARD.fullmatch(layer.filepath or "") for layer in ggufs)
    fixed = {} if named else _fixed_paths(layers)
    for layer in layers:
        path = fixed.get(layer.digest) or layer.filepath or "LICENSE"
        yield path_in_directory(layer.media_type, safe_path(path, strip_parents=True))


def _fixed_paths(layers: Sequence[Descriptor]) -> dict[str, str]:
    """The names in a bundle of v0.1, by digest: packages of 2025 do not say the files' own."""
    legacy = Manifest(b"", "", Descriptor(manifests.CONFIG_V01, 0, ""), tuple(layers))
    return {file.layer.digest: file.path for file in place(legacy).files}


def _distinct(paths: Iterable[str]) -> Iterator[str]:
    """The same, those that come again with a number: `LICENSE-2`, `notes-2.txt`."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # a stranger's package may have thousands of the same
    for path in paths:
        stem, dot, suffix = path.rpartition(".")
        free = path
        while free in taken:
            number = numbers[path] = numbers.get(path, 1) + 1
            free = f"{stem}-{number}.{suffix}" if dot else f"{path}-{number}"
        taken.add(free)
        yield free


def _object(package: Package, key: str) -> dict[str, object]:
    value = package.config.get(key)
    return value if isinstance(value, dict) else {}
