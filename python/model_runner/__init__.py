"""Run AI models on your own machine behind one address."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("model-runner")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
