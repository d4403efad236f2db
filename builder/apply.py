"""Makes the image what the plan says, and proves it by reading every edit back. Knows nothing about Windows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby

from builder import inspection
from builder.errors import ApplyFailed, InputRefused
from builder.host.appliance import Appliance
from builder.host.hive import Hive
from builder.model import Change, DeleteKey, Edit, Guest, Media, PutFile, SetValue
from builder.model import Hive as HiveName
from builder.windows.paths import GuestPath

RegistryEdit = SetValue | DeleteKey


def outstanding(edits: Iterable[Edit], guest: Guest, appliance: Appliance) -> tuple[Change, ...]:
    """Those of `edits` the image does not have yet, each with what is there now, in the order they came."""
    return tuple(Change(edit, before) for edit, done, before in _observed(edits, guest, appliance) if not done)


def apply(changes: tuple[Change, ...], guest: Guest, media: Media, appliance: Appliance) -> None:
    """Writes the changes, then reads each of them back. Raises ApplyFailed naming the first that did not arrive."""
    edits = [change.edit for change in changes]
    appliance.put({_path(one.target): _content(media, one) for one in edits if isinstance(one, PutFile)})
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


def _content(media: Media, edit: PutFile) -> bytes:
    content = media.read(edit.source.path)
    if hashlib.sha256(content).hexdigest() != edit.source.sha256:
        raise InputRefused(f"{edit.source.path} on {media.label} changed while we worked", fix="run again")
    return content


def _observed(edits: Iterable[Edit], guest: Guest, appliance: Appliance) -> Iterator[tuple[Edit, bool, str]]:
    """Each edit, whether the image has it, and what is there now."""
    edits = tuple(edits)
    for edit in edits:
        if isinstance(edit, PutFile):
            yield edit, *_file(appliance, edit)
    for name, batch in _by_hive(edits):
        if name not in guest.hives:
            yield from ((edit, False, "") for edit in batch)
            continue
        with appliance.hive(inspection.hive_path(appliance, guest, name)) as hive:
            yield from ((edit, *_value(hive, edit)) for edit in batch)


def _file(appliance: Appliance, edit: PutFile) -> tuple[bool, str]:
    found = appliance.find(_path(edit.target))
    if found is None:
        return False, ""
    size = appliance.size(found)
    same = size == edit.source.size and appliance.sha256(found) == edit.source.sha256
    return same, f"another file, {size} bytes"


def _value(hive: Hive, edit: RegistryEdit) -> tuple[bool, str]:
    match edit:
        case SetValue():
            found = hive.value(edit.key, edit.name)
            return found == edit.value, "" if found is None else str(found)
        case DeleteKey():
            return not hive.exists(edit.key), "there"


def _by_hive(edits: Iterable[Edit]) -> Iterator[tuple[HiveName, list[RegistryEdit]]]:
    registry = sorted((one for one in edits if not isinstance(one, PutFile)), key=lambda one: one.hive)
    return ((name, list(batch)) for name, batch in groupby(registry, key=lambda one: one.hive))


def _path(target: GuestPath) -> str:
    return "/".join((inspection.SYSTEM_VOLUME, *target.parts))
