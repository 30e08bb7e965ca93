"""Symbols in the words of KD's ``x`` and ``ln``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.symbols.listing import Nearby, Symbol
from volatility3_kdump.text.addresses import pointer


def described(symbol: Symbol) -> str:
    """A symbol of which no more than its address is known: public symbols have no types."""
    return f"{symbol} (<no parameter info>)" if symbol.code else f"{symbol} = <no type information>"


def listed(symbol: Symbol, size: int = 8) -> str:
    """A line of ``x``."""
    return f"{pointer(symbol.address, size)} {described(symbol)}"


def nearest(nearby: Nearby, size: int = 8, lines: bool = False) -> Iterator[str]:
    """The lines of ``ln``; ``lines`` adds the source line."""
    source = f"[{nearby.line}] " if lines and nearby.line is not None else ""
    if nearby.below is None:
        offset = nearby.address - nearby.module.base
        yield f"{source}({pointer(nearby.module.base, size)})   {nearby.module.name}+{offset:#x}"
    else:
        distance = nearby.address - nearby.below.address
        offset_text = f"+{distance:#x}" if distance else ""
        line = f"{source}({pointer(nearby.below.address, size)})   {nearby.below}{offset_text}"
        yield f"{line}   |  ({pointer(nearby.above.address, size)})   {nearby.above}" if nearby.above else line
    if nearby.exact:
        yield "Exact matches:"
        for symbol in nearby.exact:
            yield f"    {described(symbol)}"
