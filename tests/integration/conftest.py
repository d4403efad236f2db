"""Expensive things, made once for all integration tests: sample disks, disks of real hives, builds of both."""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
from dataclasses import dataclass
from functools import reduce
from operator import xor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def winfoundry(*argv: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it: a process of its own."""
    words = [sys.executable, "-m", "builder.cli", *map(str, argv)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def command():
    return winfoundry


@dataclass(frozen=True)
class Built:
    """A build: the image it started from, what it printed, where the result is."""

    source: Path
    source_sha256: str
    drivers: Path
    output: Path
    log: str


def sha256(path: Path) -> str:
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def build(source: Path, drivers: Path, output: Path, *flags: str) -> Built:
    before = sha256(source)
    done = winfoundry("build", "--source", source, "--virtio-win", drivers, "--output", output, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(source, before, drivers, output, done.stdout)


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The embedded sample, unbuilt."""
    from builder import sample as embedded

    return embedded.make(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="session")
def built_sample(sample, tmp_path_factory):
    """The whole job on the sample, boot and checks included."""
    return build(sample.disk, sample.drivers, tmp_path_factory.mktemp("built") / "output-sample")


def clean(hive: bytes) -> bytes:
    """The hive with equal sequence numbers: what the real ones would be had their guests been shut down."""
    header = bytearray(hive[:512])
    header[8:12] = header[4:8]
    struct.pack_into("<I", header, 508, reduce(xor, struct.unpack_from("<127I", header)))
    return bytes(header) + hive[512:]


def kernel(machine: int = 0x8664) -> bytes:
    """As much of ntoskrnl.exe as tells the architecture."""
    image = bytearray(1024)
    image[:2], image[60:64], image[128:134] = b"MZ", struct.pack("<I", 128), b"PE\0\0" + struct.pack("<H", machine)
    return bytes(image)


@pytest.fixture(scope="session")
def windows81(testdata, tmp_path_factory):
    """A function that makes a BIOS disk with the real Windows 8.1 hives and a real BCD, their dirt as `dirty` says."""
    folder = tmp_path_factory.mktemp("windows81")

    def make(*, dirty: bool = False) -> Path:
        hives = {
            name: lzma.decompress((testdata / "hives" / "win81-x64" / f"{name}.xz").read_bytes())
            for name in ("SYSTEM", "SOFTWARE")
        }
        return windows_disk(
            folder / f"windows81-{'dirty' if dirty else 'clean'}.qcow2",
            {name: data if dirty else clean(data) for name, data in hives.items()},
            (testdata / "bcd" / "bios-windeploy.bcd").read_bytes(),
        )

    return make


def windows_disk(path: Path, hives: dict[str, bytes], bcd: bytes) -> Path:
    """A 1 GiB MBR disk: System Reserved with the BCD, and an NTFS volume with the hives; one appliance launch."""
    if path.exists():
        return path
    from builder.host import appliance

    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    guest = appliance.handle()
    guest.add_drive_opts(str(path), format="qcow2", cachemode="unsafe")
    guest.launch()
    guest.part_init("/dev/sda", "mbr")
    for start, end in ((2048, 206847), (206848, -2048)):
        guest.part_add("/dev/sda", "p", start, end)
    for number, name in ((1, "b"), (2, "c")):
        guest.part_set_mbr_id("/dev/sda", number, 7)
        guest.mkfs("ntfs", f"/dev/sda{number}")
        guest.mkmountpoint(f"/{name}")
        guest.mount(f"/dev/sda{number}", f"/{name}")
    guest.part_set_bootable("/dev/sda", 1, True)
    guest.mkdir("/b/Boot")
    guest.write("/b/Boot/BCD", bcd)
    for folder in ("System32/config", "System32/drivers", "INF"):
        guest.mkdir_p(f"/c/Windows/{folder}")
    guest.write("/c/Windows/System32/ntoskrnl.exe", kernel())
    for name, data in hives.items():
        local = path.parent / name
        local.write_bytes(data)
        guest.upload(str(local), f"/c/Windows/System32/config/{name}")
        local.unlink()
    guest.shutdown()
    guest.close()
    return path


@pytest.fixture(scope="session")
def built81(windows81, virtio_win, tmp_path_factory):
    """A build from the real Windows 8.1 hives and the real virtio-win tree; there is no Windows on it to boot."""
    return build(windows81(), virtio_win, tmp_path_factory.mktemp("built81") / "output-w81", "--no-boot")
