"""qcow2 headers made to order: QEMU's docs/interop/qcow2.txt in one function."""

import struct


def header(
    *,
    version=3,
    size=1 << 30,
    cluster_bits=16,
    encryption=0,
    snapshots=0,
    incompatible=0,
    backing=b"",
    extensions=(),
    length=104,
):
    """The first cluster of an image, 64 KiB; what is not named is as qemu-img writes it."""
    at = 4096 if backing else 0
    v2 = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", version, at, len(backing), cluster_bits, size, encryption),
        *(1, 3 << 16, 1 << 16, 1, snapshots, 0),
    )
    v3 = struct.pack(">QQQII", incompatible, 0, 0, 4, length)
    data = v2 + (v3 if version >= 3 else b"")
    for kind, content in extensions:
        data += struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)
    return data.ljust(4096, b"\0") + backing.ljust((1 << 16) - 4096, b"\0")
