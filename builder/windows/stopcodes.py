"""What Windows says when it does not start: kernel STOP codes and the boot manager's status codes, and what to do.

Names are Microsoft's: "Bug check code reference" (Microsoft Learn) and ntstatus.h.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopCode:
    """`verdict` is "stop-0x7b" or "bootmgr-0xc0000428"; `advice` is one sentence, never empty."""

    verdict: str
    advice: str


# Eight digits always: fewer are the beginning of a line still being written.
_STOP = re.compile(r"\*\*\* STOP:\s*0x([0-9A-Fa-f]{8})\b")
_STATUS = re.compile(r"\bStatus:\s*0x([0-9A-Fa-f]{8})\b")

STOP_CODES = {
    0x1E: "KMODE_EXCEPTION_NOT_HANDLED: a driver failed; look at the drivers that were added",
    0x50: "PAGE_FAULT_IN_NONPAGED_AREA: a driver failed; look at the drivers that were added",
    0x51: "REGISTRY_ERROR: a hive is damaged; compare the image with its source",
    0x5D: "UNSUPPORTED_PROCESSOR: the processor lacks something this Windows needs; use host-passthrough",
    0x6B: "PROCESS1_INITIALIZATION_FAILED: system files are missing or damaged",
    0x74: "BAD_SYSTEM_CONFIG_INFO: the SYSTEM hive is damaged or lacks a control set",
    0x7B: "INACCESSIBLE_BOOT_DEVICE: Windows has no working driver for the controller its disk hangs on; "
    "build the image for this disk interface, and check that the storage driver is boot-start and its file is there",
    0x7E: "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED: a driver failed while starting; look at the drivers that were added",
    0xA5: "ACPI_BIOS_ERROR: this Windows does not get along with the machine type; try the other one",
    0xD1: "DRIVER_IRQL_NOT_LESS_OR_EQUAL: a driver failed; look at the drivers that were added",
    0xED: "UNMOUNTABLE_BOOT_VOLUME: the system volume is damaged; run chkdsk on the source",
    0x101: "CLOCK_WATCHDOG_TIMEOUT: a processor did not answer in time; the host is overloaded or emulates",
    0xC000021A: "STATUS_SYSTEM_PROCESS_TERMINATED: winlogon or csrss ended; system files are damaged",
    0xC0000218: "STATUS_CANNOT_LOAD_REGISTRY_FILE: a hive is damaged; compare the image with its source",
    0xC0000221: "STATUS_IMAGE_CHECKSUM_MISMATCH: a driver file is damaged",
}

STATUS_CODES = {
    0xC000000D: "the BCD store is damaged",
    0xC000000E: "a device the BCD names is not there: the disk has another signature or partition than the BCD expects",
    0xC000000F: "a file the BCD names is not there",
    0xC0000017: "not enough memory, or too little of it below 4 GiB",
    0xC0000034: "the BCD has no entry to start",
    0xC0000098: "the BCD has no valid entry to start",
    0xC000014C: "the BCD store or a registry hive is damaged",
    0xC0000185: "the firmware could not read the disk",
    0xC0000221: "a boot-start file is damaged",
    0xC0000225: "the BCD lacks an element the boot manager needs",
    0xC0000359: "a boot-start file is made for another architecture",
    0xC0000428: "Windows refuses the signature of a boot-start file: use signed drivers, or allow test-signing "
    "and trust the signer, without Secure Boot",
}


def stop(code: int) -> StopCode:
    """The kernel's `*** STOP: 0x…`."""
    name = STOP_CODES.get(code, "the STOP code is not one we know; look it up in Microsoft's bug check reference")
    return StopCode(f"stop-0x{code:x}", name)


def status(code: int) -> StopCode:
    """The boot manager's `Status: 0x…`."""
    name = STATUS_CODES.get(code, "the status is not one we know; look it up in Microsoft's list of NTSTATUS values")
    return StopCode(f"bootmgr-0x{code:08x}", name)


def find(text: str) -> StopCode | None:
    """The first code in what a console showed, or None."""
    kinds = ((_STOP, stop), (_STATUS, status))
    hits = [(hit.start(), make(int(hit[1], 16))) for pattern, make in kinds if (hit := pattern.search(text))]
    return min(hits, key=lambda hit: hit[0])[1] if hits else None
