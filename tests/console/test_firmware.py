"""``!sysinfo`` on a made dump and on a real one, and what it refuses."""

from __future__ import annotations

from pathlib import Path

from tests.prompt import answer, session_over
from volatility3_kdump.console.session import Session


def test_parts_of_a_made_dump(session: Session) -> None:
    assert answer(session, "!sysinfo cpuinfo")[:2] == [
        "[CPU Information]",
        "~MHz = REG_DWORD 3192",
    ]
    assert "VendorIdentifier = REG_SZ GenuineIntel" in answer(session, "!sysinfo cpuinfo")
    assert "Identifier = REG_SZ Intel64 Family 6 Model 158 Stepping 10" in answer(session, "!sysinfo cpuinfo")
    assert answer(session, "!sysinfo cpuspeed")[-1] == "CurrentSpeed: 3192"
    assert answer(session, "!sysinfo machineid -csv") == [
        "SystemManufacturer,SystemProductName,SystemVersion",
        "Contoso Ltd,Workstation 5,1.0",
    ]
    lines = answer(session, "!sysinfo smbios")
    assert lines[0] == "[SMBIOS Data Tables v3.1]"
    assert "[System Information (Type 1) - Length 25 - Handle 0001h]" in lines
    assert "  Manufacturer                  Contoso Ltd" in lines
    assert "  Wakeup Type                   06h - Power Switch" in lines
    assert answer(session, "!sysinfo smbios -power")[3:] == []
    assert answer(session, "!sysinfo smbios -csv -noheaders")[0] == "1,0001,Manufacturer,Contoso Ltd"


def test_what_it_refuses(session: Session) -> None:
    assert answer(session, "!sysinfo gbl")[0].startswith("!sysinfo gbl: no symbol says where")
    assert answer(session, "!sysinfo cpuinfo -v") == ["!sysinfo cpuinfo: -v is an option of smbios"]
    assert answer(session, "!sysinfo dmi")[0].startswith("!sysinfo takes cpuinfo, cpumicrocode, ")


def test_a_real_machine(shared_data: Path) -> None:
    session = session_over(shared_data / "dumps" / "triage_x64_26100_0x3b.dmp")
    assert answer(session, "!sysinfo cpumicrocode")[1] == "Cached Microcode Version: 000000000a201205"
    assert answer(session, "!sysinfo cpuspeed") == [
        'CPUID: "AMD Ryzen 5 5600X 6-Core Processor"',
        "MaxSpeed: 4650 (SMBIOS)",
        "CurrentSpeed: 3693",
    ]
    # The kernel saved none of the registers into this dump's KPRCB; one of them is in the tagged data.
    assert answer(session, "!sysinfo registers") == ["MSR c0000080h = 0000000000004d01  (tagged data)"]
