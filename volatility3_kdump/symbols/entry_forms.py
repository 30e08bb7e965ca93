"""What a kernel's symbols say of page table entries that are not valid."""

from __future__ import annotations

from volatility3_kdump.cpu.paging import EntryForms
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import ReadMemory

_SOFTWARE = "_MMPTE_SOFTWARE"
_POINTER_SIZE = 8


def entry_forms(nt: Layouts, base: int | None, read: ReadMemory) -> EntryForms | None:
    """The forms of the kernel at ``base`` (``None``: only the types are right, as of a sibling's table).

    ``None`` where the types lack ``_MMPTE_SOFTWARE``.
    """
    page_file, protection = (nt.find(_SOFTWARE, name) for name in ("PageFileLow", "Protection"))
    swizzle = nt.find(_SOFTWARE, "SwizzleBit")
    if page_file is None or protection is None:
        return None
    mask: int | None = 0
    if swizzle is not None:
        mask = None if base is None else invalid_pte_mask(nt, base, read)
    return EntryForms(page_file.bit, protection.bit, None if swizzle is None else swizzle.bit, mask)


def invalid_pte_mask(nt: Layouts, base: int, read: ReadMemory) -> int | None:
    """The bit that the kernel sets in entries that are not valid, against L1TF; ``None`` where it cannot be read.

    ``MiState.Hardware.InvalidPteMask``, in older kernels the variable ``MiInvalidPteMask``; 0 in kernels with neither.
    """
    state, field = nt.symbol("MiState"), nt.find("_MI_SYSTEM_INFORMATION", "Hardware.InvalidPteMask")
    if state is not None and field is not None:
        address, size = base + state + field.offset, field.size
    else:
        variable = nt.symbol("MiInvalidPteMask")
        if variable is None:
            return 0
        address, size = base + variable, _POINTER_SIZE
    data = read(address, size)
    return None if data is None else int.from_bytes(data, "little")
