"""The pytest plugin: the backend `guestfs://<percent-encoded absolute path of a qcow2 image>` for pytest-testinfra.

    pytest --hosts=guestfs://%2Fsrv%2Fimages%2Fwindows.qcow2 virtio_ready.py

It is loaded into every pytest run of its environment, so it imports nothing until such a host is named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("winfoundry").addoption(
        "--winfoundry-manifest",
        type=Path,
        metavar="FILE",
        help="what the image should be: its manifest.json, or the output of `winfoundry plan --json` "
        "(default: the manifest.json beside the image, if there is one)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("hosts", None):
        import testinfra.backend

        testinfra.backend.BACKENDS["guestfs"] = "builder.checks.backend.GuestfsBackend"


def pytest_unconfigure() -> None:
    images = sys.modules.get("builder.checks.image")
    if images is not None:
        images.close_all()


@pytest.fixture(scope="module")
def winfoundry_manifest(request: pytest.FixtureRequest, host: Any) -> dict[str, Any]:
    """What the image should be, as its manifest says; {} when there is none, and the image must speak for itself."""
    from builder.checks import manifest

    return manifest.read(request.config.getoption("--winfoundry-manifest"), beside=host.backend.disk)
