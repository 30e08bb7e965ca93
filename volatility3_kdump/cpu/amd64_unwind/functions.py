"""The exception directory of one image: which function an RVA lies in, searched where parts of it are absent."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence

from volatility3_kdump.cpu.amd64_unwind.codes import (
    ALLOC_LARGE,
    ALLOC_SMALL,
    ENTRY,
    PUSH_MACHFRAME,
    PUSH_NONVOL,
    SET_FPREG,
    ReadRva,
    Undecodable,
    UnwindCode,
    UnwindInfo,
    decode,
    image_bytes,
)
from volatility3_kdump.cpu.amd64_unwind.programs import Link, Program, compile

_PAGE = 0x1000
#: Pushed flags, which unwind codes record as an allocation.
FLAGS_SIZE = 8
#: Numbers of the registers that a call may change.
VOLATILE = frozenset((0, 1, 2, 8, 9, 10, 11))
#: The largest table that is loaded: some 1.4 million functions, twice the largest image known.
_MOST_TABLE_BYTES = 0x1000000
_MOST_LINKS = 32
_MOST_REMEMBERED = 0x10000


class TableAbsent(Exception):
    """The part of the function table that would answer is not in the dump; the text says so in words."""


class Function:
    """One RUNTIME_FUNCTION with its unwind information decoded, chained entries included.

    ``begin`` and ``end`` are RVAs. ``primary`` is the begin RVA of the entry at the end of the chain, the function that
    a fragment belongs to. ``info`` is the entry's own UNWIND_INFO. ``problem`` says in words why the function cannot
    be unwound, ``absent`` whether that is for bytes that are not in the dump; ``info`` may then be ``None``.
    ``machine_frame`` tells functions that interrupts and exceptions enter. ``pushes`` are the pushed registers in the
    order in which an epilogue pops them, ``own_pushes`` those of them that the entry itself pushes rather than one that
    it is chained to. ``undone`` are pushes and allocations in the order in which they are undone: the register of a
    push, or the bytes of an allocation, negative.
    """

    __slots__ = (
        "_links",
        "_partial",
        "absent",
        "begin",
        "body",
        "end",
        "epilog_size",
        "epilogs",
        "frame_register",
        "info",
        "machine_frame",
        "own_pushes",
        "primary",
        "problem",
        "prolog_size",
        "pushes",
        "undone",
    )

    def __init__(self, begin: int, end: int) -> None:
        self.begin = begin
        self.end = end
        self.primary = begin
        self.info: UnwindInfo | None = None
        self.problem: str | None = None
        self.absent = False
        self.prolog_size = 0
        self.machine_frame = False
        self.pushes: tuple[int, ...] = ()
        self.own_pushes: tuple[int, ...] = ()
        self.undone: tuple[int, ...] = ()
        #: The register that an epilogue restores the stack pointer from, 0 when it adds to it.
        self.frame_register = 0
        #: RVAs of the epilogues that version 2 lists, and their size in bytes.
        self.epilogs: tuple[int, ...] = ()
        self.epilog_size = 0
        self.body: tuple[Program, ...] = ()
        self._links: list[Link] = []
        self._partial: dict[int, tuple[Program, ...]] = {}

    def __repr__(self) -> str:
        return f"Function({self.begin:#x}, {self.end:#x})"

    @property
    def codes(self) -> tuple[UnwindCode, ...]:
        """The codes of the entry and of those that it is chained to, in the order in which they are undone."""
        return tuple(code for link in self._links for code in link.codes)

    def fill(self, infos: Sequence[UnwindInfo], primary: int, *, in_body: bool) -> None:
        own = infos[0]
        self.info = own
        self.primary = primary
        # An entry that stands for another one (in_body) is a fragment behind that one's prologue.
        self.prolog_size = 0 if in_body else own.prolog_size
        self._links = [Link(info) for info in infos]
        codes = [code for info in infos for code in info.codes]
        self.machine_frame = any(code.operation == PUSH_MACHFRAME for code in codes)
        self.pushes = tuple(code.info for code in codes if code.operation == PUSH_NONVOL)
        self.own_pushes = self.pushes[: sum(code.operation == PUSH_NONVOL for code in own.codes)]
        self.undone = tuple(
            code.info if code.operation == PUSH_NONVOL else -code.value
            for code in codes
            if code.operation in (PUSH_NONVOL, ALLOC_LARGE, ALLOC_SMALL)
        )
        if any(code.operation == SET_FPREG for code in codes):
            self.frame_register = own.frame_register
        self.body = compile(self._links, None)
        if own.epilogs and not in_body:
            size, info_bits = own.epilogs[0]
            starts = [self.end - size] if info_bits & 1 else []
            distances = [info << 8 | offset for offset, info in own.epilogs[1:]]
            starts += [self.end - distance for distance in distances if distance]
            self.epilog_size = size
            self.epilogs = tuple(start for start in starts if self.begin <= start < self.end)

    def refuse(self, reason: str, *, absent: bool) -> None:
        self.problem = reason
        self.absent = absent

    def programs_at(self, rva: int) -> tuple[Program, ...]:
        """What undoes the function at an RVA in it, epilogues apart."""
        offset = rva - self.begin
        if not 0 <= offset < self.prolog_size:
            return self.body
        executed = max((code.offset for code in self._links[0].codes if code.offset <= offset), default=-1)
        programs = self._partial.get(executed)
        if programs is None:
            try:
                programs = compile(self._links, executed)
            except Undecodable:
                # Without its first codes the prologue contradicts itself; the whole of it did not.
                programs = self.body
            self._partial[executed] = programs
        return programs

    def pops_left(self, rva: int) -> tuple[int, ...] | None:
        """What is still to be popped at an RVA inside a listed epilogue, as :attr:`undone`; ``None`` outside of them.

        Flags that were pushed are popped by one byte, into a register that calls do not preserve.
        """
        first = next((number for number, entry in enumerate(self.undone) if entry >= 0), len(self.undone))
        pops = tuple(entry for entry in self.undone[first:] if entry >= 0 or entry == -FLAGS_SIZE)
        for start in self.epilogs:
            done = rva - start
            if 0 <= done < self.epilog_size:
                for index, register in enumerate(pops):
                    if done <= 0:
                        return pops[index:] if done == 0 else None
                    done -= 1 if register < 8 else 2
                return () if done >= 0 else None
        return None


class FunctionTable:
    """The exception directory of one x64 image, which may be partly absent.

    ``read_rva`` reads the image; ``directory`` is the (RVA, size in bytes) of data directory 3, ``None`` when the
    headers say that there is none; ``size_of_image`` is in bytes and bounds everything that is read.
    """

    def __init__(self, read_rva: ReadRva, directory: tuple[int, int] | None, size_of_image: int) -> None:
        self.read_rva = read_rva
        self.size_of_image = size_of_image
        self._directory = directory
        self._loaded = False
        self._begins: list[int] = []
        #: (begin, end, unwind information, absent entries follow) in the order of ``_begins``.
        self._entries: list[tuple[int, int, int, bool]] = []
        self._absent_at_start = False
        self._overlapping = False
        self._functions: dict[tuple[int, int, int], Function] = {}
        self._remembered: dict[int, Function | None] = {}
        #: What :func:`unwind` found for return addresses, by RVA.
        self.call_sites: dict[int, tuple[Function, Program]] = {}

    def find(self, rva: int) -> Function | None:
        """The function that an RVA lies in; ``None`` when the table has none, which makes it a leaf function.

        Raises :class:`TableAbsent` when the entry may be in a part of the table that is not in the dump.
        """
        try:
            return self._remembered[rva]
        except KeyError:
            pass
        function = self._find(rva)
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
            self.call_sites.clear()
        self._remembered[rva] = function
        return function

    def entry(self, rva: int) -> tuple[int, int, int] | None:
        """(begin, end, unwind information) of the entry that an RVA lies in, as it stands in the table.

        Raises :class:`TableAbsent` as :meth:`find` does.
        """
        function = self.find(rva)
        if function is None:
            return None
        return next((begin, end, info) for begin, end, info, _ in self._entries if begin == function.begin)

    def functions(self) -> Iterator[Function]:
        """Every function of the table that is in the dump, by ascending begin RVA."""
        if not self._loaded:
            self._load()
        for begin, end, info, _ in self._entries:
            yield self._function(begin, end, info)

    def _find(self, rva: int) -> Function | None:
        if self._directory is None:
            return None
        if not self._loaded:
            self._load()
        index = bisect.bisect_right(self._begins, rva) - 1
        missing = self._absent_at_start
        if index >= 0:
            begin, end, info, missing = self._entries[index]
            if rva < end:
                return self._function(begin, end, info)
        if self._overlapping:
            for begin, end, info, _ in self._entries:
                if begin <= rva < end:
                    return self._function(begin, end, info)
        if missing:
            raise TableAbsent(f"the function table entries around RVA {rva:#x} are not in the dump")
        return None

    def _load(self) -> None:
        """Read the table once, page by page where parts are absent, and put it in order."""
        self._loaded = True
        assert self._directory is not None
        start, size = self._directory
        limit = min(size, _MOST_TABLE_BYTES, max(self.size_of_image - start, 0))
        count = limit // ENTRY.size
        missing = limit < size - size % ENTRY.size
        entries: list[list[int | bool]] = []
        position = 0
        for first, data in self._present(start, count * ENTRY.size):
            # Entries that begin in an absent page cannot be read: the next one that begins here.
            skip = -first % ENTRY.size
            if first != position:
                self._note_gap(entries)
            for begin, end, info in ENTRY.iter_unpack(
                data[skip : skip + (len(data) - skip) // ENTRY.size * ENTRY.size]
            ):
                if begin or end or info:
                    entries.append([begin, end, info, False])
            position = first + skip + (len(data) - skip) // ENTRY.size * ENTRY.size
        if position != count * ENTRY.size or missing:
            self._note_gap(entries)
        if any(before[0] > after[0] for before, after in itertools.pairwise(entries)):
            # Out of order, so a gap may hide anything.
            if self._absent_at_start or any(entry[3] for entry in entries):
                self._absent_at_start = True
                for entry in entries:
                    entry[3] = True
            entries.sort(key=lambda entry: entry[0])
        self._overlapping = any(before[1] > after[0] for before, after in itertools.pairwise(entries))
        self._entries = [(int(begin), int(end), int(info), bool(gap)) for begin, end, info, gap in entries]
        self._begins = [entry[0] for entry in self._entries]

    def _note_gap(self, entries: list[list[int | bool]]) -> None:
        if entries:
            entries[-1][3] = True
        else:
            self._absent_at_start = True

    def _present(self, start: int, size: int) -> Iterator[tuple[int, bytes]]:
        """The contiguous parts of the directory that are in the dump, as (offset in the directory, bytes)."""
        if not size:
            return
        whole = self.read_rva(start, size)
        if whole is not None:
            yield 0, whole
            return
        run_start, run = 0, b""
        parts: list[bytes] = []
        position = 0
        while position < size:
            length = min(_PAGE - (start + position) % _PAGE, size - position)
            data = self.read_rva(start + position, length)
            if data is not None:
                if not parts:
                    run_start = position
                parts.append(data)
            elif parts:
                run = b"".join(parts)
                parts = []
                yield run_start, run
            position += length
        if parts:
            yield run_start, b"".join(parts)

    def _function(self, begin: int, end: int, info: int) -> Function:
        key = (begin, end, info)
        function = self._functions.get(key)
        if function is None:
            function = self._functions[key] = self._build(begin, end, info)
        return function

    def _build(self, begin: int, end: int, info_rva: int) -> Function:
        function = Function(begin, end)
        try:
            primary = begin
            in_body = False
            if info_rva & 1:
                # An entry that stands for another one: the RVA of that RUNTIME_FUNCTION, with bit 0 set.
                primary, info_rva = self._indirect(info_rva)
                in_body = primary != begin
            infos = [decode(self.read_rva, info_rva, self.size_of_image)]
            seen = {info_rva}
            while infos[-1].chained is not None:
                if len(infos) > _MOST_LINKS:
                    raise Undecodable(f"more than {_MOST_LINKS} chained unwind entries")
                primary, _, info_rva = infos[-1].chained
                if info_rva & 1:
                    primary, info_rva = self._indirect(info_rva)
                if info_rva in seen:
                    raise Undecodable(f"the chain of unwind entries loops at RVA {info_rva:#x}")
                seen.add(info_rva)
                infos.append(decode(self.read_rva, info_rva, self.size_of_image))
            function.fill(infos, primary, in_body=in_body)
        except Undecodable as error:
            function.refuse(str(error), absent=error.absent)
        return function

    def _indirect(self, info_rva: int) -> tuple[int, int]:
        begin, _, info = ENTRY.unpack(image_bytes(self.read_rva, info_rva & ~1, ENTRY.size, self.size_of_image))
        if info & 1:
            raise Undecodable(f"an indirect unwind entry at RVA {info_rva & ~1:#x} leads to another one")
        return begin, info
