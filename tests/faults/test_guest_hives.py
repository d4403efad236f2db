"""Rows H01-H14 of the fault matrix: hives and boot stores that are refused, in which words."""

import struct
from functools import reduce
from operator import xor

import phony
import pytest

from builder import apply as applying
from builder import inspection
from builder import plan as planning
from builder.config import from_options
from builder.errors import ApplyFailed, ConfigError, InputRefused
from builder.host.hive import open_file
from builder.model import DeleteKey, Hive, Selection, SetValue
from builder.windows import bcd, hive_header
from builder.windows.registry import RegType, RegValue, dword, sz

SERVICE = ("ControlSet001", "Services", "winfoundry-test")
OBJECTS = ("Objects", phony.LOADER, "Elements")
POWER_OFF = "\n  fix: start the guest once, run `powercfg /h off` and then `shutdown /s /t 0`"
RESTORE = "\n  fix: restore the hive from a backup of the guest"


@pytest.fixture
def windows(tmp_path):
    return phony.Windows(tmp_path / "work")


def inspected(windows):
    return inspection.inspect(phony.Appliance(windows))


def refusal(call, *arguments) -> str:
    with pytest.raises(InputRefused) as refused:
        call(*arguments)
    assert refused.value.exit_code == 3
    return str(refused.value)


def sealed(header: bytearray) -> bytes:
    struct.pack_into("<I", header, 508, reduce(xor, struct.unpack_from("<127I", header)))
    return bytes(header)


def dirty(hive: bytes) -> bytes:
    header = bytearray(hive[:512])
    header[4:8] = struct.pack("<I", struct.unpack_from("<I", hive, 8)[0] + 1)
    return sealed(header) + hive[512:]


def log(number: int, kind: bytes) -> bytes:
    header = bytearray(struct.pack("<4sII", b"regf", number, number).ljust(512, b"\0"))
    return sealed(header) + (kind + struct.pack("<III", 1024, 0, number)).ljust(1024, b"\0")


# ---------------------------------------------------------------- H01-H06: the file


@pytest.mark.parametrize("name", [Hive.SYSTEM, Hive.SOFTWARE, Hive.DRIVERS, Hive.BCD])
def test_h01_a_hive_that_was_not_closed(windows, name):
    place = phony.PLACES[name]
    number = struct.unpack_from("<I", windows.files[place], 8)[0]
    windows.files[place] = dirty(windows.files[place])
    assert refusal(inspected, windows) == (
        f"the {name} hive was not closed cleanly\n  why: its sequence numbers differ ({number + 1} and {number}), "
        f"so changes are still in its transaction log{POWER_OFF}"
    )


@pytest.mark.parametrize("suffix", [".LOG1", ".LOG2"])
def test_h02_a_log_that_is_newer_than_its_hive(windows, suffix):
    place = phony.PLACES[Hive.SYSTEM]
    number = struct.unpack_from("<I", windows.files[place], 8)[0]
    windows.files[place + suffix] = log(number, b"HvLE")
    assert refusal(inspected, windows) == (
        f"the SYSTEM hive is older than its transaction log\n"
        f"  why: the hive has sequence number {number}, SYSTEM{suffix} leads to {number + 1}{POWER_OFF}"
    )


def test_h02_logs_of_the_past_are_no_reason_to_refuse(windows):
    place = phony.PLACES[Hive.SYSTEM]
    number = struct.unpack_from("<I", windows.files[place], 8)[0]
    windows.files[place + ".LOG1"] = log(number - 1, b"HvLE")
    windows.files[place + ".LOG2"] = b""
    assert inspected(windows).build == 19045


def test_h02_logs_before_windows_8_1_hold_one_bitmap():
    assert hive_header.log_leads_to(log(7, b"DIRT")) == 7
    assert hive_header.log_leads_to(log(7, b"HvLE")) == 8
    assert hive_header.log_leads_to(log(7, b"none")) == 0
    damaged = bytearray(log(7, b"HvLE"))
    damaged[100] ^= 1
    assert hive_header.log_leads_to(bytes(damaged)) == 0


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: b"", "it does not start with a registry header"),
        (lambda data: b"nope" + data[4:], "it does not start with a registry header"),
        (lambda data: data[:200] + b"\xff" + data[201:], "the checksum of its header is wrong"),
        (lambda data: data[:8192], "its header promises {promised} bytes, the file has 8192"),
    ],
    ids=["empty", "magic", "checksum", "truncated"],
)
def test_h03_a_damaged_hive_is_named(windows, damage, why):
    place = phony.PLACES[Hive.SOFTWARE]
    promised = 4096 + struct.unpack_from("<I", windows.files[place], 40)[0]
    windows.files[place] = damage(windows.files[place])
    assert (
        refusal(inspected, windows) == f"the SOFTWARE hive is damaged\n  why: {why.format(promised=promised)}{RESTORE}"
    )


def test_h03_a_hive_with_a_damaged_bin_is_refused(windows, tmp_path):
    place = phony.PLACES[Hive.SOFTWARE]
    data = windows.files[place]
    windows.files[place] = data[:4096] + b"xxxx" + data[4100:]
    assert refusal(inspected, windows).startswith("open-SOFTWARE is not a registry hive")


def test_h04_what_follows_the_last_bin_is_kept_and_never_read(windows):
    """Clean hives of a real Windows 7 have 1.4 MB there, so it is no reason to refuse."""
    place = phony.PLACES[Hive.SYSTEM]
    windows.files[place] += b"\xee" * 8192
    assert inspected(windows).build == 19045
    (windows.work / "SYSTEM").write_bytes(windows.files[place])
    windows.edit(SetValue(Hive.SYSTEM, SERVICE, "Start", dword(1), ""))
    assert open_file(windows.work / "SYSTEM").value(SERVICE, "Start") == dword(1)
    hive_header.check(windows.files[place][:4096], len(windows.files[place]), "SYSTEM")


@pytest.mark.parametrize("name", ["corrupt_sub_key_list.hiv"])
def test_h05_hives_made_to_crash_a_parser_end_in_an_error(testdata, name):
    """In a build the parser runs inside the appliance; here only its answer is of interest."""
    broken = open_file(testdata / "hives" / "broken" / name)
    assert "hive is damaged" in refusal(walked, broken)


def walked(hive, key=()):
    hive.values(key)
    for name in hive.subkeys(key):
        walked(hive, (*key, name))


def test_h06_a_huge_hive():
    header = bytearray(struct.pack("<4sII", b"regf", 1, 1).ljust(4096, b"\0"))
    assert refusal(hive_header.check, bytes(header), 600 << 20, "SOFTWARE") == (
        f"the SOFTWARE hive is damaged\n  why: it has {600 << 20} bytes, more than {512 << 20}{RESTORE}"
    )


# ---------------------------------------------------------------- H07-H11: keys and values


@pytest.mark.parametrize(
    ("current", "listed"),
    [(0, "ControlSet001, ControlSet002"), (7, "ControlSet007, ControlSet001, ControlSet002")],
    ids=["zero", "missing"],
)
def test_h07_no_control_set_is_guessed(windows, current, listed):
    windows.edit(SetValue(Hive.SYSTEM, ("Select",), "Current", dword(current), ""))
    assert refusal(inspected, windows) == (
        f"the SYSTEM hive names no control set that exists\n  why: Select names {listed}"
    )


def test_h07_no_select_at_all(windows):
    windows.edit(DeleteKey(Hive.SYSTEM, ("Select",), ""))
    assert refusal(inspected, windows) == "the SYSTEM hive names no control set that exists\n  why: Select names none"


def test_h08_a_key_that_differs_in_case_is_reused(windows):
    windows.edit(SetValue(Hive.SYSTEM, SERVICE, "Start", dword(3), ""))
    windows.edit(SetValue(Hive.SYSTEM, tuple(map(str.upper, SERVICE)), "Start", dword(0), ""))
    hive = open_file(windows.work / "SYSTEM")
    assert [name for name in hive.subkeys(SERVICE[:2]) if name.lower() == SERVICE[2]] == [SERVICE[2]]
    assert hive.values(SERVICE) == {"Start": dword(0)}


def test_h09_a_value_of_another_type_is_shown_before_it_is_replaced(windows):
    windows.edit(SetValue(Hive.SYSTEM, SERVICE, "Start", sz("0"), ""))
    edit = SetValue(Hive.SYSTEM, SERVICE, "Start", dword(0), "")
    (change,) = applying.outstanding([edit], inspected(windows), mounted(windows))
    assert change.before == "REG_SZ '0'"
    assert change.lost == ((SERVICE, "Start", sz("0")),)


def mounted(windows):
    appliance = phony.Appliance(windows)
    inspection.inspect(appliance)
    return appliance


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("a\\b",), "x"),
        (("a\0",), "x"),
        (("a" * 256,), "x"),
        (("",), "x"),
        ((), "x"),
        (("a",), "x" * 16384),
        (("a",), "\0"),
    ],
)
def test_h10_names_the_registry_cannot_hold_cannot_be_made(key, name):
    with pytest.raises(ValueError, match="cannot be the name of a registry"):
        SetValue(Hive.SYSTEM, key, name, dword(1), "")


def test_h10_a_name_may_have_a_backslash_in_a_value():
    assert SetValue(Hive.SYSTEM, ("MountedDevices",), r"\DosDevices\C:", dword(1), "").name == r"\DosDevices\C:"
    assert RegValue(RegType.REG_DWORD, b"\1\0\0\0").number == 1


# ---------------------------------------------------------------- H12, H13: the boot store


def test_h12_no_boot_store(windows):
    del windows.files[phony.PLACES[Hive.BCD]]
    assert refusal(inspected, windows) == (
        "no boot store found\n"
        "  why: no partition holds \\Boot\\BCD; partitions seen: /dev/sda1 ntfs 100 MiB, /dev/sda2 ntfs 100 MiB\n"
        "  fix: give the disk Windows boots from; if this is it, run `bcdboot C:\\Windows` in Windows' recovery console"
    )


def test_h12_of_two_boot_stores_the_firmware_s_is_taken(windows):
    windows.files["/c/Boot/BCD"] = windows.files[phony.PLACES[Hive.BCD]]
    assert inspected(windows).boot.device == "/dev/sda1"
    windows.slots = ()
    assert refusal(inspected, windows) == (
        "more than one boot store found\n"
        "  why: /dev/sda1 and /dev/sda2 hold \\Boot\\BCD, none is marked as active\n"
        "  fix: mark the partition the firmware starts from as active (`diskpart`: active)"
    )


def test_h12_a_store_without_a_default_lists_what_it_has(windows):
    other = "{00000000-0000-0000-0000-00000000000f}"
    windows.edit(
        SetValue(Hive.BCD, ("Objects", bcd.BOOTMGR, "Elements", bcd.ELEMENTS["default"]), "Element", sz("{gone}"), ""),
        SetValue(Hive.BCD, ("Objects", other, "Description"), "Type", dword(bcd.OS_LOADER), ""),
        SetValue(Hive.BCD, ("Objects", other, "Elements", "12000002"), "Element", sz(r"\Windows\winload.exe"), ""),
    )
    guest = inspected(windows)
    spec = from_options({"source": "a", "virtio_win": "b", "test_signing": "on"})
    assert refusal(planning.plan, guest, Selection((), ()), spec) == (
        "the boot store has no clear Windows entry\n"
        "  why: no default loader starts Windows; loaders found: "
        f"{other} '', {phony.LOADER} 'Windows 10'\n"
        "  fix: inside the guest run `bcdedit /default {identifier}`"
    )
    assert planning.plan(guest, Selection((), ()), from_options({"source": "a", "virtio_win": "b"}))


def test_h13_test_mode_and_secure_boot():
    with pytest.raises(ConfigError) as refused:
        from_options({"source": "a", "virtio_win": "b", "test_signing": "on", "secure_boot": True})
    assert refused.value.exit_code == 2
    assert str(refused.value) == (
        "command line: 1 problem\n"
        '  why: secure_boot: test_signing = "on" excludes secure_boot = true: '
        "Windows ignores test-signing under Secure Boot"
    )


# ---------------------------------------------------------------- H14: reading back


class Forgetful(phony.Appliance):
    """Writes nothing of what it is told to."""

    def put(self, contents):
        pass

    def hive(self, path, *, write=False):
        return super().hive(path)


def test_h14_what_does_not_read_back_is_named(windows, monkeypatch):
    forgetful = Forgetful(windows)
    guest = inspection.inspect(forgetful)
    edit = SetValue(Hive.SYSTEM, SERVICE, "Start", dword(0), "test")
    changes = applying.outstanding([edit], guest, forgetful)
    monkeypatch.setattr(applying, "_write", lambda hive, edit: None)
    with pytest.raises(ApplyFailed) as failed:
        applying.apply(changes, guest, phony.Drivers(), forgetful)
    assert failed.value.exit_code == 5
    assert str(failed.value) == (
        "1 of 1 changes did not read back as written\n"
        r"  why: first: SYSTEM\ControlSet001\Services\winfoundry-test : Start = REG_DWORD 0x0, found: nothing"
    )
