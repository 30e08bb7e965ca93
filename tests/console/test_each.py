"""``!for_each_frame`` and ``!for_each_register``: what the documentation of both says of them."""

from __future__ import annotations

import pytest

from tests.prompt import answer
from volatility3_kdump.console.session import Session


def test_each_frame_is_shown_and_current_while_the_command_runs(session: Session) -> None:
    """The same frames as ``k`` has, and ``@$frame`` is the index of each."""
    stack = [line.split()[-1] for line in answer(session, "k")[1:]]
    lines = answer(session, '!for_each_frame .printf "<%d>\\n", @$frame')
    assert [line.split()[-1] for line in lines[::2]] == stack
    assert lines[1::2] == [f"<{number}>" for number in range(len(stack))]


def test_the_chosen_frame_is_what_it_was(session: Session) -> None:
    answer(session, ".frame 2")
    answer(session, "!for_each_frame .echo x")
    assert answer(session, "? @$frame") == ["Evaluate expression: 2 = 00000000`00000002"]


def test_without_a_command_the_frames_alone(session: Session) -> None:
    assert len(answer(session, "!for_each_frame")) == len(answer(session, "k")) - 1


def test_several_commands_in_quotes(session: Session) -> None:
    lines = answer(session, '!for_each_frame ".echo a; .echo b"')
    assert lines[1:3] == ["a", "b"]


def test_deep_in_itself_is_refused(session: Session) -> None:
    inner = "!for_each_frame " * 4
    lines = answer(session, f"{inner}.echo x")
    assert "!for_each_frame inside of itself is too deep" in lines


def test_each_register(session: Session) -> None:
    """Names in the documented order, values as ``r`` has them."""
    lines = answer(session, "!for_each_register -c:.echo @#RegisterName ${@#RegisterValue}")
    names = [line.split()[0] for line in lines]
    assert names[:4] == ["rax", "rcx", "rdx", "rbx"]
    assert {"rip", "efl", "ss"} <= set(names)
    for line in lines[:16]:
        name, value = line.split()
        assert answer(session, f"r {name}") == [f"{name}={int(value, 16):016x}"]


def test_registers_of_a_trap_frame(session: Session) -> None:
    """Those that the frame does not hold are named, not made up."""
    answer(session, ".trap 0xffffd48f77af97e0")
    lines = answer(session, "!for_each_register -c:.echo @#RegisterName")
    assert lines[-1].startswith("NOTE: not known: ")
    unknown = lines[-1].partition(": ")[2].partition(": ")[2].split()
    assert unknown and not set(unknown) & set(lines[:-1])


@pytest.mark.parametrize(
    ("line", "words"),
    (
        ("!for_each_register", "!for_each_register needs -c:COMMANDS"),
        ("!for_each_register r", "!for_each_register knows no argument r"),
    ),
)
def test_what_it_needs(session: Session, line: str, words: str) -> None:
    assert answer(session, line)[0].startswith(words)
