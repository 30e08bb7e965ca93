"""Driver Verifier in the words of KD's ``!verifier`` and ``!deadlock``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.windows.machine.verified import Deadlock, VerifiedDriver, VerifierData

#: The flags of verifier.exe and what they are called: those of /standard, then the others.
_STANDARD = {
    0x0: "Automatic Checks",
    0x1: "Special pool",
    0x2: "Force IRQL checking",
    0x8: "Pool tracking",
    0x10: "I/O verification",
    0x20: "Deadlock detection",
    0x80: "DMA checking",
    0x100: "Security checks",
    0x800: "Miscellaneous checks",
    0x20000: "DDI compliance checking",
}
_ADDITIONAL = {
    0x4: "Randomized low resources simulation",
    0x200: "Force pending I/O requests",
    0x400: "IRP logging",
    0x2000: "Invariant MDL checking for stack",
    0x4000: "Invariant MDL checking for driver",
    0x8000: "Power framework delay fuzzing",
    0x10000: "Port/miniport interface checking",
    0x40000: "Systematic low resources simulation",
    0x80000: "DDI compliance checking (additional)",
    0x200000: "NDIS/WIFI verification",
    0x800000: "Kernel synchronization delay fuzzing",
    0x1000000: "VM switch verification",
    0x2000000: "Code integrity checks",
}
_COUNTS = (
    ("RaiseIrqls", "RaiseIrqls"),
    ("AcquireSpinLocks", "AcquireSpinLocks"),
    ("Synch Executions", "SynchronizeExecutions"),
    ("Trims", "Trims"),
    ("", ""),
    ("Pool Allocations Attempted", "AllocationsAttempted"),
    ("Pool Allocations Succeeded", "AllocationsSucceeded"),
    ("Pool Allocations Succeeded SpecialPool", "AllocationsSucceededSpecialPool"),
    ("Pool Allocations With NO TAG", "AllocationsWithNoTag"),
    ("Pool Allocations Failed", "AllocationsFailed"),
    ("Resource Allocations Failed Deliberately", "AllocationsFailedDeliberately"),
)
_POOLS = (
    ("Current paged pool allocations", "CurrentPagedPoolAllocations", "PagedBytes"),
    ("Peak paged pool allocations", "PeakPagedPoolAllocations", "PeakPagedBytes"),
    ("Current nonpaged pool allocations", "CurrentNonPagedPoolAllocations", "NonPagedBytes"),
    ("Peak nonpaged pool allocations", "PeakNonPagedPoolAllocations", "PeakNonPagedBytes"),
)


def flag_names(level: int) -> list[str]:
    """What a level asks for."""
    return [name for bit, name in {**_STANDARD, **_ADDITIONAL}.items() if bit and level & bit]


def _hex(value: int | None) -> str:
    return "not in the dump" if value is None else f"{value:#x}"


def verifier_lines(data: VerifierData, drivers: tuple[VerifiedDriver, ...] | None) -> Iterator[str]:
    """``!verifier``; ``drivers`` are those that are listed, ``None`` without a list."""
    if data.level is None:
        yield "Verify Flags Level is not in the dump"
    else:
        yield f"Verify Flags Level 0x{data.level:08x}"
        for title, names in (("STANDARD FLAGS", _STANDARD), ("ADDITIONAL FLAGS", _ADDITIONAL)):
            yield ""
            yield f"  {title}:"
            for bit, name in names.items():
                # Automatic checks have no bit: they are made whenever a driver is verified.
                on = data.level & bit if bit else data.level
                yield f"    [{'X' if on else ' '}] (0x{bit:08x}) {name}"
        yield ""
        yield "    [X] Indicates flag is enabled"
    yield ""
    yield "Summary of All Verifier Statistics"
    yield ""
    for label, field in _COUNTS:
        yield f"  {label:<42} {_hex(data.counters.get(field))}" if field else ""
    yield ""
    for label, count, size in _POOLS:
        bytes_used = data.counters.get(size)
        used = "?" if bytes_used is None else f"{bytes_used:08X}"
        yield f"  {label:<42} {_hex(data.counters.get(count))} for {used} bytes"
    if drivers is not None:
        yield ""
        yield "Driver Verification List"
        yield ""
        yield "  Entry             State         Loads  Unloads  Module"
        yield ""
        for driver in drivers:
            counts = f"{decimal(driver.loads):>6} {decimal(driver.unloads):>8}"
            address = pointer(driver.address, 8, tick=False)
            yield f"  {address:<17} {driver.state or '?':<13} {counts}  {driver.name or '?'}"
        if not drivers:
            yield "  None"
    for problem in data.problems:
        yield f"NOTE: {problem}"


def deadlock_lines(deadlock: Deadlock, stacks: bool, size: int = 8) -> Iterator[str]:
    """``!deadlock``. With ``stacks`` where each lock was taken."""
    taken, names = deadlock.participants, deadlock.names
    if not taken:
        yield "Driver Verifier has reported no deadlock"
        return
    threads = list(dict.fromkeys(entry.thread for entry in taken))
    locks = list(dict.fromkeys(lock for entry in taken for lock in (entry.before or None, entry.lock) if lock))
    letters = {lock: _letter(index) for index, lock in enumerate(locks)}
    kinds = {entry.lock: entry.kind for entry in taken}
    yield f"Deadlock detected ({len(locks)} resources in {len(threads)} threads):"
    yield ""
    for index, thread in enumerate(threads):
        own = [entry for entry in taken if entry.thread == thread]
        order = dict.fromkeys(lock for entry in own for lock in (entry.before, entry.lock) if lock)
        if not stacks:
            yield f"Thread {index}: {' '.join(letters[lock] for lock in order)}"
            continue
        yield f"Thread {index} ({pointer(thread, size, tick=False)}) took locks in the following order:"
        yield ""
        for entry in own:
            lock = _lock(entry.lock, names, size)
            yield f"    Lock {letters.get(entry.lock or 0, '?')} -- {lock} ({entry.kind or '?'})"
            for place, word in enumerate(entry.stack):
                label = "    Stack:   " if not place else " " * 13
                yield label + (names.get(word) or pointer(word, size, tick=False))
            if not entry.stack:
                yield "    Stack:   not recorded"
            yield ""
    if not stacks:
        yield ""
        yield "Where:"
        for index, thread in enumerate(threads):
            yield f"Thread {index} = {pointer(thread, size, tick=False)}"
        for lock_address, letter in letters.items():
            kind = kinds.get(lock_address)
            yield f"Lock {letter} =   {_lock(lock_address, names, size)}" + (f" Type '{kind}'" if kind else "")
    for problem in deadlock.problems:
        yield f"NOTE: {problem}"


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"L{index}"


def _lock(lock: int | None, names: Mapping[int, str], size: int) -> str:
    return names.get(lock or 0) or pointer(lock, size, tick=False)
