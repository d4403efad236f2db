r"""Paths that came from somewhere else, parsed once: nothing later sees a plain string from a disc or an INF.

    GuestPath.parse(r"C:\Windows\System32\drivers\viostor.sys")   a place on the Windows system volume
    MediaPath.parse("viostor/w10/amd64/viostor.inf")              a file on the driver disc

Rules for Windows names: "Naming Files, Paths, and Namespaces" (Microsoft Learn). Driver files are ASCII by our choice:
case folding of anything else differs between Windows, ISO 9660 and Python (`ſ`, the kelvin sign).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')
_LONGEST_NAME = 255  # UTF-16 units, NTFS


def _checked(name: str, whole: str) -> str:
    """One component of `whole`; raises ValueError when Windows could not hold it or would read it as another."""
    problems = (
        (not name or name in (".", ".."), "has an empty, '.' or '..' component"),
        (_FORBIDDEN.search(name), "has a character Windows does not allow"),
        (name[-1:] in (".", " "), "has a component that ends in a dot or a space"),
        (_RESERVED.match(name), "names a DOS device"),
        (len(name.encode("utf-16-le", "surrogatepass")) > 2 * _LONGEST_NAME, "has a component over 255 characters"),
        (not name.isascii(), "is not ASCII"),
    )
    for wrong, sentence in problems:
        if wrong:
            raise ValueError(f"{whole[:300]!r} {sentence}")
    return name


@dataclass(frozen=True, slots=True)
class GuestPath:
    """A place on the system volume, as the components below its root; compare with `same`, as Windows ignores case."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        r"""From `C:\a\b`, `\a\b` or `a\b`. Raises ValueError."""
        bare = re.sub(r"^[A-Za-z]:(?=\\)", "", text)
        return cls(tuple(_checked(part, text) for part in bare.removeprefix("\\").split("\\")))

    def __truediv__(self, name: str) -> GuestPath:
        return GuestPath((*self.parts, *(_checked(part, name) for part in name.split("\\"))))

    def __str__(self) -> str:
        return "C:\\" + "\\".join(self.parts)

    @property
    def name(self) -> str:
        return self.parts[-1]

    def same(self, other: GuestPath) -> bool:
        return str(self).lower() == str(other).lower()


@dataclass(frozen=True, slots=True)
class MediaPath:
    """A file on the driver disc, relative to its root."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `a/b`. Raises ValueError."""
        return cls(tuple(_checked(part, text) for part in text.split("/")))

    def __str__(self) -> str:
        return "/".join(self.parts)

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def folder(self) -> tuple[str, ...]:
        return self.parts[:-1]
