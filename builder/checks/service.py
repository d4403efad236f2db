"""`host.service("viostor")`: a service or driver as the Service Control Manager, or the kernel, will start it."""

from __future__ import annotations

import re

from builder.checks.file import File
from builder.checks.image import Image, NeedsRunningGuest
from builder.model import Hive, Key

_START_TYPES = ("boot", "system", "auto", "demand", "disabled")  # Start 0…4, in the words of sc.exe


class Service:
    """In the current control set, or in the one named.

    >>> host.service("viostor").start_type
    'boot'
    >>> host.service("viostor", control_set="ControlSet002").start_override
    False
    """

    def __init__(self, image: Image, name: str, *, control_set: str = "") -> None:
        self._image = image
        self.name = name
        self._control_set = control_set

    def __repr__(self) -> str:
        return f"<service {self.name}{self._control_set and ' in ' + self._control_set}>"

    @property
    def exists(self) -> bool:
        return self._image.exists(Hive.SYSTEM, self._key)

    @property
    def start_type(self) -> str:
        """ "boot", "system", "auto", "demand" or "disabled"; "" when there is no such service, or none of these."""
        start = self._image.value(Hive.SYSTEM, self._key, "Start")
        return _START_TYPES[start.number] if start and start.number < len(_START_TYPES) else ""

    @property
    def start_override(self) -> bool:
        """Whether Windows would ignore the start type: it writes StartOverride for what it did not boot from."""
        return self._image.exists(Hive.SYSTEM, (*self._key, "StartOverride"))

    @property
    def group(self) -> str:
        """Its load order group."""
        return self._image.text(Hive.SYSTEM, self._key, "Group")

    @property
    def image_path(self) -> str:
        """ImagePath as it stands in the registry."""
        return self._image.text(Hive.SYSTEM, self._key, "ImagePath")

    @property
    def image_file(self) -> File:
        """The file ImagePath leads to, by the rules for drivers: without one it is System32\\drivers\\<name>.sys."""
        root = str(self._image.guest.system_root)
        path = self.image_path or f"System32\\drivers\\{self.name}.sys"
        path = re.sub(r"^(\\SystemRoot|%SystemRoot%)(?=\\)", lambda _: root, path, flags=re.IGNORECASE)
        path = path.removeprefix("\\??\\")
        return File(self._image, path if re.match(r"[A-Za-z]:\\", path) else f"{root}\\{path}")

    @property
    def is_enabled(self) -> bool:
        return self.start_type not in ("", "disabled")

    @property
    def is_running(self) -> bool:
        raise NeedsRunningGuest(f"whether {self.name} is running")

    @property
    def _key(self) -> Key:
        return (self._control_set or self._image.guest.control_sets[0], "Services", self.name)
