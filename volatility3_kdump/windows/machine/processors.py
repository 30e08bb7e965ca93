"""The processors of the target: control blocks, what they ran, and their register contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.cpu.context import Context, context_size, parse_context
from volatility3_kdump.layout import FieldPath
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.structures import field_offset, read_row

if TYPE_CHECKING:
    from volatility3_kdump.cpu.state import ProcessorState
    from volatility3_kdump.target import Target

_MOST_PROCESSORS = 2048
#: LIVE_SYSTEM_DUMP; the ring of user mode in code selectors, the exception level in PSTATE of ARM64.
_LIVE, _USER_RING, _EXCEPTION_LEVEL = 0x161, 3, 0xC
#: Fields of KPCR that say where a processor's tables are, by what a hypervisor calls them.
_TABLE_BASES = {"idt_base": "IdtBase", "task_base": "TssBase", "gdt_base": "GdtBase"}
_X86_TABLE_BASES = {"idt_base": "IDT", "task_base": "TSS", "gdt_base": "GDT"}


@dataclass(frozen=True)
class Processor:
    """One processor. Addresses are virtual; ``None`` is not in the dump.

    ``prcb`` is the address of its KPRCB, ``context`` the registers that it saved when it was stopped (from
    KPRCB.Context, else KPRCB.ProcessorState), or those that a memory image holds.
    """

    number: int
    prcb: int | None
    current_thread: int | None
    idle_thread: int | None
    context: Context | None


def processors(target: Target) -> list[Processor]:
    """The processors of the machine, in the order of KiProcessorBlock, bounded by the header's count.

    A small memory dump that lacks the array still gives the processor whose control block it copied.
    """
    return target.once(_read_processors)


def _read_processors(target: Target) -> list[Processor]:
    count = target.header.number_processors or 0
    array = target.variable("KiProcessorBlock", "KiProcessorBlock")
    listed = []
    if array is not None:
        for index in range(min(count, _MOST_PROCESSORS)):
            prcb = target.memory.pointer(array + index * target.memory.pointer_size)
            if prcb:
                processor = _read_processor(target, prcb)
                if processor is not None:
                    listed.append(processor)
    if not listed:
        processor = _copied_processor(target)
        if processor is not None:
            listed.append(processor)
    return listed


def _copied_processor(target: Target) -> Processor | None:
    """The processor whose control block a small memory dump copied; its address need not be known for that."""
    blob = target.dump.triage.prcb if target.dump.triage else None
    number_field = target.debugger["OffsetPrcbNumber"] if target.debugger else None
    if blob is None or number_field is None:
        return None
    data = target.dump.source.read(blob.offset + number_field, 4)
    if len(data) < 4 or int.from_bytes(data, "little") >= _MOST_PROCESSORS:
        return None
    copies = target.triage_copies
    return Processor(
        int.from_bytes(data, "little"),
        copies["prcb"].address if "prcb" in copies else None,
        copies["thread"].address if "thread" in copies else None,
        None,
        None,
    )


def _read_processor(target: Target, prcb: int) -> Processor | None:
    def offset(path: str, debugger_field: str) -> int | None:
        return field_offset(target, "_KPRCB", path, debugger_field)

    memory = target.memory
    number_offset = offset("Number", "OffsetPrcbNumber")
    number_size = target.nt.field("_KPRCB", "Number").size if target.nt and target.nt.has("_KPRCB", "Number") else 4
    number = memory.unsigned(prcb + number_offset, number_size) if number_offset is not None else None
    current = offset("CurrentThread", "OffsetPrcbCurrentThread")
    idle = offset("IdleThread", "OffsetPrcbIdleThread")
    if number is None or number >= _MOST_PROCESSORS:
        return None
    return Processor(
        number,
        prcb,
        memory.pointer(prcb + current) or None if current is not None else None,
        memory.pointer(prcb + idle) or None if idle is not None else None,
        _registers(target, prcb, number),
    )


def _registers(target: Target, prcb: int, number: int) -> Context | None:
    """What a processor saved when the machine stopped; in an image of a machine that runs, what its container holds.

    A running machine has records of registers as well, of a time long past.
    """
    if target.header.container is None:
        return _context(target, prcb, number)
    saved = _context(target, prcb, number) if target.header.crashed else None
    if saved is not None and saved.ip and target.is_kernel_address(saved.ip):
        return saved
    state = _state_of(target, prcb)
    return None if state is None else state.context


def _state_of(target: Target, prcb: int) -> ProcessorState | None:
    """What the container of an image holds of the processor with a control block.

    GS leads to the control region in the kernel, KERNEL_GS_BASE in user mode; the tables' addresses stand in it. On
    ARM64 x18 leads to it in the kernel, and to the TEB of the current thread in user mode; on x86 FS does.
    """
    architecture = target.header.architecture
    # Of x86 Prcb is a pointer, and the block itself is PrcbData.
    inside = field_offset(target, "_KPCR", "PrcbData" if architecture == "x86" else "Prcb", "OffsetPcrContainedPrcb")
    if inside is None:
        return None
    region = prcb - inside
    if architecture in ("arm64", "x86"):
        state = _by_platform_register(target, prcb, region)
        if state is not None or architecture == "arm64":
            return state
    for state in target.dump.processors:
        if region in (state.gs_base, state.kernel_gs_base):
            return state
    bases = _X86_TABLE_BASES if architecture == "x86" else _TABLE_BASES
    tables = {name: field_offset(target, "_KPCR", path, None) for name, path in bases.items()}
    for name, place in tables.items():
        base = target.memory.pointer(region + place) if place is not None else None
        for state in target.dump.processors:
            held = getattr(state, name)
            if base and held and base == sign_extended(held, target.memory.pointer_size):
                return state
    return None


def _by_platform_register(target: Target, prcb: int, region: int) -> ProcessorState | None:
    current = field_offset(target, "_KPRCB", "CurrentThread", "OffsetPrcbCurrentThread")
    place = field_offset(target, "_KTHREAD", "Teb", "OffsetKThreadTeb")
    thread = target.memory.pointer(prcb + current) if current is not None else None
    teb = target.memory.pointer(thread + place) if thread and place is not None else None
    for state in target.dump.processors:
        held = sign_extended(state.platform_register or 0, target.memory.pointer_size)
        if held and held == (teb if state.in_user_mode else region):
            return state
    return None


def _context(target: Target, prcb: int, number: int) -> Context | None:
    memory = target.memory
    architecture = target.header.architecture
    size = context_size(architecture) if architecture in ("x64", "arm64", "x86") else 0
    pointer_offset = field_offset(target, "_KPRCB", "Context", "OffsetPrcbContext")
    if size and pointer_offset is not None:
        address = memory.pointer(prcb + pointer_offset)
        data = memory.read(address, size) if address else None
        context = parse_context(data, architecture, f"KPRCB.Context of processor {number}", address) if data else None
        if context is not None and context.ip and _plausible(target, context):
            return context
    state_offset = field_offset(target, "_KPRCB", "ProcessorState.ContextFrame", "OffsetPrcbProcStateContext")
    if size and state_offset is not None:
        data = memory.read(prcb + state_offset, size)
        if data is not None:
            source = f"KPRCB.ProcessorState of processor {number}"
            return parse_context(data, architecture, source, prcb + state_offset)
    return None


def _plausible(target: Target, context: Context) -> bool:
    """Whether registers are those of a stopped processor: in the kernel, or in user mode by what they say of it.

    A processor that stops for a bug check is in the kernel; one of a dump that was made from outside may be anywhere.
    """
    ip = context.ip or 0
    if target.is_kernel_address(ip):
        return True
    state = context.get("cpsr" if context.architecture == "arm64" else "cs")
    if target.header.bug_check_code != _LIVE or state is None:
        return False
    return not state & _EXCEPTION_LEVEL if context.architecture == "arm64" else state & _USER_RING == _USER_RING


#: Fields of KPCR, newest layout first: x64 has the tables' bases, x86 their addresses and NT_TIB.
_REGION: dict[str, FieldPath] = {
    "major": "MajorVersion",
    "minor": "MinorVersion",
    "own": ("Self", "SelfPcr"),
    "prcb": ("CurrentPrcb", "Prcb"),
    "irql": ("Irql", "CurrentIrql"),
    "idt": ("IdtBase", "IDT"),
    "gdt": ("GdtBase", "GDT"),
    "tss": ("TssBase", "TSS"),
    "user_stack": "UserRsp",
    "interrupt_requests": "IRR",
    "interrupts_disabled": "IDR",
}
#: Fields of KPRCB.
_BLOCK: dict[str, FieldPath] = {
    "current": "CurrentThread",
    "next": "NextThread",
    "idle": "IdleThread",
    "saved_irql": "DebuggerSavedIRQL",
    "number": "Number",
    "group": "Group",
    "group_index": ("GroupIndex", "Number"),
    "group_member": ("GroupSetMember", "SetMember"),
    "interrupts": "InterruptCount",
    "dpc_time": "DpcTime",
    "interrupt_time": "InterruptTime",
    "kernel_time": "KernelTime",
    "user_time": "UserTime",
}
_MODEL: dict[str, FieldPath] = {
    "family": "CpuType",
    "step": "CpuStep",
    "mhz": "MHz",
    "update_signature": "UpdateSignature.QuadPart",
    "features": "FeatureBits",
}
#: Bytes of KPRCB.VendorString.
_VENDOR_SIZE = 13


@dataclass(frozen=True)
class ProcessorModel:
    """What a processor is, by its KPRCB; ``None`` is not in the dump or not in this kernel's KPRCB.

    ``family`` is CpuType, ``model`` and ``stepping`` the two bytes of CpuStep, ``vendor`` VendorString, ``mhz`` its
    nominal frequency, ``update_signature`` the microcode's as UpdateSignature has it, ``features`` FeatureBits.
    """

    number: int
    family: int | None
    model: int | None
    stepping: int | None
    vendor: str | None
    mhz: int | None
    update_signature: int | None
    features: int | None


def processor_models(target: Target) -> list[ProcessorModel]:
    """The model of each processor whose control block is in the dump; none without the kernel's symbols, or on ARM64.

    Read from KPRCB, whose fields ``CpuType`` and ``CpuStep`` only x86 and x64 have.
    """
    nt = target.nt
    if nt is None or not nt.has("_KPRCB", "CpuType"):
        return []
    vendor = nt.find("_KPRCB", "VendorString")
    models = []
    for processor in processors(target):
        if processor.prcb is None:
            continue
        row = _fields(target, "_KPRCB", _MODEL, processor.prcb)
        step = row["step"]
        name = None
        if vendor is not None:
            name = target.memory.c_string(processor.prcb + vendor.offset, _VENDOR_SIZE) or None
        models.append(
            ProcessorModel(
                processor.number,
                row["family"],
                None if step is None else step >> 8 & 0xFF,
                None if step is None else step & 0xFF,
                name,
                row["mhz"],
                row["update_signature"],
                row["features"],
            )
        )
    return models


@dataclass(frozen=True)
class ControlRegion:
    """A KPCR and the KPRCB in it: their addresses, and fields by name.

    ``region`` and ``block`` map names to values; a field that this kernel does not have, or that the dump does not
    hold, is ``None``. Times are counts of clock interrupts.
    """

    number: int
    address: int
    prcb: int
    region: dict[str, int | None]
    block: dict[str, int | None]


def control_region(target: Target, processor: Processor) -> ControlRegion | None:
    """The control region of a processor; ``None`` without the kernel's symbols or its control block."""
    nt, prcb = target.nt, processor.prcb
    if nt is None or prcb is None:
        return None
    inside = nt.find("_KPCR", ("Prcb", "PrcbData")) if nt.has_type("_KPCR") else None
    if inside is None:
        return None
    if target.header.architecture == "x86":
        # Prcb is a pointer there, and the block itself is PrcbData.
        inside = nt.field("_KPCR", "PrcbData")
    address = prcb - inside.offset
    return ControlRegion(
        processor.number,
        address,
        prcb,
        _fields(target, "_KPCR", _REGION, address),
        _fields(target, "_KPRCB", _BLOCK, prcb),
    )


def _fields(target: Target, type_name: str, paths: dict[str, FieldPath], address: int) -> dict[str, int | None]:
    assert target.nt is not None
    row: Any = read_row(target.memory, target.nt.reader(type_name, **paths), address)
    values = {name: None if row is None else getattr(row, name) for name in paths}
    # On ARM64 Prcb is the block itself, not its address.
    return {name: None if isinstance(value, bytes) else value for name, value in values.items()}
