"""The registers that ARM64 unwinding carries from frame to frame."""

from __future__ import annotations

from collections.abc import Sequence

from volatility3_kdump.cpu.context import Context

_MASK = 0xFFFFFFFFFFFFFFFF
FP, LR = 29, 30


class Registers:
    """The registers of one frame, each ``None`` where it is not known.

    ``x`` holds x0 to x28, fp (29) and lr (30); ``sp`` is ``None`` after a step along the frame-pointer chain, which
    does not give it; ``d`` maps 8 to 15 to the low halves of v8 to v15, the part that a function preserves, without
    those that are not known.
    """

    __slots__ = ("d", "pc", "sp", "x")

    def __init__(self, x: Sequence[int | None], sp: int | None, pc: int, d: dict[int, int] | None = None) -> None:
        if len(x) != LR + 1:
            raise ValueError(f"31 registers x0 to x30 are needed, not {len(x)}")
        self.x: list[int | None] = list(x)
        self.sp = sp
        self.pc = pc
        self.d: dict[int, int] = dict(d) if d else {}

    def __repr__(self) -> str:
        return f"Registers(pc={self.pc:#x}, sp={hex(self.sp)}, fp={hex(self.fp)}, lr={hex(self.lr)})"

    @property
    def fp(self) -> int | None:
        """The frame pointer, x29."""
        return self.x[FP]

    @property
    def lr(self) -> int | None:
        """The link register, x30."""
        return self.x[LR]

    @property
    def stack_address(self) -> int | None:
        """An address of the frame to order and bound frames by: ``sp``, or ``fp`` where ``sp`` is not known."""
        return self.x[FP] if self.sp is None else self.sp

    def copy(self) -> Registers:
        copied = Registers.__new__(Registers)
        copied.x = self.x[:]
        copied.sp = self.sp
        copied.pc = self.pc
        copied.d = self.d.copy()
        return copied

    @classmethod
    def from_context(cls, context: Context) -> Registers:
        """The registers of an ARM64 context. Raises ``ValueError`` for another architecture or an unknown ``pc``."""
        if context.architecture != "arm64":
            raise ValueError(f"a context of {context.architecture}, not of arm64")
        pc = context.ip
        if pc is None:
            raise ValueError("the context does not give pc")
        x = [context.get(f"x{number}") for number in range(FP)]
        vectors = context.xmm or ()
        d = {number: value & _MASK for number, value in enumerate(vectors) if 8 <= number < 16 and value is not None}
        return cls([*x, context.fp, context.get("lr")], context.sp, pc, d)

    def to_context(self, source: str) -> Context:
        """The known registers as a context. Without vector registers: only halves of those are ever known."""
        values = {f"x{number}": value for number, value in enumerate(self.x[:FP]) if value is not None}
        pointers = {"fp": self.fp, "lr": self.lr, "sp": self.sp, "pc": self.pc}
        values.update((name, value) for name, value in pointers.items() if value is not None)
        return Context("arm64", values, source)


def hex(value: int | None) -> str:
    return "?" if value is None else f"{value:#x}"
