"""Whether an instruction pointer stands at the start of an instruction, told from the code bytes alone.

Instructions of x86 and x64 have no fixed length, but decoding falls into step with the code after a few of them,
wherever it begins (Kruegel et al., "Static Disassembly of Obfuscated Binaries", 2004, section 3). So code is decoded
from every byte before the instruction pointer: in sound code all these runs meet it, and where it lies inside an
instruction all of them run through that instruction instead.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.disasm import decode
from volatility3_kdump.cpu.instruction import Instruction

ALIGNED, MISALIGNED, UNKNOWN = "aligned", "misaligned", "unknown"

#: How far back decoding begins, and how near the instruction pointer it may begin to be in step when it arrives.
_FARTHEST, _NEAREST = 0x80, 0x20
#: Runs that must arrive for an answer.
_FEWEST = 16
_LONGEST = 15
#: The share of the runs that must agree.
_AGREEMENT = 0.9


@dataclass(frozen=True)
class Alignment:
    """What decoding the bytes before an instruction pointer says.

    ``state`` is ``aligned``, ``misaligned`` or ``unknown``. ``runs`` are the runs that arrived, of which ``met`` meet
    ``ip`` as the start of an instruction. ``instruction`` is the one that ``ip`` points into, ``None`` unless it is
    misaligned. ``evidence`` says in words what was found, or why nothing can be said.
    """

    state: str
    ip: int
    runs: int
    met: int
    instruction: Instruction | None
    evidence: str


def alignment(read: Read, ip: int, architecture: str) -> Alignment:
    """Whether ``ip``, a virtual address of the target, stands at the start of an instruction."""
    if architecture == "arm64":
        state = MISALIGNED if ip & 3 else ALIGNED
        return Alignment(state, ip, 0, 0, None, f"{ip:#x} is {'not ' if ip & 3 else ''}a multiple of 4")
    if architecture not in ("x64", "x86"):
        return Alignment(UNKNOWN, ip, 0, 0, None, f"instructions of {architecture} are not decoded")
    code, low = _code_before(read, ip)
    if ip - low < _NEAREST + _FEWEST:
        return Alignment(UNKNOWN, ip, 0, 0, None, f"the dump holds only {ip - low} bytes of code before {ip:#x}")
    arrivals = _arrivals(code, low, ip, architecture)
    runs, met = len(arrivals), arrivals.count(ip)
    if runs < _FEWEST:
        return Alignment(UNKNOWN, ip, runs, met, None, f"the bytes before {ip:#x} are no code that can be decoded")
    if met >= _AGREEMENT * runs:
        evidence = f"{met} of {runs} runs of decoding from the bytes before it meet {ip:#x}"
        return Alignment(ALIGNED, ip, runs, met, None, evidence)
    (start, agreeing), *_ = collections.Counter(arrivals).most_common(1)
    instruction = decode(read, start, architecture) if start != ip and agreeing >= _AGREEMENT * runs else None
    if instruction is None or not start < ip < start + instruction.size:
        return Alignment(UNKNOWN, ip, runs, met, None, f"{met} of {runs} runs of decoding meet {ip:#x}: they disagree")
    evidence = (
        f"{agreeing} of {runs} runs of decoding from the bytes before {ip:#x} go through the instruction at "
        f"{start:#x}, {instruction.size} bytes long, {ip - start} of them before it"
    )
    return Alignment(MISALIGNED, ip, runs, met, instruction, evidence)


def _code_before(read: Read, ip: int) -> tuple[bytes, int]:
    """The bytes around ``ip`` that the dump holds without a gap, and the address of the first of them."""
    low = max(ip - _FARTHEST, 0)
    before = read(low, ip - low)
    while before is None and low < ip:
        low += 1
        before = read(low, ip - low)
    after = b""
    while len(after) < _LONGEST:
        byte = read(ip + len(after), 1)
        if not byte:
            break
        after += byte
    return (before or b"") + after, low


def _arrivals(code: bytes, low: int, ip: int, architecture: str) -> list[int]:
    """Where each run arrives: at ``ip``, or at the start of the instruction that runs through it."""
    from volatility3_kdump.cpu.disasm_x86 import length_of

    ends: dict[int, int | None] = {}
    for start in range(ip - 1, low - 1, -1):
        size = length_of(code[start - low : start - low + _LONGEST], architecture)
        following = None if size is None else start + size
        ends[start] = start if following is not None and following > ip else following
    arrivals = []
    for start in range(low, ip - _NEAREST + 1):
        place: int | None = start
        while place is not None and place < ip and ends[place] != place:
            place = ends[place]
        if place is not None:
            arrivals.append(place)
    return arrivals
