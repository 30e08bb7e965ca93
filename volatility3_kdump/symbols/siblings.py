"""Types from a sibling: the layouts of another revision of the same kernel, where no table of the kernel is at hand.

The package ships the types (no symbols) of one kernel, or what several have in common, for each layout generation.
Which of them a dump's kernel has is decided by evidence only: the header's build and machine, and every size and offset
that the dump's KDDEBUGGER_DATA64 gives. Where several fit, what they do not agree on is left out. A table is dropped
when a field of the crashing thread or process contradicts it.
"""

from __future__ import annotations

import functools
import json
import lzma
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.dump import Segment
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.memory import ReadMemory
from volatility3_kdump.symbols.kdbg import DebuggerData

_INDEX = "layouts.jsonl"
#: Sizes that KDDEBUGGER_DATA64 gives, and the structures whose they are.
SIZES = {"SizeEProcess": "_EPROCESS", "SizeEThread": "_ETHREAD", "SizePrcb": "_KPRCB", "SizePcr": "_KPCR"}
#: Offsets that KDDEBUGGER_DATA64 gives, and the fields whose they are. Source: ``wdbgexts.h``; each was compared with
#: the symbols of kernels whose dumps are at hand.
OFFSETS = {
    "OffsetEThreadIrpList": ("_ETHREAD", "IrpList"),
    "OffsetEprocessDirectoryTableBase": ("_EPROCESS", "Pcb.DirectoryTableBase"),
    "OffsetEprocessParentCID": ("_EPROCESS", "InheritedFromUniqueProcessId"),
    "OffsetEprocessPeb": ("_EPROCESS", "Peb"),
    "OffsetKPriQueueThreadListHead": ("_KPRIQUEUE", "ThreadListHead"),
    "OffsetKThreadApcProcess": ("_KTHREAD", "ApcState.Process"),
    "OffsetKThreadInitialStack": ("_KTHREAD", "InitialStack"),
    "OffsetKThreadKernelStack": ("_KTHREAD", "KernelStack"),
    "OffsetKThreadNextProcessor": ("_KTHREAD", "NextProcessor"),
    "OffsetKThreadQueueListEntry": ("_KTHREAD", "QueueListEntry"),
    "OffsetKThreadStackBase": ("_KTHREAD", "StackBase"),
    "OffsetKThreadStackLimit": ("_KTHREAD", "StackLimit"),
    "OffsetKThreadState": ("_KTHREAD", "State"),
    "OffsetKThreadTeb": ("_KTHREAD", "Teb"),
    "OffsetKThreadWaitReason": ("_KTHREAD", "WaitReason"),
    "OffsetPcrContainedPrcb": ("_KPCR", "Prcb"),
    "OffsetPcrCurrentPrcb": ("_KPCR", "CurrentPrcb"),
    "OffsetPcrSelfPcr": ("_KPCR", "Self"),
    "OffsetPrcbContext": ("_KPRCB", "Context"),
    "OffsetPrcbCpuType": ("_KPRCB", "CpuType"),
    "OffsetPrcbCurrentThread": ("_KPRCB", "CurrentThread"),
    "OffsetPrcbDpcRoutine": ("_KPRCB", "DpcRoutineActive"),
    "OffsetPrcbDpcStack": ("_KPRCB", "DpcStack"),
    "OffsetPrcbExceptionStack": ("_KPRCB", "ExceptionStack"),
    "OffsetPrcbIdleThread": ("_KPRCB", "IdleThread"),
    "OffsetPrcbIsrStack": ("_KPRCB", "IsrStack"),
    "OffsetPrcbMhz": ("_KPRCB", "MHz"),
    "OffsetPrcbNumber": ("_KPRCB", "Number"),
    "OffsetPrcbProcStateContext": ("_KPRCB", "ProcessorState.ContextFrame"),
    "OffsetPrcbProcStateSpecialReg": ("_KPRCB", "ProcessorState.SpecialRegisters"),
    "OffsetPrcbVendorString": ("_KPRCB", "VendorString"),
}
#: Without these three no table is chosen.
_REQUIRED = ("SizeEProcess", "SizeEThread", "SizePrcb")


@dataclass(frozen=True)
class Sibling:
    """The types that a dump's kernel shares with others. ``label`` says whose they are, ``agreeing`` how many values of
    KDDEBUGGER_DATA64 agree with them."""

    layouts: Layouts
    label: str
    agreeing: int

    @property
    def status(self) -> str:
        """One sentence for the views."""
        return (
            f"{self.label}, the same generation ({self.agreeing} sizes and offsets of KDDEBUGGER_DATA64 agree): "
            "types only, no names"
        )


def debugger_values(layouts: Layouts) -> dict[str, int]:
    """What KDDEBUGGER_DATA64 of a kernel with these types says: sizes and offsets by the names of its fields."""
    values = {name: layouts.size_of(type_name) for name, type_name in SIZES.items() if layouts.has_type(type_name)}
    for name, (type_name, path) in OFFSETS.items():
        field = layouts.find(type_name, path) if layouts.has_type(type_name) else None
        if field is not None:
            values[name] = field.offset
    return values


def contradictions(values: Mapping[str, int], debugger: DebuggerData) -> list[str]:
    """Where sizes and offsets of a table are not those of the dump, one phrase each."""
    different = []
    for name, value in values.items():
        told = debugger[name]
        if told is not None and told != value:
            type_name, path = OFFSETS.get(name) or (SIZES[name], "")
            what = f"the offset of {type_name}.{path}" if path else f"the size of {type_name}"
            different.append(f"{what} is {told:x}h in the dump ({name}) and {value:x}h in the table")
    return different


def find_sibling(build: int | None, machine: int | None, debugger: DebuggerData | None) -> Sibling | None:
    """The shipped types that fit a kernel; ``None`` where none do, or where the dump does not say enough.

    ``build`` is the header's, ``machine`` its IMAGE_FILE_MACHINE.
    """
    if debugger is None or any(debugger[name] is None for name in _REQUIRED):
        return None
    fitting = [
        record
        for record in _index()
        if record["build"] == build
        and record["machine"] == machine
        and all(name in record["debugger"] for name in _REQUIRED)
        and not contradictions(record["debugger"], debugger)
    ]
    if not fitting:
        return None
    documents = [_document(record["table"]) for record in fitting]
    document = documents[0] if len(documents) == 1 else common(documents)
    label = "layouts of " + " and ".join(record["of"] for record in fitting)
    agreeing = sum(debugger[name] is not None for name in fitting[0]["debugger"])
    return Sibling(Layouts(document, label), label, agreeing)


def why_none(build: int | None, machine: int | None, debugger: DebuggerData | None) -> str:
    """Why :func:`find_sibling` gives nothing, as one phrase."""
    absent = "fields that KDDEBUGGER_DATA64 does not give are absent"
    if debugger is None:
        return "layouts of its build cannot be chosen, as KDDEBUGGER_DATA64 is not in the dump or encoded"
    missing = [name for name in _REQUIRED if debugger[name] is None]
    if missing:
        return f"layouts of its build cannot be chosen, as KDDEBUGGER_DATA64 does not give {missing[0]}; {absent}"
    candidates = [record for record in _index() if record["build"] == build and record["machine"] == machine]
    if not candidates:
        return f"no layouts of build {build} for this machine type are shipped; {absent}"
    against = {record["of"]: contradictions(record["debugger"], debugger) for record in candidates}
    nearest = min(against, key=lambda label: len(against[label]))
    first = against[nearest][0] if against[nearest] else "they lack what KDDEBUGGER_DATA64 is compared with"
    return f"no layouts that are shipped fit: of those of {nearest}, {first}; {absent}"


@functools.lru_cache(maxsize=1)
def _index() -> tuple[dict[str, Any], ...]:
    return tuple(tables.json_lines(_INDEX))


@functools.lru_cache(maxsize=2)
def _document(name: str) -> dict[str, Any]:
    path = tables.data_path(name)
    try:
        with lzma.open(path, "rb") as stream:
            document: dict[str, Any] = json.load(stream)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise KdumpError(f"{path}: the shipped table cannot be read: {error}; reinstall volatility3-kdump") from error
    return document


# what tables have in common -------------------------------------------------------------------------------------------


def common(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The types that several ISF documents agree on: their sizes, and the fields that lie alike and are alike.

    What a field points to does not matter to where it lies: such pointers become pointers to void.
    """
    first, *others = documents
    types = first["user_types"]
    names = {
        name
        for name in types
        if all(
            name in other["user_types"]
            and other["user_types"][name]["size"] == types[name]["size"]
            and other["user_types"][name]["kind"] == types[name]["kind"]
            for other in others
        )
    }
    base = {name: value for name, value in first["base_types"].items() if _in_all(others, "base_types", name, value)}
    enums = {}
    for name, value in first["enums"].items():
        if all(name in other["enums"] and other["enums"][name]["size"] == value["size"] for other in others):
            constants = {
                key: number
                for key, number in value["constants"].items()
                if all(other["enums"][name]["constants"].get(key) == number for other in others)
            }
            enums[name] = {**value, "constants": constants}
    agreed: dict[str, Any] = {}
    for name in names:
        alternatives = [other["user_types"][name]["fields"] for other in others]
        fields = {}
        for key, field in types[name]["fields"].items():
            if all(
                key in fields_there
                and fields_there[key]["offset"] == field["offset"]
                and _same(field["type"], fields_there[key]["type"])
                for fields_there in alternatives
            ):
                fields[key] = field
        agreed[name] = {**types[name], "fields": fields}
    return {**first, "base_types": base, "enums": enums, "user_types": without_dangling(agreed, enums, base)}


def _in_all(documents: Iterable[Mapping[str, Any]], part: str, name: str, value: Mapping[str, Any]) -> bool:
    return all(document[part].get(name) == value for document in documents)


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two field types take the same bytes in the same way."""
    if one["kind"] != other["kind"]:
        return False
    kind = one["kind"]
    if kind == "pointer":
        return one.get("base") == other.get("base")
    if kind == "array":
        return one["count"] == other["count"] and _same(one["subtype"], other["subtype"])
    if kind == "bitfield":
        return (one["bit_position"], one["bit_length"]) == (other["bit_position"], other["bit_length"]) and _same(
            one["type"], other["type"]
        )
    return kind == "function" or bool(one["name"] == other["name"])


def without_dangling(
    types: Mapping[str, Any], enums: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Types without the fields whose own type is not there; pointers to what is not there point to void."""

    def usable(type_: Mapping[str, Any]) -> Mapping[str, Any] | None:
        kind = type_["kind"]
        if kind == "pointer":
            return {**type_, "subtype": usable(type_["subtype"]) or {"kind": "base", "name": "void"}}
        if kind in ("array", "bitfield"):
            key = "subtype" if kind == "array" else "type"
            inner = usable(type_[key])
            return None if inner is None else {**type_, key: inner}
        if kind == "function":
            return type_
        there = {"base": base, "enum": enums}.get(kind, types)
        return type_ if type_["name"] in there else None

    kept: dict[str, dict[str, Any]] = {}
    for name, description in types.items():
        fields = {}
        for key, field in description["fields"].items():
            type_ = usable(field["type"])
            if type_ is not None:
                fields[key] = {**field, "type": type_}
        kept[name] = {**description, "fields": fields}
    return kept


# evidence in structures -----------------------------------------------------------------------------------------------


def misfit_of_copies(layouts: Layouts, read: ReadMemory, copies: Mapping[str, Segment]) -> str | None:
    """:func:`misfit` of the thread and the process that a small memory dump copied; ``None`` where it did not."""
    thread, process = copies.get("thread"), copies.get("process")
    if thread is None or process is None:
        return None
    return misfit(layouts, read(thread.address, thread.size), read(process.address, process.size), process.address)


def misfit(layouts: Layouts, thread: bytes | None, process: bytes | None, address: int) -> str | None:
    """Why types cannot be those of a thread and a process, by what the two say of each other; ``None`` if they can.

    ``thread`` and ``process`` are the bytes of an ETHREAD and of the EPROCESS at ``address``. A thread that is attached
    to another process than its own says nothing about that one.
    """
    if thread is None or process is None:
        return None
    try:
        told = layouts.reader("_ETHREAD", pid="Cid.UniqueProcess", owner="Tcb.Process").unpack(thread)
        own = layouts.reader("_EPROCESS", pid="UniqueProcessId").unpack(process)
    except (LayoutError, struct.error):
        return None
    if told.owner == address and told.pid is not None and own.pid is not None and told.pid != own.pid:
        return f"ETHREAD.Cid says that the thread is of process {told.pid:#x}, its EPROCESS that it is {own.pid:#x}"
    return None
