"""The sample's registry: hives made from nothing and filled from tables, in the shape of real ones.

The storage part is that of an installation on IDE or SATA: services, driver database and the ids that bind them are
those `mshdc.inf` leaves on Windows 10 (compared with a real 1909 hive). viostor carries a StartOverride, as Windows
leaves behind on a machine that once had the driver and did not boot from it: a build must remove it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

from builder.model import Firmware
from builder.windows.registry import RegValue, binary, dword, expand_sz, multi_sz, sz

Entry = tuple[str, str, RegValue]
"""Key with backslashes, value name ("" for the default value), value."""


@dataclass(frozen=True, slots=True)
class Place:
    """A partition as Windows names it: the disk and the partition on it.

    guid       True for a GPT disk: both are GUIDs in their 16 bytes; False: the disk's signature (4 bytes) and the
               partition's offset in bytes (8 bytes, little-endian)
    """

    guid: bool
    disk: bytes
    partition: bytes

    @property
    def mounted_device(self) -> RegValue:
        """A value of MountedDevices."""
        return binary(b"DMIO:ID:" + self.partition if self.guid else self.disk + self.partition)

    @property
    def boot_device(self) -> RegValue:
        """A device element of a BCD store: a qualified partition, 88 bytes as in real stores."""
        style = 0 if self.guid else 1
        identity = struct.pack("<16sII16s16x", self.partition, 0, style, self.disk)
        return binary(struct.pack("<16xIIII", 6, 0, 0x48, 0) + identity)


# ---------------------------------------------------------------- an empty hive, and filling it


def write(target: Path, root: str, entries: Iterable[Entry], empty_keys: Iterable[str] = ()) -> None:
    """A clean hive with `entries`, and with `empty_keys`, which hold nothing."""
    import hivex

    target.write_bytes(empty_hive(root))
    hive = hivex.Hivex(str(target), write=True)
    values: dict[str, list[dict[str, object]]] = {key: [] for key in empty_keys}
    for key, name, value in entries:
        values.setdefault(key, []).append({"key": name, "t": value.type, "value": value.data})
    nodes = {"": hive.root()}
    for key in sorted(values):
        hive.node_set_values(_node(hive, nodes, key), values[key])
    hive.commit(None)


def _node(hive: Any, nodes: dict[str, int], key: str) -> int:
    if key not in nodes:
        parent, _, name = key.rpartition("\\")
        nodes[key] = hive.node_add_child(_node(hive, nodes, parent), name)
    return nodes[key]


def empty_hive(root: str) -> bytes:
    """A clean hive whose root key is `root`: base block, one bin, the root's nk cell and its sk cell.

    After msuhanov's "Windows registry file format specification", version 1.5.
    """
    name = root.encode("ascii")
    security_at = _FIRST_CELL + len(_cell(bytes(76) + name))
    none = 0xFFFFFFFF
    nk = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH",
        *(b"nk", 0x2C, 0, 0),  # KEY_HIVE_ENTRY | KEY_NO_DELETE | KEY_COMP_NAME
        *(none, 0, 0, none, none),  # no parent; no sub-keys, stable or volatile
        *(0, none, security_at, none),  # no values; security; no class
        *(0, 0, 0, 0, 0),  # longest names and data, work variable
        *(len(name), 0),
    )
    sk = struct.pack("<2sHIIII", b"sk", 0, security_at, security_at, 1, len(_DESCRIPTOR)) + _DESCRIPTOR
    cells = _cell(nk + name) + _cell(sk)
    free = 4096 - 32 - len(cells)
    bin_ = struct.pack("<4sIIQQI", b"hbin", 0, 4096, 0, 0, 0) + cells + struct.pack("<i", free).ljust(free, b"\0")
    base = struct.pack("<4sIIQIIIIIII", b"regf", 1, 1, 0, 1, 5, 0, 1, _FIRST_CELL, 4096, 1).ljust(508, b"\0")
    checksum = reduce(xor, struct.unpack("<127I", base))
    return (base + struct.pack("<I", checksum)).ljust(4096, b"\0") + bin_


def _cell(content: bytes) -> bytes:
    """A used cell: its negative size, then the content, in multiples of eight bytes."""
    size = -(-(4 + len(content)) // 8) * 8
    return (struct.pack("<i", -size) + content).ljust(size, b"\0")


_FIRST_CELL = 32  # after the header of the bin; readers expect the root key there
_SYSTEM, _ADMINISTRATORS = bytes.fromhex("010100000000000512000000"), bytes.fromhex("01020000000000052000000020020000")


def _descriptor() -> bytes:
    """Self-relative: owner and group Administrators; full access for SYSTEM and Administrators, inherited below."""
    entries = [struct.pack("<BBHI", 0, 2, 8 + len(sid), 0xF003F) + sid for sid in (_SYSTEM, _ADMINISTRATORS)]
    acl = struct.pack("<BBHHH", 2, 0, 8 + sum(map(len, entries)), len(entries), 0) + b"".join(entries)
    owner = 20 + len(acl)
    offsets = (owner, owner + len(_ADMINISTRATORS), 0, 20)
    return struct.pack("<BBHIIII", 1, 0, 0x8004, *offsets) + acl + _ADMINISTRATORS * 2


_DESCRIPTOR = _descriptor()

# ---------------------------------------------------------------- SYSTEM, DRIVERS

_STORAGE = (  # service, group, configuration of mshdc.inf, the ids that lead to it
    ("storahci", "SCSI Miniport", "msahci_Inst", ("CC_010601", "CC_0106")),
    ("pciide", "System Bus Extender", "pciide_Inst", ("CC_0101",)),
    ("intelide", "System Bus Extender", "intelide_Inst", ("VEN_8086&DEV_7010", "VEN_8086&DEV_7111")),
    ("atapi", "SCSI Miniport", "atapi_Inst", ()),
)
INBOX = tuple(f"{service}.sys" for service, *_ in _STORAGE)
"""The drivers of "Windows" on the sample: files in System32\\drivers."""

_MSHDC = "mshdc.inf_amd64_00112233aabbccdd"
_MSHDC_VERSION = binary(  # ffff0900: an inbox package; class hdc; 2006-06-21; 10.0.19041.1
    bytes.fromhex(
        "ffff090000000000" + "6ae9364d25e3ce11bfc108002be10318" + "00808ca3c594c601" + "0100614a00000a00" + "00" * 8
    )
)


def system(volume: Place) -> Iterator[Entry]:
    """SYSTEM of the Windows on `volume`: two control sets, the storage services and the driver database."""
    for name, number in (("Current", 1), ("Default", 1), ("LastKnownGood", 2), ("Failed", 0)):
        yield "Select", name, dword(number)
    for control_set in ("ControlSet001", "ControlSet002"):
        yield from _control_set(control_set)
    yield "ControlSet001\\Services\\viostor\\StartOverride", "0", dword(3)
    yield "MountedDevices", "\\DosDevices\\C:", volume.mounted_device
    yield "Setup", "SystemSetupInProgress", dword(0)
    yield "Setup", "CmdLine", sz("")
    yield from driver_database()


def _control_set(name: str) -> Iterator[Entry]:
    control = f"{name}\\Control"
    yield control, "SystemStartOptions", sz(" NOEXECUTE=OPTIN")
    yield f"{control}\\ProductOptions", "ProductType", sz("WinNT")
    yield f"{control}\\ComputerName\\ComputerName", "ComputerName", sz("WF-SAMPLE")
    yield f"{control}\\CrashControl", "AutoReboot", dword(1)
    yield f"{control}\\Session Manager\\Environment", "PROCESSOR_ARCHITECTURE", sz("AMD64")
    yield f"{control}\\Session Manager\\Power", "HiberbootEnabled", dword(0)
    yield f"{control}\\CI", "UMCIAuditMode", dword(0)
    for service, group, _, _ in _STORAGE:
        key = f"{name}\\Services\\{service}"
        yield key, "Type", dword(1)
        yield key, "Start", dword(0)
        yield key, "ErrorControl", dword(3)
        yield key, "Group", sz(group)
        yield key, "ImagePath", expand_sz(f"System32\\drivers\\{service}.sys")
        yield key, "Owners", multi_sz("mshdc.inf")


def driver_database() -> Iterator[Entry]:
    """DriverDatabase as SYSTEM and DRIVERS hold it: from device id to INF, package, configuration and service."""
    yield "DriverDatabase", "Version", dword(0x0A000000)
    yield "DriverDatabase", "SchemaVersion", dword(0x00010000)
    yield "DriverDatabase", "Architecture", dword(9)
    inf = "DriverDatabase\\DriverInfFiles\\mshdc.inf"
    yield inf, "", multi_sz(_MSHDC)
    yield inf, "Active", sz(_MSHDC)
    yield inf, "Configurations", multi_sz(*(configuration for _, _, configuration, _ in _STORAGE))
    package = f"DriverDatabase\\DriverPackages\\{_MSHDC}"
    yield package, "", sz("mshdc.inf")
    yield package, "Provider", sz("Microsoft")
    yield package, "SignerScore", dword(0x0D000003)
    yield package, "StatusFlags", dword(0x16)
    yield package, "Version", _MSHDC_VERSION
    for service, _, configuration, ids in _STORAGE:
        yield f"{package}\\Configurations\\{configuration}", "ConfigFlags", dword(0)
        yield f"{package}\\Configurations\\{configuration}", "ConfigScope", dword(7)
        yield f"{package}\\Configurations\\{configuration}", "Service", sz(service)
        for device in ids:
            yield f"DriverDatabase\\DeviceIds\\PCI\\{device}", "mshdc.inf", binary(bytes.fromhex("01ff0000"))
            yield f"{package}\\Descriptors\\PCI\\{device}", "Configuration", sz(configuration)


# ---------------------------------------------------------------- SOFTWARE

EMPTY_STORES = tuple(f"Microsoft\\SystemCertificates\\{name}\\Certificates" for name in ("ROOT", "TrustedPublisher"))


def software() -> Iterator[Entry]:
    """SOFTWARE of Windows 10 Pro 22H2."""
    version = "Microsoft\\Windows NT\\CurrentVersion"
    texts = {
        "ProductName": "Windows 10 Pro",
        "EditionID": "Professional",
        "InstallationType": "Client",
        "CurrentVersion": "6.3",
        "CurrentBuild": "19045",
        "CurrentBuildNumber": "19045",
        "DisplayVersion": "22H2",
        "BuildLabEx": "19041.1.amd64fre.vb_release.191206-1406",
        "SystemRoot": "C:\\Windows",
        "RegisteredOwner": "winfoundry sample, not Windows",
    }
    for name, text in texts.items():
        yield version, name, sz(text)
    yield version, "CurrentMajorVersionNumber", dword(10)
    yield version, "CurrentMinorVersionNumber", dword(0)
    yield "Microsoft\\Windows\\CurrentVersion", "DevicePath", expand_sz("%SystemRoot%\\inf")
    yield "Microsoft\\Windows\\CurrentVersion", "ProgramFilesDir", sz("C:\\Program Files")


# ---------------------------------------------------------------- BCD

_BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
_GLOBAL = "{7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e}"
_LOADER_SETTINGS = "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}"
_MEMTEST = "{b2721d73-1db4-4c62-bf78-c548a880142d}"
_WINDOWS = "{5a3b0e52-0f2c-11ef-9d4a-525400f0cade}"
_RECOVERY = "{5a3b0e53-0f2c-11ef-9d4a-525400f0cade}"

_ON, _OFF = binary(b"\x01"), binary(b"\x00")


def bcd(firmware: Firmware, boot: Place, volume: Place) -> Iterator[Entry]:
    """A store on `boot` with the Boot Manager, Windows on `volume`, its recovery loader and the memory tester."""
    uefi = firmware is Firmware.UEFI
    suffix, folder = ("efi", "\\EFI\\Microsoft\\Boot") if uefi else ("exe", "\\boot")
    manager = {"12000002": sz(f"{folder}\\bootmgfw.efi")} if uefi else {}
    loader = {
        "12000002": sz(f"\\Windows\\system32\\winload.{suffix}"),
        "12000005": sz("en-US"),
        "14000006": multi_sz(_LOADER_SETTINGS),
        "21000001": volume.boot_device,
        "22000002": sz("\\Windows"),
        "25000020": _number(0),
        "250000c2": _number(1),
    }
    yield "Description", "KeyName", sz("BCD00000000")
    yield "Description", "System", dword(1)
    yield "Description", "TreatAsSystem", dword(1)
    yield from _object(_GLOBAL, 0x20100000, {"16000020": _OFF})
    yield from _object(_LOADER_SETTINGS, 0x20200003, {"14000006": multi_sz(_GLOBAL)})
    yield from _object(
        _BOOTMGR,
        0x10100002,
        {
            **manager,
            "11000001": boot.boot_device,
            "12000004": sz("Windows Boot Manager"),
            "12000005": sz("en-US"),
            "14000006": multi_sz(_GLOBAL),
            "23000003": sz(_WINDOWS),
            "24000001": multi_sz(_WINDOWS),
            "24000010": multi_sz(_MEMTEST),
            "25000004": _number(30),
        },
    )
    windows = {
        "11000001": volume.boot_device,
        "12000004": sz("Windows 10"),
        "14000008": multi_sz(_RECOVERY),
        "16000009": _ON,
    }
    recovery = {
        "11000001": volume.boot_device,
        "12000004": sz("Windows Recovery Environment"),
        "26000022": _ON,
        "46000010": _ON,
    }
    tester = {"11000001": boot.boot_device, "12000002": sz(f"{folder}\\memtest.{suffix}"), "1600000b": _ON}
    yield from _object(_WINDOWS, 0x10200003, loader | windows)
    yield from _object(_RECOVERY, 0x10200003, loader | recovery)
    yield from _object(
        _MEMTEST, 0x10200005, {**tester, "12000004": sz("Windows Memory Diagnostic"), "14000006": multi_sz(_GLOBAL)}
    )


def _object(guid: str, kind: int, elements: dict[str, RegValue]) -> Iterator[Entry]:
    yield f"Objects\\{guid}\\Description", "Type", dword(kind)
    for element, value in sorted(elements.items()):
        yield f"Objects\\{guid}\\Elements\\{element}", "Element", value


def _number(value: int) -> RegValue:
    return binary(value.to_bytes(8, "little"))
