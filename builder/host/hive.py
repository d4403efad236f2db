"""A registry hive, open for reading or editing: on this machine as a file, or inside the appliance.

Guests' hives are untrusted and are parsed inside the appliance, where a bug in hivex harms nobody and where editing is
also faster than moving the file out and in again (measured: 1.9 s against 3.6 s for 8.6 MB). Files are for what we made
ourselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from builder.errors import InputRefused
from builder.model import Key
from builder.windows.registry import RegValue


class _Calls(Protocol):
    """hivex(3) in the words both bindings share; 0 or None stands for "not there"."""

    def root(self) -> int: ...
    def node_name(self, node: int) -> str: ...
    def node_children(self, node: int) -> list[int]: ...
    def node_get_child(self, node: int, name: str) -> int | None: ...
    def node_add_child(self, node: int, name: str) -> int: ...
    def node_delete_child(self, node: int) -> None: ...
    def node_values(self, node: int) -> list[int]: ...
    def node_get_value(self, node: int, name: str) -> int | None: ...
    def value_key(self, value: int) -> str: ...
    def value(self, value: int) -> tuple[int, bytes]: ...
    def set_value(self, node: int, name: str, kind: int, data: bytes) -> None: ...
    def commit(self) -> None: ...


class Hive:
    """Keys are found whatever their case, new ones get the case given. Raises InputRefused where it is damaged."""

    def __init__(self, calls: _Calls, name: str) -> None:
        self._calls = calls
        self._name = name
        self._nodes: dict[Key, int | None] = {(): calls.root()}  # None: looked for, not there

    def exists(self, key: Key) -> bool:
        return self._node(key) is not None

    def subkeys(self, key: Key) -> tuple[str, ...]:
        """The names below `key`; () when it does not exist."""
        node = self._node(key)
        if node is None:
            return ()
        with self._damage(key):
            return tuple(self._calls.node_name(child) for child in self._calls.node_children(node))

    def value(self, key: Key, name: str) -> RegValue | None:
        """The value `name` of `key`, "" for the default one; None when key or value does not exist."""
        node = self._node(key)
        if node is None:
            return None
        with self._damage(key):
            found = self._calls.node_get_value(node, name)
            return RegValue(*self._calls.value(found)) if found else None

    def values(self, key: Key) -> Mapping[str, RegValue]:
        node = self._node(key)
        if node is None:
            return {}
        with self._damage(key):
            return {
                self._calls.value_key(one): RegValue(*self._calls.value(one)) for one in self._calls.node_values(node)
            }

    def set(self, key: Key, name: str, value: RegValue) -> None:
        self._calls.set_value(self._made(key), name, value.type, value.data)

    def delete(self, key: Key) -> None:
        """Deletes `key` and all below it, if it exists."""
        node = self._node(key)
        if node is not None and key:
            self._calls.node_delete_child(node)
            self._nodes = {(): self._calls.root()}

    def commit(self) -> None:
        self._calls.commit()

    def _node(self, key: Key) -> int | None:
        folded = tuple(part.lower() for part in key)
        if folded not in self._nodes:
            parent = self._node(key[:-1])
            with self._damage(key):
                self._nodes[folded] = (self._calls.node_get_child(parent, key[-1]) or None) if parent else None
        return self._nodes[folded]

    def _made(self, key: Key) -> int:
        node = self._node(key)
        if node is None:
            node = self._calls.node_add_child(self._made(key[:-1]), key[-1])
            self._nodes[tuple(part.lower() for part in key)] = node
        return node

    @contextmanager
    def _damage(self, key: Key) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            where = "\\".join(key) or "its root"
            raise InputRefused(f"the {self._name} hive is damaged", why=f"reading {where}: {error}") from error


class _FileCalls:
    """python-hivex; its `value_value` gives type and bytes in one call."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def node_get_value(self, node: int, name: str) -> int | None:
        try:
            return int(self._handle.node_get_value(node, name))
        except RuntimeError as error:
            # The binding raises for a value that is not there and for a damaged one alike; only the first has errno 0.
            if str(error) == os.strerror(0):
                return None
            raise

    def value(self, value: int) -> tuple[int, bytes]:
        kind, data = self._handle.value_value(value)
        return kind & 0xFFFFFFFF, data

    def set_value(self, node: int, name: str, kind: int, data: bytes) -> None:
        self._handle.node_set_value(node, {"key": name, "t": kind, "value": data})

    def commit(self) -> None:
        self._handle.commit(None)


class ApplianceCalls:
    """The hivex of a running appliance: `hivex_*` of python-guestfs, one hive at a time."""

    def __init__(self, guest: Any) -> None:
        self._guest = guest

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, f"hivex_{name}")

    def node_values(self, node: int) -> list[int]:
        return [entry["hivex_value_h"] for entry in self._guest.hivex_node_values(node)]

    def node_children(self, node: int) -> list[int]:
        return [entry["hivex_node_h"] for entry in self._guest.hivex_node_children(node)]

    def value(self, value: int) -> tuple[int, bytes]:
        return self._guest.hivex_value_type(value) & 0xFFFFFFFF, self._guest.hivex_value_value(value)

    def set_value(self, node: int, name: str, kind: int, data: bytes) -> None:
        self._guest.hivex_node_set_value(node, name, kind, data)

    def commit(self) -> None:
        # In place: a new file renamed over the old one would lose the hive's access control list. A failure half-way is
        # harmless, because the overlay is thrown away then.
        self._guest.hivex_commit(None)


def open_file(path: Path, *, write: bool = False) -> Hive:
    """The hive in a file of this machine, which must be one we trust. Raises InputRefused when hivex cannot read it."""
    import hivex

    try:
        return Hive(_FileCalls(hivex.Hivex(str(path), write=write)), path.name)
    except RuntimeError as error:
        raise InputRefused(f"{path.name} is not a registry hive", why=str(error)) from error
