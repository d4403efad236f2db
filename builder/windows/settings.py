r"""Settings people expect of a golden image, each off unless asked for: a table from option to registry values.

What needs the running Windows (time zone, WinRM, sysprep) is done by `builder.windows.firstboot`. The values are those
Windows' own tools write (reg, powercfg, diskpart, wmic recoveros); their effect was not measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import ConfigError
from builder.model import Guest, Hive, SetValue
from builder.windows.registry import RegValue, dword, sz

CRASH_DUMPS = {"none": 0, "complete": 1, "kernel": 2, "small": 3, "automatic": 7}
_HIGH_PERFORMANCE = "8c5e7fda-e8bf-4a96-9a85-a6e23a8c635c"
_SLEEP, _SLEEP_AFTER = "238c9fa8-0aad-41ed-83f4-97be242c8f20", "29f6c1db-86da-48c5-9fdb-f2b67b1f44da"
_SCHEMES = "Control\\Power\\User\\PowerSchemes"
_FIREWALL = "Services\\SharedAccess\\Parameters\\FirewallPolicy\\FirewallRules"
_RDP_RULE = "v2.0|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=3389|Name=Remote Desktop (TCP-In)|"


@dataclass(frozen=True, slots=True)
class Row:
    """One value below every control set; `since` is the first kernel version that knows it."""

    key: str
    name: str
    value: RegValue
    since: tuple[int, int] = (5, 1)


TABLE: dict[str, tuple[Row, ...]] = {
    "remote_desktop": (
        Row("Control\\Terminal Server", "fDenyTSConnections", dword(0)),
        Row(_FIREWALL, "winfoundry-RemoteDesktop-In-TCP", sz(_RDP_RULE), since=(6, 0)),
    ),
    "never_sleep": (
        Row(_SCHEMES, "ActivePowerScheme", sz(_HIGH_PERFORMANCE), since=(6, 0)),
        *(
            Row(f"{_SCHEMES}\\{_HIGH_PERFORMANCE}\\{_SLEEP}\\{_SLEEP_AFTER}", name, dword(0), since=(6, 0))
            for name in ("ACSettingIndex", "DCSettingIndex")
        ),
    ),
    "hibernation_off": (
        Row("Control\\Power", "HibernateEnabled", dword(0), since=(6, 0)),
        Row("Control\\Power", "HibernateEnabledDefault", dword(0), since=(10, 0)),
        Row("Control\\Session Manager\\Power", "HiberbootEnabled", dword(0), since=(6, 2)),
    ),
    "disks_online": (Row("Services\\partmgr\\Parameters", "SanPolicy", dword(1), since=(6, 0)),),
    "utc_clock": (Row("Control\\TimeZoneInformation", "RealTimeIsUniversal", dword(1)),),
    "winrm": (Row("Services\\WinRM", "Start", dword(2), since=(6, 0)),),
}
"""Switches: option -> what it sets when it is on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a build: the switches of TABLE that are on, and those with a value ("" and None: leave it)."""

    switches: frozenset[str] = frozenset()
    crash_dump: str = ""
    auto_reboot: bool | None = None
    hostname: str = ""


def edits(guest: Guest, wanted: Wanted) -> Iterator[SetValue]:
    """The values in every control set. Raises ConfigError for an option this Windows does not have."""
    for option, rows in _asked(wanted):
        known = [row for row in rows if guest.release.nt >= row.since]
        if not known:
            raise ConfigError(f"{option} is not for {guest.release.title}", why="it came with a later Windows")
        for control_set in guest.control_sets:
            for row in known:
                key = (control_set, *row.key.split("\\"))
                yield SetValue(Hive.SYSTEM, key, row.name, row.value, f"{option} (asked for)")


def _asked(wanted: Wanted) -> Iterator[tuple[str, tuple[Row, ...]]]:
    for option, rows in TABLE.items():
        if option in wanted.switches:
            yield option, rows
    if wanted.crash_dump:
        since = (6, 2) if wanted.crash_dump == "automatic" else (5, 1)
        number = dword(CRASH_DUMPS[wanted.crash_dump])
        yield "crash_dump", (Row("Control\\CrashControl", "CrashDumpEnabled", number, since),)
    if wanted.auto_reboot is not None:
        yield "auto_reboot", (Row("Control\\CrashControl", "AutoReboot", dword(int(wanted.auto_reboot))),)
    if wanted.hostname:
        name = sz(wanted.hostname)
        yield (
            "hostname",
            (
                Row("Control\\ComputerName\\ComputerName", "ComputerName", name),
                Row("Services\\Tcpip\\Parameters", "Hostname", name),
                Row("Services\\Tcpip\\Parameters", "NV Hostname", name),
            ),
        )
