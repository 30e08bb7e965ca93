"""Commands that evaluate expressions: ``?``, ``.formats``, ``n``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import numbers

_RADICES = {"8": 8, "10": 10, "16": 16, "0n8": 8, "0n10": 10, "0n16": 16, "0x8": 8, "0xa": 10, "0x10": 16}


@command("?", help="evaluates an expression", usage="[expression]")
def evaluate(session: Session, arguments: Arguments) -> Iterator[str]:
    if not arguments.text:
        from volatility3_kdump.console.commands import registry

        help_command = registry().get(".help")
        if help_command is None:
            raise KdumpError("? needs an expression")
        yield from help_command.function(session, arguments)
        return
    value = session.evaluate(arguments.text)
    session.state.variables["exp"] = value
    yield numbers.evaluated(value, session.target.memory.pointer_size)


@command("??", help="C++ expressions are not evaluated", usage="expression")
def evaluate_cpp(session: Session, arguments: Arguments) -> Iterable[str]:
    raise KdumpError("C++ expressions are not supported: ? evaluates MASM expressions, dt shows typed values")


@command(".formats", help="a value as number, text, time and floating point", usage="expression")
def show_formats(session: Session, arguments: Arguments) -> Iterator[str]:
    if not arguments.text:
        raise KdumpError(".formats needs an expression")
    value = session.evaluate(arguments.text)
    yield from numbers.formats(value, session.target.memory.pointer_size)


@command("n", help="shows or sets the base of numbers", usage="[8|10|16]")
def radix(session: Session, arguments: Arguments) -> Iterator[str]:
    if arguments.text:
        try:
            session.state.radix = _RADICES[arguments.text.lower()]
        except KeyError:
            raise KdumpError("the base of numbers is 8, 10 or 16") from None
    yield f"base is {session.state.radix}"


@command("!error", help="an error code by name: NTSTATUS, Win32, HRESULT", usage="VALUE [FLAGS]", plugin="error")
def error_code(session: Session, arguments: Arguments) -> Iterable[str]:
    """Bit 0 of FLAGS says that VALUE is an NTSTATUS."""
    from volatility3_kdump.views.error_codes import error_grid

    if not 1 <= len(arguments.words) <= 2:
        raise KdumpError("!error takes an error code, and 1 to read it as an NTSTATUS")
    value, *flags = [session.evaluate(word) for word in arguments.words]
    return error_grid([value], bool(flags and flags[0] & 1)).kd_lines()
