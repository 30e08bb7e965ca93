"""The layouts of KD's ``k`` commands, from the published stacks and from the rules of KD's documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from tests import transcript
from tests.edited import edited
from volatility3_kdump.target import Target
from volatility3_kdump.text import stacks as text
from volatility3_kdump.views.stack import stack_grid
from volatility3_kdump.windows.listing.stacks import Request
from volatility3_kdump.windows.stacks.frames import Frame, Stack
from volatility3_kdump.windows.stacks.starts import crash_start, thread_start
from volatility3_kdump.windows.stacks.walker import walker

#: (Child-SP, RetAddr, arguments, call site) of the published crash stack.
PUBLISHED = [
    (line[:17], line[18:35], line[42:113], line[116:]) for line in transcript.STACK_TEXT.splitlines()[1:] if line
]
TRAP_NOTES = {2: "ffffd48f`77af97e0", 10: "ffffd48f`77af9e40"}


@pytest.fixture(scope="module")
def target(sample) -> Target:
    return volatility3_kdump.open(sample())


@pytest.fixture(scope="module")
def crash(target: Target) -> Stack:
    return walker(target).walk(crash_start(target))


def shown(target: Target, stack: Stack, layout: str) -> list[str]:
    return list(text.rows(stack, layout))


def test_the_published_stack_is_cut_where_its_columns_are() -> None:
    assert len(PUBLISHED) == 12
    assert PUBLISHED[0] == (
        "ffffd48f`77af9698",
        "fffff800`62a09169",
        "00000000`0000000a ffffd802`4aaa8010 00000000`00000002 00000000`00000000",
        "nt!KeBugCheckEx",
    )


_UNCERTAIN = ("RetAddr", "Arg1", "Arg2", "Arg3", "Arg4")


def test_what_is_not_known_is_0_in_columns_and_null_in_rows(target: Target, crash: Stack) -> None:
    request = Request(None, None, crash_start(target), None)
    rows = list(stack_grid(target, [request], "kv", 64).records())
    assert len(rows) == len(crash.frames)
    for frame, row, line in zip(crash.frames, rows, shown(target, crash, "kv"), strict=True):
        values = [None if row[name] is None else int(str(row[name]), 16) for name in _UNCERTAIN]
        assert values == [frame.return_address, *frame.arguments]
        columns = line.split(" : ")
        written = [columns[0].split()[-1], *columns[1].split()]
        assert [int(column.replace("`", ""), 16) for column in written] == [value or 0 for value in values]
    assert rows[-1]["RetAddr"] is None
    assert any(row["Arg1"] is None for row in rows)


@pytest.mark.parametrize("layout", ["k", "kn"])
def test_k(target: Target, crash: Stack, layout: str) -> None:
    assert text.header(layout) == " # Child-SP          RetAddr               Call Site"
    assert shown(target, crash, layout) == [
        f"{number:02x} {child} {back}     {site}" for number, (child, back, _, site) in enumerate(PUBLISHED)
    ]


def test_kb(target: Target, crash: Stack) -> None:
    assert text.header("kb") == (
        " # RetAddr               : Args to Child                                                           : Call Site"
    )
    assert shown(target, crash, "kb") == [
        f"{number:02x} {back}     : {words} : {site}" for number, (_, back, words, site) in enumerate(PUBLISHED)
    ]


def test_kv(target: Target, crash: Stack) -> None:
    assert text.header("kv") == transcript.KV_AFTER_TRAP.splitlines()[1]
    assert shown(target, crash, "kv") == [
        f"{number:02x} {child} {back}     : {words} : {site}"
        + (f" (TrapFrame @ {TRAP_NOTES[number]})" if number in TRAP_NOTES else "")
        for number, (child, back, words, site) in enumerate(PUBLISHED)
    ]


def test_kc(target: Target, crash: Stack) -> None:
    assert text.header("kc") == " # Call Site"
    """Names alone, as documented; an offset only where the module is all that is known."""
    sites = [site.split("+")[0] if "!" in site else site for *_, site in PUBLISHED]
    assert shown(target, crash, "kc") == [f"{number:02x} {site}" for number, site in enumerate(sites)]


def test_stack_text(target: Target, crash: Stack) -> None:
    assert list(text.stack_text(crash)) == transcript.STACK_TEXT.splitlines()[1:]


def test_the_layout_inside_thread_listings(target: Target) -> None:
    stack = walker(target).walk(thread_start(target, 0xFFFF91895309D080))
    published = [line.strip() for line in transcript.NOTEPAD_STACK.splitlines()]
    assert text.header(text.EMBEDDED) == published[0]
    got = shown(target, stack, text.EMBEDDED)
    # One row of the published text has lost its first column.
    torn = next(number for number, row in enumerate(published[1:]) if row.startswith("fffff800"))
    assert got[torn].split(" ", 1)[1] == published[1 + torn]
    assert got[:torn] + got[torn + 1 :] == published[1 : 1 + torn] + published[2 + torn :]


def test_a_warning_stands_once_in_front_of_the_first_frame_of_a_scan(sample) -> None:
    small = volatility3_kdump.open(sample(4))
    stack = walker(small).walk(crash_start(small))
    rows = shown(small, stack, "kc")
    first = next(frame.number for frame in stack.frames if frame.trust == "scan")
    warning = "WARNING: Stack unwind information not available. Following frames may be wrong."
    assert rows.index(warning) == first
    assert rows.count(warning) == 1
    assert len(rows) == len(stack.frames) + 1
    analysed = list(text.stack_text(stack))
    assert analysed.index(warning) == first
    assert analysed.count(warning) == 1


def test_what_is_absent_is_zero_as_the_debugger_has_it_but_an_unknown_stack_pointer_is_not(target: Target) -> None:
    frame = Frame(0x1F, None, 0x1234, "scan", False, None, (1, None, None, 4), None)
    zeros = "00000000`00000000"
    assert text.row(frame, "kv") == (
        f"1f ????????`???????? {zeros}     : 00000000`00000001 {zeros} {zeros} 00000000`00000004 : 0x00000000`00001234"
    )


def test_frames_of_32_bit_targets_have_a_frame_pointer_and_three_arguments(target: Target) -> None:
    frame = Frame(
        *(3, 0xFFFFFFFFB2341E48, 0xFFFFFFFF80402000, "frame pointer", True, 0xFFFFFFFF80403000, (1, None, 3, 4), None),
        fp=0xFFFFFFFFB2341E60,
    )
    expected = {
        "k": (" # ChildEBP RetAddr  ", "03 b2341e60 80403000 0x80402000"),
        "kn": (" # ChildEBP RetAddr  ", "03 b2341e60 80403000 0x80402000"),
        "kb": (
            " # ChildEBP RetAddr  Args to Child              ",
            "03 b2341e60 80403000 00000001 00000000 00000003 0x80402000",
        ),
        "kv": (
            " # ChildEBP RetAddr  Args to Child              ",
            "03 b2341e60 80403000 00000001 00000000 00000003 0x80402000",
        ),
        "kc": (" # Call Site", "03 0x80402000"),
        text.EMBEDDED: ("ChildEBP RetAddr  ", "b2341e60 80403000 0x80402000"),
    }
    for layout, (head, row) in expected.items():
        assert text.header(layout, 4) == head
        assert text.row(frame, layout, 4) == row
        # The columns stand where their headings do.
        for word, column in (("ChildEBP", "b2341e60"), ("RetAddr", "80403000"), ("Args", "00000001")):
            if word in head:
                assert head.index(word) == row.index(column)
    for layout in ("kv", text.EMBEDDED):
        kept = text.row(frame._replace(trap_frame=0xFFFFFFFFB2341D64, fp=None), layout, 4)
        assert " ???????? 80403000 " in f" {kept}" and kept.endswith(" 0x80402000 (TrapFrame @ b2341d64)")


def test_a_return_address_is_named_by_the_call_before_it(target: Target, sample, tmp_path: Path) -> None:
    """A call that does not return may be the last instruction of its function: the next function begins behind it."""
    following = target.symbol("KiBugCheckDispatch")
    before = target.names.lookup(following - 1)
    assert before.symbol != "KiBugCheckDispatch"
    assert str(walker(target).name_at(following, True)) == f"nt!{before.symbol}+{before.offset + 1:#x}"
    assert str(walker(target).name_at(following, False)) == "nt!KiBugCheckDispatch"


def test_the_reason_why_a_stack_ends_early_follows_it(target: Target, sample, tmp_path: Path) -> None:
    from volatility3_kdump.views.stack import stack_grid
    from volatility3_kdump.windows.listing.stacks import Request, request_thread

    damaged = edited(target, sample(), tmp_path / "x.dmp", {0xFFFFD48F77AF97E0 + 0x180: bytes(8)})
    start = crash_start(damaged)
    grid = stack_grid(damaged, [Request(None, None, start), request_thread(damaged, 0x10, "THREAD 10")], "kc", 256)
    assert list(grid.kd_lines()) == [
        " # Call Site",
        "00 nt!KeBugCheckEx",
        "01 nt!KiBugCheckDispatch",
        "02 nt!KiPageFault",
        "Stack ends here: the trap frame at 0xffffd48f77af97e0 is damaged: kernel code segment with Rsp 0x0",
        "",
        "THREAD 10",
        "No stack: the thread object is not in the dump",
    ]
