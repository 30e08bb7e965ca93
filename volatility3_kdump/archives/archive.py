"""What every kind of container has in common: members with names that are only ever shown, and a stream of each."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

#: Most bytes that a stream gives at once.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file inside a container.

    ``number`` counts from 1 in the container's order. ``name`` is what the container says, of any length and content:
    it serves to choose and to show, and never becomes a path. ``size`` is in bytes after extraction, ``None`` where
    the format does not say; ``packed`` is how many bytes of the container hold it at most.
    """

    number: int
    name: str
    size: int | None
    packed: int


class Archive(abc.ABC):
    """An opened container. ``file`` is the container, open for reading; ``members`` are its files, no directories."""

    #: What to call it, with its article.
    kind: ClassVar[str]
    #: Whether the first bytes of every member are to be had without extracting much else.
    quick_heads: ClassVar[bool] = True

    file: BinaryIO
    members: tuple[Member, ...]

    @abc.abstractmethod
    def stream(self, member: Member, start: int = 0, before: bytes = b"") -> Iterator[bytes]:
        """The bytes of a member in order, in pieces of at most a few MiB.

        ``start`` is an offset that :meth:`resume_point` gave, and ``before`` the bytes in front of it, 32 KiB or all.
        Raises :class:`~volatility3_kdump.errors.CorruptContainer` or
        :class:`~volatility3_kdump.errors.UnsupportedContainer`.
        """

    def resume_point(self, member: Member, length: int) -> int:
        """The largest offset of at most ``length`` from which a stream can go on; 0 where it must start anew."""
        return 0

    def head(self, member: Member, length: int) -> bytes:
        """The first ``length`` bytes of a member, fewer where it ends. Raises as :meth:`stream`."""
        data = b""
        for piece in self.stream(member):
            data += piece[: length - len(data)]
            if len(data) >= length:
                break
        return data


def shown(name: str, longest: int = 80) -> str:
    """A member's name for a message: one line, without anything that a terminal would act upon."""
    line = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
    return line if len(line) <= longest else f"...{line[-longest:]}"
