"""The releases of Windows: how one is recognised, what virtio-win calls it, and how it finds boot drivers.

Facts come from the build number and InstallationType, never from ProductName (Windows 11 says "Windows 10") and never
from libguestfs (1.48 calls build 22631 "win10", measured). Client and server share builds, so both decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Arch(StrEnum):
    """Spelled as virtio-win's folders and bcdedit's users do."""

    X86 = "x86"
    AMD64 = "amd64"
    ARM64 = "ARM64"


@dataclass(frozen=True, slots=True)
class Release:
    """One row is one Windows.

    name      virtio-win's word for it, and ours
    title     what people call it
    nt        (major, minor) of the kernel, as INF decorations count it
    builds    the builds it covers
    server    InstallationType is Server or Server Core
    osinfo    libosinfo's short id
    """

    name: str
    title: str
    nt: tuple[int, int]
    builds: range
    server: bool
    osinfo: str

    @property
    def osinfo_id(self) -> str:
        return f"http://microsoft.com/win/{self.osinfo.removeprefix('win')}"


RELEASES = (
    Release("xp", "Windows XP", (5, 1), range(2600, 2601), False, "winxp"),
    Release("2k3", "Windows Server 2003", (5, 2), range(3790, 3791), True, "win2k3"),
    Release("vista", "Windows Vista", (6, 0), range(6000, 6004), False, "winvista"),
    Release("2k8", "Windows Server 2008", (6, 0), range(6001, 6004), True, "win2k8"),
    Release("w7", "Windows 7", (6, 1), range(7600, 7602), False, "win7"),
    Release("2k8R2", "Windows Server 2008 R2", (6, 1), range(7600, 7602), True, "win2k8r2"),
    Release("w8", "Windows 8", (6, 2), range(9200, 9201), False, "win8"),
    Release("2k12", "Windows Server 2012", (6, 2), range(9200, 9201), True, "win2k12"),
    Release("w8.1", "Windows 8.1", (6, 3), range(9600, 9601), False, "win8.1"),
    Release("2k12R2", "Windows Server 2012 R2", (6, 3), range(9600, 9601), True, "win2k12r2"),
    Release("w10", "Windows 10", (10, 0), range(10240, 20348), False, "win10"),
    Release("w11", "Windows 11", (10, 0), range(22000, 30000), False, "win11"),
    Release("2k16", "Windows Server 2016", (10, 0), range(14393, 17763), True, "win2k16"),
    Release("2k19", "Windows Server 2019", (10, 0), range(17763, 20348), True, "win2k19"),
    Release("2k22", "Windows Server 2022", (10, 0), range(20348, 26040), True, "win2k22"),
    Release("2k25", "Windows Server 2025", (10, 0), range(26040, 30000), True, "win2k25"),
)


def identify(build: int, *, server: bool) -> Release | None:
    """The release of a build number (CurrentBuildNumber), or None for one we do not know."""
    return next(_matching(build, server), None)


def _matching(build: int, server: bool) -> Iterator[Release]:
    return (row for row in RELEASES if build in row.builds and row.server == server)


def by_name(name: str) -> Release:
    """Raises KeyError."""
    return {row.name: row for row in RELEASES}[name]
