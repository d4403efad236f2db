import hashlib
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder import config, source
from builder.errors import Busy, ConfigError, EnvironmentUnable, InputRefused


@pytest.fixture(scope="session")
def qcow2(tmp_path_factory):
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    path = tmp_path_factory.mktemp("image") / "base.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "8M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 64k", path], check=True)
    return path


@pytest.fixture
def spec(tmp_path, qcow2):
    """`spec(**options)`: a build of a copy of a small image, to tmp_path/out."""
    image = tmp_path / "source" / "disk.qcow2"
    image.parent.mkdir()
    shutil.copy(qcow2, image)
    given = {"source": image, "virtio_win": tmp_path / "disc", "output_directory": tmp_path / "out"}
    return lambda **options: config.from_options({**given, **options})


def workspaces(folder):
    return sorted(one.name for one in folder.iterdir() if one.name.startswith(".winfoundry"))


def test_the_source_comes_with_an_overlay_in_a_private_workspace(spec, tmp_path):
    build = spec()
    before = build.source.read_bytes()
    with source.open_source(build) as opened:
        assert opened.sha256 == hashlib.sha256(before).hexdigest()
        assert opened.virtual_size == 8 << 20
        assert opened.overlay.parent == tmp_path / ".winfoundry-out"
        assert opened.overlay.parent.stat().st_mode & 0o777 == 0o700
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 4M", opened.overlay], check=True)
        source.require_unchanged(opened)
    assert build.source.read_bytes() == before
    assert workspaces(tmp_path) == []


def test_folders_above_the_output_are_made(spec, tmp_path):
    with source.open_source(spec(output_directory=tmp_path / "a" / "b" / "out")) as opened:
        assert opened.overlay.parent == tmp_path / "a" / "b" / ".winfoundry-out"


def test_relative_paths_are_those_of_the_current_directory(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with source.open_source(spec(source="source/disk.qcow2", output_directory="out")) as opened:
        assert opened.path == tmp_path / "source" / "disk.qcow2"
        assert opened.overlay.is_absolute()


def test_the_workspace_is_removed_after_an_error_unless_it_is_to_be_kept(spec, tmp_path):
    for keep, left in ((False, []), (True, [".winfoundry-out"])):
        with pytest.raises(ZeroDivisionError), source.open_source(spec(), keep_workspace=keep):
            _ = 1 / 0
        assert workspaces(tmp_path) == left
    with source.open_source(spec()) as opened:
        assert sorted(one.name for one in opened.overlay.parent.iterdir()) == ["lock", "overlay.qcow2"]


def test_sealed_folders_in_a_workspace_are_removed_too(spec, tmp_path):
    with source.open_source(spec()) as opened:
        sealed = opened.overlay.parent / "staging"
        sealed.mkdir()
        (sealed / "image.qcow2").touch(mode=0o444)
        sealed.chmod(0o555)
    assert workspaces(tmp_path) == []


# ---------------------------------------------------------------- locks


CHILD = """
import sys, time
from builder import config, source
given = dict(zip(("source", "virtio_win", "output_directory"), sys.argv[1:]))
with source.open_source(config.from_options(given)):
    print("open", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def elsewhere(spec):
    """`elsewhere(**options)`: another process that has the source open."""
    children = []

    def start(**options):
        build = spec(**options)
        argv = [sys.executable, "-c", CHILD, build.source, build.virtio_win, build.output_directory]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout.readline() == "open\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_two_builds_to_one_output_exclude_each_other_until_the_first_is_gone(spec, elsewhere, tmp_path):
    child = elsewhere()
    with pytest.raises(Busy, match="another build holds") as caught, source.open_source(spec()):
        pass
    assert caught.value.exit_code == 75
    assert source.clean([tmp_path]) == ()  # a running build keeps its workspace
    assert workspaces(tmp_path) == [".winfoundry-out"]
    child.kill()
    child.wait()
    with source.open_source(spec()):  # SIGKILL freed the lock, what it left is taken over
        pass
    assert workspaces(tmp_path) == []


def test_two_builds_from_one_source_go_together(spec, elsewhere, tmp_path):
    elsewhere()
    with source.open_source(spec(output_directory=tmp_path / "other")) as opened:
        source.require_unchanged(opened)


def test_clean_removes_what_killed_builds_left_and_nothing_else(elsewhere, tmp_path):
    child = elsewhere()
    child.kill()
    child.wait()
    (tmp_path / ".winfoundry-file").touch()
    (tmp_path / ".winfoundry-link").symlink_to(tmp_path / "source")
    (tmp_path / ".winfoundry-open").mkdir(mode=0o755)
    assert source.leftovers(tmp_path) == (tmp_path / ".winfoundry-out",)
    assert source.clean([tmp_path, tmp_path / "none"]) == (tmp_path / ".winfoundry-out",)
    assert workspaces(tmp_path) == [".winfoundry-file", ".winfoundry-link", ".winfoundry-open"]
    assert (tmp_path / "source" / "disk.qcow2").exists()


def test_many_builds_of_one_output_never_hold_it_together(tmp_path):
    """The lock file comes and goes with its folder; whoever has the lock has the folder everybody else sees."""
    path, seen, held = tmp_path / ".winfoundry-out", [], []

    def build():
        for _ in range(60):
            try:
                with source._workspace(tmp_path / "out", keep_on_error=False):
                    held.append(threading.get_ident())
                    seen.append(set(held))
                    assert path.is_dir()
                    held.remove(threading.get_ident())
            except Busy:
                pass

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(build) for _ in range(4)]:
            one.result()
    assert seen
    assert all(len(one) == 1 for one in seen)
    assert workspaces(tmp_path) == []


@pytest.mark.parametrize("plant", ["file", "link", "open"])
def test_a_workspace_somebody_else_planted_is_not_used(spec, tmp_path, plant):
    path = tmp_path / ".winfoundry-out"
    {"file": path.touch, "link": lambda: path.symlink_to(tmp_path / "source"), "open": path.mkdir}[plant]()
    with pytest.raises(EnvironmentUnable), source.open_source(spec()):
        pass
    assert (tmp_path / "source" / "disk.qcow2").exists()


# ---------------------------------------------------------------- places and space


def test_an_output_that_would_replace_an_input_is_refused(spec, tmp_path):
    (tmp_path / "alias").symlink_to(tmp_path / "source")
    for options in (
        {"output_directory": tmp_path / "source"},
        {"output_directory": tmp_path},
        {"output_directory": tmp_path / "alias"},
        {"output_directory": tmp_path / "disc"},
        {"output_directory": tmp_path / "source" / "disk.qcow2"},
    ):
        with pytest.raises(ConfigError, match="would replace"), source.open_source(spec(**options)):
            pass


def test_too_little_space_is_said_with_both_numbers(spec, monkeypatch, tmp_path):
    class Full:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Full)
    with (
        pytest.raises(EnvironmentUnable, match=r"\d{10} bytes are needed .*, 1000 are free"),
        source.open_source(spec()),
    ):
        pass
    assert workspaces(tmp_path) == []


# ---------------------------------------------------------------- digests


@pytest.mark.parametrize(
    "listing",
    [
        "{hex}\n",
        "{HEX}  disk.qcow2\n",
        "{hex} *disk.qcow2\n",
        "{hex}\tdisk.qcow2\n",
        "{other}  a disk.qcow2\n{hex}  ./disk.qcow2\n",
        "# comment\nSHA256 (a) = {other}\nSHA256 (disk.qcow2) = {hex}\n",
    ],
)
def test_checksum_files_of_all_kinds_are_read(tmp_path, listing):
    file, sums = tmp_path / "disk.qcow2", tmp_path / "SUMS"
    file.write_bytes(b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    sums.write_text(listing.format(hex=digest, HEX=digest.upper(), other="0" * 64))
    assert source.require_digest(file, f"file:{sums}") == digest
    file.write_bytes(b"other")
    with pytest.raises(InputRefused, match=f"{digest} was demanded"):
        source.require_digest(file, f"file:{sums}")


@pytest.mark.parametrize("listing", ["", "{other}  else\n", "{other}\n{other}\n", "nonsense\n"])
def test_a_checksum_file_without_the_name_is_refused(tmp_path, listing):
    file, sums = tmp_path / "disk.qcow2", tmp_path / "SUMS"
    file.write_bytes(b"data")
    sums.write_text(listing.format(other="0" * 64))
    with pytest.raises(InputRefused, match="SUMS has no SHA-256 of disk"):
        source.require_digest(file, f"file:{sums}")


def test_without_a_checksum_the_digest_is_told(tmp_path):
    file = Path(tmp_path, "x")
    file.write_bytes(b"data")
    assert source.require_digest(file, "none") == hashlib.sha256(b"data").hexdigest()
    with pytest.raises(InputRefused, match="is not a regular file"):
        source.require_digest(tmp_path, "none")


def test_descriptors_are_given_back(spec):
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with source.open_source(spec()):
        pass
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
