"""A phony Windows 10 with System Reserved and C:, as files in memory: for a fake appliance, or for a real disk.

The hives are real hives, made by `builder.sample.hives`; the drivers are those of the sample's disc, signed by a
throw-away CA. There is no Windows on it.
"""

from __future__ import annotations

import datetime
import hashlib
import subprocess
from contextlib import contextmanager
from pathlib import Path

from builder import inspection
from builder import plan as planning
from builder.config import from_options
from builder.errors import InputRefused
from builder.host import appliance
from builder.host.hive import open_file
from builder.model import DeleteKey, Firmware, Hive, PutFile, SetValue
from builder.sample import catalogue, disc, hives, pe
from builder.windows import drivers, hive_header
from builder.windows.paths import MediaPath
from builder.windows.volumes import Slot

CONFIG = "/c/Windows/System32/config"
PLACES = {Hive.BCD: "/boot/Boot/BCD", **{one: f"{CONFIG}/{one}" for one in Hive if one is not Hive.BCD}}
VOLUMES = {"/dev/sda1": "/boot", "/dev/sda2": "/c"}
LOADER = "{5a3b0e52-0f2c-11ef-9d4a-525400f0cade}"


class Drivers:
    """The sample's driver disc as a Media, kept in memory."""

    label, origin = "phony drivers", Path("phony")

    def __init__(self) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.signer = catalogue.new_signer(now)
        self._tree = disc.tree(self.signer, now)

    def files(self) -> tuple[MediaPath, ...]:
        return tuple(map(MediaPath.parse, sorted(self._tree)))

    def read(self, path: MediaPath) -> bytes:
        return self._tree[str(path)]


class Windows:
    """`files` holds all there is, by its path in the appliance; `work` is a folder for hives while they are edited."""

    slots = (Slot(1, "07", active=True), Slot(2, "07"))

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.files: dict[str, bytes] = {
            "/boot/bootmgr": b"not the Boot Manager",
            "/c/Windows/System32/ntoskrnl.exe": pe.image("ntoskrnl.exe"),
            "/c/Windows/INF/mshdc.inf": b"; not mshdc.inf",
        }
        boot, volume = (hives.Place(False, b"phny", bytes([number]) * 8) for number in (1, 2))
        contents = {
            Hive.SYSTEM: (hives.system(volume), ()),
            Hive.SOFTWARE: (hives.software(), hives.EMPTY_STORES),
            Hive.DRIVERS: (hives.driver_database(), ()),
            Hive.BCD: (hives.bcd(Firmware.BIOS, boot, volume), ()),
        }
        for name, (entries, empty) in contents.items():
            hives.write(work / name, "ROOT", entries, empty)
            self.files[PLACES[name]] = (work / name).read_bytes()

    def build(self, media: Drivers):
        """Makes it virtio-ready as the program would, the plan written by a loop of our own; the plan."""
        spec = from_options({"name": "phony", "source": "phony.qcow2", "virtio_win": "phony.iso"})
        guest = inspection.inspect(Appliance(self))
        selection = drivers.select(media, guest.release, guest.arch, guest.build, {})
        plan = planning.plan(guest, selection, spec)
        for edit in plan.edits:
            if isinstance(edit, PutFile):
                self.files["/".join(("/c", *edit.target.parts))] = media.read(edit.source.path)
        self.edit(*(edit for edit in plan.edits if isinstance(edit, SetValue | DeleteKey)))
        return plan

    def edit(self, *edits: SetValue | DeleteKey) -> None:
        for name in sorted({edit.hive for edit in edits}):
            hive = open_file(self.work / name, write=True)
            for edit in edits:
                if edit.hive is name and isinstance(edit, SetValue):
                    hive.set(edit.key, edit.name, edit.value)
                elif edit.hive is name:
                    hive.delete(edit.key)
            hive.commit()
            self.files[PLACES[name]] = (self.work / name).read_bytes()

    def on_disk(self, disk: Path) -> Path:
        """A qcow2 image with all of it; one launch of the real appliance."""
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "320M"], check=True)
        handle = appliance.handle()
        handle.add_drive_opts(str(disk), format="qcow2", cachemode="unsafe")
        handle.launch()
        handle.part_init("/dev/sda", "mbr")
        for start, end in ((2048, 67583), (67584, -2048)):
            handle.part_add("/dev/sda", "p", start, end)
        for device, at in VOLUMES.items():
            handle.mkfs("ntfs", device)
            handle.mkmountpoint(at)
            handle.mount(device, at)
        appliance.Appliance(handle, write=True).put(self.files)
        handle.shutdown()
        handle.close()
        return disk


class Appliance:
    """The part of `builder.host.appliance.Appliance` that reading needs, over a Windows in memory."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._mounted: dict[str, str] = {}  # where -> the volume, by the name it has in VOLUMES
        self._busy = False

    def partitions(self) -> tuple[appliance.Partition, ...]:
        return tuple(appliance.Partition(device, "ntfs", 100 << 20) for device in VOLUMES)

    def slots(self) -> tuple[Slot, ...]:
        return self._windows.slots

    def starts_with(self, device: str, offset: int, length: int) -> bytes:
        return b"NTFS    "[:length]

    def require_clean(self, partition: appliance.Partition) -> None:
        pass

    def mount(self, partition: appliance.Partition, at: str) -> None:
        self._mounted[at] = VOLUMES[partition.device]

    def unmount(self, at: str) -> None:
        del self._mounted[at]

    def free_bytes(self, at: str) -> int:
        return 1 << 30

    def _file(self, path: str) -> str:
        """The path in `Windows.files`."""
        at = "/" + path.split("/")[1]
        return self._mounted[at] + path.removeprefix(at)

    def find(self, path: str) -> str | None:
        at = "/" + path.split("/")[1]
        wanted = self._file(path)
        for name in self._windows.files:
            if f"{name.lower()}/".startswith(f"{wanted.lower()}/"):
                return at + name[: len(wanted)].removeprefix(self._mounted[at])
        return None

    def is_file(self, path: str) -> bool:
        return self._file(path) in self._windows.files

    def is_dir(self, path: str) -> bool:
        return not self.is_file(path) and self.find(path) is not None

    def list(self, path: str) -> tuple[str, ...]:
        folder = f"{self._file(path)}/"
        below = (name.removeprefix(folder) for name in self._windows.files if name.startswith(folder))
        return tuple(sorted({name.split("/")[0] for name in below}))

    def read(self, path: str, *, limit: int = 64 << 20) -> bytes:
        content = self._windows.files[self._file(path)]
        if len(content) > limit:
            raise InputRefused(f"{path} is too large")
        return content

    def size(self, path: str) -> int:
        return len(self.read(path))

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.read(path)).hexdigest()

    def head(self, path: str, length: int) -> bytes:
        return self.read(path)[:length]

    @contextmanager
    def hive(self, path: str):
        assert not self._busy, "an appliance has one hive open at a time"
        header = self.head(path, hive_header.HEADER_BYTES)
        hive_header.check(header, self.size(path), path.rpartition("/")[2])
        for suffix in (".LOG1", ".LOG2"):
            if log := self.find(path + suffix):
                content = self.head(log, hive_header.LOG_BYTES)
                hive_header.check_log(header, content, path.rpartition("/")[2], suffix)
        self._busy = True
        copy = self._windows.work / f"open-{Path(path).name}"
        copy.write_bytes(self.read(path))
        try:
            yield open_file(copy)
        finally:
            self._busy = False
