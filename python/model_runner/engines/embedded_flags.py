"""llama-server's flags in terms of the binding `xllamacpp`: spellings, target, conversion.

Tables only. Nothing here imports the binding before a value is converted, so that `--help` is
quick.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TRUTH = {
    "on": 1,
    "off": 0,
    "auto": -1,
    "enabled": 1,
    "disabled": 0,
    "1": 1,
    "0": 0,
    "true": 1,
    "false": 0,
}
_TENSOR_SPLITS = 128  # the length that the binding insists on
_FIT_TARGETS = 16


@dataclass(frozen=True, slots=True)
class Option:
    """A flag with a value.

    Attributes:
        spellings: As llama-server has them, separated by spaces.
        attributes: Where the value goes in `CommonParams`: dotted paths, separated by spaces.
        convert: Reads the value; raises ValueError, KeyError, AttributeError or OSError for one
            that is wrong.
        adds: Whether the flag adds to what such flags before it have brought: lists.
    """

    spellings: str
    attributes: str
    convert: Callable[[str], object]
    adds: bool = False


@dataclass(frozen=True, slots=True)
class Switch:
    """A flag without a value: its spellings, and what is assigned where."""

    spellings: str
    attribute: str
    value: object


class Member:
    """Reads the name of an enumeration's member: `q8_0` is `ggml_type.GGML_TYPE_Q8_0`."""

    def __init__(self, enumeration: str, prefix: str) -> None:
        self._enumeration = enumeration
        self._prefix = prefix

    def __call__(self, text: str) -> object:
        """The member's value; AttributeError if there is none of that name."""
        enumeration = getattr(importlib.import_module("xllamacpp"), self._enumeration)
        name = self._prefix + text.upper().replace("-", "_").replace("+", "_")
        return getattr(enumeration, name).value


def items(text: str) -> list[str]:
    """The elements of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _read(text: str) -> str:
    return Path(text).read_text(encoding="utf-8")


def _truth(text: str) -> int:
    return _TRUTH[text]


def _layers(text: str) -> int:
    return {"auto": -1, "all": -2}[text] if text in ("auto", "all") else int(text)


def _fit_target(text: str) -> list[int]:
    """MiB for each device to bytes; one value is for all devices."""
    values = [int(item) << 20 for item in items(text)]
    padding = values if len(values) == 1 else [1 << 30]
    return (values + padding * _FIT_TARGETS)[:_FIT_TARGETS]


def _tensor_split(text: str) -> list[float]:
    return ([float(item) for item in items(text)] + [0.0] * _TENSOR_SPLITS)[:_TENSOR_SPLITS]


def _template_arguments(text: str) -> dict[str, str]:
    """The binding wants each value as JSON of its own."""
    return {name: json.dumps(value) for name, value in json.loads(text).items()}


def _draft_types(text: str) -> list[object]:
    kinds = importlib.import_module("xllamacpp").common_speculative_type
    return [
        getattr(kinds, "COMMON_SPECULATIVE_TYPE_" + item.upper().replace("-", "_"))
        for item in items(text)
    ]


def _loras(text: str) -> list[object]:
    """`FILE,FILE`; the scale of each is 1."""
    return [_lora(item, 1.0) for item in items(text)]


def _scaled_loras(text: str) -> list[object]:
    """`FILE:SCALE,FILE:SCALE`."""
    adapters = []
    for item in items(text):
        path, _, scale = item.rpartition(":")
        adapters.append(_lora(path, float(scale)))
    return adapters


def _stops(text: str) -> list[str]:
    """llama-server reads escapes in it; of ours there is only the one of the backslash."""
    return [text.replace("\\\\", "\\")]


def _lora(path: str, scale: float) -> object:
    adapter = importlib.import_module("xllamacpp").CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, scale
    return adapter


OPTIONS = (
    # What is served, where, and under which name.
    Option("-m --model", "model.path", str),
    Option("-mm --mmproj", "mmproj.path", str),
    Option("--host", "hostnames", items),
    Option("--port", "port", int),
    Option("-a --alias", "model_alias", lambda text: set(items(text))),
    Option("--threads-http", "n_threads_http", int),
    Option("-to --timeout", "timeout_read timeout_write", int),
    Option("--sse-ping-interval", "sse_ping_interval", int),
    Option("--slot-save-path", "slot_save_path", lambda text: text.rstrip("/") + "/"),
    Option("--sleep-idle-seconds", "sleep_idle_seconds", int),
    Option("-lv --verbosity --log-verbosity", "verbosity", int),
    # Context, slots and batches.
    Option("-c --ctx-size", "n_ctx", int),
    Option("-n --predict --n-predict", "n_predict", int),
    Option("--keep", "n_keep", int),
    Option("-b --batch-size", "n_batch", int),
    Option("-ub --ubatch-size", "n_ubatch", int),
    Option("-np --parallel", "n_parallel", int),
    Option("--kv-unified-per-slot", "kv_unified_per_slot", int),
    Option("-cram --cache-ram", "cache_ram_mib", int),
    Option("--cache-reuse", "n_cache_reuse", int),
    Option("-ctxcp --ctx-checkpoints --swa-checkpoints", "n_ctx_checkpoints", int),
    Option("-sps --slot-prompt-similarity", "slot_prompt_similarity", float),
    Option("-ctk --cache-type-k", "cache_type_k", Member("ggml_type", "GGML_TYPE_")),
    Option("-ctv --cache-type-v", "cache_type_v", Member("ggml_type", "GGML_TYPE_")),
    Option("-fa --flash-attn", "flash_attn_type", _truth),
    Option("--rope-freq-base", "rope_freq_base", float),
    Option("--rope-freq-scale", "rope_freq_scale", float),
    Option("--rope-scale", "rope_freq_scale", lambda text: 1 / float(text)),
    # Processors and devices.
    Option("-t --threads", "cpuparams.n_threads", int),
    Option("-tb --threads-batch", "cpuparams_batch.n_threads", int),
    Option("-ngl --gpu-layers --n-gpu-layers", "n_gpu_layers", _layers),
    Option("-mg --main-gpu", "main_gpu", int),
    Option("-sm --split-mode", "split_mode", Member("llama_split_mode", "LLAMA_SPLIT_MODE_")),
    Option("-ts --tensor-split", "tensor_split", _tensor_split),
    Option("-ot --override-tensor", "tensor_buft_overrides", str),
    Option("-lm --load-mode", "load_mode", Member("llama_load_mode", "LLAMA_LOAD_MODE_")),
    Option("-fit --fit", "fit_params", lambda text: bool(_truth(text))),
    Option("-fitt --fit-target", "fit_params_target", _fit_target),
    Option("-fitc --fit-ctx", "fit_params_min_ctx", int),
    # Templates and reasoning.
    Option("--chat-template", "chat_template", str),
    Option("--chat-template-file", "chat_template", _read),
    Option("--chat-template-kwargs", "default_template_kwargs", _template_arguments),
    Option(
        "--reasoning-format",
        "reasoning_format",
        Member("common_reasoning_format", "COMMON_REASONING_FORMAT_"),
    ),
    Option("-rea --reasoning", "enable_reasoning", _truth),
    Option("--reasoning-budget", "sampling.reasoning_budget_tokens", int),
    # Embeddings.
    Option("--pooling", "pooling_type", Member("llama_pooling_type", "LLAMA_POOLING_TYPE_")),
    Option("--embd-normalize", "embd_normalize", int),
    # Adapters and drafts.
    Option("--lora", "lora_adapters", _loras, adds=True),
    Option("--lora-scaled", "lora_adapters", _scaled_loras, adds=True),
    Option("-md --model-draft --spec-draft-model", "speculative.draft.mparams.path", str),
    Option("--spec-draft-n-max", "speculative.draft.n_max", int),
    Option("--spec-draft-n-min", "speculative.draft.n_min", int),
    Option("-ngld --gpu-layers-draft --spec-draft-ngl", "speculative.draft.n_gpu_layers", _layers),
    Option("--spec-type", "speculative.types", _draft_types),
    # Sampling.
    Option("-s --seed", "sampling.seed", lambda text: int(text) & 0xFFFFFFFF),
    Option("--temp --temperature", "sampling.temp", float),
    Option("--top-k", "sampling.top_k", int),
    Option("--top-p", "sampling.top_p", float),
    Option("--min-p", "sampling.min_p", float),
    Option("--typical --typical-p", "sampling.typ_p", float),
    Option("--samplers", "sampling.samplers", str),
    Option("--repeat-penalty", "sampling.penalty_repeat", float),
    Option("--repeat-last-n", "sampling.penalty_last_n", int),
    Option("--presence-penalty", "sampling.penalty_present", float),
    Option("--frequency-penalty", "sampling.penalty_freq", float),
    Option("-r --reverse-prompt", "antiprompt", _stops, adds=True),
)

SWITCHES = (
    Switch("--embedding --embeddings", "embedding", True),
    Switch("--metrics", "endpoint_metrics", True),
    Switch("--props", "endpoint_props", True),
    Switch("--slots", "endpoint_slots", True),
    Switch("--no-slots", "endpoint_slots", False),
    Switch("--jinja", "use_jinja", True),
    Switch("--no-jinja", "use_jinja", False),
    Switch("--no-ui --no-webui", "ui", False),
    Switch("--warmup", "warmup", True),
    Switch("--no-warmup", "warmup", False),
    Switch("-kvu --kv-unified", "kv_unified", True),
    Switch("-no-kvu --no-kv-unified", "kv_unified", False),
    Switch("--context-shift", "ctx_shift", True),
    Switch("--no-context-shift", "ctx_shift", False),
    Switch("-cb --cont-batching", "cont_batching", True),
    Switch("-nocb --no-cont-batching", "cont_batching", False),
    Switch("--cache-prompt", "cache_prompt", True),
    Switch("--no-cache-prompt", "cache_prompt", False),
    Switch("--cache-idle-slots", "cache_idle_slots", True),
    Switch("--no-cache-idle-slots", "cache_idle_slots", False),
    Switch("--swa-full", "swa_full", True),
    Switch("-sp --special", "special", True),
    Switch("-nkvo --no-kv-offload", "no_kv_offload", True),
    Switch("--no-op-offload", "no_op_offload", True),
    Switch("--no-mmproj-offload", "mmproj_use_gpu", False),
    Switch("--check-tensors", "check_tensors", True),
    Switch("--lora-init-without-apply", "lora_init_without_apply", True),
    Switch("--offline", "offline", True),
    Switch("--ignore-eos", "sampling.ignore_eos", True),
    Switch("--skip-chat-parsing", "force_pure_content_parser", True),
    Switch("--no-prefill-assistant", "prefill_assistant", False),
    Switch("-v --verbose --log-verbose", "verbosity", 99),
)

# Two assignments, and the second needs the binding: the launcher handles it.
RERANKING = ("--rerank", "--reranking")
