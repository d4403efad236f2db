"""Does hardware virtualisation work here? Found out by using it: /dev/kvm may be present and broken (nested hosts)."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from builder.host.process import ProgramFailed, run

_KVM = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PATIENCE = 10.0  # seconds; a working KVM needs 0.3, an emulated guest 0.2

_EXIT = bytes.fromhex("b010 e6f4 f4 ebfd")  # mov al,0x10; out 0xf4,al; hlt; jmp back
_EXIT_CODE = 0x10 << 1 | 1  # QEMU, isa-debug-exit: the value written, shifted, with bit 0 set


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What guests run on here, and how we know: `reason` is half a sentence for people."""

    kind: Literal["kvm", "tcg"]
    reason: str


def probe() -> Accelerator:
    """Starts a tiny guest with KVM and the host's processor, as `host-passthrough` does, and looks whether it ran.

    The answer is kept until the machine reboots, QEMU is updated, or our access to /dev/kvm changes.
    Raises EnvironmentUnable when QEMU is not installed.
    """
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{_KVM} is missing or not ours to open")
    key, kept = _key(), _cache()
    try:
        known = json.loads(kept.read_text())
        if known["key"] == key and known["kind"] in ("kvm", "tcg"):
            return Accelerator(known["kind"], str(known["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer kept, or not one of ours: ask again
    found = _try("kvm", "host")
    _keep(kept, {"key": key, **asdict(found)})
    return found


def _try(accelerator: str, cpu: str) -> Accelerator:
    with tempfile.TemporaryDirectory(prefix="winfoundry-kvm-") as folder:
        disk = Path(folder) / "exit.img"
        disk.write_bytes(_EXIT.ljust(510, b"\0") + b"\x55\xaa")
        argv = ("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-m", "32")
        machine = ("-machine", f"pc,accel={accelerator}", "-cpu", cpu, "-device", "isa-debug-exit,iobase=0xf4,iosize=1")
        drive = ("-drive", f"file={disk},format=raw,if=ide,snapshot=on")
        try:
            finished = run((*argv, *machine, *drive), timeout=_PATIENCE, check=False)
        except ProgramFailed as error:
            return Accelerator("tcg", f"KVM is present, but a guest started with it hangs ({error.why})")
    if finished.code == _EXIT_CODE:
        return Accelerator("kvm", "a guest started with it ran")
    said = finished.stderr.strip().splitlines() or [f"exit code {finished.code}"]
    return Accelerator("tcg", f"KVM is present, but does not run a guest: {said[0][:200]}")


def _key() -> str:
    version = run(("qemu-system-x86_64", "--version"), timeout=10).stdout.decode(errors="replace").partition("\n")[0]
    return f"{version} | {_BOOT_ID.read_text().strip()} | uid {os.geteuid()}"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "winfoundry" / "accelerator.json"


def _keep(path: Path, answer: dict[str, str]) -> None:
    """Best effort: a home that cannot be written to costs a second next time, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(json.dumps(answer))
        new.replace(path)
    except OSError:
        pass
