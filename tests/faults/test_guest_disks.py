"""The rows that only real file systems can show: one small disk, one appliance launch, put right after each test."""

from contextlib import contextmanager

import phony
import pytest

from builder import finding, inspection
from builder.errors import InputRefused
from builder.host import appliance
from builder.model import Hive

pytestmark = pytest.mark.appliance

MIB = 2048  # sectors


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """An appliance with the phony Windows on its disk: System Reserved, C:, and an empty NTFS volume."""
    folder = tmp_path_factory.mktemp("guest-disks")
    disk = folder / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(160 << 20)
    with appliance.launch(disk, format="raw", write=True) as launched:
        handle = launched._guest
        handle.part_init("/dev/sda", "mbr")
        for number, (start, end) in enumerate(((1, 32), (32, 128), (128, 158)), 1):
            handle.part_add("/dev/sda", "p", start * MIB, end * MIB - 1)
            handle.part_set_mbr_id("/dev/sda", number, 7)
            handle.mkfs("ntfs", f"/dev/sda{number}")
        handle.part_set_bootable("/dev/sda", 1, True)
        for device, at in phony.VOLUMES.items():
            handle.mkmountpoint(at)
            handle.mount(device, at)
        launched.put(phony.Windows(folder / "work").files)
        unmounted(handle)
        yield launched


def unmounted(handle):
    for at in handle.mountpoints().values():
        handle.umount(at)
        handle.rmmountpoint(at)


def inspected(running, root=""):
    try:
        return inspection.inspect(running, root)
    finally:
        unmounted(running._guest)


@contextmanager
def mounted(running, device="/dev/sda2"):
    """C: at /c, to be changed from inside."""
    handle = running._guest
    handle.mkmountpoint("/c")
    handle.mount(device, "/c")
    yield handle
    unmounted(handle)


def test_the_disk_is_in_order_and_slots_are_those_libguestfs_sees(running):
    guest = inspected(running)
    assert (guest.device, guest.boot.device, guest.notes) == ("/dev/sda2", "/dev/sda1", ())
    handle = running._guest
    for one in running.slots():
        assert int(one.kind, 16) == handle.part_get_mbr_id("/dev/sda", one.number)
        assert one.active is bool(handle.part_get_bootable("/dev/sda", one.number))


def test_g01_g02_hibernated_is_refused_though_mounting_would_succeed(running):
    with mounted(running, "/dev/sda3") as handle:
        handle.write("/c/hiberfil.sys", b"hibr" + bytes(4092))
    with pytest.raises(InputRefused) as refused:
        running.require_clean(volume(running, 3))
    assert refused.value.what == "Windows is hibernated, or was shut down with fast startup"
    with mounted(running, "/dev/sda3") as handle, pytest.raises(RuntimeError, match="Read-only"):
        handle.touch("/c/probe")
    running._guest.mkfs("ntfs", "/dev/sda3")


def test_g03_the_dirty_flag_that_ntfsresize_sets(running):
    running.require_clean(volume(running, 3))
    running._guest.ntfsresize("/dev/sda3", size=20 << 20)
    with pytest.raises(InputRefused) as refused:
        running.require_clean(volume(running, 3))
    assert refused.value.what == "the Windows volume is marked dirty"
    running._guest.mkfs("ntfs", "/dev/sda3")


def test_g06_bitlocker(running):
    handle = running._guest
    handle.pwrite_device("/dev/sda3", b"-FVE-FS-", 3)
    handle.blockdev_flushbufs("/dev/sda3")
    assert finding.disk(running).encrypted == ("/dev/sda3",)
    handle.mkfs("ntfs", "/dev/sda3")
    assert finding.disk(running).encrypted == ()


def test_dynamic_disks(running):
    running._guest.part_set_mbr_id("/dev/sda", 2, 0x42)
    with pytest.raises(InputRefused, match="the disk is a dynamic disk"):
        finding.disk(running)
    running._guest.part_set_mbr_id("/dev/sda", 2, 7)


def test_g11_folders_that_differ_only_in_case(running):
    with mounted(running) as handle:
        handle.mkdir("/c/WINDOWS")
    with pytest.raises(InputRefused, match="/dev/sda2 has folders that differ only in case"):
        finding.system_volume(running, finding.disk(running), "")
    with mounted(running) as handle:
        handle.rmdir("/c/WINDOWS")


def test_g12_links_are_not_followed(running):
    config = "/c/Windows/System32/config"
    with mounted(running) as handle:
        handle.mv(config, "/c/elsewhere")
        handle.ln_s("/c/elsewhere", config)
        with pytest.raises(InputRefused) as refused:
            running.find(f"{config}/SYSTEM")
        handle.rm(config)
        handle.mv("/c/elsewhere", config)
    assert str(refused.value) == (
        "C:\\Windows\\System32\\config is a link\n"
        "  why: links and junctions in the guest are not followed\n"
        "  fix: inside the guest replace it by the folder or file it leads to"
    )


def test_h03_h05_the_parser_runs_in_the_appliance(running):
    name = phony.PLACES[Hive.SOFTWARE]
    with mounted(running) as handle:
        good = handle.read_file(name)
        handle.write(name, good[:4096] + b"xxxx" + good[4100:])
        with pytest.raises(InputRefused) as refused, running.hive(name):
            pass
        handle.write(name, good)
    assert str(refused.value).startswith("the SOFTWARE hive is damaged\n  why: hivex_open: ")


def volume(running, number):
    return next(one for one in running.partitions() if one.device == f"/dev/sda{number}")
