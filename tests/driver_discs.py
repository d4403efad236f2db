"""Discs and guests for the tests of the driver modules."""

from __future__ import annotations

from pathlib import Path

from builder.errors import InputRefused
from builder.model import BootStore, Bus, Firmware, Guest, Hive
from builder.windows import releases
from builder.windows.paths import GuestPath, MediaPath
from builder.windows.releases import Arch


class DictDisc:
    """A Media whose files are given: {"viostor/w10/amd64/viostor.inf": b"..."}."""

    label = "a disc"
    origin = Path("disc")

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents

    def files(self) -> tuple[MediaPath, ...]:
        return tuple(MediaPath.parse(name) for name in sorted(self.contents))

    def read(self, path: MediaPath) -> bytes:
        if str(path) not in self.contents:
            raise InputRefused(f"{path} is not on the disc")
        return self.contents[str(path)]


def cut(tree: Path, *folders: str) -> dict[str, bytes]:
    """The files of these folders of a real disc, by their path there."""
    files = (path for folder in folders for path in sorted((tree / folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(tree)): path.read_bytes() for path in files}


def guest(release: str = "w10", arch: Arch = Arch.AMD64, **changes) -> Guest:
    row = releases.by_name(release)
    database = row.nt >= (6, 2)
    facts = {
        "release": row,
        "build": row.builds[0],
        "arch": arch,
        "product": row.title,
        "edition": "Pro",
        "firmware": Firmware.BIOS,
        "device": "/dev/sda2",
        "system_root": GuestPath(("Windows",)),
        "boot": BootStore("/dev/sda1", "/Boot/BCD", ()),
        "control_sets": ("ControlSet001",),
        "driver_database": database,
        "hives": frozenset(Hive) if database else frozenset(Hive) - {Hive.DRIVERS},
        "published": {},
        "free_oem": tuple(range(40)),
        "device_path": "%SystemRoot%\\inf",
        "oem_inf_map": b"",
        "boot_buses": frozenset({Bus.IDE}),
        "free_bytes": 10 << 30,
    }
    return Guest(**(facts | changes))
