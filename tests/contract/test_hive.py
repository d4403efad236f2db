"""One test for both places a hive can be open: a file of this machine, and inside the appliance."""

from contextlib import contextmanager

import pytest

from builder.host import hive
from builder.windows.registry import RegValue, binary, dword, expand_sz, multi_sz, sz

KEY = ("ControlSet001", "Services", "viostor")
VALUES = {
    "Start": dword(0),
    "ImagePath": expand_sz(r"System32\drivers\viostor.sys"),
    "Owners": multi_sz("oem1.inf", "oem2.inf"),
    "Blob": binary(bytes(range(256)) * 20),
    "Empty": RegValue(0, b""),
    "": sz("the default value"),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """An appliance with an empty NTFS volume at /c."""
    from builder.host import appliance

    disk = tmp_path_factory.mktemp("contract") / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    with appliance.launch(disk, format="raw", write=True) as launched:
        guest = launched._guest
        guest.part_disk("/dev/sda", "mbr")
        guest.mkfs("ntfs", "/dev/sda1")
        launched.mount(launched.partitions()[0], "/c")
        yield launched


@pytest.fixture(params=["file", pytest.param("appliance", marks=pytest.mark.appliance)])
def opened(request, testdata, tmp_path):
    """`with opened(write=True) as one:` the hive, wherever it is."""
    minimal = (testdata / "hives" / "minimal.hive").read_bytes()
    if request.param == "appliance":
        launched = request.getfixturevalue("running")
        launched.put({"/c/minimal": minimal})
        return lambda write=False: launched.hive("/c/minimal", write=write)
    path = tmp_path / "minimal"
    path.write_bytes(minimal)

    @contextmanager
    def open_file(write=False):
        one = hive.open_file(path, write=write)
        yield one
        if write:
            one.commit()

    return open_file


def test_what_was_written_reads_back(opened):
    with opened(write=True) as one:
        for name, value in VALUES.items():
            one.set(KEY, name, value)
    with opened() as one:
        assert one.values(KEY) == VALUES
        assert {name: one.value(KEY, name) for name in VALUES} == VALUES
        assert one.subkeys(KEY[:2]) == ("viostor",)


def test_what_is_not_there_is_none(opened):
    with opened() as one:
        assert one.value(KEY, "Start") is None
        assert one.value((), "nothing") is None
        assert not one.exists(KEY)
        assert one.subkeys(KEY) == ()


def test_names_are_found_in_any_case_and_deleted_with_all_below(opened):
    with opened(write=True) as one:
        one.set((*KEY, "StartOverride"), "0", dword(3))
        one.set(tuple(part.upper() for part in KEY), "START", dword(0))
        one.delete((*KEY, "STARTOVERRIDE"))
        one.delete((*KEY, "never there"))
    with opened() as one:
        assert one.value(KEY, "start") == dword(0)
        assert one.subkeys(KEY) == ()
