r"""AddReg lines: `HKR, "Parameters", "BusType", 0x00010001, 1` -> (("Parameters",), "BusType", dword(1)).

Rules: "INF AddReg Directive" (Microsoft Learn); FLG_ADDREG_* of setupapi.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from builder.model import Key
from builder.windows.inf import Inf, Line
from builder.windows.registry import RegType, RegValue, binary, dword, expand_sz, multi_sz, qword, sz

Value = tuple[Key, str, RegValue]

_NO_VALUE = 0x10 | 0x2000 | 0x4 | 0x8000  # KEYONLY, KEYONLY_COMMON, DELVAL, DELREG_BIT: nothing is written
_TYPE_MASK = 0xFFFF0001
_LONGEST_NAME = 255  # characters of a registry key's name


def values(inf: Inf, section: str) -> Iterator[Value]:
    """The values an AddReg section sets below HKR; other roots, keys without value and deletions are left out."""
    for line in inf.lines(section):
        flags = integer(inf, line, 3)
        if line.value(0).upper() == "HKR" and not flags & _NO_VALUE:
            yield _key(inf, line), line.value(2), _data(inf, line, flags & _TYPE_MASK)


def integer(inf: Inf, line: Line, index: int) -> int:
    """A number as INFs write it, 0x… or decimal; 0 when absent. Raises InputRefused."""
    text = line.value(index).strip()
    try:
        number = int(text, 16 if text.lower().startswith("0x") else 10) if text else 0
    except ValueError:
        raise inf.refused(line.number, f"{text!r} is not a number") from None
    if not 0 <= number < 1 << 32:
        raise inf.refused(line.number, f"{text!r} does not fit in 32 bits")
    return number


def _key(inf: Inf, line: Line) -> Key:
    parts = tuple(part for part in line.value(1).split("\\") if part)
    if any(len(part) > _LONGEST_NAME for part in parts):
        raise inf.refused(line.number, f"a registry key is named with more than {_LONGEST_NAME} characters")
    return parts


def _data(inf: Inf, line: Line, kind: int) -> RegValue:
    encode = _TYPES.get(kind)
    if encode is None:
        raise inf.refused(line.number, f"value type {kind:#x} is not one we can write")
    try:
        return encode(inf, line)
    except (ValueError, OverflowError) as error:
        raise inf.refused(line.number, f"the value cannot be stored: {error}") from None


def _bytes(line: Line) -> bytes:
    return bytes(int(part, 16) for part in line.values[4:] if part.strip())


_TYPES: dict[int, Callable[[Inf, Line], RegValue]] = {
    0x00000: lambda _, line: sz(line.value(4)),
    0x00001: lambda _, line: binary(_bytes(line)),
    0x10000: lambda _, line: multi_sz(*(text for text in line.values[4:] if text)),
    0x20000: lambda _, line: expand_sz(line.value(4)),
    0x10001: lambda inf, line: dword(integer(inf, line, 4)),
    0x20001: lambda _, line: RegValue(RegType.REG_NONE, _bytes(line)),
    0xB0001: lambda inf, line: qword(integer(inf, line, 4)),
}
