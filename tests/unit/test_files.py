"""Durable small file operations."""

import errno
import hashlib
import os

import pytest

from builder.host import files


def test_sha256_is_that_of_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert files.sha256(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path):
    previous = os.umask(0)
    try:
        files.write_atomic(tmp_path / "secret", b"content", mode=0o600)
    finally:
        os.umask(previous)
    assert (tmp_path / "secret").read_bytes() == b"content"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sealed_folder_can_still_be_removed(tmp_path):
    (tmp_path / "sealed" / "below").mkdir(parents=True)
    (tmp_path / "sealed" / "below" / "file").touch()
    files.seal(tmp_path / "sealed")
    assert (tmp_path / "sealed" / "below" / "file").stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "sealed" / "below").stat().st_mode & 0o777 == 0o755


def test_two_folders_swap_their_names(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    files.exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()


def test_a_swap_with_nothing_is_an_error(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "one", tmp_path / "nothing")
    assert (tmp_path / "one").is_dir()
