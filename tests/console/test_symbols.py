"""``x`` and ``ln`` at the prompt: the options of "x (Examine Symbols)"."""

from __future__ import annotations

from tests.prompt import answer
from volatility3_kdump.console.session import Session


def test_parts_of_a_line(session: Session) -> None:
    whole = answer(session, "x nt!KeBugCheck*")
    assert whole[0] == "fffff800`629f71a0 nt!KeBugCheck (<no parameter info>)"
    assert answer(session, "x /0 nt!KeBugCheck*") == [line.split()[0] for line in whole]
    assert answer(session, "x /1 nt!KeBugCheck*") == [line.split()[1] for line in whole]
    assert answer(session, "x /2 nt!KeBugCheck*") == [" ".join(line.split()[:2]) for line in whole]
    assert answer(session, "x /1 /q nt!KeBugCheckEx") == ['@!"nt!KeBugCheckEx"']


def test_order(session: Session) -> None:
    addresses = answer(session, "x /0 nt!Ps*List*")
    assert len(addresses) > 3 and addresses == sorted(addresses)
    assert answer(session, "x /A /0 nt!Ps*List*") == addresses[::-1]
    names = answer(session, "x /n /1 nt!Ps*List*")
    assert names == sorted(names, key=str.lower)
    assert answer(session, "x /N /1 nt!Ps*List*") == names[::-1]


def test_kinds_and_types(session: Session) -> None:
    assert answer(session, "x /v nt!KeBugCheckEx") == [
        "pub func   fffff800`629f71c0    0 nt!KeBugCheckEx (<no parameter info>)"
    ]
    assert answer(session, "x /t nt!PsActiveProcessHead") == [
        "fffff800`6321dfc0 struct _LIST_ENTRY nt!PsActiveProcessHead = <no type information>"
    ]
    assert answer(session, "x /t /d nt!PsIdleProcess")[0].split()[1] == "<NoType>"
    everything = answer(session, "x /1 nt!Ps*List*")
    functions, data = answer(session, "x /f /1 nt!Ps*List*"), answer(session, "x /d /1 nt!Ps*List*")
    assert functions and data and sorted(functions + data) == sorted(everything)
    assert answer(session, "x /s 8 /1 nt!KeBugCheckEx") == ["nt!KeBugCheckEx"]


def test_what_is_refused(session: Session) -> None:
    assert answer(session, "x /z nt!Ke*") == ["x /z: public symbols have no size"]
    assert answer(session, "x /y nt!Ke*")[0].startswith("x knows no option /y")
    assert answer(session, "ln /D nt!KeBugCheckEx") == answer(session, "ln nt!KeBugCheckEx")


def test_effective_address(session: Session) -> None:
    """ "Pseudo-Register Syntax": $ea is the address that the current instruction accesses."""
    assert answer(session, "? $ea")[0].endswith("= ffffd48f`77af96a0")
    assert answer(session, "? @$ea2") == ["Bad register error at '@$ea2': $ea2 is not in the dump"]
    answer(session, ".trap ffffd48f`77af97e0")
    assert answer(session, "? @$ea")[0].endswith("= ffffd802`4aaa8010")
