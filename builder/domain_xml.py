"""Domain XML as a tree: read without DTDs, checked by libvirt's schema and by the drivers an image has, masked."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from lxml import etree

from builder.errors import ConfigError, EnvironmentUnable, WinfoundryError
from builder.model import Bus, Provides

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
_MOST_BYTES = 4 << 20  # libvirt's own limit for a document
_DEEPEST = 64

Element = Any
"""lxml's, whose stubs do not know that XPath finds elements here."""


def parse(xml: bytes) -> Element:
    """The root element of a document without a DOCTYPE. Raises ConfigError; entities are never looked at."""
    if len(xml) > _MOST_BYTES:
        raise ConfigError("the domain XML is too large", why=f"{len(xml)} bytes; libvirt reads {_MOST_BYTES}")
    _look(xml)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(xml, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ConfigError("the domain is not well-formed XML", why=str(error)) from None


def _look(xml: bytes) -> None:
    """A first reading that stops at a DOCTYPE before it is parsed, in whatever encoding it is written."""
    reader, depth = expat.ParserCreate(), 0

    def doctype(*_: Any) -> None:
        raise ConfigError("the domain XML has a DOCTYPE", why="no libvirt domain needs one", fix="remove it")

    def deeper(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ConfigError("the domain XML is nested too deeply", why=f"more than {_DEEPEST} elements")

    def shallower(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    reader.StartDoctypeDeclHandler, reader.StartElementHandler, reader.EndElementHandler = doctype, deeper, shallower
    try:
        reader.Parse(xml, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ConfigError("the domain is not well-formed XML", why=str(error)) from None


def check(xml: str | bytes) -> None:
    """Nothing when libvirt's schema allows the XML; WinfoundryError names the line it does not, and no value of it.

    Raises EnvironmentUnable without the schema, ConfigError for XML that is not well-formed or has a DOCTYPE.
    """
    root = parse(xml.encode(errors="surrogatepass") if isinstance(xml, str) else xml)
    if why := objection(root):
        raise WinfoundryError("libvirt's schema does not allow the domain XML", why=why)


def objection(root: Element) -> str:
    """What libvirt's schema has against the domain, "" when nothing."""
    schema = _schema()
    copy = etree.fromstring(etree.tostring(root))
    if schema.validate(copy):
        return ""
    last = schema.error_log[-1]
    what = last.type_name.removeprefix("RELAXNG_ERR_").lower()
    return _culprit(copy, schema) or f"line {last.line}: {what} at {last.path or '/domain'}"


@cache
def _schema() -> Element:
    if not SCHEMA.is_file():
        raise EnvironmentUnable(f"{SCHEMA} is missing", fix="install libvirt's schemas: apt-get install libvirt0")
    return etree.RelaxNG(etree.parse(str(SCHEMA)))


_MOST_TRIES = 100


def _culprit(root: Element, schema: Element) -> str:
    """The one element without which the domain would be valid, "" when there is none; libxml2 only says where about."""
    for suspect in root.xpath("devices/* | *[not(self::devices)]")[:_MOST_TRIES]:
        parent = suspect.getparent()
        place = parent.index(suspect)
        parent.remove(suspect)
        innocent = not schema.validate(root)
        parent.insert(place, suspect)
        if not innocent:
            return f"line {suspect.sourceline}: the element {shown(etree.QName(suspect).localname)} is not as it allows"
    return ""


# ---------------------------------------------------------------- what needs a driver

_NEEDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("disk bus virtio", "disk[target/@bus='virtio']", ("viostor",)),
    ("controller model virtio-scsi", "controller[@type='scsi'][starts-with(@model,'virtio-')]", ("vioscsi",)),
    ("interface model virtio", "interface[starts-with(model/@type,'virtio')]", ("netkvm",)),
    ("memballoon model virtio", "memballoon[starts-with(@model,'virtio')]", ("balloon",)),
    ("rng model virtio", "rng[starts-with(@model,'virtio')]", ("viorng",)),
    ("channel target virtio", "channel[target/@type='virtio']", ("vioser",)),
    ("controller type virtio-serial", "controller[@type='virtio-serial']", ("vioser",)),
    ("filesystem driver virtiofs", "filesystem[driver/@type='virtiofs']", ("viofs",)),
    ("input bus virtio", "input[@bus='virtio']", ("vioinput",)),
    ("video model virtio", "video[model/@type='virtio']", ("viogpudo",)),
    ("video model qxl", "video[model/@type='qxl']", ("qxldod", "qxl")),
    ("vsock model virtio", "vsock[starts-with(@model,'virtio')]", ("viosock",)),
    ("memory model virtio-mem", "memory[@model='virtio-mem']", ("viomem",)),
    ("panic model isa", "panic[@model='isa']", ("pvpanic",)),
)
_BOOT_DRIVERS = {"viostor": Bus.VIRTIO, "vioscsi": Bus.SCSI}


def unprovided(root: Element, provides: Provides) -> tuple[str, ...]:
    """The devices the image has no driver for, each with the driver it lacks: "vsock model virtio needs viosock"."""
    there = provides.devices | {name for name, bus in _BOOT_DRIVERS.items() if bus in provides.boot_buses}
    return tuple(
        f"{what} needs {' or '.join(drivers)}"
        for what, path, drivers in _NEEDS
        if root.find("devices") is not None and root.xpath(f"devices/{path}") and not there & set(drivers)
    )


# ---------------------------------------------------------------- what is shown, and what is not


def shown(name: str | None) -> str:
    """A name out of foreign XML as it can be printed: no spaces, no control characters, not long."""
    return re.sub(r"[^\w:.-]", "?", name or "", flags=re.ASCII)[:40]


_PRIVATE = (
    "//@passwd | //@username | //@password | //@file | //@dir | //@path | //@dev[starts-with(., '/')] | //@logFile"
    " | //secret/@usage | //secret/@uuid | //@passwdValidTo | //source/@name | //source/@volume | //source/@pool"
    " | //@keyfile | //@socket | //@fd | //loader/text() | //nvram/text() | //@template | //kernel/text()"
    " | //initrd/text() | //cmdline/text() | //dtb/text() | //emulator/text() | //label/text() | //baselabel/text()"
    " | //imagelabel/text() | //cookie/text() | //config/text() | //title/text() | //description/text()"
    " | //metadata//text()[normalize-space()] | //metadata//@* | //rng/backend/text()"
    " | //*[namespace-uri()='http://libvirt.org/schemas/domain/qemu/1.0']/@value"
)


def private(root: Element) -> dict[tuple[Element, str | None], str]:
    """The secrets, user names and host paths in a domain, each with its element and attribute (None for its text)."""
    found = root.xpath(_PRIVATE)
    return {(one.getparent(), one.attrname): str(one).strip() for one in found if one.is_attribute or one.is_text}


def masked(text: str, root: Element) -> str:
    """A message about the domain without what is private in it, so that it can be shown."""
    for secret in sorted(set(private(root).values()), key=len, reverse=True):
        if len(secret) > 3:  # a shorter one would take the message to pieces
            text = text.replace(secret, "<hidden>")
    return text
