"""Builds the layers of a dump: of the file or the member of an archive, physical, virtual, paging files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from volatility3_kdump.archives.archive import shown
from volatility3_kdump.dump import PHYSICAL_TYPES, CrashDump, DumpType, open_dump, parse_header
from volatility3_kdump.dump.facts import no_facts
from volatility3_kdump.dump.header import is_something_else, refuse_empty
from volatility3_kdump.errors import KdumpError, NotACrashDump
from volatility3_kdump.files import is_directory, open_file, path_of
from volatility3_kdump.options import Options

if TYPE_CHECKING:
    from volatility3.framework import interfaces

    from volatility3_kdump.archives.containers import Extracted
    from volatility3_kdump.dump import DumpHeader
    from volatility3_kdump.dump.source import Source
    from volatility3_kdump.progress import Progress


_SIGNATURE = b"PAGE"


@dataclass(frozen=True)
class Opened:
    """A dump whose layers are in a Volatility context.

    ``name`` is the file's, without directories. ``layer_name`` names the virtual layer, ``None`` where the dump gives
    no virtual memory; ``physical_layer_name`` is ``None`` for small memory dumps. ``container`` is what the dump was
    taken out of, ``None`` for a plain file. ``problems`` says what was found wrong, one line each.
    """

    name: str
    dump: CrashDump
    context: interfaces.context.ContextInterface
    layer_name: str | None
    physical_layer_name: str | None
    container: Extracted | None = None
    problems: list[str] = field(default_factory=list)


def open_layers(
    context: interfaces.context.ContextInterface,
    config_path: str,
    location: str,
    options: Options | None = None,
) -> Opened:
    """Build the layers of the dump at a file URL, whose fragment may name the member of an archive.

    Raises a :class:`~volatility3_kdump.errors.KdumpError` whose text starts with the file's name.
    """
    name, options = _display_name(location), options or Options()
    try:
        _refuse_unopenable(location)
        from volatility3_kdump.layers.container import extract

        extracted = extract(location, options.member, options.progress)
        try:
            return _build(context, config_path, location, name, extracted, options)
        except KdumpError as error:
            if extracted is None:
                raise
            raise error.within(f"{shown(extracted.member.name)} inside") from error
    except KdumpError as error:
        raise error.within(name) from error


def open_source(context: interfaces.context.ContextInterface, config_path: str, name: str, source: Source) -> Opened:
    """Build the layers of a crash dump whose bytes a source gives, under a name for messages.

    Raises a :class:`~volatility3_kdump.errors.KdumpError` whose text starts with the name.
    """
    from volatility3.framework import interfaces

    from volatility3_kdump.layers.image import KdumpUnpackedLayer

    base = KdumpUnpackedLayer(
        context,
        interfaces.configuration.path_join(config_path, "dump_source"),
        context.layers.free_layer_name("KdumpUnpackedLayer"),
        source,
    )
    try:
        return _build_over(context, config_path, name, base, source, parse_header(source), None, None)
    except KdumpError as error:
        raise error.within(name) from error


def _build(
    context: interfaces.context.ContextInterface,
    config_path: str,
    location: str,
    name: str,
    extracted: Extracted | None,
    options: Options,
) -> Opened:
    from volatility3.framework import interfaces
    from volatility3.framework.layers import physical

    from volatility3_kdump.layers.container import member_layer
    from volatility3_kdump.layers.crash import source_of

    join = interfaces.configuration.path_join
    file_path = join(config_path, "dump_file")
    if extracted is not None:
        file_layer = member_layer(context, file_path, location, extracted)
    else:
        plain, held = _location_for_host(location)
        context.config[join(file_path, "location")] = plain
        file_layer = physical.FileLayer(context, file_path, context.layers.free_layer_name("FileLayer"))
        file_layer.held_open = held
    source = source_of(file_layer)
    if source.read(0, 4) != _SIGNATURE:
        opened = _build_image(context, config_path, name, file_layer, source, extracted, options)
        if opened is not None:
            return opened
    header = parse_header(source)
    if options.kernel is not None:
        raise KdumpError("a crash dump holds one kernel: choosing one is for memory images")
    try:
        return _build_over(context, config_path, name, file_layer, source, header, extracted, options.progress)
    except KdumpError as error:
        raise type(error)(f"{error}; its header says: {header.brief()}") from error


def _build_image(
    context: interfaces.context.ContextInterface,
    config_path: str,
    name: str,
    file_layer: interfaces.layers.DataLayerInterface,
    source: Source,
    extracted: Extracted | None,
    options: Options,
) -> Opened | None:
    """The layers over a memory image; ``None`` for a file that is neither one nor large enough for a raw one."""
    from volatility3.framework import interfaces

    from volatility3_kdump.captures import RAW, open_capture, open_raw
    from volatility3_kdump.layers.image import KdumpImageLayer, KdumpUnpackedLayer
    from volatility3_kdump.layers.machine import find_windows

    capture = open_capture(source, None if extracted is not None else path_of(getattr(file_layer, "location", "")))
    if capture is None and is_something_else(source):
        return None
    capture = capture or open_raw(source)
    if capture is None:
        return None
    join = interfaces.configuration.path_join
    context.add_layer(file_layer)
    base = file_layer
    if capture.source is not source:
        base = KdumpUnpackedLayer(
            context, join(config_path, "unpacked"), context.layers.free_layer_name("KdumpUnpackedLayer"), capture.source
        )
        context.add_layer(base)
    layer_path = join(config_path, "image_layer")
    context.config[join(layer_path, "base_layer")] = base.name
    facts = no_facts(capture.container)
    dump = CrashDump(capture.source, facts, capture.pages, None, capture.processors, capture.why_no_registers)
    physical = KdumpImageLayer(context, layer_path, context.layers.free_layer_name("KdumpImageLayer"), dump)
    context.add_layer(physical)
    try:
        windows = find_windows(physical, capture, join(config_path, "virtual_layer"), options.progress, options.kernel)
    except NotACrashDump:
        if capture.container == RAW:
            # What the file seems to be says more than that a search of it failed.
            refuse_empty(source)
        raise
    context.add_layer(windows.layer)
    problems = [] if extracted is None else list(extracted.warnings)
    problems += [*capture.warnings, *windows.problems]
    return Opened(name, windows.dump, context, windows.layer.name, physical.name, extracted, problems)


def _build_over(
    context: interfaces.context.ContextInterface,
    config_path: str,
    name: str,
    file_layer: interfaces.layers.DataLayerInterface,
    source: Source,
    header: DumpHeader,
    extracted: Extracted | None,
    progress: Progress | None,
) -> Opened:
    """The layers over the layer of a file whose header is sound."""
    from volatility3.framework import interfaces

    from volatility3_kdump.layers.container import add_swap_layers
    from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer
    from volatility3_kdump.layers.translation import build_virtual_layer
    from volatility3_kdump.layers.triage import KdumpTriageLayer

    join = interfaces.configuration.path_join
    if header.dump_type != DumpType.TRIAGE and header.dump_type not in PHYSICAL_TYPES:
        open_dump(source)
    context.add_layer(file_layer)
    layer_path = join(config_path, "dump_layer")
    context.config[join(layer_path, "base_layer")] = file_layer.name
    problems = [] if extracted is None else list(extracted.warnings)
    if header.dump_type == DumpType.TRIAGE:
        triage = _layer(KdumpTriageLayer, context, layer_path)
        return Opened(name, triage.dump, context, triage.name, None, extracted, problems)
    crash = _layer(KdumpCrash64Layer if header.bits == 64 else KdumpCrash32Layer, context, layer_path)
    virtual = build_virtual_layer(context, crash.name, join(config_path, "virtual_layer"))
    if virtual is None:
        problems.insert(0, _why_no_translation(crash.dump))
        return Opened(name, crash.dump, context, None, crash.name, extracted, problems)
    context.add_layer(virtual)
    if extracted is not None:
        problems += add_swap_layers(context, virtual, progress)
    return Opened(name, crash.dump, context, virtual.name, crash.name, extracted, problems)


def _display_name(location: str) -> str:
    path = path_of(location)
    return location if path is None else path.name or str(path)


def _refuse_unopenable(location: str) -> None:
    """Raise a :class:`KdumpError` for a local file that the host would only trip over."""
    path = path_of(location)
    if path is None:
        return
    if is_directory(path):
        raise KdumpError("is a directory, not a dump file")
    with open_file(path) as file:
        empty = os.fstat(file.fileno()).st_size == 0
    if empty:
        open_dump(path)


def _location_for_host(location: str) -> tuple[str, BinaryIO | None]:
    """A file URL that the host opens, and the open file that it is about, if any.

    The host takes the bytes of a URL for UTF-8. A name of other bytes is reached through the descriptor of the open
    file, where the system has a path for that.
    """
    path = path_of(location)
    if path is None or not Path("/proc/self/fd").is_dir():
        return location, None
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        file = open_file(path)
        return f"file:///proc/self/fd/{file.fileno()}", file
    return location, None


def _layer(layer_class: type[Any], context: interfaces.context.ContextInterface, config_path: str) -> Any:
    """Construct a layer and add it to the context. Raises the :class:`KdumpError` that keeps it from opening."""
    from volatility3.framework import exceptions

    try:
        layer = layer_class(context, config_path, context.layers.free_layer_name(layer_class.__name__))
    except exceptions.LayerException as error:
        if isinstance(error.__cause__, KdumpError):
            raise error.__cause__ from error
        raise
    context.add_layer(layer)
    return layer


def _why_no_translation(dump: CrashDump) -> str:
    header = dump.header
    if header.architecture not in ("x64", "x86", "arm64"):
        return f"no address translation for {header.architecture}: only the header and the tagged data can be shown"
    if header.directory_table_base is None:
        return "DirectoryTableBase in the dump header was never set: no address can be translated"
    frame = header.directory_table_base >> 12 & 0xFFFFFFFFFF
    pages = dump.pages
    if pages is not None and pages.offset_of(frame) is None:
        return (
            f"the page table that DirectoryTableBase {header.directory_table_base:#x} names (page frame {frame:#x}) is "
            "not in the dump: no address can be translated"
        )
    return (
        f"the page tables at DirectoryTableBase {header.directory_table_base:#x} lead neither to the kernel's lists "
        "nor to the shared data page: no address can be translated"
    )
