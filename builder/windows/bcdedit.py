"""A boot store in bcdedit's words: the layout of `bcdedit /enum all`, and the same as values for JSON.

Drive letters exist only in a running Windows, so a partition is named as the store names it: by the GUIDs of disk and
partition, or by the signature of the disk and the offset of the partition.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Mapping

from builder.windows import bcd
from builder.windows.bcd import BcdObject, Store
from builder.windows.registry import RegValue

Shown = str | list[str]

WELL_KNOWN = {
    bcd.BOOTMGR: "{bootmgr}",
    bcd.EMS_SETTINGS: "{emssettings}",
    "{a5a30fa2-3d06-4e9f-b5f4-a01df9d1fcba}": "{fwbootmgr}",
    "{b2721d73-1db4-4c62-bf78-c548a880142d}": "{memdiag}",
    "{466f5a88-0af2-4f76-9038-095b170dbc21}": "{ntldr}",
    "{7ea2e1ac-2e61-4728-aaa3-896d9d0a9f0e}": "{globalsettings}",
    "{6efb52bf-1766-41db-a6b3-0ee5eff72bd7}": "{bootloadersettings}",
    "{1afa9c49-16ab-4a5c-901b-212802da9460}": "{resumeloadersettings}",
    "{4636856e-540f-4170-a130-a84776f4c654}": "{dbgsettings}",
    "{5189b25c-5558-4bf2-bca4-289b11bd29e2}": "{badmemory}",
    "{7ff607e0-4395-11db-b0de-0800200c9a66}": "{hypervisorsettings}",
    "{ae5534e0-a924-466c-b836-758539a3ee3a}": "{ramdiskoptions}",
}

_TITLES = {  # by type; the order is bcdedit's
    0x10100001: "Firmware Boot Manager",
    0x10100002: "Windows Boot Manager",
    0x101FFFFF: "Firmware Application (101fffff)",
    0x10200003: "Windows Boot Loader",
    0x10200004: "Resume from Hibernate",
    0x10200005: "Windows Memory Tester",
    0x10300006: "Windows Legacy OS Loader",
    0x10400008: "Real-mode Boot Sector",
}
_SETTINGS_TITLES = {  # the objects others inherit from, by name; the order is bcdedit's
    "{emssettings}": "EMS Settings",
    "{dbgsettings}": "Debugger Settings",
    "{badmemory}": "RAM Defects",
    "{globalsettings}": "Global Settings",
    "{bootloadersettings}": "Boot Loader Settings",
    "{hypervisorsettings}": "Hypervisor Settings",
    "{resumeloadersettings}": "Resume Loader Settings",
}
_DEVICE_OPTIONS = 0x30000000
_RAMDISK = 3
_WORDS: Mapping[str, tuple[str, ...]] = {
    "nx": ("OptIn", "OptOut", "AlwaysOff", "AlwaysOn"),
    "pae": ("Default", "ForceEnable", "ForceDisable"),
    "bootmenupolicy": ("Legacy", "Standard"),
    "bootstatuspolicy": bcd.STATUS_POLICIES,
    "debugtype": ("Serial", "1394", "USB", "NET", "Local"),
    "hypervisordebugtype": ("Serial", "1394", "None", "NET"),
    "hypervisorlaunchtype": ("Off", "Auto"),
    "safeboot": ("Minimal", "Network", "DsRepair"),
    "displaymessage": ("Default", "Resume", "HyperV", "Recovery"),
    "displaymessageoverride": ("Default", "Resume", "HyperV", "Recovery"),
}


def text(store: Store) -> str:
    """The whole store as `bcdedit /enum all` prints it."""
    return "\n\n".join(_section(title, rows) for title, rows in _objects(store))


def as_json(store: Store) -> list[dict[str, object]]:
    """Each object with its type in words, its identifier and full GUID, and its elements by bcdedit's names."""
    guids = {name: guid for guid, name in _identifiers(store).items()}
    return [
        {"type": title, "guid": guids.get(str(rows["identifier"]), rows["identifier"]), **rows}
        for title, rows in _objects(store)
    ]


def _objects(store: Store) -> list[tuple[str, dict[str, Shown]]]:
    names = _identifiers(store)
    ordered = sorted(store, key=lambda guid: (_rank(names[guid], store[guid]), guid))
    return [(_title(names[guid], store[guid]), _rows(guid, store[guid], names)) for guid in ordered]


def _identifiers(store: Store) -> dict[str, str]:
    default = store[bcd.BOOTMGR].text("default").lower() if bcd.BOOTMGR in store else ""
    return {guid: WELL_KNOWN.get(guid, "{default}" if guid == default else guid) for guid in store}


def _rank(name: str, one: BcdObject) -> int:
    order = [*_TITLES, *_SETTINGS_TITLES, _DEVICE_OPTIONS]
    found: int | str = name if name in _SETTINGS_TITLES else one.type
    return order.index(found) if found in order else len(order)


def _title(name: str, one: BcdObject) -> str:
    if name in _SETTINGS_TITLES:
        return _SETTINGS_TITLES[name]
    if one.type == _DEVICE_OPTIONS:
        return "Setup Ramdisk Options" if name == "{ramdiskoptions}" else "Device options"
    return _TITLES.get(one.type, f"Unknown ({one.type:08x})")


def _rows(guid: str, one: BcdObject, names: Mapping[str, str]) -> dict[str, Shown]:
    rows: dict[str, Shown] = {"identifier": names[guid]}
    for code, value in sorted(one.elements.items()):
        name = bcd.name_of(code, one.type)
        rows[name] = _shown(name, code, value, names)
    return rows


def _section(title: str, rows: Mapping[str, Shown]) -> str:
    lines = [title, "-" * len(title)]
    for name, shown in rows.items():
        first, *more = shown if isinstance(shown, list) else [shown]
        lines.append(f"{name:<23} {first}")
        lines.extend(f"{'':<23} {one}" for one in more)
    return "\n".join(lines)


def _shown(name: str, code: str, value: RegValue, names: Mapping[str, str]) -> Shown:
    """By the format of the element, the second digit of its number."""
    readers: Mapping[str, Callable[[], Shown]] = {
        "1": lambda: device(value.data, names),
        "2": lambda: _printable(value.text),
        "3": lambda: _identifier(value.text, names),
        "4": lambda: [_identifier(one, names) for one in value.texts] or [""],
        "5": lambda: _number(name, value.number),
        "6": lambda: "Yes" if value.number else "No",
        "7": lambda: [hex(number) for number in _numbers(value.data)] or [""],
    }
    return readers.get(code[1], lambda: value.data[:40].hex(" "))()


def _number(name: str, number: int) -> str:
    words = _WORDS.get(name, ())
    return words[number] if number < len(words) else str(number)


def _numbers(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8])


def _identifier(guid: str, names: Mapping[str, str]) -> str:
    folded = guid.lower()
    return names.get(folded) or WELL_KNOWN.get(folded) or _printable(guid)


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text[:512])


# ---------------------------------------------------------------- device elements, only ever read


def device(data: bytes, names: Mapping[str, str]) -> str:
    """A device element: 16 bytes of options (a GUID), then type, flags, length, padding, and what the type says."""
    if len(data) < 32:
        return "unknown"
    options = uuid.UUID(bytes_le=data[:16])
    suffix = f",{_identifier(f'{{{options}}}', names)}" if options.int else ""
    return _device(data[16:], 0) + suffix


def _device(data: bytes, depth: int) -> str:
    kind = struct.unpack_from("<I", data)[0] if len(data) >= 16 and depth < 4 else -1
    reader = {0: _block, 5: lambda *_: "boot", 6: _partition, 8: _locate}.get(kind)
    return reader(data[16:], depth) if reader else "unknown"


def _partition(data: bytes, _depth: int) -> str:
    """A qualified partition: of a GPT disk by GUIDs, of an MBR disk by signature and offset (bytes)."""
    if len(data) < 40:
        return "unknown"
    style = struct.unpack_from("<I", data, 20)[0]
    if style == 0:
        return f"partition={{{uuid.UUID(bytes_le=data[:16])}}}"
    offset, signature = struct.unpack_from("<Q", data)[0], struct.unpack_from("<I", data, 24)[0]
    return f"partition=disk {signature:08x} offset {offset}"


def _block(data: bytes, depth: int) -> str:
    """A ramdisk: 24 bytes of its own, then a file: version, length, type, the device that holds it, its path."""
    if len(data) < 52 or struct.unpack_from("<I", data)[0] != _RAMDISK:
        return "unknown"
    parent_at = 36
    length = struct.unpack_from("<I", data, parent_at + 8)[0]
    parent = _device(data[parent_at : parent_at + length], depth + 1)
    return f"ramdisk=[{parent.removeprefix('partition=')}]{_path(data[parent_at + length :])}"


def _locate(data: bytes, _depth: int) -> str:
    """A device found by a path: one of its own, or that of another element."""
    kind, element = struct.unpack_from("<II", data) if len(data) >= 8 else (0, 0)
    return f"locate=custom:{element:08x}" if kind == 0 else f"locate={_path(data[12:])}"


def _path(data: bytes) -> str:
    return _printable(data[: len(data) & ~1].decode("utf-16-le", errors="replace").split("\0", 1)[0])
