"""A plan as a document to review: what changes from what to what and why, and how the registry gets back; no I/O.

text(changes)       a coloured diff, grouped by hive and key
summary(changes)    one line
reg_file(edits)     a .reg file, as regedit imports it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import click

from builder.edits import Change, DeleteKey, DeleteValue, Hive, Key, PutFile, SetValue, Undo, WriteFile
from builder.windows.registry import RegType, RegValue

NOTHING = "nothing to do: the image already is what the plan says"

_ROOTS = {
    Hive.SYSTEM: ("HKEY_LOCAL_MACHINE", "SYSTEM"),
    Hive.SOFTWARE: ("HKEY_LOCAL_MACHINE", "SOFTWARE"),
    Hive.DRIVERS: ("HKEY_LOCAL_MACHINE", "DRIVERS"),
    Hive.BCD: ("HKEY_LOCAL_MACHINE", "BCD00000000"),
}
_MIB = 1 << 20


def summary(changes: Sequence[Change]) -> str:
    """ "212 values in SYSTEM, 3 in BCD; 1 key deleted; 61 files, 4.2 MiB"; NOTHING for no changes."""
    edits = [one.edit for one in changes]
    values = Counter(one.hive for one in edits if isinstance(one, SetValue))
    deleted = sum(isinstance(one, DeleteKey) for one in edits)
    sizes = [_size(one) for one in edits if isinstance(one, PutFile | WriteFile)]
    parts = [
        ", ".join(f"{count} value{_s(count)} in {hive}" for hive, count in sorted(values.items())),
        f"{deleted} key{_s(deleted)} deleted" if deleted else "",
        f"{len(sizes)} file{_s(len(sizes))}, {sum(sizes) / _MIB:.1f} MiB" if sizes else "",
    ]
    return "; ".join(part for part in parts if part) or NOTHING


def text(changes: Sequence[Change]) -> str:
    """The diff: green is what will be, red is what it replaces; NOTHING for no changes."""
    if not changes:
        return NOTHING
    return "\n".join((click.style(summary(changes), bold=True), *_files(changes), *_hives(changes)))


def reverse_text(edits: Sequence[Undo]) -> str:
    """The reverse edits, one a line."""
    return "\n".join(f"{'-' if isinstance(one, DeleteValue) else '+'} {_place(one)}" for one in edits) or NOTHING


def _place(edit: Undo) -> str:
    where = "\\".join((edit.hive, *edit.key))
    shown = f" = {edit.value}" if isinstance(edit, SetValue) else ""
    return f"{where} : {edit.name or '(default)'}{shown}"


def _size(edit: PutFile | WriteFile) -> int:
    return edit.source.size if isinstance(edit, PutFile) else len(edit.content)


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _files(changes: Sequence[Change]) -> Iterator[str]:
    files = [one for one in changes if isinstance(one.edit, PutFile | WriteFile)]
    if files:
        yield _heading("files")
    for reason, batch in groupby(files, key=lambda one: one.edit.reason):
        yield _reason(reason)
        for one in batch:
            if one.before:
                yield click.style(f"  - {one.before}", fg="red")
            yield click.style(f"  + {one.edit}", fg="green")


def _hives(changes: Sequence[Change]) -> Iterator[str]:
    rows = [one for one in changes if isinstance(one.edit, SetValue | DeleteKey)]
    for hive, batch in groupby(sorted(rows, key=_hive), key=_hive):
        yield _heading(hive)
        reason = ""
        for key, ones in groupby(batch, key=_key):
            for number, one in enumerate(ones):
                if one.edit.reason != reason:
                    reason = one.edit.reason
                    yield _reason(reason)
                if number == 0:
                    yield f"  [{chr(92).join(key)}]"
                yield from _value(one)


def _hive(change: Change) -> str:
    assert isinstance(change.edit, SetValue | DeleteKey)  # noqa: S101 - for the type checker
    return change.edit.hive


def _key(change: Change) -> Key:
    assert isinstance(change.edit, SetValue | DeleteKey)  # noqa: S101 - for the type checker
    return change.edit.key


def _value(change: Change) -> Iterator[str]:
    match change.edit:
        case SetValue(name=name, value=value):
            if change.before:
                yield click.style(f"    - {name or '(default)'} = {change.before}", fg="red")
            yield click.style(f"    + {name or '(default)'} = {value}", fg="green")
        case DeleteKey():
            yield click.style("    - the key, and all below it", fg="red")


def _heading(text: str) -> str:
    return "\n" + click.style(text, bold=True)


def _reason(text: str) -> str:
    return click.style(f"  # {text}", fg="cyan")


# ---------------------------------------------------------------- .reg


def reg_bytes(edits: Iterable[SetValue | DeleteKey | DeleteValue]) -> bytes:
    """The .reg file as regedit writes them: UTF-16LE with its mark, CRLF. Wine reads strings in ASCII ones as ANSI."""
    return ("\ufeff" + reg_text(edits).replace("\n", "\r\n")).encode("utf-16-le")


def reg_text(edits: Iterable[SetValue | DeleteKey | DeleteValue]) -> str:
    """Version 5.00, ASCII only: strings with other characters are written as their bytes."""
    lines = ["Windows Registry Editor Version 5.00"]
    for (hive, key), batch in groupby(edits, key=lambda one: (one.hive, one.key)):
        path = "\\".join((*_ROOTS[hive], *key))
        for deleted, ones in groupby(batch, key=lambda one: isinstance(one, DeleteKey)):
            lines += ["", f"[{'-' if deleted else ''}{path}]"]
            lines += [] if deleted else [_line(one) for one in ones]
    return "\n".join(lines) + "\n"


def _line(edit: SetValue | DeleteKey | DeleteValue) -> str:
    name = "" if isinstance(edit, DeleteKey) else edit.name
    shown = f'"{_escaped(name)}"' if name else "@"
    return f"{shown}={_data(edit.value) if isinstance(edit, SetValue) else '-'}"


def _data(value: RegValue) -> str:
    if value.type == RegType.REG_DWORD and len(value.data) == 4:
        return f"dword:{value.number:08x}"
    if value.type == RegType.REG_SZ and _is_plain(value):
        return f'"{_escaped(value.text)}"'
    kind = "hex" if value.type == RegType.REG_BINARY else f"hex({value.type:x})"
    return f"{kind}:{value.data.hex(',')}"


def _is_plain(value: RegValue) -> bool:
    """Whether the bytes are those regedit would write for the text."""
    return value.text.isascii() and value.text.isprintable() and value.data == (value.text + "\0").encode("utf-16-le")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
