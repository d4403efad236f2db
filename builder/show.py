"""Values as people and programs read them: aligned text, and JSON. What came from the guest is printable by now."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from builder.model import (
    BootReport,
    Change,
    CheckReport,
    DeleteKey,
    DriverPackage,
    Edit,
    Guest,
    Plan,
    PutFile,
    SetValue,
)


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
    }


def guest_text(guest: Guest) -> str:
    rows = (
        ("Windows", f"{guest.product or guest.release.title} ({guest.release.title}, build {guest.build})"),
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
    )
    return _table(rows)


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
    return {**row, "reason": edit.reason}


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
    }


def plan_text(plan: Plan, changes: tuple[Change, ...]) -> str:
    """A review document: what will be there, why, and what is there now."""
    return "\n\n".join((guest_text(plan.guest), drivers_text(plan), _changes(changes)))


def drivers_text(plan: Plan) -> str:
    """What was chosen from the disc and what was not, each with its reason, and what follows from that."""
    chosen = (
        (one.name, f"{one.version_text:18}{one.signature.signer:14}{one.chosen_because}")
        for one in plan.selection.packages
    )
    left = ((name, f"left out: {why}") for name, why in plan.selection.left_out)
    return "\n".join((_table((*chosen, *left)), *plan.notes))


def _changes(changes: tuple[Change, ...]) -> str:
    if not changes:
        return "nothing to do: the image already is what the plan says"
    lines = [f"{len(changes)} changes:"]
    for reason, batch in groupby(changes, key=lambda one: one.edit.reason):
        lines.append(f"# {reason}")
        lines.extend(_change(one) for one in batch)
    return "\n".join(lines)


def _change(change: Change) -> str:
    was = f"    (was: {change.before})" if change.before else ""
    match change.edit:
        case SetValue() as edit:
            return f"  {edit.hive}\\{chr(92).join(edit.key)} : {edit.name or '(default)'} = {edit.value}{was}"
        case DeleteKey() as edit:
            return f"  {edit.hive}\\{chr(92).join(edit.key)} deleted"
        case PutFile() as edit:
            return f"  {edit.target}  {edit.source.size} bytes{was}"


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
