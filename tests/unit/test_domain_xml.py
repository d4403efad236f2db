"""Reading domain XML: what is refused, what needs a driver, what is never shown."""

import pytest

from builder import domain_xml
from builder.errors import ConfigError, WinfoundryError
from builder.model import Bus, Provides
from builder.windows.drivers import DRIVERS

NOTHING = Provides(frozenset(), frozenset(), False)
EVERYTHING = Provides(frozenset(Bus), frozenset(driver.name for driver in DRIVERS), False)
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 30))

NEEDY = {
    "<disk><target dev='vda' bus='virtio'/></disk>": "disk bus virtio needs viostor",
    "<controller type='scsi' model='virtio-scsi'/>": "controller model virtio-scsi needs vioscsi",
    "<interface type='user'><model type='virtio-transitional'/></interface>": "interface model virtio needs netkvm",
    "<memballoon model='virtio-non-transitional'/>": "memballoon model virtio needs balloon",
    "<rng model='virtio'/>": "rng model virtio needs viorng",
    "<channel type='unix'><target type='virtio' name='x'/></channel>": "channel target virtio needs vioser",
    "<controller type='virtio-serial'/>": "controller type virtio-serial needs vioser",
    "<filesystem><driver type='virtiofs'/></filesystem>": "filesystem driver virtiofs needs viofs",
    "<input type='tablet' bus='virtio'/>": "input bus virtio needs vioinput",
    "<video><model type='virtio'/></video>": "video model virtio needs viogpudo",
    "<video><model type='qxl'/></video>": "video model qxl needs qxldod or qxl",
    "<vsock model='virtio'/>": "vsock model virtio needs viosock",
    "<memory model='virtio-mem'/>": "memory model virtio-mem needs viomem",
    "<panic model='isa'/>": "panic model isa needs pvpanic",
}


@pytest.mark.parametrize("device", NEEDY)
def test_what_needs_a_driver(device):
    root = domain_xml.parse(f"<domain><devices>{device}</devices></domain>".encode())
    assert domain_xml.unprovided(root, NOTHING) == (NEEDY[device],)
    assert domain_xml.unprovided(root, EVERYTHING) == ()


def test_every_rule_has_a_case():
    assert sorted(NEEDY.values()) == sorted(f"{what} needs {' or '.join(by)}" for what, _, by in domain_xml._NEEDS)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_a_doctype_is_never_parsed(encoding):
    bomb = f"<?xml version='1.0' encoding='{encoding}'?><!DOCTYPE d [<!ENTITY l0 'ha'>{LAUGHS}]><d>&l29;</d>"
    with pytest.raises(ConfigError, match="has a DOCTYPE"):
        domain_xml.parse(bomb.encode(encoding))


def test_a_doctype_in_a_comment_is_a_comment():
    assert domain_xml.parse(b"<!-- <!DOCTYPE x> --><domain/>").tag == "domain"


NO_XML = (b"", b"\0", b"<a>", b"<a/><b/>", b"\xff\xfe<a/>", b"<?xml version='1.0' encoding='no'?><a/>")


@pytest.mark.parametrize("xml", NO_XML)
def test_what_is_no_xml(xml):
    with pytest.raises(ConfigError, match="not well-formed"):
        domain_xml.parse(xml)


def test_the_schema_is_quoted_without_values():
    with pytest.raises(WinfoundryError) as caught:
        domain_xml.check("<domain type='kvm'><name>geheim</name>\n<memory unit='geheim'>x</memory></domain>")
    assert "schema does not allow" in caught.value.what
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["<sausage/>", "<vcpu>many</vcpu>"])
def test_the_element_that_does_not_fit_is_named(wrong):
    inside, beside = (wrong, "") if "sausage" in wrong else ("", wrong)
    root = domain_xml.parse(
        "<domain type='kvm'><name>w</name><memory>1</memory><os><type>hvm</type></os>\n"
        f"{beside}<devices><memballoon model='none'/>{inside}</devices></domain>".encode()
    )
    name = wrong[1:].rstrip("/>").partition(">")[0]
    assert domain_xml.objection(root) == f"line 2: the element {name} is not as it allows"


PRIVATE = b"""<domain><title>T1</title><metadata><x>T2</x></metadata>
  <os><loader>T3</loader><nvram template='T4'>T5</nvram></os>
  <devices>
    <emulator>T6</emulator>
    <disk><auth username='T7'><secret usage='T8'/></auth><source file='T9'/></disk>
    <interface><target dev='vnet0'/></interface>
    <graphics passwd='T10'/>
  </devices>
  <q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:env name='X' value='T11'/></q:commandline>
</domain>"""


def test_what_is_private():
    found = domain_xml.private(domain_xml.parse(PRIVATE)).values()
    assert sorted(found) == sorted(f"T{n}" for n in range(1, 12))


def test_messages_are_masked_longest_first():
    disks = "".join(f"<disk><source file='{path}'/></disk>" for path in ("/srv", "/srv/a"))
    root = domain_xml.parse(f"<domain><devices>{disks}</devices></domain>".encode())
    assert domain_xml.masked("no '/srv/a' in /srv", root) == "no '<hidden>' in <hidden>"
