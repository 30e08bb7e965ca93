"""Doubly linked lists of the target, walked so that damage costs only the entries that it hides.

A list is followed from its head through Flink. Where that does not come back to the head, it is followed through Blink
as well, from the other end; what lies between the two ends is lost, and is said to be.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from volatility3_kdump.memory import Memory, sign_extended

#: Where the kernel's half of the address space begins, by the size of a pointer.
_KERNEL_HALF = {8: 0xFFFF800000000000, 4: 0xFFFFFFFF80000000}


@dataclass(frozen=True)
class ListWalk:
    """The LIST_ENTRY addresses of a list in list order, without the head, and what was found wrong, a line each.

    ``break_at`` is how many entries came before the break, ``None`` for a whole list. ``backwards`` are the entries
    that following Blink gives, in list order, where that was asked for or needed. ``present`` is False where not even
    the head could be read.
    """

    entries: tuple[int, ...]
    problems: tuple[str, ...]
    break_at: int | None = None
    backwards: tuple[int, ...] | None = None
    present: bool = True


def walk_list(memory: Memory, head: int, most: int, what: str, both: bool = False, user: bool = False) -> ListWalk:
    """Walk the list at ``head``; ``what`` names it in messages. At most ``most`` entries are followed each way.

    ``user`` says that the entries lie in user mode, not in the kernel; ``both`` follows Blink even where Flink leads
    back to the head. An entry whose own links are not in the dump is in the result nevertheless: its neighbour names
    it.
    """
    forward, wrong = _follow(memory, head, most, 0, user)
    if wrong is None and not both:
        return ListWalk(tuple(forward), ())
    backward, wrong_back = _follow(memory, head, most, 1, user)
    backward.reverse()
    if not forward and not backward and wrong is not None and wrong_back is not None:
        return ListWalk((), (f"{what}: {wrong}",), 0, (), memory.pointer(head) is not None)
    if wrong is None:
        problems = [] if wrong_back is None else [f"{what}, backwards: {wrong_back}"]
        return ListWalk(tuple(forward), tuple(problems), None, tuple(backward))
    reached = set(forward)
    entries = [*forward, *(entry for entry in backward if entry not in reached)]
    problems = [f"{what}: {wrong}; entries may be missing there"]
    if wrong_back is not None:
        problems.append(f"{what}, backwards: {wrong_back}")
    return ListWalk(tuple(entries), tuple(problems), len(forward), tuple(backward))


def _follow(memory: Memory, head: int, most: int, link: int, user: bool) -> tuple[list[int], str | None]:
    """The entries in one direction (0 Flink, 1 Blink), and why they do not end at the head."""
    size = memory.pointer_size
    layout = struct.Struct("<QQ" if size == 8 else "<II")
    seen = {head}
    entries: list[int] = []
    name = ("Flink", "Blink")[link]
    at = head
    while True:
        data = memory.read(at, 2 * size)
        if data is None:
            return entries, f"the entry at {at:#x} is not in the dump"
        following = sign_extended(layout.unpack(data)[link], size)
        if following == head:
            return entries, None
        if following in seen:
            return entries, f"{name} at {at:#x} leads back to {following:#x}: the list is cyclic"
        if (following < _KERNEL_HALF[size]) != user or following % size or not following:
            return entries, f"{name} at {at:#x} is {following:#x}, which is no {'user' if user else 'kernel'} structure"
        if len(entries) >= most:
            return entries, f"more than {most} entries"
        seen.add(following)
        entries.append(following)
        at = following
