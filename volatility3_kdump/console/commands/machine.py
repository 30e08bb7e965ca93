"""Descriptor tables, and small looks at values: counted strings, control codes, global flags, processes that ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.memory.contents import counted_text, stretch, why_no_string

_LONGEST = 0x1000


def _processor(session: Session) -> int:
    current = session.current.processor
    if current is None:
        raise KdumpError(f"{session.target.name}: the dump does not say which processor crashed: choose one with ~Ns")
    return current


@command(
    "!idt",
    help="interrupt handlers of the current processor",
    options=(Option("-a", "every vector, not only those with an interrupt object"),),
    arguments=(number("VECTOR", "this one alone"),),
    examples=(Example("!idt -a", "every vector"), Example("!idt e", "page faults")),
    plugin="cpu",
)
def interrupt_table(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text.descriptors import idt_lines
    from volatility3_kdump.views.descriptors import idt_grid
    from volatility3_kdump.windows.machine.descriptors import descriptor_tables, interrupt_gates

    vector = arguments.number("VECTOR")
    if vector is None:
        return idt_grid(session.target, _processor(session), arguments.has("-a")).kd_lines()
    tables = descriptor_tables(session.target, _processor(session))
    gates = [gate for gate in interrupt_gates(session.target, tables) if gate.vector == vector]
    if not gates:
        raise KdumpError(f"{session.target.name}: the IDT has no vector {vector:x}")
    return idt_lines(tables, gates)


@command(
    "dg",
    help="descriptors of selectors, of the current processor",
    arguments=(number("FIRST", "a selector", required=True), number("LAST", "the last of several")),
    examples=(Example("dg 10"), Example("dg 0 50")),
)
def descriptors(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.descriptors import segment_lines

    first, last = arguments.number("FIRST") or 0, arguments.number("LAST")
    return segment_lines(session.target, _processor(session), first, last)


@command("!gdt", help="the descriptor table of the current processor")
def descriptor_table(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views.descriptors import segment_lines

    return segment_lines(session.target, _processor(session), None, None)


@command(
    "!ustr",
    "!str",
    help="a UNICODE_STRING; !str for an ANSI_STRING",
    arguments=(number("ADDRESS", "of the string's structure", required=True),),
    examples=(Example("!ustr ffff9189`4e251a78"),),
)
def counted_string(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.strings import counted_string as shown

    memory, address = session.current.memory, arguments.number("ADDRESS") or 0
    wide = arguments.name == "!ustr"
    string = counted_text(memory, address, wide, _LONGEST)
    if string is None:
        raise KdumpError(f"{session.target.name}: no string at {address:x}: {why_no_string(memory, address)}")
    if string.length > string.maximum:
        yield f"NOTE: its length {string.length} is greater than its room {string.maximum}: this may be no string"
    yield shown(string.length, string.maximum, string.buffer, string.text, wide, memory.pointer_size)


@command(
    "!ioctldecode",
    help="a device control code in its parts",
    arguments=(number("CODE", "the code, or an IRP of a device control request", required=True),),
    examples=(Example("!ioctldecode 2d1080"),),
)
def control_code(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.strings import control_code_lines
    from volatility3_kdump.windows.io.requests import read_irp

    code = arguments.number("CODE") or 0
    if code >> 32:
        current = read_irp(session.target, code).current
        value = current.parameters[2] if current is not None and current.major in (14, 15) else None
        if value is None:
            raise KdumpError(f"{session.target.name}: the IRP {code:x} is at no device control request")
        code = value & 0xFFFFFFFF
    return control_code_lines(code)


@command("!gflag", help="the global flags of the system")
def global_flags(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.strings import global_flag_lines

    target = session.target
    address = target.variable("NtGlobalFlag", "NtGlobalFlag")
    value = stretch(target.memory, address, 4).unit(0, 4) if address else None
    if address is None or value is None:
        raise KdumpError(f"{target.name}: nt!NtGlobalFlag is not in the dump")
    return global_flag_lines(address, value, target.memory.pointer_size)


@command("!zombies", help="processes that have ended and are still there")
def zombies(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.mex import process_list
    from volatility3_kdump.views.mex import processes_named

    ended = [process for process in processes_named(session.target, None) if process.exit_time]
    if not ended:
        yield "No process in the list has ended"
        return
    yield from process_list(ended)
