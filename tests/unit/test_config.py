import re
from pathlib import Path

import pytest

from builder import config
from builder.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
GIVEN = {"source": "a.qcow2", "virtio_win": "v.iso"}


@pytest.fixture
def pipeline(tmp_path):
    """`pipeline(text, **how)`: the specs that a pipeline file of this text makes."""

    def read(text, *, variables=None, environ=None, **how):
        file = tmp_path / "p.pkr.hcl"
        file.write_text(text)
        return config.from_file(file, variables=variables or {}, environ=environ or {}, **how)

    return read


def problems(error, file="p.pkr.hcl"):
    """The lines of a ConfigError, without the folder of the file."""
    return re.sub(rf"[^ ]*/{file}", file, error.value.why).split("\n       ")


def source(options="", name="w", top=""):
    return (
        f'{top}\nsource "winfoundry" "{name}" {{\n  source = "a.qcow2"\n  virtio_win = "v.iso"\n{options}\n}}\n'
        f'build {{\n  sources = ["source.winfoundry.{name}"]\n}}\n'
    )


# ---------------------------------------------------------------- BuildSpec


def test_defaults_follow_the_name():
    spec = config.from_options({**GIVEN, "name": "w11"})
    assert (spec.output_directory, spec.vm_name) == (Path("output-w11"), "w11")
    assert (spec.boot_timeout, spec.memory, spec.checks) == (600.0, 2048, ("virtio_ready",))
    assert config.from_options(GIVEN).name == "image"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0.5h", 1800), ("1m500ms", 60.5)]
)
def test_durations_are_written_as_in_packer(text, seconds):
    assert config.from_options({**GIVEN, "boot_timeout": text}).boot_timeout == seconds


def test_values_are_converted_as_packer_would():
    given = {**GIVEN, "name": 11, "memory": "4096", "boot": "false", "source_checksum": "sha256:" + "AB" * 32}
    spec = config.from_options(given)
    assert (spec.name, spec.memory, spec.boot) == ("11", 4096, False)
    assert spec.source_checksum == "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("memry", 1, 'memry: there is no such option (did you mean "memory"?)'),
        ("name", "a b", "name: must be 1 to 64 letters, digits, dots, dashes or underscores"),
        ("name", "..", "name: must be 1 to 64 letters, digits, dots, dashes or underscores"),
        ("vm_name", "x'/><qemu:commandline/>", "vm_name: must be 1 to 64 letters, digits, dots, dashes or underscores"),
        ("memory", 100, "memory: must be greater than or equal to 256, got 100"),
        ("cpus", True, "cpus: must be a number"),
        ("boot", "yes", "boot: must be true or false"),
        ("boot_timeout", "10", 'boot_timeout: must be a duration with its unit, like "90s", "10m" or "1h30m"'),
        ("boot_timeout", 600, 'boot_timeout: must be a duration with its unit, like "90s", "10m" or "1h30m"'),
        ("boot_timeout", "29s", "boot_timeout: must be between 30 and 7200 seconds, got 29"),
        ("boot_timeout", "3h", "boot_timeout: must be between 30 and 7200 seconds, got 10800"),
        ("source", "", "source: must not be empty"),
        ("source", Path("a\nb"), "source: must not have the character U+000A"),
        ("source", Path("a\udcff"), "source: must not have the character U+DCFF"),
        ("load_options", "a\x00", "load_options: must not have the character U+0000"),
        ("source_checksum", "sha256:abc", "source_checksum: expected 64 hex digits after sha256:, got 3 characters"),
        ("source_checksum", "md5:abc", 'source_checksum: must be "sha256:HEX", "file:PATH" or "none"'),
        ("accelerator", "xen", "accelerator: must be 'auto', 'kvm' or 'tcg', got 'xen'"),
        ("drivers", {"viostor": "yes"}, "drivers.viostor: must be 'required', 'optional' or 'skip', got 'yes'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_wrong(option, value, sentence):
    with pytest.raises(ConfigError) as caught:
        config.from_options({**GIVEN, option: value})
    assert str(caught.value) == f"command line: 1 problem\n  why: {sentence}"


def test_no_checks_is_said_with_run_checks_not_with_an_empty_list():
    with pytest.raises(ConfigError, match="checks: "):
        config.from_options({**GIVEN, "checks": []})


@pytest.mark.parametrize(
    ("option", "value", "fact"),
    [
        ("test_signing", "on", 'test_signing = "on" excludes secure_boot = true: Windows ignores test-signing'),
        ("integrity_checks", False, "integrity_checks = false excludes secure_boot = true"),
        ("load_options", "DDISABLE", 'load_options = "DDISABLE" excludes secure_boot = true'),
        ("machine_type", "pc", 'machine_type = "pc" excludes secure_boot = true'),
    ],
)
def test_secure_boot_and_what_it_makes_useless_exclude_each_other(option, value, fact):
    with pytest.raises(ConfigError) as caught:
        config.from_options({**GIVEN, "secure_boot": True, option: value})
    assert fact in caught.value.why
    assert config.from_options({**GIVEN, option: value}).secure_boot is False
    assert config.from_options({**GIVEN, "secure_boot": True}).secure_boot is True


def test_the_digest_is_that_of_what_decides_the_result():
    first = config.from_options(GIVEN).digest
    assert (
        first == config.from_options({"source": "b", "virtio_win": "c", "output_directory": "d", "force": True}).digest
    )
    assert first != config.from_options({**GIVEN, "test_signing": "off"}).digest
    assert first != config.from_options({**GIVEN, "boot": False}).digest


# ---------------------------------------------------------------- pipeline files


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.pkr.hcl")), ids=lambda file: file.name)
def test_the_pipelines_of_this_repository_are_valid(file):
    (spec,) = config.from_file(file, variables={}, environ={})
    assert spec.source.suffix == ".qcow2"


def test_all_problems_come_at_once_each_with_file_and_line(pipeline):
    top = 'variable "u" {\n  type = string\n}\nvariable "p" {\n  sensitive = true\n  default = "hunter2"\n}'
    text = source('  memry = 1\n  cpus = "x"\n  vm_name = var.u\n  accelerator = var.p\n  boot {}', top=top)
    with pytest.raises(ConfigError) as caught:
        pipeline(text + 'data "x" "y" {}\n', variables={"v": "1"})
    assert caught.value.what.endswith("p.pkr.hcl: 7 problems")
    assert problems(caught) == [
        "p.pkr.hcl:20: the block data is not read here: run this file with packer",
        "p.pkr.hcl:1: variable u has no value; give one with -var u=…",
        "-var v: the file declares no such variable",
        "p.pkr.hcl:15: the block boot is not read here: run this file with packer",
        "p.pkr.hcl:12: cpus: must be a valid integer, unable to parse string as an integer, got 'x'",
        "p.pkr.hcl:14: accelerator: must be 'auto', 'kvm' or 'tcg', got '<sensitive>'",
        'p.pkr.hcl:11: memry: there is no such option (did you mean "memory"?)',
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = 1\n", "p.pkr.hcl:1: a stands outside of any block"),
        ("locals {}\n", "p.pkr.hcl: there is no build block in it"),
        ('build { sources = ["source.qemu.x"] }', "p.pkr.hcl:1: source.qemu.x belongs to another plugin"),
        ('build { sources = "x" }', "p.pkr.hcl:1: sources is a list of names"),
        (source(name="w").replace("foundry.w", "foundry.v"), '.v is not declared (did you mean "winfoundry.w"?)'),
        (source() + 'build {\n provisioner "x" {}\n}', "the block provisioner is not read here"),
        (source(top="variable {}"), "p.pkr.hcl:1: variable takes one name"),
        (source(top='variable "x" {\nvalidation {}\n}'), "p.pkr.hcl:2: the block validation of a variable"),
        (source(top='variable "x" {\ntype = number\ndefault = "y"\n}'), "variable x: its value is not of type number"),
        (source('  name = "x"'), "p.pkr.hcl:5: name is the label of the source, not an option"),
        (source("  vm_name = local.a", top="locals {\n a = local.b\n b = local.a\n}"), "or defined by itself"),
        (source() + source(name="v", options='  output_directory = "output-w"'), "output-w is the output_directory of"),
    ],
)
def test_what_cannot_be_built_from_is_refused(pipeline, text, sentence):
    with pytest.raises(ConfigError) as caught:
        pipeline(text)
    assert sentence in caught.value.why


def test_a_missing_option_is_reported_at_its_source(pipeline):
    with pytest.raises(ConfigError) as caught:
        pipeline(source().replace('  source = "a.qcow2"\n', ""))
    assert problems(caught) == ["p.pkr.hcl:2: source: is required"]


def test_variables_and_locals_reach_the_options(pipeline):
    top = (
        'packer {\n  required_plugins {\n    winfoundry = { version = "1", source = "s" }\n  }\n}\n'
        'variable "name" { default = "w10" }\nvariable "size" {\n type = number\n default = "4096"\n}\n'
        'variable "none" { default = null }\n'
        'locals {\n  out = "out-${local.up}"\n  up = upper(var.name)\n}\nlocal "mode" { expression = "off" }'
    )
    options = (
        "  output_directory = local.out\n  memory = var.size\n  test_signing = local.mode\n  libvirt_uri = var.none\n"
        '  drivers = { viofs = "skip" }'
    )
    (spec,) = pipeline(source(options, top=top))
    assert (spec.output_directory, spec.memory, spec.test_signing) == (Path("out-W10"), 4096, "off")
    assert (spec.libvirt_uri, spec.drivers) == (None, {"viofs": "skip"})


def test_the_last_of_default_environment_file_and_flag_wins(pipeline, tmp_path):
    text = source("  vm_name = var.x", top='variable "x" { default = "default" }')
    first, second = tmp_path / "1.pkrvars.hcl", tmp_path / "2.pkrvars.hcl"
    first.write_text('x = "first"\nunknown = 1\n')
    second.write_text('x = "second"\n')
    environ = {"PKR_VAR_x": "environment", "PKR_VAR_y": "unknown"}
    steps = [{}, {"environ": environ}, {"variable_files": [first]}, {"variable_files": [first, second]}]
    steps.append({"variables": {"x": "flag"}})
    seen, how = [], {}
    for step in steps:
        how |= step
        seen += [pipeline(text, **how)[0].vm_name]
    assert seen == ["default", "environment", "first", "second", "flag"]


def test_a_folder_is_all_its_files_and_only_then_are_automatic_variables_read(pipeline, tmp_path):
    text = source("  vm_name = var.x", top='variable "x" { default = "default" }')
    (tmp_path / "z.auto.pkrvars.hcl").write_text('x = "automatic"\n')
    assert pipeline(text)[0].vm_name == "default"
    (tmp_path / "p.pkr.hcl").write_text(text.replace('variable "x" { default = "default" }', ""))
    (tmp_path / "v.pkr.hcl").write_text('variable "x" {}\n')
    assert config.from_file(tmp_path, variables={}, environ={})[0].vm_name == "automatic"


@pytest.mark.parametrize(
    ("declared", "text", "option", "expected"),
    [
        ("", "yes", "vm_name = var.x", "yes"),
        ("type = bool", "false", "boot = var.x", False),
        ("type = list(string)", "[1, 2]", 'vm_name = join("", var.x)', "12"),
        ("default = 3", "7", 'vm_name = join("", [var.x])', "7"),
        ("type = map(number)", '{ a = "8.0" }', 'vm_name = "v${var.x.a}"', "v8"),
    ],
)
def test_text_from_outside_becomes_the_type_of_the_variable(pipeline, declared, text, option, expected):
    whole = source(f"  {option}", top=f'variable "x" {{\n{declared}\n}}')
    for how in ({"variables": {"x": text}}, {"environ": {"PKR_VAR_x": text}}):
        assert getattr(pipeline(whole, **how)[0], option.split()[0]) == expected


@pytest.mark.parametrize(
    ("only", "except_", "names"),
    [
        ((), (), ["a", "b", "renamed"]),
        (("winfoundry.a",), (), ["a"]),
        (("*.b",), (), ["b"]),
        (("second.*",), (), ["renamed"]),
        (("*.winfoundry.renamed",), (), ["renamed"]),
        ((), ("*.a",), ["b", "renamed"]),
    ],
)
def test_only_and_except_choose_builds_by_their_packer_names(pipeline, only, except_, names):
    both = source(name="a") + source(name="b")
    named = 'build {\n name = "second"\n source "winfoundry.a" {\n  name = "renamed"\n  memory = 512\n }\n}\n'
    found = pipeline(both + named, only=only, except_=except_)
    assert [spec.name for spec in found] == names
    assert [spec.memory for spec in found if spec.name == "renamed"] in ([], [512])


def test_a_filter_that_leaves_nothing_is_a_mistake(pipeline):
    with pytest.raises(ConfigError, match=r"no build is left by -only and -except; there are: winfoundry\.w"):
        pipeline(source(), only=["typo"])


def test_another_plugins_source_may_stand_beside_ours(pipeline):
    text = source() + 'source "qemu" "q" {\n iso_url = "x"\n}\nbuild {\n sources = ["qemu.q"]\n}\n'
    assert [spec.name for spec in pipeline(text, only=["winfoundry.*"])] == ["w"]


def test_flags_win_over_the_file(pipeline):
    (spec,) = pipeline(source("  memory = 512"), overrides={"memory": 1024, "force": True})
    assert (spec.memory, spec.force) == (1024, True)


# ---------------------------------------------------------------- the virtual machine


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"disk_io": "native", "disk_cache": "writeback"}, "disk_io: native needs disk_cache none or directsync"),
        ({"net_queues": 4, "network": ""}, "net_queues: QEMU's user network has one queue"),
        ({"net_queues": 4, "net_device": "e1000"}, "net_queues: only net_device = virtio has several queues"),
        ({"cpus": 6, "sockets": 4}, "threads: 6 cpus are not 4 sockets x cores x 1 threads"),
        ({"cpus": 6, "numa_nodes": 4}, "numa_nodes: cpus = 6 cannot be split evenly over 4 nodes"),
        ({"devices": {"toaster": "skip"}}, "devices: there is no device 'toaster', known are agent, rng"),
        ({"devices": {"rng": "yes"}}, "devices.rng: must be 'required', 'optional' or 'skip', got 'yes'"),
        ({"virtiofs": {"docs": "docs"}}, "virtiofs: docs must be an absolute path"),
        ({"cpu_model": "a'/><b"}, "cpu_model: must be a model as libvirt names it"),
        ({"net_bridge": "br 0"}, "net_bridge: must be 1 to 64"),
        ({"vtpm": "yes"}, "vtpm: must be true or false"),
        ({"disk_queues": 1000}, "disk_queues: must be less than or equal to 256, got 1000"),
        ({"video": "cirrus"}, "video: must be 'vga', 'virtio' or 'qxl', got 'cirrus'"),
    ],
)
def test_mistakes_about_the_virtual_machine_name_the_option(options, sentence):
    with pytest.raises(ConfigError) as caught:
        config.from_options({**GIVEN, **options})
    assert sentence in str(caught.value)


def test_validate_shows_the_line_of_a_virtual_machines_option(pipeline):
    with pytest.raises(ConfigError) as caught:
        pipeline(source('  disk_cache = "writeback"\n  disk_io = "native"\n  devices = { toaster = "skip" }'))
    assert problems(caught) == [
        "p.pkr.hcl:6: disk_io: native needs disk_cache none or directsync",
        "p.pkr.hcl:7: devices: there is no device 'toaster', "
        "known are agent, rng, balloon, panic, input, vsock, watchdog",
    ]
