import shutil
from dataclasses import replace

import pytest

from builder.errors import InputRefused
from builder.host import hive
from builder.inspection import read_store
from builder.model import BootStore
from builder.windows import bcd
from builder.windows.registry import binary


def store(testdata, name):
    return read_store(hive.open_file(testdata / "bcd" / f"{name}.bcd"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bios-windeploy", r"\windows\system32\winload.exe"),
        ("efi-windeploy", r"\windows\system32\winload.efi"),
        ("efi-win10-a", r"\windows\system32\winload.efi"),
        ("efi-win10-b", r"\windows\system32\winload.efi"),
    ],
)
def test_real_stores_have_one_clear_loader(testdata, name, path):
    loader = bcd.chosen(bcd.loaders(store(testdata, name)))
    assert loader.path.lower() == path


def test_setup_media_has_no_windows_to_start(testdata):
    with pytest.raises(InputRefused, match="no clear Windows entry"):
        bcd.chosen(bcd.loaders(store(testdata, "setup-media")))


def test_two_loaders_and_no_default_are_refused():
    object_ = bcd.BcdObject(
        bcd.OS_LOADER, {bcd.ELEMENTS["path"]: bcd.set_text("g", "path", r"\W\winload.exe", "").value}
    )
    with pytest.raises(InputRefused, match="no clear") as refused:
        bcd.chosen(bcd.loaders({"{a}": object_, "{b}": object_}))
    assert "{a}" in refused.value.why
    assert "bcdedit /default" in refused.value.fix


def test_every_boolean_of_the_real_stores_has_one_byte(testdata):
    """So that what we write is written as Windows writes it."""
    seen = [
        value
        for path in sorted((testdata / "bcd").glob("*.bcd"))
        for one in read_store(hive.open_file(path)).values()
        for element, value in one.elements.items()
        if element[1] == "6"
    ]
    assert len(seen) > 20
    assert {(value.type, len(value.data)) for value in seen} == {(3, 1)}
    assert bcd.set_flag("{x}", "testsigning", True, "").value == binary(b"\x01")


EVERYTHING = bcd.Settings(
    testsigning="test",
    nointegritychecks=True,
    loadoptions="DDISABLE_INTEGRITY_CHECKS",
    recoveryenabled=False,
    bootstatuspolicy="IgnoreAllFailures",
    timeout=5,
    ems=True,
)
OF_A_LOADER = {"16000049", "16000048", "12000030", "16000009", "250000e0", "260000b0"}


@pytest.mark.parametrize("all_loaders", [False, True])
@pytest.mark.parametrize("name", ["bios-windeploy", "efi-windeploy", "efi-win10-a", "efi-win10-b"])
def test_settings_change_nothing_else_in_real_stores(testdata, tmp_path, name, all_loaders):
    """Every value, key and device element apart from those asked for is the same, byte for byte."""
    copy = tmp_path / "BCD"
    shutil.copy(testdata / "bcd" / f"{name}.bcd", copy)
    before, tree = read_store(hive.open_file(copy)), whole(hive.open_file(copy))
    boot = BootStore("", "", bcd.loaders(before), bcd.other_loaders(before), frozenset(before))
    edits = tuple(bcd.edits(boot, replace(EVERYTHING, all_loaders=all_loaders)))
    opened = hive.open_file(copy, write=True)
    for edit in edits:
        opened.set(edit.key, edit.name, edit.value)
    opened.commit()
    after = whole(hive.open_file(copy))
    asked = {(tuple(part.lower() for part in edit.key), edit.name): edit.value for edit in edits}
    asked |= {(key, None): None for key, _ in asked}  # the keys of the elements are new
    assert {place: value for place, value in after.items() if place not in asked} == {
        place: value for place, value in tree.items() if place not in asked
    }
    assert {place: after[place] for place in asked} == asked
    store_ = read_store(hive.open_file(copy))
    loader = bcd.chosen(bcd.loaders(before)).guid
    touched = {
        guid: {code for code in one.elements if one.elements[code] != before[guid].elements.get(code)}
        for guid, one in store_.items()
    }
    assert touched[loader] <= OF_A_LOADER
    assert touched[loader] >= OF_A_LOADER - {"16000009"}
    recovery = [one.guid for one in bcd.other_loaders(before)]
    assert all(bool(touched[guid]) is all_loaders for guid in recovery)
    assert touched[bcd.BOOTMGR] == {"25000004", "16000020"}
    assert store_[bcd.BOOTMGR].elements["25000004"] == binary((5).to_bytes(8, "little"))
    assert {guid for guid in touched if touched[guid]} <= {loader, *recovery, bcd.BOOTMGR, bcd.EMS_SETTINGS}


def whole(opened, key=()):
    """Every value of a hive, and every key (as a value of its own)."""
    folded = tuple(part.lower() for part in key)
    found = {(folded, name): value for name, value in opened.values(key).items()}
    found[(folded, None)] = None
    for name in opened.subkeys(key):
        found |= whole(opened, (*key, name))
    return found


def test_device_elements_are_never_touched(testdata):
    boot = BootStore("", "", bcd.loaders(store(testdata, "efi-win10-a")))
    for edit in bcd.edits(boot, EVERYTHING):
        assert edit.key[3][1] != "1", edit


def test_nothing_asked_for_is_nothing_done(testdata):
    """Not even the question which loader is meant."""
    assert tuple(bcd.edits(BootStore("", "", ()), bcd.Settings())) == ()


def test_the_reasons_are_the_commands(testdata):
    boot = BootStore("", "", bcd.loaders(store(testdata, "bios-windeploy")), objects=frozenset({bcd.EMS_SETTINGS}))
    assert [edit.reason for edit in bcd.edits(boot, EVERYTHING)] == [
        "bcdedit /set testsigning on (test)",
        "bcdedit /set nointegritychecks on (asked for)",
        "bcdedit /set loadoptions DDISABLE_INTEGRITY_CHECKS (asked for)",
        "bcdedit /set recoveryenabled off (asked for)",
        "bcdedit /set bootstatuspolicy IgnoreAllFailures (asked for)",
        "bcdedit /ems on (asked for)",
        "bcdedit /timeout 5 (asked for)",
        "bcdedit /bootems {bootmgr} on (ems was asked for)",
        "bcdedit /emssettings emsport:1 emsbaudrate:115200 (ems was asked for)",
        "bcdedit /emssettings emsport:1 emsbaudrate:115200 (ems was asked for)",
    ]


def test_recovery_and_setup_are_told_apart_from_windows(testdata):
    assert [one.description for one in bcd.other_loaders(store(testdata, "efi-win10-a"))] == [
        "Windows Recovery Environment"
    ]
    assert [one.description for one in bcd.other_loaders(store(testdata, "setup-media"))] == ["Windows Setup"]
    assert bcd.other_loaders(store(testdata, "bios-windeploy")) == ()
