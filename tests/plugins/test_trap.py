"""``kdump.trap`` and ``kdump.disasm`` against the session and real dumps."""

from __future__ import annotations

from pathlib import Path

from tests import transcript
from tests.output import rows


def test_trap_equals_the_session(sample, run_plugin):
    for arguments in (("--address", "ffffd48f`77af97e0"), ()):
        finished = run_plugin("-f", sample(), "-r", "windbg", "kdump.trap", *arguments)
        assert finished.stdout == transcript.REGISTERS


def test_recovered_registers_and_operand(sample, run_plugin):
    table = rows(run_plugin("-f", sample(), "-r", "json", "kdump.trap"))
    registers = {row["Field"]: row for row in table if row["Topic"] == "Register"}
    assert registers["rbx"]["Value"] == 0xFFFFD8024AAA8010
    assert registers["rbx"]["Notes"] == "recovered by unwinding"
    assert registers["rax"]["Notes"] is None
    operand = next(row for row in table if row["Field"] == "Operand")
    assert operand["Notes"] == "agrees with the bug check; rbx recovered by unwinding"


def test_user_mode_trap_frame(sample, run_plugin):
    finished = run_plugin("-f", sample(), "-r", "json", "kdump.trap", "--address", "ffffd48f77af9e40")
    registers = {row["Field"]: row for row in rows(finished) if row["Topic"] == "Register"}
    assert registers["rip"]["Value"] == 0x7FF8F16ECE54
    assert registers["rsp"]["Value"] == 0x7AE6BDE8D8


def test_context_and_exception_of_a_real_dump(shared_data: Path, run_plugin):
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    context = rows(run_plugin("-f", dump, "-r", "json", "kdump.trap", "--context", "ffff850429891720"))
    registers = {row["Field"]: row["Text"] for row in context if row["Topic"] == "Register"}
    assert registers["rip"] == "fffff8048b58334c"
    assert registers["rsp"] == "ffff850429892120"
    shown = run_plugin("-f", dump, "-r", "windbg", "kdump.trap", "--exception", "ffff850429891ee8").stdout
    assert shown == (
        "ExceptionAddress: fffff8048b58334c (amdppm+0x000000000000334c)\n"
        "   ExceptionCode: c0000005 (Access violation)\n"
        "  ExceptionFlags: 00000000\n"
        "NumberParameters: 2\n"
        "   Parameter[0]: 0000000000000001\n"
        "   Parameter[1]: ffffffffffffffff\n"
        "Attempt to write to address ffffffffffffffff\n"
    )


def test_trap_frame_of_a_real_dump_equals_its_header(shared_data: Path, run_plugin):
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    trap = rows(run_plugin("-f", dump, "-r", "json", "kdump.trap", "--address", "ffff850429891f90"))
    header = rows(run_plugin("-f", dump, "-r", "json", "kdump.trap"))
    saved = {row["Field"]: row["Text"] for row in trap if row["Topic"] == "Register" and row["Text"] is not None}
    whole = {row["Field"]: row["Text"] for row in header if row["Topic"] == "Register"}
    assert {"rip", "rsp", "rbp", "rax", "rcx", "rdx", "r8", "r9", "r10", "r11"} <= set(saved)
    for name, value in saved.items():
        # The flags of the context have the resume flag changed by the dispatcher.
        assert name == "eflags" or value == whole[name], name


def test_disassembly_forwards_and_backwards(sample, run_plugin):
    forward = rows(run_plugin("-f", sample(), "-r", "json", "kdump.disasm", "--count", "3"))
    assert forward[0]["Bytes"] == "8b03"
    assert forward[0]["Operands"] == "eax,dword ptr [rbx]"
    assert forward[0]["Symbol"] == "myfault+0x1981"
    back = rows(
        run_plugin("-f", sample(), "-r", "json", "kdump.disasm", "--address", "nt!KiBugCheckDispatch+69", "--before")
    )
    assert len(back) == 8
    assert back[-1]["Mnemonic"] == "call"
    assert back[-1]["TargetSymbol"] == "nt!KeBugCheckEx"
    text = run_plugin("-f", sample(), "-r", "windbg", "kdump.disasm", "--count", "1").stdout
    assert text == "myfault+0x1981:\nfffff800`60da1981 8b03            mov     eax,dword ptr [rbx]\n"


def test_code_that_is_not_there(sample, run_plugin):
    finished = run_plugin("-f", sample(), "-r", "windbg", "kdump.disasm", "--address", "ffff800000000000")
    assert finished.stdout.splitlines()[1] == "ffff8000`00000000 ??              ???"
