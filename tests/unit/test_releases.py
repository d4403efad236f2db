import pytest

from builder.windows import releases


@pytest.mark.parametrize(
    ("build", "server", "name"),
    [
        (7601, False, "w7"),
        (7601, True, "2k8R2"),
        (9600, False, "w8.1"),
        (19045, False, "w10"),
        (22631, False, "w11"),
        (14393, True, "2k16"),
        (17763, True, "2k19"),
        (20348, True, "2k22"),
        (26100, False, "w11"),
        (26100, True, "2k25"),
    ],
)
def test_builds_people_have(build, server, name):
    found = releases.identify(build, server=server)
    assert found is not None
    assert found.name == name


def test_unknown_build():
    assert releases.identify(1, server=False) is None


def test_no_build_has_two_names():
    rows = releases.RELEASES
    for one in rows:
        for other in rows:
            if one is not other and one.server == other.server:
                assert not set(one.builds) & set(other.builds), (one.name, other.name)


def test_names_are_unique():
    assert len({row.name for row in releases.RELEASES}) == len(releases.RELEASES)
    assert releases.by_name("w8.1").osinfo_id == "http://microsoft.com/win/8.1"
