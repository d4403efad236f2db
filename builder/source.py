"""The user's image, opened for one build: checked, pinned by its digest, and never written.

    with open_source(spec) as source:      all work is on source.overlay, in a workspace of mode 0700
        …
        require_unchanged(source)          before anything is published

The workspace is the folder `.winfoundry-<output>` beside the output: on its file system, so publishing is a rename,
and one for each output, so that its lock (flock) is the lock of the output too. A killed build leaves a folder whose
lock is free: the next build of that output, or `clean`, removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.config import BuildSpec
from builder.errors import Busy, ConfigError, EnvironmentUnable, InputRefused
from builder.host import disk_image
from builder.host.disk_image import open_regular, printable
from builder.model import Source

_PREFIX = ".winfoundry-"
_LOCK = "lock"
_OVERLAY_BYTES = 1 << 30  # what edits and driver files may grow the overlay by; virt-v2v asks for as much
_LARGEST_CHECKSUM_FILE = 1 << 20  # bytes


@contextmanager
def open_source(spec: BuildSpec, *, keep_workspace: bool = False) -> Iterator[Source]:
    """The source with an overlay over it; the workspace is `overlay.parent` and is removed at the end.

    `keep_workspace` leaves it after an error, until the next build of the same output.
    Raises InputRefused for an image we do not work on, Busy when another process has it open or builds the same
    output, EnvironmentUnable when permissions or space are missing, ConfigError when the output would hold an input.
    """
    path, output = _located(spec.source), _located(spec.output_directory)
    _require_apart(output, path, _located(spec.virtio_win))
    header = disk_image.preflight(path)
    with _workspace(output, keep_on_error=keep_workspace) as workspace:
        digest = require_digest(path, spec.source_checksum)
        disk_image.check(path)
        _require_space(workspace, disk_image.measure(path))
        overlay = workspace / "overlay.qcow2"
        disk_image.create_overlay(path, overlay)
        yield Source(path=path, sha256=digest, virtual_size=header.virtual_size, overlay=overlay)


def require_unchanged(source: Source) -> None:
    """Raises InputRefused when the source does not have the bytes it had when it was opened.

    All of it is read again: about a second for each gigabyte, and a time stamp would prove less.
    """
    digest = sha256(source.path)
    if digest != source.sha256:
        raise InputRefused(
            f"{printable(source.path)} was changed while it was being built from",
            why=f"its SHA-256 was {source.sha256}, now it is {digest}",
            fix="keep everything else away from it, and build again",
        )


def clean(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Removes the workspaces of dead builds from these folders; those of running builds stay. What was removed."""
    return tuple(path for folder in folders for path in leftovers(folder, then=_discard))


def leftovers(folder: Path, *, then: Callable[[Path], None] = lambda path: None) -> tuple[Path, ...]:
    """The workspaces in `folder` that no running build holds; `then` is called on each under its lock."""
    found = []
    for path in sorted(folder.glob(f"{_PREFIX}*")):
        with suppress(FileNotFoundError):  # its builder is just removing it
            lock = _locked(path) if _ours(path) else None
            if lock is not None:
                found.append(path)
                with os.fdopen(lock):
                    then(path)
    return tuple(found)


# ---------------------------------------------------------------- digests


def sha256(path: Path) -> str:
    """SHA-256 of a regular file in lower-case hex. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_digest(path: Path, checksum: str) -> str:
    """The SHA-256 of `path`, which must be what `checksum` ("sha256:HEX", "file:PATH" or "none") demands.

    Links are refused, so resolve the path first where they are welcome. Raises InputRefused.
    """
    wanted = _wanted(path, checksum)
    found = sha256(path)
    if wanted not in ("", found):
        raise InputRefused(
            f"{printable(path)} is not the file you meant",
            why=f"its SHA-256 is {found}, {wanted} was demanded",
            fix="download it again, or correct the checksum",
        )
    return found


def _wanted(path: Path, checksum: str) -> str:
    kind, _, rest = checksum.partition(":")
    return _listed(path.name, Path(rest)) if kind == "file" else rest.lower()


# "HEX  name" or "HEX *name" of sha256sum, "HEX" alone, "SHA256 (name) = HEX" of BSD and Fedora.
_LISTED = re.compile(
    r"(?P<hex>[0-9a-f]{64})(?:\s+\*?(?P<name>.+?))?\s*|SHA256 \((?P<of>.+)\) = (?P<hex2>[0-9a-f]{64})", re.I
)


def _listed(name: str, listing: Path) -> str:
    """The digest of `name` in a file of checksums, or the only one there."""
    with open_regular(listing) as file:
        lines = file.read(_LARGEST_CHECKSUM_FILE).decode(errors="replace").splitlines()
    found = [one for one in map(_LISTED.fullmatch, lines) if one]
    for one in found:
        of = one["name"] or one["of"]
        if (of is None and len(found) == 1) or (of is not None and Path(of).name == name):
            return (one["hex"] or one["hex2"]).lower()
    raise InputRefused(f"{listing} has no SHA-256 of {name}", fix=f"add it: sha256sum {name} >> {listing}")


# ---------------------------------------------------------------- places


def _located(path: Path) -> Path:
    """The absolute path, with links followed up to its last step but not in it."""
    return Path(os.path.realpath(path.parent), path.name) if path.name else Path(os.path.realpath(path))


def _require_apart(output: Path, *inputs: Path) -> None:
    for path in inputs:
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(output)):
            raise ConfigError(
                f"the output {output} would replace {printable(path)}",
                why="it is inside the output",
                fix="choose another output_directory",
            )


def _require_space(workspace: Path, result: int) -> None:
    free = shutil.disk_usage(workspace).free
    if free < _OVERLAY_BYTES + result:
        raise EnvironmentUnable(
            f"there is not enough space in {workspace.parent}",
            why=f"{_OVERLAY_BYTES + result} bytes are needed ({result} of them for the result), {free} are free",
            fix="make room, or choose an output_directory elsewhere",
        )


# ---------------------------------------------------------------- the workspace


@contextmanager
def _workspace(output: Path, *, keep_on_error: bool) -> Iterator[Path]:
    path = output.with_name(_PREFIX + output.name)
    lock = _claimed(path, output)
    try:
        for entry in path.iterdir():
            if entry.name != _LOCK:
                _delete(entry)  # a dead build left it
        yield path
    except BaseException:
        if not keep_on_error:
            _discard(path)
        raise
    else:
        _discard(path)
    finally:
        os.close(lock)


def _claimed(path: Path, output: Path) -> int:
    """The workspace exists and is locked by us; closing the descriptor frees it. Raises Busy, EnvironmentUnable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        mine = _ours(path)
        lock = _locked(path) if mine else None
    except FileNotFoundError:
        mine, lock = True, None  # its builder is just removing it
    except OSError as error:
        raise EnvironmentUnable(
            f"{printable(path.parent)} cannot hold the output",
            why=f"{error.strerror} (user {os.geteuid()})",
            fix="allow that user to write there, or choose another output_directory",
        ) from error
    if not mine:
        raise EnvironmentUnable(f"{printable(path)} is not a folder of yours", fix="move it away")
    if lock is None:
        raise Busy(f"another build holds {printable(output)}", why=f"it works in {printable(path)}", fix="wait for it")
    return lock


def _ours(path: Path) -> bool:
    """A real folder of this user, closed to others: nobody can have planted anything in it."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of a workspace, or None when somebody else does, or is just removing it."""
    lock = path / _LOCK
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), lock.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _discard(path: Path) -> None:
    """Removes a workspace we hold. It gets another name first, so that nobody finds it half removed."""
    away = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    path.rename(away)
    _delete(away)


def _delete(path: Path) -> None:
    """Removes a file or a folder, sealed ones too."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    for folder, _, _ in os.walk(path):
        Path(folder).chmod(0o700)
    shutil.rmtree(path)
