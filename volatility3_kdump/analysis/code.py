"""Code around an address: forwards, and backwards from a point that must be met."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from volatility3_kdump.cpu import amd64_unwind, arm64_unwind
from volatility3_kdump.cpu.disasm import decode_many
from volatility3_kdump.cpu.instruction import Instruction
from volatility3_kdump.windows.stacks.walker import function_table
from volatility3_kdump.windows.user.seen import architecture_at

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_LONGEST = 15
_MOST_BACK = 4096
_BATCH = 64


def instructions_from(target: Target, address: int, count: int) -> list[Instruction]:
    """Up to ``count`` instructions from an address; fewer where the code is not to be had or does not decode.

    What the dump does not hold of a module comes from its image file, as in the debugger.
    """
    architecture = architecture_at(target, address)
    return decode_many(lambda at, size: _code(target, at, size), address, count, architecture, name_of=target.name_of)


def _code(target: Target, address: int, size: int) -> bytes | None:
    data = target.memory.read(address, size)
    module = target.names.module_of(address) if data is None else None
    return data if module is None else target.images.image_of(module).read(address - module.base, size)


def file_of_code(target: Target, address: int) -> str | None:
    """The image file that code comes from which the dump does not hold; ``None`` for code that it does hold."""
    module = target.names.module_of(address)
    if module is None or target.memory.read(address, 1) is not None:
        return None
    file = target.images.image_of(module).image_file()
    return None if file is None else str(file.path)


def instructions_before(target: Target, address: int, count: int) -> list[Instruction]:
    """Up to ``count`` instructions that end at an address; fewer where the code is not in the dump or does not decode.

    Instructions of x86 and x64 cannot be decoded backwards. Decoding starts where the function begins by the image's
    unwind data, or at the nearest symbol, if that is within 4 KB; else at the farthest start, of those that are near
    enough for ``count`` instructions, from which it meets the address exactly.
    """
    instructions: list[Instruction] = []
    while len(instructions) < count:
        before = _run_before(target, address, count - len(instructions))
        if not before:
            break
        instructions = before + instructions
        address = before[0].address
    return instructions


def names_of(target: Target, addresses: Iterable[int]) -> dict[int, str | None]:
    """The symbols of addresses, ``None`` for one outside every module."""
    return {address: target.name_of(address) for address in addresses}


def place_name(target: Target, address: int) -> str:
    """The symbol of an address, or its digits."""
    return target.name_of(address) or f"{address:x}"


def why_no_code(target: Target, address: int) -> str:
    """Why no instruction could be decoded at an address."""
    return target.memory.why_absent(address) or "no instruction"


def instructions_between(target: Target, start: int, end: int, most: int) -> list[Instruction]:
    """The instructions from ``start`` on that begin before ``end``, at most ``most``; fewer where one is missing."""
    instructions: list[Instruction] = []
    while start < end and len(instructions) < most:
        batch = instructions_from(target, start, min(_BATCH, most - len(instructions)))
        if not batch:
            break
        instructions += [instruction for instruction in batch if instruction.address < end]
        start = batch[-1].address + batch[-1].size
    return instructions


def function_around(target: Target, address: int) -> tuple[int, int] | None:
    """(start, first address behind) of the function that holds an address, by the image's unwind data.

    ``None`` where it has none, as for leaf functions, or where the dump does not hold it.
    """
    function = _function(target, address) if architecture_at(target, address) in ("x64", "arm64") else None
    return None if function is None else (function[0] + function[1].begin, function[0] + function[1].end)


def _function(target: Target, address: int) -> tuple[int, Any] | None:
    """(base of the module, entry of its function table) for an address."""
    placed = function_table(target, address)
    if placed is None:
        return None
    module, table = placed
    try:
        function = table.find(address - module.base)
    except (amd64_unwind.TableAbsent, arm64_unwind.TableAbsent):
        return None
    return None if function is None else (module.base, function)


def _run_before(target: Target, address: int, count: int) -> list[Instruction]:
    """Some of the instructions that end at an address, the last ones, at most ``count``."""
    if architecture_at(target, address) == "arm64":
        return instructions_from(target, address - 4, 1)
    run = _Backwards(target, address)
    for start in (_function_start(target, address - 1), _symbol_start(target, address - 1)):
        instructions = run.from_start(start) if start is not None and address - start <= _MOST_BACK else []
        if instructions:
            return instructions[-count:]
    return run.from_farthest(max(address - min(_LONGEST * count, _MOST_BACK), 0), count)


def _function_start(target: Target, address: int) -> int | None:
    """Where the function that holds an address begins, by the unwind data of an x64 image."""
    function = _function(target, address) if architecture_at(target, address) == "x64" else None
    return None if function is None else int(function[0] + function[1].begin)


def _symbol_start(target: Target, address: int) -> int | None:
    name = target.names.lookup(address)
    return None if name is None or name.symbol is None else address - name.offset


class _Backwards:
    """Runs of instructions that end at an address; each place in front of it is decoded once."""

    def __init__(self, target: Target, end: int) -> None:
        self._target = target
        self._end = end
        self._decoded: dict[int, Instruction | None] = {}

    def _at(self, address: int) -> Instruction | None:
        if address not in self._decoded:
            step = instructions_from(self._target, address, 1)
            self._decoded[address] = step[0] if step else None
        return self._decoded[address]

    def from_start(self, start: int) -> list[Instruction]:
        """The instructions from ``start`` to the end, empty unless one ends exactly there."""
        instructions: list[Instruction] = []
        position = start
        while position < self._end:
            step = self._at(position)
            if step is None:
                return []
            instructions.append(step)
            position += step.size
        return instructions if position == self._end else []

    def from_farthest(self, lowest: int, count: int) -> list[Instruction]:
        """The last ``count`` instructions of the run from the lowest start that has so many, else the longest run."""
        lengths = {self._end: 0}
        for start in range(self._end - 1, lowest - 1, -1):
            step = self._at(start)
            following = lengths.get(start + step.size) if step is not None else None
            if following is not None:
                lengths[start] = following + 1
        enough = [start for start, length in lengths.items() if length >= count]
        # The farther the start, the more instructions have brought decoding into step with the code.
        best = min(enough) if enough else max(lengths, key=lambda start: lengths[start])
        return self.from_start(best)[-count:]
