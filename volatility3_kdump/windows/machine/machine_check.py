"""The status of a machine check (IA32_MCi_STATUS), and what its error codes mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_INTERNAL_TIMER = 0x0400
_SIMPLE = {
    0x0000: "no error",
    0x0001: "unclassified",
    0x0002: "microcode ROM parity error",
    0x0003: "external error",
    0x0004: "functional redundancy check error",
    0x0005: "internal parity error",
    0x0006: "SMM handler code access violation",
    _INTERNAL_TIMER: "internal timer error",
    0x0E0B: "I/O error",
}
_TRANSACTIONS = ("I", "D", "G", "*")
_LEVELS = ("L0", "L1", "L2", "LG")
_REQUESTS = ("ERR", "RD", "WR", "DRD", "DWR", "IRD", "PREFETCH", "EVICT", "SNOOP")
_PARTICIPATIONS = ("SRC", "RES", "OBS", "*")
_INTERCONNECTS = ("M", "*", "IO", "*")
_MEMORY_TRANSACTIONS = ("GEN", "RD", "WR", "AC", "MS")
#: Bits of MCi_STATUS and what they say, from the top.
_STATE = (
    (62, "overflow"),
    (61, "uncorrected"),
    (60, "reporting enabled"),
    (59, "MISC valid"),
    (58, "ADDR valid"),
    (57, "processor context corrupt"),
)


@dataclass(frozen=True)
class MachineCheckStatus:
    """The value of an MCi_STATUS register."""

    value: int

    @property
    def valid(self) -> bool:
        return bool(self.value >> 63 & 1)

    @property
    def uncorrected(self) -> bool:
        return bool(self.value >> 61 & 1)

    @property
    def misc_valid(self) -> bool:
        return bool(self.value >> 59 & 1)

    @property
    def address_valid(self) -> bool:
        return bool(self.value >> 58 & 1)

    @property
    def context_corrupt(self) -> bool:
        return bool(self.value >> 57 & 1)

    @property
    def code(self) -> int:
        """The machine check error code, 16 bits, which all models share."""
        return self.value & 0xFFFF

    @property
    def model_code(self) -> int:
        """The model-specific error code, 16 bits."""
        return self.value >> 16 & 0xFFFF

    @property
    def state(self) -> str:
        """Its flags in words."""
        states = [name for bit, name in _STATE if self.value >> bit & 1]
        return ", ".join(states if self.valid else ["not valid", *states]) or "valid"

    @property
    def error(self) -> str:
        """The error code in the notation of the Intel SDM: ``DCACHEL1_DRD_ERR``, ``BUSLG_SRC_RD_M_NOTIMEOUT_ERR``."""
        return _error_text(self.code)

    @property
    def bucket_word(self) -> str | None:
        """What failure buckets call the kind of error; ``None`` where they have no word."""
        if self.code in _SIMPLE:
            return "MAE" if self.code == _INTERNAL_TIMER else None
        code = self.code & 0xEFFF
        if code >> 8 == 0x01 or code & 0xFFFC == 0x000C:
            return "CACHE"
        if code & 0xFFF0 == 0x0010:
            return "TLB"
        if code & 0xF800 == 0x0800:
            return "BUS"
        return None


def _error_text(code: int) -> str:
    if code in _SIMPLE:
        return _SIMPLE[code]
    # Bit 12 says that corrected errors are filtered; the rest is the code.
    base = code & 0xEFFF
    level, transaction = _LEVELS[base & 3], _TRANSACTIONS[base >> 2 & 3]
    request = _pick(_REQUESTS, base >> 4 & 0xF)
    if base & 0xFFFC == 0x000C:
        return f"GCACHE{level}_ERR"
    if base & 0xFFF0 == 0x0010:
        return f"{transaction}TLB{level}_ERR"
    if base & 0xFF80 in (0x0080, 0x0280):
        channel = base & 0xF
        where = "CHANNEL?" if channel == 0xF else f"CHANNEL{channel}"
        memory = "EXTENDED_MEMORY" if base & 0x0200 else "MEMORY"
        return f"{memory}_{_pick(_MEMORY_TRANSACTIONS, base >> 4 & 7)}_{where}_ERR"
    if base >> 8 == 0x01:
        return f"{transaction}CACHE{level}_{request}_ERR"
    if base & 0xF800 == 0x0800:
        timeout = "TIMEOUT" if base >> 8 & 1 else "NOTIMEOUT"
        participation = _PARTICIPATIONS[base >> 9 & 3]
        return f"BUS{level}_{participation}_{request}_{_INTERCONNECTS[base >> 2 & 3]}_{timeout}_ERR"
    if base & 0xFC00 == 0x0400:
        return f"internal unclassified error {base & 0x3FF:#x}"
    return f"unknown error code {code:#06x}"


def _pick(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else "*"
