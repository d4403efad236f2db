"""What is there already, what is not, and files of ours among the edits."""

import phony
import pytest

from builder import apply as applying
from builder import inspection
from builder.edits import Change, DeleteKey, Hive, SetValue, WriteFile
from builder.windows.paths import GuestPath
from builder.windows.registry import dword

KEY = ("ControlSet001", "Services", "viostor", "StartOverride")
FILE = WriteFile(GuestPath.parse(r"C:\Windows\winfoundry\a.cmd"), b"exit\r\n", "ours")


@pytest.fixture
def windows(tmp_path):
    return phony.Windows(tmp_path / "work")


def outstanding(windows, *edits):
    appliance = phony.Appliance(windows)
    return applying.outstanding(edits, inspection.inspect(appliance), appliance)


def test_a_file_of_ours_is_written_when_it_is_missing_or_another(windows):
    place = "/c/Windows/winfoundry/a.cmd"
    assert outstanding(windows, FILE) == (Change(FILE, ""),)
    windows.files[place] = b"other"
    assert outstanding(windows, FILE) == (Change(FILE, "another file, 5 bytes"),)
    windows.files[place] = b"exit\n\r"
    assert outstanding(windows, FILE) == (Change(FILE, "another file, 6 bytes"),)
    windows.files[place] = FILE.content
    assert outstanding(windows, FILE) == ()


def test_what_a_deleted_key_held_is_known(windows):
    below = (*KEY, "below")
    windows.edit(SetValue(Hive.SYSTEM, below, "x", dword(1), ""))
    edit = DeleteKey(Hive.SYSTEM, KEY, "in the way")
    assert outstanding(windows, edit) == (Change(edit, "there", ((KEY, "0", dword(3)), (below, "x", dword(1)))),)
    windows.edit(edit)
    assert outstanding(windows, edit) == ()
