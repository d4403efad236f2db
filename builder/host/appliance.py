"""The libguestfs appliance: a throw-away virtual machine in which the guest's disk is read and changed.

The disk is hostile input, so its file systems are mounted only in here, with their type forced, without network.
Volumes are mounted under names of our own: the Windows system volume at /c, the volume of the boot store at /boot.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import ApplyFailed, EnvironmentUnable, InputRefused
from builder.host import files
from builder.host.hive import ApplianceCalls, Hive
from builder.windows import hive_header, volumes

_LARGEST_READ = 64 << 20  # bytes held in memory for one file of the guest
_DRIVERS = {"ntfs": "ntfs-3g", "vfat": "vfat"}  # what blkid says -> what mount shall use; nothing else is mounted


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: its device in the appliance, its file system as blkid names it ("" for none), its size (bytes)."""

    device: str
    filesystem: str
    size: int


@contextmanager
def launch(disk: Path, *, format: str = "qcow2", write: bool = False) -> Iterator[Appliance]:  # noqa: A002
    """A running appliance with `disk` as its only disk; `write` lets changes reach the file.

    Raises EnvironmentUnable when it does not start, ApplyFailed when changes could not be written out at the end.
    """
    guest = handle()
    try:
        guest.add_drive_opts(str(disk.absolute()), format=format, readonly=not write, cachemode="unsafe")
        try:
            guest.launch()
        except RuntimeError as error:
            raise EnvironmentUnable(
                "the libguestfs appliance does not start",
                why=str(error).splitlines()[0],
                fix="run `libguestfs-test-tool`; without a readable kernel in /boot install linux-image-amd64",
            ) from error
        yield Appliance(guest, write=write)
        _shut_down(guest, write)
    finally:
        guest.close()


def handle() -> Any:
    try:
        import guestfs
    except ImportError as error:
        raise EnvironmentUnable(
            "python has no guestfs module",
            why="it comes from the distribution, PyPI has none",
            fix="apt-get install python3-guestfs, and make the venv from /usr/bin/python3 --system-site-packages",
        ) from error
    from builder.host import accelerator

    guest = guestfs.GuestFS(python_return_dict=True, close_on_exit=False)
    guest.set_backend("direct")
    if accelerator.probe().kind == "tcg":
        guest.set_backend_setting("force_tcg", "1")
    return guest


def _shut_down(guest: Any, write: bool) -> None:
    try:
        guest.shutdown()
    except RuntimeError as error:
        if write:
            raise ApplyFailed(
                "the changes were not written out", why=str(error), fix="see whether the disk is full"
            ) from error


class Appliance:
    """What can be asked of the guest's disk. Paths are absolute inside the appliance: "/c/Windows/System32"."""

    def __init__(self, guest: Any, *, write: bool) -> None:
        self._guest = guest
        self._write = write

    def partitions(self) -> tuple[Partition, ...]:
        devices = self._guest.list_partitions()
        return tuple(
            Partition(device, self._guest.vfs_type(device), self._guest.blockdev_getsize64(device))
            for device in devices
        )

    def slots(self) -> tuple[volumes.Slot, ...]:
        """The entries of the disk's partition table."""
        return volumes.slots(self.starts_with("/dev/sda", 0, volumes.TABLE_BYTES))

    def starts_with(self, device: str, offset: int, length: int) -> bytes:
        """`length` raw bytes of a partition at `offset`."""
        return bytes(self._guest.pread_device(device, length, offset))

    def require_clean(self, partition: Partition) -> None:
        """Raises InputRefused when an NTFS volume is hibernated or dirty: ntfs-3g would silently mount it read-only."""
        if partition.filesystem == "ntfs":
            offset, length = volumes.volume_record(self.starts_with(partition.device, 0, volumes.BOOT_BYTES))
            dirty = volumes.is_dirty(self.starts_with(partition.device, offset, length)) if length else False
            probe = self._guest.ntfs_3g_probe(True, partition.device)
            volumes.require_clean(partition.device, probe, dirty=dirty)

    def mount(self, partition: Partition, at: str) -> None:
        """Mounts at `at` ("/c" or "/boot"), for writing if the appliance was launched so."""
        driver = _DRIVERS.get(partition.filesystem)
        if driver is None:
            raise InputRefused(f"{partition.device} holds {partition.filesystem or 'nothing we know'}, not NTFS or FAT")
        self._guest.mkmountpoint(at)
        self._guest.mount_vfs("rw" if self._write else "ro", driver, partition.device, at)

    def unmount(self, at: str) -> None:
        self._guest.umount(at)
        self._guest.rmmountpoint(at)

    def free_bytes(self, at: str) -> int:
        found = self._guest.statvfs(at)
        return int(found["bavail"] * found["bsize"])

    def find(self, path: str) -> str | None:
        """`path` with the case the disk has, or None. Raises InputRefused where it leads through a link or junction."""
        try:
            found = str(self._guest.case_sensitive_path(path))
        except RuntimeError:
            return None
        if not self._guest.exists(found):
            return None
        steps = found.split("/")
        for length in range(3, len(steps) + 1):
            part = "/".join(steps[:length])
            if self._guest.is_symlink(part):
                raise InputRefused(
                    f"{_in_windows(part)} is a link",
                    why="links and junctions in the guest are not followed",
                    fix="inside the guest replace it by the folder or file it leads to",
                )
        return found

    def is_file(self, path: str) -> bool:
        return bool(self._guest.is_file(path))

    def is_dir(self, path: str) -> bool:
        return bool(self._guest.is_dir(path))

    def list(self, path: str) -> tuple[str, ...]:
        return tuple(self._guest.ls(path))

    def size(self, path: str) -> int:
        """In bytes."""
        return int(self._guest.filesize(path))

    def sha256(self, path: str) -> str:
        return str(self._guest.checksum("sha256", path))

    def read(self, path: str, *, limit: int = _LARGEST_READ) -> bytes:
        """The whole file. Raises InputRefused when it has more than `limit` bytes."""
        size = self.size(path)
        if size > limit:
            raise InputRefused(f"{path} has {size} bytes, more than {limit}")
        return bytes(self._guest.read_file(path))

    def head(self, path: str, length: int) -> bytes:
        """The first `length` bytes, or fewer when the file is shorter."""
        return bytes(self._guest.pread(path, length, 0))

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Writes files in one go, and the folders above them; what exists keeps its case, files are replaced."""
        with tempfile.NamedTemporaryFile(suffix=".tar", dir=files.scratch()) as bundle:
            with tarfile.open(fileobj=bundle, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for path, content in contents.items():
                    entry = tarfile.TarInfo(self._place(path).removeprefix("/"))
                    entry.size, entry.mode = len(content), 0o755
                    tar.addfile(entry, io.BytesIO(content))
            bundle.flush()
            try:
                self._guest.tar_in(bundle.name, "/")
            except RuntimeError as error:
                raise ApplyFailed("files could not be written into the guest", why=str(error)) from error

    def _place(self, path: str) -> str:
        """Where `path` is, or will be: the folders that exist in the case they have."""
        found = self.find(path)
        if found is not None:
            return found
        parent, _, name = path.rpartition("/")
        return f"{self._place(parent)}/{name}" if parent else path

    @contextmanager
    def hive(self, path: str, *, write: bool = False) -> Iterator[Hive]:
        """The hive at `path`; with `write`, committed on leaving unless an error is on its way. One at a time.

        Raises InputRefused when it is damaged or was not closed cleanly.
        """
        name = path.rpartition("/")[2]
        header = self.head(path, hive_header.HEADER_BYTES)
        hive_header.check(header, self.size(path), name)
        for suffix in (".LOG1", ".LOG2"):
            if log := self.find(path + suffix):
                hive_header.check_log(header, self.head(log, hive_header.LOG_BYTES), name, suffix)
        try:
            self._guest.hivex_open(path, write=write)
        except RuntimeError as error:
            raise InputRefused(f"the {name} hive is damaged", why=str(error)) from error
        try:
            hive = Hive(ApplianceCalls(self._guest), name)
            yield hive
            if write:
                hive.commit()
        finally:
            self._guest.hivex_close()


def _in_windows(path: str) -> str:
    """A path of the appliance as the guest's users know it."""
    _, volume, *parts = path.split("/")
    return "\\".join((("C:" if volume == "c" else f"({volume})"), *parts))
