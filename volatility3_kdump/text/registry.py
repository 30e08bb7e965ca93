"""The registry in the layout of KD's ``!reg``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.text.addresses import plain
from volatility3_kdump.text.times import filetime
from volatility3_kdump.windows.registry.control_blocks import KeyControlBlock
from volatility3_kdump.windows.registry.hives import Hive
from volatility3_kdump.windows.registry.keys import Key, Value

_NAME, _KIND = 30, 20
#: No more bytes of a value's data are shown.
_MOST_BYTES = 0x1000


def hive_lines(hives: Iterable[Hive], size: int = 8) -> Iterator[str]:
    """``!reg hivelist``."""
    width = 2 * size
    heading = (
        f"| {'HiveAddr':^{width}} |Stable Length|{'Stable Map':^{width + 2}}|Volatile Length|"
        f"{'Volatile Map':^{width + 4}}|U(Cnt)|{'BaseBlock':^{width + 3}}| FileName"
    )
    yield "-" * 120
    yield heading
    yield "-" * 120
    for hive in hives:
        length, stable = hive.stable
        more, volatile = hive.volatile
        count = "?" if hive.use_count is None else str(hive.use_count)
        yield (
            f"| {plain(hive.address, size)} |{_hex(length):>11}  | {plain(stable, size)} |{_hex(more):>11}    |  "
            f"{plain(volatile, size)}  |{count:>6}| {plain(hive.base_block, size)}  | {_file(hive)}"
        )
    yield "-" * 120


def _file(hive: Hive) -> str:
    return "?" if hive.file is None else hive.file or hive.path or "<NONAME>"


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:x}"


def open_key_lines(hive: Hive, blocks: Iterable[KeyControlBlock], size: int = 8) -> Iterator[str]:
    """``!reg openkeys`` of a hive."""
    yield f"Hive: {hive.path or _file(hive)}"
    yield "=" * 107
    count = 0
    for block in blocks:
        count += 1
        yield f"Index {_hex(block.slot)}: {_hash(block):>12} {block_line(block, size)}"
    yield ""
    yield f"{count:#x} keys found"


def _hash(block: KeyControlBlock) -> str:
    return "????????" if block.hash_key is None else f"{block.hash_key & 0xFFFFFFFF:08x}"


def block_line(block: KeyControlBlock, size: int = 8) -> str:
    """A key control block in a list."""
    cell, flags = ("????????" if value is None else f"{value:08x}" for value in (block.cell, block.flags))
    return f"kcb={plain(block.address, size)} cell={cell} f={flags} {block.path or '?'}"


def block_lines(block: KeyControlBlock, size: int = 8) -> Iterator[str]:
    """``!reg kcb``."""
    yield f"Key              : {block.path or '?'}"
    yield f"RefCount         : {_hex(block.references)}"
    yield f"ExtFlags         : {_hex(block.flags)}"
    yield f"Parent           : 0x{plain(block.parent, size)}"
    yield f"KeyHive          : 0x{plain(block.hive, size)}"
    yield f"KeyCell          : 0x{_hex(block.cell)} [cell index]"
    yield f"NameBlock        : 0x{plain(block.name_block, size)}"
    written = None if block.written is None else filetime(block.written)
    yield f"LastWriteTime    : {'?' if written is None else f'{written:%Y-%m-%d %H:%M:%S}'}"


def key_lines(
    hive: Hive,
    key: Key,
    stable: Iterable[Key],
    volatile: Iterable[Key],
    values: Iterable[Value],
    problems: Iterable[str],
    size: int = 8,
) -> Iterator[str]:
    """``!reg querykey`` and ``keyinfo``: a key with its subkeys and values."""
    width = 2 * size + 5
    yield f"Hive         {plain(hive.address, size)}"
    yield f"KeyNode      {plain(key.address, size)}"
    yield ""
    for title, below in (("SubKeyName", list(stable)), ("VolatileSubKeyName", list(volatile))):
        if below:
            yield f"{'[SubKeyAddr]':<{width}}[{title}]"
            yield from (f"{plain(child.address, size):<{width}}{child.name or '?'}" for child in below)
            yield ""
    if any(key.counts):
        yield f" Use '!reg keyinfo {plain(hive.address, size)} <SubKeyAddr>' to dump the subkey details"
        yield ""
    yield from value_lines(values)
    yield from (f"NOTE: {problem}" for problem in problems)


def value_lines(values: Iterable[Value]) -> Iterator[str]:
    """The values of a key."""
    listed = list(values)
    if listed:
        yield f"{'[ValueType]':<{_KIND}}{'[ValueName]':<{_NAME}}[ValueData]"
    for value in listed:
        name = "?" if value.name is None else value.name or "(Default)"
        yield f"{value.kind_name:<{_KIND}}{name:<{_NAME}}{value_text(value)}".rstrip()


def value_text(value: Value) -> str:
    """The data of a value."""
    if value.data is None:
        return f"? ({value.length} bytes, not in the dump as a whole)"
    if value.number is not None:
        return f"{value.number:x}"
    texts = value.texts
    if texts is not None:
        return "\\0".join([*texts, ""]) + "\\0" if value.kind_name == "REG_MULTI_SZ" else texts[0]
    shown = value.data[:_MOST_BYTES].hex(" ")
    return f"{shown} ..." if len(value.data) > _MOST_BYTES else shown


def node_lines(key: Key, size: int = 8) -> Iterator[str]:
    """``!reg knode``."""
    yield f"Signature: CM_KEY_NODE_SIGNATURE (kn) at {plain(key.address, size)}"
    yield f"Name                 : {key.name or '?'}"
    yield f"ParentCell           : {key.parent:#x}"
    yield f"Flags                : {key.flags:#x}"
    yield f"SubKeyCount[Stable  ]: {key.counts[0]:#x}"
    yield f"SubKeyLists[Stable  ]: {key.lists[0]:#x}"
    yield f"SubKeyCount[Volatile]: {key.counts[1]:#x}"
    yield f"SubKeyLists[Volatile]: {key.lists[1]:#x}"
    yield f"ValueList.Count      : {key.value_count:#x}"
    yield f"ValueList.List       : {key.value_list:#x}"
    written = filetime(key.written)
    yield f"LastWriteTime        : {'?' if written is None else f'{written:%Y-%m-%d %H:%M:%S}'}"
