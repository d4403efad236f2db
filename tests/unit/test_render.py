"""The domain XML: golden files, what is never allowed, hostile values in every variable, libvirt's own opinion."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from jinja2 import Environment, meta

from builder import domain_xml, render, resources
from builder.domain_spec import DEVICES, Access, DomainSpec, Trial
from builder.errors import ConfigError, WinfoundryError
from builder.model import Bus, Firmware, Provides
from builder.windows.drivers import DRIVERS
from builder.windows.releases import RELEASES, Arch, by_name

BIOS, UEFI = Firmware.BIOS, Firmware.UEFI
EVERYTHING = Provides(frozenset(Bus), frozenset({"netkvm", "balloon", "vioser", "viorng", "pvpanic"}), False)
ALL_OF_THEM = Provides(frozenset(Bus), frozenset(driver.name for driver in DRIVERS), False)
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
    given = {"name": "windows", "image": Path("/srv/templates/windows/image.qcow2"), "cpus": 2, "memory": 4096}
    return DomainSpec(**{**given, "disk_interface": Bus.VIRTIO, "trial": trial(), **wishes})


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
OPTIONS = {
    "w10-secure-boot-tpm": (guest("w10", UEFI), ALL_OF_THEM, spec(secure_boot=True, vtpm=True)),
    "w10-bios-tpm": (guest(), ALL_OF_THEM, spec(vtpm=True)),
    "w10-virtio-tuned": (
        guest(),
        ALL_OF_THEM,
        spec(disk_cache="writeback", disk_io="io_uring", disk_discard="ignore", disk_queues=4, disk_iothread=True),
    ),
    "w10-scsi-tuned": (
        guest(),
        ALL_OF_THEM,
        spec(disk_interface=Bus.SCSI, disk_cache="writethrough", disk_queues=4, disk_iothread=True),
    ),
    "w10-bridge-queues": (guest(), ALL_OF_THEM, spec(net_bridge="br0", net_queues=4)),
    "w10-user-network": (guest(), ALL_OF_THEM, spec(network="", net_device="e1000e")),
    "w10-all-devices": (guest(), ALL_OF_THEM, spec(devices={device.name: "required" for device in DEVICES})),
    "w10-no-devices": (guest(), ALL_OF_THEM, spec(devices={device.name: "skip" for device in DEVICES})),
    "w10-virtio-video": (guest(), ALL_OF_THEM, spec(video="virtio")),
    "w10-qxl": (guest(), ALL_OF_THEM, spec(video="qxl")),
    "w10-virtiofs-numa": (
        guest(),
        ALL_OF_THEM,
        spec(virtiofs={"docs": "/srv/docs", "b": "/srv/b"}, numa_nodes=2, cpus=8, sockets=2, threads=2),
    ),
    "w10-cpu-model": (guest(), ALL_OF_THEM, spec(cpu_model="Skylake-Server")),
    "w10-host-model-pc": (guest(), ALL_OF_THEM, spec(cpu_model="host-model", machine="pc")),
}
CASES |= OPTIONS
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


def matrix():
    """Every release on every firmware and bus it can have."""
    for release in RELEASES:
        old = release.nt < (6, 0)
        for firmware in (BIOS,) if old else (BIOS, UEFI):
            for bus in (Bus.IDE, Bus.VIRTIO) if old else (Bus.SATA, Bus.SCSI, Bus.VIRTIO):
                machine = "pc" if old else "q35"
                case = (guest(release.name, firmware), ALL_OF_THEM, spec(disk_interface=bus, machine=machine))
                yield f"{release.name}-{firmware}-{bus}", case


MATRIX = dict(matrix())


@pytest.mark.parametrize("name", MATRIX)
def test_golden_of_every_release_firmware_and_bus(name, golden):
    xml = render.render(*MATRIX[name]).template
    golden(f"domain/matrix/{name}.xml", xml, key=lambda xml: ElementTree.canonicalize(xml, strip_text=True))
    render.check(xml)


def test_libvirt_defines_every_release_firmware_and_bus(tmp_path):
    """One virsh for all of them: `define --validate`, then `undefine`, for each."""
    commands = []
    for name, case in MATRIX.items():
        xml = tmp_path / f"{name}.xml"
        xml.write_text(re.sub('<domain type="[a-z]*"', '<domain type="test"', render.render(*case).template))
        commands += [f"define --validate {xml}", "undefine windows"]
    virsh = ["virsh", "-c", "test:///default", "; ".join(commands)]
    done = subprocess.run(virsh, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Domain 'windows' defined") == len(MATRIX) > 80


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


@pytest.mark.parametrize("name", ["hyperv", "backing", "numa"])
def test_hostile_lists_stay_texts(name):
    hostile, harmless = (render.fill(variables("booted") | {name: (text,)}) for text in (HOSTILE, "x"))
    assert shape(hostile) == shape(harmless)


@pytest.mark.parametrize("bad", ["\0", "\n", "\t", "\x1b", "\x85", "\ud800", "\ufffe"])
def test_control_characters_and_lone_surrogates_are_refused(bad):
    with pytest.raises(ConfigError, match="disk has a control character"):
        render.render(guest(), EVERYTHING, replace(spec(), image=Path(f"/srv/a{bad}b.qcow2")))
    with pytest.raises(ConfigError, match="backing has a control character"):
        render.render(guest(), EVERYTHING, spec(trial=trial(chain=(Path(f"/srv/a{bad}b.qcow2"),))))


def test_an_odd_but_legal_path_survives():
    odd = '/srv/ü & <"it\'s"> 日本/image.qcow2'
    domain = render.render(guest(), EVERYTHING, replace(spec(), image=Path(odd)))
    assert ElementTree.fromstring(domain.template).find("devices/disk/source").get("file") == odd


def without(driver):
    return replace(ALL_OF_THEM, devices=ALL_OF_THEM.devices - {driver})


UNDRIVEN = {
    "netkvm is missing": ("netkvm", spec(net_device="virtio")),
    "several network queues": ("netkvm", spec(net_queues=2)),
    "viofs is missing": ("viofs", spec(virtiofs={"a": "/a"})),
    "viogpudo is missing": ("viogpudo", spec(video="virtio")),
    "the device agent": ("vioser", spec(devices={"agent": "required"})),
    "viorng is missing": ("viorng", spec(devices={"rng": "required"})),
    "balloon is missing": ("balloon", spec(devices={"balloon": "required"})),
    "pvpanic is missing": ("pvpanic", spec(devices={"panic": "required"})),
    "vioinput is missing": ("vioinput", spec(devices={"input": "required"})),
    "viosock is missing": ("viosock", spec(devices={"vsock": "required"})),
}


@pytest.mark.parametrize("why", UNDRIVEN)
def test_more_than_the_image_drives_names_the_missing_driver(why):
    driver, wish = UNDRIVEN[why]
    render.render(guest(), ALL_OF_THEM, wish)
    with pytest.raises(ConfigError) as caught:
        render.render(guest(), without(driver), wish)
    assert why in str(caught.value)
    assert driver in caught.value.why


def test_either_driver_drives_qxl():
    both = replace(EVERYTHING, devices=EVERYTHING.devices | {"qxl"})
    render.render(guest(), both, spec(video="qxl"))
    with pytest.raises(ConfigError, match="qxl video"):
        render.render(guest(), EVERYTHING, spec(video="qxl"))


@pytest.mark.parametrize("name", [*CASES, *MATRIX])
def test_nothing_is_rendered_that_the_image_cannot_drive(name):
    case = {**CASES, **MATRIX}[name]
    domain = render.render(*case)
    for xml in (domain.booted, domain.template):
        assert domain_xml.unprovided(domain_xml.parse(xml.encode()), case[1]) == ()


def test_the_trial_has_nothing_that_needs_another_service_of_the_host():
    devices = {"vsock": "required", "watchdog": "required"}
    domain = render.render(guest(), ALL_OF_THEM, spec(vtpm=True, virtiofs={"a": "/a"}, devices=devices, net_bridge="b"))
    found = [
        [
            tree.find(f"devices/{one}") is not None
            for one in ("tpm", "filesystem", "vsock", "watchdog", "interface/source")
        ]
        for tree in map(ElementTree.fromstring, (domain.booted, domain.template))
    ]
    assert found == [[False] * 5, [True] * 5]


REFUSED = {
    "disk_io: native needs": (guest(), EVERYTHING, spec(disk_io="native", disk_cache="unsafe")),
    "net_queues: QEMU's user network": (guest(), EVERYTHING, spec(network="", net_queues=2)),
    "net_queues: only net_device": (guest(), EVERYTHING, spec(net_device="e1000", net_queues=2)),
    "threads: 3 cpus are not": (guest(), EVERYTHING, spec(cpus=3, sockets=2)),
    "numa_nodes: cpus = 3": (guest(), EVERYTHING, spec(cpus=3, numa_nodes=2)),
    "numa_nodes: memory = 4096": (guest(), EVERYTHING, spec(cpus=3, numa_nodes=3)),
    "devices: there is no device": (guest(), EVERYTHING, spec(devices={"toaster": "required"})),
    "cpu_model: must be": (guest(), EVERYTHING, spec(cpu_model="a b")),
    "virtiofs: a must be an absolute path": (guest(), ALL_OF_THEM, spec(virtiofs={"a": "b"})),
    "virtiofs: the tag": (guest(), ALL_OF_THEM, spec(virtiofs={"a b": "/b"})),
    "the bridge 'br 0'": (guest(), EVERYTHING, spec(net_bridge="br 0")),
    "TPM 1.2 at most": (guest("w7"), EVERYTHING, spec(vtpm=True)),
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
    r"/domain/(name|uuid|on_crash|seclabel.*|memoryBacking.*)\b"
    r"|/domain/os/nvram"
    r"|/domain/devices/disk/(driver@(cache|io|discard)|source|backingStore)"
    r"|/domain/devices/serial/log"
    r"|/domain/devices/interface(@type|/source|/driver)"
    r"|/domain/devices/(tpm|filesystem|vsock|watchdog)"
    r"|/domain/devices/panic@model = hyperv"
    r"|/domain@type|/domain/cpu(@(mode|match|check)|/feature|/model)|/domain/features/hyperv"
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
    lacking = replace(EVERYTHING, devices=EVERYTHING.devices - {driver})
    for provides, expected in ((EVERYTHING, True), (lacking, False)):
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


@pytest.mark.parametrize("name", sorted(variables("template")))
def test_a_missing_variable_is_our_bug_and_says_where(name):
    """Every variable is used: left out, each names the template and the line."""
    lacking = {key: value for key, value in variables("template").items() if key != name}
    with pytest.raises(WinfoundryError, match=r"^[a-z]+\.xml\.j2 line \d+: ") as caught:
        render.fill(lacking)
    assert f"'{name}' is undefined" in caught.value.what
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_variable_is_described_where_it_is_used(template):
    source = template.read_text()
    header = source[: source.index("#}")]
    described = set(re.findall(r"^  ([a-z_]+) {2,}(?:str|bool|int|tuple\[(?:str|tuple)\]) ", header, re.MULTILINE))
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
