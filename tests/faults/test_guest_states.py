"""Rows G01-G15 of the fault matrix: what is refused, in which words; on a phony Windows, or on bytes alone.

What ntfs-3g and libguestfs themselves say of such disks is in test_guest_disks.py.
"""

import struct
import uuid
from dataclasses import replace

import phony
import pytest

from builder import inspection
from builder import plan as planning
from builder.config import from_options
from builder.errors import InputRefused
from builder.model import DriverPackage, Hive, MediaFile, Selection, SetValue, Signature, Signer
from builder.windows import releases, states, volumes
from builder.windows.paths import GuestPath, MediaPath
from builder.windows.registry import RegValue, dword, multi_sz, sz
from builder.windows.releases import Arch
from builder.windows.volumes import Slot

VERSION = ("Microsoft", "Windows NT", "CurrentVersion")


@pytest.fixture
def windows(tmp_path):
    return phony.Windows(tmp_path / "work")


def inspected(windows, root=""):
    return inspection.inspect(phony.Appliance(windows), root)


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(InputRefused) as refused:
        call(*arguments, **options)
    assert refused.value.exit_code == 3
    return str(refused.value)


# ---------------------------------------------------------------- G01-G03: NTFS


def test_g01_hibernation_and_fast_startup_are_refused():
    assert refusal(volumes.require_clean, "/dev/sda2", 14, dirty=False) == (
        "Windows is hibernated, or was shut down with fast startup\n"
        "  why: /dev/sda2 holds a hibernated session; changing the volume beneath it would destroy data\n"
        "  fix: start the guest once, run `powercfg /h off` and then `shutdown /s /t 0`"
    )


def test_g03_a_journal_that_was_not_replayed_is_refused():
    assert refusal(volumes.require_clean, "/dev/sda2", 15, dirty=False) == (
        "the Windows volume was not unmounted cleanly\n"
        "  why: the journal of the NTFS volume /dev/sda2 has changes that are not yet on the disk\n"
        "  fix: start the guest once, run `chkdsk C: /f`, restart, and then `shutdown /s /t 0`"
    )


def test_g03_the_dirty_flag_is_refused():
    assert refusal(volumes.require_clean, "/dev/sda2", 0, dirty=True) == (
        "the Windows volume is marked dirty\n"
        "  why: Windows wants to check the NTFS volume /dev/sda2 at its next start\n"
        "  fix: start the guest once so that it runs chkdsk (or run `chkdsk C: /f`), and then `shutdown /s /t 0`"
    )
    volumes.require_clean("/dev/sda2", 0, dirty=False)


def record(flags: int) -> bytes:
    """$Volume with one attribute before $VOLUME_INFORMATION, its sector ends replaced as NTFS does."""
    head = struct.pack("<4sHHQHHHH", b"FILE", 48, 3, 0, 1, 0, 56, 1).ljust(48, b"\0")
    usa = struct.pack("<HHH", 7, 0, 0).ljust(8, b"\0")
    first = struct.pack("<II", 0x10, 96).ljust(96, b"\0")
    information = struct.pack("<IIBBHHHIHH", 0x70, 40, 0, 0, 0, 0, 0, 12, 24, 0) + struct.pack("<QBBH", 0, 3, 1, flags)
    body = (head + usa + first + information.ljust(40, b"\0") + struct.pack("<I", 0xFFFFFFFF)).ljust(1024, b"\0")
    return body[:510] + b"\7\0" + body[512:1022] + b"\7\0"


@pytest.mark.parametrize(("flags", "dirty"), [(0x0000, False), (0x0001, True), (0x0080, False), (0x8081, True)])
def test_g03_the_dirty_flag_is_one_bit_of_volume_information(flags, dirty):
    assert volumes.is_dirty(record(flags)) is dirty


def test_g03_where_volume_information_is_not_nothing_is_dirty():
    for damaged in (b"", b"FILE", b"BAAD" + record(1)[4:], record(1)[:150], b"FILE" + b"\xff" * 1020):
        assert volumes.is_dirty(damaged) is False


def test_g03_the_record_is_found_as_the_boot_sector_says():
    boot = bytearray(512)
    boot[3:11], boot[11:14] = b"NTFS    ", struct.pack("<HB", 512, 8)
    boot[48:56], boot[64:65] = struct.pack("<Q", 4), struct.pack("<b", -10)
    assert volumes.volume_record(bytes(boot)) == (4 * 4096 + 3 * 1024, 1024)
    boot[64:65] = struct.pack("<b", 1)
    assert volumes.volume_record(bytes(boot)) == (4 * 4096 + 3 * 4096, 4096)
    assert volumes.volume_record(bytes(512)) == (0, 0)


# ---------------------------------------------------------------- G04, G05, G10-G12: where Windows is


def test_g04_no_windows(windows):
    windows.files = {name: data for name, data in windows.files.items() if "/config/" not in name}
    assert refusal(inspected, windows) == (
        "no Windows installation found\n"
        "  why: partitions seen: /dev/sda1 ntfs 100 MiB, /dev/sda2 ntfs 100 MiB\n"
        "  fix: give the disk Windows is installed on"
    )


def test_g05_two_installations_are_listed_and_root_chooses(windows):
    windows.files |= {
        name.replace("/c/", "/boot/", 1): data for name, data in windows.files.items() if name.startswith("/c/")
    }
    assert refusal(inspected, windows) == (
        "more than one Windows installation found\n"
        "  why: /dev/sda1\\Windows, /dev/sda2\\Windows\n"
        "  fix: choose one with root = /dev/sda1\\Windows (--root on the command line)"
    )
    assert inspected(windows, "/dev/sda1").device == "/dev/sda1"
    assert inspected(windows, r"/dev/sda2\windows").device == "/dev/sda2"
    assert refusal(inspected, windows, "/dev/sda3") == (
        "root = /dev/sda3 names no single Windows installation\n"
        "  why: found: /dev/sda1\\Windows, /dev/sda2\\Windows\n"
        "  fix: give one of these as root"
    )


def test_g10_a_folder_in_another_case_is_found_as_it_is(windows):
    windows.files = {name.replace("/c/Windows/", "/c/WINDOWS/"): data for name, data in windows.files.items()}
    assert inspected(windows).system_root == GuestPath(("WINDOWS",))


def test_g11_folders_that_differ_only_in_case(windows):
    windows.files["/c/windows/readme.txt"] = b""
    assert refusal(inspected, windows) == (
        "/dev/sda2 has folders that differ only in case\n"
        "  why: which of them is Windows cannot be known: Windows, windows\n"
        "  fix: inside the guest rename the one that is not Windows'"
    )


# ---------------------------------------------------------------- G06: BitLocker


def test_g06_every_variant_of_bitlocker_is_recognised():
    to_go = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
    used_space_only = uuid.UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8").bytes_le
    for start in (b"\xeb\x52\x90-FVE-FS-", b"\xeb\x58\x90-FVE-FS-"):  # Vista; 7 and later
        assert volumes.is_encrypted(start.ljust(512, b"\0"))
    for identifier in (to_go, used_space_only):
        assert volumes.is_encrypted((b"\xeb\x58\x90MSWIN4.1".ljust(424, b"\0") + identifier).ljust(512, b"\0"))
    for plain in (b"\xeb\x52\x90NTFS    ", b"\xeb\x58\x90MSWIN4.1", b"\xeb\x58\x90MSDOS5.0", b""):
        assert not volumes.is_encrypted(plain.ljust(512, b"\0"))


def test_g06_an_encrypted_windows_is_refused(windows, monkeypatch):
    monkeypatch.setattr(phony.Appliance, "starts_with", starting(b"\xeb\x58\x90-FVE-FS-"))
    monkeypatch.setattr(phony.Appliance, "partitions", lambda self: encrypted("/dev/sda2"))
    windows.files = {}
    assert refusal(inspected, windows) == (
        "the disk is encrypted with BitLocker\n"
        "  why: /dev/sda2 starts as a BitLocker volume does\n"
        "  fix: inside the guest run `manage-bde -off C:` and wait until `manage-bde -status` says Fully Decrypted"
    )


def test_g06_another_volume_that_is_encrypted_is_left_alone(windows, monkeypatch):
    windows.files = {name.replace("/boot/", "/c/"): data for name, data in windows.files.items()}
    monkeypatch.setattr(phony.Appliance, "starts_with", starting(b"\xeb\x58\x90-FVE-FS-", device="/dev/sda1"))
    monkeypatch.setattr(phony.Appliance, "partitions", lambda self: encrypted("/dev/sda1"))
    assert inspected(windows).notes == ("left alone, because encrypted with BitLocker: /dev/sda1",)


def starting(content, device="/dev/sda2"):
    return lambda self, asked, offset, length: (content if asked == device else b"").ljust(offset + length, b"\0")


def encrypted(device):
    kinds = {one: "BitLocker" if one == device else "ntfs" for one in phony.VOLUMES}
    return tuple(phony.appliance.Partition(one, kind, 1) for one, kind in kinds.items())


# ---------------------------------------------------------------- partition tables


def mbr(*kinds: int) -> bytes:
    entries = b"".join(struct.pack("<B3xB3xII", 0x80 if n == 0 else 0, kind, 1, 1) for n, kind in enumerate(kinds))
    return (bytes(446) + entries.ljust(64, b"\0") + b"\x55\xaa").ljust(volumes.TABLE_BYTES, b"\0")


def gpt(*kinds: str) -> bytes:
    header = b"EFI PART".ljust(84, b"\0") + struct.pack("<I", 128)
    entries = b"".join(uuid.UUID(kind).bytes_le.ljust(128, b"\0") for kind in kinds)
    return (mbr(0xEE)[:512] + header.ljust(512, b"\0") + entries).ljust(volumes.TABLE_BYTES, b"\0")


def test_partition_tables_are_read():
    basic = "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
    assert volumes.slots(mbr(7, 7)) == (Slot(1, "07", active=True), Slot(2, "07"))
    assert volumes.slots(gpt(basic, str(uuid.UUID(int=0)), basic)) == (Slot(1, basic), Slot(3, basic))
    assert volumes.slots(bytes(volumes.TABLE_BYTES)) == ()
    assert volumes.slots(b"") == ()
    volumes.refuse_layout(volumes.slots(gpt(basic)))


@pytest.mark.parametrize(
    "table",
    [mbr(0x42), gpt("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"), gpt("af9b60a0-1431-4f62-bc68-3311714a69ad")],
    ids=["mbr", "gpt-metadata", "gpt-data"],
)
def test_dynamic_disks_are_refused(windows, table):
    windows.slots = volumes.slots(table)
    assert refusal(inspected, windows) == (
        "the disk is a dynamic disk\n"
        "  why: its volumes are made by the Logical Disk Manager, which libguestfs and QEMU's firmware do not follow\n"
        "  fix: inside the guest, or with a partitioning tool, convert it back to a basic disk"
    )


def test_storage_spaces_are_refused(windows):
    windows.slots = volumes.slots(gpt("e75caf8f-f680-4cee-afa3-b001e56efc2d"))
    assert refusal(inspected, windows) == (
        "the disk belongs to a storage pool (Storage Spaces)\n"
        "  why: its volumes can be read by Windows only\n"
        "  fix: move Windows to a plain disk: `wbadmin` inside the guest, or clone it"
    )


# ---------------------------------------------------------------- G07: which Windows


def test_g07_an_unknown_build_is_refused_with_those_we_know(windows):
    windows.edit(SetValue(Hive.SOFTWARE, VERSION, "CurrentBuildNumber", sz("9999"), ""))
    text = refusal(inspected, windows)
    assert text.startswith(
        "Windows build 9999 (client) is not one winfoundry knows\n  fix: known are: Windows XP (2600), Windows XP x64"
    )
    assert all(row.title in text for row in releases.RELEASES)


def test_g07_an_architecture_a_release_was_not_made_for():
    assert refusal(states.release_of, 9600, server=False, arch=Arch.ARM64) == (
        "Windows 8.1 for ARM64 is not one winfoundry knows\n"
        "  why: it was made for x86, amd64\n"
        "  fix: see whether ntoskrnl.exe and the SOFTWARE hive are of the same installation"
    )


def test_g07_a_processor_nobody_knows(windows):
    kernel = bytearray(windows.files["/c/Windows/System32/ntoskrnl.exe"])
    offset = struct.unpack_from("<I", kernel, 60)[0]
    struct.pack_into("<H", kernel, offset + 4, 0x0200)
    windows.files["/c/Windows/System32/ntoskrnl.exe"] = bytes(kernel)
    assert refusal(inspected, windows) == (
        "the architecture of this Windows is unknown\n  why: ntoskrnl.exe is for machine 0x0200"
    )


def test_windows_to_go_is_refused(windows):
    windows.edit(SetValue(Hive.SYSTEM, ("ControlSet001", "Control"), "PortableOperatingSystem", dword(1), ""))
    assert refusal(inspected, windows) == (
        "this Windows is a Windows To Go workspace\n"
        "  why: PortableOperatingSystem is set: it takes its boot disk from USB, and hides internal disks\n"
        "  fix: install Windows on a fixed disk, or set PortableOperatingSystem to 0 inside the guest and restart it"
    )


def test_pending_restarts_are_told(windows):
    session = ("ControlSet001", "Control", "Session Manager")
    windows.edit(
        SetValue(Hive.SYSTEM, session, "PendingFileRenameOperations", multi_sz(r"\??\C:\old"), ""),
        SetValue(Hive.SYSTEM, ("Setup",), "SystemSetupInProgress", dword(1), ""),
        *(SetValue(Hive.SOFTWARE, (*key, "x"), "x", dword(1), "") for key in states.PENDING.values()),
    )
    assert inspected(windows).notes == (
        "Windows Setup has not finished: the first start goes on with it",
        "Windows Update waits for a restart: the first start will take longer",
        "component servicing is pending: the first start will finish it",
        "files are to be renamed or deleted at the next start (PendingFileRenameOperations)",
    )


def test_pending_xml_is_told_and_a_clean_windows_has_no_notes(windows):
    assert inspected(windows).notes == ()
    windows.files["/c/Windows/WinSxS/pending.xml"] = b""
    assert inspected(windows).notes == ("component servicing is pending: the first start will finish it",)


# ---------------------------------------------------------------- G08, G13-G15


def test_g08_a_full_volume_is_refused_before_anything_is_written(windows):
    size = 30 << 20
    file = MediaFile(MediaPath.parse("viostor/viostor.inf"), size, "0" * 64)
    package = DriverPackage(
        **{"name": "viostor", "inf": file, "catalog": None, "files": (file,), "runs_from": (), "provider": ""},
        **{"class_name": "", "class_guid": "{4d36e97b-e325-11ce-bfc1-08002be10318}", "date": "2023-01-01"},
        **{"version": (1, 0, 0, 0), "devices": (), "services": (), "strings": {}, "arch": Arch.AMD64},
        signature=Signature(Signer.MICROSOFT, "", None, None, ""),
        chosen_because="",
    )
    spec = from_options({"source": "a", "virtio_win": "b"})
    full = replace(inspected(windows), free_bytes=159 << 20)
    assert refusal(planning.plan, full, Selection((package,), ()), spec) == (
        "the Windows volume is too full\n"
        "  why: 159 MiB are free, 160 MiB are needed\n"
        "  fix: free space inside the guest, or enlarge the disk and its partition"
    )
    assert planning.plan(replace(full, free_bytes=160 << 20), Selection((package,), ()), spec).edits


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ("Windows\x1b[31m 10\n".encode("utf-16-le"), "Windows[31m 10"),
        (("W" * 8_000).encode("utf-16-le"), "W" * 120),
        ("\u202eswodniW".encode("utf-16-le"), "swodniW"),
        (b"\x00\xd8W\x00i\x00n\x00" + b"\xff", "\ufffdWin\ufffd"),
    ],
    ids=["control", "long", "right-to-left", "broken-utf16"],
)
def test_g14_names_from_the_guest_are_bounded_and_printable(windows, data, shown):
    windows.edit(SetValue(Hive.SOFTWARE, VERSION, "ProductName", RegValue(1, data), ""))
    assert inspected(windows).product == shown


def test_g14_a_build_number_that_is_none_is_refused(windows):
    for text in ("nineteen", "1904\x00", "99999999999", "١٩٠٤٥"):
        windows.edit(SetValue(Hive.SOFTWARE, VERSION, "CurrentBuildNumber", RegValue(1, text.encode("utf-16-le")), ""))
        assert "is not one winfoundry knows" in refusal(inspected, windows)


def test_g15_no_folder_is_walked(windows, monkeypatch):
    asked = []
    monkeypatch.setattr(phony.Appliance, "list", recording(phony.Appliance.list, asked))
    inspected(windows)
    assert [path for path in asked if path != "/c"] == ["/c/Windows/INF"]


def recording(method, asked):
    def wrapped(self, path):
        asked.append(path)
        return method(self, path)

    return wrapped
