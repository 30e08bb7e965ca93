"""``kdump.analyze`` on the sample, against the session that it reproduces, and on real small memory dumps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import transcript
from tests.output import rows

PHYSICAL = (1, 2, 5, 6, 8, 9, 10)


def values(table: list[dict], section: str) -> dict[str, str]:
    return {row["Field"]: row["Text"] for row in table if row["Topic"] == section}


def test_windbg_text_equals_the_session(sample, run_plugin):
    finished = run_plugin("-f", sample(), "-r", "windbg", "kdump.analyze")
    assert finished.returncode == 0, finished.stderr
    for part in (transcript.EXPLANATION, transcript.PROCESS, transcript.TRAP_FRAME):
        assert part in finished.stdout
    assert "MODULE_NAME: myfault\n\nIMAGE_NAME:  myfault.sys\n" in finished.stdout


@pytest.mark.parametrize("dump_type", (*PHYSICAL, 4))
def test_every_type_gives_the_session_s_values(sample, run_plugin, dump_type):
    table = rows(run_plugin("-f", sample(dump_type), "-r", "json", "kdump.analyze"))
    bug_check, crash, failure = (values(table, name) for name in ("Bug check", "Crash", "Failure"))
    assert bug_check["Code"] == "DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)"
    assert [bug_check[f"Arg{number}"] for number in range(1, 5)] == [
        "ffffd8024aaa8010",
        "0000000000000002",
        "0000000000000000",
        "fffff80060da1981",
    ]
    # The full name lies in paged pool, which a small memory dump does not hold.
    assert crash["Process"] == ("notmyfault64.e" if dump_type == 4 else "notmyfault64.exe")
    assert crash["Processor"] == "2"
    assert failure["At"] == "myfault+0x1981"
    assert failure["Module"] == "myfault.sys"
    assert failure["Instruction"].startswith(
        "fffff800`60da1981 8b03            mov     eax,dword ptr [rbx] ds:ffffd802`4aaa8010="
    )
    registers = values(table, "Register")
    assert registers["rax"] == "00000000c85c00f0"
    assert registers["rsp"] == "ffffd48f77af9970"
    # The debugger prints zero for rbx; P1 tells what it was.
    assert registers["rbx"] == bug_check["Arg1"]
    operand = next(row for row in table if row["Field"] == "Operand")
    assert operand["Value"] == 0xFFFFD8024AAA8010
    assert operand["Notes"].startswith("agrees with the bug check")


@pytest.mark.parametrize(
    ("name", "code", "arguments", "process", "at", "module"),
    [
        (
            "triage_x64_19041",
            "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M (1000007e)",
            ["ffffffffc0000005", "fffff8048b58334c", "ffff850429891ee8", "ffff850429891720"],
            "System",
            "amdppm+0x334c",
            "amdppm.sys",
        ),
        (
            "triage_arm64_22000",
            "MANUALLY_INITIATED_POWER_BUTTON_HOLD (1c8)",
            ["0000000000001b58", "fffff803f3a20860", "0000000000000000", "0000000000000000"],
            "System",
            None,
            None,
        ),
        (
            "triage_x64_19041_0x1a",
            "MEMORY_MANAGEMENT (1a)",
            ["0000000000000402", "ffffa30ebf6f0090", "0000000851af68c0", "ffffa30ebf6f7248"],
            "System",
            None,
            None,
        ),
        (
            "triage_x64_17763",
            "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M (1000007e)",
            ["ffffffffc0000005", "fffff8044a24d2d4", "ffff998071d4ed88", "ffff998071d4e5d0"],
            "System",
            "nt+0x4a2d4",
            "ntoskrnl.exe",
        ),
        (
            "triage_x64_9600",
            "unknown code (a0000001)",
            ["0000000000000005", "0000000000000000", "0000000000000000", "0000000000000000"],
            "System",
            None,
            None,
        ),
    ],
)
def test_real_small_dumps(shared_data: Path, run_plugin, name, code, arguments, process, at, module):
    dump = shared_data / "dumps" / f"{name}.dmp"
    table = rows(run_plugin("-f", dump, "-r", "json", "kdump.analyze", "--isf-dir", shared_data / "isf"))
    bug_check = values(table, "Bug check")
    assert bug_check["Code"] == code
    assert [bug_check[f"Arg{number}"] for number in range(1, 5)] == arguments
    assert values(table, "Crash")["Process"] == process
    # The first instruction of KeBugCheckEx is no finding: without a fault there is no place.
    failure = values(table, "Failure")
    assert (failure.get("At"), failure.get("Module")) == (at, module)


def test_header_registers_of_the_real_dump(shared_data: Path, run_plugin):
    """RSP and RIP as an independent reader prints them for the same file; the instruction is a write through r9+r8."""
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    table = rows(run_plugin("-f", dump, "-r", "json", "kdump.analyze", "--isf-dir", shared_data / "isf"))
    registers = values(table, "Register")
    assert registers["rsp"] == "ffff850429892120"
    assert registers["rip"] == "fffff8048b58334c"
    failure = values(table, "Failure")
    assert "43891401        mov     dword ptr [r9+r8],edx" in failure["Instruction"]
    assert failure["Access"] == "write"


def test_without_symbols_the_table_that_is_needed_is_named(shared_data: Path, run_plugin):
    table = rows(run_plugin("-f", shared_data / "dumps" / "triage_x64_19041.dmp", "-r", "json", "kdump.analyze"))
    warning = next(row for row in table if row["Topic"] == "Warning" and row["Field"] == "Symbols")
    assert "ntkrnlmp.pdb/5278AFF86C341677D7D7835C85B7B844-1" in warning["Notes"]
    assert "kdump symbols --manifest" in warning["Notes"]
    assert values(table, "Crash")["Process"] == "System"
    assert values(table, "Failure")["At"] == "amdppm+0x334c"


def test_columns_serve_the_other_renderers(sample, run_plugin):
    csv = run_plugin("-f", sample(), "-r", "csv", "kdump.analyze")
    assert csv.returncode == 0
    line = next(line for line in csv.stdout.splitlines() if "Arg1" in line)
    assert line.replace('"', "").startswith("0,Bug check,Arg1,ffffd8024aaa8010,0xffffd8024aaa8010,")
    filtered = run_plugin("-f", sample(), "--filters", "Field,rbx", "kdump.analyze")
    assert "ffffd8024aaa8010" in filtered.stdout
    assert "rcx" not in filtered.stdout
