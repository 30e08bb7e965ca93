"""The part of an ARM64 stack that lies in user mode: by the DLLs' own unwind data, else along their frame records."""

from __future__ import annotations

from volatility3_kdump.cpu import arm64_unwind
from volatility3_kdump.windows.stacks.frames import FRAME_POINTER, TRAP_FRAME, UNWIND
from volatility3_kdump.windows.stacks.user_walk import UserRow, UserStack, covered
from volatility3_kdump.windows.user.code import UserCode


def walk_arm64_user(
    code: UserCode, registers: arm64_unwind.Registers, call_site: bool, most: int, mask: int | None
) -> UserStack:
    """Unwind from the registers of the first user-mode frame; at most ``most`` frames more.

    ``mask`` is KDDEBUGGER_DATA64.PointerAuthMask. Code of x64, ARM64EC, x86 and ARM32, which ARM64 runs too, ends the
    walk with that reason.
    """
    memory = code.space.memory
    read = covered(memory.read, registers.sp)
    rows: list[UserRow] = []
    while len(rows) < most:
        pc, sp = registers.pc, registers.sp
        image = code.image_of(pc)
        if image is None:
            return UserStack(
                tuple(rows), f"user mode: {pc:#x} lies in no module of the process{_translated(code)}", False
            )
        name, table = image.module.image_name, image.table
        if table is None:
            foreign = image.why_foreign
            if foreign is not None:
                return UserStack(tuple(rows), f"user mode: {name} is {foreign}", False)
            why = memory.why_unreadable(image.module.base)
            return UserStack(tuple(rows), f"user mode: the headers of {name}: {why}", False)
        trust = UNWIND
        outcome = arm64_unwind.unwind(registers, table, image.module.base, read, call_site=call_site, mask=mask)
        if outcome.registers is None:
            # The unwind data may be absent; code that calls others has a frame record.
            chain = arm64_unwind.frame_pointer_step(registers, read, None, mask=mask) if call_site else outcome
            if chain.registers is None:
                absent = memory.why_absent(sp) if sp is not None else None
                reason = absent or f"{name}: {outcome.reason or 'no unwind data'}"
                return UserStack(tuple(rows), f"user mode: {reason}", False)
            outcome, trust = chain, FRAME_POINTER
        following = outcome.registers
        assert following is not None
        if following.pc == 0:
            return UserStack(tuple(rows), "start of the thread", True)
        interrupted = outcome.machine_frame is not None
        low = following.sp is not None and sp is not None and following.sp < sp
        same = (following.pc, following.sp, following.fp) == (pc, sp, registers.fp)
        if not interrupted and (low or same):
            return UserStack(tuple(rows), "user mode: the stack pointer does not go up", False)
        if following.pc >= code.space.end or (following.sp or 0) >= code.space.end:
            return UserStack(tuple(rows), f"user mode: the return address {following.pc:#x} is no user address", False)
        registers, call_site = following, not interrupted and outcome.call_site
        rows.append(UserRow(registers.sp, registers.pc, TRAP_FRAME if interrupted else trust, call_site))
    return UserStack(tuple(rows), "the limit", False)


def _translated(code: UserCode) -> str:
    """What code outside of all modules may be, in a process that runs code of other machines."""
    kinds = " and ".join(kind for kind in code.foreign if kind in ("x64", "ARM64EC", "x86"))
    return f"; the process has {kinds} code, which may be translated there" if kinds else ""
