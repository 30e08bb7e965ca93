"""Modules in the words of KD's ``lm t n``, ``lmv``, ``!drivers`` and ``!chkimg``.

Times are UTC. What the dump does not hold is said, and lines of our own start with a label that KD does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.escape import printable
from volatility3_kdump.findings.image_check import Difference, ImageCheck
from volatility3_kdump.images.modules import Module, UnloadedModule
from volatility3_kdump.images.version_resource import ImageVersion
from volatility3_kdump.text.addresses import plain, pointer
from volatility3_kdump.text.times import session_time, time_stamp
from volatility3_kdump.windows.io.drivers import HASH, NO_TIME, UNCERTAIN, DriverDetails, FoundDriver
from volatility3_kdump.windows.user.loader import UserModule

_PAGE_KB = 4
#: VOS_* and VFT_* of ``verrsrc.h``, as the debugger words them.
_SYSTEMS = {0x40004: "NT Win32", 0x40000: "NT Base", 0x4: "Win32"}
_TYPES = {1: "App", 2: "Dll", 3: "Driver", 4: "Font", 5: "VxD", 7: "Static Lib"}
#: What the sums of all modules are made of.
_SUMS = ("Code", "Data", "Pageable")
#: The order of the strings; others follow as they come.
_STRINGS = (
    "CompanyName",
    "ProductName",
    "InternalName",
    "OriginalFilename",
    "ProductVersion",
    "FileVersion",
    "FileDescription",
    "LegalCopyright",
)


def header(size: int = 8) -> str:
    """The heading of every list of modules."""
    return "start             end                 module name" if size == 8 else "start    end        module name"


def built(stamp: int | None) -> str | None:
    """``Wed Jul 17 18:40:42 2019``: a TimeDateStamp as a time, UTC."""
    return None if stamp is None else time_stamp(stamp)


def stamp(details: DriverDetails) -> str:
    """A TimeDateStamp with what it is."""
    value = details.module.timestamp
    if not value:
        return "unavailable (00000000)"
    if details.stamp_kind == HASH:
        return f"{value:08X} (This is a reproducible build file hash, not a timestamp)"
    if details.stamp_kind == NO_TIME:
        return f"{value:08X} (No date from 1993 to the crash: presumably a reproducible build file hash)"
    return f"{built(value)} ({value:08X})"


def line(details: DriverDetails, size: int = 8) -> str:
    """A row of ``lm t n``."""
    module = details.module
    return f"{_range(module.base, module.end, size)}   {module.name:<8} {module.image_name:<12} {stamp(details)}"


def sizes_header(size: int = 8) -> Iterator[str]:
    """The heading of ``!drivers``."""
    yield "Loaded System Driver Summary"
    yield ""
    yield f"{'Base':<{17 if size == 8 else 8}} {'Code Size':<18} {'Data Size':<18} {'Driver Name':<16} Creation Time"


def sizes_line(details: DriverDetails, size: int = 8) -> str:
    """A row of ``!drivers``: hexadecimal bytes of executable sections, and of the others."""
    columns = " ".join(
        f"{'?':>7}{'':11}" if value is None else f"{value:>7x} ({_kb(value):>5} kb)"
        for value in (details.code, details.data)
    )
    return f"{pointer(details.module.base, size)} {columns} {details.module.image_name:<16} {stamp(details)}"


def symbols_line(module: Module, status: str, size: int = 8, file: str = "") -> str:
    """A row of ``lm``. ``file`` is where the symbols are from."""
    return f"{_range(module.base, module.end, size)}   {module.name:<11} {f'({status})':<23}{printable(file)}"


def path_line(module: Module, size: int = 8) -> str:
    """A row of ``lm f``."""
    return f"{_range(module.base, module.end, size)}   {module.name:<11} {module.path or module.image_name}"


def user_line(module: UserModule, size: int = 8) -> str:
    """A row of ``lm u``: a module of a process."""
    end = pointer(None if module.size is None else module.base + module.size, size)
    return f"{pointer(module.base, size)} {end}   {module.name or '?':<11} {module.path or ''}".rstrip()


def _range(start: int, end: int, size: int) -> str:
    return f"{pointer(start, size)} {pointer(end, size)}"


def verbose(
    details: DriverDetails,
    status: str,
    drivers: Sequence[FoundDriver],
    vendor: str,
    size: int = 8,
    file: str = "",
) -> Iterator[str]:
    """The block of ``lmv``, and below it what the debugger has other commands for."""
    module = details.module
    yield symbols_line(module, status, size, file)
    yield f"    Image path: {module.path or 'not in the dump'}"
    yield f"    Image name: {module.image_name}"
    if details.stamp_kind == HASH:
        yield "    Image was built with /Brepro flag."
    either = ", or a reproducible build file hash" if details.stamp_kind == UNCERTAIN and module.timestamp else ""
    yield _label("Timestamp", stamp(details) + either)
    yield _label("CheckSum", "not in the dump" if module.checksum is None else f"{module.checksum:08X}")
    yield _label("ImageSize", f"{module.size:08X}")
    if details.version is not None:
        yield from _version(details.version)
    elif details.image is None:
        yield _label("NOTE", "--image-path with its file adds version and company")
    yield _label("Vendor", vendor)
    if details.signing is not None:
        yield _label("Signing level", f"{details.signing} {details.signing_name}")
    yield _label("Pages in dump", f"{details.present} of {details.pages}")
    for driver in drivers:
        yield _label("Driver object", driver_text(driver, size))
    if details.sections:
        yield "    Sections:"
    for part in details.sections:
        span = _range(part.address, part.address + part.size, size)
        yield f"        {part.section.name:<8} {span}  {part.text}, {part.present} of {part.pages} pages in the dump"
    for note in details.notes:
        yield _label("NOTE", note)


def driver_text(driver: FoundDriver, size: int = 8) -> str:
    """``ffff91894ed30c80 \\Driver\\MYFAULT, 1 device``, and how it was found where that is not the directory."""
    count = len(driver.devices)
    devices = f"{count} device{'' if count == 1 else 's'}" + ("" if driver.note is None else f" ({driver.note})")
    hidden = "" if driver.known_by == "object directory" else f", known by the {driver.known_by} only"
    return f"{pointer(driver.driver.address, size, tick=False)} {driver.driver.name or '?'}, {devices}{hidden}"


def _version(version: ImageVersion) -> Iterator[str]:
    kind = _TYPES.get(version.file_type, "Unknown")
    yield _label("File version", version.file_version)
    yield _label("Product version", version.product_version)
    yield _label("File flags", f"{version.flags & version.flags_mask:X} (Mask {version.flags_mask:X})")
    yield _label("File OS", f"{version.system:X} {_SYSTEMS.get(version.system, 'Unknown')}")
    yield _label("File type", f"{version.file_type}.{version.subtype:X} {kind}")
    yield _label("File date", f"{version.date >> 32:08X}.{version.date & 0xFFFFFFFF:08X}")
    if version.translation:
        yield _label("Translations", version.translation)
    if version.strings:
        yield "    Information from resource tables:"
    names = [name for name in _STRINGS if name in version.strings]
    for name in [*names, *(name for name in version.strings if name not in _STRINGS)]:
        yield f"        {f'{name}:':<17} {version.strings[name]}"


def _label(label: str, text: str) -> str:
    return f"    {f'{label}:':<17} {text}"


def unloaded_header() -> str:
    return "Unloaded modules:"


def unloaded_line(module: UnloadedModule, size: int = 8) -> str:
    """A row of the unloaded modules."""
    return f"{_range(module.start, module.end, size)}   {module.name:<12}".rstrip()


def unloaded_timed(module: UnloadedModule, size: int = 8) -> Iterator[str]:
    """The lines of an unloaded module in ``lm t``: Windows keeps neither time stamp nor check sum of its image."""
    yield unloaded_line(module, size)
    yield "    Timestamp: unavailable (00000000)"
    yield "    Checksum:  00000000"
    yield f"    ImageSize:  {module.end - module.start:08X}"


def unloaded_verbose(module: UnloadedModule, size: int = 8) -> Iterator[str]:
    """The block of an unloaded module in ``lmv``, with when it was unloaded where that is kept."""
    yield from unloaded_timed(module, size)
    when = session_time(module.time)
    if when:
        yield f"    Unloaded:  {when}"


def total(all_details: Sequence[DriverDetails], third_party: int) -> Iterator[str]:
    """The sums that ``!drivers`` ends with."""
    if not all_details:
        return
    images = sum(details.module.size for details in all_details)
    with_sections = [details for details in all_details if details.sections]
    present = sum(details.present for details in all_details)
    line = f"TOTAL: {len(all_details)} modules, {images:x} ({_kb(images)} kb)"
    if with_sections:
        sums = ((label, sum(getattr(details, label.lower()) or 0 for details in with_sections)) for label in _SUMS)
        line += "".join(f"  {label}: {size:x} ({_kb(size)} kb)" for label, size in sums)
    yield f"{line}  In dump: {present * _PAGE_KB} kb"
    missing = len(all_details) - len(with_sections)
    if missing:
        those = "1 module are not known: its" if missing == 1 else f"{missing} modules are not known: their"
        yield f"       code and data of {those} headers cannot be read"
    if third_party:
        yield f"       {third_party} of them not from Microsoft"


def _kb(size: int) -> int:
    return -(-size // 1024)


# image check --------------------------------------------------------------------------------------------------------


def check_lines(check: ImageCheck, size: int = 8) -> Iterator[str]:
    """The result for one module: differences as ``!chkimg -d`` lists them (``[ file:memory ]``), and a sum."""
    module = check.module
    if check.reason is not None:
        yield f"{module.name}: not compared: {check.reason}"
        return
    previous: Difference | None = None
    for difference in check.differences:
        yield from _difference(difference, previous, size)
        previous = difference
    if check.truncated:
        yield f"    more than {len(check.differences)} differences: the rest is not listed"
    errors = check.errors
    explained = len(check.differences) - len(errors)
    count = sum(difference.size for difference in errors)
    ends = (errors[0].address, errors[-1].address + errors[-1].size - 1) if errors else ()
    span = f" ({'-'.join(dict.fromkeys(plain(end, size) for end in ends))})" if errors else ""
    yield f"{count} error{'' if count == 1 else 's'} : {module.name}{span}"
    yield f"    {check.compared} of {check.size} bytes of code compared with {check.file}"
    if explained:
        yield f"    {explained} changes that Windows makes itself"


def _difference(difference: Difference, previous: Difference | None, size: int) -> Iterator[str]:
    last = difference.address + difference.size - 1
    where = plain(difference.address, size) + (
        f"-{plain(last, size)}  {difference.size} bytes" if difference.size > 1 else ""
    )
    gap = "" if previous is None else f" (+0x{difference.address - previous.address:x})"
    note = f": {difference.note}" if difference.note else ""
    yield f"    {where} - {difference.symbol or '?'}{gap}  {difference.kind}{note}"
    yield f"\t[ {difference.file[:16].hex(' ')}:{difference.memory[:16].hex(' ')} ]"
