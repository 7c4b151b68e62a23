"""Durable file operations: atomic writes, sharing of bytes, and errors in words.

After each function returns, a power cut leaves either the old state or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from model_runner.errors import DiskFull, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

# FICLONE of linux/fs.h: share the extents of a file, copy on write (btrfs, XFS, bcachefs, ZFS).
_FICLONE = 0x40049409

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` into what a user can act on.

    Raises:
        DiskFull: The disk or the quota is exhausted.
        StoreError: Anything else that the operating system refused.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if is_full(error):
            raise DiskFull(
                f"no room left for the model store at `{path}`",
                hint="free some space, or remove models with `model-runner rm`",
            ) from error
        hint = "set MODELS_PATH to a directory that this user can write to"
        raise StoreError(
            f"the model store at `{path}` cannot be used: {error.filename or path}: {reason}",
            hint=hint if error.errno in _NO_PERMISSION else None,
        ) from error


def is_full(error: OSError) -> bool:
    """Whether the disk or the quota is exhausted."""
    return error.errno in _NO_SPACE


def is_read_only(error: StoreError) -> bool:
    """Whether the disk refused because this user may not write there."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_PERMISSION


@contextlib.contextmanager
def suppress_read_only() -> Iterator[None]:
    """Leave alone what this user may not write to."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_PERMISSION:
            raise


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory survive a power cut."""
    if sys.platform == "win32":
        return  # directories cannot be opened there; NTFS journals names by itself
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power cut."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file as a whole; readers see the old content or the new, never a part.

    The temporary file is called `<name>.tmp-…`, as Docker Model Runner's are.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.tmp-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600; the store may be shared with Docker's user
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def reflink(source: Path, target: Path) -> bool:
    """Make `target` a copy-on-write clone of `source`, if the file system can do that."""
    if sys.platform != "linux":
        return False
    import fcntl  # not there on Windows

    with source.open("rb") as old, target.open("xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError as error:
            target.unlink()
            # Whatever the reason (other file system, not supported), a plain copy tells it better.
            if is_full(error):
                raise
            return False
        os.fsync(new.fileno())
    return True


def hard_link(source: Path, target: Path) -> bool:
    """Make `target` a further name of `source`, if the file system and the system's rules can."""
    try:
        os.link(source, target)
    except OSError as error:
        if is_full(error):
            raise
        return False
    return True


def share(source: Path, target: Path) -> None:
    """Make the bytes of `source` appear as `target` in the cheapest way that works here.

    Hard links, symbolic links (relative, so that the store can be moved) and at last a copy need
    ever less of the file system than a clone. Whoever opens `target` cannot write to it.
    """
    if reflink(source, target):
        target.chmod(0o444)
        return
    for link in (os.link, _link_symbolically):
        with contextlib.suppress(OSError):
            link(source, target)
            keep_from_owner(source)
            return
    shutil.copyfile(source, target)
    sync_file(target)
    target.chmod(0o444)


def _link_symbolically(source: Path, target: Path) -> None:
    target.symlink_to(os.path.relpath(source, target.parent))
    if not target.exists():  # a directory on the way is a symbolic link itself
        target.unlink()
        target.symlink_to(source.absolute())


def keep_from_owner(path: Path) -> None:
    """Take the right to write from a file's owner, as whom its readers run.

    Everybody else's rights stay: without that to write, others could not link to the file (Linux'
    `protected_hardlinks`). Who owns a file may always link, rename and remove it.
    """
    if sys.platform == "win32":
        return  # there a file that nobody may write to cannot be removed
    with contextlib.suppress(OSError):  # it is somebody else's, so that we cannot write to it
        mode = path.stat().st_mode
        if mode & stat.S_IWUSR:
            path.chmod(stat.S_IMODE(mode) & ~stat.S_IWUSR)
