"""Parts of registers by the names that users write: ``eax``, ``ah``, ``r8d``, ``w3``, ``zf``.

The names are those of the processors' manuals (Intel SDM volume 1, 3.4; Arm ARM, B1.2.1) and of KD's flags.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

from volatility3_kdump.cpu.context import register_names


class Part(NamedTuple):
    """``bits`` bits of ``register``, a name of :class:`~volatility3_kdump.cpu.context.Context`, from bit ``shift``."""

    register: str
    shift: int
    bits: int


_FLAGS = {"cf": 0, "pf": 2, "af": 4, "zf": 6, "sf": 7, "tf": 8, "if": 9, "df": 10, "of": 11}
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
#: Registers that KD takes for such without a commercial at before them.
_COMMON = {
    "x64": frozenset(
        "rax rbx rcx rdx rsi rdi rsp rbp rip r8 r9 r10 r11 r12 r13 r14 r15 "
        "eax ebx ecx edx esi edi esp ebp eip efl".split()
    ),
    "x86": frozenset(["eax", "ebx", "ecx", "edx", "esi", "edi", "esp", "ebp", "eip", "efl"]),
    "arm64": frozenset(["sp", "pc", "lr", "fp", *(f"x{number}" for number in range(31))]),
}


def register_part(architecture: str, name: str) -> Part | None:
    """The register, or the part of one, that a name stands for (any case); ``None`` for no register's name."""
    return _parts(architecture).get(name.lower())


def is_common(architecture: str, name: str) -> bool:
    """Whether KD takes a name for a register before it looks for a symbol."""
    return name.lower() in _COMMON.get(architecture, ())


@functools.cache
def _parts(architecture: str) -> Mapping[str, Part]:
    try:
        names = register_names(architecture)
    except KeyError:
        return {}
    width = 32 if architecture == "x86" else 64
    parts = {name: Part(name, 0, width) for name in names}
    if architecture == "arm64":
        parts |= {f"w{number}": Part(f"x{number}", 0, 32) for number in range(29)}
        parts |= {"x29": Part("fp", 0, 64), "x30": Part("lr", 0, 64), "psr": Part("cpsr", 0, 32)}
        parts["cpsr"] = parts["psr"]
        return parts
    parts |= {name: Part(name, 0, 16) for name in _SEGMENTS}
    parts["eflags"] = parts["efl"] = Part("eflags", 0, 32)
    parts |= {name: Part("eflags", bit, 1) for name, bit in _FLAGS.items()}
    parts["iopl"] = Part("eflags", 12, 2)
    wide = "r" if architecture == "x64" else "e"
    for letter in "abcd":
        full = f"{wide}{letter}x"
        parts |= {f"{letter}x": Part(full, 0, 16), f"{letter}l": Part(full, 0, 8), f"{letter}h": Part(full, 8, 8)}
    for stem in ("si", "di", "sp", "bp", "ip"):
        parts[stem] = Part(f"{wide}{stem}", 0, 16)
    if architecture == "x64":
        for stem in ("ax", "bx", "cx", "dx", "si", "di", "sp", "bp", "ip"):
            parts[f"e{stem}"] = Part(f"r{stem}", 0, 32)
        parts |= {f"{stem}l": Part(f"r{stem}", 0, 8) for stem in ("si", "di", "sp", "bp")}
        for number in range(8, 16):
            for suffix, bits in (("d", 32), ("w", 16), ("b", 8)):
                parts[f"r{number}{suffix}"] = Part(f"r{number}", 0, bits)
        parts["mxcsr"] = Part("mxcsr", 0, 32)
    return parts
