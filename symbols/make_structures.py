"""Write symbols/kdump/structures.json: the structures that public kernel symbols lack, as an ISF table.

Run as ``python symbols/make_structures.py`` after changing a declaration. Each structure is declared by lines
``offset name type`` with hexadecimal offsets; a type is u8, u16, u32, u64, ``type[count]`` or the name of a structure
declared above it. Sources are given at each declaration.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DECLARATIONS = """
# Windows SDK mindumpdef.h, DUMP_HEADER64 and its PHYSICAL_MEMORY_DESCRIPTOR64.
_PHYSICAL_MEMORY_RUN64 10
    00 BasePage u64
    08 PageCount u64
_PHYSICAL_MEMORY_DESCRIPTOR64 2b0
    00 NumberOfRuns u32
    08 NumberOfPages u64
    10 Run _PHYSICAL_MEMORY_RUN64[42]
_EXCEPTION_RECORD64 98
    00 ExceptionCode u32
    04 ExceptionFlags u32
    08 ExceptionRecord u64
    10 ExceptionAddress u64
    18 NumberParameters u32
    20 ExceptionInformation u64[15]
_DUMP_HEADER64 2000
    0000 Signature u32
    0004 ValidDump u32
    0008 MajorVersion u32
    000c MinorVersion u32
    0010 DirectoryTableBase u64
    0018 PfnDataBase u64
    0020 PsLoadedModuleList u64
    0028 PsActiveProcessHead u64
    0030 MachineImageType u32
    0034 NumberProcessors u32
    0038 BugCheckCode u32
    0040 BugCheckParameter1 u64
    0048 BugCheckParameter2 u64
    0050 BugCheckParameter3 u64
    0058 BugCheckParameter4 u64
    0060 VersionUser u8[32]
    0080 KdDebuggerDataBlock u64
    0088 PhysicalMemoryBlockBuffer u8[700]
    0348 ContextRecord u8[3000]
    0f00 Exception u8[152]
    0f98 DumpType u32
    0fa0 RequiredDumpSpace u64
    0fa8 SystemTime u64
    0fb0 Comment u8[128]
    1030 SystemUpTime u64
    1038 MiniDumpFields u32
    103c SecondaryDataState u32
    1040 ProductType u32
    1044 SuiteMask u32
    1048 WriterStatus u32
    104d KdSecondaryVersion u8
    1050 Attributes u32
    1054 BootId u32
    11f0 DiagnosticLastLine u8[256]
# DUMP_HEADER32 and its descriptor.
_PHYSICAL_MEMORY_RUN32 8
    00 BasePage u32
    04 PageCount u32
_PHYSICAL_MEMORY_DESCRIPTOR32 2b8
    00 NumberOfRuns u32
    04 NumberOfPages u32
    08 Run _PHYSICAL_MEMORY_RUN32[86]
_EXCEPTION_RECORD32 50
    00 ExceptionCode u32
    04 ExceptionFlags u32
    08 ExceptionRecord u32
    0c ExceptionAddress u32
    10 NumberParameters u32
    14 ExceptionInformation u32[15]
_DUMP_HEADER32 1000
    000 Signature u32
    004 ValidDump u32
    008 MajorVersion u32
    00c MinorVersion u32
    010 DirectoryTableBase u32
    014 PfnDataBase u32
    018 PsLoadedModuleList u32
    01c PsActiveProcessHead u32
    020 MachineImageType u32
    024 NumberProcessors u32
    028 BugCheckCode u32
    02c BugCheckParameter1 u32
    030 BugCheckParameter2 u32
    034 BugCheckParameter3 u32
    038 BugCheckParameter4 u32
    03c VersionUser u8[32]
    05c PaeEnabled u8
    05d KdSecondaryVersion u8
    060 KdDebuggerDataBlock u32
    064 PhysicalMemoryBlockBuffer u8[700]
    320 ContextRecord u8[1200]
    7d0 Exception u8[80]
    820 Comment u8[128]
    8a0 Attributes u32
    8a4 BootId u32
    f88 DumpType u32
    f8c MiniDumpFields u32
    f90 SecondaryDataState u32
    f94 ProductType u32
    f98 SuiteMask u32
    f9c WriterStatus u32
    fa0 RequiredDumpSpace u64
    fb8 SystemUpTime u64
    fc0 SystemTime u64
# Page data headers that follow the dump header: DumpType 2, 5 and 6, 8 to 0xA.
_SUMMARY_DUMP32 20
    00 Signature u32
    04 ValidDump u32
    08 DumpOptions u32
    0c HeaderSize u32
    10 BitmapSize u32
    14 Pages u32
    18 SizeOfBitMap u32
    1c Buffer u32
_SUMMARY_DUMP64 28
    00 Signature u32
    04 ValidDump u32
    08 DumpOptions u32
    0c HeaderSize u32
    10 BitmapSize u32
    14 Pages u32
    18 SizeOfBitMap u32
    20 Buffer u64
_BITMAP_DUMP 38
    00 Signature u32
    04 ValidDump u32
    08 DumpOptions u32
    20 HeaderSize u64
    28 Pages u64
    30 BitmapSize u64
_RANGE_DUMP 30
    00 Marker u32
    04 Signature u32
    08 ValidDump u32
    10 MetadataSize u64
    18 FirstPageOffset u64
    20 NumberOfRanges u32
    28 TotalNumberOfPages u64
# TRIAGE_DUMP64/32 and what it points to; checked on real small memory dumps.
_TRIAGE_DUMP64 80
    00 ServicePackBuild u32
    04 SizeOfDump u32
    08 ValidOffset u32
    0c ContextOffset u32
    10 ExceptionOffset u32
    14 MmOffset u32
    18 UnloadedDriversOffset u32
    1c PrcbOffset u32
    20 ProcessOffset u32
    24 ThreadOffset u32
    28 CallStackOffset u32
    2c SizeOfCallStack u32
    30 DriverListOffset u32
    34 DriverCount u32
    38 StringPoolOffset u32
    3c StringPoolSize u32
    40 BrokenDriverOffset u32
    44 TriageOptions u32
    48 TopOfStack u64
    60 DataPageAddress u64
    68 DataPageOffset u32
    6c DataPageSize u32
    70 DebuggerDataOffset u32
    74 DebuggerDataSize u32
    78 DataBlocksOffset u32
    7c DataBlocksCount u32
# What the memory manager leaves in a small memory dump, at MmOffset. Counts are pages; zeros were never written.
_DUMP_MM_STORAGE64 50
    00 Version u32
    04 Size u32
    08 MmSpecialPoolTag u32
    0c MiTriageActionTaken u32
    10 MmVerifyDriverLevel u32
    14 KernelVerifier u32
    18 MmMaximumNonPagedPool u64
    20 MmAllocatedNonPagedPool u64
    28 PagedPoolMaximum u64
    30 PagedPoolAllocated u64
    38 CommittedPages u64
    40 CommittedPagesPeak u64
    48 CommitLimitMaximum u64
_DUMP_MM_STORAGE32 34
    00 Version u32
    04 Size u32
    08 MmSpecialPoolTag u32
    0c MiTriageActionTaken u32
    10 MmVerifyDriverLevel u32
    14 KernelVerifier u32
    18 MmMaximumNonPagedPool u32
    1c MmAllocatedNonPagedPool u32
    20 PagedPoolMaximum u32
    24 PagedPoolAllocated u32
    28 CommittedPages u32
    2c CommittedPagesPeak u32
    30 CommitLimitMaximum u32
_TRIAGE_DUMP32 68
    00 ServicePackBuild u32
    04 SizeOfDump u32
    08 ValidOffset u32
    0c ContextOffset u32
    10 ExceptionOffset u32
    14 MmOffset u32
    18 UnloadedDriversOffset u32
    1c PrcbOffset u32
    20 ProcessOffset u32
    24 ThreadOffset u32
    28 CallStackOffset u32
    2c SizeOfCallStack u32
    30 DriverListOffset u32
    34 DriverCount u32
    38 StringPoolOffset u32
    3c StringPoolSize u32
    40 BrokenDriverOffset u32
    44 TriageOptions u32
    48 TopOfStack u32
    4c DataPageAddress u32
    50 DataPageOffset u32
    54 DataPageSize u32
    58 DebuggerDataOffset u32
    5c DebuggerDataSize u32
    60 DataBlocksOffset u32
    64 DataBlocksCount u32
_TRIAGE_DATA_BLOCK 10
    00 Address u64
    08 Offset u32
    0c Size u32
_TRIAGE_DATA_BLOCK32 c
    00 Address u32
    04 Offset u32
    08 Size u32
_TRIAGE_DRIVER64 90
    00 NameOffset u32
    38 DllBase u64
    40 EntryPoint u64
    48 SizeOfImage u32
    80 CheckSum u32
    88 TimeDateStamp u32
_TRIAGE_DRIVER32 4c
    00 NameOffset u32
    1c DllBase u32
    20 EntryPoint u32
    24 SizeOfImage u32
    44 CheckSum u32
    48 TimeDateStamp u32
_TRIAGE_UNLOADED_DRIVER64 38
    00 NameLength u16
    10 DriverName u8[24]
    28 StartAddress u64
    30 EndAddress u64
_TRIAGE_UNLOADED_DRIVER32 28
    00 NameLength u16
    08 DriverName u8[24]
    20 StartAddress u32
    24 EndAddress u32
# Tagged secondary data that follows the pages or the triage data.
_DUMP_BLOB_FILE_HEADER 10
    00 Signature1 u32
    04 Signature2 u32
    08 HeaderSize u32
    0c BuildNumber u32
_DUMP_BLOB_HEADER 20
    00 HeaderSize u32
    04 Tag u8[16]
    14 DataSize u32
    18 PrePad u32
    1c PostPad u32
# Entry of nt!MmUnloadedDrivers (an array of 50 in paged or nonpaged pool).
_UNLOADED_DRIVERS64 28
    00 NameLength u16
    02 NameMaximumLength u16
    08 NameBuffer u64
    10 StartAddress u64
    18 EndAddress u64
    20 CurrentTime u64
_UNLOADED_DRIVERS32 18
    00 NameLength u16
    02 NameMaximumLength u16
    04 NameBuffer u32
    08 StartAddress u32
    0c EndAddress u32
    10 CurrentTime u64
# IO_ERROR_LOG_PACKET of the WDK's wdm.h (no pointers: the same for 32 and 64 bits), up to its dump data. In front of it
# IoAllocateErrorLogEntry puts IO_TYPE_ERROR_LOG, the size with the packet, the link in nt!IopErrorLogListHead, the
# objects and the time; the driver gets the address behind them.
_IO_ERROR_LOG_PACKET 28
    00 MajorFunctionCode u8
    01 RetryCount u8
    02 DumpDataSize u16
    04 NumberOfStrings u16
    06 StringOffset u16
    08 EventCategory u16
    0c ErrorCode u32
    10 UniqueErrorValue u32
    14 FinalStatus u32
    18 SequenceNumber u32
    1c IoControlCode u32
    20 DeviceOffset u64
_ERROR_LOG_ENTRY64 30
    00 Type u16
    02 Size u16
    08 Flink u64
    10 Blink u64
    18 DeviceObject u64
    20 DriverObject u64
    28 TimeStamp u64
_ERROR_LOG_ENTRY32 20
    00 Type u16
    02 Size u16
    04 Flink u32
    08 Blink u32
    0c DeviceObject u32
    10 DriverObject u32
    18 TimeStamp u64
# Start of KLDR_DATA_TABLE_ENTRY, unmoved since Windows Vista: for kernels whose symbols are not at hand.
_KLDR_DATA_TABLE_ENTRY_FIXED64 80
    30 DllBase u64
    40 SizeOfImage u32
    48 FullDllName u8[16]
    58 BaseDllName u8[16]
    78 CheckSum u32
_KLDR_DATA_TABLE_ENTRY_FIXED32 40
    18 DllBase u32
    20 SizeOfImage u32
    24 FullDllName u8[8]
    2c BaseDllName u8[8]
    3c CheckSum u32
# Switch frame that KiSwapContext leaves at KTHREAD.KernelStack of a waiting x64 thread.
_KSWITCH_FRAME 40
    00 P1Home u64
    08 P2Home u64
    10 P3Home u64
    18 P4Home u64
    20 P5Home u64
    28 ApcBypass u8
    30 Rbp u64
    38 Return u64
# Fixed part of KUSER_SHARED_DATA at fffff780`00000000, the same in every 64-bit Windows from 7 to 11.
_KSYSTEM_TIME c
    00 LowPart u32
    04 High1Time u32
    08 High2Time u32
_KUSER_SHARED_DATA 3c4
    004 TickCountMultiplier u32
    008 InterruptTime _KSYSTEM_TIME
    014 SystemTime _KSYSTEM_TIME
    020 TimeZoneBias _KSYSTEM_TIME
    030 NtSystemRoot u8[520]
    260 NtBuildNumber u32
    264 NtProductType u32
    268 ProductTypeIsValid u8
    26c NtMajorVersion u32
    270 NtMinorVersion u32
    2c4 BootId u32
    2d0 SuiteMask u32
    2e8 NumberOfPhysicalPages u32
    320 TickCount _KSYSTEM_TIME
    3c0 ActiveProcessorCount u32
# Windows SDK wdbgexts.h, KDDEBUGGER_DATA64: the same layout for 32- and 64-bit targets.
_KDDEBUGGER_DATA64 3a8
    000 Flink u64
    008 Blink u64
    010 OwnerTag u32
    014 Size u32
    018 KernBase u64
    020 BreakpointWithStatus u64
    028 SavedContext u64
    030 ThCallbackStack u16
    032 NextCallback u16
    034 FramePointer u16
    036 PaeEnabled u16
    038 KiCallUserMode u64
    040 KeUserCallbackDispatcher u64
    048 PsLoadedModuleList u64
    050 PsActiveProcessHead u64
    058 PspCidTable u64
    060 ExpSystemResourcesList u64
    068 ExpPagedPoolDescriptor u64
    070 ExpNumberOfPagedPools u64
    078 KeTimeIncrement u64
    080 KeBugCheckCallbackListHead u64
    088 KiBugCheckData u64
    090 IopErrorLogListHead u64
    098 ObpRootDirectoryObject u64
    0a0 ObpTypeObjectType u64
    0a8 MmSystemCacheStart u64
    0b0 MmSystemCacheEnd u64
    0b8 MmSystemCacheWs u64
    0c0 MmPfnDatabase u64
    0c8 MmSystemPtesStart u64
    0d0 MmSystemPtesEnd u64
    0d8 MmSubsectionBase u64
    0e0 MmNumberOfPagingFiles u64
    0e8 MmLowestPhysicalPage u64
    0f0 MmHighestPhysicalPage u64
    0f8 MmNumberOfPhysicalPages u64
    100 MmMaximumNonPagedPoolInBytes u64
    108 MmNonPagedSystemStart u64
    110 MmNonPagedPoolStart u64
    118 MmNonPagedPoolEnd u64
    120 MmPagedPoolStart u64
    128 MmPagedPoolEnd u64
    130 MmPagedPoolInformation u64
    138 MmPageSize u64
    140 MmSizeOfPagedPoolInBytes u64
    148 MmTotalCommitLimit u64
    150 MmTotalCommittedPages u64
    158 MmSharedCommit u64
    160 MmDriverCommit u64
    168 MmProcessCommit u64
    170 MmPagedPoolCommit u64
    178 MmExtendedCommit u64
    180 MmZeroedPageListHead u64
    188 MmFreePageListHead u64
    190 MmStandbyPageListHead u64
    198 MmModifiedPageListHead u64
    1a0 MmModifiedNoWritePageListHead u64
    1a8 MmAvailablePages u64
    1b0 MmResidentAvailablePages u64
    1b8 PoolTrackTable u64
    1c0 NonPagedPoolDescriptor u64
    1c8 MmHighestUserAddress u64
    1d0 MmSystemRangeStart u64
    1d8 MmUserProbeAddress u64
    1e0 KdPrintCircularBuffer u64
    1e8 KdPrintCircularBufferEnd u64
    1f0 KdPrintWritePointer u64
    1f8 KdPrintRolloverCount u64
    200 MmLoadedUserImageList u64
    208 NtBuildLab u64
    210 KiNormalSystemCall u64
    218 KiProcessorBlock u64
    220 MmUnloadedDrivers u64
    228 MmLastUnloadedDriver u64
    230 MmTriageActionTaken u64
    238 MmSpecialPoolTag u64
    240 KernelVerifier u64
    248 MmVerifierData u64
    250 MmAllocatedNonPagedPool u64
    258 MmPeakCommitment u64
    260 MmTotalCommitLimitMaximum u64
    268 CmNtCSDVersion u64
    270 MmPhysicalMemoryBlock u64
    278 MmSessionBase u64
    280 MmSessionSize u64
    288 MmSystemParentTablePage u64
    290 MmVirtualTranslationBase u64
    298 OffsetKThreadNextProcessor u16
    29a OffsetKThreadTeb u16
    29c OffsetKThreadKernelStack u16
    29e OffsetKThreadInitialStack u16
    2a0 OffsetKThreadApcProcess u16
    2a2 OffsetKThreadState u16
    2a4 OffsetKThreadBStore u16
    2a6 OffsetKThreadBStoreLimit u16
    2a8 SizeEProcess u16
    2aa OffsetEprocessPeb u16
    2ac OffsetEprocessParentCID u16
    2ae OffsetEprocessDirectoryTableBase u16
    2b0 SizePrcb u16
    2b2 OffsetPrcbDpcRoutine u16
    2b4 OffsetPrcbCurrentThread u16
    2b6 OffsetPrcbMhz u16
    2b8 OffsetPrcbCpuType u16
    2ba OffsetPrcbVendorString u16
    2bc OffsetPrcbProcStateContext u16
    2be OffsetPrcbNumber u16
    2c0 SizeEThread u16
    2c2 L1tfHighPhysicalBitIndex u16
    2c4 L1tfSwizzleBitIndex u16
    2c8 KdPrintCircularBufferPtr u64
    2d0 KdPrintBufferSize u64
    2d8 KeLoaderBlock u64
    2e0 SizePcr u16
    2e2 OffsetPcrSelfPcr u16
    2e4 OffsetPcrCurrentPrcb u16
    2e6 OffsetPcrContainedPrcb u16
    2e8 OffsetPcrInitialBStore u16
    2ea OffsetPcrBStoreLimit u16
    2ec OffsetPcrInitialStack u16
    2ee OffsetPcrStackLimit u16
    2f0 OffsetPrcbPcrPage u16
    2f2 OffsetPrcbProcStateSpecialReg u16
    2f4 GdtR0Code u16
    2f6 GdtR0Data u16
    2f8 GdtR0Pcr u16
    2fa GdtR3Code u16
    2fc GdtR3Data u16
    2fe GdtR3Teb u16
    300 GdtLdt u16
    302 GdtTss u16
    304 Gdt64R3CmCode u16
    306 Gdt64R3CmTeb u16
    308 IopNumTriageDumpDataBlocks u64
    310 IopTriageDumpDataBlocks u64
    318 VfCrashDataBlock u64
    320 MmBadPagesDetected u64
    328 MmZeroedPageSingleBitErrorsDetected u64
    330 EtwpDebuggerData u64
    338 OffsetPrcbContext u16
    33a OffsetPrcbMaxBreakpoints u16
    33c OffsetPrcbMaxWatchpoints u16
    340 OffsetKThreadStackLimit u32
    344 OffsetKThreadStackBase u32
    348 OffsetKThreadQueueListEntry u32
    34c OffsetEThreadIrpList u32
    350 OffsetPrcbIdleThread u16
    352 OffsetPrcbNormalDpcState u16
    354 OffsetPrcbDpcStack u16
    356 OffsetPrcbIsrStack u16
    358 SizeKDPC_STACK_FRAME u16
    35a OffsetKPriQueueThreadListHead u16
    35c OffsetKThreadWaitReason u16
    360 PteBase u64
    368 RetpolineStubFunctionTable u64
    370 RetpolineStubFunctionTableSize u32
    374 RetpolineStubOffset u32
    378 RetpolineStubSize u32
    37c OffsetEProcessMmHotPatchContext u16
    380 OffsetKThreadShadowStackLimit u32
    384 OffsetKThreadShadowStackBase u32
    388 ShadowStackEnabled u64
    390 PointerAuthMask u64
    398 OffsetPrcbExceptionStack u16
    3a0 PointerIgnoreBits u64
# The loader's structures of 32-bit processes: PEB_LDR_DATA and LDR_DATA_TABLE_ENTRY of the public x86 kernel symbols.
_PEB_LDR_DATA32 30
    00 Length u32
    04 Initialized u8
    0c InLoadOrderModuleList u32[2]
    14 InMemoryOrderModuleList u32[2]
    1c InInitializationOrderModuleList u32[2]
_LDR_DATA_TABLE_ENTRY32 50
    00 InLoadOrderLinks u32[2]
    08 InMemoryOrderLinks u32[2]
    10 InInitializationOrderLinks u32[2]
    18 DllBase u32
    1c EntryPoint u32
    20 SizeOfImage u32
    24 FullDllName u32[2]
    2c BaseDllName u32[2]
    34 Flags u32
    38 LoadCount u16
    3a TlsIndex u16
    44 TimeDateStamp u32
"""

BASE_TYPES: dict[str, Any] = {
    **{
        f"u{8 * size}": {"endian": "little", "kind": "char" if size == 1 else "int", "signed": False, "size": size}
        for size in (1, 2, 4, 8)
    },
    "pointer": {"endian": "little", "kind": "int", "signed": False, "size": 8},
}


def build() -> dict[str, Any]:
    """The ISF document as a dictionary."""
    types: dict[str, Any] = {}
    current = ""
    for line in DECLARATIONS.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split()
        if not line.startswith(" "):
            current = words[0]
            types[current] = {"fields": {}, "kind": "struct", "size": int(words[1], 16)}
            continue
        offset, name, type_name = words
        types[current]["fields"][name] = {"offset": int(offset, 16), "type": describe(type_name)}
    return {
        "metadata": {"format": "6.2.0", "producer": {"name": "make_structures", "version": "1"}},
        "base_types": BASE_TYPES,
        "user_types": types,
        "enums": {},
        "symbols": {},
    }


def describe(type_name: str) -> dict[str, Any]:
    """The ISF description of a declared type."""
    array = re.fullmatch(r"(\w+)\[(\d+)\]", type_name)
    if array:
        return {"kind": "array", "count": int(array[2]), "subtype": describe(array[1])}
    return {"kind": "base" if type_name in BASE_TYPES else "struct", "name": type_name}


if __name__ == "__main__":
    target = Path(__file__).with_name("kdump") / "structures.json"
    target.write_text(json.dumps(build(), indent=1) + "\n", encoding="ascii")
    print(f"{target}: {len(build()['user_types'])} structures")
