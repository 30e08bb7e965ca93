"""What can go wrong, named after the failure.

Every error message is one line that names the file or structure, the offset where it applies, and what to do.
"""

from __future__ import annotations


class KdumpError(Exception):
    """Base of every error that the package raises on purpose; its text is one line fit for a terminal.

    What the sentence says is here as values too, ``None`` where it does not say it: ``name`` of the file, structure or
    variable, ``address`` in the target, ``reason`` why it is as it is.
    """

    def __init__(
        self, text: str = "", *, name: str | None = None, address: int | None = None, reason: str | None = None
    ) -> None:
        super().__init__(text)
        self.name = name
        self.address = address
        self.reason = reason

    def within(self, place: str) -> KdumpError:
        """The same error with ``place`` before its text: the file, or the member of an archive."""
        return type(self)(f"{place}: {self}", name=self.name, address=self.address, reason=self.reason)


class ReadLimit(Exception):
    """A command has read more than a sound dump gives it reason to.

    Not a :class:`KdumpError`: those are caught where one structure of many cannot be read.
    """


class NotACrashDump(KdumpError):
    """The file is something else: empty, zero-filled, a user-mode minidump, a raw image."""


class UnsupportedDump(KdumpError):
    """A crash dump of a kind whose pages cannot be read: unknown type, encrypted, header only."""


class CorruptDump(KdumpError):
    """A crash dump whose structures contradict themselves or the file, so that nothing useful is left."""


class CorruptContainer(KdumpError):
    """An archive or compressed file that is damaged, cut short or contradicts itself."""


class UnsupportedContainer(KdumpError):
    """An archive or compressed file that cannot be read: no decompressor, part of a set, encrypted, too large."""


class MemberNotChosen(KdumpError):
    """An archive from which no dump was chosen: several are inside, or none is of the name asked for."""


class SymbolsNotFound(KdumpError):
    """A symbol table is needed and was not found; the message says which."""


class Unreadable(KdumpError):
    """An address whose bytes the dump does not hold."""

    @classmethod
    def at(cls, address: int, name: str, reason: str) -> Unreadable:
        """``NAME at ADDRESS: REASON``."""
        return cls(f"{name} at {address:#x}: {reason}", name=name, address=address, reason=reason)
