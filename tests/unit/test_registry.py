import pytest

from builder.windows.registry import RegType, RegValue, binary, dword, expand_sz, multi_sz, qword, sz


def test_strings_are_utf16le_with_nul():
    assert sz("ab").data == b"a\0b\0\0\0"
    assert expand_sz("x").type == RegType.REG_EXPAND_SZ
    assert multi_sz("a", "b").data == b"a\0\0\0b\0\0\0\0\0"
    assert multi_sz().data == b"\0\0"


def test_values_read_back():
    assert sz("Größe").text == "Größe"
    assert multi_sz("one", "two").texts == ("one", "two")
    assert dword(3).number == 3
    assert qword(1 << 40).number == 1 << 40


def test_what_a_value_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        sz("a\0b")
    with pytest.raises(ValueError, match="empty"):
        multi_sz("a", "")
    with pytest.raises(OverflowError):
        dword(1 << 32)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (sz("viostor"), "REG_SZ 'viostor'"),
        (dword(0), "REG_DWORD 0x0"),
        (multi_sz("a"), "REG_MULTI_SZ ['a']"),
        (binary(b"\x01\xff"), "REG_BINARY 01 ff"),
        (RegValue(0xFFFF0012, b"\x05"), "type 0xffff0012 05"),
    ],
)
def test_shown_as_reg_query_does(value, shown):
    assert str(value) == shown


def test_broken_utf16_does_not_raise():
    assert RegValue(RegType.REG_SZ, b"\x00\xd8x").text
