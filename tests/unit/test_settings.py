import pytest
from driver_discs import guest

from builder.config import BuildSpec
from builder.errors import ConfigError
from builder.windows import settings
from builder.windows.registry import dword, sz
from builder.windows.settings import Wanted


def written(wanted, release="w10"):
    one = guest(release, control_sets=("ControlSet001", "ControlSet002"))
    return {("\\".join(edit.key), edit.name): edit.value for edit in settings.edits(one, wanted)}


def test_nothing_is_set_unless_asked_for():
    assert written(Wanted()) == {}


def test_every_switch_is_an_option_of_a_build_that_is_off():
    for option in settings.TABLE:
        assert BuildSpec.model_fields[option].default is False


@pytest.mark.parametrize(
    ("wanted", "key", "name", "value"),
    [
        (Wanted(frozenset({"remote_desktop"})), r"Control\Terminal Server", "fDenyTSConnections", dword(0)),
        (Wanted(frozenset({"hibernation_off"})), r"Control\Power", "HibernateEnabled", dword(0)),
        (Wanted(frozenset({"hibernation_off"})), r"Control\Session Manager\Power", "HiberbootEnabled", dword(0)),
        (Wanted(frozenset({"disks_online"})), r"Services\partmgr\Parameters", "SanPolicy", dword(1)),
        (Wanted(frozenset({"utc_clock"})), r"Control\TimeZoneInformation", "RealTimeIsUniversal", dword(1)),
        (Wanted(frozenset({"winrm"})), r"Services\WinRM", "Start", dword(2)),
        (Wanted(crash_dump="kernel"), r"Control\CrashControl", "CrashDumpEnabled", dword(2)),
        (Wanted(auto_reboot=False), r"Control\CrashControl", "AutoReboot", dword(0)),
        (Wanted(hostname="GOLD-1"), r"Control\ComputerName\ComputerName", "ComputerName", sz("GOLD-1")),
        (Wanted(hostname="GOLD-1"), r"Services\Tcpip\Parameters", "NV Hostname", sz("GOLD-1")),
    ],
)
def test_a_setting_is_made_in_every_control_set(wanted, key, name, value):
    found = written(wanted)
    for control_set in ("ControlSet001", "ControlSet002"):
        assert found[(rf"{control_set}\{key}", name)] == value


def test_only_what_a_release_knows_is_set():
    assert len(written(Wanted(frozenset({"hibernation_off"})), "w7")) == 2
    assert len(written(Wanted(frozenset({"hibernation_off"})), "w10")) == 6
    assert all("Firewall" not in key for key, _ in written(Wanted(frozenset({"remote_desktop"})), "xp"))


def test_an_option_a_release_does_not_have_is_the_user_s_mistake():
    with pytest.raises(ConfigError, match="disks_online is not for Windows XP"):
        written(Wanted(frozenset({"disks_online"})), "xp")
    with pytest.raises(ConfigError, match="crash_dump is not for Windows 7"):
        written(Wanted(crash_dump="automatic"), "w7")
