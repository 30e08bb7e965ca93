"""Rows of ``kdump.file``."""

from __future__ import annotations

from volatility3_kdump.target import Target
from volatility3_kdump.text import files as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.views.table import BLANK, BYTES, POINTER, TEXT, Column, table
from volatility3_kdump.windows.io.file_objects import read_file_object, read_volume_block
from volatility3_kdump.windows.memory.one_frame import read_control_area_details, read_page_frame

FILES = table(
    "kdump.file",
    keys.KIND(more="`file`, a FILE_OBJECT; `volume`, a VPB; `control area`"),
    keys.ADDRESS(),
    keys.NAME(more="path in the volume; the volume's label"),
    keys.DEVICE_OBJECT(),
    keys.DRIVER(),
    keys.FLAGS(more="FO_..., VPB_..., or MMSECTION_FLAGS"),
    keys.TEXT(more="access and sharing of a file; the names of the flags of a control area"),
    Column("Vpb", POINTER, "the VPB of the file's volume"),
    keys.FILE_OBJECT(more="of a control area"),
    Column("DataSection", POINTER, "the control area of the file's data"),
    Column("ImageSection", POINTER, "the control area of the file as an image"),
    Column("SharedCacheMap", POINTER, "the cache manager's structure"),
    Column("CurrentOffset", BYTES, "CurrentByteOffset"),
    Column("FsContext", POINTER, "the file system's structure"),
    Column("PfnReferences", BYTES, "NumberOfPfnReferences of a control area"),
    Column("Label", TEXT, "label of the volume"),
    keys.NOTES(),
)


def file_grid(target: Target, address: int) -> KdumpGrid:
    """A file object (``!fileobj``). Raises :class:`KdumpError`."""
    file = read_file_object(target, address)
    driver = file.device.driver.name if file.device and file.device.driver else None
    row = FILES.row(
        0,
        Kind="file",
        Address=address,
        Name=file.name,
        DeviceObject=file.device_address,
        Driver=driver,
        Flags=file.flags,
        Text=" ".join(file.access) or BLANK,
        Vpb=file.vpb,
        DataSection=file.data_section or BLANK,
        ImageSection=file.image_section or BLANK,
        SharedCacheMap=file.shared_cache or BLANK,
        CurrentOffset=file.offset,
        FsContext=file.context,
    )
    return FILES.grid([row], lambda: words.file_lines(file, target.memory.pointer_size))


def volume_grid(target: Target, address: int) -> KdumpGrid:
    """A VPB (``!vpb``). Raises :class:`KdumpError`."""
    volume = read_volume_block(target, address)
    row = FILES.row(
        0,
        Kind="volume",
        Address=address,
        DeviceObject=volume.device_address,
        Driver=volume.device.driver.name if volume.device and volume.device.driver else None,
        Flags=volume.flags,
        Label=volume.label,
    )
    return FILES.grid([row], lambda: words.volume_lines(volume, target.memory.pointer_size))


def control_area_grid(target: Target, address: int) -> KdumpGrid:
    """A control area (``!ca``). Raises :class:`KdumpError`."""
    area = read_control_area_details(target, address)
    row = FILES.row(
        0,
        Kind="control area",
        Address=address,
        Name=area.name if area.file else BLANK,
        Flags=area.long_flags,
        Text=" ".join(area.flags) or BLANK,
        FileObject=area.file,
        PfnReferences=area.pages,
    )
    return FILES.grid([row], lambda: words.control_area_lines(area, target.memory.pointer_size))


FRAMES = table(
    "kdump.file --page",
    Column("PageNumber", keys.FLAGS.kind, "page frame number", lambda frame: frame.page),
    keys.ADDRESS(lambda frame: frame.address, "of its entry in the page-frame database"),
    keys.STATE(lambda frame: frame.list_name, "the list that it is on, or `Active`"),
    Column("Pte", POINTER, "PteAddress", lambda frame: frame.pte),
    Column("ContainingPage", keys.FLAGS.kind, "u4.PteFrame", lambda frame: frame.containing),
    Column("RestorePte", keys.FLAGS.kind, "OriginalPte", lambda frame: frame.original),
    keys.COUNT(lambda frame: frame.references, "ReferenceCount"),
)


def frame_grid(target: Target, page: int) -> KdumpGrid:
    """An entry of the page-frame database (``!pfn``). Raises :class:`KdumpError`."""
    frame = read_page_frame(target, page)
    return FRAMES.grid([FRAMES.row(0, frame)], lambda: words.frame_lines(frame, target.memory.pointer_size))
