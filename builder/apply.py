"""Makes the image what the plan says, and proves it by reading every edit back. Knows nothing about Windows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby

from builder import finding, inspection
from builder.errors import ApplyFailed, InputRefused
from builder.host.appliance import Appliance
from builder.host.hive import Hive
from builder.model import Change, DeleteKey, Edit, Guest, Key, Media, PutFile, SetValue, WriteFile
from builder.model import Hive as HiveName
from builder.windows.paths import GuestPath
from builder.windows.registry import RegValue

RegistryEdit = SetValue | DeleteKey
FileEdit = PutFile | WriteFile


def outstanding(edits: Iterable[Edit], guest: Guest, appliance: Appliance) -> tuple[Change, ...]:
    """Those of `edits` the image does not have yet, each with what is there now, in the order they came."""
    return tuple(change for change, done in _observed(edits, guest, appliance) if not done)


def apply(changes: tuple[Change, ...], guest: Guest, media: Media, appliance: Appliance) -> None:
    """Writes the changes, then reads each of them back. Raises ApplyFailed naming the first that did not arrive."""
    edits = [change.edit for change in changes]
    appliance.put({_path(one.target): _content(media, one) for one in edits if isinstance(one, FileEdit)})
    for name, batch in _by_hive(edits):
        with appliance.hive(inspection.hive_path(appliance, guest, name), write=True) as hive:
            for edit in batch:
                _write(hive, edit)
    missing = outstanding(edits, guest, appliance)
    if missing:
        raise ApplyFailed(
            f"{len(missing)} of {len(edits)} changes did not read back as written",
            why=f"first: {missing[0].edit}, found: {missing[0].before or 'nothing'}",
        )


def _write(hive: Hive, edit: RegistryEdit) -> None:
    match edit:
        case SetValue():
            hive.set(edit.key, edit.name, edit.value)
        case DeleteKey():
            hive.delete(edit.key)


def _content(media: Media, edit: FileEdit) -> bytes:
    if isinstance(edit, WriteFile):
        return edit.content
    content = media.read(edit.source.path)
    if hashlib.sha256(content).hexdigest() != edit.source.sha256:
        raise InputRefused(f"{edit.source.path} on {media.label} changed while we worked", fix="run again")
    return content


def _observed(edits: Iterable[Edit], guest: Guest, appliance: Appliance) -> Iterator[tuple[Change, bool]]:
    """Each edit with what is there now, and whether that is already what it wants."""
    edits = tuple(edits)
    for edit in edits:
        if isinstance(edit, FileEdit):
            yield _file(appliance, edit)
    for name, batch in _by_hive(edits):
        if name not in guest.hives:
            yield from ((Change(edit, ""), False) for edit in batch)
            continue
        with appliance.hive(inspection.hive_path(appliance, guest, name)) as hive:
            yield from (_value(hive, edit) for edit in batch)


def _file(appliance: Appliance, edit: FileEdit) -> tuple[Change, bool]:
    found = appliance.find(_path(edit.target))
    if found is None:
        return Change(edit, ""), False
    size, wanted = appliance.size(found), _wanted(edit)
    return Change(edit, f"another file, {size} bytes"), size == wanted[0] and appliance.sha256(found) == wanted[1]


def _wanted(edit: FileEdit) -> tuple[int, str]:
    """Size in bytes and SHA-256."""
    return (edit.source.size, edit.source.sha256) if isinstance(edit, PutFile) else (len(edit.content), edit.sha256)


def _value(hive: Hive, edit: RegistryEdit) -> tuple[Change, bool]:
    match edit:
        case SetValue():
            found = hive.value(edit.key, edit.name)
            before = "" if found is None else str(found)
            lost = () if found is None else ((edit.key, edit.name, found),)
            return Change(edit, before, lost), found == edit.value
        case DeleteKey():
            return Change(edit, "there", tuple(_below(hive, edit.key))), not hive.exists(edit.key)


def _below(hive: Hive, key: Key) -> Iterator[tuple[Key, str, RegValue]]:
    """The values of `key` and of all keys below it."""
    yield from ((key, name, value) for name, value in hive.values(key).items())
    for name in hive.subkeys(key):
        yield from _below(hive, (*key, name))


def _by_hive(edits: Iterable[Edit]) -> Iterator[tuple[HiveName, list[RegistryEdit]]]:
    registry = sorted((one for one in edits if isinstance(one, RegistryEdit)), key=lambda one: one.hive)
    return ((name, list(batch)) for name, batch in groupby(registry, key=lambda one: one.hive))


def _path(target: GuestPath) -> str:
    return "/".join((finding.SYSTEM_VOLUME, *target.parts))
