"""Conversion of foreign domains: libvirt's own test domains, made-up ones without end, and what must be refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from builder import convert_disks, domain_xml
from builder.convert import EVERYTHING, Target, convert
from builder.convert_disks import SCRATCH_SERIAL, Tuning
from builder.errors import ConfigError, InputRefused, NoDriver
from builder.model import Bus, Provides

TARGETS = {
    "virtio": Target(),
    "virtio-scsi": Target(bus=Bus.SCSI),
    "first-step": Target(scratch="/srv/scratch.qcow2"),
    "first-step-scsi": Target(bus=Bus.SCSI, scratch="/srv/scratch.qcow2"),
    "tuned": Target(tuning=Tuning("writeback", "threads", "ignore")),
    "without-drivers": Target(provides=Provides(frozenset(Bus), frozenset(), False)),
}

REFUSED = {
    ("boot-dev+order.xml", "any"): "the domain orders its boot devices twice",
    ("disk-mirror-old.xml", "any"): "a disk has a running block job",
    # libvirt itself refuses the originals of these; a conversion that gives the device a new place mends them
    ("disk-same-targets.xml", "first-step"): "two disks have the same target",
    ("disk-same-targets.xml", "first-step-scsi"): "two disks have the same target",
    ("pci-bus-invalid.xml", "without-drivers"): "schema does not allow",
    ("pci-slot-invalid.xml", "without-drivers"): "schema does not allow",
}


@pytest.fixture(scope="session")
def domains(testdata) -> Path:
    return testdata / "domains" / "libvirt"


def names() -> list[str]:
    """The domains of the test data; the fixture skips loudly when there are none."""
    from conftest import ROOT

    return sorted(path.name for path in (ROOT.parent / "shared/data/domains/libvirt").glob("*.xml")) or ["none"]


def canonical(element) -> str:
    """C14N, without the spaces between elements; a comment is itself."""
    if not isinstance(element.tag, str):
        return str(element)
    return etree.canonicalize(etree.tostring(element, with_tail=False).decode(), strip_text=True)


MAY_CHANGE_IN_A_DISK = {"driver", "target", "address", "alias", "boot", "wwn", "vendor", "product", "geometry"}
MAY_CHANGE_IN_A_CARD = {"model", "address", "alias", "rom", "boot"}
ADDED = (
    '<channel type="unix"><target name="org.qemu.guest_agent.0" type="virtio"></target></channel>',
    '<rng model="virtio"><backend model="random">/dev/urandom</backend></rng>',
    '<memballoon model="virtio"></memballoon>',
    '<panic model="isa"></panic>',
)


def kept(domain) -> list[str]:
    """The parts of a domain a conversion has no business with, in their order."""
    found = []
    for child in domain:
        if child.tag not in ("devices", "os"):
            found.append(canonical(child))
    found += [canonical(one) for one in domain.find("os") if one.tag != "boot"]
    for device in domain.find("devices"):
        if device.tag in ("disk", "interface"):
            changing = MAY_CHANGE_IN_A_DISK if device.tag == "disk" else MAY_CHANGE_IN_A_CARD
            if device.findtext("serial") != SCRATCH_SERIAL:
                found += [f"{device.tag} {sorted(device.items())}"]
                found += [canonical(one) for one in device if one.tag not in changing]
        elif device.tag != "controller" and canonical(device) not in ADDED:
            found.append(canonical(device))
    return found


def require_good(xml: bytes, target: Target) -> bytes:
    """Converts, and looks whether everything promised about the result holds."""
    done = convert(xml, target)
    old, new = domain_xml.parse(xml), domain_xml.parse(done.xml)
    assert domain_xml.objection(new) == ""
    again = convert(done.xml, target)
    assert (again.xml, again.changes) == (done.xml, ())
    assert kept(new) == kept(old)
    provides = target.provides or EVERYTHING
    assert first(new) == first(old)
    if not target.scratch:
        assert convert_disks.to_move(new.find("devices")) == []
    if "netkvm" in provides.devices:
        models = new.xpath("devices/interface[@type!='hostdev']/model/@type")
        assert {model for model in models if not model.startswith("virtio")} == set()
    used = set(new.xpath("devices/disk/target/@dev"))
    assert len(used) == len(new.findall("devices/disk"))
    return done.xml


def first(domain) -> str | None:
    """The source of the disk libvirt starts from."""
    ordered = domain.xpath("devices/disk[boot and (not(@device) or @device='disk' or @device='lun')]")
    if ordered:
        disk = min(ordered, key=lambda one: int(one.find("boot").get("order")))
    elif domain.xpath("os/boot[@dev='hd']"):
        disk = convert_disks._first(domain.find("devices"))
    else:
        return None
    return canonical(disk.find("source")) if disk is not None and disk.find("source") is not None else None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", names())
def test_libvirts_own_domains(domains, name, target):
    xml = (domains / name).read_bytes()
    reason = REFUSED.get((name, "any")) or REFUSED.get((name, target))
    if reason:
        with pytest.raises(InputRefused, match=reason):
            convert(xml, TARGETS[target])
    else:
        require_good(xml, TARGETS[target])


def test_the_refusals_are_few(domains):
    assert len(names()) - len({name for name, _ in REFUSED}) >= 24


# ---------------------------------------------------------------- made-up domains

LSI = ("lsilogic", "lsisas1068", "vmpvscsi", None)


def element(name, attributes=None, *inner):
    text = "".join(f" {key}='{value}'" for key, value in (attributes or {}).items() if value is not None)
    return f"<{name}{text}>{''.join(inner)}</{name}>"


@st.composite
def disks(draw):
    found, taken = [], set()
    for number in range(draw(st.integers(1, 6))):
        bus = draw(st.sampled_from(("ide", "sata", "scsi", "virtio", "usb")))
        device = draw(st.sampled_from(("disk", "disk", "disk", "cdrom", "lun") if bus == "scsi" else ("disk", "cdrom")))
        if bus in ("virtio", "usb"):
            device = "disk"
        prefix = {"ide": "hd", "virtio": "vd"}.get(bus, "sd")
        name = next(one for one in (prefix + letter for letter in "abcdefghijklmnop") if one not in taken)
        taken.add(name)
        inner = [element("source", {"dev" if device == "lun" else "file": f"/srv/{number} &amp; more.img"})]
        if draw(st.booleans()):
            cache = draw(st.sampled_from(("none", "writeback", None)))
            inner.insert(0, element("driver", {"name": "qemu", "type": "raw", "cache": cache}))
        inner.append(element("target", {"dev": name, "bus": bus}))
        inner += ["<readonly/>"] if device == "cdrom" else []
        inner += [element("serial", {}, f"serial-{number}")] if draw(st.booleans()) else []
        inner += ["<wwn>5000c50015ea71ac</wwn>"] if bus in ("ide", "scsi") and draw(st.booleans()) else []
        inner += (
            [f"<alias name='{draw(st.sampled_from(('ua-mine', 'ide0-0-0')))}{number}'/>"] if draw(st.booleans()) else []
        )
        if bus in ("ide", "sata", "scsi") and draw(st.booleans()):
            place = {"type": "drive", "controller": 0, "bus": 0, "target": 0, "unit": number}
            inner.append(element("address", place))
        found.append(element("disk", {"type": "block" if device == "lun" else "file", "device": device}, *inner))
    return found


@st.composite
def made_up(draw):
    parts = draw(disks())
    model = draw(st.sampled_from((*LSI, "virtio-scsi")))
    parts += [element("controller", {"type": "scsi", "index": 0, "model": model})] if draw(st.booleans()) else []
    parts += [element("controller", {"type": kind, "index": 0}) for kind in ("ide", "sata") if draw(st.booleans())]
    for number in range(draw(st.integers(0, 3))):
        card = draw(st.sampled_from(("rtl8139", "e1000", "e1000e", "virtio", None)))
        inner = [f"<mac address='52:54:00:00:00:0{number}'/>"]
        inner += [f"<model type='{card}'/>"] if card else []
        inner += ["<address type='pci' domain='0' bus='0' slot='3' function='0'/>"] if draw(st.booleans()) else []
        parts.append(element("interface", {"type": "user"}, *inner))
    parts += ["<graphics type='vnc' passwd='hunter22'/>"] if draw(st.booleans()) else []
    parts += ["<!-- a comment -->"] if draw(st.booleans()) else []
    parts += [f"<memballoon model='{draw(st.sampled_from(('none', 'virtio')))}'/>"] if draw(st.booleans()) else []
    order = draw(st.permutations(parts))
    space = draw(st.sampled_from(("", "\n    ")))
    boot = "".join(f"<boot dev='{one}'/>" for one in draw(st.sampled_from((("hd",), ("cdrom", "hd", "network"), ()))))
    return (
        "<domain type='kvm'><name>made-up</name><memory>65536</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type>{boot}</os>"
        f"<devices>{space}{space.join(order)}{space}</devices></domain>"
    ).encode()


@settings(max_examples=150, deadline=None)
@given(made_up(), st.sampled_from(sorted(TARGETS)))
def test_any_domain_keeps_what_need_not_change_and_converts_once(xml, target):
    require_good(xml, TARGETS[target])


@settings(max_examples=60, deadline=None)
@given(made_up(), st.sampled_from((Bus.VIRTIO, Bus.SCSI)))
def test_two_steps_lead_where_one_leads(xml, bus):
    halfway = convert(xml, Target(bus=bus, scratch="/srv/scratch.qcow2")).xml
    assert canonical(domain_xml.parse(require_good(halfway, Target(bus=bus)))).count("scratch") == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="<>/='\"!&;[]? adominDOCTYPE", max_size=200).map(str.encode))
def test_junk_is_refused_not_crashed_on(junk):
    with pytest.raises((ConfigError, InputRefused)):
        convert(junk, Target())


@settings(max_examples=100, deadline=None)
@given(made_up(), st.data())
def test_damaged_domains_convert_or_are_refused(xml, data):
    tree = domain_xml.parse(xml)
    elements = list(tree.iter("*"))
    for victim in data.draw(st.lists(st.sampled_from(elements), max_size=3)):
        damage = data.draw(st.sampled_from(("attributes", "tag", "text", "children")))
        if damage == "attributes":
            for key in list(victim.attrib):
                victim.set(key, data.draw(st.sampled_from(("", "ß", "-1", "٣", "999999999999", "ide"))))
        elif damage == "tag":
            victim.tag = data.draw(st.sampled_from(("disk", "interface", "controller", "{urn:x}y", "address")))
        elif damage == "text":
            victim.text = "ß"
        else:
            del victim[:]
    try:
        done = convert(etree.tostring(tree), Target())
    except (ConfigError, InputRefused):
        return
    if done.changes:
        assert domain_xml.objection(domain_xml.parse(done.xml)) == ""


# ---------------------------------------------------------------- one thing at a time


def domain(*devices: str, os: str = "", top: str = "", kind: str = "kvm") -> bytes:
    inner = "\n    ".join(devices)
    return (
        f"<domain type='{kind}'>\n  <name>w</name>\n  <memory>65536</memory>\n{top}  <os>\n"
        f"    <type arch='x86_64' machine='pc'>hvm</type>{os}\n  </os>\n"
        f"  <devices>\n    {inner}\n  </devices>\n</domain>\n"
    ).encode()


IDE = "<disk type='file' device='disk'><source file='/srv/a.img'/><target dev='hda' bus='ide'/></disk>"
LSI_DISK = "<disk type='file' device='disk'><source file='/b'/><target dev='sda' bus='scsi'/></disk>"
CARD = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='rtl8139'/></interface>"
FULL = (
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
    "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>",
    "<memballoon model='none'/>",
    "<panic model='hyperv'/>",
)


def changes(*devices, target=None, **more) -> tuple[str, ...]:
    return convert(domain(*devices, *FULL, **more), target or Target()).changes


def test_a_domain_on_virtio_comes_back_byte_by_byte():
    xml = domain(*FULL).replace(b"'", b'"')
    assert convert(xml, Target()).xml is xml


def test_the_text_around_a_change_stays():
    xml = domain(IDE, "<!-- mine -->", *FULL)
    expected = xml.replace(
        IDE.encode(),
        b"<disk type='file' device='disk'><driver name='qemu' cache='none' io='native' discard='unmap'/>"
        b"<source file='/srv/a.img'/><target dev='vda' bus='virtio'/></disk>",
    )
    assert convert(xml, Target()).xml == expected


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "ISO-8859-1"])
def test_declaration_and_encoding_stay(encoding):
    text = f"<?xml version='1.0' encoding='{encoding}'?>\n" + domain(IDE.replace("/a.", "/ä.")).decode()
    done = convert(text.encode(encoding), Target()).xml
    assert done.decode(encoding).startswith("<?xml version=")
    assert "/srv/ä.img" in done.decode(encoding)


def test_the_list_of_changes():
    lsi = LSI_DISK.replace("</disk>", "<wwn>5000c50015ea71ac</wwn></disk>")
    rom = CARD.replace("</interface>", "<rom file='/srv/rtl8139.rom'/></interface>")
    assert changes(IDE, lsi, rom, "<controller type='ide' index='0'/>") == (
        "disk hda: bus ide -> virtio, target vda, cache none, io native, discard unmap",
        "disk sda: bus scsi -> virtio, target vdb, cache none, io native, discard unmap, wwn dropped",
        "controller ide 0: dropped, nothing is left on it",
        "interface 52:54:00:00:00:01: model rtl8139 -> virtio, boot ROM of the old card dropped",
    )


def test_what_is_set_stays_unless_it_is_asked_for():
    mine = IDE.replace("<source", "<driver name='qemu' type='qcow2' cache='writeback' discard='ignore'/><source", 1)
    assert changes(mine) == ("disk hda: bus ide -> virtio, target vda",)
    asked = Target(tuning=Tuning("none", "native", "unmap"))
    assert changes(mine, target=asked) == (
        "disk hda: bus ide -> virtio, target vda, cache none, io native, discard unmap",
    )
    with pytest.raises(ConfigError, match="io native needs cache none"):
        changes(mine, target=Target(tuning=Tuning(io="native")))


@pytest.mark.parametrize(
    "stays",
    [
        "<disk type='file' device='cdrom'><target dev='hda' bus='ide'/><readonly/></disk>",
        "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
        "<disk type='file' device='floppy'><source file='/f'/><target dev='fda' bus='fdc'/></disk>",
        "<disk type='file' device='disk'><source file='/u'/><target dev='sda' bus='usb'/></disk>",
        "<disk type='block' device='lun'><source dev='/dev/sdx'/><target dev='sda' bus='scsi'/></disk>",
        "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='3' slot='0' function='0'/></source>"
        "</hostdev>",
        "<interface type='hostdev'><source><address type='pci' domain='0' bus='3' slot='7' function='1'/></source>"
        "<model type='rtl8139'/></interface>",
        "<interface type='user'><model type='virtio-non-transitional'/></interface>",
        "<controller type='ide' index='0'/>",
    ],
)
def test_what_stays_where_it_is(stays):
    assert changes(stays) == ()


@pytest.mark.parametrize(
    "source",
    [
        "<auth username='me'><secret type='ceph' usage='ours'/></auth>"
        "<source protocol='rbd' name='pool/image'><host name='mon' port='6789'/></source>",
        "<source protocol='nbd' name='image'><host name='example.org' port='6000'/></source>",
    ],
)
def test_a_network_disk_keeps_its_source_and_gets_no_io(source):
    disk = f"<disk type='network' device='disk'>{source}<target dev='hda' bus='ide'/></disk>"
    done = convert(domain(disk, *FULL), Target())
    assert done.changes == ("disk hda: bus ide -> virtio, target vda, cache none, discard unmap",)
    assert source in done.xml.decode()


def test_a_controller_somebody_still_uses_stays():
    cdrom = "<disk type='file' device='cdrom'><target dev='hdb' bus='ide'/><readonly/></disk>"
    assert not [one for one in changes(IDE, cdrom, "<controller type='ide' index='0'/>") if "dropped" in one]
    source = "<source><adapter name='scsi_host0'/><address bus='0' target='0' unit='0'/></source>"
    scsi = f"<hostdev mode='subsystem' type='scsi'>{source}</hostdev>"
    controller = "<controller type='scsi' index='0' model='lsilogic'/>"
    assert not [one for one in changes(LSI_DISK, scsi, controller) if "controller" in one]


def test_the_disk_windows_starts_from_stays_the_first():
    data = "<disk type='file' device='disk'><source file='/srv/d.img'/><target dev='vda' bus='virtio'/></disk>"
    done = convert(domain(IDE, data, CARD, *FULL, os="<boot dev='network'/><boot dev='hd'/>"), Target())
    tree = domain_xml.parse(done.xml)
    assert tree.findall("os/boot") == []
    assert tree.xpath("devices/*[boot]/boot/@order") == ["2", "1"]
    assert tree.find("devices/disk[boot]/source").get("file") == "/srv/a.img"


def test_virtio_scsi_gets_a_controller_and_addresses():
    lsi = LSI_DISK
    tree = domain_xml.parse(
        convert(domain(IDE, lsi, "<controller type='scsi' index='0' model='lsilogic'/>"), Target(bus=Bus.SCSI)).xml
    )
    assert tree.xpath("devices/controller/@model") == ["virtio-scsi"]
    assert tree.xpath("devices/controller/@index") == ["0"]
    assert tree.xpath("devices/disk/address/@unit") == ["0", "1"]
    assert tree.xpath("devices/disk/target/@dev") == ["sda", "sdb"]


@pytest.mark.parametrize(("bus", "left"), [(Bus.SCSI, ["virtio-scsi"]), (Bus.VIRTIO, [])])
def test_the_controller_of_the_first_step_goes_with_its_disk(bus, left):
    halfway = convert(domain(IDE, "<controller type='ide' index='0'/>"), Target(bus=Bus.SCSI, scratch="/srv/s.qcow2"))
    done = domain_xml.parse(convert(halfway.xml, Target(bus=bus)).xml)
    assert done.xpath("devices/controller/@model") == left
    assert len(done.findall("devices/controller")) == len(left)


def test_more_than_26_disks_get_two_letters():
    many = [IDE.replace("hda", f"hd{convert_disks._letters(number)}") for number in range(30)]
    assert "target vdad" in changes(*many)[29]
    assert convert_disks._letters(26 + 26 * 26) == "aaa"


def test_an_image_that_cannot_start_from_the_bus_is_refused():
    image = Provides(frozenset({Bus.IDE, Bus.SATA}), frozenset(), False)
    with pytest.raises(NoDriver, match="cannot start from virtio") as caught:
        convert(domain(IDE), Target(provides=image))
    assert "ide, sata" in caught.value.why
    assert convert(domain(IDE), Target(provides=image, scratch="/srv/s.qcow2")).changes == (
        "disk vda: an empty disk on virtio added, for Windows to meet the controller",
    )


def test_only_devices_with_a_driver_are_added():
    image = Provides(frozenset(Bus), frozenset({"vioser"}), False)
    done = convert(domain(IDE, CARD, "<vsock model='virtio'/>"), Target(provides=image))
    assert [one for one in done.changes if "added" in one] == ["agent: added"]
    assert not [one for one in done.changes if one.startswith("interface")]
    assert done.notes == (
        "the image has no driver: vsock model virtio needs viosock",
        "network cards stay as they are: the image has no netkvm",
    )


def test_nobody_looking_is_said():
    assert convert(domain(IDE), Target()).notes == (
        "no image was looked at: all drivers of virtio-win are taken to be installed (--for IMAGE looks)",
    )


@pytest.mark.parametrize(
    ("xml", "error", "why"),
    [
        (b"", ConfigError, "not well-formed"),
        (b"<domain>", ConfigError, "not well-formed"),
        (b"<!DOCTYPE domain>" + domain(IDE), ConfigError, "has a DOCTYPE"),
        (b"<!DOCTYPE d [<!ENTITY a 'a'>]><domain type='kvm'>&a;</domain>", ConfigError, "has a DOCTYPE"),
        ("<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>".encode("utf-16"), ConfigError, "has a DOCTYPE"),
        (b"<domain>&lol;</domain>", ConfigError, "not well-formed"),
        (b"<a>" * 100 + b"</a>" * 100, ConfigError, "nested too deeply"),
        (b"<domain>" + b" " * (5 << 20) + b"</domain>", ConfigError, "too large"),
        (b"<network/>", InputRefused, "no libvirt domain"),
        (domain(IDE, kind="xen"), InputRefused, "not one of QEMU"),
        (domain(IDE).replace(b"x86_64", b"aarch64"), InputRefused, "not for x86"),
        (domain(IDE).replace(b"'pc'", b"'isapc'"), InputRefused, "no PCI"),
        (domain(IDE).replace(b"hvm", b"exe"), InputRefused, "not fully virtualised"),
        (domain(IDE).replace(b"<target dev='hda' bus='ide'/>", b""), InputRefused, "no target"),
        (b"<domain type='kvm'><os><type>hvm</type></os></domain>", InputRefused, "no devices"),
        (domain(IDE, "<sausage/>"), InputRefused, "schema does not allow"),
    ],
)
def test_refused(xml, error, why):
    with pytest.raises(error, match=why):
        convert(xml, Target())


def test_messages_hold_no_secrets_names_or_paths():
    secret = "s3cr3t-value"
    disk = IDE.replace("/srv/a.img", f"/home/{secret}/a.img")
    top = f"  <metadata><m:x xmlns:m='urn:m'>{secret}</m:x></metadata>\n"
    auth = (
        f"<disk type='network' device='disk'><auth username='{secret}'><secret type='iscsi' usage='{secret}'/></auth>"
        f"<source protocol='iscsi' name='{secret}'><host name='h'/></source><target dev='sda' bus='sata'/></disk>"
    )
    graphics = f"<graphics type='vnc' passwd='{secret}'/>"
    done = convert(domain(disk, auth, graphics, CARD, top=top), Target())
    assert done.xml.decode().count(secret) == 6
    assert secret not in "".join((*done.changes, *done.notes))
    with pytest.raises(InputRefused) as caught:
        convert(domain(disk, auth, graphics, f"<sausage of='{secret}'>{secret}</sausage>", top=top), Target())
    assert secret not in str(caught.value)


def test_what_is_printed_has_no_control_characters():
    odd = IDE.replace("hda", "hd&#x9b;31m\n")
    try:
        printed = "".join(changes(odd))
    except InputRefused as error:
        printed = str(error)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", printed)
