"""`winfoundry bcd`: the boot store of an image in bcdedit's words."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--root", default="", metavar="/dev/sda2", help="Which of several Windows installations.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bcd(image: Path, root: str, as_json: bool) -> None:
    """Print the boot store of IMAGE as `bcdedit /enum all` would."""
    from builder import pipeline
    from builder.windows import bcdedit

    store = pipeline.boot_store(image, root)
    click.echo(json.dumps(bcdedit.as_json(store), indent=2) if as_json else bcdedit.text(store))
