"""What is concluded from a QEMU that is a script. The real one: tests/integration/test_boot.py."""

import os

import pytest

from builder.host import accelerator
from builder.host.accelerator import Accelerator


@pytest.fixture
def qemu(tmp_path, monkeypatch):
    """Puts a script on PATH as QEMU; /dev/kvm is a file we may open. Returns the list of calls the script got."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(accelerator, "_KVM", tmp_path)

    def install(body, version="QEMU emulator version 1"):
        script = tmp_path / "qemu-system-x86_64"
        script.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\necho "$@" >> {calls}\n{body}\n'
        )
        script.chmod(0o755)
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return install


def test_kvm_is_believed_when_a_guest_ran(qemu):
    calls = qemu("exit 33")
    assert accelerator.probe() == Accelerator("kvm", "a guest started with it ran")
    assert "accel=kvm -cpu host" in calls()[0]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'error: failed to set MSR 0x10a' >&2; kill -ABRT $$", "failed to set MSR 0x10a"),
        ("exit 0", "exit code 0"),
        ("exit 1", "exit code 1"),
        ("sleep 60", "hangs"),
    ],
)
def test_anything_else_is_emulation(qemu, monkeypatch, body, reason):
    monkeypatch.setattr(accelerator, "_PATIENCE", 0.3)
    qemu(body)
    found = accelerator.probe()
    assert found.kind == "tcg"
    assert reason in found.reason


def test_the_answer_is_kept_until_qemu_changes(qemu):
    calls = qemu("exit 33")
    assert [accelerator.probe().kind for _ in range(3)] == ["kvm"] * 3
    assert len(calls()) == 1
    qemu("exit 1", version="QEMU emulator version 2")
    assert accelerator.probe().kind == "tcg"


@pytest.mark.parametrize("rubbish", [b"", b"[]", b'{"key": 1}', b"\xff", b'{"kind": "warp"}'])
def test_a_damaged_cache_is_ignored(qemu, tmp_path, rubbish):
    qemu("exit 33")
    accelerator.probe()
    (tmp_path / "cache" / "winfoundry" / "accelerator.json").write_bytes(rubbish)
    assert accelerator.probe().kind == "kvm"


def test_a_cache_that_cannot_be_written_is_no_error(qemu, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    qemu("exit 33")
    assert accelerator.probe().kind == "kvm"


def test_without_the_device_qemu_is_not_even_asked(qemu, monkeypatch, tmp_path):
    calls = qemu("exit 33")
    monkeypatch.setattr(accelerator, "_KVM", tmp_path / "missing")
    assert accelerator.probe().kind == "tcg"
    assert calls() == []
