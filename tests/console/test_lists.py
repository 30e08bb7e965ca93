"""Lists, loops over processes and threads, and headers of images at the prompt."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pefile
import pytest

from kdump_sample.scenes.waits import DEADLOCK
from tests.edited import edited
from tests.prompt import answer, session_on
from volatility3_kdump.console.commands import split
from volatility3_kdump.console.session import Session
from volatility3_kdump.images.modules import find_module
from volatility3_kdump.windows.processes.process_lists import process_addresses

MYFAULT = 0xFFFFF80060DA0000


def test_elements_of_a_list(session: Session) -> None:
    """As ``dp`` shows each of them."""
    head = session.evaluate("nt!PsActiveProcessHead")
    entry = session.target.memory.pointer(head) or 0
    assert answer(session, "dl nt!PsActiveProcessHead 2 2") == [
        *answer(session, f"dp {head:x} L2"),
        *answer(session, f"dp {entry:x} L2"),
    ]
    last = session.target.memory.pointer(head + 8) or 0
    assert answer(session, "dlb nt!PsActiveProcessHead 2 2")[1:] == answer(session, f"dp {last:x} L2")
    count = len(process_addresses(session.target))
    assert len(answer(session, "dl nt!PsActiveProcessHead 100")) == count + 1


def test_commands_for_each_element(session: Session) -> None:
    line = '!list -t nt!_LIST_ENTRY.Flink -x "? @$extret" nt!PsActiveProcessHead'
    count = len(process_addresses(session.target))
    assert sum("Evaluate" in shown for shown in answer(session, line)) == count + 1
    # The documentation's second form, with quotes inside of quotes and two commands.
    quoted = '!list "-t nt!_LIST_ENTRY.Flink -e -x \\"dp @$extret L1; ? 5\\" -m 1 nt!PsActiveProcessHead"'
    head = session.evaluate("nt!PsActiveProcessHead")
    assert list(split(quoted)) == [quoted]
    assert answer(session, quoted) == [
        "dp @$extret L1; ? 5",
        *answer(session, f"dp {head:x} L1"),
        "Evaluate expression: 5 = 00000000`00000005",
        "",
        "NOTE: stopped after 0x1 elements",
    ]
    # Its first form: the address goes behind the command, arguments behind that.
    plain = '!list -t nt!_LIST_ENTRY.Flink -x "dp" -a "L1" -m 1 nt!PsActiveProcessHead'
    assert answer(session, plain)[0] == answer(session, f"dp {head:x} L1")[0]


def test_a_field_inside_of_a_type(session: Session) -> None:
    """The next element begins before its link, by the offset of the field."""
    nt = session.target.nt
    assert nt is not None
    head, first = process_addresses(session.target)[:2]
    line = f'!list -t nt!_EPROCESS.ActiveProcessLinks.Flink -x "? @$extret" -m 2 {head:x}'
    assert [shown.split("= ")[-1].replace("`", "") for shown in answer(session, line) if "Evaluate" in shown] == [
        f"{head:016x}",
        f"{first:016x}",
    ]
    assert "there is no such type or field" in answer(session, "!list -t nt!_EPROCESS.No.Flink 0")[0]


def test_a_list_that_disagrees(session: Session, sample: Callable[..., Path], tmp_path: Path) -> None:
    count = len(process_addresses(session.target))
    assert answer(session, "!validatelist nt!PsActiveProcessHead") == [f"Found list end after {count} entries"]
    head = session.evaluate("nt!PsActiveProcessHead")
    first = session.target.memory.pointer(head) or 0
    changes = {first + 8: (0xFFFF800000001000).to_bytes(8, "little")}
    changed = edited(session.target, sample(), tmp_path / "changed.dmp", changes, offline=True)
    other = session_on(changed)
    assert answer(other, "!validatelist nt!PsActiveProcessHead") == [
        f"Blink of {first:016x} is ffff800000001000, but {head:016x} leads to it",
        f"List is damaged: 1 links disagree in {count} entries; the list leads back to its first element",
    ]
    assert answer(session, "!dflink nt!PsActiveProcessHead 1") == [f"{first:016x}"]
    assert answer(session, f"!dblink {first:x} 1") == [f"{head:016x}"]


def test_a_list_with_an_entry_that_is_not_in_the_dump_is_not_called_damaged(
    session: Session, sample: Callable[..., Path], tmp_path: Path
) -> None:
    head = session.evaluate("nt!PsActiveProcessHead")
    memory = session.target.memory
    entries = [head]
    while (following := memory.pointer(entries[-1])) not in (head, None):
        entries.append(following or 0)
    number, absent = next(
        (number, entry)
        for number, entry in enumerate(entries)
        if entry & ~0xFFF not in {e & ~0xFFF for e in entries[:number]} and number > 1
    )
    changed = edited(session.target, sample(), tmp_path / "absent.dmp", absent={absent & ~0xFFF}, offline=True)
    shown = answer(session_on(changed), "!validatelist nt!PsActiveProcessHead")
    assert shown[0] == f"Blink of {absent:016x}, to which {entries[number - 1]:016x} leads, is not in the dump"
    start = f"List cannot be followed to its end: {number - 1} entries agree; the link at {absent:#x} cannot be read: "
    assert len(shown) == 2 and shown[1].startswith(start)


def test_commands_for_each_process_and_thread(sample: Callable[..., Path]) -> None:
    from volatility3_kdump.target import Target

    session = session_on(Target.open(sample(scene="waits")))
    lines = answer(session, '!for_each_process "dt nt!_EPROCESS @#Process UniqueProcessId"')
    assert f"   +0x440 UniqueProcessId  : 0x00000000`0000{DEADLOCK:04x} Void" in lines
    assert len(lines) == 15
    assert len(answer(session, "!for_each_thread ? @#Thread")) == 23
    assert answer(session, "!for_each_process ? @#Thread")[0].startswith("@#Thread means nothing here: use @#Process")
    deep = "!for_each_process " * 5 + "? 1"
    assert set(answer(session, deep)) == {"!for_each_process inside of itself is too deep"}


def test_headers_as_another_reader_has_them(session: Session) -> None:
    """pefile over the image's bytes."""
    module = find_module(session.target.modules, MYFAULT)
    assert module is not None
    data = session.target.images.image_of(module).read(0, 0x1000)
    assert data is not None
    image = pefile.PE(data=io.BytesIO(data).getvalue(), fast_load=True)
    text = "\n".join(answer(session, "!dh myfault"))
    values = {
        label: int(value, 16) for value, label in re.findall(r"^ *([0-9A-Fa-f]+) ([a-z#].*)$", text, re.MULTILINE)
    }
    assert values["address of entry point"] == image.OPTIONAL_HEADER.AddressOfEntryPoint
    assert values["image base"] == image.OPTIONAL_HEADER.ImageBase
    assert values["size of image"] == image.OPTIONAL_HEADER.SizeOfImage
    assert values["checksum"] == image.OPTIONAL_HEADER.CheckSum
    assert text.count("SECTION HEADER #") == len(image.sections)
    assert "SECTION HEADER" not in "\n".join(answer(session, "!dh -f myfault"))
    assert answer(session, "!dh -s myfault")[3] == "   .text name"


def test_a_module_in_short(session: Session) -> None:
    lines = answer(session, "!lmi myfault")
    assert lines[:9] == [
        "Loaded Module Info: [myfault] ",
        "         Module: myfault",
        "   Base Address: fffff80060da0000",
        "     Image Name: myfault.sys",
        "   Machine Type: 34404 (X64)",
        "     Time Stamp: 5d2f6b7a Wed Jul 17 18:39:54 2019",
        "           Size: 9000",
        "       CheckSum: f2c1",
        "Characteristics: 22",
    ]
    assert answer(session, "!lmi fffff80060da1981") == lines
    assert answer(session, "!chksym nt")[-1] == "MATCH: ntkrnlmp.pdb and ntoskrnl.exe"
    assert "myfault.sys: " in answer(session, "!chksym myfault")[-1]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("!list -q", "!list knows no option -q"),
        ("!list -t", "!list -t needs a value"),
        ("!list -m 5", "!list needs the address of the first element"),
        ("!list -t nt!_LIST_ENTRY 5", "!list -t needs a field"),
        ("!dh 0", "headers are not in the dump, or are no PE headers"),
        ("!dh -q nt", "!dh knows no option -q"),
        ("!lmi zzz", "Couldn't resolve error"),
        ("!lmi -q", "!lmi knows no option -q"),
        ("!chksym -q", "!chksym knows no option -q"),
        ("dl -q", "dl knows no option -q"),
        ("!validatelist -q", "!validatelist knows no option -q"),
        ("!dflink -q", "!dflink knows no option -q"),
    ],
)
def test_what_is_refused(session: Session, line: str, error: str) -> None:
    (shown,) = answer(session, line)
    assert error in shown


def test_lists_without_a_type(session: Session) -> None:
    """``!list -x "dt nt!_X @$extret" ADDRESS``, as people type it: elements that begin with their link."""
    typed = answer(session, '!list -t nt!_LIST_ENTRY.Flink -x "dps" -a "L2" nt!PsActiveProcessHead')
    assert len(typed) > 10
    assert answer(session, '!list -x "dps" -a "L2" nt!PsActiveProcessHead') == typed
    assert answer(session, "!list")[0].startswith("!list needs the address of the first element")


def test_quotes_inside_of_quotes(session: Session) -> None:
    """The example of "!list": the semicolon belongs to the commands, not to the line."""
    line = '!list "-t nt!_LIST_ENTRY.Flink -m 2 -e -x \\"dd @$extret l4; .echo next\\" nt!PsActiveProcessHead"'
    lines = answer(session, line)
    assert lines.count("dd @$extret l4; .echo next") == 2
    assert lines.count("next") == 2
