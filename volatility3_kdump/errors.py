"""What can go wrong, named after the failure.

Every error message is one line that names the file or structure, the offset where it applies, and what to do.
"""

from __future__ import annotations


class KdumpError(Exception):
    """Base of every error that the package raises on purpose; its text is one line fit for a terminal."""


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
