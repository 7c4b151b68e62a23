"""The documentation of the API names what there is, and all that there is."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from support.control_planes import serving

_ROOT = Path(__file__).parents[2]
_DOCUMENT = (_ROOT / "docs" / "api.md").read_text()
_ENDPOINTS = (_ROOT / "rust" / "core" / "src" / "endpoint.rs").read_text()

# `POST /v1/messages`, in a table of paths.
_PATHS = re.compile(r"`(GET|HEAD|POST|DELETE) (/[^` ]*)`")

# FastAPI's own, and the data plane's that are no inference.
_OTHERS = {
    ("GET", "/openapi.json"),
    ("HEAD", "/"),
    ("GET", "/engines/requests"),
    ("POST", "/engines/requests/{id}/cancel"),
}


def documented() -> set[tuple[str, str]]:
    return {(method, path) for method, path in _PATHS.findall(_DOCUMENT)}


def function(name: str) -> str:
    """The text of a function of `endpoint.rs`."""
    return _ENDPOINTS.partition(f"\nfn {name}(")[2].partition("\n}\n")[0]


def matched(text: str) -> set[str]:
    """The strings that the arms of a `match` begin with."""
    arms = re.findall(r'^\s*("[^=]*?)\s*(?:if \w+\s*)?=>', text, re.MULTILINE)
    return {name for arm in arms for name in re.findall(r'"([^"]+)"', arm)}


def data_plane() -> set[str]:
    """The paths below `/v1`, or `/api`, at which a model or nobody answers."""
    names = matched(function("inference")) | matched(function("absent"))
    return {f"/v1/{name}" for name in names} | matched(function("ollama"))


def as_documented(path: str) -> str:
    """A path as `data_plane` has it: with `/v1`, and without the prefix of Anthropic's."""
    path = path.removeprefix("/anthropic")
    return path if path.startswith(("/v1/", "/api/")) else f"/v1{path}"


def control_plane(tmp_path) -> set[tuple[str, str]]:
    async def main():
        async with serving(tmp_path) as client:
            return json.loads((await client.send("GET", "/openapi.json")).body)

    paths = asyncio.run(main())["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_every_path_that_is_documented_is_there(tmp_path):
    known = control_plane(tmp_path) | _OTHERS
    inference = data_plane()
    strange = {
        (method, path)
        for method, path in documented() - known
        if method != "POST" or as_documented(path) not in inference
    }
    assert not strange


def test_every_path_of_inference_is_documented():
    inference = data_plane()
    assert {"/v1/chat/completions", "/v1/messages", "/v1/moderations", "/api/chat"} <= inference
    assert inference <= {as_documented(path) for _, path in documented()}


def test_every_path_of_the_control_plane_is_documented(tmp_path):
    assert not control_plane(tmp_path) - documented()
