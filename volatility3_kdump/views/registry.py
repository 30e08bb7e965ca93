"""Rows of ``kdump.registry``: hives, keys with their values, open keys."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import registry as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import (
    ADDRESS,
    BLANK,
    BYTES,
    HEX,
    NUMBER,
    POINTER,
    TEXT,
    TIME,
    Column,
    Part,
    Table,
    table,
)
from volatility3_kdump.windows.registry.control_blocks import (
    find_control_block,
    open_keys,
    read_control_block,
)
from volatility3_kdump.windows.registry.hives import Cells, Hive, hive_list, read_hive
from volatility3_kdump.windows.registry.keys import FoundKey, HiveKeys, Key, Value, find_key

_HIVE = Column[Hive]("Hive", ADDRESS, "the CMHIVE", lambda hive: hive.address)
HIVES = table(
    "kdump.registry",
    _HIVE,
    keys.PATH(lambda hive: hive.path if hive.path != "" else BLANK),
    Column("HiveFile", TEXT, "the file that it is of", lambda hive: hive.file if hive.file != "" else BLANK),
    Column("StableBytes", BYTES, "length of its stable storage", lambda hive: hive.stable[0]),
    Column("VolatileBytes", BYTES, "length of its volatile storage", lambda hive: hive.volatile[0]),
    Column("BaseBlock", POINTER, "the HBASE_BLOCK", lambda hive: hive.base_block),
    Column("RootKcb", POINTER, "the control block of its root", lambda hive: hive.root_kcb),
    keys.NOTES(),
)
_KEY = Part[Key](
    "",
    Column("KeyNode", ADDRESS, "the CM_KEY_NODE", lambda key: key.address),
    keys.NAME(lambda key: key.name, "of the key, or of a value"),
    Column("Written", TIME, "when the key was last written", lambda key: key.written),
    Column("Subkeys", NUMBER, "how many keys are below it", lambda key: sum(key.counts)),
    Column("Values", NUMBER, "how many values it has", lambda key: key.value_count),
)
_VALUE = Part[Value](
    "",
    Column("ValueType", TEXT, "`REG_SZ`, `REG_DWORD`, ...", lambda value: value.kind_name),
    Column("DataBytes", BYTES, "length of the data", lambda value: value.length),
    keys.TEXT(words.value_text, "text, number in hexadecimal, or bytes of a value"),
)
KEYS = Table(
    "kdump.registry --key",
    Part("", keys.KIND(more="`key`, `subkey`, `volatile subkey`, `value`, `note`")),
    _KEY,
    _VALUE,
    Part("", keys.NOTES()),
)
OPEN_KEYS = table(
    "kdump.registry --open",
    Column("ControlBlock", ADDRESS, "the CM_KEY_CONTROL_BLOCK", lambda block: block.address),
    keys.PATH(lambda block: block.path),
    Column("KeyCell", HEX, "the cell of its key node", lambda block: block.cell),
    Column("KeyHive", POINTER, "the hive", lambda block: block.hive),
    Column("References", NUMBER, "RefCount", lambda block: block.references),
    Column("Written", TIME, "when the key was last written", lambda block: block.written),
    keys.NOTES(),
)


def hives_grid(target: Target) -> KdumpGrid:
    """The hives (``!reg hivelist``). Raises :class:`KdumpError` where there are none in the dump."""
    listed = hive_list(target)

    def rows() -> Iterator[Row]:
        yield from (HIVES.row(0, hive) for hive in listed.hives)
        yield from (HIVES.row(0, Notes=[problem]) for problem in listed.problems)

    def lines() -> Iterator[str]:
        yield from words.hive_lines(listed.hives, target.memory.pointer_size)
        yield from (f"NOTE: {problem}" for problem in listed.problems)

    return HIVES.grid(rows(), lines)


def key_grid(target: Target, path: str) -> KdumpGrid:
    """A key by its path, its subkeys and values (``!reg querykey``). Raises :class:`KdumpError`."""
    key = find_key(target, path)
    return _key_grid(target, key, f"Found Key :: {key.path}")


def node_grid(target: Target, hive: int, node: int) -> KdumpGrid:
    """The same for the key node at an address (``!reg keyinfo``)."""
    return _key_grid(target, _node(target, hive, node), None)


def _node(target: Target, hive: int, node: int) -> FoundKey:
    keys_of = HiveKeys(target, read_hive(target, hive))
    key = keys_of.known_at(node)
    return FoundKey(keys_of, key, key.name or "?")


def _key_grid(target: Target, key: FoundKey, title: str | None) -> KdumpGrid:
    problems: list[str] = []
    stable = list(key.keys.subkeys(key.key, False, problems))
    volatile = list(key.keys.subkeys(key.key, True, problems))
    values = list(key.keys.values(key.key, problems))

    def rows() -> Iterator[Row]:
        yield KEYS.row(0, {_KEY: key.key}, Kind="key")
        for kind, below in (("subkey", stable), ("volatile subkey", volatile)):
            yield from (KEYS.row(1, {_KEY: child}, Kind=kind) for child in below)
        yield from (KEYS.row(1, {_VALUE: value}, Kind="value", Name=value.name) for value in values)
        yield from (KEYS.row(1, Kind="note", Notes=[problem]) for problem in problems)

    def lines() -> Iterator[str]:
        if title is not None:
            yield title
            yield ""
        size = target.memory.pointer_size
        yield from words.key_lines(key.keys.hive, key.key, stable, volatile, values, problems, size)

    return KEYS.grid(rows(), lines)


def open_keys_grid(target: Target, hive: int = 0) -> KdumpGrid:
    """The open keys of a hive, 0 for all (``!reg openkeys``)."""
    hives = [read_hive(target, hive)] if hive else list(hive_list(target).hives)
    problems: list[str] = []
    listed = [(one, list(open_keys(target, one, problems))) for one in hives]

    def rows() -> Iterator[Row]:
        yield from (OPEN_KEYS.row(0, block) for _, blocks in listed for block in blocks)
        yield from (OPEN_KEYS.row(0, Notes=[problem]) for problem in problems)

    def lines() -> Iterator[str]:
        for one, blocks in listed:
            yield from words.open_key_lines(one, blocks, target.memory.pointer_size)
            yield ""
        yield from (f"NOTE: {problem}" for problem in problems)

    return OPEN_KEYS.grid(rows(), lines)


def control_block_lines(target: Target, where: int | str) -> Iterator[str]:
    """``!reg kcb`` of an address, ``!reg findkcb`` of a path. Raises :class:`KdumpError`."""
    if isinstance(where, str):
        block = find_control_block(target, where)
        yield f"Found KCB = {block.address:x} :: {block.path}"
        return
    yield from words.block_lines(read_control_block(target, where), target.memory.pointer_size)


def subkey_lines(target: Target, hive: int, node: int) -> Iterator[str]:
    """``!reg subkeylist``. Raises :class:`KdumpError`."""
    parent = _node(target, hive, node)
    problems: list[str] = []
    for volatile in (False, True):
        for child in parent.keys.subkeys(parent.key, volatile, problems):
            yield f"{child.address:x}  {child.name or '?'}"
    yield from (f"NOTE: {problem}" for problem in problems)


def value_list_lines(target: Target, hive: int, node: int) -> Iterator[str]:
    """``!reg valuelist``. Raises :class:`KdumpError`."""
    owner = _node(target, hive, node)
    problems: list[str] = []
    yield from words.value_lines(owner.keys.values(owner.key, problems))
    yield from (f"NOTE: {problem}" for problem in problems)


def node_text(target: Target, node: int, value: bool) -> Iterator[str]:
    """``!reg knode`` and ``!reg kvalue``: by the first hive, since their addresses need none. Raises a KdumpError."""
    hives = hive_list(target).hives
    keys_of = HiveKeys(target, hives[0]) if hives else None
    entry = None if keys_of is None else keys_of.value_at(node) if value else keys_of.key_at(node)
    if isinstance(entry, Key):
        yield from words.node_lines(entry, target.memory.pointer_size)
    elif isinstance(entry, Value):
        yield from words.value_lines([entry])
    else:
        raise KdumpError(f"{target.name}: no key {'value' if value else 'node'} is at {node:x}")


def cell_line(target: Target, hive: int, index: int) -> str:
    """``!reg cellindex``. Raises :class:`KdumpError`."""
    address = Cells(target, read_hive(target, hive)).address(index)
    if address is None:
        raise KdumpError(f"{target.name}: the hive {hive:x} has no cell {index:x}, or its map is not in the dump")
    return f"pcell:  {address - 4:x}"
