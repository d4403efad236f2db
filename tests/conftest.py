"""Fixtures every test may use: where the real data is."""

from __future__ import annotations

import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="write tests/golden anew instead of comparing with it")


@pytest.fixture
def measured(record_property):
    """`measured("563 of 563 …")`: a number the test found, printed at the end of the run."""
    return lambda text: record_property("measured", text)


def pytest_terminal_summary(terminalreporter) -> None:
    reports = terminalreporter.getreports("passed")
    found = [text for one in reports for name, text in one.user_properties if name == "measured"]
    if found:
        terminalreporter.section("measured")
        terminalreporter.write_line("\n".join(found))


@pytest.fixture
def golden(request: pytest.FixtureRequest):
    """`golden("plan/w10.json", text)`: the text is that of the file in tests/golden, as `key` sees both."""

    def compare(name: str, text: str, key: Callable[[str], str] = str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--regen"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.is_file(), f"{path} does not exist: run pytest --regen, and read what it wrote"
        assert key(text) == key(path.read_text())

    return compare


@pytest.fixture(scope="session")
def testdata() -> Path:
    """Real hives, BCD stores, a virtio-win tree: `WINFOUNDRY_TESTDATA`, or ../shared/data beside the checkout."""
    folder = Path(os.environ.get("WINFOUNDRY_TESTDATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real test data not found at {folder}: set WINFOUNDRY_TESTDATA")
    return folder


@pytest.fixture(scope="session")
def virtio_win(testdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The complete tree of the virtio-win 0.1.240 disc, unpacked."""
    target = tmp_path_factory.mktemp("virtio-win")
    with tarfile.open(testdata / "drivers" / "virtio-win-0.1.240.tar.xz") as tar:
        tar.extractall(target)  # our own test data; Debian 12 has no filter= yet
    return target / "virtio-win-0.1.240"


@pytest.fixture(scope="session")
def real_hive(testdata: Path, tmp_path_factory: pytest.TempPathFactory):
    """`real_hive("win81-x64/SYSTEM")` is the unpacked hive; do not write to it."""
    target = tmp_path_factory.mktemp("hives")

    def unpack(name: str) -> Path:
        out = target / name.replace("/", "-")
        if not out.exists():
            out.write_bytes(lzma.decompress((testdata / "hives" / f"{name}.xz").read_bytes()))
        return out

    return unpack
