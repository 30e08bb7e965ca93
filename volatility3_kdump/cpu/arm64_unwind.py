"""ARM64 unwinding: one frame at a time, from ``.pdata`` and ``.xdata`` or along the frame-pointer chain.

* :class:`Registers` - what is known of the registers of one frame.
* :class:`FunctionTable` - the exception directory of one image, decoded on demand.
* :func:`unwind` - the caller's registers by the image's unwind codes.
* :func:`frame_pointer_step` - the caller's registers by the frame record at ``fp``.

Encoding: "ARM64 exception handling" of the Microsoft C++ documentation. An entry of the exception directory is 8 bytes:
the function's RVA, then either a packed description or the RVA of an ``.xdata`` record. Unwind codes are listed in the
order in which they are undone, each standing for one instruction, so that a position inside a prolog or an epilog tells
how many codes to leave out. ``.xdata`` of a function of 0x2c bytes whose frame is 32 bytes::

    0x0820000b   length 0xb instructions, version 0, no handler, single epilog, whose codes start at 0, one code word
    e1 83 e4 e3  set_fp; save_fplr_x 32; end; padding
"""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from volatility3_kdump.cpu import Read
from volatility3_kdump.cpu.arm64 import strip_pointer_authentication
from volatility3_kdump.cpu.context import Context, context_size, parse_context
from volatility3_kdump.errors import KdumpError

_MASK = 0xFFFFFFFFFFFFFFFF
_FP, _LR = 29, 30
#: x0 to x17 belong to the callee; x18 is the platform register, which points at the KPCR (kernel) or the TEB (user).
_FIRST_KEPT = 18
_PAGE = 0x1000
_ENTRY = 8
#: Bytes of an exception directory that are looked at: two million functions, several times the largest image's.
_LARGEST_DIRECTORY = 16 << 20


class TableAbsent(KdumpError):
    """The bytes of the exception directory or of the unwind data that would give the answer are not in the dump."""


class Registers:
    """The registers of one frame, each ``None`` where it is not known.

    ``x`` holds x0 to x28, fp (29) and lr (30); ``sp`` is ``None`` after a step along the frame-pointer chain, which
    does not give it; ``d`` maps 8 to 15 to the low halves of v8 to v15, the part that a function preserves, without
    those that are not known.
    """

    __slots__ = ("d", "pc", "sp", "x")

    def __init__(self, x: Sequence[int | None], sp: int | None, pc: int, d: dict[int, int] | None = None) -> None:
        if len(x) != _LR + 1:
            raise ValueError(f"31 registers x0 to x30 are needed, not {len(x)}")
        self.x: list[int | None] = list(x)
        self.sp = sp
        self.pc = pc
        self.d: dict[int, int] = dict(d) if d else {}

    def __repr__(self) -> str:
        return f"Registers(pc={self.pc:#x}, sp={_hex(self.sp)}, fp={_hex(self.fp)}, lr={_hex(self.lr)})"

    @property
    def fp(self) -> int | None:
        """The frame pointer, x29."""
        return self.x[_FP]

    @property
    def lr(self) -> int | None:
        """The link register, x30."""
        return self.x[_LR]

    @property
    def stack_address(self) -> int | None:
        """An address of the frame to order and bound frames by: ``sp``, or ``fp`` where ``sp`` is not known."""
        return self.x[_FP] if self.sp is None else self.sp

    def copy(self) -> Registers:
        copied = Registers.__new__(Registers)
        copied.x = self.x[:]
        copied.sp = self.sp
        copied.pc = self.pc
        copied.d = self.d.copy()
        return copied

    @classmethod
    def from_context(cls, context: Context) -> Registers:
        """The registers of an ARM64 context. Raises ``ValueError`` for another architecture or an unknown ``pc``."""
        if context.architecture != "arm64":
            raise ValueError(f"a context of {context.architecture}, not of arm64")
        pc = context.ip
        if pc is None:
            raise ValueError("the context does not give pc")
        x = [context.get(f"x{number}") for number in range(_FP)]
        vectors = context.xmm or ()
        d = {number: value & _MASK for number, value in enumerate(vectors) if 8 <= number < 16 and value is not None}
        return cls([*x, context.fp, context.get("lr")], context.sp, pc, d)

    def to_context(self, source: str) -> Context:
        """The known registers as a context. Without vector registers: only halves of those are ever known."""
        values = {f"x{number}": value for number, value in enumerate(self.x[:_FP]) if value is not None}
        pointers = {"fp": self.fp, "lr": self.lr, "sp": self.sp, "pc": self.pc}
        values.update((name, value) for name, value in pointers.items() if value is not None)
        return Context("arm64", values, source)


class Code(NamedTuple):
    """One unwind code.

    ``name`` is the documentation's. Codes that restore registers give the ``bank`` (``x``, ``d``, ``q``, ``z`` or
    ``p``), the register numbers (29 is fp, 30 lr) and the offset of the first one from ``sp`` in bytes. ``adjust`` is
    what is then added to ``sp`` (of ``add_fp``: what is taken from fp). ``size`` is the code's length in bytes, 0 where
    it was derived from a packed entry. A code that cannot be undone is named ``reserved`` and says why in ``reason``.
    """

    name: str
    size: int = 0
    bank: str = ""
    registers: tuple[int, ...] = ()
    offset: int = 0
    adjust: int = 0
    reason: str | None = None


class Epilog(NamedTuple):
    """An epilog: its first instruction's index in the function, its length in instructions, its codes up to ``end``."""

    start: int
    length: int
    codes: tuple[Code, ...]


class _Block(NamedTuple):
    """Saved registers at offsets from one base, the ``sp`` of the frame or its ``fp``: all bytes in one read."""

    by_fp: bool
    #: Offset of the first byte from the base, and bytes in all.
    low: int
    size: int
    #: (register number, offset from the first byte): x0 to x30, and d8 to d15.
    x: tuple[tuple[int, int], ...]
    d: tuple[tuple[int, int], ...]


class _Effect(NamedTuple):
    """What a run of unwind codes does to the registers of a frame."""

    blocks: tuple[_Block, ...]
    #: The new ``sp`` in bytes from the frame's ``sp``, or from its ``fp`` where ``by_fp``.
    by_fp: bool
    final: int
    #: Numbers of d registers that are lost: saved at an offset that depends on the vector length.
    lost: tuple[int, ...]
    lr_restored: bool
    after_call: bool
    special: str | None
    reason: str | None


@dataclass(frozen=True)
class Function:
    """The unwind data of one function or fragment.

    ``begin`` is an RVA and ``length`` bytes. ``form`` is ``packed``, ``fragment`` (packed, without prolog and epilog)
    or ``full``. ``codes`` are those of the prolog, last instruction first, up to and with ``end``; ``prolog`` counts
    its instructions. ``handler`` is the RVA of the exception handler, ``None`` when there is none or its RVA is not in
    the dump. ``reason`` says why the data cannot be used, ``None`` when it can.
    """

    begin: int
    length: int
    form: str
    codes: tuple[Code, ...]
    prolog: int
    epilogs: tuple[Epilog, ...] = ()
    handler: int | None = None
    reason: str | None = None
    _starts: list[int] = field(default_factory=list, repr=False, compare=False)
    _effects: dict[tuple[int, int], _Effect] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._starts.extend(epilog.start for epilog in self.epilogs)

    @property
    def end(self) -> int:
        """RVA of the first byte after the function."""
        return self.begin + self.length

    def position(self, rva: int) -> tuple[int, int]:
        """The codes that apply at an instruction: the epilog's number, -1 for the prolog, and how many to leave out."""
        index = (rva - self.begin) >> 2
        if index < self.prolog:
            return -1, self.prolog - index
        number = bisect.bisect_right(self._starts, index) - 1
        if number >= 0 and index - self._starts[number] < self.epilogs[number].length:
            return number, index - self._starts[number]
        return -1, 0

    def effect_at(self, rva: int) -> _Effect:
        position = self.position(rva)
        effect = self._effects.get(position)
        if effect is None:
            codes = self.codes if position[0] < 0 else self.epilogs[position[0]].codes
            effect = self._effects[position] = _fold(codes[position[1] :])
        return effect


@dataclass(frozen=True)
class Unwound:
    """One step to the caller.

    ``registers`` are the caller's, ``None`` when the step failed or the chain ended; ``reason`` says why then. ``leaf``
    is set where no unwind data covers the function, so that ``lr`` was taken. ``machine_frame`` is the address of the
    trap frame, machine frame or context record that was crossed: the caller was interrupted there, and its volatile
    registers are valid as far as they are known. ``call_site`` says that the caller's ``pc`` is a return address, to be
    looked up as the call before it.
    """

    registers: Registers | None
    leaf: bool = False
    function: Function | None = None
    machine_frame: int | None = None
    reason: str | None = None
    call_site: bool = True


# the exception directory ----------------------------------------------------------------------------------------------


class FunctionTable:
    """The exception directory of one image.

    ``read_rva(rva, size)`` gives bytes of the image, ``None`` where any of them is absent; ``directory`` is data
    directory 3 as (RVA, size), ``None`` when the image has none, so that all its functions are leaves.
    """

    def __init__(
        self,
        read_rva: Callable[[int, int], bytes | None],
        directory: tuple[int, int] | None,
        size_of_image: int,
    ) -> None:
        self._read = read_rva
        self._directory = directory
        self._size_of_image = size_of_image
        self._begins: list[int] | None = None
        self._words: list[int] = []
        #: Whether an entry just before each one, or at last after all of them, is not in the dump.
        self._gaps: list[bool] = [False]
        self._functions: dict[tuple[int, int], Function | str] = {}

    def find(self, rva: int) -> Function | None:
        """The function that covers an RVA; ``None`` for a leaf function.

        Raises :class:`TableAbsent` when the dump does not hold the bytes that would tell.
        """
        begins = self._load() if self._begins is None else self._begins
        index = bisect.bisect_right(begins, rva)
        if index:
            function = self._decode(begins[index - 1], self._words[index - 1])
            if rva < function.end:
                return function
        if self._gaps[index] and 0 <= rva < self._size_of_image:
            raise TableAbsent(f"the exception directory entry for RVA {rva:#x} is not in the dump")
        return None

    def __iter__(self) -> Iterator[Function]:
        """Every function whose entry and unwind data the dump holds, by address."""
        for begin, word in zip(self._load(), self._words, strict=True):
            try:
                yield self._decode(begin, word)
            except TableAbsent:
                continue

    def _load(self) -> list[int]:
        if self._begins is not None:
            return self._begins
        rva, size = self._directory or (0, 0)
        size = max(min(size, self._size_of_image - rva, _LARGEST_DIRECTORY), 0)
        entries: list[tuple[int, int]] = []
        gaps: list[bool] = []
        following = 0
        gap = False
        for number, begin, word in self._entries(rva, size // _ENTRY):
            gap = gap or number != following
            following = number + 1
            if 0 < begin < self._size_of_image:
                entries.append((begin, word))
                gaps.append(gap)
                gap = False
        gaps.append(gap or following != size // _ENTRY)
        if any(first[0] > second[0] for first, second in itertools.pairwise(entries)):
            # In a table that is not sorted an absent entry may belong anywhere.
            entries.sort()
            gaps = [any(gaps)] * len(gaps)
        self._begins = [begin for begin, _ in entries]
        self._words = [word for _, word in entries]
        self._gaps = gaps
        return self._begins

    def _entries(self, rva: int, count: int) -> Iterator[tuple[int, int, int]]:
        whole = self._read(rva, count * _ENTRY) if count else b""
        if whole is not None and len(whole) == count * _ENTRY:
            for number, (begin, word) in enumerate(struct.iter_unpack("<II", whole)):
                yield number, begin, word
            return
        number = 0
        while number < count:
            start = rva + number * _ENTRY
            # Entries up to the next page; one that straddles it is read by itself.
            fitting = min(max((_PAGE - start % _PAGE) // _ENTRY, 1), count - number)
            data = self._read(start, fitting * _ENTRY)
            if data is not None and len(data) == fitting * _ENTRY:
                for index, (begin, word) in enumerate(struct.iter_unpack("<II", data)):
                    yield number + index, begin, word
            number += fitting

    def _decode(self, begin: int, word: int) -> Function:
        key = (begin, word)
        function = self._functions.get(key)
        if function is None:
            try:
                function = decode_packed(begin, word) if word & 3 else decode_full(begin, self._read, word)
            except TableAbsent as error:
                function = str(error)
            self._functions[key] = function
        if isinstance(function, str):
            raise TableAbsent(function)
        return function


def decode_packed(begin: int, word: int) -> Function:
    """The function that a packed entry describes: ``word`` is the second half of the entry, its bits 0 and 1 not 0."""
    flag = word & 3
    length = (word >> 2 & 0x7FF) * 4
    if flag == 3:
        return Function(begin, length, "packed", (), 0, reason="packed unwind data of the reserved kind 3")
    form = "packed" if flag == 1 else "fragment"
    chained = word >> 21 & 2
    signed = word >> 21 & 3 == 2
    lr_alone = word >> 21 & 3 == 1
    integers = word >> 16 & 15
    floats = (word >> 13 & 7) + 1 if word >> 13 & 7 else 0
    homed = word >> 20 & 1
    integer_size = 8 * integers + 8 * lr_alone
    saved = (integer_size + 8 * floats + 64 * homed + 15) & ~15
    local = 16 * (word >> 23) - saved
    if integers > 10 or local < (16 if chained else 0):
        return Function(begin, length, form, (), 0, reason=f"packed unwind data {word:#010x} contradicts itself")

    prolog: list[Code] = []  # in the order of execution
    if signed:
        prolog.append(Code("pac_sign_lr"))
    stores = _integer_stores(integers, integer_size, lr_alone)
    for number in range(0, floats, 2):
        registers = tuple(range(8 + number, 8 + min(number + 2, floats)))
        stores.append(
            Code("save_fregp" if len(registers) == 2 else "save_freg", 0, "d", registers, integer_size + 8 * number)
        )
    prolog += _allocating_first(stores, saved)
    homes = [Code("nop")] * (4 * homed)
    if homed and not stores:
        homes[0] = Code("alloc_m", adjust=saved)
    frame: list[Code] = []
    if chained and local <= 512:
        frame.append(Code("save_fplr_x", 0, "x", (_FP, _LR), 0, local))
    else:
        if local > 4080:
            frame.append(Code("alloc_m", adjust=4080))
        if local:
            frame.append(Code("alloc_m", adjust=local - 4080 if local > 4080 else local))
        if chained:
            frame.append(Code("save_fplr", 0, "x", (_FP, _LR), 0))
    set_fp = [Code("set_fp")] if chained else []
    end = Code("end")
    codes = (*reversed([*prolog, *homes, *frame, *set_fp]), end)
    if form == "fragment":
        return Function(begin, length, form, codes, 0)
    # The epilog neither reloads homed arguments nor moves fp back; an allocation by the first of them it does undo.
    epilog = (*reversed([*prolog, *(code for code in homes if code.adjust), *frame]), end)
    count = length // 4
    epilogs = (Epilog(count - len(epilog), len(epilog), epilog),) if len(epilog) <= count else ()
    return Function(begin, length, form, codes, len(codes) - 1, epilogs)


def _integer_stores(integers: int, size: int, lr_alone: bool) -> list[Code]:
    """Steps 1 and 2 of the canonical prolog: x19 and up, and lr in a function that does not chain frames."""
    stores: list[Code] = []
    for number in range(0, integers - 1, 2):
        stores.append(Code("save_regp", 0, "x", (19 + number, 20 + number), 8 * number))
    odd = integers % 2
    if odd and lr_alone:
        stores.append(Code("save_lrpair", 0, "x", (18 + integers, _LR), size - 16))
    elif odd:
        stores.append(Code("save_reg", 0, "x", (18 + integers,), size - 8))
    elif lr_alone:
        stores.append(Code("save_reg", 0, "x", (_LR,), size - 8))
    return stores


def _allocating_first(stores: list[Code], saved: int) -> list[Code]:
    """The same stores, the first of them pre-indexed so that it allocates the save area."""
    if not stores:
        return []
    first, *rest = stores
    if first.name == "save_lrpair":
        # There is no pre-indexed form of it, so that sp is moved before; assemblers avoid this packed form.
        return [Code("alloc_m", adjust=saved), *stores]
    return [first._replace(name=first.name + "_x", adjust=saved), *rest]


def decode_full(begin: int, read_rva: Callable[[int, int], bytes | None], rva: int) -> Function:
    """The function that the ``.xdata`` record at an RVA describes.

    Raises :class:`TableAbsent` where bytes of the record are not in the dump.
    """

    def words(start: int, count: int) -> tuple[int, ...]:
        data = read_rva(start, 4 * count) if count else b""
        if data is None or len(data) != 4 * count:
            raise TableAbsent(f"the unwind data at RVA {start:#x} is not in the dump")
        return struct.unpack(f"<{count}I", data)

    (header,) = words(rva, 1)
    rva += 4
    length = (header & 0x3FFFF) * 4
    version = header >> 18 & 3
    if version:
        return Function(begin, length, "full", (), 0, reason=f"unwind data of unknown version {version}")
    epilog_count, code_words = header >> 22 & 0x1F, header >> 27
    if not epilog_count and not code_words:
        (extension,) = words(rva, 1)
        rva += 4
        epilog_count, code_words = extension & 0xFFFF, extension >> 16 & 0xFF
    single = bool(header >> 21 & 1)
    scopes: tuple[int, ...] = ()
    if not single:
        if epilog_count > length // 4:
            return Function(
                begin, length, "full", (), 0, reason=f"{epilog_count} epilogs in a function of {length} bytes"
            )
        scopes = words(rva, epilog_count)
        rva += 4 * epilog_count
    data = struct.pack(f"<{code_words}I", *words(rva, code_words))
    rva += 4 * code_words
    handler = None
    if header >> 20 & 1:
        try:
            (handler,) = words(rva, 1)
        except TableAbsent:
            handler = None

    sequences: dict[int, tuple[Code, ...]] = {}
    decoded: dict[int, Code] = {}

    def codes_at(start: int) -> tuple[Code, ...]:
        if start not in sequences:
            sequences[start] = decode_codes(data, start, decoded)
        return sequences[start]

    codes = codes_at(0)
    if single:
        epilog = codes_at(epilog_count)
        size = _instructions(epilog) + 1
        count = length // 4
        epilogs = [Epilog(max(count - size, 0), size, epilog)]
    else:
        epilogs = []
        for scope in sorted(scopes, key=lambda scope: scope & 0x3FFFF):
            epilog = codes_at(scope >> 22)
            epilogs.append(Epilog(scope & 0x3FFFF, _instructions(epilog) + 1, epilog))
    return Function(begin, length, "full", codes, _instructions(codes), tuple(epilogs), handler)


def _instructions(codes: Sequence[Code]) -> int:
    """How many instructions a prolog or epilog has: codes up to ``end`` or ``end_c``."""
    return next((index for index, code in enumerate(codes) if code.name in ("end", "end_c")), len(codes))


#: Reserved first bytes that are longer than one byte.
_RESERVED_SIZES = {0xF8: 2, 0xF9: 3, 0xFA: 4, 0xFB: 5}
_PLAIN = {
    0xE1: "set_fp",
    0xE3: "nop",
    0xE4: "end",
    0xE5: "end_c",
    0xE6: "save_next",
    0xE8: "trap_frame",
    0xE9: "machine_frame",
    0xEA: "context",
    0xEB: "ec_context",
    0xEC: "clear_unwound_to_call",
    0xFC: "pac_sign_lr",
}


def decode_codes(data: bytes, start: int = 0, decoded: dict[int, Code] | None = None) -> tuple[Code, ...]:
    """The unwind codes from a byte index up to and with ``end``; ``decoded`` keeps codes by index for further calls.

    Where the codes run past the data, or one is reserved, a code named ``reserved`` with the reason stands last.
    """
    codes: list[Code] = []
    position = start
    while position < len(data):
        code = decoded.get(position) if decoded is not None else None
        if code is None:
            code = _decode_code(data, position)
            if decoded is not None:
                decoded[position] = code
        codes.append(code)
        if code.name in ("end", "reserved"):
            return tuple(codes)
        position += code.size
    codes.append(Code("reserved", reason="unwind codes run past the end of their words"))
    return tuple(codes)


def _decode_code(data: bytes, position: int) -> Code:
    first = data[position]
    if first < 0x20:
        return Code("alloc_s", 1, adjust=16 * first)
    if first < 0x40:
        return Code("save_r19r20_x", 1, "x", (19, 20), 0, 8 * (first & 0x1F))
    if first < 0x80:
        return Code("save_fplr", 1, "x", (_FP, _LR), 8 * (first & 0x3F))
    if first < 0xC0:
        return Code("save_fplr_x", 1, "x", (_FP, _LR), 0, 8 * ((first & 0x3F) + 1))
    if first in _PLAIN:
        return Code(_PLAIN[first], 1)
    size = 4 if first == 0xE0 else 3 if first == 0xE7 else 2 if first < 0xE0 or first == 0xE2 else 1
    size = _RESERVED_SIZES.get(first, size)
    if position + size > len(data):
        return Code("reserved", size, reason=f"unwind code {first:#04x} runs past the end of its words")
    if size == 2 and first < 0xE3:
        return _decode_pair(int.from_bytes(data[position : position + 2], "big"))
    if size == 4 and first == 0xE0:
        return Code("alloc_l", 4, adjust=16 * int.from_bytes(data[position + 1 : position + 4], "big"))
    if size == 3 and first == 0xE7:
        return _decode_any(data[position + 1], data[position + 2])
    return Code("reserved", size, reason=f"reserved unwind code {first:#04x}")


def _decode_pair(word: int) -> Code:
    """A code of two bytes, 0xC0 to 0xE2, as a big-endian number."""
    first = word >> 8
    if first < 0xC8:
        return Code("alloc_m", 2, adjust=16 * (word & 0x7FF))
    if first == 0xE2:
        return Code("add_fp", 2, adjust=8 * (word & 0xFF))
    if first == 0xDF:
        return Code("alloc_z", 2, adjust=word & 0xFF)
    offset = 8 * (word & 0x3F)
    if first in (0xD4, 0xD5):
        return Code("save_reg_x", 2, "x", (19 + (word >> 5 & 15),), 0, 8 * ((word & 0x1F) + 1))
    if first == 0xDE:
        return Code("save_freg_x", 2, "d", (8 + (word >> 5 & 7),), 0, 8 * ((word & 0x1F) + 1))
    if first in (0xD6, 0xD7):
        return Code("save_lrpair", 2, "x", (19 + 2 * (word >> 6 & 7), _LR), offset)
    integer, float_ = 19 + (word >> 6 & 15), 8 + (word >> 6 & 7)
    if first < 0xCC:
        return Code("save_regp", 2, "x", (integer, integer + 1), offset)
    if first < 0xD0:
        return Code("save_regp_x", 2, "x", (integer, integer + 1), 0, offset + 8)
    if first < 0xD4:
        return Code("save_reg", 2, "x", (integer,), offset)
    if first < 0xDA:
        return Code("save_fregp", 2, "d", (float_, float_ + 1), offset)
    if first < 0xDC:
        return Code("save_fregp_x", 2, "d", (float_, float_ + 1), 0, offset + 8)
    return Code("save_freg", 2, "d", (float_,), offset)


def _decode_any(second: int, third: int) -> Code:
    """``save_any_reg``, and the scalable registers that share its first byte."""
    if second & 0x80:
        return Code("reserved", 3, reason=f"reserved unwind code 0xe7{second:02x}{third:02x}")
    bank = "xdqz"[third >> 6]
    if bank == "z":
        name, bank, lowest = ("save_preg", "p", 0) if second & 0x10 else ("save_zreg", "z", 8)
        return Code(name, 3, bank, (lowest + (second & 15),), (third & 0x3F) | (second & 0x60) << 1)
    pair, pre_indexed, number = second >> 6 & 1, second >> 5 & 1, second & 0x1F
    offset = third & 0x3F
    scale = 16 if pair or pre_indexed or bank == "q" else 8
    registers = (number, number + 1) if pair else (number,)
    if pre_indexed:
        return Code("save_any_reg", 3, bank, registers, 0, (offset + 1) * scale)
    return Code("save_any_reg", 3, bank, registers, offset * scale)


# the effect of codes ------------------------------------------------------------------------------------------------

_SPECIAL = ("trap_frame", "machine_frame", "context")


class _Folding:
    """Runs codes on a symbolic ``sp``: a base register plus an offset."""

    def __init__(self) -> None:
        self.by_fp = False
        self.cursor = 0
        #: Register number to (base is fp, offset).
        self.x: dict[int, tuple[bool, int]] = {}
        self.d: dict[int, tuple[bool, int]] = {}
        self.lost: set[int] = set()
        self.pairs = 0  # announced by save_next
        self.after_call = True
        self.special: str | None = None

    def run(self, codes: Sequence[Code]) -> str | None:
        """Undo the codes; the reason why it cannot be done, ``None`` when it is done."""
        for code in codes:
            if self.pairs and code.name != "save_next" and (len(code.registers) != 2 or _LR in code.registers):
                return "save_next is not followed by the pair that it continues"
            if code.name == "end":
                return None
            reason = code.reason or self._step(code)
            if reason:
                return reason
        return "unwind codes do not end"

    def _step(self, code: Code) -> str | None:
        name = code.name
        if name in ("nop", "end_c", "pac_sign_lr"):
            return None
        if name == "clear_unwound_to_call":
            self.after_call = False
        elif self.special:
            return f"unwind code {name} after {self.special}"
        elif name == "save_next":
            self.pairs += 1
        elif code.registers:
            return self._restore(code)
        elif name in ("set_fp", "add_fp"):
            if _FP in self.x:
                return "sp is derived from an fp that is restored before"
            self.by_fp = True
            self.cursor = -code.adjust
        elif name == "alloc_z":
            if code.adjust:
                return "sp depends on the vector length, which the dump does not give"
        elif name == "ec_context":
            return "a context record of emulated x64 code is not followed"
        elif name in _SPECIAL:
            self.special = name
            self.after_call = False
        else:
            self.cursor += code.adjust
        return None

    def _restore(self, code: Code) -> str | None:
        if code.bank in ("z", "p"):
            self.lost.update(code.registers if code.bank == "z" else ())
            return None
        numbers: Sequence[int] = code.registers
        if self.pairs:
            numbers = range(numbers[0], numbers[0] + 2 + 2 * self.pairs)
            self.pairs = 0
        if numbers[-1] > (_LR if code.bank == "x" else 31):
            return f"unwind code {code.name} names a register past the last"
        target = self.x if code.bank == "x" else self.d
        step = 16 if code.bank == "q" else 8
        for index, number in enumerate(numbers):
            target[number] = self.by_fp, self.cursor + code.offset + step * index
        self.cursor += code.adjust
        return None


def _fold(codes: Sequence[Code]) -> _Effect:
    folding = _Folding()
    reason = folding.run(codes)
    kept = {number: place for number, place in folding.d.items() if 8 <= number < 16}
    blocks = []
    for by_fp in (False, True):
        x = [(number, offset) for number, (base, offset) in folding.x.items() if base == by_fp]
        d = [(number, offset) for number, (base, offset) in kept.items() if base == by_fp]
        if x or d:
            low = min(offset for _, offset in (*x, *d))
            size = max(offset for _, offset in (*x, *d)) + 8 - low
            blocks.append(
                _Block(by_fp, low, size, tuple((n, o - low) for n, o in x), tuple((n, o - low) for n, o in d))
            )
    return _Effect(
        tuple(blocks),
        folding.by_fp,
        folding.cursor,
        tuple(folding.lost - kept.keys()),
        _LR in folding.x,
        folding.after_call,
        folding.special,
        reason,
    )


# one step -------------------------------------------------------------------------------------------------------------


def unwind(
    registers: Registers,
    table: FunctionTable,
    base: int,
    read: Read,
    *,
    call_site: bool,
    mask: int | None = None,
    trap_frame: Callable[[int], Registers | None] | None = None,
) -> Unwound:
    """The caller's registers.

    ``table`` is that of the image at ``base`` which holds ``registers.pc``. ``call_site`` says that ``pc`` is a return
    address, as in every frame that a call reached: it is then looked up as the call before it, and a function without
    unwind data cannot be left, because its ``lr`` is gone. ``mask`` is ``KDDEBUGGER_DATA64.PointerAuthMask``, ``None``
    where it is not known. ``trap_frame`` reads the KTRAP_FRAME at an address; its layout is the kernel's own, so that
    without the function a trap frame ends the walk with a reason.

    Never raises on any content of memory or image.
    """
    pc = registers.pc
    rva = (pc - 4 if call_site else pc) - base
    try:
        function = table.find(rva)
    except TableAbsent as error:
        return Unwound(None, reason=str(error))
    if function is None:
        return _leave_leaf(registers, call_site, mask)
    if function.reason:
        return Unwound(None, function=function, reason=function.reason)
    effect = function.effect_at(rva)
    if effect.reason:
        return Unwound(None, function=function, reason=effect.reason)
    start = registers.x[_FP] if effect.by_fp else registers.sp
    if start is None:
        return Unwound(None, function=function, reason=f"{'fp' if effect.by_fp else 'sp'} is not known")
    caller = registers.copy()
    x = caller.x
    if not effect.special:
        x[:_FIRST_KEPT] = [None] * _FIRST_KEPT
    for number in effect.lost:
        caller.d.pop(number, None)
    for block in effect.blocks:
        _restore(caller, block, registers.x[_FP] if block.by_fp else registers.sp, read)
    sp = start + effect.final & _MASK
    caller.sp = sp
    if effect.special:
        return _cross(effect.special, caller, function, read, trap_frame)
    lr = x[_LR]
    if lr is None:
        why = (
            "was saved on the stack, at bytes that are not in the dump"
            if effect.lr_restored
            else "is in lr, which is not known"
        )
        return Unwound(None, function=function, reason=f"the return address {why}")
    caller.pc = strip_pointer_authentication(lr, mask)
    x[_LR] = None
    if sp & 15:
        return Unwound(None, function=function, reason=f"sp {sp:#x} is not a multiple of 16")
    if registers.sp is not None and sp < registers.sp:
        return Unwound(None, function=function, reason=f"sp goes down from {registers.sp:#x} to {sp:#x}")
    if sp == registers.sp and caller.pc == pc:
        return Unwound(None, function=function, reason="the function returns to itself without a frame")
    return Unwound(caller, function=function, call_site=effect.after_call)


def _restore(caller: Registers, block: _Block, base: int | None, read: Read) -> None:
    """Load the saved registers; one whose slot is not in the dump, or not known, becomes unknown."""
    data = None
    if base is not None:
        data = read(base + block.low & _MASK, block.size)
    whole = data is not None and len(data) == block.size
    for registers, target in ((block.x, caller.x), (block.d, caller.d)):
        for number, offset in registers:
            value: int | None = None
            if whole and data is not None:
                value = int.from_bytes(data[offset : offset + 8], "little")
            elif base is not None:
                value = _unsigned(read, base + block.low + offset)
            if target is caller.x:
                caller.x[number] = value
            elif value is None:
                caller.d.pop(number, None)
            else:
                caller.d[number] = value


def _leave_leaf(registers: Registers, call_site: bool, mask: int | None) -> Unwound:
    lr = registers.lr
    if call_site or lr is None:
        return Unwound(None, leaf=True, reason="no unwind data for the function, whose lr is not known")
    caller = registers.copy()
    caller.x[:_FIRST_KEPT] = [None] * _FIRST_KEPT
    caller.x[_LR] = None
    caller.pc = strip_pointer_authentication(lr, mask)
    if caller.pc == registers.pc:
        return Unwound(None, leaf=True, reason="the function returns to itself without a frame")
    return Unwound(caller, leaf=True)


def _cross(
    special: str,
    caller: Registers,
    function: Function,
    read: Read,
    trap_frame: Callable[[int], Registers | None] | None,
) -> Unwound:
    """To the code that was interrupted, whose registers lie at ``sp``."""
    address = caller.sp or 0
    words = {"trap_frame": "trap frame", "machine_frame": "machine frame", "context": "context record"}[special]

    def failed(reason: str) -> Unwound:
        return Unwound(None, function=function, machine_frame=address, reason=reason)

    found: Registers | None
    if special == "machine_frame":
        sp, pc = _unsigned(read, address), _unsigned(read, address + 8)
        if sp is None or pc is None:
            return failed(f"the machine frame at {address:#x} is not in the dump")
        found = caller
        found.sp, found.pc = sp, pc
    elif special == "context":
        data = read(address, context_size("arm64"))
        context = parse_context(data, "arm64", words, address) if data else None
        if context is None or context.ip is None:
            return failed(f"no context record of the interrupted code is at {address:#x}")
        found = Registers.from_context(context)
    elif trap_frame is None:
        return failed(f"the layout of the trap frame at {address:#x} is not known")
    else:
        found = trap_frame(address)
        if found is None:
            return failed(f"the trap frame at {address:#x} is not in the dump")
    return Unwound(found, function=function, machine_frame=address, call_site=False)


def frame_pointer_step(
    registers: Registers, read: Read, limits: tuple[int, int] | None = None, *, mask: int | None = None
) -> Unwound:
    """The caller's registers by the frame record at ``fp``: the caller's fp, then the return address, 8 bytes each.

    Windows compiles every function that calls another with such a record, so that this needs no image; the caller of a
    function interrupted before it has set up its record, or of a leaf function, is passed over. Only ``pc``, ``fp`` and
    the platform register x18 are known afterwards: the record says neither where the caller's ``sp`` is nor where its
    other registers are saved.

    ``limits`` is the stack that ``fp`` must lie in, as (lowest address, end), ``None`` where it is not known. A record
    must be a multiple of 8 and lie above the one before; one outside ``limits`` is returned as the caller's ``fp``
    without judging it, because code may have switched stacks there: the caller of this function knows the stacks of a
    thread, gives the limits of the next one and counts the switches. ``mask`` as for :func:`unwind`. At the outermost
    frame ``registers`` is ``None`` and ``reason`` says that the chain ends.
    """
    fp = registers.fp
    if fp is None:
        return Unwound(None, reason="fp is not known")
    if fp == 0:
        return Unwound(None, reason="the frame-pointer chain ends")
    if fp & 7:
        return Unwound(None, reason=f"fp {fp:#x} is not a multiple of 8")
    if limits is not None and not limits[0] <= fp <= limits[1] - 16:
        return Unwound(None, reason=f"fp {fp:#x} is outside the stack")
    record = read(fp, 16)
    if record is None or len(record) != 16:
        return Unwound(None, reason=f"the frame record at {fp:#x} is not in the dump")
    following, lr = struct.unpack("<QQ", record)
    if lr == 0:
        return Unwound(None, reason="the frame-pointer chain ends")
    if 0 < following <= fp and (limits is None or limits[0] <= following):
        return Unwound(None, reason=f"the frame-pointer chain goes down from {fp:#x} to {following:#x}")
    x: list[int | None] = [None] * (_LR + 1)
    x[18] = registers.x[18]
    x[_FP] = following
    return Unwound(Registers(x, None, strip_pointer_authentication(lr, mask)))


def _unsigned(read: Read, address: int) -> int | None:
    data = read(address & _MASK, 8)
    return int.from_bytes(data, "little") if data is not None and len(data) == 8 else None


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:#x}"
