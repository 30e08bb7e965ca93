"""Execute functions of an x64 image and keep, beside the real stack, a second one of what each call must restore.

:class:`ShadowStack` maps an image into an emulator, starts a function with random registers and calls ``observe``
before every instruction with the state of the processor and the frames below it. A frame is what the innermost calls
left to return to: return address, stack pointer after the return and the registers that the callee must preserve. They
are noted when the call is executed, so nothing that an unwinder does enters into them.

What the image cannot do alone is made up: memory is mapped where it is first touched, and filled with random values and
pointers; a call that leaves the image returns at once with random volatile registers. Most conditional branches go
where fewer runs have been, so that code which random data never reach is run too. A run ends where that goes wrong: an
exception, a return address or a saved register that a stray write hit. A call that is not meant to return comes back
too, and may run on past the end of its function: :attr:`State.strayed` tells those instructions.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = 0x1000
_MASK = (1 << 64) - 1
STACK, STACK_SIZE = 0x7FF000000000, 0x18000
HEAP, HEAP_SIZE = 0x20000000000, 0x8000
IMPORTS = 0x30000000000
SENTINEL = 0x31000000000

NONVOLATILE = (3, 5, 6, 7, 12, 13, 14, 15)
#: Flags with which the even conditions hold: overflow, below, zero, below or equal, sign, parity, less, less or equal.
_CONDITION_MET = (0x800, 0x1, 0x40, 0x1, 0x80, 0x4, 0x80, 0x40)
_VOLATILE = (0, 1, 2, 8, 9, 10, 11)


@dataclass
class Image:
    """A PE32+ image as mapped at its preferred base, and the parts of its headers that the tests need.

    ``sections`` are (RVA, bytes, executable, writable), ``imports`` the RVAs of the address table's slots, ``exports``
    the RVAs of the exported symbols.
    """

    name: str
    base: int
    data: bytes
    directory: tuple[int, int]
    sections: tuple[tuple[int, int, bool, bool], ...]
    imports: tuple[int, ...]
    exports: tuple[int, ...]

    @classmethod
    def load(cls, path: Path) -> Image:
        import pefile

        pe = pefile.PE(str(path))
        data = bytes(pe.get_memory_mapped_image())
        size = pe.OPTIONAL_HEADER.SizeOfImage
        data = data[:size].ljust(size, b"\0")
        slots = tuple(
            entry.address - pe.OPTIONAL_HEADER.ImageBase
            for library in getattr(pe, "DIRECTORY_ENTRY_IMPORT", [])
            for entry in library.imports
        )
        exports = getattr(pe, "DIRECTORY_ENTRY_EXPORT", None)
        directory = pe.OPTIONAL_HEADER.DATA_DIRECTORY[3]
        return cls(
            path.name,
            pe.OPTIONAL_HEADER.ImageBase,
            data,
            (directory.VirtualAddress, directory.Size),
            tuple(
                (
                    section.VirtualAddress,
                    (section.Misc_VirtualSize + PAGE - 1) // PAGE * PAGE,
                    bool(section.Characteristics & 0x20000000),
                    bool(section.Characteristics & 0x80000000),
                )
                for section in pe.sections
            ),
            slots,
            tuple(symbol.address for symbol in exports.symbols) if exports else (),
        )

    def read_rva(self, rva: int, size: int) -> bytes | None:
        data = self.data[rva : rva + size] if rva >= 0 else b""
        return data if len(data) == size else None

    def runtime_functions(self) -> list[tuple[int, int, int]]:
        """(begin, end, unwind information) of every entry that is not zero, read without the package."""
        start, size = self.directory
        entries = struct.iter_unpack("<III", self.data[start : start + size // 12 * 12])
        return [entry for entry in entries if entry[1]]

    def edges(self) -> set[int]:
        """RVAs at which a function ends and nothing that belongs to it follows."""
        entries = {begin: info for begin, _, info in self.runtime_functions()}
        primaries = {}
        for begin, info in entries.items():
            primary = begin
            while self.is_chained(info):
                after = info + 4 + 2 * (self.data[info + 2] + 1 & ~1)
                primary, _, info = struct.unpack_from("<III", self.data, after)
            primaries[begin] = primary
        return {end for begin, end, _ in self.runtime_functions() if primaries.get(end) != primaries[begin]}

    def is_chained(self, unwind_rva: int) -> bool:
        return bool(self.data[unwind_rva] >> 3 & 4)


@dataclass
class Frame:
    """What one call must restore. ``preserved`` are the registers of ``NONVOLATILE``, ``vectors`` xmm6 to xmm15.

    ``saves`` are the addresses at which the callee has saved preserved registers so far.
    """

    rip: int
    rsp: int
    preserved: tuple[int, ...]
    vectors: tuple[int, ...]
    saves: set[int] = field(default_factory=set)


@dataclass
class State:
    """The processor before an instruction: sixteen registers, ``rip``, xmm6 to xmm15 (empty unless asked for).

    ``strayed`` is the RVA at which the run first went on, without a jump, past the end of a function; ``None`` before.
    """

    registers: tuple[int, ...]
    rip: int
    vectors: tuple[int, ...]
    strayed: int | None


@dataclass
class Run:
    """How a run ended, in words, and how many instructions it had."""

    ended: str = ""
    instructions: int = 0


class ShadowStack:
    """One image in an emulator; :meth:`run` starts a function. ``visited`` collects the RVAs that were executed."""

    def __init__(self, image: Image, *, vectors: bool = False, visits: int = 8) -> None:
        """With ``vectors`` xmm6 to xmm15 are kept too, which is slow.

        An instruction is observed at the first ``visits`` times that it is executed.
        """
        import unicorn
        from unicorn import x86_const as x86

        self.image = image
        self.visits = visits
        loaded = bytearray(image.data)
        for number, slot in enumerate(image.imports):
            struct.pack_into("<Q", loaded, slot, IMPORTS + 16 * number)
        self._loaded = bytes(loaded)
        self.visited: dict[int, int] = {}
        names = "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()
        self._gpr = [getattr(x86, f"UC_X86_REG_{name}") for name in names]
        self._vector = [getattr(x86, f"UC_X86_REG_XMM{number}") for number in range(6, 16)] if vectors else []
        self._all = self._gpr + self._vector
        self._rip, self._flags = x86.UC_X86_REG_RIP, x86.UC_X86_REG_EFLAGS
        self._error = unicorn.UcError
        self._fetches = unicorn.UC_ERR_FETCH_UNMAPPED, unicorn.UC_ERR_FETCH_PROT
        self._edges = image.edges()
        self._touches = unicorn.UC_ERR_READ_UNMAPPED, unicorn.UC_ERR_WRITE_UNMAPPED
        self._missing = (0, 0)
        self._start()

    def _start(self) -> None:
        """A new emulator: pages mapped for one run are not taken away again, so now and then they are too many."""
        import unicorn

        image = self.image
        readable, writable, executable = unicorn.UC_PROT_READ, unicorn.UC_PROT_WRITE, unicorn.UC_PROT_EXEC
        self.uc = uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._mapped: set[int] = set()
        self._end = image.base + (len(image.data) + PAGE - 1) // PAGE * PAGE
        uc.mem_map(image.base, self._end - image.base, readable)
        uc.mem_write(image.base, self._loaded)
        for address, size, runs, written in image.sections:
            uc.mem_protect(image.base + address, size, readable | writable * written | executable * runs)
            if runs:
                begin = image.base + address
                uc.hook_add(unicorn.UC_HOOK_CODE, self._instruction, begin=begin, end=begin + size - 1)
        uc.mem_map(STACK, STACK_SIZE, readable | writable)
        uc.mem_map(HEAP, HEAP_SIZE, readable | writable)
        uc.hook_add(unicorn.UC_HOOK_MEM_READ_UNMAPPED | unicorn.UC_HOOK_MEM_WRITE_UNMAPPED, self._touch)
        uc.hook_add(unicorn.UC_HOOK_MEM_WRITE, self._written, begin=STACK, end=STACK + STACK_SIZE - 1)

    # memory ---------------------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes | None:
        try:
            return bytes(self.uc.mem_read(address, size))
        except self._error:
            return None

    def _fill(self, size: int) -> bytes:
        """Random contents: zeros, small numbers, pointers to the heap and noise, so that code finds what to follow."""
        chance = self.random
        values = []
        for _ in range(size // 8):
            kind = chance.random()
            if kind < 0.3:
                values.append(0)
            elif kind < 0.5:
                values.append(chance.randrange(64))
            elif kind < 0.9:
                values.append(HEAP + 8 * chance.randrange(HEAP_SIZE // 16))
            else:
                values.append(chance.getrandbits(64))
        return struct.pack(f"<{len(values)}Q", *values)

    def _touch(self, uc: Any, access: int, address: int, size: int, value: int, data: Any) -> bool:
        # Nothing may be mapped while an instruction is under way: it is stopped, and executed again.
        self._missing = address, size
        return False

    def _map(self) -> bool:
        """Map the pages that the instruction which was stopped needs; whether that can be done."""
        import unicorn

        address, size = self._missing
        first, last = address & ~(PAGE - 1), (address + size - 1 & _MASK) & ~(PAGE - 1)
        for page in sorted({first, last} - self._mapped):
            if self._pages_left == 0 or self.image.base <= page < self._end:
                return False
            try:
                self.uc.mem_map(page, PAGE, unicorn.UC_PROT_READ | unicorn.UC_PROT_WRITE)
            except self._error:
                return False
            self.uc.mem_write(page, self._page)
            self._mapped.add(page)
            self._pages_left -= 1
        return True

    def _written(self, uc: Any, access: int, address: int, size: int, value: int, data: Any) -> None:
        # A return address on the stack, written over by code that was given nonsense to work on.
        frame = self.frames[-1]
        slot = frame.rsp - 8
        if address < slot + 8 and slot < address + size:
            self._stop("return address overwritten")
        elif self._saving is not None and value & _MASK == self._saving:
            frame.saves.add(address)
        elif any(address < save + 8 and save < address + size for known in self.frames for save in known.saves):
            self._stop("saved register overwritten")

    # running --------------------------------------------------------------------------------------------------------

    def run(
        self,
        rva: int,
        seed: int,
        observe: Callable[[State, Sequence[Frame]], None],
        most: int = 2000,
        turned: float = 0.6,
    ) -> Run:
        """Run the function at an RVA with registers made from ``seed``, at most ``most`` instructions."""
        self.random = random.Random(f"{self.image.name} {rva} {seed}")
        self.observe, self.most, self.turned = observe, most, turned
        self.result = Run()
        self._pending: tuple[str, int] | None = None
        self._saving: int | None = None
        self._follows = 0
        self.strayed: int | None = None
        if len(self._mapped) > 48:
            self._start()
        uc = self.uc
        self._pages_left = 24
        self._page = self._fill(PAGE)
        for address, size, _, written in self.image.sections:
            if written:
                uc.mem_write(self.image.base + address, self._loaded[address : address + size])
        uc.mem_write(HEAP, self._page * (HEAP_SIZE // PAGE))
        uc.mem_write(STACK, self._page * (STACK_SIZE // PAGE))
        registers = [self._value() for _ in range(16)]
        registers[4] = STACK + STACK_SIZE - 0x4000 - 8
        uc.mem_write(registers[4], struct.pack("<Q", SENTINEL))
        vectors = [self.random.getrandbits(128) for _ in self._vector]
        for identifier, value in zip(self._all, registers + vectors, strict=True):
            uc.reg_write(identifier, value)
        uc.reg_write(self._flags, 0x202)
        self.frames = [Frame(SENTINEL, registers[4] + 8, tuple(registers[n] for n in NONVOLATILE), tuple(vectors))]
        self._expected = None
        address = self.image.base + rva
        while not self.result.ended:
            try:
                uc.emu_start(address, SENTINEL, count=0)
            except self._error as error:
                if error.errno in self._touches and self._map():
                    self._pending = None
                    self.result.instructions -= 1
                    address = uc.reg_read(self._rip)
                    continue
                if error.errno not in self._fetches:
                    self._stop(str(error))
            if self.result.ended:
                break
            address = uc.reg_read(self._rip)
            if address == SENTINEL:
                self._settle(SENTINEL)
                self._stop("returned")
            else:
                address = self._foreign(address)
        return self.result

    def _value(self) -> int:
        kind = self.random.random()
        if kind < 0.15:
            return 0
        if kind < 0.4:
            return self.random.randrange(256)
        if kind < 0.85:
            return HEAP + 8 * self.random.randrange(HEAP_SIZE // 16)
        return self.random.getrandbits(64)

    def _stop(self, why: str) -> None:
        if not self.result.ended:
            self.result.ended = why
            self.uc.emu_stop()

    def _foreign(self, address: int) -> int:
        """A call or jump out of the image: return to the caller as the callee would, volatile registers changed."""
        self._settle(address)
        rsp = self.uc.reg_read(self._gpr[4])
        slot = self.read(rsp, 8)
        if slot is None or not self.frames or self.frames[-1].rsp != rsp + 8:
            self._stop("left the image with a stack that has no return address")
            return 0
        for number in _VOLATILE:
            self.uc.reg_write(self._gpr[number], self._value())
        (back,) = struct.unpack("<Q", slot)
        self.uc.reg_write(self._gpr[4], rsp + 8)
        self.frames.pop()
        if back == SENTINEL or not self.frames:
            self._stop("returned")
        return int(back)

    def _settle(self, address: int) -> None:
        """Enter what the last instruction did into the shadow stack, now that it is known where it led."""
        if self._pending is None:
            return
        kind, following = self._pending
        self._pending = None
        if kind == "return":
            # The instruction behind the call follows it, as far as straying past the end of the function goes.
            self._follows = address
        if kind == "call":
            values = self.uc.reg_read_batch(self._all)
            self.frames.append(
                Frame(following, values[4] + 8, tuple(values[n] for n in NONVOLATILE), tuple(values[16:]))
            )
        elif kind == "return":
            frame = self.frames.pop()
            if frame.rip != address or not self.frames:
                self._stop("returned")

    def _instruction(self, uc: Any, address: int, size: int, data: Any) -> None:
        result = self.result
        if result.ended:
            return
        self._settle(address)
        if result.ended:
            return
        result.instructions += 1
        if result.instructions > self.most:
            self._stop("enough")
            return
        rva = address - self.image.base
        if self._follows == address and self.strayed is None and rva in self._edges:
            self.strayed = rva
        self._follows = address + size
        visits = self.visited[rva] = self.visited.get(rva, 0) + 1
        if visits <= self.visits:
            values = uc.reg_read_batch(self._all)
            self.observe(State(tuple(values[:16]), address, tuple(values[16:]), self.strayed), self.frames)
        code = self.image.data[rva : rva + size]
        self._classify(code, address + size)

    def _classify(self, code: bytes, following: int) -> None:
        """Note calls and returns, turn conditional branches round, keep repeated string instructions short."""
        index = 0
        repeated = False
        self._saving = None
        while code[index] in (0xF2, 0xF3, 0x66, 0x65, 0x64) or 0x40 <= code[index] < 0x50:
            repeated = repeated or code[index] in (0xF2, 0xF3)
            index += 1
        first = code[index]
        if first in (0xC2, 0xC3):
            self._pending = ("return", following)
        elif first == 0xE8 or (first == 0xFF and code[index + 1] >> 3 & 7 == 2):
            self._pending = ("call", following)
        elif 0x70 <= first < 0x80:
            self._branch(first & 15, following, following + int.from_bytes(code[index + 1 :], "little", signed=True))
        elif first == 0x0F and 0x80 <= code[index + 1] < 0x90:
            distance = int.from_bytes(code[index + 2 :], "little", signed=True)
            self._branch(code[index + 1] & 15, following, following + distance)
        elif first == 0x89 or 0x50 <= first < 0x58:
            number = (first if first != 0x89 else code[index + 1] >> 3) & 7
            rex = code[index - 1] if index and 0x40 <= code[index - 1] < 0x50 else 0
            number += 8 if rex & (1 if first != 0x89 else 4) else 0
            if number in NONVOLATILE and (first != 0x89 or rex & 8):
                kept = self.frames[-1].preserved[NONVOLATILE.index(number)]
                self._saving = kept if self.uc.reg_read(self._gpr[number]) == kept else None
        elif repeated and first in (0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAE, 0xAF):
            self.uc.reg_write(self._gpr[1], min(self.uc.reg_read(self._gpr[1]), 8))

    def _branch(self, condition: int, following: int, target: int) -> None:
        """Most times, send a conditional branch where fewer runs have been."""
        if self.random.random() >= self.turned:
            return
        taken, passed = (self.visited.get(address - self.image.base, 0) for address in (target, following))
        if taken != passed:
            met = (taken < passed) != bool(condition & 1)
            self.uc.reg_write(self._flags, 0x202 | (_CONDITION_MET[condition >> 1] if met else 0))
