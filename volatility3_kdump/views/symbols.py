"""Rows of ``kdump.symbols``: the symbols that a pattern fits, and those around an address."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.images.modules import Module
from volatility3_kdump.symbols.listing import Nearby, Symbol, matching, modules_like, nearby
from volatility3_kdump.target import Target
from volatility3_kdump.text import symbols as text
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, FLAG, HEX, Column, table

SYMBOLS = table(
    "kdump.symbols",
    keys.KIND(
        {Symbol: lambda symbol: "symbol", Module: lambda module: "module"},
        "`symbol`, `module`; around an address `below`, `above`, `exact`",
    ),
    keys.ADDRESS({Symbol: lambda symbol: symbol.address, Module: lambda module: module.base}),
    keys.SYMBOL({Symbol: str}),
    keys.MODULE({Symbol: lambda symbol: symbol.module, Module: lambda module: module.name}),
    Column("IsCode", FLAG, "whether it lies in a section with code", {Symbol: lambda symbol: symbol.code}),
    Column("Distance", HEX, "bytes from it to the address that was asked for"),
    keys.END({Module: lambda module: module.end}),
    keys.SOURCE_FILE(more="of the address that was asked for"),
    keys.SOURCE_LINE(),
)


def matching_grid(target: Target, pattern: str, by_name: bool = False, addresses: bool = False) -> KdumpGrid:
    """The symbols that ``module!pattern`` fits, by module and address or ``by_name``; ``module!`` lists modules.

    ``addresses`` shows these alone in KD's text. Raises :class:`KdumpError` for a name that there is not.
    """
    size = target.memory.pointer_size
    names = target.names

    def found() -> Iterator[Symbol]:
        symbols = matching(names, pattern)
        return iter(sorted(symbols, key=lambda symbol: symbol.name.lower())) if by_name else symbols

    def rows() -> Iterator[Row]:
        entries = modules_like(names, pattern[:-1]) if pattern.endswith("!") else found()
        for entry in entries:
            yield SYMBOLS.row(0, entry)

    def lines() -> Iterator[str]:
        if pattern.endswith("!"):
            yield "start             end                 module name"
            for module in modules_like(names, pattern[:-1]):
                yield f"{pointer(module.base, size)} {pointer(module.end, size)}   {module.name}"
            return
        count = 0
        for symbol in found():
            count += 1
            yield pointer(symbol.address, size) if addresses else text.listed(symbol, size)
        if not count and not any(character in pattern for character in "*?[#"):
            raise KdumpError(f"Couldn't resolve 'x {pattern}'")

    return SYMBOLS.grid(rows(), lines)


def nearest_grid(target: Target, address: int, lines: bool = False) -> KdumpGrid:
    """The symbols around an address, and with ``lines`` its source line in KD's text as well.

    Raises :class:`KdumpError` for one that is in no loaded module.
    """
    neighbours = nearby(target.names, address)
    if neighbours is None:
        raise KdumpError(f"{address:x} is in no loaded module")
    return SYMBOLS.grid(_near_rows(neighbours), lambda: text.nearest(neighbours, target.memory.pointer_size, lines))


def _near_rows(nearby: Nearby) -> Iterator[Row]:
    for kind, symbol in (("below", nearby.below), ("above", nearby.above), *(("exact", same) for same in nearby.exact)):
        if symbol is not None:
            distance: object = nearby.address - symbol.address if kind != "above" else BLANK
            line = nearby.line if kind != "above" else None
            place: dict[str, object] = {} if line is None else {"SourceFile": line.file, "SourceLine": line.line}
            yield SYMBOLS.row(0, symbol, Kind=kind, Distance=distance, **place)
    if nearby.below is None:
        yield SYMBOLS.row(0, nearby.module, Distance=nearby.address - nearby.module.base)
