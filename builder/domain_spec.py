"""What a virtual machine shall be, and why it sometimes cannot: the options, their table of devices, the refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from builder.errors import ConfigError
from builder.model import Bus, Firmware, Guest, Provides
from builder.windows.releases import Arch


class Access(StrEnum):
    """How QEMU gets at the image's files.

    SESSION  it runs as the user who asked
    SYSTEM   it runs as libvirt's own account; the backing files are readable by all and keep their owner
    ROOT     it runs as root: libvirt's own account could not reach the files
    """

    SESSION = "session"
    SYSTEM = "system"
    ROOT = "root"


@dataclass(frozen=True, slots=True)
class Trial:
    """One boot of an image: names and places nobody else uses.

    name         the domain's name, unique: "winfoundry-1a2b3c4d"
    uuid         the domain's UUID as text
    overlay      qcow2 the guest writes to; made before the boot, removed after it
    chain        the qcow2 files below it, the image under test first; never written, never given another owner
    serial_log   where COM1 is written to
    nvram        where the UEFI variables are kept
    """

    name: str
    uuid: str
    overlay: Path
    chain: tuple[Path, ...]
    serial_log: Path
    nvram: Path
    accelerator: Literal["kvm", "tcg"]
    access: Access
    notes: tuple[str, ...] = ()


Cache = Literal["none", "writeback", "writethrough", "directsync", "unsafe"]
Io = Literal["auto", "native", "threads", "io_uring"]
Discard = Literal["unmap", "ignore"]
NetDevice = Literal["auto", "virtio", "e1000e", "e1000", "rtl8139"]
Video = Literal["vga", "virtio", "qxl"]
Wish = Literal["required", "optional", "skip"]


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """What the user decides about the virtual machine; an option of `BuildSpec` with the same name is the same.

    image            the disk the user's XML names, an absolute path
    memory           MiB
    network          libvirt network, "" for QEMU's user network
    net_bridge       bridge of the host, instead of the network
    disk_io          "auto" is native where the cache lets it be, else threads
    disk_queues      0 leaves it to QEMU; so does net_queues
    cpu_model        "host-passthrough", "host-model", "maximum", or a model libvirt knows
    sockets,threads  cores are what is left of `cpus`
    numa_nodes       processors and memory are split evenly over them
    devices          device of the table below -> what to do about it
    virtiofs         tag the guest sees -> absolute path of the host's folder
    domain_template  the user's own template, instead of ours
    """

    name: str
    image: Path
    cpus: int
    memory: int
    disk_interface: Bus
    trial: Trial
    machine: Literal["q35", "pc"] = "q35"
    network: str = "default"
    secure_boot: bool = False
    vtpm: bool = False
    disk_cache: Cache = "none"
    disk_io: Io = "auto"
    disk_discard: Discard = "unmap"
    disk_queues: int = 0
    disk_iothread: bool = False
    net_bridge: str = ""
    net_device: NetDevice = "auto"
    net_queues: int = 0
    cpu_model: str = "host-passthrough"
    sockets: int = 1
    threads: int = 1
    numa_nodes: int = 1
    video: Video = "vga"
    devices: Mapping[str, Wish] = field(default_factory=dict)
    virtiofs: Mapping[str, str] = field(default_factory=dict)
    domain_template: Path | None = None


# ---------------------------------------------------------------- devices


@dataclass(frozen=True, slots=True)
class Device:
    """One row is one device of the virtual machine; `drivers` are those that drive it, () when Windows needs none."""

    name: str
    drivers: tuple[str, ...]
    wish: Wish = "optional"


DEVICES = (
    Device("agent", ("vioser",)),
    Device("rng", ("viorng",)),
    Device("balloon", ("balloon",)),
    Device("panic", ("pvpanic",)),
    Device("input", ("vioinput",), "skip"),  # USB's tablet works everywhere
    Device("vsock", ("viosock",), "skip"),
    Device("watchdog", (), "skip"),  # i6300esb: neither Windows nor virtio-win feeds it, a service of yours must
)

_VIDEO = {"vga": (), "virtio": ("viogpudo",), "qxl": ("qxldod", "qxl")}


def has(device: Device, provides: Provides, wishes: Mapping[str, Wish]) -> bool:
    """Whether the machine gets the device: it is wanted, and the image can drive it."""
    return wishes.get(device.name, device.wish) != "skip" and _driven(device.drivers, provides)


def _driven(drivers: tuple[str, ...], provides: Provides) -> bool:
    return not drivers or any(driver in provides.devices for driver in drivers)


# ---------------------------------------------------------------- contradictions: each has a field, for config too

Others = Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_TAG = re.compile(r"[A-Za-z0-9._-]{1,36}\Z")  # the virtio specification's limit for a file system's tag
_DIRECT = ("none", "directsync")


def _io(io: str, others: Others) -> str:
    buffered = io == "native" and others.get("disk_cache") not in _DIRECT
    return "native needs disk_cache none or directsync" if buffered else ""


def _virtiofs(shares: Mapping[str, str]) -> str:
    for tag, folder in shares.items():
        if not _TAG.match(tag):
            return f"the tag {tag[:80]!r} must be 1 to 36 letters, digits, dots, dashes or underscores"
        if not folder.startswith("/"):
            return f"{tag} must be an absolute path"
    return ""


def _known(wishes: Mapping[str, Wish]) -> str:
    known = [device.name for device in DEVICES]
    wrong = [name for name in wishes if name not in known]
    return f"there is no device {wrong[0]!r}, known are {', '.join(known)}" if wrong else ""


def _queues(queues: int, others: Others) -> str:
    if queues > 1 and others.get("net_device") not in ("auto", "virtio"):
        return "only net_device = virtio has several queues"
    if queues > 1 and not (others.get("network") or others.get("net_bridge")):
        return "QEMU's user network has one queue"
    return ""


def _topology(threads: int, others: Others) -> str:
    cpus, sockets = others.get("cpus", threads), others.get("sockets", 1)
    return (
        "" if cpus % (sockets * threads) == 0 else f"{cpus} cpus are not {sockets} sockets x cores x {threads} threads"
    )


def _nodes(nodes: int, others: Others) -> str:
    uneven = [name for name in ("cpus", "memory") if others.get(name, nodes) % nodes]
    return f"{uneven[0]} = {others[uneven[0]]} cannot be split evenly over {nodes} nodes" if uneven else ""


CONTRADICTIONS: Mapping[str, Callable[[Any, Others], str]] = {
    "disk_io": lambda io, others: (
        "native needs disk_cache none or directsync"
        if io == "native" and others.get("disk_cache") not in _DIRECT
        else ""
    ),
    "net_queues": _queues,
    "cpu_model": lambda model, _: "" if _NAME.match(model) else "must be a model as libvirt names it",
    "threads": _topology,
    "numa_nodes": _nodes,
    "devices": lambda wishes, _: _known(wishes),
    "virtiofs": lambda shares, _: _virtiofs(shares),
}
"""Option -> what is wrong with its value beside the options before it, "" when nothing is."""


# ---------------------------------------------------------------- refusals


def refuse(guest: Guest, provides: Provides, spec: DomainSpec) -> None:
    """Raises ConfigError for a machine that cannot boot, a device without a driver, or a value that cannot stand."""
    for wrong, what, why in (*_impossible(guest, provides, spec), *_undriven(provides, spec), *_unwritable(spec)):
        if wrong:
            raise ConfigError(f"the virtual machine cannot have {what}", why=why)
    options = asdict(spec)
    for option, contradiction in CONTRADICTIONS.items():
        if why := contradiction(options[option], options):
            raise ConfigError(f"{option}: {why}")


Rule = tuple[bool, str, str]


def _impossible(guest: Guest, provides: Provides, spec: DomainSpec) -> tuple[Rule, ...]:
    old, uefi = guest.release.nt < (6, 0), guest.firmware is Firmware.UEFI
    allowed = ", ".join(sorted(provides.boot_buses)) or "none"
    return (
        (guest.arch is Arch.ARM64, "an ARM64 Windows", "only x86 and amd64 have templates"),
        (guest.arch is Arch.X86 and uefi, "32-bit UEFI", "no firmware for it is packaged"),
        (
            spec.disk_interface not in provides.boot_buses,
            f"a {spec.disk_interface} disk",
            f"the image cannot boot from it; it can boot from: {allowed}",
        ),
        (spec.disk_interface is Bus.IDE and spec.machine == "q35", "an IDE disk on q35", "choose machine pc, or sata"),
        (old and spec.machine == "q35", f"{guest.release.title} on q35", "it lacks an AHCI driver; choose pc"),
        (spec.secure_boot and not uefi, "Secure Boot with BIOS firmware", "it is a part of UEFI"),
        (spec.secure_boot and spec.machine == "pc", "Secure Boot on machine pc", "it needs q35, which has SMM"),
        (
            spec.secure_boot and provides.test_signing,
            "Secure Boot with test-signing",
            "Windows then ignores the latter",
        ),
        (
            spec.vtpm and guest.release.nt < (6, 2),
            f"a TPM 2.0 with {guest.release.title}",
            "it knows TPM 1.2 at most; Windows 8 is the first with a driver",
        ),
    )


def _undriven(provides: Provides, spec: DomainSpec) -> tuple[Rule, ...]:
    asked = [(f"the device {one.name}", one.drivers) for one in DEVICES if spec.devices.get(one.name) == "required"]
    asked += [("a virtio network card", ("netkvm",))] if spec.net_device == "virtio" else []
    asked += [("several network queues", ("netkvm",))] if spec.net_queues > 1 else []
    asked += [("virtiofs", ("viofs",))] if spec.virtiofs else []
    asked += [(f"{spec.video} video", _VIDEO[spec.video])]
    return tuple((not _driven(drivers, provides), what, _no_driver(drivers)) for what, drivers in asked)


def _no_driver(drivers: tuple[str, ...]) -> str:
    return f"the image has no driver for it: {' or '.join(drivers)} is missing"


def _unwritable(spec: DomainSpec) -> tuple[Rule, ...]:
    return (
        (not _NAME.match(spec.name), f"the name {spec.name[:80]!r}", "1 to 64 of the characters A-Z a-z 0-9 . _ -"),
        *(
            (bool(name) and not _NAME.match(name), f"the {what} {name[:80]!r}", "1 to 64 of A-Z a-z 0-9 . _ -")
            for what, name in (("network", spec.network), ("bridge", spec.net_bridge))
        ),
        (not 1 <= spec.cpus <= 255, f"{spec.cpus} processors", "1 to 255"),
        (not 64 <= spec.memory <= 2**22, f"{spec.memory} MiB of memory", "64 MiB to 4 TiB"),
        (not spec.image.is_absolute(), f"the relative path {str(spec.image)!r}", "libvirt takes absolute paths only"),
    )
