"""The sample's disk: partitions, file systems, boot code and files, put together in one appliance launch.

    BIOS   MBR    "System Reserved" NTFS, active   \\Boot\\BCD, \\bootmgr                  the rest: NTFS, C:
    UEFI   GPT    EFI system partition FAT32       \\EFI\\Microsoft\\Boot\\{BCD,bootmgfw.efi}  MSR, the rest: NTFS, C:

GRUB stands where Windows' own boot code would be, and reads kernel and initramfs of the NT stand-in from the first
partition. The files travel on a read-only ISO, because the channel into the appliance carries only about 3 MB/s.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import EnvironmentUnable
from builder.host import appliance
from builder.host.process import run
from builder.model import Firmware
from builder.sample import hives, pe
from builder.sample.disc import write_iso
from builder.sample.hives import Place
from builder.sample.initramfs import Linux

_MIB = 1 << 20
_SECTOR = 512
_SIZE = 960 * _MIB  # bytes, sparse
_FOLDER = "winfoundry-stand-in"
_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=1 panic=0 mitigations=off cryptomgr.notests no_timer_check tsc=reliable usbcore.nousb"
)
_GRUB_SCRIPT = f"linux /{_FOLDER}/vmlinuz {_COMMAND_LINE}\ninitrd /{_FOLDER}/initrd\nboot\n"
_DISK_SIGNATURE = b"wfSA"
_DISK_GUID, _ESP_GUID, _MSR_GUID, _C_GUID = (uuid.uuid5(uuid.NAMESPACE_DNS, f"{n}.sample.winfoundry") for n in range(4))
_BOOT_CODE = 440  # bytes of the MBR before the disk signature


@dataclass(frozen=True, slots=True)
class _Partition:
    """`name` is the folder of the payload it gets; sizes in MiB; `kind` is the MBR id or the GPT type GUID."""

    name: str
    start: int
    end: int
    filesystem: str
    label: str
    kind: str
    guid: uuid.UUID


_END = _SIZE // _MIB - 1
_LAYOUTS = {
    Firmware.BIOS: (
        _Partition("boot", 1, 101, "ntfs", "System Reserved", "07", _ESP_GUID),
        _Partition("c", 101, _END, "ntfs", "", "07", _C_GUID),
    ),
    Firmware.UEFI: (  # mkfs.vfat makes FAT32, which an EFI system partition has to be, from 512 MiB on
        _Partition("boot", 1, 521, "vfat", "", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", _ESP_GUID),
        _Partition("msr", 521, 537, "", "", "E3C9E316-0B5C-4DB8-817D-F92DF00215AE", _MSR_GUID),
        _Partition("c", 537, _END, "ntfs", "", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", _C_GUID),
    ),
}
_GRUB = {  # platform, prefix, modules
    Firmware.BIOS: ("i386-pc", f"(,msdos1)/{_FOLDER}", ("biosdisk", "part_msdos", "ntfs", "linux")),
    Firmware.UEFI: ("x86_64-efi", f"/{_FOLDER}", ("part_gpt", "fat", "linux", "efi_gop")),
}
_APT = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}


def write(target: Path, firmware: Firmware, linux: Linux, work: Path) -> None:
    """The disk as qcow2 at `target`, using the empty folder `work`. Raises EnvironmentUnable."""
    grub = _grub(firmware, work)
    payload = work / "payload.iso"
    write_iso({**_boot_files(firmware, linux, grub, work), **_windows_files(firmware, work)}, payload, "payload")
    with _appliance(target, payload) as guest:
        _partition(guest, firmware)
        if firmware is Firmware.BIOS:
            _install_grub(guest, grub)
        guest.mkmountpoint("/payload")
        guest.mkmountpoint("/volume")
        guest.mount_ro("/dev/sdb", "/payload")
        for number, partition in enumerate(_LAYOUTS[firmware], 1):
            if partition.filesystem:
                _fill(guest, f"/dev/sda{number}", partition)


# ---------------------------------------------------------------- what lies on it


def _boot_files(firmware: Firmware, linux: Linux, grub: bytes, work: Path) -> Mapping[str, bytes]:
    boot, volume = _place(firmware, "boot"), _place(firmware, "c")
    hives.write(work / "BCD", "NewStoreRoot", hives.bcd(firmware, boot, volume))
    store = (work / "BCD").read_bytes()
    files = {f"boot/{_FOLDER}/vmlinuz": linux.kernel, f"boot/{_FOLDER}/initrd": linux.initramfs}
    if firmware is Firmware.BIOS:
        return {
            **files,
            "boot/Boot/BCD": store,
            "boot/bootmgr": b"winfoundry sample: stands for the Windows Boot Manager\r\n",
        }
    loaders = dict.fromkeys(("boot/EFI/Microsoft/Boot/bootmgfw.efi", "boot/EFI/Boot/bootx64.efi"), grub)
    return {**files, **loaders, "boot/EFI/Microsoft/Boot/BCD": store}


def _windows_files(firmware: Firmware, work: Path) -> Mapping[str, bytes]:
    loader = "winload.efi" if firmware is Firmware.UEFI else "winload.exe"
    images = {
        "ntoskrnl.exe": pe.image("ntoskrnl.exe"),
        loader: pe.image(loader),
        "cmd.exe": pe.image("cmd.exe", pe.Subsystem.CONSOLE),
        **{f"drivers/{name}": content for name, content in inbox().items()},
    }
    hives.write(work / "SYSTEM", "ROOT", hives.system(_place(firmware, "c")))
    hives.write(work / "SOFTWARE", "ROOT", hives.software(), hives.EMPTY_STORES)
    hives.write(work / "DRIVERS", "ROOT", hives.driver_database())
    config = {f"config/{name}": (work / name).read_bytes() for name in ("SYSTEM", "SOFTWARE", "DRIVERS")}
    keep = {  # folders that a build fills: each holds a file, because an ISO entry here is a file
        "System32/CatRoot/{F750E6C3-38EE-11D1-85E5-00C04FC295EE}/sample.txt": _NOTE,
        "System32/DriverStore/FileRepository/sample.txt": _NOTE,
        "INF/mshdc.inf": b"; winfoundry sample: stands for mshdc.inf\r\n",
    }
    files = {**keep, **{f"System32/{path}": content for path, content in {**images, **config}.items()}}
    return {f"c/Windows/{path}": content for path, content in files.items()} | {"c/Program Files/sample.txt": _NOTE}


_NOTE = b"winfoundry sample: this disk has the shape of a Windows installation and holds no Windows\r\n"


def inbox() -> Mapping[str, bytes]:
    """The drivers that stand for Windows' own, file name -> content."""
    return {name: pe.image(name) for name in hives.INBOX}


def _place(firmware: Firmware, name: str) -> Place:
    found = next(partition for partition in _LAYOUTS[firmware] if partition.name == name)
    if firmware is Firmware.UEFI:
        return Place(True, _DISK_GUID.bytes_le, found.guid.bytes_le)
    return Place(False, _DISK_SIGNATURE, struct.pack("<Q", found.start * _MIB))


# ---------------------------------------------------------------- GRUB


def _grub(firmware: Firmware, work: Path) -> bytes:
    """core.img for BIOS, an EFI application for UEFI; both boot the stand-in from the partition they know at once."""
    platform, prefix, modules = _GRUB[firmware]
    if not Path("/usr/lib/grub", platform).is_dir():
        raise EnvironmentUnable(f"GRUB for {platform} is missing", fix=f"apt-get install {_APT[platform]}")
    script, image = work / "grub.cfg", work / "grub.img"
    script.write_text(_GRUB_SCRIPT)
    run(["grub-mkimage", "-O", platform, "-p", prefix, "-c", script, "-o", image, *modules], timeout=60)
    return image.read_bytes()


def _install_grub(guest: Any, core: bytes) -> None:
    """boot.img in the MBR, core.img in the gap after it, where both look for the rest unless told otherwise."""
    boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    guest.pwrite_device("/dev/sda", boot[:_BOOT_CODE] + _DISK_SIGNATURE, 0)
    guest.pwrite_device("/dev/sda", core, _SECTOR)


# ---------------------------------------------------------------- the appliance


@contextmanager
def _appliance(target: Path, payload: Path) -> Iterator[Any]:
    """A running appliance with a new disk at `target` as /dev/sda and `payload` as /dev/sdb."""
    guest = appliance.handle()
    try:
        guest.disk_create(str(target), "qcow2", _SIZE)
        guest.add_drive_opts(str(target), format="qcow2", cachemode="unsafe")
        guest.add_drive_opts(str(payload), format="raw", readonly=True)
        guest.launch()
        yield guest
        guest.shutdown()
    except RuntimeError as error:
        raise EnvironmentUnable(
            "the sample disk could not be made", why=str(error).splitlines()[0], fix="run `libguestfs-test-tool`"
        ) from error
    finally:
        guest.close()


def _partition(guest: Any, firmware: Firmware) -> None:
    gpt = firmware is Firmware.UEFI
    guest.part_init("/dev/sda", "gpt" if gpt else "mbr")
    for number, one in enumerate(_LAYOUTS[firmware], 1):
        guest.part_add("/dev/sda", "p", one.start * _MIB // _SECTOR, one.end * _MIB // _SECTOR - 1)
        if gpt:
            guest.part_set_gpt_type("/dev/sda", number, one.kind)
            guest.part_set_gpt_guid("/dev/sda", number, str(one.guid).upper())
        else:
            guest.part_set_mbr_id("/dev/sda", number, int(one.kind, 16))
    if gpt:
        guest.part_set_disk_guid("/dev/sda", str(_DISK_GUID).upper())
    else:
        guest.part_set_bootable("/dev/sda", 1, True)


def _fill(guest: Any, device: str, partition: _Partition) -> None:
    options = {"label": partition.label} if partition.label else {}
    guest.mkfs(partition.filesystem, device, **options)
    guest.mount(device, "/volume")
    for name in guest.ls(f"/payload/{partition.name}"):
        guest.cp_r(f"/payload/{partition.name}/{name}", "/volume/")
    guest.umount("/volume")
