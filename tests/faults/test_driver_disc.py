"""What may be wrong with a driver disc, of real packages: each fault has its own error, exit 3, and names the file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from builder import pipeline
from builder.errors import InputRefused, NoDriver
from builder.host import media
from builder.host.media import open_media
from builder.windows.drivers import DRIVERS, select
from builder.windows.releases import Arch, by_name

HERE = "viostor/w10/amd64"
SKIPPED = {driver.name: "skip" for driver in DRIVERS}


@pytest.fixture
def disc(virtio_win, tmp_path):
    """A disc with one real package, to be damaged."""
    shutil.copytree(virtio_win / HERE, tmp_path / "disc" / HERE)
    return tmp_path / "disc"


def chosen(disc, **policy):
    with open_media(disc) as opened:
        return select(opened, by_name("w10"), Arch.AMD64, 19045, SKIPPED | (policy or {"viostor": "required"})).packages


def test_the_package_is_sound_before_it_is_damaged(disc):
    assert [one.name for one in chosen(disc)] == ["viostor"]


def edit(disc, old, new, name="viostor.inf"):
    path = disc / HERE / name
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def iso(disc):
    if not shutil.which("xorriso"):
        pytest.skip("xorriso is not installed: no ISO can be made (apt-test.txt)")
    target = disc.parent / "disc.iso"
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-r", "-iso-level", "4", "-V", "DISC", "-o", target, disc]
    subprocess.run(argv, check=True, capture_output=True)
    return target


def truncated(disc):
    whole = iso(disc)
    os.truncate(whole, whole.stat().st_size // 2)
    return whole


def web_page(disc):
    page = disc.parent / "virtio-win.iso"
    page.write_bytes(b"<!DOCTYPE html>" * 4000)
    return page


def other_release(disc):
    (disc / "viostor" / "w10").rename(disc / "viostor" / "w7")


def other_package(disc, virtio_win):
    shutil.copyfile(virtio_win / "vioscsi/w10/amd64/vioscsi.cat", disc / HERE / "viostor.cat")


def other_machine(disc, virtio_win):
    shutil.copyfile(virtio_win / "viostor/w10/ARM64/viostor.sys", disc / HERE / "viostor.sys")


def two_versions(disc, virtio_win):
    shutil.copytree(virtio_win / "viostor/w8.1/amd64", disc / "old/w10/amd64")


FAULTS = {  # row of the fault matrix -> (damage; the disc to read if not the same, what is said)
    "D01 missing": (lambda disc, _: disc / "gone.iso", "gone.iso does not exist"),
    "D01 not an ISO": (lambda disc, _: web_page(disc), "is not an ISO image"),
    "D01 truncated": (lambda disc, _: truncated(disc), "is truncated"),
    "D03 no driver for this release": (lambda disc, _: other_release(disc), "no viostor driver for Windows 10 (amd64)"),
    "D04 .sys missing": (lambda disc, _: (disc / HERE / "viostor.sys").unlink(), "viostor.inf needs viostor.sys"),
    "D04 .cat missing": (lambda disc, _: (disc / HERE / "viostor.cat").unlink(), "viostor.inf needs viostor.cat"),
    "D05 link": (lambda disc, _: (disc / HERE / "x.dll").symlink_to("/etc/shadow"), "x.dll is refused"),
    "D06 DOS device": (lambda disc, _: (disc / HERE / "CON.sys").touch(), "CON.sys is refused"),
    "D07 collision": (lambda disc, _: (disc / HERE / "VIOSTOR.SYS").touch(), "collision of"),
    "D08 long s": (lambda disc, _: (disc / HERE / "vio\u017ftor.sys").touch(), r"vio\u017ftor.sys is refused"),
    "D09 odd UTF-16": (
        lambda disc, _: (disc / HERE / "viostor.inf").write_bytes(b"\xff\xfe[\0V\0]\0\n"),
        "line 1: not text in utf-16-le",
    ),
    "D10 no [Version]": (lambda disc, _: edit(disc, b"[Version]", b"[Wersion]"), "there is no [Version] section"),
    "D10 DriverVer": (lambda disc, _: edit(disc, b"07/21/2023", b"tomorrow"), "DriverVer is not mm/dd/yyyy"),
    "D11 outside": (
        lambda disc, _: edit(disc, b"viostor.sys,,,2", rb"..\..\evil.sys"),
        "names a file outside its folder",
    ),
    "D12 too large": (lambda disc, _: os.truncate(disc / HERE / "viostor.sys", 8 << 30), "viostor.sys is refused"),
    "D13 not a program": (
        lambda disc, _: (disc / HERE / "viostor.sys").write_bytes(b"hello"),
        "viostor.sys cannot be a driver",
    ),
    "D13 wrong machine": (other_machine, "viostor.sys is ARM64, need amd64"),
    "D14 two versions": (two_versions, "two different packages for the same Windows"),
    "line ends changed": (lambda disc, _: edit(disc, b"\r\n", b"\n"), "with CRLF line ends only: line ends changed?"),
    "INF changed": (lambda disc, _: edit(disc, b"07/21/2023", b"07/22/2023"), "does not list viostor.inf as it is"),
    "foreign catalogue": (other_package, "viostor.cat lists no file of viostor.inf: is it another package's?"),
}


@pytest.fixture
def refused(disc, virtio_win):
    def what(damage):
        damaged = damage(disc, virtio_win)
        with pytest.raises(InputRefused) as caught:
            chosen(damaged if isinstance(damaged, Path) and damaged.suffix == ".iso" else disc)
        return caught.value

    return what


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_own_error(refused, fault):
    damage, said = FAULTS[fault]
    error = refused(damage)
    assert said in error.what
    assert (error.exit_code, isinstance(error, NoDriver)) == (3, fault.startswith("D03"))
    others = {text for name, (_, text) in FAULTS.items() if text != said}
    assert not [text for text in others if text in error.what]


@pytest.mark.parametrize(
    "fault", [name for name in FAULTS if name[:3] not in ("D01", "D05", "D06", "D07", "D08", "D12")]
)
def test_an_optional_driver_with_a_fault_is_left_out_with_the_reason(disc, virtio_win, fault):
    """Faults of the disc as a whole are no driver's; those of a package do not fail the image."""
    damage, said = FAULTS[fault]
    damage(disc, virtio_win)
    with open_media(disc) as opened:
        found = select(opened, by_name("w10"), Arch.AMD64, 19045, SKIPPED | {"viostor": "optional"})
    assert found.packages == ()
    ((name, why),) = found.left_out
    assert (name, said in why) == ("viostor", True)


def test_d02_the_digest_is_compared_before_the_disc_is_opened(disc):
    """A web page would be refused as such if anything had looked into it."""
    with pytest.raises(InputRefused) as caught:
        pipeline._require_disc(web_page(disc), "sha256:" + "0" * 64)
    assert "not an ISO" not in str(caught.value)
    assert "0" * 64 in str(caught.value)


def test_d12_sizes_are_bounded_before_anything_is_read(disc, monkeypatch):
    monkeypatch.setattr(media, "MAX_FILE", 1000)
    with pytest.raises(InputRefused, match="is refused") as caught:
        chosen(disc)
    assert "over the limit of 1000" in caught.value.why
