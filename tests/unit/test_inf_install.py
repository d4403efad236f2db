import contextlib
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import InputRefused
from builder.windows import inf, inf_install, places
from builder.windows.inf_install import Target
from builder.windows.paths import MediaPath
from builder.windows.registry import binary, dword, expand_sz, multi_sz, sz
from builder.windows.releases import Arch, by_name

W10 = Target(Arch.AMD64, (10, 0), 19045)
W7_X86 = Target(Arch.X86, (6, 1), 7601)

INF = r"""
[Version]
Signature = "$Windows NT$"
Class = SCSIAdapter
ClassGUID = {4D36E97B-E325-11CE-BFC1-08002BE10318}
Provider = %V%
CatalogFile = any.cat
CatalogFile.NTamd64 = x64.cat
DriverVer = 07/21/2023,100.93.104.24000
[Manufacturer]
%V% = Models, NTamd64.10.0
[Models.NTamd64.10.0]
%D% = Inst, pci\ven_1af4&dev_1001&subsys_00021af4, PCI\VEN_1AF4&DEV_1001
[Inst.NTamd64]
CopyFiles = Files, @extra.sys
[Inst.NTamd64.HW]
AddReg = Hw
[Inst.NTamd64.Services]
AddService = drv, %ASSOC%, Svc
[Svc]
ServiceType = 1
StartType = 0
ErrorControl = 1
ServiceBinary = %12%\drv.sys
LoadOrderGroup = SCSI miniport
AddReg = SvcReg
[SvcReg]
HKR, Parameters, BusType, %REG_DWORD%, 0x0A
HKR, "Parameters\PnpInterface", "5", 0x00010001, 1
HKLM, Software, Elsewhere, , x
[Hw]
HKR, "Interrupt Management",, 0x00000010
HKR, "Interrupt Management\Msi", MSISupported, 0x00010001, 1
HKR,, Bytes, 1, 00, 0a,ff
HKR,, Words, 0x00010000, one, two
HKR,, Path, 0x00020000, "%%SystemRoot%%\x"
HKR,, Text,, hello
[Files]
drv.sys,,,2
renamed.dll, stored.dll
[DestinationDirs]
DefaultDestDir = 12
Files = 11, sub
[Strings]
V = "Red Hat, Inc."
D = "A disk"
ASSOC = 2
REG_DWORD = 0x00010001
"""


def parse(text=INF):
    return inf.parse("drv.inf", text.encode())


def test_the_version_section():
    version = inf_install.version(parse(), Arch.AMD64)
    assert version.version == (100, 93, 104, 24000)
    assert version.date == "2023-07-21"
    assert version.class_guid == "{4d36e97b-e325-11ce-bfc1-08002be10318}"
    assert (version.provider, version.catalog) == ("Red Hat, Inc.", "x64.cat")
    assert inf_install.version(parse(), Arch.X86).catalog == "any.cat"


def test_a_device_with_its_settings():
    (device,) = inf_install.devices(parse(), W10)
    assert device.section == "Inst.NTamd64"
    assert device.hardware_id == r"PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4"
    assert device.compatible_ids == (r"PCI\VEN_1AF4&DEV_1001",)
    assert (device.service, device.description) == ("drv", "A disk")
    assert (device.description_token, device.manufacturer_token) == ("%d%", "%v%")
    assert device.values == (
        (("Interrupt Management", "Msi"), "MSISupported", dword(1)),
        ((), "Bytes", binary(b"\x00\x0a\xff")),
        ((), "Words", multi_sz("one", "two")),
        ((), "Path", expand_sz(r"%SystemRoot%\x")),
        ((), "Text", sz("hello")),
    )


def test_a_service_with_its_settings():
    (service,) = inf_install.services(parse(), W10)
    assert (service.name, service.type, service.start, service.error_control) == ("drv", 1, 0, 1)
    assert (service.group, service.binary) == ("SCSI miniport", r"System32\drivers\drv.sys")
    assert service.values == (
        (("Parameters",), "BusType", dword(10)),
        (("Parameters", "PnpInterface"), "5", dword(1)),
    )


def test_infs_of_windows_that_are_needed_are_told():
    text = INF.replace("CopyFiles = Files", "Include = Machine.inf, pci.inf\nCopyFiles = Files")
    text = text.replace("[Inst.NTamd64.Services]", "[Inst.NTamd64.Services]\nInclude = machine.inf")
    assert inf_install.includes(parse(text), W10) == ("machine.inf", "pci.inf")
    assert inf_install.includes(parse(), W10) == ()


def test_copied_files_and_their_places():
    copies = inf_install.copies(parse(), W10)
    assert [(str(copy.source), str(copy.place)) for copy in copies] == [
        ("drv.sys", r"C:\System32\sub\drv.sys"),
        ("stored.dll", r"C:\System32\sub\renamed.dll"),
        ("extra.sys", r"C:\System32\drivers\extra.sys"),
    ]


def test_packages_of_dirid_13_run_from_the_driver_store():
    text = INF.replace("%12%", "%13%").replace("Dir = 12", "Dir = 13").replace("Files = 11, sub", "Files = 13")
    (service,) = inf_install.services(parse(text), W10)
    assert service.binary == r"System32\DriverStore\FileRepository\{label}\drv.sys"
    assert [copy.place for copy in inf_install.copies(parse(text), W10)] == [None, None, None]


@pytest.mark.parametrize(
    ("declared", "target", "chosen"),
    [
        ("NTamd64", W10, "M.NTamd64"),
        ("NTamd64.6.1, NTamd64.10.0, NTamd64.6.3", W10, "M.NTamd64.10.0"),
        ("NTamd64.10.0...16299, NTamd64.10.0", W10, "M.NTamd64.10.0...16299"),
        ("NTamd64.10.0...22000, NTamd64.10.0", W10, "M.NTamd64.10.0"),
        ("NTamd64.10.0.3, NTamd64.6.1", W10, "M.NTamd64.6.1"),
        ("NTamd64.10.0.1, NTamd64.10.0", W10, "M.NTamd64.10.0.1"),
        ("NTamd64.10.0.3", replace(W10, server=True), "M.NTamd64.10.0.3"),
        ("NTamd64.6.0x3", W10, "M.NTamd64.6.0x3"),
        ("NTx86", W10, ""),
        ("NT.10.0", W10, ""),
        ("NTamd64.6.2", W7_X86, "M"),
        ("NTx86.6.0, NT.6.1", W7_X86, "M.NT.6.1"),
        ("NTx86.6.2", W7_X86, "M"),
        ("NTARM64.10.0", replace(W10, arch=Arch.ARM64), "M.NTARM64.10.0"),
        ("", W7_X86, "M"),
        ("", W10, ""),
    ],
)
def test_the_newest_decoration_that_fits_is_chosen(declared, target, chosen):
    text = f"[Manufacturer]\nAcme = M{', ' if declared else ''}{declared}\n"
    assert inf_install.decoration(parse(text), target) == chosen


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[Version]", "[Other]", "line 1: there is no [Version] section"),
        ("$Windows NT$", "$Plan 9$", "line 3: Signature is not"),
        ("{4D36E97B-", "{", "line 5: ClassGuid is not a GUID"),
        ("07/21/2023,", "yesterday,", "line 9: DriverVer is not"),
        ("07/21/2023,", "13/21/2023,", "line 9: DriverVer"),
        ("100.93.104.24000", "1.2.3.70000", "line 9: DriverVer"),
        ("NTamd64.10.0\n", "NTz80\n", "line 11: 'NTz80' is not a target"),
        ("Inst, pci", "Gone, pci", "line 13: its install section [Gone] is missing"),
        ("&dev_1001&subsys", "&d ev&subsys", "line 13: a device id"),
        ("%ASSOC%, Svc", "%ASSOC%, Gone", "line 19: the service section [Gone] is missing"),
        ("StartType = 0", "", "line 19: the service section [Svc] has no StartType"),
        ("StartType = 0", "StartType = soon", "line 22: 'soon' is not a number"),
        (r"%12%\drv.sys", r"C:\drv.sys", "line 24: ServiceBinary is not a file below"),
        (r"%12%\drv.sys", r"%12%\..\drv.sys", "line 24:"),
        ("drv.sys,,,2", r"..\..\evil.sys", "line 39: names a file outside its folder"),
        ("drv.sys,,,2", "x.sys, C:/evil.sys", "line 39: names a file outside its folder"),
        ("Files = 11, sub", "Files = 30", "line 43: copies to directory id 30"),
        ("Files = 11, sub", r"Files = 11, ..\..", "line 39: names a file outside its folder"),
        ("0x00010001, 1\nHKR,, Bytes", "0x00090001, 1\nHKR,, Bytes", "line 33: value type 0x90001"),
        ("00, 0a,ff", "00, zz", "line 34: the value cannot be stored"),
        ("CopyFiles = Files", "Needs = Inst.NTamd64\nCopyFiles = Files", "line 15: Needs is nested more than 8 deep"),
    ],
)
def test_d10_d11_nonsense_is_refused_with_file_and_line(old, new, said):
    assert old in INF
    with pytest.raises(InputRefused) as caught:
        everything(parse(INF.replace(old, new, 1)), W10)
    assert caught.value.what.startswith("drv.inf, ")
    assert said in caught.value.what


def everything(parsed, target):
    version = inf_install.version(parsed, target.arch)
    return (
        version,
        inf_install.devices(parsed, target),
        inf_install.copies(parsed, target),
        inf_install.services(parsed, target),
    )


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(INF)), st.integers(0, 30), st.text('[]=%",;\\\n.0N', max_size=8), st.sampled_from([W10, W7_X86])
)
def test_a_damaged_inf_is_understood_or_refused(at, length, instead, target):
    with contextlib.suppress(InputRefused):
        everything(parse(INF[:at] + instead + INF[at + length :]), target)


# ---------------------------------------------------------------- the real disc


def targets(path):
    """The Windows a folder of the disc is for. virtio-win's xp/amd64 is Windows XP x64, a 5.2 kernel."""
    system, arch = path.parts[-3:-1] if path.parts[0] not in ("amd64", "i386") else path.parts[1::-1]
    release, arch = by_name(system), Arch({"i386": "x86"}.get(arch, arch))
    nt = (5, 2) if (system, arch) == ("xp", Arch.AMD64) else release.nt
    return Target(arch, nt, release.builds[0], release.server)


@pytest.fixture(scope="module")
def real(virtio_win):
    """Every INF of the disc, read for the Windows its folder is for: relative path -> (folder, Version, devices, …)."""
    found = {}
    for path in sorted(virtio_win.rglob("*.inf")):
        name = path.relative_to(virtio_win)
        found[str(name)] = (path.parent, *everything(inf.parse(str(name), path.read_bytes()), targets(name)))
    return found


def test_every_inf_of_the_disc_is_for_the_windows_of_its_folder(real, measured):
    assert len(real) == 298
    assert not [name for name, (_, _, devices, _, _) in real.items() if not devices]
    measured(f"INFs of virtio-win 0.1.240 read: {len(real)}")


def test_every_file_an_inf_copies_lies_beside_it(real):
    for folder, _, _, copies, _ in real.values():
        beside = {path.name.lower() for path in folder.iterdir()}
        assert {copy.source.name.lower() for copy in copies} <= beside


def test_versions_and_names_agree_with_the_disc_s_own_list(real, virtio_win, measured):
    rows = json.loads((virtio_win / "data" / "info.json").read_text())["drivers"]
    assert len(rows) == 239
    for row in rows:
        _, version, devices, _, _ = real[row["inf_path"]]
        date, numbers = row["driver_version"].split(",")
        month, day, year = date.split("/")
        assert (version.date, version.version) == (f"{year}-{month}-{day}", tuple(map(int, numbers.split("."))))
        assert row["name"] in [device.description for device in devices]
        ((place,),) = places.find([MediaPath.parse(row["inf_path"])]).values()
        named = {("xp", "amd64"): "xp64"}.get((row["windows_version"], row["arch"]), row["windows_version"])
        assert (place.release, place.arch) == (named, row["arch"])
    measured(f"drivers whose version, date, name and Windows agree with the disc's info.json: {len(rows)}")


def test_disk_drivers_are_boot_start_on_their_bus(real):
    buses = {"viostor": 1, "vioscsi": 0x0A}
    seen = set()
    for name, (_, _, devices, _, services) in real.items():
        stem = re.sub(r".*/(\w+)\.inf", r"\1", name)
        if stem not in buses:
            continue
        (service,) = services
        settings = {(below, value): data for below, value, data in service.values}
        assert (service.start, service.type, service.error_control, service.group) == (0, 1, 1, "SCSI miniport")
        assert settings[("Parameters",), "BusType"] == dword(buses[stem])
        assert settings[("Parameters", "PnpInterface"), "5"] == dword(1)
        assert {device.service for device in devices} == {stem}
        seen.add(stem)
    assert seen == set(buses)
