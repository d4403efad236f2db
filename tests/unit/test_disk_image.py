import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from qcow2 import header

from builder.errors import Busy, EnvironmentUnable, InputRefused
from builder.host import disk_image


@pytest.fixture
def image(tmp_path):
    """`image(data)`: a file of these bytes."""

    def write(data, name="disk.qcow2"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"version": 2},
        {"incompatible": 1 << 3},  # compression type
        {"incompatible": 1 << 4, "cluster_bits": 17},  # extended L2
        {"size": disk_image.LARGEST_DISK},
        {"extensions": [(0x6803F857, b"\0" * 48), (0, b"")]},
    ],
)
def test_images_that_stand_alone_are_taken(image, fields):
    found = disk_image.preflight(image(header(**fields)))
    assert (found.version, found.virtual_size) == (fields.get("version", 3), fields.get("size", 1 << 30))


@pytest.mark.parametrize(
    ("fields", "name", "found"),
    [
        ({"backing": b"/etc/shadow"}, "backing file", "'/etc/shadow'"),
        ({"backing": b"json:{\x1b[2J\xff"}, "backing file", r"'json:{\x1b[2J\udcff'"),
        ({"backing": b"/x", "version": 2}, "backing file", "'/x'"),
        ({"incompatible": 1 << 2}, "data file", "bit 2"),
        ({"extensions": [(0x44415441, b"/etc/passwd")]}, "data file", "'/etc/passwd'"),
        ({"extensions": [(1, b"x" * 9), (0x44415441, b"second")]}, "data file", "'second'"),
        ({"incompatible": 1}, "dirty", "bit 0"),
        ({"incompatible": 2}, "corrupt", "bit 1"),
        ({"incompatible": 1 << 5}, "unknown features", "0x20"),
        ({"incompatible": 1 << 63}, "unknown features", "0x8000000000000000"),
        ({"encryption": 1}, "encryption", "method 1"),
        ({"encryption": 2}, "encryption", "method 2"),
        ({"snapshots": 3}, "internal snapshots", "3"),
        ({"size": 60 << 40}, "virtual size", "65970697666560 bytes"),
    ],
)
def test_each_refusal_names_the_field_and_its_value(image, fields, name, found):
    path = image(header(**fields))
    (row,) = [one for one in disk_image.REFUSALS if one.name == name]
    with pytest.raises(InputRefused) as caught:
        disk_image.preflight(path)
    assert str(caught.value).splitlines() == [
        f"{path} cannot be the source of a build",
        f"  why: {row.why} ({name}: {found})",
        f"  fix: {row.fix}",
    ]


def test_every_refusal_has_its_case():
    cases = test_each_refusal_names_the_field_and_its_value.pytestmark[0].args[1]
    assert {name for _, name, _ in cases} == {one.name for one in disk_image.REFUSALS}


def test_all_reasons_are_given_at_once(image):
    with pytest.raises(InputRefused, match=r"was not closed cleanly .*; it is encrypted"):
        disk_image.preflight(image(header(incompatible=1, encryption=2)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"x" * 100, "it does not start as one"),
        (b"KDMV" + bytes(100), "it looks like vmdk"),
        (bytes(0x8001) + b"CD001", "it looks like an ISO"),
        (bytes(510) + b"\x55\xaa", "it looks like raw"),
    ],
)
def test_what_is_not_qcow2_is_said_to_be_so(image, data, why):
    with pytest.raises(InputRefused, match="is not a qcow2 image") as caught:
        disk_image.preflight(image(data))
    assert caught.value.why == why


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header()[:50], "the header is cut off after 50 bytes"),
        (header()[:80], "the header is cut off after 80 bytes"),
        (header(version=4), "magic b'QFI\\xfb', version 4: only qcow2 of version 2 and 3 is known"),
        (header(cluster_bits=31), "clusters of 2^31 bytes are not allowed"),
        (header(length=96), "a header of 96 bytes is not allowed"),
        (header(length=1 << 20), "a header of 1048576 bytes is not allowed"),
        (header(extensions=[(1, b"")])[:108] + b"\xff" * 8, "header extension 0x1 of 4294967295 bytes does not fit"),
    ],
)
def test_headers_that_make_no_sense_are_refused(data, why):
    with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
        disk_image.parse(data)


@given(st.binary(max_size=400))
@example(header(backing=b"/x")[:4100])
@example(header()[:104] + b"\x44\x41\x54\x41\x00\x00\x00\x09")
def test_random_bytes_raise_only_our_errors(data):
    for start in (b"", b"QFI\xfb\0\0\0\2", b"QFI\xfb\0\0\0\3", header()[:100]):
        with tempfile.NamedTemporaryFile() as file:
            file.write(start + data)
            file.flush()
            with suppress(InputRefused):
                assert 0 <= disk_image.preflight(Path(file.name)).virtual_size <= disk_image.LARGEST_DISK


def test_only_regular_files_are_opened(tmp_path, image):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(image(header()))
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, sentence in (
        ("fifo", "is not a regular file"),
        (".", "is not a regular file"),
        ("link", "it is a link; name the file itself"),
        ("dangling", "it is a link; name the file itself"),
        ("none", "No such file or directory"),
        ("a\0b", "embedded null byte"),
    ):
        with pytest.raises(InputRefused) as caught:
            disk_image.open_regular(tmp_path / name)
        assert sentence in str(caught.value)
    with pytest.raises(InputRefused, match="is not a regular file"):
        disk_image.open_regular(Path("/dev/null"))


# ---------------------------------------------------------------- with the real qemu-img


@pytest.fixture
def real(tmp_path):
    """A qcow2 of 64 MiB with 1 MiB of data in it, as qemu-img made it."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    path = tmp_path / "real.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 1M", path], check=True)
    return path


def test_an_image_of_qemu_img_passes(real):
    found = disk_image.preflight(real)
    disk_image.check(real)
    assert (found.version, found.virtual_size) == (3, 64 << 20)
    assert 1 << 20 < disk_image.measure(real) < 2 << 20


def test_an_overlay_reads_from_its_base_and_is_private(real, tmp_path):
    overlay = tmp_path / "overlay.qcow2"
    disk_image.create_overlay(real, overlay)
    assert overlay.stat().st_mode & 0o777 == 0o600
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -q -P 7 0 1M", overlay], check=True)
    with pytest.raises(InputRefused, match="backing file"):
        disk_image.preflight(overlay)


def test_an_overlay_that_cannot_be_made_is_the_machines_fault(real, tmp_path):
    with pytest.raises(EnvironmentUnable, match="qemu-img create cannot work on"):
        disk_image.create_overlay(real, tmp_path / "none" / "overlay.qcow2")


def test_leaked_clusters_do_no_harm(real):
    with real.open("r+b") as file:
        file.seek(0x20000)  # the refcounts of the first clusters: one is claimed that nobody uses
        counts = bytearray(file.read(128))
        counts[-1] = 1
        file.truncate(64 << 16)
        file.seek(0x20000)
        file.write(counts)
    found = subprocess.run(["qemu-img", "check", "-f", "qcow2", real], capture_output=True, check=False)
    assert found.returncode == 3
    disk_image.check(real)


def test_an_image_somebody_writes_to_is_busy(real):
    with subprocess.Popen(["qemu-io", "-f", "qcow2", real], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.read(8) == b"qemu-io>"
        try:
            with pytest.raises(Busy, match="is in use by another process"):
                disk_image.check(real)
        finally:
            holder.stdin.write(b"quit\n")
