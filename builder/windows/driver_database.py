r"""How Windows finds drivers, as edits: the service, the binding of device ids to it, the package in the store.

    boot_critical(package, guest)    the service of a disk driver, loaded before there is a file system
    staged(package, guest, oem)      the package where Windows looks for drivers when a device appears
    device_path(packages, guest)     the same for Windows 7 and earlier, which search folders

Windows 8 and later keep a DriverDatabase, Windows 7 and earlier a CriticalDeviceDatabase; which one a guest has is seen
in its hive, not by its version. The shapes are those of real packages in real hives: vmci (configured) and efifw,
pvscsi (staged, device absent) of Windows 10. Measured in setupapi logs of Windows 10 and 11: a package is registered in
one database node only, SYSTEM for the classes Windows may need to boot and DRIVERS for the others.

Two values of the real ones are not written: ImportDate (a plan has no clock; Windows 8.1 does without) and the
`Properties` of packages that came through Windows Update.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from builder.model import DeleteKey, DeviceInstall, DriverPackage, Edit, Guest, Hive, Key, PutFile, SetValue, Signer
from builder.windows.paths import GuestPath
from builder.windows.registry import RegType, RegValue, binary, dword, expand_sz, multi_sz, sz

_SYSTEM_CLASSES = frozenset(
    {
        "{4d36e97b-e325-11ce-bfc1-08002be10318}",  # SCSIAdapter
        "{4d36e97d-e325-11ce-bfc1-08002be10318}",  # System
        "{745a17a0-74d3-11d0-b6fe-00a0c90f57da}",  # HIDClass
    }
)
"""Of the classes of virtio drivers, those with packages in SYSTEM\\DriverDatabase of real Windows 8.1 and 10 hives."""

_SCORES = {
    Signer.MICROSOFT: 0x0D000005,  # SIGNERSCORE_WHQL
    Signer.CROSS_SIGNED: 0x0F000000,  # SIGNERSCORE_AUTHENTICODE
    Signer.TEST_SIGNED: 0x0F000000,
    Signer.UNSIGNED: 0x80000000,  # SIGNERSCORE_UNSIGNED
    Signer.BROKEN: 0x80000000,
}
_STATUS_FLAGS = 0x12  # as the real vmci and efifw
_SCOPE, _SCOPE_DEVICE = 0x5, 0x2  # ConfigScope of real packages: 5, and 7 with settings of the device
_SINCE_WINDOWS_10 = frozenset({"ConfigScope", "Catalog"})  # in no package of a real Windows 8.1
_HARDWARE, _COMPATIBLE = bytes((1, 0xFF, 0, 0)), bytes((2, 0xFF, 0, 0))
_STORE = ("System32", "DriverStore", "FileRepository")
_CATALOGS = ("System32", "CatRoot", "{F750E6C3-38EE-11D1-85E5-00C04FC295EE}")
_SEARCHED = ("Drivers", "winfoundry")
_CURRENT_VERSION = ("Microsoft", "Windows", "CurrentVersion")


def boot_critical(package: DriverPackage, guest: Guest) -> tuple[Edit, ...]:
    """The boot-start services of a disk driver in every control set, their files, and what stands in their way removed.

    Without a DriverDatabase the binding of its device ids comes too; with one it is part of `staged`.
    """
    sets = [*_services(package, guest), *([] if guest.driver_database else _critical_devices(package, guest))]
    return (*_running_files(package, guest), *sets)


def staged(package: DriverPackage, guest: Guest, oem: str) -> tuple[Edit, ...]:
    """The whole package where this Windows looks for drivers, published as `oem` ("oem3.inf").

    A package with a boot-start service is bound to its devices in full, so that the kernel finds it with no help.
    """
    if not guest.driver_database:
        return tuple(_searched_files(package, guest))
    return (*_stored_files(package, guest, oem), *_database(package, guest, oem))


def already(package: DriverPackage, guest: Guest) -> str | None:
    """The oemN.inf under which this very package is published in the guest."""
    label = package.label.lower()
    return next((oem for oem, known in sorted(guest.published.items()) if known.lower() == label), None)


def device_path(packages: Iterable[DriverPackage], guest: Guest) -> tuple[SetValue, ...]:
    """The folders of `packages` in DevicePath, for a Windows without DriverDatabase; () when nothing is missing."""
    known = [part for part in guest.device_path.split(";") if part]
    folders = ["\\".join(("%SystemRoot%", *_SEARCHED, package.name)) for package in packages]
    missing = [folder for folder in folders if folder.lower() not in {part.lower() for part in known}]
    if guest.driver_database or not folders:
        return ()
    value = expand_sz(";".join((*known, *missing)))
    return (
        SetValue(Hive.SOFTWARE, _CURRENT_VERSION, "DevicePath", value, "search the virtio drivers for new devices"),
    )


def published_map(current: bytes, oems: Iterable[str]) -> SetValue:
    r"""`OemInfMap` with the numbers of `oems` taken, so that Windows does not give them out again.

    One bit for each oemN.inf, the first in the highest bit; measured: ff f0 where oem0 to oem11 exist.
    """
    numbers = [int(match[1]) for oem in oems if (match := re.fullmatch(r"oem(\d+)\.inf", oem.lower()))]
    bits = bytearray(current.ljust(max((number // 8 + 1 for number in numbers), default=0), b"\0"))
    for number in numbers:
        bits[number // 8] |= 0x80 >> number % 8
    reason = "the names of published INFs that are taken"
    return SetValue(Hive.SYSTEM, ("DriverDatabase",), "OemInfMap", binary(bytes(bits)), reason)


def is_taken(oem_inf_map: bytes, number: int) -> bool:
    """Whether `OemInfMap` has the bit of oem<number>.inf set."""
    return number < 8 * len(oem_inf_map) and bool(oem_inf_map[number // 8] & 0x80 >> number % 8)


# ---------------------------------------------------------------- services and their files


def _services(package: DriverPackage, guest: Guest) -> Iterator[Edit]:
    for control_set in guest.control_sets:
        for service in package.services:
            if service.start != 0:
                continue
            key: Key = (control_set, "Services", service.name)
            image = service.binary.replace("{label}", package.label)
            values = (
                ("Type", dword(service.type)),
                ("Start", dword(service.start)),
                ("ErrorControl", dword(service.error_control)),
                ("Group", sz(service.group)),
                ("ImagePath", expand_sz(image)),
            )
            reason = f"{service.name} is loaded at boot"
            yield from (SetValue(Hive.SYSTEM, key, name, value, reason) for name, value in values)
            for below, name, value in service.values:
                yield SetValue(Hive.SYSTEM, (*key, *below), name, value, f"{service.name} as its INF sets it up")
            yield DeleteKey(Hive.SYSTEM, (*key, "StartOverride"), f"Windows would not start {service.name} at boot")


def _critical_devices(package: DriverPackage, guest: Guest) -> Iterator[Edit]:
    for control_set in guest.control_sets:
        for device in package.devices:
            for device_id in (device.hardware_id, *device.compatible_ids):
                name = device_id.replace("\\", "#")
                key = (control_set, "Control", "CriticalDeviceDatabase", name)
                reason = f"{device.service} drives {device_id} before Plug and Play runs"
                yield SetValue(Hive.SYSTEM, key, "Service", sz(device.service or ""), reason)
                yield SetValue(Hive.SYSTEM, key, "ClassGUID", sz(package.class_guid.upper()), reason)


def _running_files(package: DriverPackage, guest: Guest) -> Iterator[PutFile]:
    by_name = {file.path.name.lower(): file for file in package.files}
    for name, place in package.runs_from:
        target = GuestPath((*guest.system_root.parts, *place.parts))
        yield PutFile(target, by_name[name.lower()], f"{package.name} runs from there")


def _searched_files(package: DriverPackage, guest: Guest) -> Iterator[PutFile]:
    folder = GuestPath((*guest.system_root.parts, *_SEARCHED, package.name))
    for file in package.files:
        yield PutFile(folder / file.path.name, file, f"{package.name} for Windows to find when its device appears")


def _stored_files(package: DriverPackage, guest: Guest, oem: str) -> Iterator[PutFile]:
    root = guest.system_root.parts
    store = GuestPath((*root, *_STORE, package.label))
    for file in package.files:
        yield PutFile(store / file.path.name, file, f"{package.name} in the driver store")
    yield PutFile(GuestPath((*root, "INF", oem)), package.inf, f"{package.name} is published as {oem}")
    if package.catalog:
        name = oem.removesuffix(".inf") + ".cat"
        yield PutFile(GuestPath((*root, *_CATALOGS, name)), package.catalog, f"the signatures of {package.name}")


# ---------------------------------------------------------------- DriverDatabase

Row = tuple[Key, str, RegValue]
"""A value below DriverDatabase: where, name, value."""


def _database(package: DriverPackage, guest: Guest, oem: str) -> Iterator[Edit]:
    hive = Hive.SYSTEM
    if package.class_guid not in _SYSTEM_CLASSES and Hive.DRIVERS in guest.hives:
        hive = Hive.DRIVERS
    configured = [device for device in package.devices if _starts_at_boot(package, device)]
    rows = (
        *_inf_file(package, oem, configured),
        *_device_ids(package, oem),
        *_package_values(package, oem),
        *(row for part in (_configurations, _descriptors, _strings) for row in part(package, configured)),
    )
    for key, name, value in rows:
        if name in _SINCE_WINDOWS_10 and guest.release.nt < (10, 0):
            continue
        yield SetValue(hive, ("DriverDatabase", *key), name, value, f"{package.name} is published as {oem}")


def _starts_at_boot(package: DriverPackage, device: DeviceInstall) -> bool:
    name = (device.service or "").lower()
    return any(service.start == 0 and service.name.lower() == name for service in package.services)


def _inf_file(package: DriverPackage, oem: str, configured: list[DeviceInstall]) -> Iterator[Row]:
    key = ("DriverInfFiles", oem)
    yield key, "", multi_sz(package.label)
    yield key, "Active", sz(package.label)
    if configured:
        yield key, "Configurations", multi_sz(*dict.fromkeys(device.section for device in configured))


def _device_ids(package: DriverPackage, oem: str) -> Iterator[Row]:
    """The class first, then every id; one that is a hardware id in any line counts as one."""
    yield ("DeviceIds", package.class_guid), oem, RegValue(RegType.REG_NONE, b"")
    ranks = {name: _COMPATIBLE for device in package.devices for name in device.compatible_ids}
    ranks |= {device.hardware_id: _HARDWARE for device in package.devices}
    for name, rank in ranks.items():
        yield ("DeviceIds", *name.split("\\")), oem, binary(rank)


def _package_values(package: DriverPackage, oem: str) -> Iterator[Row]:
    key = ("DriverPackages", package.label)
    yield key, "", sz(oem)
    yield key, "Version", binary(version_blob(package))
    yield key, "Provider", sz(package.provider)
    yield key, "InfName", sz(package.inf.path.name)
    yield key, "OemPath", sz("\\".join(package.inf.path.folder))
    if package.catalog:
        yield key, "Catalog", sz(package.catalog.path.name)
    if package.signature.by:
        yield key, "SignerName", sz(package.signature.by)
    yield key, "SignerScore", dword(_SCORES[package.signature.signer])
    yield key, "StatusFlags", dword(_STATUS_FLAGS)


def version_blob(package: DriverPackage) -> bytes:
    """`Version`, 48 bytes: class GUID, DriverVer date as FILETIME and version, lowest part first; all little-endian."""
    date = datetime.fromisoformat(package.date).replace(tzinfo=UTC) - datetime(1601, 1, 1, tzinfo=UTC)
    filetime = date.days * 86_400 * 10_000_000  # 100 ns
    head = struct.pack("<HHI", 0xFF00, 0x0009, 0)
    numbers = struct.pack("<4H", *reversed(package.version))
    return head + uuid.UUID(package.class_guid).bytes_le + struct.pack("<Q", filetime) + numbers + bytes(8)


def _configurations(package: DriverPackage, configured: list[DeviceInstall]) -> Iterator[Row]:
    for device in {device.section: device for device in configured}.values():
        key = ("DriverPackages", package.label, "Configurations", device.section)
        yield key, "ConfigFlags", dword(0)
        yield key, "ConfigScope", dword(_SCOPE | (_SCOPE_DEVICE if device.values else 0))
        yield key, "Service", sz(device.service or "")
        for below, name, value in device.values:
            yield (*key, "Device", *below), name, value
        for service in package.services:
            if service.name == device.service:
                for below, name, value in service.values:
                    yield (*key, "Services", service.name, *below), name, value


def _descriptors(package: DriverPackage, configured: list[DeviceInstall]) -> Iterator[Row]:
    for device in configured:
        for name in (device.hardware_id, *device.compatible_ids):
            key = ("DriverPackages", package.label, "Descriptors", *name.split("\\"))
            yield key, "Configuration", sz(device.section)
            yield key, "Description", sz(device.description_token or device.description)
            yield key, "Manufacturer", sz(device.manufacturer_token or package.provider)


def _strings(package: DriverPackage, configured: list[DeviceInstall]) -> Iterator[Row]:
    """The strings the descriptors name, and no others."""
    texts = " ".join(f"{device.description_token} {device.manufacturer_token}" for device in configured)
    for name in dict.fromkeys(re.findall(r"%([^%]+)%", texts)):
        if name in package.strings:
            yield ("DriverPackages", package.label, "Strings"), name, sz(package.strings[name])
