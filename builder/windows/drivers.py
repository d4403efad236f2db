"""Which drivers a Windows gets from a disc: the table of known ones, and the choice of a package for each.

A disc in virtio-win's layout has `<driver>/<release>/<arch>/`; the flattened copies `amd64/<release>/` are used only
where that is missing. A package is taken when its folder is named for the release (or one the FALLBACK table allows)
and its INF is decorated for it. There is no "closest match".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from builder.errors import ConfigError, InputRefused, NoDriver
from builder.model import Bus, DriverPackage, Media, Selection
from builder.windows import inf_install, signatures
from builder.windows.inf_install import Target
from builder.windows.package import Shelf, load, read_inf, shelf
from builder.windows.paths import MediaPath
from builder.windows.releases import RELEASES, Arch, Release
from builder.windows.signatures import Verdict

Policy = Literal["required", "optional", "skip"]


@dataclass(frozen=True, slots=True)
class Driver:
    """One row is one driver.

    name      the INF's stem, lower-case
    device    what it drives, in libvirt's words
    policy    what a build does without being told
    bus       the disk bus Windows can boot from with it
    never_for releases it was never made for: there a missing one is no error unless asked for by name
    unless    the driver that takes its place when the disc has it
    """

    name: str
    device: str
    policy: Policy = "optional"
    bus: Bus | None = None
    never_for: tuple[str, ...] = ()
    unless: str = ""


DRIVERS = (
    Driver("viostor", "disk bus virtio", "required", Bus.VIRTIO),
    Driver("vioscsi", "controller model virtio-scsi", "required", Bus.SCSI, never_for=("xp", "2k3")),
    Driver("netkvm", "interface model virtio"),
    Driver("balloon", "memballoon model virtio"),
    Driver("vioser", "controller type virtio-serial"),
    Driver("viorng", "rng model virtio"),
    Driver("viofs", "filesystem driver virtiofs"),
    Driver("vioinput", "input bus virtio"),
    Driver("viogpudo", "video model virtio"),
    Driver("viosock", "vsock model virtio"),
    Driver("viomem", "memory model virtio-mem"),
    Driver("pvpanic", "panic model isa"),
    Driver("pvpanic-pci", "panic model pvpanic"),
    Driver("fwcfg", "QEMU firmware configuration (vmcoreinfo)"),
    Driver("qemufwcfg", "QEMU firmware configuration (name only)", unless="fwcfg"),
    Driver("smbus", "Q35 SM bus (name only)"),
    Driver("qemupciserial", "serial type pci-serial"),
    Driver("qxldod", "video model qxl", "skip"),
    Driver("qxl", "video model qxl, up to Windows 7", "skip"),
)

FALLBACK: Mapping[str, tuple[str, ...]] = {
    "vista": ("2k8",),
    "2k8": ("vista",),
    "w7": ("2k8R2",),
    "2k8R2": ("w7",),
    "w8": ("2k12",),
    "2k12": ("w8",),
    "w8.1": ("2k12R2",),
    "2k12R2": ("w8.1",),
    "w11": ("w10",),
    "2k16": ("w10",),
    "2k19": ("2k16",),
    "2k22": ("2k19", "2k16"),
    "2k25": ("2k22", "2k19", "2k16"),
}
"""Folders that serve another release: the same kernel sold twice, or, from Windows 10 on, an earlier release."""

_SCSI_ADAPTER = "{4d36e97b-e325-11ce-bfc1-08002be10318}"
_ARCHES = {"x86": Arch.X86, "i386": Arch.X86, "amd64": Arch.AMD64, "x64": Arch.AMD64, "arm64": Arch.ARM64}
_RELEASE_NAMES = {row.name.lower(): row.name for row in RELEASES}
_LEFT_ALONE = frozenset({"sriov", "debug"})  # virt-v2v leaves them too: VF protocol driver, debug builds

Place = tuple[str, Arch]
Found = Mapping[tuple[str, Place], tuple[MediaPath, ...]]


def target(release: Release, arch: Arch, build: int) -> Target:
    """The Windows as INF decorations count it."""
    return Target(arch, release.nt, build, release.server)


def default_policy(name: str) -> Policy:
    """What a build does with a driver of the table without being told."""
    return next(driver.policy for driver in DRIVERS if driver.name == name)


def select(media: Media, release: Release, arch: Arch, build: int, policy: Mapping[str, Policy]) -> Selection:
    """A package for every known driver that is not skipped; `policy` (driver name -> what to do) overrides the table.

    Raises NoDriver when a required one is not on the disc, InputRefused when its package cannot be used, and
    ConfigError for a name that is not in the table. Optional ones are left out with the reason.
    """
    _check_names(policy)
    disc = shelf(media)
    found = _find(media.files())
    packages: list[DriverPackage] = []
    left_out: list[tuple[str, str]] = []
    for driver in DRIVERS:
        wish = policy.get(driver.name, "optional" if release.name in driver.never_for else driver.policy)
        if wish == "skip":
            continue
        if driver.unless in {package.name for package in packages}:
            left_out.append((driver.name, f"{driver.unless} drives the same device"))
            continue
        try:
            packages.append(_choose(disc, found, driver, release, target(release, arch, build)))
        except InputRefused as error:
            if wish == "required":
                raise
            left_out.append((driver.name, error.what))
    return Selection(tuple(packages), tuple(left_out))


def verdict(package: DriverPackage, release: Release) -> Verdict:
    """What this Windows does with the package; one without kernel code needs to be trusted, never test mode."""
    found = signatures.verdict(package.signature, release, package.arch)
    kernel_code = any(file.path.name.lower().endswith(".sys") for file in package.files)
    return Verdict.LOADS if found is Verdict.TEST_MODE and not kernel_code else found


def _check_names(policy: Mapping[str, Policy]) -> None:
    known = [driver.name for driver in DRIVERS]
    for name in policy:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"there is no driver {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
                fix=f"known drivers: {', '.join(known)}",
            )


# ---------------------------------------------------------------- what the disc has


def _find(files: tuple[MediaPath, ...]) -> Found:
    """(INF stem, (release, arch)) -> where it is; `<release>/<arch>` wins over the flattened `<arch>/<release>`."""
    own: dict[tuple[str, Place], tuple[MediaPath, ...]] = {}
    flattened: dict[tuple[str, Place], tuple[MediaPath, ...]] = {}
    for path in files:
        folders = [part.lower() for part in path.folder]
        if not path.name.lower().endswith(".inf") or len(folders) < 2 or _LEFT_ALONE & set(folders):
            continue
        for table, (system, arch) in ((own, folders[-2:]), (flattened, folders[:-3:-1])):
            if system in _RELEASE_NAMES and arch in _ARCHES:
                key = (path.name.lower().removesuffix(".inf"), (_RELEASE_NAMES[system], _ARCHES[arch]))
                table[key] = (*table.get(key, ()), path)
    return flattened | own


def _choose(disc: Shelf, found: Found, driver: Driver, release: Release, windows: Target) -> DriverPackage:
    for name in (release.name, *FALLBACK.get(release.name, ())):
        for path in _only(disc, found.get((driver.name, (name, windows.arch)), ())):
            inf = read_inf(disc, path)
            if not inf_install.devices(inf, windows):
                continue
            instead = "" if name == release.name else f"the disc has none for {release.name}, {name} serves it too; "
            because = f"{instead}folder {'/'.join(path.folder)}, INF decorated {inf_install.decoration(inf, windows)}"
            return _usable(load(disc, path, inf, windows, because), driver, release)
    raise NoDriver(
        f"no {driver.name} driver for {release.title} ({windows.arch}) on {disc.media.label}",
        why=f"the disc has {driver.name} for: {_listed(found, driver) or 'no Windows at all'}",
        fix="use a disc that has it (virtio-win), or set the driver to optional",
    )


def _only(disc: Shelf, paths: tuple[MediaPath, ...]) -> Iterator[MediaPath]:
    """The one package of several copies; two that differ are refused, for we would have to guess."""
    if len({disc.media.read(path) for path in paths}) > 1:
        raise InputRefused(
            f"two different packages for the same Windows on {disc.media.label}: {' and '.join(map(str, paths))}",
            why="which of them is meant cannot be known",
            fix="keep one of them",
        )
    yield from paths[:1]


def _listed(found: Found, driver: Driver) -> str:
    return ", ".join(sorted(f"{name}/{arch}" for stem, (name, arch) in found if stem == driver.name))


def _usable(package: DriverPackage, driver: Driver, release: Release) -> DriverPackage:
    """The package, or InputRefused when this Windows would not load it, or could not boot from it."""
    if verdict(package, release) is Verdict.REFUSED:
        raise InputRefused(
            f"{package.inf.path}: {release.title} ({package.arch}) would not load it ({package.signature.why})",
            why=f"the package is {package.signature.signer}",
            fix="use an unmodified virtio-win disc",
        )
    if driver.bus and package.class_guid != _SCSI_ADAPTER:
        raise InputRefused(
            f"{package.inf.path} is of class {package.class_name}, a disk driver is of class SCSIAdapter"
        )
    if driver.bus and not any(service.start == 0 for service in package.services):
        raise InputRefused(f"{package.inf.path} installs no boot-start service, so Windows could not boot with it")
    return package
