"""A driver package on a disc: an INF, everything it copies for one Windows, and its catalogue, read and judged once."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.model import DriverPackage, Media, MediaFile
from builder.windows import inf_install
from builder.windows.authenticode import Image, Unsound, image
from builder.windows.inf import Inf, parse
from builder.windows.inf_install import Copy, Target
from builder.windows.paths import MediaPath
from builder.windows.releases import Arch
from builder.windows.signatures import examine

MACHINES = {0x014C: Arch.X86, 0x8664: Arch.AMD64, 0xAA64: Arch.ARM64}
"""IMAGE_FILE_MACHINE_* of the PE header ("PE Format", Microsoft Learn)."""

_MOST_CERTIFICATES, _LONGEST_CERTIFICATE = 16, 16 << 10  # files, bytes


@dataclass(frozen=True, slots=True)
class Shelf:
    """A disc with its files indexed by lower-case path, and the certificates that lie on it (DER)."""

    media: Media
    by_name: dict[str, MediaPath]
    certificates: tuple[bytes, ...]

    def find(self, folder: tuple[str, ...], name: MediaPath) -> MediaPath | None:
        """The file an INF in `folder` means; INF and disc often differ in case."""
        return self.by_name.get("/".join((*folder, *name.parts)).lower())


def shelf(media: Media) -> Shelf:
    files = media.files()
    loose = [path for path in files if path.name.lower().endswith((".cer", ".crt"))][:_MOST_CERTIFICATES]
    found = (_der(media.read(path)) for path in loose)
    return Shelf(media, {str(path).lower(): path for path in files}, tuple(der for der in found if der))


def _der(data: bytes) -> bytes:
    """A certificate file's DER; "" for what is too large to be one. Whether it is one shows when it is needed."""
    from cryptography import x509

    pem = re.search(
        rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", data[:_LONGEST_CERTIFICATE], re.DOTALL
    )
    try:
        der = base64.b64decode(pem[1]) if pem else data[:_LONGEST_CERTIFICATE]
        x509.load_der_x509_certificate(der)
    except ValueError:
        return b""
    return der


def read_inf(disc: Shelf, path: MediaPath) -> Inf:
    """Raises InputRefused."""
    return parse(str(path), disc.media.read(path))


def load(disc: Shelf, path: MediaPath, inf: Inf, target: Target, because: str) -> DriverPackage:
    """The package of an INF whose `devices` for this target are not empty.

    Raises InputRefused naming the file that is missing, is for another architecture, or lies outside the folder.
    """
    version = inf_install.version(inf, target.arch)
    copies = inf_install.copies(inf, target)
    catalog = _catalog(disc, path, version.catalog)
    contents = {path: disc.media.read(path)}
    contents |= {found: disc.media.read(found) for found in _found(disc, path, inf, copies)}
    programs = {one.name: _program(one, data, target.arch) for one, data in contents.items() if _is_driver(one)}
    if catalog:
        contents[catalog] = disc.media.read(catalog)
    described = {one: MediaFile(one, len(data), hashlib.sha256(data).hexdigest()) for one, data in contents.items()}
    return DriverPackage(
        name=path.name.lower().removesuffix(".inf"),
        inf=described[path],
        catalog=described[catalog] if catalog else None,
        files=tuple(described[one] for one in sorted(described, key=str)),
        runs_from=tuple((copy.source.name, copy.place) for copy in copies if copy.place),
        provider=version.provider,
        class_name=version.class_name,
        class_guid=version.class_guid,
        date=version.date,
        version=version.version,
        devices=inf_install.devices(inf, target),
        services=inf_install.services(inf, target),
        strings=inf.strings,
        arch=target.arch,
        signature=examine(
            (path.name, contents[path]),
            (catalog.name, contents[catalog]) if catalog else None,
            programs,
            disc.certificates,
        ),
        chosen_because=because,
        includes=inf_install.includes(inf, target),
    )


def _is_driver(path: MediaPath) -> bool:
    return path.name.lower().endswith(".sys")


def _catalog(disc: Shelf, path: MediaPath, name: str) -> MediaPath | None:
    if not name:
        return None
    try:
        found = disc.find(path.folder, MediaPath.parse(name))
    except ValueError as error:
        raise InputRefused(f"{path}: CatalogFile names a file outside its folder: {error}") from None
    return found or _missing(path, name)


def _found(disc: Shelf, path: MediaPath, inf: Inf, copies: tuple[Copy, ...]) -> Iterator[MediaPath]:
    for copy in copies:
        if len(copy.source.parts) > 1:
            raise inf.refused(copy.line, f"keeps {copy.source} in a subfolder, which the driver store here cannot hold")
        yield disc.find(path.folder, copy.source) or _missing(path, str(copy.source))


def _missing(path: MediaPath, name: str) -> MediaPath:
    raise InputRefused(
        f"{path} needs {name}, which is not on the disc",
        why="a driver package is complete only with every file its INF names",
        fix="use an unmodified virtio-win disc",
    )


def _program(path: MediaPath, data: bytes, arch: Arch) -> Image:
    try:
        program = image(data)
    except Unsound as error:
        raise InputRefused(f"{path} cannot be a driver: {error}") from None
    found = MACHINES.get(program.machine)
    if found is not arch:
        raise InputRefused(f"{path} is {found or f'machine type {program.machine:#x}'}, need {arch}")
    return program
