"""`host.windows`: which Windows it is."""

from __future__ import annotations

from builder.checks.image import Image


class Windows:
    """The facts `winfoundry inspect` shows; `release` and `architecture` are spelled as on the virtio-win disc.

    >>> host.windows.release, host.windows.build, host.windows.architecture
    ('w10', 19045, 'amd64')
    """

    def __init__(self, image: Image) -> None:
        self._image = image

    @property
    def release(self) -> str:
        return self._image.guest.release.name

    @property
    def title(self) -> str:
        return self._image.guest.release.title

    @property
    def build(self) -> int:
        return self._image.guest.build

    @property
    def edition(self) -> str:
        return self._image.guest.edition

    @property
    def architecture(self) -> str:
        return str(self._image.guest.arch)

    @property
    def firmware(self) -> str:
        """ "bios" or "uefi"."""
        return str(self._image.guest.firmware)

    @property
    def control_sets(self) -> tuple[str, ...]:
        """Those `Select` names, the current one first."""
        return self._image.guest.control_sets

    @property
    def has_driver_database(self) -> bool:
        """Windows 8 and later; before, CriticalDeviceDatabase binds the boot devices."""
        return self._image.guest.driver_database


class SystemInfo:
    """testinfra's own `host.system_info`, answered from the disk."""

    type = "windows"
    codename = None

    def __init__(self, image: Image) -> None:
        self._image = image

    @property
    def distribution(self) -> str:
        return self._image.guest.product

    @property
    def release(self) -> str:
        major, minor = self._image.guest.release.nt
        return f"{major}.{minor}.{self._image.guest.build}"

    @property
    def arch(self) -> str:
        return str(self._image.guest.arch)
