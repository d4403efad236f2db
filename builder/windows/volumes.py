"""What the first bytes of a disk and of its volumes tell, and which of it is refused; facts in, advice out.

Sources: UEFI specification (GPT), Microsoft's list of GPT types (LDM, Storage Spaces), libbde's description of
BitLocker headers, the NTFS documentation of the Linux-NTFS project ($Volume, record 3 of the MFT).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import InputRefused

TABLE_BYTES = 34 * 512
"""What `slots` needs of a disk: the MBR, the header of the GPT and its 128 entries."""

BOOT_BYTES = 512
_BITLOCKER = b"-FVE-FS-"  # OEM id of a volume encrypted by Windows Vista and later
_TO_GO = (b"MSWIN4.1", {"4967d63b-2e29-4ad8-8399-f6a339e3d001", "92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8"})
_DYNAMIC = {
    "42",  # MBR: Logical Disk Manager
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",  # GPT: LDM metadata
    "af9b60a0-1431-4f62-bc68-3311714a69ad",  # GPT: LDM data
}
_STORAGE_SPACES = "e75caf8f-f680-4cee-afa3-b001e56efc2d"
_HIBERNATED, _UNCLEAN = 14, 15  # exit codes of ntfs-3g.probe(8)
_VOLUME_INFORMATION, _DIRTY = 0x70, 0x0001
_END_OF_ATTRIBUTES = 0xFFFFFFFF

POWER_OFF = "start the guest once, run `powercfg /h off` and then `shutdown /s /t 0`"


@dataclass(frozen=True, slots=True)
class Slot:
    """One entry of a partition table: its number, its type (two hex digits, or a GUID), whether MBR says "active"."""

    number: int
    kind: str
    active: bool = False


def slots(head: bytes) -> tuple[Slot, ...]:
    """The used entries of the GPT, or else the primary ones of the MBR, in the first TABLE_BYTES of a disk."""
    if head[512:520] == b"EFI PART" and len(head) >= 1024:
        size = struct.unpack_from("<I", head, 512 + 84)[0]
        return tuple(_gpt_slots(head[1024:], size)) if size >= 128 else ()
    if head[510:512] != b"\x55\xaa":
        return ()
    entries = ((number, head[446 + 16 * number :][:16]) for number in range(4))
    return tuple(Slot(number + 1, f"{one[4]:02x}", bool(one[0] & 0x80)) for number, one in entries if one[4])


def _gpt_slots(entries: bytes, size: int) -> Iterator[Slot]:
    for number in range(min(128, len(entries) // size)):
        kind = uuid.UUID(bytes_le=entries[number * size :][:16])
        if kind.int:
            yield Slot(number + 1, str(kind))


def is_gpt(found: tuple[Slot, ...]) -> bool:
    """Whether the slots are those of a GPT, from which Windows starts with UEFI only."""
    return any(len(one.kind) > 2 for one in found)


def refuse_layout(found: tuple[Slot, ...]) -> None:
    """Raises InputRefused for dynamic disks and Storage Spaces: their volumes are not the partitions one sees."""
    if any(one.kind in _DYNAMIC for one in found):
        raise InputRefused(
            "the disk is a dynamic disk",
            why="its volumes are made by the Logical Disk Manager, which libguestfs and QEMU's firmware do not follow",
            fix="inside the guest, or with a partitioning tool, convert it back to a basic disk",
        )
    if any(one.kind == _STORAGE_SPACES for one in found):
        raise InputRefused(
            "the disk belongs to a storage pool (Storage Spaces)",
            why="its volumes can be read by Windows only",
            fix="move Windows to a plain disk: `wbadmin` inside the guest, or clone it",
        )


def is_encrypted(boot: bytes) -> bool:
    """Whether the first BOOT_BYTES of a volume are those of BitLocker or BitLocker To Go, finished or under way."""
    if boot[3:11] == _BITLOCKER:
        return True
    label, identifiers = _TO_GO
    return boot[3:11] == label and len(boot) >= 440 and str(uuid.UUID(bytes_le=boot[424:440])) in identifiers


def refuse_encrypted(device: str) -> None:
    raise InputRefused(
        "the disk is encrypted with BitLocker",
        why=f"{device} starts as a BitLocker volume does",
        fix="inside the guest run `manage-bde -off C:` and wait until `manage-bde -status` says Fully Decrypted",
    )


def require_clean(device: str, probe: int, *, dirty: bool) -> None:
    """Raises InputRefused when an NTFS volume must not be written: `probe` as ntfs-3g.probe exits, its dirty flag."""
    if probe == _HIBERNATED:
        raise InputRefused(
            "Windows is hibernated, or was shut down with fast startup",
            why=f"{device} holds a hibernated session; changing the volume beneath it would destroy data",
            fix=POWER_OFF,
        )
    if probe == _UNCLEAN:
        raise InputRefused(
            "the Windows volume was not unmounted cleanly",
            why=f"the journal of the NTFS volume {device} has changes that are not yet on the disk",
            fix="start the guest once, run `chkdsk C: /f`, restart, and then `shutdown /s /t 0`",
        )
    if dirty:
        raise InputRefused(
            "the Windows volume is marked dirty",
            why=f"Windows wants to check the NTFS volume {device} at its next start",
            fix="start the guest once so that it runs chkdsk (or run `chkdsk C: /f`), and then `shutdown /s /t 0`",
        )


# ---------------------------------------------------------------- the dirty flag of NTFS


def volume_record(boot: bytes) -> tuple[int, int]:
    """Where $Volume lies on an NTFS volume: offset and length in bytes; (0, 0) when the boot sector makes no sense."""
    sector, per_cluster = struct.unpack_from("<HB", boot, 11) if len(boot) >= 65 else (0, 0)
    cluster = sector * (per_cluster if per_cluster <= 0x80 else 1 << (256 - per_cluster))
    if not cluster or boot[3:11] != b"NTFS    ":
        return 0, 0
    mft = struct.unpack_from("<Q", boot, 48)[0] * cluster
    size = struct.unpack_from("<b", boot, 64)[0]
    length = size * cluster if size > 0 else 1 << min(-size, 16)
    return (mft + 3 * length, length) if length <= 1 << 16 else (0, 0)


def is_dirty(record: bytes) -> bool:
    """Whether $Volume, as `volume_record` finds it, has the dirty flag; False when it is no such record."""
    if record[:4] != b"FILE" or len(record) < 48:
        return False
    record = _restored(record)
    at = struct.unpack_from("<H", record, 20)[0]
    while at + 24 <= len(record):
        kind, length = struct.unpack_from("<II", record, at)
        if kind == _VOLUME_INFORMATION:
            flags = at + struct.unpack_from("<H", record, at + 20)[0] + 10
            return flags + 2 <= len(record) and bool(struct.unpack_from("<H", record, flags)[0] & _DIRTY)
        if kind == _END_OF_ATTRIBUTES or length < 24:
            return False
        at += length
    return False


def _restored(record: bytes) -> bytes:
    """The record with the last two bytes of each sector put back (NTFS's update sequence)."""
    at, count = struct.unpack_from("<HH", record, 4)
    fixed = bytearray(record)
    for number in range(1, count):
        end = number * 512
        if end <= len(fixed) and at + 2 * number + 2 <= len(record):
            fixed[end - 2 : end] = record[at + 2 * number : at + 2 * number + 2]
    return bytes(fixed)
