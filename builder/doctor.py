"""What this machine can do: every tool a build needs, looked for at once, each with its reason and Debian package."""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from builder.errors import EnvironmentUnable, WinfoundryError
from builder.host import process

_OLDEST_QEMU = (6, 0)
_SCRATCH_BYTES = 1 << 30  # the cached appliance and what libguestfs puts beside it
_TIMEOUT = 20.0  # seconds for one question to one tool


class Purpose(StrEnum):
    """What something is needed for."""

    BUILD = "build"
    BOOT = "boot"
    UEFI = "uefi"
    SAMPLE = "sample"
    INFORMATION = "information"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked for: `found` is its version or what is wrong, `why` it is needed, `fix` "" when all is well."""

    name: str
    ok: bool
    found: str
    why: str
    fix: str
    purpose: Purpose

    @property
    def needed(self) -> bool:
        return self.purpose in (Purpose.BUILD, Purpose.BOOT)


class _Missing(Exception):
    """Why something is not there or not good enough."""


@dataclass(frozen=True, slots=True)
class _Need:
    """One row: `look` tells what was found or raises; `package` is Debian's, `fix` what to do if that is not enough."""

    name: str
    purpose: Purpose
    why: str
    package: str
    look: Callable[[], str]
    fix: str = ""

    def finding(self) -> Finding:
        try:
            return Finding(self.name, True, self.look(), self.why, "", self.purpose)
        except (_Missing, WinfoundryError, OSError, ImportError) as error:
            reason = getattr(error, "why", "") or str(error)
            fix = self.fix or f"apt-get install {self.package}"
            return Finding(self.name, False, reason.splitlines()[0], self.why, fix, self.purpose)


def examine() -> tuple[Finding, ...]:
    """Everything, in the order of the table below; takes a few seconds. Never raises."""
    return tuple(need.finding() for need in _NEEDS)


def require(*purposes: Purpose) -> None:
    """Raises EnvironmentUnable naming all that is missing for these purposes, with one apt line."""
    missing = [(need, found) for need in _NEEDS if need.purpose in purposes and not (found := need.finding()).ok]
    if not missing:
        return
    packages = sorted({need.package for need, _ in missing if not need.fix})
    fixes = [f"apt-get install {' '.join(packages)}"] if packages else []
    raise EnvironmentUnable(
        f"this machine cannot {' and '.join(sorted(set(need.purpose for need, _ in missing)))}",
        why="\n       ".join(f"{found.name}: {found.found}; {found.why}" for _, found in missing),
        fix="\n       ".join([*fixes, *(need.fix for need, _ in missing if need.fix)]),
    )


# ---------------------------------------------------------------- how to look


def _binding(module: str) -> Callable[[], str]:
    def look() -> str:
        try:
            found = importlib.import_module(module)
        except ImportError as error:
            raise _Missing(f"cannot be imported: {error}") from None
        if not hasattr(found, _MARKS[module]):
            raise _Missing(f"{found.__file__} is another project's module of that name")
        return str(found.__file__)

    return look


_MARKS = {"guestfs": "GuestFS", "hivex": "Hivex", "libvirt": "virConnect"}  # PyPI has another `hivex`


def _tool(name: str, oldest: tuple[int, int] = (0, 0)) -> Callable[[], str]:
    def look() -> str:
        if shutil.which(name) is None:
            raise _Missing("not installed")
        text = process.run((name, "--version"), timeout=_TIMEOUT, check=False).stdout.decode(errors="replace")
        found = re.search(r"\d+\.\d+(\.\d+)*", text)
        version = found[0] if found else ""
        if found and tuple(map(int, version.split(".")[:2])) < oldest:
            raise _Missing(f"version {version} is too old, {'.'.join(map(str, oldest))} is needed")
        return version or "version unknown"

    return look


def _kernel() -> str:
    kernels = sorted(Path("/boot").glob("vmlinuz-*"))
    readable = [kernel.name for kernel in kernels if os.access(kernel, os.R_OK)]
    if not readable:
        raise _Missing("no kernel in /boot" if not kernels else f"user {os.geteuid()} may not read {kernels[-1]}")
    return readable[-1]


def _scratch() -> str:
    folder = Path(os.environ.get("TMPDIR", "/var/tmp"))  # noqa: S108 - where libguestfs keeps its appliance
    free = shutil.disk_usage(folder).free
    if free < _SCRATCH_BYTES:
        raise _Missing(f"{free} bytes are free in {folder}, {_SCRATCH_BYTES} are needed")
    return f"{free >> 20} MiB free in {folder}"


def _libvirt() -> str:
    from builder.host import hypervisor

    uri = hypervisor.default_uri()
    if not hypervisor.running(uri):
        raise _Missing(f"{uri} does not answer")
    return uri


def _network() -> str:
    from builder.host import hypervisor

    uri = hypervisor.default_uri()
    listed = process.run(("virsh", "-c", uri, "net-list", "--name"), timeout=_TIMEOUT).stdout.decode().split()
    if "default" not in listed:
        raise _Missing(f"{uri} has no running network of that name")
    return "running"


def _ovmf() -> str:
    found = [one for one in _FIRMWARES if Path(one).exists()]
    if not found:
        raise _Missing("no UEFI firmware for guests")
    return found[0]


_FIRMWARES = (
    "/usr/share/OVMF/OVMF_CODE_4M.fd",  # Debian, Ubuntu
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",  # Fedora
)


def _accelerator() -> str:
    from builder.host import accelerator

    found = accelerator.probe()
    if found.kind != "kvm":
        raise _Missing(f"guests are emulated ({found.kind}): {found.reason}")
    return found.reason


def _workspaces() -> str:
    from builder import source

    left = source.leftovers(Path.cwd())
    if left:
        raise _Missing(f"{len(left)} workspaces of killed builds in {Path.cwd()}")
    return "none"


_NEEDS = (
    _Need("python guestfs", Purpose.BUILD, "it opens the guest's disk", "python3-guestfs", _binding("guestfs")),
    _Need("python hivex", Purpose.SAMPLE, "it writes the sample's registry", "python3-hivex", _binding("hivex")),
    _Need("python libvirt", Purpose.BOOT, "it starts guests", "python3-libvirt", _binding("libvirt")),
    _Need("qemu-img", Purpose.BUILD, "it makes overlays and the image", "qemu-utils", _tool("qemu-img", _OLDEST_QEMU)),
    _Need(
        "qemu-system-x86_64",
        Purpose.BUILD,
        "the appliance and the guests run in it",
        "qemu-system-x86",
        _tool("qemu-system-x86_64", _OLDEST_QEMU),
    ),
    _Need(
        "kernel in /boot",
        Purpose.BUILD,
        "the appliance is made from it",
        "linux-image-amd64",
        _kernel,
        fix="apt-get install linux-image-amd64; where kernels are private: sudo chmod 0644 /boot/vmlinuz-*",
    ),
    _Need(
        "scratch space",
        Purpose.BUILD,
        "libguestfs keeps its appliance there",
        "",
        _scratch,
        fix="make room, or set TMPDIR to a folder with more",
    ),
    _Need(
        "libvirt",
        Purpose.BOOT,
        "the finished image is booted through it",
        "libvirt-daemon-system",
        _libvirt,
        fix="apt-get install libvirt-daemon-system; systemctl start libvirtd (no systemd: virtlogd -d; libvirtd -d)",
    ),
    _Need("OVMF", Purpose.UEFI, "guests with UEFI start from it", "ovmf", _ovmf),
    _Need("osslsigncode", Purpose.SAMPLE, "its stand-in guest has it", "osslsigncode", _tool("osslsigncode")),
    _Need("virsh", Purpose.INFORMATION, "it looks at guests", "libvirt-clients", _tool("virsh")),
    _Need(
        "network default",
        Purpose.INFORMATION,
        "the published domain.xml uses it",
        "",
        _network,
        fix="virsh net-start default",
    ),
    _Need(
        "KVM",
        Purpose.INFORMATION,
        "without it everything that runs a guest takes many times longer",
        "",
        _accelerator,
        fix="modprobe kvm_intel (or kvm_amd) and be in the group kvm; nested hosts may not have it",
    ),
    _Need("leftovers", Purpose.INFORMATION, "they take space", "", _workspaces, fix="winfoundry clean"),
)
