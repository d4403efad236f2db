"""Boots an image in a throw-away virtual machine and says what was observed, by whom, on which accelerator.

    trial = boot.prepare(image, workspace)           names and places for one boot; changes nothing
    domain = render(guest, provides, DomainSpec(…, trial=trial))
    report = boot.boot(domain, spec, evidence=…, timeout=…)

`judge` is the pure part: what was seen so far in, a verdict or None out. Everything else watches.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from builder.domain_spec import Access, DomainSpec, Trial
from builder.errors import InputRefused
from builder.host import accelerator, hypervisor
from builder.host.agent import Agent, AgentError, OsInfo
from builder.host.evidence import Console, Screens
from builder.host.hypervisor import HypervisorFailed, Seen, Sign
from builder.host.process import run
from builder.model import BootReport, Domain, Event
from builder.windows import stopcodes

SLOWNESS = {"kvm": 1, "tcg": 5}
"""What the timeout is multiplied with: emulation is that much slower, roughly (a Linux guest: 4 to 10 times)."""

MOST_REBOOTS = 5
"""A first boot reboots once or twice; more is a loop."""

_LOOK_EVERY = 1.0  # seconds
_PICTURE_EVERY = 5.0
_MOST_EVENTS = 500  # a guest can make its agent come and go as often as it likes
_SETTLE = 1.0  # a crash is reported before the console's last lines have reached the log


# ---------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class Observed:
    """All that was seen so far: the end of the console, libvirt's signs, the agent's word, seconds since the start."""

    console: str = ""
    signs: tuple[Seen, ...] = ()
    osinfo: OsInfo | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    name: str
    advice: str


_SIGNS = {
    Sign.DISK_ERROR: Verdict("hypervisor-failed", "the host could not read or write the disk: is it full?"),
    Sign.QEMU_FAILED: Verdict("hypervisor-failed", "QEMU ended by itself; its log is in /var/log/libvirt/qemu"),
    Sign.PANICKED: Verdict("crashed", "the guest crashed without telling a code; look at the last screen"),
    Sign.STOPPED: Verdict("stopped", "the guest switched itself off before its agent answered"),
}
_TELLING = frozenset((*_SIGNS, Sign.REBOOTED))
_UP = Verdict("agent-up", "")
_LOOP = Verdict("reboot-loop", f"the guest restarted more than {MOST_REBOOTS} times; look at the screens")
_LATE = Verdict("timed-out", "nothing was heard in time; look at the last screen, or give it longer (boot_timeout)")


def judge(seen: Observed, deadline: float) -> Verdict | None:
    """The verdict, or None to go on watching. A code the guest told is better than the fact that it stopped."""
    if code := _code(seen):
        return Verdict(code.verdict, code.advice)
    if seen.osinfo:
        return _UP
    signs = [one.sign for one in seen.signs]
    for sign, verdict in _SIGNS.items():
        if sign in signs:
            return verdict
    if signs.count(Sign.REBOOTED) > MOST_REBOOTS:
        return _LOOP
    return _LATE if seen.seconds >= deadline else None


def _code(seen: Observed) -> stopcodes.StopCode | None:
    told = (stopcodes.stop(one.stop_code) for one in seen.signs if one.stop_code)
    return next(told, None) or stopcodes.find(seen.console)


# ---------------------------------------------------------------- preparing


def prepare(
    image: Path, workspace: Path, *, uri: str | None = None, wanted: Literal["auto", "kvm", "tcg"] = "auto"
) -> Trial:
    """Names and places for one boot of a qcow2 image; `workspace` is ours and on a filesystem with room for its writes.

    `wanted` is what to run it on; "auto" takes KVM where it works. Writes nothing.
    Raises InputRefused when the image or a file below it is not qcow2, EnvironmentUnable without QEMU.
    """
    name = f"winfoundry-{secrets.token_hex(4)}"
    chain = _chain(image.resolve())
    access, why = _access(chain, workspace.resolve(), uri or hypervisor.default_uri())
    probed = accelerator.probe() if wanted == "auto" else accelerator.Accelerator(wanted, "asked for")
    slow = () if probed.kind == "kvm" else (f"the guest is emulated: {probed.reason}",)
    folder = workspace.resolve()
    return Trial(
        name=name,
        uuid=str(uuid.uuid4()),
        overlay=folder / f"{name}.qcow2",
        chain=chain,
        serial_log=folder / f"{name}.serial.log",
        nvram=folder / f"{name}.nvram.fd",
        accelerator=probed.kind,
        access=access,
        notes=(*slow, *why),
    )


def _chain(image: Path) -> tuple[Path, ...]:
    told = run(("qemu-img", "info", "--backing-chain", "--output=json", "-f", "qcow2", image), timeout=60)
    layers = json.loads(told.stdout)
    if wrong := [layer["filename"] for layer in layers if layer["format"] != "qcow2"]:
        raise InputRefused(f"{wrong[0]!r} is not a qcow2 file", fix="convert it: qemu-img convert -O qcow2")
    return tuple(Path(layer["filename"]).resolve() for layer in layers)


def _access(chain: tuple[Path, ...], workspace: Path, uri: str) -> tuple[Access, tuple[str, ...]]:
    if not uri.startswith("qemu:///system"):
        return Access.SESSION, ()
    folders = {parent for path in (*chain, workspace / "overlay") for parent in path.parents}
    closed = [path for path in folders if not path.stat().st_mode & 0o001]
    closed += [path for path in chain if not path.stat().st_mode & 0o004]
    if not closed:
        return Access.SYSTEM, ()
    return Access.ROOT, (f"QEMU runs as root: libvirt's own account has no access to {min(closed)}",)


# ---------------------------------------------------------------- watching


class Machine(Protocol):
    """What is watched: `hypervisor.Machine`, or a fake."""

    @property
    def agent(self) -> Agent: ...
    def signs(self) -> tuple[Seen, ...]: ...
    def screenshot(self) -> bytes: ...


def boot(
    domain: Domain,
    spec: DomainSpec,
    *,
    evidence: Path,
    timeout: float,
    uri: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> BootReport:
    """Runs `domain.booted` until there is a verdict, `timeout` seconds at most (more when emulated, see SLOWNESS).

    The image is not written: the guest has an overlay, which is removed like everything else but `evidence`.
    Raises EnvironmentUnable when libvirt is not running; what fails later is a verdict, "hypervisor-failed".
    """
    trial, where = spec.trial, uri or hypervisor.default_uri()
    deadline = timeout * SLOWNESS[trial.accelerator]
    for note in (*trial.notes, *((f"waiting up to {deadline:.0f} s",) if deadline != timeout else ())):
        say(note)
    evidence.mkdir(parents=True, exist_ok=True)
    (evidence / "domain.xml").write_text(domain.booted)
    watch = Watch(trial.serial_log, evidence, deadline, say)
    with _scratch(trial):
        verdict = _run(watch, domain.booted, where)
        watch.save_console()
    return _report(watch, verdict, spec, evidence)


def _run(watch: Watch, xml: str, uri: str) -> Verdict:
    try:
        with hypervisor.started(xml, uri=uri) as machine:
            return watch.until_verdict(machine)
    except HypervisorFailed as error:
        watch.note("libvirt", str(error))
        return Verdict("hypervisor-failed", f"{error.what}: {error.why}" if error.why else error.what)


@contextmanager
def _scratch(trial: Trial) -> Iterator[None]:
    """The overlay and the log while they are needed. We make the log, so that we may read it whoever writes it."""
    try:
        argv = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", trial.chain[0], trial.overlay)
        run(argv, timeout=60)
        trial.serial_log.touch(mode=0o600)
        yield
    finally:
        for path in (trial.overlay, trial.nvram, trial.serial_log, *_rotated(trial.serial_log)):
            path.unlink(missing_ok=True)


def _rotated(log: Path) -> list[Path]:
    return list(log.parent.glob(f"{log.name}.[0-9]"))


class Watch:
    """Collects what one boot shows, and keeps it as evidence."""

    def __init__(self, serial_log: Path, evidence: Path, deadline: float, say: Callable[[str], None]) -> None:
        self._evidence, self._deadline, self._say = evidence, deadline, say
        self._console, self._screens = Console(serial_log), Screens(evidence)
        self._began, self._pictured = time.monotonic(), float("-inf")
        self._seen = Observed()
        self.events: list[Event] = []

    @property
    def seen(self) -> Observed:
        return self._seen

    @property
    def screens(self) -> tuple[Path, ...]:
        return tuple(self._screens.kept)

    def until_verdict(self, machine: Machine) -> Verdict:
        """Looks until `judge` has an answer."""
        self._began = time.monotonic()
        self.note("libvirt", "started")
        while not (verdict := self._look(machine)):
            time.sleep(_LOOK_EVERY)
        if verdict in (_SIGNS[Sign.PANICKED], _SIGNS[Sign.STOPPED]):
            time.sleep(_SETTLE)
            verdict = self._look(machine) or verdict
        self._picture(machine, every=0)
        self.note("winfoundry", verdict.name)
        return verdict

    def note(self, who: str, what: str, at: float | None = None) -> None:
        seconds = round((at or time.monotonic()) - self._began, 1)
        if len(self.events) < _MOST_EVENTS:
            self.events.append(Event(seconds, who, what))
            self._say(f"{seconds:6.1f} s  {who}: {what}")

    def save_console(self) -> None:
        (self._evidence / "serial.log").write_text(self._console.read())

    def _look(self, machine: Machine) -> Verdict | None:
        new = machine.signs()
        for one in new:
            self.note(
                "agent" if one.sign in (Sign.AGENT_CONNECTED, Sign.AGENT_GONE) else "libvirt", one.sign.value, one.at
            )
        self._picture(machine, every=_PICTURE_EVERY)
        self._seen = replace(
            self._seen,
            console=self._console.read(),
            signs=self._seen.signs + tuple(one for one in new if one.sign in _TELLING),
            osinfo=self._seen.osinfo or self._ask(machine),
            seconds=time.monotonic() - self._began,
        )
        return judge(self._seen, self._deadline)

    def _ask(self, machine: Machine) -> OsInfo | None:
        try:
            machine.agent.ping()
        except AgentError:
            return None
        try:
            said = machine.agent.osinfo()
        except AgentError:  # agents before 2.10 do not know the command
            said = OsInfo("", "", "", "")
        self.note("agent", f"answers: {said.name or 'a guest without a name'}")
        return said

    def _picture(self, machine: Machine, *, every: float) -> None:
        now = time.monotonic()
        if now - self._pictured >= every:
            self._pictured = now
            if kept := self._screens.keep(machine.screenshot(), now - self._began):
                self.events.append(Event(round(now - self._began, 1), "screen", kept.name))


def _report(watch: Watch, verdict: Verdict, spec: DomainSpec, evidence: Path) -> BootReport:
    osinfo = watch.seen.osinfo
    report = BootReport(
        verdict=verdict.name,
        advice=verdict.advice,
        accelerator=spec.trial.accelerator,
        bus=spec.disk_interface,
        seconds=round(watch.seen.seconds, 1),
        guest=osinfo.name if osinfo else "",
        stand_in=bool(osinfo and osinfo.id not in ("", "mswindows")),
        events=tuple(watch.events),
        evidence=(evidence / "domain.xml", evidence / "serial.log", *watch.screens, evidence / "boot.json"),
    )
    plain = asdict(report) | {"evidence": [path.name for path in report.evidence], "notes": spec.trial.notes}
    (evidence / "boot.json").write_text(json.dumps(plain, indent=2) + "\n")
    return report
