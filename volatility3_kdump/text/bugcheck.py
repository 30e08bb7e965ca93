"""A bug check in KD's words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from volatility3_kdump.analysis.bugcheck import Argument, BugCheck
from volatility3_kdump.text.addresses import pointer

_BOX = (
    "*******************************************************************************",
    "*                                                                             *",
    "*                        Bugcheck Analysis                                    *",
    "*                                                                             *",
    "*******************************************************************************",
    "",
)
_WIDTH = 79


def bugcheck_command(bug_check: BugCheck, pointer_size: int) -> Iterator[str]:
    """The output of ``.bugcheck``: the code and its arguments."""
    yield f"Bugcheck code {bug_check.raw_code:08X}"
    yield "Arguments " + " ".join(
        pointer(_cut(argument, pointer_size), pointer_size) for argument in bug_check.arguments
    )


def box() -> Iterator[str]:
    """The heading of ``!analyze``."""
    yield from _BOX


def explanation(bug_check: BugCheck, pointer_size: int) -> Iterator[str]:
    """Name, description and arguments, as ``!analyze -v`` and ``!analyze -show`` print them."""
    yield f"{bug_check.name or 'Unknown bugcheck code'} ({bug_check.raw_code:x})"
    if bug_check.kd_text:
        yield from bug_check.kd_text
    else:
        for sentence in (bug_check.text, bug_check.variant):
            if sentence:
                yield from textwrap.wrap(sentence, _WIDTH)
    yield "Arguments:"
    for argument, kd_meaning in zip(bug_check.arguments, bug_check.kd_arguments, strict=True):
        value = _cut(argument, pointer_size)
        shown = pointer(value, pointer_size, tick=False)
        meaning = kd_meaning or argument.text
        line = f"Arg{argument.number}: {shown}" + (f", {meaning}" if meaning else "")
        yield from textwrap.wrap(line, _WIDTH, subsequent_indent="\t", break_long_words=False)


def _cut(argument: Argument, pointer_size: int) -> int | None:
    return None if argument.value is None else argument.value & ((1 << 8 * pointer_size) - 1)
