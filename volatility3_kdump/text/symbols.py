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


def nearest(found: Nearby, size: int = 8, lines: bool = False) -> Iterator[str]:
    """The lines of ``ln``; ``lines`` adds the source line."""
    source = f"[{found.line}] " if lines and found.line is not None else ""
    if found.below is None:
        offset = found.address - found.module.base
        yield f"{source}({pointer(found.module.base, size)})   {found.module.name}+{offset:#x}"
    else:
        distance = found.address - found.below.address
        offset_text = f"+{distance:#x}" if distance else ""
        line = f"{source}({pointer(found.below.address, size)})   {found.below}{offset_text}"
        yield f"{line}   |  ({pointer(found.above.address, size)})   {found.above}" if found.above else line
    if found.exact:
        yield "Exact matches:"
        for symbol in found.exact:
            yield f"    {described(symbol)}"
