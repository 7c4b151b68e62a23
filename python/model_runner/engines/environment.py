"""The environment of an engine: what it needs, and nothing that could configure it secretly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# What programs and GPU drivers need to run at all. HOME is there for the drivers' kernel caches
# (`~/.nv`) and for wheels in a user's site directory; the engine's own configuration is looked up
# by XDG_CONFIG_HOME first.
_ALLOWED = {
    "DYLD_LIBRARY_PATH",
    "GPU_DEVICE_ORDINAL",
    "HOME",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "PATH",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
}
# Which devices are visible and how the back ends use them. Not LLAMA_*: those variables are flags
# in disguise (LLAMA_ARG_CTX_SIZE), and never a token or a credential (HF_TOKEN, AWS_*, *_API_KEY).
_ALLOWED_PREFIXES = (
    "CUDA_",
    "GGML_",
    "HIP_",
    "HSA_",
    "LC_",
    "MUSA_",
    "NVIDIA_",
    "ONEAPI_",
    "ROCM_",
    "ROCR_",
    "VK_",
    "ZE_",
)


def scrubbed(config_home: Path, *, source: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without everything that an engine does not need.

    Args:
        config_home: What the engine gets as XDG_CONFIG_HOME. llama-server reads
            `$XDG_CONFIG_HOME/llama.cpp/config.ini`, and would take any flag from there.
        source: What to scrub instead of our own environment.
    """
    environment = os.environ if source is None else source
    kept = {
        name: value
        for name, value in environment.items()
        if name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES)
    }
    kept["XDG_CONFIG_HOME"] = str(config_home)
    return kept
