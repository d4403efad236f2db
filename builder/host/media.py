"""Driver discs: an ISO, read by pycdlib without mounting it, or a folder; and driver folders added to one.

A disc is hostile input. Links are never followed, sizes and counts are bounded, and only names that `MediaPath` takes
become files. A name or a link we cannot take is refused when it lies beside an INF or looks like part of a driver;
elsewhere (documents, tools) it is left out, because a driver disc holds more than drivers.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import EnvironmentUnable, InputRefused, WinfoundryError
from builder.model import ADDED, Media
from builder.windows.paths import MediaPath

MAX_FILE = 64 << 20  # bytes
MAX_FILES = 20_000
MAX_DEPTH = 16
_MAX_ISO = 8 << 30  # bytes

_DRIVER_SUFFIXES = (".inf", ".sys", ".cat")
_MAGICS = (
    (b"<", "a web page: was the download page saved instead of the disc?"),
    (b"PK", "a ZIP archive: unpack it and give the folder"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it and give the folder"),
    (b"\xed\xab\xee\xdb", "an RPM package: install it, and give /usr/share/virtio-win"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"MZ", "a Windows program: unpack it, or take the ISO"),
    (b"MSCF", "a cabinet file: unpack it and give the folder"),
    (b"\x1f\x8b", "gzip data: unpack it"),
    (b"\xfd7zXZ", "xz data: unpack it"),
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something found on the disc; `link` when it is no regular file, `address` what pycdlib calls it."""

    names: tuple[str, ...]
    size: int
    link: bool
    address: str = ""

    def __str__(self) -> str:
        return ascii("/".join(self.names))[1:-1]


@dataclass(frozen=True, slots=True)
class _Disc:
    """A Media whose names are checked; `contents` has for each file what brings its bytes."""

    label: str
    origin: Path
    contents: dict[MediaPath, tuple[_Entry, Callable[[_Entry], bytes]]]

    def files(self) -> tuple[MediaPath, ...]:
        return tuple(self.contents)

    def read(self, path: MediaPath) -> bytes:
        """Raises InputRefused for a path that is not on the disc, or when the disc ends before the file does."""
        if path not in self.contents:
            raise InputRefused(f"{path} is not on {self.label}")
        entry, fetch = self.contents[path]
        data = fetch(entry)
        if len(data) != entry.size:
            raise InputRefused(
                f"{self.origin}: {path} should have {entry.size} bytes, {len(data)} can be read: truncated?"
            )
        return data


@contextmanager
def open_media(path: Path, added: Sequence[Path] = ()) -> Iterator[Media]:
    """The driver disc at `path`, an ISO or a folder; those at `added` are part of it, below `driver_folders/<n>/`.

    Raises InputRefused for what is neither or holds what a driver disc must not; EnvironmentUnable when not readable.
    """
    with ExitStack() as stack:
        disc = _opened(path, stack)
        if any(file.parts[0].lower() == ADDED for file in disc.files()):
            raise InputRefused(f"{path} has a folder {ADDED}, which is where added drivers are shown")
        yield _joined(disc, [(one, _opened(one, stack)) for one in added]) if added else disc


def _opened(path: Path, stack: ExitStack) -> _Disc:
    try:
        return _open_folder(path) if path.is_dir() else _open_iso(path, stack)
    except PermissionError as error:
        raise EnvironmentUnable(f"cannot read {error.filename or path}", why=str(error.strerror)) from error


def _joined(disc: _Disc, added: Sequence[tuple[Path, _Disc]]) -> _Disc:
    """One disc; what an added folder is called stays part of its paths, as it may name a Windows or an architecture."""
    for path, one in added:
        if not any(file.name.lower().endswith(".inf") for file in one.files()):
            raise InputRefused(f"there is no driver in {path}", why="it holds no INF file")
    files = dict(disc.contents)
    for number, (path, one) in enumerate(added, 1):
        name = path.resolve().name
        folder = (ADDED, str(number), *((name,) if path.is_dir() and _parsed(_Entry((name,), 0, False))[0] else ()))
        files |= {MediaPath((*folder, *file.parts)): content for file, content in one.contents.items()}
    return _Disc(disc.label, disc.origin, files)


def _disc(label: str, origin: Path, entries: Iterator[_Entry], fetch: Callable[[_Entry], bytes]) -> _Disc:
    found = list(_bounded(origin, entries))
    drivers = {entry.names[:-1] for entry in found if entry.names[-1].lower().endswith(".inf")}
    files: dict[str, tuple[MediaPath, _Entry]] = {}
    for entry in found:
        vital = entry.names[:-1] in drivers or entry.names[-1].lower().endswith(_DRIVER_SUFFIXES)
        path = _accepted(origin, entry, vital)
        if path is None:
            continue
        folded = str(path).lower()
        if folded in files:
            raise InputRefused(
                f"{origin}: collision of {files[folded][0]} and {path}",
                why="Windows does not tell upper from lower case, so one would overwrite the other",
            )
        files[folded] = (path, entry)
    ordered = sorted(files.values(), key=lambda pair: str(pair[0]))
    return _Disc(label, origin, {path: (entry, fetch) for path, entry in ordered})


def _bounded(origin: Path, entries: Iterator[_Entry]) -> Iterator[_Entry]:
    for number, entry in enumerate(entries, 1):
        if number > MAX_FILES:
            raise InputRefused(f"{origin} holds more than {MAX_FILES} files: this is not a driver disc")
        yield entry


def _accepted(origin: Path, entry: _Entry, vital: bool) -> MediaPath | None:
    """The checked path; None for an entry that is left out."""
    path, problem = _parsed(entry)
    if entry.link:
        problem = "it is a link or a special file, which is never followed"
    elif entry.size > MAX_FILE:
        problem = f"{entry.size} bytes are over the limit of {MAX_FILE} for one file"
    if problem and vital:
        raise InputRefused(f"{origin}: {entry} is refused", why=problem, fix="use an unmodified virtio-win disc")
    return None if problem else path


def _parsed(entry: _Entry) -> tuple[MediaPath | None, str]:
    """The path, or why it is none."""
    try:
        return MediaPath.parse("/".join(entry.names)), ""
    except ValueError as error:
        return None, str(error)


# ---------------------------------------------------------------- folders


def _open_folder(root: Path) -> _Disc:
    return _disc(root.resolve().name, root, _scan(root, ()), lambda entry: _read_regular(root, entry))


def _scan(folder: Path, names: tuple[str, ...]) -> Iterator[_Entry]:
    if len(names) > MAX_DEPTH:
        raise InputRefused(f"{folder} lies more than {MAX_DEPTH} folders deep: this is not a driver disc")
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.is_dir(follow_symlinks=False):
            yield from _scan(Path(entry.path), (*names, entry.name))
        else:
            regular = entry.is_file(follow_symlinks=False)
            yield _Entry((*names, entry.name), entry.stat(follow_symlinks=False).st_size, not regular)


def _read_regular(root: Path, entry: _Entry) -> bytes:
    path = root.joinpath(*entry.names)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputRefused(f"{path} is not a regular file any more")
            return file.read(entry.size + 1)
    except PermissionError as error:
        raise EnvironmentUnable(f"cannot read {path}", why=str(error.strerror)) from error
    except OSError as error:
        raise InputRefused(f"{path} cannot be read any more", why=str(error.strerror)) from error


# ---------------------------------------------------------------- ISO images


def _open_iso(path: Path, stack: ExitStack) -> _Disc:
    _preflight(path)
    import pycdlib

    iso = pycdlib.PyCdlib()
    file = stack.enter_context(path.open("rb"))
    with _refusing(f"{path} is damaged, or is no ISO 9660 image"):
        iso.open_fp(file)
        _refuse_truncated(path, iso.pvd.space_size * 2048)
        kind = "rr_path" if iso.has_rock_ridge() else "joliet_path" if iso.has_joliet() else "iso_path"
        label = iso.pvd.volume_identifier.decode("ascii", "replace").strip() or path.name
        return _disc(label, path, _walk(iso, kind), lambda entry: _read_record(path, iso, kind, entry))


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """pycdlib raises many kinds for hostile bytes; all of them mean that the disc is not usable."""
    try:
        yield
    except WinfoundryError:
        raise
    except Exception as error:
        raise InputRefused(what, why=str(error) or type(error).__name__) from error


def _refuse_truncated(path: Path, stated: int) -> None:
    """pycdlib quietly shortens files that reach past the end."""
    if stated > (size := path.stat().st_size):
        raise InputRefused(f"{path} is truncated", why=f"it says it has {stated} bytes, it has {size}")


def _preflight(path: Path) -> None:
    if not path.is_file():
        what = "is neither a file nor a folder" if path.exists() else "does not exist"
        raise InputRefused(f"{path} {what}", fix="give the virtio-win ISO, or a folder with its contents")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(16 * 2048 + 1)
        standard = file.read(5)
    if size > _MAX_ISO:
        raise InputRefused(f"{path} has {size} bytes: this is not a driver disc", why=f"the limit is {_MAX_ISO} bytes")
    if standard != b"CD001":
        looks = next((text for magic, text in _MAGICS if start.lstrip().startswith(magic)), "")
        why = f"it looks like {looks}" if looks else "it is empty" if not size else "it has no volume descriptor"
        raise InputRefused(f"{path} is not an ISO image", why=why, fix="give the virtio-win ISO, or a folder")


def _walk(iso: Any, kind: str) -> Iterator[_Entry]:
    """Rock Ridge names, else Joliet, else plain ISO 9660 ones without their version."""
    pending: list[tuple[tuple[str, ...], str, Any]] = [((), "", iso.get_record(**{kind: "/"}))]
    while pending:
        names, address, folder = pending.pop()
        if len(names) > MAX_DEPTH:
            raise InputRefused(f"the disc has more than {MAX_DEPTH} levels of folders: this is not a driver disc")
        for record in folder.children:
            if record.is_dot() or record.is_dotdot():
                continue
            name = _name(record, kind)
            below = (*names, name.removesuffix(";1") if kind != "rr_path" else name)
            if record.is_dir():
                pending.append((below, f"{address}/{name}", record))
            else:
                link = kind == "rr_path" and record.rock_ridge.is_symlink()
                yield _Entry(below, record.get_data_length(), link, f"{address}/{name}")


def _name(record: Any, kind: str) -> str:
    if kind == "rr_path":
        return bytes(record.rock_ridge.name()).decode("utf-8", "surrogateescape")
    encoding = "utf-16-be" if kind == "joliet_path" else "latin-1"
    return bytes(record.file_identifier()).decode(encoding, "surrogatepass")


def _read_record(path: Path, iso: Any, kind: str, entry: _Entry) -> bytes:
    with _refusing(f"{path}: {entry} cannot be read"), iso.open_file_from_iso(**{kind: entry.address}) as file:
        return bytes(file.read(entry.size))
