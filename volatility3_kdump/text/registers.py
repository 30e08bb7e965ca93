"""Registers and the current instruction as KD's ``r``, ``.trap`` and ``u`` show them.

* :func:`register_block` - the lines of registers and flags.
* :func:`code_line` - one instruction, with the note on its memory operand.
* :func:`flags_words` - the flags in words.

A register that is not known is written in question marks. KD writes zeros for it; ``kd=True`` does the same, for text
that must equal KD's.
"""

from __future__ import annotations

from collections.abc import Sequence

from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand
from volatility3_kdump.text.addresses import little_endian, named, pointer

_X64_ROWS = (
    ("rax", "rbx", "rcx"),
    ("rdx", "rsi", "rdi"),
    ("rip", "rsp", "rbp"),
    ("r8", "r9", "r10"),
    ("r11", "r12", "r13"),
    ("r14", "r15"),
)
_X86_ROWS = (("eax", "ebx", "ecx", "edx", "esi", "edi"), ("eip", "esp", "ebp"))
_ARM64_ROWS = (
    *(tuple(f"x{number}" for number in range(row, row + 4)) for row in range(0, 28, 4)),
    ("x28", "fp", "lr", "sp"),
)

#: EFLAGS bit, and KD's words for clear and set, in KD's order.
_FLAGS = (
    (11, "nv", "ov"),
    (10, "up", "dn"),
    (9, "di", "ei"),
    (7, "pl", "ng"),
    (6, "nz", "zr"),
    (4, "na", "ac"),
    (2, "po", "pe"),
    (0, "nc", "cy"),
)
_VIRTUAL_FLAGS = ((20, "vip"), (19, "vif"))

#: The value of a larger operand, in bytes, is left out of the note: register save areas and wide vectors.
_LARGEST_VALUE = 16


def register_block(context: Context, kd: bool = False) -> list[str]:
    """The register lines of KD for a context: general registers, flags, and segments where the context has them.

    A trap frame on x64 has no segments, and KD shows none after ``.trap``.
    """
    if context.architecture == "arm64":
        return _arm64_block(context, kd)
    rows = _X86_ROWS if context.architecture == "x86" else _X64_ROWS
    lines = [" ".join(_register(context, name, kd) for name in row) for row in rows]
    flags = _flags_line(context, kd)
    if context.architecture == "x86":
        lines[-1] += f" {flags}"
    else:
        lines.append(flags)
    if context.has_segments:
        segments = "  ".join(f"{name}={context.registers[name]:04x}" for name in ("cs", "ss", "ds", "es", "fs", "gs"))
        lines.append(f"{segments}             efl={context.registers['eflags']:08x}")
    return lines


def flags_words(eflags: int) -> str:
    """The flags of EFLAGS in KD's words: ``nv up ei ng nz na pe nc``, then ``vip`` and ``vif`` if set."""
    flags = [when_set if eflags >> bit & 1 else when_clear for bit, when_clear, when_set in _FLAGS]
    flags += [word for bit, word in _VIRTUAL_FLAGS if eflags >> bit & 1]
    return " ".join(flags)


def code_line(instruction: Instruction, context: Context | None = None, kd: bool = False) -> str:
    """One instruction as a line of KD's ``u``; with a context, as KD shows the current instruction.

    The current instruction carries a note: the segment, the effective address and the value of a memory operand
    (`` ds:00000000`00000000=????????``), the destination of an indirect call or jump in braces, or whether a branch
    is taken. The selector of the segment is shown when the context has segments. Where a register is not known the
    address is question marks and the note names the register; with ``kd``, such a register counts as zero.
    """
    size = 4 if instruction.architecture == "x86" else 8
    if instruction.architecture == "arm64":
        # KD shows the instruction as a number, in ten columns, and the mnemonic in twelve.
        body = f"{instruction.raw[::-1].hex()} {instruction.mnemonic:<11} {instruction.operands}"
    else:
        body = f"{instruction.raw.hex():<15} {instruction.mnemonic:<7} {instruction.operands}"
    line = f"{pointer(instruction.address, size)} {body.rstrip()}"
    return line if context is None else line + _notes(instruction, context, kd)


def absent_code_line(address: int, architecture: str = "x64") -> str:
    """The line for code that is not in the dump: the address and question marks."""
    if architecture == "arm64":
        return f"{pointer(address)} ????????    ???"
    return f"{pointer(address, 4 if architecture == 'x86' else 8)} ??              ???"


def _register(context: Context, name: str, kd: bool) -> str:
    return f"{name:>3}={_value(context, name, kd)}"


def _value(context: Context, name: str, kd: bool, size: int | None = None) -> str:
    value = context.registers.get(name)
    return pointer(0 if value is None and kd else value, size or context.pointer_size, tick=False)


def _flags_line(context: Context, kd: bool) -> str:
    eflags = context.registers.get("eflags", 0 if kd else None)
    if eflags is None:
        return f"iopl=?         {' '.join('??' for _ in _FLAGS)}"
    return f"iopl={eflags >> 12 & 3}         {flags_words(eflags)}"


def _arm64_block(context: Context, kd: bool) -> list[str]:
    lines = ["  ".join(_register(context, name, kd) for name in row) for row in _ARM64_ROWS]
    last = f"{_register(context, 'pc', kd)}  psr={_value(context, 'cpsr', kd, 4)}"
    cpsr = context.registers.get("cpsr", 0 if kd else None)
    if cpsr is not None:
        flags = "".join(
            letter if cpsr >> bit & 1 else "-" for letter, bit in (("N", 31), ("Z", 30), ("C", 29), ("V", 28))
        )
        last += f" {flags} EL{cpsr >> 2 & 3}"
    return [*lines, last]


def _notes(instruction: Instruction, context: Context, kd: bool) -> str:
    if instruction.target is not None and instruction.taken is not None:
        return f" [br={int(instruction.taken)}]"
    if instruction.architecture == "arm64":
        return ""
    if instruction.mnemonic in ("call", "jmp") and instruction.target is None:
        return _destination(instruction, context, kd)
    return "".join(_memory_note(memory, context, kd) for memory in _in_note_order(instruction.memories))


def _destination(instruction: Instruction, context: Context, kd: bool) -> str:
    size = context.pointer_size
    where = ""
    if instruction.indirect is not None:
        where = f"{{{named(instruction.indirect, instruction.indirect_name, size)}}}"
    if not instruction.memories:
        return f" {where}" if where else ""
    place, _, value = _memory_note(instruction.memories[0], context, kd).partition("=")
    return f"{place}={where or value}"


def _in_note_order(memories: Sequence[MemoryOperand]) -> list[MemoryOperand]:
    return [memory for memory in memories if memory.access is not None]


def _memory_note(memory: MemoryOperand, context: Context, kd: bool) -> str:
    selector = f"{context.registers[memory.segment]:04x}:" if context.has_segments else ""
    offset = memory.zeroed if kd else memory.offset
    note = f" {memory.segment}:{selector}{pointer(offset, context.pointer_size)}"
    note += f"={little_endian(memory.value, memory.size)}" if memory.size <= _LARGEST_VALUE else ""
    if memory.unknown and not kd:
        note += f" ({', '.join(memory.unknown)} not known)"
    return note
