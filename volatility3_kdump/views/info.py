"""Rows of ``kdump.info``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from volatility3_kdump.analysis.bugcheck import why_no_bug_check
from volatility3_kdump.archives import archive
from volatility3_kdump.dump import DumpHeader
from volatility3_kdump.dump.smbios import machine_information
from volatility3_kdump.target import Target
from volatility3_kdump.text.banner import headline, kind_line, loading, version
from volatility3_kdump.text.dump_header import facts
from volatility3_kdump.text.times import session_time, uptime
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, table
from volatility3_kdump.windows.machine.releases import kernel_version, release
from volatility3_kdump.windows.machine.shared_data import shared_data
from volatility3_kdump.windows.machine.system import read_system
from volatility3_kdump.windows.machine.version import (
    architecture_name,
    build_lab,
    product_name,
    suite_names,
    windows_name,
)
from volatility3_kdump.windows.memory.physical_memory import installed_pages
from volatility3_kdump.windows.processes.crashed import crash_process, crash_processor

INFO = table(
    "kdump.info",
    keys.TOPIC(),
    keys.FIELD(),
    keys.TEXT(more="`not set` for a field that the dump's writer never wrote"),
    keys.VALUE(more="null where it is no number"),
    keys.NOTES(),
)

_UNSET = "not set"
_NEVER = "never written by the dump's writer"
_SECONDARY_STATES = {0: "none", 1: "partial or complete"}
_TRIAGE_FIELDS = (
    "CONTEXT",
    "EXCEPTION",
    "PRCB",
    "PROCESS",
    "THREAD",
    "STACK",
    "DRIVER_LIST",
    "BROKEN_DRIVER",
    "MMINFO",
    "DATAPAGE",
    "DEBUGGER_DATA",
    "DATA_BLOCKS",
)


def info_grid(target: Target) -> KdumpGrid:
    """Everything that the dump says about itself."""
    return INFO.grid(_rows(target), lambda: _banner(target))


def _banner(target: Target) -> Iterator[str]:
    """The lines that KD prints when it has loaded a dump."""
    yield from loading(target.header, target.name)
    yield from headline(target.header)
    yield from version(read_system(target))
    for warning in target.warnings:
        yield f"WARNING: {warning}"


def _rows(target: Target) -> Iterator[Row]:
    yield from _dump_rows(target)
    yield from _windows_rows(target)
    yield from _time_rows(target)
    yield from _kernel_rows(target)
    if target.header.container is None:
        yield from _header_rows(target.header)
    else:
        yield from _fact_rows(target)
    yield from _page_rows(target)
    yield from _tagged_rows(target)
    yield from _machine_rows(target)
    for warning in target.warnings:
        yield _row("Warning", "", warning)


def _row(topic: str, field: str, shown: str | None, value: int | None = None, note: str = "") -> Row:
    return INFO.row(0, Topic=topic, Field=field, Text=shown, Value=BLANK if value is None else value, Notes=[note])


def _not_known(header: DumpHeader) -> str:
    """The note of a row whose value is not there, for memory images; those have a row of their own for its source."""
    return "" if header.container is None else "see the facts"


def _set(topic: str, field: str, value: int | None, shown: str | None = None, note: str = "") -> Row:
    """A row of a header field, which may never have been written."""
    if value is None:
        never = note or _NEVER
        return INFO.row(0, Topic=topic, Field=field, Text=_UNSET, Value=None, Notes=[never])
    return _row(topic, field, shown if shown is not None else f"{value:,}", value, note)


def _dump_rows(target: Target) -> Iterator[Row]:
    header = target.header
    yield _row("Dump", "File", target.name)
    if target.container is not None:
        count = len(target.container.members)
        yield _row("Dump", "Container", f"{target.container.kind} with {count:,} file{'s' if count > 1 else ''}")
        yield _row("Dump", "Member", archive.shown(target.container.member.name), target.container.member.number)
    yield _row("Dump", "Size", f"{target.dump.source.size:,} bytes", target.dump.source.size)
    yield _row("Dump", "Type", kind_line(header), header.dump_type)
    if header.comment:
        yield _row("Dump", "Comment", header.comment)
    note = target.dump.slice
    if note is not None:
        made = f"{note.pages:,} of {note.pages_of_original:,} pages, read by: {'; '.join(note.commands)}"
        scrubbed = f"scrubbed of {', '.join(note.scrubbed)}" if note.scrubbed else "not scrubbed"
        fragments = len(target.dump.fragments)
        more = f", and {fragments:,} fragments of others" if fragments else ""
        yield _row("Dump", "Slice of", note.of, note=f"{made}{more}; {scrubbed}")
    if header.container is not None:
        return
    names = header.attribute_names
    shown = None if names is None else " ".join(names) or "none"
    yield _set("Dump", "Attributes", header.attributes, shown)
    yield _row("Dump", "Header", f"{header.bits}-bit, {header.header_size:#x} bytes")


def _windows_rows(target: Target) -> Iterator[Row]:
    header = target.header
    yield _set(
        "Windows", "Build", header.build_number, None if header.build_number is None else str(header.build_number)
    )
    yield _row(
        "Windows", "Name", windows_name(header.build_number), note="as the debugger names it: builds of Windows 11 too"
    )
    version = kernel_version(target)
    yield _row(
        "Windows", "Kernel version", version.text if version else None, note=f"by {version.known_by}" if version else ""
    )
    yield _row("Windows", "Release", release(target))
    kind = {0xF: "free", 0xC: "checked"}.get(header.major_version or 0)
    yield _set("Windows", "Kind", header.major_version, kind, _not_known(header))
    yield _row("Windows", "Architecture", architecture_name(header.architecture), header.machine_type)
    yield _set("Windows", "Processors", header.number_processors, note=_not_known(header))
    shared = shared_data(target)
    product, suite = header.product_type, header.suite_mask
    source = ""
    if product is None and shared is not None and shared.product_type is not None:
        product, suite, source = shared.product_type, shared.suite_mask, "from KUSER_SHARED_DATA"
    yield _set("Windows", "Product", product, product_name(product), source)
    suites = suite_names(suite)
    yield _set("Windows", "Suite", suite, None if suites is None else " ".join(suites) or "none", source)
    yield _row("Windows", "Build lab", build_lab(target), note="" if build_lab(target) else "not in the dump")
    if shared is not None:
        yield _row("Windows", "System root", shared.system_root)


def _time_rows(target: Target) -> Iterator[Row]:
    header = target.header
    yield _set("Time", "Session time (UTC)", header.system_time, session_time(header.system_time), _not_known(header))
    page = shared_data(target)
    bias = page.time_zone_bias if page else None
    local = session_time(header.system_time, bias) if bias is not None else None
    note = "zone of the target" if local else "the target's time zone is not in the dump"
    yield _row("Time", "Session time (target)", local, note=note)
    yield _set("Time", "Uptime", header.system_up_time, uptime(header.system_up_time), _not_known(header))


def _symbols(target: Target) -> str:
    if target.nt is None:
        return "none"
    return "loaded" if target.has_names else "types only"


def _kernel_rows(target: Target) -> Iterator[Row]:
    header = target.header
    kernel = target.kernel
    if kernel is None:
        yield _row("Kernel", "Base", None, note="no kernel was found in the dump")
    else:
        yield _row("Kernel", "Base", f"{kernel.base:#x}", kernel.base, kernel.base_known_by)
        if kernel.identity is not None:
            yield _row("Kernel", "PDB", kernel.identity.isf_name, note=kernel.identity.known_by)
    status = target.symbol_status
    yield _row("Kernel", "Symbols", _symbols(target), note=status)
    if target.symbol_remedy:
        yield _row("Kernel", "To get them", target.symbol_remedy)
    if kernel is not None and kernel.identity is not None:
        origin = target.nt.origin if target.nt is not None and target.has_names else ""
        for directory in target.places.searched_directories:
            held = Path(origin).is_relative_to(directory) if origin else False
            outcome = "found" if held else "not used" if origin else "not found"
            yield _row("Symbols", str(directory), outcome, note=f"{kernel.identity.isf_name}.json.xz")
    for attempt in target.places.attempts:
        yield _row("Symbols", attempt.place, attempt.outcome, note=f"{attempt.name} {attempt.key}")
    for field, value in (
        ("PsLoadedModuleList", header.ps_loaded_module_list),
        ("PsActiveProcessHead", header.ps_active_process_head),
        ("PfnDataBase", header.pfn_database),
        ("KdDebuggerDataBlock", header.kd_debugger_data_block),
        ("DirectoryTableBase", header.directory_table_base),
    ):
        yield _set("Kernel", field, value, None if value is None else f"{value:#x}", _not_known(header))
    debugger = target.debugger
    if debugger is None:
        yield _row("Kernel", "KDDEBUGGER_DATA64", None, note="not in the dump, or encoded")
    else:
        yield _row("Kernel", "KDDEBUGGER_DATA64", f"{debugger.size:#x} bytes", debugger.size)
    processor = crash_processor(target)
    yield _row("Kernel", "Crashing processor", None if processor is None else str(processor.number))
    process = crash_process(target)
    if process is not None:
        yield _row("Kernel", "Crashing process", process.name, process.address)
        if process.image_path:
            yield _row("Kernel", "Image path", process.image_path, note="of the crashing process")


def _fact_rows(target: Target) -> Iterator[Row]:
    """What is known of the machine in a memory image in place of a dump header, and where each fact is from."""
    for name, value, source in facts(target.header):
        yield _row("Fact", name, None if value is None else f"{value:#x}", value, source)
    crashed = target.header.crashed
    shown = None if crashed is None else "yes" if crashed else "no"
    yield _row("Fact", "Crashed", shown, note="nt!KiBugCheckData" if crashed else why_no_bug_check(target))
    states = target.dump.processors
    yield _row(
        "Fact",
        "Processors with registers",
        str(len(states)),
        len(states),
        target.dump.why_no_registers if not states else "",
    )


def _header_rows(header: DumpHeader) -> Iterator[Row]:
    code = header.bug_check_code
    yield _set("Header", "BugCheckCode", code, None if code is None else f"{code:#x}")
    for number, value in enumerate(header.bug_check_parameters, 1):
        yield _set("Header", f"BugCheckParameter{number}", value, None if value is None else f"{value:#x}")
    if header.version_user:
        yield _row("Header", "VersionUser", header.version_user)
    if header.bits == 32:
        pae = header.pae_enabled
        yield _set("Header", "PaeEnabled", None if pae is None else int(pae))
    yield _set("Header", "KdSecondaryVersion", header.kd_secondary_version)
    yield _set("Header", "RequiredDumpSpace", header.required_dump_space)
    fields = header.mini_dump_fields
    if header.dump_type == 4:
        named = (
            None if fields is None else " ".join(name for bit, name in enumerate(_TRIAGE_FIELDS) if fields >> bit & 1)
        )
        yield _set("Header", "MiniDumpFields", fields, named)
    state = header.secondary_data_state
    yield _set("Header", "SecondaryDataState", state, _SECONDARY_STATES.get(state or 0))
    yield _set("Header", "WriterStatus", header.writer_status)
    yield _set("Header", "BootId", header.boot_id)
    yield _set("Header", "NumberOfRuns", header.number_of_runs)
    yield _set("Header", "NumberOfPages", header.number_of_pages)


def _page_rows(target: Target) -> Iterator[Row]:
    pages = target.dump.pages
    triage = target.dump.triage
    if pages is not None:
        yield _row("Pages", "Declared", f"{pages.declared:,}", pages.declared)
        yield _row("Pages", "Present", f"{pages.present:,}", pages.present)
        missing = pages.declared - pages.present
        yield _row("Pages", "Missing", f"{missing:,}", missing, "behind the end of the file" if missing else "")
        if pages.highest is not None:
            yield _row("Pages", "Highest page frame", f"{pages.highest:#x}", pages.highest)
        if shared_data(target) is not None:
            yield from _physical_rows(target)
    if triage is not None:
        captured = sum(block.size for block in triage.blocks)
        yield _row("Small memory dump", "Complete", "yes" if triage.complete else "no", note="end marker")
        yield _row(
            "Small memory dump", "Data blocks", f"{len(triage.blocks):,}", len(triage.blocks), f"{captured:,} bytes"
        )
        yield _row("Small memory dump", "Drivers", f"{len(triage.drivers):,}", len(triage.drivers))
        yield _row("Small memory dump", "Unloaded drivers", f"{len(triage.unloaded):,}", len(triage.unloaded))
        if triage.broken_driver:
            yield _row("Small memory dump", "Broken driver", triage.broken_driver)


def _physical_rows(target: Target) -> Iterator[Row]:
    total = installed_pages(target)
    if total and target.dump.pages is not None:
        left_out = total - target.dump.pages.declared
        yield _row("Pages", "Of the machine", f"{total:,}", total, f"{left_out:,} were not meant to be dumped")


def _machine_rows(target: Target) -> Iterator[Row]:
    machine = machine_information(target.dump.source, target.dump.tagged)
    if machine is None:
        return
    for field, value in (
        ("Manufacturer", machine.manufacturer),
        ("Product", machine.product),
        ("Version", machine.version),
        ("Baseboard", " ".join(filter(None, (machine.baseboard_manufacturer, machine.baseboard_product))) or None),
        ("Firmware", " ".join(filter(None, (machine.bios_vendor, machine.bios_version, machine.bios_date))) or None),
        ("Virtual machine", machine.virtual_machine),
    ):
        if value is not None:
            yield _row("Machine", field, value, note="SMBIOS tables")


def _tagged_rows(target: Target) -> Iterator[Row]:
    for blob in target.dump.tagged:
        name = blob.name or "unknown owner"
        yield _row(
            "Tagged data", str(blob.tag), name, blob.size, f"{blob.size:,} bytes at file offset {blob.offset:#x}"
        )
