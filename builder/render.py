"""Guest + what the image provides + the user's wishes -> libvirt domain XML.

One set of templates (`templates/domain/`) makes both XMLs of a `Domain`. The booted one differs from the user's only in
`_booted`: its disk is a throw-away overlay, its console goes to a log, its network is QEMU's own, it reports
panics, and it runs on the accelerator this machine has. Nothing is in either that the image has no driver for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from builder import resources
from builder.errors import ConfigError, EnvironmentUnable, WinfoundryError
from builder.model import Bus, Domain, Firmware, Guest, Provides
from builder.windows.releases import Arch, Release

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")


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


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """What the user decides about the virtual machine. `image` is the disk the user's XML names, an absolute path."""

    name: str
    image: Path
    cpus: int
    memory: int  # MiB
    disk_interface: Bus
    trial: Trial
    machine: Literal["q35", "pc"] = "q35"
    network: str = "default"
    secure_boot: bool = False


# ---------------------------------------------------------------- tables

_DEVICES = {"has_balloon": "balloon", "has_rng": "viorng", "has_agent": "vioser", "has_pvpanic": "pvpanic"}
"""Template variable -> the driver without which the device would be unknown to Windows."""

_DISK_NAMES = {Bus.VIRTIO: "vda", Bus.SCSI: "sda", Bus.SATA: "sda", Bus.IDE: "hda"}

_INBOX_NIC = (((6, 2), "e1000e"), ((6, 0), "e1000"), ((5, 0), "rtl8139"))
"""First NT version with a driver in the box: for the 82574L Windows 8, for the 82540EM Vista, before that RTL8139."""

_USB = (((6, 2), "qemu-xhci"), ((5, 0), "ich9-ehci1"))
"""USB 3 has a driver in the box since Windows 8."""

_HYPERV = (
    ((6, 0), ("relaxed", "vapic", "spinlocks")),
    ((6, 1), ("vpindex", "runtime", "synic", "stimer")),
    ((6, 2), ("frequencies", "tlbflush", "ipi")),
)
"""NT version from which we offer which Hyper-V enlightenments: none before Vista and Server 2008, the first to know
Hyper-V. The first row is virt-install's; each row has what the next depends on (QEMU, Hyper-V Enlightenments)."""

_NO_HYPERV_UNDER_UEFI = ((6, 1),)
"""Windows 7 and Server 2008 R2 hang there (RHBZ 1185253)."""


def _for(table: tuple[tuple[tuple[int, int], str], ...], release: Release) -> str:
    return next(word for first, word in table if release.nt >= first)


def _hyperv(guest: Guest) -> tuple[str, ...]:
    nt = guest.release.nt
    if guest.firmware is Firmware.UEFI and nt in _NO_HYPERV_UNDER_UEFI:
        return ()
    return tuple(name for first, names in _HYPERV if nt >= first for name in names)


# ---------------------------------------------------------------- refusals

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_NOT_XML = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters XML 1.0 cannot carry, and the control characters it would carry but attributes would normalise."""


def _refuse(guest: Guest, provides: Provides, spec: DomainSpec) -> None:
    """Raises ConfigError for a combination that cannot boot, or a value that cannot be written."""
    old, uefi = guest.release.nt < (6, 0), guest.firmware is Firmware.UEFI
    allowed = ", ".join(sorted(provides.boot_buses)) or "none"
    rules = (
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
        (not _NAME.match(spec.name), f"the name {spec.name[:80]!r}", "1 to 64 of the characters A-Z a-z 0-9 . _ -"),
        (not _NAME.match(spec.network), f"the network {spec.network[:80]!r}", "1 to 64 of A-Z a-z 0-9 . _ -"),
        (not 1 <= spec.cpus <= 255, f"{spec.cpus} processors", "1 to 255"),
        (not 64 <= spec.memory <= 2**22, f"{spec.memory} MiB of memory", "64 MiB to 4 TiB"),
        (not spec.image.is_absolute(), f"the relative path {str(spec.image)!r}", "libvirt takes absolute paths only"),
    )
    for wrong, what, why in rules:
        if wrong:
            raise ConfigError(f"the virtual machine cannot have {what}", why=why)


def _clean(name: str, value: Any) -> Any:
    texts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(text, str) and _NOT_XML.search(text) for text in texts):
        raise ConfigError(f"{name} has a control character or one that XML cannot carry", why=ascii(value)[:200])
    return value


# ---------------------------------------------------------------- rendering


def render(guest: Guest, provides: Provides, spec: DomainSpec) -> Domain:
    """The XML we boot and the XML for the user. Raises ConfigError for a wish the image or libvirt cannot fulfil."""
    _refuse(guest, provides, spec)
    common = _common(guest, provides, spec)
    return Domain(
        booted=fill({**common, **_booted(guest, spec.trial)}),
        template=fill({**common, **_published(guest, spec)}),
    )


def _common(guest: Guest, provides: Provides, spec: DomainSpec) -> dict[str, Any]:
    release = guest.release
    return {
        "cpus": spec.cpus,
        "memory": spec.memory,
        "machine": spec.machine,
        "uefi": guest.firmware is Firmware.UEFI,
        "secure_boot": spec.secure_boot,
        "osinfo": release.osinfo_id,
        "disk_bus": spec.disk_interface.value,
        "disk_name": _DISK_NAMES[spec.disk_interface],
        "nic": "virtio" if "netkvm" in provides.devices else _for(_INBOX_NIC, release),
        "usb": _for(_USB, release),
        **{variable: driver in provides.devices for variable, driver in _DEVICES.items()},
    }


def _published(guest: Guest, spec: DomainSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "uuid": "",
        "kvm": True,
        "hyperv": _hyperv(guest),
        "hyperv_panic": False,  # it would keep Windows from writing crash dumps (QEMU, hv-crash)
        "keep_crashed": False,
        "disk": str(spec.image),
        "backing": (),
        "throw_away": False,
        "network": spec.network,
        "serial_log": "",
        "nvram": "",
        "access": "",
    }


def _booted(guest: Guest, trial: Trial) -> dict[str, Any]:
    kvm = trial.accelerator == "kvm"
    hyperv = _hyperv(guest) if kvm else ()  # QEMU refuses them without KVM
    return {
        "name": trial.name,
        "uuid": trial.uuid,
        "kvm": kvm,
        "hyperv": hyperv,
        "hyperv_panic": "synic" in hyperv,
        "keep_crashed": True,
        "disk": str(trial.overlay),
        "backing": tuple(map(str, trial.chain)),
        "throw_away": True,
        "network": "",
        "serial_log": str(trial.serial_log),
        "nvram": str(trial.nvram),
        "access": trial.access.value,
    }


def fill(variables: Mapping[str, Any]) -> str:
    """The domain template with these variables, all of them described in the templates' headers. Raises ConfigError."""
    return _environment().get_template("domain.xml.j2").render({k: _clean(k, v) for k, v in variables.items()})


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(resources.templates() / "domain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


# ---------------------------------------------------------------- checking


def check(xml: str) -> None:
    """Nothing when libvirt's schema allows the XML; WinfoundryError names the line it does not.

    Raises EnvironmentUnable without the schema, ConfigError for XML that is not well-formed or has a DOCTYPE.
    """
    from lxml import etree

    if not SCHEMA.is_file():
        raise EnvironmentUnable(f"{SCHEMA} is missing", fix="install libvirt's schemas: apt-get install libvirt0")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise ConfigError("the domain is not well-formed XML", why=str(error)) from None
    if root.getroottree().docinfo.doctype:
        raise ConfigError("the domain XML has a DOCTYPE", why="no libvirt domain needs one", fix="remove it")
    schema = etree.RelaxNG(etree.parse(str(SCHEMA)))
    if not schema.validate(root):
        raise WinfoundryError("libvirt's schema does not allow the domain XML", why=str(schema.error_log.last_error))
