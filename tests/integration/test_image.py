"""The main job on the embedded sample, through libvirt: fails with 0x7B before the build, boots after it.

The guest is the NT stand-in: what these tests show about booting has been shown on it, not on Windows.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.appliance, pytest.mark.vm]


def test_the_unbuilt_sample_stops_with_0x7b_on_virtio(sample, command, tmp_path):
    started = time.monotonic()
    done = command("boot", sample.disk, "--bus", "virtio", "--evidence", tmp_path / "boot")
    assert done.returncode == 6, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("stop-0x7b")
    assert time.monotonic() - started < 180
    assert "0x0000007B" in (tmp_path / "boot" / "serial.log").read_text()


def test_the_unbuilt_sample_boots_from_sata(sample, command, tmp_path):
    done = command("boot", sample.disk, "--bus", "sata", "--evidence", tmp_path / "boot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "boot" / "boot.json").read_text())["stand_in"] is True


def test_the_built_sample_was_booted_and_checked(built_sample):
    manifest = json.loads((built_sample.output / "manifest.json").read_text())
    assert manifest["boot"]["verdict"] == "agent-up"
    assert manifest["boot"]["stand_in"] is True
    assert manifest["boot"]["bus"] == "virtio"
    assert manifest["checks"]["verdict"] == "passed"
    assert manifest["checks"]["passed"] > 5
    assert manifest["test_signing"] is True


def test_everything_promised_is_in_the_folder(built_sample):
    names = {path.name for path in built_sample.output.iterdir()}
    assert names == {
        *("image.qcow2", "domain.xml", "manifest.json", "packer-manifest.json", "provenance.json"),
        *("checks.xml", "boot", "SHA256SUMS"),
    }
    assert {"serial.log", "boot.json", "domain.xml"} <= {path.name for path in (built_sample.output / "boot").iterdir()}
    assert list((built_sample.output / "boot").glob("*.png"))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=built_sample.output, check=True)


def test_the_image_stands_alone(built_sample):
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", built_sample.output / "image.qcow2"], capture_output=True, check=True
        ).stdout
    )
    assert info["format"] == "qcow2"
    assert "backing-filename" not in info


def test_the_source_is_untouched(built_sample):
    assert hashlib.sha256(built_sample.source.read_bytes()).hexdigest() == built_sample.source_sha256


def test_the_domain_for_the_user_is_accepted_by_libvirt(built_sample):
    xml = built_sample.output / "domain.xml"
    subprocess.run(["virsh", "-c", "test:///default", "define", "--validate", xml], check=True, capture_output=True)
    assert 'bus="virtio"' in xml.read_text()
    assert str(built_sample.output / "image.qcow2") in xml.read_text()


def test_it_also_boots_from_virtio_scsi(built_sample, command, tmp_path):
    done = command("boot", built_sample.output / "image.qcow2", "--bus", "scsi", "--evidence", tmp_path / "boot")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("agent-up")


def test_building_again_finds_nothing_to_do(built_sample, command):
    argv = ("--source", built_sample.source, "--virtio-win", built_sample.drivers, "--output", built_sample.output)
    done = command("build", *argv)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do" in done.stdout
    plan = command("plan", built_sample.output / "image.qcow2", "--virtio-win", built_sample.drivers)
    assert plan.stdout.rstrip().endswith("nothing to do: the image already is what the plan says")


def test_the_checks_pass_on_the_result_and_fail_on_the_source(built_sample, command):
    good = command("verify", built_sample.output / "image.qcow2")
    assert good.returncode == 0, good.stdout + good.stderr
    bad = command("verify", built_sample.source)
    assert bad.returncode == 7, bad.stdout + bad.stderr
    assert "viostor" in bad.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_build_publishes_nothing_and_leaves_the_source(sample, tmp_path, command, number, code):
    before = hashlib.sha256(sample.disk.read_bytes()).hexdigest()
    output = tmp_path / "out"
    words = ["build", "--source", sample.disk, "--virtio-win", sample.drivers, "--output", output]
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "builder.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert running.stdout is not None
    next(line for line in running.stdout if "Applying" in line)
    running.send_signal(number)
    running.stdout.read()
    assert running.wait(60) == code
    assert not output.exists()
    assert hashlib.sha256(sample.disk.read_bytes()).hexdigest() == before
    assert command("clean", tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []
