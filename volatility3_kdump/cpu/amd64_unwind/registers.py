"""The registers that x64 unwinding carries from frame to frame."""

from __future__ import annotations

from volatility3_kdump.cpu.context import Context

#: Names of the general registers by the numbers that unwind codes and instructions use.
REGISTER_NAMES = tuple("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split())
RSP = 4
FIRST_XMM = 6


class Registers:
    """The registers at one moment; ``None`` stands for a value that is not known.

    ``gpr`` has sixteen values in the order of :data:`REGISTER_NAMES`, ``rip`` is the instruction pointer, ``xmm`` maps
    6..15 to 128-bit values (a missing key is unknown), and is ``None`` when none of them is known. Only the vector
    registers that calls preserve are tracked. ``xmm`` may be shared between values: replace it, do not change it.
    """

    __slots__ = ("gpr", "rip", "xmm")

    def __init__(self, gpr: list[int | None], rip: int, xmm: dict[int, int | None] | None = None) -> None:
        self.gpr = gpr
        self.rip = rip
        self.xmm = xmm

    @classmethod
    def from_context(cls, context: Context) -> Registers:
        """The registers of an x64 context. Raises ``ValueError`` for another architecture, or when rip is unknown."""
        if context.architecture != "x64" or context.ip is None:
            raise ValueError(f"{context.source}: no x64 context with an instruction pointer")
        xmm = None
        if context.xmm is not None:
            xmm = {number: value for number, value in enumerate(context.xmm) if number >= FIRST_XMM}
        return cls([context.get(name) for name in REGISTER_NAMES], context.ip, xmm)

    def to_context(self, source: str) -> Context:
        """The known registers as a context whose ``source`` is given; flags and segment registers are not tracked."""
        values = {name: value for name, value in zip(REGISTER_NAMES, self.gpr, strict=True) if value is not None}
        values["rip"] = self.rip
        xmm = None if self.xmm is None else tuple(self.xmm.get(number) for number in range(16))
        return Context("x64", values, source, None, xmm)

    def copy(self) -> Registers:
        """An independent copy."""
        return Registers(self.gpr[:], self.rip, self.xmm)

    @property
    def rsp(self) -> int | None:
        """The stack pointer."""
        return self.gpr[RSP]

    def __repr__(self) -> str:
        values = " ".join(
            f"{name}={value:x}" for name, value in zip(REGISTER_NAMES, self.gpr, strict=True) if value is not None
        )
        return f"Registers(rip={self.rip:x} {values})"
