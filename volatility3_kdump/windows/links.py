"""Linked lists of any kind, followed by one field from structure to structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from volatility3_kdump.memory import Memory

#: More elements than this are not followed.
MOST_ELEMENTS = 1 << 16


@dataclass
class Links:
    """The elements of a list from one on; ``end`` says why it ends when they were all given."""

    memory: Memory
    start: int
    #: Where the link lies in an element, and what is subtracted from it to come to the next element.
    offset: int = 0
    most: int = MOST_ELEMENTS
    #: Along the Blinks of LIST_ENTRYs: each points to an entry, not to its Blink.
    backwards: bool = False
    end: str = field(default="", init=False)
    #: Whether the list leads back to its first element.
    closed: bool = field(default=False, init=False)
    #: Whether its last link is null.
    last_is_null: bool = field(default=False, init=False)
    #: The link that the dump lacks.
    absent: int | None = field(default=None, init=False)

    def elements(self) -> Iterator[int]:
        """The address of each element: up to a null link, the first one, one that was met, or absent memory."""
        seen: set[int] = set()
        at = self.start
        while True:
            if len(seen) >= self.most:
                self.end = f"stopped after {self.most:#x} elements"
                return
            seen.add(at)
            place = at + self.offset + (self.memory.pointer_size if self.backwards else 0)
            link = self.memory.pointer(place)
            yield at
            if link is None:
                self.absent = place
                self.end = f"the link at {place:#x} cannot be read: {self.memory.why_unreadable(place)}"
                return
            if not link:
                self.last_is_null = True
                self.end = "the last link is null"
                return
            at = link - self.offset
            if at == self.start:
                self.closed = True
                self.end = "the list leads back to its first element"
                return
            if at in seen:
                self.end = f"the list leads back to {at:#x}, which is not its first element"
                return


def next_link(memory: Memory, entry: int, backwards: bool = False) -> int | None:
    """Flink of a LIST_ENTRY, or its Blink; ``None`` where it is not in the dump."""
    return memory.pointer(entry + (memory.pointer_size if backwards else 0))


@dataclass(frozen=True)
class Disagreement:
    """A link that its neighbour does not confirm: the Blink of ``following`` is another than ``entry``, or ``None``
    where it is not in the dump."""

    entry: int
    following: int
    blink: int | None


def disagreements(memory: Memory, head: int, most: int = MOST_ELEMENTS) -> tuple[int, list[Disagreement], Links]:
    """How many entries a doubly linked list has, where its two directions do not agree, and the walk, for its end."""
    links = Links(memory, head, 0, most)
    size = memory.pointer_size
    wrong: list[Disagreement] = []
    count = -1
    for entry in links.elements():
        count += 1
        following = memory.pointer(entry)
        if following:
            blink = memory.pointer(following + size)
            if blink != entry:
                wrong.append(Disagreement(entry, following, blink))
    return count, wrong, links
