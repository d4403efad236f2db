import struct
from functools import reduce
from operator import xor

import pytest

from builder.errors import InputRefused
from builder.windows import hive_header


def header_of(path):
    return path.read_bytes()[:4096], path.stat().st_size


def test_a_clean_hive_passes(testdata):
    hive_header.check(*header_of(testdata / "hives" / "minimal.hive"), "minimal")


@pytest.mark.parametrize("name", ["bios-windeploy", "efi-windeploy", "efi-win10-a", "efi-win10-b", "setup-media"])
def test_real_boot_stores_are_not_damaged(testdata, name):
    header, size = header_of(testdata / "bcd" / f"{name}.bcd")
    header = header[:8] + header[4:8] + header[12:]  # some are copies of a store in use
    checksum = reduce(xor, struct.unpack_from("<127I", header))
    hive_header.check(header[:508] + struct.pack("<I", checksum) + header[512:], size, name)


@pytest.mark.parametrize("name", ["win81-x64/SYSTEM", "win10-x64/SYSTEM"])
def test_dirty_hives_are_refused(real_hive, name):
    with pytest.raises(InputRefused, match="not closed cleanly") as refused:
        hive_header.check(*header_of(real_hive(name)), "SYSTEM")
    assert "powercfg /h off" in refused.value.fix


def test_damage_is_named(testdata):
    data, size = header_of(testdata / "hives" / "minimal.hive")
    cases = {
        "does not start": (b"x" + data[1:], size),
        "promises": (data, 4096),
        "checksum": (data[:100] + b"\xff" + data[101:], size),
        "more than": (data, 1 << 40),
    }
    for text, (header, length) in cases.items():
        with pytest.raises(InputRefused) as refused:
            hive_header.check(header, length, "SYSTEM")
        assert text in refused.value.why


def test_short_input_is_refused():
    with pytest.raises(InputRefused):
        hive_header.check(struct.pack("<4sII", b"regf", 1, 1), 12, "SYSTEM")
