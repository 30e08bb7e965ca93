"""User mode in the words of KD's ``!peb``, ``!teb``, ``!dlls`` and ``!gle``; what is not in the dump is ``?``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.drivers import built
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.windows.machine.error_codes import NTSTATUS, WIN32, ErrorCode
from volatility3_kdump.windows.user.blocks import ProcessBlock, ThreadBlock
from volatility3_kdump.windows.user.loader import UserModule

_LDRP = {
    # ntldr.h of the public symbols: LDR_DATA_TABLE_ENTRY.Flags by its bit fields.
    0x00000001: "LDRP_PACKAGED_BINARY",
    0x00000004: "LDRP_IMAGE_DLL",
    0x00000008: "LDRP_LOAD_NOTIFICATIONS_SENT",
    0x00000020: "LDRP_PROCESS_STATIC_IMPORT",
    0x00001000: "LDRP_LOAD_IN_PROGRESS",
    0x00004000: "LDRP_ENTRY_PROCESSED",
    0x00040000: "LDRP_DONT_CALL_FOR_THREADS",
    0x00080000: "LDRP_PROCESS_ATTACH_CALLED",
    0x00400000: "LDRP_COR_IMAGE",
    0x10000000: "LDRP_REDIRECTED",
}
_UNREADABLE = "< Name not readable >"


def peb_lines(block: ProcessBlock, modules: Sequence[UserModule], notes: Sequence[str], size: int = 8) -> Iterator[str]:
    """A PEB, the modules of its loader, and the environment."""
    values = block.values
    yield f"PEB at {pointer(block.address, size, tick=False)}"
    yield f"    InheritedAddressSpace:    {_yes(values['inherited'])}"
    yield f"    ReadImageFileExecOptions: {_yes(values['options'])}"
    yield f"    BeingDebugged:            {_yes(values['debugged'])}"
    yield f"    ImageBaseAddress:         {pointer(values['image_base'], size, tick=False)}"
    yield f"    NtGlobalFlag:             {_hex(values['global_flags'])}"
    yield f"    Ldr                       {pointer(values['ldr'], size, tick=False)}"
    if block.loader_initialized is not None:
        yield f"    Ldr.Initialized:          {_yes(block.loader_initialized)}"
    for name, (first, last) in block.lists.items():
        links = f"{pointer(first, size, tick=False)} . {pointer(last, size, tick=False)}"
        yield f"    {f'Ldr.{name}:':<37}{links}"
    if modules:
        yield f"    {'Base':>{2 * size}} TimeStamp                     Module"
        for module in modules:
            stamp = "????????" if module.timestamp is None else f"{module.timestamp:08x}"
            when = built(module.timestamp) or "?"
            yield f"    {module.base:>{2 * size}x} {stamp} {when:<20} {module.path or module.name or '?'}"
    yield f"    SubSystemData:     {pointer(values['subsystem'], size, tick=False)}"
    yield f"    ProcessHeap:       {pointer(values['heap'], size, tick=False)}"
    yield f"    ProcessParameters: {pointer(values['parameters'], size, tick=False)}"
    for label, name in (
        ("CurrentDirectory:  ", "current_directory"),
        ("WindowTitle:  ", "window_title"),
        ("ImageFile:    ", "image_file"),
        ("CommandLine:  ", "command_line"),
        ("DllPath:      ", "dll_path"),
    ):
        string = block.texts.get(name)
        yield f"    {label}'{_UNREADABLE if string is None else string}'"
    yield f"    Environment:  {pointer(block.environment_at, size, tick=False)}"
    for variable in block.environment or ():
        yield f"        {variable}"
    if block.environment_at is not None and not block.environment_whole:
        yield "        NOTE: the rest of the environment is not in the dump"
    for note in notes:
        yield f"NOTE: {note}"


def teb_lines(block: ThreadBlock, size: int = 8, narrow: bool = False) -> Iterator[str]:
    """A TEB; ``narrow`` says that it is that of 32-bit code in a 64-bit process."""
    values = block.values

    def shown(name: str) -> str:
        return pointer(values[name], size, tick=False)

    yield f"{'Wow64 TEB32' if narrow else 'TEB'} at {pointer(block.address, size, tick=False)}"
    yield f"    ExceptionList:        {shown('exception_list')}"
    yield f"    StackBase:            {shown('stack_base')}"
    yield f"    StackLimit:           {shown('stack_limit')}"
    yield f"    SubSystemTib:         {shown('subsystem_tib')}"
    yield f"    FiberData:            {shown('fiber_data')}"
    yield f"    ArbitraryUserPointer: {shown('arbitrary')}"
    yield f"    Self:                 {shown('own')}"
    yield f"    EnvironmentPointer:   {shown('environment')}"
    yield f"    ClientId:             {shown('pid')} . {shown('tid')}"
    yield f"    RpcHandle:            {shown('rpc')}"
    yield f"    Tls Storage:          {shown('tls')}"
    yield f"    PEB Address:          {shown('peb')}"
    yield f"    LastErrorValue:       {decimal(values['last_error'])}"
    yield f"    LastStatusValue:      {_hex(values['last_status'])}"
    yield f"    Count Owned Locks:    {decimal(values['owned_locks'])}"
    yield f"    HardErrorMode:        {decimal(values['hard_errors'])}"


def dll_lines(module: UserModule, size: int = 8) -> Iterator[str]:
    """An entry of ``!dlls``."""
    yield f"0x{pointer(module.entry, size, tick=False)}: {module.path or module.name or '?'}"
    yield (
        f"      Base   0x{pointer(module.base, size, tick=False)}  "
        f"EntryPoint  0x{pointer(module.entry_point, size, tick=False)}  Size        0x{_wide(module.size)}"
    )
    yield (
        f"      Flags  0x{_wide(module.flags)}  LoadCount   0x{_wide(module.load_count)}  "
        f"TlsIndex    0x{_wide(module.tls_index)}"
    )
    for bit, name in _LDRP.items():
        if (module.flags or 0) & bit:
            yield f"             {name}"
    if module.entry is None:
        yield "      NOTE: known by the VADs alone: the loader's entry is not in the dump"


def last_error_lines(error: Sequence[ErrorCode] | None, status: Sequence[ErrorCode] | None) -> Iterator[str]:
    """``LastErrorValue: (Win32) 0x5 (5) - ERROR_ACCESS_DENIED``, and the status."""
    for label, kind, codes in (("LastErrorValue", WIN32, error), ("LastStatusValue", NTSTATUS, status)):
        if codes is None:
            yield f"{label}: not in the dump"
            continue
        code = next((code for code in codes if code.kind == kind), codes[0])
        name = code.name or "no name in the public headers"
        yield f"{label}: ({code.kind}) {code.value:#x} ({code.value}) - {name}"


def _yes(value: int | None) -> str:
    return "?" if value is None else "Yes" if value else "No"


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:x}"


def _wide(value: int | None) -> str:
    return "????????" if value is None else f"{value:08x}"
