"""Values as people and programs read them: aligned text, and JSON. What came from the guest is printable by now."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from builder import review
from builder.edits import DeleteValue, Undo, reverse
from builder.model import (
    BootReport,
    Change,
    CheckReport,
    DeleteKey,
    DeviceInstall,
    DriverPackage,
    Edit,
    Guest,
    Plan,
    PutFile,
    SetValue,
    WriteFile,
)
from builder.windows import states
from builder.windows.offers import Offer
from builder.windows.signatures import Verdict


def guest_json(guest: Guest) -> dict[str, object]:
    """The facts of `winfoundry inspect --json`; names do not change within a major version."""
    return {
        "release": guest.release.name,
        "title": guest.release.title,
        "product": guest.product,
        "edition": guest.edition,
        "build": guest.build,
        "arch": str(guest.arch),
        "firmware": str(guest.firmware),
        "system_volume": guest.device,
        "system_root": str(guest.system_root),
        "version": states.version(guest.build),
        "server": guest.release.server,
        "boot_store": {"volume": guest.boot.device, "path": guest.boot.path},
        "loaders": [
            {"identifier": one.guid, "description": one.description, "path": one.path, "default": one.default}
            for one in guest.boot.loaders
        ],
        "control_sets": list(guest.control_sets),
        "driver_database": guest.driver_database,
        "published_packages": dict(guest.published),
        "boots_from": sorted(guest.boot_buses),
        "free_bytes": guest.free_bytes,
        "notes": list(guest.notes),
    }


def guest_text(guest: Guest) -> str:
    rows = (
        ("Windows", f"{guest.product or guest.release.title} ({_release(guest)})"),
        ("edition", guest.edition),
        ("architecture", guest.arch),
        ("firmware", guest.firmware),
        ("system volume", f"{guest.device} {guest.system_root}, {guest.free_bytes >> 20} MiB free"),
        ("boot store", f"{guest.boot.device} {guest.boot.path}"),
        *(
            ("loader", f"{one.description} {one.path}" + (" (default)" if one.default else ""))
            for one in guest.boot.loaders
        ),
        ("control sets", ", ".join(guest.control_sets)),
        ("driver database", "yes" if guest.driver_database else "no, CriticalDeviceDatabase"),
        ("third-party drivers", ", ".join(guest.published.values()) or "none"),
        ("boots today from", ", ".join(sorted(guest.boot_buses)) or "no bus we know"),
        *(("note", one) for one in guest.notes),
    )
    return _table(rows)


def _release(guest: Guest) -> str:
    version = states.version(guest.build)
    return f"{guest.release.title}{' ' + version if version else ''}, build {guest.build}"


def package_json(one: DriverPackage) -> dict[str, object]:
    return {
        "name": one.name,
        "inf": str(one.inf.path),
        "inf_sha256": one.inf.sha256,
        "version": one.version_text,
        "date": one.date,
        "class": one.class_name,
        "label": one.label,
        "signer": str(one.signature.signer),
        "signed_by": one.signature.by,
        "why": one.signature.why,
        "chosen_because": one.chosen_because,
        "includes": list(one.includes),
    }


def edit_json(edit: Edit) -> dict[str, object]:
    row: dict[str, object] = {}
    match edit:
        case SetValue():
            key = "\\".join(edit.key)
            row = {"hive": str(edit.hive), "key": key, "name": edit.name, "value": str(edit.value)}
        case DeleteKey():
            row = {"hive": str(edit.hive), "delete": "\\".join(edit.key)}
        case PutFile():
            row = {"file": str(edit.target), "from": str(edit.source.path), "sha256": edit.source.sha256}
        case WriteFile():
            row = {"file": str(edit.target), "sha256": edit.sha256}
    return {**row, "reason": edit.reason}


def undo_json(edit: Undo) -> dict[str, object]:
    """A reverse edit, exact: the type as a number, the data in hex."""
    row: dict[str, object] = {"hive": str(edit.hive), "key": "\\".join(edit.key), "name": edit.name}
    if isinstance(edit, DeleteValue):
        return {**row, "delete": True}
    return {**row, "type": int(edit.value.type), "data": edit.value.data.hex()}


def plan_json(plan: Plan, changes: tuple[Change, ...]) -> dict[str, object]:
    return {
        "digest": plan.digest,
        "guest": guest_json(plan.guest),
        "drivers": [package_json(one) for one in plan.selection.packages],
        "left_out": [{"name": name, "why": why} for name, why in plan.selection.left_out],
        "test_signing": plan.provides.test_signing,
        "trusted": [{"thumbprint": one.thumbprint, "subject": one.subject} for one in plan.trusted],
        "boots_from": sorted(plan.provides.boot_buses),
        "notes": list(plan.notes),
        "changes": [{**edit_json(one.edit), "before": one.before} for one in changes],
        "reverse": [undo_json(one) for one in reverse(changes)],
    }


def plan_text(plan: Plan, changes: tuple[Change, ...]) -> str:
    """A review document: what will be there, why, and what is there now."""
    return "\n\n".join((guest_text(plan.guest), drivers_text(plan), review.text(changes)))


def plan_as(plan: Plan, changes: tuple[Change, ...], *, as_json: bool, backwards: bool) -> str:
    """The plan for people or as JSON; with `backwards`, what undoes its registry part."""
    if backwards:
        undo = reverse(changes)
        return json.dumps([undo_json(one) for one in undo], indent=2) if as_json else review.reverse_text(undo)
    return json.dumps(plan_json(plan, changes), indent=2) if as_json else plan_text(plan, changes)


def plan_reg(changes: tuple[Change, ...], *, backwards: bool) -> bytes:
    """The registry part of a plan as a .reg file, or with `backwards` what undoes it."""
    edits = reverse(changes) if backwards else [one.edit for one in changes]
    return review.reg_bytes(one for one in edits if not isinstance(one, PutFile | WriteFile))


def drivers_text(plan: Plan) -> str:
    """What was chosen from the disc and what was not, each with its reason, and what follows from that."""
    chosen = (
        (one.name, f"{one.version_text:18}{one.signature.signer:14}{one.chosen_because}")
        for one in plan.selection.packages
    )
    left: dict[str, list[str]] = {}
    for name, why in plan.selection.left_out:
        left.setdefault(why.replace(f" {name} ", " "), []).append(name)
    return "\n".join((_table(chosen), *(f"left out: {', '.join(of)}: {why}" for why, of in left.items()), *plan.notes))


def boot_text(report: BootReport) -> str:
    who = f" by {report.guest}" if report.guest else ""
    return f"{report.verdict}{who} after {report.seconds:.0f} s on {report.accelerator}, disk on {report.bus}"


def checks_text(report: CheckReport) -> str:
    lines = [f"{report.passed} passed, {len(report.failed)} failed, {len(report.skipped)} skipped"]
    lines.extend(f"FAILED {name}" for name in report.failed)
    lines.extend(f"skipped {name}: {why}" for name, why in report.skipped)
    return "\n".join(lines)


def _table(rows: Iterable[tuple[str, object]]) -> str:
    return "\n".join(f"{name:20} {value}" for name, value in rows)


def offer_json(one: Offer) -> dict[str, object]:
    """A row of `winfoundry drivers --json`."""
    package = package_json(one.package) if one.package else {"name": one.name, "why": one.why}
    ids = [name for device in one.package.devices for name in device_ids(device)] if one.package else []
    return {**package, "for": one.windows, "verdict": str(one.verdict), "ids": list(dict.fromkeys(ids))}


def device_ids(device: DeviceInstall) -> tuple[str, ...]:
    return (device.hardware_id, *device.compatible_ids)


def offers_text(found: Iterable[Offer]) -> str:
    """The table of `winfoundry drivers`; an id stands for all that differ only in subsystem and revision."""
    header = ("driver", "for", "version", "date", "signer", "verdict", "ids")
    rows = [header, *(_offer_row(one) for one in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header) - 1)]
    return "\n".join("  ".join((*map(str.ljust, row, widths), row[-1])).rstrip() for row in rows)


def _offer_row(one: Offer) -> tuple[str, ...]:
    package = one.package
    if package is None:
        return (one.name, one.windows, "-", "-", "-", "-", one.why)
    ids = {re.sub(r"&(SUBSYS|REV)_.*", "", name): None for row in package.devices for name in device_ids(row)}
    verdict = str(one.verdict) if one.verdict is not Verdict.REFUSED else f"{one.verdict}: {package.signature.why}"
    signer = (
        f"{package.signature.signer} ({package.signature.by})" if package.signature.by else package.signature.signer
    )
    return (one.name, one.windows, package.version_text, package.date, signer, verdict, " ".join(ids))
