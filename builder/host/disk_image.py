"""qcow2 images: what a stranger's header may ask for is decided here, before any tool opens the file; then qemu-img.

A header can make a reader open other files (backing file, data file) or sockets (`json:`, `nbd:`); images that do are
refused, whatever they point at. Format: QEMU's docs/interop/qcow2.txt. The format is always named, never probed.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from builder.errors import Busy, EnvironmentUnable, InputRefused, WinfoundryError
from builder.host import process

LARGEST_DISK = 16 << 40  # bytes
_LARGEST_CLUSTER = 2 << 20  # bytes; the header and its extensions are in the first cluster
_CHECK_TIMEOUT, _QUICK_TIMEOUT = 3600.0, 120.0  # seconds
_LARGEST_BACKING_NAME = 1023  # bytes, the format's limit

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")  # incompatible, compatible, autoclear, refcount_order, header_length
_EXTENSION = struct.Struct(">II")
_DATA_FILE_NAME = 0x44415441
_KNOWN_BITS = 0b11111  # dirty, corrupt, data file, compression type, extended L2


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a qcow2 image says. Sizes in bytes; the two names are raw bytes, b"" for none."""

    version: int
    virtual_size: int
    cluster_bits: int
    encryption: int
    snapshots: int
    incompatible: int
    backing_file: bytes
    data_file: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason not to open an image: `found` gives the offending value as text, or "" when all is well."""

    name: str
    found: Callable[[Header], str]
    why: str
    fix: str


def _bit(number: int) -> Callable[[Header], str]:
    return lambda header: f"bit {number}" if header.incompatible >> number & 1 else ""


_FLATTEN = "make a copy that stands alone: qemu-img convert -f qcow2 -O qcow2 IMAGE COPY"

REFUSALS = (
    Refusal("backing file", lambda header: _shown(header.backing_file), "it reads from another file", _FLATTEN),
    Refusal(
        "data file",
        lambda header: _shown(header.data_file) or _bit(2)(header),
        "it keeps its data in another file",
        _FLATTEN,
    ),
    Refusal(
        "dirty",
        _bit(0),
        "it was not closed cleanly",
        "run `qemu-img check -r all` on a copy, and look whether the guest is sound",
    ),
    Refusal("corrupt", _bit(1), "it is marked corrupt", "run `qemu-img check -r all` on a copy, or take a backup"),
    Refusal(
        "unknown features",
        lambda header: f"{header.incompatible & ~_KNOWN_BITS:#x}" if header.incompatible & ~_KNOWN_BITS else "",
        "it needs a newer reader",
        "convert it with the QEMU that wrote it: qemu-img convert -O qcow2 -o compat=1.1",
    ),
    Refusal(
        "encryption",
        lambda header: f"method {header.encryption}" if header.encryption else "",
        "it is encrypted",
        "decrypt a copy with qemu-img convert",
    ),
    Refusal(
        "internal snapshots",
        lambda header: str(header.snapshots or ""),
        "its snapshots would be lost",
        "drop them: qemu-img snapshot -d NAME IMAGE, or convert a copy",
    ),
    Refusal(
        "virtual size",
        lambda header: f"{header.virtual_size} bytes" if header.virtual_size > LARGEST_DISK else "",
        f"no disk over {LARGEST_DISK} bytes is taken",
        "shrink it, if it really holds Windows",
    ),
)

_OTHER_FORMATS = (  # offset, magic, qemu-img's name of it
    (0, b"KDMV", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
    (0x8001, b"CD001", "an ISO"),
    (0x1FE, b"\x55\xaa", "raw"),
)


def _shown(name: bytes) -> str:
    return ascii(name.decode("utf-8", "surrogateescape")) if name else ""


def open_regular(path: Path) -> BufferedReader:
    """The file for reading: a regular one, no link in its last step.

    Raises InputRefused when it is not, EnvironmentUnable when we may not read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError as error:
        raise EnvironmentUnable(
            f"{printable(path)} cannot be read",
            why=f"user {os.geteuid()} has no permission",
            fix="allow that user to read it",
        ) from error
    except (OSError, ValueError) as error:
        link = "it is a link; name the file itself" if path.is_symlink() else getattr(error, "strerror", str(error))
        raise InputRefused(f"{printable(path)} cannot be opened", why=link) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputRefused(f"{printable(path)} is not a regular file")
    return os.fdopen(descriptor, "rb")


def preflight(path: Path) -> Header:
    """Raises InputRefused, with every reason, when `path` is not a qcow2 image that stands alone."""
    with open_regular(path) as file:
        data = file.read(_LARGEST_CLUSTER)
        if not data.startswith(b"QFI\xfb"):
            raise _not_qcow2(path, data)
    try:
        header = parse(data)
    except ValueError as error:
        raise InputRefused(f"{printable(path)} is not a sound qcow2 image", why=str(error)) from None
    reasons = [(refusal, found) for refusal in REFUSALS if (found := refusal.found(header))]
    if reasons:
        raise InputRefused(
            f"{printable(path)} cannot be the source of a build",
            why="; ".join(f"{refusal.why} ({refusal.name}: {found})" for refusal, found in reasons),
            fix=reasons[0][0].fix,
        )
    return header


def _not_qcow2(path: Path, data: bytes) -> InputRefused:
    like = next((name for at, magic, name in _OTHER_FORMATS if data[at : at + len(magic)] == magic), "")
    fix = f"qemu-img convert -f {like} -O qcow2 IMAGE COPY" if like and " " not in like else ""
    why = f"it looks like {like}" if like else "it is empty" if not data else "it does not start as one"
    return InputRefused(f"{printable(path)} is not a qcow2 image", why=why, fix=fix)


def parse(data: bytes) -> Header:
    """The header at the start of `data`, which holds the first cluster. Raises ValueError when it is not sound."""
    if len(data) < _V2.size:
        raise ValueError(f"the header is cut off after {len(data)} bytes")
    (magic, version, backing_at, backing_size, cluster_bits, size, encryption, *_, snapshots, _) = _V2.unpack_from(data)
    incompatible, length = 0, _V2.size
    if magic != b"QFI\xfb" or version not in (2, 3):
        raise ValueError(f"magic {magic!r}, version {version}: only qcow2 of version 2 and 3 is known")
    if not 9 <= cluster_bits <= 21:
        raise ValueError(f"clusters of 2^{cluster_bits} bytes are not allowed")
    if version == 3:
        if len(data) < _V2.size + _V3.size:
            raise ValueError(f"the header is cut off after {len(data)} bytes")
        incompatible, _, _, _, length = _V3.unpack_from(data, _V2.size)
    cluster = data[: 1 << cluster_bits]
    if not _V2.size <= length <= len(cluster) or (version == 3 and length < _V2.size + _V3.size):
        raise ValueError(f"a header of {length} bytes is not allowed")
    extensions = dict(_extensions(cluster, length, backing_at or len(cluster)))
    return Header(
        version=version,
        virtual_size=size,
        cluster_bits=cluster_bits,
        encryption=encryption,
        snapshots=snapshots,
        incompatible=incompatible,
        backing_file=_backing(cluster, backing_at, backing_size),
        data_file=extensions.get(_DATA_FILE_NAME, b""),
    )


def _backing(cluster: bytes, at: int, size: int) -> bytes:
    """The name of the backing file. An offset or a length alone is one too: a reader may take it for one."""
    return (cluster[at : at + min(size, _LARGEST_BACKING_NAME)] or b"?") if at or size else b""


def _extensions(cluster: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    while at + _EXTENSION.size <= min(end, len(cluster)):
        kind, length = _EXTENSION.unpack_from(cluster, at)
        at += _EXTENSION.size
        if kind == 0:
            return
        if at + length > len(cluster):
            raise ValueError(f"header extension {kind:#x} of {length} bytes does not fit")
        yield kind, cluster[at : at + length]
        at += -(-length // 8) * 8


# ---------------------------------------------------------------- qemu-img


def create_overlay(base: Path, overlay: Path) -> None:
    """A new qcow2 at `overlay` that reads from `base` (qcow2) and takes all writes, mode 0600."""
    if len(os.fsencode(base.absolute())) > _LARGEST_BACKING_NAME:
        raise InputRefused(f"the path of {base.name} is longer than {_LARGEST_BACKING_NAME} bytes")
    argv = ("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base.absolute(), overlay.absolute())
    _qemu_img(*argv, image=base, failure=EnvironmentUnable)
    overlay.chmod(0o600)


def check(path: Path) -> None:
    """Raises InputRefused with the number of corruptions when the image is damaged; leaked clusters do no harm."""
    found = _qemu_img("check", "--output=json", "-f", "qcow2", path.absolute(), image=path, codes=(0, 2, 3))
    if found.code == 2:
        number = _json(found).get("corruptions", 0)
        raise InputRefused(
            f"{printable(path)} is damaged",
            why=f"qemu-img check found {number} corruptions",
            fix="copy the image again",
        )


def measure(path: Path) -> int:
    """Bytes that a flat qcow2 copy of the image takes at most."""
    argv = ("measure", "--output=json", "-O", "qcow2", "-f", "qcow2", path.absolute())
    return int(_json(_qemu_img(*argv, image=path))["required"])


def _qemu_img(
    command: str,
    *argv: str | Path,
    image: Path,
    codes: tuple[int, ...] = (0,),
    failure: type[WinfoundryError] = InputRefused,
) -> process.Finished:
    """Raises `failure` when it ends with none of `codes`, Busy when somebody has the image open for writing."""
    timeout = _CHECK_TIMEOUT if command == "check" else _QUICK_TIMEOUT
    finished = process.run(("qemu-img", command, *argv), timeout=timeout, check=False)
    if finished.code in codes:
        return finished
    first = (finished.stderr.strip() or f"exit code {finished.code}").splitlines()[0]
    if "Failed to get" in finished.stderr and "lock" in finished.stderr:
        raise Busy(
            f"{printable(image)} is in use by another process", why=first, fix="shut the virtual machine down first"
        )
    raise failure(f"qemu-img {command} cannot work on {printable(image)}", why=first)


def _json(finished: process.Finished) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(finished.stdout.decode(errors="replace"))
    return found


def printable(path: Path) -> str:
    """The path as it can be printed."""
    return str(path) if str(path).isprintable() else ascii(str(path))
