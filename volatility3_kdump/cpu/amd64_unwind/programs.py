"""What undoing a function's codes does, folded into a few reads relative to one register."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from volatility3_kdump.cpu.amd64_unwind.codes import (
    ALLOC_LARGE,
    ALLOC_SMALL,
    PUSH_MACHFRAME,
    PUSH_NONVOL,
    SAVE_NONVOL,
    SAVE_NONVOL_FAR,
    SAVE_XMM128,
    SAVE_XMM128_FAR,
    SET_FPREG,
    Undecodable,
    UnwindInfo,
)
from volatility3_kdump.cpu.amd64_unwind.registers import RSP

#: A frame whose saved registers lie further apart than this is read slot by slot.
_MOST_SPAN = 0x2000
#: Targets of a program's slots beside the general registers 0..15: xmm registers from 16 on, rip, the saved rsp.
XMM_TARGET = 16
RIP_TARGET = 32
_SAVED_RSP_TARGET = 33


class Program:
    """What undoing a run of unwind codes does, relative to registers as they are before it.

    ``slots`` are (target, anchor register, offset); ``final`` is where the stack pointer ends, as (anchor, offset), for
    a machine frame where that begins; ``base`` is the frame base. Where all slots lie near each other at offsets from
    one anchor, ``unpack`` takes them out of ``span`` bytes read at ``low``: ``gprs`` are (register, index of the
    value), ``rip_index`` is the index of the return address. Otherwise ``unpack`` is ``None``, and ``extent`` is the
    number of bytes from ``low`` on that hold all slots, 0 when they lie apart.
    """

    __slots__ = (
        "anchor",
        "base",
        "base_is_rsp",
        "extent",
        "final",
        "gprs",
        "low",
        "machine",
        "rip_index",
        "rip_slot",
        "slots",
        "span",
        "unpack",
    )

    def __init__(
        self,
        slots: dict[int, tuple[int, int]],
        final: tuple[int, int],
        base: tuple[int, int],
        machine: bool,
    ) -> None:
        self.base = base
        self.final = final
        self.machine = machine
        self.rip_slot = slots.get(RIP_TARGET)
        self.slots = [(target, anchor, offset) for target, (anchor, offset) in slots.items()]
        ordered = sorted(self.slots, key=lambda slot: slot[2])
        targets = [target for target, _, _ in ordered]
        vectors = any(XMM_TARGET <= target < RIP_TARGET for target in targets)
        self.gprs = tuple((target, index) for index, target in enumerate(targets) if target < XMM_TARGET)
        self.rip_index = targets.index(RIP_TARGET) if RIP_TARGET in targets else 0
        self.base_is_rsp = base == (RSP, 0)
        self.anchor = final[0]
        self.low = ordered[0][2] if ordered else 0
        self.span = 0
        layout = "<"
        together = RIP_TARGET in targets and not vectors and not machine
        for _, anchor, offset in ordered:
            gap = offset - self.low - self.span
            together = together and anchor == self.anchor and 0 <= gap <= _MOST_SPAN
            layout += f"{gap}xQ" if together else ""
            self.span += gap + 8
        together = together and self.span <= _MOST_SPAN
        self.unpack = struct.Struct(layout).unpack if together else None
        ends = [offset + (16 if XMM_TARGET <= target < RIP_TARGET else 8) for target, _, offset in ordered]
        extent = max(ends, default=self.low) - self.low
        one_anchor = all(slot_anchor == self.anchor for _, slot_anchor, _ in ordered)
        self.extent = extent if one_anchor and extent <= _MOST_SPAN else 0

    @property
    def trivial(self) -> bool:
        """Whether the return address is on top of the stack and nothing else was saved."""
        return not self.machine and self.slots == [(RIP_TARGET, RSP, 0)]


class Link:
    """The codes of one entry of a chain, and the frame register they are relative to."""

    __slots__ = ("codes", "frame_offset", "frame_register")

    def __init__(self, info: UnwindInfo) -> None:
        self.codes = info.codes
        self.frame_register = info.frame_register
        self.frame_offset = info.frame_offset


class _Undoing:
    """Folds codes into programs: the stack pointer is kept as an anchor register and an offset from it.

    A program ends early when the rest depends on a register that it restores (a frame register saved by a chained
    entry): the rest becomes the next program, relative to the registers that the first one leaves.
    """

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.first_base: tuple[int, int] | None = None
        self._start()

    def _start(self) -> None:
        self.slots: dict[int, tuple[int, int]] = {}
        self.stack = (RSP, 0)

    def _split(self) -> None:
        self.programs.append(Program(self.slots, self.stack, self.first_base or (RSP, 0), False))
        self._start()

    def link(self, link: Link, executed: int | None) -> bool:
        """Undo a link's codes; with ``executed`` only those up to that prologue offset. False after a machine frame."""
        codes = link.codes if executed is None else tuple(code for code in link.codes if code.offset <= executed)
        framed = link.frame_register and (executed is None or any(code.operation == SET_FPREG for code in codes))
        if framed and link.frame_register in self.slots:
            self._split()
        base = (link.frame_register, -link.frame_offset) if framed else self.stack
        if self.first_base is None:
            self.first_base = base
        for code in codes:
            anchor, offset = self.stack
            if code.operation == PUSH_NONVOL:
                self._save(code.info, self.stack)
                self.stack = anchor, offset + 8
            elif code.operation in (ALLOC_LARGE, ALLOC_SMALL):
                self.stack = anchor, offset + code.value
            elif code.operation == SET_FPREG:
                if not link.frame_register:
                    raise Undecodable("unwind information sets a frame register but names none")
                if link.frame_register in self.slots:
                    raise Undecodable("unwind information restores the frame register before it is used")
                self.stack = link.frame_register, -link.frame_offset
            elif code.operation in (SAVE_NONVOL, SAVE_NONVOL_FAR):
                self._save(code.info, (base[0], base[1] + code.value))
            elif code.operation in (SAVE_XMM128, SAVE_XMM128_FAR):
                self.slots[XMM_TARGET + code.info] = (base[0], base[1] + code.value)
            elif code.operation == PUSH_MACHFRAME:
                offset += 8 * code.info
                self.slots[RIP_TARGET] = anchor, offset
                self.slots[_SAVED_RSP_TARGET] = anchor, offset + 0x18
                self.programs.append(Program(self.slots, (anchor, offset), self.first_base, True))
                return False
        return True

    def _save(self, register: int, slot: tuple[int, int]) -> None:
        if register == RSP:
            raise Undecodable("unwind information restores the stack pointer from the stack")
        self.slots[register] = slot

    def returned(self) -> None:
        """The return address is popped last."""
        anchor, offset = self.stack
        self.slots[RIP_TARGET] = self.stack
        self.programs.append(Program(self.slots, (anchor, offset + 8), self.first_base or (RSP, 0), False))


def compile(links: Sequence[Link], executed: int | None) -> tuple[Program, ...]:
    undoing = _Undoing()
    for number, link in enumerate(links):
        if not undoing.link(link, executed if number == 0 else None):
            return tuple(undoing.programs)
    undoing.returned()
    return tuple(undoing.programs)
