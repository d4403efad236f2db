"""Which Windows an image holds, and in what state: looked up, never guessed, and nothing is changed."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.host.appliance import Appliance, Partition
from builder.host.hive import Hive as OpenHive
from builder.model import BootStore, Bus, Firmware, Guest, Hive
from builder.windows import bcd, driver_database, releases
from builder.windows.paths import GuestPath
from builder.windows.releases import Arch

SYSTEM_VOLUME = "/c"
BOOT_VOLUME = "/boot"

_ROOTS = ("Windows", "WINNT")
_STORES = {"vfat": ("/EFI/Microsoft/Boot/BCD", Firmware.UEFI), "ntfs": ("/Boot/BCD", Firmware.BIOS)}
_MACHINES = {0x014C: Arch.X86, 0x8664: Arch.AMD64, 0xAA64: Arch.ARM64}  # PE/COFF specification
_CURRENT_VERSION = ("Microsoft", "Windows NT", "CurrentVersion")
_BITLOCKER = (b"-FVE-FS-", b"MSWIN4.1")  # OEM id of an encrypted volume: NTFS, and BitLocker To Go
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


def inspect(appliance: Appliance) -> Guest:
    """Mounts the volumes at /c and /boot, reads the facts. Raises InputRefused when it is no Windows we can work on."""
    partitions = appliance.partitions()
    _refuse_encrypted(appliance, partitions)
    system, root = _system_volume(appliance, partitions)
    appliance.require_clean(system)
    appliance.mount(system, SYSTEM_VOLUME)
    config = _required(appliance, f"{SYSTEM_VOLUME}/{root}/System32/config")
    with appliance.hive(_required(appliance, f"{config}/SOFTWARE")) as software:
        version = {name: value for name, value in software.values(_CURRENT_VERSION).items()}
        path = software.value(("Microsoft", "Windows", "CurrentVersion"), "DevicePath")
    boot, firmware = _boot_store(appliance, partitions, system)
    with appliance.hive(_required(appliance, f"{config}/SYSTEM")) as hive:
        sets = _control_sets(hive)
        database = hive.exists(("DriverDatabase",))
        oem_map = hive.value(("DriverDatabase",), "OemInfMap")
        buses = _boot_buses(hive, sets[0])
    hives = frozenset(_hives(appliance, config))
    taken = oem_map.data if oem_map else b""
    packages = _packages(appliance, root, config, hives, taken) if database else _Packages({}, ())
    build = int(_text(version, "CurrentBuildNumber") or "0")
    kind = _text(version, "InstallationType")
    release = releases.identify(build, server=kind.startswith("Server"))
    if release is None:
        raise InputRefused(
            f"Windows build {build} ({kind or 'no InstallationType'}) is not one winfoundry knows",
            fix="known are: " + ", ".join(row.title for row in releases.RELEASES),
        )
    return Guest(
        release=release,
        build=build,
        arch=_architecture(appliance, root),
        product=_text(version, "ProductName"),
        edition=_text(version, "EditionID"),
        firmware=firmware,
        device=system.device,
        system_root=GuestPath((root,)),
        boot=boot,
        control_sets=sets,
        driver_database=database,
        hives=hives,
        published=packages.published,
        free_oem=packages.free,
        oem_inf_map=taken,
        device_path=path.text if path else "%SystemRoot%\\inf",
        boot_buses=buses,
        free_bytes=appliance.free_bytes(SYSTEM_VOLUME),
    )


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


def _refuse_encrypted(appliance: Appliance, partitions: tuple[Partition, ...]) -> None:
    for one in partitions:
        if appliance.starts_with(one.device, 3, 8) in _BITLOCKER and one.filesystem != "vfat":
            raise InputRefused(
                "the disk is encrypted with BitLocker",
                why=f"{one.device} starts as a BitLocker volume does",
                fix="inside the guest run `manage-bde -off C:` and wait until it is fully decrypted",
            )


def _system_volume(appliance: Appliance, partitions: tuple[Partition, ...]) -> tuple[Partition, str]:
    """The NTFS volume that holds Windows, and the name of its system root there."""
    found = [(one, root) for one in partitions if one.filesystem == "ntfs" for root in _roots(appliance, one)]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"{one.device} {one.filesystem or 'unknown'} {one.size >> 20} MiB" for one in partitions) or "none"
    if not found:
        raise InputRefused("no Windows installation found", why=f"partitions seen: {seen}")
    listed = ", ".join(f"{one.device} \\{root}" for one, root in found)
    raise InputRefused("more than one Windows installation found", why=listed, fix="give an image with one of them")


def _roots(appliance: Appliance, partition: Partition) -> Iterator[str]:
    appliance.mount(partition, SYSTEM_VOLUME)
    try:
        names = [name for name in appliance.list(SYSTEM_VOLUME) if name.lower() in map(str.lower, _ROOTS)]
        if len({name.lower() for name in names}) < len(names):
            raise InputRefused(f"{partition.device} has folders that differ only in case", why=", ".join(sorted(names)))
        for name in names:
            if appliance.find(f"{SYSTEM_VOLUME}/{name}/System32/config/SYSTEM"):
                yield name
    finally:
        appliance.unmount(SYSTEM_VOLUME)


def _boot_store(
    appliance: Appliance, partitions: tuple[Partition, ...], system: Partition
) -> tuple[BootStore, Firmware]:
    """The BCD store: on the ESP of a GPT disk, else \\Boot\\BCD of another volume, else of the system volume."""
    kind = "vfat" if appliance.partition_table() == "gpt" else "ntfs"
    path, firmware = _STORES[kind]
    for one in (*(p for p in partitions if p.filesystem == kind and p != system), system):
        at = SYSTEM_VOLUME if one == system else BOOT_VOLUME
        if one != system:
            appliance.require_clean(one)
            appliance.mount(one, at)
        found = appliance.find(at + path) if one.filesystem == kind else None
        if found:
            with appliance.hive(found) as hive:
                return BootStore(one.device, found.removeprefix(at), bcd.loaders(read_store(hive))), firmware
        if one != system:
            appliance.unmount(at)
    raise InputRefused(
        "no boot store found",
        why=f"no partition holds {path.replace('/', chr(92))}",
        fix="give the disk Windows boots from; on a data disk there is nothing to do",
    )


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


def _hives(appliance: Appliance, config: str) -> Iterator[Hive]:
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
