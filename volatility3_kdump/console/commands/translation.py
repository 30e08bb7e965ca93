"""Commands over page tables and the regions of memory: ``!pte``, ``!vtop``, ``!address``, ``!db`` and its relatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_bounds, parse_first

_PHYSICAL = {"!db": "b", "!dc": "c", "!dd": "d", "!dw": "w", "!dq": "q", "!dp": "p", "!da": "a", "!du": "u"}


@command("!pte", help="the page table entries of an address", usage="ADDRESS")
def page_table_entries(session: Session, arguments: Arguments) -> Iterator[str]:
    """In the address space of the current process."""
    from volatility3_kdump.text.translation import pte_lines
    from volatility3_kdump.windows.memory.translation import directory_of, translate

    if not arguments.text:
        raise KdumpError("!pte needs an address")
    address = session.evaluate(arguments.text)
    directory = directory_of(session.target, session.current.process)
    yield from pte_lines(translate(session.target, address, directory), session.target.memory.pointer_size)


@command("!vtop", help="the physical address of a virtual one", usage="[DIRECTORY] ADDRESS")
def virtual_to_physical(session: Session, arguments: Arguments) -> Iterator[str]:
    """``DIRECTORY`` is a page directory's physical address; 0 or none for that of the current process."""
    from volatility3_kdump.text.translation import vtop_lines
    from volatility3_kdump.windows.memory.translation import directory_of, translate

    if not arguments.text:
        raise KdumpError("!vtop needs an address")
    directory = 0
    address, rest = parse_first(arguments.text, session.names, session.state.radix)
    if rest:
        directory, address = address, session.evaluate(rest)
    directory = directory or directory_of(session.target, session.current.process)
    found = translate(session.target, address, directory)
    yield from vtop_lines(found, directory, session.target.header.architecture)


@command("!address", help="what an address belongs to", usage="ADDRESS")
def region(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.findings.regions import region_of
    from volatility3_kdump.text.regions import region_lines

    if not arguments.text:
        raise KdumpError("!address needs an address: regions are not listed")
    address = session.evaluate(arguments.text)
    found = region_of(session.target, address)
    contents = session.current.memory.why_absent(address) or "in the dump"
    return region_lines(found, contents, session.target.memory.pointer_size)


@command(*_PHYSICAL, help="physical memory as bytes, numbers or text", usage="ADDRESS [Lcount]")
def display_physical(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.addresses import pointer
    from volatility3_kdump.views.memory import MemoryView

    text = arguments.text
    if text.startswith("["):
        # Cache attributes, which a dump does not need.
        text = text.partition("]")[2]
    wanted, rest = parse_bounds(text, session.names, session.state.radix)
    if wanted is None or rest:
        raise KdumpError(f"{arguments.name} needs a physical address or range")
    if session.target.physical_layer_name is None:
        raise KdumpError(f"{session.target.name}: a small memory dump holds no physical memory")
    if wanted.start >= 1 << 52:
        raise KdumpError(f"{wanted.start:x} is no physical address: it has more than 52 bits")
    view = MemoryView(session.target, wanted, _PHYSICAL[arguments.name], session.target.physical_memory)
    prefix = len(pointer(0, view.width))
    for line in view.lines():
        yield f"#{int(line[:prefix].replace('`', ''), 16):8x} {line[prefix:].strip()}"
