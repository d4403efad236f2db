"""Domains and real libvirts: QEMU's driver takes what we render and convert; definitions are swapped with a backup.

WINFOUNDRY_LIBVIRT   the libvirt to use, else qemu:///system for root and qemu:///session for others
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.convert import Target, convert
from builder.convert_disks import SCRATCH_SERIAL
from builder.errors import EnvironmentUnable, InputRefused
from builder.host import definitions, hypervisor
from builder.model import Bus

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "domain"

IDE = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <title>of fritz</title>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'><feature policy='disable' name='la57'/></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file='{disk}'/>
      <target dev='hda' bus='ide'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <controller type='ide' index='0'/>
    <interface type='user'>
      <mac address='52:54:00:12:34:56'/>
      <model type='rtl8139'/>
    </interface>
    <serial type='pty'/>
    <graphics type='vnc' port='-1' autoport='yes' passwd='hunter22'/>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""


@dataclass(frozen=True)
class Answer:
    """What QEMU's driver of libvirt made of a definition: the domain as it tells it, or its complaint."""

    xml: str
    error: str


def embedded_driver(domains: dict[str, bytes]) -> dict[str, Answer]:
    """Defines each domain in a QEMU driver of its own, inside one virsh: no daemon, nothing left on the machine."""
    # A folder with a short name: the driver's sockets lie in it, and a socket's path has room for 107 bytes.
    with tempfile.TemporaryDirectory(prefix="embed-") as folder:
        return _defined(Path(folder), domains)


def _defined(folder: Path, domains: dict[str, bytes]) -> dict[str, Answer]:
    lines = []
    for key, xml in domains.items():
        file = folder / f"{key}.xml"
        file.write_bytes(xml)
        name = re.search(rb"<name>(.*?)</name>", xml)[1].decode()
        lines += [f"echo === {key} ===", f"define --validate {file}", f"dumpxml --inactive {name}", f"undefine {name}"]
    done = subprocess.run(
        ["virsh", "-q", "-c", f"qemu:///embed?root={folder}/root"],
        input="\n".join(lines) + "\n",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=True,
    )
    answers = re.split(r"^=== (\S+) ===", done.stdout, flags=re.MULTILINE)[1:]
    return {key: _answer(text) for key, text in zip(answers[::2], answers[1::2], strict=True)}


def _answer(text: str) -> Answer:
    xml = re.search(r"<domain .*?^</domain>", text, re.DOTALL | re.MULTILINE)
    error = re.search(r"^error: (?!Failed to define)(.*)", text, re.MULTILINE)
    return Answer(xml[0] if xml else "", "" if xml else error[1] if error else text)


TARGETS = {"virtio": Target(), "scsi": Target(bus=Bus.SCSI), "first": Target(scratch="/srv/scratch.qcow2")}


def test_what_libvirt_took_it_takes_converted_and_then_there_is_nothing_left_to_convert(testdata):
    domains = {}
    for path in sorted((testdata / "domains" / "libvirt").glob("*.xml")):
        domains[path.stem] = path.read_bytes()
        for key, target in TARGETS.items():
            try:
                domains[f"{path.stem}.{key}"] = convert(path.read_bytes(), target).xml
            except InputRefused:
                continue
    answers = embedded_driver(domains)
    assert answers.keys() == domains.keys()
    taken = [key for key, answer in answers.items() if answer.xml and "." not in key]
    assert len(taken) > 20
    for key, answer in answers.items():
        stem, _, target = key.rpartition(".")
        if stem in taken:
            assert answer.error == "", key
            assert convert(answer.xml.encode(), TARGETS[target]).changes == (), key


# ---------------------------------------------------------------- the libvirt of this machine


@pytest.fixture(scope="session")
def libvirt() -> str:
    uri = os.environ.get("WINFOUNDRY_LIBVIRT", hypervisor.default_uri())
    if not hypervisor.running(uri):
        pytest.skip(f"no libvirt at {uri}: run `make libvirt`")
    return uri


def virsh(uri: str, *argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["virsh", "-c", uri, *map(str, argv)], capture_output=True, text=True, check=False)


@pytest.fixture
def name(libvirt):
    """The name of a domain nobody else has, gone afterwards."""
    made = f"winfoundry-test-{uuid.uuid4().hex[:8]}"
    yield made
    virsh(libvirt, "destroy", made)
    virsh(libvirt, "undefine", "--nvram", made)


COMMON = [*sorted(GOLDEN.glob("*.xml")), *sorted((GOLDEN / "matrix").glob("w1[01]*.xml"))]


@pytest.mark.vm
@pytest.mark.parametrize("golden", COMMON, ids=lambda path: path.stem)
def test_qemus_driver_defines_the_golden_domains(libvirt, name, tmp_path, golden):
    """More than the schema: the capabilities of this QEMU. Nothing is started."""
    text = golden.read_text()
    if "<tpm" in text and not shutil.which("swtpm"):
        pytest.skip("libvirt takes a TPM only where swtpm is installed")
    if 'type="kvm"' in text and "<domain type='kvm'" not in virsh(libvirt, "capabilities").stdout:
        pytest.skip("this libvirt has no KVM")
    xml = tmp_path / "domain.xml"
    xml.write_text(re.sub("<name>.*</name>", f"<name>{name}</name>", text, count=1))
    done = virsh(libvirt, "define", "--validate", xml)
    assert done.returncode == 0, done.stderr


def definition(uri: str, name: str) -> str:
    return virsh(uri, "dumpxml", "--inactive", "--security-info", name).stdout.removesuffix("\n")


@pytest.fixture
def ide(libvirt, name, tmp_path):
    """An IDE domain libvirt knows, as it tells it."""
    xml = tmp_path / "ide.xml"
    xml.write_text(IDE.format(name=name, uuid=uuid.uuid4(), disk="/srv/win.qcow2"))
    done = virsh(libvirt, "define", xml)
    assert done.returncode == 0, done.stderr
    return definition(libvirt, name)


@pytest.mark.vm
def test_swap_and_back(libvirt, name, ide, tmp_path, command):
    done = command("domain", "swap", name, "--connect", libvirt, "--backups", tmp_path)
    assert done.returncode == 0, done.stderr
    backup = tmp_path / f"{name}.before-winfoundry.1.xml"
    assert backup.read_text() == ide
    assert backup.stat().st_mode & 0o777 == 0o600
    assert "disk hda: bus ide -> virtio, target vda, discard unmap, address dropped\n" in done.stderr
    assert not [secret for secret in ("hunter22", "/srv/win", "fritz") if secret in done.stdout + done.stderr]
    swapped = definition(libvirt, name)
    assert convert(swapped.encode(), Target()).changes == ()
    for kept in ("passwd='hunter22'", "52:54:00:12:34:56", re.search("<uuid>.*</uuid>", ide)[0], "of fritz"):
        assert kept in swapped

    again = command("domain", "swap", name, "--connect", libvirt, "--backups", tmp_path)
    assert "nothing to change" in again.stderr
    assert len(list(tmp_path.glob("*.before-winfoundry.*"))) == 1

    assert command("domain", "define", backup, "--connect", libvirt, "--backups", tmp_path).returncode == 0
    assert definition(libvirt, name) == ide
    assert len(list(tmp_path.glob("*.before-winfoundry.*"))) == 2


@pytest.mark.vm
def test_what_libvirt_refuses_changes_nothing(libvirt, name, ide, tmp_path):
    secret = "/home/fritz/geheim.img"
    disk = f"<disk type='file'><source file='{secret}'/><target dev='hda' bus='ide'/></disk>"
    with pytest.raises(InputRefused, match="libvirt does not take the domain") as caught:
        definitions.define(ide.replace("<controller", disk + "<controller", 1).encode(), libvirt, backups=tmp_path)
    assert "fritz" not in str(caught.value)
    assert definition(libvirt, name) == ide
    assert list(tmp_path.glob("*.before-winfoundry.*")) == []


@pytest.mark.vm
def test_no_backup_no_swap(libvirt, name, ide, tmp_path):
    with pytest.raises(EnvironmentUnable, match="cannot save the domain"):
        definitions.define(ide.encode(), libvirt, backups=tmp_path / "nowhere")


@pytest.fixture
def diskless(libvirt, name, tmp_path):
    """An IDE domain that can be started: its drive is an empty CD-ROM; not defined yet."""
    disk = re.search(r"    <disk .*?</disk>\n", IDE, re.DOTALL)[0]
    empty = "<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>"
    xml = tmp_path / "diskless.xml"
    xml.write_text(IDE.replace(disk, empty).format(name=name, uuid=uuid.uuid4()))
    return xml


@pytest.mark.vm
def test_a_running_domain_is_swapped_for_its_next_start(libvirt, name, diskless, tmp_path, command):
    assert virsh(libvirt, "define", diskless).returncode == 0
    assert virsh(libvirt, "start", "--paused", name).returncode == 0
    done = command("domain", "swap", name, "--connect", libvirt, "--backups", tmp_path)
    assert (done.returncode, "in effect from its next start" in done.stdout) == (0, True), done.stderr
    assert "rtl8139" in virsh(libvirt, "dumpxml", name).stdout
    assert "rtl8139" not in definition(libvirt, name)


@pytest.mark.vm
def test_a_saved_or_transient_domain_is_not_swapped(libvirt, name, diskless, tmp_path):
    assert virsh(libvirt, "create", "--paused", diskless).returncode == 0
    with pytest.raises(InputRefused, match="is transient"):
        definitions.current(name, libvirt)
    assert virsh(libvirt, "define", diskless).returncode == 0
    assert virsh(libvirt, "managedsave", name).returncode == 0
    try:
        with pytest.raises(InputRefused, match="is saved to disk"):
            definitions.define(diskless.read_bytes(), libvirt, backups=tmp_path)
    finally:
        virsh(libvirt, "managedsave-remove", name)
    assert list(tmp_path.glob("*.before-winfoundry.*")) == []


@pytest.mark.vm
def test_a_domain_libvirt_does_not_know(libvirt):
    with pytest.raises(InputRefused, match="libvirt does not tell about the domain 'no such'"):
        definitions.current("no such", libvirt)


@pytest.mark.vm
def test_a_new_domain_needs_no_backup(libvirt, name, tmp_path, command):
    xml = tmp_path / "new.xml"
    xml.write_text(IDE.format(name=name, uuid=uuid.uuid4(), disk="/srv/win.qcow2"))
    done = command("domain", "define", xml, "--connect", libvirt, "--backups", tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{name}: defined\n")


# ---------------------------------------------------------------- the sample


PATIENCE = 300  # seconds; about 15 on a quiet machine


def agent_of(uri: str, name: str) -> dict[str, str]:
    """What the guest's agent calls it, as soon as it answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and virsh(uri, "domstate", name).stdout.strip() == "running":
        said = virsh(uri, "qemu-agent-command", name, '{"execute": "guest-get-osinfo"}')
        if said.returncode == 0:
            return json.loads(said.stdout)["return"]
        time.sleep(1)
    pytest.fail(f"no agent; the domain is {virsh(uri, 'domstate', '--reason', name).stdout}")


@pytest.mark.vm
@pytest.mark.appliance
@pytest.mark.parametrize("interface", ["virtio", "virtio-scsi"])
def test_the_samples_own_domain_boots_the_built_image_after_conversion(
    libvirt, name, built_sample, tmp_path, command, interface
):
    """IDE and rtl8139, as it was installed, with the built disk in it: converted, the image comes up."""
    disk = built_sample.output / "image.qcow2"
    overlay = tmp_path / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk, overlay], check=True)
    old, new = tmp_path / "old.xml", tmp_path / "new.xml"
    text = IDE.format(name=name, uuid=uuid.uuid4(), disk=overlay)
    as_root = "<seclabel type='static' model='dac' relabel='no'><label>+0:+0</label></seclabel></domain>"
    old.write_text(text.replace("</domain>", as_root) if "system" in libvirt else text)
    done = command("domain", "convert", old, "--for", disk, "--disk-interface", interface, "--output", new)
    assert done.returncode == 0, done.stderr
    assert f"disk hda: bus ide -> {'scsi' if interface == 'virtio-scsi' else 'virtio'}" in done.stderr
    assert "interface 52:54:00:12:34:56: model rtl8139 -> virtio" in done.stderr
    assert command("domain", "define", new, "--connect", libvirt, "--backups", tmp_path).returncode == 0
    assert virsh(libvirt, "start", name).returncode == 0
    assert agent_of(libvirt, name)["id"] == "nt-stand-in"


@pytest.mark.vm
@pytest.mark.appliance
def test_render_of_the_built_sample_uses_what_it_can_drive(built_sample, command, libvirt, name, tmp_path):
    done = command("domain", "render", built_sample.output / "image.qcow2", "--set", "vm_name=" + name)
    assert done.returncode == 0, done.stderr
    xml = tmp_path / "domain.xml"
    xml.write_text(done.stdout)
    assert '<target dev="vda" bus="virtio"/>' in done.stdout
    where = libvirt if "<domain type='kvm'" in virsh(libvirt, "capabilities").stdout else "test:///default"
    assert virsh(where, "define", "--validate", xml).returncode == 0


@pytest.mark.appliance
def test_convert_for_an_image_without_drivers_is_refused(sample, tmp_path, command):
    old = tmp_path / "old.xml"
    old.write_text(IDE.format(name="w", uuid=uuid.uuid4(), disk=sample.disk))
    done = command("domain", "convert", old, "--for", sample.disk)
    assert done.returncode == 3
    assert "the image cannot start from virtio" in done.stderr
    first = command("domain", "convert", old, "--transitional", "--scratch", tmp_path / "s.qcow2")
    assert SCRATCH_SERIAL in first.stdout
