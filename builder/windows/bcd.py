"""The Boot Configuration Data: which object starts Windows, and its settings in bcdedit's words.

A store is a registry hive, `Objects\\{guid}\\Elements\\<8 hex digits>\\Element`. Measured over 65 real
stores: every boolean is REG_BINARY of one byte; several loaders of one store have the type of an OS loader (Recovery,
vendor tools, all with winpe); six stores have no usable default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.model import Hive, Loader, SetValue
from builder.windows.registry import RegValue, binary, sz

BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
OS_LOADER = 0x10200003

ELEMENTS = {
    "device": "11000001",
    "path": "12000002",
    "description": "12000004",
    "loadoptions": "12000030",
    "inherit": "14000006",
    "recoveryenabled": "16000009",
    "nointegritychecks": "16000048",
    "testsigning": "16000049",
    "osdevice": "21000001",
    "systemroot": "22000002",
    "default": "23000003",
    "displayorder": "24000001",
    "nx": "25000020",
    "bootstatuspolicy": "250000e0",
    "winpe": "26000022",
}


@dataclass(frozen=True, slots=True)
class BcdObject:
    """One object of a store: its type (0x10200003 is an OS loader) and its elements by their eight hex digits."""

    type: int
    elements: Mapping[str, RegValue]

    def text(self, name: str) -> str:
        found = self.elements.get(ELEMENTS[name])
        return found.text if found else ""

    def flag(self, name: str) -> bool:
        found = self.elements.get(ELEMENTS[name])
        return bool(found and found.number)


Store = Mapping[str, BcdObject]
"""guid in lower case, with braces -> object"""


def loaders(store: Store) -> tuple[Loader, ...]:
    """The objects that start Windows itself; not Recovery, not Setup, not a vendor's tools."""
    default = store[BOOTMGR].text("default").lower() if BOOTMGR in store else ""
    return tuple(
        Loader(guid, one.text("description"), one.text("path"), guid == default)
        for guid, one in sorted(store.items())
        if one.type == OS_LOADER and not one.flag("winpe") and _starts_windows(one.text("path"))
    )


def _starts_windows(path: str) -> bool:
    return path.lower().rpartition("\\")[2] in ("winload.exe", "winload.efi")


def chosen(found: tuple[Loader, ...]) -> Loader:
    """The loader to edit: the default one, or the only one. Raises InputRefused when that is not clear."""
    by_default = [one for one in found if one.default]
    if len(by_default) == 1 or len(found) == 1:
        return (by_default or list(found))[0]
    listed = ", ".join(f"{one.guid} {one.description!r}" for one in found) or "none"
    raise InputRefused(
        "the boot store has no clear Windows entry",
        why=f"no default loader starts Windows; loaders found: {listed}",
        fix="inside the guest run `bcdedit /default {identifier}`",
    )


def set_flag(guid: str, name: str, on: bool, reason: str) -> SetValue:
    """`bcdedit /set {guid} name on|off`."""
    return _set(guid, name, binary(bytes([on])), reason)


def set_text(guid: str, name: str, text: str, reason: str) -> SetValue:
    """`bcdedit /set {guid} name text`."""
    return _set(guid, name, sz(text), reason)


def _set(guid: str, name: str, value: RegValue, reason: str) -> SetValue:
    return SetValue(Hive.BCD, ("Objects", guid, "Elements", ELEMENTS[name]), "Element", value, reason)
