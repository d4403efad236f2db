"""The first 512 bytes of a registry hive and of its transaction logs: whether Windows closed it cleanly.

hivex opens a dirty hive without a word, and its commit makes the hive look clean while the pending log is lost
(measured), so the header is read before hivex sees the file. Layout: "regf", sequence numbers at 4 and 8, length of the
hive bins at 40, XOR-32 checksum of the first 508 bytes at 508 (msuhanov, "Windows registry file format"). Bytes after
the last bin are no damage: clean hives of a real Windows 7 have 1.4 MB of them.
"""

from __future__ import annotations

import struct
from functools import reduce
from operator import xor

from builder.errors import InputRefused
from builder.windows.volumes import POWER_OFF

HEADER_BYTES = 4096
LOG_BYTES = 1024
_LARGEST = 512 << 20  # bytes; real SOFTWARE hives are 65-150 MB


def check(header: bytes, size: int, name: str) -> None:
    """Raises InputRefused when the hive `name` of `size` bytes is damaged, oversized, or was not closed cleanly."""
    damaged = _damage(header, size)
    if damaged:
        raise InputRefused(
            f"the {name} hive is damaged", why=damaged, fix="restore the hive from a backup of the guest"
        )
    first, second = struct.unpack_from("<II", header, 4)
    if first != second:
        raise InputRefused(
            f"the {name} hive was not closed cleanly",
            why=f"its sequence numbers differ ({first} and {second}), so changes are still in its transaction log",
            fix=POWER_OFF,
        )


def check_log(header: bytes, log: bytes, name: str, suffix: str) -> None:
    """Raises InputRefused when the transaction log is newer than the hive; `log` is its first LOG_BYTES, or less."""
    leads_to, hive = log_leads_to(log), struct.unpack_from("<I", header, 8)[0]
    if leads_to > hive:
        raise InputRefused(
            f"the {name} hive is older than its transaction log",
            why=f"the hive has sequence number {hive}, {name}{suffix} leads to {leads_to}",
            fix=POWER_OFF,
        )


def log_leads_to(log: bytes) -> int:
    """The sequence number a hive has once the first change of the log is in it; 0 for a log that holds none.

    Since Windows 8.1 a log has entries "HvLE", each with the number the hive had before; until then a bitmap "DIRT"
    after a header with the number the hive was to get.
    """
    if log[:4] != b"regf" or len(log) < LOG_BYTES or _checksum(log) != struct.unpack_from("<I", log, 508)[0]:
        return 0
    if log[512:516] == b"HvLE":
        return int(struct.unpack_from("<I", log, 512 + 12)[0]) + 1
    return int(struct.unpack_from("<I", log, 4)[0]) if log[512:516] == b"DIRT" else 0


def _damage(header: bytes, size: int) -> str:
    if len(header) < HEADER_BYTES or header[:4] != b"regf":
        return "it does not start with a registry header"
    if size > _LARGEST:
        return f"it has {size} bytes, more than {_LARGEST}"
    if _checksum(header) != struct.unpack_from("<I", header, 508)[0]:
        return "the checksum of its header is wrong"
    bins = struct.unpack_from("<I", header, 40)[0]
    if bins == 0 or HEADER_BYTES + bins > size:
        return f"its header promises {HEADER_BYTES + bins} bytes, the file has {size}"
    return ""


def _checksum(header: bytes) -> int:
    total: int = reduce(xor, struct.unpack_from("<127I", header))
    return {0: 1, 0xFFFFFFFF: 0xFFFFFFFE}.get(total, total)
