"""Control, debug and descriptor registers of a processor, as KPRCB.ProcessorState.SpecialRegisters keeps them.

Source: ``_KSPECIAL_REGISTERS`` and ``_KDESCRIPTOR`` of the kernel's symbols; x64 and x86.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.layout import FieldPath
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.structures import read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_PATHS: Mapping[str, FieldPath] = {
    **{f"cr{number}": f"Cr{number}" for number in (0, 2, 3, 4, 8)},
    **{f"dr{number}": f"KernelDr{number}" for number in (0, 1, 2, 3, 6, 7)},
    **{
        "gdtr": "Gdtr.Base",
        "gdtl": "Gdtr.Limit",
        "idtr": "Idtr.Base",
        "idtl": "Idtr.Limit",
        "tr": "Tr",
        "ldtr": "Ldtr",
    },
}
#: The names that users write.
NAMES = tuple(_PATHS)
_ADDRESSES = frozenset({"gdtr", "idtr", "cr2"})


@dataclass(frozen=True)
class SpecialRegister:
    """A register: ``value`` is ``None`` where the dump does not hold it; ``size`` is in bytes."""

    name: str
    value: int | None
    size: int


def special_registers(target: Target, number: int | None) -> dict[str, SpecialRegister]:
    """The special registers of a processor that this kernel saves, by name; none where they cannot be located."""
    nt = target.nt
    prcb = next((processor.prcb for processor in processors(target) if processor.number == number), None)
    if nt is None or prcb is None:
        return {}
    stem = "ProcessorState.SpecialRegisters"
    # Gdtr and the like are structures that overlap nothing: one reader takes all.
    paths = {name: f"{stem}.{path}" for name, path in _PATHS.items() if nt.has("_KPRCB", f"{stem}.{path}")}
    reader = nt.reader("_KPRCB", **paths)
    row = read_row(target.memory, reader, prcb)
    registers = {}
    for name in paths:
        value = None if row is None else getattr(row, name)
        field = reader.fields[name]
        if isinstance(value, int) and name in _ADDRESSES:
            value = sign_extended(value, target.memory.pointer_size)
        registers[name] = SpecialRegister(name, value if isinstance(value, int) else None, field.size if field else 0)
    return registers


#: The model-specific registers that the kernel saves, by their numbers (Intel's manual, volume 4).
_SAVED_REGISTERS = {
    0xC0000081: "MsrStar",
    0xC0000082: "MsrLStar",
    0xC0000083: "MsrCStar",
    0xC0000084: "MsrSyscallMask",
    0xC0000100: "MsrFsBase",
    0xC0000101: "MsrGsBase",
    0xC0000102: "MsrGsSwap",
}
_SYSTEM_CALLS = 0xC0000082


def machine_registers(target: Target, number: int | None) -> dict[int, int]:
    """The model-specific registers in KPRCB of a processor, by number; those that are not in the dump are left out."""
    nt = target.nt
    prcb = next((processor.prcb for processor in processors(target) if processor.number == number), None)
    if nt is None or prcb is None:
        return {}
    stem = "ProcessorState.SpecialRegisters"
    values = {}
    for register, name in _SAVED_REGISTERS.items():
        field = nt.find("_KPRCB", f"{stem}.{name}")
        value = target.memory.unsigned(prcb + field.offset, field.size) if field is not None else None
        if value is not None:
            values[register] = value
    # Without an entry for system calls no kernel runs: nobody saved them.
    return values if values.get(_SYSTEM_CALLS) else {}
