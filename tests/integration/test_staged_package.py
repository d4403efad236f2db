"""A staged package in a real Windows 10 hive, read back by hivexregedit and regipy: shaped as Windows' own are.

The hive is that of a real installation with VMware's boot-start pvscsi (oem4.inf: staged, its device absent, so without
Configurations) and vmci (oem2.inf: configured). viostor of the real disc is written beside them.
"""

import re
import shutil
import subprocess

import pytest
from driver_discs import guest
from regipy.registry import RegistryHive

from builder.host.hive import open_file
from builder.host.media import open_media
from builder.model import DeleteKey, Hive, PutFile
from builder.windows import driver_database
from builder.windows.drivers import select
from builder.windows.releases import Arch, by_name

OEM = "oem12.inf"
PVSCSI = ("pvscsi", "oem4.inf", "pvscsi.inf_amd64_b0d59727d712523f", r"PCI\VEN_15AD&DEV_07C0")
VMCI = ("vmci", "oem2.inf", "vmci.inf_amd64_5e38a278d114b813", r"PCI\VEN_15AD&DEV_0740&SUBSYS_074015AD")
VIOSTOR_ID = r"PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
NOT_WRITTEN = re.compile(r"ImportDate|(?:.*\\)?Properties\b.*")
"""When a package was imported, and what Windows Update knows of it: see `driver_database`."""


@pytest.fixture(scope="module")
def package(virtio_win):
    with open_media(virtio_win) as disc:
        found = select(disc, by_name("w10"), Arch.AMD64, 18363, {}).packages
    return next(one for one in found if one.name == "viostor")


@pytest.fixture(scope="module")
def system(package, real_hive, tmp_path_factory):
    """The hive with viostor in it, written by the edits of a plan through hivex."""
    path = tmp_path_factory.mktemp("staged") / "SYSTEM"
    shutil.copyfile(real_hive("win10-x64/SYSTEM"), path)
    windows = guest("w10", build=18363, oem_inf_map=bytes.fromhex("fff0"))
    hive = open_file(path, write=True)
    edits = (
        *driver_database.staged(package, windows, OEM),
        *driver_database.boot_critical(package, windows),
        driver_database.published_map(windows.oem_inf_map, [OEM]),
    )
    for edit in edits:
        if isinstance(edit, DeleteKey):
            hive.delete(edit.key)
        elif not isinstance(edit, PutFile):
            assert edit.hive is Hive.SYSTEM
            hive.set(edit.key, edit.name, edit.value)
    hive.commit()
    return path


def exported(path, key):
    """hivexregedit's words: (key below `key`, value) -> its type and data, "" the default value."""
    done = subprocess.run(["hivexregedit", "--export", path, rf"\{key}"], capture_output=True, text=True, check=True)
    found, at = {}, ""
    for line in done.stdout.splitlines():
        if line.startswith("["):
            at = line.strip("[]\\").removeprefix(key).strip("\\")
        elif match := re.fullmatch(r'(?:@|"((?:[^"\\]|\\.)*)")=(hex\(\w+\)|dword|hex|"):?(.*)', line):
            found[at, match[1] or ""] = (match[2], match[3])
    return found


def read(path, key):
    """regipy's words: the same, without `Properties`, whose types it does not know."""
    hive = RegistryHive(str(path))

    def below(node, at):
        for value in node.iter_values():
            name = value.name if value.name != "(default)" else ""
            yield (at, name), (value.value_type, value.value)
        for child in node.iter_subkeys():
            if child.name != "Properties":
                yield from below(child, f"{at}\\{child.name}".strip("\\"))

    return dict(below(hive.get_key(f"\\{key}"), ""))


READERS = {"hivexregedit": exported, "regipy": read}


def shape(reader, path, oem, label, device):
    """Every value a published package has in the hive: where, its name, its type; own names made neutral."""
    bus, name = device.split("\\")
    keys = {
        "DriverInfFiles": rf"DriverDatabase\DriverInfFiles\{oem}",
        "DeviceIds": rf"DriverDatabase\DeviceIds\{bus}\{name}",
        "DriverPackages": rf"DriverDatabase\DriverPackages\{label}",
    }
    for part, key in keys.items():
        for (at, value), (kind, _) in reader(path, key).items():
            if not NOT_WRITTEN.fullmatch(f"{at}\\{value}".strip("\\")):
                yield part, at, value.replace(oem, "OEM"), kind


@pytest.fixture(params=READERS)
def reader(request):
    return READERS[request.param]


def test_it_has_every_value_of_the_real_pvscsi_with_its_type(reader, system, package, measured):
    real = set(shape(reader, system, *PVSCSI[1:]))
    ours = set(shape(reader, system, OEM, package.label, VIOSTOR_ID))
    assert len(real) >= 11
    assert real - ours == set()
    names = {one: name for name, one in READERS.items()}
    measured(f"values of the real pvscsi package that a staged viostor has too, says {names[reader]}: {len(real)}")


def test_what_it_has_beyond_pvscsi_is_what_the_configured_vmci_has(reader, system, package):
    configured = {normal(row) for row in shape(reader, system, *VMCI[1:])}
    ours = {normal(row) for row in shape(reader, system, OEM, package.label, VIOSTOR_ID)}
    specific = {row for row in ours - configured if not row[1].startswith("Configurations\\SECTION\\")}
    assert specific == set()


def normal(row):
    """Sections, devices, services and strings are the package's own; under them the values count."""
    part, at, value, kind = row
    at = re.sub(r"^Configurations\\[^\\]+", r"Configurations\\SECTION", at)
    at = re.sub(r"^Descriptors\\[^\\]+\\[^\\]+", r"Descriptors\\DEVICE", at)
    at = re.sub(r"^(Configurations\\SECTION\\Services)\\[^\\]+", r"\1\\SERVICE", at)
    return part, at, "STRING" if at == "Strings" else value, kind


def test_the_service_has_what_the_real_boot_start_service_has(reader, system):
    real, ours = (
        {(at, name): kind for (at, name), (kind, _) in reader(system, rf"ControlSet001\Services\{service}").items()}
        for service in ("vmci", "viostor")
    )
    needed = {("", name) for name in ("Type", "Start", "ErrorControl", "ImagePath", "Group")}
    assert needed <= real.keys() & ours.keys()
    assert {place: real[place] for place in needed} == {place: ours[place] for place in needed}


def test_the_number_is_taken_in_the_map(system):
    assert RegistryHive(str(system)).get_key(r"\DriverDatabase").get_value("OemInfMap") in ("fff8", b"\xff\xf8")


def test_packages_of_windows_are_as_they_were(reader, system, real_hive):
    for _, oem, label, device in (PVSCSI, VMCI):
        before = set(shape(reader, real_hive("win10-x64/SYSTEM"), oem, label, device))
        assert set(shape(reader, system, oem, label, device)) == before
