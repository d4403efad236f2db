"""The initramfs of the NT stand-in, unpacked by busybox and run from where it was unpacked as far as that goes."""

import gzip
import os
import subprocess

import pytest

from builder.errors import EnvironmentUnable
from builder.sample import initramfs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("initramfs")
    archive = gzip.decompress(initramfs.stand_in({"storahci.sys": b"driver"}).initramfs)
    subprocess.run(["busybox", "cpio", "-id"], cwd=folder, input=archive, check=True, capture_output=True)
    return folder


def test_every_program_finds_its_libraries(root):
    loader = next((root / "lib64").glob("ld-linux*"))
    for name in ("hivexsh", "osslsigncode", "qemu-ga", "lowntfs-3g"):
        libraries = next((root / "usr" / "lib").glob("*-linux-gnu"))
        argv = [loader, "--inhibit-cache", "--library-path", libraries, "--list", root / "bin" / name]
        listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        resolved = [line.split(" => ")[1].split()[0] for line in listed.splitlines() if " => " in line]
        assert resolved
        outside = [path for path in resolved if not path.startswith(str(root))]
        assert all(path == "/lib64/ld-linux-x86-64.so.2" for path in outside), outside


def test_every_module_has_its_dependencies(root):
    (folder,) = (root / "lib" / "modules").iterdir()
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, needed = line.partition(":")
        assert all((folder / name).is_file() for name in [module, *needed.split()])
    listed = {line.rpartition(" ")[2] for line in (folder / "modules.alias").read_text().splitlines()}
    assert {"virtio_pci", "virtio_blk", "virtio_scsi", "ahci", "ata_piix", "pvpanic_mmio"} <= listed


def test_it_calls_itself_a_stand_in(root):
    release = dict(line.split("=", 1) for line in (root / "etc" / "os-release").read_text().splitlines())
    assert (release["ID"], release["NAME"]) == ("nt-stand-in", '"NT stand-in"')
    assert "not Windows" in release["PRETTY_NAME"]


def test_init_is_a_program_of_its_own_shell(root):
    assert os.access(root / "init", os.X_OK)
    assert subprocess.run(["busybox", "sh", "-n", root / "init"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("table", "missing", "package"),
    [
        ("_PROGRAMS", {"no-such-program": "some-package"}, "some-package"),
        ("_MODULES", ("no_such",), "linux-image-amd64"),
    ],
)
def test_what_is_missing_is_named_with_its_package(monkeypatch, table, missing, package):
    monkeypatch.setattr(initramfs, table, missing)
    with pytest.raises(EnvironmentUnable) as caught:
        initramfs.stand_in({})
    assert caught.value.fix == f"apt-get install {package}"
