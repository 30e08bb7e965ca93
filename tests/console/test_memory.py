"""``d`` and its relatives, and ``s``, at the prompt: KD's columns, and the bytes that the host's own layers read."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edited import edited
from tests.host import ADDRESS, host_kernel
from tests.prompt import answer, session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.options import Options

NT = 0xFFFFF80062600000


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (
            "db nt L20",
            [
                "fffff800`62600000  4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ..............",
                "fffff800`62600010  b8 00 00 00 00 00 00 00-40 00 00 00 00 00 00 00  ........@.......",
            ],
        ),
        (
            "db nt L9",
            ["fffff800`62600000  4d 5a 90 00 03 00 00 00-04                       MZ......."],
        ),
        ("dw nt L8", ["fffff800`62600000  5a4d 0090 0003 0000 0004 0000 ffff 0000"]),
        ("dW nt L2", ["fffff800`62600000  5a4d 0090                                MZ.."]),
        (
            "dd nt L5",
            ["fffff800`62600000  00905a4d 00000003 00000004 0000ffff", "fffff800`62600010  000000b8"],
        ),
        ("dc nt L4", ["fffff800`62600000  00905a4d 00000003 00000004 0000ffff  MZ.............."]),
        ("dq nt L2", ["fffff800`62600000  00000003`00905a4d 0000ffff`00000004"]),
        ("dp nt L1", ["fffff800`62600000  00000003`00905a4d"]),
        ("dd nt+4 nt+b", ["fffff800`62600004  00000003 00000004"]),
        ("dd nt+8 L-1", ["fffff800`62600004  00000003"]),
        ("db /c 4 nt L6", ["fffff800`62600000  4d 5a 90 00  MZ..", "fffff800`62600004  03 00        .."]),
        ("df nt L1", ["fffff800`62600000     1.3256705e-38"]),
        ("dD nt L1", ["fffff800`62600000      6.37066138262e-314"]),
        (
            "dyb nt L4",
            [
                "                   76543210 76543210 76543210 76543210",
                "                   -------- -------- -------- --------",
                "fffff800`62600000  01001101 01011010 10010000 00000000  4d 5a 90 00",
            ],
        ),
        (
            "dyd nt L1",
            [
                "                    3          2          1          0",
                "                   10987654 32109876 54321098 76543210",
                "                   -------- -------- -------- --------",
                "fffff800`62600000  00000000 10010000 01011010 01001101  00905a4d",
            ],
        ),
        (
            "da nt+4e",
            [
                'fffff800`6260004e  "This program cannot be run in DO"',
                'fffff800`6260006e  "S mode....$"',
            ],
        ),
        ("da nt+4e L4", ['fffff800`6260004e  "This"']),
        (
            "dps @rsp L3",
            [
                "ffffd48f`77af9698  fffff800`62a09169 nt!KiBugCheckDispatch+0x69",
                "ffffd48f`77af96a0  00000000`0000000a",
                "ffffd48f`77af96a8  ffffd802`4aaa8010",
            ],
        ),
        ("dds @rsp+4 L1", ["ffffd48f`77af969c  fffff800"]),
        (
            "dpp @rsp+8 L2",
            [
                "ffffd48f`77af96a0  00000000`0000000a ????????`????????",
                "ffffd48f`77af96a8  ffffd802`4aaa8010 ????????`????????",
            ],
        ),
        ("dS poi(nt!PsLoadedModuleList)+58", ['ffff9189`4d602110  "ntoskrnl.exe"']),
        ("dS nt!CmNtCSDVersion", ['fffff800`6324bf38  ""']),
        ("db 0 L2", ["00000000`00000000  ?? ??                                            ??"]),
        ("dd 0 L2", ["00000000`00000000  ???????? ????????"]),
        ("dq 0 L1", ["00000000`00000000  ????????`????????"]),
        ("dw 0 L1", ["00000000`00000000  ????"]),
        ("df 0 L1", ["00000000`00000000          ????????"]),
        ("dps 0 L1", ["00000000`00000000  ????????`????????"]),
        ("da 0", ["00000000`00000000  ????????"]),
        ("dS 0", ["00000000`00000000  ????????"]),
        ("db nt L10 5", ["Extra character error at '5'"]),
        ("db nosuch", ["Couldn't resolve error at 'nosuch'"]),
        ("db nt nt-1", ["Range error: fffff80062600000 is not followed by 0x0 bytes"]),
        ("db nt L20000000", ["Range error: 0x20000000 bytes are more than 0x10000000; L? allows them"]),
        ("db /c 0 nt", ["a row has 1 to 256 columns"]),
        ("dS nt", ["no string structure at fffff80062600000: length 0x5a4d of 0x90, buffer ffff00000004"]),
    ],
)
def test_layouts(session: Session, line: str, lines: list[str]) -> None:
    assert answer(session, line) == lines


def test_going_on_where_it_ended(session: Session) -> None:
    first = answer(session, "db nt")
    assert len(first) == 8
    assert answer(session, "d")[0].startswith("fffff800`62600080  ")
    assert answer(session, "dd")[0].startswith("fffff800`62600100  ")
    assert answer(session, "da nt+4e")[-1].startswith("fffff800`6260006e")
    assert answer(session, "db L") == ["Couldn't resolve error at 'L'"]
    # Behind the NUL of the string.
    assert answer(session, "dw")[0].startswith("fffff800`6260007a  ")
    assert answer(session, "? $p") == ["Evaluate expression: 0 = 00000000`00000000"]


def test_without_an_address_it_starts_at_the_instruction(session: Session) -> None:
    assert answer(session, "db")[0].startswith("fffff800`629f71c0  ")


def test_at_the_end_of_memory(session: Session) -> None:
    assert answer(session, "db ffffffff`fffffff0") == [
        f"ffffffff`fffffff0  {'-'.join(['?? ' * 7 + '??'] * 2)}  {'?' * 16}"
    ]
    assert answer(session, "db ffffffff`fffffff0 L11") == [
        "Range error: fffffffffffffff0 is not followed by 0x11 bytes"
    ]
    assert answer(session, "dq ffffffff`fffffffc") == ["ffffffff`fffffffc  ????????`????????"]


def test_a_page_that_is_missing_in_the_middle(sample, tmp_path) -> None:
    source = sample()
    opened = Session()
    target = opened.open(str(source)).target
    stack = 0xFFFFD48F77AF9000
    changed = edited(target, source, tmp_path / "hole.dmp", {}, [stack])
    opened.dumps[0] = OpenDump("hole.dmp", changed)
    lines = answer(opened, f"db {stack + 0xFF8:x} L10")
    after = changed.memory.read(stack + 0x1000, 8)
    shown = " ".join(f"{byte:02x}" for byte in after) if after is not None else " ".join(["??"] * 8)
    assert lines[0][19:66] == f"{' '.join(['??'] * 8)}-{shown}"
    # A number of which some bytes are missing is missing.
    assert answer(opened, f"dq {stack + 0xFFC:x} L1") == [f"ffffd48f`77af9ffc  {'????????`????????'}"]


@pytest.fixture(scope="module")
def both(sample, isf_paths):
    """A full dump: a session over it, and the host's own virtual layer over the same file."""
    path = sample(1, isf_paths[-1])
    opened = session_over(path, Options(isf_file=str(isf_paths[-1])))
    kernel = host_kernel(path, isf_paths[-1])
    return opened, kernel.context.layers[kernel.layer_name]


@pytest.mark.parametrize(("letter", "code"), [("b", "B"), ("w", "H"), ("d", "I"), ("q", "Q"), ("c", "I"), ("p", "Q")])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, 0x3000), count=st.integers(1, 40))
def test_numbers_are_those_that_the_host_reads(both, letter: str, code: str, offset: int, count: int) -> None:
    opened, layer = both
    start = opened.target.kernel.base + offset
    size = struct.calcsize(code)
    lines = answer(opened, f"d{letter} {start:x} L{count:x}")
    expected = [
        int.from_bytes(layer.read(at & ADDRESS, size), "little") if layer.is_valid(at & ADDRESS, size) else None
        for at in range(start, start + size * count, size)
    ]
    shown = []
    address = start
    for line in lines:
        at, body = line[:17], line[19 : 19 + {"b": 47, "w": 39, "d": 35, "q": 35, "c": 35, "p": 35}[letter]]
        assert int(at.replace("`", ""), 16) == address
        cells = re.split(r"[ -]+", body.strip())
        numbers = [None if "?" in cell else int(cell.replace("`", ""), 16) for cell in cells]
        shown += numbers
        address += size * len(numbers)
    assert shown == expected


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (
            "s -b nt L1000 4d 5a 90",
            ["fffff800`62600000  4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ.............."],
        ),
        (
            "s nt L1000 'M' 'Z' 90",
            ["fffff800`62600000  4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ.............."],
        ),
        ('s nt L100 "MZ"', ["fffff800`62600000  4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ.............."]),
        ("s -w nt L80 5a4d", ["fffff800`62600000  5a4d 0090 0003 0000 0004 0000 ffff 0000  MZ.............."]),
        ("s -w nt+1 L80 5a4d", []),
        ("s -d nt L40 00905a4d 3", ["fffff800`62600000  00905a4d 00000003 00000004 0000ffff  MZ.............."]),
        ("s -q nt L10 3`00905a4d", ["fffff800`62600000  00000003`00905a4d 0000ffff`00000004"]),
        (
            's -a nt nt+fff "program"',
            ["fffff800`62600053  70 72 6f 67 72 61 6d 20-63 61 6e 6e 6f 74 20 62  program cannot b"],
        ),
        ("s -[1]a nt L1000 program", ["0xfffff800`62600053"]),
        ("s -[l8]sa nt L80", ['fffff800`6260004d  "!This program cannot be run in DOS mode."']),
        (
            's -u ffffd802`48003000 L1000 "notmyfault64"',
            ["ffffd802`480037f2  006e 006f 0074 006d 0079 0066 0061 0075  n.o.t.m.y.f.a.u."],
        ),
        ("s 0 L1000 0", []),
        ("s nt", ["Range error: a search needs a length (L100) or an end"]),
        ("s nt L10", ["the pattern that is searched for has 1 to 4096 bytes"]),
        ("s nt L10 100", ["Overflow error: 100 does not fit into 1 bytes"]),
        (
            "s -x nt L10 1",
            ['s knows no option -x: it takes [-[FLAGS]b|w|d|q|a|u|sa|su] ADDRESS LCOUNT|END PATTERN|"TEXT" (.help s)'],
        ),
        ("s", ['s needs a range and a pattern: s -a nt L1000 "text"']),
    ],
)
def test_searches(session: Session, line: str, lines: list[str]) -> None:
    assert answer(session, line) == lines


def test_a_search_through_all_of_memory(session: Session) -> None:
    """What the page tables leave out is skipped as a whole."""
    assert "0xffffd802`480037f2" in answer(session, 's -[1]u 0 L? "notmyfault64"')
    assert answer(session, 's -[1]a 0 L?ffffffff`ffffffff "no such text in here"') == []


def test_small_memory_dumps(shared_data) -> None:
    """Their pieces begin and end anywhere in a page."""
    opened = Session(Options(isf_directories=[str(shared_data / "isf")]))
    target = opened.open(str(shared_data / "dumps" / "triage_x64_19041.dmp")).target
    assert target.header_context is not None
    stack = target.dump.triage.stack
    start = stack.address
    lines = answer(opened, f"db {start - 8:x} L10")
    data = target.memory.read(start, 8)
    assert data is not None
    assert lines[0][19:66] == f"{' '.join(['??'] * 8)}-{' '.join(f'{byte:02x}' for byte in data)}"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["d", "db", "dq", "dps", "dpa", "dS", "du", "dyd", "s", "s -a", "s -[1]d", "ln", "x", "?"]),
    st.text(alphabet="0123456789abcdef nt!+-()[]L?\"'/*@rspx`", max_size=20),
)
def test_any_arguments_get_an_answer(session: Session, name: str, text: str) -> None:
    for _, line in zip(range(50), execute(session, f"{name} {text}"), strict=False):
        assert "\n" not in line


def test_physical_memory(session: Session) -> None:
    """``/p``, ``/p[c]``, ``/p[uc]`` of "d, da, db ...": the physical page behind a virtual address."""
    translated = answer(session, "!vtop 0 @rsp")[-1]
    physical = translated.split()[-1].rstrip(".")
    virtual = [line.split("  ", 1)[1] for line in answer(session, "dd @rsp L8")]
    for option in ("/p", "/p[c]", "/p[uc]"):
        assert [line.split("  ", 1)[1] for line in answer(session, f"dd {option} {physical} L8")] == virtual
    assert len(answer(session, f"dq /p /c 1 {physical} L3")) == 3
    assert answer(session, f"dps /p {physical}")[0].startswith("dps /p: what is pointed to")
    assert answer(session, f"dd /q {physical}")[0].startswith("dd knows no option /q: it takes ")
