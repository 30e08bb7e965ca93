"""Register contexts: the CONTEXT records of x64, ARM64 and x86 as one value.

* :class:`Context` - the registers that are known, and where they come from.
* :func:`parse_context` - a CONTEXT record's bytes as a :class:`Context`.
* :func:`why_not_context` - the reason why bytes are not a CONTEXT of an architecture.
* :func:`recognise_architecture` - which architecture's CONTEXT the bytes hold.

Layouts: ``CONTEXT`` (AMD64 and i386) and ``ARM64_NT_CONTEXT`` of the Windows SDK's ``winnt.h``. ``ContextFlags`` says
which groups of registers the writer filled in; a register of a group that was not written is unknown, whatever its
bytes are.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

_Groups = dict[int, dict[str, tuple[int, int]]]

# Register name to (offset, size) in bytes, by the bit of ContextFlags that says the group was written.
_AMD64_GROUPS: _Groups = {
    0x01: {"cs": (0x38, 2), "ss": (0x42, 2), "eflags": (0x44, 4), "rsp": (0x98, 8), "rip": (0xF8, 8)},
    0x02: {
        "rax": (0x78, 8),
        "rcx": (0x80, 8),
        "rdx": (0x88, 8),
        "rbx": (0x90, 8),
        "rbp": (0xA0, 8),
        "rsi": (0xA8, 8),
        "rdi": (0xB0, 8),
        **{f"r{number}": (0xB8 + 8 * (number - 8), 8) for number in range(8, 16)},
    },
    0x04: {"ds": (0x3A, 2), "es": (0x3C, 2), "fs": (0x3E, 2), "gs": (0x40, 2)},
    0x08: {"mxcsr": (0x34, 4)},
    0x10: {
        "dr0": (0x48, 8),
        "dr1": (0x50, 8),
        "dr2": (0x58, 8),
        "dr3": (0x60, 8),
        "dr6": (0x68, 8),
        "dr7": (0x70, 8),
    },
}
_ARM64_GROUPS: _Groups = {
    0x01: {"cpsr": (0x04, 4), "fp": (0xF0, 8), "lr": (0xF8, 8), "sp": (0x100, 8), "pc": (0x108, 8)},
    0x02: {f"x{number}": (8 + 8 * number, 8) for number in range(29)},
    0x04: {"fpcr": (0x310, 4), "fpsr": (0x314, 4)},
}
_X86_GROUPS: _Groups = {
    0x01: {
        "ebp": (0xB4, 4),
        "eip": (0xB8, 4),
        "cs": (0xBC, 2),
        "eflags": (0xC0, 4),
        "esp": (0xC4, 4),
        "ss": (0xC8, 2),
    },
    0x02: {
        "edi": (0x9C, 4),
        "esi": (0xA0, 4),
        "ebx": (0xA4, 4),
        "edx": (0xA8, 4),
        "ecx": (0xAC, 4),
        "eax": (0xB0, 4),
    },
    0x04: {"gs": (0x8C, 2), "fs": (0x90, 2), "es": (0x94, 2), "ds": (0x98, 2)},
    0x10: {
        "dr0": (0x04, 4),
        "dr1": (0x08, 4),
        "dr2": (0x0C, 4),
        "dr3": (0x10, 4),
        "dr6": (0x14, 4),
        "dr7": (0x18, 4),
    },
}

#: Bytes of FXSAVE in front of XMM0.
_X87_SIZE = 0xA0
_WIDTHS = {2: "<H", 4: "<I", 8: "<Q"}


@dataclass(frozen=True)
class _Record:
    """One architecture's CONTEXT: sizes in bytes, and register name to (offset, size) for each flag group."""

    size: int
    flags_offset: int
    class_bit: int
    groups: Mapping[int, Mapping[str, tuple[int, int]]]
    vector_flag: int
    vector_offset: int
    vector_count: int


_RECORDS = {
    "x64": _Record(0x4D0, 0x30, 0x100000, _AMD64_GROUPS, 8, 0x1A0, 16),
    "arm64": _Record(0x390, 0x00, 0x400000, _ARM64_GROUPS, 4, 0x110, 32),
    "x86": _Record(0x2CC, 0x00, 0x10000, _X86_GROUPS, 0x20, 0x16C, 8),
}

#: Bits of ContextFlags that name the architecture; exactly one class bit is set in a valid record.
_CLASS_MASK = 0x00FF0000

_POINTERS = {"x64": ("rip", "rsp", "rbp"), "arm64": ("pc", "sp", "fp"), "x86": ("eip", "esp", "ebp")}
_SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs")


@dataclass(frozen=True)
class Context:
    """The registers of one processor or thread at one moment.

    ``architecture`` is ``x64``, ``arm64`` or ``x86``. ``registers`` maps lower-case names to unsigned values (x64
    ``rax``..``r15 rip rsp eflags cs ss ds es fs gs mxcsr dr0``..; ARM64 ``x0``..``x28 fp lr sp pc cpsr``; x86
    ``eax``.. ``eip esp eflags cs``..); a register that is not known is absent. ``source`` says in words where the
    values come from ("header context", "trap frame", "context record"); ``address`` is the virtual address of that
    record, ``None`` when it lies in the dump's header or the values were derived. ``xmm`` holds the 128-bit vector
    registers by number, ``None`` for each one, or for all, that is not known. ``x87`` is what FXSAVE wrote of the x87
    unit (Intel's manual, volume 1, 10.5.1), in front of the vector registers; ``None`` where it is not known.
    """

    architecture: str
    registers: Mapping[str, int] = field(hash=False)
    source: str
    address: int | None = None
    xmm: tuple[int | None, ...] | None = None
    x87: bytes | None = None

    @property
    def known(self) -> frozenset[str]:
        """The names of the registers whose values are known."""
        return frozenset(self.registers)

    def get(self, name: str) -> int | None:
        """The value of a register; ``None`` when it is not known."""
        return self.registers.get(name)

    @property
    def pointer_size(self) -> int:
        """Bytes in an address of this architecture."""
        return 4 if self.architecture == "x86" else 8

    @property
    def ip_name(self) -> str:
        """What the architecture calls its instruction pointer."""
        return _POINTERS[self.architecture][0]

    @property
    def ip(self) -> int | None:
        """The instruction pointer (``rip``, ``pc``, ``eip``); ``None`` when not known."""
        return self.registers.get(_POINTERS[self.architecture][0])

    @property
    def sp(self) -> int | None:
        """The stack pointer (``rsp``, ``sp``, ``esp``); ``None`` when not known."""
        return self.registers.get(_POINTERS[self.architecture][1])

    @property
    def fp(self) -> int | None:
        """The frame pointer (``rbp``, ``fp``, ``ebp``); ``None`` when not known."""
        return self.registers.get(_POINTERS[self.architecture][2])

    @property
    def has_segments(self) -> bool:
        """Whether all six segment registers and the flags are known, as in a full CONTEXT but not in a trap frame."""
        return "eflags" in self.registers and all(name in self.registers for name in _SEGMENTS)

    def replace(
        self,
        source: str | None = None,
        /,
        *,
        xmm: tuple[int | None, ...] | None = None,
        **registers: int | None,
    ) -> Context:
        """A context derived from this one, for instance the caller's: ``context.replace("unwind", rip=..., rbx=None)``.

        A register given as ``None`` becomes unknown; those not named keep their state, as does ``xmm``. With a new
        ``source`` the address of the record no longer applies and is dropped. Raises ``ValueError`` for a register
        that the architecture does not have.
        """
        names = register_names(self.architecture)
        values = dict(self.registers)
        for name, value in registers.items():
            if name not in names:
                raise ValueError(f"{self.architecture} has no register {name}")
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
        return Context(
            self.architecture,
            values,
            self.source if source is None else source,
            self.address if source is None else None,
            self.xmm if xmm is None else xmm,
        )


def context_size(architecture: str) -> int:
    """Bytes of a CONTEXT record without extended state. Raises ``KeyError`` for an unknown architecture."""
    return _RECORDS[architecture].size


def register_names(architecture: str) -> frozenset[str]:
    """Every register name that a context of the architecture can hold, vector registers apart."""
    return _NAMES[architecture]


_NAMES = {
    architecture: frozenset(name for group in record.groups.values() for name in group)
    for architecture, record in _RECORDS.items()
}


def why_not_context(data: bytes, architecture: str) -> str | None:
    """The reason why the bytes are not a CONTEXT of the architecture, in words; ``None`` when they are one."""
    record = _RECORDS.get(architecture)
    if record is None:
        return f"no context layout for architecture {architecture!r}"
    if len(data) < record.flags_offset + 4:
        return f"{len(data)} bytes are too few for an {architecture} context record"
    (flags,) = struct.unpack_from("<I", data, record.flags_offset)
    if data[record.flags_offset : record.flags_offset + 4] == b"PAGE":
        return "the context record was never written (PAGE fill)"
    if flags & _CLASS_MASK != record.class_bit:
        return f"ContextFlags {flags:#010x} are not those of an {architecture} context record"
    if not any(flags & bit for bit in record.groups):
        return f"ContextFlags {flags:#010x} say that no register was written"
    return None


def recognise_architecture(data: bytes) -> str | None:
    """The architecture whose class bit ContextFlags carry where that architecture's record keeps them.

    For headers whose MachineImageType is not set. ``None`` when no architecture, or more than one, fits.
    """
    fitting = [architecture for architecture in _RECORDS if why_not_context(data, architecture) is None]
    return fitting[0] if len(fitting) == 1 else None


def parse_context(data: bytes, architecture: str, source: str, address: int | None = None) -> Context | None:
    """A CONTEXT record as a :class:`Context`; ``None`` when :func:`why_not_context` has a reason against it.

    ``data`` starts at the record; bytes missing at its end leave the registers that lie there unknown. ``source``
    and ``address`` are kept in the result.
    """
    if why_not_context(data, architecture) is not None:
        return None
    record = _RECORDS[architecture]
    (flags,) = struct.unpack_from("<I", data, record.flags_offset)
    registers: dict[str, int] = {}
    for bit, group in record.groups.items():
        if not flags & bit:
            continue
        for name, (offset, size) in group.items():
            if offset + size <= len(data):
                (registers[name],) = struct.unpack_from(_WIDTHS[size], data, offset)
    if not registers:
        return None
    xmm: tuple[int, ...] | None = None
    end = record.vector_offset + 16 * record.vector_count
    if flags & record.vector_flag == record.vector_flag and len(data) >= end:
        xmm = tuple(
            int.from_bytes(data[offset : offset + 16], "little") for offset in range(record.vector_offset, end, 16)
        )
    return Context(architecture, registers, source, address, xmm, _x87(data, record, flags, architecture))


def _x87(data: bytes, record: _Record, flags: int, architecture: str) -> bytes | None:
    start = record.vector_offset - _X87_SIZE
    if architecture == "arm64" or flags & record.vector_flag != record.vector_flag:
        return None
    return data[start : record.vector_offset] if len(data) >= record.vector_offset else None
