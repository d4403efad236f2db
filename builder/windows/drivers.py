"""Which drivers a Windows gets from a disc: the table of known ones, and the choice of a package for each.

A package is taken when its folder is named for the release (or one the FALLBACK table allows) and its INF is decorated
for it. A folder named for no Windows leaves it to the INF. There is no "closest match". What folders mean is `places`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from builder.errors import ConfigError, InputRefused, NoDriver
from builder.model import Bus, DriverPackage, Guest, Media, Selection
from builder.windows import inf_install, signatures
from builder.windows.inf import Inf
from builder.windows.inf_install import Target
from builder.windows.package import Shelf, load, read_inf, shelf
from builder.windows.paths import MediaPath
from builder.windows.places import Place, find, is_added
from builder.windows.releases import Arch, Release
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
    Driver("vioscsi", "controller model virtio-scsi", "required", Bus.SCSI, never_for=("xp", "xp64", "2k3")),
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
    "xp64": ("2k3",),
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


def target(release: Release, arch: Arch, build: int) -> Target:
    """The Windows as INF decorations count it."""
    return Target(arch, release.nt, build, release.server)


def policy_of(package: DriverPackage, policy: Mapping[str, Policy]) -> Policy:
    """What a build does about a package: what `policy` says, else required when it was added, else the table."""
    return _wish(_known(package.name, added=is_added(package.inf.path)), policy)


def installed(guest: Guest) -> frozenset[str]:
    """The known drivers the guest has a package of: published ones, or folders where Windows 7 and earlier search."""
    published = {label.lower().partition(".inf_")[0] for label in guest.published.values()}
    searched = {part.lower().rpartition("\\")[2] for part in guest.device_path.split(";")}
    return frozenset(driver.name for driver in DRIVERS) & (published | searched)


def select(media: Media, release: Release, arch: Arch, build: int, policy: Mapping[str, Policy]) -> Selection:
    """A package for every known or added driver that is not skipped; `policy` (name -> what to do) overrides the table.

    Raises NoDriver when a required one is not on the disc, InputRefused when its package cannot be used, and
    ConfigError for a name that is neither known nor added. Optional ones are left out with the reason.
    """
    disc, found = shelf(media), find(media.files())
    drivers = _drivers(found)
    _check_names(policy, [driver.name for driver in drivers])
    packages: list[DriverPackage] = []
    left_out: list[tuple[str, str]] = []
    for driver in drivers:
        wish = _wish(driver, policy, release)
        if wish == "skip":
            continue
        if driver.unless in {package.name for package in packages}:
            left_out.append((driver.name, f"{driver.unless} drives the same device"))
            continue
        try:
            package = choose(disc, found.get(driver.name, ()), driver.name, release, target(release, arch, build))
            packages.append(_usable(package, driver, release))
        except InputRefused as error:
            if wish == "required":
                raise
            left_out.append((driver.name, error.what))
    return Selection(tuple(packages), tuple(left_out))


def _drivers(found: Mapping[str, tuple[Place, ...]]) -> tuple[Driver, ...]:
    """The table, and what was added; an added driver of the table is as much asked for as any other added one."""
    added = {name for name, places in found.items() if places[0].added}
    names = [*(driver.name for driver in DRIVERS), *sorted(added - {driver.name for driver in DRIVERS})]
    return tuple(_known(name, added=name in added) for name in names)


def _known(name: str, *, added: bool) -> Driver:
    row = next((driver for driver in DRIVERS if driver.name == name), Driver(name, ""))
    return replace(row, policy="required", never_for=()) if added else row


def _wish(driver: Driver, policy: Mapping[str, Policy], release: Release | None = None) -> Policy:
    missing_is_fine = release is not None and release.name in driver.never_for
    return policy.get(driver.name, "optional" if missing_is_fine else driver.policy)


def verdict(package: DriverPackage, release: Release) -> Verdict:
    """What this Windows does with the package; one without kernel code needs to be trusted, never test mode."""
    kernel_code = any(file.path.name.lower().endswith(".sys") for file in package.files)
    return signatures.verdict(package.signature, release, package.arch, kernel_code=kernel_code)


def starts_windows(package: DriverPackage) -> bool:
    """Whether Windows may have to boot with it: a disk controller's driver that the boot loader loads."""
    return package.class_guid == _SCSI_ADAPTER and any(service.start == 0 for service in package.services)


def _check_names(policy: Mapping[str, Policy], known: list[str]) -> None:
    for name in policy:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"there is no driver {name!r}" + (f", did you mean {near[0]!r}?" if near else ""),
                fix=f"known drivers: {', '.join(known)}",
            )


# ---------------------------------------------------------------- what the disc has


def choose(disc: Shelf, places: tuple[Place, ...], name: str, release: Release, windows: Target) -> DriverPackage:
    """The package of one driver for a Windows, whether or not that would load it. Raises InputRefused."""
    for folder in (release.name, *FALLBACK.get(release.name, ()), None):
        here = [one.path for one in places if one.serves(folder, windows.arch)]
        fitting = [(path, inf) for path in here if inf_install.devices(inf := read_inf(disc, path), windows)]
        if fitting:
            path, inf = _only(disc, fitting)
            instead = f"the disc has none for {release.name}, {folder} serves it too; "
            because = f"folder {'/'.join(path.folder)}, INF decorated {inf_install.decoration(inf, windows)}"
            return load(disc, path, inf, windows, (instead if folder not in (release.name, None) else "") + because)
    raise NoDriver(
        f"no {name} driver for {release.title} ({windows.arch}) on {disc.media.label}",
        why=f"the disc has {name} for: {', '.join(sorted(set(map(str, places)))) or 'no Windows at all'}",
        fix="use a disc that has it (virtio-win), or set the driver to optional",
    )


def _only(disc: Shelf, fitting: list[tuple[MediaPath, Inf]]) -> tuple[MediaPath, Inf]:
    """The one package of several copies; two that differ are refused, for we would have to guess."""
    if len({disc.media.read(path) for path, _ in fitting}) > 1:
        raise InputRefused(
            f"two different packages for the same Windows on {disc.media.label}: "
            + " and ".join(str(path) for path, _ in fitting),
            why="which of them is meant cannot be known",
            fix="keep one of them",
        )
    return fitting[0]


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
