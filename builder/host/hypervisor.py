"""One transient domain under libvirt: started, watched, and gone when we are, however we go.

libvirt destroys the domain when our connection ends (START_AUTODESTROY), so `kill -9` leaves nothing running.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

import libvirt
import libvirt_qemu

from builder.errors import EnvironmentUnable, WinfoundryError
from builder.host.agent import Agent, AgentError


class HypervisorFailed(WinfoundryError):
    """libvirt or QEMU failed, not the guest."""


class Sign(StrEnum):
    """What libvirt tells about a domain, in the words we use for it."""

    REBOOTED = "rebooted"
    PANICKED = "panicked"
    STOPPED = "stopped"
    QEMU_FAILED = "QEMU ended by itself"
    DISK_ERROR = "paused: the host could not read or write the disk"
    AGENT_CONNECTED = "agent connected"
    AGENT_GONE = "agent disconnected"


@dataclass(frozen=True, slots=True)
class Seen:
    """A sign, when it came (time.monotonic), and for a Windows panic under KVM the STOP code it reported."""

    sign: Sign
    at: float
    stop_code: int | None = None


_LIFECYCLE = {
    (libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED): Sign.PANICKED,
    (libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED): Sign.PANICKED,
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN): Sign.STOPPED,
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED): Sign.STOPPED,
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED): Sign.PANICKED,
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED): Sign.QEMU_FAILED,
    (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR): Sign.DISK_ERROR,
}

_AGENT = {
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED: Sign.AGENT_CONNECTED,
    libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED: Sign.AGENT_GONE,
}


def default_uri() -> str:
    """libvirt's system instance for root, the user's own session for everybody else."""
    return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"


def running(uri: str) -> bool:
    """Whether a libvirt answers there."""
    try:
        connect(uri).close()
    except EnvironmentUnable:
        return False
    return True


def connect(uri: str) -> Any:
    """A libvirt connection whose events arrive. Raises EnvironmentUnable that says how to start libvirt."""
    _event_loop()
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise EnvironmentUnable(
            f"no libvirt answers at {uri}",
            why=str(error),
            fix="start it: `systemctl start libvirtd`, or as root without an init system `virtlogd -d; libvirtd -d`; "
            "users other than root need the group libvirt",
        ) from None


@contextmanager
def started(xml: str, *, uri: str) -> Iterator[Machine]:
    """The domain of this XML, running; destroyed at the end. Raises EnvironmentUnable, HypervisorFailed."""
    connection = connect(uri)
    machine = None
    try:
        with _translated("libvirt did not start the domain"):
            domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)
        machine = Machine(connection, domain, uri)
        with _translated("libvirt did not start the domain's processors"):
            machine.listen()
            domain.resume()
        yield machine
    finally:
        if machine is not None:
            machine.end()
        with suppress(libvirt.libvirtError):
            connection.close()


class Machine:
    """A running domain. Every method raises HypervisorFailed when libvirt fails, `agent` its own AgentError."""

    def __init__(self, connection: Any, domain: Any, uri: str) -> None:
        self._connection, self._domain, self._uri = connection, domain, uri
        self._seen: SimpleQueue[Seen] = SimpleQueue()
        self._listening: list[int] = []
        self._monitor: int | None = None
        self.agent = Agent(self._ask)

    def listen(self) -> None:
        """Collect signs from now on."""
        register = self._connection.domainEventRegisterAny
        self._listening = [
            register(self._domain, event, callback, None)
            for event, callback in (
                (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
                (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, lambda *_: self._put(Sign.REBOOTED)),
                (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._agent),
            )
        ]
        self._monitor = libvirt_qemu.qemuMonitorEventRegister(
            self._connection, self._domain, "GUEST_PANICKED", self._panicked, None
        )

    def signs(self) -> tuple[Seen, ...]:
        """What came since the last call, in order."""
        found = []
        with suppress(Empty):
            while True:
                found.append(self._seen.get_nowait())
        return tuple(found)

    def screenshot(self) -> bytes:
        """The screen as PNG; b"" while there is none, or from a libvirt that only makes other formats."""
        stream, picture = self._connection.newStream(), bytearray()
        try:
            kind = self._domain.screenshot(stream, 0)
            stream.recvAll(lambda _stream, data, _: picture.extend(data), None)
            stream.finish()
        except libvirt.libvirtError as error:
            self._check_connection(error)
            return b""
        return bytes(picture) if kind == "image/png" else b""

    def end(self) -> None:
        """The domain is gone, or libvirt is; never raises. A libvirt that died and came back still knows the domain."""
        for callback in self._listening:
            with suppress(libvirt.libvirtError):
                self._connection.domainEventDeregisterAny(callback)
        if self._monitor is not None:
            with suppress(libvirt.libvirtError):
                libvirt_qemu.qemuMonitorEventDeregister(self._connection, self._monitor)
        with suppress(libvirt.libvirtError):
            if not self._connection.isAlive():
                self._connection = libvirt.open(self._uri)
                self._domain = self._connection.lookupByUUID(self._domain.UUID())
            self._domain.destroy()

    def _ask(self, command: str, timeout: int) -> str:
        try:
            return str(libvirt_qemu.qemuAgentCommand(self._domain, command, timeout, 0))
        except libvirt.libvirtError as error:
            self._check_connection(error)
            raise AgentError("the guest agent did not answer, or refused", why=str(error)) from None

    def _check_connection(self, error: Exception) -> None:
        if not self._connection.isAlive():
            raise HypervisorFailed("the connection to libvirt broke", why=str(error)) from None

    def _put(self, sign: Sign, stop_code: int | None = None) -> None:
        self._seen.put(Seen(sign, time.monotonic(), stop_code))

    def _lifecycle(self, _connection: Any, _domain: Any, event: int, detail: int, _: Any) -> None:
        if sign := _LIFECYCLE.get((event, detail)):
            self._put(sign)

    def _agent(self, _connection: Any, _domain: Any, state: int, _reason: int, _: Any) -> None:
        if sign := _AGENT.get(state):
            self._put(sign)

    def _panicked(self, *news: Any) -> None:
        if code := stop_code(news[5]):  # without one, the lifecycle event says all there is
            self._put(Sign.PANICKED, code)


def stop_code(panic: str) -> int | None:
    """The STOP code in the details of QEMU's GUEST_PANICKED event: with `<panic model='hyperv'>` Windows 8 and later
    give it as the first of five arguments (QMP reference, GuestPanicInformationHyperV). None when there is none."""
    try:
        code = json.loads(panic)["info"]["arg1"]
    except (ValueError, KeyError, TypeError):
        return None
    return code if isinstance(code, int) and code > 0 else None


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except libvirt.libvirtError as error:
        raise HypervisorFailed(what, why=str(error)) from None


@cache
def _event_loop() -> threading.Thread:
    """libvirt delivers events through one loop per process, which must exist before the first connection."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # else every error is printed to stderr as well
    libvirt.virEventRegisterDefaultImpl()
    thread = threading.Thread(target=_run_events, name="libvirt events", daemon=True)
    thread.start()
    return thread


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
