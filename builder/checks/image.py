"""An image under test: launched once, asked many times. Registry answers are kept, as switching hives is slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pytest

from builder import finding, inspection
from builder.errors import WinfoundryError
from builder.host import appliance
from builder.host.appliance import Appliance
from builder.host.hive import Hive as OpenHive
from builder.model import Guest, Hive, Key
from builder.windows.paths import GuestPath
from builder.windows.registry import RegValue

_Answer = TypeVar("_Answer")


class NeedsRunningGuest(pytest.skip.Exception):  # type: ignore[misc,name-defined]
    """A question that a disk cannot answer; pytest counts the test as skipped, with this reason."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} needs a running guest")


class Image:
    """What is on the disk of a Windows that is not running."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self._stack = ExitStack()
        self._hives = ExitStack()
        self._failure: WinfoundryError | None = None
        self._open: tuple[Hive, OpenHive] | None = None
        self._answers: dict[tuple[object, Hive, Key], Any] = {}

    @cached_property
    def _launched(self) -> tuple[Appliance, Guest]:
        running = self._stack.enter_context(appliance.launch(self.disk))
        return running, inspection.inspect(running)

    @property
    def appliance(self) -> Appliance:
        """The running appliance, with the volumes mounted."""
        return self._started()[0]

    @property
    def guest(self) -> Guest:
        """Raises InputRefused when the disk holds no Windows winfoundry knows."""
        return self._started()[1]

    def _started(self) -> tuple[Appliance, Guest]:
        """Launched by the first question; a launch that failed is not tried again for every test."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._launched
        except WinfoundryError as error:
            self._failure = error
            raise

    def find(self, path: GuestPath) -> str | None:
        """Where the appliance has `path`, whatever its case; None when it is not there."""
        return self.appliance.find("/".join((finding.SYSTEM_VOLUME, *path.parts)))

    def exists(self, hive: Hive, key: Key) -> bool:
        return self._ask(OpenHive.exists, hive, key, False)

    def subkeys(self, hive: Hive, key: Key) -> tuple[str, ...]:
        return self._ask(OpenHive.subkeys, hive, key, ())

    def values(self, hive: Hive, key: Key) -> Mapping[str, RegValue]:
        return self._ask(OpenHive.values, hive, key, {})

    def value(self, hive: Hive, key: Key, name: str) -> RegValue | None:
        """Value names are compared as Windows does, whatever their case."""
        folded = {found.lower(): value for found, value in self.values(hive, key).items()}
        return folded.get(name.lower())

    def text(self, hive: Hive, key: Key, name: str) -> str:
        """The string there, "" when there is none."""
        found = self.value(hive, key, name)
        return found.text if found else ""

    def close(self) -> None:
        self._hives.close()
        self._stack.close()

    def _ask(self, question: Callable[[OpenHive, Key], _Answer], hive: Hive, key: Key, absent: _Answer) -> _Answer:
        """The answer of the hive; `absent` when this Windows has no such hive."""
        if hive not in self.guest.hives:
            return absent
        place = (question, hive, tuple(part.lower() for part in key))
        if place not in self._answers:
            self._answers[place] = question(self._opened(hive), key)
        answer: _Answer = self._answers[place]
        return answer

    def _opened(self, name: Hive) -> OpenHive:
        """An appliance has one hive open at a time."""
        if self._open is None or self._open[0] is not name:
            self._open = None
            self._hives.close()
            path = inspection.hive_path(self.appliance, self.guest, name)
            self._open = (name, self._hives.enter_context(self.appliance.hive(path)))
        return self._open[1]


_images: dict[Path, Image] = {}


def at(disk: Path) -> Image:
    """The image at `disk`, the same for the whole pytest session; nothing is opened yet."""
    return _images.setdefault(disk, Image(disk))


def close_all() -> None:
    """At the end of the session."""
    while _images:
        _images.popitem()[1].close()
