"""`winfoundry domain …`: libvirt domains rendered for an image, converted to virtio, compared, defined."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.errors import ConfigError, InputRefused

if TYPE_CHECKING:
    from builder.convert import Converted, Target

_PATH = click.Path(path_type=Path)
_OUTPUT = click.option("--output", "-o", type=_PATH, help="Write the XML here, for you alone; else it is printed.")
_CONNECT = click.option("--connect", metavar="URI", help="The libvirt to talk to.")
_BACKUPS = click.option("--backups", type=_PATH, default=Path(), help="Folder for what was there before [.].")


@click.group()
def domain() -> None:
    """Render, convert, compare and define libvirt domains."""


@domain.command()
@click.argument("image", type=_PATH)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An option of a build; devices.rng=skip.")
@_OUTPUT
def render(image: Path, settings: tuple[str, ...], output: Path | None) -> None:
    """The domain XML for IMAGE, with nothing that it has no driver for."""
    from builder import config, pipeline

    options = {"name": image.stem, **_options(settings), "source": image, "virtio_win": "none"}
    _deliver(pipeline.render_domain(config.from_options(options)).encode(), output)


def _options(settings: tuple[str, ...]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--set wants NAME=VALUE, got {setting!r}")
        option, dot, key = name.partition(".")
        if dot:
            options.setdefault(option, {})[key] = value
        else:
            options[name] = value
    return options


def _wishes(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a conversion."""
    for option in reversed(
        (
            click.option("--for", "image", type=_PATH, metavar="IMAGE", help="Look which drivers this image has."),
            click.option(
                "--disk-interface",
                type=click.Choice(["virtio", "virtio-scsi"]),
                default="virtio",
                show_default=True,
            ),
            click.option("--cache", type=click.Choice(["none", "writeback", "writethrough", "directsync", "unsafe"])),
            click.option("--io", type=click.Choice(["auto", "native", "threads", "io_uring"])),
            click.option("--discard", type=click.Choice(["unmap", "ignore"])),
            click.option(
                "--transitional",
                is_flag=True,
                help="The first of two steps: the disks stay, an empty one on virtio is added for Windows to meet.",
            ),
            click.option("--scratch", type=_PATH, help="That empty disk, made when missing [NAME-scratch.qcow2]."),
        )
    ):
        command = option(command)
    return command


@domain.command()
@click.argument("old", type=click.Path(path_type=Path, allow_dash=True))
@_wishes
@click.option("--rollback", is_flag=True, help="Print what OLD was converted from (kept beside it by --output).")
@_OUTPUT
def convert(old: Path, rollback: bool, output: Path | None, **wishes: Any) -> None:
    """Move the domain OLD (a file, or - for standard input) to virtio; everything else stays as it is."""
    if rollback:
        _deliver(_original(old, _read(old)), output)
        return
    xml = _read(old)
    done = _converted(xml, **wishes)
    if output and done.changes:
        _keep_original(output, xml)
    _deliver(done.xml, output)
    _report(done)


@domain.command()
@click.argument("old", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("new", type=_PATH, required=False)
@click.pass_context
def diff(context: click.Context, old: Path, new: Path | None) -> None:
    """What differs between OLD and NEW, or OLD and its conversion (exit 1 then); secrets and paths are hidden."""
    from builder import domain_diff
    from builder.convert import Target
    from builder.convert import convert as converted

    xml = _read(old)
    found = domain_diff.diff(xml, _read(new) if new else converted(xml, Target()).xml)
    if found:
        click.echo(found)
    context.exit(1 if found else 0)


@domain.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_CONNECT
@_BACKUPS
def define(file: Path, connect: str | None, backups: Path) -> None:
    """Define the domain FILE in libvirt; one that is there already is saved first."""
    _define(_read(file), connect, backups)


@domain.command()
@click.argument("name")
@_wishes
@_CONNECT
@_BACKUPS
def swap(name: str, connect: str | None, backups: Path, **wishes: Any) -> None:
    """Convert the domain NAME that libvirt has, and define the result in its place; the old one is saved first."""
    from builder.host import definitions, hypervisor

    done = _converted(definitions.current(name, connect or hypervisor.default_uri()), **wishes)
    if done.changes:
        _define(done.xml, connect, backups)
    _report(done)


def _define(xml: bytes, connect: str | None, backups: Path) -> None:
    from builder.host import definitions, hypervisor

    made = definitions.define(xml, connect or hypervisor.default_uri(), backups=backups)
    click.echo(f"{made.name}: defined" + (", in effect from its next start" if made.running else ""))
    if made.backup:
        click.echo(f"{made.name}: to go back: winfoundry domain define {made.backup}")


# ---------------------------------------------------------------- a conversion


def _converted(xml: bytes, image: Path | None, transitional: bool, scratch: Path | None, **wishes: Any) -> Converted:
    from builder.convert import convert as converted

    place = _scratch(xml, scratch) if transitional else None
    done = converted(xml, _target(image, place, **wishes))
    if place and done.changes:
        _make_scratch(place)
    return done


def _target(image: Path | None, scratch: Path | None, disk_interface: str, **tuning: Any) -> Target:
    from builder import pipeline
    from builder.convert import Target
    from builder.convert_disks import Tuning
    from builder.model import Bus

    return Target(
        bus=Bus.SCSI if disk_interface == "virtio-scsi" else Bus.VIRTIO,
        tuning=Tuning(**tuning),
        provides=pipeline.provides(image)[1] if image else None,
        scratch=str(scratch or ""),
    )


def _scratch(xml: bytes, given: Path | None) -> Path:
    from builder.domain_xml import parse, shown

    name = shown(parse(xml).findtext("name")).replace("?", "-").lstrip(".") or "domain"
    return (given or Path(f"{name}-scratch.qcow2")).absolute()


def _make_scratch(path: Path) -> None:
    from builder.host.process import run

    if not path.exists():
        run(("qemu-img", "create", "-q", "-f", "qcow2", path, "64M"), timeout=60)


def _report(done: Converted) -> None:
    """The list of changes, beside the XML: on standard error."""
    for line in done.changes or ("nothing to change: the domain is on virtio",):
        click.echo(line, err=True)
    for line in done.notes:
        click.echo(f"note: {line}", err=True)


# ---------------------------------------------------------------- files


def _read(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InputRefused(f"cannot read {path}", why=error.strerror or str(error)) from None


def _deliver(xml: bytes, output: Path | None) -> None:
    """To standard output, or to a file for the user alone: a domain may have passwords in it."""
    if output is None:
        click.echo(xml, nl=False)
        return
    _write(output, xml)


def _write(path: Path, content: bytes) -> None:
    from builder.host import files

    try:
        files.write_atomic(path, content, mode=0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {path}", why=error.strerror or str(error)) from None


def _kept(path: Path) -> Path:
    return path.with_name(f"{path.name}.original")


def _keep_original(output: Path, xml: bytes) -> None:
    """Beside the output; what a later step starts from is no original."""
    if not (_kept(output).exists() and output.exists() and output.read_bytes() == xml):
        _write(_kept(output), xml)


def _original(converted: Path, xml: bytes) -> bytes:
    from builder.domain_xml import parse

    original = _read(_kept(converted))
    was, now = parse(original), parse(xml)
    if any(was.findtext(key) != now.findtext(key) for key in ("name", "uuid")):
        raise InputRefused(f"{_kept(converted).name} is not of the same domain", why="its name or UUID differs")
    return original
