"""Options and arguments of Microsoft's pages that used to be dropped without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target

Opened = Callable[[str], Session]


@pytest.fixture
def opened_scene(scene: Callable[..., Target]) -> Opened:
    def opened(name: str) -> Session:
        return session_on(scene(name))

    return opened


def test_flags_of_drvobj(session: Session) -> None:
    """1 (the default) devices, 2 dispatch routines, 4 the devices' stacks."""
    brief, routines, whole = (answer(session, f"!drvobj myfault {flag}".rstrip()) for flag in ("", "2", "7"))
    assert "Device Object list:" in brief and "Dispatch routines:" not in brief
    assert "Device Object list:" not in routines and "Dispatch routines:" in routines
    assert {"Device Object list:", "Dispatch routines:"} <= set(whole)
    assert any("!DevObj" in line for line in whole)
    assert answer(session, "!drvobj myfault 8") == [
        "!drvobj knows no flag 8: FLAGS is the sum of 1 its devices, 2 its dispatch table, "
        "4 each device with those attached to it"
    ]


def test_one_block_of_a_pool_page(opened_scene: Opened) -> None:
    session = opened_scene("memory")
    listed = answer(session, "!poolfind Leak")
    address = next(line.split()[0] for line in listed if line.startswith("ffff") and "Leak" in line)
    page = answer(session, f"!pool {address}")
    blocks = [line for line in page if "size:" in line]
    alone = answer(session, f"!pool {address} 2")
    assert [line for line in alone if "size:" in line] == [line for line in blocks if line.startswith("*")]
    bare = answer(session, f"!pool {address} 80000002")
    assert len(bare) <= len(alone)
    assert [line for line in bare if "size:" in line] == [line for line in alone if "size:" in line]


def test_the_total_is_that_of_what_is_shown(opened_scene: Opened) -> None:
    """As published: Even 19248 2470752 ... TOTAL 19248 2470752."""
    session = opened_scene("memory")
    lines = answer(session, "!poolused 2 Leak")
    row = next(line.split() for line in lines if line.startswith(" Leak"))
    total = next(line.split() for line in lines if line.startswith("TOTAL"))
    assert total[1:5] == row[1:5]
    everything = answer(session, "!poolused 2")
    assert next(line.split() for line in everything if line.startswith("TOTAL"))[1:5] != row[1:5]


def test_a_page_directory_by_its_frame_number(session: Session) -> None:
    """``!vtop 98fd 12f980`` and ``!vtop 98fd000 12f980`` are the same."""
    directory = session.target.header.directory_table_base & ~0xFFF
    assert answer(session, f"!vtop {directory >> 12:x} @rip") == answer(session, f"!vtop {directory:x} @rip")
    assert answer(session, f"!vtop {directory:x} @rip")[-1].startswith("Virtual address ")


def test_a_thread_with_its_process(session: Session) -> None:
    lines = answer(session, "!thread -p")
    assert lines[0].startswith("PROCESS ")
    assert any(line.startswith("THREAD ") for line in lines)


def test_paths_are_shown_expanded(session: Session) -> None:
    session.options = Options(offline=True, symbol_path="/Symbols;srv*")
    assert answer(session, ".sympath") == [
        "Symbol search path is: /Symbols;srv*",
        "Expanded Symbol search path is: /symbols;srv*https://msdl.microsoft.com/download/symbols",
    ]


@pytest.mark.parametrize("short", ["srv*", "SRV**", '"srv*"', "symsrv*symsrv.dll", "symsrv*symsrv.dll*"])
def test_all_names_of_the_public_server_are_expanded(session: Session, short: str) -> None:
    session.options = Options(offline=True, symbol_path=f"cache*;{short}")
    server = "symsrv*symsrv.dll" if "dll" in short else "srv"
    wanted = f"Expanded Symbol search path is: cache*;{server}*https://msdl.microsoft.com/download/symbols"
    assert answer(session, ".sympath")[1] == wanted


def test_a_module_reloaded_with_its_place(session: Session) -> None:
    """``.reload MODULE=BASE,SIZE``: what the list of modules has is taken, anything else is refused."""
    module = next(module for module in session.target.modules if module.name == "myfault")
    plain = answer(session, ".reload /f myfault.sys")
    assert answer(session, f".reload /f myfault.sys={module.base:x},{module.size:x}") == plain
    assert answer(session, f".reload myfault.sys={module.base:x}")[-1].startswith("myfault (")
    refused = f"the base of myfault is {module.base:x} in the image list: {module.base + 4096:x} is not taken for it"
    assert answer(session, f".reload /f myfault.sys={module.base + 4096:x},1000") == [refused]
    refused = f"the size of myfault is {module.size:x} in the image list: 1 is not taken for it"
    assert answer(session, f".reload /f myfault.sys={module.base:x},1") == [refused]
    assert answer(session, ".reload /f new.dll=7ff00000,1000") == [
        '"new.dll" was not found in the image list, and 7ff00000,1000 does not add it: modules are those that lm lists'
    ]


def test_names_of_devices(session: Session) -> None:
    assert answer(session, "!devobj \\Device\\None") == [f"{session.target.name}: no device is named \\Device\\None"]


def test_logs_without_a_name(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer(session, ".logopen") == ["Opened log file 'dbgeng.log'"]
    session.close_log()
    name = f"{Path(session.current.path).name}.log"
    assert answer(session, ".logopen /d") == [f"Opened log file '{name}'"]
    session.close_log()
    assert (tmp_path / name).exists()


def test_flags_of_object(session: Session) -> None:
    """As documented: 0 shows the type alone, 1 names and counts as well."""
    address = f"{session.current.process:x}"
    whole = answer(session, f"!object {address}")
    assert answer(session, f"!object {address} 0") == whole[:2]
    assert answer(session, f"!object {address} 0x1") == whole
    assert "HandleCount" in "".join(whole[2:])


def test_flags_of_ready(opened_scene: Opened) -> None:
    """2 shows each thread as ``!thread`` does, 4 with that its stack, 8 stacks without arguments."""
    waits = opened_scene("waits")
    plain = answer(waits, "!ready")
    assert answer(waits, "!ready 0") == answer(waits, "!ready 4") == plain
    threads = [line.split()[1] for line in plain if line.startswith("    THREAD ")]
    assert len(threads) == 2
    for flags, own in (("2", "2"), ("6", ""), ("e", "e"), ("f", "e")):
        lines = answer(waits, f"!ready {flags}")
        expected = [f"    {line}" if line else "" for line in answer(waits, f"!thread {threads[0]} {own}".rstrip())]
        start = lines.index(expected[0])
        assert lines[start : start + len(expected)] == expected
        assert [line for line in lines if line.startswith(("Processor", "    THREAD"))] == [
            line for line in plain if line.startswith(("Processor", "    THREAD"))
        ]


def test_texts_in_commands_for_modules(session: Session) -> None:
    """The quotes of a command are its own; those around several commands hold them together."""
    wanted = answer(session, "lm1m m my*")
    assert wanted
    line = '!for_each_module .if ($spat("@#ModuleName","my*")) {.echo @#ModuleName}'
    assert answer(session, line) == wanted
    outer = '!for_each_module ".if ($spat(\\"@#ModuleName\\",\\"my*\\")) {.echo @#ModuleName; .echo on}"'
    assert answer(session, outer) == [line for name in wanted for line in (name, "on")]
    assert answer(session, '!for_each_module ".echo @#ModuleName; .echo b"')[1::2] == ["b"] * len(
        session.target.modules
    )


def test_every_flag_of_a_thread_at_once(session: Session) -> None:
    plain = answer(session, "!thread")
    assert [line for line in answer(session, "!thread @$thread 1f") if not line.startswith("NOTE")][:5] == plain[:5]


def test_processes_by_session_and_module(session: Session) -> None:
    """``/s`` and ``/m`` narrow each form, and are not dropped where a process or a name is given too."""
    by_module = answer(session, "!process /m notepad 0 0")
    assert [line for line in by_module if "Image:" in line] == ["    Image: notepad.exe"]
    assert by_module == answer(session, "!process 0 0 notepad.exe")
    assert answer(session, "!process /s 2 0 0 notepad.exe") == by_module
    (line,) = answer(session, "!process /s 0 0 0 notepad.exe")
    assert line.endswith("no process is in session 0 and like that")
    (line,) = answer(session, "!process /s 0 @$proc 0")
    assert line.endswith("no process is in session 0 and like that")
    (line,) = answer(session, "!process /m a 0 0 b")
    assert line.startswith("!process takes one name")


def test_a_session_is_made_current(session: Session) -> None:
    before = answer(session, "!session")[-1]
    assert answer(session, "!session -s 0")[-1] == "Using session 0"
    assert answer(session, "!session")[-1] == "Current Session 0" != before
    assert answer(session, "!session -s -1")[-1] == "Using that of the crash"
    assert answer(session, "!session")[-1] == before
    assert answer(session, "!session -s 77")[-1].endswith("no process is in session 77")


@pytest.mark.parametrize("line", ["kn L3", "k L3", "k L 3", "kL 3", "kL3", "kn3", "k 3"])
def test_a_number_of_frames_in_every_spelling(session: Session, line: str) -> None:
    assert answer(session, line) == answer(session, "k 3")


def test_what_search_flags_do_not_do(session: Session) -> None:
    lines = answer(session, '! s -[w1]a nt L1000 "This"'.removeprefix("! "))
    assert lines[0].startswith("NOTE: s -[w]: ") and lines[1].startswith("0x")
    assert answer(session, "s -[z]a nt L1000 x")[0].startswith("s knows no flag z in [z]")
    assert answer(session, "s -v nt nt") == ["s -v: the classes of C++ objects need private symbols"]


def test_no_type_like_that(session: Session) -> None:
    assert answer(session, "dt nt!Ki*Bug*") == ["no type fits nt!Ki*Bug*: x nt!Ki*Bug* lists functions and variables"]


def test_a_note_has_the_name_that_was_typed(session: Session) -> None:
    assert answer(session, ".reload /o")[0].startswith("NOTE: .reload /o: ")


def test_commands_for_all_of_the_debugger(session: Session) -> None:
    assert answer(session, "~*e r rip") == answer(session, "~*r rip")


def test_addresses_that_are_something_else(session: Session) -> None:
    (line,) = answer(session, "!vad @$proc")
    assert line.endswith(" is a process, no VAD: its VadRoot is 0")
    (line,) = answer(session, "!devobj myfault")
    assert line == "no device is named myfault, which is a module: !drvobj myfault lists a driver's devices"


def test_the_kind_of_symbols_of_each_module(session: Session) -> None:
    """DEBUG_SYMTYPE_PDB is 3."""
    assert "nt 3" in answer(session, "!for_each_module .echo @#ModuleName @#SymbolType")


@pytest.mark.parametrize("option", ["-D X", "-c -load x", "-xml", "-xmi"])
def test_options_of_analyze_that_are_not_there(session: Session, option: str) -> None:
    (line,) = answer(session, f"!analyze {option}")
    assert line.startswith(f"!analyze {option.split(maxsplit=1)[0]}: ") and "knows no" not in line


def test_dumps_are_written_elsewhere(session: Session) -> None:
    assert answer(session, ".dump /m x") == [
        ".dump is not there: nothing is written here: kdump slice writes a smaller dump, kdump dump one of another type"
    ]


@pytest.mark.parametrize("pattern", ["my+fault", "my#fault", "[lm]yfault", "MYF*", "my?ault"])
def test_wildcards_of_modules(session: Session, pattern: str) -> None:
    """ "String Wildcard Syntax": + is one or more of what is before it, # any number."""
    assert answer(session, f"lm1m m {pattern}") == ["myfault"]


def test_details_of_stacks(session: Session) -> None:
    assert answer(session, "!stacks 3") == [
        "!stacks knows no detail 3: 0 the first frame, 1 also without stacks, 2 whole stacks"
    ]


@pytest.mark.parametrize("line", ["!object -h", "!object -?", "!for_each_frame -?", "!for_each_module -?"])
def test_help_of_extensions(session: Session, line: str) -> None:
    assert answer(session, line) == answer(session, f".help {line.partition(' ')[0]}")
