"""The documents of a published image: what it is made of, what was seen of it, and how anybody can tell. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import builder
from builder import show
from builder.config import BuildSpec
from builder.model import Applied, BootReport, CheckReport, Domain, DriverPackage
from builder.windows import drivers

SCHEMA = 1
"""Of manifest.json; grows when a name in it changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What decides the result: two builds with equal inputs make the same image. Digests are SHA-256, lower-case hex.

    source   of the image; `drivers` of the driver disc
    driver_folders  of the drivers that were added to it, "" for none
    spec     BuildSpec.digest
    tool     the version of winfoundry
    """

    name: str
    source: str
    drivers: str
    spec: str
    driver_folders: str = ""
    tool: str = builder.__version__


@dataclass(frozen=True, slots=True)
class Build:
    """A build that is ready to be published; `boot` and `checks` are None when there was no boot, no checks."""

    spec: BuildSpec
    inputs: Inputs
    applied: Applied
    domain: Domain
    boot: BootReport | None
    checks: CheckReport | None
    started: datetime


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of the published folder: its name there, its size in bytes."""

    name: str
    sha256: str
    size: int


def manifest(build: Build, image: Artifact, tools: Mapping[str, str]) -> dict[str, object]:
    """manifest.json. What time it was stands in the provenance only, so that two builds can be compared."""
    plan = build.applied.plan
    return {
        "schema": SCHEMA,
        "tool": {"name": "winfoundry", "version": builder.__version__},
        "inputs": asdict(build.inputs),
        "image": asdict(image),
        **{name: value for name, value in show.plan_json(plan, build.applied.changes).items() if name != "digest"},
        "plan": {"digest": plan.digest},
        "drivers": [_driver(one, build) for one in plan.selection.packages],
        "boot": _boot(build.boot),
        "checks": _checks(build.checks),
        "tools": dict(tools),
    }


def _driver(package: DriverPackage, build: Build) -> dict[str, object]:
    guest = build.applied.plan.guest
    return {
        **show.package_json(package),
        "verdict": str(drivers.verdict(package, guest.release)),
    }


def _boot(report: BootReport | None) -> dict[str, object]:
    if report is None:
        return {"verdict": "not-booted"}
    return {
        "verdict": report.verdict,
        "advice": report.advice,
        "accelerator": report.accelerator,
        "bus": str(report.bus),
        "seconds": round(report.seconds, 1),
        "guest": report.guest,
        "stand_in": report.stand_in,
    }


def _checks(report: CheckReport | None) -> dict[str, object]:
    if report is None:
        return {"verdict": "not-checked"}
    return {
        "verdict": "passed" if report.ok else "failed",
        "passed": report.passed,
        "failed": list(report.failed),
        "skipped": [{"name": name, "why": why} for name, why in report.skipped],
    }


def packer_manifest(build: Build, files: tuple[Artifact, ...], *, at: datetime, run: str) -> dict[str, object]:
    """packer-manifest.json, in the shape of Packer's `manifest` post-processor."""
    entry = {
        "name": build.inputs.name,
        "builder_type": "winfoundry",
        "build_time": int(at.timestamp()),
        "files": [{"name": one.name, "size": one.size} for one in files],
        "artifact_id": f"sha256:{files[0].sha256}",
        "packer_run_uuid": run,
        "custom_data": {"plan_digest": build.applied.plan.digest, "boot": str(_boot(build.boot)["verdict"])},
    }
    return {"builds": [entry], "last_run_uuid": run}


def provenance(build: Build, image: Artifact, tools: Mapping[str, str], *, at: datetime, run: str) -> dict[str, object]:
    """provenance.json: an in-toto statement (v1) with a SLSA provenance (v1) about the image. It is not signed."""
    added = build.inputs.driver_folders
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": image.name, "digest": {"sha256": image.sha256}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:winfoundry:build:v1",
                "externalParameters": build.spec.model_dump(mode="json", exclude_none=True),
                "internalParameters": {"plan_digest": build.applied.plan.digest},
                "resolvedDependencies": [
                    {"name": build.spec.source.name, "digest": {"sha256": build.inputs.source}},
                    {"name": build.spec.virtio_win.name, "digest": {"sha256": build.inputs.drivers}},
                    *([{"name": "driver_folders", "digest": {"sha256": added}}] if added else []),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "urn:winfoundry:local",
                    "version": {"winfoundry": builder.__version__, **tools},
                },
                "metadata": {
                    "invocationId": run,
                    "startedOn": _timestamp(build.started),
                    "finishedOn": _timestamp(at),
                },
            },
        },
    }


def _timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sums(files: tuple[Artifact, ...]) -> str:
    """SHA256SUMS, as `sha256sum -c` reads it."""
    return "".join(f"{one.sha256}  {one.name}\n" for one in files)
