"""DER, as far as signing needs it written: tag, length, content (X.690). Reading is asn1crypto's."""

from __future__ import annotations

from asn1crypto import core

SHA256 = "2.16.840.1.101.3.4.2.1"


def element(tag: int, content: bytes) -> bytes:
    """One element."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes(-(-length.bit_length() // 8), "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def sequence(*parts: bytes) -> bytes:
    return element(0x30, b"".join(parts))


def set_of(*parts: bytes) -> bytes:
    return element(0x31, b"".join(sorted(parts)))


def tagged(number: int, content: bytes, *, constructed: bool = True) -> bytes:
    """Context-specific."""
    return element((0xA0 if constructed else 0x80) | number, content)


def oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def octets(content: bytes) -> bytes:
    return element(0x04, content)


def integer(number: int) -> bytes:
    return bytes(core.Integer(number).dump())


def algorithm(dotted: str) -> bytes:
    """An AlgorithmIdentifier without parameters."""
    return sequence(oid(dotted), bytes(core.Null().dump()))
