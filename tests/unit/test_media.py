import contextlib
import os
import shutil
import subprocess

import pycdlib
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import EnvironmentUnable, InputRefused
from builder.host import media
from builder.host.media import open_media
from builder.windows.paths import MediaPath

FILES = {
    "viostor/w10/amd64/viostor.inf": b"[Version]\r\n",
    "viostor/w10/amd64/viostor.sys": b"MZ" * 3000,
    "read me.txt": b"",
}
XORRISO = {
    "rock ridge": ("-r", "-iso-level", "4"),  # as virtio-win is made
    "joliet": ("-J", "--norock"),
    "plain": ("-iso-level", "4", "--norock"),
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "disc"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def make_iso(folder, options=XORRISO["rock ridge"]):
    if not shutil.which("xorriso"):
        pytest.skip("xorriso is not installed: no ISO can be made")
    iso = folder.parent / "disc.iso"
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-V", "TEST-DISC", *options, "-o", iso, folder]
    subprocess.run(command, check=True, capture_output=True)
    return iso


def contents(path):
    with open_media(path) as disc:
        return {str(file): disc.read(file) for file in disc.files()}


def test_a_folder_is_a_disc(folder):
    assert contents(folder) == FILES
    with open_media(folder) as disc:
        assert (disc.label, disc.origin) == ("disc", folder)


@pytest.mark.parametrize("kind", XORRISO)
def test_an_iso_gives_the_same_files(folder, kind):
    iso = make_iso(folder, XORRISO[kind])
    assert {name.lower().replace("_", " "): data for name, data in contents(iso).items()} == FILES
    if kind != "plain":
        assert set(contents(iso)) == set(FILES)
    with open_media(iso) as disc:
        assert disc.label == "TEST-DISC"


def test_the_real_disc_as_iso_and_as_folder_are_the_same(virtio_win, tmp_path):
    iso = tmp_path / "part.iso"
    if not shutil.which("xorriso"):
        pytest.skip("xorriso is not installed: no ISO can be made")
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-r", "-iso-level", "4", "-V", "virtio-win-0.1.240", "-o", iso]
    subprocess.run([*command, virtio_win / "Balloon"], check=True, capture_output=True)
    assert contents(iso) == contents(virtio_win / "Balloon")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "does not exist"),
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><title>Downloads</title>", "a web page"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"QFI\xfb", "a qcow2 disk image"),
        (bytes(40000), "no volume descriptor"),
        (bytes(32769) + b"CD001" + bytes(9000), "is damaged, or is no ISO 9660 image"),
    ],
)
def test_d01_what_is_no_disc_is_called_by_its_name(tmp_path, data, said):
    path = tmp_path / "virtio-win.iso"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputRefused) as caught, open_media(path):
        pass
    assert said in str(caught.value)


@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_d01_a_truncated_iso_is_refused(folder, kept):
    (folder / "viostor/w10/amd64/viostor.sys").write_bytes(os.urandom(3 << 20))
    iso = make_iso(folder)
    os.truncate(iso, int((2 << 20) * kept))
    with pytest.raises(InputRefused):
        contents(iso)


@pytest.mark.parametrize("as_iso", [False, True])
def test_d05_links_beside_a_driver_are_refused_and_others_left_out(folder, as_iso):
    (folder / "latest").symlink_to("/etc/passwd")
    assert set(contents(make_iso(folder) if as_iso else folder)) == set(FILES)
    (folder / "viostor/w10/amd64/viostor.cat").symlink_to("/etc/shadow")
    with pytest.raises(InputRefused, match=r"viostor\.cat is refused") as caught:
        contents(make_iso(folder) if as_iso else folder)
    assert "link" in caught.value.why


def test_d05_a_link_to_a_folder_is_not_descended(folder):
    (folder / "copy").symlink_to(folder / "viostor")
    assert set(contents(folder)) == set(FILES)


@pytest.mark.parametrize("name", ["a:b.sys", "CON.sys", "trailing.", "st\u017fr.sys", "back\\slash.inf"])
def test_d06_d08_names_windows_would_misread_are_refused_in_a_driver_folder_only(folder, name):
    (folder / name.removesuffix(".sys").removesuffix(".inf")).write_bytes(b"a document")
    assert set(contents(folder)) == set(FILES)
    (folder / "viostor/w10/amd64" / name).write_bytes(b"")
    with pytest.raises(InputRefused, match="is refused"):
        contents(folder)


def test_d06_an_iso_cannot_name_a_file_outside(tmp_path):
    iso, path = pycdlib.PyCdlib(), tmp_path / "evil.iso"
    iso.new(interchange_level=4, rock_ridge="1.09")
    source = tmp_path / "x"
    source.write_bytes(b"evil")
    iso.add_file(str(source), "/EVIL.SYS;1", rr_name="evil.sys")
    iso.write(str(path))
    iso.close()
    path.write_bytes(path.read_bytes().replace(b"evil.sys", b"../x.sys"))
    with pytest.raises(InputRefused, match=r"\.\./x\.sys is refused"):
        contents(path)


@pytest.mark.parametrize("as_iso", [False, True])
def test_d07_names_that_differ_in_case_only_collide(folder, as_iso):
    (folder / "README.TXT").write_bytes(b"a")
    (folder / "readme.txt").write_bytes(b"b")
    with pytest.raises(
        InputRefused, match=r"collision of README.TXT and readme.txt|collision of readme.txt and README.TXT"
    ):
        contents(make_iso(folder) if as_iso else folder)


def test_d12_a_file_over_the_limit(folder):
    huge = folder / "viostor/w10/amd64/viostor.sys"
    os.truncate(huge, 8 << 30)
    with pytest.raises(InputRefused, match="is refused") as caught:
        contents(folder)
    assert str(media.MAX_FILE) in caught.value.why
    huge.unlink()
    (folder / "movie.avi").touch()
    os.truncate(folder / "movie.avi", 8 << 30)
    assert "movie.avi" not in contents(folder)


def test_more_files_than_a_driver_disc_has(folder, monkeypatch):
    monkeypatch.setattr(media, "MAX_FILES", 2)
    with pytest.raises(InputRefused, match="more than 2 files"):
        contents(folder)


def test_special_files_are_not_read(folder):
    os.mkfifo(folder / "viostor/w10/amd64/pipe")
    with pytest.raises(InputRefused, match="pipe is refused"):
        contents(folder)
    with (
        pytest.raises(InputRefused, match="neither a file nor a folder"),
        open_media(folder / "viostor/w10/amd64/pipe"),
    ):
        pass


def test_a_file_that_became_a_link_after_the_listing_is_not_followed(folder):
    with open_media(folder) as disc:
        target = folder / "viostor/w10/amd64/viostor.sys"
        target.unlink()
        target.symlink_to("/etc/passwd")
        with pytest.raises(InputRefused, match="cannot be read any more"):
            disc.read(MediaPath.parse("viostor/w10/amd64/viostor.sys"))


def test_a_file_that_is_not_there(folder):
    with open_media(folder) as disc, pytest.raises(InputRefused, match=r"x\.sys is not on disc"):
        disc.read(MediaPath.parse("x.sys"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_the_environment_s_fault(folder):
    (folder / "viostor").chmod(0)
    try:
        with pytest.raises(EnvironmentUnable):
            contents(folder)
    finally:
        (folder / "viostor").chmod(0o755)


def test_errors_of_the_caller_are_not_taken_for_those_of_the_disc(folder):
    with pytest.raises(PermissionError), open_media(make_iso(folder)):
        raise PermissionError("of the caller")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(damage=st.lists(st.tuples(st.integers(32768, 65000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
def test_a_damaged_iso_is_read_or_refused(small_iso, damage):
    path, sound = small_iso
    data = bytearray(sound)
    for at, what in damage:
        data[at % len(data) : at % len(data) + len(what)] = what
    path.write_bytes(data[: len(sound)])
    with contextlib.suppress(InputRefused):
        contents(path)


@pytest.fixture(scope="module")
def small_iso(tmp_path_factory):
    root = tmp_path_factory.mktemp("iso") / "disc"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.inf").write_bytes(b"[Version]\n")
    (root / "link").symlink_to("a/x.inf")
    iso = make_iso(root)
    return iso, iso.read_bytes()
