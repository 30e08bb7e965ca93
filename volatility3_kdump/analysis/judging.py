"""What is judged of an instruction and its exception, and how a judgement is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.failure import Failure
from volatility3_kdump.analysis.flips import BitFlip
from volatility3_kdump.cpu.calls import follows_call
from volatility3_kdump.cpu.exception import ACCESS_VIOLATION, access_text, code_name
from volatility3_kdump.cpu.instruction import Instruction

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Outcomes.
EXPLAINED = "explained"
CONTRADICTED = "contradicted"
LEGAL = "legal though called illegal"
PADDING = "padding"
MISALIGNED = "misaligned"
LACKS_FEATURE = "lacks a processor feature"
NOWHERE = "jump to nowhere"
NOT_DECODABLE = "not decodable"
UNEXPLAINED = "unexplained"

#: What remains when the code is acquitted.
HARDWARE, MEMORY, PROCESSOR = "hardware", "memory", "processor"

#: The debugger's words for a control transfer that no instruction made.
CALL_ERROR, IP_MISALIGNED = "CPU_CALL_ERROR", "IP_MISALIGNED"


@dataclass(frozen=True)
class Plausibility:
    """Whether an instruction explains the exception that is reported for it.

    ``outcome`` is one of the constants above, ``None`` where only ``flips`` are to be told. ``says`` is one sentence
    for a reader, without a full stop, and ``evidence`` the facts behind it. ``remains`` names what is left to suspect
    where the code is acquitted: hardware, memory or processor. ``debugger_word`` is KD's word for it, where KD has one.
    ``address`` is that of the instruction, ``instruction`` its disassembly. ``flips`` are values that one changed bit
    explains.
    """

    outcome: str | None
    says: str
    address: int | None
    instruction: str | None = None
    evidence: tuple[str, ...] = ()
    remains: str | None = None
    debugger_word: str | None = None
    flips: tuple[BitFlip, ...] = ()

    @property
    def acquits(self) -> bool:
        """Whether the code at the failure, and so its module, cannot have raised the exception."""
        return self.outcome in (CONTRADICTED, LEGAL, PADDING, MISALIGNED)


@dataclass(frozen=True)
class Fault:
    """The instruction and the exception that it is said to have raised. ``code`` is an NTSTATUS value. ``reported`` is
    false where the exception record has no parameters, as those that software raises have none."""

    target: Target
    failure: Failure | None
    ip: int
    instruction: Instruction | None
    code: int | None
    access: str | None
    address: int | None
    reported: bool

    @property
    def pointer_name(self) -> str:
        """What the architecture calls its instruction pointer, in capital letters."""
        return {"x64": "RIP", "x86": "EIP"}.get(self.target.header.architecture, "PC")

    @property
    def text(self) -> str:
        """The instruction as it is shown."""
        if self.instruction is None:
            return "?"
        return f"{self.instruction.mnemonic} {self.instruction.operands}".strip()

    @property
    def exception(self) -> str:
        """The exception in words."""
        if self.code == ACCESS_VIOLATION:
            return access_text(self.access, self.address)
        return code_name(self.code or 0) or f"exception {self.code or 0:#x}"


def outcome_of(fault: Fault, outcome: str, says: str, *evidence: str, remains: str | None = None) -> Plausibility:
    return Plausibility(outcome, says, fault.ip, None, tuple(line for line in evidence if line), remains)


def software_may_have_raised(fault: Fault) -> bool:
    """Whether RIP follows a call: an exception that software raises is reported for where the call returns."""
    return follows_call(fault.target.memory.read, fault.ip, fault.target.header.architecture) is not False
