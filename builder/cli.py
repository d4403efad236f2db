"""The command line: argv in, pipeline calls, lines and exit codes out. The only module that prints or exits.

Heavy modules are imported inside the commands, so that `--help` answers at once. Options may be written as Packer's
users write them (`-var name=value`, `-on-error=abort`) or with two dashes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import builder
from builder import cli_drivers
from builder.cli_bcd import bcd
from builder.cli_domain import domain
from builder.errors import WinfoundryError

if TYPE_CHECKING:
    from builder.config import BuildSpec

_IMAGE = click.argument("image", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Quiet:
    """Says nothing: standard output is for JSON."""

    def say(self, text: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


class Console:
    """Packer's output: `==> name: stage`, `    name: detail`; or its -machine-readable form."""

    def __init__(self, name: str, *, machine: bool = False) -> None:
        self._name = name
        self._machine = machine

    def say(self, text: str) -> None:
        """A stage begins, or a result."""
        self._print("say", f"==> {self._name}: ", text, "green")

    def message(self, text: str) -> None:
        """A detail of the stage."""
        self._print("message", f"    {self._name}: ", text, None)

    def artifact(self, folder: Path) -> None:
        """The last lines of a build that succeeded."""
        if self._machine:
            self._row(self._name, "artifact", "0", "id", str(folder))
        else:
            click.echo("\n==> Builds finished. The artifacts of successful builds are:")
            click.echo(f"--> {self._name}: {folder}")

    def _print(self, kind: str, prefix: str, text: str, colour: str | None) -> None:
        if _received:
            raise _Interrupted(_received[0])
        if self._machine:
            self._row(self._name, "ui", kind, prefix + text)
        else:
            click.secho("\n".join(prefix + line for line in text.splitlines()), fg=colour)

    def _row(self, *cells: str) -> None:
        plain = (cell.replace(",", "%!(PACKER_COMMA)").replace("\r", "\\r").replace("\n", "\\n") for cell in cells)
        click.echo(",".join((str(int(time.time())), *plain)))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(builder.__version__, prog_name="winfoundry")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Turn a Windows disk image into a golden, virtio-ready template, offline, and prove it before publishing."""
    context.obj = {"debug": debug}


def _variables(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("-var", "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable.")(
        command
    )
    return click.option(
        "-var-file",
        "--var-file",
        "variable_files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Read variables.",
    )(command)


@cli.command()
@click.argument("pipelines", nargs=-1, type=click.Path(path_type=Path))
@_variables
@click.option("-only", "--only", multiple=True, help="Build only these sources (globs).")
@click.option("-force", "--force", is_flag=True, help="Replace an output that exists.")
@click.option("-on-error", "--on-error", type=click.Choice(["cleanup", "abort"]), default="cleanup", show_default=True)
@click.option("-machine-readable", "--machine-readable", is_flag=True)
@click.option("--name", help="Name of the image.")
@click.option("--source", type=click.Path(path_type=Path), help="The qcow2 image to start from; never written.")
@click.option("--source-checksum", metavar="sha256:HEX")
@click.option("--virtio-win", type=click.Path(path_type=Path), help="The virtio-win disc: ISO or folder.")
@click.option("--virtio-win-checksum", metavar="sha256:HEX")
@cli_drivers.ADDED
@click.option("--output", "output_directory", type=click.Path(path_type=Path), help="Folder to publish to.")
@click.option("--boot/--no-boot", default=None, help="Boot the result before publishing.")
@click.option("--run-checks/--no-checks", default=None, help="Check the result before publishing.")
@click.option("--boot-timeout", metavar="10m")
@click.option("--test-signing", type=click.Choice(["auto", "on", "off"]))
@click.option("--root", metavar="/dev/sda2", help="Which of several Windows installations.")
@click.option("--secure-boot", is_flag=True, default=None)
@click.option("--disk-interface", type=click.Choice(["virtio", "virtio-scsi"]))
@click.option("--accelerator", type=click.Choice(["auto", "kvm", "tcg"]))
@click.option("--compress", is_flag=True, default=None)
def build(
    pipelines: tuple[Path, ...],
    variables: tuple[str, ...],
    variable_files: tuple[Path, ...],
    only: tuple[str, ...],
    force: bool,
    on_error: str,
    machine_readable: bool,
    **flags: Any,
) -> None:
    """Build an image, from PIPELINES (*.pkr.hcl) or from flags."""
    from builder import pipeline

    for spec in _specs(pipelines, variables, variable_files, only, {**flags, "force": force or None}):
        console = Console(f"winfoundry.{spec.name}", machine=machine_readable)
        started = time.monotonic()
        folder = pipeline.build(spec, console, keep_workspace=on_error == "abort")
        console.say(f"Build '{spec.name}' finished after {time.monotonic() - started:.0f} seconds.")
        console.artifact(folder)


def _specs(
    pipelines: tuple[Path, ...],
    variables: tuple[str, ...],
    variable_files: tuple[Path, ...],
    only: tuple[str, ...],
    flags: dict[str, Any],
) -> tuple[BuildSpec, ...]:
    from builder import config

    given = {name: value for name, value in flags.items() if value not in (None, ())}
    if not pipelines:
        return (config.from_options(given),)
    return tuple(
        spec
        for path in pipelines
        for spec in config.from_file(
            path,
            variables=_pairs(variables),
            variable_files=variable_files,
            only=only,
            overrides=given,
            environ=os.environ,
        )
    )


def _pairs(variables: tuple[str, ...]) -> dict[str, str]:
    bad = [one for one in variables if "=" not in one]
    if bad:
        raise click.UsageError(f"-var wants NAME=VALUE, got {bad[0]!r}")
    return dict(one.split("=", 1) for one in variables)


@cli.command()
@click.argument("pipelines", nargs=-1, required=True, type=click.Path(path_type=Path))
@_variables
def validate(pipelines: tuple[Path, ...], variables: tuple[str, ...], variable_files: tuple[Path, ...]) -> None:
    """Check pipeline files, all problems at once; nothing is opened."""
    from builder import config

    for path in pipelines:
        config.from_file(path, variables=_pairs(variables), variable_files=variable_files, environ=os.environ)
        click.echo(f"{path}: The configuration is valid.")


def _schema(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """`inspect --schema`: the JSON Schema of `inspect --json`, without an image."""
    if wanted:
        from builder import resources

        click.echo(resources.schema("inspect").read_text(), nl=False)
        context.exit()


_ROOT = click.option("--root", default="", metavar="/dev/sda2", help="Which of several Windows installations.")


@cli.command()
@_IMAGE
@_ROOT
@_JSON
@click.option("--schema", is_flag=True, is_eager=True, expose_value=False, callback=lambda *given: _schema(*given))
def inspect(image: Path, root: str, as_json: bool) -> None:
    """Tell which Windows IMAGE holds, and what it can boot from today."""
    from builder import pipeline, show

    guest = pipeline.inspect(image, root)
    click.echo(json.dumps(show.guest_json(guest), indent=2) if as_json else show.guest_text(guest))


@cli.command()
@_IMAGE
@click.option(
    "--virtio-win", type=click.Path(path_type=Path), required=True, help="The virtio-win disc: ISO or folder."
)
@cli_drivers.ADDED
@click.option("--test-signing", type=click.Choice(["auto", "on", "off"]), default="auto")
@_ROOT
@click.option("--reg", type=click.Path(path_type=Path), help="Write the registry part to this .reg file.")
@click.option("--reverse", "backwards", is_flag=True, help="Print what puts the registry back instead.")
@_JSON
def plan(image: Path, as_json: bool, reg: Path | None, backwards: bool, **flags: Any) -> None:
    """Show what a build would change on IMAGE, as a diff; nothing is changed."""
    from builder import config, pipeline, show

    spec = config.from_options({"source": image, **flags})
    quiet = as_json or backwards
    made, changes = pipeline.plan(spec, Quiet() if quiet else Console(f"winfoundry.{image.stem}"))
    if reg:
        reg.write_bytes(show.plan_reg(changes, backwards=backwards))
    click.echo(show.plan_as(made, changes, as_json=as_json, backwards=backwards))


@cli.command()
@_IMAGE
@click.option("--bus", type=click.Choice(["virtio", "scsi", "sata", "ide"]), default="virtio", show_default=True)
@click.option("--boot-timeout", metavar="10m", default="10m", show_default=True)
@click.option("--evidence", type=click.Path(path_type=Path), help="Keep screenshots and logs here (IMAGE-boot/).")
@click.option("--accelerator", type=click.Choice(["auto", "kvm", "tcg"]), default="auto")
@click.pass_context
def boot(
    context: click.Context, image: Path, bus: str, boot_timeout: str, evidence: Path | None, accelerator: Any
) -> None:
    """Boot IMAGE through libvirt on a throw-away overlay and give the verdict (exit 6 when it does not come up)."""
    from builder import pipeline
    from builder.model import Bus

    report = pipeline.boot(
        image,
        Bus(bus),
        boot_timeout,
        evidence or Path(f"{image.stem}-boot"),
        accelerator=accelerator,
        ui=Console(f"winfoundry.{image.stem}"),
    )
    click.echo(f"{report.verdict}: {report.advice}")
    context.exit(0 if report.ok else 6)


@cli.command()
@_IMAGE
@click.option("--checks", multiple=True, default=("virtio_ready",), show_default=True, help="Check suite or file.")
@click.pass_context
def verify(context: click.Context, image: Path, checks: tuple[str, ...]) -> None:
    """Run the checks on IMAGE, offline (exit 7 when one fails)."""
    from builder import pipeline, show

    report = pipeline.verify(image, checks)
    click.echo(show.checks_text(report))
    context.exit(0 if report.ok else 7)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--firmware", type=click.Choice(["bios", "uefi"]), default="bios", show_default=True)
def sample(folder: Path, firmware: str) -> None:
    """Make the embedded sample in FOLDER: a Windows-shaped disk and a driver disc for it."""
    from builder import sample as embedded
    from builder.model import Firmware

    console = Console("winfoundry.sample")
    console.say("Making the sample disk and its driver disc...")
    made = embedded.make(folder, firmware=Firmware(firmware))
    console.message(f"disk: {made.disk}")
    console.message(f"driver disc: {made.drivers}")


@cli.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Tell what this machine can and cannot do (exit 4 when something needed is missing)."""
    from builder import doctor as environment

    findings = environment.examine()
    for one in findings:
        click.echo(
            f"{'ok' if one.ok else '--':3}{one.name:22}{one.found}" + ("" if one.ok else f"\n   {one.why}; {one.fix}")
        )
    context.exit(0 if all(one.ok for one in findings if one.needed) else 4)


@cli.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
def clean(folders: tuple[Path, ...]) -> None:
    """Remove the workspaces of killed builds from FOLDERS (the current one by default); running builds keep theirs."""
    from builder import source

    for removed in source.clean(folders or (Path.cwd(),)):
        click.echo(f"removed {removed}")


cli.add_command(bcd)
cli.add_command(domain)
cli.add_command(cli_drivers.drivers)
cli.add_command(cli_drivers.sign)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C, so that everything is cleaned up (exit 143 and 129)."""

    def interrupt(number: int, _frame: object) -> None:
        _received.append(number)
        for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)  # a second one must not cut the cleanup short
        raise _Interrupted(number)

    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(one, interrupt)
    yield


_received: list[int] = []
"""Signals so far: Python drops an exception that is raised while it runs a finaliser, so the console asks again."""


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def main() -> None:
    """The entry point of the `winfoundry` command."""
    try:
        with _signals():
            code = cli.main(standalone_mode=False)
    except (Exception, _Interrupted) as error:
        if "--debug" in sys.argv:
            raise
        code = _explained(error)
    sys.exit(code)


def _explained(error: BaseException) -> int:
    """Tells the user what went wrong, and gives the exit code for it."""
    match error:
        case WinfoundryError():
            click.secho(f"error: {error}", fg="red", err=True)
            return error.exit_code
        case _Interrupted():
            click.echo("error: interrupted\n  state: source untouched, nothing published", err=True)
            return error.exit_code
        case click.ClickException():
            error.show()
            return 2
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
            return 128 + signal.SIGPIPE
    click.secho(f"error: a bug in winfoundry: {type(error).__name__}: {error}", fg="red", err=True)
    click.echo("  fix: run again with `winfoundry --debug …` and report what it prints", err=True)
    return WinfoundryError.exit_code


if __name__ == "__main__":
    main()
