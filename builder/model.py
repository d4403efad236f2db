"""The values passed between the stages: frozen, typed, no I/O.

Source ─inspect▶ Guest ─plan▶ Plan ─outstanding▶ Change… ─apply▶ Applied ─render▶ Domain ─boot▶ BootReport ─▶ published
Media ──select─▶ DriverPackage… ┘                                                └─verify▶ CheckReport ─┘
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from builder.edits import Change as Change
from builder.edits import DeleteKey as DeleteKey
from builder.edits import Edit as Edit
from builder.edits import Hive as Hive
from builder.edits import Key as Key
from builder.edits import KeyValues as KeyValues
from builder.edits import MediaFile as MediaFile
from builder.edits import PutFile as PutFile
from builder.edits import SetValue as SetValue
from builder.edits import WriteFile as WriteFile
from builder.edits import digest
from builder.windows.paths import GuestPath, MediaPath
from builder.windows.releases import Arch, Release


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class Bus(StrEnum):
    """How a disk hangs on the guest, in libvirt's words (`<target bus=…>`); SCSI means virtio-scsi."""

    IDE = "ide"
    SATA = "sata"
    VIRTIO = "virtio"
    SCSI = "scsi"


# ---------------------------------------------------------------- what comes in


@dataclass(frozen=True, slots=True)
class Source:
    """The user's image: never written. `overlay` is what we work on."""

    path: Path
    sha256: str
    virtual_size: int  # bytes
    overlay: Path


@dataclass(frozen=True, slots=True)
class Loader:
    """A Windows boot loader object of the BCD store; `path` as in the store (`\\Windows\\system32\\winload.exe`)."""

    guid: str
    description: str
    path: str
    default: bool


@dataclass(frozen=True, slots=True)
class BootStore:
    """What starts this Windows: a BCD store, or boot.ini before Vista; its partition, its path with the case found.

    loaders  the objects that start Windows itself
    others   loaders of the same type that start something else: Recovery, Setup, a vendor's tools
    objects  the identifiers of all objects
    """

    device: str
    path: str  # "/Boot/BCD"
    loaders: tuple[Loader, ...]
    others: tuple[Loader, ...] = ()
    objects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Guest:
    """The Windows found on an image.

    device        the partition of the system volume, as the appliance names it ("/dev/sda2")
    system_root   usually C:\\Windows
    control_sets  those `Select` names, e.g. ("ControlSet001", "ControlSet002"), Current first
    hives         the hives that exist
    published     oemN.inf -> package label, for the packages already in the driver database
    free_oem      the numbers N for which no oemN.inf exists, lowest first, enough for one disc
    oem_inf_map   SYSTEM DriverDatabase OemInfMap: a bit for each oemN.inf that is taken
    device_path   SOFTWARE …\\CurrentVersion DevicePath as it stands ("%SystemRoot%\\inf")
    free_bytes    free space on the system volume
    notes         states people want to know of: a pending restart, unfinished servicing
    """

    release: Release
    build: int
    arch: Arch
    product: str
    edition: str
    firmware: Firmware
    device: str
    system_root: GuestPath
    boot: BootStore
    control_sets: tuple[str, ...]
    driver_database: bool
    hives: frozenset[Hive]
    published: Mapping[str, str]
    free_oem: tuple[int, ...]
    device_path: str
    oem_inf_map: bytes
    boot_buses: frozenset[Bus]
    free_bytes: int
    notes: tuple[str, ...] = ()


# ---------------------------------------------------------------- the driver disc

ADDED = "driver_folders"
"""The folder of a Media below which lie the driver folders that the user added to the disc."""


class Media(Protocol):
    """A driver disc: an ISO or a folder. Untrusted: links are refused, sizes and counts bounded (InputRefused)."""

    @property
    def label(self) -> str:
        """What to call it: the ISO's volume id, or the folder's name."""
        ...

    @property
    def origin(self) -> Path: ...

    def files(self) -> tuple[MediaPath, ...]:
        """Every file, sorted."""
        ...

    def read(self, path: MediaPath) -> bytes: ...


class Signer(StrEnum):
    """By whom a package is vouched for, `windows-facts` section 6."""

    MICROSOFT = "microsoft"
    CROSS_SIGNED = "cross-signed"
    TEST_SIGNED = "test-signed"
    UNSIGNED = "unsigned"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Certificate:
    """An X.509 certificate: its DER bytes and the facts shown to people."""

    der: bytes
    subject: str

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the DER in upper-case hex, as Windows names it."""
        return hashlib.sha1(self.der, usedforsecurity=False).hexdigest().upper()


@dataclass(frozen=True, slots=True)
class Signature:
    """What the signatures of one package are worth.

    signer     the class the weakest kernel file falls in
    by         the signer's common name, "" when unsigned
    leaf,root  the signing certificate and the end of the chain that came with it (the same when self-signed)
    why        one sentence, shown to the user
    """

    signer: Signer
    by: str
    leaf: Certificate | None
    root: Certificate | None
    why: str


@dataclass(frozen=True, slots=True)
class DriverService:
    """A service an INF installs; `values` are its AddReg: (("Parameters",), "BusType", dword(1))."""

    name: str
    type: int
    start: int
    error_control: int
    group: str
    binary: str  # "System32\\drivers\\viostor.sys", or with {label} for packages that run from the driver store
    values: KeyValues


@dataclass(frozen=True, slots=True)
class DeviceInstall:
    """One INF line for this Windows; `values` are HKR of its hardware key (interrupt settings, mostly)."""

    section: str
    description: str
    hardware_id: str  # PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00, upper-case
    compatible_ids: tuple[str, ...]
    service: str | None
    values: KeyValues
    description_token: str = ""  # as the INF writes it, lower-case: "%viostorscsi.devicedesc%"
    manufacturer_token: str = ""


@dataclass(frozen=True, slots=True)
class DriverPackage:
    """INF + everything it copies + its catalogue, chosen for one Windows and one architecture."""

    name: str  # the INF's stem, lower-case: "viostor"
    inf: MediaFile
    catalog: MediaFile | None
    files: tuple[MediaFile, ...]  # all of them, INF and catalogue too, in the order of the disc
    runs_from: tuple[tuple[str, GuestPath], ...]  # file name -> where DIRID 12 and the like put it, store not counted
    provider: str
    class_name: str
    class_guid: str  # "{4d36e97b-e325-11ce-bfc1-08002be10318}"
    date: str  # DriverVer, ISO: "2023-08-30"
    version: tuple[int, int, int, int]
    devices: tuple[DeviceInstall, ...]
    services: tuple[DriverService, ...]
    strings: Mapping[str, str]
    arch: Arch
    signature: Signature
    chosen_because: str  # "INF is decorated NTamd64.6.3, folder viostor/w8.1/amd64"
    includes: tuple[str, ...] = ()  # INFs of Windows that its own leans on, which are not followed: "machine.inf"

    @property
    def label(self) -> str:
        """The folder name in the driver store, stable for the same bytes: viostor.inf_amd64_0123456789abcdef."""
        digest = hashlib.sha256("".join(sorted(file.sha256 for file in self.files)).encode()).hexdigest()[:16]
        return f"{self.inf.path.name.lower()}_{self.arch.lower()}_{digest}"

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen from the disc, and what was not, with the reason for each."""

    packages: tuple[DriverPackage, ...]
    left_out: tuple[tuple[str, str], ...]  # ("viofs", "no package for w7/x86 on this disc")


# ---------------------------------------------------------------- what is to be done


@dataclass(frozen=True, slots=True)
class Provides:
    """What the finished image can use: the domain XML may name nothing else."""

    boot_buses: frozenset[Bus]
    devices: frozenset[str]  # driver names: "netkvm", "balloon", "vioser", "viorng", …
    test_signing: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the image shall be, whether or not it already is. The same inputs give the same plan."""

    guest: Guest
    selection: Selection
    edits: tuple[Edit, ...]
    trusted: tuple[Certificate, ...]
    provides: Provides
    notes: tuple[str, ...]  # decisions people want to know: why test mode is on, what was left out

    @property
    def digest(self) -> str:
        """SHA-256 over the edits in canonical JSON."""
        return digest(self.edits)


# ---------------------------------------------------------------- what was done and seen


@dataclass(frozen=True, slots=True)
class Applied:
    """The image after the edits: every one was read back and compared."""

    image: Path  # the overlay, closed
    plan: Plan
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Domain:
    """Two libvirt domain XMLs from one template: the one we boot, and the one for the user."""

    booted: str
    template: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something observed, `at` seconds after the guest's start, by `who`: "libvirt", "agent", "serial", "screen"."""

    at: float
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class BootReport:
    """What was observed, on which accelerator, by whom; never what was hoped.

    verdict    "agent-up", "stop-0x7b", "bootmgr-0xc0000428", "crashed", "stopped", "timed-out", "hypervisor-failed"
    guest      what the guest's agent called itself, e.g. "NT stand-in 1 (not Windows)"; "" when no agent spoke
    stand_in   the guest said that it is not Windows
    evidence   files kept: screens (PNG), serial.log, domain.xml
    """

    verdict: str
    advice: str
    accelerator: str  # "kvm" or "tcg"
    bus: Bus
    seconds: float
    guest: str = ""
    stand_in: bool = False
    events: tuple[Event, ...] = ()
    evidence: tuple[Path, ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict in ("agent-up", "marker")


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The outcome of the checks; `failed` holds the names of failed and errored tests, `junit` the XML file."""

    passed: int
    failed: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    junit: Path | None = None

    @property
    def ok(self) -> bool:
        return self.passed > 0 and not self.failed
