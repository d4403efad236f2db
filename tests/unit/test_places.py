import os
import shutil

import pytest
from driver_discs import DictDisc, cut, guest

from builder import plan as planning
from builder.config import from_options
from builder.errors import ConfigError, InputRefused, NoDriver
from builder.host.media import open_media
from builder.model import Bus, SetValue
from builder.windows.drivers import DRIVERS, policy_of, select, starts_windows
from builder.windows.paths import MediaPath
from builder.windows.places import find, is_added
from builder.windows.releases import Arch, by_name

SKIPPED = {driver.name: "skip" for driver in DRIVERS}


def places(*names):
    return {
        stem: [(str(one.path), one.release, one.arch, one.flattened) for one in found]
        for stem, found in find(map(MediaPath.parse, names)).items()
    }


@pytest.mark.parametrize(
    ("path", "release", "arch", "flattened"),
    [
        ("viostor/w10/amd64/a.inf", "w10", Arch.AMD64, False),
        ("drivers/by-driver/viostor/2k12R2/amd64/a.inf", "2k12R2", Arch.AMD64, False),
        ("drivers/by-os/i386/w8.1/A.INF", "w8.1", Arch.X86, True),
        ("driver_folders/1/W11/arm64/a.inf", "w11", Arch.ARM64, False),
        ("viostor/xp/amd64/a.inf", "xp64", Arch.AMD64, False),
        ("amd64/a.inf", None, Arch.AMD64, False),
        ("x64/win10/a.inf", None, None, False),
        ("Win10/x64/a.inf", None, Arch.AMD64, False),
        ("w10/a.inf", "w10", None, False),
        ("a.inf", None, None, False),
    ],
)
def test_what_folders_are_named_for(path, release, arch, flattened):
    assert places(path, "w10/amd64/a.sys") == {"a": [(path, release, arch, flattened)]}


def test_where_any_folder_names_a_windows_the_others_do_not_count():
    assert places("new/a.inf", "w10/amd64/a.inf") == {"a": [("w10/amd64/a.inf", "w10", Arch.AMD64, False)]}


def test_flattened_copies_are_not_taken_twice():
    own, copy, only = "a/w10/amd64/a.inf", "amd64/w10/a.inf", "amd64/w7/a.inf"
    assert [name for name, *_ in places(own, copy, only)["a"]] == [own, only]


def test_added_folders_stand_in_for_the_disc():
    added = "driver_folders/2/a/a.inf"
    assert [name for name, *_ in places("a/w10/amd64/a.inf", "b/w10/amd64/b.inf", added)["a"]] == [added]


def test_debug_builds_and_the_protocol_driver_of_sriov_are_left_alone():
    assert places("debug/w10/amd64/a.inf", "sriov/w10/amd64/vioprot.inf") == {}


# ---------------------------------------------------------------- the layouts people have, of the real disc


@pytest.fixture(scope="module")
def disc(virtio_win):
    with open_media(virtio_win) as media:
        yield media


def facts(found):
    """Which bytes were chosen; where they lay does not matter."""
    return {(one.name, one.version, tuple(sorted(file.sha256 for file in one.files))) for one in found.packages}


@pytest.fixture(scope="module")
def by_os(virtio_win, tmp_path_factory):
    """The tree the RPM installs: every driver of a Windows in one folder."""
    root = tmp_path_factory.mktemp("rpm") / "virtio-win"
    for path in sorted(virtio_win.rglob("*")):
        parts = path.relative_to(virtio_win).parts
        if not path.is_file() or len(parts) != 4 or parts[0] == "sriov":
            continue
        _, system, arch, name = parts
        folder = root / "drivers" / "by-os" / {"x86": "i386"}.get(arch, arch) / system
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            os.link(path, folder / name)
    return root


@pytest.mark.parametrize(("release", "arch"), [("w10", Arch.AMD64), ("w11", Arch.ARM64), ("w8.1", Arch.X86)])
def test_the_by_os_tree_of_the_rpm_gives_what_the_disc_gives(disc, by_os, release, arch):
    row = by_name(release)
    wishes = {driver.name: "optional" for driver in DRIVERS}
    with open_media(by_os) as tree:
        ours = select(tree, row, arch, row.builds[-1], wishes)
    assert len(ours.packages) >= 8
    assert facts(ours) == facts(select(disc, row, arch, row.builds[-1], wishes))


@pytest.mark.parametrize("folder", ["viostor", "viostor/w10", "viostor/w10/amd64"])
def test_a_single_driver_s_folder_is_a_disc(virtio_win, folder):
    with open_media(virtio_win / folder) as media:
        (package,) = select(media, by_name("w10"), Arch.AMD64, 19045, SKIPPED | {"viostor": "required"}).packages
    assert package.name == "viostor"
    assert "INF decorated VioStor.NTamd64.6.3" in package.chosen_because


def test_without_names_of_windows_the_inf_decides(virtio_win):
    older = {
        f"acme/{name.split('/')[1]}/{name.split('/')[-1]}": data
        for release in ("w7", "w10")
        for name, data in cut(virtio_win, f"viorng/{release}/x86").items()
    }
    renamed = {name.replace("/w7/", "/seven/").replace("/w10/", "/ten/"): data for name, data in older.items()}
    wish = SKIPPED | {"viorng": "required"}
    (package,) = select(DictDisc(renamed), by_name("w7"), Arch.X86, 7601, wish).packages
    assert package.inf.path.folder == ("acme", "seven")
    with pytest.raises(InputRefused, match="two different packages"):  # both INFs are for Windows 10
        select(DictDisc(renamed), by_name("w10"), Arch.X86, 19045, wish)
    with pytest.raises(NoDriver) as caught:
        select(DictDisc(renamed), by_name("w10"), Arch.ARM64, 19045, wish)
    assert caught.value.why == "the disc has viorng for: any Windows/any architecture"


# ---------------------------------------------------------------- folders that are added


@pytest.fixture
def acme(virtio_win, tmp_path):
    """A driver that is in no table: vioprot, which a disc has under sriov and a build leaves alone."""
    folder = tmp_path / "acme"
    shutil.copytree(virtio_win / "sriov" / "w10" / "amd64", folder)
    return folder


def test_a_third_party_driver_becomes_known_and_required(virtio_win, acme):
    with open_media(virtio_win, [acme]) as media:
        found = select(media, by_name("w10"), Arch.AMD64, 19045, SKIPPED | {"vioprot": "required"})
        (package,) = found.packages
        assert str(package.inf.path) == "driver_folders/1/acme/vioprot.inf"
        assert is_added(package.inf.path)
        assert media.read(package.inf.path) == (acme / "vioprot.inf").read_bytes()
        assert policy_of(package, {}) == "required"
        assert policy_of(package, {"vioprot": "optional"}) == "optional"
        with pytest.raises(NoDriver, match=r"no vioprot driver for Windows 10 \(ARM64\)"):
            select(media, by_name("w10"), Arch.ARM64, 19045, SKIPPED)
        assert select(media, by_name("w10"), Arch.ARM64, 19045, SKIPPED | {"vioprot": "skip"}).packages == ()
        ((name, _),) = select(media, by_name("w10"), Arch.ARM64, 19045, SKIPPED | {"vioprot": "optional"}).left_out
        assert name == "vioprot"
    with open_media(virtio_win) as media, pytest.raises(ConfigError, match="no driver 'vioprot'"):
        select(media, by_name("w10"), Arch.AMD64, 19045, SKIPPED | {"vioprot": "required"})


def test_an_added_folder_wins_over_the_disc(virtio_win):
    added = [virtio_win / "viorng" / "w8.1" / "amd64"]
    with open_media(virtio_win, added) as media:
        (package,) = select(media, by_name("w8.1"), Arch.AMD64, 9600, SKIPPED | {"viorng": "required"}).packages
        assert package.inf.path.folder == ("driver_folders", "1", "amd64")


def test_two_added_folders_with_one_driver_are_refused_unless_they_are_the_same(virtio_win):
    ten, older = virtio_win / "viorng/w10/amd64", virtio_win / "viorng/w8.1/amd64"
    wish = SKIPPED | {"viorng": "required"}
    with open_media(virtio_win, [ten, older]) as media, pytest.raises(InputRefused, match="two different packages"):
        select(media, by_name("w10"), Arch.AMD64, 19045, wish)
    with open_media(virtio_win, [ten, ten]) as media:
        assert len(select(media, by_name("w10"), Arch.AMD64, 19045, wish).packages) == 1


def test_a_folder_without_a_driver_is_refused(virtio_win, tmp_path):
    with pytest.raises(InputRefused, match="there is no driver in"), open_media(virtio_win, [tmp_path]):
        pass
    with pytest.raises(InputRefused, match="does not exist"), open_media(virtio_win, [tmp_path / "gone"]):
        pass


def test_a_disc_cannot_pose_as_an_added_folder(virtio_win, acme, tmp_path):
    shutil.copytree(acme, tmp_path / "disc" / "Driver_Folders" / "1")
    with pytest.raises(InputRefused, match="has a folder driver_folders"), open_media(tmp_path / "disc"):
        pass


def test_a_disk_driver_is_known_by_what_it_installs(disc):
    found = select(disc, by_name("w10"), Arch.AMD64, 19045, {}).packages
    assert {one.name for one in found if starts_windows(one)} == {"viostor", "vioscsi"}


def test_a_disk_driver_that_is_added_is_loaded_at_boot(virtio_win, tmp_path):
    """vioscsi under another name: what it drives is not in the table, so no bus is promised for it."""
    shutil.copytree(virtio_win / "vioscsi/w10/amd64", tmp_path / "acme")
    (tmp_path / "acme/vioscsi.inf").rename(tmp_path / "acme/acme.inf")
    windows = guest("w10", build=19045)
    wishes = SKIPPED | {"acme": "required"}
    with open_media(virtio_win, [tmp_path / "acme"]) as media:
        selection = select(media, windows.release, windows.arch, windows.build, wishes)
    plan = planning.plan(windows, selection, from_options({"source": "a", "virtio_win": "b", "drivers": wishes}))
    starts = {edit.key: edit.value.number for edit in plan.edits if isinstance(edit, SetValue) and edit.name == "Start"}
    assert starts == {("ControlSet001", "Services", "vioscsi"): 0}
    assert Bus.SCSI not in plan.provides.boot_buses
