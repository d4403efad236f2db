"""Rows S01 to S18: sources we refuse, and how. After each the source is what it was, and nothing is left over."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from qcow2 import header

from builder import config, source
from builder.errors import Busy, EnvironmentUnable, InputRefused

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def qemu_img(*argv):
    subprocess.run(["qemu-img", *argv], check=True, capture_output=True)


@pytest.fixture
def real(tmp_path):
    """A sound image with data in it."""
    path = tmp_path / "in" / "disk.qcow2"
    path.parent.mkdir()
    qemu_img("create", "-f", "qcow2", path, "16M")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 4M", path], check=True)
    return path


@pytest.fixture
def crafted(tmp_path):
    """`crafted(data)`: a file of these bytes."""

    def write(data):
        path = tmp_path / "in" / "disk.qcow2"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return write


def state(path):
    found = path.lstat()
    return found.st_size, found.st_mtime_ns, found.st_mode, found.st_uid, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def opened(tmp_path):
    """`opened(path)`: opens it for a build, and holds invariants I1 (source unchanged) and I3 (nothing left over)."""

    def attempt(path, during=lambda found: None, **options):
        before = state(path) if path.is_file() else None
        given = {"source": path, "virtio_win": tmp_path / "disc", "output_directory": tmp_path / "out" / "image"}
        try:
            with source.open_source(config.from_options({**given, **options})) as found:
                during(found)
        finally:
            assert before is None or state(path) == before
            assert not list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else [])

    return attempt


def refused(attempt, error=InputRefused):
    with pytest.raises(error) as caught:
        attempt()
    return str(caught.value).replace("\n  ", " | ")


@needs_qemu_img
def test_s01_a_backing_file_is_named_and_not_opened(real, opened):
    secret = real.with_name("secret\x1b[2J.txt")
    secret.write_text("secret")
    image = real.with_name("leak.qcow2")
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, image, "1M")
    said = refused(lambda: opened(image))
    assert "it reads from another file (backing file: " in said
    assert "secret\\x1b[2J.txt" in said


@needs_qemu_img
def test_s02_an_external_data_file_is_refused(real, opened):
    image = real.with_name("leak.qcow2")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={real.with_name('data.raw')},data_file_raw=on", image, "1M")
    assert "it keeps its data in another file (data file: " in refused(lambda: opened(image))


@needs_qemu_img
@pytest.mark.parametrize("name", ['json:{"driver":"nbd","host":"127.0.0.1","port":"9"}', "nbd:127.0.0.1:9"])
def test_s03_a_backing_file_that_is_a_protocol_is_refused(real, opened, name):
    image = real.with_name("leak.qcow2")
    qemu_img("create", "-u", "-f", "qcow2", "-F", "raw", "-b", name, image, "1M")
    assert f"backing file: {name!a}" in refused(lambda: opened(image))


@needs_qemu_img
def test_s04_the_format_is_declared_never_probed(real, opened):
    raw = real.with_name("disk.raw")
    qemu_img("convert", "-f", "qcow2", "-O", "raw", real, raw)
    with raw.open("r+b") as file:
        file.seek(510)
        file.write(b"\x55\xaa")
    said = refused(lambda: opened(raw))
    assert "is not a qcow2 image | why: it looks like raw | fix: qemu-img convert -f raw -O qcow2" in said


@pytest.mark.parametrize("data", [b"KDMV" + bytes(4096), bytes(0x8001) + b"CD001", os.urandom(4096), b"\0" * 65536])
def test_s05_what_is_not_qcow2_is_refused(crafted, opened, data):
    assert "is not a qcow2 image" in refused(lambda: opened(crafted(data)))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.touch(), "is not a qcow2 image | why: it is empty"),
        (lambda path: path.mkdir(), "is not a regular file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "why: it is a link; name the file itself"),
        (lambda path: path.symlink_to("/dev/zero"), "why: it is a link; name the file itself"),
        (lambda path: None, "why: No such file or directory"),
    ],
    ids=["empty", "folder", "fifo", "dangling", "device", "nothing"],
)
def test_s06_only_regular_files_with_something_in_them_are_opened(tmp_path, opened, make, why):
    path = tmp_path / "disk.qcow2"
    make(path)
    assert why in refused(lambda: opened(path))


@needs_qemu_img
def test_s07_a_truncated_image_is_refused_with_the_number_of_corruptions(real, opened):
    os.truncate(real, real.stat().st_size // 2)
    found = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", "qcow2", real], capture_output=True, check=False
    )
    number = json.loads(found.stdout)["corruptions"]
    assert number > 0
    assert f"is damaged | why: qemu-img check found {number} corruptions" in refused(lambda: opened(real))


@needs_qemu_img
@pytest.mark.parametrize(
    ("offset", "value", "why"),
    [
        pytest.param(79, 1, "it was not closed cleanly (dirty: bit 0)", id="s08-dirty"),
        pytest.param(79, 2, "it is marked corrupt (corrupt: bit 1)", id="s09-corrupt"),
        pytest.param(72, 1, "it needs a newer reader (unknown features: 0x100000000000000)", id="s10-unknown"),
    ],
)
def test_s08_to_s10_feature_bits_are_refused(real, opened, offset, value, why):
    with real.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([value]))
    assert why in refused(lambda: opened(real))


@needs_qemu_img
def test_s11_an_encrypted_image_is_refused(real, opened, crafted):
    image = real.with_name("aes.qcow2")
    options = ("--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s")
    qemu_img("create", "-f", "qcow2", *options, image, "1M")
    assert "it is encrypted (encryption: method 1)" in refused(lambda: opened(image))
    # qemu-img measures the processor for LUKS, and fails where it cannot: a header says the same
    assert "it is encrypted (encryption: method 2)" in refused(lambda: opened(crafted(header(encryption=2))))


@needs_qemu_img
def test_s12_internal_snapshots_are_refused(real, opened):
    qemu_img("snapshot", "-c", "first", real)
    assert "its snapshots would be lost (internal snapshots: 1)" in refused(lambda: opened(real))


@needs_qemu_img
def test_s13_a_huge_disk_in_a_small_file_is_refused(real, opened):
    image = real.with_name("huge.qcow2")
    qemu_img("create", "-f", "qcow2", image, "60T")
    assert image.stat().st_size < 16 << 20
    said = refused(lambda: opened(image))
    assert "(virtual size: 65970697666560 bytes)" in said
    assert "no disk over 17592186044416 bytes is taken" in said


@needs_qemu_img
def test_s14_an_image_a_virtual_machine_has_open_is_busy(real, opened):
    with subprocess.Popen(["qemu-io", "-f", "qcow2", real], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.read(8) == b"qemu-io>"
        said = refused(lambda: opened(real), Busy)
        holder.stdin.write(b"quit\n")
    assert "is in use by another process" in said
    opened(real)  # I7: with the cause gone it works


def test_s15_a_wrong_digest_is_found_before_any_tool_opens_the_image(crafted, opened, monkeypatch):
    path = crafted(header())
    monkeypatch.setattr("builder.host.process.run", lambda *_, **__: pytest.fail("a tool was started"))
    said = refused(lambda: opened(path, source_checksum="sha256:" + "0" * 64))
    assert f"its SHA-256 is {hashlib.sha256(header()).hexdigest()}, {'0' * 64} was demanded" in said


@needs_qemu_img
@pytest.mark.parametrize("keep_time", [False, True])
def test_s16_a_source_that_changes_during_the_build_is_noticed(real, opened, keep_time):
    original, stamp = real.read_bytes(), real.stat()

    def during(found):
        with real.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
        if keep_time:
            os.utime(real, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        try:
            source.require_unchanged(found)
        finally:
            real.write_bytes(original)
            os.utime(real, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    said = refused(lambda: opened(real, during))
    assert "was changed while it was being built from" in said
    assert hashlib.sha256(original).hexdigest() in said


@needs_qemu_img
@pytest.mark.parametrize(
    "name",
    [
        "nbd:x.qcow2",
        'json:{"driver":"file"}',
        "a,b=c,,d.qcow2",
        "-f",
        "--help",
        "a b'\"$(id).qcow2",
        "fat:rw:x",
        "é.qcow2",
    ],
)
def test_s17_odd_names_are_names(real, opened, name, monkeypatch):
    odd = real.with_name(name)
    real.rename(odd)
    monkeypatch.chdir(odd.parent)

    def during(found):
        told = subprocess.run(["qemu-img", "info", "--output=json", found.overlay], capture_output=True, check=True)
        assert json.loads(told.stdout)["full-backing-filename"] == str(odd)
        subprocess.run(["qemu-io", "-r", "-f", "qcow2", "-c", "read -q -P 7 0 4M", found.overlay], check=True)

    opened(odd, during)
    opened(Path(name), output_directory=odd.parent.parent / "out" / name)


@pytest.mark.parametrize("name", ["a\nb", os.fsdecode(b"\xff.qcow2"), "a\x1b[2J"])
def test_s17_names_that_cannot_be_shown_are_refused_as_configuration(tmp_path, opened, name):
    path = tmp_path / name
    path.write_bytes(header())
    with pytest.raises(config.ConfigError, match=r"source: must not have the character U\+"):
        opened(path)


@needs_qemu_img
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda real, out: real.chmod(0), "disk.qcow2 cannot be read | why: user 65534 has no permission"),
        (lambda real, out: out.chmod(0o555), "out cannot hold the output | why: Permission denied (user 65534)"),
    ],
    ids=["source", "output"],
)
def test_s18_missing_permissions_name_the_path_and_the_user(real, tmp_path, spoil, said):
    if os.geteuid() != 0:
        pytest.skip("needs root, to become a user without permissions")
    out = tmp_path / "out"
    out.mkdir()
    os.chown(out, 65534, 65534)
    spoil(real, out)
    before = state(real)
    child = f"""
import os, sys
from builder import config, source
from builder.errors import WinfoundryError
for path in {str(real)!r}, {str(out)!r}:
    for folder in __import__("pathlib").Path(path).parents:
        try: folder.chmod(folder.stat().st_mode | 0o011)
        except OSError: pass
os.setgroups([]); os.setgid(65534); os.setuid(65534)
given = dict(source={str(real)!r}, virtio_win="/none", output_directory={str(out / "image")!r})
try:
    with source.open_source(config.from_options(given)): print("opened")
except WinfoundryError as error:
    print(error.exit_code, error)
"""
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("4 ")
    assert said in done.stdout.replace("\n  ", " | ")
    assert state(real) == before
    assert list(out.iterdir()) == []


@needs_qemu_img
def test_a_sound_image_passes_all_of_them(real, opened):
    opened(real, source.require_unchanged)


def test_every_error_class_here_has_the_exit_code_of_the_matrix():
    assert (InputRefused.exit_code, EnvironmentUnable.exit_code, Busy.exit_code) == (3, 4, 75)
