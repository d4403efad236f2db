"""What an image shall become, decided before anything is touched: the same inputs always give the same plan."""

from __future__ import annotations

from collections.abc import Iterator

from builder.config import BuildSpec
from builder.errors import ConfigError, InputRefused
from builder.model import (
    Certificate,
    DriverPackage,
    Edit,
    Guest,
    Plan,
    Provides,
    PutFile,
    Selection,
    SetValue,
    WriteFile,
)
from builder.windows import bcd, certificates, driver_database, drivers, firstboot, settings
from builder.windows.signatures import Verdict

_BOOT_DRIVERS = {driver.name: driver.bus for driver in drivers.DRIVERS if driver.bus}
_NO_JOB = firstboot.Job()
_SPARE_BYTES = 100 << 20  # left free on C: after the build, as virt-v2v demands before one


def plan(guest: Guest, selection: Selection, spec: BuildSpec, job: firstboot.Job = _NO_JOB) -> Plan:
    """Raises ConfigError when the settings contradict each other, InputRefused when Windows cannot take the drivers.

    `job` is what the first boot shall do.
    """
    needing = {one.name: one for one in selection.packages if _needs_test_mode(one, guest)}
    test_mode = _test_mode(needing, spec)
    packages = tuple(one for one in selection.packages if test_mode or one.name not in needing)
    left_out = tuple((name, f"{one.signature.why}; test mode is off") for name, one in needing.items() if not test_mode)
    selection = Selection(packages, (*selection.left_out, *left_out))
    edits = _unique(
        (
            *_driver_edits(packages, guest),
            *_boot_settings(guest, needing, spec, test_mode),
            *settings.edits(guest, _settings(spec)),
            *firstboot.edits(guest, packages, job),
        )
    )
    _require_space(edits, guest)
    return Plan(
        guest=guest,
        selection=selection,
        edits=edits,
        trusted=_trusted(packages),
        provides=Provides(
            boot_buses=guest.boot_buses | {_BOOT_DRIVERS[one.name] for one in packages if one.name in _BOOT_DRIVERS},
            devices=frozenset(one.name for one in packages),
            test_signing=test_mode,
        ),
        notes=tuple(_notes(needing, test_mode)),
    )


def _needs_test_mode(package: DriverPackage, guest: Guest) -> bool:
    return drivers.verdict(package, guest.release) is Verdict.TEST_MODE


def _test_mode(needing: dict[str, DriverPackage], spec: BuildSpec) -> bool:
    """Whether test mode shall be on; a required driver that needs it decides when the user left it to us."""
    required = [name for name, one in needing.items() if drivers.policy_of(one, spec.drivers) == "required"]
    if spec.test_signing == "off" and required:
        raise ConfigError(
            f"test_signing is off, but {', '.join(required)} will not load without it",
            why=needing[required[0]].signature.why,
            fix="set test_signing to auto, or give a disc with drivers Microsoft signed for this release",
        )
    wanted = spec.test_signing == "on" or (spec.test_signing == "auto" and bool(required))
    if wanted and spec.secure_boot:
        raise ConfigError(
            "test mode and Secure Boot exclude each other: Windows ignores testsigning under Secure Boot",
            why=f"test_signing is {spec.test_signing}"
            + (f", and {', '.join(required)} will not load without test mode" if required else ""),
            fix="turn secure_boot off, or give a disc with drivers Microsoft signed for this release",
        )
    return wanted


def _driver_edits(packages: tuple[DriverPackage, ...], guest: Guest) -> Iterator[Edit]:
    names = _published_names(packages, guest)
    for package, oem in zip(packages, names, strict=True):
        yield from driver_database.staged(package, guest, oem)
        if drivers.starts_windows(package):
            yield from driver_database.boot_critical(package, guest)
        yield from certificates.trust(package.signature)
    yield from driver_database.device_path(packages, guest)
    if guest.driver_database:
        yield driver_database.published_map(guest.oem_inf_map, names)


def _published_names(packages: tuple[DriverPackage, ...], guest: Guest) -> list[str]:
    """oemN.inf for each package, the one it already has or the next that is free; "" up to Windows 7."""
    if not guest.driver_database:
        return [""] * len(packages)
    known = [driver_database.already(package, guest) for package in packages]
    free = iter(guest.free_oem)
    names = [name or f"oem{next(free, -1)}.inf" for name in known]
    if "oem-1.inf" in names:
        raise InputRefused(
            f"there is no name left to publish {packages[names.index('oem-1.inf')].name} under",
            why=f"{len(packages)} packages need a number, {len(guest.free_oem)} oemN.inf are free",
            fix="remove driver packages inside the guest with `pnputil /delete-driver`",
        )
    return names


def _trusted(packages: tuple[DriverPackage, ...]) -> tuple[Certificate, ...]:
    """The certificates that `certificates.trust` stores, each once."""
    signatures_ = [one.signature for one in packages if certificates.trust(one.signature)]
    found = [one for signature in signatures_ for one in (signature.root, signature.leaf) if one]
    return tuple({one.thumbprint: one for one in found}.values())


def _boot_settings(
    guest: Guest, needing: dict[str, DriverPackage], spec: BuildSpec, test_mode: bool
) -> Iterator[SetValue]:
    """What is set in the boot store; nothing when nothing is asked for."""
    wanted = bcd.Settings(
        testsigning=(", ".join(needing) or "asked for") if test_mode else None,
        nointegritychecks=not spec.integrity_checks,
        loadoptions=spec.load_options,
        recoveryenabled=spec.recovery_enabled,
        bootstatuspolicy=spec.boot_status_policy,
        timeout=spec.boot_menu_timeout,
        ems=spec.ems,
        all_loaders=spec.all_loaders,
    )
    found = tuple(bcd.edits(guest.boot, wanted)) if guest.release.has_bcd else ()
    if not guest.release.has_bcd and wanted != bcd.Settings(all_loaders=wanted.all_loaders):
        raise ConfigError(
            f"{guest.release.title} has no boot store to set anything in",
            why="it is started by ntldr and boot.ini, and enforces no driver signatures",
            fix="leave test_signing at auto, and the other boot options unset",
        )
    yield from found


def _settings(spec: BuildSpec) -> settings.Wanted:
    switches = frozenset(option for option in settings.TABLE if getattr(spec, option))
    return settings.Wanted(switches, spec.crash_dump, spec.auto_reboot, spec.hostname)


def _unique(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """Without repetitions: two packages may carry the same certificate, or one value may follow from two rules."""
    return tuple({_place(edit): edit for edit in edits}.values())


def _place(edit: Edit) -> tuple[str, ...]:
    match edit:
        case PutFile() | WriteFile():
            return ("file", str(edit.target).lower())
        case SetValue():
            return (edit.hive, *(part.lower() for part in edit.key), "=", edit.name.lower())
    return (edit.hive, *(part.lower() for part in edit.key))


def _require_space(edits: tuple[Edit, ...], guest: Guest) -> None:
    needed = sum(edit.source.size for edit in edits if isinstance(edit, PutFile)) + _SPARE_BYTES
    if needed > guest.free_bytes:
        raise InputRefused(
            "the Windows volume is too full",
            why=f"{guest.free_bytes >> 20} MiB are free, {needed >> 20} MiB are needed",
            fix="free space inside the guest, or enlarge the disk and its partition",
        )


def _notes(needing: dict[str, DriverPackage], test_mode: bool) -> Iterator[str]:
    if test_mode and needing:
        why = next(iter(needing.values())).signature.why
        yield f"test mode is switched on because {', '.join(needing)} need it: {why}"
    elif test_mode:
        yield "test mode is switched on because it was asked for"
