"""x86 unwinding by frame data: what PDB files say of functions that set up no frame pointer.

* :class:`FrameData` - one range of code: the sizes of its frame, and the program that gives the caller's registers.
* :class:`FrameTable` - the ranges of an image.
* :func:`step` - the caller's registers.

A program is in postfix notation over registers and variables: ``$T0 .raSearch = $eip $T0 ^ = $esp $T0 4 + =`` with
``^`` for "what stands at", ``@`` for "aligned downwards to". ``.raSearch`` is the place of the return address, which is
looked for from where the sizes say that it is. Layouts: ``FPO_DATA`` of ``winnt.h``, ``FRAMEDATA`` of ``cvinfo.h`` in
Microsoft's published sources; notation: IDiaFrameData::get_program of the DIA documentation.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from volatility3_kdump.cpu import Read

_MASK = 0xFFFFFFFF
_MOST_TOKENS = 256
#: How many words above its place a return address is looked for: arguments that are being passed lie in between.
_MOST_SEARCHED = 32
REGISTERS = ("eip", "esp", "ebp", "ebx", "esi", "edi")

Known = Mapping[str, int | None]


class FrameData(NamedTuple):
    """A range of code by RVA. Sizes are in bytes; ``program`` is empty for data of the older kind.

    ``base_pointer`` says, of the older kind, that the function uses ``ebp`` for something else.
    """

    start: int
    size: int
    locals: int
    parameters: int
    saved: int
    program: str
    base_pointer: bool = False


class FrameTable:
    """The frame data of an image."""

    def __init__(self, entries: Sequence[FrameData]) -> None:
        # The most special last: a function is described anew from each instruction of its prologue on.
        self._entries = sorted(entries, key=lambda entry: (entry.start, bool(entry.program)))
        self._starts = [entry.start for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, rva: int) -> FrameData | None:
        """The entry for an instruction; ``None`` where the file has none."""
        index = bisect.bisect_right(self._starts, rva) - 1
        # A function's own entry reaches over those of its prologue, which lie behind it.
        for at in range(index, max(index - 64, -1), -1):
            entry = self._entries[at]
            if rva < entry.start + entry.size:
                return entry
        return None


class Stepped(NamedTuple):
    """The caller's registers, ``None`` each where not known; ``exact`` where no return address was searched for."""

    registers: dict[str, int | None]
    exact: bool


class _Unknown(Exception):
    """A value that the program needs is not there; the text says which."""


def step(entry: FrameData, known: Known, read: Read, returns: Callable[[int], bool], passed: int = 0) -> Stepped | str:
    """The caller of a function, or in words why the frame data does not give it.

    ``returns`` says whether a value can be a return address; ``passed`` is how many bytes of parameters the function
    that this one called has taken.
    """
    esp = known.get("esp")
    if esp is None:
        return "the stack pointer is not known"
    start = esp + passed + entry.locals + entry.saved & _MASK
    place, exact = start, True
    if not entry.program or ".raSearch" in entry.program:
        searched = _search(start, read, returns)
        if searched is None:
            return f"no return address from {start:#x} on"
        place, exact = searched, searched == start
    if not entry.program:
        value = _word(read, place)
        registers = {**known, "eip": value, "esp": place + 4}
        if entry.base_pointer:
            registers["ebp"] = None
        return Stepped(registers, exact)
    variables: dict[str, int | None] = {f"${name}": known.get(name) for name in REGISTERS}
    variables |= {
        ".raSearch": place,
        ".raSearchStart": place,
        ".cbLocals": entry.locals,
        ".cbParams": entry.parameters,
        ".cbSavedRegs": entry.saved,
        ".cbCalleeParams": passed,
    }
    try:
        _run(entry.program, variables, read)
    except _Unknown as error:
        return str(error)
    return Stepped({name: variables[f"${name}"] for name in REGISTERS}, exact)


def _search(start: int, read: Read, returns: Callable[[int], bool]) -> int | None:
    for index in range(_MOST_SEARCHED):
        place = start + 4 * index & _MASK
        value = _word(read, place)
        if value is None:
            return None
        if returns(value):
            return place
    return None


def _word(read: Read, address: int) -> int | None:
    data = read(address, 4)
    return None if data is None or len(data) != 4 else int(struct.unpack("<I", data)[0])


def _run(program: str, variables: dict[str, int | None], read: Read) -> None:
    """Run a program; what it assigns is in ``variables`` afterwards. Raises :class:`_Unknown`."""
    stack: list[str | int] = []

    def value(token: str | int) -> int:
        if isinstance(token, int):
            return token
        number = variables.get(token)
        if number is None:
            raise _Unknown(f"{token} is not known")
        return number

    def pop() -> str | int:
        if not stack:
            raise _Unknown("its program takes more than it has")
        return stack.pop()

    tokens = program.split()
    if len(tokens) > _MOST_TOKENS:
        raise _Unknown(f"its program has more than {_MOST_TOKENS} parts")
    for token in tokens:
        if token == "=":
            number, name = value(pop()), pop()
            if not isinstance(name, str):
                raise _Unknown("its program assigns to a number")
            variables[name] = number
        elif token == "^":
            address = value(pop())
            word = _word(read, address)
            if word is None:
                raise _Unknown(f"the frame at {address:#x} is not in the dump")
            stack.append(word)
        elif token in _OPERATORS:
            right, left = value(pop()), value(pop())
            if right == 0 and token in "/%@":
                raise _Unknown("its program divides by zero")
            stack.append(_OPERATORS[token](left, right) & _MASK)
        elif token.startswith(("$", ".")):
            stack.append(token)
        elif token.lstrip("-").isdecimal() and len(token) <= 11:
            stack.append(int(token) & _MASK)
        else:
            raise _Unknown("its program is of another kind")


_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left // right,
    "%": lambda left, right: left % right,
    "@": lambda left, right: left & -right,
}
