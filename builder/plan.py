"""What an image shall become, decided before anything is touched: the same inputs always give the same plan."""

from __future__ import annotations

from collections.abc import Iterator

from builder.config import BuildSpec
from builder.errors import ConfigError, InputRefused
from builder.model import Certificate, DriverPackage, Edit, Guest, Plan, Provides, PutFile, Selection, SetValue
from builder.windows import bcd, certificates, driver_database, drivers
from builder.windows.signatures import Verdict

_BOOT_DRIVERS = {driver.name: driver.bus for driver in drivers.DRIVERS if driver.bus}
_SPARE_BYTES = 100 << 20  # left free on C: after the build, as virt-v2v demands before one


def plan(guest: Guest, selection: Selection, spec: BuildSpec) -> Plan:
    """Raises ConfigError when the settings contradict each other, InputRefused when Windows cannot take the drivers."""
    needing = {one.name: one for one in selection.packages if _needs_test_mode(one, guest)}
    test_mode = _test_mode(needing, spec)
    packages = tuple(one for one in selection.packages if test_mode or one.name not in needing)
    left_out = tuple((name, f"{one.signature.why}; test mode is off") for name, one in needing.items() if not test_mode)
    selection = Selection(packages, (*selection.left_out, *left_out))
    edits = _unique((*_driver_edits(packages, guest), *_boot_settings(guest, needing, spec, test_mode)))
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
    required = [name for name in needing if spec.drivers.get(name, drivers.default_policy(name)) == "required"]
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
    free = iter(guest.free_oem)
    names = [driver_database.already(package, guest) or f"oem{next(free)}.inf" for package in packages]
    for package, oem in zip(packages, names, strict=True):
        yield from driver_database.staged(package, guest, oem)
        if package.name in _BOOT_DRIVERS:
            yield from driver_database.boot_critical(package, guest)
        yield from certificates.trust(package.signature)
    yield from driver_database.device_path(packages, guest)
    if guest.driver_database:
        yield driver_database.published_map(guest.oem_inf_map, names)


def _trusted(packages: tuple[DriverPackage, ...]) -> tuple[Certificate, ...]:
    """The certificates that `certificates.trust` stores, each once."""
    signatures_ = [one.signature for one in packages if certificates.trust(one.signature)]
    found = [one for signature in signatures_ for one in (signature.root, signature.leaf) if one]
    return tuple({one.thumbprint: one for one in found}.values())


def _boot_settings(
    guest: Guest, needing: dict[str, DriverPackage], spec: BuildSpec, test_mode: bool
) -> Iterator[SetValue]:
    """What is set in the BCD, each as the bcdedit command it stands for; untouched when nothing is asked."""
    if not (test_mode or spec.load_options or not spec.integrity_checks):
        return
    guid = bcd.chosen(guest.boot.loaders).guid
    if test_mode:
        whose = ", ".join(needing) or "asked for"
        yield bcd.set_flag(guid, "testsigning", True, f"bcdedit /set testsigning on ({whose})")
    if not spec.integrity_checks:
        yield bcd.set_flag(guid, "nointegritychecks", True, "bcdedit /set nointegritychecks on (asked for)")
    if spec.load_options:
        reason = f"bcdedit /set loadoptions {spec.load_options} (asked for)"
        yield bcd.set_text(guid, "loadoptions", spec.load_options, reason)


def _unique(edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """Without repetitions: two packages may carry the same certificate, or one value may follow from two rules."""
    return tuple({_place(edit): edit for edit in edits}.values())


def _place(edit: Edit) -> tuple[str, ...]:
    match edit:
        case PutFile():
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
