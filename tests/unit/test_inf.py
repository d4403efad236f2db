import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import InputRefused
from builder.windows import inf

VERSION = '[Version]\nSignature="$Windows NT$"\n'


def lines(text: str, section: str = "a"):
    return inf.parse("x.inf", text.encode("cp1252")).lines(section)


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("Class=SCSIAdapter", "Class", ("SCSIAdapter",)),
        ("  Class =  Net ; a comment", "Class", ("Net",)),
        ('k = "a, b ; c", d', "k", ("a, b ; c", "d")),
        ('k = "say ""no"""', "k", ('say "no"',)),
        ("HKR,,Name,,a=b", "", ("HKR", "", "Name", "", "a=b")),
        ("viostor.sys,,,2", "", ("viostor.sys", "", "", "2")),
        ('k = "no end', "k", ("no end",)),
        ('"quoted key" = v', "quoted key", ("v",)),
        ("k = one, \\\n  two", "k", ("one", "two")),
        ("HKR,,CoInstallers32,0x00010000, \\\n;", "", ("HKR", "", "CoInstallers32", "0x00010000", "")),
        ("k = %name%, %%SystemRoot%%, %12%\\x.sys", "k", ("Red Hat, Inc.", "%SystemRoot%", "%12%\\x.sys")),
    ],
)
def test_a_line_is_read_as_setupapi_reads_it(text, key, values):
    (line,) = lines(f'[a]\n{text}\n[Strings]\nNAME = "Red Hat, Inc."\n')
    assert (line.key, line.values) == (key, values)


def test_the_key_keeps_its_token_beside_its_text():
    (line,) = lines("[a]\n%Dev% = x\n[Strings]\ndev = Device\n")
    assert (line.key, line.written) == ("Device", "%Dev%")


def test_sections_of_one_name_are_one_and_case_is_ignored():
    found = lines("[A]\none\n[b]\ntwo\n[a]\nthree\n")
    assert [line.values[0] for line in found] == ["one", "three"]
    assert [line.number for line in found] == [2, 6]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "cp1252"])
def test_d09_the_three_encodings_windows_knows(encoding):
    parsed = inf.parse("x.inf", '[Strings]\r\nname = "Gerät"\r\n'.encode(encoding))
    assert parsed.strings == {"name": "Gerät"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe[\0a\0]\0\n", "not text in utf-16-le"),
        (b"\xef\xbb\xbf[a]\n\xff", "line 2: not text in utf-8"),
        (b"[a]\n\x81", "line 2: not text in cp1252"),
        (b"[\0a\0]\0", "control character"),
        (b"hello", "line 1: there is text before the first section"),
        (b"[a", "line 1: the section name has no closing bracket"),
        (b"[a]\n" + b"\n" * inf.MAX_LINES, "lines is over the limit"),
        (b"[a]\n" + b";" * inf.MAX_BYTES, "bytes is over the limit"),
        (b"[a]\n" + b"x" * 5000, "line 2: longer than 4096 characters"),
        (b"[a]\n" + b"x\\\n" * 5000, "longer than 4096 characters"),
    ],
)
def test_d10_what_is_no_inf_is_refused_with_its_place(data, said):
    with pytest.raises(InputRefused, match=r"x\.inf") as caught:
        inf.parse("x.inf", data)
    assert said in caught.value.what


def test_a_control_z_ends_the_text():
    assert len(lines("[a]\none\n\x1a\ntwo\n")) == 1


@given(st.binary(max_size=400) | st.text('[]=%",;\\\n aZ1').map(lambda text: ("[a]\n" + text).encode()))
def test_hostile_bytes_are_read_or_refused(data):
    try:
        parsed = inf.parse("x.inf", data)
    except InputRefused:
        return
    for section in parsed.raw:
        assert all(isinstance(value, str) for line in parsed.lines(section) for value in line.values)
