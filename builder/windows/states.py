r"""States of a Windows that its registry and files tell: refused with advice, or told to the user.

A fact is read by `builder.inspection`; what it means is decided here, so that it can be tested without a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import InputRefused
from builder.windows.releases import RELEASES, VERSIONS, Arch, Release, identify

PENDING = {
    "reboot_required": ("Microsoft", "Windows", "CurrentVersion", "WindowsUpdate", "Auto Update", "RebootRequired"),
    "servicing": ("Microsoft", "Windows", "CurrentVersion", "Component Based Servicing", "RebootPending"),
}
r"""Keys of SOFTWARE whose presence means that Windows wants to restart before anything else."""


@dataclass(frozen=True, slots=True)
class Facts:
    r"""What was seen.

    portable          PortableOperatingSystem of the current control set
    setup             SystemSetupInProgress
    reboot_required   Windows Update asked for a restart; `servicing`: so did component servicing
    renames           PendingFileRenameOperations is not empty
    pending_xml       Windows\WinSxS\pending.xml exists
    encrypted         other volumes of the disk that are encrypted with BitLocker
    """

    portable: bool = False
    setup: bool = False
    reboot_required: bool = False
    servicing: bool = False
    renames: bool = False
    pending_xml: bool = False
    encrypted: tuple[str, ...] = ()


def refuse(facts: Facts) -> None:
    """Raises InputRefused for states in which drivers cannot be injected for good."""
    if facts.portable:
        raise InputRefused(
            "this Windows is a Windows To Go workspace",
            why="PortableOperatingSystem is set: it takes its boot disk from USB, and hides internal disks",
            fix="install Windows on a fixed disk, or set PortableOperatingSystem to 0 inside the guest and restart it",
        )


def notes(facts: Facts) -> Iterator[str]:
    """States that do not forbid a build and that people want to know before they publish its result."""
    rows = (
        (facts.setup, "Windows Setup has not finished: the first start goes on with it"),
        (facts.reboot_required, "Windows Update waits for a restart: the first start will take longer"),
        (facts.servicing or facts.pending_xml, "component servicing is pending: the first start will finish it"),
        (facts.renames, "files are to be renamed or deleted at the next start (PendingFileRenameOperations)"),
    )
    yield from (text for seen, text in rows if seen)
    if facts.encrypted:
        yield f"left alone, because encrypted with BitLocker: {', '.join(facts.encrypted)}"


def release_of(build: int, *, server: bool, arch: Arch) -> Release:
    """The release, or InputRefused naming those we know."""
    kind = "server" if server else "client"
    found = identify(build, server=server)
    if found is None:
        known = ", ".join(f"{row.title} ({_builds(row)})" for row in RELEASES)
        raise InputRefused(f"Windows build {build} ({kind}) is not one winfoundry knows", fix=f"known are: {known}")
    if arch not in found.arches:
        raise InputRefused(
            f"{found.title} for {arch} is not one winfoundry knows",
            why=f"it was made for {', '.join(found.arches)}",
            fix="see whether ntoskrnl.exe and the SOFTWARE hive are of the same installation",
        )
    return found


def version(build: int) -> str:
    """ "22H2" for a build of Windows 10 and later that has such a name, else ""."""
    return VERSIONS.get(build, "")


def _builds(row: Release) -> str:
    last = row.builds[-1]
    return str(last) if len(row.builds) == 1 else f"{row.builds[0]}-{last}"
