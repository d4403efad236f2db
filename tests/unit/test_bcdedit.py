"""The layout is compared with real outputs of bcdedit, the content with stores of real installations."""

import json
import re

import pytest

from builder.host import hive
from builder.inspection import read_store
from builder.windows import bcd, bcdedit
from builder.windows.registry import RegValue, binary

STORES = ("bios-windeploy", "efi-windeploy", "efi-win10-a", "efi-win10-b", "setup-media")


def store(testdata, name):
    return read_store(hive.open_file(testdata / "bcd" / f"{name}.bcd"))


def sections(text):
    """title -> names of its rows, in order."""
    found = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        title, line, *rows = block.splitlines()
        assert line == "-" * len(title), title
        found.setdefault(title, [row[:24].strip() for row in rows if row[:1] != " "])
    return found


def test_a_windows_loader_reads_as_bcdedit_prints_it(testdata):
    """The loader of the book's Windows 10 and that of the store have the same rows, in the same columns."""
    printed = (testdata / "text" / "bcdedit" / "win10-efi-debug.txt").read_text()
    real = printed[printed.index("Windows Boot Manager") :]
    mine = sections(bcdedit.text(store(testdata, "efi-win10-a")))
    theirs = sections(real)
    assert mine["Windows Boot Manager"] == theirs["Windows Boot Manager"]
    assert mine["Windows Boot Loader"] == [name for name in theirs["Windows Boot Loader"] if name != "debug"]
    words = {line[:24].strip(): line[24:].strip() for line in real.splitlines() if len(line) > 24}
    ours = bcdedit.text(store(testdata, "efi-win10-a"))
    for name in ("recoveryenabled", "isolatedcontext", "allowedinmemorysettings", "nx", "bootmenupolicy", "inherit"):
        assert f"{name:<23} {words[name]}" in ours, name


@pytest.mark.parametrize("name", STORES)
def test_every_object_of_every_real_store_is_shown(testdata, name):
    one = store(testdata, name)
    text = bcdedit.text(one)
    assert text.count("identifier  ") == len(one)
    assert "unknown" not in text.lower()
    assert all(line.isprintable() for line in text.splitlines())
    rows = json.loads(json.dumps(bcdedit.as_json(one)))
    assert sorted(row["guid"] for row in rows) == sorted(one)
    assert all(row["type"] in text for row in rows)


@pytest.mark.parametrize("name", STORES)
def test_elements_without_a_name_are_custom_and_few(testdata, name):
    custom = set(re.findall(r"custom:(\w+) +", bcdedit.text(store(testdata, name))))
    assert custom <= {"46000010"}, custom


def test_devices_say_where_they_are(testdata):
    bios, efi = bcdedit.text(store(testdata, "bios-windeploy")), bcdedit.text(store(testdata, "efi-win10-a"))
    assert "device                  boot" in bios
    assert re.search(r"device +partition=disk [0-9a-f]{8} offset \d+", bios)
    assert re.search(r"osdevice +ramdisk=\[\{[0-9a-f-]{36}\}\]\\Recovery\\WindowsRE\\Winre.wim,\{733b62e7", efi)
    assert "osdevice                locate=custom:22000002" in bcdedit.text(store(testdata, "efi-windeploy"))
    assert r"ramdisk=[boot]\sources\boot.wim,{7619dcc8" in bcdedit.text(store(testdata, "setup-media"))


def test_hostile_bytes_end_in_a_word():
    nested = b"".join(bytes(16) + b"\0" * 4 for _ in range(40))
    for data in (b"", bytes(31), bytes(32), bytes(200), b"\xff" * 200, nested):
        assert bcdedit.device(data, {}) in ("unknown", "boot") or "unknown" in bcdedit.device(data, {})
    odd = {
        "15000011": binary(b"\xff" * 8),
        "12000004": RegValue(1, b"\x1b\0[\0"),
        "11000001": binary(b"\0"),
        "zz": binary(b""),
    }
    shown = bcdedit.text({"{x}": bcd.BcdObject(0x12345678, odd)})
    assert shown.startswith("Unknown (12345678)\n")
    assert "\x1b" not in shown
