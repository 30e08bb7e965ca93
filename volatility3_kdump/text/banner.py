"""KD's load banner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.dump import DumpHeader, DumpType
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import session_time, uptime
from volatility3_kdump.windows.machine.system import System
from volatility3_kdump.windows.machine.version import (
    architecture_name,
    product_name,
    suite_names,
    windows_name,
)

#: Dots in a line.
_DOTS = 64
_KERNEL = "Kernel address space is available, User address space may not be available."
_FULL = "Full address space is available"
KINDS = {
    DumpType.FULL: f"Kernel Complete Dump File: {_FULL}",
    DumpType.SUMMARY: f"Kernel Summary Dump File: {_KERNEL}",
    DumpType.TRIAGE: "Mini Kernel Dump File: Only registers and stack trace are available",
    DumpType.BITMAP_FULL: f"Kernel Bitmap Dump File: {_FULL}",
    DumpType.BITMAP_KERNEL: f"Kernel Bitmap Dump File: {_KERNEL}",
    DumpType.KERNEL_RANGES: f"Kernel Range Dump File: {_KERNEL}",
    DumpType.USER_RANGES: "Kernel Range Dump File: Kernel and user address spaces are available",
    DumpType.FULL_RANGES: f"Kernel Range Dump File: {_FULL}",
}


def kind_line(header: DumpHeader) -> str:
    """What kind of dump or memory image it is, and which address spaces it holds."""
    if header.container is not None:
        return f"Memory Image ({header.container}): {_FULL}"
    return KINDS[header.dump_type or 0]


def version_line(header: DumpHeader) -> str:
    """``Windows 10 Kernel Version 19041 MP (3 procs) Free x64``; what the header lacks is said to be unknown."""
    name = windows_name(header.build_number) or "Windows"
    build = header.build_number if header.build_number is not None else "unknown"
    count = header.number_processors
    processors = "processors unknown" if count is None else "UP" if count == 1 else f"MP ({count} procs)"
    flavour = {0xF: "Free", 0xC: "Checked"}.get(header.major_version or 0, "")
    parts = [name, "Kernel Version", str(build), processors, flavour, architecture_name(header.architecture)]
    return " ".join(part for part in parts if part)


def product_line(system: System) -> str | None:
    """``Product: WinNt, suite: TerminalServer SingleUserTS``, ``None`` when neither was set in the header."""
    if system.product_type is None:
        return None
    suites = suite_names(system.suite_mask)
    return f"Product: {product_name(system.product_type)}" + (f", suite: {' '.join(suites)}" if suites else "")


def base_line(system: System) -> str | None:
    """The kernel base and the module list head, ``None`` when no kernel was found."""
    if system.kernel_base is None:
        return None
    size = system.header.pointer_size
    line = f"Kernel base = 0x{pointer(_truncated(system.kernel_base, size), size)}"
    head = system.header.ps_loaded_module_list
    return line if head is None else f"{line} PsLoadedModuleList = 0x{pointer(_truncated(head, size), size)}"


def loading(header: DumpHeader, path: str) -> Iterator[str]:
    """What is loaded: the file and the kind of dump."""
    yield f"Loading Dump File [{path}]"
    yield kind_line(header)


def headline(header: DumpHeader, search_paths: tuple[str, str] | None = None) -> Iterator[str]:
    """What stands between the kind of dump and the version: the comment, and the paths of symbols and images."""
    yield ""
    comment = header.comment
    if comment and comment.strip():
        yield f"Comment: '{comment}'"
    if search_paths is not None:
        yield f"Symbol search path is: {search_paths[0]}"
        yield f"Executable search path is: {search_paths[1]}"


def version(system: System) -> Iterator[str]:
    """``vertarget``: Windows, its kernel, and the time of the crash."""
    yield version_line(system.header)
    product = product_line(system)
    if product:
        yield product
    if system.build_lab:
        yield f"Edition build lab: {system.build_lab}"
    if system.kernel_version is not None:
        yield f"Kernel file version: {system.kernel_version}" + (f", {system.release}" if system.release else "")
    if system.whole:
        yield "Machine Name:"
    base = base_line(system)
    if base:
        yield base
    yield from times(system)


def times(system: System) -> Iterator[str]:
    """``.time``: when it crashed, in the zone of the machine, and how long it had been up."""
    header = system.header
    moment = session_time(header.system_time, system.time_zone_bias) or session_time(header.system_time)
    if moment:
        yield f"Debug session time: {moment}"
    running = uptime(header.system_up_time)
    yield f"System Uptime: {running}" if running else "System Uptime: not available"


def kind(header: DumpHeader) -> str:
    """``64-bit Kernel bitmap dump``, as ``||`` lists dumps."""
    if header.container is not None:
        return f"{header.bits}-bit {header.container}"
    name = KINDS[header.dump_type or 0].partition(" File:")[0]
    return f"{header.bits}-bit {name[0]}{name[1:].lower()}"


def title() -> str:
    """Our own version, and the host's."""
    from volatility3.framework import constants

    from volatility3_kdump.version import __version__

    return f"kdump {__version__}, volatility3 {constants.PACKAGE_VERSION}"


def _truncated(address: int, size: int) -> int:
    return address & ((1 << 8 * size) - 1)


def dotted(modules: Iterable[object], title: str) -> Iterator[str]:
    """A title, and a dot for each module that is loaded; nothing where there are none."""
    dots = "." * sum(1 for _ in modules)
    if dots:
        yield title
        yield from (dots[start : start + _DOTS] for start in range(0, len(dots), _DOTS))
