"""The plan as a document: the diff, and the .reg file as hivexregedit, which is not ours, imports it."""

import re
import shutil
import subprocess

import click
import pytest

from builder import review
from builder.edits import Change, DeleteKey, DeleteValue, Hive, MediaFile, PutFile, SetValue, WriteFile, reverse
from builder.host.hive import open_file
from builder.windows.paths import GuestPath, MediaPath
from builder.windows.registry import RegValue, binary, dword, expand_sz, multi_sz, qword, sz

KEY = ("ControlSet001", "Services", "viostor")
NEW = (
    SetValue(Hive.SYSTEM, KEY, "Start", dword(0), "loaded at boot"),
    SetValue(Hive.SYSTEM, KEY, "ImagePath", expand_sz(r"System32\drivers\viostor.sys"), "loaded at boot"),
    SetValue(Hive.SYSTEM, KEY, "", sz('a "quoted" \\ text'), "loaded at boot"),
    SetValue(Hive.SYSTEM, (*KEY, "Parameters"), "List", multi_sz("a", "b"), "as its INF"),
    SetValue(Hive.SYSTEM, (*KEY, "Parameters"), r"odd\name", qword(1 << 40), "as its INF"),
    SetValue(Hive.SYSTEM, (*KEY, "Parameters"), "Blob", binary(bytes(range(40))), "as its INF"),
    SetValue(Hive.SYSTEM, (*KEY, "Parameters"), "Odd type", RegValue(0xFFFF0012, b"\1\2"), "as its INF"),
    SetValue(Hive.SYSTEM, (*KEY, "Parameters"), "Umlaut", sz("Größe"), "as its INF"),
)
OVERRIDE = (*KEY, "StartOverride")
CHANGES = (
    Change(NEW[0], "REG_DWORD 0x3", ((KEY, "Start", dword(3)),)),
    *(Change(edit, "") for edit in NEW[1:]),
    Change(DeleteKey(Hive.SYSTEM, OVERRIDE, "in the way"), "there", ((OVERRIDE, "0", dword(3)),)),
    Change(PutFile(GuestPath.parse(r"C:\a.sys"), MediaFile(MediaPath.parse("a.sys"), 3 << 20, "0" * 64), "new"), ""),
    Change(WriteFile(GuestPath.parse(r"C:\b.cmd"), b"exit", "ours"), "another file, 9 bytes"),
)


def test_the_summary_counts():
    assert review.summary(CHANGES) == "8 values in SYSTEM; 1 key deleted; 2 files, 3.0 MiB"
    assert review.summary(CHANGES[:1]) == "1 value in SYSTEM"
    assert review.summary(()) == review.NOTHING


def test_the_diff_is_grouped_and_says_before_after_and_why():
    assert click.unstyle(review.text(CHANGES[:3] + CHANGES[8:])) == "\n".join(
        (
            "3 values in SYSTEM; 1 key deleted; 2 files, 3.0 MiB",
            "",
            "files",
            "  # new",
            r"  + C:\a.sys  3145728 bytes",
            "  # ours",
            "  - another file, 9 bytes",
            r"  + C:\b.cmd  4 bytes",
            "",
            "SYSTEM",
            "  # loaded at boot",
            r"  [ControlSet001\Services\viostor]",
            "    - Start = REG_DWORD 0x3",
            "    + Start = REG_DWORD 0x0",
            r"    + ImagePath = REG_EXPAND_SZ 'System32\\drivers\\viostor.sys'",
            "    + (default) = REG_SZ 'a \"quoted\" \\\\ text'",
            "  # in the way",
            r"  [ControlSet001\Services\viostor\StartOverride]",
            "    - the key, and all below it",
        )
    )
    assert "\x1b[31m    - Start" in review.text(CHANGES)
    assert "\x1b[32m    + Start" in review.text(CHANGES)
    assert review.text(()) == review.NOTHING


def test_reverse_undoes_last_things_first():
    undone = reverse(CHANGES)
    assert undone[0] == SetValue(Hive.SYSTEM, OVERRIDE, "0", dword(3), "as it was before")
    assert undone[-1] == SetValue(Hive.SYSTEM, KEY, "Start", dword(3), "as it was before")
    assert undone[1:-1] == tuple(
        DeleteValue(edit.hive, edit.key, edit.name, "it was not there before") for edit in reversed(NEW[1:])
    )
    assert review.reverse_text(undone).splitlines()[0] == (
        r"+ SYSTEM\ControlSet001\Services\viostor\StartOverride : 0 = REG_DWORD 0x3"
    )


@pytest.fixture
def hives(testdata, tmp_path):
    """Twice the same hive, with what CHANGES expects to be there."""
    for name in ("ours", "imported"):
        shutil.copy(testdata / "hives" / "minimal.hive", tmp_path / name)
        hive = open_file(tmp_path / name, write=True)
        hive.set(KEY, "Start", dword(3))
        hive.set(KEY, "Untouched", sz("yes"))
        hive.set(OVERRIDE, "0", dword(3))
        hive.commit()
    return tmp_path


def whole(hive, key=()):
    found = {(key, name): (value.type, value.data) for name, value in hive.values(key).items()}
    for name in hive.subkeys(key):
        found |= {(key, name, "key"): None} | whole(hive, (*key, name))
    return found


def merge(hive, text):
    regfile = hive.with_suffix(".reg")
    regfile.write_text(text, "ascii")
    words = ["hivexregedit", "--merge", "--prefix", r"HKEY_LOCAL_MACHINE\SYSTEM", hive, regfile]
    subprocess.run(words, check=True, capture_output=True)


def test_the_reg_file_does_what_we_do_and_the_reverse_one_takes_it_back(hives):
    edits = [one.edit for one in CHANGES if not isinstance(one.edit, PutFile | WriteFile)]
    before = whole(open_file(hives / "imported"))
    ours = open_file(hives / "ours", write=True)
    for edit in edits:
        ours.delete(edit.key) if isinstance(edit, DeleteKey) else ours.set(edit.key, edit.name, edit.value)
    ours.commit()
    merge(hives / "imported", review.reg_text(edits))
    assert whole(open_file(hives / "imported")) == whole(open_file(hives / "ours"))
    merge(hives / "imported", review.reg_text(reverse(CHANGES)))
    after = whole(open_file(hives / "imported"))
    assert {place: value for place, value in after.items() if place not in before} == {(KEY, "Parameters", "key"): None}
    assert {place: value for place, value in after.items() if place in before} == before


def test_a_reg_file_is_ascii_and_names_full_keys():
    text = review.reg_text([*NEW, SetValue(Hive.BCD, ("Objects",), "x", binary(b"\1"), "")])
    assert text.isascii()
    assert text.startswith("Windows Registry Editor Version 5.00\n\n[HKEY_LOCAL_MACHINE\\SYSTEM\\ControlSet001\\")
    assert re.search(r"^\[HKEY_LOCAL_MACHINE\\BCD00000000\\Objects\]\n\"x\"=hex:01$", text, re.MULTILINE)
    assert review.reg_bytes(NEW).decode("utf-16") == review.reg_text(NEW).replace("\n", "\r\n")
    assert '@="a \\"quoted\\" \\\\ text"' in text
