"""Virtual address space of a small memory dump (DumpType 4).

There is no physical memory and no page table in such a dump. Its data blocks, the crashing thread's stack and the
copies of the processor, process and thread form a sparse address space, in which reads stitch adjacent pieces.
"""

from __future__ import annotations

import collections
import itertools
import struct
from collections.abc import Iterable

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import linear

from volatility3_kdump.dump import CrashDump, Segment, SegmentMap, open_dump
from volatility3_kdump.errors import KdumpError, UnsupportedDump
from volatility3_kdump.layers.crash import source_of
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.symbols.kdbg import DebuggerData, parse_debugger_data

_KERNEL_START = 0xFFFF_8000_0000_0000
#: Empty lists in a copied structure by which its address is believed: copies of control blocks have 300 and more.
_FEWEST_HEADS = 16


class KdumpTriageLayer(linear.LinearlyMappedLayer):
    """Virtual memory of a small memory dump of any architecture.

    ``blobs`` names the copied structures whose address the dump implies: ``prcb``, ``process``, ``thread``.
    """

    _direct_metadata = collections.ChainMap(
        {"os": "Windows", "mapped": True}, interfaces.layers.TranslationLayerInterface._direct_metadata
    )

    def __init__(self, context: interfaces.context.ContextInterface, config_path: str, name: str) -> None:
        super().__init__(context, config_path, name)
        self._base_layer = self.config["base_layer"]
        try:
            self.dump: CrashDump = open_dump(source_of(context.layers[self._base_layer]))
            if self.dump.triage is None:
                raise UnsupportedDump("not a small memory dump")
        except KdumpError as error:
            raise exceptions.LayerException(name, str(error)) from error
        self._bits = self.dump.header.bits
        self.debugger_data = triage_debugger_data(self.dump)
        segments, self.blobs = triage_segments(self.dump, self.debugger_data)
        self._segment_map = SegmentMap(segments)

    @property
    def segments(self) -> list[Segment]:
        """The stored pieces of the address space, sorted and disjoint."""
        return self._segment_map.segments

    def canonicalize(self, address: int) -> int:
        """The address as KDDEBUGGER_DATA64 would store it: 32-bit addresses sign-extended."""
        return sign_extended(address & 0xFFFFFFFF, 4) if self._bits == 32 else address

    def is_valid(self, offset: int, length: int = 1) -> bool:
        address = self.canonicalize(offset)
        held = sum(piece.size for piece in self._segment_map.pieces(address, max(length, 1)))
        return held == max(length, 1)

    def mapping(
        self, offset: int, length: int, ignore_errors: bool = False
    ) -> Iterable[tuple[int, int, int, int, str]]:
        address = self.canonicalize(offset)
        position = address
        for piece in self._segment_map.pieces(address, max(length, 1)):
            if piece.address != position and not ignore_errors:
                break
            size = piece.size if length else 0
            yield offset + piece.address - address, size, piece.offset, size, self._base_layer
            position = piece.address + piece.size
        if position != address + max(length, 1) and not ignore_errors:
            raise exceptions.InvalidAddressException(self.name, position, f"Address {position:#x} is not in the dump")

    @property
    def minimum_address(self) -> int:
        return 0

    @property
    def maximum_address(self) -> int:
        return 0xFFFFFFFFFFFFFFFF

    @property
    def address_mask(self) -> int:
        return 0xFFFFFFFFFFFFFFFF

    @property
    def dependencies(self) -> list[str]:
        return [self._base_layer]

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [requirements.TranslationLayerRequirement(name="base_layer", optional=False)]


def copies_in(layer: interfaces.layers.DataLayerInterface) -> dict[str, Segment]:
    """The structures that a layer's dump copied, by name; none where it is no small memory dump."""
    return layer.blobs if isinstance(layer, KdumpTriageLayer) else {}


def triage_debugger_data(dump: CrashDump) -> DebuggerData | None:
    """The KDDEBUGGER_DATA64 copy of a small memory dump."""
    blob = dump.triage.debugger_data if dump.triage else None
    if blob is None or dump.header.kd_debugger_data_block is None:
        return None
    source = dump.source
    head = source.read(blob.offset, min(blob.size, 0x18))
    if len(head) < 0x18:
        return None
    return parse_debugger_data(
        head, dump.header.kd_debugger_data_block, lambda size: source.read(blob.offset, min(size, blob.size))
    )


def triage_segments(dump: CrashDump, debugger: DebuggerData | None) -> tuple[list[Segment], dict[str, Segment]]:
    """The pieces of a small memory dump's address space, in order of precedence, and the named copies among them.

    Addresses of the thread and process copies are stored nowhere: the processor copy names its current thread, and the
    thread its process, at offsets that KDDEBUGGER_DATA64 gives. The processor's address comes from KiProcessorBlock, or
    where newer dumps lack that, from the empty list heads in the copy (:func:`address_by_list_heads`).
    """
    triage = dump.triage
    assert triage is not None
    segments = list(triage.blocks)
    if triage.stack:
        segments.append(triage.stack)
    if triage.data_page:
        segments.append(triage.data_page)
    if triage.debugger_data and dump.header.kd_debugger_data_block:
        segments.append(
            Segment(dump.header.kd_debugger_data_block, triage.debugger_data.offset, triage.debugger_data.size)
        )
    blobs: dict[str, Segment] = {}
    if debugger is None:
        return segments, blobs
    blocks = SegmentMap(list(triage.blocks))
    width = dump.header.pointer_size
    source = dump.source

    def pointer_in_copy(offset: int, field: int | None) -> int | None:
        data = source.read(offset + field, width) if field is not None else b""
        value = int.from_bytes(data, "little") if len(data) == width else 0
        return sign_extended(value, width) or None

    def add(name: str, address: int | None, offset: int, most: int, size: int | None) -> None:
        if address and size:
            blobs[name] = Segment(address, offset, min(size, most))
            segments.append(blobs[name])

    if triage.prcb:
        number_field = debugger["OffsetPrcbNumber"]
        number_data = source.read(triage.prcb.offset + number_field, 4) if number_field else b""
        block = debugger["KiProcessorBlock"]
        if len(number_data) == 4:
            number = int.from_bytes(number_data, "little")
            stored = blocks.read(source, block + number * width, width) if block and number < 2048 else None
            address = sign_extended(int.from_bytes(stored, "little"), width) if stored else None
            size = debugger["SizePrcb"]
            if address is None and size is not None and width == 8:
                address = address_by_list_heads(source.read(triage.prcb.offset, min(size, triage.prcb.size)))
            add("prcb", address, triage.prcb.offset, triage.prcb.size, size)
        if triage.thread:
            thread = pointer_in_copy(triage.prcb.offset, debugger["OffsetPrcbCurrentThread"])
            add("thread", thread, triage.thread.offset, triage.thread.size, debugger["SizeEThread"])
            if triage.process:
                process = pointer_in_copy(triage.thread.offset, debugger["OffsetKThreadApcProcess"])
                add("process", process, triage.process.offset, triage.process.size, debugger["SizeEProcess"])
    return segments, blobs


def address_by_list_heads(data: bytes) -> int | None:
    """Where a 64-bit structure was copied from, by the empty lists in it: their heads point to themselves.

    A control block has hundreds of them. ``None`` where too few agree, or nearly as many speak for another address.
    """
    pointers = [word for (word,) in struct.iter_unpack("<Q", data[: len(data) & ~7])]
    votes = collections.Counter(
        forward - 8 * index
        for index, (forward, back) in enumerate(itertools.pairwise(pointers))
        if forward == back and forward >= _KERNEL_START and not forward & 7
    )
    best = votes.most_common(2)
    if not best or best[0][1] < _FEWEST_HEADS or (len(best) > 1 and 4 * best[1][1] > best[0][1]):
        return None
    address: int = best[0][0]
    return address
