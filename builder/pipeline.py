"""The whole job, in order. Read this first, then `builder.model`.

     source.qcow2 ──open_source──▶ Source ──inspect──▶ Guest ┐
       (never written)               │ overlay               ├─plan─▶ Plan ──outstanding──▶ Change… ──apply─┐
     virtio-win disc ──open_media──▶ Media ──select──────────┘          │ provides                          │
                                                                        └──render──▶ Domain XML             │
                                                        overlay + Domain ──boot──▶ BootReport               │
                                                        overlay ──verify─▶ CheckReport   ◀──────────────────┘
                                     overlay + Domain + both reports ──publish──▶ output_directory/

All before `publish` happens in a private workspace; a failure anywhere leaves the source and the output as they were.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from builder import apply as applying
from builder import boot as booting
from builder import doctor, inspection, publish, render, review, show, source
from builder import plan as planning
from builder import verify as verifying
from builder.config import BuildSpec, seconds
from builder.doctor import Purpose
from builder.domain_spec import DomainSpec, Trial
from builder.errors import BootFailed, ChecksFailed, ConfigError, InputRefused
from builder.host import appliance, disk_image, files
from builder.host.appliance import Appliance
from builder.host.media import open_media
from builder.manifest import Build
from builder.model import (
    Applied,
    BootReport,
    Bus,
    Change,
    CheckReport,
    Domain,
    Guest,
    Hive,
    Media,
    Plan,
    Provides,
    Source,
)
from builder.windows import bcd, drivers, firstboot

_BUSES = {"virtio": Bus.VIRTIO, "virtio-scsi": Bus.SCSI}


class Ui(Protocol):
    """Where progress is told: a stage begins, or a detail of it."""

    def say(self, text: str) -> None: ...
    def message(self, text: str) -> None: ...


def build(spec: BuildSpec, ui: Ui, *, keep_workspace: bool = False) -> Path:
    """Builds and publishes one image; the folder it is in. Raises one of `builder.errors`, with nothing published."""
    started = datetime.now(UTC)
    doctor.require(Purpose.BUILD, *([Purpose.BOOT] if spec.boot else []))
    disc = spec.virtio_win.resolve()
    with source.open_source(spec, keep_workspace=keep_workspace) as opened:
        ui.say(f"Building from {opened.path}")
        ui.message(f"SHA-256 {opened.sha256}")
        _require_disc(disc, spec.virtio_win_checksum)
        with open_media(disc, spec.driver_folders) as media:
            inputs = publish.inputs(spec, opened, media)
            if not spec.force and publish.published_already(spec.output_directory, inputs):
                ui.say(f"{spec.output_directory} was published from the same inputs: nothing to do")
                return spec.output_directory.absolute()
            publish.require_place(spec.output_directory, force=spec.force)
            applied = _inject(spec, opened, media, ui)
        workspace = opened.overlay.parent
        domain, domain_spec = _render(spec, applied, ui)
        report = _boot(domain, domain_spec, spec, workspace / "boot", ui) if spec.boot else None
        checked = _verify(applied, spec, workspace / "checks", ui) if spec.run_checks else None
        ui.say(f"Publishing to {spec.output_directory}...")
        return publish.publish(
            Build(spec, inputs, applied, domain, report, checked, started),
            spec.output_directory.absolute(),
            staging=workspace / "staging",
            compress=spec.compress,
            force=spec.force,
            confirm=lambda: source.require_unchanged(opened),
        )


def _require_disc(disc: Path, checksum: str) -> None:
    """Compares an ISO with the checksum demanded, before anything reads it."""
    if checksum == "none":
        return
    if disc.is_dir():
        raise ConfigError(f"{disc} is a folder, so virtio_win_checksum cannot be compared", fix="give the ISO")
    source.require_digest(disc, checksum)


def _inject(spec: BuildSpec, opened: Source, media: Media, ui: Ui) -> Applied:
    """Everything that happens inside the disk, in one launch of the appliance."""
    ui.say("Inspecting the image...")
    with appliance.launch(opened.overlay, write=True) as running:
        guest, plan = _planned(running, media, spec, ui)
        ui.message(show.drivers_text(plan))
        changes = applying.outstanding(plan.edits, guest, running)
        ui.say(f"Applying {len(changes)} changes..." if changes else "Nothing to change: the image is virtio-ready")
        ui.message(f"plan {plan.digest[:16]}: {review.summary(changes)}")
        applying.apply(changes, guest, media, running)
    return Applied(opened.overlay, plan, changes)


def _planned(running: Appliance, media: Media, spec: BuildSpec, ui: Ui) -> tuple[Guest, Plan]:
    guest = inspection.inspect(running, spec.root)
    ui.message(f"{guest.product or guest.release.title}, build {guest.build}, {guest.arch}, {guest.firmware}")
    ui.say(f"Choosing drivers from {media.label}...")
    selection = drivers.select(media, guest.release, guest.arch, guest.build, spec.drivers)
    return guest, planning.plan(guest, selection, spec, _firstboot(media, guest, spec))


def _script(path: Path) -> tuple[str, bytes]:
    try:
        return firstboot.script(path.name, path.read_bytes())
    except OSError as error:
        raise ConfigError(f"firstboot: {path} cannot be read", why=error.strerror or str(error)) from error


def _firstboot(media: Media, guest: Guest, spec: BuildSpec) -> firstboot.Job:
    return firstboot.Job(
        agent=firstboot.agent_on(media, guest.arch) if spec.guest_agent == "auto" and guest.release.has_bcd else None,
        scripts=tuple(_script(path) for path in spec.firstboot),
        time_zone=spec.time_zone,
        winrm=spec.winrm,
        sysprep=spec.sysprep,
        hostname=spec.hostname,
    )


def _render(spec: BuildSpec, applied: Applied, ui: Ui) -> tuple[Domain, DomainSpec]:
    ui.say("Rendering the libvirt domain...")
    trial = booting.prepare(applied.image, applied.image.parent, uri=spec.libvirt_uri, wanted=spec.accelerator)
    domain_spec = _domain_spec(spec, spec.output_directory.absolute() / publish.IMAGE, trial)
    domain = render.render(applied.plan.guest, applied.plan.provides, domain_spec)
    render.check(domain.booted)
    render.check(domain.template)
    return domain, domain_spec


def _domain_spec(spec: BuildSpec, image: Path, trial: Trial) -> DomainSpec:
    same = {one.name for one in fields(DomainSpec)} & BuildSpec.model_fields.keys() - {"name", "disk_interface"}
    return DomainSpec(
        name=spec.vm_name,
        image=image,
        disk_interface=_BUSES[spec.disk_interface],
        trial=trial,
        machine=spec.machine_type,
        **{option: getattr(spec, option) for option in same},
    )


def _boot(domain: Domain, domain_spec: DomainSpec, spec: BuildSpec, evidence: Path, ui: Ui) -> BootReport:
    ui.say(f"Booting from {spec.disk_interface} through libvirt...")
    report = booting.boot(
        domain, domain_spec, evidence=evidence, timeout=spec.boot_timeout, uri=spec.libvirt_uri, say=ui.message
    )
    if not report.ok:
        raise BootFailed(
            f"the built image did not come up: {report.verdict}",
            why=report.advice,
            fix="build again with -on-error=abort and look at the boot/ folder of the workspace it keeps",
        )
    ui.message(show.boot_text(report))
    return report


def _verify(applied: Applied, spec: BuildSpec, evidence: Path, ui: Ui) -> CheckReport:
    ui.say(f"Checking the image: {', '.join(spec.checks)}...")
    evidence.mkdir()
    expected = evidence / "plan.json"
    expected.write_text(json.dumps(show.plan_json(applied.plan, applied.changes)))
    report = verifying.verify(applied.image, spec.checks, evidence=evidence, manifest=expected)
    ui.message(show.checks_text(report))
    if not report.ok:
        raise ChecksFailed(f"{len(report.failed)} checks failed", why=", ".join(report.failed))
    return report


# ---------------------------------------------------------------- the parts on their own


def inspect(image: Path, root: str = "") -> Guest:
    """The facts of an image; nothing is changed. `root` chooses one of several installations ("/dev/sda2")."""
    with _reading(image) as running:
        return inspection.inspect(running, root)


def boot_store(image: Path, root: str = "") -> bcd.Store:
    """The boot store of an image, whole; nothing is changed."""
    with _reading(image) as running:
        guest = inspection.inspect(running, root)
        if not guest.release.has_bcd:
            raise InputRefused(f"{guest.release.title} has no boot store", why=f"it is started by {guest.boot.path}")
        with running.hive(inspection.hive_path(running, guest, Hive.BCD)) as hive:
            return inspection.read_store(hive)


def provides(image: Path) -> tuple[Guest, Provides]:
    """What an image can drive today, whoever made it so; nothing is changed."""
    with _reading(image) as running:
        guest = inspection.inspect(running)
        test_mode = bcd.set_flag(bcd.chosen(guest.boot.loaders).guid, "testsigning", True, "")
        unset = applying.outstanding((test_mode,), guest, running)
    return guest, Provides(guest.boot_buses, drivers.installed(guest), test_signing=not unset)


def render_domain(spec: BuildSpec) -> str:
    """The domain XML for `spec.source`, which is taken as it is: with what it can drive today."""
    guest, provided = provides(spec.source)
    scratch = files.scratch()  # for the names of a trial that does not take place
    trial = booting.prepare(spec.source, scratch, uri=spec.libvirt_uri, wanted="tcg")
    domain = render.render(guest, provided, _domain_spec(spec, spec.source.absolute(), trial))
    render.check(domain.template)
    return domain.template


def plan(spec: BuildSpec, ui: Ui) -> tuple[Plan, tuple[Change, ...]]:
    """What a build would make of the image, and what of it is not there yet; nothing is changed."""
    with open_media(spec.virtio_win.resolve(), spec.driver_folders) as media, _reading(spec.source) as running:
        guest, made = _planned(running, media, spec, ui)
        return made, applying.outstanding(made.edits, guest, running)


def boot(
    image: Path, bus: Bus, boot_timeout: str, evidence: Path, *, accelerator: Literal["auto", "kvm", "tcg"], ui: Ui
) -> BootReport:
    """Boots an image as it is, whether or not it can use `bus`, with every device virtio-win has a driver for.

    The image is not written. `boot_timeout` as Packer writes durations ("10m").
    """
    doctor.require(Purpose.BUILD, Purpose.BOOT)
    patience = seconds(boot_timeout)
    ui.say("Inspecting the image...")
    guest = inspect(image)
    asked = Provides(frozenset(Bus), frozenset(driver.name for driver in drivers.DRIVERS), test_signing=False)
    with tempfile.TemporaryDirectory(prefix="winfoundry-boot-", dir=files.scratch()) as folder:
        workspace = Path(folder)
        domain_spec = DomainSpec(
            name="trial",
            image=image.absolute(),
            cpus=2,
            memory=2048,
            disk_interface=bus,
            trial=booting.prepare(image, workspace, wanted=accelerator),
            machine="pc" if bus is Bus.IDE else "q35",
        )
        domain = render.render(guest, asked, domain_spec)
        ui.say(f"Booting from {bus} through libvirt...")
        return booting.boot(domain, domain_spec, evidence=evidence, timeout=patience, say=ui.message)


def verify(image: Path, checks: Sequence[str]) -> CheckReport:
    """The checks on an image, which is only read."""
    doctor.require(Purpose.BUILD)
    disk_image.preflight(image)
    with tempfile.TemporaryDirectory(prefix="winfoundry-verify-") as folder:
        return verifying.verify(image, checks, evidence=Path(folder))


@contextmanager
def _reading(image: Path) -> Iterator[Appliance]:
    doctor.require(Purpose.BUILD)
    disk_image.preflight(image)
    with appliance.launch(image) as running:
        yield running
