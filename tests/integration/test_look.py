"""The commands that only look, on the disk with the real Windows 8.1 hives and the real BIOS boot store."""

import json

import jsonschema
import pytest

from builder import resources
from builder.host.hive import open_file
from builder.inspection import read_store
from builder.windows import bcdedit

pytestmark = pytest.mark.appliance


def test_inspect_tells_all_the_facts(windows81, command):
    done = command("inspect", windows81(), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    jsonschema.validate(told, json.loads(resources.schema("inspect").read_text()))
    facts = ("release", "build", "edition", "arch", "firmware", "control_sets", "system_root", "boots_from")
    assert [told[name] for name in facts] == [
        *("w8.1", 9600, "EnterpriseEval", "amd64", "bios", ["ControlSet001"], "C:\\Windows", ["sata"]),
    ]
    assert told["boot_store"] == {"volume": "/dev/sda1", "path": "/Boot/BCD"}


def test_bcd_prints_the_store(windows81, command, testdata):
    done = command("bcd", windows81())
    assert done.returncode == 0, done.stderr
    assert done.stdout == bcdedit.text(read_store(open_file(testdata / "bcd" / "bios-windeploy.bcd"))) + "\n"


def test_plan_as_reg_file_and_backwards(windows81, virtio_win, command, tmp_path):
    reg = tmp_path / "undo.reg"
    done = command("plan", windows81(), "--virtio-win", virtio_win, "--reverse", "--json", "--reg", reg)
    assert done.returncode == 0, done.stderr
    undo = json.loads(done.stdout)
    text = reg.read_bytes().decode("utf-16")
    assert text.startswith("Windows Registry Editor Version 5.00\r\n")
    assert any(one["hive"] == "BCD" and one.get("delete") for one in undo)
    assert text.count("=-\r\n") == sum(bool(one.get("delete")) for one in undo) > 100
