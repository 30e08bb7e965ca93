"""Processes and threads as values. Offsets come from the kernel's symbols, else from KDDEBUGGER_DATA64."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.symbols import tables

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_IMAGE_NAME_SIZE = 15


@dataclass(frozen=True)
class Process:
    """A process: EPROCESS ``address``, process id, the 15-byte image name, the full image path if it is in the dump."""

    address: int
    pid: int | None
    image_name: str | None
    image_path: str | None

    @property
    def name(self) -> str | None:
        """The full file name where the path is known, else the name as EPROCESS holds it, cut to 15 bytes."""
        return self.image_path.rsplit("\\", 1)[-1] if self.image_path else self.image_name


@dataclass(frozen=True)
class Thread:
    """A thread: ETHREAD ``address``, its client id, its process, and the limits of its kernel stack (low, high)."""

    address: int
    pid: int | None
    tid: int | None
    process: int | None
    stack_limit: int | None
    stack_base: int | None


def read_process(target: Target, address: int) -> Process:
    """The process at an EPROCESS address; every value that is not in the dump is ``None``."""
    memory = target.memory
    pid_offset = target.offset("_EPROCESS", "UniqueProcessId", None, generation="UniqueProcessId")
    pid = memory.pointer(address + pid_offset) if pid_offset is not None else None
    return Process(address, pid, _image_name(target, address), _image_path(target, address))


def _image_name(target: Target, address: int) -> str | None:
    located = target.offset("_EPROCESS", "ImageFileName", None, generation="ImageFileName")
    if located is not None:
        return _plausible_name(target.memory.read(address + located, _IMAGE_NAME_SIZE))
    peb = target.debugger["OffsetEprocessPeb"] if target.debugger else None
    # Where no symbols are at hand the name follows the Peb field at one of two distances (Windows 10 1511 on, before).
    for distance in (0x58, 0x50) if peb else ():
        name = _plausible_name(target.memory.read(address + (peb or 0) + distance, _IMAGE_NAME_SIZE))
        if name:
            return name
    return None


def _plausible_name(data: bytes | None) -> str | None:
    if data is None:
        return None
    name = data.split(b"\0", 1)[0]
    rest = data[len(name) :]
    if not name or not all(0x20 <= byte < 0x7F for byte in name) or rest.strip(b"\0"):
        return None
    return name.decode("ascii")


def _image_path(target: Target, address: int) -> str | None:
    """The path of SeAuditProcessCreationInfo.ImageFileName, an OBJECT_NAME_INFORMATION in paged pool."""
    located = target.offset("_EPROCESS", "SeAuditProcessCreationInfo.ImageFileName", None)
    name = target.memory.pointer(address + located) if located is not None else None
    return (target.memory.unicode_string(name) or None) if name else None


def read_thread(target: Target, address: int) -> Thread:
    """The thread at an ETHREAD address; every value that is not in the dump is ``None``."""
    memory = target.memory

    def pointer(path: str, debugger_field: str | None, generation: str | None = None) -> int | None:
        located = target.offset("_ETHREAD", path, debugger_field, generation)
        return memory.pointer(address + located) if located is not None else None

    return Thread(
        address,
        pointer("Cid.UniqueProcess", None, "Cid"),
        _second_pointer(target, address),
        pointer("Tcb.ApcState.Process", "OffsetKThreadApcProcess") or None,
        pointer("Tcb.StackLimit", "OffsetKThreadStackLimit") or None,
        pointer("Tcb.StackBase", "OffsetKThreadStackBase") or None,
    )


def _second_pointer(target: Target, address: int) -> int | None:
    located = target.offset("_ETHREAD", "Cid.UniqueProcess", None, "Cid")
    return target.memory.pointer(address + located + target.memory.pointer_size) if located is not None else None


@functools.lru_cache(maxsize=1)
def _generations() -> dict[tuple[int, int], dict[str, Any]]:
    return {
        (size, record["ethread"]): record
        for record in tables.json_lines("generations.jsonl")
        for size in record["eprocess"]
    }


def generation_offset(eprocess_size: int | None, ethread_size: int | None, name: str) -> int | None:
    """Offset of an EPROCESS or ETHREAD field by the structure sizes that KDDEBUGGER_DATA64 reports (x64 only)."""
    if eprocess_size is None or ethread_size is None:
        return None
    record = _generations().get((eprocess_size, ethread_size))
    return None if record is None else record["offsets"].get(name)


_MOST_PROCESSES = 65536
_MOST_THREADS = 65536


def process_addresses(target: Target) -> list[int]:
    """EPROCESS addresses of PsActiveProcessHead, in list order, as far as they reach; empty without symbols."""
    head = target.header.ps_active_process_head or target.variable("PsActiveProcessHead", "PsActiveProcessHead")
    links = target.offset("_EPROCESS", "ActiveProcessLinks", None, generation="ActiveProcessLinks")
    if head is None or links is None:
        return []
    entries = list(target.memory.list_entries(head, _MOST_PROCESSES))
    if target.memory.pointer(entries[-1] if entries else head) != head:
        target.problems.append("PsActiveProcessHead is torn: processes behind the break are not listed")
    return [entry - links for entry in entries]


def thread_addresses(target: Target, process: int) -> list[int]:
    """ETHREAD addresses of a process, in list order; empty without symbols."""
    head = target.offset("_EPROCESS", "ThreadListHead", None, generation="ThreadListHead")
    links = target.offset("_ETHREAD", "ThreadListEntry", None, generation="ThreadListEntry")
    if head is None or links is None:
        return []
    return [entry - links for entry in target.memory.list_entries(process + head, _MOST_THREADS)]
