import shutil

import pytest

from builder.errors import InputRefused
from builder.host import hive
from builder.inspection import read_store
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


def test_setting_a_flag_changes_nothing_else(testdata, tmp_path):
    copy = tmp_path / "BCD"
    shutil.copy(testdata / "bcd" / "bios-windeploy.bcd", copy)
    before = read_store(hive.open_file(copy))
    guid = bcd.chosen(bcd.loaders(before)).guid
    edit = bcd.set_flag(guid, "testsigning", True, "test")
    opened = hive.open_file(copy, write=True)
    opened.set(edit.key, edit.name, edit.value)
    opened.commit()
    after = read_store(hive.open_file(copy))
    assert after[guid].flag("testsigning")
    changed = {name: one for name, one in after.items() if one != before[name]}
    assert set(changed) == {guid}
    assert {k: v for k, v in changed[guid].elements.items() if k != "16000049"} == before[guid].elements
