"""What registers, pseudo-registers and symbols mean in a dump."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

import volatility3_kdump
from tests.host import host_kernel
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.registers import register_part
from volatility3_kdump.expressions import ExpressionError, TargetNames, evaluate
from volatility3_kdump.expressions.names import PSEUDO_REGISTERS
from volatility3_kdump.target import Target
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.walker import walker

RAX, FLAGS = 0x1122334455667788, 0x00000246


@pytest.fixture(scope="module")
def target(sample) -> Target:
    return volatility3_kdump.open(sample())


def scope(target: Target, **registers: int) -> SimpleNamespace:
    context = Context("x64", registers, "trap frame")
    return SimpleNamespace(memory=target.memory, registers=context, process=None, thread=None)


def value(target: Target, text: str, **registers: int) -> int:
    return evaluate(text, TargetNames(target, scope(target, **registers)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("@rax", 0x1122334455667788),
        ("@eax", 0x55667788),
        ("@ax", 0x7788),
        ("@al", 0x88),
        ("@ah", 0x77),
        ("rax", 0x1122334455667788),
        ("eax", 0x55667788),
        ("@zf", 1),
        ("@if", 1),
        ("@pf", 1),
        ("@cf", 0),
        ("@iopl", 0),
        ("@efl", FLAGS),
        ("@eflags", FLAGS),
        ("$retreg", 0x1122334455667788),
    ],
)
def test_registers_and_their_parts(target: Target, text: str, expected: int) -> None:
    assert value(target, text, rax=RAX, eflags=FLAGS) == expected


def test_a_register_that_was_not_recovered_is_no_zero(target: Target) -> None:
    for text in ("@rbx", "rbx", "ebx", "@bl"):
        with pytest.raises(ExpressionError, match=f"Bad register error at '{text}': the trap frame does not give rbx"):
            value(target, text, rax=RAX)
    with pytest.raises(ExpressionError, match=r"Bad register error at '\$ip': \$ip is not in the dump"):
        value(target, "$ip", rax=RAX)
    nowhere = SimpleNamespace(memory=target.memory, registers=None, process=None, thread=None)
    with pytest.raises(ExpressionError, match="no registers are known here"):
        evaluate("rip", TargetNames(target, nowhere))


def test_registers_of_other_processors() -> None:
    assert register_part("x64", "R11W") == ("r11", 0, 16)
    assert register_part("x64", "r8b") == ("r8", 0, 8)
    assert register_part("x64", "sil") == ("rsi", 0, 8)
    assert register_part("x64", "w3") is None
    assert register_part("x86", "ch") == ("ecx", 8, 8)
    assert register_part("x86", "rax") is None
    assert register_part("arm64", "w3") == ("x3", 0, 32)
    assert register_part("arm64", "x30") == ("lr", 0, 64)
    assert register_part("arm64", "eax") is None
    assert register_part("ia64", "eax") is None


def test_pseudo_registers_of_the_crash(target: Target) -> None:
    names = TargetNames(target)
    bug_check = target.symbol("KeBugCheckEx")
    assert crash_process(target) is not None
    assert crash_thread(target) is not None
    frames = walker(target).walk(crash_start(target), 2).frames
    expected = {
        "$ip": bug_check,
        "$eventip": bug_check,
        "$scopeip": bug_check,
        "$csp": frames[0].sp,
        "$ra": frames[1].ip,
        "$proc": crash_process(target).address,
        "$thread": crash_thread(target).address,
        "$tpid": crash_process(target).pid,
        "$bug_code": 0xD1,
        "$bug_param1": 0xFFFFD8024AAA8010,
        "$bug_param2": 2,
        "$bug_param3": 0,
        "$bug_param4": 0xFFFFF80060DA1981,
        "$ptrsize": 8,
        "$pagesize": 0x1000,
    }
    assert {name: evaluate(name, names) for name in expected} == expected
    assert evaluate("@$ip", names) == bug_check
    assert set(expected) < set(PSEUDO_REGISTERS)
    with pytest.raises(ExpressionError, match="exentry is not in the dump"):
        evaluate("$exentry", names)


def test_peb_and_teb_against_the_host(sample, isf_paths) -> None:
    dump = sample(1, isf_paths[0])
    kernel = host_kernel(dump, isf_paths[0])
    names = TargetNames(volatility3_kdump.open(dump, isf_file=isf_paths[0]))
    process = kernel.object("_EPROCESS", evaluate("$proc", names) & 0xFFFFFFFFFFFF, absolute=True)
    thread = kernel.object("_ETHREAD", evaluate("$thread", names) & 0xFFFFFFFFFFFF, absolute=True)
    assert evaluate("$peb", names) == int(process.Peb)
    assert evaluate("$teb", names) == int(thread.Tcb.Teb)
    assert evaluate("$tid", names) == int(thread.Cid.UniqueThread)
    first = kernel.get_absolute_symbol_address("PsInitialSystemProcess")
    assert evaluate("nt!PsInitialSystemProcess", names) & 0xFFFFFFFFFFFF == first
    assert evaluate("PsInitialSystemProcess", names) == evaluate("nt!PsInitialSystemProcess", names)


def test_memory(target: Target) -> None:
    names = TargetNames(target)
    data = target.memory.read(0xFFFFF80062600000, 16)
    assert data is not None
    for name, code in (("by", "B"), ("wo", "H"), ("dwo", "I"), ("qwo", "Q"), ("poi", "Q")):
        assert evaluate(f"{name}(nt+3)", names) == struct.unpack_from(f"<{code}", data, 3)[0]
    assert evaluate("$vvalid(nt, 1000)", names) == 1
    assert evaluate("$vvalid(0, 1)", names) == 0
    with pytest.raises(ExpressionError, match=r"Memory access error at 'by.0.': 0x0: not mapped"):
        evaluate("by(0)", names)
    with pytest.raises(ExpressionError, match=r"Overflow error at '.vvalid.nt, 20000000.': a range of more than"):
        evaluate("$vvalid(nt, 20000000)", names)
    header = target.dump.header
    root = header.directory_table_base
    assert root is not None
    page = target.physical_memory.read(root, 0x1000)
    assert page is not None
    assert evaluate(f"$pqwo({root:x}+0ff8)", names) == struct.unpack_from("<Q", page, 0xFF8)[0]
    with pytest.raises(ExpressionError, match=r"Memory access error at .*: physical address 0x3ffffffff000"):
        evaluate("$pby(3fff`fffff000)", names)


def test_variables(target: Target) -> None:
    names = TargetNames(target, None, {"t0": 7, "exp": 9})
    assert evaluate("$t0 * @$exp", names) == 0x3F
    with pytest.raises(ExpressionError, match="Bad register error"):
        evaluate("$t1", names)


def test_small_memory_dumps(shared_data) -> None:
    """Names of a real one, with and without the kernel's symbols."""
    dump = shared_data / "dumps" / "triage_x64_19041.dmp"
    with_symbols = volatility3_kdump.open(dump, isf_directories=[shared_data / "isf"])
    names = TargetNames(with_symbols)
    assert evaluate("nt", names) == with_symbols.modules[0].base
    assert evaluate("$csp", names) == with_symbols.header_context.sp
    with pytest.raises(ExpressionError, match="a small memory dump has none"):
        evaluate("$pby(1000)", names)


def test_two_underscores_stand_for_colons(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Symbol Syntax": ``nt!CClass__Method`` is ``nt!CClass::Method``."""
    known = {"CClass::Method": 0x1234, "__Own": 0x5678}
    monkeypatch.setattr(target.names, "address_of", lambda module, name: known.get(name))
    names = TargetNames(target)
    assert names.symbol("nt!CClass__Method") == names.symbol("nt!CClass::Method") == 0x1234
    assert names.symbol("nt!__Own") == 0x5678
