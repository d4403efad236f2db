"""`winfoundry drivers` and `winfoundry sign`: what a driver disc is worth, and how to make one worth more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from builder.windows.releases import Arch, Release

ADDED = click.option(
    "--driver",
    "driver_folders",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Add the drivers of this folder or ISO to the disc.",
)


@click.command()
@click.argument("disc", type=click.Path(path_type=Path))
@click.option("--for", "windows", metavar="RELEASE/ARCH[/BUILD]", help="As this Windows sees it: w10/amd64.")
@ADDED
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drivers(disc: Path, windows: str | None, driver_folders: tuple[Path, ...], as_json: bool) -> None:
    """List the drivers on DISC (ISO or folder): version, device ids, who signed them, what Windows makes of that."""
    from builder import show
    from builder.host.media import open_media
    from builder.windows import offers

    asked = _windows(windows) if windows else None
    with open_media(disc, driver_folders) as media:
        found = tuple(offers.offers(media, *asked) if asked else offers.everything(media))
    click.echo(json.dumps([show.offer_json(one) for one in found], indent=2) if as_json else show.offers_text(found))


def _windows(text: str) -> tuple[Release, Arch, int]:
    """From "w10/amd64" or "w10/amd64/19045"; without a build, the newest of the release."""
    from builder.windows.releases import RELEASES, Arch

    name, _, rest = text.partition("/")
    arch, _, build = rest.partition("/")
    release = next((row for row in RELEASES if row.name.lower() == name.lower()), None)
    known = next((one for one in Arch if one.lower() == arch.lower()), None)
    if release is None or known is None or not (build.isdecimal() or not build):
        names = ", ".join(row.name for row in RELEASES)
        raise click.UsageError(
            f"--for wants RELEASE/ARCH[/BUILD], got {text!r}; releases: {names}; architectures: {', '.join(Arch)}"
        )
    return release, known, int(build or release.builds[-1])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--cert", type=click.Path(path_type=Path), required=True, help="Signer, then its issuers (PEM).")
@click.option(
    "--key", type=click.Path(path_type=Path), required=True, help="The signer's private key (PEM, mode 0600)."
)
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Holds the passphrase of the key (mode 0600).")
def sign(folder: Path, cert: Path, key: Path, passphrase_file: Path | None) -> None:
    """Sign the driver packages in FOLDER anew, in place: every .sys and every catalogue."""
    from builder.host import signer

    for one in signer.sign(folder, signer.Identity(cert, key, passphrase_file)):
        click.echo(f"{one.catalog}: {one.signature.why}")
        for store, certificate in (("ROOT", one.signature.root), ("TrustedPublisher", one.signature.leaf)):
            if certificate:
                click.echo(f"  {store:17}{certificate.thumbprint}  {certificate.subject}")
