"""The testinfra backend for an image that is not running: everything is read from its disk, nothing is executed."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import testinfra.modules
from testinfra.backend.base import BaseBackend

from builder.checks import image
from builder.checks.bcd import Bcd
from builder.checks.certificate import Certificate
from builder.checks.device import Device
from builder.checks.driver import Driver, Drivers
from builder.checks.file import File
from builder.checks.registry_key import RegistryKey
from builder.checks.service import Service
from builder.checks.windows import SystemInfo, Windows


def host_spec(disk: Path) -> str:
    """How pytest's --hosts names the image at `disk`."""
    return f"guestfs://{quote(str(disk.absolute()), safe='')}"


class GuestfsBackend(BaseBackend):  # type: ignore[misc]  # testinfra is untyped to mypy here
    """`guestfs://%2Fpath%2Fof%2Fimage.qcow2`. The image is opened at the first question, once in a pytest session."""

    NAME = "guestfs"

    def __init__(self, hostname: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(hostname, *args, **kwargs)
        self.disk = Path(unquote(hostname))
        if not self.disk.is_absolute():
            raise ValueError(f"guestfs://{hostname} does not name an absolute path: write {host_spec(self.disk)}")

    def get_pytest_id(self) -> str:
        return self.disk.name

    def get_encoding(self) -> str:
        return "utf-8"

    def set_host(self, host: Any) -> None:
        """Gives the host the modules for Windows; what else testinfra has needs a running guest."""
        super().set_host(host)
        disk = image.at(self.disk)
        host.bcd = Bcd(disk)
        host.certificate = partial(Certificate, disk)
        host.device = partial(Device, disk)
        host.driver = cache(partial(Driver, disk))  # examining its signatures takes a second
        host.drivers = Drivers(disk)
        host.file = partial(File, disk)
        host.registry_key = partial(RegistryKey, disk)
        host.service = partial(Service, disk)
        host.system_info = SystemInfo(disk)
        host.windows = Windows(disk)
        for name in testinfra.modules.modules.keys() - vars(host).keys():
            setattr(host, name, _Live(name))

    def run(self, command: str, *_args: str, **_kwargs: Any) -> Any:
        raise image.NeedsRunningGuest(f"the command {command!r}")


class _Live:
    """A module of testinfra that an image which is not running cannot have: `host.process`, `host.socket` …"""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise image.NeedsRunningGuest(f"host.{self._name}")

    def __getattr__(self, _name: str) -> Any:
        raise image.NeedsRunningGuest(f"host.{self._name}")
