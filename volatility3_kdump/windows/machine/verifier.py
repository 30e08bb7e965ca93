"""Whether Driver Verifier was on: ``nt!MmVerifierData.Level``, which small memory dumps hold as well, up to 24H2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump import tables

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LEVEL_SIZE = 4
#: The level of a kernel that never looked for settings.
_NO_LEVEL = 0xFFFFFFFF


def verifier_level(target: Target) -> int | None:
    """The options of Driver Verifier as a set of bits, 0 while it is off; ``None`` when the dump does not tell.

    Level is the first field of MM_DRIVER_VERIFIER_DATA; KDDEBUGGER_DATA64 has its address. Older small memory dumps
    repeat it in DUMP_MM_STORAGE.
    """
    return target.once(_level)


def _level(target: Target) -> int | None:
    address = target.variable("MmVerifierData", "MmVerifierData")
    level = target.memory.unsigned(address, _LEVEL_SIZE) if address else None
    if level is None:
        level = _stored_level(target) or None
    return 0 if level == _NO_LEVEL else level


def _stored_level(target: Target) -> int | None:
    """MmVerifyDriverLevel of DUMP_MM_STORAGE, where 0 is also what newer kernels leave there."""
    triage = target.dump.triage
    blob = triage.memory_manager if triage is not None else None
    if blob is None:
        return None
    field = tables.structures().field(f"_DUMP_MM_STORAGE{target.header.bits}", "MmVerifyDriverLevel")
    data = target.dump.source.read(blob.offset + field.offset, field.size)
    if len(data) < field.size or field.offset + field.size > blob.size:
        return None
    return int.from_bytes(data, "little")
