"""The frame of the rules: registration, what a failing rule costs, and arguments that mean nothing."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.analysis import reasoning, rules
from volatility3_kdump.analysis.reason import reason
from volatility3_kdump.analysis.reasoning import RULES, Case, Culprit, Finding, Reasoning, rule
from volatility3_kdump.errors import Unreadable
from volatility3_kdump.layout import LayoutError

MakeCase = Callable[..., Case]

MINE = (
    *(0xA, 0xD1, 0x50, 0xBE, 0xC5, 0xFC, 0x13A, 0x154, 0x109),
    *(0x1E, 0x3B, 0x7E, 0x8E, 0x7F, 0x139, 0x133, 0x101, 0xEF, 0xF4, 0xE2, 0x161),
)
#: Addresses in the scenes: stacks, code, data, processes, threads, control blocks, page tables, and places of nothing.
PLACES = (
    *(0, 1, 8, 0x10, 0x18, 0xFFFF, 0x7AE6BDE8D8, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000, 0x4141414141414141),
    *(0xFFFFD48F77AF9698, 0xFFFFD48F77AF97E0, 0xFFFFD48F77AF9B08, 0xFFFFD48F77AFA000, 0xFFFFD48F77AF9FF8),
    *(0xFFFFF80062600000, 0xFFFFF80062A09169, 0xFFFFF80060DA1981, 0xFFFFF80060184A10, 0xFFFFF80060DA8FFF),
    *(0xFFFF91895301A080, 0xFFFF918952F55080, 0xFFFF91894F241080, 0xFFFFC3014F3C0180, 0xFFFFC3014F460180),
    *(0xFFFFD8024AAA8010, 0xFFFFBD5EC0125540, 0xFFFFF78000000000, 0xC0000005, 0xFFFFFFFFC0000005, 0x80000003),
)
ARGUMENT = st.one_of(
    st.none(),
    st.sampled_from(PLACES),
    st.builds(lambda place, offset: place + offset & (1 << 64) - 1, st.sampled_from(PLACES), st.integers(-64, 0x400)),
    st.integers(0, 32),
    st.integers(0, (1 << 64) - 1),
)


def test_every_code_has_its_rule() -> None:
    assert rules.__doc__
    assert set(MINE) <= RULES.keys()


def test_a_second_rule_for_a_code_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasoning, "RULES", {})
    rule(0x123)(lambda case: Reasoning())
    with pytest.raises(ValueError, match="two rules for bug check 0x123"):
        rule(0x123)(lambda case: Reasoning())


@pytest.mark.parametrize(
    "error, text",
    [
        (LayoutError("nt.json: no type _X"), "the analysis of bug check 0xd1 stopped: nt.json: no type _X"),
        (Unreadable("gone"), "the analysis of bug check 0xd1 stopped: gone"),
        (struct.error("unpack requires\n8 bytes"), "stopped: error: unpack requires 8 bytes"),
        (KeyError("x"), "stopped: KeyError: 'x'"),
        (IndexError(), "stopped: IndexError"),
        (ZeroDivisionError("division by zero"), "stopped: ZeroDivisionError: division by zero"),
    ],
)
def test_a_rule_that_fails_costs_its_own_findings(
    case: MakeCase, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    def fail(case: Case) -> Reasoning:
        raise error

    monkeypatch.setitem(RULES, 0xD1, fail)
    found = reason(case("myfault"))
    assert found.findings == ()
    assert len(found.notes) == 1 and found.notes[0].endswith(text)


def test_a_mistake_of_the_program_is_not_hidden(case: MakeCase, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(case: Case) -> Reasoning:
        raise KeyboardInterrupt

    monkeypatch.setitem(RULES, 0xD1, fail)
    with pytest.raises(KeyboardInterrupt):
        reason(case("myfault"))


def test_a_code_without_a_rule_gives_nothing(other_arguments: MakeCase) -> None:
    assert 0xDEADBEE not in RULES
    assert reason(other_arguments(0xDEADBEE, (1, 2, 3, 4))) == Reasoning()


def test_both_joins_without_repetition_and_the_left_goes_first() -> None:
    one, two = Finding("A", "1"), Finding("B", "2")
    culprit = Culprit("x.sys", "x", 1, "because")
    joined = Reasoning((one,), ("s",), prefix="P") + Reasoning(
        (one, two), ("s", "t"), ("n",), ("w",), "Q", culprit, 5, 6
    )
    assert joined == Reasoning((one, two), ("s", "t"), ("n",), ("w",), "P", culprit, 5, 6)


def test_arguments_have_the_width_of_the_target(other_arguments: MakeCase) -> None:
    subject = other_arguments(0xD1, (0xFFFFFFFF80001000, None, 0, 5))
    assert [subject.argument(number) for number in range(1, 5)] == [0xFFFFFFFF80001000, None, 0, 5]
    assert [subject.pointer(number) for number in range(1, 5)] == [0xFFFFFFFF80001000, None, None, 5]


def check(subject: Case) -> None:
    started = time.process_time()
    found = reason(subject)
    assert time.process_time() - started < 5
    assert not [note for note in found.notes if " stopped: " in note]
    for finding in found.findings:
        assert finding.tag and finding.value and finding.tag == finding.tag.strip()
    for sentence in found.sentences:
        assert sentence[0].isupper() or set(sentence.split()[0]) & set(".!+"), "a sentence or a name in front"
        assert sentence.endswith((".", "!")) and "None" not in sentence.split()


@pytest.mark.parametrize("dump_type", [6, 4])
@pytest.mark.parametrize("code", MINE)
@pytest.mark.parametrize(
    "parameters",
    [(0, 0, 0, 0), (None, None, None, None), (2**64 - 1,) * 4, (0xFFFFA00000001000,) * 4, (0x4141414141414141,) * 4],
)
def test_arguments_that_point_nowhere(
    other_arguments: MakeCase, code: int, parameters: Sequence[int | None], dump_type: int
) -> None:
    check(other_arguments(code, parameters, dump_type=dump_type))


@settings(max_examples=part(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.sampled_from(MINE),
    parameters=st.lists(ARGUMENT, min_size=4, max_size=4),
    name=st.sampled_from(("myfault", "system-thread", "dpc-timeout", "double-fault", "list-corruption")),
    dump_type=st.sampled_from((6, 4)),
)
def test_random_arguments_never_stop_a_rule(
    other_arguments: MakeCase, code: int, parameters: list[int | None], name: str, dump_type: int
) -> None:
    check(other_arguments(code, parameters, name, dump_type))
