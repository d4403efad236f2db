"""Edits of the image: each says what shall be there, and why. `builder.model` exports all of them.

SetValue, DeleteKey    in a registry hive
PutFile, WriteFile     a file of the driver disc, a file of ours
Change, reverse        an edit that is still needed, and how registry edits are undone
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from builder.windows.paths import GuestPath, MediaPath
from builder.windows.registry import RegValue

Key = tuple[str, ...]
"""A registry key below the root of its hive: ("ControlSet001", "Services", "viostor")."""

KeyValues = tuple[tuple[Key, str, RegValue], ...]
"""Values below some key: where, name, value."""


class Hive(StrEnum):
    """The hives we edit; DRIVERS (Windows 8 and later) may be absent."""

    SYSTEM = "SYSTEM"
    SOFTWARE = "SOFTWARE"
    DRIVERS = "DRIVERS"
    BCD = "BCD"


LONGEST_KEY, LONGEST_NAME = 255, 16383  # characters; Microsoft, "Registry element size limits"


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file on the driver disc, known at plan time."""

    path: MediaPath
    size: int  # bytes
    sha256: str  # lower-case hex


@dataclass(frozen=True, slots=True)
class SetValue:
    """The value `name` of `key` shall be `value`; "" names the default value. Keys are created as needed."""

    hive: Hive
    key: Key
    name: str
    value: RegValue
    reason: str

    def __post_init__(self) -> None:
        _require_names(self.key, self.name)

    def __str__(self) -> str:
        return f"{_shown(self.hive, self.key)} : {self.name or '(default)'} = {self.value}"


@dataclass(frozen=True, slots=True)
class DeleteKey:
    """The key and all below it shall not exist."""

    hive: Hive
    key: Key
    reason: str

    def __post_init__(self) -> None:
        _require_names(self.key, "")

    def __str__(self) -> str:
        return f"{_shown(self.hive, self.key)} deleted"


def _shown(hive: Hive, key: Key) -> str:
    return "\\".join((hive, *key))


def _require_names(key: Key, name: str) -> None:
    """Raises ValueError for names the registry cannot hold, though hivex would write them (measured)."""
    for part in key:
        if not part or "\\" in part or "\0" in part or len(part) > LONGEST_KEY:
            raise ValueError(f"{part[:300]!r} cannot be the name of a registry key")
    if not key or "\0" in name or len(name) > LONGEST_NAME:
        raise ValueError(f"{name[:300]!r} cannot be the name of a registry value")


@dataclass(frozen=True, slots=True)
class PutFile:
    """The file shall be there with exactly these bytes."""

    target: GuestPath
    source: MediaFile
    reason: str

    def __str__(self) -> str:
        return f"{self.target}  {self.source.size} bytes"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """The file shall be there with exactly these bytes, which are ours."""

    target: GuestPath
    content: bytes
    reason: str

    def __str__(self) -> str:
        return f"{self.target}  {len(self.content)} bytes"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


Edit = SetValue | DeleteKey | PutFile | WriteFile


@dataclass(frozen=True, slots=True)
class Change:
    """An edit the image still needs. `before` is what is there now, as text; "" for nothing.

    lost  what the edit takes away and only this knows: the values it replaces or deletes, with those below a deleted
          key. `reverse` puts them back. A file that is replaced is not kept, only its size is told.
    """

    edit: Edit
    before: str
    lost: KeyValues = ()


@dataclass(frozen=True, slots=True)
class DeleteValue:
    """The value `name` of `key` shall not exist; the key stays. For undoing only: hivex cannot delete a value."""

    hive: Hive
    key: Key
    name: str
    reason: str


Undo = SetValue | DeleteValue


def reverse(changes: Iterable[Change]) -> tuple[Undo, ...]:
    """The registry edits that undo `changes`, last one first; keys they made stay, empty."""
    return tuple(undo for change in reversed(tuple(changes)) for undo in _undone(change))


def _undone(change: Change) -> Iterator[Undo]:
    match change.edit:
        case SetValue(hive, key, name) if not change.lost:
            yield DeleteValue(hive, key, name, "it was not there before")
        case SetValue(hive) | DeleteKey(hive):
            yield from (SetValue(hive, key, name, value, "as it was before") for key, name, value in change.lost)


def digest(edits: Iterable[Edit]) -> str:
    """SHA-256 over edits in canonical JSON, lower-case hex."""
    return hashlib.sha256(json.dumps([_plain(edit) for edit in edits], sort_keys=True).encode()).hexdigest()


def _plain(edit: Edit) -> dict[str, object]:
    match edit:
        case SetValue():
            value: object = {"type": edit.value.type, "data": edit.value.data.hex()}
            return {"set": edit.hive, "key": edit.key, "name": edit.name, "value": value}
        case DeleteKey():
            return {"delete": edit.hive, "key": edit.key}
        case PutFile():
            return {"file": str(edit.target), "sha256": edit.source.sha256}
        case WriteFile():
            return {"file": str(edit.target), "sha256": edit.sha256}
