"""Guest + what the image provides + the user's wishes -> libvirt domain XML.

One set of templates (`templates/domain/`) makes both XMLs of a `Domain`. The booted one differs from the user's only in
`_booted`: its disk is a throw-away overlay, its console goes to a log, its network is QEMU's own, it reports
panics, it has nothing that needs another service of the host (TPM, virtiofs, vsock), and it runs on the accelerator
this machine has. Nothing is in either that the image has no driver for.
"""

from __future__ import annotations

from typing import Any

from builder import domain_xml
from builder.domain_spec import DEVICES, Access, DomainSpec, Trial, has, refuse
from builder.domain_template import fill
from builder.domain_xml import check
from builder.errors import ConfigError
from builder.model import Bus, Domain, Firmware, Guest, Provides
from builder.windows.releases import Release

__all__ = ["Access", "DomainSpec", "Trial", "check", "fill", "render"]

# ---------------------------------------------------------------- tables

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

_CPU_MODES = ("host-passthrough", "host-model", "maximum")


def _for(table: tuple[tuple[tuple[int, int], str], ...], release: Release) -> str:
    return next(word for first, word in table if release.nt >= first)


def _hyperv(guest: Guest) -> tuple[str, ...]:
    nt = guest.release.nt
    if guest.firmware is Firmware.UEFI and nt in _NO_HYPERV_UNDER_UEFI:
        return ()
    return tuple(name for first, names in _HYPERV if nt >= first for name in names)


# ---------------------------------------------------------------- rendering


def render(guest: Guest, provides: Provides, spec: DomainSpec) -> Domain:
    """The XML we boot and the XML for the user. Raises ConfigError for a wish the image or libvirt cannot fulfil."""
    refuse(guest, provides, spec)
    common = _common(guest, provides, spec)
    domain = Domain(
        booted=fill({**common, **_booted(guest, spec.trial)}, spec.domain_template),
        template=fill({**common, **_published(guest, spec)}, spec.domain_template),
    )
    if spec.domain_template:
        _require_ours(domain, provides, spec)
    return domain


def _require_ours(domain: Domain, provides: Provides, spec: DomainSpec) -> None:
    """What holds for our templates by construction: valid, drivable, and a boot that writes to its overlay only."""
    for xml in (domain.booted, domain.template):
        root = domain_xml.parse(xml.encode())
        why = domain_xml.objection(root) or "; ".join(domain_xml.unprovided(root, provides))
        if why:
            raise ConfigError("domain_template: the domain it makes cannot be used", why=why)
    root = domain_xml.parse(domain.booted.encode())
    written = root.xpath("devices/disk[not(readonly) and not(@device='cdrom')]/source/@*[name()!='index']")
    if (root.findtext("name"), root.findtext("uuid")) != (spec.trial.name, spec.trial.uuid):
        raise ConfigError("domain_template: it must use {{ name }} and {{ uuid }}", why="a trial has its own")
    if written != [str(spec.trial.overlay)]:
        raise ConfigError(
            "domain_template: its one writable disk must be {{ disk }}", why="a trial must not write to yours"
        )


def _common(guest: Guest, provides: Provides, spec: DomainSpec) -> dict[str, Any]:
    release, uefi = guest.release, guest.firmware is Firmware.UEFI
    nic = "virtio" if "netkvm" in provides.devices else _for(_INBOX_NIC, release)
    return {
        "cpus": spec.cpus,
        "memory": spec.memory,
        "sockets": spec.sockets,
        "threads": spec.threads,
        "numa": _numa(spec),
        "machine": spec.machine,
        "uefi": uefi,
        "secure_boot": spec.secure_boot,
        "osinfo": release.osinfo_id,
        "disk_bus": spec.disk_interface.value,
        "disk_name": _DISK_NAMES[spec.disk_interface],
        "disk_queues": spec.disk_queues,
        "iothread": spec.disk_iothread,
        "nic": nic if spec.net_device == "auto" else spec.net_device,
        "usb": _for(_USB, release),
        "video": spec.video,
        **{f"has_{device.name}": has(device, provides, spec.devices) for device in DEVICES},
    }


def _numa(spec: DomainSpec) -> tuple[str, ...]:
    each = spec.cpus // spec.numa_nodes
    ranges = ((first, first + each - 1) for first in range(0, spec.cpus, each))
    return tuple(f"{first}-{last}" for first, last in ranges) if spec.numa_nodes > 1 else ()


def _published(guest: Guest, spec: DomainSpec) -> dict[str, Any]:
    native = "native" if spec.disk_cache in ("none", "directsync") else "threads"
    return {
        "name": spec.name,
        "uuid": "",
        "kvm": True,
        "cpu_mode": spec.cpu_model if spec.cpu_model in _CPU_MODES else "custom",
        "cpu_model": "" if spec.cpu_model in _CPU_MODES else spec.cpu_model,
        "hyperv": _hyperv(guest),
        "hyperv_panic": False,  # it would keep Windows from writing crash dumps (QEMU, hv-crash)
        "keep_crashed": False,
        "disk": str(spec.image),
        "backing": (),
        "cache": spec.disk_cache,
        "io": native if spec.disk_io == "auto" else spec.disk_io,
        "discard": spec.disk_discard,
        "network": spec.network,
        "bridge": spec.net_bridge,
        "nic_queues": spec.net_queues,
        "tpm": ("crb" if guest.firmware is Firmware.UEFI else "tis") if spec.vtpm else "",
        "virtiofs": tuple(sorted(spec.virtiofs.items())),
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
        "cpu_mode": "host-passthrough" if kvm else "maximum",
        "cpu_model": "",
        "hyperv": hyperv,
        "hyperv_panic": "synic" in hyperv,
        "keep_crashed": True,
        "disk": str(trial.overlay),
        "backing": tuple(map(str, trial.chain)),
        "cache": "unsafe",  # may be lost, and works on any filesystem (tmpfs has no O_DIRECT)
        "io": "",
        "discard": "unmap",
        "network": "",
        "bridge": "",
        "nic_queues": 0,
        "tpm": "",
        "virtiofs": (),
        "has_vsock": False,
        "has_watchdog": False,
        "serial_log": str(trial.serial_log),
        "nvram": str(trial.nvram),
        "access": trial.access.value,
    }
