import importlib.util
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from builder import doctor
from builder.doctor import Purpose
from builder.errors import EnvironmentUnable


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """`tools(name="version line")`: PATH has these programs and no other."""

    def only(**programs):
        for name, line in programs.items():
            program = tmp_path / name.replace("_", "-").replace("x86-64", "x86_64")
            program.write_text(f"#!/bin/sh\necho '{line}'\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return only


def finding(name):
    (need,) = [one for one in doctor._NEEDS if one.name == name]
    return need.finding()


def test_everything_is_examined_at_once_with_reason_and_fix(tools):
    tools()
    findings = doctor.examine()
    assert [one.name for one in findings] == [need.name for need in doctor._NEEDS]
    missing = {one.name for one in findings if one.found == "not installed"}
    assert missing == {"qemu-img", "qemu-system-x86_64", "virsh", "osslsigncode"}
    for one in findings:
        assert one.found
        assert one.why
        assert bool(one.fix) is not one.ok


def test_all_that_is_missing_comes_in_one_error_with_one_apt_line(tools):
    tools()
    with pytest.raises(EnvironmentUnable) as caught:
        doctor.require(Purpose.BUILD)
    assert caught.value.exit_code == 4
    assert caught.value.what == "this machine cannot build"
    assert "qemu-img: not installed; it makes overlays and the image" in caught.value.why
    assert "qemu-system-x86_64: not installed; " in caught.value.why
    assert caught.value.fix.splitlines()[0] == "apt-get install qemu-system-x86 qemu-utils"


@pytest.mark.parametrize(
    ("line", "ok", "found"),
    [
        ("qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)", True, "7.2.22"),
        ("qemu-img version 10.1", True, "10.1"),
        ("qemu-img version 5.2.0", False, "version 5.2.0 is too old, 6.0 is needed"),
        ("something else", True, "version unknown"),
    ],
)
def test_versions_are_read_and_compared_as_numbers(tools, line, ok, found):
    tools(qemu_img=line)
    one = finding("qemu-img")
    assert (one.ok, one.found) == (ok, found)


def test_a_module_of_the_same_name_by_somebody_else_is_noticed(monkeypatch):
    other = types.ModuleType("hivex")
    other.__file__ = "/site-packages/hivex/__init__.py"
    monkeypatch.setitem(sys.modules, "hivex", other)
    one = finding("python hivex")
    assert (one.ok, one.found) == (False, "/site-packages/hivex/__init__.py is another project's module of that name")
    assert one.fix == "apt-get install python3-hivex"


def test_a_module_that_is_not_there_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "guestfs", None)
    assert finding("python guestfs").found.startswith("cannot be imported")
    monkeypatch.setitem(sys.modules, "libvirt", None)
    monkeypatch.delitem(sys.modules, "builder.host.hypervisor", raising=False)
    monkeypatch.delattr("builder.host.hypervisor", raising=False)
    assert not finding("libvirt").ok


def test_scratch_space_is_that_of_tmpdir(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert finding("scratch space").found.endswith(f"in {tmp_path}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    assert not finding("scratch space").ok
    monkeypatch.setattr(doctor, "_SCRATCH_BYTES", 1 << 60)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert finding("scratch space").found.endswith(f"{1 << 60} are needed")


def test_left_over_workspaces_are_counted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert finding("leftovers").found == "none"
    Path(".winfoundry-out").mkdir(mode=0o700)
    assert finding("leftovers").found == f"1 workspaces of killed builds in {tmp_path}"
    assert finding("leftovers").fix == "winfoundry clean"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_what_this_machine_has_is_found():
    said = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"version {finding('qemu-img').found} " in said
    assert finding("python guestfs").ok is (importlib.util.find_spec("guestfs") is not None)
