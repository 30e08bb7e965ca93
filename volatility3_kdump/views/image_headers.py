"""KD's ``!dh``, ``!lmi`` and ``!chksym``: the headers of an image as they lie in memory.

Their values in rows are those of kdump.drivers --verbose.
"""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.images.headers import Headers, read_headers
from volatility3_kdump.images.modules import Module, find_module
from volatility3_kdump.images.pe import reproducible
from volatility3_kdump.memory import Memory
from volatility3_kdump.target import Target
from volatility3_kdump.text import image_headers as words


def _of_module(target: Target, module: Module) -> Headers:
    return read_headers(target.images.image_of(module).read, f"{target.name}: {module.image_name}")


def header_lines(target: Target, base: int, memory: Memory, file: bool, sections: bool) -> Iterator[str]:
    """``!dh`` of the image at an address. Raises :class:`KdumpError`."""
    module = find_module(target.modules, base)
    if module is not None and module.base == base:
        headers = _of_module(target, module)
    else:
        headers = read_headers(lambda rva, size: memory.read(base + rva, size), f"{target.name}: {base:#x}")
    if file:
        yield from words.header_lines(headers)
    if sections:
        yield from words.section_lines(headers)


def module_lines(target: Target, module: Module) -> Iterator[str]:
    """``!lmi``. Raises :class:`KdumpError`."""
    headers = _of_module(target, module)
    hashed = reproducible(target.images.image_of(module).read, headers.image)
    status = target.names.reason_of(module) or "deferred: no address of it was looked up yet"
    return words.module_lines(module, headers, status, hashed, target.memory.pointer_size)


def check_lines(target: Target, module: Module) -> Iterator[str]:
    """``!chksym``. Raises :class:`KdumpError`."""
    headers = _of_module(target, module)
    target.names.load(module)
    reason = target.names.reason_of(module) or "no symbols"
    matches = target.names.status_of(module) in ("isf", "pdb symbols")
    return words.check_lines(module, headers, reason if matches else None, reason)
