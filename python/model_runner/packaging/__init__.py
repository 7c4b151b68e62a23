"""Builds model packages out of files and of other packages, as Docker's tools would, byte for byte.

Everything here blocks on the disk.
"""

from model_runner.packaging.artifact import (
    Package,
    annotations_of_file,
    docker_config,
    encode,
    file_time,
    moment,
    write,
)
from model_runner.packaging.baking import bare
from model_runner.packaging.build import Weights, package_weights
from model_runner.packaging.creation import Order, create_from_files, create_from_model
from model_runner.packaging.dduf import dduf_config, describe_dduf, package_dduf
from model_runner.packaging.directory import package_directory
from model_runner.packaging.export import Archive
from model_runner.packaging.extras import Extras
from model_runner.packaging.gguf import describe_gguf, gguf_config, package_gguf
from model_runner.packaging.layers import SourceFile
from model_runner.packaging.layout import docker_type
from model_runner.packaging.loading import Loading, check_tag
from model_runner.packaging.safetensors import describe_safetensors, safetensors_config
from model_runner.packaging.variant import package_variant

__all__ = [
    "Archive",
    "Extras",
    "Loading",
    "Order",
    "Package",
    "SourceFile",
    "Weights",
    "annotations_of_file",
    "bare",
    "check_tag",
    "create_from_files",
    "create_from_model",
    "dduf_config",
    "describe_dduf",
    "describe_gguf",
    "describe_safetensors",
    "docker_config",
    "docker_type",
    "encode",
    "file_time",
    "gguf_config",
    "moment",
    "package_dduf",
    "package_directory",
    "package_gguf",
    "package_variant",
    "package_weights",
    "safetensors_config",
    "write",
]
