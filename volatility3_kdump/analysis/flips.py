"""Pointers and page numbers that are one changed bit away from a sound value.

One such value proves nothing. Where several crashes of a machine show the same bit, its memory or processor is at
fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.failure import Failure, failure_rule
from volatility3_kdump.cpu.paging import FRAME_64, VALID
from volatility3_kdump.findings.regions import NON_CANONICAL, address_bits, region_of
from volatility3_kdump.windows.memory.page_entries import entry_at, has_page, page_neighbour

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: A pointer to null plus the offset of a member.
_LARGEST_OFFSET = 0x1000
#: Lower bits than these make values that programs have for other reasons: sizes, flags, addresses of user space.
_LOWEST_BIT_OVER_NULL = 32
_LOWEST_BIT_BETWEEN = 24
#: The images of the kernel and its drivers lie close together: below this bit, a change may lead from one to another.
_LOWEST_BIT_BETWEEN_IMAGES = 32
_FAST_FAIL, _LIST_ENTRY = 0x139, 3


@dataclass(frozen=True)
class BitFlip:
    """A value, and what it would be with one bit changed.

    ``subject`` says in words what has the value (``rdx``, ``the page number``). ``bit`` counts from zero: of a pointer,
    or of the physical address for page numbers. ``says`` is a sentence without a full stop. ``strong`` marks values
    that have no other good reason.
    """

    subject: str
    value: int
    repaired: int
    bit: int
    says: str
    strong: bool = False


def pointer_flips(target: Target, bug_check: BugCheck | None, failure: Failure | None) -> Iterator[BitFlip]:
    """The flips at the failure of a crash, the strongest kinds first."""
    yield from _page_numbers(target, bug_check, failure)
    if failure is None:
        return
    yield from _code(target, failure)
    yield from _operand(failure)
    yield from _links(target, bug_check, failure)
    if failure.operand_agrees is False:
        # The processor went to another place than the registers lead to: no bit of these explains the fault.
        return
    places = dict.fromkeys(place for place in (failure.address, _operand_address(failure)) if place is not None)
    for place in places:
        flip = canonical_flip(target, place) or _over_null(failure, place) or _neighbour(target, failure, place)
        if flip is not None:
            yield flip
            return


def _operand_address(failure: Failure) -> int | None:
    return failure.operand if failure.at_fault else None


def _page_numbers(target: Target, bug_check: BugCheck | None, failure: Failure | None) -> Iterator[BitFlip]:
    """An entry of the page-frame database, or a page-table entry, for a page that the machine does not have."""
    address = failure.address if failure is not None else None
    entry = entry_at(target, address) if address is not None else None
    if entry is not None and entry.present is False and entry.neighbour is not None and entry.bit is not None:
        says = (
            f"{address:#x} is the page-frame entry of page {entry.page:x}, which the machine does not have; with bit "
            f"{entry.bit} of its address changed it is page {entry.neighbour:x}, which it has"
        )
        yield BitFlip("the page number", entry.page, entry.neighbour, entry.bit, says, True)
    number = failure_rule(bug_check.code).get("pte") if bug_check is not None else None
    value = bug_check.arguments[number - 1].value if bug_check is not None and number else None
    if value is None or not value & VALID or target.header.architecture != "x64":
        return
    page = (value & FRAME_64) >> 12
    neighbour = page_neighbour(target, page) if has_page(target, page) is False else None
    if neighbour is not None:
        says = (
            f"the page-table entry {value:#x} names page {page:x}, which the machine does not have; with bit "
            f"{neighbour[1]} changed it is page {neighbour[0]:x}, which it has"
        )
        yield BitFlip("the page-table entry", page, neighbour[0], neighbour[1], says, True)


def _operand(failure: Failure) -> Iterator[BitFlip]:
    """The operand that the instruction computes against the address that was accessed."""
    if failure.operand is None or failure.address is None or failure.operand_agrees is not False:
        return
    difference = failure.operand ^ failure.address
    if difference.bit_count() != 1:
        return
    bit = difference.bit_length() - 1
    says = (
        f"the instruction's operand {failure.operand:#x} and the bug check's address {failure.address:#x} differ only "
        f"in bit {bit}: possible bit flip, in memory or in the processor"
    )
    yield BitFlip("the operand", failure.address, failure.operand, bit, says, True)


def _code(target: Target, failure: Failure) -> Iterator[BitFlip]:
    """An instruction pointer that leads to no code, where reading something else is what failed."""
    ip = failure.context.ip
    if not failure.at_fault or ip is None or failure.address in (ip, None) or not target.modules:
        return
    if failure.module is not None or failure.unloaded is not None or target.memory.read(ip, 1) is not None:
        return
    flip = code_flip(target, ip, failure.context.ip_name.upper())
    if flip is not None:
        yield flip


def _links(target: Target, bug_check: BugCheck | None, failure: Failure) -> Iterator[BitFlip]:
    """Two links that a check of a list compared: registers, and what they point at, that differ in one high bit."""
    if bug_check is None or bug_check.code != _FAST_FAIL or not failure.at_fault:
        return
    if bug_check.arguments[0].value != _LIST_ENTRY or target.header.architecture != "x64":
        return
    registers = {
        name: value
        for name, value in failure.context.registers.items()
        if value is not None and target.is_kernel_address(value) and target.memory.read(value, 1) is not None
    }
    links = {name: value for name, value in failure.context.registers.items() if value is not None and value >> 24}
    for name, value in registers.items():
        for label, place in ((f"[{name}]", value), (f"[{name}+8]", value + 8)):
            data = target.memory.read(place, 8)
            if data is not None:
                links[label] = int.from_bytes(data, "little")
    for label, value in links.items():
        for name, other in registers.items():
            difference = value ^ other
            bit = difference.bit_length() - 1
            if difference.bit_count() == 1 and bit >= _LOWEST_BIT_BETWEEN:
                what = "a link that one changed bit makes the other"
                says = f"{label} is {value:#x} and {name} {other:#x}: {what} (bit {bit})"
                yield BitFlip(label, value, other, bit, says)
                return


def code_flip(target: Target, ip: int, pointer_name: str) -> BitFlip | None:
    """An instruction pointer in no module that one changed bit leads into one; ``pointer_name`` is what it is called.

    None of 32 bits, where that many bits lie between any two images. On ARM64 the upper bits may be a signature.
    """
    if target.header.architecture != "x64":
        return None
    for bit in range(_LOWEST_BIT_BETWEEN_IMAGES, 64):
        repaired = ip ^ 1 << bit
        module = target.names.module_of(repaired)
        if module is not None and target.is_kernel_address(repaired):
            name = target.name_of(repaired) or f"{repaired:#x}"
            says = f"{pointer_name} {ip:#x} with bit {bit} changed is {name}: possible bit flip in the pointer"
            return BitFlip(pointer_name, ip, repaired, bit, says)
    return None


def canonical_flip(target: Target, address: int) -> BitFlip | None:
    """A non-canonical address that one changed bit makes an address of the kernel."""
    if region_of(target, address, stacks=False).kind != NON_CANONICAL:
        return None
    bits = address_bits(target)
    top = address >> (bits - 1)
    width = 65 - bits
    missing = ~top & ((1 << width) - 1)
    if missing.bit_count() != 1:
        return None
    bit = bits - 1 + missing.bit_length() - 1
    repaired = address | 1 << bit
    where = region_of(target, repaired).text
    says = f"{address:#x} with bit {bit} set would be {repaired:#x} ({where}): possible bit flip in the pointer"
    return BitFlip("the address", address, repaired, bit, says)


def _over_null(failure: Failure, place: int) -> BitFlip | None:
    """A pointer that is null but for one bit, plus the offset of a member."""
    base = place & -_LARGEST_OFFSET
    if base.bit_count() != 1 or base < 1 << _LOWEST_BIT_OVER_NULL:
        return None
    bit = base.bit_length() - 1
    subject = _register_with(failure, place) or "the address"
    offset = f" plus {place - base:#x}" if place != base else ""
    says = (
        f"{subject} {place:#x} is null{offset} with bit {bit} set: one bit of a null pointer may have flipped (two "
        "32-bit numbers in place of a pointer look the same)"
    )
    return BitFlip(subject, place, place - base, bit, says)


def _neighbour(target: Target, failure: Failure, place: int) -> BitFlip | None:
    """An address of the kernel that is not mapped, one bit away from memory that another register points at."""
    if not failure.at_fault or not target.is_kernel_address(place) or target.memory.read(place, 1) is not None:
        return None
    pages = {
        value & -_LARGEST_OFFSET: name
        for name, value in failure.context.registers.items()
        if value is not None and value & -_LARGEST_OFFSET != place & -_LARGEST_OFFSET
    }
    for bit in range(_LOWEST_BIT_BETWEEN, address_bits(target) - 1):
        repaired = place ^ 1 << bit
        name = pages.get(repaired & -_LARGEST_OFFSET)
        if name is not None and target.memory.read(repaired, 1) is not None:
            subject = _register_with(failure, place) or "the address"
            says = (
                f"{subject} {place:#x} with bit {bit} changed is {repaired:#x}, in the page that {name} points at: "
                "possible bit flip in the pointer"
            )
            return BitFlip(subject, place, repaired, bit, says)
    return None


def _register_with(failure: Failure, place: int) -> str | None:
    """The register of the operand that holds a value."""
    memories = failure.instruction.memories if failure.instruction is not None else ()
    return next((name for memory in memories for name, value in memory.registers if value == place), None)
