"""KD's ``!dh``, ``!lmi`` and ``!chksym``: the headers of an image as they lie in memory.

Their values in rows are those of kdump.drivers --verbose.
"""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.images.modules import Module
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.text import image_headers as words
from volatility3_kdump.windows.listing.image_headers import headers_at, module_headers, symbol_match


def header_lines(target: Target, base: int, memory: Memory, file: bool, sections: bool) -> Iterator[str]:
    """``!dh`` of the image at an address. Raises :class:`KdumpError`."""
    headers = headers_at(target, base, memory)
    if file:
        yield from words.header_lines(headers)
    if sections:
        yield from words.section_lines(headers)


def module_lines(target: Target, module: Module) -> Iterator[str]:
    """``!lmi``. Raises :class:`KdumpError`."""
    headers, hashed = module_headers(target, module)
    status = target.names.reason_of(module) or "deferred: no address of it was looked up yet"
    return words.module_lines(module, headers, status, hashed, target.memory.pointer_size)


def check_lines(target: Target, module: Module) -> Iterator[str]:
    """``!chksym``. Raises :class:`KdumpError`."""
    headers = module_headers(target, module).headers
    symbols = symbol_match(target, module)
    return words.check_lines(module, headers, symbols.reason if symbols.matches else None, symbols.reason)
