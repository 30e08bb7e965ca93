"""Commands that evaluate expressions: ``?``, ``.formats``, ``n``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number, word
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import numbers

if TYPE_CHECKING:
    from volatility3_kdump.expressions.cpp_names import CppNames

_RADICES = {"8": 8, "10": 10, "16": 16, "0n8": 8, "0n10": 10, "0n16": 16, "0x8": 8, "0xa": 10, "0x10": 16}


def _effective_address(number: int, session: Session) -> int | None:
    """An address that the current instruction accesses, the first or the second."""
    from volatility3_kdump.console.commands.stacks import current_failure

    try:
        instruction = current_failure(session).instruction
    except KdumpError:
        return None
    accessed = [memory.address for memory in instruction.memories if memory.access] if instruction is not None else []
    return accessed[number] if number < len(accessed) else None


Session.computed["ea"] = functools.partial(_effective_address, 0)
Session.computed["ea2"] = functools.partial(_effective_address, 1)


@command(
    "?",
    help="evaluates an expression",
    usage="[EXPRESSION]",
    own=True,
    examples=(Example("? nt!KeBugCheckEx+10"), Example("? poi(@rsp)", "what the stack pointer points to")),
)
def evaluate(session: Session, arguments: Arguments) -> Iterator[str]:
    if not arguments.text:
        from volatility3_kdump.console.commands import registry

        help_command = registry().get(".help")
        if help_command is None:
            raise KdumpError("? needs an expression")
        yield from help_command.function(session, arguments)
        return
    value = session.calculate(arguments.text)
    session.state.variables["exp"] = value
    yield numbers.evaluated(value, session.target.memory.pointer_size)


@command(
    "??",
    help="evaluates a C++ expression, and shows it with its type",
    usage="EXPRESSION",
    own=True,
    examples=(
        Example("?? @$proc->UniqueProcessId"),
        Example("?? ((nt!_KTHREAD *)@$thread)->State", "a field of a structure at an address"),
        Example("?? sizeof(nt!_EPROCESS)"),
    ),
    plugin="dx",
)
def evaluate_cpp(session: Session, arguments: Arguments) -> Iterable[str]:
    """The expression sees types and variables of all modules, and registers and pseudo-registers behind ``@``."""
    from volatility3_kdump.views.cpp import cpp_lines

    if not arguments.text:
        raise KdumpError("?? needs a C++ expression: ?? ((nt!_EPROCESS *)@$proc)->UniqueProcessId")
    return cpp_lines(arguments.text, cpp_names(session))


def cpp_names(session: Session) -> CppNames:
    """What names mean in C++ expressions at the prompt."""
    from volatility3_kdump.expressions.cpp_names import CppNames

    return CppNames(session.seen, session.names, session.current.memory, session.state.radix)


_EVALUATORS = {"masm": "MASM - Microsoft Assembler expressions", "c++": "C++ - C++ source expressions"}


@command(
    ".expr",
    help="shows or sets the kind of expressions that commands take",
    options=(Option("/s", "sets it", value="masm|c++"), Option("/q", "shows which there are")),
    examples=(Example(".expr /s c++", "? and arguments of commands are C++ from now on"),),
)
def evaluator(session: Session, arguments: Arguments) -> Iterator[str]:
    if arguments.has("/q"):
        yield "Available expression evaluators:"
        yield from _EVALUATORS.values()
        return
    if arguments.has("/s"):
        chosen = (arguments.option("/s") or "").lower()
        if chosen not in _EVALUATORS:
            raise arguments.unknown(chosen)
        session.state.cpp = chosen == "c++"
    yield f"Current expression evaluator: {_EVALUATORS['c++' if session.state.cpp else 'masm']}"


@command(
    ".formats",
    help="a value as number, text, time and floating point",
    usage="EXPRESSION",
    own=True,
    examples=(Example(".formats 1d9e6f2a"),),
)
def show_formats(session: Session, arguments: Arguments) -> Iterator[str]:
    if not arguments.text:
        raise KdumpError(".formats needs an expression")
    value = session.calculate(arguments.text)
    yield from numbers.formats(value, session.target.memory.pointer_size)


@command(
    "n",
    help="shows or sets the base of numbers",
    arguments=(word("BASE", "8, 10 or 16"),),
    examples=(Example("n 10", "numbers are decimal from now on"),),
)
def radix(session: Session, arguments: Arguments) -> Iterator[str]:
    base = arguments.word("BASE")
    if base:
        try:
            session.state.radix = _RADICES[base.lower()]
        except KeyError:
            raise KdumpError("the base of numbers is 8, 10 or 16") from None
    yield f"base is {session.state.radix}"


@command(
    "!error",
    help="an error code by name: NTSTATUS, Win32, HRESULT",
    arguments=(
        number("VALUE", "an error code", required=True),
        flags(Bit(1, "VALUE is an NTSTATUS")),
    ),
    examples=(Example("!error c0000005"), Example("!error 2", "a Win32 error")),
    plugin="error",
)
def error_code(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.error_codes import error_grid

    status = bool((arguments.number("FLAGS") or 0) & 1)
    return error_grid([arguments.number("VALUE") or 0], status).kd_lines()
