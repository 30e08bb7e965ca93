"""Commands over page tables and the regions of memory: ``!pte``, ``!vtop``, ``!address``, ``!db`` and its relatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_bounds, parse_first

_PHYSICAL = {"!db": "b", "!dc": "c", "!dd": "d", "!dw": "w", "!dq": "q", "!dp": "p", "!da": "a", "!du": "u"}


@command("!pte", help="the page table entries of an address", usage="ADDRESS", plugin="pte")
def page_table_entries(session: Session, arguments: Arguments) -> Iterable[str]:
    """In the address space of the current process."""
    from volatility3_kdump.views.translation import pte_grid
    from volatility3_kdump.windows.memory.translation import directory_of

    if not arguments.text:
        raise KdumpError("!pte needs an address")
    directory = directory_of(session.target, session.current.process)
    return pte_grid(session.target, session.evaluate(arguments.text), directory).kd_lines()


@command("!vtop", help="the physical address of a virtual one", usage="[DIRECTORY] ADDRESS", plugin="pte")
def virtual_to_physical(session: Session, arguments: Arguments) -> Iterable[str]:
    """``DIRECTORY`` is a page directory's physical address; 0 or none for that of the current process."""
    from volatility3_kdump.views.translation import vtop_grid
    from volatility3_kdump.windows.memory.translation import directory_of

    if not arguments.text:
        raise KdumpError("!vtop needs an address")
    directory = 0
    address, rest = parse_first(arguments.text, session.names, session.state.radix)
    if rest:
        directory, address = address, session.evaluate(rest)
    directory = directory or directory_of(session.target, session.current.process)
    return vtop_grid(session.target, address, directory).kd_lines()


@command("!address", help="what an address belongs to", usage="ADDRESS", plugin="address")
def region(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.regions import region_grid

    if not arguments.text:
        raise KdumpError("!address needs an address: regions are not listed")
    return region_grid(session.target, session.evaluate(arguments.text), session.current.memory).kd_lines()


@command(*_PHYSICAL, help="physical memory as bytes, numbers or text", usage="ADDRESS [Lcount]")
def display_physical(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.addresses import pointer
    from volatility3_kdump.views.memory import MemoryView

    operands = arguments.text
    if operands.startswith("["):
        # Cache attributes, which a dump does not need.
        operands = operands.partition("]")[2]
    wanted, rest = parse_bounds(operands, session.names, session.state.radix)
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
