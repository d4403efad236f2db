"""The domain XML: golden files, what is never allowed, hostile values in every variable, libvirt's own opinion."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from jinja2 import Environment, meta

from builder import render, resources
from builder.errors import ConfigError, WinfoundryError
from builder.model import Bus, Firmware, Provides
from builder.render import Access, DomainSpec, Trial
from builder.windows.releases import RELEASES, Arch, by_name

BIOS, UEFI = Firmware.BIOS, Firmware.UEFI
EVERYTHING = Provides(frozenset(Bus), frozenset({"netkvm", "balloon", "vioser", "viorng", "pvpanic"}), False)
NOTHING = Provides(frozenset({Bus.SATA, Bus.IDE}), frozenset(), False)
TEMPLATES = sorted((resources.templates() / "domain").glob("*.j2"))


def guest(release="w10", firmware=BIOS, arch=Arch.AMD64):
    """The facts of a Guest that rendering needs."""
    return SimpleNamespace(release=by_name(release), firmware=firmware, arch=arch)


def trial(**wishes):
    return Trial(
        **{
            "name": "winfoundry-1a2b3c4d",
            "uuid": "5d7e63e6-0e8c-4b41-9f6e-0c6c4f9b1a11",
            "overlay": Path("/work space/winfoundry-1a2b3c4d.qcow2"),
            "chain": (Path("/work space/image.qcow2"), Path("/srv/source.qcow2")),
            "serial_log": Path("/work space/serial.log"),
            "nvram": Path("/work space/nvram.fd"),
            "accelerator": "tcg",
            "access": Access.SYSTEM,
            **wishes,
        }
    )


def spec(**wishes):
    wishes = {"disk_interface": Bus.VIRTIO, "trial": trial(), **wishes}
    return DomainSpec(name="windows", image=Path("/srv/templates/windows/image.qcow2"), cpus=2, memory=4096, **wishes)


CASES = {
    "xp-bios-ide-nothing": (guest("xp"), NOTHING, spec(disk_interface=Bus.IDE, machine="pc")),
    "2k3-bios-virtio": (guest("2k3"), EVERYTHING, spec(machine="pc")),
    "w7-bios-virtio-kvm": (guest("w7"), EVERYTHING, spec(trial=trial(accelerator="kvm", access=Access.ROOT))),
    "2k8R2-uefi-scsi": (guest("2k8R2", UEFI), EVERYTHING, spec(disk_interface=Bus.SCSI)),
    "w8.1-x86-bios-sata-nothing": (guest("w8.1", arch=Arch.X86), NOTHING, spec(disk_interface=Bus.SATA)),
    "2k22-uefi-scsi-kvm": (
        guest("2k22", UEFI),
        EVERYTHING,
        spec(disk_interface=Bus.SCSI, trial=trial(accelerator="kvm")),
    ),
    "w11-uefi-virtio-secure-boot": (
        guest("w11", UEFI),
        EVERYTHING,
        spec(secure_boot=True, trial=trial(access=Access.SESSION, chain=(Path("/work space/image.qcow2"),))),
    ),
}
BOTH = [(name, which) for name in CASES for which in ("template", "booted")]


def rendered(name, which):
    return getattr(render.render(*CASES[name]), which)


@pytest.mark.parametrize(("name", "which"), BOTH)
def test_golden(name, which, golden):
    golden(
        f"domain/{name}.{which}.xml",
        rendered(name, which),
        key=lambda xml: ElementTree.canonicalize(xml, strip_text=True),
    )


@pytest.mark.parametrize(("name", "which"), BOTH)
def test_libvirts_schema_allows_it(name, which):
    render.check(rendered(name, which))


@pytest.mark.parametrize(("name", "which"), BOTH)
def test_libvirt_defines_it(name, which, tmp_path):
    xml = tmp_path / "domain.xml"
    xml.write_text(re.sub('<domain type="[a-z]*"', '<domain type="test"', rendered(name, which)))
    virsh = ["virsh", "-c", "test:///default", "define", "--validate", str(xml)]
    done = subprocess.run(virsh, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def shape(xml):
    """Everything but texts and attribute values."""
    return [(element.tag, sorted(element.attrib)) for element in ElementTree.fromstring(xml).iter()]


def variables(which):
    common = render._common(guest("2k22", UEFI), EVERYTHING, spec(secure_boot=True))
    own = {"booted": render._booted(guest(), trial()), "template": render._published(guest(), spec())}
    return {**common, **own[which]}


TEXTS = [
    (which, name)
    for which in ("booted", "template")
    for name, value in variables(which).items()
    if isinstance(value, str)
]
HOSTILE = "x'/>\"<!--]]></name><qemu:commandline/>&amp;{{ name }}{% raw %}"


@pytest.mark.parametrize(("which", "name"), TEXTS)
def test_a_hostile_text_stays_a_text(which, name):
    hostile, harmless = (render.fill(variables(which) | {name: text}) for text in (HOSTILE, "x"))
    assert shape(hostile) == shape(harmless)


@pytest.mark.parametrize("name", ["hyperv", "backing"])
def test_hostile_lists_stay_texts(name):
    hostile, harmless = (render.fill(variables("booted") | {name: (text,)}) for text in (HOSTILE, "x"))
    assert shape(hostile) == shape(harmless)


@pytest.mark.parametrize("bad", ["\0", "\n", "\t", "\x1b", "\x85", "\ud800", "\ufffe"])
def test_control_characters_are_refused(bad):
    with pytest.raises(ConfigError, match="disk has a control character"):
        render.render(guest(), EVERYTHING, replace(spec(), image=Path(f"/srv/a{bad}b.qcow2")))
    with pytest.raises(ConfigError, match="backing has a control character"):
        render.render(guest(), EVERYTHING, spec(trial=trial(chain=(Path(f"/srv/a{bad}b.qcow2"),))))


def test_an_odd_but_legal_path_survives():
    odd = '/srv/ü & <"it\'s"> 日本/image.qcow2'
    domain = render.render(guest(), EVERYTHING, replace(spec(), image=Path(odd)))
    assert ElementTree.fromstring(domain.template).find("devices/disk/source").get("file") == odd


REFUSED = {
    "the image cannot boot from it": (guest(), NOTHING, spec()),
    "machine pc, or sata": (guest(), NOTHING, spec(disk_interface=Bus.IDE)),
    "lacks an AHCI driver": (guest("xp"), EVERYTHING, spec()),
    "it is a part of UEFI": (guest(), EVERYTHING, spec(secure_boot=True)),
    "it needs q35": (guest("w10", UEFI), EVERYTHING, spec(secure_boot=True, machine="pc")),
    "ignores the latter": (guest("w10", UEFI), replace(EVERYTHING, test_signing=True), spec(secure_boot=True)),
    "only x86 and amd64": (guest("w11", UEFI, Arch.ARM64), EVERYTHING, spec()),
    "no firmware for it": (guest("w10", UEFI, Arch.X86), EVERYTHING, spec()),
    "1 to 64 of the characters": (guest(), EVERYTHING, replace(spec(), name="x'/><qemu:commandline/>")),
    "1 to 64 of A-Z": (guest(), EVERYTHING, spec(network="default\n")),
    "1 to 255": (guest(), EVERYTHING, replace(spec(), cpus=0)),
    "64 MiB to 4 TiB": (guest(), EVERYTHING, replace(spec(), memory=63)),
    "absolute paths only": (guest(), EVERYTHING, replace(spec(), image=Path("image.qcow2"))),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refused(why):
    with pytest.raises(ConfigError) as caught:
        render.render(*REFUSED[why])
    assert why in str(caught.value)


def paths(xml):
    """Every element and attribute of it, with its value, as a set of lines."""

    def walk(element, above):
        here = f"{above}/{element.tag}"
        yield f"{here} = {(element.text or '').strip()}"
        yield from (f"{here}@{key} = {value}" for key, value in element.attrib.items())
        for child in element:
            yield from walk(child, here)

    return set(walk(ElementTree.fromstring(xml), ""))


ONLY_BOOTED = re.compile(
    r"/domain/(name|uuid|on_crash|seclabel.*)\b"
    r"|/domain/os/nvram"
    r"|/domain/devices/disk/(driver@(cache|io)|source|backingStore)"
    r"|/domain/devices/serial/log"
    r"|/domain/devices/interface(@type|/source)"
    r"|/domain/devices/panic@model = hyperv"
    r"|/domain@type|/domain/cpu(@mode|/feature)|/domain/features/hyperv"
    r"|/domain/clock/timer@(name = hypervclock|present = yes)"
)


@pytest.mark.parametrize("name", CASES)
def test_what_was_booted_is_what_is_published(name):
    domain = render.render(*CASES[name])
    different = paths(domain.booted) ^ paths(domain.template)
    assert [line for line in different if not ONLY_BOOTED.match(line)] == []


@pytest.mark.parametrize("driver", sorted(EVERYTHING.devices))
def test_no_device_without_its_driver(driver):
    element = {
        "netkvm": "interface/model[@type='virtio']",
        "balloon": "memballoon[@model='virtio']",
        "vioser": "channel",
        "viorng": "rng",
        "pvpanic": "panic[@model='isa']",
    }[driver]
    without = replace(EVERYTHING, devices=EVERYTHING.devices - {driver})
    for provides, expected in ((EVERYTHING, True), (without, False)):
        domain = render.render(guest(), provides, spec())
        for xml in (domain.booted, domain.template):
            assert (ElementTree.fromstring(xml).find(f"devices/{element}") is not None) is expected


@pytest.mark.parametrize("release", [row.name for row in RELEASES])
def test_every_release_can_be_rendered(release):
    for xml in (lambda d: (d.booted, d.template))(render.render(guest(release), EVERYTHING, spec(machine="pc"))):
        render.check(xml)
        assert by_name(release).osinfo_id in xml


def test_emulation_gets_no_hyperv():
    """QEMU 7.2 then ends with "kernel doesn't allow setting HyperV VP_INDEX" (measured)."""
    domain = render.render(guest("2k22"), EVERYTHING, spec(trial=trial(accelerator="tcg")))
    assert "hyperv" in domain.template
    assert "hyperv" not in domain.booted


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_variable_is_described_where_it_is_used(template):
    source = template.read_text()
    header = source[: source.index("#}")]
    described = set(re.findall(r"^  ([a-z_]+) {2,}(?:str|bool|int|tuple\[str\]) ", header, re.MULTILINE))
    assert described == meta.find_undeclared_variables(Environment(autoescape=True).parse(source))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_template_escapes_the_escaping(template):
    source = template.read_text()
    assert not re.search(r"\|\s*safe|Markup|autoescape|=\s*\{\{|=\s*'", source.replace("'yes'", "").replace("'no'", ""))


def test_check_names_what_libvirt_does_not_allow():
    with pytest.raises(WinfoundryError, match="schema") as caught:
        render.check(rendered("2k22-uefi-scsi-kvm", "template").replace('bus="scsi"', 'bus="sausage"'))
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "xml",
    [
        '<!DOCTYPE domain [<!ENTITY a "a">]><domain type="kvm">&a;</domain>',
        "<domain>",
        "<!DOCTYPE x SYSTEM '/etc/passwd'><x/>",
    ],
)
def test_check_refuses_what_is_not_plain_xml(xml):
    with pytest.raises(ConfigError):
        render.check(xml)
