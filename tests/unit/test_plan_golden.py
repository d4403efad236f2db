"""A plan for every release, firmware and architecture: synthetic guests (no hives), the real virtio-win tree.

A change of a golden file is a change of what users' images become: read it, then `pytest --regen`.
"""

from collections import Counter

import pytest
from driver_discs import guest

from builder import plan as planning
from builder.config import from_options
from builder.edits import DeleteKey, PutFile, SetValue
from builder.errors import InputRefused
from builder.host.media import open_media
from builder.model import BootStore, Firmware, Loader
from builder.windows import drivers
from builder.windows.releases import RELEASES, Arch

GUID = "{11111111-2222-3333-4444-555555555555}"
UEFI_SINCE = {Arch.X86: (6, 2), Arch.AMD64: (6, 1), Arch.ARM64: (10, 0)}
CASES = [
    (row, arch, firmware)
    for row in RELEASES
    for arch in row.arches
    for firmware in Firmware
    if (firmware is Firmware.BIOS and arch is not Arch.ARM64)
    or (firmware is Firmware.UEFI and row.nt >= UEFI_SINCE[arch])
]


@pytest.fixture(scope="module")
def selected(virtio_win):
    """A function: the selection for a synthetic guest, made once for both firmwares; or the refusal."""
    known = {}
    with open_media(virtio_win) as media:

        def select(one):
            place = (one.release.name, one.arch)
            if place not in known:
                try:
                    known[place] = drivers.select(media, one.release, one.arch, one.build, {})
                except InputRefused as error:
                    known[place] = error
            return known[place]

        yield select


@pytest.mark.parametrize(("row", "arch", "firmware"), CASES, ids=[f"{r.name}-{a}-{f}" for r, a, f in CASES])
def test_the_plan_is_the_golden_one(row, arch, firmware, selected, golden):
    one = synthetic(row, arch, firmware)
    chosen = selected(one)
    text = (
        f"refused: {chosen}"
        if isinstance(chosen, InputRefused)
        else told(planning.plan(one, chosen, from_options({"source": "a", "virtio_win": "b"})))
    )
    golden(f"plan/synthetic-{row.name}-{arch}-{firmware}.txt", text.replace(chosen_label(), "the disc") + "\n")


def chosen_label():
    return "virtio-win-0.1.240"


def synthetic(row, arch, firmware):
    uefi = firmware is Firmware.UEFI
    loader = Loader(GUID, row.title, rf"\Windows\system32\winload.{'efi' if uefi else 'exe'}", default=True)
    path = "/EFI/Microsoft/Boot/BCD" if uefi else "/Boot/BCD" if row.has_bcd else "/boot.ini"
    store = BootStore("/dev/sda1", path, (loader,) if row.has_bcd else ())
    return guest(row.name, arch, firmware=firmware, boot=store, control_sets=("ControlSet001", "ControlSet002"))


def told(plan) -> str:
    """What matters of a plan, a line each: the driver database is counted, the digest stands for all of it."""
    database = [one for one in plan.edits if isinstance(one, SetValue) and one.key[0] == "DriverDatabase"]
    settings = [one for one in plan.edits if isinstance(one, SetValue | DeleteKey) and one not in database]
    files = [one for one in plan.edits if isinstance(one, PutFile)]
    folders = Counter("\\".join(one.target.parts[: 4 if "FileRepository" in one.target.parts else -1]) for one in files)
    counted = sorted(Counter(one.hive for one in database).items())
    lines = [
        f"digest {plan.digest}",
        f"boots from {', '.join(sorted(plan.provides.boot_buses))}",
        *(f"note {one}" for one in plan.notes),
        *(
            f"driver {one.name} {one.version_text} {one.signature.signer}, {one.chosen_because}"
            for one in plan.selection.packages
        ),
        *(f"left out {name}: {why}" for name, why in plan.selection.left_out),
        *(f"trusted {one.thumbprint} {one.subject}" for one in plan.trusted),
        *(f"files {count} in {folder}" for folder, count in sorted(folders.items())),
        *(f"values {count} in {hive}\\DriverDatabase" for hive, count in counted),
        *map(str, settings),
    ]
    return "\n".join(lines)


def test_every_release_and_architecture_is_covered():
    assert {(row.name, arch) for row, arch, _ in CASES} == {(row.name, arch) for row in RELEASES for arch in row.arches}


def test_firmware_changes_nothing_but_the_store(selected):
    """The same drivers, whatever starts Windows: the edits differ in nothing."""
    row = next(one for one in RELEASES if one.name == "w8.1")
    plans = []
    for firmware in Firmware:
        one = synthetic(row, Arch.AMD64, firmware)
        plans.append(planning.plan(one, selected(one), from_options({"source": "a", "virtio_win": "b"})))
    assert plans[0].digest == plans[1].digest
    assert any(one.hive == "BCD" for one in plans[0].edits if isinstance(one, SetValue))
