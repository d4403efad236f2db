"""Packer's configuration language, as far as a pipeline file needs it: text in, plain values out.

python-hcl2 gives the syntax tree with the place of everything in it; this module evaluates literals, lists, objects,
templates, `var.x`, `local.x`, `path.root` and the functions of `FUNCTIONS`. All else is refused by name: guessing what
Packer would have made of it would build another image than Packer does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from builder.errors import ConfigError

LARGEST_FILE = 1 << 20  # bytes

Value = str | int | float | bool | None | list[Any] | dict[str, Any]
Scope = Mapping[str, Mapping[str, Value]]
"""What names mean: {"var": {…}, "local": {…}, "path": {…}}."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written; a line of 0 means the file as a whole."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


class Refused(ConfigError):
    """One thing at one place that cannot be read."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(f"{place}: {text}")


@dataclass(frozen=True, slots=True)
class Expression:
    """Something to be evaluated."""

    place: Place
    tree: Any

    def value(self, scope: Scope) -> Value:
        """Raises Refused naming what cannot be evaluated."""
        try:
            return _evaluate(self.tree, scope)
        except _Unreadable as error:
            line = getattr(error.tree.meta, "line", self.place.line)
            raise Refused(Place(self.place.file, line), str(error)) from None
        except RecursionError:
            raise Refused(self.place, "is nested too deeply") from None

    def source(self) -> str:
        """The expression as written, without blanks: `list(string)`."""
        return "".join(str(token).strip() for token in self.tree.scan_values(lambda _: True))


@dataclass(frozen=True, slots=True)
class Block:
    """`type "label" … { attributes blocks }`; a whole file is a block without type and labels."""

    type: str
    labels: tuple[str, ...]
    place: Place
    attributes: Mapping[str, Expression]
    blocks: tuple[Block, ...]


def read(file: Path) -> Block:
    """The pipeline or variable file. Raises Refused with line and column when it is not HCL."""
    whole = Place(file, 0)
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise Refused(whole, f"cannot be read: {error.strerror}") from None
    if len(data) > LARGEST_FILE:
        raise Refused(whole, f"has more than {LARGEST_FILE} bytes")
    if data.startswith(b"\xef\xbb\xbf"):
        raise Refused(whole, "starts with a byte order mark; save it as UTF-8 without one")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Refused(Place(file, line), f"is not UTF-8: byte {data[error.start]:#04x}") from None
    return parse(text, file)


def parse(text: str, file: Path) -> Block:
    """`text` as the block it is, `file` only names it. Raises Refused."""
    import hcl2
    from lark.exceptions import LarkError, UnexpectedInput

    try:
        tree = hcl2.parses_to_tree(text)
    except UnexpectedInput as error:
        line, column = max(error.line, 1), max(error.column, 1)
        raise Refused(Place(file, line), f"column {column}: is not HCL: {_excerpt(text, line, column)}") from None
    except LarkError as error:
        raise Refused(Place(file, 0), f"is not HCL: {str(error).splitlines()[0]}") from None
    try:
        return _block(tree.children[0], "", (), Place(file, 1))
    except RecursionError:
        raise Refused(Place(file, 0), "is nested too deeply") from None


def parse_expression(text: str, file: Path) -> Expression:
    """`text` as the value of a variable given as -var or in the environment. Raises Refused."""
    return parse(f"value = {text}", file).attributes["value"]


def _excerpt(text: str, line: int, column: int) -> str:
    found = (text.splitlines() or [""])[line - 1 : line]
    rest = found[0][column - 1 :].strip() if found else ""
    return f"did not expect {rest[:40]!r}" if rest else "something is missing here"


def _block(body: Any, type_: str, labels: tuple[str, ...], place: Place) -> Block:
    attributes: dict[str, Expression] = {}
    blocks = []
    for tree in _trees(body):
        at = Place(place.file, tree.meta.line)
        name = str(tree.children[0].children[0])
        if tree.data == "block":
            words = tuple(_label(one, at) for one in _trees(tree)[1:-1])
            blocks.append(_block(tree.children[-2], name, words, at))
        elif name in attributes:
            raise Refused(at, f"{name} is given twice")
        else:
            attributes[name] = Expression(at, tree.children[2])
    return Block(type_, labels, place, attributes, tuple(blocks))


def _label(tree: Any, at: Place) -> str:
    text = str(tree.children[0]) if tree.data == "identifier" else Expression(at, tree).value({})
    if not isinstance(text, str):
        raise Refused(at, "a label is plain text")
    return text


# ---------------------------------------------------------------- evaluation


class _Unreadable(Exception):
    def __init__(self, tree: Any, text: str) -> None:
        super().__init__(text)
        self.tree = tree


def _trees(tree: Any) -> list[Any]:
    return [one for one in tree.children if hasattr(one, "data") and one.data != "new_line_or_comment"]


def _evaluate(tree: Any, scope: Scope) -> Value:
    rule = _RULES.get(tree.data)
    if rule is None:
        raise _Unreadable(tree, f"{_NAMES.get(tree.data, tree.data)} is not read here: run this file with packer")
    return rule(tree, scope)


def _inner(tree: Any, scope: Scope) -> Value:
    (inner,) = _trees(tree)
    return _evaluate(inner, scope)


def _identifier(tree: Any, scope: Scope) -> Value:
    raise _Unreadable(tree, f"{tree.children[0]} means nothing here; text is written in quotes")


def _number(tree: Any, scope: Scope) -> Value:
    text = str(tree.children[0])
    try:
        number = int(text) if tree.data == "int_lit" else float(text)
        return int(number) if number == int(number) else number
    except (ValueError, OverflowError):
        raise _Unreadable(tree, "this number is too large") from None


def _negative(tree: Any, scope: Scope) -> Value:
    value = _evaluate(tree.children[-1], scope)
    if tree.children[0] != "-" or isinstance(value, bool) or not isinstance(value, int | float):
        raise _Unreadable(tree, f"the operator {tree.children[0]} is not read here: run this file with packer")
    return -value


def _template(tree: Any, scope: Scope) -> Value:
    parts = [_part(one, scope) for one in _trees(tree)]
    if len(parts) == 1:
        return parts[0]  # "${var.n}" is the number, as in HCL
    return "".join(_text(one, tree) for one in parts)


def _part(tree: Any, scope: Scope) -> Value:
    (piece,) = tree.children
    if hasattr(piece, "data"):
        return _evaluate(piece, scope)
    if "\n" in piece:
        raise _Unreadable(tree, "text in quotes ends on its line; write \\n for a new one")
    escaped = piece.type in ("ESCAPED_INTERPOLATION", "ESCAPED_DIRECTIVE")
    return _ESCAPE.sub(lambda found: _unescape(found, tree), piece[1:] if escaped else piece)


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_SURROGATES = range(0xD800, 0xE000)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def _unescape(found: re.Match[str], tree: Any) -> str:
    code = int(found[1] or found[2] or "D800", 16)
    if code <= 0x10FFFF and code not in _SURROGATES:
        return chr(code)
    if found[3] not in _ESCAPES:
        raise _Unreadable(tree, f"there is no escape {found[0]}")
    return _ESCAPES[found[3]]


def as_text(value: Value) -> str:
    """`value` as HCL makes text of it: true, 1.5. Raises ValueError for null, lists and objects."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float() | str():
            return str(value)
    raise ValueError("only text, numbers and true/false can stand in a text")


def _text(value: Value, tree: Any) -> str:
    try:
        return as_text(value)
    except ValueError as error:
        raise _Unreadable(tree, str(error)) from None


def _object(tree: Any, scope: Scope) -> Value:
    made: dict[str, Any] = {}
    for element in _trees(tree):
        name, value = _trees(element)
        key = _key(name, scope)
        if key in made:
            raise _Unreadable(element, f"{key} is given twice")
        made[key] = _evaluate(value, scope)
    return made


def _key(tree: Any, scope: Scope) -> str:
    (inner,) = _trees(tree)
    bare = inner if inner.data == "keyword" else _bare(inner)
    return str(bare.children[0]) if bare is not None else _text(_evaluate(inner, scope), tree)


def _bare(tree: Any) -> Any:
    """The identifier `tree` consists of, or None."""
    only = tree.children[0] if tree.data == "expr_term" and len(tree.children) == 1 else None
    return only if getattr(only, "data", "") == "identifier" else None


def _attribute(tree: Any, scope: Scope) -> Value:
    base, step = _trees(tree)
    name = str(_trees(step)[0].children[0])
    root = _bare(base)
    if root is None:
        return _item(_evaluate(base, scope), name, tree)
    space = str(root.children[0])
    if space not in scope:
        raise _Unreadable(tree, f"{space}.{name} is not read here: run this file with packer")
    try:
        return scope[space][name]
    except KeyError:
        raise _Unreadable(tree, f"{space}.{name} has no value: it is not declared, or defined by itself") from None


def _index(tree: Any, scope: Scope) -> Value:
    base, step = _trees(tree)
    index = int(step.children[-1]) if step.data == "short_index" else _inner(step, scope)
    return _item(_evaluate(base, scope), index, tree)


def _item(value: Any, index: Any, tree: Any) -> Value:
    if isinstance(value, list) and type(index) is int and 0 <= index < len(value):
        return value[index]  # type: ignore[no-any-return]
    if isinstance(value, dict) and index in value:
        return value[index]  # type: ignore[no-any-return]
    raise _Unreadable(tree, f"there is no element {index!r}")


def _call(tree: Any, scope: Scope) -> Value:
    name = str(_trees(tree)[0].children[0])
    given = list(_arguments(tree))
    if name not in FUNCTIONS or any(one in ("...", "::") for one in tree.scan_values(lambda _: True)):
        raise _Unreadable(tree, f"the function {name}() is not read here: run this file with packer")
    try:
        return FUNCTIONS[name](*(_evaluate(one, scope) for one in given))
    except (TypeError, ValueError):
        raise _Unreadable(tree, f"{name}() was called with arguments it does not take") from None


def _arguments(tree: Any) -> Iterator[Any]:
    for one in _trees(tree)[1:]:
        if one.data == "arguments":
            yield from _trees(one)


def _flat(lists: tuple[list[Any], ...]) -> list[Any]:
    if not all(isinstance(one, list) for one in lists):
        raise TypeError
    return [item for one in lists for item in one]


FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "basename": lambda path: PurePosixPath(path).name,
    "concat": lambda *lists: _flat(lists),
    "dirname": lambda path: str(PurePosixPath(path).parent),
    "join": lambda between, *lists: str.join(between, map(as_text, _flat(lists))),
    "lower": lambda text: str.lower(text),
    "trimspace": lambda text: str.strip(text),
    "upper": lambda text: str.upper(text),
}

_RULES: Mapping[str, Callable[[Any, Scope], Value]] = {
    "expr_term": _inner,
    "interpolation": _inner,
    "identifier": _identifier,
    "literal_value": lambda tree, scope: {"true": True, "false": False, "null": None}[str(tree.children[0])],
    "int_lit": _number,
    "float_lit": _number,
    "unary_op": _negative,
    "string": _template,
    "tuple": lambda tree, scope: [_evaluate(one, scope) for one in _trees(tree)],
    "object": _object,
    "get_attr_expr_term": _attribute,
    "index_expr_term": _index,
    "function_call": _call,
}

_NAMES = {
    "conditional": "a condition (? :)",
    "binary_op": "an operator between two values",
    "heredoc_template": "a heredoc (<<)",
    "heredoc_template_trim": "a heredoc (<<-)",
    "for_tuple_expr": "a for expression",
    "for_object_expr": "a for expression",
    "attr_splat_expr_term": "a splat (.*)",
    "full_splat_expr_term": "a splat ([*])",
    "template_if_start": "a template directive (%{ if })",
    "template_for_start": "a template directive (%{ for })",
}
