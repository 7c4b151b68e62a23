"""Says what a package says about a safetensors model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel
from model_runner.formats.safetensors import describe_headers, read_config, read_header
from model_runner.store import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from model_runner.formats.safetensors import SafetensorsHeader


def describe_safetensors(files: Sequence[Path], config: Path | None = None) -> ModelConfig:
    """What a package says about the model that these files, which must be whole, hold together.

    Args:
        files: All of them.
        config: The model's `config.json`, if it has one.

    Raises:
        UnsupportedModel: One of them is no safetensors file, or is cut short.
    """
    headers = [(file.name, read_header(file)) for file in files]
    return safetensors_config(headers, read_config(config) if config else b"")


def safetensors_config(
    headers: Sequence[tuple[str, SafetensorsHeader]], config: bytes = b""
) -> ModelConfig:
    """The same of files whose headers have been read, and of what `config.json` holds.

    Raises:
        UnsupportedModel: As of `describe_safetensors`.
    """
    for name, header in headers:
        if header.missing:
            raise UnsupportedModel(
                f"`{name}` is truncated: its last {header.missing} bytes are missing",
                hint="download it again",
            )
    metadata = describe_headers([header for _, header in headers], config)
    return ModelConfig(
        format="safetensors",
        quantization=metadata.quantization,
        parameters=metadata.parameters,
        architecture=metadata.architecture,
        size=metadata.size,
        safetensors=metadata.safetensors,
        context_size=metadata.context_size,
    )
