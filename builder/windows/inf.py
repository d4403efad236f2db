r"""The text of an INF file: bytes -> sections of lines -> keys and values, as SetupAPI reads them.

What the sections mean is `inf_install`'s business. Rules: "General Syntax Rules for INF Files" and "INF Strings
Section" (Microsoft Learn); compared line by line with the 298 INFs of a real virtio-win disc.

An INF comes from a driver disc, so it is hostile: bounded in size, lines and sections, and every complaint names
the file and the line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from builder.errors import InputRefused

MAX_BYTES = 1 << 20
MAX_LINES = 20_000
_LONGEST_LINE = 4096  # characters; SetupAPI's MAX_INF_STRING_LENGTH

_CODE = re.compile(r'(?:[^";]|"(?:[^"]|"")*+(?:"|$))*+')  # a physical line up to its comment
_TOKEN = re.compile(r'"(?:[^"]|"")*+(?:"|$)|[,=]|[^",=]+')
_PERCENT = re.compile(r"%([^%]*)%")
_BREAK = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x19\x1b-\x1f]")


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line: `key = values`, or `values` alone; `written` is the key before %tokens% were replaced."""

    number: int
    key: str
    written: str
    values: tuple[str, ...]

    def value(self, index: int) -> str:
        """The value at `index`, "" when the line has fewer."""
        return self.values[index] if index < len(self.values) else ""


@dataclass(frozen=True, slots=True)
class Inf:
    """A parsed INF. `source` is what messages call it, `strings` the [Strings] with lower-case names."""

    source: str
    raw: Mapping[str, tuple[tuple[int, str], ...]]
    strings: Mapping[str, str]

    def __contains__(self, section: str) -> bool:
        return section.lower() in self.raw

    def lines(self, section: str) -> tuple[Line, ...]:
        """The lines of a section, %tokens% replaced; nothing when there is no such section."""
        return tuple(self._line(number, code) for number, code in self.raw.get(section.lower(), ()))

    def find(self, section: str, *keys: str) -> Line | None:
        """The first line whose key is one of `keys`, tried in that order; case is ignored."""
        by_key = {line.key.lower(): line for line in reversed(self.lines(section)) if line.key}
        return next((by_key[key.lower()] for key in keys if key.lower() in by_key), None)

    def refused(self, number: int, sentence: str) -> InputRefused:
        """The error to raise about a line of this file."""
        return InputRefused(f"{self.source}, line {number}: {sentence}", fix="use an unmodified virtio-win disc")

    def _line(self, number: int, code: str) -> Line:
        written, values = _split(code)
        return Line(number, self._replaced(written), written, tuple(map(self._replaced, values)))

    def _replaced(self, text: str) -> str:
        r"""%% is a percent sign, %name% a string; what is no string (%12%) stays."""
        if "%" not in text:
            return text
        return _PERCENT.sub(lambda found: self.strings.get(found[1].lower(), found[0]) if found[1] else "%", text)


def parse(source: str, data: bytes) -> Inf:
    """Raises InputRefused for what is not an INF text within bounds."""
    raw: dict[str, list[tuple[int, str]]] = {}
    section: list[tuple[int, str]] | None = None
    for number, code in _logical_lines(source, _decoded(source, data)):
        if code.startswith("["):
            if not code.endswith("]"):
                raise InputRefused(f"{source}, line {number}: the section name has no closing bracket")
            section = raw.setdefault(code[1:-1].strip().lower(), [])
        elif section is None:
            raise InputRefused(f"{source}, line {number}: there is text before the first section; is this an INF file?")
        else:
            section.append((number, code))
    return Inf(source, {name: tuple(lines) for name, lines in raw.items()}, _strings(raw.get("strings", [])))


def _decoded(source: str, data: bytes) -> str:
    r"""UTF-16LE and UTF-8 by their byte order mark, else the ANSI code page of Western Windows (1252)."""
    if len(data) > MAX_BYTES:
        raise InputRefused(f"{source}: an INF of {len(data)} bytes is over the limit of {MAX_BYTES}")
    bom, encoding = next(
        (known for known in ((b"\xff\xfe", "utf-16-le"), (b"\xef\xbb\xbf", "utf-8")) if data.startswith(known[0])),
        (b"", "cp1252"),
    )
    try:
        text = data[len(bom) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: len(bom) + error.start].count(b"\n") + 1
        raise InputRefused(f"{source}, line {line}: not text in {encoding} ({error.reason})") from None
    if strange := _CONTROL.search(text):
        line = text.count("\n", 0, strange.start()) + 1
        raise InputRefused(f"{source}, line {line}: holds the control character {strange[0]!r}; is this an INF file?")
    return text


def _logical_lines(source: str, text: str) -> list[tuple[int, str]]:
    """Comments dropped, continued lines joined, blank ones left out; each with the number it starts at."""
    physical = _BREAK.split(text.partition("\x1a")[0])  # Ctrl-Z ends a text, as in DOS
    if len(physical) > MAX_LINES:
        raise InputRefused(f"{source}: an INF of {len(physical)} lines is over the limit of {MAX_LINES}")
    found: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, line in enumerate(physical, 1):
        match = _CODE.match(line)
        code = (match[0] if match else "").strip()
        start = start if pending else number
        if code.endswith("\\"):
            pending += code[:-1] or " "
        elif whole := (pending + code).strip():
            found.append((start, whole))
            pending = ""
        else:
            pending = ""
        if len(pending) + len(code) > _LONGEST_LINE:
            raise InputRefused(f"{source}, line {number}: longer than {_LONGEST_LINE} characters")
    return found + ([(start, pending.strip())] if pending.strip() else [])


def _split(code: str) -> tuple[str, tuple[str, ...]]:
    """The key ("" for none) and the values; quotes are removed, "" inside quotes is one quote."""
    fields: list[str] = []
    key = current = ""
    for piece in _TOKEN.findall(code):
        if piece == "=" and not fields and not key:
            key, current = current.strip(), ""
        elif piece == ",":
            fields.append(current)
            current = ""
        elif piece.startswith('"'):
            current = current.lstrip() + piece[1:].removesuffix('"').replace('""', '"')
        else:
            current += piece if current else piece.lstrip()
    return key, tuple(field.rstrip(" \t") for field in (*fields, current))


def _strings(lines: list[tuple[int, str]]) -> dict[str, str]:
    """A later line wins over an earlier one of the same name, as names are unique for SetupAPI."""
    pairs = (_split(code) for _, code in lines)
    return {key.lower(): values[0] for key, values in pairs if key}
