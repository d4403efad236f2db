"""Plans applied to hives of real Windows: what was asked for is there, and no other key, value or descriptor changed.

The hives are unpacked, marked as closed where their guests were running, and edited on this machine. Where no real
SOFTWARE is to be had (Windows 10) that of the phony Windows serves.
"""

import struct
import subprocess
from functools import reduce
from operator import xor
from pathlib import Path

import hivex
import phony
import pytest
from regipy.registry import RegistryHive

from builder import apply as applying
from builder import inspection
from builder import plan as planning
from builder.config import from_options
from builder.edits import reverse
from builder.host.media import open_media
from builder.model import DeleteKey, Hive, PutFile, SetValue, WriteFile
from builder.windows import drivers
from builder.windows.registry import dword

CASES = {  # name -> hives that are real, machine, CurrentBuildNumber of the phony SOFTWARE where that is used
    "win7-x86": ((Hive.SYSTEM, Hive.SOFTWARE), 0x014C),
    "win81-x64": ((Hive.SYSTEM, Hive.SOFTWARE), 0x8664),
    "win10-x64": ((Hive.SYSTEM,), 0x8664),
}


def closed(hive: bytes) -> bytes:
    header = bytearray(hive[:512])
    header[8:12] = header[4:8]
    struct.pack_into("<I", header, 508, reduce(xor, struct.unpack_from("<127I", header)))
    return bytes(header) + hive[512:]


@pytest.fixture(scope="module", params=CASES)
def edited(request, real_hive, testdata, virtio_win, tmp_path_factory):
    """(name, windows, guest, plan, the changes, what was there before by hive)."""
    real, machine = CASES[request.param]
    windows = phony.Windows(tmp_path_factory.mktemp(request.param) / "work")
    kernel = bytearray(windows.files["/c/Windows/System32/ntoskrnl.exe"])
    struct.pack_into("<H", kernel, struct.unpack_from("<I", kernel, 60)[0] + 4, machine)
    windows.files["/c/Windows/System32/ntoskrnl.exe"] = bytes(kernel)
    del windows.files[phony.PLACES[Hive.DRIVERS]]
    for name in real:
        windows.files[phony.PLACES[name]] = closed(real_hive(f"{request.param}/{name}").read_bytes())
        (windows.work / name).write_bytes(windows.files[phony.PLACES[name]])
    (windows.work / Hive.BCD).write_bytes((testdata / "bcd" / "bios-windeploy.bcd").read_bytes())
    windows.files[phony.PLACES[Hive.BCD]] = (windows.work / Hive.BCD).read_bytes()
    before = {name: tree(windows.work / name) for name in (*real, Hive.BCD)}
    guest, plan, changes = planned(windows, virtio_win)
    windows.edit(*(one.edit for one in changes if isinstance(one.edit, SetValue | DeleteKey)))
    for one in plan.edits:
        if isinstance(one, PutFile | WriteFile):
            content = one.content if isinstance(one, WriteFile) else (virtio_win / str(one.source.path)).read_bytes()
            windows.files["/".join(("/c", *one.target.parts))] = content
    return request.param, windows, guest, plan, changes, before


def planned(windows, virtio_win):
    appliance = phony.Appliance(windows)
    guest = inspection.inspect(appliance)
    with open_media(virtio_win) as media:
        spec = from_options({"source": "a.qcow2", "virtio_win": virtio_win})
        selection = drivers.select(media, guest.release, guest.arch, guest.build, {})
        plan = planning.plan(guest, selection, spec)
        return guest, plan, applying.outstanding(plan.edits, guest, appliance)


def tree(path: Path):
    """key in lower case -> (its name, its security descriptor, its values with type and data); hivex reads."""
    raw = path.read_bytes()
    handle = hivex.Hivex(str(path))
    found, stack = {}, [((), handle.root())]
    while stack:
        key, node = stack.pop()
        values = {handle.value_key(one): handle.value_value(one) for one in handle.node_values(node)}
        found[tuple(part.lower() for part in key)] = (key, descriptor(raw, node), values)
        stack += [((*key, handle.node_name(child)), child) for child in handle.node_children(node)]
    return found


def descriptor(raw: bytes, node: int) -> bytes:
    """The security descriptor a key cell (nk) refers to."""
    at = 4096 + struct.unpack_from("<I", raw, node + 48)[0]
    assert raw[node + 4 : node + 6] == b"nk"
    assert raw[at + 4 : at + 6] == b"sk"
    size = struct.unpack_from("<I", raw, at + 20)[0]
    return raw[at + 24 : at + 24 + size]


def test_the_guest_is_the_one_of_the_hives(edited):
    name, _, guest, _, _, _ = edited
    facts = {
        "win7-x86": ("w7", 7601, ("ControlSet001", "ControlSet002"), False),
        "win81-x64": ("w8.1", 9600, ("ControlSet001",), True),
        "win10-x64": ("w10", 19045, ("ControlSet001",), True),
    }
    assert (guest.release.name, guest.build, guest.control_sets, guest.driver_database) == facts[name]


def test_nothing_but_the_plan_changed(edited):
    _, windows, _, plan, _, before = edited
    for hive, old in before.items():
        new = tree(windows.work / hive)
        written, deleted = asked(plan, hive)
        kept = {key for key in old if not any(key[: len(gone)] == gone for gone in deleted)}
        assert kept <= new.keys()
        for key in kept:
            name, security, values = new[key]
            assert (name, security) == old[key][:2], key
            mine = written.get(key, {})
            assert {one: value for one, value in values.items() if one.lower() not in mine} == {
                one: value for one, value in old[key][2].items() if one.lower() not in mine
            }, key
        made = new.keys() - old.keys()
        assert made <= {key[:length] for key in written for length in range(len(key) + 1)}
        assert all(new[key][1] == new[key[:-1]][1] for key in made), "new keys have their parent's descriptor"


def asked(plan, hive):
    """What the plan writes: key -> names, in lower case; and the keys it deletes."""
    written, deleted = {}, []
    for edit in plan.edits:
        if isinstance(edit, SetValue) and edit.hive is hive:
            written.setdefault(tuple(part.lower() for part in edit.key), set()).add(edit.name.lower())
        elif isinstance(edit, DeleteKey) and edit.hive is hive:
            deleted.append(tuple(part.lower() for part in edit.key))
    return written, deleted


def test_regipy_reads_every_value_that_was_written(edited):
    """regipy shares nothing with hivex; it is asked for types and, for numbers and strings, for the data."""
    _, windows, _, plan, _, before = edited
    types = {1: "REG_SZ", 2: "REG_EXPAND_SZ", 3: "REG_BINARY", 4: "REG_DWORD", 7: "REG_MULTI_SZ"}
    checked = 0
    for hive in before:
        reader = RegistryHive(str(windows.work / hive))
        for edit in plan.edits:
            if not isinstance(edit, SetValue) or edit.hive is not hive or edit.value.type not in types:
                continue
            values = reader.get_key("\\" + "\\".join(edit.key)).iter_values(trim_values=False)
            found = {one.name.lower(): one for one in values}
            value = found[edit.name.lower() or "(default)"]
            assert value.value_type == types[edit.value.type], edit
            if edit.value.type == 4:
                assert value.value == edit.value.number
            elif edit.value.type in (1, 2):
                assert value.value == edit.value.text
            checked += 1
    assert checked > 50


def test_hivexget_reads_the_services(edited):
    name, windows, guest, _, _, _ = edited
    for control_set in guest.control_sets:
        for driver in ("viostor", "vioscsi"):
            words = ["hivexget", windows.work / "SYSTEM", rf"\{control_set}\Services\{driver}", "Start"]
            assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "0", name


def test_the_second_plan_is_empty(edited, virtio_win):
    _, windows, _, _, _, _ = edited
    _, _, changes = planned(windows, virtio_win)
    assert changes == ()


def test_the_reverse_edits_put_every_value_back(edited):
    """On a copy; keys that were made stay, as they do after reg import, and values without one are left."""
    _, _, _, _, changes, before = edited
    undo = reverse(changes)
    assert {(one.hive, one.key, one.name) for one in undo} >= {
        (one.edit.hive, one.edit.key, one.edit.name) for one in changes if isinstance(one.edit, SetValue)
    }
    for one in undo:
        if isinstance(one, SetValue) and one.hive in before:
            old = before[one.hive][tuple(part.lower() for part in one.key)][2]
            assert {name.lower(): value for name, value in old.items()}[one.name.lower()][1] == one.value.data


def test_start_override_is_gone_and_can_come_back(edited, virtio_win):
    name, windows, guest, _, _, _ = edited
    key = (guest.control_sets[0], "Services", "viostor", "StartOverride")
    windows.edit(SetValue(Hive.SYSTEM, key, "0", dword(3), ""))
    _, _, changes = planned(windows, virtio_win)
    (change,) = changes
    assert change.edit.key == key, name
    assert reverse([change]) == (SetValue(Hive.SYSTEM, key, "0", dword(3), "as it was before"),)
    windows.edit(change.edit)
