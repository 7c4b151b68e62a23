"""The house as `ARCHITECTURE.md` draws it: who may import whom, and no file too long."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "model_runner"

EVERYWHERE = {"config", "errors", "names", "_core"}

# Who may import whom, inside the package.
ARROWS: dict[str, set[str]] = {
    "__init__": set(),
    "config": set(),
    "errors": set(),
    "names": {"errors"},
    "formats": {"errors"},
    "store": set(),
    "packaging": {"store", "formats"},
    "registry": {"store", "packaging", "formats"},
    "engines": set(),
    "lifecycle": {"engines", "store", "formats"},
    "telemetry": set(),
    "media": set(),
    "allocator": set(),
    "listening": set(),
    "state": set(),
    "api": {
        "lifecycle",
        "engines",
        "store",
        "registry",
        "packaging",
        "formats",
        "telemetry",
        "media",
        "state",
    },
    "app": {
        "allocator",
        "api",
        "engines",
        "lifecycle",
        "listening",
        "media",
        "registry",
        "state",
        "store",
        "telemetry",
    },
    "client": set(),
    # The command line talks HTTP; only `serve`, `package` and `import` open the house themselves.
    "cli": {"client", "app", "packaging", "store"},
}

# The crate's leaves import none of the modules that carry a request.
RUST_LEAVES = {"peek", "sse", "usage", "splice", "endpoint", "config", "decode"} | {
    "media",
    "multipart",
    "score",
}
RUST_CARRIERS = {"handler", "server", "runtime", "relay", "upstream", "engine", "control", "worker"}


def room_of(path: Path) -> str:
    """The module or sub-package of `model_runner` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {module.split(".")[1] for module in modules if module.startswith("model_runner.")}
    return rooms


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_run_along_the_arrows(path):
    room = room_of(path)
    allowed = ARROWS[room] | EVERYWHERE | {room, "__version__"}
    assert imported_rooms(path) <= allowed


def test_what_is_imported_is_declared():
    source = (ROOT / "pyproject.toml").read_text()
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", source, re.MULTILINE | re.DOTALL)
    assert declared
    distributions = {
        re.match(r"[\w-]+", line.strip(' "'))[0].replace("-", "_")
        for line in declared[1].splitlines()
    }
    # An extra: whoever has it gets the engine.
    known = distributions | set(sys.stdlib_module_names) | {"model_runner", "xllamacpp"}
    trees = [ast.walk(ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")]
    imported = {
        name.split(".")[0]
        for node in itertools.chain.from_iterable(trees)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else names_of(node))
    }
    assert imported - known == set()


def names_of(node: ast.Import) -> list[str]:
    return [alias.name for alias in node.names]


def test_only_three_commands_open_the_house():
    openers = {
        path.stem
        for path in (PACKAGE / "cli").glob("*.py")
        if imported_rooms(path) & {"app", "packaging", "store"}
    }
    assert openers == {"serve", "package", "imports"}


def test_the_leaf_parsers_know_nothing_of_requests():
    for leaf in RUST_LEAVES:
        source = (ROOT / "rust" / "core" / "src" / f"{leaf}.rs").read_text()
        for carrier in RUST_CARRIERS:
            assert f"crate::{carrier}" not in source, f"{leaf} imports {carrier}"


def test_nothing_imports_the_handler_but_the_protocols():
    sources = (ROOT / "rust" / "core" / "src").rglob("*.rs")
    users = {path.stem for path in sources if "crate::handler" in path.read_text()}
    assert users == {"http1", "http2"}


def test_every_module_is_drawn():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    house = text.partition("## The house")[2].partition("## Decisions")[0]
    drawn = set(re.findall(r"\w+", house))
    crate = {path.stem for path in (ROOT / "rust" / "core" / "src").glob("*.rs")} - {"lib"}
    package = {path.stem for path in PACKAGE.glob("[a-z]*") if path.suffix in {"", ".py"}}
    lifecycle = {path.stem for path in (PACKAGE / "lifecycle").glob("[a-z]*.py")}
    assert (crate | package | lifecycle) - drawn == set()


def test_the_data_plane_cannot_know_python():
    tree = subprocess.run(
        ["cargo", "tree", "--package", "model-runner-core", "--offline", "--edges", "normal"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pyo3" not in tree.stdout


def test_no_file_is_longer_than_600_lines():
    patterns = (
        "rust/**/*.rs",
        "python/**/*.py",
        "benches/**/*.rs",
        "benches/**/*.py",
        "tests/**/*.py",
    )
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for pattern in patterns
        for path in ROOT.glob(pattern)
    }
    assert {name: length for name, length in lengths.items() if length > 600} == {}
    binding = sum(length for name, length in lengths.items() if name.startswith("rust/py/"))
    assert binding <= 600
