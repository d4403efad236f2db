"""The unbuilt sample, booted by plain QEMU: up from SATA, STOP 0x7B from virtio."""

import json
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest

pytestmark = [pytest.mark.appliance, pytest.mark.vm]

BUSES = {
    "sata": ("-M", "q35", "-device", "ide-hd,drive=disk,bus=ide.0"),
    "virtio": ("-M", "q35", "-device", "virtio-blk-pci,drive=disk"),
}
AGENT = ("-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")
PATIENCE = 180  # seconds; about 10 on a quiet machine


class Machine:
    """A running guest: what it wrote on its serial port, and its agent."""

    def __init__(self, process, folder):
        self._process = process
        self._folder = folder

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            said = (self._folder / "serial.log").read_text(errors="replace")
            if text in said:
                return said
            time.sleep(0.2)
        pytest.fail(f"{text!r} was never said; the serial log is\n{self._serial()}")

    def _serial(self) -> str:
        return (self._folder / "serial.log").read_text(errors="replace")

    def ask(self, command: str) -> dict:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(30)
            agent.connect(str(self._folder / "agent"))
            agent.sendall(json.dumps({"execute": command}).encode() + b"\n")
            return json.loads(agent.makefile().readline())["return"]

    def exit_code(self) -> int:
        return self._process.wait(PATIENCE)


@contextmanager
def booted(disk, bus, folder, *more):
    (folder / "serial.log").touch()
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-display", "none", "-snapshot", *more]
    drive = ("-drive", f"file={disk},format=qcow2,if=none,id=disk", *BUSES[bus])
    ports = (
        "-serial",
        f"file:{folder}/serial.log",
        "-chardev",
        f"socket,id=agent,path={folder}/agent,server=on,wait=off",
    )
    with subprocess.Popen([*argv, *drive, *ports, *AGENT]) as process:
        try:
            yield Machine(process, folder)
        finally:
            process.kill()


def test_sample_comes_up_from_sata(sample, tmp_path):
    with booted(sample.disk, "sata", tmp_path) as machine:
        machine.wait_for("NT stand-in: up from PCI\\VEN_8086&DEV_2922&SUBSYS_11001AF4&REV_02 by service storahci")
        machine.wait_for("guest agent on")
        assert machine.ask("guest-get-osinfo")["id"] == "nt-stand-in"


def test_sample_does_not_come_up_from_virtio(sample, tmp_path):
    # By default QEMU ends when pvpanic reports a panic.
    with booted(sample.disk, "virtio", tmp_path, "-device", "pvpanic") as machine:
        said = machine.wait_for("*** STOP: 0x0000007B (INACCESSIBLE_BOOT_DEVICE)")
        assert "no driver is bound to PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00" in said
        assert machine.exit_code() == 0
