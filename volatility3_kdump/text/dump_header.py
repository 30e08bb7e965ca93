"""The header of a dump, field by field, as KD's ``.dumpdebug`` begins."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.dump.header import DumpHeader
from volatility3_kdump.text.addresses import pointer

_WIDTH = 20
_PAGE_SHIFT = 12
_UNSET = "never written by the dump's writer"


def header_lines(header: DumpHeader) -> Iterator[str]:
    """A line for each field of DUMP_HEADER64 or DUMP_HEADER32; those that were never written are said to be so.

    The physical memory runs follow, where the header has them, in bytes. Raises :class:`CorruptDump` when it claims
    more of them than fit.
    """
    size = header.pointer_size
    if header.container is not None:
        yield from _facts(header)
        return
    numbers: tuple[tuple[str, int | None], ...] = (
        ("MajorVersion", header.major_version),
        ("MinorVersion", header.build_number),
        ("KdSecondaryVersion", header.kd_secondary_version),
    )
    addresses: tuple[tuple[str, int | None], ...] = (
        ("DirectoryTableBase", header.directory_table_base),
        ("PfnDataBase", header.pfn_database),
        ("PsLoadedModuleList", header.ps_loaded_module_list),
        ("PsActiveProcessHead", header.ps_active_process_head),
    )
    yield f"DUMP_HEADER{header.bits}:"
    for name, value in numbers:
        yield _number(name, value)
    for name, value in addresses:
        yield _address(name, value, size)
    yield _number("MachineImageType", header.machine_type)
    yield _number("NumberProcessors", header.number_processors)
    yield _number("BugCheckCode", header.bug_check_code)
    for number, parameter in enumerate(header.bug_check_parameters, 1):
        yield _address(f"BugCheckParameter{number}", parameter, size)
    yield _address("KdDebuggerDataBlock", header.kd_debugger_data_block, size)
    yield _number("DumpType", header.dump_type)
    yield _number("ProductType", header.product_type)
    yield _number("SuiteMask", header.suite_mask)
    yield _number("WriterStatus", header.writer_status)
    yield _number("SecondaryDataState", header.secondary_data_state)
    names = header.attribute_names
    yield _number("Attributes", header.attributes) + (f" {' '.join(names)}" if names else "")
    yield _number("BootId", header.boot_id)
    yield _line("Comment", "none" if header.comment is None else f"'{header.comment}'")
    runs = header.runs()
    if runs:
        yield ""
        yield "Physical Memory Description:"
        yield f"Number of runs: {len(runs):08x}"
        yield "    Start Address      Length"
        for run in runs:
            yield f"    {pointer(run.base_page << _PAGE_SHIFT, 8)}  {pointer(run.page_count << _PAGE_SHIFT, 8)}"
        yield f"Number of pages: {header.number_of_pages or 0:08x}"


#: The facts of a memory image by the names of a dump header's fields.
_FACTS = (
    ("DirectoryTableBase", "directory_table_base"),
    ("MachineImageType", "machine_type"),
    ("NumberProcessors", "number_processors"),
    ("MajorVersion", "major_version"),
    ("MinorVersion", "build_number"),
    ("KernelBase", "kernel_base"),
    ("PsLoadedModuleList", "ps_loaded_module_list"),
    ("PsActiveProcessHead", "ps_active_process_head"),
    ("PfnDataBase", "pfn_database"),
    ("KdDebuggerDataBlock", "kd_debugger_data_block"),
    ("BugCheckCode", "bug_check_code"),
    ("SystemTime", "system_time"),
    ("SystemUpTime", "system_up_time"),
    ("ProductType", "product_type"),
    ("SuiteMask", "suite_mask"),
)


def facts(header: DumpHeader) -> Iterator[tuple[str, int | None, str]]:
    """The facts of a memory image: name, value, where it is from or why there is none."""
    for name, field in _FACTS:
        value = getattr(header, field)
        yield name, value, header.source_of(field) or "not known"
    if header.crashed:
        for number, parameter in enumerate(header.bug_check_parameters, 1):
            yield f"BugCheckParameter{number}", parameter, header.source_of("bug_check_parameters") or "not known"
    source = header.source_of("context_record")
    yield "ContextRecord", None, source or "saved by the processor that stopped" if header.crashed else source or "none"


def _facts(header: DumpHeader) -> Iterator[str]:
    """Where there is no header: what is known in its place."""
    yield f"No dump header: a memory image ({header.container}). What is known of the machine:"
    for name, value, source in facts(header):
        shown = "" if value is None else pointer(value & 0xFFFFFFFFFFFFFFFF, 8) if value >> 32 else f"{value:08x}"
        yield f"{_line(name, shown):<{_WIDTH + 20}}{source}"


def _line(name: str, text: str) -> str:
    return f"{name:<{_WIDTH}}{text}"


def _number(name: str, value: int | None) -> str:
    return _line(name, _UNSET if value is None else f"{value:08x}")


def _address(name: str, value: int | None, size: int) -> str:
    return _line(name, _UNSET if value is None else pointer(value & ((1 << 8 * size) - 1), size))
