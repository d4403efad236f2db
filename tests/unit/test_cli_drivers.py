import json
import shutil

import pytest
from click.testing import CliRunner

from builder import cli, config, publish
from builder.errors import ConfigError, InputRefused
from builder.host.media import open_media
from builder.model import Source
from builder.windows.signatures import Verdict

GIVEN = {"source": "a.qcow2", "virtio_win": "v.iso"}


@pytest.fixture
def run():
    def invoke(*words):
        return CliRunner().invoke(cli.cli, [str(word) for word in words])

    return invoke


def rows(done):
    assert done.exit_code == 0, done.output
    return [line.split() for line in done.output.splitlines()]


# ---------------------------------------------------------------- winfoundry drivers


def test_the_drivers_of_a_disc_as_one_windows_sees_them(run, virtio_win):
    header, *found = rows(run("drivers", virtio_win, "--for", "w8.1/amd64"))
    assert header == ["driver", "for", "version", "date", "signer", "verdict", "ids"]
    assert [row[0] for row in found] == sorted(row[0] for row in found)
    viostor = next(row for row in found if row[0] == "viostor")
    assert viostor[1:5] == ["w8.1/amd64", "63.93.104.24000", "2023-07-21", "test-signed"]
    assert " ".join(viostor[-5:-2]) == Verdict.TEST_MODE
    assert viostor[-2:] == [r"PCI\VEN_1AF4&DEV_1001", r"PCI\VEN_1AF4&DEV_1042"]
    missing = next(row for row in found if row[0] == "smbus")
    assert " ".join(missing[6:]).startswith("no smbus driver for Windows 8.1 (amd64)")


def test_the_same_as_json(run, virtio_win):
    done = run("drivers", virtio_win, "--for", "w10/ARM64/19045", "--json")
    found = {one["name"]: one for one in json.loads(done.output)}
    assert found["netkvm"]["for"] == "w10/ARM64"
    assert found["netkvm"]["verdict"] == Verdict.LOADS
    assert found["netkvm"]["signed_by"] == "Microsoft Windows Hardware Compatibility Publisher"
    assert r"PCI\VEN_1AF4&DEV_1000&SUBSYS_00011AF4&REV_00" in found["netkvm"]["ids"]
    assert found["qxl"]["why"].startswith("no qxl driver")


def test_everything_on_a_disc(run, virtio_win):
    found = json.loads(run("drivers", virtio_win, "--json").output)
    infs = [
        path
        for path in virtio_win.rglob("*.inf")
        if path.relative_to(virtio_win).parts[0] not in ("amd64", "i386", "sriov")
    ]
    assert {one["inf"] for one in found} == {str(path.relative_to(virtio_win)) for path in infs}
    assert all(one["for"].replace("xp64", "xp") == "/".join(one["inf"].split("/")[1:3]) for one in found)


def test_a_folder_that_names_no_windows(run, virtio_win):
    _, *found = rows(run("drivers", virtio_win / "viostor" / "w10"))
    assert [row[:2] for row in found] == [["viostor", "w11/ARM64"], ["viostor", "w11/amd64"], ["viostor", "w10/x86"]]


def test_a_package_nobody_can_use_is_shown_with_the_reason(run, virtio_win, tmp_path):
    shutil.copytree(virtio_win / "viostor/w10/amd64", tmp_path / "a/w10/amd64")
    shutil.copytree(virtio_win / "viorng/w10/amd64", tmp_path / "b/w10/amd64")
    inf = tmp_path / "a/w10/amd64/viostor.inf"
    inf.write_bytes(inf.read_bytes().replace(b"\r\n", b"\n"))
    (tmp_path / "b/w10/amd64/viorng.sys").unlink()
    for words in ([], ["--for", "w10/amd64"]):
        output = run("drivers", tmp_path, *words).output
        assert "will not load: viostor.cat lists viostor.inf with CRLF line ends only" in output
        assert "viorng.inf needs viorng.sys" in output


def test_an_added_folder_is_listed_too(run, virtio_win):
    words = ("--driver", virtio_win / "sriov" / "w10" / "amd64", "--for", "w10/amd64")
    assert "vioprot" not in {row[0] for row in rows(run("drivers", virtio_win, "--for", "w10/amd64"))}
    done = run("drivers", virtio_win, *words[:1], virtio_win / "sriov" / "w10", *words[2:])
    assert "vioprot" in {row[0] for row in rows(done)}


@pytest.mark.parametrize("windows", ["w10", "w12/amd64", "w10/mips", "w10/amd64/new", ""])
def test_a_windows_that_is_none_is_the_user_s_mistake(run, virtio_win, windows):
    done = run("drivers", virtio_win, "--for", windows or "/")
    assert done.exit_code == 2
    assert "--for wants RELEASE/ARCH[/BUILD]" in done.output


def test_what_is_no_disc_is_refused(run, tmp_path):
    assert isinstance(run("drivers", tmp_path / "gone.iso").exception, InputRefused)


# ---------------------------------------------------------------- driver_folders of a build


def test_driver_folders_are_an_option_of_a_build(tmp_path):
    file = tmp_path / "p.pkr.hcl"
    file.write_text(
        'source "winfoundry" "w" {\n  source = "a.qcow2"\n  virtio_win = "v.iso"\n  driver_folders = ["a", "b"]\n'
        '  drivers = { acme = "optional" }\n}\nbuild {\n  sources = ["source.winfoundry.w"]\n}\n'
    )
    (spec,) = config.from_file(file, variables={}, environ={})
    assert [str(path) for path in spec.driver_folders] == ["a", "b"]
    assert spec.drivers == {"acme": "optional"}
    assert config.from_options(GIVEN).driver_folders == ()
    with pytest.raises(ConfigError, match="1 problem"):
        config.from_options({**GIVEN, "driver_folders": [""]})


def test_what_was_added_decides_the_result_and_its_path_does_not(virtio_win, tmp_path):
    for name in ("here", "there"):
        shutil.copytree(virtio_win / "viorng/w10/amd64", tmp_path / name / "rng")
    source = Source(tmp_path / "a.qcow2", "0" * 64, 1, tmp_path / "overlay")

    def inputs(*folders):
        spec = config.from_options({**GIVEN, "driver_folders": folders})
        with open_media(virtio_win / "viostor", folders) as media:
            return publish.inputs(spec, source, media)

    none, here, there = inputs(), inputs(tmp_path / "here/rng"), inputs(tmp_path / "there/rng")
    assert here == there
    assert (none.driver_folders, here.drivers) == ("", none.drivers)
    (tmp_path / "there/rng/viorng.inf").write_bytes(b"[Version]\r\n")
    assert inputs(tmp_path / "there/rng").driver_folders not in ("", here.driver_folders)
