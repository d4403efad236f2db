"""What a build shall be: flags, pipeline files and the Packer plugin make the same `BuildSpec`, or name every mistake.

Option names and their spelling are Packer's. Paths are relative to the current directory, as in Packer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from builder import domain_spec, pipeline_file
from builder.errors import ConfigError
from builder.pipeline_file import did_you_mean
from builder.windows import bcd

SHORTEST_BOOT, LONGEST_BOOT = 30, 7200  # seconds
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_NOT_PRINTED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _text(value: str) -> str:
    """Text that can stand in XML and on a screen."""
    if found := _NOT_PRINTED.search(value):
        raise ValueError(f"must not have the character U+{ord(found[0]):04X}")
    return value


def _path(value: object) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value):
        raise ValueError("must not be empty")
    return Path(_text(str(value)))


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes or underscores")
    return value


def _checksum(value: str) -> str:
    kind, _, rest = value.partition(":")
    if value == "none" or (kind == "file" and rest):
        return _text(value)
    if kind != "sha256":
        raise ValueError('must be "sha256:HEX", "file:PATH" or "none"')
    if not _SHA256.fullmatch(rest.lower()):
        raise ValueError(f"expected 64 hex digits after sha256:, got {len(rest)} characters")
    return value.lower()


def seconds(text: object) -> float:
    """A duration as Packer writes it, "10m" or "1h30m", in seconds. Raises ValueError."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        raise ValueError('must be a duration with its unit, like "90s", "10m" or "1h30m"')
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)(h|ms|m|s)", text))


def _boot_timeout(text: object) -> float:
    found = seconds(text)
    if not SHORTEST_BOOT <= found <= LONGEST_BOOT:
        raise ValueError(f"must be between {SHORTEST_BOOT} and {LONGEST_BOOT} seconds, got {found:g}")
    return found


def _switch(value: object) -> object:
    known = {"true": True, "false": False}
    if not isinstance(value, bool) and value not in known:
        raise ValueError("must be true or false")
    return known[value] if isinstance(value, str) else value


def _whole(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Name = Annotated[str, AfterValidator(_name)]
NameOrNone = Annotated[str, AfterValidator(lambda value: value and _name(value))]
Text = Annotated[str, AfterValidator(_text)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Checksum = Annotated[str, AfterValidator(_checksum)]
Duration = Annotated[float, BeforeValidator(_boot_timeout), WithJsonSchema({"type": "string"})]
Switch = Annotated[bool, BeforeValidator(_switch)]
Whole = Annotated[int, BeforeValidator(_whole)]
Policy = Literal["required", "optional", "skip"]


class BuildSpec(BaseModel):
    """One build. Sizes in MiB and times in seconds where they are numbers; `digest` is the same for the same result."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    name: Name
    source: FilePath
    source_checksum: Checksum = "none"
    virtio_win: FilePath
    virtio_win_checksum: Checksum = "none"
    driver_folders: tuple[FilePath, ...] = ()
    output_directory: FilePath = Path()  # output-<name>
    drivers: Mapping[Name, Policy] = Field(default_factory=dict)
    test_signing: Literal["auto", "on", "off"] = "auto"
    integrity_checks: Switch = True
    load_options: Text = ""
    root: Text = ""  # which of several installations: /dev/sda2
    all_loaders: Switch = False
    recovery_enabled: Switch | None = None
    boot_status_policy: Literal[("", *bcd.STATUS_POLICIES)] = ""  # type: ignore[valid-type]
    boot_menu_timeout: Annotated[Whole, Field(ge=0, le=999)] | None = None
    ems: Switch = False
    guest_agent: Literal["auto", "skip"] = "auto"
    firstboot: tuple[FilePath, ...] = ()
    remote_desktop: Switch = False
    never_sleep: Switch = False
    hibernation_off: Switch = False
    disks_online: Switch = False
    crash_dump: Literal["", "none", "complete", "kernel", "small", "automatic"] = ""
    auto_reboot: Switch | None = None
    utc_clock: Switch = False
    time_zone: Annotated[Text, Field(pattern=r"^[A-Za-z0-9 .()+-]{0,64}$")] = ""
    hostname: Annotated[Text, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9-]{0,14})?$")] = ""
    winrm: Switch = False
    sysprep: Switch = False
    machine_type: Literal["q35", "pc"] = "q35"
    secure_boot: Switch = False
    vtpm: Switch = False
    boot: Switch = True
    boot_timeout: Duration = 600.0
    disk_interface: Literal["virtio", "virtio-scsi"] = "virtio"
    checks: Annotated[tuple[Text, ...], Field(min_length=1)] = ("virtio_ready",)
    run_checks: Switch = True
    vm_name: Name = ""  # name
    cpus: Annotated[Whole, Field(ge=1, le=255)] = 2
    memory: Annotated[Whole, Field(ge=256, le=1 << 20)] = 2048
    sockets: Annotated[Whole, Field(ge=1, le=64)] = 1
    threads: Annotated[Whole, Field(ge=1, le=8, validate_default=True)] = 1
    numa_nodes: Annotated[Whole, Field(ge=1, le=64)] = 1
    cpu_model: Text = "host-passthrough"
    disk_cache: domain_spec.Cache = "none"
    disk_io: domain_spec.Io = "auto"
    disk_discard: domain_spec.Discard = "unmap"
    disk_queues: Annotated[Whole, Field(ge=0, le=256)] = 0
    disk_iothread: Switch = False
    network: NameOrNone = "default"  # "" is QEMU's user network
    net_bridge: NameOrNone = ""
    net_device: domain_spec.NetDevice = "auto"
    net_queues: Annotated[Whole, Field(ge=0, le=256)] = 0
    video: domain_spec.Video = "vga"
    devices: Mapping[Name, Policy] = Field(default_factory=dict)
    virtiofs: Mapping[Text, Text] = Field(default_factory=dict)
    domain_template: FilePath | None = None
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    libvirt_uri: Text | None = None
    compress: Switch = False
    force: Switch = False

    @model_validator(mode="before")
    @classmethod
    def _named_after(cls, options: Any) -> Any:
        name = str(options.get("name"))
        return {"output_directory": f"output-{name}", "vm_name": name, **options} if _NAME.fullmatch(name) else options

    @field_validator("secure_boot")
    @classmethod
    def _alone(cls, secure_boot: bool, info: ValidationInfo) -> bool:
        for option, excluded, why in _AGAINST_SECURE_BOOT:
            if secure_boot and option in info.data and excluded(info.data[option]):
                raise ValueError(f"{option} = {json.dumps(info.data[option])} excludes secure_boot = true: {why}")
        return secure_boot

    @field_validator(*domain_spec.CONTRADICTIONS)
    @classmethod
    def _possible(cls, value: Any, info: ValidationInfo) -> Any:
        if why := domain_spec.CONTRADICTIONS[str(info.field_name)](value, info.data):
            raise ValueError(why)
        return value

    @property
    def digest(self) -> str:
        """SHA-256 of the options that decide the published result; the digests of source and disc come on top."""
        deciding = self.model_dump(mode="json", exclude=_DECIDES_NOTHING)
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


_AGAINST_SECURE_BOOT: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("test_signing", lambda value: value == "on", "Windows ignores test-signing under Secure Boot"),
    ("integrity_checks", lambda value: not value, "Windows ignores nointegritychecks under Secure Boot"),
    ("load_options", bool, "Windows ignores loadoptions under Secure Boot"),
    ("machine_type", lambda value: value != "q35", "libvirt's firmware with Secure Boot needs q35"),
)

_DECIDES_NOTHING = {
    *("source", "source_checksum", "virtio_win", "virtio_win_checksum", "driver_folders"),
    *("output_directory", "boot_timeout", "accelerator", "libvirt_uri", "force"),
}


# ---------------------------------------------------------------- from flags, from files


def from_options(options: Mapping[str, object]) -> BuildSpec:
    """The build that flags describe; its name is "image" unless given. Raises ConfigError naming every mistake."""
    spec, problems = _checked({"name": "image", **options}, {}, "")
    if spec is None:
        raise _mistakes("command line", problems)
    return spec


def from_file(
    path: Path,
    *,
    variables: Mapping[str, str],
    environ: Mapping[str, str],
    variable_files: Sequence[Path] = (),
    only: Sequence[str] = (),
    except_: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
) -> tuple[BuildSpec, ...]:
    """The builds of a pipeline file, or of a folder of them; `overrides` win over the options there.

    Nothing but the pipeline and variable files is opened. Raises ConfigError naming every mistake with file and line.
    """
    found = pipeline_file.read(
        path, variables=variables, variable_files=variable_files, only=only, except_=except_, environ=environ
    )
    problems = list(found.problems)
    specs = []
    for section in found.sections:
        spec, wrong = _checked({**section.options, **(overrides or {})}, section.places, f"{section.place}: ")
        specs += [spec] if spec else []
        problems += wrong
    problems += _clashes(specs)
    if problems:
        raise _mistakes(str(path), [_masked(one, found.secrets) for one in problems])
    return tuple(specs)


def _checked(
    options: Mapping[str, object], places: Mapping[str, object], prefix: str
) -> tuple[BuildSpec | None, list[str]]:
    try:
        return BuildSpec.model_validate(options), []
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    unread = places.keys() - options.keys()  # already reported
    return None, [
        f"{places[option]}: {text}" if (option := str(one["loc"][0])) in places else prefix + text
        for one in wrong
        if not (one["type"] == "missing" and one["loc"][0] in unread)
        for text in (_sentence(one),)
    ]


def _sentence(error: Any) -> str:
    """One mistake as people say it: `drivers.viostor: must be 'required', 'optional' or 'skip', got 'yes'`."""
    path = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in error["loc"] if one != "[key]")[1:]
    match error["type"]:
        case "extra_forbidden":
            return f"{path}: there is no such option{did_you_mean(path, BuildSpec.model_fields)}"
        case "missing":
            return f"{path}: is required"
        case "value_error":
            return f"{path}: {error['ctx']['error']}"
    return f"{path}: {error['msg'].replace('Input should be', 'must be')}, got {error['input']!r:.80}"


def _clashes(specs: Sequence[BuildSpec]) -> list[str]:
    names: dict[Path, list[str]] = {}
    for spec in specs:
        names.setdefault(spec.output_directory, []).append(spec.name)
    return [f"{where} is the output_directory of {' and '.join(of)}" for where, of in names.items() if len(of) > 1]


def _masked(text: str, secrets: frozenset[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "<sensitive>")
    return text


def _mistakes(where: str, problems: Sequence[str]) -> ConfigError:
    number = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
    return ConfigError(f"{where}: {number}", why="\n       ".join(problems))
