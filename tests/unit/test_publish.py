"""Publishing: all or nothing, whole, and only what belongs there; with the real qemu-img on small images."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from driver_discs import DictDisc, guest

from builder import publish as publishing
from builder.config import from_options
from builder.errors import ApplyFailed, EnvironmentUnable, InputRefused, PublishConflict
from builder.host import files
from builder.manifest import Build, Inputs
from builder.model import (
    Applied,
    BootReport,
    Bus,
    Certificate,
    CheckReport,
    Domain,
    Plan,
    Provides,
    Selection,
    Source,
)
from builder.publish import damaged, publish, published_already, require_place

MIB = 1 << 20
INPUTS = Inputs(name="small", source="1" * 64, drivers="2" * 64, spec="3" * 64)
BASE_FILES = {"image.qcow2", "domain.xml", "manifest.json", "packer-manifest.json", "provenance.json", "SHA256SUMS"}


def qemu_img(*words):
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def overlay(tmp_path):
    """A 2 MiB image with an overlay that changes a part of it."""
    raw, base, over = (tmp_path / name for name in ("raw", "base.qcow2", "overlay.qcow2"))
    raw.write_bytes(b"base" * (2 * MIB // 4))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, base)
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 65536 65536", over], check=True, capture_output=True)
    return over


@pytest.fixture
def build(overlay, tmp_path):
    screen, junit = tmp_path / "screen-1.png", tmp_path / "checks.xml"
    screen.write_bytes(b"a picture")
    junit.write_text("<testsuites/>")
    provides = Provides(boot_buses=frozenset({Bus.VIRTIO, Bus.SATA}), devices=frozenset(), test_signing=True)
    ca = Certificate(b"a certificate", "CN=somebody")
    plan = Plan(guest(), Selection((), (("viofs", "not on the disc"),)), (), (ca,), provides, ("a note",))
    return Build(
        spec=from_options({"name": "small", "source": "windows.qcow2", "virtio_win": "virtio-win.iso"}),
        inputs=INPUTS,
        applied=Applied(overlay, plan, ()),
        domain=Domain(booted="<domain/>", template="<domain type='kvm'/>"),
        boot=BootReport("agent-up", "", "tcg", Bus.VIRTIO, 12.34, guest="a guest", stand_in=True, evidence=(screen,)),
        checks=CheckReport(3, (), (("m::t", "needs a running guest"),), junit),
        started=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    )


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output-small"


@pytest.fixture
def staging(tmp_path):
    workspace = tmp_path / ".winfoundry-work"
    workspace.mkdir(mode=0o700)
    return workspace / "staging"


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def snapshot(folder):
    return {name: (folder / name).read_bytes() for name in names(folder)}


# ---------------------------------------------------------------- what is published


def test_everything_is_there_and_nothing_else(build, output, staging):
    assert publish(build, output, staging=staging) == output
    assert names(output) == BASE_FILES | {"checks.xml", "boot/screen-1.png"}
    assert not staging.exists()


def test_the_image_stands_alone_and_equals_the_overlay(build, output, staging, overlay):
    publish(build, output, staging=staging)
    image = output / "image.qcow2"
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", "-f", "qcow2", image]))
    assert "backing-filename" not in info
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", overlay, image)


def test_compression_makes_it_smaller_and_no_different(build, output, staging, overlay, tmp_path):
    publish(build, output, staging=staging)
    publish(build, tmp_path / "packed", staging=staging, compress=True)
    plain, packed = (folder / "image.qcow2" for folder in (output, tmp_path / "packed"))
    assert packed.stat().st_size < plain.stat().st_size / 4
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", overlay, packed)


def test_sha256sum_agrees(build, output, staging):
    publish(build, output, staging=staging)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=output, check=True, capture_output=True)
    listed = {line.split("  ")[1] for line in (output / "SHA256SUMS").read_text().splitlines()}
    assert listed == names(output) - {"SHA256SUMS"}


def test_files_can_be_read_by_all_and_changed_by_none(build, output, staging):
    previous = os.umask(0o077)
    try:
        publish(build, output, staging=staging)
    finally:
        os.umask(previous)
    modes = {oct(path.stat().st_mode & 0o777) for path in output.rglob("*") if path.is_file()}
    assert modes == {"0o444"}
    assert oct((output / "boot").stat().st_mode & 0o777) == oct(output.stat().st_mode & 0o777) == "0o755"


def test_the_manifest_says_what_it_is(build, output, staging):
    publish(build, output, staging=staging)
    found = json.loads((output / "manifest.json").read_text())
    assert found["schema"] == 1
    assert found["inputs"]["source"] == "1" * 64
    assert found["image"]["sha256"] == files.sha256(output / "image.qcow2")
    assert found["plan"]["digest"] == build.applied.plan.digest
    assert found["guest"]["release"] == "w10"
    assert found["test_signing"] is True
    assert found["trusted"] == [
        {"thumbprint": hashlib.sha1(b"a certificate").hexdigest().upper(), "subject": "CN=somebody"}
    ]
    assert found["left_out"] == [{"name": "viofs", "why": "not on the disc"}]
    assert found["boot"]["verdict"] == "agent-up"
    assert found["boot"]["stand_in"] is True
    assert found["checks"]["passed"] == 3
    assert found["checks"]["skipped"] == [{"name": "m::t", "why": "needs a running guest"}]
    assert "qemu-img" in found["tools"]


def test_what_was_not_done_is_said(build, output, staging):
    publish(replace(build, boot=None, checks=None), output, staging=staging)
    found = json.loads((output / "manifest.json").read_text())
    assert found["boot"] == {"verdict": "not-booted"}
    assert found["checks"] == {"verdict": "not-checked"}
    assert names(output) == BASE_FILES


def test_packer_reads_its_own_shape(build, output, staging):
    publish(build, output, staging=staging)
    found = json.loads((output / "packer-manifest.json").read_text())
    (entry,) = found["builds"]
    assert entry.keys() == {
        *("name", "builder_type", "build_time", "files", "artifact_id", "packer_run_uuid", "custom_data"),
    }
    assert entry["packer_run_uuid"] == found["last_run_uuid"]
    assert entry["files"][0] == {"name": "image.qcow2", "size": (output / "image.qcow2").stat().st_size}


def test_the_provenance_is_about_these_bytes(build, output, staging):
    publish(build, output, staging=staging)
    found = json.loads((output / "provenance.json").read_text())
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["subject"] == [
        {"name": "image.qcow2", "digest": {"sha256": files.sha256(output / "image.qcow2")}},
    ]
    definition = found["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["source"] == "windows.qcow2"
    assert definition["resolvedDependencies"][0] == {"name": "windows.qcow2", "digest": {"sha256": "1" * 64}}
    assert found["predicate"]["runDetails"]["metadata"]["startedOn"] == "2024-01-02T03:04:05Z"


def test_two_builds_of_the_same_give_the_same_image(build, output, staging, tmp_path):
    other = publish(build, tmp_path / "other", staging=staging)
    publish(build, output, staging=staging)
    assert files.sha256(output / "image.qcow2") == files.sha256(other / "image.qcow2")
    assert (output / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()


# ---------------------------------------------------------------- again


def test_the_same_inputs_are_published_already(build, output, staging):
    assert not published_already(output, INPUTS)
    publish(build, output, staging=staging)
    assert published_already(output, INPUTS)


@pytest.mark.parametrize("name", ["name", "source", "drivers", "spec", "tool"])
def test_any_other_input_is_another_build(build, output, staging, name):
    publish(build, output, staging=staging)
    assert not published_already(output, replace(INPUTS, **{name: "x"}))


@pytest.mark.parametrize("name", ["image.qcow2", "domain.xml", "SHA256SUMS", "boot/screen-1.png"])
def test_a_changed_file_is_noticed(build, output, staging, name):
    publish(build, output, staging=staging)
    (output / name).chmod(0o644)
    with (output / name).open("r+b") as file:
        file.write(b"!")
    assert damaged(output)
    assert not published_already(output, INPUTS)


def test_missing_and_added_files_are_noticed(build, output, staging):
    publish(build, output, staging=staging)
    (output / "domain.xml").unlink()
    (output / "extra").touch()
    assert damaged(output) == ("domain.xml", "extra")


def test_the_digest_of_a_folder_of_drivers_is_that_of_its_files(tmp_path):
    spec = from_options({"name": "small", "source": "windows.qcow2", "virtio_win": "tree"})
    source = Source(tmp_path / "windows.qcow2", "1" * 64, MIB, tmp_path / "overlay")
    digests = []
    for content in (b"one", b"one", b"two"):
        disc = DictDisc({"a/b.inf": content, "c.txt": b"same"})
        disc.origin = tmp_path
        digests.append(publishing.inputs(spec, source, disc).drivers)
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_of_an_iso_is_its_own(tmp_path):
    iso = tmp_path / "drivers.iso"
    iso.write_bytes(b"an iso")
    disc = DictDisc({})
    disc.origin = iso
    spec = from_options({"name": "small", "source": "windows.qcow2", "virtio_win": str(iso)})
    source = Source(tmp_path / "windows.qcow2", "1" * 64, MIB, tmp_path / "overlay")
    assert publishing.inputs(spec, source, disc).drivers == hashlib.sha256(b"an iso").hexdigest()


# ---------------------------------------------------------------- taken places


def test_an_output_that_exists_is_not_touched(build, output, staging):
    publish(build, output, staging=staging)
    before = snapshot(output)
    with pytest.raises(PublishConflict, match="exists"):
        publish(build, output, staging=staging)
    assert snapshot(output) == before


def test_force_replaces_the_whole_of_it(build, output, staging):
    publish(build, output, staging=staging)
    publish(replace(build, boot=None), output, staging=staging, force=True)
    assert names(output) == BASE_FILES | {"checks.xml"}
    assert not staging.exists()


def test_force_does_not_remove_what_is_not_ours(build, output, staging):
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(PublishConflict, match="not an output of winfoundry"):
        publish(build, output, staging=staging, force=True)
    assert snapshot(output) == {"thesis.txt": b"years of work"}


def test_an_empty_folder_is_a_place(build, output, staging):
    output.mkdir()
    publish(build, output, staging=staging)
    assert names(output) >= BASE_FILES


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(".")])
def test_a_file_or_link_is_no_place(output, make):
    make(output)
    with pytest.raises(PublishConflict, match="not a folder"):
        require_place(output, force=True)


def test_a_folder_that_is_missing_is_found_out_before_the_work(tmp_path):
    with pytest.raises(EnvironmentUnable, match="nothing can be published"):
        require_place(tmp_path / "nothing" / "output", force=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_found_out_before_the_work(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(EnvironmentUnable, match="nothing can be published"):
        require_place(tmp_path / "output", force=False)


def test_somebody_who_comes_first_keeps_the_place(build, output, staging):
    def somebody():
        output.mkdir()
        (output / "first").touch()

    with pytest.raises(PublishConflict, match="appeared while we worked"):
        publish(build, output, staging=staging, confirm=somebody)
    assert names(output) == {"first"}


def test_another_file_system_is_refused_at_once(build, output):
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == output.parent.stat().st_dev:
        pytest.skip("/dev/shm is not another file system here")
    with pytest.raises(EnvironmentUnable, match="different file systems"):
        publish(build, output, staging=shm / "winfoundry-staging")
    assert not output.exists()


# ---------------------------------------------------------------- faults


def faulty_qemu_img(folder, monkeypatch, script):
    """A qemu-img that runs `script` (sh) after the real one; $1 is the verb, $image the image that is written."""
    real = subprocess.check_output(["which", "qemu-img"], text=True).strip()
    fake = folder / "bin" / "qemu-img"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n{real} "$@" || exit $?\nfor image; do :; done\n{script}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")


def nothing_published(output, staging):
    return not output.exists() and not staging.exists()


def test_a_flipped_byte_is_noticed(build, output, staging, monkeypatch, tmp_path):
    flip = 'if [ "$1" = convert ]; then printf ! | dd of="$image" bs=1 seek=800000 conv=notrunc 2>/dev/null; fi'
    faulty_qemu_img(tmp_path, monkeypatch, flip)
    with pytest.raises(ApplyFailed, match=r"could not be written out whole[\s\S]*compare"):
        publish(build, output, staging=staging)
    assert nothing_published(output, staging)


def test_a_convert_that_was_killed_is_noticed(build, output, staging, monkeypatch, tmp_path):
    faulty_qemu_img(tmp_path, monkeypatch, 'if [ "$1" = convert ]; then kill -9 $$; fi')
    with pytest.raises(ApplyFailed, match="could not be written out whole"):
        publish(build, output, staging=staging)
    assert nothing_published(output, staging)


def test_a_full_disk_is_an_error_of_its_own(build, output, staging):
    """RLIMIT_FSIZE stands for a disk with room for 1 MiB: qemu-img gets EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(ApplyFailed, match="is full"):
            publish(build, output, staging=staging)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert nothing_published(output, staging)


def test_an_image_that_leans_on_another_is_not_published(build, output, staging, monkeypatch, overlay):
    rebase = f'if [ "$1" = compare ]; then qemu-img rebase -u -f qcow2 -b {overlay} -F qcow2 "$image"; fi'
    faulty_qemu_img(staging.parent, monkeypatch, rebase.replace("qemu-img", "/usr/bin/qemu-img"))
    with pytest.raises(InputRefused, match="backing file"):
        publish(build, output, staging=staging)
    assert nothing_published(output, staging)


def test_a_file_too_many_is_not_published(build, output, staging, monkeypatch):
    sums = publishing.manifest.sums
    monkeypatch.setattr(
        publishing.manifest, "sums", lambda listed: (staging / "planted").write_text("x") and sums(listed)
    )
    with pytest.raises(PublishConflict, match=r"should[\s\S]*planted"):
        publish(build, output, staging=staging)
    assert nothing_published(output, staging)


def test_the_last_word_is_no(build, output, staging):
    def no():
        raise InputRefused("the source was changed")

    with pytest.raises(InputRefused, match="was changed"):
        publish(build, output, staging=staging, confirm=no)
    assert nothing_published(output, staging)


def test_it_is_on_the_disk_before_it_is_published_and_the_name_after(build, output, staging, monkeypatch):
    log = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor):
        log.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def noted_rename(self, target):
        log.append(("rename", Path(target)))
        rename(self, target)
        return Path(target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    publish(build, output, staging=staging)
    moved = log.index(("rename", output))
    flushed = {path for word, path in log[:moved] if word == "fsync"}
    assert flushed == {staging, staging / "boot", *(staging / name for name in names(output))}
    assert log[moved:] == [("rename", output), ("fsync", output.parent)]


KILLED = """
import os, pickle, sys
from pathlib import Path
from builder import publish
from builder.host import files

build, output, staging, force, step = pickle.loads(sys.stdin.buffer.read())
steps = {
    "before the image": (publish, "_flatten"), "before the documents": (publish, "_documents"),
    "before sealing": (files, "seal"), "before the rename": (publish, "_move"), "after the rename": (files, "sync"),
}
module, name = steps[step]
real = getattr(module, name)

def killed(*args, **words):
    if name != "sync" or args[0] == output.parent:
        os._exit(137)
    return real(*args, **words)

setattr(module, name, killed)
publish.publish(build, output, staging=staging, force=force)
"""


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "step", ["before the image", "before the documents", "before sealing", "before the rename", "after the rename"]
)
def test_killed_at_any_step_leaves_the_old_or_the_new(build, output, staging, step, force):
    if force:
        publish(build, output, staging=staging)
    before = snapshot(output)
    import pickle

    job = pickle.dumps((replace(build, checks=None), output, staging, force, step))
    done = subprocess.run([sys.executable, "-c", KILLED], input=job, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 137
    if step == "after the rename":
        assert names(output) == BASE_FILES | {"boot/screen-1.png"}
        assert not damaged(output)
    else:
        assert snapshot(output) == before
