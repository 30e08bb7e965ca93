"""What commands leave behind: current context, thread, process, processor, dump, paths, log."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import transcript
from tests.prompt import answer, session_over
from volatility3_kdump.console.commands import registry
from volatility3_kdump.console.session import Session

TRAP = ".trap ffffd48f`77af97e0"
NOTEPAD, NOTEPAD_THREAD = "ffff9189527e9080", "ffff91895309d080"
CRASHED = "ffff91895301a080"
LAST = "  *** Stack trace for last set context - .thread/.cxr resets it"


def test_trap_sets_the_context_until_it_is_reset(session: Session) -> None:
    default = answer(session, "k")
    assert default[0] == " # Child-SP          RetAddr               Call Site"
    for reset in (".trap", ".cxr", ".cxr 0"):
        assert answer(session, TRAP) == transcript.REGISTERS.splitlines()
        assert answer(session, "kv") == transcript.KV_AFTER_TRAP.splitlines()
        assert answer(session, reset) == ["Resetting default scope"]
        assert answer(session, "k") == default
    answer(session, TRAP)
    answer(session, ".thread")
    assert answer(session, "k") == default


def test_registers_say_what_is_recovered(session: Session) -> None:
    shown = answer(session, "r")
    assert shown[0].startswith("rax=")
    assert shown[7].startswith("cs=0010")
    answer(session, TRAP)
    shown = answer(session, "r")
    assert shown[0] == "Last set context:"
    # KD shows zero here; the bug check's first argument is what rbx held.
    assert "rbx=ffffd8024aaa8010" in shown[1]
    assert "Recovered by unwinding: r12 r13 r14 r15 rbx rdi rsi" in shown
    assert shown[-1].endswith("mov     eax,dword ptr [rbx] ds:ffffd802`4aaa8010=????????")
    assert answer(session, "r rbx, @rip") == ["rbx=ffffd8024aaa8010 rip=fffff80060da1981"]
    assert answer(session, "r rbx=5") == ["rbx=5: the registers of a dump cannot be changed"]


def test_a_register_that_nobody_knows_is_no_number(session: Session) -> None:
    answer(session, f".thread {NOTEPAD_THREAD}")
    assert answer(session, "r rax") == ["rax is not known: switch frame does not hold it, and it was not recovered"]
    assert answer(session, "r")[1] == "rax=???????????????? rbx=???????????????? rcx=????????????????"


def test_a_thread_with_its_stack(session: Session) -> None:
    assert answer(session, f".thread {NOTEPAD_THREAD}") == ["Implicit thread is now ffff9189`5309d080"]
    shown = answer(session, "k")
    assert shown[0] == LAST
    sites = [line.split()[-1] for line in transcript.NOTEPAD_STACK.splitlines()[1:3]]
    assert [line.split()[-1] for line in shown[2:4]] == sites
    assert answer(session, "!thread")[0].split()[1] == NOTEPAD_THREAD
    assert answer(session, "!process -1 0")[0] == f"PROCESS {NOTEPAD}"
    assert answer(session, ".thread") == ["Implicit thread is now ffff9189`52f55080"]
    assert answer(session, "!process -1 0")[0] == f"PROCESS {CRASHED}"


def test_what_is_no_thread_changes_nothing(session: Session) -> None:
    before = answer(session, "k")
    assert answer(session, ".thread 10")[0].endswith("no thread at 0x10: it is no address of the kernel")
    assert answer(session, ".thread nt")[0].endswith(": its dispatcher header is not that of one")
    assert answer(session, f".thread {NOTEPAD}")[0].endswith(": its dispatcher header is not that of one")
    assert answer(session, f".process {NOTEPAD_THREAD}")[0].endswith(": its dispatcher header is not that of one")
    assert answer(session, ".thread ffffbeef00000000")[0].endswith("not mapped, or its page table is not in the dump")
    assert answer(session, "k") == before


def test_a_process(session: Session) -> None:
    assert answer(session, f".process /p {NOTEPAD}")[0] == "Implicit process is now ffff9189`527e9080"
    assert answer(session, "!process")[0] == f"PROCESS {NOTEPAD}"
    assert answer(session, ".process") == ["Implicit process is now ffff9189`5301a080"]
    assert answer(session, ".process /i 5")[0].startswith(".process /i: a dump cannot run")
    assert "no process at 0x10" in answer(session, ".process 10")[0]


def test_processes_by_whole_names(session: Session) -> None:
    def images(line: str) -> list[str]:
        return [shown.split()[-1] for shown in answer(session, line) if shown.startswith("    Image: ")]

    assert images("!process 0 0 NOTEPAD.exe") == ["notepad.exe"]
    assert images("!process 0 0 notmyfault64.exe") == ["notmyfault64.exe"]
    assert answer(session, "!process 0 0 note.exe")[0].endswith("no process found: none is like that")
    everyone = images("!process 0 0")
    assert images("!process /s 2 0 0") == [name for name in everyone if name in images("!process /s 2 0 0")] != everyone
    assert answer(session, "!process 1e90 0")[:2] == ["Searching for Process with Cid == 1e90", f"PROCESS {NOTEPAD}"]


def test_a_processor(session: Session) -> None:
    assert answer(session, "~1s") == []
    assert session.current.processor == 1
    assert answer(session, "k 1")[1].endswith("nt!HalProcessorIdle+0xf")
    assert answer(session, "!irql") == ["Debugger saved IRQL for processor 0x1 -- 0 (LOW_LEVEL)"]
    assert answer(session, "~2 k 1")[1].endswith("nt!KeBugCheckEx")
    assert session.current.processor == 1
    assert answer(session, "~")[1].startswith(".  1  Prcb ffffc3014f3c0180")
    assert answer(session, "~9s") == ["processor 9 has no control block in the dump"]
    assert answer(session, "!pcr")[0] == "KPCR for Processor 1 at ffffc3014f3c0000:"
    assert answer(session, "!prcb 2")[:3] == [
        "PRCB for Processor 2 at ffffc3014f460180:",
        "Current IRQL -- 2",
        "Threads--  Current ffff918952f55080 Next 0000000000000000 Idle ffffc3014f46c140",
    ]


def test_opendump_and_go(session: Session, sample) -> None:
    assert answer(session, "g") == ["       ^ No runnable debuggees error in 'g'"]
    second = sample(4)
    assert answer(session, f".opendump {second}") == [
        "",
        f"Loading Dump File [{second}]",
        "Mini Kernel Dump File: Only registers and stack trace are available",
        f"Opened '{second}'",
    ]
    assert session.index == 0
    assert "For analysis of this file, run !analyze -v" in answer(session, "g")
    assert session.index == 1
    assert answer(session, "g") == ["       ^ No runnable debuggees error in 'g'"]
    # Each dump has a state of its own.
    answer(session, TRAP)
    answer(session, "||0s")
    assert LAST not in answer(session, "k")
    answer(session, "|| 1 s")
    assert LAST in answer(session, "k")
    assert answer(session, "||7s") == ["there is no dump 7: || lists them"]


def test_opendump_of_nothing(session: Session, tmp_path: Path) -> None:
    assert answer(session, f'.opendump "{tmp_path}/a b.dmp"') == [
        "a b.dmp: cannot be opened: No such file or directory"
    ]
    assert answer(session, ".opendump x\0y") == ["x\0y: is not the name of a file"]
    assert len(session.dumps) == 1


def test_paths(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_NT_SYMBOL_PATH", raising=False)
    answer(session, TRAP)
    assert answer(session, ".sympath") == ["Symbol search path is: "]
    assert answer(session, f".sympath {tmp_path}")[:1] == [f"Symbol search path is: {tmp_path}"]
    assert answer(session, ".sympath+ srv*")[:1] == [f"Symbol search path is: {tmp_path};srv*"]
    assert session.options.symbol_path == f"{tmp_path};srv*"
    assert answer(session, f".exepath {tmp_path}")[:1] == [f"Executable image search path is: {tmp_path}"]
    assert session.target.images.has_path
    before = session.target
    assert answer(session, ".reload /f")[0] == "Loading Kernel Symbols"
    assert answer(session, ".reload /f myfault.sys")[-1].startswith("myfault (")
    assert answer(session, ".reload /f tcpip")[-1].endswith(
        "tcpip.sys (time stamp 5F1DA1C8, size 2ec000) leads to its symbols: -y 'srv*' (--symbol-path) gets it from "
        "Microsoft's server; a driver that is not Microsoft's needs -i DIRECTORY with its file"
    )
    assert answer(session, ".reload /f nosuch.sys") == ['"nosuch.sys" was not found in the image list: lm lists it']
    assert session.target is not before
    # Symbols that were looked for stay so while others are loaded; all are deferred where all are read anew.
    states = {line.split()[2]: line for line in answer(session, "lm") if "(" in line}
    assert "(no symbols)" in states["myfault"] and "(no symbols)" in states["tcpip"] and "(deferred)" in states["Ntfs"]
    answer(session, ".reload")
    states = {line.split()[2]: line for line in answer(session, "lm") if "(" in line}
    assert "(deferred)" in states["myfault"] and "(pdb symbols)" in states["nt"]
    # The context outlives it.
    assert answer(session, "kv") == transcript.KV_AFTER_TRAP.splitlines()


def test_noisy_symbols(session: Session, tmp_path: Path) -> None:
    assert answer(session, "!sym") == ["quiet mode - symbol prompts off"]
    assert answer(session, "!sym noisy") == ["noisy mode - symbol prompts off"]
    answer(session, f".sympath srv*{tmp_path}")
    told = answer(session, ".reload /f myfault.sys")
    asked = [line for line in told if line.startswith("SYMSRV:  ")]
    assert asked and all(line.startswith(f"SYMSRV:  {tmp_path}: ") for line in asked)
    assert any("myfault" in line and line.endswith(" - not found") for line in asked)
    assert answer(session, "!sym quiet") == ["quiet mode - symbol prompts off"]
    assert not [line for line in answer(session, ".reload /f myfault.sys") if line.startswith("SYMSRV")]
    assert answer(session, "!sym prompts") == ["!sym takes noisy or quiet; nothing here prompts"]


def test_logs(session: Session, tmp_path: Path) -> None:
    first, second = tmp_path / "1.log", tmp_path / "2.log"
    assert answer(session, ".logclose") == ["no log file is open"]
    assert answer(session, f".logopen {first}") == [f"Opened log file '{first}'"]
    assert answer(session, ".logfile") == [f"Log '{first}' open"]
    assert answer(session, f".logappend {second}") == [f"Closing open log file {first}", f"Opened log file '{second}'"]
    assert answer(session, ".logclose") == [f"Closing open log file {second}"]
    assert session.log is None
    assert answer(session, f".logopen {tmp_path}")[0].startswith(f"{tmp_path}: the log cannot be opened: ")


def test_code_goes_on_where_it_ended(session: Session) -> None:
    first = answer(session, "u nt!KiBugCheckDispatch L2")
    second = answer(session, "u")
    assert answer(session, "u nt!KiBugCheckDispatch L0n10")[1:] == first[1:] + second[1:]
    end = second[-1].split()[0]
    assert answer(session, f"u nt!KiBugCheckDispatch {end}")[1:] == first[1:] + second[1:]
    assert answer(session, f"ub {end} L3")[1:] == [*first[1:], *second[1:]][-4:-1]
    whole = answer(session, "uf nt!KiBugCheckDispatch+10")
    assert whole[0] == "nt!KiBugCheckDispatch:"
    assert whole[1:11] == first[1:] + second[1:]
    # A new context is where it begins again.
    answer(session, TRAP)
    assert answer(session, "u")[:2] == [
        "myfault+0x1981:",
        "fffff800`60da1981 8b03            mov     eax,dword ptr [rbx]",
    ]


def test_frames_and_their_number(session: Session) -> None:
    whole = answer(session, "kn")
    assert answer(session, "kn 3") == answer(session, "k3") == whole[:4]
    assert answer(session, ".frame 2") == [whole[3]]
    assert answer(session, ".frame") == [whole[3]]
    assert answer(session, ".frame 99")[0].startswith("there is no frame 99: the stack has c")
    assert answer(session, ".kframes 2") == ["Default stack trace depth is 0n2 frames"]
    assert answer(session, "k") == whole[:3]
    assert answer(session, "kvn 0") == ["k shows 1 to 400 frames (hexadecimal), not 0"]
    # From the stack and instruction pointers of a frame the same stack follows.
    sp, back = whole[4].split()[1:3]
    ip = whole[3].split()[2]
    from_there = answer(session, f"k = {sp} {ip}")
    assert from_there[0] == LAST
    assert from_there[2].split()[1:3] == [sp, back]
    assert len(answer(session, f"k = {sp} {ip} 2")) == 4


def test_sizes_of_frames(session: Session) -> None:
    shown = answer(session, "kf 5")
    assert shown[0] == " #   Memory  Child-SP          RetAddr               Call Site"
    assert [text[:30] for text in shown[1:4]] == [
        "00           ffffd48f`77af9698",
        "01         8 ffffd48f`77af96a0",
        "02       140 ffffd48f`77af97e0",
    ]
    assert [text[13:] for text in shown[1:]] == [text[3:] for text in answer(session, "kn 5")[1:]]
    # From the kernel's stack to the user's there is no distance.
    assert answer(session, "knf")[-1].startswith("0b           0000007a`e6bde8d8")
    assert answer(session, "kvf") == ["kf shows no arguments: use kf, or kv"]


def test_the_exception_context(session: Session) -> None:
    assert answer(session, ".ecxr") == transcript.REGISTERS.splitlines()
    assert answer(session, "kv") == transcript.KV_AFTER_TRAP.splitlines()
    assert answer(session, ".exr -1")[1] == "   ExceptionCode: 80000003 (Break instruction exception)"


@pytest.mark.parametrize(
    "scene", ("myfault", "bad-pointer", "double-fault", "hung-processor", "pnp-timeout", "system-thread", "no-execute")
)
def test_the_stack_command_of_the_analysis_shows_its_stack(sample, scene: str) -> None:
    session = session_over(sample(6, None, scene))
    analysis = answer(session, "!analyze -v")
    (line,) = (text for text in analysis if text.startswith("STACK_COMMAND: "))
    start = analysis.index("STACK_TEXT:  ") + 1
    rows = [text for text in analysis[start : analysis.index("", start)] if " : " in text]
    # kb has no Child-SP in front.
    expected = [text.partition(" ")[2] for text in rows]
    shown = [text[3:] for text in answer(session, line.partition(": ")[2]) if " : " in text][1:]
    assert expected
    assert shown == expected


def test_a_fast_fail_exception_names_its_code(sample) -> None:
    session = session_over(sample(6, None, "list-corruption"))
    arguments = answer(session, ".bugcheck")[1].split()
    assert "Subcode: 0x3 FAST_FAIL_CORRUPT_LIST_ENTRY" in answer(session, f".exr {arguments[3]}")


def test_every_module(session: Session) -> None:
    shown = answer(session, '!for_each_module ".echo @#ModuleName @#Base"')
    assert "myfault fffff80060da0000" in shown
    assert len(shown) == len(session.target.modules) == len(answer(session, "!for_each_module"))
    assert answer(session, '!for_each_module ".echo @#Nothing"')[0].startswith("!for_each_module knows no @#Nothing")
    nested = '!for_each_module "!for_each_module !for_each_module !for_each_module !for_each_module k"'
    assert any("too deep" in line or "never end" in line for line in answer(session, nested))


def test_a_module_s_name_is_no_command_and_no_path(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = dataclasses.replace(session.target.modules[0], name='x"; q ;"../..\\y')
    monkeypatch.setitem(session.target.__dict__, "modules", [evil])
    assert answer(session, '!for_each_module ".echo @#ModuleName"') == ["x__ q __.._.._y"]
    assert not session.finished


def test_without_a_dump() -> None:
    session = Session()
    for line in ("k", "r", "!analyze -v", ".trap 5", "lm", "~", "!process 0 0", ".thread", "u", "vertarget"):
        assert answer(session, line) == ["no dump is open: .opendump FILE opens one"]


def test_registers_inside_a_frame(session: Session) -> None:
    shown = answer(session, ".frame /r 3")
    assert shown[0] == answer(session, ".frame 3")[0]
    # What unwinding finds there is what the trap frame and those above it kept: rbx is the bug check's first argument.
    assert "rbx=ffffd8024aaa8010" in shown[1]
    assert shown[3] == "rip=fffff80060da1981 rsp=ffffd48f77af9970 rbp=0000000000000002"
    assert answer(session, ".frame /r 0")[1:] == answer(session, "r")
    # A call keeps no volatile register, and nobody knows the flags.
    deeper = answer(session, ".frame /r 4")
    assert deeper[1].startswith("rax=???????????????? rbx=")
    assert deeper[-3].startswith("iopl=?")
    assert deeper[-2] == "myfault+0x1d3d:"
    assert answer(session, ".frame /x 2") == [".frame knows no option /x: it takes [/r] [/c] [N] (.help .frame)"]


def test_zero_is_the_default_thread_and_process(session: Session) -> None:
    default = answer(session, ".thread"), answer(session, ".process")
    answer(session, f".thread {NOTEPAD_THREAD}; .process {NOTEPAD}")
    assert (answer(session, ".thread 0"), answer(session, ".process 0")) == default


def test_a_log_named_by_process_and_time(session: Session, tmp_path: Path) -> None:
    [line] = answer(session, f".logopen /t {tmp_path / 'crash.txt'}")
    answer(session, ".logclose")
    [log] = tmp_path.iterdir()
    assert line == f"Opened log file '{log}'"
    assert re.fullmatch(r"crash_[0-9A-F]{4,}_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{3}\.txt", log.name)


def test_the_public_symbol_server(session: Session, tmp_path: Path) -> None:
    session.options = replace(session.options, symbol_path="")
    assert answer(session, ".symfix") == ["Symbol search path is: srv*"]
    path = f"srv*{tmp_path}*https://msdl.microsoft.com/download/symbols"
    assert answer(session, f".symfix {tmp_path}") == [f"Symbol search path is: {path}"]
    assert answer(session, ".symfix+") == [f"Symbol search path is: {path};srv*"]
    assert answer(session, ".symfix srv*") == [".symfix takes a directory, not a path: .sympath takes paths"]


def test_paths_with_several_elements(session: Session, tmp_path: Path) -> None:
    path = rf"cache*{tmp_path};srv*https://symbols.invalid/store;C:\symbols;{tmp_path}"
    complaint, shown, expanded, echoed = answer(session, f".sympath {path}; .echo then")
    assert complaint.startswith("WARNING: symbol path: ")
    assert expanded == f"Expanded Symbol search path is: {path.lower()}"
    assert (shown, echoed) == (f"Symbol search path is: {path}", "then")
    shown = answer(session, f".exepath {tmp_path};x nt!KeBugCheck2")
    assert f"Executable image search path is: {tmp_path}" in shown
    assert shown[-1].endswith(" nt!KeBugCheck2 (<no parameter info>)")


def test_hidden_commands_are_not_suggested(session: Session) -> None:
    hidden = [name for name, entry in registry().items() if entry.hidden]
    assert hidden
    for name in hidden:
        suggested = answer(session, f"{name}x")[0].partition("did you mean ")[2].rstrip("?").split(" or ")
        assert name not in suggested


def test_arguments_in_the_stack_of_a_thread(session: Session) -> None:
    shown = answer(session, "!thread")
    heading = shown.index(
        "Child-SP          RetAddr               : "
        "Args to Child                                                           : Call Site"
    )
    published = transcript.STACK_TEXT.splitlines()[1:]
    assert [line.partition(" (TrapFrame")[0] for line in shown[heading + 1 : -1]] == published
    without = answer(session, "!thread -1 e")
    assert without[:heading] == shown[:heading]
    assert without[heading] == "Child-SP          RetAddr               Call Site"


def test_handles_of_a_process_id(session: Session) -> None:
    assert answer(session, "!handle 0 1 1e90") == answer(session, f"!handle 0 1 {NOTEPAD}")
    assert answer(session, "!handle 0 1 77") == [f"{session.target.name}: no process with the id 77 is in the dump"]


def test_machine_and_processors(session: Session) -> None:
    assert answer(session, "!sysinfo machineid")[1] == "SystemManufacturer = Contoso Ltd"
    assert answer(session, "!cpuinfo 1")[1:] == [" 1 6,158,10 GenuineIntel 3192 0000000000000000 00000000"]
    assert answer(session, "!cpuinfo 9")[0].endswith("no such control block is in the dump, or it names no model")
    assert answer(session, ".dumpdebug")[0] == "DUMP_HEADER64:"


def test_a_hardware_error(sample: Callable[..., Path]) -> None:
    session = session_over(sample(6, None, "machine-check"))
    record = session.target.header.bug_check_parameters[1]
    shown = answer(session, f"!errrec {record:x}")
    assert shown[1] == f"Common Platform Error Record @ {record:016x}"
    assert [line for line in shown if line.startswith("Section ") and ": " in line] == [
        "Section 0     : Processor Generic",
        "Section 1     : x86/x64 Processor",
        "Section 2     : x86/x64 MCA",
    ]
    assert "Error         : DCACHEL1_DRD_ERR (Proc 2 Bank 0)" in shown
    assert [line.split(": ")[1].split()[0] for line in shown if line.startswith("  Status")] == ["0xbe00000000800135"]
    assert answer(session, "!errrec @rsp")[0].startswith("no error record at 0x")


def test_a_warning_is_given_once(sample: Callable[..., Path], kdump: Callable[..., list[str]]) -> None:
    shown = kdump("-z", sample(), "--image-path", "/nowhere/at/all", "-c", "lmvm myfault; lmv\n!drivers\nq\nk")
    assert [line for line in shown if "/nowhere/at/all is not" in line] == [
        "WARNING: image path: /nowhere/at/all is not a directory, ignored"
    ]
    assert sum(line.startswith("TOTAL: 18 modules") for line in shown) == 2
    assert shown[-1] == "quit:"


def test_nothing_that_is_no_command_is_repeated_at_length(session: Session) -> None:
    assert answer(session, "A" * 100_000) == [f"{'A' * 40}...: no such command here; .help lists the commands"]
