"""Commands over page tables and the regions of memory: ``!pte``, ``!vtop``, ``!address``, ``!db`` and its relatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_bounds

_PAGE_BITS, _MOST_PAGES = 12, 0x4000
_PHYSICAL = {"!db": "b", "!dc": "c", "!dd": "d", "!dw": "w", "!dq": "q", "!dp": "p", "!da": "a", "!du": "u"}


@command(
    "!pte",
    help="the page table entries of an address",
    arguments=(
        number("ADDRESS", "a virtual address in the current process, or that of an entry", required=True),
        number("END", "the last address of a range of pages; 1: ADDRESS is that of an entry"),
    ),
    examples=(
        Example("!pte @rip"),
        Example("!pte @rsp @rsp+2000", "of three pages"),
        Example("!pte ffffbd7c00314fb8 1", "what lies there as an entry"),
    ),
    plugin="pte",
)
def page_table_entries(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.translation import literal_text, pte_grid
    from volatility3_kdump.windows.memory.translation import address_of_entry, directory_of

    target, start, end = session.target, arguments.number("ADDRESS") or 0, arguments.number("END")
    directory = directory_of(target, session.current.process)
    if end is None:
        mapped = address_of_entry(target, start)
        yield from pte_grid(target, start if mapped is None else mapped, directory).kd_lines()
        return
    if end <= start:
        yield from literal_text(target, start)
        return
    pages = (end >> _PAGE_BITS) - (start >> _PAGE_BITS) + 1
    if pages > _MOST_PAGES:
        raise KdumpError(f"!pte: a range of {pages} pages; at most {_MOST_PAGES} are shown")
    for page in range(start >> _PAGE_BITS, (end >> _PAGE_BITS) + 1):
        yield from pte_grid(target, page << _PAGE_BITS, directory).kd_lines()
        yield ""


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
    from volatility3_kdump.windows.memory.translation import directory_at, directory_of

    directory, address = arguments.number("DIRECTORY") or 0, arguments.number("ADDRESS")
    if address is None:
        directory, address = 0, directory
    directory = directory_at(session.target, directory) or directory_of(session.target, session.current.process)
    return vtop_grid(session.target, address, directory).kd_lines()


@command(
    "!address",
    help="what an address belongs to; without one all of the kernel's address space",
    options=(
        Option("-summary", "how much there is of each use"),
        Option("-f:", "only these uses: Image, KernelStack, PagedPool...", value="USE,USE..."),
        Option("-o:", "as a table", value="FORMAT", refused="vol -r csv -f DUMP kdump.address writes tables"),
        Option("-c:", "a command for each range", value="COMMAND", refused=".foreach runs commands over output"),
    ),
    arguments=(number("ADDRESS", "an address"),),
    examples=(
        Example("!address @rsp"),
        Example("!address -summary", "how much there is of each use"),
        Example("!address -f:Image,KernelStack", "images and stacks"),
    ),
    plugin="address",
)
def region(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.regions import region_grid, space_text

    address = arguments.number("ADDRESS")
    if address is None:
        return space_text(session.target, arguments.option("-f:"), arguments.has("-summary"), session.progress)
    if arguments.has("-summary") or arguments.has("-f:"):
        raise KdumpError("!address takes an address, or -summary and -f: for all of the address space")
    return region_grid(session.target, address, session.current.memory).kd_lines()


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
    if session.target.memory.pointer_size == 4 and wanted.start >> 32 == 0xFFFFFFFF:
        # A number from 80000000 on was read as an address of the kernel, with its sign.
        end = None if wanted.end is None else wanted.end & 0xFFFFFFFF
        wanted = dataclasses.replace(wanted, start=wanted.start & 0xFFFFFFFF, end=end)
    if wanted.start >= 1 << 52:
        raise KdumpError(f"{wanted.start:x} is no physical address: it has more than 52 bits")
    view = MemoryView(session.target, wanted, _PHYSICAL[arguments.name], session.target.physical_memory)
    prefix = len(pointer(0, view.width))
    for line in view.lines():
        yield f"#{int(line[:prefix].replace('`', ''), 16):8x} {line[prefix:].strip()}"
