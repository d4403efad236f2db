"""An existing domain, moved to virtio: what must change changes in place, everything else stays as it was.

    done = convert(xml, Target(bus=Bus.VIRTIO, provides=…))      done.xml, done.changes, done.notes

Moved are disks on IDE, SATA and emulated SCSI, whatever their source, and network cards of other models. CD-ROMs,
floppies, USB disks and passed-through devices stay where they are. A second conversion changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lxml import etree

from builder import convert_disks
from builder.convert_disks import Tuning, add, drop, drop_stale_place, is_system_side
from builder.domain_spec import DEVICES, has
from builder.domain_xml import Element, objection, parse, shown, unprovided
from builder.errors import InputRefused, NoDriver
from builder.model import Bus, Provides
from builder.windows.drivers import DRIVERS

EVERYTHING = Provides(frozenset(Bus), frozenset(driver.name for driver in DRIVERS), test_signing=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What the domain shall become.

    bus       where disks go: Bus.VIRTIO, or Bus.SCSI for virtio-scsi
    tuning    cache, io and discard of the moved disks
    provides  what the image can drive; None: nobody looked, all of virtio-win is assumed
    scratch   absolute path of an empty qcow2 disk: only it goes to `bus`, so that Windows sets up the driver while it
              still starts from the old one (the first step of two); "" moves the disks
    """

    bus: Bus = Bus.VIRTIO
    tuning: Tuning = field(default_factory=Tuning)
    provides: Provides | None = None
    scratch: str = ""


@dataclass(frozen=True, slots=True)
class Converted:
    """The domain, what was changed (without secrets, user names and host paths), what the user should know."""

    xml: bytes
    changes: tuple[str, ...]
    notes: tuple[str, ...]


def convert(xml: bytes, target: Target) -> Converted:
    """Raises ConfigError for what is no plain XML, NoDriver when the image cannot start from `target.bus`, InputRefused
    for a domain that cannot be moved; in each case with the reason."""
    root = parse(xml)
    _require_convertible(root)
    provides = target.provides or EVERYTHING
    changes = tuple(_changes(root, target, provides))
    _require_defined_once(root)
    if changes and (why := objection(root)):
        raise InputRefused("libvirt's schema does not allow the converted domain", why=why, fix="correct the original")
    notes = tuple(_notes(root, target))
    return Converted(_written(root, xml) if changes else xml, changes, notes)


def _changes(root: Element, target: Target, provides: Provides) -> Iterator[str]:
    """Changes the tree, and tells each change."""
    devices = root.find("devices")
    if target.scratch:
        yield from convert_disks.attach_scratch(root, target.bus, target.scratch)
    else:
        if target.bus not in provides.boot_buses and any(map(is_system_side, convert_disks.to_move(devices))):
            allowed = ", ".join(sorted(provides.boot_buses)) or "none"
            raise NoDriver(
                f"the image cannot start from {target.bus}",
                why=f"it can start from: {allowed}",
                fix="build the image with winfoundry first, or choose another bus",
            )
        yield from convert_disks.move(root, target.bus, target.tuning)
    if "netkvm" in provides.devices:
        yield from _move_cards(devices)
    yield from _add_missing(devices, provides)


_TAG = re.compile(rb"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<[^<>]*>", re.DOTALL)


def _written(root: Element, original: bytes) -> bytes:
    """The document with its declaration, encoding, quotes and last line end as they were."""
    tree = root.getroottree()
    encoding = tree.docinfo.encoding or "UTF-8"
    declared = "<?xml".encode(encoding if "16" in encoding else "ascii") in original[:12]
    text: bytes = etree.tostring(tree, encoding=encoding, xml_declaration=declared)
    if b'="' not in original:
        text = _TAG.sub(_single_quoted, text)
    return text + b"\n" if original.endswith(b"\n") and not text.endswith(b"\n") else text


def _single_quoted(tag: re.Match[bytes]) -> bytes:
    """As libvirt writes attributes."""
    return tag[0] if tag[0][1:2] == b"!" else re.sub(rb"=\"([^\"']*)\"", rb"='\1'", tag[0])


# ---------------------------------------------------------------- refusals

_TYPES = ("kvm", "qemu", "hvf")
_ARCHES = ("x86_64", "i686", None)


def _require_convertible(root: Element) -> None:
    os_type = root.find("os/type")
    rules = (
        (root.tag != "domain", "this is no libvirt domain", f"its root is {shown(etree.QName(root).localname)!r}"),
        (
            root.get("type") not in _TYPES,
            "the domain is not one of QEMU",
            f"its type is {shown(root.get('type') or '')!r}",
        ),
        (os_type is None or os_type.text != "hvm", "the domain is not fully virtualised", "its os type is not hvm"),
        (
            os_type is not None and os_type.get("arch") not in _ARCHES,
            "the domain is not for x86",
            "virtio-win's drivers and these rules are",
        ),
        (
            os_type is not None and (os_type.get("machine") or "").startswith(("isapc", "microvm")),
            "the machine has no PCI",
            "virtio devices for Windows are PCI devices",
        ),
        (root.find("devices") is None, "the domain has no devices", ""),
        (
            root.find("os/boot") is not None and root.find("devices/*/boot") is not None,
            "the domain orders its boot devices twice",
            "libvirt refuses <os><boot> together with <boot order> of a device",
        ),
        (
            any(disk.find("mirror") is not None for disk in root.iterfind("devices/disk")),
            "a disk has a running block job",
            "its <mirror> belongs to a running domain; use `virsh dumpxml --inactive` when the job is over",
        ),
        (
            any(disk.find("target") is None for disk in root.iterfind("devices/disk")),
            "a disk has no target",
            "libvirt asks for <target dev=…>",
        ),
    )
    for wrong, what, why in rules:
        if wrong:
            raise InputRefused(what, why=why)


def _require_defined_once(root: Element) -> None:
    names = [target.get("dev") for target in root.iterfind("devices/disk/target")]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputRefused("two disks have the same target", why=f"{shown(twice[0])} is there twice")


def _notes(root: Element, target: Target) -> Iterator[str]:
    if target.provides is None:
        yield "no image was looked at: all drivers of virtio-win are taken to be installed (--for IMAGE looks)"
    else:
        yield from (f"the image has no driver: {what}" for what in unprovided(root, target.provides))
        if "netkvm" not in target.provides.devices:
            yield "network cards stay as they are: the image has no netkvm"
    if root.xpath("*[namespace-uri()='http://libvirt.org/schemas/domain/qemu/1.0']"):
        yield "arguments for QEMU itself are carried over unread"


# ---------------------------------------------------------------- network cards


def _move_cards(devices: Element) -> Iterator[str]:
    for number, card in enumerate(devices.findall("interface"), 1):
        model = card.find("model")
        was = "" if model is None else model.get("type") or ""
        if card.get("type") == "hostdev" or was.startswith("virtio"):
            continue
        if model is None:
            model = etree.Element("model")
            add(card, model)
        model.set("type", "virtio")
        mac = card.find("mac")
        name = shown(mac.get("address")) if mac is not None else str(number)
        dropped = [*drop_stale_place(card), *_drop_rom(card)]
        yield ", ".join((f"interface {name}: model {shown(was) or 'default'} -> virtio", *dropped))


def _drop_rom(card: Element) -> Iterator[str]:
    for rom in card.findall("rom"):
        if rom.get("file"):
            drop(rom)
            yield "boot ROM of the old card dropped"


# ---------------------------------------------------------------- devices that were missing

_MISSING = {
    "agent": (
        "channel[target/@name='org.qemu.guest_agent.0']",
        '<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>',
    ),
    "rng": ("rng", '<rng model="virtio"><backend model="random">/dev/urandom</backend></rng>'),
    "balloon": ("memballoon", '<memballoon model="virtio"/>'),
    "panic": ("panic", '<panic model="isa"/>'),
}


def _add_missing(devices: Element, provides: Provides) -> Iterator[str]:
    for device in DEVICES:
        if device.name in _MISSING and has(device, provides, {}):
            path, xml = _MISSING[device.name]
            if not devices.xpath(path):
                add(devices, etree.fromstring(xml))
                yield f"{device.name}: added"
