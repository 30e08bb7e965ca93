"""``x`` and ``ln``: symbols by pattern and around an address, against the tables themselves."""

from __future__ import annotations

import fnmatch
import json
import lzma

import pytest

import volatility3_kdump
from tests.prompt import answer, session_over
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.options import Options
from volatility3_kdump.symbols.listing import matching, nearby


@pytest.fixture(scope="module")
def session(sample, isf_paths) -> Session:
    return session_over(sample(6, isf_paths[-1]), Options(isf_file=str(isf_paths[-1])))


def test_patterns_against_the_table(session: Session, isf_paths) -> None:
    document = json.loads(lzma.decompress(isf_paths[-1].read_bytes()))
    base = session.target.kernel.base
    for pattern in ("ps*process", "KeBugCheckEx", "*lock", "ki?pi*"):
        expected = sorted(
            (base + entry["address"], name)
            for name, entry in document["symbols"].items()
            if fnmatch.fnmatchcase(name.lower(), pattern.lower()) and entry["address"] and not name.startswith("?")
        )
        found = [(symbol.address, symbol.name) for symbol in matching(session.target.names, f"nt!{pattern}")]
        assert sorted(found) == expected
        assert [address for address, _ in found] == sorted(address for address, _ in found)


def test_neighbours_against_the_table(session: Session, isf_paths) -> None:
    document = json.loads(lzma.decompress(isf_paths[-1].read_bytes()))
    base = session.target.kernel.base
    addresses = sorted({entry["address"] for entry in document["symbols"].values() if entry["address"]})
    bug_check = document["symbols"]["KeBugCheckEx"]["address"]
    after = addresses[addresses.index(bug_check) + 1]
    found = nearby(session.target.names, base + bug_check + 5)
    assert found is not None
    assert (found.below.address, found.below.name, found.exact) == (base + bug_check, "KeBugCheckEx", ())
    assert found.above.address == base + after
    assert document["symbols"][found.above.name]["address"] == after
    found = nearby(session.target.names, base + bug_check)
    assert {symbol.name for symbol in found.exact} == {
        name for name, entry in document["symbols"].items() if entry["address"] == bug_check
    }
    assert nearby(session.target.names, 0) is None


def test_kd_text(session: Session) -> None:
    target = session.target
    address = target.symbol("KeBugCheckEx")
    ticked = f"{address:016x}"[:8] + "`" + f"{address:016x}"[8:]
    line = f"{ticked} nt!KeBugCheckEx (<no parameter info>)"
    assert answer(session, "x nt!KeBugCheckEx") == [line]
    assert line in answer(session, "x nt!kebug*")
    assert line in answer(session, "x /n n?!*bugcheck*")
    assert answer(session, "x /0 nt!KeBugCheckEx") == [ticked]
    variable = answer(session, "x nt!PsInitialSystemProcess")
    assert variable[0].endswith(" nt!PsInitialSystemProcess = <no type information>")
    lines = answer(session, "ln nt!KeBugCheckEx")
    assert lines[0].startswith(f"({ticked})   nt!KeBugCheckEx   |  (")
    assert lines[1:] == ["Exact matches:", "    nt!KeBugCheckEx (<no parameter info>)"]
    lines = answer(session, "ln nt!KeBugCheckEx+5")
    assert len(lines) == 1
    assert lines[0].startswith(f"({ticked})   nt!KeBugCheckEx+0x5   |  (")
    assert answer(session, "ln myfault+1981") == ["(fffff800`60da0000)   myfault+0x1981"]
    assert answer(session, "ln 0") == ["0 is in no loaded module"]


def test_what_is_not_there(session: Session) -> None:
    assert answer(session, "x nosuch!*") == ["no loaded module is named nosuch"]
    assert answer(session, "x myfault!*")[0].startswith("myfault has no symbols: neither myfault.pdb/")
    assert answer(session, "x nt!NoSuchThing") == ["Couldn't resolve 'x nt!NoSuchThing'"]
    assert answer(session, "x nt!NoSuchThing*") == []
    assert answer(session, "x") == ["x needs a pattern: x nt!Ke*"]
    assert answer(session, "x /y nt!*")[0].startswith("x knows no option /y: it takes ")
    with pytest.raises(KdumpError, match="longer than 512"):
        matching(session.target.names, "nt!" + "a" * 600)


def test_every_module(session: Session) -> None:
    lines = answer(session, "x *!NtUser*")
    assert [line.split()[1] for line in lines] == [
        "win32kfull!NtUserMsgWaitForMultipleObjectsEx",
        "win32k!NtUserMsgWaitForMultipleObjectsEx",
    ]
    assert answer(session, "x my*!") == [
        "start             end                 module name",
        "fffff800`60da0000 fffff800`60da9000   myfault",
    ]


def test_export_tables(sample) -> None:
    target = volatility3_kdump.open(sample())
    symbols = [symbol.name for symbol in matching(target.names, "win32k!*")]
    assert symbols == ["NtUserMsgWaitForMultipleObjectsEx"]
