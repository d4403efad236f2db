"""The QEMU guest agent, spoken to through anything that passes a JSON command on: libvirt, or a test.

Commands and replies: QEMU Guest Agent Protocol Reference. A reply is the guest's word: its shape is checked, names in
it are cut and free of control characters.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.errors import WinfoundryError
from builder.host.evidence import readable

Ask = Callable[[str, int], str]
"""A command as JSON text and a timeout in seconds in, the reply as JSON text out; raises AgentError."""

_ANSWER = 10  # seconds an agent that is there may take
_POLL = 0.5
_LONGEST = 200  # characters of a name the guest gives itself


class AgentError(WinfoundryError):
    """The agent is not there, refused the command, or said something that is no answer to it."""


@dataclass(frozen=True, slots=True)
class OsInfo:
    """What the guest calls itself. `id` is "mswindows" for Windows."""

    id: str
    name: str
    version: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Device:
    """A PCI device Windows has a driver for (guest-get-devices; Windows only)."""

    driver: str
    version: str
    vendor: int
    device: int


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface: its name, MAC address ("" for none) and IP addresses."""

    name: str
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """A program run in the guest: exit code and output. The agent cuts output at 16 MiB; `truncated` says so."""

    code: int
    stdout: bytes
    stderr: bytes
    truncated: bool


class Agent:
    """Every method raises AgentError."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def ping(self) -> None:
        """Returns when the agent answers."""
        self.call("guest-ping", timeout=5)

    def osinfo(self) -> OsInfo:
        """What the guest calls itself; the texts are bounded and free of control characters."""
        said = _dict(self.call("guest-get-osinfo"))
        name = _text(said, "pretty-name") or _text(said, "name")
        return OsInfo(_text(said, "id"), name, _text(said, "version"), _text(said, "kernel-version"))

    def devices(self) -> tuple[Device, ...]:
        return tuple(map(_device, _list(self.call("guest-get-devices"))))

    def interfaces(self) -> tuple[Interface, ...]:
        return tuple(map(_interface, _list(self.call("guest-network-get-interfaces"))))

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout: float = 60) -> Ran:
        """Runs a program in the guest without a shell, for at most `timeout` seconds (it goes on after that).

        Over about 7 MB of output libvirt drops the reply and with it the agent: write that much to a file instead.
        """
        arguments = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
        data = {"input-data": base64.b64encode(stdin).decode()} if stdin else {}
        started = _dict(self.call("guest-exec", arguments | data))
        deadline = time.monotonic() + timeout
        while True:
            status = _dict(self.call("guest-exec-status", {"pid": started.get("pid")}))
            if status.get("exited") is True:
                return _ran(status)
            if time.monotonic() > deadline:
                raise AgentError(f"{argv[0]} did not end within {timeout:.0f} seconds in the guest")
            time.sleep(_POLL)

    def call(self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: int = _ANSWER) -> Any:
        """What the agent returns for one command, as JSON has it."""
        request = {"execute": command} | ({"arguments": dict(arguments)} if arguments else {})
        try:
            reply = json.loads(self._ask(json.dumps(request), timeout))
        except (ValueError, RecursionError) as error:
            raise AgentError(f"the guest agent's reply to {command} is not JSON", why=str(error)[:_LONGEST]) from None
        if not isinstance(reply, dict) or "return" not in reply:
            raise AgentError(f"the guest agent refused {command}", why=readable(repr(reply).encode())[:_LONGEST])
        return reply["return"]


def _ran(status: dict[str, Any]) -> Ran:
    code = status.get("exitcode", status.get("signal", 0))
    if not isinstance(code, int):
        raise AgentError("the guest agent gave no exit code")
    code = code if "exitcode" in status else -code
    truncated = any(status.get(flag) is True for flag in ("out-truncated", "err-truncated"))
    return Ran(code, _data(status, "out-data"), _data(status, "err-data"), truncated)


def _device(said: Any) -> Device:
    where = _dict(said).get("id")
    where = where if isinstance(where, dict) else {}
    vendor, device = (where.get(key, 0) for key in ("vendor-id", "device-id"))
    if not isinstance(vendor, int) or not isinstance(device, int):
        raise AgentError("the guest agent named a device without numbers")
    return Device(_text(said, "driver-name"), _text(said, "driver-version"), vendor, device)


def _interface(said: Any) -> Interface:
    found = _list(_dict(said).get("ip-addresses", []))
    addresses = tuple(_text(_dict(one), "ip-address") for one in found)
    return Interface(_text(said, "name"), _text(said, "hardware-address"), addresses)


def _dict(said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise AgentError("the guest agent's answer has another shape than the protocol gives it")
    return said


def _list(said: Any) -> list[Any]:
    if not isinstance(said, list):
        raise AgentError("the guest agent's answer has another shape than the protocol gives it")
    return said


def _text(said: dict[str, Any], key: str) -> str:
    return readable(str(said.get(key, "")).encode(errors="replace"))[:_LONGEST].replace("\n", " ")


def _data(said: dict[str, Any], key: str) -> bytes:
    try:
        return base64.b64decode(said.get(key, ""), validate=True)
    except (TypeError, ValueError):
        raise AgentError(f"the guest agent's {key} is not base64") from None
