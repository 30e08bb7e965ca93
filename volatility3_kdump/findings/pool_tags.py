"""Whose pool tag is this? What a user's ``pooltag.txt`` says, and which drivers have the tag in their code.

A driver passes its tag as a constant, so that its code holds the four characters as the operand of an instruction. That
makes it a candidate and no more: other drivers free what it allocated, and tags are not unique.

The file has the format of the debugger's ``pooltag.txt``: ``Tag - binary - description``, with ``?`` for one character
and ``*`` for the rest. Its path is given by the user, or by the environment variable ``KDUMP_POOLTAG``.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import FileFailure, read_bytes
from volatility3_kdump.images.modules import Module
from volatility3_kdump.progress import Progress

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

TAG_FILE_VARIABLE = "KDUMP_POOLTAG"

#: Bytes of the largest file that is read: the debugger's has a quarter of a megabyte.
_LARGEST_FILE = 16 << 20
_LONGEST_TAG = 4
#: Bytes of code of one driver that are searched, which no driver reaches.
_MOST_CODE = 64 << 20

#: What stands in front of a 32-bit constant of x86 and x64 code (Intel SDM volume 2): mov to a register, push,
#: cmp eax; mov to the stack by rsp and rbp; cmp of another register.
_ONE_BYTE = (*range(0xB8, 0xC0), 0x68, 0x3D)
_STACK_MOVES = (b"\xc7\x44\x24", b"\xc7\x45")
_COMPARE = 0x81


@dataclass(frozen=True)
class TagName:
    """A line of a tag file. ``binary`` is ``None`` where the file does not know it."""

    pattern: str
    binary: str | None
    description: str


class TagFile:
    """A tag file that has been read. ``names`` are its lines by tag; wildcards are tried where no line has the tag."""

    def __init__(self, path: str, lines: Iterator[str]) -> None:
        self.path = path
        self._exact: dict[str, TagName] = {}
        self._wild: list[TagName] = []
        for line in lines:
            name = parse_line(line)
            if name is None:
                continue
            if "?" in name.pattern or "*" in name.pattern:
                self._wild.append(name)
            else:
                self._exact.setdefault(name.pattern, name)
        # the most letters win, then the first line
        self._wild.sort(key=lambda name: -len(name.pattern.replace("?", "").replace("*", "")))

    def __len__(self) -> int:
        return len(self._exact) + len(self._wild)

    def find(self, tag: str) -> TagName | None:
        """The line for a tag, which distinguishes case."""
        padded = tag.ljust(_LONGEST_TAG)
        if padded in self._exact:
            return self._exact[padded]
        return next((name for name in self._wild if fnmatch.fnmatchcase(padded, _shell_pattern(name.pattern))), None)


def _shell_pattern(pattern: str) -> str:
    return pattern.replace("[", "[[]")


def parse_line(line: str) -> TagName | None:
    """The entry that a line of a tag file is; ``None`` for comments, empty lines and anything else."""
    if line.lstrip().lower().startswith(("//", "rem ")):
        return None
    parts = re.split(r"\s+-\s+", line.rstrip("\r\n").rstrip() + " ", maxsplit=2)
    tag = parts[0].strip()
    if len(parts) < 2 or not 0 < len(tag) <= _LONGEST_TAG:
        return None
    binary, description = (parts[1], parts[2]) if len(parts) == 3 else ("", parts[1])
    names_a_binary = binary.strip() and not binary.strip().lower().startswith(("<unknown", "unknown"))
    padded = tag if "*" in tag else tag.ljust(_LONGEST_TAG)
    return TagName(padded, binary.strip() if names_a_binary else None, description.strip())


def load_tag_file(path: str | None) -> TagFile | None:
    """The tag file at a path, or at that of the environment variable; ``None`` where neither names one.

    Raises :class:`KdumpError` when it cannot be read or has no line of the format.
    """
    chosen = path or os.environ.get(TAG_FILE_VARIABLE)
    if not chosen:
        return None
    try:
        data = read_bytes(chosen, _LARGEST_FILE)
    except FileFailure as failure:
        raise KdumpError(f"{chosen}: the pool tag file {failure}") from failure
    tag_file = TagFile(chosen, iter(data.decode("utf-8", "replace").splitlines()))
    if not len(tag_file):
        raise KdumpError(f"{chosen}: no line has the format of pooltag.txt: Tag - binary - description")
    return tag_file


# tags in code ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A driver whose code has a tag as a constant: how often, and the address of the first one."""

    module: Module
    count: int
    address: int


@dataclass(frozen=True)
class TagSearch:
    """The candidates of each tag, most constants first; ``problem`` says what could not be searched."""

    candidates: dict[int, tuple[Candidate, ...]]
    searched: int
    problem: str | None

    def of(self, tag: int) -> tuple[Candidate, ...]:
        return self.candidates.get(tag, ())


def search_code(target: Target, tags: Collection[int], progress: Progress | None = None) -> TagSearch:
    """Find tags as constants in the executable sections of the modules, as far as the dump holds them.

    ``tags`` are their values as 32-bit numbers.
    """
    if target.header.architecture not in ("x64", "x86"):
        return TagSearch({}, 0, f"tags are not looked for in the code of {target.header.architecture}")
    wanted = sorted({tag for tag in tags if tag})
    candidates: dict[int, list[Candidate]] = {}
    without, searched = 0, 0
    modules = target.modules
    for index, module in enumerate(modules):
        if progress is not None:
            progress(100 * index / len(modules), "Searching drivers for pool tags")
        counts: dict[int, tuple[int, int]] = {}
        size = 0
        for address, code in _code(target, module):
            size += len(code)
            for offset, tag in constants_in(code, wanted):
                before = counts.get(tag, (0, address + offset))
                counts[tag] = before[0] + 1, before[1]
        searched += size
        without += not size
        for tag, (count, first) in counts.items():
            candidates.setdefault(tag, []).append(Candidate(module, count, first))
    ordered = {tag: tuple(sorted(items, key=lambda candidate: -candidate.count)) for tag, items in candidates.items()}
    problem = f"the code of {without} of {len(modules)} modules is not in the dump" if without else None
    return TagSearch(ordered, searched, problem)


def _code(target: Target, module: Module) -> Iterator[tuple[int, bytes]]:
    """The present stretches of a module's executable sections: address and bytes."""
    image = target.images.image_of(module)
    headers = image.headers()
    left = _MOST_CODE
    for section in headers.sections if headers is not None else ():
        if not section.executable:
            continue
        size = min(section.size, max(module.size - section.address, 0), left)
        left -= size
        start, parts = 0, bytearray()
        for rva, data in image.pieces(section.address, size):
            if parts and rva != start + len(parts):
                yield module.base + start, bytes(parts)
                parts = bytearray()
            if not parts:
                start = rva
            parts += data
        if parts:
            yield module.base + start, bytes(parts)


def constants_in(code: bytes, tags: Collection[int]) -> Iterator[tuple[int, int]]:
    """(offset, tag) of every tag that is the operand of an instruction, by the bytes in front of it."""
    import numpy as np

    if len(code) < _LONGEST_TAG or not tags:
        return
    wanted = np.array(sorted(tags), dtype=np.uint32)
    low = np.zeros(1 << 16, dtype=bool)
    low[wanted & 0xFFFF] = True
    for shift in range(_LONGEST_TAG):
        count = (len(code) - shift) // _LONGEST_TAG
        values = np.frombuffer(code, "<u4", count, shift)
        near = np.nonzero(low[values & 0xFFFF])[0]
        places = np.searchsorted(wanted, values[near])
        hits = near[wanted[np.minimum(places, len(wanted) - 1)] == values[near]]
        for hit in hits.tolist():
            offset = shift + _LONGEST_TAG * hit
            if _is_operand(code, offset):
                yield offset, int(values[hit])


def _is_operand(code: bytes, offset: int) -> bool:
    if offset >= 1 and code[offset - 1] in _ONE_BYTE:
        return True
    if offset >= 2 and code[offset - 2] == _COMPARE and code[offset - 1] >= 0xF8:
        return True
    return any(offset > len(move) and code[offset - 1 - len(move) : offset - 1] == move for move in _STACK_MOVES)


@functools.lru_cache(maxsize=4)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(_shell_pattern(pattern)))


def tag_fits(pattern: str | None, tag: str | None) -> bool:
    """Whether a tag fits what the user asks for: the tag itself, ``?`` for one character, ``*`` for any."""
    if pattern is None:
        return True
    return tag is not None and any(
        _compiled(pattern).fullmatch(spelling) for spelling in (tag, tag.ljust(_LONGEST_TAG))
    )
