"""Functions of made images: machine code, unwind data, and what both do to a stack.

A :class:`Function` is described once, as its prologue and its call sites. From that follow the code bytes, the
RUNTIME_FUNCTION and UNWIND_INFO records (PE/COFF specification, x64 exception handling) and the stack frame, so that
the three agree.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)

#: Recommended multi-byte no-operation sequences (Intel SDM volume 2, NOP).
_NOPS = tuple(
    bytes.fromhex(digits)
    for digits in (
        "",
        "90",
        "6690",
        "0f1f00",
        "0f1f4000",
        "0f1f440000",
        "660f1f440000",
        "0f1f8000000000",
        "0f1f840000000000",
    )
)


@dataclass(frozen=True)
class MachineFrame:
    """The processor has pushed SS, RSP, EFLAGS, CS and RIP, and an error code if there is one."""

    error_code: bool = False


@dataclass(frozen=True)
class Push:
    register: str


@dataclass(frozen=True)
class Allocate:
    """``sub rsp,size``."""

    size: int


@dataclass(frozen=True)
class FramePointer:
    """``lea register,[rsp+offset]``; ``offset`` is a multiple of 16 up to 240."""

    register: str
    offset: int


@dataclass(frozen=True)
class Save:
    """``mov [rsp+offset],register`` after the allocation; for xmm registers ``movaps``."""

    register: str
    offset: int


@dataclass(frozen=True)
class Pointer:
    """``lea rax,[rsp+offset]``: the saves that follow address the frame through rax, which makes them shorter."""

    offset: int


Operation = MachineFrame | Push | Allocate | FramePointer | Save | Pointer


@dataclass(frozen=True)
class Call:
    """A call whose return address is ``label`` + ``offset`` (``label`` None: the function's own start).

    ``target`` is a symbol for a direct call, ``register:NAME`` for one through a register, ``import:SYMBOL`` for one
    through a pointer in memory.
    """

    offset: int
    target: str
    label: str | None = None


@dataclass(frozen=True)
class Function:
    """A function of an image.

    ``aliases`` are names that other builds have for it. ``entry`` are bytes in front of the prologue; ``below`` is
    stack that the body allocates after it, which the unwinder skips by the frame pointer; ``body`` maps offsets from
    the function's start to exact instruction bytes. ``end`` names a symbol that the function at least reaches.
    ``leaf_stop`` is an offset at which a processor can be found stopped (frame without a call). A function that does
    not return has no epilogue.
    """

    name: str
    prologue: tuple[Operation, ...] = ()
    calls: tuple[Call, ...] = ()
    entry: bytes = b""
    below: int = 0
    body: Mapping[int, bytes] = field(default_factory=dict)
    end: str | None = None
    leaf_stop: int | None = None
    aliases: tuple[str, ...] = ()
    returns: bool = True

    def size(self) -> int:
        """Bytes from the frame's lowest address to the return address or machine frame, return address excluded."""
        total = self.below
        for operation in self.prologue:
            if isinstance(operation, Push):
                total += 8
            elif isinstance(operation, Allocate):
                total += operation.size
            elif isinstance(operation, MachineFrame):
                total += 48 if operation.error_code else 40
        return total


def pushes(*names: str) -> tuple[Push, ...]:
    return tuple(Push(name) for name in names)


@dataclass(frozen=True)
class Assembled:
    """Code of one function: where it lies (RVAs) and its bytes, with the UNWIND_INFO that describes it."""

    begin: int
    end: int
    code: bytes
    unwind: bytes


def assemble(function: Function, begin: int, calls: Sequence[tuple[int, bytes]], end: int = 0) -> Assembled:
    """Lay out a function at an RVA.

    ``calls`` are the call sites as (RVA of the return address, instruction bytes). The function ends behind its
    epilogue, or at ``end`` if that is further.
    """
    prologue, codes = _prologue(function)
    placed = {0: prologue}
    placed.update(function.body)
    for return_rva, instruction in calls:
        placed[return_rva - begin - len(instruction)] = instruction
    if function.leaf_stop is not None:
        placed.setdefault(function.leaf_stop - 2, b"\xfb\xf4")  # sti; hlt
    code = bytearray()
    for offset in sorted(placed):
        if offset < len(code):
            raise ValueError(f"{function.name}: code at +{offset:#x} overlaps what stands in front of it")
        code += no_operations(offset - len(code)) + placed[offset]
    code += _epilogue(function)
    code += no_operations(max(0, end - begin - len(code)))
    return Assembled(begin, begin + len(code), bytes(code), _unwind_info(function, len(prologue), codes))


def no_operations(size: int) -> bytes:
    """Instructions that do nothing, of this many bytes."""
    full, rest = divmod(size, len(_NOPS) - 1)
    return _NOPS[-1] * full + _NOPS[rest]


def _memory_operand(register: int, offset: int, pointer: int | None = None) -> bytes:
    """ModRM and what follows it for [rsp+offset], through rax where rax is known to be rsp + ``pointer``."""
    field_bits = (register & 7) << 3
    if pointer is not None:
        near = offset - pointer
        return bytes([field_bits]) if near == 0 else bytes([0x40 | field_bits, near & 0xFF])
    if offset < 0x80:
        return bytes([0x44 | field_bits, 0x24, offset])
    return bytes([0x84 | field_bits, 0x24]) + struct.pack("<i", offset)


def _encode(operation: Operation, pointer: int | None = None) -> bytes:
    if isinstance(operation, Push):
        number = REGISTERS.index(operation.register)
        return (b"\x41" if number > 7 else b"") + bytes([0x50 + (number & 7)])
    if isinstance(operation, Allocate):
        if operation.size < 0x80:
            return b"\x48\x83\xec" + bytes([operation.size])
        return b"\x48\x81\xec" + struct.pack("<I", operation.size)
    if isinstance(operation, FramePointer):
        number = REGISTERS.index(operation.register)
        return b"\x48\x8d" + _memory_operand(number, operation.offset)
    if isinstance(operation, Pointer):
        return b"\x48\x8d" + _memory_operand(0, operation.offset)
    if isinstance(operation, Save):
        pointer = pointer if pointer is not None and -0x80 <= operation.offset - pointer < 0x80 else None
        if operation.register.startswith("xmm"):
            number = int(operation.register[3:])
            return (b"\x44" if number > 7 else b"") + b"\x0f\x29" + _memory_operand(number, operation.offset, pointer)
        number = REGISTERS.index(operation.register)
        return (b"\x4c" if number > 7 else b"\x48") + b"\x89" + _memory_operand(number, operation.offset, pointer)
    return b""


def _unwind_code(operation: Operation, at: int) -> bytes:
    """UNWIND_CODE slots of one operation; ``at`` is the offset behind its instruction."""
    if isinstance(operation, Push):
        return bytes([at, REGISTERS.index(operation.register) << 4 | 0])
    if isinstance(operation, Allocate):
        if operation.size <= 128:
            return bytes([at, (operation.size // 8 - 1) << 4 | 2])
        return bytes([at, 1]) + struct.pack("<H", operation.size // 8)
    if isinstance(operation, FramePointer):
        return bytes([at, 3])
    if isinstance(operation, Save):
        if operation.register.startswith("xmm"):
            return bytes([at, int(operation.register[3:]) << 4 | 8]) + struct.pack("<H", operation.offset // 16)
        return bytes([at, REGISTERS.index(operation.register) << 4 | 4]) + struct.pack("<H", operation.offset // 8)
    if isinstance(operation, MachineFrame):
        return bytes([at, int(operation.error_code) << 4 | 10])
    return b""


def _prologue(function: Function) -> tuple[bytes, list[bytes]]:
    code = bytearray(function.entry)
    codes: list[bytes] = []
    pointer = None
    for operation in function.prologue:
        code += _encode(operation, pointer)
        if isinstance(operation, Pointer):
            pointer = operation.offset
        else:
            codes.append(_unwind_code(operation, 0 if isinstance(operation, MachineFrame) else len(code)))
    if len(code) > 0xFF:
        raise ValueError(f"{function.name}: the prologue is longer than unwind data can say")
    prologue = bytes(code)
    if function.below:
        prologue += _encode(Allocate(function.below))
    return prologue, codes


def _unwind_info(function: Function, prologue_size: int, codes: Sequence[bytes]) -> bytes:
    frame = next((operation for operation in function.prologue if isinstance(operation, FramePointer)), None)
    register = 0 if frame is None else REGISTERS.index(frame.register) | frame.offset // 16 << 4
    below = len(_encode(Allocate(function.below))) if function.below else 0
    array = b"".join(reversed(codes))
    header = bytes([1, prologue_size - below, len(array) // 2, register])
    return header + array + bytes(len(array) % 4)


def _restores(function: Function) -> bytes:
    """Loads that undo the saves: the same operands, through rcx where the prologue went through rax, and the opcode of
    the other direction."""
    code, pointer = b"", None
    for operation in function.prologue:
        if isinstance(operation, Pointer):
            pointer = operation.offset
            code += b"\x48\x8d" + _memory_operand(1, pointer)
        elif isinstance(operation, Save):
            saved = bytearray(_encode(operation, pointer))
            if operation.register.startswith("xmm"):
                opcode = saved.index(b"\x0f\x29") + 1
                saved[opcode] = 0x28
            else:
                opcode = 1
                saved[opcode] = 0x8B
            if saved[opcode + 1] & 7 == 0:  # [rax] becomes [rcx]
                saved[opcode + 1] |= 1
            code += bytes(saved)
    return code


def _epilogue(function: Function) -> bytes:
    """Saved registers back, ``add rsp``, the pops in reverse order and ``ret``; int 3 for frames that no ``ret`` can
    leave."""
    if any(isinstance(operation, (MachineFrame, FramePointer)) for operation in function.prologue):
        return b"\xcc"
    if not function.returns:
        return b"\xcc"
    code = _restores(function)
    for operation in reversed(function.prologue):
        if isinstance(operation, Allocate):
            small = operation.size < 0x80
            code += (
                b"\x48\x83\xc4" + bytes([operation.size])
                if small
                else b"\x48\x81\xc4" + struct.pack("<I", operation.size)
            )
        elif isinstance(operation, Push):
            number = REGISTERS.index(operation.register)
            code += (b"\x41" if number > 7 else b"") + bytes([0x58 + (number & 7)])
    return code + b"\xc3"
