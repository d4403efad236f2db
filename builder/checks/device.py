"""`host.device(r"PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01")`: which driver Windows would give a device."""

from __future__ import annotations

import re
from collections.abc import Iterator

from builder.checks.image import Image
from builder.model import Hive, Key

_DATABASE = "DriverDatabase"


class Device:
    """By its most specific hardware id; the shorter ids Windows derives from it are tried as well.

    >>> host.device(r"PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01").boot_service
    'viostor'
    """

    def __init__(self, image: Image, hardware_id: str) -> None:
        self._image = image
        self.hardware_id = hardware_id

    def __repr__(self) -> str:
        return f"<device {self.hardware_id}>"

    @property
    def boot_service(self) -> str:
        """The service that drives it before the disk can be read: bound in the SYSTEM hive. "" when there is none."""
        if self._image.guest.driver_database:
            return next(self._bound(Hive.SYSTEM), "")
        return next(self._critical(), "")

    @property
    def service(self) -> str:
        """The service that drives it once Windows runs; "" when no staged package does."""
        return self.boot_service or next(self._bound(Hive.DRIVERS), "")

    def _bound(self, hive: Hive) -> Iterator[str]:
        """From the id to the INF, to its package, to the configuration, to the service."""
        for form in forms(self.hardware_id):
            bus_and_id = tuple(form.split("\\", 1))
            for inf in self._image.values(hive, (_DATABASE, "DeviceIds", *bus_and_id)):
                label = self._image.text(hive, (_DATABASE, "DriverInfFiles", inf), "Active")
                package: Key = (_DATABASE, "DriverPackages", label)
                section = self._image.text(hive, (*package, "Descriptors", *bus_and_id), "Configuration")
                service = self._image.text(hive, (*package, "Configurations", section), "Service")
                if label and section and service:
                    yield service

    def _critical(self) -> Iterator[str]:
        for form in forms(self.hardware_id):
            current = self._image.guest.control_sets[0]
            key = (current, "Control", "CriticalDeviceDatabase", form.replace("\\", "#"))
            if service := self._image.text(Hive.SYSTEM, key, "Service"):
                yield service


def forms(hardware_id: str) -> tuple[str, ...]:
    """The ids Windows derives from a PCI id, most specific first ("Identifiers for PCI Devices", Microsoft Learn)."""
    short = re.sub(r"&REV_[^&]*", "", hardware_id)
    without_subsystem = re.sub(r"&SUBSYS_[^&]*", "", hardware_id)
    shortest = re.sub(r"&SUBSYS_[^&]*", "", short)
    return tuple(dict.fromkeys((hardware_id, short, without_subsystem, shortest)))
