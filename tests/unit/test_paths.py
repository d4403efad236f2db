import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.windows.paths import GuestPath, MediaPath


def test_parse_and_show():
    path = GuestPath.parse(r"C:\Windows\INF\oem3.inf")
    assert path.parts == ("Windows", "INF", "oem3.inf")
    assert str(path) == r"C:\Windows\INF\oem3.inf"
    assert GuestPath(("Windows",)) / r"System32\drivers" / "a.sys" == GuestPath.parse(
        r"\Windows\System32\drivers\a.sys"
    )
    assert path.same(GuestPath.parse(r"\windows\inf\OEM3.INF"))


@pytest.mark.parametrize(
    "bad",
    [
        r"..\evil.sys",
        "",
        "a\\",
        r"C:\a:b",
        "CON",
        r"x\com1.txt",
        "trail.",
        "trail ",
        'a"b',
        "a/b",
        "x" * 256,
        "naïve",
        "a\x01",
    ],
)
def test_windows_names_we_refuse(bad):
    with pytest.raises(ValueError, match=r".+"):
        GuestPath.parse(bad)


@pytest.mark.parametrize("bad", ["../x", "/etc/shadow", "a//b", "a\\b", "C:/x", "nul", "a/./b", "ſ.sys"])
def test_media_names_we_refuse(bad):
    with pytest.raises(ValueError, match=r".+"):
        MediaPath.parse(bad)


@given(st.text(max_size=300))
def test_whatever_parses_comes_back_unchanged(text):
    try:
        path = MediaPath.parse(text)
    except ValueError:
        return
    assert str(path) == text
    assert ".." not in path.parts
