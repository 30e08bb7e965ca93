"""Pool and page tables: 0x19, 0xC1, 0xC2, 0x1A, and faults in special pool (0xCC to 0xCE, 0xD5, 0xD6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.arguments import follow, hexadecimal, subtype
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.faults import access_reasoning, code_reasoning, fault_access, stem
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, attempt, rule
from volatility3_kdump.findings.pool_tags import search_code
from volatility3_kdump.findings.regions import SHARED_DATA, UNLOADED, USER, region_of
from volatility3_kdump.windows.memory.pool import PoolBlock, find_block
from volatility3_kdump.windows.memory.pool_header import PoolHeader, block_before, header_size, read_header
from volatility3_kdump.windows.memory.pte import mapped_address, parse_pte

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_CORRUPTION, _ONE_BIT = "memory_corruption", "MEMORY_CORRUPTION_ONE_BIT"

#: 0x19: arguments that are addresses of pool headers, by P1; and those of blocks, which their header precedes.
_HEADERS_19: Mapping[int, tuple[int, ...]] = {
    0x3: (2,),
    0x5: (2, 4),
    0x6: (2, 4),
    0x7: (4,),
    0x8: (4,),
    0x9: (2, 4),
    0xA: (2,),
    0x20: (2, 3),
}
_BLOCKS_19: Mapping[int, tuple[int, ...]] = {0x2: (2,), 0x21: (2,), 0x22: (2,)}
#: The one whose header is damaged, where that is known.
_DAMAGED_19: Mapping[int, int] = {0x5: 4, 0x6: 4, 0x7: 4, 0x8: 4, 0x9: 4, 0xA: 2, 0x20: 2}

#: The same for 0xC2.
_HEADERS_C2: Mapping[int, tuple[int, ...]] = {0x1: (2,), 0x2: (2,), 0x4: (2,), 0x6: (3,)}
_BLOCKS_C2: Mapping[int, tuple[int, ...]] = {
    0x7: (4,),
    0x9: (4,),
    0xA: (2,),
    0xB: (2,),
    0xC: (2,),
    0xD: (2,),
    **dict.fromkeys((0x40, 0x41, 0x42, 0x43, 0x44, 0x46, 0x47, 0x48, 0x50, 0x60, 0x99), (2,)),
}
_FREED_TWICE = (0x6, 0x7)
_MOST_CANDIDATES = 3
_WRONG_TAG = 0xA


@rule(0x19)
def bad_pool_header(case: Case) -> Reasoning:
    """P1 the kind of damage; the header that is damaged, and the block before it, which was most probably overrun."""
    kind = case.argument(1)
    reasoning = Reasoning(specifiers=subtype(case)) + follow(case)
    if kind is None:
        return reasoning
    reasoning += _blocks(case, _HEADERS_19.get(kind, ()), _BLOCKS_19.get(kind, ()))
    damaged = _DAMAGED_19.get(kind)
    address = case.pointer(damaged) if damaged is not None else None
    if address is not None:
        reasoning += attempt(lambda: _overrun(case, address), "the pool page")
    return reasoning


def _blocks(case: Case, headers: tuple[int, ...], blocks: tuple[int, ...]) -> Reasoning:
    """POOL_ADDRESS for every argument that is a pool block or its header."""
    findings: list[Finding] = []
    for number in (*headers, *blocks):
        address = case.pointer(number)
        if address is None:
            continue
        findings.append(_pool_address(case, address, number))
        start = address if number in headers else address - header_size(case.target)
        header = read_header(case.target, start)
        if header is not None:
            findings.append(Finding("POOL_HEADER", hexadecimal(case.target, start), start, header.text))
        block = find_block(case.target, address)
        if isinstance(block, PoolBlock) and block.header != start:
            # the headers of big pages and of the segment heap lie elsewhere, or there are none
            shown = f"{block.text}, by {block.known_by}"
            findings.append(Finding("POOL_BLOCK", hexadecimal(case.target, block.address), block.address, shown))
    return Reasoning(tuple(findings))


def _candidates(case: Case, header: PoolHeader) -> Reasoning:
    """The drivers whose code has the tag of a block as a constant: they allocate with it, or free what others have."""
    candidates = search_code(case.target, [header.tag_value]).of(header.tag_value)
    if not candidates:
        return Reasoning()
    names = ", ".join(candidate.module.image_name for candidate in candidates[:_MOST_CANDIDATES])
    more = f" and {len(candidates) - _MOST_CANDIDATES} more" if len(candidates) > _MOST_CANDIDATES else ""
    sentence = f"{names}{more}: the tag {header.tag} is a constant in their code"
    return Reasoning((Finding("POOL_TAG_CANDIDATES", names, candidates[0].address, sentence),))


def _pool_address(case: Case, address: int, number: int) -> Finding:
    region = region_of(case.target, address)
    shown = f"{hexadecimal(case.target, address)} {region.debugger_words}".rstrip()
    meaning = case.bug_check.arguments[number - 1].meaning
    note = f"P{number}: {meaning}" if meaning else f"P{number}"
    return Finding("POOL_ADDRESS", shown, address, note if region.debugger_words else f"{note}; {region.text}")


def _overrun(case: Case, damaged: int) -> Reasoning:
    """The block before a damaged header, which was written beyond its end in all likelihood."""
    before = block_before(case.target, damaged)
    if before is None:
        return Reasoning()
    shown = hexadecimal(case.target, before.address)
    findings = [Finding("CORRUPTING_POOL_ADDRESS", shown, before.address, before.text)]
    tag = "without a printable tag"
    if before.tag is not None:
        findings.append(Finding("CORRUPTING_POOL_TAG", before.tag, None, "tag of the block before the damaged header"))
        tag = f"with the tag {before.tag}"
    sentence = (
        f"The block before the damaged header is at {shown}, {tag}: "
        "whoever owns it has probably written beyond its end."
    )
    return Reasoning(tuple(findings), (sentence,)) + attempt(lambda: _candidates(case, before), "the drivers' code")


@rule(0xC2)
def bad_pool_caller(case: Case) -> Reasoning:
    """P1 the violation; the pool block and its tag. The caller is on the stack."""
    target, kind = case.target, case.argument(1)
    reasoning = Reasoning(specifiers=subtype(case)) + follow(case)
    if kind is None:
        return reasoning
    reasoning += _blocks(case, _HEADERS_C2.get(kind, ()), _BLOCKS_C2.get(kind, ()))
    if kind in _FREED_TWICE:
        number = 3 if kind == _FREED_TWICE[0] else 4
        address = case.pointer(number)
        start = address - header_size(target) if address is not None and number == 4 else address
        reasoning = freed_block(case, reasoning, start)
    if kind == _WRONG_TAG:
        tags = [finding.value for finding in reasoning.findings if finding.tag == "POOL_TAG"]
        if len(tags) == 2:
            reasoning += Reasoning(sentences=(f"It was allocated with the tag {tags[0]} and freed with {tags[1]}.",))
    address = case.pointer(2)
    if kind == 0x40 and address is not None and not _in_user_space(target, address):
        reasoning += Reasoning(notes=(f"P1 says that P2 is a user-mode address, but {address:#x} is not",))
    return reasoning


def _in_user_space(target: Target, address: int) -> bool:
    """Whether processes can have memory of their own, or the shared data, at an address."""
    return not target.is_kernel_address(address) and region_of(target, address).kind in (USER, SHARED_DATA)


def freed_block(case: Case, reasoning: Reasoning, address: int | None) -> Reasoning:
    """What a block that is freed twice adds: its tag, which is a word of the bucket as well. ``address`` is that of
    its header."""
    header = read_header(case.target, address) if address is not None else None
    if header is None or header.tag is None:
        return reasoning
    finding = Finding("FREED_POOL_TAG", header.tag, None, "tag of the block that is freed again")
    sentence = f"The block has the tag {header.tag}: look for the driver that allocates with it."
    tagged = replace(reasoning, specifiers=(*reasoning.specifiers, header.tag.strip())) + Reasoning(
        (finding,), (sentence,)
    )
    return tagged + attempt(lambda: _candidates(case, header), "the drivers' code")


@rule(0xC1)
def special_pool_corruption(case: Case) -> Reasoning:
    """P4 the violation, P1 the address that is freed, P2 where the damage is."""
    kind = case.argument(4)
    reasoning = Reasoning(specifiers=() if kind is None else (f"{kind:x}",)) + follow(case, (1, 2, 3))
    findings = []
    if kind is not None:
        findings.append(Finding("SPECIAL_POOL_CORRUPTION_TYPE", f"{kind:x}", kind, case.bug_check.variant or ""))
    meanings = [argument.meaning or "" for argument in case.bug_check.arguments]
    for number in (1, 2, 3):
        address = case.pointer(number)
        if address is not None and "address" in meanings[number - 1]:
            findings.append(_pool_address(case, address, number))
    corrupt = case.pointer(2) if kind in (0x23, 0x24, 0x32) else None
    sentences: tuple[str, ...] = ()
    if corrupt is not None:
        data = case.target.memory.read(corrupt & ~0xF, 16)
        findings.append(
            Finding("CORRUPTED_BYTES", data.hex(" ") if data is not None else "not in the dump", corrupt & ~0xF)
        )
    if kind == 0x32:
        sentences = ("A single bit is wrong, which bad memory does more often than a driver.",)
    return Reasoning(tuple(findings)) + reasoning + Reasoning(sentences=sentences)


@rule(0xCC, 0xCD, 0xCE, 0xD5, 0xD6)
def special_pool_fault(case: Case) -> Reasoning:
    """P1 the address, P2 read or write, P3 the instruction."""
    reasoning = code_reasoning(case) + access_reasoning(case, fault_access(case))
    address = case.pointer(1)
    sentences = []
    code = case.bug_check.code
    if code in (0xCC, 0xD5):
        sentences.append("The memory was freed before: something kept a pointer to it.")
    elif code in (0xCD, 0xD6):
        sentences.append("The access went beyond the end of a block: look at lengths and indexes of the code at fault.")
    elif reasoning.culprit is None and address is not None:
        region = region_of(case.target, address)
        if region.kind == UNLOADED and region.unloaded is not None:
            name = region.unloaded.name
            why = f"{hexadecimal(case.target, address)} lies where {name} was, which had been unloaded"
            reasoning += Reasoning(culprit=Culprit(name, stem(name), address, why))
        else:
            sentences.append(
                "A driver was unloaded with work outstanding, but it is not in the list of unloaded drivers."
            )
    return reasoning + Reasoning(sentences=tuple(sentences))


# 0x1A ---------------------------------------------------------------------------------------------------------------

#: Arguments of 0x1A by P1: the address of a PTE, a PTE's contents, two values that should be equal.
_PTE_ADDRESS = {0x411: 2, 0x41201: 2, 0x41202: 2, 0x41792: 2, 0x41793: 2, 0x403: 2, 0x1240: 3, 0x1241: 3}
#: Values of argument 1 with which argument 3 is the contents of a PTE.
_PTE_CONTENTS = {0x403, 0x404, 0x3300, 0x41201, 0x41202, 0x41792}
_SHOULD_BE_EQUAL = {0x403: (3, 4), 0x404: (2, 4), 0x5200: (3, 4)}
_CORRUPT_PTE = 0x41792
_HARDWARE = (0x31, 0x403, 0x5003)
_ADDRESSES = {0x3300: 2, 0x3470: 2, 0x4477: 2, 0x5200: 2, 0x5305: 2, 0x6001: 3, 0x15000: 2, 0x41287: 2, 0x61941: 2}


@rule(0x1A)
def memory_management(case: Case) -> Reasoning:
    """P1 the kind of damage; PTEs are decoded, and values that should be equal compared bit by bit."""
    kind = case.argument(1)
    reasoning = Reasoning(specifiers=subtype(case))
    if kind is None:
        return reasoning
    reasoning += attempt(lambda: _page_table_entry(case, kind), "the PTE")
    number = _ADDRESSES.get(kind)
    address = case.pointer(number) if number is not None else None
    if address is not None:
        region = region_of(case.target, address)
        note = f"P{number}: {case.bug_check.arguments[(number or 1) - 1].meaning or ''}"
        findings = (Finding("FAULTING_ADDRESS", hexadecimal(case.target, address), address, f"{note}; {region.text}"),)
        reasoning += Reasoning(findings)
    return _one_bit(case, kind, reasoning)


def _contents(arguments: Sequence[int | None]) -> int | None:
    """The PTE that the arguments of 0x1A hold."""
    kind, _, value, high = arguments
    if kind not in _PTE_CONTENTS:
        return None
    if kind == _CORRUPT_PTE and value is not None and high and value >> 32 == 0 and high >> 32 == 0:
        # 32-bit kernels, and some 64-bit ones, give the halves of the PTE.
        value |= high << 32
    return value


def _page_table_entry(case: Case, kind: int) -> Reasoning:
    target = case.target
    findings = []
    notes: list[str] = []
    number = _PTE_ADDRESS.get(kind)
    address = case.pointer(number) if number is not None else None
    value = _contents([case.argument(index) for index in range(1, 5)])
    if address is not None:
        maps = mapped_address(target, address)
        where = f"maps {hexadecimal(target, maps)} ({region_of(target, maps).text})" if maps is not None else ""
        findings.append(
            Finding("PTE_ADDRESS", hexadecimal(target, address), address, f"P{number}; {where}".rstrip("; "))
        )
    if value is not None:
        shown = parse_pte(value).text if target.header.architecture == "x64" else ""
        findings.append(Finding("PTE", f"{value:016x}", value, shown))
    if address is not None and value is not None and target.memory.pointer_size == 8:
        held = target.memory.unsigned(address, 8)
        if held is not None and held != value:
            notes.append(f"the PTE at {address:#x} is {held:#x} in the dump, not {value:#x}: it has changed since")
    return Reasoning(tuple(findings), notes=tuple(notes))


def single_bit(bug_check: BugCheck) -> str | None:
    """Which single bit of the arguments of 0x1A is wrong, as a sentence without a full stop; ``None`` if none is."""
    values = [argument.value for argument in bug_check.arguments]
    kind = values[0]
    difference = sentence = None
    if kind in _SHOULD_BE_EQUAL:
        first, second = _SHOULD_BE_EQUAL[kind]
        left, right = values[first - 1], values[second - 1]
        if left is not None and right is not None:
            difference = left ^ right
            sentence = f"P{first} and P{second} should be equal and differ only in bit"
    elif kind == _CORRUPT_PTE:
        difference, sentence = _contents(values), "the PTE should be zero and has only one bit set, bit"
    if difference is None or difference.bit_count() != 1:
        return None
    return f"{sentence} {difference.bit_length() - 1}"


def _one_bit(case: Case, kind: int, reasoning: Reasoning) -> Reasoning:
    """Single-bit differences, which bad memory makes; they replace the bucket."""
    why = single_bit(case.bug_check)
    if why is None:
        if kind in _HARDWARE:
            reasoning += Reasoning(sentences=("Test the memory before you look at any driver.",))
        return reasoning
    return Reasoning(
        (*reasoning.findings, Finding("MEMORY_CORRUPTOR", "ONE_BIT", None, why)),
        (
            *reasoning.sentences,
            f"{why[0].upper()}{why[1:]}, which is a memory error in all likelihood; test the memory.",
        ),
        reasoning.notes,
        prefix=_ONE_BIT,
        culprit=Culprit(_CORRUPTION, _CORRUPTION, None, why),
    )
