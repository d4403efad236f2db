import time
from types import SimpleNamespace

import pytest
from driver_discs import DictDisc, cut

from builder.errors import ConfigError, InputRefused, NoDriver
from builder.host.media import open_media
from builder.model import Bus, Signer
from builder.windows.drivers import DRIVERS, FALLBACK, installed, select, verdict
from builder.windows.releases import RELEASES, Arch, by_name
from builder.windows.signatures import Verdict

SOLD = {  # which architectures each Windows was sold for
    "x86": "xp 2k3 vista 2k8 w7 w8 w8.1 w10",
    "amd64": "xp64 2k3 vista 2k8 w7 2k8R2 w8 2k12 w8.1 2k12R2 w10 w11 2k16 2k19 2k22 2k25",
    "ARM64": "w10 w11",
}
OPTIONAL = {driver.name: "optional" for driver in DRIVERS}
ONLY = {driver.name: "skip" for driver in DRIVERS}


def choose(disc, release="w10", arch=Arch.AMD64, **policy):
    row = by_name(release)
    return select(
        disc, row, arch, row.builds[0], ONLY | {name.replace("_", "-"): wish for name, wish in policy.items()}
    )


@pytest.fixture(scope="module")
def disc(virtio_win):
    with open_media(virtio_win) as media:
        yield media


@pytest.fixture(scope="module")
def viostor(virtio_win):
    return cut(virtio_win, "viostor/w10/amd64")


# ---------------------------------------------------------------- the real disc


def chosen(disc, release, arch):
    """One line for each package, and one for what is left out."""
    found = select(disc, release, arch, release.builds[0], OPTIONAL)
    for package in found.packages:
        folder = "/".join(package.inf.path.folder)
        facts = (package.version_text, package.signature.signer, verdict(package, release))
        yield f"{release.name:7}{arch:6} {package.name:14} {folder:28} {' | '.join(facts)}"
    yield f"{release.name:7}{arch:6} without        {' '.join(name for name, _ in found.left_out)}"


def test_what_every_windows_gets(disc, golden):
    windows = [(release, arch) for release in RELEASES for arch in Arch if release.name in SOLD[arch].split()]
    lines = [line for release, arch in windows for line in chosen(disc, release, arch)]
    golden("drivers/virtio-win-0.1.240.txt", "\n".join(lines) + "\n")


def test_every_driver_of_the_disc_is_in_the_table(disc):
    on_disc = {path.name.lower().removesuffix(".inf") for path in disc.files() if path.name.lower().endswith(".inf")}
    assert on_disc - {"vioprot"} <= {driver.name for driver in DRIVERS}


def test_the_whole_selection_for_one_windows_is_fast(disc):
    start = time.monotonic()
    found = select(disc, by_name("w10"), Arch.AMD64, 19045, {})
    assert len(found.packages) == 13
    assert time.monotonic() - start < 1.5


def test_infs_of_other_releases_are_not_read(disc):
    reads = []

    class Watched:
        label, origin, files = disc.label, disc.origin, disc.files

        def read(self, path):
            reads.append(path)
            return disc.read(path)

    select(Watched(), by_name("w10"), Arch.AMD64, 19045, {})
    assert {path.folder[-2:] for path in reads} == {("w10", "amd64"), ("cert",)}
    drivers = [path for path in reads if path.name.endswith(".sys")]
    assert len(drivers) == len(set(drivers)) + 1  # pvpanic and pvpanic-pci share theirs


def test_a_package_is_complete(disc):
    (package,) = choose(disc, viorng="required").packages
    assert [file.path.name for file in package.files] == ["viorng.cat", "viorng.inf", "viorng.sys", "viorngum.dll"]
    assert [(name, str(place)) for name, place in package.runs_from] == [
        ("viorng.sys", r"C:\System32\drivers\viorng.sys"),
        ("viorngum.dll", r"C:\System32\viorngum.dll"),
    ]
    assert (package.provider, package.class_name, package.date) == ("Red Hat, Inc.", "System", "2023-07-21")
    assert package.catalog.path.name == "viorng.cat"
    assert package.label.startswith("viorng.inf_amd64_")


def test_names_that_differ_in_case_between_inf_and_disc_are_the_same_file(disc):
    (package,) = choose(disc, "xp", Arch.X86, balloon="required").packages
    assert {"balloon.cat", "balloon.sys"} <= {file.path.name for file in package.files}


def test_defaults(disc):
    assert {driver.name for driver in DRIVERS if driver.policy == "required"} == {"viostor", "vioscsi"}
    assert {driver.name: driver.bus for driver in DRIVERS if driver.bus} == {"viostor": Bus.VIRTIO, "vioscsi": Bus.SCSI}
    found = select(disc, by_name("xp"), Arch.X86, 2600, {})
    assert "vioscsi" in dict(found.left_out)
    with pytest.raises(NoDriver, match="no vioscsi driver for Windows XP"):
        choose(disc, "xp", Arch.X86, vioscsi="required")


def test_a_package_without_kernel_code_needs_no_test_mode(disc):
    (smbus,) = choose(disc, "2k8", smbus="required").packages
    assert smbus.signature.signer is Signer.TEST_SIGNED
    assert verdict(smbus, by_name("2k8")) is Verdict.LOADS
    (viostor,) = choose(disc, "w8.1", viostor="required").packages
    assert verdict(viostor, by_name("w8.1")) is Verdict.TEST_MODE


def test_one_driver_stands_in_for_another(disc):
    found = choose(disc, fwcfg="optional", qemufwcfg="optional")
    assert [package.name for package in found.packages] == ["fwcfg"]
    assert found.left_out == (("qemufwcfg", "fwcfg drives the same device"),)
    assert [package.name for package in choose(disc, qemufwcfg="optional").packages] == ["qemufwcfg"]


# ---------------------------------------------------------------- fallback


def test_a_folder_of_another_release_serves_only_where_the_table_says_so(viostor):
    (package,) = choose(DictDisc(viostor), "w11", viostor="required").packages
    assert package.chosen_because.startswith("the disc has none for w11, w10 serves it too; folder viostor/w10/amd64")
    with pytest.raises(NoDriver) as caught:
        choose(DictDisc(viostor), "2k22", viostor="required")
    assert caught.value.exit_code == 3
    assert caught.value.why == "the disc has viostor for: w10/amd64"


def test_the_inf_has_the_last_word(viostor):
    renamed = {name.replace("/w10/", "/w7/"): data for name, data in viostor.items()}
    with pytest.raises(NoDriver):
        choose(DictDisc(renamed), "w7", viostor="required")


def test_the_fallback_table_names_releases_and_never_goes_forward():
    names = [release.name for release in RELEASES]
    for name, others in FALLBACK.items():
        for other in others:
            assert by_name(other).nt == by_name(name).nt
        assert {name, *others} <= set(names)


def test_flattened_copies_are_used_only_without_the_others(virtio_win, viostor):
    flat = cut(virtio_win, "amd64/w10")
    (package,) = choose(DictDisc(viostor | flat), viostor="required").packages
    assert package.inf.path.folder == ("viostor", "w10", "amd64")
    (package,) = choose(DictDisc(flat), viostor="required").packages
    assert package.inf.path.folder == ("amd64", "w10")


# ---------------------------------------------------------------- faults


def test_d03_a_missing_driver_is_an_error_only_when_required(viostor):
    assert choose(DictDisc(viostor), viostor="required", netkvm="optional").left_out == (
        ("netkvm", "no netkvm driver for Windows 10 (amd64) on a disc"),
    )
    with pytest.raises(NoDriver, match="no netkvm driver for Windows 10"):
        choose(DictDisc(viostor), netkvm="required")


@pytest.mark.parametrize("suffix", ["sys", "cat"])
def test_d04_a_missing_file_is_named(viostor, suffix):
    pruned = {name: data for name, data in viostor.items() if not name.endswith(suffix)}
    with pytest.raises(InputRefused, match=rf"viostor/w10/amd64/viostor.inf needs viostor.{suffix}, which is not"):
        choose(DictDisc(pruned), viostor="required")
    assert "viostor" in dict(choose(DictDisc(pruned), viostor="optional").left_out)


def test_d10_a_disk_driver_must_be_one_windows_can_boot_from(virtio_win):
    """Without its catalogue the package is unsigned, which x86 Windows would load."""
    files = cut(virtio_win, "viostor/w10/x86")
    name = "viostor/w10/x86/viostor.inf"
    inf = files[name].replace(b"CatalogFile=viostor.cat", b"")
    assert len(choose(DictDisc(files | {name: inf}), arch=Arch.X86, viostor="required").packages) == 1
    for old, new, said in (
        (b"4D36E97B", b"4D36E97D", "a disk driver is of class SCSIAdapter"),
        (b"%SERVICE_BOOT_START%", b"3", "no boot-start service"),
    ):
        with pytest.raises(InputRefused, match=said):
            choose(DictDisc(files | {name: inf.replace(old, new)}), arch=Arch.X86, viostor="required")


@pytest.mark.parametrize(("other", "said"), [("w10/ARM64", "is ARM64, need amd64"), ("w10/x86", "is x86, need amd64")])
def test_d13_a_driver_for_another_machine_is_refused(virtio_win, viostor, other, said):
    swapped = viostor | {"viostor/w10/amd64/viostor.sys": (virtio_win / "viostor" / other / "viostor.sys").read_bytes()}
    with pytest.raises(InputRefused, match=f"viostor.sys {said}"):
        choose(DictDisc(swapped), viostor="required")
    text = viostor | {"viostor/w10/amd64/viostor.sys": b"hello"}
    with pytest.raises(InputRefused, match="cannot be a driver"):
        choose(DictDisc(text), viostor="required")


def test_d14_two_different_packages_for_one_windows_are_refused(virtio_win, viostor):
    older = {name.replace("viostor/w7", "old/w10"): data for name, data in cut(virtio_win, "viostor/w7/amd64").items()}
    with pytest.raises(InputRefused, match="two different packages") as caught:
        choose(DictDisc(viostor | older), viostor="required")
    assert "old/w10/amd64/viostor.inf and viostor/w10/amd64/viostor.inf" in caught.value.what
    copies = {f"copy/{name}": data for name, data in viostor.items()}
    assert len(choose(DictDisc(viostor | copies), viostor="required").packages) == 1


def test_a_package_windows_would_not_load_is_refused_with_the_reason(viostor):
    name = "viostor/w10/amd64/viostor.inf"
    broken = viostor | {name: viostor[name].replace(b"\r\n", b"\n")}
    with pytest.raises(InputRefused, match="line ends changed") as caught:
        choose(DictDisc(broken), viostor="required")
    assert caught.value.why == f"the package is {Signer.BROKEN}"


def test_an_unknown_driver_name_is_the_user_s_mistake(viostor):
    with pytest.raises(ConfigError, match="no driver 'viostr', did you mean 'viostor'"):
        choose(DictDisc(viostor), viostr="required")


def test_the_table_names_each_driver_once_and_only_known_ones():
    names = [driver.name for driver in DRIVERS]
    assert len(names) == len(set(names))
    assert {driver.unless for driver in DRIVERS} <= {*names, ""}
    assert {name for driver in DRIVERS for name in driver.never_for} <= {release.name for release in RELEASES}


@pytest.mark.parametrize(
    ("published", "device_path", "expected"),
    [
        ({"oem1.inf": "netkvm.inf_amd64_01", "oem2.inf": "pvscsi.inf_amd64_02"}, "%SystemRoot%\\inf", {"netkvm"}),
        ({}, "%SystemRoot%\\inf;%SystemRoot%\\Drivers\\VirtIO\\balloon;C:\\viostor\\x", {"balloon"}),
    ],
)
def test_installed_drivers_are_those_published_or_searched(published, device_path, expected):
    assert installed(SimpleNamespace(published=published, device_path=device_path)) == expected
