"""Files that survive a power cut: written whole or not at all, flushed before anybody is told that they are there."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import tempfile
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2), Linux 3.15, glibc 2.28


def scratch() -> Path:
    """Where large temporary files go: TMPDIR, else /var/tmp, as with libguestfs; /tmp is often small and in memory."""
    return Path(os.environ.get("TMPDIR", "/var/tmp"))  # noqa: S108


def sha256(path: Path) -> str:
    """Lower-case hex, of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """`path` holds `content` afterwards, or is as it was; durable when this returns. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """What was written to a file, or the names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: Path) -> None:
    """Files below become 0444, folders 0755 (so that their owner can still remove them), and all is on the disk.

    The modes do not depend on the umask, nor on the tool that wrote the files.
    """
    for path in sorted(folder.rglob("*"), reverse=True):  # what lies in a folder comes before the folder itself
        path.chmod(0o755 if path.is_dir() else 0o444)
        sync(path)
    folder.chmod(0o755)
    sync(folder)


def exchange(one: Path, other: Path) -> None:
    """Both names swap what they stand for, in one step. Raises OSError; EINVAL where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.EINVAL, "this C library has no renameat2")
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one))
