"""The registers in core files of VirtualBox and Xen.

VirtualBox: a note ``VBCORE`` describes the file, one ``VBCPU`` for each processor is DBGFCORECPU
(``include/VBox/vmm/dbgfcorefmt.h`` and ``src/VBox/VMM/VMMR3/DBGFCoreWrite.cpp``); the first versions of the format have
CPUMCTX instead, which differs from release to release and is not read. Xen: the section ``.xen_prstatus`` has
vcpu_guest_context of each processor (``xen/include/public/arch-x86/xen.h``); of an HVM guest, as Windows is one, Xen
fills in CR0, CR2, CR3, CR4 and the bases of GS (arch_get_info_guest in ``xen/arch/x86/domain.c``), and no descriptor
tables.
"""

from __future__ import annotations

import struct

from volatility3_kdump.captures.notes import Note
from volatility3_kdump.cpu.state import ProcessorState

_VIRTUALBOX_CORE, _VIRTUALBOX_CPU = 0xB00, 0xB01
_CORE_MAGIC, _FIRST_VERSION = 0xC01AC0DE, 0x00010005
_CORE = struct.Struct("<II")
_ORDER = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", *(f"r{number}" for number in range(8, 16))),
    *("rip", "rsp", "rbp", "eflags"),
)
_GENERAL = struct.Struct("<18Q")
#: DBGFCORESEL: base, limit, attributes, selector. cs, ds, es, fs, gs, ss stand behind the general registers, ldtr and
#: tr behind CR0, CR2, CR3, CR4, eight debug registers, gdtr and idtr, each of which is address and limit.
_SEGMENT, _TABLE = struct.Struct("<QIIHHI"), struct.Struct("<QII")
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
_CONTROL_AT = _GENERAL.size + len(_SEGMENTS) * _SEGMENT.size
_TABLES_AT = _CONTROL_AT + 12 * 8
_TASK_AT = _TABLES_AT + 2 * _TABLE.size + _SEGMENT.size
#: Behind tr: three SYSENTER registers, EFER, STAR, PAT, LSTAR, CSTAR, SFMASK.
_KERNEL_GS_AT = _TASK_AT + _SEGMENT.size + 9 * 8
_CONTROL_NUMBERS = (0, 2, 3, 4)

#: vcpu_guest_context of x86-64: its size, its registers, ctrlreg, gs_base_kernel and gs_base_user.
_XEN_SIZE, _XEN_REGISTERS_AT, _XEN_CONTROL_AT, _XEN_GS_AT = 5168, 520, 4984, 5152
_XEN_REGISTERS = struct.Struct("<15Q8xQHxxxxxxQQHxxxxxxHxxxxxxHxxxxxxHxxxxxxHxxxxxx")
_XEN_ORDER = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("rip", "cs", "eflags", "rsp", "ss", "es", "ds", "fs", "gs"),
)
_USER_RING = 3
#: Processors that are read at most.
_MOST_PROCESSORS = 4096


def virtualbox_processors(notes: list[Note]) -> tuple[list[ProcessorState], list[str]]:
    """The processors of a core file of VirtualBox, and what is wrong with the notes."""
    descriptor = next((note.data for note in notes if note.kind == _VIRTUALBOX_CORE and note.name == b"VBCORE"), b"")
    records = [note.data for note in notes if note.kind == _VIRTUALBOX_CPU and note.name == b"VBCPU"]
    if not records:
        return [], []
    magic, version = _CORE.unpack_from(descriptor) if len(descriptor) >= _CORE.size else (0, 0)
    if magic != _CORE_MAGIC:
        return [], ["the notes of VirtualBox have no descriptor (VBCORE): its processors are not read"]
    if version < _FIRST_VERSION:
        return [], [
            f"the notes of VirtualBox have version {version:#x}: processors are read from {_FIRST_VERSION:#x} on"
        ]
    states, complaints = [], []
    for number, data in enumerate(records[:_MOST_PROCESSORS]):
        if len(data) < _KERNEL_GS_AT + 8:
            complaints.append(f"the VBCPU note of processor {number} has {len(data)} bytes; ignored")
            continue
        states.append(_of_virtualbox(number, data))
    return states, complaints


def _of_virtualbox(number: int, data: bytes) -> ProcessorState:
    registers = dict(zip(_ORDER, _GENERAL.unpack_from(data), strict=True))
    registers["eflags"] &= 0xFFFFFFFF
    bases = {}
    for index, name in enumerate(_SEGMENTS):
        base, _, _, selector, _, _ = _SEGMENT.unpack_from(data, _GENERAL.size + index * _SEGMENT.size)
        registers[name], bases[name] = selector, base
    values = struct.unpack_from("<4Q", data, _CONTROL_AT)
    (global_table, *_), (interrupt_table, *_) = (
        _TABLE.unpack_from(data, _TABLES_AT + index * _TABLE.size) for index in range(2)
    )
    (task, *_) = _SEGMENT.unpack_from(data, _TASK_AT)
    (kernel_gs,) = struct.unpack_from("<Q", data, _KERNEL_GS_AT)
    return ProcessorState(
        number,
        f"VBCPU note of processor {number}",
        registers,
        dict(zip(_CONTROL_NUMBERS, values, strict=True)),
        gs_base=bases["gs"],
        kernel_gs_base=kernel_gs or None,
        idt_base=interrupt_table,
        gdt_base=global_table,
        task_base=task,
        fs_base=bases["fs"],
    )


def xen_processors(data: bytes, size: int) -> tuple[list[ProcessorState], list[str]]:
    """The processors in ``.xen_prstatus``, whose entries have ``size`` bytes (0: not said), and what is wrong."""
    size = size or _XEN_SIZE
    if size < _XEN_SIZE:
        return [], [f".xen_prstatus has entries of {size} bytes, which are none of x86-64: its processors are not read"]
    whole, rest = divmod(len(data), size)
    complaints = [f".xen_prstatus ends within the entry of processor {whole}"] if rest else []
    return [_of_xen(number, data[number * size :]) for number in range(min(whole, _MOST_PROCESSORS))], complaints


def _of_xen(number: int, data: bytes) -> ProcessorState:
    registers = dict(zip(_XEN_ORDER, _XEN_REGISTERS.unpack_from(data, _XEN_REGISTERS_AT), strict=True))
    registers["eflags"] &= 0xFFFFFFFF
    control = struct.unpack_from("<5Q", data, _XEN_CONTROL_AT)
    kernel, user = struct.unpack_from("<QQ", data, _XEN_GS_AT)
    in_user_mode = registers["cs"] & _USER_RING == _USER_RING
    return ProcessorState(
        number,
        f".xen_prstatus of processor {number}",
        registers,
        {index: control[index] for index in _CONTROL_NUMBERS},
        gs_base=user if in_user_mode else kernel,
        kernel_gs_base=(kernel if in_user_mode else user) or None,
    )
