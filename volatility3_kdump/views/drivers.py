"""Rows of ``kdump.drivers``."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from volatility3.framework.renderers import format_hints

from volatility3_kdump.analysis.vendors import Vendor, vendor_of
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.findings.image_check import ImageCheck, check_image
from volatility3_kdump.images.modules import Module, UnloadedModule, debugger_name
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import drivers as words
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import session_time
from volatility3_kdump.views.cells import number
from volatility3_kdump.views.grid import KdumpGrid, Row, absent, address, text
from volatility3_kdump.windows.io.drivers import (
    HASH,
    NO_TIME,
    UNCERTAIN,
    DriverDetails,
    DriverObjects,
    FoundDriver,
    driver_objects,
    read_details,
)
from volatility3_kdump.windows.io.requests import read_device
from volatility3_kdump.windows.processes.namespace import object_name

_COLUMNS: list[tuple[str, type]] = [
    ("Kind", str),
    ("Name", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("Size", format_hints.Hex),
    ("Image", str),
    ("Path", str),
    ("Vendor", str),
    ("Company", str),
    ("Version", str),
    ("TimeDateStamp", format_hints.Hex),
    ("Built", str),
    ("CheckSum", format_hints.Hex),
    ("Symbols", str),
    ("Code", int),
    ("Data", int),
    ("Pageable", int),
    ("Discardable", int),
    ("Pages", int),
    ("Present", int),
    ("Signing", str),
    ("Driver objects", str),
    ("Devices", int),
    ("Note", str),
]

_ADDRESS_COLUMNS: list[tuple[str, type]] = [
    ("Address", format_hints.Hex),
    ("State", str),
    ("Module", str),
    ("Image", str),
    ("Start", format_hints.Hex),
    ("End", format_hints.Hex),
    ("Offset", format_hints.Hex),
    ("Section", str),
    ("Section offset", format_hints.Hex),
    ("Symbol", str),
    ("In dump", str),
    ("Note", str),
]

_CHECK_COLUMNS: list[tuple[str, type]] = [
    ("Module", str),
    ("Address", format_hints.Hex),
    ("Symbol", str),
    ("Section", str),
    ("Size", int),
    ("File bytes", str),
    ("Memory bytes", str),
    ("Kind", str),
    ("Bit", int),
    ("Compared", int),
    ("Code", int),
    ("File", str),
    ("Note", str),
]

_LOADED, _UNLOADED, _SECTION, _DRIVER, _DEVICE, _STRING = (
    "module",
    "unloaded",
    "section",
    "driver object",
    "device",
    "resource",
)
_MOST_BYTES = 32


def chosen_modules(target: Target, names: Sequence[str]) -> list[Module]:
    """The loaded modules of these names (``nt``, ``ntoskrnl.exe``, ``win32k*``), or all, by address."""
    found = sorted(target.modules, key=lambda module: module.base)
    return [module for module in found if _fits(names, module.name, module.image_name)] if names else found


def chosen_unloaded(target: Target, names: Sequence[str]) -> list[UnloadedModule]:
    """The unloaded modules of these names, or all, most recent first."""
    found = target.unloaded_modules
    return [module for module in found if _fits(names, debugger_name(module.name), module.name)] if names else found


def _fits(patterns: Sequence[str], *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns for name in names)


# lists ----------------------------------------------------------------------------------------------------------------


class _List:
    """The modules of one run, read when they are first shown."""

    def __init__(self, target: Target, names: Sequence[str], progress: Progress | None) -> None:
        self.target = target
        self.unloaded = chosen_unloaded(target, names)
        self._modules = chosen_modules(target, names)
        self._progress = progress
        self._details: list[tuple[DriverDetails, Vendor]] | None = None
        self._objects: DriverObjects | None = None

    @property
    def details(self) -> list[tuple[DriverDetails, Vendor]]:
        if self._details is None:
            self._details = []
            for index, module in enumerate(self._modules):
                if self._progress is not None:
                    self._progress(100 * index / len(self._modules), "Reading images")
                details = read_details(self.target, module)
                self._details.append((details, vendor_of(module.name, details.company)))
        return self._details

    @property
    def objects(self) -> DriverObjects:
        if self._objects is None:
            self._objects = driver_objects(self.target)
        return self._objects


def drivers_grid(
    target: Target, names: Sequence[str], verbose: bool, progress: Progress | None = None, sizes: bool = False
) -> KdumpGrid:
    """Loaded and unloaded modules; with ``verbose`` their sections, driver objects, devices and resource strings.

    KD's text is that of ``lm t n``, with ``verbose`` of ``lmv``, with ``sizes`` of ``!drivers``.
    """
    listed = _List(target, names, progress)
    return KdumpGrid(
        _COLUMNS,
        _rows(listed, verbose),
        lambda: _sizes_lines(listed) if sizes and not verbose else _kd_lines(listed, verbose),
    )


def _sizes_lines(listed: _List) -> Iterator[str]:
    size = listed.target.memory.pointer_size
    yield from words.sizes_header(size)
    for details, _ in listed.details:
        yield words.sizes_line(details, size)
    yield from _endings(listed)
    for warning in listed.target.warnings:
        yield f"NOTE: {warning}"


def _kd_lines(listed: _List, verbose: bool) -> Iterator[str]:
    target = listed.target
    size = target.memory.pointer_size
    yield words.header(size)
    for details, vendor in listed.details:
        if verbose:
            status = target.symbol_status_of(details.module)
            shown = f"{vendor.kind} ({vendor.reason})"
            yield from words.verbose(details, status, listed.objects.of(details.module), shown, size)
        else:
            yield words.line(details, size)
    if listed.unloaded:
        yield ""
        yield words.unloaded_header()
    for module in listed.unloaded:
        if verbose:
            yield from words.unloaded_verbose(module, size)
        else:
            yield words.unloaded_line(module, size)
    yield from _endings(listed)
    if verbose:
        for problem in listed.objects.problems:
            yield f"NOTE: {problem}"
    for warning in target.warnings:
        yield f"NOTE: {warning}"


def _endings(listed: _List) -> Iterator[str]:
    yield ""
    third_party = sum(vendor.third_party for _, vendor in listed.details)
    yield from words.total([details for details, _ in listed.details], third_party)


def _rows(listed: _List, verbose: bool) -> Iterator[Row]:
    for details, vendor in listed.details:
        drivers = listed.objects.of(details.module)
        yield 0, _module_cells(listed.target, details, vendor, drivers)
        if verbose:
            yield from _parts(listed.target, details, drivers)
    for module in listed.unloaded:
        yield 0, _unloaded_cells(module)
    if verbose:
        for item in _unowned(listed):
            yield 0, _driver_cells(item, "belongs to no loaded module")
    for note in dict.fromkeys((*listed.objects.problems, *listed.target.warnings)):
        yield 0, _cells("warning", None, note=note)


def _unowned(listed: _List) -> Iterator[FoundDriver]:
    """Driver objects whose image is no loaded module."""
    owned = {item.driver.address for module in listed.target.modules for item in listed.objects.of(module)}
    for item in listed.objects.found:
        if item.driver.address not in owned:
            yield item


def _cells(kind: str, name: str | None, **values: Any) -> tuple[Any, ...]:
    """A row by column names in lower case, with underscores; the other columns do not apply."""
    given = {"kind": kind, "name": text(name), **values}
    note = given.pop("note", None)
    given["note"] = note or ""
    return tuple(given.get(column.lower().replace(" ", "_"), absent()) for column, _ in _COLUMNS)


def _module_cells(
    target: Target, details: DriverDetails, vendor: Vendor, drivers: Sequence[FoundDriver]
) -> tuple[Any, ...]:
    module = details.module
    notes = [*details.notes, *(item.note for item in drivers if item.note)]
    return _cells(
        _LOADED,
        module.name,
        start=format_hints.Hex(module.base),
        end=format_hints.Hex(module.end),
        size=format_hints.Hex(module.size),
        image=module.image_name,
        path=text(module.path),
        vendor=vendor.kind,
        company=text(details.company),
        version=text(details.version.file_version if details.version else None),
        timedatestamp=address(module.timestamp),
        built=text(_built(details)),
        checksum=address(module.checksum),
        symbols=target.symbol_status_of(module),
        code=number(details.code),
        data=number(details.data),
        pageable=number(details.pageable),
        discardable=number(details.discardable),
        pages=details.pages,
        present=details.present,
        signing=text(details.signing_name),
        driver_objects=", ".join(f"{item.driver.name or '?'} ({item.driver.address:#x})" for item in drivers),
        devices=sum(len(item.devices) for item in drivers),
        note="; ".join(notes),
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


def _unloaded_cells(module: UnloadedModule) -> tuple[Any, ...]:
    when = session_time(module.time)
    return _cells(
        _UNLOADED,
        debugger_name(module.name),
        start=format_hints.Hex(module.start),
        end=format_hints.Hex(module.end),
        size=format_hints.Hex(module.end - module.start),
        image=module.name,
        note=f"unloaded {when}" if when else "",
    )


def _parts(target: Target, details: DriverDetails, drivers: Sequence[FoundDriver]) -> Iterator[Row]:
    for info in details.sections:
        yield (
            1,
            _cells(
                _SECTION,
                info.section.name,
                start=format_hints.Hex(info.address),
                end=format_hints.Hex(info.address + info.size),
                size=format_hints.Hex(info.size),
                pages=info.pages,
                present=info.present,
                note=info.text,
            ),
        )
    for item in drivers:
        yield 1, _driver_cells(item)
        for device in item.devices:
            yield (
                2,
                _cells(
                    _DEVICE,
                    object_name(target, device),
                    start=format_hints.Hex(device),
                    note=_device_note(target, device),
                ),
            )
    for name, value in (details.version.strings if details.version else {}).items():
        yield 1, _cells(_STRING, name, note=value)


def _driver_cells(item: FoundDriver, note: str = "") -> tuple[Any, ...]:
    notes = [note, item.note or "", "" if item.known_by == "object directory" else f"known by the {item.known_by} only"]
    return _cells(
        _DRIVER,
        item.driver.name,
        start=format_hints.Hex(item.driver.address),
        devices=len(item.devices),
        note="; ".join(filter(None, notes)),
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
    return KdumpGrid(
        _ADDRESS_COLUMNS,
        (row for value in addresses for row in _address_rows(target, value)),
        lambda: (line for value in addresses for line in _address_lines(target, value)),
    )


def _places(target: Target, value: int) -> list[Module | UnloadedModule]:
    loaded = target.names.module_of(value)
    unloaded = [module for module in target.unloaded_modules if module.start <= value < module.end]
    return [*([loaded] if loaded else []), *unloaded]


def _address_rows(target: Target, value: int) -> Iterator[Row]:
    held = "yes" if target.memory.read(value, 1) is not None else target.memory.why_unreadable(value)
    places = _places(target, value)
    if not places:
        blank = (absent(),) * 8
        yield (
            0,
            (format_hints.Hex(value), "no module", *blank, held, "no loaded or unloaded module has this address"),
        )
    for place in places:
        if isinstance(place, UnloadedModule):
            when = session_time(place.time)
            yield (
                0,
                (
                    format_hints.Hex(value),
                    "unloaded",
                    debugger_name(place.name),
                    place.name,
                    format_hints.Hex(place.start),
                    format_hints.Hex(place.end),
                    format_hints.Hex(value - place.start),
                    *(absent(), absent(), absent()),
                    held,
                    f"unloaded {when}" if when else "",
                ),
            )
            continue
        headers = target.image_of(place)
        section = headers.section_of(value - place.base) if headers else None
        offset = value - place.base
        yield (
            0,
            (
                format_hints.Hex(value),
                "loaded",
                place.name,
                place.image_name,
                format_hints.Hex(place.base),
                format_hints.Hex(place.end),
                format_hints.Hex(offset),
                text(section.name if section else None),
                address(offset - section.address if section else None),
                text(target.name_of(value)),
                held,
                "" if headers else "its headers are not in the dump",
            ),
        )


def _address_lines(target: Target, value: int) -> Iterator[str]:
    size = target.memory.pointer_size
    places = _places(target, value)
    if not places:
        yield f"{pointer(value, size)} lies in no loaded or unloaded module"
        return
    yield words.header(size)
    for place in places:
        if isinstance(place, UnloadedModule):
            yield words.unloaded_line(place, size) + "   (unloaded)"
            yield f"    {pointer(value, size)} = <Unloaded_{place.name}>+0x{value - place.start:x}"
            continue
        name = target.name_of(value)
        yield words.symbols_line(place, target.symbol_status_of(place), size)
        headers = target.image_of(place)
        section = headers.section_of(value - place.base) if headers else None
        inside = f", section {section.name}+0x{value - place.base - section.address:x}" if section else ""
        yield f"    {pointer(value, size)} = {name}{inside}"


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

    return KdumpGrid(_CHECK_COLUMNS, _check_rows(checked), lambda: _check_lines(target, checked))


def _check_lines(target: Target, checked: Callable[[], Iterator[ImageCheck]]) -> Iterator[str]:
    for check in checked():
        yield from words.check_lines(check, target.memory.pointer_size)


def _check_rows(checked: Callable[[], Iterator[ImageCheck]]) -> Iterator[Row]:
    for check in checked():
        blank = (absent(),) * 8
        summary = check.reason or f"{len(check.errors)} differences that nothing explains"
        if check.reason is None and len(check.differences) > len(check.errors):
            summary += f", {len(check.differences) - len(check.errors)} explained"
        counts = (check.compared, check.size) if check.reason is None else (absent(), absent())
        yield 0, (check.module.name, *blank, *counts, text(check.file), summary)
        for item in check.differences:
            yield (
                1,
                (
                    check.module.name,
                    format_hints.Hex(item.address),
                    text(item.symbol),
                    item.section,
                    item.size,
                    item.file[:_MOST_BYTES].hex(" "),
                    item.memory[:_MOST_BYTES].hex(" "),
                    item.kind,
                    absent() if item.bit is None else item.bit,
                    *(absent(), absent(), absent()),
                    item.note,
                ),
            )
