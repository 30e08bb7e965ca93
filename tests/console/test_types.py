"""``dt`` at the prompt."""

from __future__ import annotations

import json
import lzma

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.output import parsed
from tests.prompt import answer, session_over
from tests.symbols.pdb.made_pdb import kernel_pdb
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.options import Options
from volatility3_kdump.symbols.kernel import PdbIdentity
from volatility3_kdump.symbols.pdb.names import store_key

_CID_LINES = (
    "   UniqueProcess    : 0x00000000`00001c58 Void",
    "   UniqueThread     : 0x00000000`00001c5c Void",
)


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("dt nt!_CLIENT_ID", ["   +0x000 UniqueProcess    : Ptr64 Void", "   +0x008 UniqueThread     : Ptr64 Void"]),
        ("dt _CLIENT_ID", ["   +0x000 UniqueProcess    : Ptr64 Void", "   +0x008 UniqueThread     : Ptr64 Void"]),
        ("dt -o nt!_CLIENT_ID UniqueThread", ["   UniqueThread     : Ptr64 Void"]),
        (
            "dt -v nt!_UNICODE_STRING",
            [
                "struct _UNICODE_STRING, 3 elements, 0x10 bytes",
                "   +0x000 Length           : Uint2B",
                "   +0x002 MaximumLength    : Uint2B",
                "   +0x008 Buffer           : Ptr64 Wchar",
            ],
        ),
        (
            "dt nt!_UNICODE_STRING poi(nt!PsLoadedModuleList)+58",
            [
                ' "ntoskrnl.exe"',
                "   +0x000 Length           : 0x18",
                "   +0x002 MaximumLength    : 0x1a",
                '   +0x008 Buffer           : 0xffff9189`4d602110 "ntoskrnl.exe"',
            ],
        ),
        (
            "dt nt!_EPROCESS ImageFileName UniqueProcessId @$proc",
            [
                "   +0x440 UniqueProcessId  : 0x00000000`00001c58 Void",
                '   +0x5a8 ImageFileName    : [15]  "notmyfault64.e"',
            ],
        ),
        (
            "dt nt!_ETHREAD @$thread Tcb.State",
            ["   +0x000 Tcb              : ", "      +0x184 State            : 0x2 ''"],
        ),
        (
            "dt nt!_ETHREAD Tcb.State @$thread",
            ["   +0x000 Tcb              : ", "      +0x184 State            : 0x2 ''"],
        ),
        (
            "dt -a2 nt!_KPROCESS ThreadSeed",
            ["   +0x284 ThreadSeed       : [20] Uint2B", "     [00] Uint2B", "     [01] Uint2B"],
        ),
        ("dt nt!_EPRO*", ["          nt!_EPROCESS", "          nt!_EPROCESS_VALUES"]),
        ("dt nt!_NOSUCH*", ["no type fits nt!_NOSUCH*: x nt!_NOSUCH* lists functions and variables"]),
        ("dt", ["dt needs a type: dt nt!_EPROCESS"]),
        ("dt nosuch!_A", ["no loaded module is named nosuch"]),
        ("dt nt!_EPROCESS nosuch", ["Cannot find specified field members: nt!_EPROCESS has no field nosuch"]),
        (
            "dt -q nt!_EPROCESS",
            ["dt knows no option -q: it takes [-OPTIONS] [MODULE!]NAME [FIELDS] [ADDRESS] [-l FIELD] (.help dt)"],
        ),
        ("dt -l", ["dt -l needs a field"]),
        ("dt nt!_KTHREAD @$thread WaitBlock[0]", ["   +0x140 WaitBlock[0]     : _KWAIT_BLOCK"]),
        (
            "dt nt!_KTHREAD @$thread WaitBlock[1].Object",
            ["   +0x170 WaitBlock[1]     : ", "      +0x020 Object           : (null) "],
        ),
        ("dt nt!_KTHREAD @$thread WaitBlock[9]", ["WaitBlock has 4 elements: there is no [9]"]),
        (
            "dt nt!_KPRCB @$prcb CurrentThread TargetSet",
            [
                "   +0x008 CurrentThread    : 0xffff9189`52f55080 _KTHREAD",
                "Cannot find specified field members: nt!_KPRCB has no field TargetSet",
            ],
        ),
        (
            "dt nt!_EPROCESS MitigationFlagsValues",
            ["   +0x9d0 MitigationFlagsValues : <unnamed-tag>"],
        ),
        # A pointer to a list entry is looked through, as in the documentation.
        (
            "dt nt!_LIST_ENTRY @@(&nt!PsActiveProcessHead)",
            [
                " [ 0xffff9189`4c27a488 - 0xffff9189`5301a4c8 ]",
                "   +0x000 Flink            : 0xffff9189`4c27a488 _LIST_ENTRY "
                "[ 0xffff9189`4f2004c8 - 0xfffff800`6321dfc0 ]",
                "   +0x008 Blink            : 0xffff9189`5301a4c8 _LIST_ENTRY "
                "[ 0xfffff800`6321dfc0 - 0xffff9189`527e94c8 ]",
            ],
        ),
        # Variables, by name and by address.
        ("dt nt!KiBugCheckDriver Length", ["   +0x000 Length           : 0x16"]),
        ("dt nt!PsIdleProcess", ["no type is known for it: dt TYPE ADDRESS shows it as one"]),
        ("dt 0", ["0 is no variable with a name: dt TYPE ADDRESS shows memory as a type"]),
        # The documentation's examples of options.
        ("dt -ca4 ULONG @rsp", ["[0] 0x62a09169", "[1] 0xfffff800", "[2] 0xa", "[3] 0"]),
        ("dt -ca1 ULONG @rsp; dt -ca1 . @rsp+8", ["[0] 0x62a09169", "Using sym ULONG", "[0] 0xa"]),
        (
            "dt -s 10 -v nt!_CLI*",
            [
                "Enumerating symbols matching nt!_CLI*, Size = 0x10",
                "Address   Size Symbol",
                "           010 nt!_CLIENT_ID",
            ],
        ),
        (
            "dt -d nt!_CLIENT_ID3*",
            [
                "struct _CLIENT_ID32, 2 elements, 0x8 bytes",
                "   +0x000 UniqueProcess    : Uint4B",
                "   +0x004 UniqueThread     : Uint4B",
            ],
        ),
        ("dt -oi nt!_ETHREAD Cid. @$thread", ["   Cid              : ", *_CID_LINES]),
        ("dt -c nt!_CLIENT_ID", ["+0x000 UniqueProcess    : Ptr64 Void +0x008 UniqueThread     : Ptr64 Void"]),
        (
            "dt @$thread+478 nt!_CLIENT_ID",
            [
                "   +0x000 UniqueProcess    : 0x00000000`00001c58 Void",
                "   +0x008 UniqueThread     : 0x00000000`00001c5c Void",
            ],
        ),
        ("dt ntkrnlmp!_CLIENT_ID UniqueThread", ["   +0x008 UniqueThread     : Ptr64 Void"]),
        ("dt -n nt!abc", ["Symbol nt!abc not found: the module's symbols have no such type"]),
        ("dt .", ["dt . repeats the last type: there is none yet"]),
        ("dt nt!_EPROCESS -l ActiveProcessLinks", ["a list is walked from an address: name one"]),
    ],
)
def test_lines(session: Session, line: str, lines: list[str]) -> None:
    assert answer(session, line) == lines


def test_what_is_not_there(session: Session) -> None:
    assert answer(session, "dt nt!_NOSUCH")[0].startswith("Symbol nt!_NOSUCH not found: ")
    assert answer(session, "dt myfault!_A")[0].startswith("no types of myfault: ")
    lines = answer(session, "dt nt!_CLIENT_ID 1000")
    assert lines == [
        "   +0x000 UniqueProcess    : ??",
        "   +0x008 UniqueThread     : ??",
        "Memory read error 1000: not mapped, or its page table is not in the dump",
    ]


def test_variables_by_name_and_address(session: Session) -> None:
    shown = answer(session, "dt nt!KiBugCheckDriver")
    assert shown[0] == '0xffff9189`4d602e68 _UNICODE_STRING "myfault.sys"'
    assert shown[1:3] == ["   +0x000 Length           : 0x16", "   +0x002 MaximumLength    : 0x18"]
    head = answer(session, "dt nt!PsActiveProcessHead")
    assert head == answer(session, "dt nt!_LIST_ENTRY nt!PsActiveProcessHead")
    assert answer(session, f"dt {session.evaluate('nt!PsActiveProcessHead'):x}") == head


def test_physical_addresses(session: Session) -> None:
    """``-p``: the same structure by the address that ``!vtop`` gives."""
    physical = next(line for line in answer(session, "!pte @$proc") if "pfn" in line)
    frame = int(physical.split("pfn ")[-1].split()[0], 16)
    offset = (session.evaluate("@$proc") & 0xFFF) + (frame << 12)
    wanted = answer(session, "dt nt!_EPROCESS @$proc Pcb.Header.Lock")
    assert answer(session, f"dt -p nt!_EPROCESS {offset:x} Pcb.Header.Lock") == wanted


def test_enumerations(session: Session) -> None:
    assert answer(session, "dt nt!_KTHREAD_STATE")[:3] == [
        "   Initialized = 0n0",
        "   Ready = 0n1",
        "   Running = 0n2",
    ]
    state = session.target.nt.offset("_KTHREAD", "State")
    text = answer(session, f"dt nt!_KTHREAD_STATE @$thread+{state:x}")
    assert len(text) == 1
    assert text[0].endswith("Running )") or "No matching" in text[0]


def test_lists(session: Session) -> None:
    lines = answer(session, "dt nt!_EPROCESS -l ActiveProcessLinks.Flink ImageFileName poi(nt!PsInitialSystemProcess)")
    assert lines[:4] == [
        "ActiveProcessLinks.Flink at 0xffff9189`4c27a040",
        "---------------------------------------------",
        '   +0x5a8 ImageFileName    : [15]  "System"',
        "",
    ]
    assert sum(line.startswith("ActiveProcessLinks.Flink at ") for line in lines) == 11


def test_the_prompt_and_the_plugin_tell_the_same(session: Session, sample, run_plugin) -> None:
    arguments = ("-q", "-f", sample(), "-r", "windbg", "kdump.type", "--type", "_EPROCESS", "--address", "@$proc")
    finished = run_plugin(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [line.rstrip("\n") for line in answer(session, "dt nt!_EPROCESS @$proc")]


def test_rows(sample, run_plugin) -> None:
    finished = run_plugin(
        *("-q", "-f", sample(), "-r", "json", "kdump.type", "--type", "nt!_ETHREAD", "--address", "$thread"),
        *("--field", "Cid."),
    )
    assert finished.returncode == 0, finished.stderr
    (row,) = parsed(finished.stdout)
    assert (row["Field"], row["FieldType"], row["Value"]) == ("Cid", "_CLIENT_ID", None)
    assert [(child["Field"], child["Value"], child["Offset"]) for child in row["__children"]] == [
        ("UniqueProcess", 0x1C58, 0),
        ("UniqueThread", 0x1C5C, 8),
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.sampled_from(
            "nt!_EPROCESS _KTHREAD nt!_LIST_ENTRY -r -r3 -b -a -a2 -y -o -v -l Pcb. Pcb.Header ImageFileName Flink * "
            "?# @$proc @$thread 0 ffffffff`fffffff8 poi( ) + nt!* _GUID nt! ! . .. -l5 nt!_KWAIT_REASON 5".split()
        ),
        max_size=6,
    ).map(" ".join)
    | st.text(max_size=20)
)
def test_any_arguments_get_an_answer(session: Session, text: str) -> None:
    for _, line in zip(range(200), execute(session, f"dt {text}"), strict=False):
        assert "\n" not in line


def test_types_from_a_pdb_alone(sample, isf_paths, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel's PDB gives the same text as the ISF table that it was made of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    isf = min(isf_paths, key=lambda path: path.stat().st_size)
    document = json.loads(lzma.decompress(isf.read_bytes()))
    known = document["metadata"]["windows"]["pdb"]
    identity = PdbIdentity("ntkrnlmp.pdb", known["GUID"], known["age"], "test")
    place = tmp_path / "store" / "ntkrnlmp.pdb" / store_key(identity) / "ntkrnlmp.pdb"
    place.parent.mkdir(parents=True)
    place.write_bytes(kernel_pdb(document))
    from_isf = session_over(sample(6, isf), Options(isf_file=str(isf), symbol_path=""))
    from_pdb = session_over(sample(6, isf), Options(symbol_path=f"srv*{tmp_path / 'store'}"))
    assert from_pdb.target.symbol_status.startswith(str(tmp_path))
    for line in (
        "dt nt!_EPROCESS @$proc",
        "dt -r2 nt!_ETHREAD @$thread",
        "dt -v nt!_KPRCB",
        "dt nt!_KWAIT_REASON",
        "dt nt!_KI*",
        "x nt!KeBug*",
        "ln nt!KeBugCheckEx+5",
    ):
        expected = answer(from_isf, line)
        assert len(expected) > 1 or line.startswith("ln ")
        assert answer(from_pdb, line) == expected


def test_a_type_glued_to_dt(session: Session) -> None:
    assert answer(session, "dt_EPROCESS UniqueProcessId") == answer(session, "dt _EPROCESS UniqueProcessId")
    assert answer(session, "dt_eprocess @$proc -y imagefilen") == answer(
        session, "dt nt!_EPROCESS @$proc ImageFileName"
    )


def test_case_of_fields(session: Session) -> None:
    """``dt ffffbf8eab1ea080 nt!_EPROCESS -y object`` showed ObjectTable."""
    shown = answer(session, f"dt {session.evaluate('@$proc'):x} nt!_EPROCESS -y objectt")
    assert [line.split()[1] for line in shown] == ["ObjectTable"]
    assert answer(session, "dt nt!_EPROCESS @$proc OBJECTTABLE") == shown


def test_an_exclamation_point_alone(session: Session) -> None:
    assert answer(session, "dt -b !_CLIENT_ID") == answer(session, "dt -b nt!_CLIENT_ID")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "line", ["dt -b nt!_CLIENT_ID @$proc", "dt -r30 nt!_CLIENT_ID @$proc", "dx -r30 *(nt!_CLIENT_ID *)@$proc"]
)
def test_a_type_that_contains_itself(session: Session, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """A damaged symbol table: what is shown of it ends, and so does the command."""
    from volatility3_kdump.symbols import types

    describe = types.TypeTable.describe

    def damaged(table: types.TypeTable, name: str) -> types.TypeDescription | None:
        description = describe(table, name)
        if name != "_CLIENT_ID" or description is None:
            return description
        inside = types.TypeReference("struct", "_CLIENT_ID", description.size)
        members = tuple(types.Member(f"Again{number}", 0, inside) for number in range(3))
        return types.TypeDescription(name, "struct", description.size, members)

    monkeypatch.setattr(types.TypeTable, "describe", damaged)
    lines = answer(session, line)
    assert any("Again0" in shown for shown in lines)
    assert len(lines) <= 100_001
    assert not any("failed by a mistake" in shown for shown in lines)
