"""The first boot runner under Wine: its service is registered by `reg import`, started by Wine's service manager.

Wine is no Windows: it has no pnputil and no tzutil, which serves to show what happens when Windows refuses something.
"""

import os
import pty
import select
import shutil
import subprocess
import time

import pytest
from driver_discs import guest

from builder import review
from builder.edits import MediaFile, PutFile, SetValue, WriteFile
from builder.model import DriverPackage, Signature, Signer
from builder.windows import firstboot
from builder.windows.firstboot import MARKER, SERVICE, Job
from builder.windows.paths import MediaPath
from builder.windows.releases import Arch

WINE = shutil.which("wine") or shutil.which("wine-stable")
PATIENCE = 60  # seconds
pytestmark = pytest.mark.skipif(WINE is None, reason="wine is not installed: apt-get install wine")

SCRIPTS = (
    firstboot.script("10-hello.cmd", b"@echo off\necho hello from %~n0\necho %CD%> C:\\where.txt\n"),
    firstboot.script("20-fails.cmd", b"exit /b 7\n"),
    firstboot.script("30-again.bat", b"echo once more>> C:\\count.txt\n"),
)


class Prefix:
    """A fresh Wine, with a terminal as COM1."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.windows = folder / "drive_c" / "windows"
        self.env = {**os.environ, "WINEPREFIX": str(folder), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
        self.env.pop("DISPLAY", None)
        self.run("wineboot", "--init")
        self.terminal, slave = pty.openpty()
        self.run("reg", "add", r"HKLM\Software\Wine\Ports", "/v", "COM1", "/d", os.ttyname(slave))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([WINE, *words], env=self.env, capture_output=True, text=True, timeout=120, check=False)

    def restart(self) -> None:
        """Wine's services end with its server, and start again with the next program."""
        subprocess.run([shutil.which("wineserver") or "/usr/lib/wine/wineserver64", "-k"], env=self.env, check=False)
        self.run("wineboot")

    def stop(self) -> None:
        subprocess.run([shutil.which("wineserver") or "/usr/lib/wine/wineserver64", "-k"], env=self.env, check=False)

    def serial(self) -> str:
        text = b""
        while select.select([self.terminal], [], [], 0.5)[0]:
            text += os.read(self.terminal, 4096)
        return text.decode("ascii", "replace")


@pytest.fixture(scope="module")
def booted(tmp_path_factory):
    """(prefix, folder of the runner, what COM1 said) after the first start."""
    prefix = Prefix(tmp_path_factory.mktemp("wine") / "prefix")
    media = MediaFile(MediaPath.parse("guest-agent/qemu-ga-x86_64.msi"), 3, "0" * 64)
    job = Job(agent=media, scripts=SCRIPTS, time_zone="W. Europe Standard Time")
    edits = tuple(firstboot.edits(guest("w7", Arch.AMD64), (package(),), job))
    folder = prefix.windows.joinpath(*firstboot.FOLDER)
    folder.mkdir(parents=True)
    for edit in edits:
        if isinstance(edit, WriteFile):
            (folder / edit.target.name).write_bytes(edit.content)
        elif isinstance(edit, PutFile):
            (folder / edit.target.name).write_bytes(b"not an MSI")
    register(prefix, edits, folder)
    prefix.restart()
    wait(folder / "done")
    yield prefix, folder, prefix.serial()
    prefix.stop()


def package():
    inf = MediaFile(MediaPath.parse("balloon/balloon.inf"), 1, "0" * 64)
    return DriverPackage(
        **{"name": "balloon", "inf": inf, "catalog": None, "files": (inf,), "runs_from": (), "provider": ""},
        **{"class_name": "", "class_guid": "", "date": "2023-01-01", "version": (1, 0, 0, 0), "devices": ()},
        **{"services": (), "strings": {}, "arch": Arch.AMD64, "chosen_because": ""},
        signature=Signature(Signer.MICROSOFT, "", None, None, ""),
    )


def register(prefix, edits, folder):
    """As the plan sets it, by the .reg file users get; Wine has one control set, the current one."""
    data = review.reg_bytes([one for one in edits if isinstance(one, SetValue)])
    text = data.decode("utf-16").replace("ControlSet001", "CurrentControlSet")
    (folder.parent / "service.reg").write_bytes(("\ufeff" + text).encode("utf-16-le"))
    done = prefix.run("reg", "import", r"C:\windows\winfoundry\service.reg")
    assert done.returncode == 0, done.stderr


def wait(path):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came: {[one.name for one in path.parent.iterdir()]}"
        time.sleep(0.2)


def log(folder):
    return (folder / "firstboot.log").read_text("ascii", "replace").replace("\r", "")


def test_the_service_ran_everything_in_order_without_a_logon(booted):
    _, folder, _ = booted
    told = [line.strip() for line in log(folder).splitlines() if ":" in line or "winfoundry" in line]
    wanted = (
        "winfoundry first boot begins",
        "driver balloon: refused with",
        "guest agent: refused with",
        "time zone: refused with",
        "script 10-hello.cmd: done (0)",
        "script 20-fails.cmd: refused with 7, skipped",
        "script 30-again.bat: done (0)",
        MARKER,
    )
    places = [next((n for n, line in enumerate(told) if line.startswith(one)), None) for one in wanted]
    assert None not in places, (wanted, told)
    assert places == sorted(places)
    assert told[-1] == MARKER


def test_output_of_the_scripts_is_in_the_log(booted):
    prefix, folder, _ = booted
    assert "hello from 10-hello" in log(folder)
    where = (prefix.folder / "drive_c" / "where.txt").read_text().strip().lower()
    assert where == r"c:\windows\winfoundry\firstboot"


def test_com1_ends_with_the_marker(booted):
    _, _, serial = booted
    lines = [line.strip() for line in serial.splitlines() if line.strip()]
    assert lines[0] == "winfoundry first boot begins"
    assert lines[-1] == MARKER


def test_it_removed_itself_and_left_its_log(booted):
    prefix, folder, _ = booted
    assert prefix.run("reg", "query", rf"HKLM\System\CurrentControlSet\Services\{SERVICE}").returncode != 0
    deadline = time.monotonic() + 10
    while (folder / "run.cmd").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert {path.name for path in folder.iterdir()} == {"firstboot.log", "started", "done"}


def test_a_second_start_does_nothing(booted):
    prefix, folder, _ = booted
    before = log(folder)
    prefix.restart()
    time.sleep(2)
    assert log(folder) == before
    assert (prefix.folder / "drive_c" / "count.txt").read_text().count("once more") == 1


def test_an_interrupted_run_is_not_repeated(booted):
    """The service is there again, as after a power failure: it says so, ends with the marker, and is gone."""
    prefix, folder, _ = booted
    edits = tuple(firstboot.edits(guest("w10"), (), Job(scripts=SCRIPTS)))
    (folder / "run.cmd").write_bytes(next(one.content for one in edits if isinstance(one, WriteFile)))
    (folder / "done").unlink()
    register(prefix, edits, folder)
    prefix.restart()
    wait(folder / "done")
    assert "was interrupted, and is not tried again" in log(folder)
    assert log(folder).rstrip().endswith(MARKER)
    assert (prefix.folder / "drive_c" / "count.txt").read_text().count("once more") == 1
    assert prefix.run("reg", "query", rf"HKLM\System\CurrentControlSet\Services\{SERVICE}").returncode != 0
