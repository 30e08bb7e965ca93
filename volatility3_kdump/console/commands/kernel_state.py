"""Commands over states of the kernel: APCs, lookaside lists, processors, callbacks for a bug check."""

from __future__ import annotations

from collections.abc import Iterable

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number, word
from volatility3_kdump.errors import KdumpError


@command(
    "!apc",
    help="APCs that are queued to threads",
    arguments=(
        word("WHAT", "proc, thre, or the address of a KAPC; by default all processes"),
        number("ADDRESS", "of the process or thread"),
    ),
    examples=(Example("!apc"), Example("!apc thre ffff9189`52f55080", "of a thread")),
)
def procedure_calls(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import apc_text, one_apc

    what, address = arguments.word("WHAT"), arguments.number("ADDRESS")
    if what is None:
        return apc_text(session.target)
    if what.lower() not in ("proc", "thre"):
        if address is not None:
            raise arguments.unknown(what)
        return one_apc(session.target, session.evaluate(what))
    if address is None:
        raise KdumpError(f"!apc {what} needs an address")
    of_thread = what.lower() == "thre"
    return apc_text(session.target, None if of_thread else address, address if of_thread else None)


@command(
    "!lookaside",
    help="lookaside lists: depth, size, hits",
    options=(Option("-all", "those of drivers as well"),),
    arguments=(
        number("ADDRESS", "of a list, 0 for the system's"),
        number("OPTIONS", "0; others would change the list"),
    ),
    examples=(Example("!lookaside -all"), Example("!lookaside fffff880`01294f80")),
    plugin="lookaside",
)
def lookaside_lists(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import lookaside_text, lookasides_grid

    if arguments.number("OPTIONS"):
        raise KdumpError("!lookaside: a dump cannot be changed: the option is 0")
    address = arguments.number("ADDRESS")
    if address:
        return lookaside_text(session.target, address)
    return lookasides_grid(session.target, arguments.has("-all")).kd_lines()


@command(
    "!ipi",
    help="interprocessor interrupts of the processors",
    arguments=(number("PROCESSOR", "one processor, by default all"),),
    examples=(Example("!ipi"), Example("!ipi 1")),
)
def interprocessor_interrupts(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import ipi_text

    return ipi_text(session.target, arguments.number("PROCESSOR"))


@command("!frozen", help="which processors were stopped")
def frozen_processors(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import frozen_text

    return frozen_text(session.target, session.current.processor)


@command(
    ".tss",
    "!tss",
    help="a task state segment; by default that of the current processor",
    arguments=(number("ADDRESS", "of the segment, as !pcr shows it"),),
    examples=(Example(".tss"),),
)
def task_state_segment(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import task_text

    return task_text(session.target, arguments.number("ADDRESS"), session.current.processor)


@command("!numa", help="NUMA nodes and their processors")
def numa(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import numa_text

    return numa_text(session.target)


@command(
    "!bugdump",
    help="callbacks that drivers registered for a bug check",
    arguments=(word("COMPONENT", "only those of this component"),),
    examples=(Example("!bugdump"),),
)
def bug_check_data(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.kernel_state import callbacks_text

    return callbacks_text(session.target, arguments.word("COMPONENT"))
