"""The 32-bit half of a stack on 64-bit Windows: from the registers that WOW64 keeps.

A thread that leaves 32-bit code has its x86 CONTEXT in the CPU area, which the 64-bit TEB's TLS slot
WOW64_TLS_CPURESERVED (``wow64tls.h``) leads to: WOW64_CPURESERVED, two words (flags and machine), then the CONTEXT.
While 32-bit code itself runs, the registers are those of the entry into the kernel.
"""

from __future__ import annotations

from volatility3_kdump.cpu.context import Context, context_size, parse_context, why_not_context
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.stacks.frames import CONTEXT
from volatility3_kdump.windows.stacks.user_walk import UserRow, UserStack
from volatility3_kdump.windows.stacks.x86_steps import Position, Steps
from volatility3_kdump.windows.user.code import UserCode

_CPU_RESERVED = 1
_AREA_HEAD = 4
_I386 = 0x14C
#: From a TEB to that of its 32-bit code, where the TEB does not say (Windows 7).
_NARROW_DISTANCE = 0x2000
_NARROW_END = 1 << 32


def narrow_teb(code: UserCode, teb: int) -> int:
    """The address of the TEB of a thread's 32-bit code."""
    nt, memory = code.space.target.nt, code.space.memory
    field = nt.find("_TEB", "WowTebOffset") if nt is not None and nt.has_type("_TEB") else None
    distance = memory.unsigned(teb + field.offset, 4) if field is not None else None
    return teb + (distance or _NARROW_DISTANCE) & 0xFFFFFFFF


def saved_registers(code: UserCode, thread: int) -> Context | str:
    """The registers of a thread's 32-bit code as WOW64 saved them, or in words why they are not known."""
    target, memory = code.space.target, code.space.memory
    nt, teb = target.nt, read_thread(target, thread).teb
    if nt is None or not teb or not nt.has("_TEB", "TlsSlots"):
        return "its TEB is not known"
    slot = teb + nt.offset("_TEB", "TlsSlots") + _CPU_RESERVED * memory.pointer_size
    area = code.space.pointer(slot)
    if area is None:
        return memory.why_absent(slot) or "its TEB names no WOW64 CPU area"
    machine = memory.unsigned(area + 2, 2)
    if machine not in (None, 0, _I386):
        return f"the WOW64 CPU area at {area:x} is of machine {machine:#x}, which is not x86"
    data = memory.read(area + _AREA_HEAD, context_size("x86"))
    if data is None:
        return memory.why_absent(area) or memory.why_unreadable(area + context_size("x86"))
    context = parse_context(data, "x86", "WOW64 CPU area", area + _AREA_HEAD)
    if context is None or context.ip is None or context.sp is None:
        return f"the WOW64 CPU area at {area:x}: {why_not_context(data, 'x86') or 'it holds no registers'}"
    return context


def limits_of(code: UserCode, thread: int) -> tuple[int, int] | None:
    """The 32-bit stack of a thread, by its 32-bit TEB, as (lowest address that may be used, end)."""
    target = code.space.target
    nt, teb = target.nt, read_thread(target, thread).teb
    if nt is None or not teb or not nt.has("_TEB32", "DeallocationStack"):
        return None
    at = narrow_teb(code, teb)
    base = code.space.narrow.unsigned(at + nt.offset("_TEB32", "NtTib.StackBase"), 4)
    low = code.space.narrow.unsigned(at + nt.offset("_TEB32", "DeallocationStack"), 4)
    return (low or 0, base) if base and (low or 0) < base else None


def walk_narrow(
    code: UserCode,
    context: Context,
    limits: tuple[int, int] | None,
    most: int,
    trust: str = CONTEXT,
    call_site: bool = False,
) -> UserStack:
    """The frames of 32-bit code, the first one included; at most ``most``.

    ``call_site`` says that its eip is a return address. Frame data of PDB files leads on where it is at hand,
    else the chain of frame pointers.
    """
    memory = code.space.narrow
    at = Position.of(context, trust)._replace(call_site=call_site)
    rows = [_row(at)]

    def end(why: str, complete: bool = False) -> UserStack:
        return UserStack(tuple(rows), why, complete)

    steps = Steps(code.frame_data, lambda address: code.image_of(address) is not None, memory.read, limits)
    while len(rows) < most:
        outcome = steps.step(at)
        if not isinstance(outcome, Position):
            if outcome.reason == "the frame-pointer chain ends":
                return end("start of the thread", True)
            absent = memory.why_absent(outcome.frame) if outcome.frame is not None else None
            return end(f"32-bit user mode: {absent or outcome.reason}")
        at = outcome
        rows.append(_row(at))
        if code.image_of(at.eip) is None:
            return end(f"32-bit user mode: {at.eip:#x} lies in no module of the process")
    return end("the limit")


def _row(at: Position) -> UserRow:
    return UserRow(at.esp, at.eip, at.trust, at.call_site, at.ebp)


def is_narrow(code: UserCode, ip: int) -> bool:
    """Whether an address can only be of 32-bit code: of a module of the 32-bit loader."""
    if not code.wow64 or ip >= _NARROW_END:
        return False
    return code.is_narrow(ip)
