"""Which Windows an image holds, and in what state: looked up, never guessed, and nothing is changed."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from builder import finding
from builder.errors import InputRefused
from builder.finding import BOOT_VOLUME, SYSTEM_VOLUME
from builder.host.appliance import Appliance, Partition
from builder.host.hive import Hive as OpenHive
from builder.model import BootStore, Bus, Guest, Hive
from builder.windows import bcd, driver_database, releases, states
from builder.windows.paths import GuestPath
from builder.windows.releases import Arch, Release

_MACHINES = {0x014C: Arch.X86, 0x8664: Arch.AMD64, 0xAA64: Arch.ARM64}  # PE/COFF specification
_CURRENT_VERSION = ("Microsoft", "Windows NT", "CurrentVersion")
_BOOT_SERVICES = {  # storage services of Windows and virtio-win -> the bus they let the system disk hang on
    "atapi": Bus.IDE,
    "intelide": Bus.IDE,
    "pciide": Bus.IDE,
    "msahci": Bus.SATA,
    "storahci": Bus.SATA,
    "viostor": Bus.VIRTIO,
    "vioscsi": Bus.SCSI,
}
_INF_FILES = ("DriverDatabase", "DriverInfFiles")
_OEM = re.compile(r"oem\d{1,4}\.inf")
_FREE_NUMBERS = 40  # looked for; a driver disc needs about twenty


def inspect(appliance: Appliance, root: str = "") -> Guest:
    """Mounts the volumes at /c and /boot, reads the facts. Raises InputRefused when it is no Windows we can work on.

    `root` chooses one of several installations: "/dev/sda2", or "/dev/sda2\\Windows".
    """
    disk = finding.disk(appliance)
    system, folder = finding.system_volume(appliance, disk, root)
    appliance.require_clean(system)
    appliance.mount(system, SYSTEM_VOLUME)
    config = _required(appliance, f"{SYSTEM_VOLUME}/{folder}/System32/config")
    software = _software(appliance, _required(appliance, f"{config}/SOFTWARE"))
    registry = _system(appliance, _required(appliance, f"{config}/SYSTEM"))
    pending_xml = appliance.find(f"{SYSTEM_VOLUME}/{folder}/WinSxS/pending.xml") is not None
    facts = replace(registry.facts, **software.pending, pending_xml=pending_xml, encrypted=disk.encrypted)
    states.refuse(facts)
    arch = _architecture(appliance, folder)
    server = releases.is_server(_text(software.version, "InstallationType"), registry.product_type)
    build = _build(_text(software.version, "CurrentBuildNumber"))
    release = states.release_of(build, server=server, arch=arch)
    boot = _boot_store(appliance, disk, system, release)
    hives = frozenset(_hives(appliance, config, release))
    database = registry.database
    packages = _packages(appliance, folder, config, hives, registry.oem_map) if database else _Packages({}, ())
    return Guest(
        release=release,
        build=build,
        arch=arch,
        product=_text(software.version, "ProductName"),
        edition=_text(software.version, "EditionID"),
        firmware=disk.firmware,
        device=system.device,
        system_root=GuestPath((folder,)),
        boot=boot,
        control_sets=registry.control_sets,
        driver_database=database,
        hives=hives,
        published=packages.published,
        free_oem=packages.free,
        oem_inf_map=registry.oem_map,
        device_path=software.device_path,
        boot_buses=registry.boot_buses,
        free_bytes=appliance.free_bytes(SYSTEM_VOLUME),
        notes=tuple(states.notes(facts)),
    )


@dataclass(frozen=True, slots=True)
class _Software:
    """What inspection takes from SOFTWARE: CurrentVersion, the DevicePath, which restarts are pending."""

    version: Mapping[str, object]
    device_path: str
    pending: Mapping[str, bool]


def _software(appliance: Appliance, path: str) -> _Software:
    with appliance.hive(path) as hive:
        devices = hive.value(("Microsoft", "Windows", "CurrentVersion"), "DevicePath")
        return _Software(
            version=dict(hive.values(_CURRENT_VERSION)),
            device_path=devices.text if devices else "%SystemRoot%\\inf",
            pending={name: hive.exists(key) for name, key in states.PENDING.items()},
        )


@dataclass(frozen=True, slots=True)
class _System:
    """What inspection takes from SYSTEM."""

    control_sets: tuple[str, ...]
    product_type: str
    database: bool
    oem_map: bytes
    boot_buses: frozenset[Bus]
    facts: states.Facts


def _system(appliance: Appliance, path: str) -> _System:
    with appliance.hive(path) as hive:
        sets = _control_sets(hive)
        control = (sets[0], "Control")
        product = hive.value((*control, "ProductOptions"), "ProductType")
        oem_map = hive.value(("DriverDatabase",), "OemInfMap")
        renames = hive.value((*control, "Session Manager"), "PendingFileRenameOperations")
        return _System(
            control_sets=sets,
            product_type=product.text if product else "",
            database=hive.exists(("DriverDatabase",)),
            oem_map=oem_map.data if oem_map else b"",
            boot_buses=_boot_buses(hive, sets[0]),
            facts=states.Facts(
                portable=_is_set(hive, control, "PortableOperatingSystem"),
                setup=_is_set(hive, ("Setup",), "SystemSetupInProgress"),
                renames=bool(renames and renames.texts),
            ),
        )


def _is_set(hive: OpenHive, key: tuple[str, ...], name: str) -> bool:
    value = hive.value(key, name)
    return bool(value and value.number)


def _boot_store(appliance: Appliance, disk: finding.Disk, system: Partition, release: Release) -> BootStore:
    volume, path = finding.boot_store(appliance, disk, system, has_bcd=release.has_bcd)
    if not release.has_bcd:
        return BootStore(volume.device, path, ())
    with appliance.hive((SYSTEM_VOLUME if volume == system else BOOT_VOLUME) + path) as hive:
        store = read_store(hive)
    return BootStore(volume.device, path, bcd.loaders(store), bcd.other_loaders(store), frozenset(store))


def hive_path(appliance: Appliance, guest: Guest, hive: Hive) -> str:
    """Where the hive lies in the appliance."""
    if hive is Hive.BCD:
        return f"{boot_volume(guest)}{guest.boot.path}"
    return _required(appliance, f"{SYSTEM_VOLUME}/{guest.system_root.name}/System32/config/{hive}")


def boot_volume(guest: Guest) -> str:
    """The mount point of the boot store: the system volume's own, when the store lies there."""
    return SYSTEM_VOLUME if guest.boot.device == guest.device else BOOT_VOLUME


def read_store(hive: OpenHive) -> bcd.Store:
    """A whole BCD store (real ones have under 80 objects)."""
    return {guid.lower(): _bcd_object(hive, guid) for guid in hive.subkeys(("Objects",))}


def _bcd_object(hive: OpenHive, guid: str) -> bcd.BcdObject:
    kind = hive.value(("Objects", guid, "Description"), "Type")
    elements = {
        name.lower(): value
        for name in hive.subkeys(("Objects", guid, "Elements"))
        if (value := hive.value(("Objects", guid, "Elements", name), "Element")) is not None
    }
    return bcd.BcdObject(kind.number if kind else 0, elements)


def _control_sets(hive: OpenHive) -> tuple[str, ...]:
    """Those `Select` names and that exist, Current first. Never a guessed ControlSet001."""
    numbers = [
        value.number
        for name in ("Current", "Default", "LastKnownGood", "Failed")
        if (value := hive.value(("Select",), name))
    ]
    names = dict.fromkeys(f"ControlSet{number:03d}" for number in numbers if number)
    existing = tuple(name for name in names if hive.exists((name,)))
    current = hive.value(("Select",), "Current")
    if not current or not existing or existing[0] != f"ControlSet{current.number:03d}":
        raise InputRefused(
            "the SYSTEM hive names no control set that exists", why=f"Select names {', '.join(names) or 'none'}"
        )
    return existing


@dataclass(frozen=True, slots=True)
class _Packages:
    """oemN.inf -> label of what is published, and the lowest numbers that neither a file nor a database has."""

    published: Mapping[str, str]
    free: tuple[int, ...]


def _packages(appliance: Appliance, root: str, config: str, hives: frozenset[Hive], oem_map: bytes) -> _Packages:
    files = {name.lower() for name in appliance.list(_required(appliance, f"{SYSTEM_VOLUME}/{root}/INF"))}
    taken = [name for name in files if _OEM.fullmatch(name)]
    spare = [
        number
        for number in range(len(taken) + 8 * len(oem_map) + _FREE_NUMBERS)
        if f"oem{number}.inf" not in files and not driver_database.is_taken(oem_map, number)
    ]
    published: dict[str, str] = {}
    for one in (Hive.SYSTEM, Hive.DRIVERS):
        if one not in hives:
            continue
        with appliance.hive(_required(appliance, f"{config}/{one}")) as hive:
            for name in (*taken, *(f"oem{number}.inf" for number in spare)):
                active = hive.value((*_INF_FILES, name), "Active")
                published |= {name: active.text} if active else {}
    return _Packages(published, tuple(number for number in spare if f"oem{number}.inf" not in published))


def _boot_buses(hive: OpenHive, control_set: str) -> frozenset[Bus]:
    """Where the system disk can hang today: boot-start storage services without a StartOverride."""
    found = set()
    for service, bus in _BOOT_SERVICES.items():
        key = (control_set, "Services", service)
        start = hive.value(key, "Start")
        if start and start.number == 0 and not hive.exists((*key, "StartOverride")):
            found.add(bus)
    return frozenset(found)


def _architecture(appliance: Appliance, root: str) -> Arch:
    path = _required(appliance, f"{SYSTEM_VOLUME}/{root}/System32/ntoskrnl.exe")
    head = appliance.head(path, 4096)
    offset = struct.unpack_from("<I", head, 60)[0] if len(head) >= 64 and head[:2] == b"MZ" else len(head)
    machine = struct.unpack_from("<H", head, offset + 4)[0] if offset + 6 <= len(head) else 0
    if machine not in _MACHINES:
        raise InputRefused(
            "the architecture of this Windows is unknown", why=f"ntoskrnl.exe is for machine {machine:#06x}"
        )
    return _MACHINES[machine]


def _hives(appliance: Appliance, config: str, release: Release) -> Iterator[Hive]:
    if release.has_bcd:
        yield Hive.BCD
    yield from (one for one in (Hive.SYSTEM, Hive.SOFTWARE, Hive.DRIVERS) if appliance.find(f"{config}/{one}"))


def _required(appliance: Appliance, path: str) -> str:
    found = appliance.find(path)
    if found is None:
        shown = path.removeprefix(SYSTEM_VOLUME).replace("/", "\\")
        raise InputRefused(f"C:{shown} is missing", why="a Windows installation has it")
    return found


def _text(values: Mapping[str, object], name: str) -> str:
    """A string of CurrentVersion, bounded and printable: it ends up in reports."""
    value = values.get(name)
    text = getattr(value, "text", "")
    return "".join(letter for letter in text[:120] if letter.isprintable())


def _build(text: str) -> int:
    """CurrentBuildNumber; 0, which is no release, where it is no number."""
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else 0
