"""A build from the real Windows 8.1 hives, a real BIOS boot store and the real virtio-win 0.1.240 tree.

Its packages for 8.1 are signed by Red Hat's own certificate, so test mode must switch itself on and say why. The result
is read with hivexget and regipy; regipy shares nothing with the code that wrote it.
"""

import hashlib
import json
import struct
import subprocess

import pytest
from regipy.registry import RegistryHive

from builder import inspection
from builder.host import appliance

pytestmark = pytest.mark.appliance

ID = r"VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
CA = "5C485F20BEF4A9DD77258A2F06D9386F18FB0696"  # cert/Virtio_Win_Red_Hat_CA.cer on the disc
LOADER = "{1b67bffd-e290-11eb-8ffa-f459a0d9b879}"  # bios-windeploy.bcd


@pytest.fixture(scope="module")
def result(built81, tmp_path_factory):
    """The hives and boot files of the built image, copied out."""
    folder = tmp_path_factory.mktemp("result")
    with appliance.launch(built81.output / "image.qcow2") as running:
        guest = inspection.inspect(running)
        for name in ("SYSTEM", "SOFTWARE", "BCD"):
            path = inspection.hive_path(running, guest, inspection.Hive(name))
            (folder / name).write_bytes(running.read(path, limit=200 << 20))
        drivers = running.find("/c/Windows/System32/drivers/viostor.sys")
        (folder / "viostor.sys").write_bytes(running.read(drivers))
        (folder / "guest.txt").write_text(" ".join(sorted(guest.boot_buses)))
    return folder


def hivexget(hive, key, name):
    done = subprocess.run(["hivexget", hive, key, name], capture_output=True, check=True)
    return done.stdout.decode("latin-1").strip()


def test_it_says_what_it_does_and_why(built81):
    assert "test mode is switched on because viostor, vioscsi" in built81.log
    assert "signed by Red Hat Inc." in built81.log
    assert built81.log.splitlines()[-1].endswith(f"{built81.output}")


def test_the_manifest_tells_the_truth(built81):
    manifest = json.loads((built81.output / "manifest.json").read_text())
    assert manifest["boot"]["verdict"] == "not-booted"
    assert manifest["test_signing"] is True
    assert manifest["inputs"]["source"] == built81.source_sha256
    assert {one["name"] for one in manifest["drivers"]} >= {"viostor", "vioscsi", "netkvm", "balloon"}
    assert {one["thumbprint"] for one in manifest["trusted"]} == {CA}
    assert {"virtio", "scsi"} <= set(manifest["boots_from"])


def test_the_source_is_untouched(built81):
    assert hashlib.sha256(built81.source.read_bytes()).hexdigest() == built81.source_sha256


def test_the_files_are_what_the_sums_say(built81):
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=built81.output, check=True)


def test_disk_drivers_start_at_boot_says_hivexget(result):
    for driver in ("viostor", "vioscsi"):
        key = rf"\ControlSet001\Services\{driver}"
        assert hivexget(result / "SYSTEM", key, "Start") == "0"
        assert hivexget(result / "SYSTEM", key, "ImagePath") == rf"System32\drivers\{driver}.sys"
    assert hivexget(result / "SYSTEM", r"\ControlSet001\Services\viostor\Parameters", "BusType") == "1"
    assert hivexget(result / "SYSTEM", r"\ControlSet001\Services\vioscsi\Parameters", "BusType") == "10"


def test_the_binding_leads_from_the_pci_id_to_the_service_says_regipy(result):
    hive = RegistryHive(str(result / "SYSTEM"))
    bound = {value.name: value for value in hive.get_key(rf"\DriverDatabase\DeviceIds\PCI\{ID}").iter_values()}
    (oem,) = bound
    label = hive.get_key(rf"\DriverDatabase\DriverInfFiles\{oem}").get_value("Active")
    assert label.startswith("viostor.inf_amd64_")
    package = rf"\DriverDatabase\DriverPackages\{label}"
    section = hive.get_key(rf"{package}\Descriptors\PCI\{ID}").get_value("Configuration")
    assert hive.get_key(rf"{package}\Configurations\{section}").get_value("Service") == "viostor"
    version = hive.get_key(package).get_value("Version")
    assert len(bytes.fromhex(version) if isinstance(version, str) else version) == 48


def test_the_driver_is_the_one_of_the_disc(result, built81):
    wanted = next(built81.drivers.glob("viostor/w8.1/amd64/viostor.sys"))
    assert (result / "viostor.sys").read_bytes() == wanted.read_bytes()


def test_the_signer_is_trusted_say_both(result, built81):
    der = (built81.drivers / "cert" / "Virtio_Win_Red_Hat_CA.cer").read_bytes()
    if der.startswith(b"-----"):
        der = subprocess.run(["openssl", "x509", "-outform", "DER"], input=der, capture_output=True, check=True).stdout
    assert hashlib.sha1(der).hexdigest().upper() == CA
    hive = RegistryHive(str(result / "SOFTWARE"))
    for store in ("ROOT", "TrustedPublisher"):
        key = rf"\Microsoft\SystemCertificates\{store}\Certificates\{CA}"
        blob = hive.get_key(key).get_value("Blob")
        blob = bytes.fromhex(blob) if isinstance(blob, str) else blob
        assert properties(blob)[32] == der
        assert hivexget(result / "SOFTWARE", key, "Blob")


def properties(blob):
    """A certificate blob as CertSerializeCertificateStoreElement lays it out: {id, 1, length, bytes}…"""
    found = {}
    while blob:
        kind, one, length = struct.unpack_from("<III", blob)
        assert one == 1
        found[kind] = blob[12 : 12 + length]
        blob = blob[12 + length :]
    return found


def test_test_mode_is_on_and_nothing_else_is_set(result):
    key = rf"\Objects\{LOADER}\Elements"
    hive = RegistryHive(str(result / "BCD"))
    value = hive.get_key(rf"{key}\16000049").get_value("Element")
    assert (bytes.fromhex(value) if isinstance(value, str) else value) == b"\x01"
    names = {one.name for one in hive.get_key(key).iter_subkeys()}
    assert not names & {"16000048", "12000030"}


def test_it_can_boot_from_virtio_and_virtio_scsi(result):
    assert set((result / "guest.txt").read_text().split()) >= {"virtio", "scsi", "sata"}


def test_the_second_plan_is_empty(built81, command):
    done = command("plan", built81.output / "image.qcow2", "--virtio-win", built81.drivers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("nothing to do: the image already is what the plan says")


def test_secure_boot_and_test_signed_drivers_exclude_each_other(windows81, virtio_win, tmp_path, command):
    argv = ("build", "--source", windows81(), "--virtio-win", virtio_win, "--output", tmp_path / "out", "--secure-boot")
    done = command(*argv)
    assert done.returncode == 2
    assert "test mode and Secure Boot exclude each other" in done.stderr
    assert "viostor" in done.stderr
    assert not (tmp_path / "out").exists()


def test_dirty_hives_are_refused(windows81, virtio_win, tmp_path, command):
    disk = windows81(dirty=True)
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    done = command("build", "--source", disk, "--virtio-win", virtio_win, "--output", tmp_path / "out", "--no-boot")
    assert done.returncode == 3
    assert "hive was not closed cleanly" in done.stderr
    assert "powercfg /h off" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before
