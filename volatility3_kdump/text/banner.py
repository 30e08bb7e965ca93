"""KD's load banner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.dump import DumpType
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import session_time, uptime
from volatility3_kdump.windows.machine.releases import listed_version, release
from volatility3_kdump.windows.machine.shared_data import shared_data
from volatility3_kdump.windows.machine.version import (
    architecture_name,
    build_lab,
    product_name,
    suite_names,
    windows_name,
)

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

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


def version_line(target: Target) -> str:
    """``Windows 10 Kernel Version 19041 MP (3 procs) Free x64``; what the header lacks is said to be unknown."""
    header = target.header
    name = windows_name(header.build_number) or "Windows"
    build = header.build_number if header.build_number is not None else "unknown"
    count = header.number_processors
    processors = "processors unknown" if count is None else "UP" if count == 1 else f"MP ({count} procs)"
    kind = {0xF: "Free", 0xC: "Checked"}.get(header.major_version or 0, "")
    words = [name, "Kernel Version", str(build), processors, kind, architecture_name(header.architecture)]
    return " ".join(word for word in words if word)


def product_line(target: Target) -> str | None:
    """``Product: WinNt, suite: TerminalServer SingleUserTS``, ``None`` when neither was set in the header."""
    shared = shared_data(target)
    product = target.header.product_type
    suite = target.header.suite_mask
    if shared is not None:
        product = shared.product_type if product is None else product
        suite = shared.suite_mask if suite is None else suite
    if product is None:
        return None
    suites = suite_names(suite)
    return f"Product: {product_name(product)}" + (f", suite: {' '.join(suites)}" if suites else "")


def base_line(target: Target) -> str | None:
    """The kernel base and the module list head, ``None`` when no kernel was found."""
    if target.kernel is None:
        return None
    size = target.memory.pointer_size
    line = f"Kernel base = 0x{pointer(_truncated(target.kernel.base, size), size)}"
    head = target.header.ps_loaded_module_list
    return line if head is None else f"{line} PsLoadedModuleList = 0x{pointer(_truncated(head, size), size)}"


def loading(target: Target, path: str | None = None) -> Iterator[str]:
    """What is loaded: the file, by ``path`` where that is given, and the kind of dump."""
    yield f"Loading Dump File [{path or target.name}]"
    yield KINDS[target.header.dump_type or 0]


def banner(target: Target) -> Iterator[str]:
    """The lines that KD prints when it has loaded a dump."""
    yield from loading(target)
    yield from headline(target)
    yield from version(target)
    for warning in target.warnings:
        yield f"WARNING: {warning}"


def headline(target: Target, search_paths: tuple[str, str] | None = None) -> Iterator[str]:
    """What stands between the kind of dump and the version: the comment, and the paths of symbols and images."""
    yield ""
    comment = target.header.comment
    if comment and comment.strip():
        yield f"Comment: '{comment}'"
    if search_paths is not None:
        yield f"Symbol search path is: {search_paths[0]}"
        yield f"Executable search path is: {search_paths[1]}"


def version(target: Target) -> Iterator[str]:
    """``vertarget``: Windows, its kernel, and the time of the crash."""
    yield version_line(target)
    product = product_line(target)
    if product:
        yield product
    if build_lab(target):
        yield f"Edition build lab: {build_lab(target)}"
    kernel = listed_version(target)
    if kernel is not None:
        name = release(target)
        yield f"Kernel file version: {kernel.text}" + (f", {name}" if name else "")
    if target.physical_layer_name is not None:
        yield "Machine Name:"
    base = base_line(target)
    if base:
        yield base
    yield from times(target)


def times(target: Target) -> Iterator[str]:
    """``.time``: when it crashed, in the zone of the machine, and how long it had been up."""
    header = target.header
    page = shared_data(target)
    bias = page.time_zone_bias if page else 0
    moment = session_time(header.system_time, bias) or session_time(header.system_time)
    if moment:
        yield f"Debug session time: {moment}"
    running = uptime(header.system_up_time)
    yield f"System Uptime: {running}" if running else "System Uptime: not available"


def kind(target: Target) -> str:
    """``64-bit Kernel bitmap dump``, as ``||`` lists dumps."""
    words = KINDS[target.header.dump_type or 0].partition(" File:")[0]
    return f"{target.header.bits}-bit {words[0]}{words[1:].lower()}"


def title() -> str:
    """Our own version, and the host's."""
    from volatility3.framework import constants

    from volatility3_kdump.version import __version__

    return f"kdump {__version__}, volatility3 {constants.PACKAGE_VERSION}"


def _truncated(address: int, size: int) -> int:
    return address & ((1 << 8 * size) - 1)
