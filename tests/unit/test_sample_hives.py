"""The sample's hives, read by regipy and by our own reader, and held against real ones."""

import struct
from collections import defaultdict

import pytest
from regipy.registry import RegistryHive

from builder.host.hive import open_file
from builder.model import Firmware
from builder.sample import hives
from builder.windows import hive_header

C = hives.Place(False, b"wfSA", struct.pack("<Q", 101 << 20))
BOOT = hives.Place(False, b"wfSA", struct.pack("<Q", 1 << 20))
ESP = hives.Place(True, bytes(range(16)), bytes(range(16, 32)))
GPT_C = hives.Place(True, bytes(range(16)), bytes(range(32, 48)))


def write(path, which):
    entries, empty = {
        "SYSTEM": (hives.system(C), ()),
        "SOFTWARE": (hives.software(), hives.EMPTY_STORES),
        "DRIVERS": (hives.driver_database(), ()),
        "BCD-bios": (hives.bcd(Firmware.BIOS, BOOT, C), ()),
        "BCD-uefi": (hives.bcd(Firmware.UEFI, ESP, GPT_C), ()),
    }[which]
    hives.write(path, "ROOT", entries, empty)
    return path


@pytest.mark.parametrize("which", ["SYSTEM", "SOFTWARE", "DRIVERS", "BCD-bios", "BCD-uefi"])
def test_hive_is_clean_and_readable_by_regipy(tmp_path, which):
    path = write(tmp_path / "hive", which)
    data = path.read_bytes()
    hive_header.check(data[:4096], len(data), which)
    hive = RegistryHive(str(path))
    assert hive.header.primary_sequence_num == hive.header.secondary_sequence_num
    assert sum(1 for _ in hive.recurse_subkeys(fetch_values=True)) > 5


def test_empty_hive_has_nothing_but_its_root(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(hives.empty_hive("ROOT"))
    assert open_file(path).subkeys(()) == ()
    root = RegistryHive(str(path)).root
    assert (root.name, root.subkey_count, root.values_count) == ("ROOT", 0, 0)


def test_stores_are_there_and_empty(tmp_path):
    hive = open_file(write(tmp_path / "hive", "SOFTWARE"))
    for store in ("ROOT", "TrustedPublisher"):
        key = ("Microsoft", "SystemCertificates", store, "Certificates")
        assert hive.exists(key)
        assert not hive.values(key)


@pytest.mark.parametrize("device", ["CC_010601", "CC_0101", "VEN_8086&DEV_7010"])
def test_storage_is_bound_as_on_a_real_windows_10(tmp_path, real_hive, device):
    def way(hive):
        """All that leads from the device id to the driver, package labels and strings left out."""
        database = ("DriverDatabase",)
        ids = hive.values((*database, "DeviceIds", "PCI", device))
        (inf,) = ids
        label = hive.value((*database, "DriverInfFiles", inf), "Active").text
        package = (*database, "DriverPackages", label)
        configuration = hive.value((*package, "Descriptors", "PCI", device), "Configuration").text
        service = hive.value((*package, "Configurations", configuration), "Service").text
        version = hive.value(package, "Version")
        driver = hive.values(("ControlSet001", "Services", service))
        settings = {name: driver[name] for name in ("Type", "Start", "ErrorControl", "Group", "ImagePath", "Owners")}
        return ids, configuration, service, len(version.data), version.data[:24], settings

    assert way(open_file(write(tmp_path / "hive", "SYSTEM"))) == way(open_file(real_hive("win10-x64/SYSTEM")))


def test_only_viostor_has_a_start_override(tmp_path):
    hive = open_file(write(tmp_path / "hive", "SYSTEM"))
    found = [
        (control_set, service)
        for control_set in ("ControlSet001", "ControlSet002")
        for service in hive.subkeys((control_set, "Services"))
        if hive.exists((control_set, "Services", service, "StartOverride"))
    ]
    assert found == [("ControlSet001", "viostor")]


def elements(hive):
    """Object type and element -> the registry types and lengths seen; strings have no fixed length."""
    found = defaultdict(set)
    for guid in hive.subkeys(("Objects",)):
        kind = hive.value(("Objects", guid, "Description"), "Type").number
        for element in hive.subkeys(("Objects", guid, "Elements")):
            value = hive.value(("Objects", guid, "Elements", element), "Element")
            found[kind, element].add((value.type, len(value.data) if value.type == 3 else None))
    return found


def test_store_has_the_shape_of_real_ones(tmp_path, testdata):
    real = defaultdict(set)
    for path in sorted((testdata / "bcd").glob("*.bcd")):
        for key, shapes in elements(open_file(path)).items():
            real[key] |= shapes
    for which in ("BCD-bios", "BCD-uefi"):
        for key, shapes in elements(open_file(write(tmp_path / which, which))).items():
            assert shapes <= real[key], f"{key[0]:#x} {key[1]}"


def test_device_elements_are_made_as_in_real_stores(testdata):
    bios = open_file(testdata / "bcd" / "bios-windeploy.bcd")
    real = bios.value(("Objects", "{b2721d73-1db4-4c62-bf78-c548a880142d}", "Elements", "11000001"), "Element")
    signature, offset = real.data[56:60], real.data[32:40]
    assert hives.Place(False, signature, offset).boot_device == real
    uefi = open_file(testdata / "bcd" / "efi-win10-a.bcd")
    real = uefi.value(("Objects", "{9dea862c-5cdd-4e70-acc1-f32b344d4795}", "Elements", "11000001"), "Element")
    partition, disk = real.data[32:48], real.data[56:72]
    assert hives.Place(True, disk, partition).boot_device == real
