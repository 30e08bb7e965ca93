"""One step of x64 unwinding: undo the function that holds rip."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.amd64_unwind.epilogues import Epilogue, fits, match, rejoins
from volatility3_kdump.cpu.amd64_unwind.functions import Function, FunctionTable, TableAbsent
from volatility3_kdump.cpu.amd64_unwind.programs import RIP_TARGET, XMM_TARGET, Program
from volatility3_kdump.cpu.amd64_unwind.registers import FIRST_XMM, REGISTER_NAMES, RSP, Registers

_MASK = (1 << 64) - 1
_IRETQ = b"\x48\xcf"
#: Jumps from one fragment into another that are followed from one position.
_MOST_JUMPS = 4


class Unwound(NamedTuple):
    """What one step of unwinding gave.

    ``registers`` are the caller's, ``None`` when ``reason`` says in words why there are none. After a return the
    registers that calls do not preserve are unknown. ``machine_frame`` is the virtual address of the saved RIP when
    the frame was entered by an interrupt or exception: ``registers`` are then the interrupted ones, of which the
    volatile ones are known only where the handler has not executed an instruction. ``leaf``: the function table has no
    entry, so that the return address was taken from the top of the stack. ``establisher`` is the frame base, to which
    saves are relative. ``absent``: the reason is bytes that are not in the dump, rather than bytes that are wrong.
    ``stack_switch``: the caller's stack pointer does not lie above the callee's, which only a frame register or a
    machine frame can do; whether it lies on a stack is for the caller to judge.
    """

    registers: Registers | None
    machine_frame: int | None = None
    leaf: bool = False
    function: Function | None = None
    establisher: int | None = None
    reason: str | None = None
    absent: bool = False
    stack_switch: bool = False


def unwind(registers: Registers, table: FunctionTable, base: int, read: Read, *, call_site: bool = False) -> Unwound:
    """Undo the function that ``registers.rip`` lies in.

    ``table`` and ``base`` are of the image that holds ``rip``; ``read`` reads the stack. ``call_site``: ``rip``
    is a return address: no epilogue is looked for, since a call is never inside one, and a call that ends its function
    (it does not return) belongs to that function although ``rip`` is already behind it. ``registers`` is not changed.
    """
    return _unwind(registers, table, base, read, call_site, 0)


def _unwind(registers: Registers, table: FunctionTable, base: int, read: Read, call_site: bool, jumps: int) -> Unwound:
    gpr = registers.gpr
    rsp = gpr[RSP]
    if rsp is None:
        return Unwound(None, reason="the stack pointer is not known")
    if rsp & 7:
        return Unwound(None, reason=f"the stack pointer {rsp:#x} is not a multiple of 8")
    rva = registers.rip - base
    if call_site:
        cached = table.call_sites.get(rva)
        if cached is not None:
            return _run(cached[1], registers, rsp, read, cached[0], rva)
    if not 0 <= rva < table.size_of_image:
        return Unwound(None, reason=f"{registers.rip:#x} is not in the image at {base:#x}")
    try:
        function = _function_at(table, rva, call_site)
    except TableAbsent as error:
        return Unwound(None, reason=str(error), absent=True)
    if function is None:
        return _return(registers, (), rsp, 0, read, Unwound(None, leaf=True, establisher=rsp))
    if function.problem is not None:
        return Unwound(None, function=function, reason=function.problem, absent=function.absent)
    # Functions that save registers late have epilogues of early exits inside what the codes call the prologue.
    # At the begin of an entry nothing was executed; but a chained one goes on where another entry was left.
    if not call_site and (rva != function.begin or function.primary != function.begin):
        left = _leave(registers, function, table, base, read, rva, jumps)
        if left is not None:
            return left
    programs = function.body if rva - function.begin >= function.prolog_size else function.programs_at(rva)
    if len(programs) == 1:
        if call_site:
            table.call_sites[rva] = function, programs[0]
        return _run(programs[0], registers, rsp, read, function, rva)
    return _run_all(programs, registers, rsp, read, function, rva)


def _function_at(table: FunctionTable, rva: int, call_site: bool) -> Function | None:
    """The function of an RVA; for a return address behind the end of a function that function, which made the call."""
    function = table.find(rva)
    if call_site and (function is None or rva == function.begin) and rva:
        before = table.find(rva - 1)
        if before is not None and before.end == rva:
            return before
    return function


def _run_all(
    programs: Sequence[Program], registers: Registers, rsp: int, read: Read, function: Function, rva: int
) -> Unwound:
    """Undo a chain whose later entries depend on what the earlier ones restore."""
    current = registers.copy()
    for program in programs[:-1]:
        failure = _restore(program, current, read)
        if failure is not None:
            return Unwound(None, function=function, reason=failure)
    unwound = _run(programs[-1], current, rsp, read, function, rva)
    return unwound._replace(establisher=_base_of(programs[0], registers.gpr))


def _base_of(program: Program, gpr: list[int | None]) -> int | None:
    anchor, offset = program.base
    value = gpr[anchor]
    return None if value is None else value + offset & _MASK


def _restore(program: Program, registers: Registers, read: Read) -> str | None:
    """Apply a program that does not end the function; a reason in words when its anchor is unknown."""
    gpr = registers.gpr
    before = gpr[:]
    anchor, offset = program.final
    value = before[anchor]
    if value is None:
        return f"the frame register {REGISTER_NAMES[anchor]} is not known"
    for target, slot_anchor, slot_offset in program.slots:
        _restore_slot(registers, target, before[slot_anchor], slot_offset, read)
    gpr[RSP] = value + offset & _MASK
    return None


def _restore_slot(registers: Registers, target: int, anchor: int | None, offset: int, read: Read) -> None:
    """One saved register, unknown when its slot is not in the dump."""
    size = 8 if target < XMM_TARGET else 16
    data = None if anchor is None else _stack_bytes(read, anchor + offset, size)
    value = None if data is None else int.from_bytes(data, "little")
    if target < XMM_TARGET:
        registers.gpr[target] = value
    elif target - XMM_TARGET >= FIRST_XMM:
        registers.xmm = {**(registers.xmm or {}), target - XMM_TARGET: value}


def _stack_bytes(read: Read, address: int, size: int) -> bytes | None:
    if not 0 <= address <= _MASK + 1 - size:
        return None
    data = read(address, size)
    return data if data is not None and len(data) == size else None


def _run(program: Program, registers: Registers, rsp: int, read: Read, function: Function, rva: int) -> Unwound:
    """Undo a program that ends the function, by its return address or a machine frame."""
    gpr = registers.gpr
    anchor = gpr[program.anchor]
    if anchor is None:
        name = REGISTER_NAMES[program.anchor]
        return Unwound(None, function=function, reason=f"the frame register {name} is not known")
    if program.unpack is None:
        return _run_slowly(program, registers, anchor, rsp, read, function, rva)
    start = anchor + program.low
    final = anchor + program.final[1]
    if start < 0 or final > _MASK:
        return Unwound(None, function=function, reason=f"the frame at {rsp:#x} runs past the address space")
    data = read(start, program.span)
    if data is None or len(data) != program.span:
        return _run_slowly(program, registers, anchor, rsp, read, function, rva)
    values = program.unpack(data)
    new = [None, None, None, gpr[3], final, gpr[5], gpr[6], gpr[7]]
    new += [None, None, None, None, gpr[12], gpr[13], gpr[14], gpr[15]]
    for target, index in program.gprs:
        new[target] = values[index]
    base = rsp if program.base_is_rsp else _base_of(program, gpr)
    caller = Registers(new, values[program.rip_index], registers.xmm)
    return Unwound(caller, None, False, function, base, None, False, final <= rsp)


def _run_slowly(
    program: Program, registers: Registers, anchor: int, rsp: int, read: Read, function: Function, rva: int
) -> Unwound:
    """As :func:`_run`, slot by slot: vector registers, machine frames, several anchors, slots that are absent."""
    caller = registers.copy()
    gpr = caller.gpr
    before = gpr[:]
    final = anchor + program.final[1]
    rip_anchor, rip_offset = program.rip_slot or program.final
    rip_base = before[rip_anchor]
    rip_slot = -1 if rip_base is None else rip_base + rip_offset
    if not 0 <= rip_slot <= _MASK - 7 or not 0 <= final <= _MASK:
        return Unwound(None, function=function, reason=f"the frame at {rsp:#x} runs past the address space")
    size = 0x28 if program.machine else 8
    data = _stack_bytes(read, rip_slot, size)
    if data is None:
        what = "the machine frame" if program.machine else "the return address"
        reason = f"{what} at {rip_slot:#x} is not in the dump"
        return Unwound(None, function=function, reason=reason, absent=True)
    if not _restore_together(program, caller, anchor, read):
        for target, slot_anchor, offset in program.slots:
            if target < RIP_TARGET:
                _restore_slot(caller, target, before[slot_anchor], offset, read)
    establisher = _base_of(program, before)
    (caller.rip,) = struct.unpack_from("<Q", data)
    if program.machine:
        (final,) = struct.unpack_from("<Q", data, 0x18)
    if not program.machine or rva != function.begin:
        _forget_volatile(gpr)
    gpr[RSP] = final
    machine_frame = rip_slot if program.machine else None
    return Unwound(caller, machine_frame, False, function, establisher, None, False, final <= rsp)


def _restore_together(program: Program, registers: Registers, anchor: int, read: Read) -> bool:
    """Restore the saved registers by one read; ``False`` where they lie apart, or are not all in the dump."""
    size = program.extent
    if not size:
        return False
    data = _stack_bytes(read, anchor + program.low, size)
    if data is None:
        return False
    vectors = {}
    for target, _, offset in program.slots:
        start = offset - program.low
        if target < XMM_TARGET:
            registers.gpr[target] = int.from_bytes(data[start : start + 8], "little")
        elif XMM_TARGET + FIRST_XMM <= target < RIP_TARGET:
            vectors[target - XMM_TARGET] = int.from_bytes(data[start : start + 16], "little")
    if vectors:
        registers.xmm = {**(registers.xmm or {}), **vectors}
    return True


def _forget_volatile(gpr: list[int | None]) -> None:
    gpr[0:3] = (None, None, None)
    gpr[8:12] = (None, None, None, None)


def _return(
    registers: Registers, pops: Sequence[int], stack: int, released: int, read: Read, template: Unwound
) -> Unwound:
    """Pop registers from ``stack``, then the return address and ``released`` bytes of arguments."""
    size = 8 * len(pops) + 8
    final = stack + size + released
    if final > _MASK:
        return template._replace(reason=f"the frame at {stack:#x} runs past the address space")
    caller = registers.copy()
    data = _stack_bytes(read, stack, size)
    if data is not None:
        values = struct.unpack(f"<{len(pops) + 1}Q", data)
        for register, value in zip(pops, values, strict=False):
            if register >= 0:
                caller.gpr[register] = value
        caller.rip = values[-1]
    else:
        slot = stack + size - 8
        data = _stack_bytes(read, slot, 8)
        if data is None:
            return template._replace(reason=f"the return address at {slot:#x} is not in the dump", absent=True)
        (caller.rip,) = struct.unpack("<Q", data)
        for index, register in enumerate(pops):
            if register >= 0:
                _restore_slot(caller, register, stack, 8 * index, read)
    _forget_volatile(caller.gpr)
    caller.gpr[RSP] = final
    before = registers.gpr[RSP]
    return template._replace(registers=caller, stack_switch=before is not None and final <= before)


def _leave(
    registers: Registers, function: Function, table: FunctionTable, base: int, read: Read, rva: int, jumps: int
) -> Unwound | None:
    """Unwind from inside an epilogue; ``None`` where there is none, so that the position is in the body."""
    rsp = registers.gpr[RSP]
    assert rsp is not None
    if function.machine_frame:
        return _leave_interrupt(registers, function, table, read, rva, rsp)
    template = Unwound(None, function=function, establisher=rsp)
    if function.epilogs:
        pops = function.pops_left(rva)
        return None if pops is None else _return(registers, pops, rsp, 0, read, template)
    epilogue = match(function, table, rva)
    if epilogue is None or not (fits(epilogue, function) or rejoins(epilogue, function)):
        return None
    origin = registers.gpr[epilogue.stack]
    if origin is None:
        return None
    stack = origin + epilogue.adjust
    if not 0 <= stack <= _MASK - 7:
        return None
    if epilogue.target is None:
        return _return(registers, epilogue.pops, stack, epilogue.released, read, template)
    return _jump(registers, epilogue, stack, table, base, read, template, rva, jumps)


def _leave_interrupt(
    registers: Registers, function: Function, table: FunctionTable, read: Read, rva: int, rsp: int
) -> Unwound | None:
    """At ``iretq``: the machine frame is on top of the stack, all other registers are those that were interrupted."""
    if table.read_rva(rva, len(_IRETQ)) != _IRETQ:
        return None
    template = Unwound(None, function=function, establisher=rsp)
    data = _stack_bytes(read, rsp, 0x28)
    if data is None:
        return template._replace(reason=f"the machine frame at {rsp:#x} is not in the dump", absent=True)
    caller = registers.copy()
    (caller.rip,), (final,) = struct.unpack_from("<Q", data), struct.unpack_from("<Q", data, 0x18)
    caller.gpr[RSP] = final
    return template._replace(registers=caller, machine_frame=rsp, stack_switch=final <= rsp)


def _jump(
    registers: Registers,
    epilogue: Epilogue,
    stack: int,
    table: FunctionTable,
    base: int,
    read: Read,
    template: Unwound,
    rva: int,
    jumps: int,
) -> Unwound | None:
    """A jump: to the entry of a function a tail call, to a place where a frame is set up the same frame going on."""
    assert epilogue.target is not None and template.function is not None
    target = epilogue.target
    function = template.function
    try:
        other = table.find(target) if 0 <= target < table.size_of_image else None
    except TableAbsent:
        # Nearly all jumps out of a function are tail calls.
        other = None
    if other is not None and other.problem is None:
        if other.begin == function.begin and target != function.begin:
            return None
        programs = other.programs_at(target)
        outside = len(programs) == 1 and programs[0].trivial
    else:
        outside = True
    if outside:
        whole = fits(epilogue, function)
        return _return(registers, epilogue.pops, stack, 0, read, template) if whole else None
    if jumps >= _MOST_JUMPS:
        return None
    moved = registers.copy()
    for index, register in enumerate(epilogue.pops):
        _restore_slot(moved, register, stack, 8 * index, read)
    moved.gpr[RSP] = stack + 8 * len(epilogue.pops)
    moved.rip = base + target
    unwound = _unwind(moved, table, base, read, False, jumps + 1)
    return None if unwound.registers is None else unwound._replace(function=function)
