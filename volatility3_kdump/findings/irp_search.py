"""IRPs by what they have to do with: all of them are looked for in pool, and on the lists of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.findings.pending_requests import PendingRequests
from volatility3_kdump.findings.pool_search import PoolSearch, TagPattern
from volatility3_kdump.layout import LayoutError
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.io.devices import DeviceObject, read_device
from volatility3_kdump.windows.io.requests import Irp, read_irp
from volatility3_kdump.windows.memory.pool import PoolBlock
from volatility3_kdump.windows.structures import layouts_of, read_fields

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: The tags of IRPs: those of lookaside lists differ in the last character.
TAGS = "Irp?"
CRITERIA = ("arg", "device", "fileobject", "mdlprocess", "thread", "userevent")


@dataclass(frozen=True)
class Criterion:
    """What an IRP must have to do with: one of :data:`CRITERIA`, and a value."""

    kind: str
    value: int


def parse_criterion(kind: str, value: int) -> Criterion:
    """A criterion by its name. Raises :class:`KdumpError` for one that there is not."""
    if kind.lower() not in CRITERIA:
        raise KdumpError(f"no criterion is called {kind}: use {', '.join(CRITERIA)}")
    return Criterion(kind.lower(), value)


@dataclass(frozen=True)
class FoundIrp:
    """An IRP, where it was found (``pool``, ``table`` of big pages, ``thread``), and the device that has it now.

    ``mdl_process`` is the process of its MDL, ``None`` where it has no MDL or that is not in the dump.
    """

    irp: Irp
    place: str
    device: DeviceObject | None
    mdl_process: int | None

    @property
    def complete(self) -> bool:
        """Whether no driver has it: it is completed, or was not yet sent."""
        location, count = self.irp.current_location, self.irp.stack_count
        return location is not None and count is not None and location > count


class IrpSearch:
    """The IRPs that fit a criterion, every one without."""

    def __init__(
        self,
        target: Target,
        pools: tuple[str, ...] = ("nonpaged",),
        start: int = 0,
        criterion: Criterion | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.target, self.criterion = target, criterion
        self.search = PoolSearch(target, TagPattern(TAGS), pools, start, progress=progress)
        self._start, self._progress = start, progress
        self._seen: set[int] = set()
        #: Problems of the lists of threads, one line each, when :meth:`of_threads` has ended.
        self.notes: list[str] = []

    def large(self) -> Iterator[FoundIrp]:
        """Those that nt!PoolBigPageTable knows."""
        yield from self._in_blocks(self.search.large(), "table")

    def in_pool(self) -> Iterator[tuple[int, FoundIrp]]:
        """Those behind pool headers, each with the index of the area."""
        for index, area in enumerate(self.search.areas):
            for request in self._in_blocks(self.search.small(area), "pool"):
                yield index, request

    def of_threads(self) -> Iterator[FoundIrp]:
        """Those on lists of threads that the search has not met."""
        pending = PendingRequests(self.target, self._progress)
        for request in pending.requests:
            if request.view is not None and request.address not in self._seen and request.address >= self._start:
                self._seen.add(request.address)
                located = self._found(request.view.irp, "thread")
                if located is not None:
                    yield located
        self.notes += pending.problems

    def _in_blocks(self, blocks: Iterator[PoolBlock], place: str) -> Iterator[FoundIrp]:
        layouts = layouts_of(self.target)
        least = layouts.size_of("_IRP")
        for block in blocks:
            if block.state == "free" or block.data in self._seen or block.end - block.data < least:
                continue
            try:
                irp = read_irp(self.target, block.data)
            except (Unreadable, LayoutError):
                continue
            # Blocks of a lookaside list keep the bytes of their last use, or have none yet.
            if irp.size is None or not least <= irp.size <= block.end - block.data:
                continue
            self._seen.add(irp.address)
            located = self._found(irp, place)
            if located is not None:
                yield located

    def _found(self, irp: Irp, place: str) -> FoundIrp | None:
        process = self._mdl_process(irp)
        if not self._fits(irp, process):
            return None
        device = None
        current = irp.current
        if current is not None and current.device:
            try:
                device = read_device(self.target, current.device)
            except KdumpError:
                device = None
        return FoundIrp(irp, place, device, process)

    def _mdl_process(self, irp: Irp) -> int | None:
        if not irp.mdl:
            return None
        try:
            process: int | None = read_fields(self.target, "_MDL", irp.mdl, {"process": "Process"})["process"]
        except (Unreadable, LayoutError):
            return None
        return process

    def _fits(self, irp: Irp, process: int | None) -> bool:
        criterion = self.criterion
        if criterion is None:
            return True
        value = criterion.value
        if criterion.kind == "thread":
            return irp.thread == value
        if criterion.kind == "fileobject":
            return irp.file == value
        if criterion.kind == "mdlprocess":
            return process == value
        if criterion.kind == "device":
            return any(location.device == value for location in irp.locations)
        if criterion.kind == "arg":
            size = self.target.memory.pointer_size
            wanted = {value, sign_extended(value, size)}
            return any(wanted.intersection(location.parameters) for location in irp.locations)
        event = layouts_of(self.target).find("_IRP", "UserEvent")
        return event is not None and self.target.memory.pointer(irp.address + event.offset) == value
