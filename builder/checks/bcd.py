"""`host.bcd`: the boot store, in bcdedit's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from builder.checks.image import Image
from builder.checks.registry_key import Value
from builder.model import Hive, Loader
from builder.windows import bcd

_NAMES = {code: name for name, code in bcd.ELEMENTS.items()}


class Bcd:
    """The store this Windows boots from.

    >>> host.bcd.default["testsigning"]
    True
    """

    def __init__(self, image: Image) -> None:
        self._image = image

    @property
    def loaders(self) -> list[Entry]:
        """The entries that start Windows itself; not Recovery, not Setup."""
        return [Entry(self._image, one) for one in self._image.guest.boot.loaders]

    @property
    def default(self) -> Entry:
        """The entry that is started. Raises InputRefused when the store has no clear one."""
        return Entry(self._image, bcd.chosen(self._image.guest.boot.loaders))


class Entry(Mapping[str, Value]):
    """The elements of one loader by bcdedit's names; those without a name here by their eight hex digits.

    A flag that is not there is off, as Windows sees it: `entry["testsigning"]` is False then.
    """

    def __init__(self, image: Image, loader: Loader) -> None:
        self._image = image
        self.identifier = loader.guid
        self.description = loader.description
        self.path = loader.path

    def __repr__(self) -> str:
        return f"<boot entry {self.identifier} {self.description!r}>"

    def __getitem__(self, name: str) -> Value:
        code = bcd.ELEMENTS.get(name, name)
        element = self._image.value(Hive.BCD, (*self._elements, code), "Element")
        if element is None and _is_flag(code):
            return False
        if element is None:
            raise KeyError(f"{name} is not set on {self.identifier}")
        return _READ.get(code[1:2], bytes)(element.data)

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)

    def __iter__(self) -> Iterator[str]:
        return (_NAMES.get(code.lower(), code.lower()) for code in self._image.subkeys(Hive.BCD, self._elements))

    def __len__(self) -> int:
        return len(self._image.subkeys(Hive.BCD, self._elements))

    @property
    def _elements(self) -> tuple[str, ...]:
        return ("Objects", self.identifier, "Elements")


def _is_flag(code: str) -> bool:
    return code[1:2] == "6" and len(code) == 8


def _texts(data: bytes) -> list[str]:
    return [text for text in data.decode("utf-16-le", errors="replace").split("\0") if text]


def _text(data: bytes) -> str:
    return data.decode("utf-16-le", errors="replace").split("\0", 1)[0]


_READ: dict[str, Callable[[bytes], Value]] = {  # the format of an element is the second hex digit of its number
    "2": _text,
    "3": _text,
    "4": _texts,
    "5": lambda data: int.from_bytes(data, "little"),
    "6": lambda data: any(data),
}
