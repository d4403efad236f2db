import shutil

import pytest

from builder.errors import InputRefused
from builder.host import hive
from builder.windows.registry import dword, multi_sz, sz


@pytest.fixture
def minimal(testdata, tmp_path):
    path = tmp_path / "minimal.hive"
    shutil.copy(testdata / "hives" / "minimal.hive", path)
    return path


def test_set_creates_keys_and_reads_back(minimal):
    key = ("ControlSet001", "Services", "viostor")
    opened = hive.open_file(minimal, write=True)
    opened.set(key, "Start", dword(0))
    opened.set(key, "", sz("default"))
    opened.set((*key, "Parameters"), "List", multi_sz("a", "b"))
    opened.commit()
    read = hive.open_file(minimal)
    assert read.value(key, "Start") == dword(0)
    assert read.value(key, "") == sz("default")
    assert read.values((*key, "Parameters")) == {"List": multi_sz("a", "b")}
    assert read.subkeys(("ControlSet001", "Services")) == ("viostor",)


def test_existing_keys_are_found_whatever_their_case(minimal):
    opened = hive.open_file(minimal, write=True)
    opened.set(("Select",), "Current", dword(1))
    opened.set(("SELECT",), "CURRENT", dword(2))
    opened.commit()
    read = hive.open_file(minimal)
    assert read.subkeys(()) == ("Select",)
    assert read.value(("select",), "current") == dword(2)


def test_delete_takes_everything_below(minimal):
    opened = hive.open_file(minimal, write=True)
    opened.set(("a", "b", "c"), "x", dword(1))
    opened.delete(("a", "b"))
    opened.delete(("a", "never there"))
    assert not opened.exists(("a", "b", "c"))
    assert opened.exists(("a",))
    opened.set(("a", "b"), "y", dword(2))
    opened.commit()
    assert hive.open_file(minimal).values(("a", "b")) == {"y": dword(2)}


def test_what_is_not_there_is_none(minimal):
    read = hive.open_file(minimal)
    assert read.value(("no", "such", "key"), "x") is None
    assert read.value((), "no such value") is None
    assert read.subkeys(("no",)) == ()
    assert read.values(("no",)) == {}


def test_a_damaged_hive_is_refused(testdata, tmp_path):
    with pytest.raises(InputRefused, match="not a registry hive"):
        hive.open_file(tmp_path / "missing")
    broken = hive.open_file(testdata / "hives" / "broken" / "corrupt_sub_key_list.hiv")
    with pytest.raises(InputRefused, match="is damaged"):
        walk(broken, ())


def walk(opened, key):
    opened.values(key)
    for name in opened.subkeys(key):
        walk(opened, (*key, name))
