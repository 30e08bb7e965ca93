"""Rows of ``kdump.drivers``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from volatility3_kdump.analysis.driver_list import DriverList
from volatility3_kdump.analysis.vendors import Vendor
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.findings.image_check import ImageCheck, check_image
from volatility3_kdump.images.modules import UnloadedModule, debugger_name
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import drivers as words
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import session_time
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, BYTES, HEX, NUMBER, PAGES, TEXT, Column, table
from volatility3_kdump.windows.io.devices import read_device
from volatility3_kdump.windows.io.drivers import (
    HASH,
    NO_TIME,
    UNCERTAIN,
    DriverDetails,
    FoundDriver,
)
from volatility3_kdump.windows.listing.modules import chosen_modules
from volatility3_kdump.windows.listing.places import AddressPlaces, places_of
from volatility3_kdump.windows.processes.namespace import object_name

#: Bytes of a difference in its row.
_MOST_BYTES = 32

DRIVERS = table(
    "kdump.drivers",
    keys.KIND(more="`module`, `unloaded`, `section`, `driver object`, `device`, `resource`, `warning`"),
    keys.NAME(more="the module in symbols, the section, the object, the string of the version resource"),
    keys.START(more="of objects their address"),
    keys.END(),
    keys.SIZE(),
    keys.IMAGE(),
    keys.PATH(),
    Column(
        "Vendor",
        TEXT,
        "`Microsoft`, `third party` (by the company name of the version resource), `probably third party` (not in the "
        "list of Windows's components, and no version resource at hand)",
    ),
    Column("Company", TEXT, "CompanyName of the version resource, from memory or from the file on `--image-path`"),
    Column("Version", TEXT, "file version of the version resource, from memory or from the file on `--image-path`"),
    Column("TimeDateStamp", HEX, "the number in the image's header"),
    Column(
        "Built",
        TEXT,
        "the time that it is (UTC); `reproducible build hash` where the image says so; `no time, presumably ...` where "
        "it lies before 1993 or after the crash; `..., or a reproducible build hash` where the image's debug directory "
        "is not at hand",
    ),
    Column("CheckSum", HEX, "of the image"),
    Column(
        "SymbolStatus",
        TEXT,
        "`private pdb symbols` of a PDB that was not stripped (or of a table made here of one), `pdb symbols`, "
        "`coff symbols`, `export symbols`, `no symbols`, or `deferred` as long as none were looked for",
    ),
    keys.CODE(more="the sum of the sizes of executable sections"),
    Column("Data", BYTES, "the sum of the sizes of the other sections"),
    Column("Pageable", BYTES, "those parts of them that may be paged out (`PAGE*`, `.edata`)"),
    Column("Discardable", BYTES, "those parts of them that are freed after initialisation"),
    keys.PAGES(more="of the range"),
    Column("Present", PAGES, "how many of them the dump holds at least in part"),
    Column(
        "Signing",
        TEXT,
        "level to which the loader has checked the signature (SE_SIGNING_LEVEL), from Windows 10 1607 on",
    ),
    Column("DriverObjects", TEXT, "name and address of each"),
    Column("Devices", NUMBER, "number of their device objects"),
    keys.NOTES(more="for sections what they are; for strings their text"),
)

PLACES = table(
    "kdump.drivers --address",
    keys.ADDRESS(),
    keys.STATE(more="`loaded`, `unloaded`, `no module`"),
    keys.MODULE(),
    keys.IMAGE(),
    keys.START(),
    keys.END(),
    keys.OFFSET(more="the module"),
    keys.SECTION(),
    Column("SectionOffset", HEX, "bytes from the start of the section"),
    keys.SYMBOL(),
    keys.IN_DUMP(),
    keys.NOTES(),
)

CHECK = table(
    "kdump.drivers --check",
    keys.MODULE(),
    keys.ADDRESS(),
    keys.SYMBOL(),
    keys.SECTION(),
    keys.SIZE(),
    Column("FileBytes", TEXT, f"what the file has, {_MOST_BYTES} bytes at most"),
    Column("MemoryBytes", TEXT, f"what memory holds, {_MOST_BYTES} bytes at most"),
    keys.KIND(
        more="errors: `single bit`, `bytes`; changes that Windows makes itself: `hot patch`, `rewritten call` "
        "(retpoline, import optimisation), `address constant`"
    ),
    Column("Bit", NUMBER, "number of the bit, for single bits"),
    Column("Compared", BYTES, "bytes of code compared, in the row of the module"),
    keys.CODE(more="those that there are, in the row of the module"),
    Column("File", TEXT, "path of the image file"),
    keys.NOTES(more="what the change does; in the row of the module how the comparison went"),
)

_LOADED, _UNLOADED, _SECTION, _DRIVER, _DEVICE, _STRING = (
    "module",
    "unloaded",
    "section",
    "driver object",
    "device",
    "resource",
)


# lists ----------------------------------------------------------------------------------------------------------------


def drivers_grid(
    target: Target, names: Sequence[str], verbose: bool, progress: Progress | None = None, sizes: bool = False
) -> KdumpGrid:
    """Loaded and unloaded modules; with ``verbose`` their sections, driver objects, devices and resource strings.

    KD's text is that of ``lm t n``, with ``verbose`` of ``lmv``, with ``sizes`` of ``!drivers``.
    """
    listed = DriverList(target, names, progress)
    return DRIVERS.grid(
        _rows(listed, verbose),
        lambda: _sizes_lines(listed) if sizes and not verbose else _kd_lines(listed, verbose),
    )


def _sizes_lines(listed: DriverList) -> Iterator[str]:
    size = listed.target.memory.pointer_size
    yield from words.sizes_header(size)
    for details, _ in listed.details:
        yield words.sizes_line(details, size)
    yield from _endings(listed)
    for warning in listed.target.warnings:
        yield f"NOTE: {warning}"


def _kd_lines(listed: DriverList, verbose: bool) -> Iterator[str]:
    target = listed.target
    size = target.memory.pointer_size
    yield words.header(size)
    for details, vendor in listed.details:
        if verbose:
            status = target.names.status_of(details.module)
            shown = f"{vendor.kind} ({vendor.reason})"
            drivers, file = listed.objects.of(details.module), target.names.file_of(details.module)
            yield from words.verbose(details, status, drivers, shown, size, file)
        else:
            yield words.line(details, size)
    if listed.unloaded:
        yield ""
        yield words.unloaded_header()
    for module in listed.unloaded:
        if verbose:
            yield from words.unloaded_verbose(module, size)
        else:
            yield from words.unloaded_timed(module, size)
    yield from _endings(listed)
    # No small memory dump has the directories of objects: that says nothing of the modules.
    if verbose and target.dump.triage is None:
        for problem in listed.objects.problems:
            yield f"NOTE: {problem}"
    for warning in target.warnings:
        yield f"NOTE: {warning}"


def _endings(listed: DriverList) -> Iterator[str]:
    yield ""
    third_party = sum(vendor.third_party for _, vendor in listed.details)
    yield from words.total([details for details, _ in listed.details], third_party)


def _rows(listed: DriverList, verbose: bool) -> Iterator[Row]:
    for details, vendor in listed.details:
        drivers = listed.objects.of(details.module)
        yield _module_row(listed.target, details, vendor, drivers)
        if verbose:
            yield from _parts(listed.target, details, drivers)
    for module in listed.unloaded:
        yield _unloaded_row(module)
    if verbose:
        for driver in listed.unowned:
            yield _driver_row(0, driver, "belongs to no loaded module")
    for note in dict.fromkeys((*listed.objects.problems, *listed.target.warnings)):
        yield DRIVERS.row(0, Kind="warning", Name=None, Notes=[note])


def _module_row(target: Target, details: DriverDetails, vendor: Vendor, drivers: Sequence[FoundDriver]) -> Row:
    module = details.module
    return DRIVERS.row(
        0,
        Kind=_LOADED,
        Name=module.name,
        Start=module.base,
        End=module.end,
        Size=module.size,
        Image=module.image_name,
        Path=module.path,
        Vendor=vendor.kind,
        Company=details.company,
        Version=details.version.file_version if details.version else None,
        TimeDateStamp=module.timestamp,
        Built=_built(details),
        CheckSum=module.checksum,
        SymbolStatus=target.names.status_of(module),
        Code=details.code,
        Data=details.data,
        Pageable=details.pageable,
        Discardable=details.discardable,
        Pages=details.pages,
        Present=details.present,
        Signing=details.signing_name,
        DriverObjects=", ".join(
            f"{driver_object.driver.name or '?'} ({driver_object.driver.address:#x})" for driver_object in drivers
        ),
        Devices=sum(len(driver_object.devices) for driver_object in drivers),
        Notes=[*details.notes, *(driver_object.note for driver_object in drivers if driver_object.note)],
    )


def _built(details: DriverDetails) -> str | None:
    if not details.module.timestamp:
        return None
    if details.stamp_kind == HASH:
        return "reproducible build hash"
    if details.stamp_kind == NO_TIME:
        return "no time, presumably a reproducible build hash"
    when = words.built(details.module.timestamp)
    return f"{when}, or a reproducible build hash" if when and details.stamp_kind == UNCERTAIN else when


def _unloaded_row(module: UnloadedModule) -> Row:
    when = session_time(module.time)
    return DRIVERS.row(
        0,
        Kind=_UNLOADED,
        Name=debugger_name(module.name),
        Start=module.start,
        End=module.end,
        Size=module.end - module.start,
        Image=module.name,
        Notes=[f"unloaded {when}"] if when else [],
    )


def _parts(target: Target, details: DriverDetails, drivers: Sequence[FoundDriver]) -> Iterator[Row]:
    for part in details.sections:
        yield DRIVERS.row(
            1,
            Kind=_SECTION,
            Name=part.section.name,
            Start=part.address,
            End=part.address + part.size,
            Size=part.size,
            Pages=part.pages,
            Present=part.present,
            Notes=[part.text],
        )
    for driver in drivers:
        yield _driver_row(1, driver)
        for device in driver.devices:
            name = object_name(target, device)
            yield DRIVERS.row(2, Kind=_DEVICE, Name=name, Start=device, Notes=[_device_note(target, device)])
    for name, value in (details.version.strings if details.version else {}).items():
        yield DRIVERS.row(1, Kind=_STRING, Name=name, Notes=[value])


def _driver_row(level: int, driver: FoundDriver, note: str = "") -> Row:
    known_by = "" if driver.known_by == "object directory" else f"known by the {driver.known_by} only"
    return DRIVERS.row(
        level,
        Kind=_DRIVER,
        Name=driver.driver.name,
        Start=driver.driver.address,
        Devices=len(driver.devices),
        Notes=[note, driver.note or "", known_by],
    )


def _device_note(target: Target, device: int) -> str:
    try:
        above = read_device(target, device).above
    except Unreadable as error:
        return str(error)
    return f"under {above:#x}" if above else ""


# one address ----------------------------------------------------------------------------------------------------------


def address_grid(target: Target, addresses: Sequence[int]) -> KdumpGrid:
    """Which module, section and symbol addresses lie in, unloaded modules included."""
    size = target.memory.pointer_size
    return PLACES.grid(
        (row for address in addresses for row in _address_rows(places_of(target, address))),
        lambda: (line for address in addresses for line in _address_lines(places_of(target, address), size)),
    )


def _address_rows(places: AddressPlaces) -> Iterator[Row]:
    address, held = places.address, places.absent or "yes"
    if places.loaded is None and not places.unloaded:
        note = "no loaded or unloaded module has this address"
        yield PLACES.row(0, Address=address, State="no module", InDump=held, Notes=[note])
    place = places.loaded
    if place is not None:
        yield PLACES.row(
            0,
            Address=address,
            State="loaded",
            Module=place.module.name,
            Image=place.module.image_name,
            Start=place.module.base,
            End=place.module.end,
            Offset=place.offset,
            Section=place.section,
            SectionOffset=place.section_offset,
            Symbol=place.symbol,
            InDump=held,
            Notes=[] if place.has_headers else ["its headers are not in the dump"],
        )
    for module in places.unloaded:
        when = session_time(module.time)
        yield PLACES.row(
            0,
            Address=address,
            State="unloaded",
            Module=debugger_name(module.name),
            Image=module.name,
            Start=module.start,
            End=module.end,
            Offset=address - module.start,
            InDump=held,
            Notes=[f"unloaded {when}"] if when else [],
        )


def _address_lines(places: AddressPlaces, size: int) -> Iterator[str]:
    shown, place = pointer(places.address, size), places.loaded
    if place is None and not places.unloaded:
        yield f"{shown} lies in no loaded or unloaded module"
        return
    yield words.header(size)
    if place is not None:
        yield words.symbols_line(place.module, place.symbol_status, size, place.symbol_file)
        inside = f", section {place.section}+0x{place.section_offset:x}" if place.section is not None else ""
        yield f"    {shown} = {place.symbol}{inside}"
    for module in places.unloaded:
        yield words.unloaded_line(module, size) + "   (unloaded)"
        yield f"    {shown} = <Unloaded_{module.name}>+0x{places.address - module.start:x}"


# image check ----------------------------------------------------------------------------------------------------------


def check_grid(target: Target, names: Sequence[str], progress: Progress | None = None) -> KdumpGrid:
    """Code that differs from the files on the image path: a row for each difference, and one for each module."""
    modules = chosen_modules(target, names)
    results: list[ImageCheck] = []

    def checked() -> Iterator[ImageCheck]:
        if not results:
            for index, module in enumerate(modules):
                if progress is not None:
                    progress(100 * index / len(modules), f"Comparing {module.name}")
                results.append(check_image(target, module))
        yield from results

    return CHECK.grid(_check_rows(checked), lambda: _check_lines(target, checked))


def _check_lines(target: Target, checked: Callable[[], Iterator[ImageCheck]]) -> Iterator[str]:
    for check in checked():
        yield from words.check_lines(check, target.memory.pointer_size)


def _check_rows(checked: Callable[[], Iterator[ImageCheck]]) -> Iterator[Row]:
    for check in checked():
        summary = check.reason or f"{len(check.errors)} differences that nothing explains"
        if check.reason is None and len(check.differences) > len(check.errors):
            summary += f", {len(check.differences) - len(check.errors)} explained"
        compared, code = (check.compared, check.size) if check.reason is None else (BLANK, BLANK)
        yield CHECK.row(0, Module=check.module.name, Compared=compared, Code=code, File=check.file, Notes=[summary])
        for difference in check.differences:
            yield CHECK.row(
                1,
                Module=check.module.name,
                Address=difference.address,
                Symbol=difference.symbol,
                Section=difference.section,
                Size=difference.size,
                FileBytes=difference.file[:_MOST_BYTES].hex(" "),
                MemoryBytes=difference.memory[:_MOST_BYTES].hex(" "),
                Kind=difference.kind,
                Bit=BLANK if difference.bit is None else difference.bit,
                Notes=[difference.note],
            )
