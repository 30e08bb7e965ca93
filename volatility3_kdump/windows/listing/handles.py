"""The handles of a process with the objects that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.processes.crashed import crash_process
from volatility3_kdump.windows.processes.objects import Handle, ObjectInfo, read_handles, read_object
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import Process, read_process

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class ListedHandle:
    """A handle and its object; ``problem`` says why the object is not known, where it is not."""

    handle: Handle
    object: ObjectInfo | None
    problem: str | None = None


@dataclass(frozen=True)
class ProcessHandles:
    """The handles of a process: ``table`` is the HANDLE_TABLE and ``count`` how many of it could be read."""

    process: Process
    table: int
    count: int
    handles: tuple[ListedHandle, ...]
    problems: tuple[str, ...]


def process_handles(
    target: Target, process: int, wanted: int = 0, objects: bool = True, kind: str | None = None
) -> ProcessHandles:
    """The handles of the process at an EPROCESS, or the ``wanted`` one alone; with their ``objects``; of a ``kind``
    (an object type) alone, if one is named.

    Raises :class:`KdumpError` where its table is not in the dump, or it has none any more.
    """
    read = read_process(target, process)
    if read.object_table is None:
        raise KdumpError(f"the handle table of process {process:x} is not known: its EPROCESS is not in the dump")
    if not read.object_table:
        raise KdumpError(f"process {process:x} has no handle table any more")
    problems: list[str] = []
    handles = list(read_handles(target, read.object_table, problems))
    shown = [handle for handle in handles if not wanted or handle.value == wanted & ~3]
    listed = tuple(_listed(target, handle) if objects else ListedHandle(handle, None) for handle in shown)
    if kind is not None:
        listed = tuple(entry for entry in listed if entry.object is not None and entry.object.type_name == kind)
    return ProcessHandles(read, read.object_table, len(handles), listed, tuple(problems))


def _listed(target: Target, handle: Handle) -> ListedHandle:
    try:
        return ListedHandle(handle, read_object(target, handle.object))
    except KdumpError as error:
        return ListedHandle(handle, None, str(error))


def process_named(target: Target, number: int) -> int:
    """The EPROCESS of an address or a process id. Raises :class:`KdumpError` for an id that no process has."""
    if target.is_kernel_address(number):
        return number
    crashed = crash_process(target)
    for address in process_addresses(target) or ([crashed.address] if crashed is not None else []):
        if read_process(target, address).pid == number:
            return address
    raise KdumpError(f"{target.name}: no process with the id {number:x} is in the dump")
