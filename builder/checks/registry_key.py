"""`host.registry_key(r"HKLM\\SYSTEM\\CurrentControlSet\\Services\\viostor")`: a key of the machine's hives."""

from __future__ import annotations

from builder.checks.image import Image, NeedsRunningGuest
from builder.model import Hive, Key
from builder.windows.registry import RegType, RegValue

Value = int | str | list[str] | bytes

_HIVES = {"system": Hive.SYSTEM, "software": Hive.SOFTWARE, "drivers": Hive.DRIVERS, "bcd00000000": Hive.BCD}
_MACHINE = ("hklm", "hkey_local_machine")
_LIVE = ("hkcu", "hkey_current_user", "hkey_current_config", "hkcc", "hkey_performance_data")


class RegistryKey:
    """HKLM\\SYSTEM, SOFTWARE, DRIVERS and BCD00000000; CurrentControlSet is the one `Select` names as Current.

    >>> host.registry_key(r"HKLM\\SYSTEM\\CurrentControlSet\\Services\\viostor").value("Start")
    0
    """

    def __init__(self, image: Image, path: str) -> None:
        self._image = image
        self._path = path
        self._hive, self._key = _parse(path)

    def __repr__(self) -> str:
        return f"<registry key {self._path}>"

    @property
    def exists(self) -> bool:
        return self._image.exists(self._hive, self._resolved)

    @property
    def subkeys(self) -> list[str]:
        """Their names; [] when the key does not exist."""
        return list(self._image.subkeys(self._hive, self._resolved))

    @property
    def values(self) -> dict[str, Value]:
        """All values by name, "" for the default one; {} when the key does not exist."""
        return {name: plain(value) for name, value in self._image.values(self._hive, self._resolved).items()}

    def value(self, name: str) -> Value | None:
        """A number, a string, a list of strings or bytes, as its type says; None when key or value does not exist."""
        found = self._image.value(self._hive, self._resolved, name)
        return None if found is None else plain(found)

    @property
    def _resolved(self) -> Key:
        if self._hive is Hive.SYSTEM and self._key[:1] and self._key[0].lower() == "currentcontrolset":
            return (self._image.guest.control_sets[0], *self._key[1:])
        return self._key


def plain(value: RegValue) -> Value:
    """The value as Python has it; types Windows keeps to itself are bytes."""
    match value.type:
        case RegType.REG_SZ | RegType.REG_EXPAND_SZ:
            return value.text
        case RegType.REG_DWORD | RegType.REG_QWORD:
            return value.number
        case RegType.REG_MULTI_SZ:
            return list(value.texts)
    return value.data


def _parse(path: str) -> tuple[Hive, Key]:
    root, *parts = path.strip("\\").split("\\")
    if root.lower() in _LIVE or [root.lower() in _MACHINE, *map(str.lower, parts[:1])] == [True, "hardware"]:
        raise NeedsRunningGuest(path)
    if root.lower() not in _MACHINE or not parts or parts[0].lower() not in _HIVES or not all(parts):
        raise ValueError(f"{path!r} does not start with one of HKLM\\SYSTEM, SOFTWARE, DRIVERS, BCD00000000")
    return _HIVES[parts[0].lower()], tuple(parts[1:])
