"""Checks an image with pytest-testinfra, in a process of its own: the image is only read, what it says is only data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from builder import resources
from builder.errors import ChecksFailed, ConfigError
from builder.host.process import Finished, run
from builder.model import CheckReport

if TYPE_CHECKING:
    from lxml.etree import _Element

_PATIENCE = 3600.0  # seconds; without KVM the appliance takes 20 to start, and a check about 1
_RAN = (0, 1, 2)  # pytest: passed, failed, errors while collecting; these leave a JUnit file
_NONE_COLLECTED = 5
_KEPT_OUTPUT = 2000  # characters of pytest's output shown when it could not run


def verify(image: Path, checks: Sequence[str | Path], *, evidence: Path, manifest: Path | None = None) -> CheckReport:
    """Runs the checks on a qcow2 image; the outcome is kept as `checks.xml` (JUnit) in the folder `evidence`.

    A check is a Python file or folder, or the name of one that comes with winfoundry ("virtio_ready"). `manifest` says
    what the image should be; without one, the manifest.json beside the image does. Raises ConfigError for a check that
    does not exist, ChecksFailed when none ran.
    """
    files = [_file(check) for check in checks]
    evidence.mkdir(parents=True, exist_ok=True)
    junit = evidence / "checks.xml"
    finished = run(_command(image, files, junit, manifest), timeout=_PATIENCE, env=_environment(), check=False)
    if finished.code == _NONE_COLLECTED or not files:
        raise ChecksFailed("no checks ran", why=f"none found in {', '.join(map(str, checks)) or 'an empty list'}")
    if finished.code not in _RAN or not junit.is_file():
        raise ChecksFailed("the checks could not be run", why=_output(finished))
    return _report(junit)


def _file(check: str | Path) -> Path:
    packaged = resources.pipelines() / "checks"
    for path in (Path(check), packaged / f"{check}.py"):
        if path.exists():
            return path.absolute()
    known = ", ".join(sorted(path.stem for path in packaged.glob("*.py")))
    raise ConfigError(f"there is no check {str(check)!r}", fix=f"give a file, or one of: {known}")


def _command(image: Path, files: Sequence[Path], junit: Path, manifest: Path | None) -> list[str]:
    from builder.checks.backend import host_spec

    options = ["-o", "addopts=", "-o", "junit_family=xunit2", "-c", os.devnull, "--tb=short", "-rs"]
    plugins = ["-p", "no:cacheprovider", "-p", "testinfra.plugin", "-p", "builder.checks.plugin"]
    expected = [f"--winfoundry-manifest={manifest.absolute()}"] if manifest else []
    roots = [f"--rootdir={files[0].parent}"] if files else []
    where = [f"--hosts={host_spec(image)}", f"--junitxml={junit.absolute()}", *roots]
    return [sys.executable, "-m", "pytest", *options, *plugins, *where, *expected, "--", *map(str, files)]


def _environment() -> dict[str, str]:
    """The same run whatever the user's pytest is set up for; our package is found in a checkout, too."""
    ours = str(Path(__file__).resolve().parents[1])
    return {
        "PYTEST_ADDOPTS": "",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH", "")))),
        "PYTHONSAFEPATH": "1",
    }


def _output(finished: Finished) -> str:
    text = finished.stderr.strip() or finished.stdout.decode(errors="replace").strip()
    return text[-_KEPT_OUTPUT:] or f"pytest ended with exit code {finished.code}"


def _report(junit: Path) -> CheckReport:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    cases = list(etree.parse(junit, parser).iter("testcase"))
    if not cases:
        raise ChecksFailed("no checks ran", why="pytest reported no test")
    failed = tuple(_name(case) for case in cases if _outcome(case, "failure", "error") is not None)
    skipped = tuple((_name(case), why) for case in cases if (why := _outcome(case, "skipped")) is not None)
    ended_badly = set(failed) | {name for name, _ in skipped}
    passed = len({_name(case) for case in cases} - ended_badly)
    return CheckReport(passed=passed, failed=tuple(dict.fromkeys(failed)), skipped=skipped, junit=junit)


def _name(case: _Element) -> str:
    """As pytest names it, with its module: "virtio_ready::test_driver_file_exists[windows.qcow2-viostor]"."""
    module = case.get("classname", "").rpartition(".")[2]
    return "::".join(filter(None, (module, case.get("name", ""))))


def _outcome(case: _Element, *kinds: str) -> str | None:
    return next((child.get("message", "") for child in _children(case) if child.tag in kinds), None)


def _children(case: _Element) -> Iterator[_Element]:
    yield from case
