"""Registry values as Windows stores them: a type and bytes, strings in UTF-16LE with NUL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


class RegType(IntEnum):
    """The types winfoundry writes; hives hold others (e.g. 0xffff0012), which are carried as plain numbers."""

    REG_NONE = 0
    REG_SZ = 1
    REG_EXPAND_SZ = 2
    REG_BINARY = 3
    REG_DWORD = 4
    REG_MULTI_SZ = 7
    REG_QWORD = 11


@dataclass(frozen=True, slots=True)
class RegValue:
    """One value: `type` as in winnt.h, `data` exactly as it lies in the hive."""

    type: int
    data: bytes

    def __str__(self) -> str:
        """As `reg query` would show it, bounded to 120 characters."""
        shown = _SHOW.get(self.type, _hex)(self.data)
        name = RegType(self.type).name if self.type in _KNOWN else f"type {self.type:#x}"
        return f"{name} {shown if len(shown) <= 120 else shown[:117] + '...'}"

    @property
    def text(self) -> str:
        """The string of REG_SZ or REG_EXPAND_SZ, up to its first NUL; undecodable units become U+FFFD."""
        return self.data.decode("utf-16-le", errors="replace").split("\0", 1)[0]

    @property
    def number(self) -> int:
        """The unsigned little-endian number of REG_DWORD, REG_QWORD, or a BCD element."""
        return int.from_bytes(self.data, "little")

    @property
    def texts(self) -> tuple[str, ...]:
        """The strings of REG_MULTI_SZ, without the empty one that ends the list."""
        return tuple(part for part in self.data.decode("utf-16-le", errors="replace").split("\0") if part)


def _utf16(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a registry string cannot hold NUL")
    return (text + "\0").encode("utf-16-le")


def sz(text: str) -> RegValue:
    return RegValue(RegType.REG_SZ, _utf16(text))


def expand_sz(text: str) -> RegValue:
    return RegValue(RegType.REG_EXPAND_SZ, _utf16(text))


def multi_sz(*texts: str) -> RegValue:
    """An empty string would end the list early, so it is refused."""
    if not all(texts):
        raise ValueError("a REG_MULTI_SZ item cannot be empty")
    return RegValue(RegType.REG_MULTI_SZ, b"".join(map(_utf16, texts)) + b"\0\0")


def dword(number: int) -> RegValue:
    return RegValue(RegType.REG_DWORD, number.to_bytes(4, "little"))


def qword(number: int) -> RegValue:
    return RegValue(RegType.REG_QWORD, number.to_bytes(8, "little"))


def binary(data: bytes) -> RegValue:
    return RegValue(RegType.REG_BINARY, data)


def _hex(data: bytes) -> str:
    return data[:40].hex(" ")


def _number(data: bytes) -> str:
    return f"{int.from_bytes(data, 'little'):#x}"


def _text(data: bytes) -> str:
    return repr(RegValue(RegType.REG_SZ, data).text)


_KNOWN = frozenset(RegType)
_SHOW: dict[int, Callable[[bytes], str]] = {
    RegType.REG_SZ: _text,
    RegType.REG_EXPAND_SZ: _text,
    RegType.REG_DWORD: _number,
    RegType.REG_QWORD: _number,
    RegType.REG_MULTI_SZ: lambda data: repr(list(RegValue(RegType.REG_MULTI_SZ, data).texts)),
}
