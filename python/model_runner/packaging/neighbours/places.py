"""Every place where models may be, and the words by which the command line names them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.errors import ModelRunnerError, NotFound, UnsupportedModel
from model_runner.packaging.neighbours import folders, ollama

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from model_runner.packaging.neighbours.found import Found

# What people write when they mean the Hugging Face cache.
_ALIASES = ("hf:", "huggingface:")


@dataclass(frozen=True, slots=True)
class Listing:
    """What is on this machine.

    Attributes:
        found: The models.
        problems: What cannot be taken, and why.
    """

    found: list[Found]
    problems: list[str]


def find(source: str, *, link: bool = False) -> Found:
    """A model as the command line names it.

    Args:
        source: A path, or `ollama:…`, `lmstudio:…` or `hf-cache:…`.
        link: Whether to link files that might be edited in place, too.

    Raises:
        NotFound: There is none.
        UnsupportedModel: It is not in GGUF, or it is not clear which one is meant, or it cannot be
            looked at.
    """
    try:
        return _find(source, link=link)
    except OSError as error:
        raise UnsupportedModel(f"`{source}` cannot be looked at: {_reason(error)}") from error


def _find(source: str, *, link: bool) -> Found:
    for alias in _ALIASES:
        if source.startswith(alias):
            source = folders.HUGGING_FACE + source.removeprefix(alias)
    if source.startswith(ollama.PREFIX):
        return ollama.find(source.removeprefix(ollama.PREFIX))
    if source.startswith(folders.LM_STUDIO):
        return folders.in_lm_studio(source.removeprefix(folders.LM_STUDIO), link=link)
    if source.startswith(folders.HUGGING_FACE):
        return folders.in_hub_cache(source.removeprefix(folders.HUGGING_FACE))
    path = Path(source).expanduser()
    if not path.exists():
        raise NotFound(
            f"there is no file `{source}`",
            hint="`model-runner import --list` shows what other programs have: name it as it is "
            "shown there, such as `ollama:llama3.2`",
        )
    return folders.at_path(path, link=link)


def list_all() -> Listing:
    """All models of other programs on this machine; those that cannot be taken with the reason."""
    listing = Listing([], [])
    for place, sources in _SOURCES.items():
        _add_all(listing, place, sources)
    return listing


def _add_all(listing: Listing, place: str, sources: Callable[[], Iterator[str]]) -> None:
    try:
        for source in sources():
            _add(listing, source)
    except OSError as error:
        listing.problems.append(f"{place} cannot be looked at: {_reason(error)}")


def _add(listing: Listing, source: str) -> None:
    try:
        found = find(source)
        found.check()
    except ModelRunnerError as error:
        listing.problems.append(f"{source}: {error}")
    except OSError as error:
        listing.problems.append(f"{source}: {_reason(error)}")
    else:
        listing.found.append(found)


def _reason(error: OSError) -> str:
    return f"`{error.filename}`: {(error.strerror or str(error)).lower()}"


def _ollama() -> Iterator[str]:
    for root in ollama.roots():
        yield from (ollama.PREFIX + name for name in ollama.names(root))


_SOURCES = {
    "Ollama's store": _ollama,
    "LM Studio's directory": folders.list_lm_studio,
    "the Hugging Face cache": folders.list_hub_cache,
}
