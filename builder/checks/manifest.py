"""What an image should be: read from its manifest.json, or from the output of `winfoundry plan --json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.errors import ConfigError

_LARGEST = 16 << 20  # bytes


def read(given: Path | None, *, beside: Path) -> dict[str, Any]:
    """The manifest `given`, else the manifest.json beside the image, else {}. Raises ConfigError."""
    path = given or beside.with_name("manifest.json")
    if given is None and not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_LARGEST))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a manifest", why=str(error)) from error
    if not isinstance(found, dict) or not isinstance(found.get("drivers"), list):
        raise ConfigError(f"{path} is not a manifest of winfoundry", why='it has no list of "drivers"')
    return found
