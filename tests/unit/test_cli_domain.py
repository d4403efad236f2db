"""`winfoundry domain …`, as far as it needs neither libvirt nor an appliance."""

import json
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner

from builder import cli, pipeline
from builder.convert_disks import SCRATCH_SERIAL
from builder.errors import ConfigError, InputRefused, NoDriver
from builder.model import Bus, Provides

OLD = b"""<domain type='kvm'>
  <name>win</name>
  <uuid>5d7e63e6-0e8c-4b41-9f6e-0c6c4f9b1a11</uuid>
  <memory>65536</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><source file='/home/fritz/win.img'/><target dev='hda' bus='ide'/></disk>
    <interface type='user'><mac address='52:54:00:00:00:01'/><model type='rtl8139'/></interface>
    <graphics type='vnc' passwd='hunter22'/>
  </devices>
</domain>
"""
OTHER = OLD.replace(b"5d7e63e6", b"5d7e63e7")


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "old.xml"
    path.write_bytes(OLD)
    return path


def run(*argv, stdin=None, ok=0):
    done = CliRunner().invoke(cli.cli, ["domain", *map(str, argv)], input=stdin)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == ok
    return done


def test_convert_prints_the_domain_and_beside_it_what_changed(old):
    done = run("convert", old)
    assert "<target dev='vda' bus='virtio'/>" in done.stdout
    assert done.stderr.splitlines() == [
        "disk hda: bus ide -> virtio, target vda, cache none, io native, discard unmap",
        "interface 52:54:00:00:00:01: model rtl8139 -> virtio",
        "agent: added",
        "rng: added",
        "balloon: added",
        "panic: added",
        "note: no image was looked at: all drivers of virtio-win are taken to be installed (--for IMAGE looks)",
    ]
    assert run("convert", "-", stdin=OLD).stdout == done.stdout


def test_a_second_conversion_says_so(old):
    once = run("convert", old).stdout_bytes
    done = run("convert", "-", stdin=once)
    assert done.stdout_bytes == once
    assert done.stderr.startswith("nothing to change: the domain is on virtio\n")


def test_rollback_gives_the_original_back_byte_by_byte(old, tmp_path):
    new = tmp_path / "new.xml"
    run("convert", old, "--output", new)
    assert new.read_bytes() != OLD
    run("convert", new, "--disk-interface", "virtio-scsi", "--output", new)
    assert run("convert", new, "--rollback").stdout_bytes == OLD
    run("convert", new, "--rollback", "--output", new)
    assert new.read_bytes() == OLD
    assert {stat.S_IMODE(path.stat().st_mode) for path in (new, tmp_path / "new.xml.original")} == {0o600}


def test_rollback_after_both_steps_gives_the_first_domain(old, tmp_path):
    run("convert", old, "--transitional", "--scratch", tmp_path / "s.qcow2", "--output", old)
    run("convert", old, "--output", old)
    assert run("convert", old, "--rollback").stdout_bytes == OLD


def test_rollback_of_another_domain_is_refused(old, tmp_path):
    new = tmp_path / "new.xml"
    run("convert", old, "--output", new)
    new.write_bytes(OTHER)
    with pytest.raises(InputRefused, match="not of the same domain"):
        run("convert", new, "--rollback")
    with pytest.raises(InputRefused, match="cannot read"):
        run("convert", old, "--rollback")


def test_the_first_of_two_steps_makes_the_empty_disk(old, tmp_path):
    scratch = tmp_path / "scratch.qcow2"
    done = run("convert", old, "--transitional", "--scratch", scratch)
    assert "<target dev='hda' bus='ide'/>" in done.stdout
    assert f"<serial>{SCRATCH_SERIAL}</serial>" in done.stdout
    told = subprocess.run(["qemu-img", "info", "--output=json", scratch], capture_output=True, check=True)
    assert json.loads(told.stdout)["format"] == "qcow2"
    second = run("convert", "-", stdin=done.stdout)
    assert SCRATCH_SERIAL not in second.stdout
    assert "disk vda: the empty disk of the first step dropped" in second.stderr


def test_the_image_decides(old, tmp_path, monkeypatch):
    image = tmp_path / "image.qcow2"
    looked = []

    def provides(path, able=frozenset({Bus.SCSI})):
        looked.append(path)
        return None, Provides(able, frozenset({"vioser"}), False)

    monkeypatch.setattr(pipeline, "provides", provides)
    with pytest.raises(NoDriver, match="cannot start from virtio"):
        run("convert", old, "--for", image)
    done = run("convert", old, "--for", image, "--disk-interface", "virtio-scsi")
    assert "network cards stay as they are: the image has no netkvm" in done.stderr
    assert "rtl8139" in done.stdout
    assert looked == [image, image]


def test_nothing_private_is_told(old, tmp_path):
    done = run("convert", old)
    assert "hunter22" in done.stdout
    assert "/home/fritz/win.img" in done.stdout
    new = tmp_path / "new.xml"
    new.write_text(done.stdout.replace("hunter22", "hunter33").replace("fritz", "heini"))
    told = done.stderr + run("diff", old, new, ok=1).output + run("diff", old, ok=1).output
    assert not [secret for secret in ("hunter", "fritz", "heini", "/home") if secret in told]
    assert "-    graphics passwd='<hidden" in told


def test_diff_knows_what_does_not_count(old):
    assert run("diff", old, old).output == ""
    same = OLD.replace(b"'", b'"').replace(b"  ", b" ").replace(b"<devices>", b"<devices><!-- x -->")
    other = old.with_name("same.xml")
    other.write_bytes(same)
    assert run("diff", old, other).output == ""


def test_diff_prints_no_control_characters(old):
    odd = old.with_name("odd.xml")
    odd.write_bytes(OLD.replace(b"<name>win", "<name>w\x9b31m\x85in".encode()))
    assert "\x9b" not in run("diff", old, odd, ok=1).output


def test_what_cannot_be_read_or_written(old, tmp_path):
    with pytest.raises(InputRefused, match="cannot read"):
        run("convert", tmp_path / "nothing.xml")
    with pytest.raises(ConfigError, match="cannot write"):
        run("convert", old, "--output", tmp_path / "no" / "folder.xml")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("memry=1", 'memry: there is no such option (did you mean "memory"?)'),
        ("disk_queues=x", "disk_queues: must be a valid integer"),
        ("devices.toaster=skip", "devices: there is no device 'toaster'"),
        ("name=a b", "name: must be 1 to 64"),
    ],
)
def test_render_names_the_option_before_it_looks_at_the_image(tmp_path, setting, why):
    with pytest.raises(ConfigError) as caught:
        run("render", tmp_path / "image.qcow2", "--set", setting)
    assert why in str(caught.value)


def test_settings_have_a_value(tmp_path):
    assert "--set wants NAME=VALUE, got 'memory'" in run("render", tmp_path, "--set", "memory", ok=2).stderr


def test_help_imports_nothing_heavy():
    heavy = {"lxml", "jinja2", "pydantic", "libvirt", "guestfs", "hivex"}
    code = f"import builder.cli, sys; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
