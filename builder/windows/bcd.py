"""The Boot Configuration Data: which object starts Windows, and its settings in bcdedit's words.

A store is a registry hive, `Objects\\{guid}\\Elements\\<8 hex digits>\\Element`. Measured over 65 real
stores: every boolean is REG_BINARY of one byte; several loaders of one store have the type of an OS loader (Recovery,
vendor tools, all with winpe); six stores have no usable default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.model import BootStore, Hive, Loader, SetValue
from builder.windows.registry import RegValue, binary, sz

BOOTMGR = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"
EMS_SETTINGS = "{0ce4991b-e6b3-4b16-b23c-5e0d9250e5d9}"
OS_LOADER = 0x10200003

LIBRARY, FIRMWARE, MANAGER, LOADER, RESUME, TESTER = range(6)
"""The application an element belongs to, as the last digit of an object's type says it; LIBRARY means all of them."""

_ROWS = (  # (element, bcdedit's name for it, application)
    *((code, name, LIBRARY) for code, name in (
        ("11000001", "device"), ("12000002", "path"), ("12000004", "description"), ("12000005", "locale"),
        ("12000030", "loadoptions"), ("14000006", "inherit"), ("14000008", "recoverysequence"),
        ("15000007", "truncatememory"), ("15000011", "debugtype"), ("15000012", "debugaddress"),
        ("15000013", "debugport"), ("15000014", "baudrate"), ("15000015", "channel"), ("15000022", "emsport"),
        ("15000023", "emsbaudrate"), ("15000065", "displaymessage"), ("15000066", "displaymessageoverride"),
        ("16000009", "recoveryenabled"), ("1600000b", "badmemoryaccess"), ("16000010", "bootdebug"),
        ("16000020", "bootems"), ("16000040", "advancedoptions"), ("16000041", "optionsedit"),
        ("16000046", "graphicsmodedisabled"), ("16000048", "nointegritychecks"), ("16000049", "testsigning"),
        ("16000050", "extendedinput"), ("16000060", "isolatedcontext"), ("1600007e", "bootuxdisabled"),
        ("17000077", "allowedinmemorysettings"), ("31000003", "ramdisksdidevice"), ("32000004", "ramdisksdipath"),
    )),
    *((code, name, MANAGER) for code, name in (
        ("23000003", "default"), ("23000006", "resumeobject"), ("24000001", "displayorder"),
        ("24000002", "bootsequence"), ("24000010", "toolsdisplayorder"), ("25000004", "timeout"),
        ("26000005", "resume"), ("26000020", "displaybootmenu"),
    )),
    ("24000001", "displayorder", FIRMWARE),
    ("25000004", "timeout", FIRMWARE),
    *((code, name, LOADER) for code, name in (
        ("21000001", "osdevice"), ("22000002", "systemroot"), ("23000003", "resumeobject"), ("25000020", "nx"),
        ("25000021", "pae"), ("25000080", "safeboot"), ("250000c2", "bootmenupolicy"),
        ("250000e0", "bootstatuspolicy"), ("250000f0", "hypervisorlaunchtype"),
        ("250000f3", "hypervisordebugtype"), ("250000f4", "hypervisordebugport"),
        ("250000f5", "hypervisorbaudrate"), ("25000100", "tpmbootentropy"), ("26000010", "detecthal"),
        ("26000022", "winpe"), ("26000024", "nocrashautoreboot"), ("26000025", "lastknowngood"),
        ("26000040", "vga"), ("26000041", "quietboot"), ("26000042", "novesa"), ("260000a0", "debug"),
        ("260000b0", "ems"),
    )),
    *((code, name, RESUME) for code, name in (
        ("21000001", "filedevice"), ("22000002", "filepath"), ("25000008", "bootmenupolicy"),
        ("26000006", "debugoptionenabled"),
    )),
)  # fmt: skip

ELEMENTS = {name: code for code, name, _ in reversed(_ROWS)}
"""bcdedit's name -> element; where two applications share a name, that of the Boot Manager or the OS loader."""

_NAMES = {(code, application): name for code, name, application in _ROWS}

STATUS_POLICIES = (
    *("DisplayAllFailures", "IgnoreAllFailures", "IgnoreShutdownFailures", "IgnoreBootFailures"),
    *("IgnoreCheckpointFailures", "DisplayShutdownFailures", "DisplayBootFailures", "DisplayCheckpointFailures"),
)
"""bootstatuspolicy, by its number."""


def name_of(code: str, kind: int) -> str:
    """What bcdedit calls the element `code` of an object of type `kind`; "custom:46000010" for one without a name."""
    return _NAMES.get((code, LIBRARY)) or _NAMES.get((code, kind & 0xF), f"custom:{code}")


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
    return tuple(
        _loader(store, guid)
        for guid, one in sorted(store.items())
        if one.type == OS_LOADER and not one.flag("winpe") and _starts_windows(one.text("path"))
    )


def other_loaders(store: Store) -> tuple[Loader, ...]:
    """The objects of the same type that start something else: Recovery, Setup, a vendor's tools, a rollback."""
    windows = {one.guid for one in loaders(store)}
    return tuple(
        _loader(store, guid) for guid, one in sorted(store.items()) if one.type == OS_LOADER and guid not in windows
    )


def _loader(store: Store, guid: str) -> Loader:
    default = store[BOOTMGR].text("default").lower() if BOOTMGR in store else ""
    return Loader(guid, store[guid].text("description"), store[guid].text("path"), guid == default)


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
    return _set(guid, name, _flag(on), reason)


def set_text(guid: str, name: str, text: str, reason: str) -> SetValue:
    """`bcdedit /set {guid} name text`."""
    return _set(guid, name, sz(text), reason)


def set_number(guid: str, name: str, number: int, reason: str) -> SetValue:
    """`bcdedit /set {guid} name number`: eight bytes, as in installed systems."""
    return _set(guid, name, binary(number.to_bytes(8, "little")), reason)


def _set(guid: str, name: str, value: RegValue, reason: str) -> SetValue:
    return SetValue(Hive.BCD, ("Objects", guid, "Elements", ELEMENTS[name]), "Element", value, reason)


# ---------------------------------------------------------------- the settings of a build


@dataclass(frozen=True, slots=True)
class Settings:
    """What a build sets in the store; None and "" leave it as it is. Names and values are bcdedit's."""

    testsigning: str | None = None  # for whom: shown as the reason
    nointegritychecks: bool = False
    loadoptions: str = ""
    recoveryenabled: bool | None = None
    bootstatuspolicy: str = ""
    timeout: int | None = None  # seconds the boot menu is shown
    ems: bool = False
    all_loaders: bool = False


_EMS_PORT, _EMS_BAUD_RATE = 1, 115200


def edits(store: BootStore, wanted: Settings) -> Iterator[SetValue]:
    """The edits of the loader that starts Windows, or of all loaders; () when nothing is asked for.

    Raises InputRefused when it is not clear which loader that is. Device elements are never among them.
    """
    per_loader = list(_for_loaders(wanted))
    if per_loader:
        targets = (*store.loaders, *store.others) if wanted.all_loaders else (chosen(store.loaders),)
        for one in targets:
            yield from (_set(one.guid, name, value, why) for name, value, why in per_loader)
    if wanted.timeout is not None:
        yield set_number(BOOTMGR, "timeout", wanted.timeout, f"bcdedit /timeout {wanted.timeout} (asked for)")
    if wanted.ems:
        yield set_flag(BOOTMGR, "bootems", True, "bcdedit /bootems {bootmgr} on (ems was asked for)")
        if EMS_SETTINGS in store.objects:
            reason = f"bcdedit /emssettings emsport:{_EMS_PORT} emsbaudrate:{_EMS_BAUD_RATE} (ems was asked for)"
            yield set_number(EMS_SETTINGS, "emsport", _EMS_PORT, reason)
            yield set_number(EMS_SETTINGS, "emsbaudrate", _EMS_BAUD_RATE, reason)


def _for_loaders(wanted: Settings) -> Iterator[tuple[str, RegValue, str]]:
    """Name, value and reason of each element, the reason as the bcdedit command it stands for."""
    if wanted.testsigning is not None:
        yield "testsigning", _flag(True), f"bcdedit /set testsigning on ({wanted.testsigning})"
    if wanted.nointegritychecks:
        yield "nointegritychecks", _flag(True), "bcdedit /set nointegritychecks on (asked for)"
    if wanted.loadoptions:
        yield "loadoptions", sz(wanted.loadoptions), f"bcdedit /set loadoptions {wanted.loadoptions} (asked for)"
    if wanted.recoveryenabled is not None:
        word = "on" if wanted.recoveryenabled else "off"
        yield "recoveryenabled", _flag(wanted.recoveryenabled), f"bcdedit /set recoveryenabled {word} (asked for)"
    if wanted.bootstatuspolicy:
        number = STATUS_POLICIES.index(wanted.bootstatuspolicy)
        reason = f"bcdedit /set bootstatuspolicy {wanted.bootstatuspolicy} (asked for)"
        yield "bootstatuspolicy", binary(number.to_bytes(8, "little")), reason
    if wanted.ems:
        yield "ems", _flag(True), "bcdedit /ems on (asked for)"


def _flag(on: bool) -> RegValue:
    return binary(bytes([on]))
