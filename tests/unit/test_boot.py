"""Judging what was seen, watching a fake machine, preparing. Real machines: tests/integration/test_boot.py."""

import json
import subprocess

import pytest

from builder import boot
from builder.boot import Observed, Watch, judge
from builder.errors import EnvironmentUnable, InputRefused
from builder.host.agent import Agent, AgentError, OsInfo
from builder.host.hypervisor import HypervisorFailed, Seen, Sign, stop_code
from builder.render import Access

UP = OsInfo("mswindows", "Windows 10 Pro", "", "")


def signs(*names):
    return tuple(Seen(sign, 0.0) for sign in names)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Observed(), None),
        (Observed(seconds=59.9), None),
        (Observed(seconds=60), "timed-out"),
        (Observed(osinfo=UP, seconds=61), "agent-up"),
        (Observed(console="*** STOP: 0x0000007B"), "stop-0x7b"),
        (Observed(console="Status: 0xc0000428", seconds=99), "bootmgr-0xc0000428"),
        (Observed(console="*** STOP: 0x0000007B", osinfo=UP), "stop-0x7b"),
        (Observed(console="*** STOP: 0x0000007B", signs=signs(Sign.PANICKED, Sign.STOPPED)), "stop-0x7b"),
        (Observed(signs=signs(Sign.PANICKED)), "crashed"),
        (Observed(signs=(*signs(Sign.PANICKED), Seen(Sign.PANICKED, 0.0, 0xED))), "stop-0xed"),
        (Observed(signs=signs(Sign.STOPPED)), "stopped"),
        (Observed(signs=signs(Sign.PANICKED, Sign.STOPPED)), "crashed"),
        (Observed(signs=signs(Sign.QEMU_FAILED)), "hypervisor-failed"),
        (Observed(signs=signs(Sign.DISK_ERROR), seconds=99), "hypervisor-failed"),
        (Observed(signs=signs(*[Sign.REBOOTED] * boot.MOST_REBOOTS)), None),
        (Observed(signs=signs(*[Sign.REBOOTED] * (boot.MOST_REBOOTS + 1))), "reboot-loop"),
        (Observed(signs=signs(Sign.AGENT_CONNECTED, Sign.AGENT_GONE)), None),
    ],
)
def test_judge(seen, verdict):
    found = judge(seen, deadline=60)
    assert (found and found.name) == verdict


def test_every_verdict_but_up_comes_with_advice():
    assert all(verdict.advice for verdict in (*boot._SIGNS.values(), boot._LATE, boot._LOOP))


@pytest.mark.parametrize(
    ("details", "code"),
    [
        (
            '{"action": "pause", "info": {"type": "hyper-v", "arg1": 123, "arg2": 0, "arg3": 0, "arg4": 0, "arg5": 0}}',
            0x7B,
        ),
        ('{"action": "pause"}', None),
        ('{"info": {"arg1": "x"}}', None),
        ("", None),
        ("[]", None),
    ],
)
def test_the_stop_code_of_a_panic(details, code):
    assert stop_code(details) == code


class FakeMachine:
    """Shows what each step of its script says; a step is any of signs, agent, serial, error."""

    def __init__(self, log, *script):
        self._log, self._script, self._step = log, list(script), {}
        self.agent = Agent(self._ask)

    def signs(self):
        self._step = self._script.pop(0) if self._script else {}
        if "error" in self._step:
            raise self._step["error"]
        with self._log.open("ab") as log:
            log.write(self._step.get("serial", b""))
        return self._step.get("signs", ())

    def screenshot(self):
        return b"picture %d" % len(self._script)

    def _ask(self, command, timeout):
        replies = self._step.get("agent", {})
        name = json.loads(command)["execute"]
        if name not in replies:
            raise AgentError("not connected")
        return json.dumps({"return": replies[name]})


@pytest.fixture
def watch(tmp_path, monkeypatch):
    for name in ("_LOOK_EVERY", "_SETTLE", "_PICTURE_EVERY"):
        monkeypatch.setattr(boot, name, 0)
    said = []

    def make(*script, deadline=60):
        log = tmp_path / "serial.log"
        evidence = tmp_path / "evidence"
        evidence.mkdir()
        watch = Watch(log, evidence, deadline, said.append)
        return watch, watch.until_verdict(FakeMachine(log, *script)).name, said

    return make


PING = {"guest-ping": {}}
OSINFO = {"guest-get-osinfo": {"id": "mswindows", "pretty-name": "Windows 10 Pro"}}


def test_watching_until_the_agent_answers(watch):
    seen, verdict, said = watch({}, {"signs": signs(Sign.AGENT_CONNECTED)}, {"agent": PING | OSINFO})
    assert (verdict, seen.seen.osinfo.name) == ("agent-up", "Windows 10 Pro")
    assert [(event.who, event.what) for event in seen.events if event.who != "screen"] == [
        ("libvirt", "started"),
        ("agent", "agent connected"),
        ("agent", "answers: Windows 10 Pro"),
        ("winfoundry", "agent-up"),
    ]
    assert "agent-up" in said[-1]


def test_an_agent_too_old_to_say_what_it_runs_on_is_up_too(watch):
    seen, verdict, _ = watch({"agent": PING})
    assert (verdict, seen.seen.osinfo.id) == ("agent-up", "")


def test_a_code_that_reaches_the_log_just_after_the_crash_is_found(watch):
    _, verdict, _ = watch({"signs": signs(Sign.PANICKED)}, {"serial": b"*** STOP: 0x0000007B"})
    assert verdict == "stop-0x7b"


def test_a_crash_without_a_code_stays_a_crash(watch):
    assert watch({"signs": signs(Sign.PANICKED)}, {"serial": b"nothing"})[1] == "crashed"


def test_a_code_split_over_two_looks_is_found(watch):
    assert watch({"serial": b"*** STOP: 0x00"}, {"serial": b"00007B (0"})[1] == "stop-0x7b"


def test_nothing_until_the_deadline(watch):
    seen, verdict, _ = watch(deadline=0.05)
    assert verdict == "timed-out"
    assert seen.screens


def test_an_agent_that_comes_and_goes_does_not_fill_the_memory(watch):
    flapping = {"signs": signs(*[Sign.AGENT_CONNECTED, Sign.AGENT_GONE] * 1000)}
    seen, _, said = watch(flapping, {"signs": signs(Sign.STOPPED)})
    assert len(seen.events) == len(said) + len([one for one in seen.events if one.who == "screen"])
    assert len(said) <= boot._MOST_EVENTS
    assert len(seen.seen.signs) == 1


def test_libvirt_failing_is_not_the_guests_fault(watch):
    with pytest.raises(HypervisorFailed):
        watch({"error": HypervisorFailed("the connection to libvirt broke")})


# ---------------------------------------------------------------- preparing


@pytest.fixture
def open_folder(tmp_path):
    """A folder all may enter (pytest's own is private), with an image all may read."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o755)
    return tmp_path


def qcow2(path, *backing):
    extra = ("-F", "qcow2", "-b", str(backing[0])) if backing else ("1M",)
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            *(extra if backing else ()),
            str(path),
            *(() if backing else extra),
        ],
        check=True,
    )
    path.chmod(0o644)
    return path


def access(image, workspace, uri="qemu:///system"):
    return boot._access((image,), workspace, uri)[0]


def test_libvirts_own_account_is_used_where_it_can_reach_everything(open_folder, monkeypatch):
    monkeypatch.setattr(boot.Path, "parents", property(lambda path: [open_folder / "work"]))
    assert access(qcow2(open_folder / "work" / "image.qcow2"), open_folder / "work") is Access.SYSTEM


@pytest.mark.parametrize("closed", ["work", "work/image.qcow2"])
def test_root_where_it_cannot(open_folder, closed):
    image = qcow2(open_folder / "work" / "image.qcow2")
    (open_folder / closed).chmod(0o700)
    found, notes = boot._access((image,), open_folder / "work", "qemu:///system")
    assert found is Access.ROOT
    assert "QEMU runs as root" in notes[0]


def test_in_a_session_it_is_the_user(open_folder):
    assert (
        access(qcow2(open_folder / "work" / "image.qcow2"), open_folder / "work", "qemu:///session") is Access.SESSION
    )


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(boot.accelerator, "probe", lambda: boot.accelerator.Accelerator("tcg", "for the test"))


def test_prepare_names_the_whole_chain_and_changes_nothing(tmp_path, emulated):
    source = qcow2(tmp_path / "source.qcow2")
    image = qcow2(tmp_path / "image.qcow2", source)
    before = sorted(tmp_path.iterdir())
    trials = [boot.prepare(image, tmp_path, uri="qemu:///session") for _ in range(2)]
    assert trials[0].chain == (image, source)
    assert trials[0].name != trials[1].name
    assert trials[0].uuid != trials[1].uuid
    assert "emulated: for the test" in trials[0].notes[0]
    assert sorted(tmp_path.iterdir()) == before


def test_prepare_refuses_what_is_not_qcow2(tmp_path, emulated):
    raw = tmp_path / "raw.img"
    raw.write_bytes(b"\0" * 4096)
    image = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(raw), str(image)], check=True)
    with pytest.raises(InputRefused, match=r"raw\.img"):
        boot.prepare(image, tmp_path)
    with pytest.raises(EnvironmentUnable):
        boot.prepare(raw, tmp_path)


def test_nothing_is_left_of_a_boot_that_fails_to_start(tmp_path, emulated):
    trial = boot.prepare(qcow2(tmp_path / "image.qcow2"), tmp_path)

    def fail():
        with boot._scratch(trial):
            assert trial.overlay.exists()
            assert trial.serial_log.stat().st_mode & 0o777 == 0o600
            trial.nvram.touch()
            trial.serial_log.with_name(trial.serial_log.name + ".0").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["image.qcow2"]
