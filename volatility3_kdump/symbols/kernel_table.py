"""The kernel's table: which one is used for types, which for names, and why another one is not.

A table gives names only if the kernel's variables lie in it where the dump says that they are. Types may come from a
sibling (:mod:`volatility3_kdump.symbols.siblings`), whose symbols nobody uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from volatility3_kdump.dump import CrashDump
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.symbols import siblings
from volatility3_kdump.symbols.isf import how_to_get, how_to_get_image, load_table_file
from volatility3_kdump.symbols.kdbg import DebuggerData
from volatility3_kdump.symbols.kernel import Kernel, variable_distances


@dataclass(frozen=True)
class KernelTable:
    """The types of the kernel, ``None`` without any, and a sentence that says whose they are or what is missing.

    ``named`` says whether the table's symbols are the kernel's as well; else it has none. ``remedy`` is the sentence
    that says which file would give them and how to get it; empty where nothing is missing.
    """

    layouts: Layouts | None
    status: str
    named: bool
    remedy: str = ""


def misplaced(table: Layouts, distances: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """The variables that a table has elsewhere than the dump: (name, RVA in the dump, RVA in the table)."""
    different = []
    for name, rva in distances.items():
        told = table.symbol(name)
        if told is not None and told != rva:
            different.append((name, rva, told))
    return different


def refusal(table: Layouts, distances: Mapping[str, int], problems: list[str]) -> str | None:
    """Why a table cannot name the addresses of a kernel, ``None`` where it can.

    ``distances`` are those of variables from the kernel's base, as the dump has them. Where most of them fit, the dump
    is damaged, not the table wrong: then a line about each of the others is appended to ``problems``.
    """
    different = misplaced(table, distances)
    if not different:
        return None
    tested = sum(table.symbol(name) is not None for name in distances)
    lines = [
        f"nt!{name} is at nt+{rva:#x} in the dump and at nt+{told:#x} in the table, off by {told - rva:+#x}"
        for name, rva, told in different
    ]
    if 2 * len(different) >= tested:
        return f"{table.origin}: refused for names: {'; '.join(lines[:2])}"
    problems += [f"{table.origin}: {line}; the other {tested - len(different)} variables fit" for line in lines]
    return None


def choose(
    dump: CrashDump,
    kernel: Kernel | None,
    debugger: DebuggerData | None,
    named_file: Path | None,
    load: Callable[[], Layouts | None],
    contradicted: Callable[[Layouts], str | None],
    problems: list[str],
) -> KernelTable:
    """The table of a kernel: the one that the user names, else that of its identity, else types of a sibling.

    ``load`` looks for the table of the kernel's identity; ``contradicted`` says why types cannot be those of the dump's
    own structures. What was refused is appended to ``problems``.
    """
    distances = {} if kernel is None else variable_distances(dump, kernel.base, debugger)
    reasons: list[str] = []
    remedy = "" if kernel is None else _remedy(kernel, dump)
    try:
        table = load_table_file(named_file) if named_file is not None else load()
    except LayoutError as error:
        table = None
        reasons.append(str(error))
    if table is not None:
        why = refusal(table, distances, problems)
        wrong = siblings.contradictions(siblings.debugger_values(table), debugger) if debugger and named_file else []
        if why is None and wrong:
            why = f"{table.origin}: refused: {wrong[0]}"
        if why is None:
            told = f"{table.origin} (named by the user)" if named_file is not None else table.origin
            return KernelTable(table, told, bool(table.symbol_names()))
        reasons.append(why)
        if debugger is not None and not siblings.contradictions(siblings.debugger_values(table), debugger):
            types = table.without_symbols()
            if contradicted(types) is None:
                return KernelTable(types, f"{why}; its types fit and are used", False, remedy)
    elif not reasons:
        reasons.append(_missing(dump, kernel))
    header = dump.header
    sibling = siblings.find_sibling(header.build_number, header.machine_type, debugger)
    if sibling is None:
        if kernel is not None:
            reasons[0] += "; " + siblings.why_none(header.build_number, header.machine_type, debugger)
        return KernelTable(None, reasons[0], False, remedy)
    against = contradicted(sibling.layouts)
    if against is not None:
        problems.append(f"{sibling.label}: not used: {against}")
        return KernelTable(None, reasons[0], False, remedy)
    return KernelTable(sibling.layouts, f"{sibling.status}; {reasons[0]}", False, remedy)


def _missing(dump: CrashDump, kernel: Kernel | None) -> str:
    if kernel is None:
        because = f": {dump.warnings[0]}" if dump.warnings else ""
        return f"no kernel was found in the dump{because}"
    if kernel.identity is not None:
        return f"neither {kernel.identity.isf_name}.json.xz nor the PDB was found"
    if kernel.candidates:
        return "the kernel is one of " + ", ".join(kernel.candidates)
    return "the dump does not hold the kernel's RSDS record, and its image was not found"


def _remedy(kernel: Kernel, dump: CrashDump) -> str:
    """The one sentence that tells which file is missing, and what gets it."""
    if kernel.identity is not None:
        return how_to_get(kernel.identity)
    image = dump.triage.drivers[0] if dump.triage is not None and dump.triage.drivers else None
    if kernel.candidates or image is None:
        return "name its symbol table with --isf-file"
    told = how_to_get_image(image.name or "ntoskrnl.exe", image.timestamp, image.size)
    return f"{told}; 'kdump symbols --manifest DUMP --for crash' lists it for a machine with internet"
