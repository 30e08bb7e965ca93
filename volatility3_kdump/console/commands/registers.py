"""``r`` and ``rm``: registers of the current context, and of the current processor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.commands.evaluate import cpp_names
from volatility3_kdump.console.commands.stacks import current_failure
from volatility3_kdump.console.script import unmarked
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, word
from volatility3_kdump.cpu.context import Context, register_names
from volatility3_kdump.cpu.registers import register_part
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import vectors, x87
from volatility3_kdump.text.analyze import shown_code
from volatility3_kdump.text.registers import register_block
from volatility3_kdump.windows.machine.extended_state import upper_halves
from volatility3_kdump.windows.machine.special_registers import NAMES as SPECIAL
from volatility3_kdump.windows.machine.special_registers import special_registers

#: Of all registers the user-defined pseudo-registers alone can be set.
_ASSIGNMENT = re.compile(r"@?\$(t1?[0-9])\s*=\s*(.+)", re.IGNORECASE)
_FIXED_ALIAS = re.compile(r"\$\.u([0-9])\s*=(.*)", re.DOTALL)
_MASK = re.compile(r"M\s*(\S+)$|([FX]|YI?|ZI?|K)$")
_VECTOR = re.compile(r"(?:xmm|v)([0-9]{1,2})$")
_TYPED = re.compile(r"([@$\w]+):([0-9]{0,3})([a-z]{1,2})$")
_X87 = re.compile(r"(st|mm)([0-7])$")
_WIDE = re.compile(r"([yz]mm([0-9]|[12][0-9]|3[01])|k[0-7])$")
_YMM = re.compile(r"ymm([0-9]|1[0-5])$")
_NO_FLOATS = "contexts of crash dumps hold no ZMM and opmask registers; r ymm0, r xmm0 and rX show AVX and SSE"
_YMM_FLOATS, _YMM_INTEGERS = 0x200, 0x400
_INTEGER, _FLOATS, _SEGMENTS, _MMX, _XMM, _XMM_INTEGERS = 0x3, 0x4, 0x8, 0x10, 0x40, 0x800


@command(
    "r",
    *("rM", "rX", "rF", "rY", "rYI"),
    help="registers, and the code there",
    usage="[M MASK | F | X | Y | YI | . | ?] [REGISTER[:[NUMBER]TYPE][,REGISTER] | $tN=VALUE]",
    own=True,
    options=(
        Option("M", "those of a mask (rm): rM 80 shows control registers", value="MASK"),
        Option("X", "the XMM registers"),
        Option("Y YI", "the YMM registers, of a CONTEXT with its extended state; YI as integers"),
        Option("F", "the x87 registers"),
        Option("$.uN=TEXT", "the text that $uN stands for in every command"),
        Option("?", "$tN keeps the type of a C++ expression, for ?? and @@c++( )"),
        Option(".", "those that the current instruction uses"),
    ),
    examples=(
        Example("r rip,rsp"),
        Example("r cr3"),
        Example("r xmm0:16ub, xmm1:d", "by element: ib ub iw uw id ud iq uq f d"),
        Example("r $t0=5", "sets a pseudo-register"),
        Example("r? $t0=(nt!_EPROCESS *)@$proc", "with its type: ?? @$t0->UniqueProcessId"),
    ),
    plugin="trap",
)
def registers(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = (arguments.name[1:] + " " + arguments.text).strip() if arguments.name != "r" else arguments.text
    fixed = _FIXED_ALIAS.fullmatch(operands)
    if fixed is not None:
        session.aliases.fixed[fixed[1]] = fixed[2].strip()
        return
    operands = unmarked(operands)
    if operands.startswith("?"):
        _assign_typed(session, arguments, operands[1:].strip())
        return
    assigned = _ASSIGNMENT.fullmatch(operands)
    if assigned is not None:
        name = assigned[1].lower()
        session.state.variables[name] = session.calculate(assigned[2])
        session.state.typed.pop(name, None)
        return
    if operands == ".":
        yield from _used(session)
        return
    mask = _MASK.match(operands)
    if mask is not None:
        yield from _masked(session, _mask_of(session, mask))
        return
    if operands:
        yield " ".join(_one_register(session, name) for name in re.split(r"[\s,]+", operands.strip(", ")))
        return
    if session.state.register_mask is not None:
        yield from _masked(session, session.state.register_mask)
        return
    failure = current_failure(session)
    if session.state.failure is not None or session.state.context is not None:
        yield "Last set context:"
    yield from register_block(failure.context)
    if failure.recovered:
        yield f"Recovered by unwinding: {' '.join(failure.recovered)}"
    yield from shown_code(failure, session.target.memory.pointer_size, kd=False)


def _assign_typed(session: Session, arguments: Arguments, text: str) -> None:
    """``r? $t0 = EXPRESSION``: in MASM expressions the pseudo-register is the number, or where the structure lies."""
    from volatility3_kdump.expressions.cpp_values import CppValue, address_in, loaded
    from volatility3_kdump.views.cpp import evaluate_cpp

    assigned = _ASSIGNMENT.fullmatch(text)
    if assigned is None:
        raise arguments.unknown(f"?{text}")
    value = evaluate_cpp(assigned[2], cpp_names(session))
    name = assigned[1].lower()
    if isinstance(value, CppValue):
        value = loaded(value)
        session.state.variables[name] = address_in(value)
        session.state.typed[name] = value
    elif isinstance(value, (bool, int)):
        session.state.variables[name] = int(value)
        session.state.typed.pop(name, None)
    else:
        raise KdumpError("a pseudo-register holds a number or a pointer, no text and no floating point")


def _mask_of(session: Session, match: re.Match[str]) -> int:
    letters = {"X": _XMM, "F": _FLOATS, "Y": _YMM_FLOATS, "YI": _YMM_INTEGERS}
    if match[2] in letters:
        return letters[match[2]]
    if match[2]:
        raise KdumpError(f"r{match[2]}: {_NO_FLOATS}")
    return _known_mask(session.calculate(match[1]))


def _known_mask(mask: int) -> int:
    unknown = mask & ~sum(vectors.MASKS)
    if unknown:
        bits = ", ".join(f"{bit:x} {group}" for bit, group in vectors.MASKS.items())
        raise KdumpError(f"no registers for mask bits {unknown:x}: {_NO_FLOATS}; there are {bits}")
    return mask


def _masked(session: Session, mask: int) -> Iterator[str]:
    failure = current_failure(session)
    context, size = failure.context, session.target.memory.pointer_size
    lines = register_block(context)
    segments = context.has_segments and context.architecture != "arm64"
    if mask & _INTEGER:
        yield from lines[:-1] if segments else lines
    if mask & _SEGMENTS and segments:
        yield lines[-1]
    yield from _x87_lines(context, mask)
    if mask & (_XMM | _XMM_INTEGERS):
        stem = "v" if context.architecture == "arm64" else "xmm"
        for number, value in enumerate(context.xmm or ()):
            kind = "f" if mask & _XMM else "id"
            yield f"{stem}{number}={'?' if value is None else vectors.elements(value, 16, kind)}"
        if context.xmm is None:
            yield f"NOTE: {context.source} does not hold the vector registers"
    if mask & (_YMM_FLOATS | _YMM_INTEGERS):
        try:
            upper_halves(session.current.memory, context)
        except KdumpError as error:
            yield f"NOTE: YMM registers are not known: {error}"
        else:
            kind = "f" if mask & _YMM_FLOATS else "id"
            for number in range(len(context.xmm or ())):
                yield f"ymm{number}={vectors.elements(_ymm(session, context, number), 32, kind)}"
    yield from vectors.special_rows(special_registers(session.target, session.current.processor), mask, size)
    yield from shown_code(failure, size, kd=False)


def _x87_lines(context: Context, mask: int) -> Iterator[str]:
    if not mask & (_FLOATS | _MMX):
        return
    if context.x87 is None:
        yield f"NOTE: {context.source} does not hold the x87 registers"
        return
    if mask & _FLOATS:
        yield from x87.lines(context.x87)
    if mask & _MMX:
        yield from x87.mmx_lines(context.x87)


def _used(session: Session) -> Iterator[str]:
    """The registers that the current instruction names, each once."""
    failure = current_failure(session)
    instruction = failure.instruction
    if instruction is None:
        raise KdumpError("the current instruction is not in the dump")
    names = [part.text for part in instruction.parts if part.kind == "register"]
    names += [name for memory in instruction.memories for name, _ in memory.registers]
    named = [name for name in dict.fromkeys(names) if register_part(failure.context.architecture, name) is not None]
    if named:
        yield "  ".join(_one_register(session, name) for name in named)


def _one_register(session: Session, name: str) -> str:
    if "=" in name:
        raise KdumpError(f"{name}: the registers of a dump cannot be changed")
    typed = _TYPED.fullmatch(name)
    if typed is not None:
        return _by_element(session, typed[1], typed[2], typed[3])
    plain = name.removeprefix("@").lower()
    context = session.current.registers
    if _is_vector(plain, context) and context is not None:
        return f"{plain}={vectors.elements(_vector(context, plain), 16)}"
    floating = _X87.match(plain)
    if floating is not None and context is not None and context.architecture != "arm64":
        return _x87_register(context, floating[1], int(floating[2]))
    wide = _YMM.match(plain)
    if wide is not None and context is not None:
        return f"{plain}={vectors.elements(_ymm(session, context, int(wide[1])), 32)}"
    if _WIDE.match(plain):
        raise KdumpError(f"{plain} is not known: {_NO_FLOATS}")
    if plain in SPECIAL and not (context is not None and plain in context.registers):
        return _special(session, plain)
    architecture = session.target.header.architecture
    if plain in ("efl", "eflags"):
        plain = "eflags"
    if context is not None and plain in register_names(context.architecture):
        value = context.get(plain)
        if value is None:
            raise KdumpError(f"{plain} is not known: {context.source} does not hold it, and it was not recovered")
        digits = {"eflags": 8, "mxcsr": 8}.get(plain, 4 if len(plain) == 2 and plain.endswith("s") else 0)
        shown = "efl" if plain == "eflags" else plain
        return f"{shown}={value:0{digits or (8 if architecture == 'x86' else 16)}x}"
    number = session.evaluate(f"@@masm(@{plain})" if session.state.cpp else f"@{plain}")
    return f"{plain}={number:0{2 * session.target.memory.pointer_size if plain.startswith('$') else 1}x}"


def _x87_register(context: Context, kind: str, number: int) -> str:
    """``mm0=0127b52000584c8e``; of ``st0`` the number and its 80 bits."""
    if context.x87 is None:
        raise KdumpError(f"{kind}{number} is not known: {context.source} does not hold it")
    if kind == "mm":
        return f"mm{number}={x87.mmx(context.x87, number):016x}"
    value = x87.register(context.x87, number)
    high, middle, low = value >> 64, value >> 32 & 0xFFFF_FFFF, value & 0xFFFF_FFFF
    return f"st{number}={x87.decimal(value)} ({high:04x}:{middle:08x}:{low:08x})"


def _special(session: Session, name: str) -> str:
    register = special_registers(session.target, session.current.processor).get(name)
    if register is None:
        raise KdumpError(f"{name} is not known: the processor's control block, or its layout, is not at hand")
    return vectors.special(register, session.target.memory.pointer_size)


def _is_vector(name: str, context: Context | None) -> bool:
    """``xmm0`` on x86 and x64, ``v0`` on ARM64."""
    if context is None or not _VECTOR.match(name):
        return False
    return name.startswith("v") == (context.architecture == "arm64")


def _vector(context: Context, name: str) -> int:
    match = _VECTOR.match(name)
    number = int(match[1]) if match else 0
    if context.xmm is None or number >= len(context.xmm):
        raise KdumpError(f"{name} is not known: {context.source} does not hold it")
    value = context.xmm[number]
    if value is None:
        raise KdumpError(f"{name} is not known: {context.source} does not hold it")
    return value


def _ymm(session: Session, context: Context, number: int) -> int:
    try:
        high = upper_halves(session.current.memory, context)[number]
    except KdumpError as error:
        raise KdumpError(f"ymm{number} is not known: {error}; r xmm{number} shows its lower half") from error
    return high << 128 | _vector(context, f"xmm{number}")


def _by_element(session: Session, name: str, count: str, kind: str) -> str:
    plain = name.removeprefix("@").lower()
    if kind not in vectors.ELEMENTS:
        raise KdumpError(f"{name}:{kind}: elements are {' '.join(vectors.ELEMENTS)}")
    context = session.current.registers
    if _is_vector(plain, context) and context is not None:
        value, size = _vector(context, plain), 16
    elif (wide := _YMM.match(plain)) is not None and context is not None:
        value, size = _ymm(session, context, int(wide[1])), 32
    else:
        size = session.target.memory.pointer_size
        value = session.evaluate(f"@@masm(@{plain})") & ((1 << 8 * size) - 1)
        if vectors.ELEMENTS[kind][0] > size:
            raise KdumpError(f"{plain} has {size} bytes: no element is {kind}")
    return f"{plain}={vectors.elements(value, size, kind, int(count) if count else None)}"


@command(
    "rm",
    help="shows or sets which registers r shows",
    arguments=(word("MASK", "the sum of bits, or ? for what there is"),),
    examples=(Example("rm a", "integer and segment registers"), Example("rm ?")),
)
def register_mask(session: Session, arguments: Arguments) -> Iterator[str]:
    typed = arguments.word("MASK")
    state = session.state
    if typed == "?":
        yield from (f"{bit:8x} - {group}" for bit, group in vectors.MASKS.items())
    elif typed is not None:
        mask = session.calculate(typed)
        ignored = mask & ~sum(vectors.MASKS)
        state.register_mask = mask & ~ignored
        if ignored:
            yield f"Ignored invalid bits {ignored:x}"
    else:
        default = _SEGMENTS | (2 if session.target.memory.pointer_size == 8 else 1)
        yield from vectors.mask_lines(default if state.register_mask is None else state.register_mask)
