"""The sample's driver disc: an ISO in the layout of virtio-win, `<Driver>/<os>/<arch>/`, signed by a throw-away CA.

The INF files are rendered from `driver.inf.j2` by the table below; device ids, services and start types are those of
virtio-win, so that the sample takes the same way through the program as a user's disc.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from builder.sample import pe
from builder.sample.catalogue import Signer, catalogue

VOLUME_ID = "winfoundry-sample-drivers"
CERTIFICATE = "cert/winfoundry_sample_CA.cer"

_DATE, _VERSION = "01/02/2024", "100.1.1.1"  # DriverVer; constant, so that the same program makes the same INF


@dataclass(frozen=True, slots=True)
class _Class:
    """A device setup class, with what all its packages share: when the driver starts, and in which group."""

    name: str
    guid: str
    start: int  # 0 by the boot loader, 3 when the device is found
    group: str = ""


_SCSI = _Class("SCSIAdapter", "{4d36e97b-e325-11ce-bfc1-08002be10318}", 0, "SCSI miniport")
_NET = _Class("Net", "{4d36e972-e325-11ce-bfc1-08002be10318}", 3, "NDIS")
_SYSTEM = _Class("System", "{4d36e97d-e325-11ce-bfc1-08002be10318}", 3, "Extended Base")


@dataclass(frozen=True, slots=True)
class _Driver:
    """One row is one package, per release: its folder, the stem of its files, its PCI device and subsystem ids."""

    folder: str
    stem: str
    service: str
    title: str
    kind: _Class
    legacy: str
    subsystem: str
    modern: str
    messages: int  # limit of message-signalled interrupts
    bus_type: int = 0  # STORAGE_BUS_TYPE of storage drivers


_DRIVERS = (
    _Driver("viostor", "viostor", "viostor", "VirtIO SCSI controller", _SCSI, "1001", "0002", "1042", 257, 0x01),
    _Driver("vioscsi", "vioscsi", "vioscsi", "VirtIO SCSI pass-through", _SCSI, "1004", "0008", "1048", 258, 0x0A),
    _Driver("NetKVM", "netkvm", "netkvm", "VirtIO Ethernet Adapter", _NET, "1000", "0001", "1041", 2048),
    _Driver("Balloon", "balloon", "BALLOON", "VirtIO Balloon Driver", _SYSTEM, "1002", "0005", "1045", 2),
    _Driver("vioserial", "vioser", "VirtioSerial", "VirtIO Serial Driver", _SYSTEM, "1003", "0003", "1043", 2),
    _Driver("viorng", "viorng", "VirtRng", "VirtIO RNG Device", _SYSTEM, "1005", "0004", "1044", 1),
)
_RELEASES = ("w10/amd64",)


def tree(signer: Signer, now: datetime.datetime) -> Mapping[str, bytes]:
    """Every file of the disc by its path; `now` dates the catalogues (UTC)."""
    packages = (_package(driver, release, signer, now) for driver in _DRIVERS for release in _RELEASES)
    return {path: content for package in packages for path, content in package} | {CERTIFICATE: signer.authority_der}


def _package(driver: _Driver, release: str, signer: Signer, now: datetime.datetime) -> Iterator[tuple[str, bytes]]:
    files = {f"{driver.stem}.inf": _inf(driver), f"{driver.stem}.sys": pe.image(f"{driver.stem}.sys")}
    signed = {**files, f"{driver.stem}.cat": catalogue(files, signer, now)}
    return ((f"{driver.folder}/{release}/{name}", content) for name, content in signed.items())


def _inf(driver: _Driver) -> bytes:
    """CRLF, as Windows' tools write INF files and as a catalogue's flat hash needs them to stay."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files(__package__).joinpath("driver.inf.j2").read_text(encoding="ascii")
    # Not HTML, hence no escaping.
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False).from_string(text)  # noqa: S701
    rendered = template.render(d=driver, date=_DATE, version=_VERSION)
    return rendered.replace("\n", "\r\n").encode("ascii")


def write_iso(files: Mapping[str, bytes], target: Path, volume_id: str) -> None:
    """An ISO 9660 file with Rock Ridge names, as mkisofs -r -iso-level 4 makes virtio-win's."""
    from pycdlib import PyCdlib

    iso = PyCdlib()
    iso.new(interchange_level=4, vol_ident=volume_id, rock_ridge="1.09")
    for folder in _folders(files):
        iso.add_directory(f"/{folder}", rr_name=folder.rpartition("/")[2], file_mode=0o40555)
    for path, content in files.items():
        iso.add_fp(io.BytesIO(content), len(content), f"/{path}", rr_name=path.rpartition("/")[2], file_mode=0o100444)
    iso.write(str(target))
    iso.close()


def _folders(files: Mapping[str, bytes]) -> list[str]:
    """Every folder above a file, parents first."""
    parts = [path.split("/")[:-1] for path in files]
    return sorted({"/".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)})
