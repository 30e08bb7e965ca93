"""Steps of x86 stacks: by the code of an epilogue, by frame data of PDB files, by the chain of frame pointers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from volatility3_kdump.cpu import Read, x86_frames, x86_unwind
from volatility3_kdump.cpu.calls import follows_call
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.x86_frames import REGISTERS, FrameData
from volatility3_kdump.windows.stacks.frames import FRAME_POINTER, SCAN, UNWIND


class Position(NamedTuple):
    """A frame: the registers that are known, how, and how many bytes of parameters its callee took.

    ``call_site`` says that eip is a return address. The stack pointer of a caller is that just behind it.
    """

    registers: dict[str, int | None]
    trust: str
    call_site: bool = True
    passed: int = 0

    @classmethod
    def of(cls, context: Context, trust: str) -> Position:
        """The frame that registers describe. Raises ``ValueError`` where they have no eip."""
        if context.ip is None:
            raise ValueError("the context does not give eip")
        return cls({name: context.get(name) for name in REGISTERS}, trust, False)

    @property
    def eip(self) -> int:
        return self.registers["eip"] or 0

    @property
    def esp(self) -> int | None:
        return self.registers["esp"]

    @property
    def ebp(self) -> int | None:
        return self.registers["ebp"]


class Steps:
    """Steps over the stack of one thread.

    ``entry_of`` gives the frame data for an instruction, ``is_code`` whether an address lies in a module; ``limits``
    are those of the stack.
    """

    def __init__(
        self,
        entry_of: Callable[[int], FrameData | None],
        is_code: Callable[[int], bool],
        read: Read,
        limits: tuple[int, int] | None,
    ) -> None:
        self._entry_of = entry_of
        self._is_code = is_code
        self._read = read
        self._limits = limits

    def step(self, at: Position) -> Position | x86_unwind.Unwound:
        """The caller; or the outcome of the last way that was tried, with its reason."""
        entry = self._entry_of(at.eip - 1 if at.call_site else at.eip)
        # Behind a call that took no parameters the code goes on with what is on the stack: a system call's ret n.
        if not at.call_site or not at.passed:
            left = x86_unwind.epilogue(at.registers, self._read)
            back = left[0]["eip"] if left is not None else None
            if left is not None and back and self._is_code(back):
                called = follows_call(self._read, back, "x86")
                if called or (called is None and not at.call_site):
                    passed = entry.parameters if entry is not None else left[1]
                    return Position(left[0], FRAME_POINTER if called else SCAN, True, passed)
        if entry is not None:
            stepped = x86_frames.step(entry, at.registers, self._read, self._returns, at.passed)
            if not isinstance(stepped, str) and self._goes_up(at, stepped.registers):
                return Position(stepped.registers, UNWIND if stepped.exact else SCAN, True, entry.parameters)
        registers = x86_unwind.Registers(at.eip, at.esp, at.ebp)
        outcome = x86_unwind.frame_pointer_step(registers, self._read, self._limits)
        if outcome.registers is None:
            return outcome
        following: dict[str, int | None] = dict.fromkeys(REGISTERS)
        following |= {"eip": outcome.registers.eip, "esp": outcome.registers.esp, "ebp": outcome.registers.ebp}
        return Position(following, FRAME_POINTER)

    def _returns(self, value: int) -> bool:
        return self._is_code(value) and follows_call(self._read, value, "x86") is not False

    def _goes_up(self, at: Position, registers: dict[str, int | None]) -> bool:
        """Whether a caller's registers can be those of a caller."""
        eip, esp = registers["eip"], registers["esp"]
        if not eip or esp is None or at.esp is None or esp <= at.esp or not self._is_code(eip):
            return False
        return self._limits is None or self._limits[0] <= esp <= self._limits[1]
