"""Commands over page tables and the regions of memory: ``!pte``, ``!vtop``, ``!address``, ``!db`` and its relatives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, number
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_bounds

_PHYSICAL = {"!db": "b", "!dc": "c", "!dd": "d", "!dw": "w", "!dq": "q", "!dp": "p", "!da": "a", "!du": "u"}


@command(
    "!pte",
    help="the page table entries of an address",
    arguments=(number("ADDRESS", "a virtual address, in the address space of the current process", required=True),),
    examples=(Example("!pte @rip"),),
    plugin="pte",
)
def page_table_entries(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.translation import pte_grid
    from volatility3_kdump.windows.memory.translation import directory_of

    directory = directory_of(session.target, session.current.process)
    return pte_grid(session.target, arguments.number("ADDRESS") or 0, directory).kd_lines()


@command(
    "!vtop",
    help="the physical address of a virtual one",
    arguments=(
        number(
            "DIRECTORY",
            "a page directory: its address or page frame number, 0 for the current process's",
            required=True,
        ),
        number("ADDRESS", "a virtual address; where it stands alone, the current process's"),
    ),
    examples=(Example("!vtop 0 @rip"),),
    plugin="pte",
)
def virtual_to_physical(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.translation import vtop_grid
    from volatility3_kdump.windows.memory.translation import directory_of

    directory, address = arguments.number("DIRECTORY") or 0, arguments.number("ADDRESS")
    if address is None:
        directory, address = 0, directory
    directory = _base(session, directory) or directory_of(session.target, session.current.process)
    return vtop_grid(session.target, address, directory).kd_lines()


def _base(session: Session, directory: int) -> int:
    """A page directory's address of what was typed: that, or its page frame number, as in ``!vtop 98fd 12f980``."""
    memory = session.target.physical_memory
    numbered = bool(directory & 0xFFF) and directory < 1 << 40 and memory.why_absent(directory << 12) is None
    return directory << 12 if numbered else directory


@command(
    "!address",
    help="what an address belongs to",
    arguments=(number("ADDRESS", "an address", required=True),),
    examples=(Example("!address @rsp"),),
    plugin="address",
)
def region(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.regions import region_grid

    return region_grid(session.target, arguments.number("ADDRESS") or 0, session.current.memory).kd_lines()


@command(
    *_PHYSICAL,
    help="physical memory as bytes, numbers or text",
    usage="ADDRESS [LCOUNT | END]",
    own=True,
    examples=(Example("!dq 1f3a2a000 L8", "eight numbers of eight bytes"),),
)
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
