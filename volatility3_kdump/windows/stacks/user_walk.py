"""The part of an x64 stack that lies in user mode: from the entry into the kernel on, by the DLLs' own unwind data."""

from __future__ import annotations

from typing import Any, NamedTuple

from volatility3_kdump.cpu import Read, amd64_unwind
from volatility3_kdump.windows.stacks.extents import Covered
from volatility3_kdump.windows.stacks.frames import TRAP_FRAME, UNWIND
from volatility3_kdump.windows.user.code import UserCode

_PIECE = 0x1000
_LONGEST = 0x10000


class UserRow(NamedTuple):
    """A frame: stack and instruction pointer, trust, whether that is a return address; for x86 the frame pointer."""

    sp: int | None
    ip: int
    trust: str
    call_site: bool
    fp: int | None = None


class UserStack(NamedTuple):
    """The frames behind the first one, and why there are no more; ``registers`` are those of the one wanted."""

    rows: tuple[UserRow, ...]
    end: str
    complete: bool
    registers: Any = None


def walk_user(code: UserCode, registers: Any, call_site: bool, most: int, wanted: int | None = None) -> UserStack:
    """Unwind from the registers of the first user-mode frame; at most ``most`` frames more.

    ``wanted`` is the number of the frame behind it (0 the next one) whose registers are kept.
    """
    memory = code.space.memory
    read = covered(memory.read, registers.rsp)
    rows: list[UserRow] = []
    kept: Any = None

    def end(why: str, complete: bool = False) -> UserStack:
        return UserStack(tuple(rows), why, complete, kept)

    while len(rows) < most:
        ip, sp = registers.rip, registers.rsp
        image = code.image_of(ip)
        if image is None:
            return end(f"user mode: {ip:#x} lies in no module of the process")
        table = image.table
        if table is None:
            why = memory.why_unreadable(image.module.base)
            return end(f"user mode: the headers of {image.module.image_name}: {why}")
        outcome = amd64_unwind.unwind(registers, table, image.module.base, read, call_site=call_site)
        if outcome.registers is None:
            return end(f"user mode: {_reason(code, outcome.reason, sp, ip, image.module.image_name)}")
        if outcome.leaf and call_site:
            return end(f"user mode: {image.module.image_name} has no unwind data for {ip:#x}")
        following = outcome.registers
        if following.rip == 0:
            return end("start of the thread", True)
        if following.rsp is None or following.rsp & 7:
            return end("user mode: the stack pointer is not known")
        if not outcome.stack_switch and outcome.machine_frame is None and sp is not None and following.rsp <= sp:
            return end(f"user mode: the stack pointer {following.rsp:#x} does not go up")
        if following.rip >= code.space.end or following.rsp >= code.space.end:
            return end(f"user mode: the return address {following.rip:#x} is no user address")
        registers = following
        interrupted = outcome.machine_frame is not None
        call_site = not interrupted
        if len(rows) == wanted:
            kept = registers.copy()
        rows.append(UserRow(registers.rsp, registers.rip, TRAP_FRAME if interrupted else UNWIND, call_site))
    return end("the limit")


def covered(read: Read, sp: int | None) -> Read:
    """The memory of the process, with the pages from the stack pointer on read once."""
    if sp is None:
        return read
    data = bytearray()
    while len(data) < _LONGEST:
        position = sp + len(data)
        piece = read(position, _PIECE - position % _PIECE)
        if piece is None:
            break
        data += piece
    return Covered(read, sp, bytes(data)).read


def _reason(code: UserCode, reason: str | None, sp: int | None, ip: int, name: str) -> str:
    """Why a step was not possible: an absent page, where it is that."""
    memory = code.space.memory
    if sp is not None:
        absent = memory.why_absent(sp)
        if absent is not None:
            return absent
    page = memory.why_absent(ip)
    if page is not None and reason is None:
        return page
    return f"{name}: {reason or 'no unwind data'}"
