"""Persistent domains of a libvirt: read whole, defined anew, with a copy of what was there before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import libvirt

from builder import domain_xml
from builder.errors import EnvironmentUnable, InputRefused
from builder.host import files, hypervisor


@dataclass(frozen=True, slots=True)
class Defined:
    """A domain libvirt knows now; `backup` has what it knew before, None when the domain is new."""

    name: str
    backup: Path | None
    running: bool


def current(name: str, uri: str) -> bytes:
    """The persistent definition of a domain, its secrets included. Raises InputRefused for one we cannot replace."""
    with _connected(uri) as connection, _translated(f"libvirt does not tell about the domain {name!r}"):
        domain = connection.lookupByName(name)
        _require_replaceable(domain)
        return _definition(domain)


def define(xml: bytes, uri: str, *, backups: Path) -> Defined:
    """libvirt knows the domain afterwards; one of the same UUID is saved in the folder `backups` first (mode 0600).

    Raises ConfigError for what is no plain XML, InputRefused for a domain we cannot replace or libvirt does not take,
    EnvironmentUnable when there can be no backup; then the old definition still stands, and there is no new backup.
    """
    root = domain_xml.parse(xml)
    with _connected(uri) as connection:
        old = _known(connection, root.findtext("uuid") or "")
        if old is not None:
            _require_replaceable(old)
        backup = _backup(old, backups) if old is not None else None
        try:
            with _translated("libvirt does not take the domain", root):
                new = connection.defineXMLFlags(xml.decode(), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
                return Defined(new.name(), backup, bool(new.isActive()))
        except BaseException:
            if backup:
                backup.unlink()
            raise


def _known(connection: Any, uuid: str) -> Any | None:
    with suppress(libvirt.libvirtError):
        return connection.lookupByUUIDString(uuid.strip())
    return None


def _definition(domain: Any) -> bytes:
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    return str(domain.XMLDesc(flags)).encode()


def _require_replaceable(domain: Any) -> None:
    rules = (
        (not domain.isPersistent(), "is transient", "it exists only while it runs, so there is nothing to define"),
        (
            domain.hasManagedSaveImage(),
            "is saved to disk",
            "it would go on with its old devices; start it and shut it down, or `virsh managedsave-remove` it",
        ),
    )
    for wrong, what, why in rules:
        if wrong:
            raise InputRefused(f"the domain {domain.name()} {what}", why=why)


def _backup(domain: Any, folder: Path) -> Path:
    """A new file each time: the first one is the original, whatever happens later."""
    names = (f"{domain.name().replace('/', '-')}.before-winfoundry.{number}.xml" for number in count(1))
    try:
        path = next(folder / name for name in names if _claimed(folder / name))
        files.write_atomic(path, _definition(domain), mode=0o600)
    except OSError as error:
        raise EnvironmentUnable(f"cannot save the domain {domain.name()} in {folder}", why=str(error)) from None
    return path


def _claimed(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


@contextmanager
def _connected(uri: str) -> Iterator[Any]:
    connection = hypervisor.connect(uri)
    try:
        yield connection
    finally:
        with suppress(libvirt.libvirtError):
            connection.close()


@contextmanager
def _translated(what: str, about: Any = None) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise InputRefused(what, why=str(error) if about is None else domain_xml.masked(str(error), about)) from None
