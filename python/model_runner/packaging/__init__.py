"""Builds model packages out of files, with the digests that Docker's tools would give them."""

from model_runner.packaging.gguf import Extras, package_gguf

__all__ = ["Extras", "package_gguf"]
