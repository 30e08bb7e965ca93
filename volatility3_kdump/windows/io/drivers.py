"""Kernel modules looked at closely: their images as far as the dump holds them, their driver objects and devices.

Everything about the image comes from its headers and resources, in memory or in a file on the image path. The loader's
entry (KLDR_DATA_TABLE_ENTRY) adds the level that the signature was checked to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import PeImage, Section, holds_no_headers, reproducible
from volatility3_kdump.images.version_resource import ImageVersion, module_version
from volatility3_kdump.memory import PAGE_SIZE
from volatility3_kdump.windows.io.devices import DriverObject, device_stack, driver_devices, read_driver
from volatility3_kdump.windows.processes.namespace import read_directory
from volatility3_kdump.windows.structures import layouts_of, read_fields, read_row

if TYPE_CHECKING:
    from volatility3_kdump.images.image_files import ImageSet
    from volatility3_kdump.target import Target

#: Where drivers' objects are listed.
DIRECTORIES = ("\\Driver", "\\FileSystem")
#: How a driver object was found.
BY_DIRECTORY, BY_DEVICE = "object directory", "device tree"

#: SE_SIGNING_LEVEL of ``winnt.h``: how the loader has checked a signature.
SIGNING_LEVELS = {
    0: "unchecked",
    1: "unsigned",
    2: "enterprise",
    3: "developer",
    4: "Authenticode",
    5: "custom 2",
    6: "store",
    7: "antimalware",
    8: "Microsoft",
    9: "custom 4",
    10: "custom 5",
    11: "dynamic code generation",
    12: "Windows",
    13: "Windows protected process light",
    14: "Windows TCB",
    15: "custom 6",
}

#: What TimeDateStamp is: a time; a hash of the content; a number that cannot be a time; either.
TIME, HASH, NO_TIME, UNCERTAIN = "time", "hash", "no time", "uncertain"

#: IMAGE_SCN_MEM_* of ``winnt.h``.
_DISCARDABLE, _NOT_PAGED = 0x02000000, 0x08000000
_PAGED_NAMES = ("PAGE", ".edata")
#: 1993-07-27, when the first Windows NT appeared; and the seconds from 1601 to 1970.
_FIRST_BUILD, _EPOCH = 743731200, 11644473600
_TICKS = 10_000_000
_MOST_NODES = 8192


@dataclass(frozen=True)
class SectionInfo:
    """A section of a loaded image.

    ``size`` is what of it lies in the image, in bytes. ``pageable`` goes by characteristics and name as the memory
    manager does: ``PAGE*`` and ``.edata``, unless IMAGE_SCN_MEM_NOT_PAGED is set. ``present`` is how many of its
    ``pages`` the dump holds, at least in part.
    """

    section: Section
    address: int
    size: int
    pages: int
    present: int

    @property
    def pageable(self) -> bool:
        flags = self.section.characteristics
        return self.section.name.startswith(_PAGED_NAMES) and not flags & _NOT_PAGED

    @property
    def discardable(self) -> bool:
        """Whether its pages are freed once the driver is initialised."""
        return bool(self.section.characteristics & _DISCARDABLE)

    @property
    def text(self) -> str:
        """``code, read-only, pageable``."""
        attributes = ["code" if self.section.executable else "data"]
        attributes.append("writable" if self.section.writable else "read-only")
        attributes.append("discardable" if self.discardable else "pageable" if self.pageable else "resident")
        return ", ".join(attributes)


@dataclass(frozen=True)
class DriverDetails:
    """A loaded module and what its image says. ``None`` is not in the dump, nor in a file.

    ``code``, ``data``, ``pageable`` and ``discardable`` are sums of section sizes in bytes: executable sections, all
    others, and the parts of both that may be paged out or are freed. ``pages`` and ``present`` count the pages of its
    range and those that the dump holds. ``stamp_kind`` says what its TimeDateStamp is. ``signing`` is SE_SIGNING_LEVEL.
    """

    module: Module
    image: PeImage | None
    version: ImageVersion | None
    stamp_kind: str
    sections: tuple[SectionInfo, ...]
    pages: int
    present: int
    signing: int | None
    flags: int | None
    notes: tuple[str, ...]

    @property
    def code(self) -> int | None:
        return self._sum(lambda info: info.section.executable)

    @property
    def data(self) -> int | None:
        return self._sum(lambda info: not info.section.executable)

    @property
    def pageable(self) -> int | None:
        return self._sum(lambda info: info.pageable)

    @property
    def discardable(self) -> int | None:
        return self._sum(lambda info: info.discardable)

    @property
    def company(self) -> str | None:
        """CompanyName of its version resource."""
        return (self.version.strings.get("CompanyName") or None) if self.version else None

    @property
    def signing_name(self) -> str | None:
        return None if self.signing is None else SIGNING_LEVELS[self.signing]

    def _sum(self, chosen: object) -> int | None:
        assert callable(chosen)
        return sum(info.size for info in self.sections if chosen(info)) if self.sections else None


@dataclass(frozen=True)
class FoundDriver:
    """A driver object, its device objects, and how it was found; ``note`` says what is wrong with its device list."""

    driver: DriverObject
    devices: tuple[int, ...]
    known_by: str
    note: str | None = None


@dataclass(frozen=True)
class DriverObjects:
    """The driver objects of the system; ``problems`` say where they could not be looked for, a line each."""

    found: tuple[FoundDriver, ...]
    problems: tuple[str, ...]

    def of(self, module: Module) -> list[FoundDriver]:
        """Those of a module: by DriverSection, its loader entry, or else by where the driver's image starts."""
        return [
            driver
            for driver in self.found
            if (module.entry is not None and driver.driver.section == module.entry)
            or (driver.driver.start is not None and driver.driver.start == module.base)
        ]


def read_details(target: Target, module: Module, images: ImageSet | None = None) -> DriverDetails:
    """Everything about a module's image, from the target's ``images`` or from those given."""
    image = (images or target.images).image_of(module)
    headers = image.headers()
    notes: list[str] = []
    version = module_version(image)
    present = present_pages(target, module.base, module.size)
    sections = tuple(_sections(module, headers, present, notes)) if headers else ()
    if headers is None:
        damaged = holds_no_headers(image.read)
        notes.append("what is where its headers should be is no image" if damaged else "headers not in the dump")
    if module.checksum is None and headers is not None:
        # The loader's list of a process does not have it.
        module = dataclasses.replace(module, checksum=headers.checksum)
    entry = _loader_entry(target, module)
    return DriverDetails(
        module,
        headers,
        version,
        _stamp_kind(target, module, None if headers is None else reproducible(image.read, headers)),
        sections,
        len(present),
        sum(present),
        entry[0],
        entry[1],
        tuple(notes),
    )


def _loader_entry(target: Target, module: Module) -> tuple[int | None, int | None]:
    """Signature level and flags. Kernels before Windows 10 1607 do not describe the former in their symbols."""
    nt = target.nt
    type_name = "_KLDR_DATA_TABLE_ENTRY"
    if module.entry is None or nt is None or not nt.has_type(type_name):
        return None, None
    row = read_row(target.memory, nt.reader(type_name, signing="u1.SignatureLevel", flags="Flags"), module.entry)
    return (None, None) if row is None else (row.signing, row.flags)


def _stamp_kind(target: Target, module: Module, is_hash: bool | None) -> str:
    """What a TimeDateStamp is; small memory dumps lack the record that tells a hash from a time."""
    if is_hash:
        return HASH
    stamp = module.timestamp
    if stamp is None:
        return UNCERTAIN
    crash = target.header.system_time
    latest = crash // _TICKS - _EPOCH if crash else None
    if stamp < _FIRST_BUILD or (latest is not None and stamp > latest):
        return NO_TIME
    return UNCERTAIN if is_hash is None else TIME


def _sections(module: Module, image: PeImage, present: bytearray, notes: list[str]) -> Iterator[SectionInfo]:
    end = empty = 0
    for section in image.sections:
        if not (section.name or section.address or section.size):
            empty += 1
            continue
        size = max(min(section.address + section.size, module.size) - section.address, 0)
        name = section.name or "(no name)"
        if section.address + section.size > -(-module.size // PAGE_SIZE) * PAGE_SIZE:
            notes.append(
                f"section {name} at +{section.address:#x} with {section.size:#x} bytes reaches beyond the image of "
                f"{module.size:#x} bytes"
            )
        if section.address < end and size:
            notes.append(f"section {name} at +{section.address:#x} overlaps the one before it")
            size = max(section.address + size - end, 0)
        end = max(end, section.address + size)
        address = module.base + section.address
        pages = present[section.address // PAGE_SIZE : -(-(section.address + size) // PAGE_SIZE)] if size else b""
        yield SectionInfo(section, address, size, len(pages), sum(pages))
    if empty:
        notes.append("its headers claim more sections than there are")


def present_pages(target: Target, address: int, size: int) -> bytearray:
    """For each page that a range touches, 1 where the dump holds it at least in part."""
    marks = bytearray(-(-(address % PAGE_SIZE + size) // PAGE_SIZE) if size > 0 else 0)
    if target.layer_name is None or size <= 0:
        return marks
    if not target.is_kernel_address(address):
        # Of user mode: by the page tables of the process, not of the layer.
        for start, data in target.memory.present(address, size):
            first, stop = (start - address) // PAGE_SIZE, (start + len(data) - 1 - address) // PAGE_SIZE
            marks[first : stop + 1] = b"\1" * (stop + 1 - first)
        return marks
    layer = target.context.layers[target.layer_name]
    pages = target.dump.pages
    origin = (address & layer.address_mask) // PAGE_SIZE
    for start, length, physical, *_ in layer.mapping(address & layer.address_mask, size, ignore_errors=True):
        first, stop = start // PAGE_SIZE, (start + length - 1) // PAGE_SIZE
        for index in range(stop - first + 1):
            if pages is None or pages.offset_of(physical // PAGE_SIZE + index) is not None:
                marks[first + index - origin] = 1
    return marks


def driver_objects(target: Target) -> DriverObjects:
    """The driver objects that the object directory lists, and those that only devices name.

    A driver that has taken its object out of the directory still has devices in the stacks of others.
    """
    by_address: dict[int, FoundDriver] = {}
    problems: list[str] = []
    for path in DIRECTORIES:
        directory = read_directory(target, path)
        problems += directory.problems
        for named in directory.objects:
            if named.type_name in ("Driver", None) and named.address not in by_address:
                try:
                    by_address[named.address] = _found(target, named.address, BY_DIRECTORY)
                except Unreadable as error:
                    if named.type_name == "Driver":
                        problems.append(f"{path}\\{named.name or '?'}: {error}")
                except KdumpError as error:
                    problems.append(str(error))
                    break
    listed = {device for driver in by_address.values() for device in driver.devices}
    for address in _stacked_devices(target, listed, problems):
        if address not in by_address:
            try:
                by_address[address] = _found(target, address, BY_DEVICE)
            except KdumpError as error:
                problems.append(str(error))
    return DriverObjects(tuple(by_address.values()), tuple(dict.fromkeys(problems)))


def _found(target: Target, address: int, known_by: str) -> FoundDriver:
    driver = read_driver(target, address)
    devices, problem = driver_devices(target, driver)
    return FoundDriver(driver, tuple(devices), known_by, problem)


def _stacked_devices(target: Target, devices: set[int], problems: list[str]) -> list[int]:
    """The driver objects of every device that is stacked with a known one or with one of the device tree."""
    starts = list(devices)
    try:
        starts += _tree_devices(target)
    except KdumpError as error:
        problems.append(str(error))
        return []
    drivers: dict[int, None] = {}
    seen: set[int] = set()
    for start in starts:
        if start in seen:
            continue
        try:
            stack = device_stack(target, start)
        except Unreadable:
            continue
        for device in stack:
            seen.add(device.address)
            if device.driver_address:
                drivers[device.driver_address] = None
    return list(drivers)


def _tree_devices(target: Target) -> list[int]:
    """The physical device objects of the device tree, from IopRootDeviceNode on."""
    variable = target.symbol("IopRootDeviceNode")
    root = target.memory.pointer(variable) if variable else None
    if not root or not layouts_of(target).has_type("_DEVICE_NODE"):
        return []
    devices: list[int] = []
    waiting, seen = [root], {root}
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        try:
            values = read_fields(
                target,
                "_DEVICE_NODE",
                node,
                {"device": "PhysicalDeviceObject", "child": "Child", "sibling": "Sibling"},
            )
        except Unreadable:
            continue
        if values["device"]:
            devices.append(values["device"])
        for following in (values["child"], values["sibling"]):
            if following and following not in seen:
                seen.add(following)
                waiting.append(following)
    return devices
