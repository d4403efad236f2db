import pytest

from builder.windows import releases


@pytest.mark.parametrize(
    ("build", "server", "name"),
    [
        (2600, False, "xp"),
        (3790, False, "xp64"),
        (3790, True, "2k3"),
        (6002, False, "vista"),
        (6002, True, "2k8"),
        (7601, False, "w7"),
        (7601, True, "2k8R2"),
        (9200, False, "w8"),
        (9200, True, "2k12"),
        (9600, False, "w8.1"),
        (9600, True, "2k12R2"),
        (10240, False, "w10"),
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


@pytest.mark.parametrize(
    ("installation_type", "product_type", "server"),
    [
        ("Client", "WinNT", False),
        ("Server", "ServerNT", True),
        ("Server Core", "ServerNT", True),
        ("Nano Server", "ServerNT", True),
        ("Client", "ServerNT", False),  # InstallationType decides where there is one
        ("", "WinNT", False),  # XP
        ("", "ServerNT", True),  # 2003
        ("", "LanmanNT", True),  # 2003, a domain controller
    ],
)
def test_whether_it_is_a_server(installation_type, product_type, server):
    assert releases.is_server(installation_type, product_type) is server


def test_every_build_people_call_by_a_version_has_a_release():
    for build in releases.VERSIONS:
        assert releases.identify(build, server=False) or releases.identify(build, server=True), build


def test_only_windows_before_vista_has_no_bcd():
    assert [row.name for row in releases.RELEASES if not row.has_bcd] == ["xp", "xp64", "2k3"]


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
