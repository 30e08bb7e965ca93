"""``dx`` at the prompt: layouts of the documentation, and values that ``dt`` and ``!process`` show as well."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prompt import answer
from volatility3_kdump.console.session import Session
from volatility3_kdump.expressions.data_model import Steps

_GAP = " " * 17


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        # "Using LINQ With the debugger objects"
        ("dx ((x, y) => (x + y))(5, 7)", [f"((x, y) => (x + y))(5, 7){_GAP}: 12"]),
        ('dx ((x, y) => (x + y))("Hello", "World")', [f'((x, y) => (x + y))("Hello", "World"){_GAP}: HelloWorld']),
        ('dx (10).ToDisplayString("d")', [f'(10).ToDisplayString("d"){_GAP}: 10']),
        ('dx (10).ToDisplayString("x")', [f'(10).ToDisplayString("x"){_GAP}: 0xa']),
        ('dx (10).ToDisplayString("o")', [f'(10).ToDisplayString("o"){_GAP}: 012']),
        ('dx (10).ToDisplayString("b")', [f'(10).ToDisplayString("b"){_GAP}: 0y1010']),
        (
            'dx -r1 new { MyInt = 42, MyString = "Hello World" }',
            [
                'new { MyInt = 42, MyString = "Hello World" }                ',
                "    MyInt            : 42",
                "    MyString         : Hello World",
            ],
        ),
        # "dx (Display Debugger Object Model Expression)", and bug check pages
        ("dx nt!PsIdleProcess", ["Error: No type (or void) for object at Address 0xfffff800632fb4b8"]),
        (
            "dx KiBugCheckDriver",
            [
                f'KiBugCheckDriver{_GAP}: 0xffff91894d602e68 : "myfault.sys" [Type: _UNICODE_STRING *]',
                "    [<Raw View>]     [Type: _UNICODE_STRING]",
            ],
        ),
        (
            "dx nt!PsActiveProcessHead",
            [
                "nt!PsActiveProcessHead                [Type: _LIST_ENTRY]",
                "    [+0x000] Flink            : 0xffff91894c27a488 [Type: _LIST_ENTRY *]",
                "    [+0x008] Blink            : 0xffff91895301a4c8 [Type: _LIST_ENTRY *]",
            ],
        ),
        (
            "dx @$curprocess",
            [
                f"@$curprocess{_GAP}: notmyfault64.exe",
                "    KernelObject     [Type: _EPROCESS]",
                "    Name             : notmyfault64.exe",
                "    Id               : 0x1c58",
                "    Threads         ",
                "    Modules         ",
                "    Environment     ",
                "    Io              ",
            ],
        ),
        ("dx @$curprocess.Threads", ["@$curprocess.Threads                ", "    [0x1c5c]        "]),
        ("dx @$curprocess.Threads.Count()", [f"@$curprocess.Threads.Count(){_GAP}: 0x1"]),
        (
            "dx @$curprocess.KernelObject.ImageFileName",
            [
                f'@$curprocess.KernelObject.ImageFileName{_GAP}: "notmyfault64.e" [Type: unsigned char [15]]',
            ],
        ),
        (
            "dx @$curprocess.KernelObject.UniqueProcessId",
            [f"@$curprocess.KernelObject.UniqueProcessId{_GAP}: 0x1c58 [Type: void *]"],
        ),
        ("dx (nt!_KTHREAD_STATE)2", [f"(nt!_KTHREAD_STATE)2{_GAP}: Running (2) [Type: _KTHREAD_STATE]"]),
        ("dx (nt!_KTHREAD_STATE)2,en", [f"(nt!_KTHREAD_STATE)2,en{_GAP}: Running [Type: _KTHREAD_STATE]"]),
        ("dx -r0 16,x", [f"16,x{_GAP}: 0x10"]),
        ("dx @$nosuch", ["Error: Bad register error at '@$nosuch': there is no register $nosuch"]),
        ("dx @$curprocess.NoSuch", None),
        ("dx @@(5)", ["Error: Syntax error at '@@(5)': dx takes C++ expressions only, without @@"]),
        ("dx", ["dx needs an expression: dx @$curprocess; dx -h shows more"]),
    ],
)
def test_layouts(session: Session, line: str, lines: list[str] | None) -> None:
    shown = answer(session, line)
    if lines is None:
        assert len(shown) == 1 and shown[0].startswith("Error: Unable to bind name 'NoSuch'")
    else:
        assert shown == lines


def test_bit_fields_and_arrays(session: Session) -> None:
    shown = answer(session, "dx *(nt!_EPROCESS**)&nt!PsInitialSystemProcess")
    assert shown[0] == (f"*(nt!_EPROCESS**)&nt!PsInitialSystemProcess{_GAP}: 0xffff91894c27a040 [Type: _EPROCESS *]")
    assert shown[1] == "    [+0x000] Pcb              [Type: _KPROCESS]"
    assert "    [+0x460 ( 0: 0)] JobNotReallyActive : 0x0 [Type: unsigned long]" in shown
    assert "    [+0x460 (14:12)] DefaultPagePriority : 0x0 [Type: unsigned long]" in shown
    assert answer(session, "dx (*(nt!_UNICODE_STRING*)(nt!_UNICODE_STRING *)0),5")[0].startswith(
        "(*(nt!_UNICODE_STRING*)"
    )
    shown = answer(session, "dx @$curprocess.KernelObject.Pcb.Header,!")
    assert shown[0] == "@$curprocess.KernelObject.Pcb.Header,!                [Type: _DISPATCHER_HEADER]"
    array = answer(session, "dx (*(unsigned long (*)[3])@$proc)")
    assert [line.split(" : ")[0] for line in array[1:]] == [
        "    [0]             ",
        "    [1]             ",
        "    [2]             ",
    ]
    assert array[1].endswith("[Type: unsigned long]")


def test_a_value_that_is_not_in_the_dump(session: Session) -> None:
    """ "Displaying TEB and PEB information": each field says so for itself."""
    shown = answer(session, "dx (nt!_CLIENT_ID *)0x40")
    assert shown == [
        f"(nt!_CLIENT_ID *)0x40{_GAP}: 0x40 [Type: _CLIENT_ID *]",
        "    [+0x000] UniqueProcess    : Unable to read memory at Address 0x40",
        "    [+0x008] UniqueThread     : Unable to read memory at Address 0x48",
    ]


def test_queries(session: Session) -> None:
    query = "@$cursession.Processes.Select(p => new { Name = p.Name, Count = p.Threads.Count() })"
    shown = answer(session, f"dx -r2 {query}.OrderByDescending(p => p.Name),2")
    assert shown[1:] == [
        "    [0x10e4]        ",
        "        Name             : winlogon.exe",
        "        Count            : 0x1",
        "    [0x28c]         ",
        "        Name             : wininit.exe",
        "        Count            : 0x1",
        "    [...]           ",
    ]
    processes = [line.split() for line in answer(session, "!process 0 0") if line.startswith("PROCESS ")]
    assert answer(session, "dx @$cursession.Processes.Count()")[0].endswith(f": {len(processes):#x}")
    links = 'Debugger.Utility.Collections.FromListEntry(nt!PsActiveProcessHead, "nt!_EPROCESS", "ActiveProcessLinks")'
    listed = answer(session, f"dx {links}.Select(p => &p)")
    assert [line.split(" : ")[1].split()[0][2:] for line in listed[1:]] == [words[1] for words in processes]


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ('Where(p => p.Name == "lsass.exe").First().Id', "0x2fc"),
        ("First().Name", "System"),
        ("Last().Name", "notmyfault64.exe"),
        ("Skip(1).First().Name", "smss.exe"),
        ("Take(2).Count()", "0x2"),
        ("Count(p => p.Id > 0x1000)", "0x4"),
        ("Any(p => p.Id == 4)", "true"),
        ("All(p => p.Id == 4)", "false"),
        ("Sum(p => p.Threads.Count())", "0xa"),
        ("Min(p => p.Id)", "0x4"),
        ("Max(p => p.Id)", "0x1e90"),
        ("Select(p => p.Threads.Count()).Distinct().Count()", "0x1"),
        ("GroupBy(p => p.Threads.Count())[1].Count()", "0xa"),
        ('GroupBy(p => p.Name.EndsWith(".exe"))["true"].Count()', "0x9"),
        ("Select(p => p.Id).Contains(0x2fc)", "true"),
        ("SelectMany(p => p.Threads).Count()", "0xa"),
        ("Flatten(p => p.Threads).Count()", "0x14"),
        ("OrderBy(p => p.Name).First().Name", "System"),
        ("OrderBy(p => p.Name.Length, (a, b) => a > b ? -1 : a < b ? 1 : 0).First().Name", "notmyfault64.exe"),
        ("TakeWhile(p => p.Id < 0x300).Count()", "0x6"),
        ("SkipWhile(p => p.Id < 0x300).Count()", "0x4"),
        ("Union(@$cursession.Processes).Count()", "0xa"),
        ("Single(p => p.Id == 4).Name.ToUpper()", "SYSTEM"),
        ("First().Name.Substring(1, 3)", "yst"),
        ('First().Name.Replace("S", "s").IndexOf("t")', "3"),
        ("[0x1c58].Name.Length", "0x10"),
        ("Where(p => __iserror(p.NoSuch)).Count()", "0xa"),
        ("First().KernelObject.Pcb.Header.Type == 3 ? 1 : 2", "1"),
    ],
)
def test_query_methods(session: Session, query: str, value: str) -> None:
    assert answer(session, f"dx -r0 @$cursession.Processes.{query}".replace(".[", "["))[0].endswith(f"{_GAP}: {value}")


def test_stack_and_modules(session: Session) -> None:
    shown = answer(session, "dx @$curstack.Frames")
    assert shown[1:3] == [
        "    [0x0]            : nt!KeBugCheckEx",
        "    [0x1]            : nt!KiBugCheckDispatch + 0x69",
    ]
    assert len(shown) - 1 == len(answer(session, "k")) - 1
    assert answer(session, "dx @$curthread.Stack.Frames[1].Attributes.InstructionOffset")[0].endswith(
        f"{_GAP}: {session.evaluate('nt!KiBugCheckDispatch+69'):#x}"
    )
    base = session.evaluate("myfault")
    assert answer(session, 'dx @$cursession.Modules["myfault"].BaseAddress')[0].endswith(f": {base:#x}")


def test_grid(session: Session) -> None:
    shown = answer(session, "dx -g @$cursession.Processes.Take(1).Select(p => new { p.Name, p.Id, p.Threads })")
    assert shown == [
        "======================================",
        "=       = Name   = Id  = (+) Threads =",
        "======================================",
        "= [0x4] - System - 0x4 - {...}       =",
        "======================================",
    ]
    assert (
        answer(session, "dx -gc 4 @$cursession.Processes.Take(1).Select(p => new { p.Name })")[3] == "= [... - S... ="
    )
    assert answer(session, "dx -g 5") == ["Error: -g shows the elements of a collection: the expression gives none"]


def test_variables(session: Session) -> None:
    assert answer(session, 'dx @$String1="Test String"') == []
    assert answer(session, "dx Debugger.State.UserVariables") == [
        "Debugger.State.UserVariables                ",
        "    String1          : Test String",
    ]
    assert answer(session, "dx @$twice = (x => 2 * x); dx @$twice(21)") == [f"@$twice(21){_GAP}: 42"]
    assert answer(session, 'dx @$vars.Remove("String1"); dx @$vars.Remove("String1")')[1].endswith(": false")
    assert answer(session, "dx @$curprocess = 5") == ["Error: @$curprocess cannot be set"]
    assert answer(session, "dx @$loop = (x => @$loop(x))") == [
        "Error: Bad register error at '@$loop(x))': there is no register $loop"
    ]
    answer(session, "dx @$loop = 0; dx @$loop = (x => @$loop(x))")
    assert answer(session, "dx @$loop(1)") == ["Error: functions call each other too deeply"]


def test_what_does_not_end_is_ended(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections of collections multiply: the number of elements that are looked at is bounded."""
    monkeypatch.setattr(Steps.__init__, "__defaults__", (20_000,))
    every = "@$cursession.Processes.SelectMany(a => @$cursession.Processes"
    query = f"dx {every}{'.SelectMany(b => @$cursession.Processes' * 6}{')' * 7}.Count()"
    started = time.process_time()
    shown = answer(session, query)
    assert shown[-1].startswith("Error: stopped: the query has looked at more than ")
    assert time.process_time() - started < 5
    shown = answer(session, 'dx "aaaaaaaa"' + '.Replace("a", "aaaaaaaaaaaaaaaa")' * 8)
    assert shown == ["Error: text of more than 1,048,576 characters"]


def test_what_nests_too_deeply_is_one_line(session: Session) -> None:
    """Deep bodies of functions that call each other, chains of queries, evaluators inside each other."""
    answer(session, f"dx @$f = 0; dx @$f = (x => {'- ' * 90}@$f(x))")
    deep = "Error: the expression is nested too deeply, or functions of it call each other"
    assert answer(session, "dx @$f(1)") == [deep]
    assert answer(session, "dx -r5 @$cursession.Processes.Select(p => @$f(p.Id))")[-1] == deep
    assert answer(session, "dx -g @$cursession.Processes.Select(p => new { A = @$f(p.Id) })")[-1] == deep
    # How many queries fit into each other depends on the interpreter.
    chain = answer(session, f"dx @$cursession.Processes{'.Where(p=>true)' * 250}.Count()")
    assert len(chain) == 1 and (chain == [deep] or chain[0].endswith(": 0xa"))
    shown = answer(session, f"? {'@@(' * 1000}1{')' * 1000}")
    assert len(shown) == 1 and ("nested too deeply" in shown[0] or "Overflow error" in shown[0])


def test_options(session: Session) -> None:
    assert answer(session, "dx -q 5")[0].startswith("dx knows no option -q: it takes")
    # A link that was copied from a session.
    process = session.evaluate("@$proc")
    link = f"-id 0,0,{process:x} -r1 (*((ntkrnlmp!_LIST_ENTRY *)0x{session.evaluate('nt!PsActiveProcessHead'):x}))"
    assert (
        answer(session, f"dx {link}")[1] == "    [+0x000] Flink            : 0xffff91894c27a488 [Type: _LIST_ENTRY *]"
    )
    # Of another process, and of one that is not there.
    other = session.evaluate("poi(nt!PsInitialSystemProcess)")
    assert answer(session, f"dx -id 0,0,{other:x} @$curprocess.Name") == [f"@$curprocess.Name{_GAP}: System"]
    lines = answer(session, "dx -id 0,0,1 @$curprocess.Name")
    assert lines[0].startswith("NOTE: dx -id: the process 1 is not in the dump")
    assert lines[1:] == [f"@$curprocess.Name{_GAP}: notmyfault64.exe"]
    assert "dx" in answer(session, "dx -?")[0]
    assert answer(session, "dx -r1 -c 8 @$cursession.Processes")[1:] == [
        "    [0x1e90]         : notepad.exe",
        "    [0x1c58]         : notmyfault64.exe",
    ]


def test_tree_of_devices(session: Session) -> None:
    """ "Debugging Plug and Play Example": titles, columns, and indexes that are counted anew."""
    tree = "@$cursession.Devices.DeviceTree.Flatten(n => n.Children)"
    paths = [line.split('"')[1] for line in answer(session, "!devnode 0 1") if "InstancePath" in line]
    listed = answer(session, f"dx {tree}")[1:]
    assert [line.split(" : ")[1].split(" (")[0] for line in listed] == paths
    assert listed[0] == "    [0x0]            : HTREE\\ROOT\\0"
    assert answer(session, f'dx {tree}.Where(n => n.ServiceName == "pci")')[1:] == [
        "    [0x0]            : ACPI\\PNP0A08\\0 (pci)"
    ]
    assert len(answer(session, f"dx {tree}.Where(n => n.State == 776)")[1:]) == len(paths)
    assert not answer(session, f"dx {tree}.Where(n => n.DeviceNodeObject.Problem != 0)")[1:]
    columns = [heading.strip() for heading in answer(session, f"dx -g {tree}")[1].split("=")[2:-1]]
    assert columns == [
        *("(+) DeviceNodeObject", "InstancePath", "ServiceName", "(+) PhysicalDeviceObject", "State", "(+) Children")
    ]


def test_typed_pseudo_registers(session: Session) -> None:
    """``r? $t0 = @$peb->ProcessParameters`` and ``?? @$t0->CommandLine`` of a published session; "r (Registers)"."""
    assert answer(session, "r? $t0 = (nt!_EPROCESS *)@$proc; ?? @$t0->UniqueProcessId") == [
        "void * 0x00000000`00001c58"
    ]
    assert answer(session, "? @$t0 == @$proc; ? @@(@$t0->UniqueProcessId)") == [
        "Evaluate expression: 1 = 00000000`00000001",
        "Evaluate expression: 7256 = 00000000`00001c58",
    ]
    # The value is the one of that moment; a structure is where it lies.
    answer(session, "r? @$t1 = @$t0->UniqueProcessId; r? $t2 = @$t0->Pcb.Header")
    assert answer(session, "r $t1") == ["$t1=0000000000001c58"]
    assert answer(session, "? @$t2 - @$proc; ?? @$t2.Type")[1] == "unsigned char 3 ''"
    # A number takes the type off again.
    assert answer(session, "r $t0=5; ?? @$t0") == ["unsigned int64 5"]
    assert answer(session, 'r? $t0 = "text"')[0].startswith("a pseudo-register holds a number")
    assert answer(session, "r? rax = 5")[0].startswith("r knows no ")


def test_protected_processes(session: Session) -> None:
    """A published script: typed pseudo-registers, a condition of C++, quotes inside of quotes."""
    script = (
        '!for_each_process "r? @$t0 = (nt!_EPROCESS*) @#Process; .if @@(@$t0->ActiveThreads > 0) '
        '{.printf /D \\"%08x <b>[%15ma]</b>\\\\n\\", @@(@$t0->UniqueProcessId), @@(&@$t0->ImageFileName)}"'
    )
    lines = [line for line in answer(session, script) if line]
    assert "00000004 <b>[         System]</b>" in lines
    assert len(lines) == 10 and all(len(line) == 33 for line in lines)


def test_extended_types(session: Session) -> None:
    """``dtx nt!_EPROCESS ffffe000082ea080`` of a published session."""
    at = session.evaluate("@$thread") + 0x478
    assert answer(session, f"dtx nt!_CLIENT_ID {at:x}") == [
        f"(*((nt!_CLIENT_ID *)0x{at:x}))                [Type: _CLIENT_ID]",
        "    [+0x000] UniqueProcess    : 0x1c58 [Type: void *]",
        "    [+0x008] UniqueThread     : 0x1c5c [Type: void *]",
    ]
    assert len(answer(session, f"dtx -r0 nt!_CLIENT_ID {at:x}")) == 1
    assert answer(session, "dtx nt!_CLIENT_ID")[0].startswith("dtx needs a type and an address")
    assert answer(session, "dtx -q nt!_CLIENT_ID 5")[0].startswith("dtx knows no option -q")


def test_evaluators(session: Session) -> None:
    """ ".expr (Choose Expression Evaluator)"."""
    assert answer(session, ".expr") == ["Current expression evaluator: MASM - Microsoft Assembler expressions"]
    assert answer(session, ".expr /s c++; ? 10 + 010") == [
        "Current expression evaluator: C++ - C++ source expressions",
        "Evaluate expression: 18 = 00000000`00000012",
    ]
    assert answer(session, "? @@masm(10)") == ["Evaluate expression: 16 = 00000000`00000010"]
    assert (
        answer(session, ".expr /s masm; ? @@c++(10) + @@(10) + 10")[1] == "Evaluate expression: 36 = 00000000`00000024"
    )
    assert "masm" in answer(session, ".expr /s pascal")[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text("()[]{}*&->.,!@$#\"'0123456789abnt_ xp=<>?:+", max_size=40))
def test_any_expression_gets_an_answer(session: Session, text: str) -> None:
    for line in answer(session, f"dx {text}"):
        assert isinstance(line, str) and not line.startswith("This command failed")
