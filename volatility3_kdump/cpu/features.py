"""Which features of a processor an instruction needs, beyond those that every x64 (or x86) processor has.

The table is ``symbols/kdump/cpufeatures.jsonl``: a feature's CPUID bit and the instructions that need it, by capstone's
groups or by mnemonic. ``lzcnt`` and ``tzcnt`` are not in it: processors without them run ``bsr`` and ``bsf`` instead.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from volatility3_kdump import tables

#: Groups that say nothing about the processor's age: kinds of instructions, and what came with x64 itself.
_EVERYWHERE = frozenset(
    {
        *("jump", "call", "ret", "int", "iret", "privilege", "branch_relative"),
        *("cmov", "mode32", "mode64", "not64bitmode", "novlx", "sse1", "sse2", "mmx", "fpu", "vm"),
    }
)
_UNDEFINED = ("ud0", "ud1", "ud2")
#: What older processors run as another instruction instead of refusing it.
_NEVER_REFUSED = ("lzcnt", "tzcnt", "pause", "endbr64", "nop", "prefetchw", "prefetch")
#: What the first processors with 32 bits have: those of x86 may lack cmov and all vector registers.
_OF_EVERY_X86 = frozenset(
    {
        *(
            "mov",
            "movzx",
            "movsx",
            "lea",
            "push",
            "pop",
            "add",
            "sub",
            "adc",
            "sbb",
            "inc",
            "dec",
            "neg",
            "cmp",
            "test",
        ),
        *("and", "or", "xor", "not", "shl", "shr", "sar", "imul", "xchg", "call", "ret", "jmp", "je", "jne", "leave"),
    }
)
#: Instructions of newer processors that capstone puts into no group.
_NEWER = (
    *("xgetbv", "xsetbv", "xsave", "xrstor", "rdpid", "clac", "stac"),
    *("rdfsbase", "rdgsbase", "wrfsbase", "wrgsbase"),
)


@dataclass(frozen=True)
class Feature:
    """A feature: its name, and leaf, register and bit of CPUID. ``needs`` names features without which it cannot be."""

    name: str
    leaf: int
    register: str
    bit: int
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Requirement:
    """What an instruction needs of the processor.

    ``features`` are those of the table. ``undefined`` marks instructions that are made to be refused (``ud2``).
    ``everywhere`` says that every processor of the architecture runs it, ``None`` where that is not known.
    """

    features: tuple[Feature, ...]
    undefined: bool
    everywhere: bool | None


@functools.lru_cache(maxsize=1)
def _table() -> tuple[tuple[Feature, dict[str, Any]], ...]:
    return tuple(
        (
            Feature(
                record["name"],
                int(record["leaf"], 16),
                record["register"],
                record["bit"],
                tuple(record.get("needs", ())),
            ),
            record,
        )
        for record in tables.json_lines("cpufeatures.jsonl")
    )


def feature(name: str) -> Feature:
    """A feature by its name. Raises ``KeyError`` for one that the table does not have."""
    return {entry.name: entry for entry, _ in _table()}[name]


def requirement(code: bytes, architecture: str = "x64") -> Requirement | None:
    """What the instruction at the start of ``code`` needs; ``None`` when it is none. ``architecture``: x64 or x86."""
    import capstone

    narrow = architecture == "x86"
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32 if narrow else capstone.CS_MODE_64)
    disassembler.detail = True
    decoded = next(disassembler.disasm(code, 0, 1), None)
    if decoded is None:
        return None
    mnemonic = decoded.mnemonic.split()[-1]
    groups = {decoded.group_name(group) for group in decoded.groups}
    if mnemonic in _UNDEFINED:
        return Requirement((), True, False)
    if mnemonic in _NEVER_REFUSED:
        return Requirement((), False, True)
    features = tuple(
        entry
        for entry, record in _table()
        if groups & set(record.get("groups", ()))
        or mnemonic in record.get("mnemonics", ())
        or mnemonic.startswith(tuple(record.get("prefixes", ())))
    )
    plain = not features and groups <= _EVERYWHERE and not mnemonic.startswith(("v", *_NEWER))
    if narrow:
        plain = mnemonic in _OF_EVERY_X86
    # A lock prefix is refused in front of most instructions; whether here is not judged.
    return Requirement(features, False, None if "lock" in decoded.mnemonic else True if plain else None)
