"""Places that no code leads to: RIP in no module, inside an instruction, in padding, at bytes that are no code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.code import instructions_before
from volatility3_kdump.analysis.flips import BitFlip, code_flip
from volatility3_kdump.analysis.judging import (
    CALL_ERROR,
    CONTRADICTED,
    HARDWARE,
    IP_MISALIGNED,
    MISALIGNED,
    NOT_DECODABLE,
    NOWHERE,
    PADDING,
    PROCESSOR,
    Fault,
    Plausibility,
    outcome_of,
)
from volatility3_kdump.cpu import alignment
from volatility3_kdump.cpu.arm64 import VIRTUAL_ADDRESS_BITS, strip_pointer_authentication
from volatility3_kdump.cpu.calls import follows_call

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_INT3 = 0xCC
#: Bytes of an ARM64 instruction, and the upper bits of BL.
_FIXED_SIZE, _BRANCH_WITH_LINK = 4, 0b100101
_LONGEST = 15
#: How much padding is looked at on either side; functions are aligned at 16 bytes as a rule, at most at 64.
_MOST_PADDING = 64
#: Instructions that end a function or a block, so that what follows is not run into.
_ENDS = ("ret", "rep ret", "jmp", "int", "ud2", "iretq", "hlt")
_ZEROED = 16
#: Bytes of a call of a fixed address.
_DIRECT_CALL = 5


def nowhere(fault: Fault) -> Plausibility | None:
    """An instruction pointer that leads to no code: outside every module, and fetching it is what failed."""
    target, ip = fault.target, fault.ip
    # A dump without its list of modules does not tell where code is.
    if not target.modules or target.names.module_of(ip) is not None or fault.address not in (ip, None):
        return None
    if any(module.start <= ip < module.end for module in target.unloaded_modules):
        return None
    if target.memory.read(ip, 1) is not None and fault.access != "execute":
        return None
    flip = code_flip(target, ip, fault.pointer_name)
    outcome = outcome_of(
        fault,
        NOWHERE,
        f"{fault.pointer_name} {ip:#x} lies in no module: a function pointer or a return address was wrong",
        _caller_text(fault),
        _authentication_text(fault),
    )
    return outcome if flip is None else replace(outcome, flips=(flip,))


def absent(fault: Fault) -> Plausibility | None:
    """Code bytes that are no instruction, or zeros, which decode as one that no compiler makes."""
    fixed = fault.target.header.architecture == "arm64"
    data = _bytes_at(fault.target, fault.ip, _FIXED_SIZE if fixed else _ZEROED)
    if fault.instruction is not None and (any(data) or len(data) < _ZEROED):
        return None
    if len(data) < (_FIXED_SIZE if fixed else _LONGEST):
        return None
    what = "zeros" if not any(data) else data.hex()
    return outcome_of(
        fault,
        NOT_DECODABLE,
        f"the bytes at {fault.pointer_name} {fault.ip:#x} are no instruction ({what}): the code is damaged, or a jump "
        "led into data",
        _caller_text(fault),
    )


def padding(fault: Fault) -> Plausibility | None:
    """RIP inside the fill between functions: only a stray jump or return gets there."""
    target, ip = fault.target, fault.ip
    if fault.instruction is None or fault.instruction.raw[:1] != bytes([_INT3]) or fault.pointer_name == "PC":
        return None
    before = _run(target, ip, -1)
    after = _run(target, ip, 1)
    start, end = ip - before, ip + after
    if before == 0 or end - start < 2:
        # One int 3, or the first of several: a breakpoint that was meant, or a call in front that must not return.
        return None
    ended = instructions_before(target, start, 1)
    if not ended or ended[-1].mnemonic not in (*_ENDS, "call"):
        return None
    place = f"{fault.pointer_name} {ip:#x}"
    says = f"{place} is in the middle of the padding between two functions: only a stray jump gets there"
    evidence = [
        f"{end - start} bytes of int 3 from {start:#x} on, behind {ended[-1].mnemonic} at {ended[-1].address:#x}"
    ]
    error = _call_error(fault)
    if error is not None:
        return Plausibility(PADDING, says, ip, None, (*evidence, *error.evidence), PROCESSOR, CALL_ERROR)
    outcome = outcome_of(fault, PADDING, says, *evidence, _caller_text(fault), remains=HARDWARE)
    difference = ip ^ end
    if difference.bit_count() != 1 or target.memory.read(end, 1) is None:
        return outcome
    bit = difference.bit_length() - 1
    flip = f"the function behind the padding begins at {end:#x}, one bit ({bit}) from {fault.pointer_name}"
    return replace(outcome, flips=(BitFlip(fault.pointer_name, ip, end, bit, flip),))


def misaligned(fault: Fault) -> Plausibility | None:
    """RIP inside an instruction: what is shown there was never meant to run."""
    target = fault.target
    if target.header.architecture == "arm64":
        return _off_by_some(fault)
    placed = alignment.alignment(target.memory.read, fault.ip, target.header.architecture)
    if placed.state != alignment.MISALIGNED:
        return None
    says = f"{fault.pointer_name} {fault.ip:#x} lies inside an instruction, so that no code of this module led there"
    real = placed.instruction
    shown = "" if real is None else f"it points into {real.mnemonic} {real.operands} at {real.address:#x}".rstrip()
    return Plausibility(
        MISALIGNED,
        says,
        fault.ip,
        None,
        tuple(line for line in (shown, placed.evidence, _caller_text(fault)) if line),
        HARDWARE,
        IP_MISALIGNED,
    )


def _off_by_some(fault: Fault) -> Plausibility | None:
    """A pc that is no multiple of 4: ARM64 refuses to fetch there, so that a branch with a wrong address led to it."""
    if fault.ip & _FIXED_SIZE - 1 == 0:
        return None
    return outcome_of(
        fault,
        NOWHERE,
        f"PC {fault.ip:#x} is no multiple of 4, where no instruction can be: a function pointer or a return address "
        "was wrong",
        _caller_text(fault),
        _authentication_text(fault),
    )


def _authentication_text(fault: Fault) -> str:
    """What the upper bits of a pc say: those of a pointer whose authentication failed, or that nobody authenticated."""
    target = fault.target
    if target.header.architecture != "arm64" or fault.ip >> VIRTUAL_ADDRESS_BITS in (0, 0xFFFF):
        return ""
    mask = target.debugger["PointerAuthMask"] if target.debugger is not None else None
    place = strip_pointer_authentication(fault.ip, mask)
    if target.names.module_of(place) is None:
        return ""
    name = target.name_of(place) or f"{place:#x}"
    return (
        f"without its upper bits, which hold an authentication code, it is {name}: the code was wrong, because the "
        "pointer or the memory that held it was changed"
    )


def _run(target: Target, ip: int, step: int) -> int:
    """How many bytes of int 3 there are from RIP on upwards (RIP's own included), or below it."""
    count = 0
    position = ip if step > 0 else ip - 1
    while count < _MOST_PADDING:
        data = target.memory.read(position, 1)
        if data is None or data[0] != _INT3:
            break
        count += 1
        position += step
    return count


def _bytes_at(target: Target, address: int, size: int) -> bytes:
    """The present bytes from an address on, up to a size."""
    data = b""
    while len(data) < size:
        byte = target.memory.read(address + len(data), 1)
        if byte is None:
            break
        data += byte
    return data


# how it got there ---------------------------------------------------------------------------------------------------


def _caller(fault: Fault) -> tuple[int, int | None, int] | None:
    """(return address on top of the stack, where the call before it goes, length of that call).

    ``None`` without a return address there; the destination is ``None`` where the call is by a pointer that the dump
    does not tell.
    """
    sp = fault.failure.context.sp if fault.failure is not None else None
    returns = fault.target.memory.pointer(sp) if sp is not None else None
    if fault.target.header.architecture == "arm64":
        return _in_link_register(fault)
    if returns is None or fault.target.header.architecture != "x64":
        return None
    if fault.target.names.module_of(returns) is None or not follows_call(fault.target.memory.read, returns, "x64"):
        return None
    read = fault.target.memory.read
    direct = read(returns - _DIRECT_CALL, _DIRECT_CALL)
    if direct is not None and direct[0] == 0xE8:
        distance = int.from_bytes(direct[1:], "little", signed=True)
        return returns, (returns + distance) & 0xFFFFFFFFFFFFFFFF, _DIRECT_CALL
    indirect = read(returns - 6, 6)
    if indirect is not None and indirect[:2] == b"\xff\x15":
        distance = int.from_bytes(indirect[2:], "little", signed=True)
        return returns, fault.target.memory.pointer(returns + distance), 6
    return returns, None, 0


def _in_link_register(fault: Fault) -> tuple[int, int | None, int] | None:
    """As :func:`_caller`, of ARM64: lr has the return address, and the call before it is an instruction of 4 bytes."""
    target = fault.target
    lr = fault.failure.context.get("lr") if fault.failure is not None else None
    if lr is None:
        return None
    returns = strip_pointer_authentication(lr, target.debugger["PointerAuthMask"] if target.debugger else None)
    if target.names.module_of(returns) is None or not follows_call(target.memory.read, returns, "arm64"):
        return None
    word = target.memory.unsigned(returns - _FIXED_SIZE, _FIXED_SIZE) or 0
    if word >> 26 != _BRANCH_WITH_LINK:
        return returns, None, 0
    distance = (word & 0x3FFFFFF) - ((word & 0x2000000) << 1)
    return returns, (returns - _FIXED_SIZE + 4 * distance) & 0xFFFFFFFFFFFFFFFF, _FIXED_SIZE


def _caller_text(fault: Fault) -> str:
    caller = _caller(fault)
    if caller is None:
        return ""
    returns, destination, _ = caller
    where = "in lr" if fault.target.header.architecture == "arm64" else "on top of the stack"
    sentence = f"the return address {where} is {fault.target.name_of(returns) or hex(returns)}"
    return sentence if destination is None else f"{sentence}, behind a call of {fault.target.name_of(destination)}"


def _call_error(fault: Fault) -> Plausibility | None:
    """A direct call whose destination is another one than RIP: the processor went elsewhere."""
    caller = _caller(fault)
    if caller is None:
        return None
    returns, destination, length = caller
    if length != _DIRECT_CALL or destination is None or destination == fault.ip:
        return None
    target = fault.target
    if abs(destination - fault.ip) > _MOST_PADDING:
        # What was called may have gone on from there.
        return None
    difference = destination ^ fault.ip
    bit = f"; they differ in one bit, {difference.bit_length() - 1}" if difference.bit_count() == 1 else ""
    says = (
        f"the call at {target.name_of(returns - length)} goes to {target.name_of(destination) or hex(destination)}, "
        f"but the processor was at {fault.ip:#x}{bit}"
    )
    return Plausibility(CONTRADICTED, says, fault.ip, None, (says,), PROCESSOR, CALL_ERROR)
