"""The releases of Windows: how one is recognised, what virtio-win calls it, and which processors it was made for.

Facts come from CurrentBuildNumber and InstallationType - before Vista, which has none, ProductType - never from
ProductName (Windows 11 says "Windows 10") and never from libguestfs (1.48 calls build 22631 "win10", measured).
Client and server share builds, so both decide.
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

    name      virtio-win's word for it, and ours ("xp64" has no folder of its own there)
    title     what people call it
    nt        (major, minor) of the kernel, as INF decorations count it
    builds    the builds it covers
    server    whether it is a server edition
    osinfo    libosinfo's short id
    arches    the processors it was sold for
    """

    name: str
    title: str
    nt: tuple[int, int]
    builds: range
    server: bool
    osinfo: str
    arches: tuple[Arch, ...]

    @property
    def osinfo_id(self) -> str:
        return f"http://microsoft.com/win/{self.osinfo.removeprefix('win')}"

    @property
    def has_bcd(self) -> bool:
        """Windows before Vista is started by ntldr and boot.ini."""
        return self.nt >= (6, 0)


_X86, _X64 = (Arch.X86,), (Arch.AMD64,)
_BOTH = (*_X86, *_X64)

RELEASES = (
    Release("xp", "Windows XP", (5, 1), range(2600, 2601), False, "winxp", _X86),
    Release("xp64", "Windows XP x64", (5, 2), range(3790, 3791), False, "winxp", _X64),
    Release("2k3", "Windows Server 2003", (5, 2), range(3790, 3791), True, "win2k3", _BOTH),
    Release("vista", "Windows Vista", (6, 0), range(6000, 6004), False, "winvista", _BOTH),
    Release("2k8", "Windows Server 2008", (6, 0), range(6001, 6004), True, "win2k8", _BOTH),
    Release("w7", "Windows 7", (6, 1), range(7600, 7602), False, "win7", _BOTH),
    Release("2k8R2", "Windows Server 2008 R2", (6, 1), range(7600, 7602), True, "win2k8r2", _X64),
    Release("w8", "Windows 8", (6, 2), range(9200, 9201), False, "win8", _BOTH),
    Release("2k12", "Windows Server 2012", (6, 2), range(9200, 9201), True, "win2k12", _X64),
    Release("w8.1", "Windows 8.1", (6, 3), range(9600, 9601), False, "win8.1", _BOTH),
    Release("2k12R2", "Windows Server 2012 R2", (6, 3), range(9600, 9601), True, "win2k12r2", _X64),
    Release("w10", "Windows 10", (10, 0), range(10240, 20348), False, "win10", (*_BOTH, Arch.ARM64)),
    Release("w11", "Windows 11", (10, 0), range(22000, 30000), False, "win11", (*_X64, Arch.ARM64)),
    Release("2k16", "Windows Server 2016", (10, 0), range(14393, 17763), True, "win2k16", _X64),
    Release("2k19", "Windows Server 2019", (10, 0), range(17763, 20348), True, "win2k19", _X64),
    Release("2k22", "Windows Server 2022", (10, 0), range(20348, 26040), True, "win2k22", _X64),
    Release("2k25", "Windows Server 2025", (10, 0), range(26040, 30000), True, "win2k25", (*_X64, Arch.ARM64)),
)

VERSIONS = {
    **{10240: "1507", 10586: "1511", 14393: "1607", 15063: "1703", 16299: "1709", 17134: "1803", 17763: "1809"},
    **{18362: "1903", 18363: "1909", 19041: "2004", 19042: "20H2", 19043: "21H1", 19044: "21H2", 19045: "22H2"},
    **{20348: "21H2", 22000: "21H2", 22621: "22H2", 22631: "23H2", 25398: "23H2", 26100: "24H2", 26200: "25H2"},
}
"""Build -> what Windows 10, 11 and their servers call it in winver (Microsoft's release information)."""


def is_server(installation_type: str, product_type: str) -> bool:
    """From SOFTWARE InstallationType ("Server Core"), or SYSTEM ProductType ("ServerNT") where that is absent."""
    if installation_type:
        return "server" in installation_type.lower()
    return product_type.lower() in ("servernt", "lanmannt")


def identify(build: int, *, server: bool) -> Release | None:
    """The release of a build number (CurrentBuildNumber), or None for one we do not know."""
    return next(_matching(build, server), None)


def _matching(build: int, server: bool) -> Iterator[Release]:
    return (row for row in RELEASES if build in row.builds and row.server == server)


def by_name(name: str) -> Release:
    """Raises KeyError."""
    return {row.name: row for row in RELEASES}[name]
