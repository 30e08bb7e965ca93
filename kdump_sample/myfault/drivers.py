"""The loaded and the unloaded drivers of the session, with the functions that stand on its stacks."""

from __future__ import annotations

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.pe import CODE, DISCARDABLE, INITIALISATION_CODE, READ_ONLY, READ_WRITE, Codeview, Section
from kdump_sample.scene import Driver, Unloaded

#: NotMyFault: allocates paged pool, raises the IRQL, reads what it allocated.
_MYFAULT_FUNCTIONS = {
    0x1950: Function(
        "HighIrqlFault",
        (*pushes("rbx"), Allocate(0x20)),
        (Call(0x1C, "import:ExAllocatePoolWithTag"), Call(0x31, "import:KeRaiseIrqlToDpcLevel")),
        body={
            0x06: bytes.fromhex("ba90080000"),  # mov edx,890h
            0x0B: bytes.fromhex("b901000000"),  # mov ecx,1
            0x10: bytes.fromhex("41b84d794661"),  # mov r8d,6146794Dh
            0x1C: bytes.fromhex("488bd8"),  # mov rbx,rax
            0x1F: bytes.fromhex("4885c0"),  # test rax,rax
            0x22: bytes.fromhex("740f"),  # je to the epilogue
            0x31: bytes.fromhex("8b03"),  # mov eax,dword ptr [rbx]
        },
    ),
    0x1C80: Function("DoFault", (*pushes("rbx", "rsi", "rdi"), Allocate(0x120)), (Call(0xBD, "local:HighIrqlFault"),)),
    0x1E40: Function(
        "DeviceControl",
        (*pushes("rbx"), Allocate(0x50)),
        (Call(0x61, "local:DoFault"),),
        body={0x20: bytes.fromhex("41b84c65616b")},  # mov r8d,6B61654Ch
    ),
}

_WIN32KFULL_FUNCTIONS = {
    0x146860: Function(
        "NtUserMsgWaitForMultipleObjectsEx",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0x8F0)),
        (Call(0x3FE, "local:xxxMsgWaitForMultipleObjectsEx"),),
    ),
    0x2378B4: Function(
        "xxxMsgWaitForMultipleObjectsEx",
        (*pushes("rbx", "rsi", "rdi"), Allocate(0x90)),
        (Call(0xD9, "import:ObWaitForMultipleObjects"),),
    ),
}

_WIN32K_FUNCTIONS = {
    0x6FB0: Function(
        "NtUserMsgWaitForMultipleObjectsEx",
        (Allocate(0x38),),
        (Call(0x20, "import:win32kfull!NtUserMsgWaitForMultipleObjectsEx"),),
    ),
}


def _sections(code: int, data: int, size: int, first: int = 0x1000) -> tuple[Section, ...]:
    """Usual sections of a driver: code, read-only data behind it, data, exception data and the rest at the end."""
    tail = size - 0x8000
    return (
        Section(".text", first, code - first, CODE),
        Section(".rdata", code, data - code, READ_ONLY),
        Section(".data", data, tail - data, READ_WRITE),
        Section(".pdata", tail, 0x1000, READ_ONLY),
        Section(".xdata", tail + 0x1000, 0x1000, READ_ONLY),
        Section(".edata", tail + 0x2000, 0x2000, READ_ONLY),
        Section("INIT", tail + 0x4000, 0x2000, INITIALISATION_CODE),
        Section(".rsrc", tail + 0x6000, 0x1000, DISCARDABLE),
        Section(".reloc", tail + 0x7000, 0x1000, DISCARDABLE),
    )


def _driver(name: str, base: int, size: int, timestamp: int, checksum: int, guid: str, **more: object) -> Driver:
    codeview = Codeview(name.rsplit(".", 1)[0] + ".pdb", guid, 1)
    code = 0x1000 + ((size - 0x9000) // 2 & ~0xFFF)
    sections = _sections(code, code + 0x1000, size)
    return Driver(name, base, size, timestamp, checksum, codeview, sections=sections, **more)  # type: ignore[arg-type]


_SYSTEM32 = "\\SystemRoot\\system32\\"

DRIVERS = (
    _driver(
        "hal.dll",
        0xFFFFF8005F610000,
        0xF000,
        0x1A7BE8E9,
        0x9F1C,
        "6A1F0B5C1D224E0FB3EE27C6E3F1A901",
        directory=_SYSTEM32,
    ),
    _driver(
        "kd.dll",
        0xFFFFF8005F620000,
        0xF000,
        0xFE185FA8,
        0x1352B,
        "0D38E51FF9BA4E6DA0C4B62E29E33402",
        directory=_SYSTEM32,
    ),
    _driver("CLFS.SYS", 0xFFFFF8005F660000, 0x6A000, 0x503208A5, 0x6E3D8, "1A0CBF8E0B7A45E0AF3F0B4E0A21B203"),
    _driver("FLTMGR.SYS", 0xFFFFF8005F730000, 0x71000, 0x4C9EA77B, 0x7A0F2, "9C8E55A4B3E64DF5AD4D3E3A8B2F4404"),
    _driver(
        "CI.dll",
        0xFFFFF8005F8F0000,
        0xE0000,
        0x6E86C2B4,
        0xE77A1,
        "57F00C8B7EC1497A8C6AC0A4B11E7305",
        directory=_SYSTEM32,
    ),
    _driver("Wdf01000.sys", 0xFFFFF8005FA80000, 0xD1000, 0x3A0F2B11, 0xD96C3, "2B8F4D0E6C9440E4BE6A5C0E10A6E406"),
    _driver("ACPI.sys", 0xFFFFF8005FB90000, 0xCC000, 0x7B1E6D5C, 0xD0A55, "E3B4F1C2650B4C11B8D0A2C6F47D9507"),
    _driver("pci.sys", 0xFFFFF8005FCD0000, 0x78000, 0x2A6F6A54, 0x7E1F0, "8A30C7F4B2C14C9E8A10F1B6C05E2808"),
    _driver("storport.sys", 0xFFFFF8005FE30000, 0xB0000, 0x1C3D90D2, 0xB70B2, "F0C6B7A91E814B2A9F7C45D1E3A60909"),
    _driver("Ntfs.sys", 0xFFFFF800601A0000, 0x2D8000, 0x46C1D3F7, 0x2D6F4C, "B5D2E8F77A1C47B59D3F0A9B6C2E1110"),
    _driver("ndis.sys", 0xFFFFF800604C0000, 0x171000, 0x0B6E53A0, 0x17A8D4, "C7E0A3D5F4B14D628E1C3B5A7F902211"),
    _driver("tcpip.sys", 0xFFFFF80060690000, 0x2EC000, 0x5F1DA1C8, 0x2F1B60, "D1F3C5B7A9E84C609B2D4F6A8C0E3312"),
    _driver("intelppm.sys", 0xFFFFF80060C80000, 0x42000, 0x2E0A4F9D, 0x4C5D0, "A6B8C0D2E4F64871B3C5D7E9F1A34413"),
    Driver(
        "myfault.sys",
        0xFFFFF80060DA0000,
        0x9000,
        0x5D2F6B7A,
        0xF2C1,
        Codeview("d:\\work\\notmyfault\\exe\\release64\\myfault.pdb", "3E5C7A91B4D24F0E8A6C1D9F2B735514", 1),
        directory="\\??\\C:\\Windows\\system32\\drivers\\",
        version=(4, 0, 0, 0),
        description="NotMyfault crash driver",
        company="Sysinternals",
        functions=_MYFAULT_FUNCTIONS,
        imports=("ExAllocatePoolWithTag", "ExFreePoolWithTag", "IofCompleteRequest", "KeRaiseIrqlToDpcLevel"),
        import_rva=0x3000,
        sections=(
            Section(".text", 0x1000, 0x2000, CODE),
            Section(".rdata", 0x3000, 0x1000, READ_ONLY),
            Section(".data", 0x4000, 0x1000, READ_WRITE),
            Section(".pdata", 0x5000, 0x1000, READ_ONLY),
            Section(".xdata", 0x6000, 0x1000, READ_ONLY),
            Section("INIT", 0x7000, 0x1000, INITIALISATION_CODE),
            Section(".rsrc", 0x8000, 0x1000, DISCARDABLE),
        ),
    ),
    Driver(
        "win32kfull.sys",
        0xFFFFECCBD0A00000,
        0x3B6000,
        0x6B8E1C55,
        0x3B0D62,
        Codeview("win32kfull.pdb", "4F6A8C0E2B1D43579F7E5D3C1B0A6615", 1),
        directory=_SYSTEM32,
        functions=_WIN32KFULL_FUNCTIONS,
        imports=("ObWaitForMultipleObjects", "KeWaitForMultipleObjects"),
        import_rva=0x2F0000,
        exported=True,
        sections=_sections(0x2F0000, 0x350000, 0x3B6000),
    ),
    _driver(
        "win32kbase.sys",
        0xFFFFECCBD0DC0000,
        0x2D5000,
        0x1F4B0E63,
        0x2D2F17,
        "5A7C9E1F3B2D44688F6E4D2C0B1A7716",
        directory=_SYSTEM32,
    ),
    Driver(
        "win32k.sys",
        0xFFFFECCBD15D0000,
        0x9A000,
        0x40C2D8AF,
        0x8FA11,
        Codeview("win32k.pdb", "6B8D0F2A4C3E45799A7F5E3D1C2B8817", 1),
        directory=_SYSTEM32,
        functions=_WIN32K_FUNCTIONS,
        imports=("win32kfull!NtUserMsgWaitForMultipleObjectsEx",),
        import_rva=0x60000,
        exported=True,
        sections=_sections(0x60000, 0x80000, 0x9A000),
    ),
)

UNLOADED = (
    Unloaded("dump_storport.sys", 0xFFFFF800600E0000, 0xFFFFF800600EF000, 41),
    Unloaded("WdBoot.sys", 0xFFFFF8005F8D0000, 0xFFFFF8005F8E2000, 48),
    Unloaded("hwpolicy.sys", 0xFFFFF80060180000, 0xFFFFF80060190000, 52),
)
