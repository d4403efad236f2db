"""What is kept of a boot: the console and the screens. The guest made them, so they are bounded and made harmless."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

SERIAL_KEPT = 1 << 20  # bytes; the end is kept, the beginning goes
_AT_ONCE = 1 << 20
SCREENS_KEPT = 12

_SEQUENCE = re.compile(rb"\x1b\[[0-?]*[ -/]*([@-~])")  # ECMA-48: ESC [, parameters, the letter that says what
_MOVES = b"HfJ"  # to a place on the screen, or clearing it: what follows is another line
_CONTROL = re.compile("[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def readable(raw: bytes) -> str:
    r"""Bytes from a guest as text a terminal can show: control characters become visible (`\x1b`)."""
    text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return _CONTROL.sub(lambda hit: f"\\x{ord(hit[0]):02x}", text)


def lines(raw: bytes) -> str:
    """What a console showed, as text: like `readable`, and without the sequences that paint the screen."""
    return readable(_SEQUENCE.sub(lambda hit: b"\n" if hit[1] in _MOVES else b"", raw))


class Console:
    """The end of what a guest wrote to its serial log."""

    def __init__(self, log: Path) -> None:
        self._log, self._position, self._kept = log, 0, b""

    def read(self) -> str:
        """Everything kept so far as text, at most SERIAL_KEPT bytes of it; "" while there is no log."""
        try:
            with self._log.open("rb") as file:
                end = file.seek(0, 2)
                if end < self._position:  # virtlogd began a new file
                    self._position = 0
                self._position = max(self._position, end - _AT_ONCE)
                file.seek(self._position)
                new = file.read(_AT_ONCE)
        except OSError:
            new = b""
        self._position += len(new)
        self._kept = (self._kept + new)[-SERIAL_KEPT:]
        return lines(self._kept)


class Screens:
    """Pictures of the screen in `folder`, only those that differ from the one before: the first ones, and the last."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._last = folder, ""
        self.kept: list[Path] = []

    def keep(self, picture: bytes, seconds: float) -> Path | None:
        """The file written for a PNG taken `seconds` after the start; None when it shows nothing new."""
        digest = hashlib.sha256(picture).hexdigest()
        if not picture or digest == self._last:
            return None
        self._last = digest
        if len(self.kept) == SCREENS_KEPT:
            self.kept.pop().unlink(missing_ok=True)
        file = self._folder / f"screen-{round(seconds * 10):06d}.png"
        file.write_bytes(picture)
        self.kept.append(file)
        return file
