"""The disks of a foreign domain: which of them move, what they are called then, what becomes stale with the old bus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from lxml import etree

from builder.domain_spec import Cache, Discard, Io
from builder.domain_xml import Element, shown
from builder.errors import ConfigError
from builder.model import Bus

SCRATCH_SERIAL = "winfoundry-scratch"
"""By this serial number the disk of the first step is found in the second."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What is demanded of the moved disks; None keeps what is there, or takes cache none, io native, discard unmap."""

    cache: Cache | None = None
    io: Io | None = None
    discard: Discard | None = None


# ---------------------------------------------------------------- tables

_PREFIX = {Bus.VIRTIO: "vd", Bus.SCSI: "sd"}
_BUS_OF_PREFIX = {"fd": "fdc", "hd": "ide", "sd": "scsi", "vd": "virtio"}  # libvirt's, for targets without a bus
_PER_CONTROLLER = {"ide": 4, "sata": 6, "scsi": 7}  # disks libvirt puts on a controller when no address is given
_DIRECT = ("none", "directsync")
_LOCAL = ("file", "block")  # where QEMU knows io=native

_FOREIGN_TO = {
    Bus.VIRTIO: ("vendor", "product", "wwn"),
    Bus.SCSI: (),
}
"""Children only other buses have (libvirt: "Only ide and scsi disk support wwn", "Only scsi disk supports vendor")."""

_TARGET_OF_OLD = {Bus.VIRTIO: ("tray", "removable", "rotation_rate"), Bus.SCSI: ("tray", "removable")}


# ---------------------------------------------------------------- looking


def bus(disk: Element) -> str:
    """The bus of a disk, as libvirt takes it when none is named."""
    target = disk.find("target")
    return target.get("bus") or _BUS_OF_PREFIX.get((target.get("dev") or "")[:2], "ide")


def to_move(devices: Element) -> list[Element]:
    """The disks that shall leave their bus, in the order libvirt gives them."""
    return [disk for disk in _in_order(devices) if _moves(disk, devices)]


def is_system_side(disk: Element) -> bool:
    """Whether Windows may start from the disk: all but our scratch disk."""
    return bool(disk.findtext("serial") != SCRATCH_SERIAL)


def _moves(disk: Element, devices: Element) -> bool:
    if disk.get("device", "disk") != "disk" or disk.get("type") == "vhostuser":
        return False
    return bus(disk) in ("ide", "sata") or (bus(disk) == "scsi" and not _on_virtio_scsi(disk, devices))


def _on_virtio_scsi(disk: Element, devices: Element) -> bool:
    found = {_index(one): one.get("model") or "" for one in _controllers(devices, "scsi")}
    return found.get(_controller_of(disk), "").startswith("virtio-")


def _controllers(devices: Element, kind: str) -> list[Element]:
    return [one for one in devices.findall("controller") if one.get("type") == kind]


def _index(controller: Element) -> int:
    """The number of a controller: its own, or libvirt's next."""
    given = controller.get("index")
    if given and given.isdecimal():
        return int(given)
    earlier = controller.itersiblings("controller", preceding=True)
    return sum(1 for one in earlier if one.get("type") == controller.get("type"))


def _controller_of(device: Element) -> int:
    address = device.find("address")
    if address is not None and (address.get("controller") or "").isdecimal():
        return int(address.get("controller"))
    return _number(device) // _PER_CONTROLLER.get(bus(device), 1) if device.tag == "disk" else 0


def _number(disk: Element) -> int:
    """hda is 0, hdz 25, hdaa 26."""
    number = 0
    for letter in re.sub("[^a-z]", "", (disk.find("target").get("dev") or "")[2:8].lower()):
        number = number * 26 + ord(letter) - ord("a") + 1
    return max(number - 1, 0)


def _letters(number: int) -> str:
    text = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("a") + letter) + text
    return text


def _in_order(devices: Element) -> list[Element]:
    """As libvirt orders them: buses as they come, the disks of a bus by name; `<boot dev='hd'/>` means the first."""
    disks = devices.findall("disk")
    buses = list(dict.fromkeys(map(bus, disks)))
    return sorted(disks, key=lambda disk: (buses.index(bus(disk)), _number(disk)))


# ---------------------------------------------------------------- moving


def move(root: Element, to: Bus, tuning: Tuning) -> Iterator[str]:
    """Moves the disks to `to`, drops what is stale then and our scratch disk; tells each change."""
    devices = root.find("devices")
    scratch = [disk for disk in devices.findall("disk") if not is_system_side(disk)]
    left = {(bus(disk), _controller_of(disk)) for disk in (*to_move(devices), *scratch)}
    for disk in scratch:
        drop(disk)
        yield f"disk {shown(disk.find('target').get('dev'))}: the empty disk of the first step dropped"
    moving, first = to_move(devices), _first(devices)
    names = _fresh(devices, to, moving)
    for disk in moving:
        yield _moved(disk, to, next(names), tuning)
    yield from _drop_controllers(devices, left, moving)
    if moving and to is Bus.SCSI:
        yield from _seat(devices, moving)
    yield from _keep_first(root, first)


def _fresh(devices: Element, to: Bus, moving: list[Element]) -> Iterator[str]:
    taken = {disk.find("target").get("dev") for disk in devices.findall("disk") if disk not in moving}
    return (name for number in count() if (name := _PREFIX[to] + _letters(number)) not in taken)


def _moved(disk: Element, to: Bus, name: str, tuning: Tuning) -> str:
    target = disk.find("target")
    old = f"disk {shown(target.get('dev'))}: bus {shown(bus(disk))} -> {to}, target {name}"
    for attribute in _TARGET_OF_OLD[to]:
        target.attrib.pop(attribute, None)
    target.set("dev", name)
    target.set("bus", to.value)
    return ", ".join((old, *_tune(disk, tuning), *drop_stale_place(disk), *_drop_foreign(disk, to)))


def _tune(disk: Element, tuning: Tuning) -> Iterator[str]:
    driver = disk.find("driver")
    if driver is None:
        driver = etree.Element("driver", name="qemu")
        add(disk, driver, first=True)
    cache = tuning.cache or driver.get("cache", "none")
    threads = "native" if cache in _DIRECT and disk.get("type") in _LOCAL else None
    io = None if tuning.io == "auto" else tuning.io
    wanted = {
        "cache": cache,
        "io": io or driver.get("io") or threads,
        "discard": tuning.discard or driver.get("discard", "unmap"),
    }
    if wanted["io"] == "native" and cache not in _DIRECT:
        raise ConfigError(
            f"disk {shown(disk.find('target').get('dev'))}: io native needs cache none", why=f"cache is {cache}"
        )
    for option, value in wanted.items():
        if value and driver.get(option) != value:
            driver.set(option, value)
            yield f"{option} {value}"


def drop_stale_place(device: Element) -> Iterator[str]:
    """Removes the address on the old bus, and an alias libvirt made from it; the user's own aliases stay."""
    for address in device.findall("address"):
        drop(address)
        yield "address dropped"
    for alias in device.findall("alias"):
        if not (alias.get("name") or "").startswith("ua-"):
            drop(alias)
            yield "alias dropped"


def _drop_foreign(disk: Element, to: Bus) -> Iterator[str]:
    for name in _FOREIGN_TO[to]:
        for one in disk.findall(name):
            drop(one)
            yield f"{name} dropped"
    geometry = disk.find("geometry")
    if geometry is not None and geometry.attrib.pop("trans", None):
        yield "CHS translation dropped"


def _drop_controllers(devices: Element, left: set[tuple[str, int]], moved: list[Element]) -> Iterator[str]:
    used = {(bus(disk), _controller_of(disk)) for disk in devices.findall("disk") if disk not in moved}
    used |= {("scsi", _controller_of(one)) for one in devices.findall("hostdev") if one.get("type") == "scsi"}
    for controller in devices.findall("controller"):
        place = (controller.get("type") or "", _index(controller))
        if place in left - used:
            drop(controller)
            yield f"controller {place[0]} {place[1]}: dropped, nothing is left on it"


def _seat(devices: Element, moved: list[Element]) -> Iterator[str]:
    """A virtio-scsi controller of their own for the moved disks, each with its address on it."""
    others = [disk for disk in devices.findall("disk") if disk not in moved and bus(disk) == "scsi"]
    taken = {_index(one) for one in _controllers(devices, "scsi")} | {_controller_of(one) for one in others}
    index = next(number for number in count() if number not in taken)
    add(devices, etree.Element("controller", type="scsi", index=str(index), model="virtio-scsi"))
    yield f"controller scsi {index}: added, model virtio-scsi"
    for unit, disk in enumerate(moved):
        place = {"type": "drive", "controller": str(index), "bus": "0", "target": "0", "unit": str(unit)}
        add(disk, etree.Element("address", place))


# ---------------------------------------------------------------- the disk Windows starts from


def _first(devices: Element, device: str = "disk") -> Element | None:
    kinds = ("disk", "lun") if device == "disk" else (device,)
    return next((disk for disk in _in_order(devices) if disk.get("device", "disk") in kinds), None)


def _keep_first(root: Element, first: Element | None) -> Iterator[str]:
    """`<boot dev='hd'/>` means libvirt's first disk; when that is another one now, the devices get the order."""
    devices, listed = root.find("devices"), root.findall("os/boot")
    if first is None or _first(devices) is first or not any(one.get("dev") == "hd" for one in listed):
        return
    meant = {
        "hd": first,
        "cdrom": _first(devices, "cdrom"),
        "fd": _first(devices, "floppy"),
        "network": devices.find("interface"),
    }
    chosen = [meant.get(one.get("dev")) for one in listed]
    for order, device in enumerate((one for one in chosen if one is not None), 1):
        add(device, etree.Element("boot", order=str(order)))
    for one in listed:
        drop(one)
    yield f"boot order: written at the devices, {first.find('target').get('dev')} stays the first disk"


# ---------------------------------------------------------------- the first step of two


def attach_scratch(root: Element, to: Bus, path: str) -> Iterator[str]:
    """Adds an empty disk on `to`, once, so that Windows meets the controller while it still starts from the old one.

    Nothing is added when no disk has to move.
    """
    devices = root.find("devices")
    if not to_move(devices) or any(not is_system_side(disk) for disk in devices.findall("disk")):
        return
    first = _first(devices)
    name = next(_fresh(devices, to, []))
    disk = etree.Element("disk", type="file", device="disk")
    etree.SubElement(disk, "driver", name="qemu", type="qcow2")
    etree.SubElement(disk, "source", file=path)
    etree.SubElement(disk, "target", dev=name, bus=to.value)
    etree.SubElement(disk, "serial").text = SCRATCH_SERIAL
    add(devices, disk)
    yield f"disk {name}: an empty disk on {to} added, for Windows to meet the controller"
    if to is Bus.SCSI:
        yield from _seat(devices, [disk])
    yield from _keep_first(root, first)


# ---------------------------------------------------------------- the tree, and how it looks


def add(parent: Element, new: Element, *, first: bool = False) -> None:
    """Puts `new` behind the last of its kind (or at the end, or at the beginning), indented as its neighbours are."""
    inner = (parent.text or "") if len(parent) else "\n"
    etree.indent(new, level=len(inner.split("\n")[-1]) // 2)
    same = parent.findall(new.tag)
    place = 0 if first or not len(parent) else parent.index(same[-1] if same else parent[-1]) + 1
    new.tail = inner
    if place == len(parent):
        new.tail = parent[-1].tail if len(parent) else inner[:-2]
        if len(parent):
            parent[-1].tail = inner
    parent.text = inner
    parent.insert(place, new)


def drop(element: Element) -> None:
    """Takes the element out, and leaves its neighbours indented as they were."""
    parent, before = element.getparent(), element.getprevious()
    if element.getnext() is None and before is not None:
        before.tail = element.tail
    parent.remove(element)
