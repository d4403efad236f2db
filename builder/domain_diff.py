"""Two domains side by side: what differs in meaning, with secrets, user names and host paths hidden."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from lxml import etree

from builder.domain_xml import Element, parse, private

Place = tuple[Element, str | None]


def diff(old: bytes, new: bytes) -> str:
    """A unified diff of the two, "" when they mean the same: quotes, spaces between elements, the order of attributes
    and comments do not count. What is hidden has a number, the same for the same value. Raises ConfigError."""
    before, after = parse(old), parse(new)
    private_ = {**private(before), **private(after)}
    numbers = {value: number for number, value in enumerate(dict.fromkeys(private_.values()), 1)}
    hidden = {place: f"<hidden {numbers[value]}>" for place, value in private_.items()}
    was, now = (list(_lines(root, hidden, 0)) for root in (before, after))
    return "\n".join(difflib.unified_diff(was, now, "old", "new", n=2, lineterm=""))


def _lines(element: Element, hidden: dict[Place, str], depth: int) -> Iterator[str]:
    """One line for each element: its name, its attributes by name, its text."""
    if not isinstance(element.tag, str):
        return  # a comment or a processing instruction
    attributes = "".join(
        f" {etree.QName(key).localname}={hidden.get((element, key), value)!a}" for key, value in sorted(element.items())
    )
    text = (element.text or "").strip()
    shown = f": {ascii(hidden.get((element, None), text))[1:-1]}" if text else ""
    yield f"{'  ' * depth}{etree.QName(element).localname}{attributes}{shown}"
    for child in element:
        yield from _lines(child, hidden, depth + 1)
