"""The unwind data of a function, from a packed entry or an ``.xdata`` record."""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from volatility3_kdump.cpu.arm64_unwind.codes import Code, Epilog, decode_codes, instructions, run_past
from volatility3_kdump.cpu.arm64_unwind.effects import Effect, fold
from volatility3_kdump.cpu.arm64_unwind.registers import FP, LR
from volatility3_kdump.errors import KdumpError


class TableAbsent(KdumpError):
    """The bytes of the exception directory or of the unwind data that would give the answer are not in the dump."""


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
    _effects: dict[tuple[int, int], Effect] = field(default_factory=dict, repr=False, compare=False)

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

    def effect_at(self, rva: int) -> Effect:
        position = self.position(rva)
        effect = self._effects.get(position)
        if effect is None:
            codes = self.codes if position[0] < 0 else self.epilogs[position[0]].codes
            effect = self._effects[position] = fold(codes[position[1] :])
        return effect


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
        frame.append(Code("save_fplr_x", 0, "x", (FP, LR), 0, local))
    else:
        if local > 4080:
            frame.append(Code("alloc_m", adjust=4080))
        if local:
            frame.append(Code("alloc_m", adjust=local - 4080 if local > 4080 else local))
        if chained:
            frame.append(Code("save_fplr", 0, "x", (FP, LR), 0))
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
        stores.append(Code("save_lrpair", 0, "x", (18 + integers, LR), size - 16))
    elif odd:
        stores.append(Code("save_reg", 0, "x", (18 + integers,), size - 8))
    elif lr_alone:
        stores.append(Code("save_reg", 0, "x", (LR,), size - 8))
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
        size = instructions(epilog) + 1
        count = length // 4
        epilogs = [Epilog(max(count - size, 0), size, epilog)]
    else:
        epilogs = []
        for scope in sorted(scopes, key=lambda scope: scope & 0x3FFFF):
            epilog = codes_at(scope >> 22)
            # Fragments that the linker moved away keep scopes of the epilogs of their parent: there they are body.
            if not run_past(epilog):
                epilogs.append(Epilog(scope & 0x3FFFF, instructions(epilog) + 1, epilog))
    return Function(begin, length, "full", codes, instructions(codes), tuple(epilogs), handler)
