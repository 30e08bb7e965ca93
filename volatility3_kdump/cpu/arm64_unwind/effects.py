"""What a run of unwind codes does to the registers of a frame, folded into a few reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from volatility3_kdump.cpu.arm64_unwind.codes import Code
from volatility3_kdump.cpu.arm64_unwind.registers import FP, LR


class Block(NamedTuple):
    """Saved registers at offsets from one base, the ``sp`` of the frame or its ``fp``: all bytes in one read."""

    by_fp: bool
    #: Offset of the first byte from the base, and bytes in all.
    low: int
    size: int
    #: (register number, offset from the first byte): x0 to x30, and d8 to d15.
    x: tuple[tuple[int, int], ...]
    d: tuple[tuple[int, int], ...]


class Effect(NamedTuple):
    """What a run of unwind codes does to the registers of a frame."""

    blocks: tuple[Block, ...]
    #: The new ``sp`` in bytes from the frame's ``sp``, or from its ``fp`` where ``by_fp``.
    by_fp: bool
    final: int
    #: Numbers of d registers that are lost: saved at an offset that depends on the vector length.
    lost: tuple[int, ...]
    lr_restored: bool
    after_call: bool
    special: str | None
    reason: str | None


_SPECIAL = ("trap_frame", "machine_frame", "context")


class _Folding:
    """Runs codes on a symbolic ``sp``: a base register plus an offset."""

    def __init__(self) -> None:
        self.by_fp = False
        self.cursor = 0
        #: Register number to (base is fp, offset).
        self.x: dict[int, tuple[bool, int]] = {}
        self.d: dict[int, tuple[bool, int]] = {}
        self.lost: set[int] = set()
        self.pairs = 0  # announced by save_next
        self.after_call = True
        self.special: str | None = None

    def run(self, codes: Sequence[Code]) -> str | None:
        """Undo the codes; the reason why it cannot be done, ``None`` when it is done."""
        for code in codes:
            if self.pairs and code.name != "save_next" and (len(code.registers) != 2 or LR in code.registers):
                return "save_next is not followed by the pair that it continues"
            if code.name == "end":
                return None
            reason = code.reason or self._step(code)
            if reason:
                return reason
        return "unwind codes do not end"

    def _step(self, code: Code) -> str | None:
        name = code.name
        if name in ("nop", "end_c", "pac_sign_lr"):
            return None
        if name == "clear_unwound_to_call":
            self.after_call = False
        elif self.special:
            return f"unwind code {name} after {self.special}"
        elif name == "save_next":
            self.pairs += 1
        elif code.registers:
            return self._restore(code)
        elif name in ("set_fp", "add_fp"):
            if FP in self.x:
                return "sp is derived from an fp that is restored before"
            self.by_fp = True
            self.cursor = -code.adjust
        elif name == "alloc_z":
            if code.adjust:
                return "sp depends on the vector length, which the dump does not give"
        elif name == "ec_context":
            return "a context record of emulated x64 code is not followed"
        elif name in _SPECIAL:
            self.special = name
            self.after_call = False
        else:
            self.cursor += code.adjust
        return None

    def _restore(self, code: Code) -> str | None:
        if code.bank in ("z", "p"):
            self.lost.update(code.registers if code.bank == "z" else ())
            return None
        numbers: Sequence[int] = code.registers
        if self.pairs:
            numbers = range(numbers[0], numbers[0] + 2 + 2 * self.pairs)
            self.pairs = 0
        if numbers[-1] > (LR if code.bank == "x" else 31):
            return f"unwind code {code.name} names a register past the last"
        target = self.x if code.bank == "x" else self.d
        step = 16 if code.bank == "q" else 8
        for index, number in enumerate(numbers):
            target[number] = self.by_fp, self.cursor + code.offset + step * index
        self.cursor += code.adjust
        return None


def fold(codes: Sequence[Code]) -> Effect:
    folding = _Folding()
    reason = folding.run(codes)
    kept = {number: place for number, place in folding.d.items() if 8 <= number < 16}
    blocks = []
    for by_fp in (False, True):
        x = [(number, offset) for number, (base, offset) in folding.x.items() if base == by_fp]
        d = [(number, offset) for number, (base, offset) in kept.items() if base == by_fp]
        if x or d:
            low = min(offset for _, offset in (*x, *d))
            size = max(offset for _, offset in (*x, *d)) + 8 - low
            blocks.append(Block(by_fp, low, size, tuple((n, o - low) for n, o in x), tuple((n, o - low) for n, o in d)))
    return Effect(
        tuple(blocks),
        folding.by_fp,
        folding.cursor,
        tuple(folding.lost - kept.keys()),
        LR in folding.x,
        folding.after_call,
        folding.special,
        reason,
    )
