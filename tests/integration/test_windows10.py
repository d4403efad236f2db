"""A plan for a Windows 10 guest with the real w10 packages: Microsoft signed them, so test mode stays off.

SYSTEM is that of a real Windows 10; SOFTWARE, BCD and the rest of the disk are phony (no real ones are to be had).
"""

import shutil

import phony
import pytest

from builder import inspection
from builder import plan as planning
from builder.config import from_options
from builder.host.hive import open_file
from builder.host.media import open_media
from builder.model import Bus, Hive, SetValue, Signer
from builder.windows import drivers
from builder.windows.releases import Arch

TEST_MODE = "16000049"  # BcdLibraryBoolean_AllowPrereleaseSignatures


@pytest.fixture(scope="module")
def guest(real_hive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows10")
    windows = phony.Windows(folder / "phony")
    shutil.copyfile(real_hive("win10-x64/SYSTEM"), folder / "SYSTEM")
    open_file(folder / "SYSTEM", write=True).commit()  # it was left open; as if the guest had been shut down
    windows.files[phony.PLACES[Hive.SYSTEM]] = (folder / "SYSTEM").read_bytes()
    windows.files |= {f"/c/Windows/INF/oem{number}.inf": b"; not the real one" for number in range(12)}
    return inspection.inspect(phony.Appliance(windows))


@pytest.fixture
def planned(guest, virtio_win):
    def make(**options):
        spec = from_options({"source": "a.qcow2", "virtio_win": "v.iso", **options})
        with open_media(virtio_win) as disc:
            selection = drivers.select(disc, guest.release, guest.arch, guest.build, spec.drivers)
        return planning.plan(guest, selection, spec)

    return make


def test_the_guest_has_what_the_real_hive_says(guest):
    assert (guest.release.name, guest.arch) == ("w10", Arch.AMD64)
    assert guest.driver_database
    assert guest.published["oem4.inf"] == "pvscsi.inf_amd64_b0d59727d712523f"
    assert guest.free_oem[0] == 12  # OemInfMap: ff f0


@pytest.mark.parametrize("options", [{}, {"test_signing": "off"}, {"secure_boot": True}])
def test_test_mode_stays_off(planned, options):
    plan = planned(**options)
    assert not plan.provides.test_signing
    assert not [edit for edit in plan.edits if isinstance(edit, SetValue) and edit.hive is Hive.BCD]
    assert not [note for note in plan.notes if "test mode" in note]
    left_out = dict(plan.selection.left_out)
    assert left_out["pvpanic-pci"].endswith("test mode is off")  # optional, and not Microsoft's
    assert plan.trusted == ()
    assert plan.provides.boot_buses >= {Bus.VIRTIO, Bus.SCSI}


def test_every_driver_with_kernel_code_is_microsoft_s(planned):
    plan = planned()
    kernel = [one for one in plan.selection.packages if any(f.path.name.endswith(".sys") for f in one.files)]
    assert {one.name for one in kernel} >= {"viostor", "vioscsi", "netkvm", "balloon"}
    assert {one.signature.signer for one in kernel} == {Signer.MICROSOFT}


def test_test_mode_that_is_asked_for_comes_and_says_so(planned):
    plan = planned(test_signing="on")
    flags = [edit for edit in plan.edits if isinstance(edit, SetValue) and edit.hive is Hive.BCD]
    assert [edit.key[-1] for edit in flags] == [TEST_MODE]
    assert [note for note in plan.notes if note.startswith("test mode is switched on because")]
