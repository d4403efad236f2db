r"""What only the running Windows can do, once, at its first start: a script and the service that starts it.

The service needs no logon and no program that is not Windows' own: cmd.exe starts the script and returns. The service
manager then reports error 1053, and the script runs on (measured under Wine; expected, not measured, of Windows). The
script notes that it started before anything else, so that it never runs twice, and deletes its service at the end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from builder import resources
from builder.errors import ConfigError
from builder.model import DriverPackage, Edit, Guest, Hive, Media, MediaFile, PutFile, SetValue, WriteFile
from builder.windows.paths import GuestPath
from builder.windows.registry import dword, expand_sz, sz
from builder.windows.releases import Arch

SERVICE = "winfoundry-firstboot"
FOLDER = ("winfoundry", "firstboot")
"""Below the system root; firstboot.log stays there."""

MARKER = "winfoundry first boot finished"
"""The last line the runner writes, to its log and to COM1."""

_AGENTS = {Arch.AMD64: ("qemu-ga-x86_64.msi", "qemu-ga-x64.msi"), Arch.X86: ("qemu-ga-i386.msi", "qemu-ga-x86.msi")}
_SCRIPT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.(cmd|bat|ps1)")
_REASON = "done once by the running Windows"


@dataclass(frozen=True, slots=True)
class Job:
    """What the first boot shall do; empty by default.

    agent      the MSI of the guest agent on the disc
    scripts    the user's scripts, name and content, in the order they run
    time_zone  a name tzutil knows ("W. Europe Standard Time"); `winrm`, `sysprep`: whether to set up, to generalize
    """

    agent: MediaFile | None = None
    scripts: tuple[tuple[str, bytes], ...] = ()
    time_zone: str = ""
    winrm: bool = False
    sysprep: bool = False
    hostname: str = ""


def agent_on(media: Media, arch: Arch) -> MediaFile | None:
    """The MSI of the guest agent for this Windows, as the virtio-win disc has it in guest-agent/."""
    names = _AGENTS.get(arch, ())
    for path in media.files():
        if path.name.lower() in names:
            content = media.read(path)
            return MediaFile(path, len(content), hashlib.sha256(content).hexdigest())
    return None


def script(name: str, content: bytes) -> tuple[str, bytes]:
    """A user's script, its line ends as cmd.exe wants them. Raises ConfigError for a name that cannot be run."""
    if not _SCRIPT.fullmatch(name):
        raise ConfigError(
            f"firstboot: {name!r} cannot be run",
            why="a script is a .cmd, .bat or .ps1 file, its name of letters, digits, dots, dashes and underscores",
        )
    return name, content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def edits(guest: Guest, packages: tuple[DriverPackage, ...], job: Job) -> Iterator[Edit]:
    """The runner, its files and its service in every control set; nothing when there is nothing to do."""
    drivers = tuple(_to_install(guest, packages))
    if not drivers and job == Job(hostname=job.hostname):
        return
    if guest.release.nt < (6, 0):
        raise ConfigError(
            f"{guest.release.title} has no first boot runner",
            why="pnputil, tzutil and WinRM came with Windows Vista and later",
            fix='set guest_agent to "skip" and leave firstboot, time_zone, winrm and sysprep unset',
        )
    folder = GuestPath((*guest.system_root.parts, *FOLDER))
    yield WriteFile(folder / "run.cmd", _runner(drivers, job), _REASON)
    if job.agent:
        yield PutFile(folder / job.agent.path.name, job.agent, "the guest agent, installed at first boot")
    for name, content in job.scripts:
        yield WriteFile(folder / name, content, "run at first boot (asked for)")
    if job.sysprep:
        yield WriteFile(folder / "unattend.xml", _unattend(guest, job), "for sysprep (asked for)")
    yield from _service(guest)


def _to_install(guest: Guest, packages: tuple[DriverPackage, ...]) -> Iterator[tuple[str, str]]:
    """Packages a Windows without driver database holds as files only, and where their INFs are."""
    if not guest.driver_database and guest.release.nt >= (6, 0):
        for one in packages:
            yield one.name, f"Drivers\\winfoundry\\{one.name}\\{one.inf.path.name}"


def _service(guest: Guest) -> Iterator[SetValue]:
    shell = "%SystemRoot%\\System32\\cmd.exe"
    place = "\\".join(("%SystemRoot%", *FOLDER, "run.cmd"))
    values = (
        ("Type", dword(0x10)),
        ("Start", dword(2)),
        ("ErrorControl", dword(0)),
        ("ImagePath", expand_sz(f'{shell} /c start "" /b {shell} /c {place}')),
        ("DisplayName", sz("winfoundry first boot")),
        ("ObjectName", sz("LocalSystem")),
    )
    for control_set in guest.control_sets:
        for name, value in values:
            yield SetValue(Hive.SYSTEM, (control_set, "Services", SERVICE), name, value, _REASON)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(resources.templates()),
        autoescape=select_autoescape(("xml.j2",)),
        undefined=StrictUndefined,
    )


def _runner(drivers: tuple[tuple[str, str], ...], job: Job) -> bytes:
    text = (
        _environment()
        .get_template("firstboot/run.cmd.j2")
        .render(
            service=SERVICE,
            drivers=drivers,
            agent=job.agent.path.name if job.agent else "",
            time_zone=job.time_zone,
            winrm=job.winrm,
            scripts=[name for name, _ in job.scripts],
            sysprep=job.sysprep,
            marker=MARKER,
        )
    )
    return text.replace("\n", "\r\n").encode("ascii") + b"\r\n"


def _unattend(guest: Guest, job: Job) -> bytes:
    template = _environment().get_template("unattend/unattend.xml.j2")
    text = template.render(arch=guest.arch.lower(), hostname=job.hostname, time_zone=job.time_zone)
    return text.encode()
