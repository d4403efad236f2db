"""`host.driver("viostor")`: a third-party driver package, staged so that Windows finds it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property

from builder.checks.certificate import all_in
from builder.checks.device import forms
from builder.checks.file import File
from builder.checks.image import Image
from builder.model import Hive, Signature
from builder.windows import authenticode, signatures

_DATABASE = "DriverDatabase"
_CATALOGUES = "System32\\CatRoot\\{F750E6C3-38EE-11D1-85E5-00C04FC295EE}"
_BEFORE_WINDOWS_8 = "Drivers\\winfoundry"  # below DevicePath: those releases keep no database of packages
_VERSION = struct.Struct("<8x16xQ4H8x")  # date, then the version with its lowest part first


class Driver:
    """By the name of its INF. Of several versions, the newest published one.

    >>> host.driver("netkvm").catalog.exists
    True
    """

    def __init__(self, image: Image, name: str) -> None:
        self._image = image
        self.name = name.lower().removesuffix(".inf")

    def __repr__(self) -> str:
        return f"<driver {self.name}>"

    @property
    def exists(self) -> bool:
        """Whether Windows finds the package: published in its driver database, with the INF in its store folder."""
        return (bool(self.published_name) or not self._image.guest.driver_database) and self.inf.is_file

    @property
    def published_name(self) -> str:
        """ "oem5.inf"; "" when it is not published, and before Windows 8."""
        return self._published[1]

    @property
    def label(self) -> str:
        """The package's name in the driver store, "" before Windows 8: "viostor.inf_amd64_0123456789abcdef"."""
        return self._published[2]

    @property
    def store_folder(self) -> str:
        """Where the whole package lies."""
        root = str(self._image.guest.system_root)
        if self._image.guest.driver_database:
            return f"{root}\\System32\\DriverStore\\FileRepository\\{self.label or self.name + '.inf'}"
        return f"{root}\\{_BEFORE_WINDOWS_8}\\{self.name}"

    @property
    def inf(self) -> File:
        return File(self._image, f"{self.store_folder}\\{self.name}.inf")

    @property
    def published_inf(self) -> File:
        """The copy of the INF that Windows looks through."""
        return File(self._image, f"{self._image.guest.system_root}\\INF\\{self.published_name or self.name + '.inf'}")

    @property
    def catalog(self) -> File:
        """The catalogue in the package's folder."""
        folder = File(self._image, self.store_folder)
        names = folder.listdir() if folder.is_directory else []
        name = next((name for name in names if name.lower().endswith(".cat")), f"{self.name}.cat")
        return File(self._image, f"{self.store_folder}\\{name}")

    @property
    def published_catalog(self) -> File:
        """The copy of the catalogue that Windows verifies against."""
        name = (self.published_name or self.name).removesuffix(".inf")
        return File(self._image, f"{self._image.guest.system_root}\\{_CATALOGUES}\\{name}.cat")

    @property
    def version(self) -> str:
        """ "100.93.104.24000"; "" before Windows 8."""
        return ".".join(map(str, self._published[0]))

    def binds(self, hardware_id: str) -> bool:
        """Whether a device with this id leads to this package in the driver database."""
        return any(
            self._image.value(hive, (_DATABASE, "DeviceIds", *form.split("\\", 1)), self.published_name)
            for hive in (Hive.SYSTEM, Hive.DRIVERS)
            for form in forms(hardware_id)
            if self.published_name
        )

    @cached_property
    def signature(self) -> Signature:
        """What the signatures of the staged files are worth; the image's own ROOT store may complete their chains."""
        folder = self.store_folder
        programs = {name: authenticode.image(File(self._image, f"{folder}\\{name}").content) for name in self._programs}
        catalogue = (self.catalog.path, self.catalog.content) if self.catalog.exists else None
        return signatures.examine((self.inf.path, self.inf.content), catalogue, programs, all_in(self._image, "ROOT"))

    @cached_property
    def _programs(self) -> tuple[str, ...]:
        """The names of its kernel code."""
        names = File(self._image, self.store_folder).listdir()
        return tuple(name for name in names if name.lower().endswith(".sys"))

    @property
    def needs_test_mode(self) -> bool:
        """Whether this Windows loads it only in test mode."""
        guest = self._image.guest
        found = signatures.verdict(self.signature, guest.release, guest.arch, kernel_code=bool(self._programs))
        return found is signatures.Verdict.TEST_MODE

    @cached_property
    def _published(self) -> tuple[tuple[int, ...], str, str]:
        """Version, published name and label of the newest; all empty when there is none."""
        mine = (one for one in _packages(self._image) if one[2].startswith(f"{self.name}.inf_"))
        return max(mine, default=((), "", ""))


class Drivers:
    """`host.drivers`: the third-party packages of the driver database; before Windows 8, those winfoundry staged."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __iter__(self) -> Iterator[Driver]:
        return (Driver(self._image, name) for name in sorted(set(self._names())))

    def _names(self) -> Iterator[str]:
        yield from (label.partition(".inf_")[0] for _, _, label in _packages(self._image))
        searched = File(self._image, f"{self._image.guest.system_root}\\{_BEFORE_WINDOWS_8}")
        yield from searched.listdir() if searched.is_directory else ()


def _packages(image: Image) -> Iterator[tuple[tuple[int, ...], str, str]]:
    """(version, published name, label) of each third-party package, lower-case."""
    for hive in (Hive.SYSTEM, Hive.DRIVERS):
        for inf in image.subkeys(hive, (_DATABASE, "DriverInfFiles")):
            if not inf.lower().startswith("oem"):
                continue
            label = image.text(hive, (_DATABASE, "DriverInfFiles", inf), "Active")
            version = image.value(hive, (_DATABASE, "DriverPackages", label), "Version") if label else None
            if version and len(version.data) == _VERSION.size:
                _, *parts = _VERSION.unpack(version.data)
                yield tuple(reversed(parts)), inf.lower(), label.lower()
