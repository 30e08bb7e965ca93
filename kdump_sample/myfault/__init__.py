"""The demonstration, of which the other scenes are variants: the crash of a published session with WinDbg.

NotMyFault's driver reads paged pool at a raised IRQL on Windows 10 19041, while Notepad waits for messages. Every
address that the session shows is used as it stands.
"""

from __future__ import annotations

from kdump_sample.myfault.addresses import (
    CONTROL_CODE,
    CRASH_THREAD,
    DEVICE_OBJECT,
    FAULT_ADDRESS,
    FAULT_IP,
    FILE_OBJECT,
    IRP,
)
from kdump_sample.myfault.devices import DIRECTORY_CHANGES, DRIVER_OBJECTS
from kdump_sample.myfault.drivers import DRIVERS, UNLOADED
from kdump_sample.myfault.processes import NOTEPAD, NOTMYFAULT, SYSTEM, background
from kdump_sample.scene import BugCheck, DriverObject, Processor, Request, Scene


def high_irql_fault() -> Scene:
    """The crash in myfault.sys, bug check 0xD1, of 2021-10-07 11:33:12.945 UTC."""
    return Scene(
        # 2021-10-07 11:33:12.9450000 UTC and a fraction of a millisecond
        system_time=132_780_799_929_453_817,
        uptime=547_557_013,
        bias_hours=-9,
        tick_count=3504,
        product_type=1,
        suite=0x110,
        kernel_base=0xFFFFF80062600000,
        kernel_size=0x1046000,
        pte_base=0xFFFFBD0000000000,
        memory=((0x1, 0x9F), (0x100, 0xBFE00), (0x100000, 0x140000)),
        physical_ranges={"tables": 0x110000, "kernel": 0x120000, "user": 0x1A4000},
        bug_check=BugCheck(
            0xD1,
            (FAULT_ADDRESS, 0x2, 0, FAULT_IP),
            (0xA, FAULT_ADDRESS, 0x2, 0, FAULT_IP),
            2,
            {"rax": 0xFFFFD48F77AF97A0, "r10": FAULT_IP, "r11": 0xFFFFD8024AA9BFF0},
            "myfault",
        ),
        processors=(
            Processor(0xFFFFF8005E6A7000, 0xFFFFF80067A75000),
            Processor(0xFFFFC3014F3C0000, 0xFFFFD48F76A0E000, 0xFFFFC3014F3CC140),
            Processor(0xFFFFC3014F460000, 0xFFFFD48F76A47000, 0xFFFFC3014F46C140),
        ),
        drivers=DRIVERS,
        unloaded=UNLOADED,
        processes=(
            SYSTEM,
            background(0, 0x1C4, 0x4, "smss.exe", 0x10A8D1000, 54.1, "Windows\\System32\\smss.exe"),
            background(1, 0x244, 0x23C, "csrss.exe", 0x11B403000, 53.2, "Windows\\System32\\csrss.exe", 0),
            background(2, 0x28C, 0x23C, "wininit.exe", 0x11B9F2000, 53.0, "Windows\\System32\\wininit.exe", 0),
            background(3, 0x2D8, 0x28C, "services.exe", 0x11C511000, 52.8, "Windows\\System32\\services.exe", 0),
            background(4, 0x2FC, 0x28C, "lsass.exe", 0x11CD7A000, 52.7, "Windows\\System32\\lsass.exe", 0),
            background(5, 0x10E4, 0x10D8, "winlogon.exe", 0x172B15000, 50.4, "Windows\\System32\\winlogon.exe", 2),
            background(6, 0x15E8, 0x15C0, "explorer.exe", 0x1C01C6000, 49.6, "Windows\\explorer.exe", 2),
            NOTEPAD,
            NOTMYFAULT,
        ),
        pfn_database=0xFFFFA98000000000,
        paged_pool=0xFFFFD80248000000,
        nonpaged_pool=0xFFFF91894D600000,
        session_space=0xFFFFC30150002000,
        large_page=(0xFFFF918952600000, 0x1C2200),
        paged_out=(FAULT_ADDRESS,),
        regions={
            "NonPagedPool": (0xFFFF918000000000, 1 << 44),
            "PfnDatabase": (0xFFFFA98000000000, 1 << 39),
            "PageTables": (0xFFFFBD0000000000, 1 << 39),
            "HyperSpace": (0xFFFFBD8000000000, 1 << 39),
            "SystemPtes": (0xFFFFC30000000000, 1 << 40),
            "KernelStacks": (0xFFFFD48000000000, 1 << 39),
            "PagedPool": (0xFFFFD80000000000, 1 << 44),
            "Session": (0xFFFFEC8000000000, 1 << 39),
            "SystemImages": (0xFFFFF80000000000, 1 << 39),
        },
        driver_objects=(
            DriverObject("myfault", 0xFFFF91894ED30C80, "\\Driver\\MYFAULT", DEVICE_OBJECT, 0x8336, "DeviceControl"),
            *DRIVER_OBJECTS,
        ),
        requests=(Request(IRP, CRASH_THREAD, DEVICE_OBJECT, FILE_OBJECT, CONTROL_CODE, 0xF0),),
        pending=(DIRECTORY_CHANGES,),
    )
