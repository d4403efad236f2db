"""Pipeline files in Packer's shape: variables, locals, sources and builds of `.pkr.hcl`, made into option tables.

A file means here what it means to `packer build`, or it is refused by name. As in Packer a folder stands for all its
`*.pkr.hcl` files, and only then are its `*.auto.pkrvars.hcl` read (measured with Packer 1.6.6). A variable gets its
value from, later ones winning: its default, PKR_VAR_name, *.auto.pkrvars.hcl, -var-file, -var.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from builder import hcl
from builder.hcl import Block, Place, Refused, Scope, Value

PLUGIN = "winfoundry"
_BLOCKS = ("packer", "variable", "locals", "local", "source", "build")
_PACKER = "run this file with packer"


@dataclass(frozen=True, slots=True)
class Section:
    """One build of one source: its options, and where each was written, those too that could not be evaluated."""

    place: Place
    options: Mapping[str, Value]
    places: Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Contents:
    """What was read; with problems the sections are not complete. `secrets` are the values of sensitive variables."""

    sections: tuple[Section, ...]
    problems: tuple[str, ...]
    secrets: frozenset[str]


def read(
    path: Path,
    *,
    variables: Mapping[str, str],
    variable_files: Sequence[Path],
    only: Sequence[str],
    except_: Sequence[str],
    environ: Mapping[str, str],
) -> Contents:
    """The builds of `path` (a file, or a folder of them) that `only` and `except_` leave, in the order of the file."""
    problems: list[str] = []
    folder = path if path.is_dir() else path.parent
    files = sorted(path.glob("*.pkr.hcl")) if path.is_dir() else [path]
    automatic = sorted(path.glob("*.auto.pkrvars.hcl")) if path.is_dir() else []
    blocks = _top_level(files, problems)
    declared = [block for block in blocks if block.type == "variable"]
    given = _Given(_files_of_variables([*automatic, *variable_files], problems), variables, environ)
    values = _values(declared, given, problems)
    scope = _scope(values, blocks, folder, problems)
    sections = _sections(blocks, scope, (only, except_), problems)
    if not problems and not any(block.type == "build" for block in blocks):
        problems.append(f"{path}: there is no build block in it")
    return Contents(sections, tuple(dict.fromkeys(problems)), _secrets(declared, values))


@contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    """Collects what is refused inside, so that all of it is reported at once."""
    try:
        yield
    except Refused as error:
        problems.append(error.what)


def _top_level(files: Sequence[Path], problems: list[str]) -> list[Block]:
    known = []
    for file in files:
        with _noting(problems):
            whole = hcl.read(file)
            problems += [f"{one.place}: {name} stands outside of any block" for name, one in whole.attributes.items()]
            known += [block for block in whole.blocks if block.type in _BLOCKS]
            problems += [_unknown(block) for block in whole.blocks if block.type not in _BLOCKS]
    return known


def _unknown(block: Block) -> str:
    return f"{block.place}: the block {block.type} is not read here: {_PACKER}"


# ---------------------------------------------------------------- variables


def _files_of_variables(files: Sequence[Path], problems: list[str]) -> dict[str, Value]:
    """Names nobody declared are allowed, as in Packer: one file may serve several pipelines."""
    values: dict[str, Value] = {}
    for file in files:
        with _noting(problems):
            values |= {name: one.value({}) for name, one in hcl.read(file).attributes.items()}
    return values


@dataclass(frozen=True, slots=True)
class _Given:
    """Values from outside of the pipeline file: from variable files, from -var, from the environment."""

    files: Mapping[str, Value]
    flags: Mapping[str, str]
    environ: Mapping[str, str]


class _Lazy(dict[str, Value]):
    """Finds a value when it is first asked for. What was refused is refused again in the same words."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: dict[str, Callable[[], Value]] = {}
        self._open: set[str] = set()

    def __missing__(self, name: str) -> Value:
        if name in self._open:
            raise KeyError(name)  # it is defined by itself
        self._open.add(name)
        try:
            self[name] = value = self.rules[name]()
        finally:
            self._open.discard(name)
        return value


def _values(declared: Sequence[Block], given: _Given, problems: list[str]) -> _Lazy:
    values = _Lazy()
    for block in declared:
        with _noting(problems):
            name = _only_label(block)
            values.rules[name] = partial(_value, name, block, given)
            _ = values[name]
    for name in given.flags.keys() - values.rules.keys():
        problems.append(f"-var {name}: the file declares no such variable{did_you_mean(name, values.rules)}")
    return values


def _value(name: str, block: Block, given: _Given) -> Value:
    for inner in block.blocks:
        raise Refused(inner.place, f"the block {inner.type} of a variable is not read here: {_PACKER}")
    default = block.attributes["default"].value({}) if "default" in block.attributes else None
    type_ = block.attributes["type"].source().strip('"') if "type" in block.attributes else _type_of(default)
    variable = f"PKR_VAR_{name}"
    try:
        if name in given.flags:
            return _typed(_parsed(f"-var {name}", given.flags[name], type_), type_)
        if name in given.files:
            return _typed(given.files[name], type_)
        if variable in given.environ:
            return _typed(_parsed(variable, given.environ[variable], type_), type_)
        if "default" in block.attributes:
            return _typed(default, type_)
    except ValueError:
        raise Refused(block.place, f"variable {name}: its value is not of type {type_}") from None
    raise Refused(block.place, f"variable {name} has no value; give one with -var {name}=…")


def _type_of(default: Value) -> str:
    kinds = {bool: "bool", int: "number", float: "number", list: "list(any)", dict: "map(any)"}
    return kinds.get(type(default), "string")


def _parsed(where: str, text: str, type_: str) -> Value:
    """Text from outside is text for a string variable, else it is read as HCL."""
    return text if type_ == "string" else hcl.parse_expression(text, Path(where)).value({})


_COLLECTION = re.compile(r"(list|set|map)\((.+)\)")


def _typed(value: Value, type_: str) -> Value:
    """`value` converted as HCL would to a variable's type. Raises ValueError."""
    if value is None:
        return None
    if found := _COLLECTION.fullmatch(type_):
        return _collection(value, found[1], found[2])
    match type_:
        case "string":
            return hcl.as_text(value)
        case "number" if not isinstance(value, list | dict | bool):
            number = float(value)
            return int(number) if number.is_integer() else number
        case "bool" if value is True or value == "true":
            return True
        case "bool" if value is False or value == "false":
            return False
        case "number" | "bool":
            raise ValueError(value)
    return value


def _collection(value: Value, kind: str, inner: str) -> Value:
    if kind == "map" and isinstance(value, dict):
        return {name: _typed(one, inner) for name, one in value.items()}
    if kind != "map" and isinstance(value, list):
        return [_typed(one, inner) for one in value]
    raise ValueError(value)


def _secrets(declared: Sequence[Block], values: Mapping[str, Value]) -> frozenset[str]:
    sensitive = [block.labels[0] for block in declared if block.labels and "sensitive" in block.attributes]
    return frozenset(str(values[name]) for name in sensitive if values.get(name) not in (None, "", True, False))


# ---------------------------------------------------------------- locals, sources, builds


def _scope(values: _Lazy, blocks: Sequence[Block], folder: Path, problems: list[str]) -> Scope:
    local = _Lazy()
    scope: Scope = {"var": values, "local": local, "path": {"root": folder.as_posix(), "cwd": Path.cwd().as_posix()}}
    for block in blocks:
        if block.type == "locals":
            local.rules |= {name: partial(one.value, scope) for name, one in block.attributes.items()}
        elif block.type == "local" and "expression" in block.attributes:
            with _noting(problems):
                local.rules[_only_label(block)] = partial(block.attributes["expression"].value, scope)
    return scope


def _sections(
    blocks: Sequence[Block], scope: Scope, filters: tuple[Sequence[str], Sequence[str]], problems: list[str]
) -> tuple[Section, ...]:
    sources = {".".join(block.labels): block for block in blocks if block.type == "source"}
    sections, names = [], []
    for build in (block for block in blocks if block.type == "build"):
        problems += [_unknown(inner) for inner in build.blocks if inner.type != "source"]
        with _noting(problems):
            for reference, overrides in _references(build, scope):
                name = _build_name(build, reference, overrides, scope)
                names.append(name)
                if _wanted(name, *filters):
                    sections.append(_section(reference, sources, overrides, scope, problems))
    if names and not sections and not problems:
        problems.append(f"no build is left by -only and -except; there are: {', '.join(names)}")
    return tuple(sections)


def _only_label(block: Block) -> str:
    if len(block.labels) != 1:
        raise Refused(block.place, f'{block.type} takes one name: {block.type} "name" {{ … }}')
    return block.labels[0]


def _build_name(build: Block, reference: str, overrides: Block, scope: Scope) -> str:
    """As Packer calls it: `winfoundry.win11`, or `nightly.winfoundry.win11` when the build block has a name."""
    if "name" in overrides.attributes:
        reference = f"{reference.partition('.')[0]}.{overrides.attributes['name'].value(scope)}"
    return f"{build.attributes['name'].value(scope)}.{reference}" if "name" in build.attributes else reference


def _references(build: Block, scope: Scope) -> Iterator[tuple[str, Block]]:
    """The sources a build names, each with the block that overrides its options (the empty one for a plain name)."""
    nothing = Block("source", (), build.place, {}, ())
    listed = build.attributes["sources"].value(scope) if "sources" in build.attributes else []
    if not isinstance(listed, list):
        raise Refused(build.attributes["sources"].place, "sources is a list of names")
    named = [(str(one), nothing) for one in listed]
    named += [(_only_label(inner), inner) for inner in build.blocks if inner.type == "source"]
    for text, overrides in named:
        yield re.sub(r"^sources?\.", "", text), overrides


def _wanted(name: str, only: Sequence[str], except_: Sequence[str]) -> bool:
    def among(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    return (not only or among(only)) and not among(except_)


def _section(
    reference: str, sources: Mapping[str, Block], overrides: Block, scope: Scope, problems: list[str]
) -> Section:
    plugin, _, name = reference.partition(".")
    if plugin != PLUGIN:
        raise Refused(overrides.place, f"source.{reference} belongs to another plugin: {_PACKER}")
    if reference not in sources:
        raise Refused(overrides.place, f"source.{reference} is not declared{did_you_mean(reference, sources)}")
    block = sources[reference]
    problems += [_unknown(inner) for inner in (*block.blocks, *overrides.blocks)]
    if "name" in block.attributes:
        problems.append(f"{block.attributes['name'].place}: name is the label of the source, not an option")
    options: dict[str, Value] = {"name": name}
    places = {"name": block.place}
    for key, expression in {**block.attributes, **overrides.attributes}.items():
        places[key] = expression.place
        with _noting(problems):
            options[key] = expression.value(scope)
    return Section(block.place, {key: value for key, value in options.items() if value is not None}, places)


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """` (did you mean "…"?)`, or nothing when no known name is close."""
    close = get_close_matches(name, known, n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""
