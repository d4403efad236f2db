"""Tiny PE32+ files that stand for the sample's kernel, loader and drivers: valid to every reader, and doing nothing.

Layout after the "PE Format" specification (Microsoft Learn). One read-execute section holds the code
`mov eax, STATUS_NOT_IMPLEMENTED; ret` and a sentence that says what the file is.
"""

from __future__ import annotations

import struct
from enum import IntEnum

_AMD64 = 0x8664
_HEADERS = 0x200  # bytes; file and section alignment are the least the specification allows
_SECTION_AT = 0x1000
_CODE = bytes.fromhex("b8020000c0c3")
_EXECUTABLE = 0x0022  # IMAGE_FILE_EXECUTABLE_IMAGE | IMAGE_FILE_LARGE_ADDRESS_AWARE
_CODE_SECTION = 0x60000020  # CNT_CODE | MEM_EXECUTE | MEM_READ
_DOS_HEADER = struct.pack("<2s58xI", b"MZ", 64)
_OPTIONAL = 64 + 4 + 20  # where the optional header starts
_CHECKSUM = _OPTIONAL + 64


class Subsystem(IntEnum):
    """Who runs the file: the kernel, or Windows' console."""

    NATIVE = 1
    CONSOLE = 3


def image(name: str, subsystem: Subsystem = Subsystem.NATIVE) -> bytes:
    """A PE32+ file for AMD64 with a correct checksum; the same name gives the same bytes."""
    body = _CODE.ljust(16, b"\xcc") + f"winfoundry sample: stands for {name}, and does nothing\0".encode("ascii")
    raw = body.ljust(-(-len(body) // 0x200) * 0x200, b"\0")
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", _AMD64, 1, 0, 0, 0, 240, _EXECUTABLE)
    standard = struct.pack("<HBBIIIII", 0x20B, 14, 0, len(raw), 0, 0, _SECTION_AT, _SECTION_AT)
    windows = struct.pack(
        "<QII6HIIIIHHQQQQII",
        0x140000000,  # ImageBase
        *(0x1000, 0x200),  # section and file alignment
        *(10, 0, 10, 0, 10, 0),  # versions of operating system, image and subsystem
        *(0, _SECTION_AT + 0x1000, _HEADERS, 0),  # reserved, SizeOfImage, SizeOfHeaders, CheckSum
        *(subsystem, 0),  # DllCharacteristics
        *(0x100000, 0x1000, 0x100000, 0x1000, 0, 16),  # stack, heap, LoaderFlags, number of directories
    )
    section = struct.pack(
        "<8sIIIIIIHHI", b".text", len(body), _SECTION_AT, len(raw), _HEADERS, 0, 0, 0, 0, _CODE_SECTION
    )
    headers = (_DOS_HEADER + coff + standard + windows + bytes(16 * 8) + section).ljust(_HEADERS, b"\0")
    return _with_checksum(headers + raw)


def _with_checksum(file: bytes) -> bytes:
    """The checksum of ImageHlp: the 16-bit sum with carries folded in, plus the length."""
    total = sum(struct.unpack(f"<{len(file) // 2}H", file))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return file[:_CHECKSUM] + struct.pack("<I", total + len(file)) + file[_CHECKSUM + 4 :]
