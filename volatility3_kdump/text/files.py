"""Files, volumes, control areas and page frames in KD's words: ``!fileobj``, ``!vpb``, ``!ca``, ``!pfn``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.io.devices import DeviceObject
from volatility3_kdump.windows.io.file_objects import FileObject, VolumeBlock
from volatility3_kdump.windows.memory.one_frame import ControlAreaDetails, PageFrame

#: FO_ flags of wdm.h, in the words of published listings.
_FILE_FLAGS = {
    0x1: "File Open",
    0x2: "Synchronous IO",
    0x4: "Alertable IO",
    0x8: "No Intermediate Buffering",
    0x10: "Write Through",
    0x20: "Sequential Only",
    0x40: "Cache Supported",
    0x80: "Named Pipe",
    0x400: "Queue Irps to Thread",
    0x800: "Direct Device Open",
    0x1000: "File Modified",
    0x2000: "File Size Changed",
    0x4000: "Cleanup Complete",
    0x8000: "Temporary File",
    0x10000: "Delete on Close",
    0x40000: "Handle Created",
    0x80000: "File Fast IO Read",
    0x100000: "Random Access",
    0x400000: "Volume Open",
}
#: VPB_ flags of wdm.h.
_VOLUME_FLAGS = {0x1: "mounted", 0x2: "locked", 0x4: "persistent", 0x8: "remove pending", 0x10: "raw mount"}
_CACHES = ("NonCached", "Cached", "WriteComb", "NotMapped")


def _driver(device: DeviceObject | None) -> str:
    return (device.driver.name if device and device.driver else None) or "?"


def _address(value: int | None, size: int = 8) -> str:
    return "?" if value is None else f"0x{pointer(value, size, tick=False)}"


def file_lines(file: FileObject, size: int = 8) -> Iterator[str]:
    """``!fileobj``."""
    yield ""
    if file.name:
        yield file.name
        yield ""
    if file.related:
        yield f"Related File Object: {_address(file.related, size)}"
    yield f"Device Object: {_address(file.device_address, size)}   {_driver(file.device)}"
    yield f"Vpb: {_address(file.vpb, size)}" if file.vpb else "Vpb is NULL"
    if file.access:
        yield f"Access: {' '.join(file.access)}"
    if file.delete_pending:
        yield "Delete pending"
    yield ""
    yield f"Flags:  {'?' if file.flags is None else f'{file.flags:#x}'}"
    yield from (f"\t{name}" for bit, name in _FILE_FLAGS.items() if (file.flags or 0) & bit)
    yield ""
    if file.context or file.context2:
        yield f"FsContext: {_address(file.context, size)}\tFsContext2: {_address(file.context2, size)}"
    if file.private_cache:
        yield f"Private Cache Map: {_address(file.private_cache, size)}"
    yield f"CurrentByteOffset: {'?' if file.offset is None else f'{file.offset:x}'}"
    if file.section_pointers:
        yield "Cache Data:"
        yield f"  Section Object Pointers: {pointer(file.section_pointers, size, tick=False)}"
        yield f"  Shared Cache Map: {pointer(file.shared_cache, size, tick=False)}"
        for label, section in (("Data", file.data_section), ("Image", file.image_section)):
            if section:
                yield f"  {label} control area: {pointer(section, size, tick=False)}"


def volume_lines(volume: VolumeBlock, size: int = 8) -> Iterator[str]:
    """``!vpb``."""
    flags = "?" if volume.flags is None else f"0x{volume.flags:x}"
    names = " ".join(name for bit, name in _VOLUME_FLAGS.items() if (volume.flags or 0) & bit)
    yield f"Vpb at {_address(volume.address, size)}"
    yield f"Flags: {flags} {names}".rstrip()
    yield f"DeviceObject: {_address(volume.device_address, size)} ({_driver(volume.device)})"
    yield f"RealDevice:   {_address(volume.real_device, size)}"
    yield f"RefCount: {'?' if volume.references is None else volume.references}"
    serial = "?" if volume.serial is None else f"{volume.serial:08X}"
    yield f"Volume Label: {'?' if volume.label is None else volume.label}  Serial: {serial}"


def control_area_lines(area: ControlAreaDetails, size: int = 8) -> Iterator[str]:
    """``!ca``."""

    def cell(label: str, value: int | None, is_address: bool = False) -> str:
        shown = "?" if value is None else pointer(value, size, tick=False) if is_address else f"{value:x}"
        return f"  {label:<12}{shown:>{2 * size + 1}}"

    def row(*cells: tuple[str, int | None, bool]) -> str:
        return "".join(cell(*one) for one in cells).rstrip()

    yield ""
    yield f"ControlArea  @ {pointer(area.address, size, tick=False)}"
    yield row(("Segment", area.segment, True), ("Flink", area.flink, True), ("Blink", area.blink, True))
    yield row(
        ("Section Ref", area.sections, False), ("Pfn Ref", area.pages, False), ("Mapped Views", area.views, False)
    )
    yield row(("User Ref", area.users, False), ("ModWriteCount", area.mod_writes, False))
    yield row(("File Object", area.file, True))
    flags = "?" if area.long_flags is None else f"{area.long_flags:x}"
    for index, line in enumerate(textwrap.wrap(" ".join(area.flags), 60) or [""]):
        yield f"  Flags ({flags}) {line}" if not index else f"      {line}"
    yield ""
    if area.file:
        yield f"      File: {'?' if area.name is None else area.name}"
    else:
        yield "      No file: its pages are in paging files"
    if area.ptes is not None:
        length = "?" if area.size is None else f"{area.size:#x}"
        yield f"      Segment: {area.ptes} PTEs, {length} bytes"


def frame_lines(frame: PageFrame, size: int = 8) -> Iterator[str]:
    """``!pfn``."""

    def number(value: int | None, width: int) -> str:
        return "?" * width if value is None else f"{value:0{width}X}"

    state = frame.list_name or "?"
    cache = "" if frame.cache is None else f"{_CACHES[frame.cache & 3]:<9} "
    priority = "" if frame.priority is None else f"Priority {frame.priority}"
    marks = ("M" if frame.modified else "") + ("P" if frame.prototype else "")
    address = pointer(frame.address, size, tick=False).upper()
    yield f"    PFN {frame.page:08X} at address {address}"
    pte = pointer(frame.pte, size, tick=False).upper()
    yield f"    flink       {number(frame.flink, 8)}  blink / share count {number(frame.shares, 8)}  pteaddress {pte}"
    yield f"    reference count {number(frame.references, 4)}    {cache}{priority}".rstrip()
    restore, containing = number(frame.original, 8), number(frame.containing, 6)
    yield f"    restore pte {restore}  containing page {containing}  {state:<10} {marks}".rstrip()
    names = [name for name, shown in (("Modified", frame.modified), ("Shared", frame.prototype)) if shown]
    if names:
        yield "    " + " ".join(names)
