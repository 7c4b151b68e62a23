"""What a repository at Hugging Face holds, as its hub lists it."""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model_runner.errors import UnsupportedModel

if TYPE_CHECKING:
    from datetime import datetime

# What is not in large file storage is read into memory; the hub itself takes 10 MiB at most.
MAX_SMALL = 64 << 20


@dataclass(frozen=True, slots=True)
class HubAccess:
    """One caller's way into one repository.

    Attributes:
        endpoint: `https://huggingface.co`, without a slash at its end.
        repository: `owner/name`.
        token: Who asks; None is nobody in particular.
    """

    endpoint: str
    repository: str
    token: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The hub, for messages."""
        return self.endpoint.partition("://")[2]

    @property
    def page(self) -> str:
        """Where a person sees the repository."""
        return f"{self.endpoint}/{self.repository}"


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in one revision of a repository.

    Attributes:
        path: From the root of the repository, not yet checked.
        size: In bytes.
        git_id: What git calls it: the hash of its bytes, or of what stands for them.
        digest: `sha256:…` of its bytes if they are in large file storage, else None.
    """

    path: str
    size: int
    git_id: str
    digest: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path)

    @property
    def folder(self) -> str:
        """The path without the last part; empty at the top."""
        return posixpath.dirname(self.path)


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of a repository.

    Attributes:
        repository: As the hub spells it.
        commit: Its hash.
        modified: When the commit was made, the same for everybody who asks.
    """

    repository: str
    commit: str
    modified: datetime


def is_git_id_of(data: bytes, git_id: str) -> bool | None:
    """Whether git would call these bytes so; None if it is no name of git's, so nobody knows."""
    hashes = {40: hashlib.sha1, 64: hashlib.sha256}
    if len(git_id) not in hashes:
        return None
    header = f"blob {len(data)}\0".encode()
    return hashes[len(git_id)](header + data).hexdigest() == git_id.lower()


def check_small(file: HubFile) -> None:
    """Refuse a large file of which only git's name is known.

    Raises:
        UnsupportedModel: It is one.
    """
    if not file.digest and file.size > MAX_SMALL:
        raise UnsupportedModel(
            f"`{file.path}` has {file.size} bytes and is not in large file storage",
            hint="nobody could tell whether it arrived whole; tell the owner of the repository",
        )
