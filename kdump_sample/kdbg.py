"""KDDEBUGGER_DATA64, as the kernel fills it.

Which variable each member names was read off the block of a Windows 10 19041 kernel against that kernel's public
symbols; members that are zero there stay zero, but for counters of the memory manager, which only earlier kernels have
as variables. Offsets inside KPRCB, KTHREAD and EPROCESS come from the symbol table.
"""

from __future__ import annotations

import struct

from volatility3_kdump.layout import FieldPath, Layouts

#: Offset in the block, symbols (first that exists).
_VARIABLES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0x020, ("RtlpBreakWithStatusInstruction", "DbgBreakPointWithStatus")),
    (0x038, ("KiCallUserMode",)),
    (0x048, ("PsLoadedModuleList",)),
    (0x050, ("PsActiveProcessHead",)),
    (0x058, ("PspCidTable",)),
    (0x060, ("ExpSystemResourcesList",)),
    (0x068, ("ExpPagedPoolDescriptor",)),
    (0x070, ("ExpNumberOfPagedPools",)),
    (0x078, ("KeTimeIncrement",)),
    (0x080, ("KeBugCheckCallbackListHead",)),
    (0x088, ("KiBugCheckData",)),
    (0x090, ("IopErrorLogListHead",)),
    (0x098, ("ObpRootDirectoryObject",)),
    (0x0A0, ("ObpTypeObjectType",)),
    (0x0C0, ("MmPfnDatabase",)),
    (0x0E0, ("MmNumberOfPagingFiles",)),
    (0x0F0, ("MmHighestPhysicalPage",)),
    (0x0F8, ("MmNumberOfPhysicalPages",)),
    (0x100, ("MmMaximumNonPagedPoolInBytes",)),
    (0x110, ("MmNonPagedPoolStart",)),
    (0x130, ("MmPagedPoolInfo",)),
    (0x140, ("MmSizeOfPagedPoolInBytes",)),
    (0x148, ("MmTotalCommitLimit",)),
    (0x150, ("MmTotalCommittedPages",)),
    (0x158, ("MmSharedCommit",)),
    (0x160, ("MmDriverCommit",)),
    (0x168, ("MmProcessCommit",)),
    (0x170, ("MmPagedPoolCommit",)),
    (0x180, ("MmZeroedPageListHead",)),
    (0x188, ("MmFreePageListHead",)),
    (0x190, ("MmStandbyPageListHead",)),
    (0x198, ("MmModifiedPageListHead",)),
    (0x1A0, ("MmModifiedNoWritePageListHead",)),
    (0x1A8, ("MmAvailablePages",)),
    (0x1B0, ("MmResidentAvailablePages",)),
    (0x1B8, ("PoolTrackTable",)),
    (0x1C8, ("MmHighestUserAddress",)),
    (0x1D0, ("MmSystemRangeStart",)),
    (0x1D8, ("MmUserProbeAddress",)),
    (0x1E0, ("KdPrintDefaultCircularBuffer",)),
    (0x1F0, ("KdPrintWritePointer",)),
    (0x1F8, ("KdPrintRolloverCount",)),
    (0x200, ("MmLoadedUserImageList",)),
    (0x208, ("NtBuildLabEx", "NtBuildLab")),
    (0x218, ("KiProcessorBlock",)),
    (0x220, ("MmUnloadedDrivers",)),
    (0x228, ("MmLastUnloadedDriver",)),
    (0x230, ("VerifierTriageActionTaken",)),
    (0x238, ("MmSpecialPoolTag",)),
    (0x240, ("KernelVerifier",)),
    (0x248, ("MmVerifierData",)),
    (0x250, ("MmAllocatedNonPagedPool",)),
    (0x258, ("MmPeakCommitment",)),
    (0x260, ("MmTotalCommitLimitMaximum",)),
    (0x268, ("CmNtCSDVersion",)),
    (0x270, ("MmPhysicalMemoryBlock",)),
    (0x2C8, ("KdPrintCircularBuffer",)),
    (0x2D0, ("KdPrintBufferSize",)),
    (0x2D8, ("KdpLoaderDebuggerBlock", "KeLoaderBlock")),
    (0x308, ("IopNumTriageDumpDataBlocks",)),
    (0x310, ("IopTriageDumpDataBlocks",)),
    (0x320, ("MmBadPagesDetected",)),
    (0x330, ("EtwpDebuggerData",)),
    (0x368, ("RtlRetpolineStubsFunctionTable",)),
)

_OFFSETS: tuple[tuple[int, str, FieldPath], ...] = (
    (0x298, "_KTHREAD", "NextProcessor"),
    (0x29A, "_KTHREAD", "Teb"),
    (0x29C, "_KTHREAD", "KernelStack"),
    (0x29E, "_KTHREAD", "InitialStack"),
    (0x2A0, "_KTHREAD", "ApcState.Process"),
    (0x2A2, "_KTHREAD", "State"),
    (0x2AA, "_EPROCESS", "Peb"),
    (0x2AC, "_EPROCESS", "InheritedFromUniqueProcessId"),
    (0x2AE, "_EPROCESS", "Pcb.DirectoryTableBase"),
    (0x2B2, "_KPRCB", "DpcRoutineActive"),
    (0x2B4, "_KPRCB", "CurrentThread"),
    (0x2B6, "_KPRCB", "MHz"),
    (0x2B8, "_KPRCB", "CpuType"),
    (0x2BA, "_KPRCB", "VendorString"),
    (0x2BC, "_KPRCB", "ProcessorState.ContextFrame"),
    (0x2BE, "_KPRCB", "Number"),
    (0x2E2, "_KPCR", "Self"),
    (0x2E4, "_KPCR", "CurrentPrcb"),
    (0x2E6, "_KPCR", "Prcb"),
    (0x2F2, "_KPRCB", "ProcessorState.SpecialRegisters"),
    (0x338, "_KPRCB", "Context"),
    (0x350, "_KPRCB", "IdleThread"),
    (0x352, "_KPRCB", ("NormalDpcState", "DpcThreadRequested")),
    (0x354, "_KPRCB", "DpcStack"),
    (0x356, "_KPRCB", "IsrStack"),
    (0x35A, "_KPRIQUEUE", "ThreadListHead"),
    (0x35C, "_KTHREAD", "WaitReason"),
)

_WIDE_OFFSETS: tuple[tuple[int, str, FieldPath], ...] = (
    (0x340, "_KTHREAD", "StackLimit"),
    (0x344, "_KTHREAD", "StackBase"),
    (0x348, "_KTHREAD", "QueueListEntry"),
    (0x34C, "_ETHREAD", "IrpList"),
)

_SIZES = ((0x2A8, "_EPROCESS"), (0x2B0, "_KPRCB"), (0x2C0, "_ETHREAD"), (0x2E0, "_KPCR"))

#: Bytes of the default buffer for debugger output.
_PRINT_BUFFER = 0x1000

#: Selectors of the x64 descriptor table: R0 code and data, R3 code and data, TSS, 32-bit code, TEB.
_SELECTORS = ((0x2F4, 0x10), (0x2F6, 0x18), (0x2FA, 0x33), (0x2FC, 0x2B), (0x302, 0x40), (0x304, 0x23), (0x306, 0x53))


def debugger_data(layouts: Layouts, kernel_base: int, size: int, pte_base: int, list_entry: tuple[int, int]) -> bytes:
    """The decoded block, of ``size`` bytes. ``list_entry`` are its forward and backward links."""
    block = bytearray(0x400)
    struct.pack_into("<QQ4sIQ", block, 0, *list_entry, b"KDBG", size, kernel_base)
    for offset, names in _VARIABLES:
        rva = next((rva for rva in map(layouts.symbol, names) if rva is not None), None)
        if rva is not None:
            struct.pack_into("<Q", block, offset, kernel_base + rva)
    buffer = layouts.symbol("KdPrintDefaultCircularBuffer")
    if buffer is not None:
        struct.pack_into("<Q", block, 0x1E8, kernel_base + buffer + _PRINT_BUFFER)
    for offset, value in ((0x036, 1), *_SELECTORS, (0x358, 0x50)):
        struct.pack_into("<H", block, offset, value)
    struct.pack_into("<Q", block, 0x138, 0x1000)
    for offset, type_name, path in _OFFSETS:
        field = layouts.find(type_name, path)
        if field is not None:
            struct.pack_into("<H", block, offset, field.offset)
    for offset, type_name, path in _WIDE_OFFSETS:
        field = layouts.find(type_name, path)
        if field is not None:
            struct.pack_into("<I", block, offset, field.offset)
    for offset, type_name in _SIZES:
        if layouts.has_type(type_name):
            struct.pack_into("<H", block, offset, layouts.size_of(type_name))
    struct.pack_into("<Q", block, 0x360, pte_base)
    return bytes(block[:size])
