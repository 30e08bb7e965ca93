"""The parts of a process's address space in use, as data of a scene."""

from __future__ import annotations

from dataclasses import dataclass

#: Memory manager's protections.
NO_ACCESS, READ_ONLY, READ_WRITE, WRITE_COPY, EXECUTE_WRITE_COPY = 0, 1, 4, 5, 7
GUARD = 0x10

#: MI_VAD_TYPE.
PLAIN, IMAGE, WRITE_WATCH = 0, 2, 4

#: The commit charge of regions that have none.
UNCHARGED = -1


@dataclass(frozen=True)
class Region:
    """A region of whole pages: ``first`` and ``last`` are page numbers, ``commit`` is in pages.

    ``file`` is the file that a section maps, its path on its volume. With ``shared_commit`` in place of it the section
    is backed by the page file. With neither the memory is private.
    """

    first: int
    last: int
    commit: int = 0
    protection: int = READ_WRITE
    kind: int = PLAIN
    file: str = ""
    shared_commit: int | None = None

    @property
    def private(self) -> bool:
        return not self.file and self.shared_commit is None


def image(base: int, pages: int, file: str, commit: int) -> Region:
    """An image at an address."""
    first = base >> 12
    return Region(first, first + pages - 1, commit, EXECUTE_WRITE_COPY, IMAGE, file)


def private(base: int, pages: int, commit: int, protection: int = READ_WRITE, kind: int = PLAIN) -> Region:
    """Private memory at an address."""
    first = base >> 12
    return Region(first, first + pages - 1, commit, protection, kind)
