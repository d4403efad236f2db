"""What the first boot is asked to do; that it does it is shown by running it under Wine."""

import pytest
from driver_discs import DictDisc, guest
from lxml import etree

from builder.errors import ConfigError
from builder.model import MediaFile, PutFile, SetValue, WriteFile
from builder.windows import firstboot
from builder.windows.firstboot import Job
from builder.windows.paths import MediaPath
from builder.windows.releases import Arch

SCRIPT = firstboot.script("a.cmd", b"echo a\necho b\r\n")


def edits(job, release="w10", **changes):
    return tuple(firstboot.edits(guest(release, **changes), (), job))


def files(found):
    return {one.target.name: one for one in found if isinstance(one, PutFile | WriteFile)}


def test_nothing_to_do_leaves_no_trace():
    assert edits(Job()) == ()
    assert edits(Job(hostname="GOLD")) == ()


def test_the_service_is_in_every_control_set_and_needs_no_logon():
    found = edits(Job(scripts=(SCRIPT,)), control_sets=("ControlSet001", "ControlSet003"))
    values = {one.key: {} for one in found if isinstance(one, SetValue)}
    for one in found:
        if isinstance(one, SetValue):
            values[one.key][one.name] = one.value
    assert set(values) == {(name, "Services", firstboot.SERVICE) for name in ("ControlSet001", "ControlSet003")}
    for service in values.values():
        assert (service["Start"].number, service["Type"].number, service["ErrorControl"].number) == (2, 0x10, 0)
        assert service["ObjectName"].text == "LocalSystem"
        assert service["ImagePath"].text == (
            r'%SystemRoot%\System32\cmd.exe /c start "" /b %SystemRoot%\System32\cmd.exe '
            r"/c %SystemRoot%\winfoundry\firstboot\run.cmd"
        )


def test_the_files_are_the_runner_and_what_it_runs():
    agent = MediaFile(MediaPath.parse("guest-agent/qemu-ga-x86_64.msi"), 5, "0" * 64)
    found = files(edits(Job(agent=agent, scripts=(SCRIPT,), sysprep=True, hostname="GOLD")))
    assert set(found) == {"run.cmd", "qemu-ga-x86_64.msi", "a.cmd", "unattend.xml"}
    assert str(found["run.cmd"].target) == r"C:\Windows\winfoundry\firstboot\run.cmd"
    assert found["a.cmd"].content == b"echo a\r\necho b\r\n"
    runner = found["run.cmd"].content
    assert runner.count(b"\n") == runner.count(b"\r\n")
    assert b"{" not in runner.replace(b"{#", b"")
    assert found["unattend.xml"].content.count(b"GOLD") == 1


def test_the_answer_file_is_xml_for_the_processor_of_the_guest():
    for arch, word in ((Arch.AMD64, "amd64"), (Arch.X86, "x86"), (Arch.ARM64, "arm64")):
        job = Job(sysprep=True, time_zone="UTC")
        root = etree.fromstring(files(edits(job, arch=arch))["unattend.xml"].content)
        components = root.findall(".//{*}component")
        assert {one.get("processorArchitecture") for one in components} == {word}
        assert root.findtext(".//{*}ComputerName") == "*"
        assert root.findtext(".//{*}TimeZone") == "UTC"


@pytest.mark.parametrize("name", ["a.exe", "a b.cmd", "&calc.cmd", "%x%.cmd", ".cmd", "ä.ps1", "a" * 70 + ".cmd"])
def test_a_script_that_could_not_be_run_is_refused(name):
    with pytest.raises(ConfigError, match="cannot be run"):
        firstboot.script(name, b"")


def test_windows_xp_has_no_runner():
    assert edits(Job(), "xp", arch=Arch.X86) == ()
    with pytest.raises(ConfigError, match="Windows XP has no first boot runner"):
        edits(Job(scripts=(SCRIPT,)), "xp", arch=Arch.X86)


def test_the_agent_is_found_by_processor():
    disc = DictDisc({"guest-agent/qemu-ga-x86_64.msi": b"64", "guest-agent/qemu-ga-i386.msi": b"32"})
    assert firstboot.agent_on(disc, Arch.AMD64).path.name == "qemu-ga-x86_64.msi"
    assert firstboot.agent_on(disc, Arch.X86).path.name == "qemu-ga-i386.msi"
    assert firstboot.agent_on(disc, Arch.ARM64) is None
    assert firstboot.agent_on(DictDisc({}), Arch.AMD64) is None
