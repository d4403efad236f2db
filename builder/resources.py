"""Where the files are that are not Python: beside `builder/` in a checkout, inside it in the wheel."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def templates() -> Path:
    """The folder with the Jinja2 templates: domain/, firstboot/, unattend/, report/."""
    return _folder("templates")


def pipelines() -> Path:
    """The folder with the pipeline files, one per Windows release, and their checks."""
    return _folder("pipelines")


def schema(name: str) -> Path:
    """A published JSON Schema: "inspect" for `winfoundry inspect --json`."""
    return _HERE / "schemas" / f"{name}.json"


def _folder(name: str) -> Path:
    packaged = _HERE / "_data" / name
    return packaged if packaged.is_dir() else _HERE.parent / name
