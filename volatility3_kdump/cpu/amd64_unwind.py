"""x64 unwinding: from the registers in a function to the registers at its call.

* :class:`Registers` - the sixteen general registers, ``rip`` and ``xmm6``-``xmm15``, each known or unknown.
* :class:`FunctionTable` - the exception directory of one image: which function an RVA lies in, decoded once.
* :func:`unwind` - one step; :class:`Unwound` says what came out of it and what kind of frame it was.
* :func:`decode_unwind_info` - one UNWIND_INFO with its codes as they are stored.

Everything is read through two functions that may answer ``None``: ``read_rva(rva, size)`` of the image and
``read(address, size)`` of the stack. Hostile data end in :attr:`Unwound.reason`, never in an exception or a loop.

Facts: "x64 exception handling" of Microsoft's documentation (RUNTIME_FUNCTION, UNWIND_INFO, UNWIND_CODE, the shape of
epilogues); UNWIND_INFO version 2 as compilers emit it. Version 3 is recognised and refused.

How a function is undone. The codes of a function and of the entries it is chained to are folded into a *program*: where
each register was saved relative to one register, and where the return address lies. For
``push rbx; sub rsp, 20h`` the program reads ``rbx`` at ``rsp+20h``, the return address at ``rsp+28h``, and leaves
``rsp+30h``: one read and one unpacking for a frame. Positions in a prologue have programs of their own, of the codes
that were already executed.

Epilogues undo a part of the frame before the function returns. Version 2 lists them. For version 1 the instructions at
``rip`` are matched: ``add rsp, n`` or ``lea rsp, [frame register+n]``, pops, then a return or a jump that leaves
the function. Where the jump goes to decides what it is: at the entry of another function it is a tail call; in a
fragment that has a frame of its own set up (separated code of the same function) the frame goes on there, and is
unwound from there.
"""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.context import Context

#: Reads an image: exactly ``size`` bytes at an RVA, or ``None`` when any of them is not at hand.
ReadRva = Callable[[int, int], "bytes | None"]

#: Names of the general registers by the numbers that unwind codes and instructions use.
REGISTER_NAMES = tuple("rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split())
_RSP = 4
_FIRST_XMM = 6

_MASK = (1 << 64) - 1
_PAGE = 0x1000
#: RUNTIME_FUNCTION: BeginAddress, EndAddress, UnwindInfoAddress.
_ENTRY = struct.Struct("<III")
#: The largest table that is loaded: some 1.4 million functions, twice the largest image known.
_MOST_TABLE_BYTES = 0x1000000
_MOST_LINKS = 32
#: Jumps from one fragment into another that are followed from one position.
_MOST_JUMPS = 4
#: A frame whose saved registers lie further apart than this is read slot by slot.
_MOST_SPAN = 0x2000
_MOST_REMEMBERED = 0x10000
_LONGEST_EPILOGUE = 64

PUSH_NONVOL, ALLOC_LARGE, ALLOC_SMALL, SET_FPREG, SAVE_NONVOL, SAVE_NONVOL_FAR = range(6)
EPILOG, SPARE, SAVE_XMM128, SAVE_XMM128_FAR, PUSH_MACHFRAME = range(6, 11)

FLAG_EXCEPTION_HANDLER, FLAG_TERMINATION_HANDLER, FLAG_CHAINED = 1, 2, 4


class TableAbsent(Exception):
    """The part of the function table that would answer is not in the dump; the text says so in words."""


class _Undecodable(Exception):
    """Unwind data that cannot be used; ``absent`` tells bytes that are not in the dump from bytes that are wrong."""

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent


class Registers:
    """The registers at one moment; ``None`` stands for a value that is not known.

    ``gpr`` has sixteen values in the order of :data:`REGISTER_NAMES`, ``rip`` is the instruction pointer, ``xmm`` maps
    6..15 to 128-bit values (a missing key is unknown), and is ``None`` when none of them is known. Only the vector
    registers that calls preserve are tracked. ``xmm`` may be shared between values: replace it, do not change it.
    """

    __slots__ = ("gpr", "rip", "xmm")

    def __init__(self, gpr: list[int | None], rip: int, xmm: dict[int, int | None] | None = None) -> None:
        self.gpr = gpr
        self.rip = rip
        self.xmm = xmm

    @classmethod
    def from_context(cls, context: Context) -> Registers:
        """The registers of an x64 context. Raises ``ValueError`` for another architecture, or when rip is unknown."""
        if context.architecture != "x64" or context.ip is None:
            raise ValueError(f"{context.source}: no x64 context with an instruction pointer")
        xmm = None
        if context.xmm is not None:
            xmm = {number: value for number, value in enumerate(context.xmm) if number >= _FIRST_XMM}
        return cls([context.get(name) for name in REGISTER_NAMES], context.ip, xmm)

    def to_context(self, source: str) -> Context:
        """The known registers as a context whose ``source`` is given; flags and segment registers are not tracked."""
        values = {name: value for name, value in zip(REGISTER_NAMES, self.gpr, strict=True) if value is not None}
        values["rip"] = self.rip
        xmm = None if self.xmm is None else tuple(self.xmm.get(number) for number in range(16))
        return Context("x64", values, source, None, xmm)

    def copy(self) -> Registers:
        """An independent copy."""
        return Registers(self.gpr[:], self.rip, self.xmm)

    @property
    def rsp(self) -> int | None:
        """The stack pointer."""
        return self.gpr[_RSP]

    def __repr__(self) -> str:
        known = " ".join(
            f"{name}={value:x}" for name, value in zip(REGISTER_NAMES, self.gpr, strict=True) if value is not None
        )
        return f"Registers(rip={self.rip:x} {known})"


# unwind information ---------------------------------------------------------------------------------------------------


class UnwindCode(NamedTuple):
    """One UNWIND_CODE: ``offset`` of the end of its instruction in the prologue, ``operation``, ``info``.

    ``value`` is the operand in bytes, scaled: the size of an allocation, or the offset of a save from the frame base.
    """

    offset: int
    operation: int
    info: int
    value: int


class UnwindInfo(NamedTuple):
    """One UNWIND_INFO. ``codes`` are in stored order, version 2 epilog codes apart.

    ``frame_offset`` is in bytes. ``epilogs`` are the (offset, info) pairs of the EPILOG codes. ``handler`` is the RVA
    of the language handler, ``chained`` the RUNTIME_FUNCTION that a chained entry continues, each ``None`` without.
    """

    version: int
    flags: int
    prolog_size: int
    frame_register: int
    frame_offset: int
    codes: tuple[UnwindCode, ...]
    epilogs: tuple[tuple[int, int], ...]
    handler: int | None
    chained: tuple[int, int, int] | None


def decode_unwind_info(read_rva: ReadRva, rva: int, size_of_image: int) -> UnwindInfo:
    """The UNWIND_INFO at an RVA. Raises ``ValueError`` with the reason when it is absent, malformed or of version 3."""
    try:
        return _decode(read_rva, rva, size_of_image)
    except _Undecodable as error:
        raise ValueError(str(error)) from None


def _decode(read_rva: ReadRva, rva: int, size_of_image: int) -> UnwindInfo:
    head = _image_bytes(read_rva, rva, 4, size_of_image)
    version, flags = head[0] & 7, head[0] >> 3
    if version == 3:
        raise _Undecodable(f"unwind information of version 3 at RVA {rva:#x} is not supported")
    if version not in (1, 2):
        raise _Undecodable(f"unwind information of unknown version {version} at RVA {rva:#x}")
    count = head[2]
    # The array is padded to an even number of slots.
    length = 2 * (count + count % 2)
    extra = 12 if flags & FLAG_CHAINED else 4 if flags & (FLAG_EXCEPTION_HANDLER | FLAG_TERMINATION_HANDLER) else 0
    body = _image_bytes(read_rva, rva + 4, length + extra, size_of_image) if length + extra else b""
    codes, epilogs = _decode_codes(body, count, version, rva)
    chained = None
    handler = None
    if flags & FLAG_CHAINED:
        chained = _ENTRY.unpack_from(body, length)
    elif extra:
        (handler,) = struct.unpack_from("<I", body, length)
    return UnwindInfo(
        version, flags, head[1], head[3] & 15, 16 * (head[3] >> 4), tuple(codes), tuple(epilogs), handler, chained
    )


def _image_bytes(read_rva: ReadRva, rva: int, size: int, size_of_image: int) -> bytes:
    if rva + size > size_of_image:
        raise _Undecodable(f"unwind information at RVA {rva:#x} runs past the image")
    data = read_rva(rva, size)
    if data is None or len(data) < size:
        raise _Undecodable(f"unwind information at RVA {rva:#x} is not in the dump", absent=True)
    return data


def _decode_codes(body: bytes, count: int, version: int, rva: int) -> tuple[list[UnwindCode], list[tuple[int, int]]]:
    codes: list[UnwindCode] = []
    epilogs: list[tuple[int, int]] = []
    slots = struct.unpack_from(f"<{count}H", body)
    index = 0
    while index < count:
        offset, operation, info = slots[index] & 0xFF, slots[index] >> 8 & 15, slots[index] >> 12
        if operation == EPILOG and version == 2:
            epilogs.append((offset, info))
            index += 1
            continue
        taken = _slots_of(operation, info, version, rva)
        if index + taken > count:
            raise _Undecodable(f"unwind information at RVA {rva:#x} ends inside an operation")
        value = 0
        if operation == ALLOC_SMALL:
            value = 8 * info + 8
        elif taken == 2:
            value = slots[index + 1] * (16 if operation in (SAVE_XMM128, EPILOG) else 8)
        elif taken == 3:
            value = slots[index + 1] | slots[index + 2] << 16
        codes.append(UnwindCode(offset, operation, info, value))
        index += taken
    return codes, epilogs


def _slots_of(operation: int, info: int, version: int, rva: int) -> int:
    """Slots of two bytes that an operation takes. EPILOG is here the save of version 1 that nothing emits any more."""
    if operation in (PUSH_NONVOL, ALLOC_SMALL, SET_FPREG, PUSH_MACHFRAME):
        if operation == PUSH_MACHFRAME and info > 1:
            raise _Undecodable(f"unwind information at RVA {rva:#x} has a machine frame of unknown kind {info}")
        return 1
    if operation == ALLOC_LARGE:
        if info > 1:
            raise _Undecodable(f"unwind information at RVA {rva:#x} has an allocation of unknown kind {info}")
        return 2 + info
    if operation in (SAVE_NONVOL, SAVE_XMM128, EPILOG):
        return 2
    if operation in (SAVE_NONVOL_FAR, SAVE_XMM128_FAR, SPARE):
        return 3
    raise _Undecodable(f"unwind information at RVA {rva:#x} has unknown operation {operation}")


# programs -------------------------------------------------------------------------------------------------------------

#: Targets of a program's slots beside the general registers 0..15: xmm registers from 16 on, rip, the saved rsp.
_XMM_TARGET = 16
_RIP_TARGET = 32
_SAVED_RSP_TARGET = 33


class _Program:
    """What undoing a run of unwind codes does, relative to registers as they are before it.

    ``slots`` are (target, anchor register, offset); ``final`` is where the stack pointer ends, as (anchor, offset), for
    a machine frame where that begins; ``base`` is the frame base. Where all slots lie near each other at offsets from
    one anchor, ``unpack`` takes them out of ``span`` bytes read at ``low``: ``gprs`` are (register, index of the
    value), ``rip_index`` is the index of the return address. Otherwise ``unpack`` is ``None``, and ``extent`` is the
    number of bytes from ``low`` on that hold all slots, 0 when they lie apart.
    """

    __slots__ = (
        "anchor",
        "base",
        "base_is_rsp",
        "extent",
        "final",
        "gprs",
        "low",
        "machine",
        "rip_index",
        "rip_slot",
        "slots",
        "span",
        "unpack",
    )

    def __init__(
        self,
        slots: dict[int, tuple[int, int]],
        final: tuple[int, int],
        base: tuple[int, int],
        machine: bool,
    ) -> None:
        self.base = base
        self.final = final
        self.machine = machine
        self.rip_slot = slots.get(_RIP_TARGET)
        self.slots = [(target, anchor, offset) for target, (anchor, offset) in slots.items()]
        ordered = sorted(self.slots, key=lambda slot: slot[2])
        targets = [target for target, _, _ in ordered]
        vectors = any(_XMM_TARGET <= target < _RIP_TARGET for target in targets)
        self.gprs = tuple((target, index) for index, target in enumerate(targets) if target < _XMM_TARGET)
        self.rip_index = targets.index(_RIP_TARGET) if _RIP_TARGET in targets else 0
        self.base_is_rsp = base == (_RSP, 0)
        self.anchor = final[0]
        self.low = ordered[0][2] if ordered else 0
        self.span = 0
        layout = "<"
        together = _RIP_TARGET in targets and not vectors and not machine
        for _, anchor, offset in ordered:
            gap = offset - self.low - self.span
            together = together and anchor == self.anchor and 0 <= gap <= _MOST_SPAN
            layout += f"{gap}xQ" if together else ""
            self.span += gap + 8
        together = together and self.span <= _MOST_SPAN
        self.unpack = struct.Struct(layout).unpack if together else None
        ends = [offset + (16 if _XMM_TARGET <= target < _RIP_TARGET else 8) for target, _, offset in ordered]
        extent = max(ends, default=self.low) - self.low
        one_anchor = all(slot_anchor == self.anchor for _, slot_anchor, _ in ordered)
        self.extent = extent if one_anchor and extent <= _MOST_SPAN else 0

    @property
    def trivial(self) -> bool:
        """Whether the return address is on top of the stack and nothing else was saved."""
        return not self.machine and self.slots == [(_RIP_TARGET, _RSP, 0)]


class _Link:
    """The codes of one entry of a chain, and the frame register they are relative to."""

    __slots__ = ("codes", "frame_offset", "frame_register")

    def __init__(self, info: UnwindInfo) -> None:
        self.codes = info.codes
        self.frame_register = info.frame_register
        self.frame_offset = info.frame_offset


class _Undoing:
    """Folds codes into programs: the stack pointer is kept as an anchor register and an offset from it.

    A program ends early when the rest depends on a register that it restores (a frame register saved by a chained
    entry): the rest becomes the next program, relative to the registers that the first one leaves.
    """

    def __init__(self) -> None:
        self.programs: list[_Program] = []
        self.first_base: tuple[int, int] | None = None
        self._start()

    def _start(self) -> None:
        self.slots: dict[int, tuple[int, int]] = {}
        self.stack = (_RSP, 0)

    def _split(self) -> None:
        self.programs.append(_Program(self.slots, self.stack, self.first_base or (_RSP, 0), False))
        self._start()

    def link(self, link: _Link, executed: int | None) -> bool:
        """Undo a link's codes; with ``executed`` only those up to that prologue offset. False after a machine frame."""
        codes = link.codes if executed is None else tuple(code for code in link.codes if code.offset <= executed)
        framed = link.frame_register and (executed is None or any(code.operation == SET_FPREG for code in codes))
        if framed and link.frame_register in self.slots:
            self._split()
        base = (link.frame_register, -link.frame_offset) if framed else self.stack
        if self.first_base is None:
            self.first_base = base
        for code in codes:
            anchor, offset = self.stack
            if code.operation == PUSH_NONVOL:
                self._save(code.info, self.stack)
                self.stack = anchor, offset + 8
            elif code.operation in (ALLOC_LARGE, ALLOC_SMALL):
                self.stack = anchor, offset + code.value
            elif code.operation == SET_FPREG:
                if not link.frame_register:
                    raise _Undecodable("unwind information sets a frame register but names none")
                if link.frame_register in self.slots:
                    raise _Undecodable("unwind information restores the frame register before it is used")
                self.stack = link.frame_register, -link.frame_offset
            elif code.operation in (SAVE_NONVOL, SAVE_NONVOL_FAR):
                self._save(code.info, (base[0], base[1] + code.value))
            elif code.operation in (SAVE_XMM128, SAVE_XMM128_FAR):
                self.slots[_XMM_TARGET + code.info] = (base[0], base[1] + code.value)
            elif code.operation == PUSH_MACHFRAME:
                offset += 8 * code.info
                self.slots[_RIP_TARGET] = anchor, offset
                self.slots[_SAVED_RSP_TARGET] = anchor, offset + 0x18
                self.programs.append(_Program(self.slots, (anchor, offset), self.first_base, True))
                return False
        return True

    def _save(self, register: int, slot: tuple[int, int]) -> None:
        if register == _RSP:
            raise _Undecodable("unwind information restores the stack pointer from the stack")
        self.slots[register] = slot

    def returned(self) -> None:
        """The return address is popped last."""
        anchor, offset = self.stack
        self.slots[_RIP_TARGET] = self.stack
        self.programs.append(_Program(self.slots, (anchor, offset + 8), self.first_base or (_RSP, 0), False))


def _compile(links: Sequence[_Link], executed: int | None) -> tuple[_Program, ...]:
    undoing = _Undoing()
    for number, link in enumerate(links):
        if not undoing.link(link, executed if number == 0 else None):
            return tuple(undoing.programs)
    undoing.returned()
    return tuple(undoing.programs)


# functions ------------------------------------------------------------------------------------------------------------


class Function:
    """One RUNTIME_FUNCTION with its unwind information decoded, chained entries included.

    ``begin`` and ``end`` are RVAs. ``primary`` is the begin RVA of the entry at the end of the chain, the function that
    a fragment belongs to. ``info`` is the entry's own UNWIND_INFO. ``problem`` says in words why the function cannot
    be unwound, ``absent`` whether that is for bytes that are not in the dump; ``info`` may then be ``None``.
    ``machine_frame`` tells functions that interrupts and exceptions enter. ``pushes`` are the pushed registers in the
    order in which an epilogue pops them, ``own_pushes`` those of them that the entry itself pushes rather than one that
    it is chained to; ``allocated`` is the sum of the allocations in bytes.
    """

    __slots__ = (
        "_links",
        "_partial",
        "absent",
        "allocated",
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
        self.allocated = 0
        #: The register that an epilogue restores the stack pointer from, 0 when it adds to it.
        self.frame_register = 0
        #: RVAs of the epilogues that version 2 lists, and their size in bytes.
        self.epilogs: tuple[int, ...] = ()
        self.epilog_size = 0
        self.body: tuple[_Program, ...] = ()
        self._links: list[_Link] = []
        self._partial: dict[int, tuple[_Program, ...]] = {}

    def __repr__(self) -> str:
        return f"Function({self.begin:#x}, {self.end:#x})"

    @property
    def codes(self) -> tuple[UnwindCode, ...]:
        """The codes of the entry and of those that it is chained to, in the order in which they are undone."""
        return tuple(code for link in self._links for code in link.codes)

    def _fill(self, infos: Sequence[UnwindInfo], primary: int, *, in_body: bool) -> None:
        own = infos[0]
        self.info = own
        self.primary = primary
        # An entry that stands for another one (in_body) is a fragment behind that one's prologue.
        self.prolog_size = 0 if in_body else own.prolog_size
        self._links = [_Link(info) for info in infos]
        codes = [code for info in infos for code in info.codes]
        self.machine_frame = any(code.operation == PUSH_MACHFRAME for code in codes)
        self.pushes = tuple(code.info for code in codes if code.operation == PUSH_NONVOL)
        self.own_pushes = self.pushes[: sum(code.operation == PUSH_NONVOL for code in own.codes)]
        self.allocated = sum(code.value for code in codes if code.operation in (ALLOC_LARGE, ALLOC_SMALL))
        if any(code.operation == SET_FPREG for code in codes):
            self.frame_register = own.frame_register
        self.body = _compile(self._links, None)
        if own.epilogs and not in_body:
            size, info_bits = own.epilogs[0]
            starts = [self.end - size] if info_bits & 1 else []
            distances = [info << 8 | offset for offset, info in own.epilogs[1:]]
            starts += [self.end - distance for distance in distances if distance]
            self.epilog_size = size
            self.epilogs = tuple(start for start in starts if self.begin <= start < self.end)

    def _refuse(self, reason: str, *, absent: bool) -> None:
        self.problem = reason
        self.absent = absent

    def programs_at(self, rva: int) -> tuple[_Program, ...]:
        """What undoes the function at an RVA in it, epilogues apart."""
        offset = rva - self.begin
        if not 0 <= offset < self.prolog_size:
            return self.body
        executed = max((code.offset for code in self._links[0].codes if code.offset <= offset), default=-1)
        programs = self._partial.get(executed)
        if programs is None:
            try:
                programs = _compile(self._links, executed)
            except _Undecodable:
                # Without its first codes the prologue contradicts itself; the whole of it did not.
                programs = self.body
            self._partial[executed] = programs
        return programs

    def pops_left(self, rva: int) -> tuple[int, ...] | None:
        """The registers still to be popped at an RVA inside a listed epilogue; ``None`` outside of them."""
        for start in self.epilogs:
            done = rva - start
            if 0 <= done < self.epilog_size:
                for index, register in enumerate(self.pushes):
                    if done <= 0:
                        return self.pushes[index:] if done == 0 else None
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
        self.call_sites: dict[int, tuple[Function, _Program]] = {}

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
        count = limit // _ENTRY.size
        missing = limit < size - size % _ENTRY.size
        entries: list[list[int | bool]] = []
        position = 0
        for first, data in self._present(start, count * _ENTRY.size):
            # Entries that begin in an absent page cannot be read: the next one that begins here.
            skip = -first % _ENTRY.size
            if first != position:
                self._note_gap(entries)
            for begin, end, info in _ENTRY.iter_unpack(
                data[skip : skip + (len(data) - skip) // _ENTRY.size * _ENTRY.size]
            ):
                if begin or end or info:
                    entries.append([begin, end, info, False])
            position = first + skip + (len(data) - skip) // _ENTRY.size * _ENTRY.size
        if position != count * _ENTRY.size or missing:
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
            infos = [_decode(self.read_rva, info_rva, self.size_of_image)]
            seen = {info_rva}
            while infos[-1].chained is not None:
                if len(infos) > _MOST_LINKS:
                    raise _Undecodable(f"more than {_MOST_LINKS} chained unwind entries")
                primary, _, info_rva = infos[-1].chained
                if info_rva & 1:
                    primary, info_rva = self._indirect(info_rva)
                if info_rva in seen:
                    raise _Undecodable(f"the chain of unwind entries loops at RVA {info_rva:#x}")
                seen.add(info_rva)
                infos.append(_decode(self.read_rva, info_rva, self.size_of_image))
            function._fill(infos, primary, in_body=in_body)
        except _Undecodable as error:
            function._refuse(str(error), absent=error.absent)
        return function

    def _indirect(self, info_rva: int) -> tuple[int, int]:
        begin, _, info = _ENTRY.unpack(_image_bytes(self.read_rva, info_rva & ~1, _ENTRY.size, self.size_of_image))
        if info & 1:
            raise _Undecodable(f"an indirect unwind entry at RVA {info_rva & ~1:#x} leads to another one")
        return begin, info


# one step -------------------------------------------------------------------------------------------------------------


class Unwound(NamedTuple):
    """What one step of unwinding gave.

    ``registers`` are the caller's, ``None`` when ``reason`` says in words why there are none. After a return the
    registers that calls do not preserve are unknown. ``machine_frame`` is the virtual address of the saved RIP when
    the frame was entered by an interrupt or exception: ``registers`` are then the interrupted ones, of which the
    volatile ones are known only where the handler has not executed an instruction. ``leaf``: the function table has no
    entry, so that the return address was taken from the top of the stack. ``establisher`` is the frame base, to which
    saves are relative. ``absent``: the reason is bytes that are not in the dump, rather than bytes that are wrong.
    ``stack_switch``: the caller's stack pointer does not lie above the callee's, which only a frame register or a
    machine frame can do; whether it lies on a stack is for the caller to judge.
    """

    registers: Registers | None
    machine_frame: int | None = None
    leaf: bool = False
    function: Function | None = None
    establisher: int | None = None
    reason: str | None = None
    absent: bool = False
    stack_switch: bool = False


def unwind(registers: Registers, table: FunctionTable, base: int, read: Read, *, call_site: bool = False) -> Unwound:
    """Undo the function that ``registers.rip`` lies in.

    ``table`` and ``base`` are of the image that holds ``rip``; ``read`` reads the stack. ``call_site``: ``rip``
    is a return address: no epilogue is looked for, since a call is never inside one, and a call that ends its function
    (it does not return) belongs to that function although ``rip`` is already behind it. ``registers`` is not changed.
    """
    return _unwind(registers, table, base, read, call_site, 0)


def _unwind(registers: Registers, table: FunctionTable, base: int, read: Read, call_site: bool, jumps: int) -> Unwound:
    gpr = registers.gpr
    rsp = gpr[_RSP]
    if rsp is None:
        return Unwound(None, reason="the stack pointer is not known")
    if rsp & 7:
        return Unwound(None, reason=f"the stack pointer {rsp:#x} is not a multiple of 8")
    rva = registers.rip - base
    if call_site:
        known = table.call_sites.get(rva)
        if known is not None:
            return _run(known[1], registers, rsp, read, known[0], rva)
    if not 0 <= rva < table.size_of_image:
        return Unwound(None, reason=f"{registers.rip:#x} is not in the image at {base:#x}")
    try:
        function = _function_at(table, rva, call_site)
    except TableAbsent as error:
        return Unwound(None, reason=str(error), absent=True)
    if function is None:
        return _return(registers, (), rsp, 0, read, Unwound(None, leaf=True, establisher=rsp))
    if function.problem is not None:
        return Unwound(None, function=function, reason=function.problem, absent=function.absent)
    # Functions that save registers late have epilogues of early exits inside what the codes call the prologue.
    if not call_site and rva != function.begin:
        left = _leave(registers, function, table, base, read, rva, jumps)
        if left is not None:
            return left
    programs = function.body if rva - function.begin >= function.prolog_size else function.programs_at(rva)
    if len(programs) == 1:
        if call_site:
            table.call_sites[rva] = function, programs[0]
        return _run(programs[0], registers, rsp, read, function, rva)
    return _run_all(programs, registers, rsp, read, function, rva)


def _function_at(table: FunctionTable, rva: int, call_site: bool) -> Function | None:
    """The function of an RVA; for a return address behind the end of a function that function, which made the call."""
    function = table.find(rva)
    if call_site and (function is None or rva == function.begin) and rva:
        before = table.find(rva - 1)
        if before is not None and before.end == rva:
            return before
    return function


def _run_all(
    programs: Sequence[_Program], registers: Registers, rsp: int, read: Read, function: Function, rva: int
) -> Unwound:
    """Undo a chain whose later entries depend on what the earlier ones restore."""
    current = registers.copy()
    for program in programs[:-1]:
        failure = _restore(program, current, read)
        if failure is not None:
            return Unwound(None, function=function, reason=failure)
    result = _run(programs[-1], current, rsp, read, function, rva)
    return result._replace(establisher=_base_of(programs[0], registers.gpr))


def _base_of(program: _Program, gpr: list[int | None]) -> int | None:
    anchor, offset = program.base
    value = gpr[anchor]
    return None if value is None else value + offset & _MASK


def _restore(program: _Program, registers: Registers, read: Read) -> str | None:
    """Apply a program that does not end the function; a reason in words when its anchor is unknown."""
    gpr = registers.gpr
    before = gpr[:]
    anchor, offset = program.final
    value = before[anchor]
    if value is None:
        return f"the frame register {REGISTER_NAMES[anchor]} is not known"
    for target, slot_anchor, slot_offset in program.slots:
        _restore_slot(registers, target, before[slot_anchor], slot_offset, read)
    gpr[_RSP] = value + offset & _MASK
    return None


def _restore_slot(registers: Registers, target: int, anchor: int | None, offset: int, read: Read) -> None:
    """One saved register, unknown when its slot is not in the dump."""
    size = 8 if target < _XMM_TARGET else 16
    data = None if anchor is None else _stack_bytes(read, anchor + offset, size)
    value = None if data is None else int.from_bytes(data, "little")
    if target < _XMM_TARGET:
        registers.gpr[target] = value
    elif target - _XMM_TARGET >= _FIRST_XMM:
        registers.xmm = {**(registers.xmm or {}), target - _XMM_TARGET: value}


def _stack_bytes(read: Read, address: int, size: int) -> bytes | None:
    if not 0 <= address <= _MASK + 1 - size:
        return None
    data = read(address, size)
    return data if data is not None and len(data) == size else None


def _run(program: _Program, registers: Registers, rsp: int, read: Read, function: Function, rva: int) -> Unwound:
    """Undo a program that ends the function, by its return address or a machine frame."""
    gpr = registers.gpr
    anchor = gpr[program.anchor]
    if anchor is None:
        name = REGISTER_NAMES[program.anchor]
        return Unwound(None, function=function, reason=f"the frame register {name} is not known")
    if program.unpack is None:
        return _run_slowly(program, registers, anchor, rsp, read, function, rva)
    start = anchor + program.low
    final = anchor + program.final[1]
    if start < 0 or final > _MASK:
        return Unwound(None, function=function, reason=f"the frame at {rsp:#x} runs past the address space")
    data = read(start, program.span)
    if data is None or len(data) != program.span:
        return _run_slowly(program, registers, anchor, rsp, read, function, rva)
    values = program.unpack(data)
    new = [None, None, None, gpr[3], final, gpr[5], gpr[6], gpr[7]]
    new += [None, None, None, None, gpr[12], gpr[13], gpr[14], gpr[15]]
    for target, index in program.gprs:
        new[target] = values[index]
    base = rsp if program.base_is_rsp else _base_of(program, gpr)
    caller = Registers(new, values[program.rip_index], registers.xmm)
    return Unwound(caller, None, False, function, base, None, False, final <= rsp)


def _run_slowly(
    program: _Program, registers: Registers, anchor: int, rsp: int, read: Read, function: Function, rva: int
) -> Unwound:
    """As :func:`_run`, slot by slot: vector registers, machine frames, several anchors, slots that are absent."""
    result = registers.copy()
    gpr = result.gpr
    before = gpr[:]
    final = anchor + program.final[1]
    rip_anchor, rip_offset = program.rip_slot or program.final
    rip_base = before[rip_anchor]
    rip_slot = -1 if rip_base is None else rip_base + rip_offset
    if not 0 <= rip_slot <= _MASK - 7 or not 0 <= final <= _MASK:
        return Unwound(None, function=function, reason=f"the frame at {rsp:#x} runs past the address space")
    size = 0x28 if program.machine else 8
    data = _stack_bytes(read, rip_slot, size)
    if data is None:
        what = "the machine frame" if program.machine else "the return address"
        reason = f"{what} at {rip_slot:#x} is not in the dump"
        return Unwound(None, function=function, reason=reason, absent=True)
    if not _restore_together(program, result, anchor, read):
        for target, slot_anchor, offset in program.slots:
            if target < _RIP_TARGET:
                _restore_slot(result, target, before[slot_anchor], offset, read)
    establisher = _base_of(program, before)
    (result.rip,) = struct.unpack_from("<Q", data)
    if program.machine:
        (final,) = struct.unpack_from("<Q", data, 0x18)
    if not program.machine or rva != function.begin:
        _forget_volatile(gpr)
    gpr[_RSP] = final
    machine_frame = rip_slot if program.machine else None
    return Unwound(result, machine_frame, False, function, establisher, None, False, final <= rsp)


def _restore_together(program: _Program, registers: Registers, anchor: int, read: Read) -> bool:
    """Restore the saved registers by one read; ``False`` where they lie apart, or are not all in the dump."""
    size = program.extent
    if not size:
        return False
    data = _stack_bytes(read, anchor + program.low, size)
    if data is None:
        return False
    vectors = {}
    for target, _, offset in program.slots:
        start = offset - program.low
        if target < _XMM_TARGET:
            registers.gpr[target] = int.from_bytes(data[start : start + 8], "little")
        elif _XMM_TARGET + _FIRST_XMM <= target < _RIP_TARGET:
            vectors[target - _XMM_TARGET] = int.from_bytes(data[start : start + 16], "little")
    if vectors:
        registers.xmm = {**(registers.xmm or {}), **vectors}
    return True


def _forget_volatile(gpr: list[int | None]) -> None:
    gpr[0:3] = (None, None, None)
    gpr[8:12] = (None, None, None, None)


def _return(
    registers: Registers, pops: Sequence[int], stack: int, released: int, read: Read, template: Unwound
) -> Unwound:
    """Pop registers from ``stack``, then the return address and ``released`` bytes of arguments."""
    size = 8 * len(pops) + 8
    final = stack + size + released
    if final > _MASK:
        return template._replace(reason=f"the frame at {stack:#x} runs past the address space")
    result = registers.copy()
    data = _stack_bytes(read, stack, size)
    if data is not None:
        values = struct.unpack(f"<{len(pops) + 1}Q", data)
        for register, value in zip(pops, values, strict=False):
            result.gpr[register] = value
        result.rip = values[-1]
    else:
        slot = stack + size - 8
        data = _stack_bytes(read, slot, 8)
        if data is None:
            return template._replace(reason=f"the return address at {slot:#x} is not in the dump", absent=True)
        (result.rip,) = struct.unpack("<Q", data)
        for index, register in enumerate(pops):
            _restore_slot(result, register, stack, 8 * index, read)
    _forget_volatile(result.gpr)
    result.gpr[_RSP] = final
    before = registers.gpr[_RSP]
    return template._replace(registers=result, stack_switch=before is not None and final <= before)


# epilogues ------------------------------------------------------------------------------------------------------------


class _Epilogue(NamedTuple):
    """Instructions that leave a function, from some position on.

    ``stack`` is the register that the stack pointer is taken from and ``adjust`` what is added to it; then ``pops``;
    then a return that releases ``released`` bytes, or a jump to the RVA ``target`` (``None``: indirect).
    """

    stack: int
    adjust: int
    pops: tuple[int, ...]
    jump: bool
    target: int | None
    released: int


def _leave(
    registers: Registers, function: Function, table: FunctionTable, base: int, read: Read, rva: int, jumps: int
) -> Unwound | None:
    """Unwind from inside an epilogue; ``None`` where there is none, so that the position is in the body."""
    if function.machine_frame:
        # Such functions end with iretq or go on elsewhere with the frame in place.
        return None
    rsp = registers.gpr[_RSP]
    assert rsp is not None
    template = Unwound(None, function=function, establisher=rsp)
    if function.epilogs:
        pops = function.pops_left(rva)
        return None if pops is None else _return(registers, pops, rsp, 0, read, template)
    found = _match(function, table, rva)
    if found is None or not (_fits(found, function) or _rejoins(found, function)):
        return None
    origin = registers.gpr[found.stack]
    if origin is None:
        return None
    stack = origin + found.adjust
    if not 0 <= stack <= _MASK - 7:
        return None
    if found.target is None:
        return _return(registers, found.pops, stack, found.released, read, template)
    return _jump(registers, found, stack, table, base, read, template, rva, jumps)


def _fits(found: _Epilogue, function: Function) -> bool:
    """Whether the instructions undo what the function's codes did, as an epilogue must."""
    pushes = function.pushes
    if found.stack != _RSP or found.adjust:
        framed = found.stack != _RSP
        return found.pops == pushes and (framed or found.adjust == function.allocated)
    return found.pops == pushes[len(pushes) - len(found.pops) :]


def _rejoins(found: _Epilogue, function: Function) -> bool:
    """Whether the instructions undo what a fragment did itself, and jump back to the function it belongs to."""
    own = function.own_pushes
    return bool(found.target) and not found.adjust and found.pops == own[len(own) - len(found.pops) :]


def _jump(
    registers: Registers,
    found: _Epilogue,
    stack: int,
    table: FunctionTable,
    base: int,
    read: Read,
    template: Unwound,
    rva: int,
    jumps: int,
) -> Unwound | None:
    """A jump: to the entry of a function a tail call, to a place where a frame is set up the same frame going on."""
    assert found.target is not None and template.function is not None
    target = found.target
    function = template.function
    try:
        other = table.find(target) if 0 <= target < table.size_of_image else None
    except TableAbsent:
        # Nearly all jumps out of a function are tail calls.
        other = None
    if other is not None and other.problem is None:
        if other.begin == function.begin and target != function.begin:
            return None
        programs = other.programs_at(target)
        outside = len(programs) == 1 and programs[0].trivial
    else:
        outside = True
    if outside:
        whole = _fits(found, function)
        return _return(registers, found.pops, stack, 0, read, template) if whole else None
    if jumps >= _MOST_JUMPS:
        return None
    moved = registers.copy()
    for index, register in enumerate(found.pops):
        _restore_slot(moved, register, stack, 8 * index, read)
    moved.gpr[_RSP] = stack + 8 * len(found.pops)
    moved.rip = base + target
    result = _unwind(moved, table, base, read, False, jumps + 1)
    return None if result.registers is None else result._replace(function=function)


def _match(function: Function, table: FunctionTable, rva: int) -> _Epilogue | None:
    """The epilogue that the instructions at an RVA are; ``None`` when they are something else or not in the dump."""
    size = min(_LONGEST_EPILOGUE, function.end - rva)
    code = table.read_rva(rva, size)
    if code is None:
        code = table.read_rva(rva, min(size, _PAGE - rva % _PAGE))
        if code is None:
            return None
    # Most positions are told apart by their first byte: add/lea/jmp with a prefix, pop, ret, jmp.
    first = code[:1]
    if first not in _EPILOGUE_STARTS:
        return None
    position, stack, adjust = _stack_release(code, function)
    pops = []
    while True:
        wide = code[position : position + 1] == b"\x41"
        pop = code[position + wide : position + wide + 1]
        if not pop or pop[0] & 0xF8 != 0x58:
            break
        register = pop[0] - 0x58 + 8 * wide
        if register == _RSP:
            return None
        pops.append(register)
        position += 1 + wide
    return _terminator(code, position, rva, _Epilogue(stack, adjust, tuple(pops), False, None, 0))


_EPILOGUE_STARTS = frozenset(
    bytes([first]) for first in (*range(0x41, 0x50), *range(0x58, 0x60), 0xC2, 0xC3, 0xE9, 0xEB, 0xF2, 0xF3, 0xFF)
)


def _stack_release(code: bytes, function: Function) -> tuple[int, int, int]:
    """(bytes taken, register, displacement) of ``add rsp, n`` or ``lea rsp, [frame register+n]``, if it is there."""
    if code[:3] == b"\x48\x83\xc4" and len(code) > 3:
        return 4, _RSP, struct.unpack_from("<b", code, 3)[0]
    if code[:3] == b"\x48\x81\xc4" and len(code) > 6:
        return 7, _RSP, struct.unpack_from("<i", code, 3)[0]
    frame = function.frame_register
    if not frame or len(code) < 4 or code[0] != 0x48 | frame >> 3 or code[1] != 0x8D:
        return 0, _RSP, 0
    mode, register, base = code[2] >> 6, code[2] >> 3 & 7, code[2] & 7
    if register != _RSP or base != frame & 7 or mode not in (1, 2):
        return 0, _RSP, 0
    # A base of r12 is encoded with a SIB byte that has no index.
    start = 4 if base == _RSP else 3
    if base == _RSP and code[3] != 0x24:
        return 0, _RSP, 0
    size = 1 if mode == 1 else 4
    if len(code) < start + size:
        return 0, _RSP, 0
    return start + size, frame, int.from_bytes(code[start : start + size], "little", signed=True)


def _terminator(code: bytes, position: int, rva: int, found: _Epilogue) -> _Epilogue | None:
    """The return or jump that ends an epilogue; ``None`` when there is none."""
    rest = code[position : position + 16]
    if rest[:1] in (b"\xf2", b"\xf3") and rest[1:2] == b"\xc3":
        return found
    if rest[:1] == b"\xc3":
        return found
    if rest[:1] == b"\xc2" and len(rest) >= 3:
        return found._replace(released=int.from_bytes(rest[1:3], "little"))
    # mov r10, [rip+n], by which a kernel that guards indirect jumps loads the target before it jumps.
    if rest[:3] == b"\x4c\x8b\x15" and len(rest) >= 8:
        position += 7
        rest = rest[7:]
        if rest[:1] not in (b"\xe9", b"\x41", b"\x49"):
            return None
        if rest[:3] in (b"\x41\xff\xe2", b"\x49\xff\xe2"):
            return found._replace(jump=True)
    if rest[:1] == b"\xeb" and len(rest) >= 2:
        target = rva + position + 2 + struct.unpack_from("<b", rest, 1)[0]
        return found._replace(jump=True, target=target)
    if rest[:1] == b"\xe9" and len(rest) >= 5:
        target = rva + position + 5 + struct.unpack_from("<i", rest, 1)[0]
        return found._replace(jump=True, target=target)
    if rest[:2] == b"\xff\x25":
        return found._replace(jump=True)
    # Compilers mark an indirect tail call with REX.W, which the instruction does not need; switches have none.
    if len(rest) >= 3 and rest[0] & 0xF8 == 0x48 and rest[1] == 0xFF and rest[2] & 0x38 == 0x20:
        return found._replace(jump=True)
    return None
