"""What is written is compared with what Windows itself wrote: packages in the SYSTEM hive of a real Windows 10."""

import re
from dataclasses import replace

import pytest
from driver_discs import guest

from builder.host.media import open_media
from builder.model import (
    DeleteKey,
    DeviceInstall,
    DriverPackage,
    DriverService,
    Hive,
    MediaFile,
    PutFile,
    SetValue,
    Signature,
    Signer,
)
from builder.windows import driver_database
from builder.windows.drivers import select
from builder.windows.paths import GuestPath, MediaPath
from builder.windows.registry import RegType, RegValue, binary, dword, expand_sz, multi_sz, sz
from builder.windows.releases import Arch, by_name

WHQL = "Microsoft Windows Hardware Compatibility Publisher"


def media_file(name, mark):
    return MediaFile(MediaPath.parse(f"drivers/{name}"), 1, mark * 64)


VMCI = DriverPackage(
    name="vmci",
    inf=media_file("vmci.inf", "1"),
    catalog=media_file("vmci.cat", "2"),
    files=tuple(media_file(f"vmci.{suffix}", mark) for suffix, mark in (("cat", "2"), ("inf", "1"), ("sys", "3"))),
    runs_from=(("vmci.sys", GuestPath.parse(r"System32\drivers\vmci.sys")),),
    provider="VMware, Inc.",
    class_name="System",
    class_guid="{4d36e97d-e325-11ce-bfc1-08002be10318}",
    date="2019-07-11",
    version=(9, 8, 16, 0),
    devices=tuple(
        DeviceInstall(
            section="vmci.install.x64.NT",
            description="VMware VMCI",
            hardware_id=hardware_id,
            compatible_ids=compatible,
            service="vmci",
            values=(
                (("Interrupt Management",), "0x00000010", sz("")),
                (("Interrupt Management", "MessageSignaledInterruptProperties"), "0x00000010", sz("")),
                (("Interrupt Management", "MessageSignaledInterruptProperties"), "MSISupported", dword(1)),
                (("Interrupt Management", "MessageSignaledInterruptProperties"), "MessageNumberLimit", dword(2)),
            ),
            description_token=token,
            manufacturer_token="%loc.vmwaremanufacturer%",
        )
        for hardware_id, compatible, token in (
            (r"PCI\VEN_15AD&DEV_0740&SUBSYS_074015AD", (r"PCI\VEN_15AD&DEV_0740",), "%loc.vmwarebusdevicedesc%"),
            (r"ROOT\VMWVMCIHOSTDEV", (), "%loc.vmwarehostdevicedesc%"),
        )
    ),
    services=(
        DriverService(
            "vmci",
            1,
            0,
            0,
            "System Bus Extender",
            r"System32\drivers\vmci.sys",
            (((), "vwdk.installers", RegValue(0x20007, "Windows\0\0".encode("utf-16-le"))),),
        ),
    ),
    strings={
        "loc.vmwaremanufacturer": "VMware, Inc.",
        "loc.vmwarebusdevicedesc": "VMware VMCI Bus Device",
        "loc.vmwarehostdevicedesc": "VMware VMCI Host Device",
        "loc.vmciservicedisplayname": "VMware VMCI Bus Driver",
    },
    arch=Arch.AMD64,
    signature=Signature(Signer.MICROSOFT, WHQL, None, None, ""),
    chosen_because="",
)
PVSCSI = replace(
    VMCI,
    name="pvscsi",
    inf=media_file("pvscsi.inf", "4"),
    catalog=media_file("pvscsi.cat", "5"),
    class_guid="{4d36e97b-e325-11ce-bfc1-08002be10318}",
    date="2019-08-02",
    version=(1, 3, 15, 0),
    devices=(DeviceInstall("pvscsi", "pvscsi", r"PCI\VEN_15AD&DEV_07C0", (), "pvscsi", ()),),
    services=(),
)


def values(edits, hive=Hive.SYSTEM):
    """(key, name) -> value, in lower case as Windows compares."""
    return {
        (tuple(part.lower() for part in edit.key), edit.name.lower()): edit.value
        for edit in edits
        if isinstance(edit, SetValue) and edit.hive is hive
    }


def files(edits):
    return {str(edit.target): edit.source.path.name for edit in edits if isinstance(edit, PutFile)}


@pytest.fixture(scope="module")
def windows_10(real_hive):
    return reader(real_hive("win10-x64/SYSTEM"))


@pytest.fixture(scope="module")
def windows_7(real_hive):
    return reader(real_hive("win7-x86/SYSTEM"))


def reader(path):
    """`read("DriverDatabase", …)`: every value at and below a key of a real hive, or {} when it is absent."""
    hivex = pytest.importorskip("hivex")
    hive = hivex.Hivex(str(path))

    def below(node, key):
        for value in hive.node_values(node):
            kind, data = hive.value_value(value)
            yield (
                (tuple(part.lower() for part in key), hive.value_key(value).lower()),
                RegValue(kind & 0xFFFFFFFF, data),
            )
        for child in hive.node_children(node):
            yield from below(child, (*key, hive.node_name(child)))

    def read(*key):
        node = hive.root()
        for part in key:
            node = node and hive.node_get_child(node, part)
        return dict(below(node, key)) if node else {}

    return read


def published(read, oem, label, package):
    """All that a real hive holds about a published package."""
    found = read("DriverDatabase", "DriverInfFiles", oem) | read("DriverDatabase", "DriverPackages", label)
    ids = [package.class_guid, *(name for one in package.devices for name in (one.hardware_id, *one.compatible_ids))]
    for name in ids:
        key = read("DriverDatabase", "DeviceIds", *name.split("\\"))
        found |= {place: value for place, value in key.items() if place[1] == oem}
    return found


# ---------------------------------------------------------------- the shape of real packages


def as_real(package, label, real_label, **changes):
    """Our edits for a package, under the label Windows gave it."""
    rename = {label.lower(): real_label.lower()}
    found = {}
    for (key, name), value in values(driver_database.staged(package, guest(**changes), "oem2.inf")).items():
        text = value.data.decode("utf-16-le", "ignore")
        data = text.replace(label, real_label).encode("utf-16-le") if label in text else value.data
        found[tuple(rename.get(part, part) for part in key), name] = RegValue(value.type, data)
    return found


def test_a_boot_start_package_is_published_as_windows_itself_did_it(windows_10):
    real_label = "vmci.inf_amd64_5e38a278d114b813"
    real = published(windows_10, "oem2.inf", real_label, VMCI)
    ours = as_real(VMCI, VMCI.label, real_label)
    package = ("driverdatabase", "driverpackages", real_label)
    missing = real.keys() - ours.keys()
    assert {name for key, name in missing if key == package} == {"importdate"}
    assert all(key[3:4] == ("properties",) for key, _ in missing if key != package)
    assert ours.keys() - real.keys() == set()
    assert {place for place in ours if ours[place] != real[place]} == {(package, "oempath")}
    assert real[package, "oempath"].type == ours[package, "oempath"].type
    assert len(ours) >= 30


def test_a_package_without_boot_start_service_is_staged_as_windows_itself_did_it(testdata):
    """pvscsi in two real hives: staged, its device absent, so no configurations; exported as .reg."""
    text = (testdata / "text" / "driverdb" / "regipy_SYSTEM_WIN_10_1709.DriverPackages-pvscsi.reg").read_text()
    text += (testdata / "text" / "driverdb" / "regipy_SYSTEM_WIN_10_1709.DeviceIds-15AD.reg").read_text()
    real_label = "pvscsi.inf_amd64_b0d59727d712523f"
    real = {place: value for place, value in read_reg(text).items() if "dev_0740" not in "".join(place[0]).lower()}
    ours = {
        (tuple(part.replace("oem2", "oem4") for part in key), name.replace("oem2", "oem4")): value
        for (key, name), value in as_real(PVSCSI, PVSCSI.label, real_label).items()
    }
    package = ("driverdatabase", "driverpackages", real_label)
    in_class_key = {(("driverdatabase", "deviceids", PVSCSI.class_guid), "oem4.inf")}
    assert real.keys() - ours.keys() == {
        (package, "importdate"),
        *(place for place in real if "properties" in place[0]),
    }
    assert ours.keys() - real.keys() == in_class_key  # not in the excerpt; test above
    differing = {name for key, name in ours.keys() & real.keys() if ours[key, name] != real[key, name]}
    assert differing == {"", "oempath", "statusflags"}  # oem2 for oem4; our folder; 0x12 as vmci and efifw have


def read_reg(text):
    """A .reg file of hex and dword values."""
    found, key = {}, ()
    for line in text.splitlines():
        if line.startswith("["):
            key = tuple(line.strip("[]").lower().split("\\")[2:])
        elif match := re.fullmatch(r'(?:@|"(.*)")=(?:hex\((\w+)\):(.*)|dword:(\w+))', line):
            name = (match[1] or "").lower()
            data = bytes.fromhex((match[3] or "").replace(",", ""))
            found[key, name] = RegValue(int(match[2], 16), data) if match[2] else dword(int(match[4], 16))
    return found


def test_the_version_blob_is_the_real_one(windows_10):
    label = "vmci.inf_amd64_5e38a278d114b813"
    real = windows_10("DriverDatabase", "DriverPackages", label)
    assert binary(driver_database.version_blob(VMCI)) == real[("driverdatabase", "driverpackages", label), "version"]
    assert len(driver_database.version_blob(VMCI)) == 48


def test_windows_8_1_gets_no_value_its_own_packages_do_not_have():
    names = {name for _, name in values(driver_database.staged(VMCI, guest("w8.1"), "oem2.inf"))}
    assert not {"catalog", "configscope"} & names


@pytest.mark.parametrize(
    ("signer", "score"),
    [(Signer.MICROSOFT, 0x0D000005), (Signer.TEST_SIGNED, 0x0F000000), (Signer.UNSIGNED, 0x80000000)],
)
def test_the_score_is_that_of_the_real_signature(signer, score):
    package = replace(VMCI, signature=Signature(signer, "Somebody", None, None, ""))
    found = values(driver_database.staged(package, guest(), "oem2.inf"))
    place = ("driverdatabase", "driverpackages", package.label)
    assert (found[place, "signerscore"], found[place, "signername"]) == (dword(score), sz("Somebody"))


def test_each_package_is_in_one_database_node():
    net = replace(VMCI, class_guid="{4d36e972-e325-11ce-bfc1-08002be10318}", services=())
    assert not values(driver_database.staged(net, guest(), "oem2.inf"), Hive.SYSTEM)
    assert values(driver_database.staged(net, guest(), "oem2.inf"), Hive.DRIVERS)
    alone = guest(hives=frozenset({Hive.SYSTEM, Hive.SOFTWARE}))
    assert values(driver_database.staged(net, alone, "oem2.inf"), Hive.SYSTEM)
    assert not values(driver_database.staged(VMCI, guest(), "oem2.inf"), Hive.DRIVERS)


# ---------------------------------------------------------------- virtio packages of the real disc


@pytest.fixture(scope="module")
def disc(virtio_win):
    with open_media(virtio_win) as media:
        yield media


@pytest.fixture(scope="module")
def packages(disc):
    """`packages("w10")`: name -> package."""

    def read(release, arch=Arch.AMD64):
        row = by_name(release)
        return {one.name: one for one in select(disc, row, arch, row.builds[0], {}).packages}

    return read


def test_the_boot_start_service_in_every_control_set(packages):
    two = guest(control_sets=("ControlSet001", "ControlSet003"))
    edits = driver_database.boot_critical(packages("w10")["vioscsi"], two)
    found = values(edits)
    for name in ("controlset001", "controlset003"):
        key = (name, "services", "vioscsi")
        assert found[key, "type"] == dword(1)
        assert found[key, "start"] == dword(0)
        assert found[key, "errorcontrol"] == dword(1)
        assert found[key, "group"] == sz("SCSI miniport")
        assert found[key, "imagepath"] == expand_sz(r"System32\drivers\vioscsi.sys")
        assert found[(*key, "parameters"), "bustype"] == dword(0x0A)
        assert found[(*key, "parameters", "pnpinterface"), "5"] == dword(1)
    deleted = [edit.key for edit in edits if isinstance(edit, DeleteKey)]
    assert deleted == [(name, "Services", "vioscsi", "StartOverride") for name in two.control_sets]
    assert files(edits) == {r"C:\Windows\System32\drivers\vioscsi.sys": "vioscsi.sys"}
    assert not [key for key, _ in found if "criticaldevicedatabase" in key]
    assert all(edit.reason for edit in edits)


def test_a_viostor_package_leads_from_the_device_to_the_service(packages):
    package = packages("w10")["viostor"]
    edits = driver_database.staged(package, guest(), "oem7.inf")
    found, label = values(edits), package.label.lower()
    database = ("driverdatabase",)
    for name, rank in (("ven_1af4&dev_1001&subsys_00021af4&rev_00", 1), ("ven_1af4&dev_1042", 2)):
        assert found[(*database, "deviceids", "pci", name), "oem7.inf"] == binary(bytes((rank, 255, 0, 0)))
        descriptor = (*database, "driverpackages", label, "descriptors", "pci", name)
        assert found[descriptor, "configuration"] == sz("scsi_inst")
        assert found[descriptor, "description"] == sz("%viostorscsi.devicedesc%")
    assert found[(*database, "driverpackages", label, "strings"), "viostorscsi.devicedesc"].text.startswith("Red Hat")
    assert found[(*database, "driverinffiles", "oem7.inf"), "active"] == sz(package.label)
    assert found[(*database, "driverinffiles", "oem7.inf"), "configurations"] == multi_sz("scsi_inst")
    assert found[(*database, "driverpackages", label, "configurations", "scsi_inst"), "service"] == sz("viostor")
    store = rf"C:\Windows\System32\DriverStore\FileRepository\{package.label}"
    catalogs = r"C:\Windows\System32\CatRoot\{F750E6C3-38EE-11D1-85E5-00C04FC295EE}"
    assert files(edits) == {
        rf"{store}\viostor.cat": "viostor.cat",
        rf"{store}\viostor.inf": "viostor.inf",
        rf"{store}\viostor.sys": "viostor.sys",
        r"C:\Windows\INF\oem7.inf": "viostor.inf",
        rf"{catalogs}\oem7.cat": "viostor.cat",
    }


def test_a_package_of_dirid_13_runs_from_the_driver_store(packages):
    """As virtio-win 0.1.262 and later for Windows 11; made here from an earlier one."""
    old = packages("w10")["viostor"]
    service = replace(old.services[0], binary=r"System32\DriverStore\FileRepository\{label}\viostor.sys")
    package = replace(old, services=(service,), runs_from=())
    edits = driver_database.boot_critical(package, guest())
    image = values(edits)[("controlset001", "services", "viostor"), "imagepath"]
    assert image == expand_sz(rf"System32\DriverStore\FileRepository\{package.label}\viostor.sys")
    assert not files(edits)


def test_windows_7_gets_a_critical_device_database_and_a_search_path(packages):
    chosen, seven = packages("w7"), guest("w7", control_sets=("ControlSet001", "ControlSet002"))
    edits = driver_database.boot_critical(chosen["viostor"], seven)
    found = values(edits)
    for name in ("controlset001", "controlset002"):
        for device in ("pci#ven_1af4&dev_1001&subsys_00021af4&rev_00", "pci#ven_1af4&dev_1042&subsys_11001af4&rev_01"):
            key = (name, "control", "criticaldevicedatabase", device)
            assert found[key, "service"] == sz("viostor")
            assert found[key, "classguid"] == sz("{4D36E97B-E325-11CE-BFC1-08002BE10318}")
    staged = driver_database.staged(chosen["netkvm"], seven, "oem0.inf")
    assert not values(staged)
    assert r"C:\Windows\Drivers\winfoundry\netkvm\netkvm.inf" in files(staged)
    both = (chosen["viostor"], chosen["netkvm"])
    (path,) = driver_database.device_path(both, seven)
    searched = r"%SystemRoot%\inf;%SystemRoot%\Drivers\winfoundry\viostor;%SystemRoot%\Drivers\winfoundry\netkvm"
    assert path.value == expand_sz(searched)
    assert driver_database.device_path(both, guest("w10")) == ()


def test_a_critical_device_is_written_as_windows_7_itself_did_it(windows_7):
    real = windows_7("ControlSet001", "Control", "CriticalDeviceDatabase", "PCI#VEN_1000&DEV_0054")
    device = DeviceInstall("lsi", "lsi", r"PCI\VEN_1000&DEV_0054", (), "LSI_SAS", ())
    package = replace(PVSCSI, devices=(device,), runs_from=())
    ours = values(driver_database.boot_critical(package, guest("w7")))
    assert {name for _, name in real.keys() - ours.keys()} == {"driverpackageid"}  # its store is not ours to write
    assert len(ours) == 2
    assert all(real[place] == value for place, value in ours.items())


def test_the_search_path_is_the_same_the_second_time(packages):
    both = [packages("w7")[name] for name in ("viostor", "netkvm")]
    (first,) = driver_database.device_path(both, guest("w7"))
    again = guest("w7", device_path=first.value.text.upper().replace("%SYSTEMROOT%", "%SystemRoot%"))
    (second,) = driver_database.device_path(both, again)
    assert second.value.text.lower() == first.value.text.lower()


def test_a_package_that_is_published_is_recognised(packages):
    package = packages("w10")["viostor"]
    assert driver_database.already(package, guest()) is None
    known = guest(published={"oem1.inf": "other.inf_amd64_0", "oem5.inf": package.label.upper()})
    assert driver_database.already(package, known) == "oem5.inf"


def test_no_two_edits_of_a_whole_selection_contradict_each_other(packages):
    for release in ("w7", "w8.1", "w10", "w11", "2k22"):
        chosen, windows = packages(release), guest(release)
        edits = [edit for one in ("viostor", "vioscsi") for edit in driver_database.boot_critical(chosen[one], windows)]
        for number, package in enumerate(chosen.values()):
            edits += driver_database.staged(package, windows, f"oem{number}.inf")
        targets = {}
        for edit in edits:
            if isinstance(edit, PutFile):
                assert targets.setdefault(str(edit.target).lower(), edit.source.sha256) == edit.source.sha256
            elif isinstance(edit, SetValue):
                place = (edit.hive, tuple(part.lower() for part in edit.key), edit.name.lower())
                assert targets.setdefault(place, edit.value) == edit.value


# ---------------------------------------------------------------- OemInfMap


def test_the_map_of_published_names_is_read_as_in_the_real_hive(windows_10):
    root = windows_10("DriverDatabase")
    real = root[("driverdatabase",), "oeminfmap"]
    assert real.data == bytes.fromhex("fff0")
    names = [f"oem{number}.inf" for number in range(12)]
    assert driver_database.published_map(b"", names).value == real
    assert driver_database.published_map(real.data, ["oem12.inf"]).value == binary(bytes.fromhex("fff8"))
    assert driver_database.published_map(real.data, ["oem0.inf"]).value == real


def test_a_new_name_is_seen_as_one_the_map_does_not_have_yet():
    assert driver_database.published_map(b"\xe0", ["oem3.inf", "oem17.inf"]).value == binary(b"\xf0\x00\x40")
    assert driver_database.published_map(b"", []).value.type == RegType.REG_BINARY
