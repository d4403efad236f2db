"""Real boots through libvirt, of guests of a few instructions: verdicts, evidence, and that nothing is left behind.

WINFOUNDRY_LIBVIRT   the libvirt to use, else qemu:///system for root and qemu:///session for others
"""

import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder import boot, render
from builder.host import accelerator, hypervisor
from builder.host.accelerator import Accelerator
from builder.host.evidence import lines
from builder.model import Bus, Domain, Firmware, Provides
from builder.render import Access, DomainSpec
from builder.windows.releases import Arch, by_name

pytestmark = pytest.mark.vm

ROOT = Path(__file__).resolve().parents[2]
STOP = b"\r\n*** STOP: 0x0000007B (0xFFFFF880009A97E8,0xFFFFFFFFC0000034,0x0,0x0)\r\n"
HANG = bytes.fromhex("f4ebfd")  # hlt; jmp back
OFF = bytes.fromhex("ba0406 b80020 ef") + HANG  # out 0x604,0x2000: power off, on q35
PANIC = bytes.fromhex("ba0505 b001 ee") + HANG  # out 0x505,1: pvpanic
RESET = bytes.fromhex("b0fe e664") + HANG  # out 0x64,0xfe: the keyboard controller resets the processor


def boot_sector(says: bytes, then: bytes) -> bytes:
    """Prints `says` on COM1, then does `then`."""
    program = bytearray.fromhex("fa 31c0 8ed8 fc be0000")  # cli; ds = 0; si = the text
    program += bytes.fromhex(
        "ac 84c0 7412 88c4 bafd03 ec a820 74fb baf803 88e0 ee ebe9"
    )  # each byte, when COM1 is ready
    program += then
    struct.pack_into("<H", program, 7, 0x7C00 + len(program))
    return (bytes(program) + says + b"\0").ljust(510, b"\0") + b"\x55\xaa"


@pytest.fixture(scope="session")
def libvirt() -> str:
    uri = os.environ.get("WINFOUNDRY_LIBVIRT", hypervisor.default_uri())
    if not hypervisor.running(uri):
        pytest.skip(f"no libvirt at {uri}: run `make libvirt`")
    return uri


@pytest.fixture
def machine(tmp_path, libvirt):
    """`machine(says, then)`: what is needed to boot such a guest."""

    def make(says: bytes, then: bytes, bus: Bus = Bus.VIRTIO) -> tuple[Path, DomainSpec, Domain]:
        raw, image = tmp_path / "boot.raw", tmp_path / "image.qcow2"
        raw.write_bytes(boot_sector(says, then).ljust(1 << 20, b"\0"))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True)
        image.chmod(0o640)
        workspace = tmp_path / "workspace"
        workspace.mkdir(mode=0o700)
        spec = DomainSpec(
            name="tiny",
            image=image,
            cpus=1,
            memory=64,
            disk_interface=bus,
            trial=boot.prepare(image, workspace, uri=libvirt),
            machine="pc" if bus is Bus.IDE else "q35",
        )
        provides = Provides(frozenset(Bus), frozenset({"pvpanic", "vioser"}), False)
        return image, spec, render.render(WINDOWS, provides, spec)

    return make


WINDOWS = SimpleNamespace(
    release=by_name("w10"), firmware=Firmware.BIOS, arch=Arch.AMD64
)  # what rendering needs of a Guest


def fingerprint(path: Path):
    facts = path.stat()
    return hashlib.sha256(path.read_bytes()).hexdigest(), facts.st_uid, facts.st_gid, facts.st_mode, facts.st_mtime_ns


def domains(uri: str) -> list[str]:
    return subprocess.run(
        ["virsh", "-c", uri, "list", "--all", "--name"], capture_output=True, text=True
    ).stdout.split()


@pytest.mark.parametrize(
    ("says", "then", "bus", "verdict"),
    [
        (STOP, HANG, Bus.VIRTIO, "stop-0x7b"),
        (STOP, PANIC, Bus.SCSI, "stop-0x7b"),
        (b"\x1b[2JStatus: \x1b[1m0xc0000428\x07\r\n", HANG, Bus.SATA, "bootmgr-0xc0000428"),
        (b"", PANIC, Bus.VIRTIO, "crashed"),
        (b"bye", OFF, Bus.VIRTIO, "stopped"),
        (b"again", RESET, Bus.IDE, "reboot-loop"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_verdicts(machine, libvirt, tmp_path, says, then, bus, verdict):
    image, spec, domain = machine(says, then, bus)
    before, said = fingerprint(image), []
    report = boot.boot(domain, spec, evidence=tmp_path / "evidence", timeout=30, uri=libvirt, say=said.append)
    assert (report.verdict, report.bus, report.ok) == (verdict, bus, False), report
    assert report.advice
    assert report.seconds < 30
    assert fingerprint(image) == before
    assert list((tmp_path / "workspace").iterdir()) == []
    assert spec.trial.name not in domains(libvirt)
    assert sorted((tmp_path / "evidence").iterdir()) == sorted(report.evidence)
    serial = (tmp_path / "evidence" / "serial.log").read_text()
    assert lines(says).strip() in serial
    assert "\x1b" not in serial
    assert json.loads((tmp_path / "evidence" / "boot.json").read_text())["verdict"] == verdict
    assert any(verdict in line for line in said)


def test_a_guest_that_hangs_is_given_up(machine, libvirt, tmp_path):
    _, spec, domain = machine(b"hello", HANG)
    began = time.monotonic()
    report = boot.boot(domain, spec, evidence=tmp_path / "evidence", timeout=0.5, uri=libvirt)
    assert report.verdict == "timed-out"
    assert time.monotonic() - began < 20
    screens = [path for path in report.evidence if path.suffix == ".png"]
    assert screens
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in screens)


def test_what_libvirt_refuses_is_a_verdict(machine, libvirt, tmp_path):
    _, spec, domain = machine(b"", HANG)
    broken = Domain(domain.booted.replace('model type="e1000e"', 'model type="warp"'), domain.template)
    report = boot.boot(broken, spec, evidence=tmp_path / "evidence", timeout=5, uri=libvirt)
    assert report.verdict == "hypervisor-failed"
    assert "warp" in report.advice
    assert list((tmp_path / "workspace").iterdir()) == []


def test_a_killed_boot_leaves_no_domain(machine, libvirt, tmp_path):
    _, spec, domain = machine(b"hello", HANG)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", spec.trial.chain[0], spec.trial.overlay],
        check=True,
    )
    program = (
        "import sys, time; from builder.host import hypervisor\n"
        "with hypervisor.started(sys.stdin.read(), uri=sys.argv[1]): print('up', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, libvirt], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    child.stdin.write(domain.booted)
    child.stdin.close()
    assert child.stdout.readline() == "up\n"
    assert spec.trial.name in domains(libvirt)
    child.send_signal(signal.SIGKILL)
    child.wait()
    for _ in range(50):
        if spec.trial.name not in domains(libvirt):
            return
        time.sleep(0.2)
    pytest.fail("the domain is still there")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's libvirt runs QEMU as another account")
def test_libvirts_own_account_reads_the_image_and_leaves_its_owner(libvirt, machine, tmp_path_factory):
    """Without the labels in disk.xml.j2 the image belongs to libvirt-qemu afterwards (measured, libvirt 9.0)."""
    image, spec, _ = machine(STOP, HANG)
    public = Path("/var/tmp") / spec.trial.name  # pytest's folders are private
    public.mkdir(mode=0o755)
    try:
        moved = image.rename(public / "image.qcow2")
        moved.chmod(0o644)
        os.chown(moved, 1234, 1234)
        before = fingerprint(moved)
        trial = boot.prepare(moved, public, uri=libvirt)
        assert trial.access is Access.SYSTEM
        spec = DomainSpec("tiny", moved, 1, 64, Bus.VIRTIO, trial)
        domain = render.render(WINDOWS, Provides(frozenset(Bus), frozenset(), False), spec)
        report = boot.boot(domain, spec, evidence=public / "evidence", timeout=30, uri=libvirt)
        assert report.verdict == "stop-0x7b"
        assert fingerprint(moved) == before
    finally:
        subprocess.run(["rm", "-rf", public], check=True)


def test_no_libvirt_is_said_with_the_way_to_start_it():
    from builder.errors import EnvironmentUnable

    with pytest.raises(EnvironmentUnable, match="libvirtd"):
        hypervisor.connect("qemu+unix:///system?socket=/nonexistent")
    assert not hypervisor.running("qemu+unix:///system?socket=/nonexistent")


def test_the_probe_gives_the_same_answer_as_running_a_guest(tmp_path, monkeypatch):
    """Emulation always works: if the same probe fails under it, it is the probe that is broken."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert accelerator._try("tcg", "max") == Accelerator("kvm", "a guest started with it ran")
    found = accelerator.probe()
    assert found == accelerator.probe()
    qemu = ["qemu-system-x86_64", "-machine", "pc,accel=kvm", "-cpu", "host", "-display", "none", "-S"]
    alive = subprocess.run([*qemu, "-monitor", "stdio"], input=b"quit\n", capture_output=True, timeout=30, check=False)
    if alive.returncode:
        assert found.kind == "tcg"
