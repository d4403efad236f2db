r"""Where Windows lies on a disk: its system volume by what it holds, the boot store that starts it.

Without libguestfs' inspection, which takes 37 s: the partition table, then the NTFS volumes. The system volume is
mounted at /c and the volume of the boot store at /boot; where they are one, only /c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.host.appliance import Appliance, Partition
from builder.model import Firmware
from builder.windows import volumes

SYSTEM_VOLUME = "/c"
BOOT_VOLUME = "/boot"

_ROOTS = ("windows", "winnt")
_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_BOOT_INI = "/boot.ini"


@dataclass(frozen=True, slots=True)
class Disk:
    """The volumes of a disk, those encrypted with BitLocker, and its firmware by the kind of its partition table."""

    partitions: tuple[Partition, ...]
    slots: tuple[volumes.Slot, ...]
    encrypted: tuple[str, ...]
    firmware: Firmware


def disk(appliance: Appliance) -> Disk:
    """Raises InputRefused for disks whose volumes are not partitions: dynamic disks, Storage Spaces."""
    slots = appliance.slots()
    volumes.refuse_layout(slots)
    partitions = appliance.partitions()
    encrypted = tuple(one.device for one in partitions if _is_encrypted(appliance, one))
    return Disk(partitions, slots, encrypted, Firmware.UEFI if volumes.is_gpt(slots) else Firmware.BIOS)


def _is_encrypted(appliance: Appliance, one: Partition) -> bool:
    """A volume that reads as NTFS is not; reading a sector takes 0.2 s."""
    return one.filesystem != "ntfs" and volumes.is_encrypted(appliance.starts_with(one.device, 0, volumes.BOOT_BYTES))


def system_volume(appliance: Appliance, found: Disk, wanted: str) -> tuple[Partition, str]:
    r"""The NTFS volume that holds Windows, and the name of its system root there.

    `wanted` chooses where there are several: "/dev/sda2", or "/dev/sda2\Windows".
    """
    systems = [(one, root) for one in found.partitions if one.filesystem == "ntfs" for root in _roots(appliance, one)]
    names = [f"{one.device}\\{root}" for one, root in systems]
    if not systems:
        _refuse_none(found)
    if wanted:
        wish = wanted.lower()
        chosen = [one for one, name in zip(systems, names, strict=True) if wish in (one[0].device, name.lower())]
        if len(chosen) != 1:
            raise InputRefused(
                f"root = {wanted} names no single Windows installation",
                why=f"found: {', '.join(names)}",
                fix="give one of these as root",
            )
        return chosen[0]
    if len(systems) > 1:
        raise InputRefused(
            "more than one Windows installation found",
            why=", ".join(names),
            fix=f"choose one with root = {names[0]} (--root on the command line)",
        )
    return systems[0]


def _refuse_none(found: Disk) -> None:
    if found.encrypted:
        volumes.refuse_encrypted(found.encrypted[0])
    raise InputRefused(
        "no Windows installation found",
        why=f"partitions seen: {_listed(found.partitions)}",
        fix="give the disk Windows is installed on",
    )


def _listed(partitions: tuple[Partition, ...]) -> str:
    seen = (f"{one.device} {one.filesystem or 'unknown'} {one.size >> 20} MiB" for one in partitions)
    return ", ".join(seen) or "none"


def _roots(appliance: Appliance, partition: Partition) -> Iterator[str]:
    appliance.mount(partition, SYSTEM_VOLUME)
    try:
        names = [name for name in appliance.list(SYSTEM_VOLUME) if name.lower() in _ROOTS]
        if len({name.lower() for name in names}) < len(names):
            raise InputRefused(
                f"{partition.device} has folders that differ only in case",
                why=f"which of them is Windows cannot be known: {', '.join(sorted(names))}",
                fix="inside the guest rename the one that is not Windows'",
            )
        for name in names:
            if appliance.find(f"{SYSTEM_VOLUME}/{name}/System32/config/SYSTEM"):
                yield name
    finally:
        appliance.unmount(SYSTEM_VOLUME)


# ---------------------------------------------------------------- the boot store


def boot_store(appliance: Appliance, found: Disk, system: Partition, *, has_bcd: bool) -> tuple[Partition, str]:
    r"""The volume of the BCD store (of boot.ini, without `has_bcd`) and its path there; its volume is mounted.

    The active partition and the ESP come first, as the firmware starts from them; of several others none is chosen.
    """
    kind, path = ("vfat", "/EFI/Microsoft/Boot/BCD") if found.firmware is Firmware.UEFI else ("ntfs", "/Boot/BCD")
    path = path if has_bcd else _BOOT_INI
    candidates = [one for one in found.partitions if one.filesystem == kind and one.device not in found.encrypted]
    first = [one for one in candidates if _firmware_starts(one, found)]
    for tried in (first, [one for one in candidates if one not in first]):
        alone = len(tried) == 1
        stores = [(one, store) for one in tried if (store := _looked_up(appliance, one, system, path, keep=alone))]
        if len(stores) > 1:
            raise InputRefused(
                "more than one boot store found",
                why=f"{' and '.join(one.device for one, _ in stores)} hold {_windows(path)}, none is marked as active",
                fix="mark the partition the firmware starts from as active (`diskpart`: active)",
            )
        if stores:
            if stores[0][0] != system and not alone:
                _mount(appliance, stores[0][0])
            return stores[0]
    raise InputRefused(
        "no boot store found",
        why=f"no partition holds {_windows(path)}; partitions seen: {_listed(found.partitions)}",
        fix="give the disk Windows boots from; if this is it, run `bcdboot C:\\Windows` in Windows' recovery console",
    )


def _firmware_starts(one: Partition, found: Disk) -> bool:
    number = one.device.removeprefix("/dev/sda")
    return any(slot.number == int(number or 0) and (slot.active or slot.kind == _ESP) for slot in found.slots)


def _looked_up(appliance: Appliance, one: Partition, system: Partition, path: str, *, keep: bool) -> str | None:
    """The path with the case found; with `keep`, the volume stays mounted where it has one."""
    if one == system:
        found = appliance.find(SYSTEM_VOLUME + path)
        return found.removeprefix(SYSTEM_VOLUME) if found else None
    _mount(appliance, one)
    found = appliance.find(BOOT_VOLUME + path)
    if not (found and keep):
        appliance.unmount(BOOT_VOLUME)
    return found.removeprefix(BOOT_VOLUME) if found else None


def _mount(appliance: Appliance, one: Partition) -> None:
    appliance.require_clean(one)
    appliance.mount(one, BOOT_VOLUME)


def _windows(path: str) -> str:
    return path.replace("/", "\\")
