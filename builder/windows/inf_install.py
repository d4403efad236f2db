r"""What an INF installs on one Windows: its version, the devices it matches, the files it copies, the services it adds.

    Target(Arch.AMD64, (10, 0), 22631)          the Windows asked about
    devices(inf, target)                        () when the INF is not for it

Rules: "INF Manufacturer Section", "Combining Platform Extensions with Operating System Versions", "INF CopyFiles
Directive", "INF DestinationDirs Section", "INF AddService Directive", "INF AddReg Directive" (Microsoft Learn).
`Include` names INFs that come with Windows; what they add is Windows' own affair and is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from builder.model import DeviceInstall, DriverService
from builder.windows.inf import Inf, Line
from builder.windows.inf_addreg import Value, integer, values
from builder.windows.paths import GuestPath, MediaPath
from builder.windows.releases import Arch

_WORKSTATION, _SERVER = 1, 3  # VER_NT_WORKSTATION, VER_NT_SERVER
_ASSOCIATED = 0x2  # SPSVCINST_ASSOCSERVICE: this service drives the device
_DEEPEST_NEEDS = 8
_GUID = re.compile(r"\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}")
_DATE = re.compile(r"(\d{1,2})[/-](\d{1,2})[/-](\d{4})")
_DECORATION = re.compile(r"nt(x86|amd64|arm64|arm|ia64)?((?:\.(?:0x[0-9a-f]+|\d*)){0,5})", re.IGNORECASE)
_LONGEST_ID = 200  # characters, MAX_DEVICE_ID_LEN of cfgmgr32.h
_DEVICE_ID = re.compile(rf"(?=.{{1,{_LONGEST_ID}}}$)[^\\,\s\"]+(?:\\[^\\,\s\"]+)*")
_BINARY = re.compile(r"%(\d+)%\\(.+)")

DRIVER_STORE = 13
DIRIDS: dict[int, tuple[str, ...]] = {
    10: (),
    11: ("System32",),
    12: ("System32", "drivers"),
    17: ("INF",),
    18: ("Help",),
    20: ("Fonts",),
    50: ("System",),
}
"""Destination directories below the system root. DIRID 13 is the package's own folder in the driver store."""


@dataclass(frozen=True, slots=True)
class Target:
    """The Windows an INF is asked about."""

    arch: Arch
    nt: tuple[int, int]
    build: int
    server: bool = False


class Version(NamedTuple):
    """The [Version] section. `date` is ISO, `class_guid` lower-case in braces, `catalog` "" when none is named."""

    class_name: str
    class_guid: str
    provider: str
    catalog: str
    date: str
    version: tuple[int, int, int, int]


class Copy(NamedTuple):
    """A file of the package: where it lies beside the INF, its name in the store, where Windows runs it from.

    place     relative to the system root; None for a file that stays in the driver store (DIRID 13)
    """

    source: MediaPath
    place: GuestPath | None
    line: int


# ---------------------------------------------------------------- [Version]


def version(inf: Inf, arch: Arch) -> Version:
    """Raises InputRefused when the section is missing, is not for Windows NT, or DriverVer makes no sense."""
    if "Version" not in inf:
        raise inf.refused(1, "there is no [Version] section")
    signature = inf.find("Version", "Signature")
    if not signature or signature.value(0).lower() not in ("$windows nt$", "$chicago$"):
        raise inf.refused(signature.number if signature else 1, "Signature is not $Windows NT$ or $Chicago$")
    guid = inf.find("Version", "ClassGuid")
    if not guid or not _GUID.fullmatch(guid.value(0).lower()):
        raise inf.refused(guid.number if guid else signature.number, "ClassGuid is not a GUID in braces")
    date, numbers = _driver_version(inf, signature.number)
    catalog = _text(inf, f"CatalogFile.NT{arch.lower()}", "CatalogFile.NT", "CatalogFile")
    return Version(_text(inf, "Class"), guid.value(0).lower(), _text(inf, "Provider"), catalog, date, numbers)


def _text(inf: Inf, *keys: str) -> str:
    line = inf.find("Version", *keys)
    return line.value(0) if line else ""


def _driver_version(inf: Inf, fallback: int) -> tuple[str, tuple[int, int, int, int]]:
    line = inf.find("Version", "DriverVer")
    date = _DATE.fullmatch(line.value(0)) if line else None
    if not line or not date:
        raise inf.refused(line.number if line else fallback, "DriverVer is not mm/dd/yyyy,w.x.y.z")
    month, day, year = (int(part) for part in date.groups())
    parts = line.value(1).strip().split(".") if line.value(1).strip() else []
    sound = all(part.isascii() and part.isdigit() and int(part) < 1 << 16 for part in parts) and len(parts) <= 4
    if not sound or not (1 <= month <= 12 and 1 <= day <= 31 and 1601 < year < 3000):
        raise inf.refused(line.number, f"DriverVer {', '.join(line.values)!r} is not a date and a version")
    w, x, y, z = (*map(int, parts), 0, 0, 0, 0)[:4]
    return f"{year:04}-{month:02}-{day:02}", (w, x, y, z)


# ---------------------------------------------------------------- [Manufacturer] -> models


def devices(inf: Inf, target: Target) -> tuple[DeviceInstall, ...]:
    """Every model line for this Windows, in the order of the INF; () when the INF is not for it."""
    return tuple(_device(inf, target, maker, model) for maker, model in _models(inf, target))


def decoration(inf: Inf, target: Target) -> str:
    """The models sections that were chosen, as the INF names them: "VioStor.NTamd64.6.3"; "" for none."""
    return ", ".join(dict.fromkeys(section for _, section in _model_sections(inf, target)))


def _models(inf: Inf, target: Target) -> Iterator[tuple[Line, Line]]:
    for maker, section in _model_sections(inf, target):
        for line in inf.lines(section):
            if len(line.values) >= 2 and line.value(0):
                yield maker, line


def _model_sections(inf: Inf, target: Target) -> Iterator[tuple[Line, str]]:
    for maker in inf.lines("Manufacturer"):
        base = maker.value(0) or maker.key
        ranked = [(rank, name) for name in maker.values[1:] if name and (rank := _rank(inf, maker, name, target))]
        if ranked:
            yield maker, f"{base}.{max(ranked)[1]}"
        elif target.arch is Arch.X86:
            yield maker, base  # an undecorated section is for x86 only, since Windows Server 2003 SP1


def _rank(inf: Inf, maker: Line, name: str, target: Target) -> tuple[int, ...] | None:
    """How well NT[arch][.major[.minor[.type[.suite[.build]]]]] fits, more is better; None when it does not."""
    match = _DECORATION.fullmatch(name)
    if not match:
        raise inf.refused(maker.number, f"{name!r} is not a target operating system (NTamd64.10.0)")
    arch = (match[1] or "").lower()
    if arch != target.arch.lower() and (arch or target.arch is not Arch.X86):
        return None
    fields = [int(part, 0) if part else 0 for part in match[2].split(".")[1:]]
    major, minor, product, suite, build = (*fields, 0, 0, 0, 0, 0)[:5]
    wanted = (0, _SERVER if target.server else _WORKSTATION)
    if (major, minor) > target.nt or build > target.build or product not in wanted or suite:
        return None
    return (major, minor, build, product, bool(arch))


def _device(inf: Inf, target: Target, maker: Line, model: Line) -> DeviceInstall:
    section = actual_section(inf, model, target.arch)
    service = next(
        (line.value(0) for line in _added_services(inf, section) if integer(inf, line, 1) & _ASSOCIATED), None
    )
    ids = [value.upper() for value in model.values[1:] if value]
    if not all(_DEVICE_ID.fullmatch(name) and name.isascii() for name in ids):
        raise inf.refused(model.number, f"a device id is longer than {_LONGEST_ID} characters or has odd ones")
    return DeviceInstall(
        section=section,
        description=model.key,
        hardware_id=ids[0],
        compatible_ids=tuple(ids[1:]),
        service=service or None,
        values=tuple(_added_values(inf, f"{section}.HW")),
        description_token=model.written.lower(),
        manufacturer_token=maker.written.lower(),
    )


def actual_section(inf: Inf, model: Line, arch: Arch) -> str:
    """The section SetupAPI uses for an install section: NAME.NTamd64, else NAME.NT, else NAME."""
    name = model.value(0)
    for section in (f"{name}.NT{arch.lower()}", f"{name}.NT", name):
        if section in inf:
            return section
    raise inf.refused(model.number, f"its install section [{name}] is missing")


def _directives(inf: Inf, section: str, key: str, depth: int = 0) -> Iterator[Line]:
    """The lines `key = …` of a section and of the sections of this INF it Needs."""
    for line in inf.lines(section):
        if line.key.lower() == key:
            yield line
        elif line.key.lower() == "needs":
            if depth == _DEEPEST_NEEDS:
                raise inf.refused(line.number, f"Needs is nested more than {_DEEPEST_NEEDS} deep")
            for name in line.values:
                yield from _directives(inf, name, key, depth + 1)


def includes(inf: Inf, target: Target) -> tuple[str, ...]:
    """The INFs that come with Windows which this one needs there, lower-case, in the order it names them."""
    sections = [actual_section(inf, model, target.arch) for _, model in _models(inf, target)]
    parts = [section + part for section in sections for part in ("", ".HW", ".Services", ".CoInstallers")]
    lines = (line for part in parts for line in inf.lines(part) if line.key.lower() == "include")
    return tuple(dict.fromkeys(name.lower() for line in lines for name in line.values if name))


def _added_values(inf: Inf, section: str) -> Iterator[Value]:
    for line in _directives(inf, section, "addreg"):
        for name in line.values:
            yield from values(inf, name)


# ---------------------------------------------------------------- CopyFiles


def copies(inf: Inf, target: Target) -> tuple[Copy, ...]:
    """The files of the package for this Windows, without INF and catalogue; each once."""
    found: dict[str, Copy] = {}
    for _, model in _models(inf, target):
        section = actual_section(inf, model, target.arch)
        for directive in (section, f"{section}.CoInstallers"):
            for copy in _copied(inf, target.arch, directive):
                found.setdefault(str(copy.source).lower(), copy)
    return tuple(found.values())


def _copied(inf: Inf, arch: Arch, section: str) -> Iterator[Copy]:
    for directive in _directives(inf, section, "copyfiles"):
        for name in directive.values:
            if name.startswith("@"):
                yield _copy(inf, arch, directive, "DefaultDestDir", (name[1:],))
            for line in inf.lines(name) if not name.startswith("@") else ():
                if line.value(0):
                    yield _copy(inf, arch, line, name, line.values)


def _copy(inf: Inf, arch: Arch, line: Line, file_list: str, fields: tuple[str, ...]) -> Copy:
    name = fields[0]
    stored = fields[1] if len(fields) > 1 and fields[1] else name
    folder = _folder(inf, line, file_list)
    subfolder = _subfolder(inf, arch, stored)
    try:
        source = MediaPath.parse("/".join((*subfolder, stored)))
        place = None if folder is None else GuestPath(()) / "\\".join((*folder, name))
    except ValueError as error:
        raise inf.refused(line.number, f"names a file outside its folder: {error}") from None
    return Copy(source, place, line.number)


def _folder(inf: Inf, line: Line, file_list: str) -> tuple[str, ...] | None:
    """Where a CopyFiles section goes, below the system root; None is the driver store."""
    entry = inf.find("DestinationDirs", file_list, "DefaultDestDir")
    if entry is None:
        return DIRIDS[11]
    number = integer(inf, entry, 0)
    if number == DRIVER_STORE:
        return None
    if number not in DIRIDS:
        raise inf.refused(entry.number, f"copies to directory id {number}, which is not below the Windows folder")
    return (*DIRIDS[number], *(part for part in entry.value(1).split("\\") if part))


def _subfolder(inf: Inf, arch: Arch, name: str) -> tuple[str, ...]:
    """The folders between the INF and a file, from [SourceDisksFiles] and [SourceDisksNames]."""
    file = inf.find(f"SourceDisksFiles.{arch.lower()}", name) or inf.find("SourceDisksFiles", name)
    if file is None:
        return ()
    disk = inf.find(f"SourceDisksNames.{arch.lower()}", file.value(0)) or inf.find("SourceDisksNames", file.value(0))
    path = f"{disk.value(3) if disk else ''}\\{file.value(1)}"
    return tuple(part for part in path.split("\\") if part not in ("", "."))


# ---------------------------------------------------------------- AddService


def services(inf: Inf, target: Target) -> tuple[DriverService, ...]:
    """The services the devices of this Windows install; each once, null services left out."""
    found: dict[str, DriverService] = {}
    for _, model in _models(inf, target):
        for line in _added_services(inf, actual_section(inf, model, target.arch)):
            if line.value(0):
                found.setdefault(line.value(0).lower(), _service(inf, line))
    return tuple(found.values())


def _added_services(inf: Inf, section: str) -> Iterator[Line]:
    return _directives(inf, f"{section}.Services", "addservice")


def _service(inf: Inf, line: Line) -> DriverService:
    name, section = line.value(0), line.value(2)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise inf.refused(line.number, f"{name!r} is not the name of a service")
    if section not in inf:
        raise inf.refused(line.number, f"the service section [{section}] is missing")
    group = inf.find(section, "LoadOrderGroup")
    return DriverService(
        name=name,
        type=_setting(inf, line, section, "ServiceType"),
        start=_setting(inf, line, section, "StartType"),
        error_control=_setting(inf, line, section, "ErrorControl"),
        group=group.value(0) if group else "",
        binary=_binary(inf, line, section),
        values=tuple(_added_values(inf, section)),
    )


def _setting(inf: Inf, line: Line, section: str, key: str) -> int:
    found = inf.find(section, key)
    if found is None:
        raise inf.refused(line.number, f"the service section [{section}] has no {key}")
    return integer(inf, found, 0)


def _binary(inf: Inf, line: Line, section: str) -> str:
    r"""ServiceBinary relative to the system root; `{label}` stands for the package's folder in the driver store."""
    found = inf.find(section, "ServiceBinary")
    match = _BINARY.fullmatch(found.value(0)) if found else None
    if not found or not match or not (int(match[1]) == DRIVER_STORE or int(match[1]) in DIRIDS):
        raise inf.refused(
            found.number if found else line.number, "ServiceBinary is not a file below the Windows folder"
        )
    stored = ("System32", "DriverStore", "FileRepository", "{label}")
    folder = stored if int(match[1]) == DRIVER_STORE else DIRIDS[int(match[1])]
    try:
        return "\\".join((GuestPath(folder) / match[2]).parts)
    except ValueError as error:
        raise inf.refused(found.number, str(error)) from None
