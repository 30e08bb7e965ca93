"""``?``, ``.formats`` and ``n`` at the prompt."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prompt import answer
from volatility3_kdump.console.session import Session


def test_expressions(session: Session) -> None:
    assert answer(session, "? 1 + 2 * 3") == ["Evaluate expression: 7 = 00000000`00000007"]
    assert answer(session, "?nt") == ["Evaluate expression: -8794442563584 = fffff800`62600000"]
    assert answer(session, "? $exp + 1000") == ["Evaluate expression: -8794442559488 = fffff800`62601000"]
    assert answer(session, "? $t3") == ["Evaluate expression: 0 = 00000000`00000000"]
    assert answer(session, "? nosuch") == ["Couldn't resolve error at 'nosuch'"]
    assert answer(session, ".formats 41")[1] == "  Hex:     00000000`00000041"
    assert answer(session, ".formats") == [".formats needs an expression"]


def test_pseudo_registers_of_the_user(session: Session) -> None:
    assert answer(session, "r $t0 = nt + 10") == []
    assert answer(session, "r @$T19=poi(nt)") == []
    assert answer(session, "? $t0 - nt; ? @$t19 == poi(nt)") == [
        "Evaluate expression: 16 = 00000000`00000010",
        "Evaluate expression: 1 = 00000000`00000001",
    ]
    assert answer(session, "r $t0") == ["$t0=fffff80062600010"]
    assert answer(session, "r rax=5") == ["rax=5: the registers of a dump cannot be changed"]
    assert answer(session, "r $t0 = nosuch") == ["Couldn't resolve error at 'nosuch'"]


def test_the_base_of_numbers(session: Session) -> None:
    assert answer(session, "n") == ["base is 16"]
    assert answer(session, "n 10; ? 10; n 0n16; ? 10") == [
        "base is 10",
        "Evaluate expression: 10 = 00000000`0000000a",
        "base is 16",
        "Evaluate expression: 16 = 00000000`00000010",
    ]
    assert answer(session, "n 7") == ["the base of numbers is 8, 10 or 16"]


def test_registers_are_those_of_the_current_context(session: Session) -> None:
    assert session.target.header_context is not None
    rsp = session.target.header_context.sp
    assert answer(session, "? @rsp")[0].endswith(f"{rsp:016x}"[8:])
    session.state.context = session.target.header_context.replace("trap frame", rsp=0x1234, rbx=None)
    assert answer(session, "? @rsp") == ["Evaluate expression: 4660 = 00000000`00001234"]
    assert answer(session, "? @rbx") == ["Bad register error at '@rbx': the trap frame does not give rbx"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["?", ".formats", "n", "??"]), st.text(max_size=50))
def test_any_arguments_get_an_answer(session: Session, name: str, text: str) -> None:
    for line in answer(session, f"{name} {text}"):
        assert isinstance(line, str)
