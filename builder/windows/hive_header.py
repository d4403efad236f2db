"""The first 512 bytes of a registry hive: whether Windows closed it cleanly.

hivex opens a dirty hive without a word, and its commit makes the hive look clean while the pending log is lost
(measured), so the header is read before hivex sees the file. Layout: "regf", sequence numbers at 4 and 8, length of the
hive bins at 40, XOR-32 checksum of the first 508 bytes at 508 (msuhanov, "Windows registry file format").
"""

from __future__ import annotations

import struct
from functools import reduce
from operator import xor

from builder.errors import InputRefused

HEADER_BYTES = 4096
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
            fix="start the guest once, run `powercfg /h off` and then `shutdown /s /t 0`",
        )


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
