"""The embedded default: a sample Windows-shaped disk and its driver disc, made from nothing but this machine's tools.

The disk holds no Windows. It boots into the NT stand-in (`stand_in.sh`), a small Linux that applies Windows' boot
rules to the disk it came from: up from IDE and SATA as made, STOP 0x7B from virtio until a build has made the disk fit.
"""

from __future__ import annotations

import datetime
import tempfile
from dataclasses import dataclass
from pathlib import Path

from builder.model import Firmware


@dataclass(frozen=True, slots=True)
class Sample:
    """The two files: a disk (qcow2) and a driver disc (ISO in the layout of virtio-win)."""

    disk: Path
    drivers: Path


def make(folder: Path, *, firmware: Firmware = Firmware.BIOS) -> Sample:
    """Makes `sample-<firmware>.qcow2` and `sample-drivers.iso` in `folder`, replacing those there; takes half a minute.

    The signing keys are made for this disc and thrown away, so two discs are never alike. Starts the libguestfs
    appliance once. Raises EnvironmentUnable, naming the apt package, when a tool is missing.
    """
    from builder.sample import catalogue, disc, disk, initramfs

    now = datetime.datetime.now(datetime.UTC)
    linux = initramfs.stand_in(disk.inbox())
    sample = Sample(folder / f"sample-{firmware}.qcow2", folder / "sample-drivers.iso")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sample-") as name:
        work = Path(name)
        disc.write_iso(disc.tree(catalogue.new_signer(now), now), work / "drivers.iso", disc.VOLUME_ID)
        disk.write(work / "disk.qcow2", firmware, linux, work)
        (work / "disk.qcow2").replace(sample.disk)
        (work / "drivers.iso").replace(sample.drivers)
    return sample
