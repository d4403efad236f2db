"""The rules of stand_in.sh, run on this machine against folders that look like its mounted volumes.

Each case is the disk as a sound build leaves it, with one thing changed, and the line the stand-in has to end with.
The changes are written by hand here, from Windows' rules: neither `plan` nor `apply` is asked.
"""

import datetime
import struct
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import builder.sample
from builder.model import Firmware
from builder.sample import catalogue, hives, pe
from builder.windows.registry import RegValue, binary, dword, expand_sz, multi_sz, sz

NOW = datetime.datetime.now(datetime.UTC)
SCRIPT = Path(builder.sample.__file__).with_name("stand_in.sh")
PLACE = hives.Place(False, b"wfSA", bytes(8))
DEVICE = "VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
IDS = f"{DEVICE}\nVEN_1AF4&DEV_1001&SUBSYS_00021AF4\nVEN_1AF4&DEV_1001\nCC_0100"
UP = f"NT stand-in: up from PCI\\{DEVICE} by service viostor"

SERVICE = "ControlSet001\\Services\\viostor"
PACKAGE = "DriverDatabase\\DriverPackages\\viostor.inf_amd64_0123456789abcdef"
LOADER = "Objects\\{5a3b0e52-0f2c-11ef-9d4a-525400f0cade}\\Elements"
VERSION = binary(bytes.fromhex("00ff090000000000") + bytes(40))

RUN = """
. "$1"
WORK=$2 STORE=boot/bcd SYSTEM_VOLUME=$2/c BOOT_VOLUME=$2/b SYSTEM_PART=none
say() { printf '%s\\n' "$@"; }
panic() { exit 1; }
controller_ids() { printf '%s\\n' "$IDS"; }
inbox() { false; }
boot_as_nt
"""


@pytest.fixture(scope="module")
def signer():
    return catalogue.new_signer(NOW)


def certificate_blob(der: bytes) -> RegValue:
    return binary(struct.pack("<III", 3, 1, 20) + bytes(20) + struct.pack("<III", 32, 1, len(der)) + der)


@dataclass(frozen=True)
class Disk:
    """What a sound build leaves: registry entries by (key, name), and the driver's file."""

    system: dict
    software: dict
    bcd: dict
    driver: bytes | None = field(default_factory=lambda: pe.image("viostor.sys"))
    catalogued: bool = True

    def without(self, hive, *prefixes):
        kept = {at: value for at, value in getattr(self, hive).items() if not at[0].startswith(prefixes)}
        return replace(self, **{hive: kept})

    def having(self, hive, *entries):
        return replace(self, **{hive: getattr(self, hive) | {(key, name): value for key, name, value in entries}})


@pytest.fixture
def sound(signer):
    def table(entries):
        return {(key, name): value for key, name, value in entries}

    root = f"Microsoft\\SystemCertificates\\ROOT\\Certificates\\{'A' * 40}"
    unbuilt = Disk(table(hives.system(PLACE)), table(hives.software()), table(hives.bcd(Firmware.BIOS, PLACE, PLACE)))
    return (
        unbuilt.without("system", SERVICE)
        .having("software", (root, "Blob", certificate_blob(signer.authority_der)))
        .having("bcd", (f"{LOADER}\\16000049", "Element", binary(b"\x01")))
        .having(
            "system",
            (SERVICE, "Type", dword(1)),
            (SERVICE, "Start", dword(0)),
            (SERVICE, "ImagePath", expand_sz("System32\\drivers\\viostor.sys")),
            (f"DriverDatabase\\DeviceIds\\PCI\\{DEVICE}", "oem0.inf", binary(bytes.fromhex("01ff0000"))),
            ("DriverDatabase\\DriverInfFiles\\oem0.inf", "", multi_sz(PACKAGE.rpartition("\\")[2])),
            ("DriverDatabase\\DriverInfFiles\\oem0.inf", "Active", sz(PACKAGE.rpartition("\\")[2])),
            (PACKAGE, "Version", VERSION),
            (f"{PACKAGE}\\Configurations\\scsi_inst", "Service", sz("viostor")),
            (f"{PACKAGE}\\Descriptors\\PCI\\{DEVICE}", "Configuration", sz("scsi_inst")),
        )
    )


@pytest.fixture
def boot(tmp_path, signer):
    """Boots a `Disk` by the stand-in's rules: what it said. Names are in lower case, as its NTFS mount shows them."""

    def run(disk: Disk) -> str:
        system32 = tmp_path / "c/windows/system32"
        catroot = system32 / "catroot/{f750e6c3-38ee-11d1-85e5-00c04fc295ee}"
        for folder in (system32 / "config", system32 / "drivers", catroot, tmp_path / "b/boot"):
            folder.mkdir(parents=True)
        for path, entries in (
            (system32 / "config/system", disk.system),
            (system32 / "config/software", disk.software),
            (tmp_path / "b/boot/bcd", disk.bcd),
        ):
            hives.write(path, "ROOT", ((key, name, value) for (key, name), value in entries.items()))
        if disk.driver is not None:
            (system32 / "drivers/viostor.sys").write_bytes(disk.driver)
        if disk.catalogued:
            files = {"viostor.sys": pe.image("viostor.sys"), "viostor.inf": b"[Version]\r\n"}
            (catroot / "oem0.cat").write_bytes(catalogue.catalogue(files, signer, NOW))
        argv = ["busybox", "sh", "-c", RUN, "sh", SCRIPT, tmp_path]
        return subprocess.run(argv, env={"IDS": IDS}, capture_output=True, text=True, check=False, timeout=60).stdout

    return run


def test_sound_disk_comes_up(sound, boot):
    assert boot(sound).strip() == UP


BINDING = f"no driver is bound to PCI\\{DEVICE}"
STOPS = {
    "no-device-id": (lambda disk: disk.without("system", "DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4"), BINDING),
    "short-version": (lambda disk: disk.having("system", (PACKAGE, "Version", binary(bytes(24)))), BINDING),
    "no-descriptor": (lambda disk: disk.without("system", f"{PACKAGE}\\Descriptors"), BINDING),
    "no-service": (lambda disk: disk.without("system", SERVICE), "service viostor of ControlSet001 does not start"),
    "demand-start": (lambda disk: disk.having("system", (SERVICE, "Start", dword(3))), "does not start at boot"),
    "start-override": (
        lambda disk: disk.having("system", (f"{SERVICE}\\StartOverride", "0", dword(3))),
        "service viostor of ControlSet001 has a StartOverride",
    ),
    "other-control-set": (
        lambda disk: disk.having("system", ("Select", "Current", dword(2))),
        "service viostor of ControlSet002 does not start",
    ),
    "no-file": (lambda disk: replace(disk, driver=None), "the file of service viostor is missing"),
    "not-a-program": (lambda disk: replace(disk, driver=b"garbage"), "the file of service viostor is no program"),
}


@pytest.mark.parametrize("case", STOPS)
def test_stops_with_0x7b(sound, boot, case):
    change, why = STOPS[case]
    said = boot(change(sound))
    assert "*** STOP: 0x0000007B (INACCESSIBLE_BOOT_DEVICE)" in said
    assert why in said


UNTRUSTED = "no signature of it ends in a root this machine trusts"
TEST_MODE_OFF = "it is test-signed, and testsigning is off in the boot store"
RECOVERY = LOADER.replace("5a3b0e52", "5a3b0e53")
ON = binary(b"\x01")
REFUSALS = {
    "no-root": (lambda disk: disk.without("software", "Microsoft\\SystemCertificates"), UNTRUSTED),
    "no-catalogue": (lambda disk: replace(disk, catalogued=False), UNTRUSTED),
    "other-file": (lambda disk: replace(disk, driver=pe.image("other.sys")), UNTRUSTED),
    "no-test-signing": (lambda disk: disk.without("bcd", f"{LOADER}\\16000049"), TEST_MODE_OFF),
    "test-signing-off": (
        lambda disk: disk.having("bcd", (f"{LOADER}\\16000049", "Element", binary(b"\x00"))),
        TEST_MODE_OFF,
    ),
    "test-signing-on-recovery-only": (
        lambda disk: disk.without("bcd", f"{LOADER}\\16000049").having("bcd", (f"{RECOVERY}\\16000049", "Element", ON)),
        TEST_MODE_OFF,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses_the_signature(sound, boot, case):
    change, why = REFUSALS[case]
    said = boot(change(sound))
    assert "Windows Boot Manager (NT stand-in, not Windows)" in said
    assert "Status: 0xc0000428" in said
    assert why in said


def test_trusted_root_of_another_machine_does_not_count(sound, boot):
    other = certificate_blob(catalogue.new_signer(NOW).authority_der)
    key = next(key for key, name in sound.software if name == "Blob")
    assert UNTRUSTED in boot(sound.having("software", (key, "Blob", other)))


def test_before_windows_8_the_critical_device_database_decides(sound, boot):
    old = sound.without("system", "DriverDatabase")
    key = f"ControlSet001\\Control\\CriticalDeviceDatabase\\pci#{'&'.join(DEVICE.lower().split('&')[:2])}"
    assert boot(old.having("system", (key, "Service", sz("viostor")))).strip() == UP


def test_sample_as_made_does_not_start_from_virtio(boot):
    def table(entries):
        return {(key, name): value for key, name, value in entries}

    made = Disk(table(hives.system(PLACE)), table(hives.software()), table(hives.bcd(Firmware.BIOS, PLACE, PLACE)))
    assert BINDING in boot(made)
