"""ARM64 instructions: KD's operand text, effective addresses, kinds of access, conditions.

Read from Capstone's text, which follows the Arm assembler syntax and does not change between Capstone's versions.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from volatility3_kdump.cpu import NameOf, Read
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand, Operand
from volatility3_kdump.cpu.notation import named

_MASK = 0xFFFFFFFFFFFFFFFF
#: A memory operand begins with its base register; ``{v0.b}[1]`` is a lane.
_MEMORY = re.compile(r"\[([a-z][^\]]*)\]")
#: Registers that the debugger calls by what they are for; x18 is the platform's, which holds the KPCR.
_NAMES = {"x16": "xip0", "x17": "xip1", "x18": "xpr", "x29": "fp", "x30": "lr"}
_NAMED = re.compile(r"\bx(1[678]|29|30)\b")
_VECTOR_LIST = re.compile(r"\{([^}]*)\}")
_EXTENSIONS = {"uxtw": (32, False), "sxtw": (32, True), "uxtx": (64, False), "sxtx": (64, False), "lsl": (64, False)}
_BRANCHES = re.compile(r"(b|bl|b\.\w+|cbn?z|tbn?z)$")
_INDIRECT = re.compile(r"(br|blr|ret)(aaz?|abz?)?$")
_ATOMICS = re.compile(r"(ld(add|clr|eor|set|smax|smin|umax|umin)|swp|cas)")
_VECTOR_BYTES = {"8b": 8, "16b": 16, "4h": 8, "8h": 16, "2s": 8, "4s": 16, "1d": 8, "2d": 16}
_REGISTER_BYTES = {"w": 4, "x": 8, "b": 1, "h": 2, "s": 4, "d": 8, "q": 16}


@functools.lru_cache(maxsize=1)
def _disassembler() -> Any:
    import capstone

    architecture = getattr(capstone, "CS_ARCH_ARM64", None)
    if architecture is None:
        architecture = capstone.CS_ARCH_AARCH64
    return capstone.Cs(architecture, capstone.CS_MODE_ARM)


def register_value(context: Context | None, name: str) -> int | None:
    """The value of a register or of its lower half (``w3``); ``None`` when it is not known."""
    if name in ("xzr", "wzr"):
        return 0
    if context is None:
        return None
    full = {"wsp": "sp", "x29": "fp", "x30": "lr", "w29": "fp", "w30": "lr"}.get(name)
    if full is None:
        full = f"x{name[1:]}" if name.startswith("w") else name
    value = context.registers.get(full)
    return value & 0xFFFFFFFF if value is not None and name.startswith("w") else value


def decode_arm64(
    code: bytes, read: Read, address: int, context: Context | None, name_of: NameOf | None
) -> Instruction | None:
    """The first instruction of ``code``, evaluated; ``None`` when the bytes are no complete instruction."""
    decoded = next(_disassembler().disasm_lite(code[:4], address, 1), None)
    if decoded is None:
        return None
    _, size, mnemonic, operand_text = decoded
    operands = _split(operand_text)
    target = _target(mnemonic, operands)
    literal = target is None and _is_literal_load(mnemonic, operands)
    parts = []
    for operand in operands:
        number = _number(operand)
        if number is not None and (operand is operands[-1]) and (target is not None or literal or mnemonic in _PAGES):
            where = number & _MASK
            kind = "memory" if literal else "target" if target is not None else "immediate"
            parts.append(Operand(kind, named(where, name_of(where) if name_of is not None else None)))
        else:
            parts.append(Operand(_kind(operand, number), _text(operand)))
    memory = _literal(read, mnemonic, operands) if literal else _memory(read, mnemonic, operands, operand_text, context)
    indirect = None
    if _INDIRECT.match(mnemonic):
        indirect = register_value(context, operands[0] if operands else "x30")
    return Instruction(
        address=address,
        size=size,
        raw=code[:size],
        mnemonic=mnemonic.replace(".", "") if mnemonic.startswith("b.") else mnemonic,
        operands=",".join(part.text for part in parts),
        architecture="arm64",
        parts=tuple(parts),
        memories=() if memory is None else (memory,),
        target=target,
        taken=_taken(mnemonic, operands, context),
        indirect=indirect,
        indirect_name=name_of(indirect) if name_of is not None and indirect is not None else None,
    )


_PAGES = ("adr", "adrp")


def _split(text: str) -> list[str]:
    """Operands at the commas outside brackets and braces."""
    return [part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text)] if text else []


def _number(operand: str) -> int | None:
    match = re.fullmatch(r"#(-?)(0x[0-9a-f]+|\d+)", operand)
    if match is None:
        return None
    value = int(match.group(2), 0)
    return -value if match.group(1) else value


def _kind(operand: str, number: int | None) -> str:
    if operand.startswith("["):
        return "memory"
    return "register" if number is None else "immediate"


def _text(operand: str) -> str:
    """KD's spelling: no space after commas, registers by their parts, upper-case hexadecimal digits."""
    spelled = re.sub(r",\s+", ",", operand)
    spelled = _NAMED.sub(lambda match: _NAMES[match[0]], spelled)
    return re.sub(r"0x([0-9a-f]+)", lambda match: f"0x{match.group(1).upper()}", spelled)


def _target(mnemonic: str, operands: list[str]) -> int | None:
    if not _BRANCHES.match(mnemonic) or not operands:
        return None
    number = _number(operands[-1])
    return None if number is None else number & _MASK


def _taken(mnemonic: str, operands: list[str], context: Context | None) -> bool | None:
    if mnemonic.startswith("b."):
        flags = register_value(context, "cpsr")
        return None if flags is None else condition(mnemonic[2:], flags)
    if mnemonic in ("cbz", "cbnz"):
        value = register_value(context, operands[0])
        return None if value is None else (value == 0) == (mnemonic == "cbz")
    if mnemonic in ("tbz", "tbnz"):
        value, bit = register_value(context, operands[0]), _number(operands[1])
        return None if value is None or bit is None else (not value >> bit & 1) == (mnemonic == "tbz")
    return None


def condition(code: str, cpsr: int) -> bool | None:
    """Whether a condition (``eq``, ``lo``, ``gt``...) holds for the N, Z, C and V flags in bits 31 to 28."""
    negative, zero, carry, overflow = (bool(cpsr >> bit & 1) for bit in (31, 30, 29, 28))
    return {
        "eq": zero,
        "ne": not zero,
        "hs": carry,
        "cs": carry,
        "lo": not carry,
        "cc": not carry,
        "mi": negative,
        "pl": not negative,
        "vs": overflow,
        "vc": not overflow,
        "hi": carry and not zero,
        "ls": not carry or zero,
        "ge": negative == overflow,
        "lt": negative != overflow,
        "gt": not zero and negative == overflow,
        "le": zero or negative != overflow,
        "al": True,
        "nv": True,
    }.get(code)


# memory -----------------------------------------------------------------------------------------------------------


def _is_literal_load(mnemonic: str, operands: list[str]) -> bool:
    return mnemonic in ("ldr", "ldrsw") and len(operands) == 2 and _number(operands[1]) is not None


def _literal(read: Read, mnemonic: str, operands: list[str]) -> MemoryOperand:
    address = (_number(operands[1]) or 0) & _MASK
    size = _size(mnemonic, operands, "")
    return MemoryOperand(address, address, address, (), size, "", "read", read(address, size), ())


def _memory(read: Read, mnemonic: str, operands: list[str], text: str, context: Context | None) -> MemoryOperand | None:
    match = _MEMORY.search(text)
    if match is None:
        return None
    base, *rest = [part.strip() for part in match.group(1).split(",")]
    registers = [(_text(base), register_value(context, base))]
    total = registers[0][1] or 0
    if rest and rest[0].startswith("#"):
        total += _number(rest[0]) or 0
    elif rest:
        value = register_value(context, rest[0])
        registers.append((_text(rest[0]), value))
        extension, _, amount = rest[1].partition(" ") if len(rest) > 1 else ("lsl", "", "")
        bits, signed = _EXTENSIONS.get(extension, (64, False))
        term = (value or 0) & ((1 << bits) - 1)
        if signed and term >> (bits - 1):
            term -= 1 << bits
        total += term << (_number(amount) or 0)
    zeroed = total & _MASK
    unknown = tuple(dict.fromkeys(name for name, value in registers if value is None))
    address = None if unknown else zeroed
    size, access = _size(mnemonic, operands, text), _access(mnemonic)
    data = None
    if address is not None and access is not None and size and address + size <= _MASK + 1:
        data = read(address, size)
    return MemoryOperand(address, address, zeroed, unknown, size, "", access, data, tuple(dict.fromkeys(registers)))


def _access(mnemonic: str) -> str | None:
    if _ATOMICS.match(mnemonic):
        return "read-write"
    if mnemonic.startswith("ld"):
        return "read"
    if mnemonic.startswith("st"):
        # stadd, stclr and the like are loads and stores in one.
        return "read-write" if re.match(r"st(add|clr|eor|set|smax|smin|umax|umin)", mnemonic) else "write"
    return None


def _size(mnemonic: str, operands: list[str], text: str) -> int:
    """Bytes that a load or store accesses; 0 where it does not access memory or the form is not known."""
    if _access(mnemonic) is None:
        return 0
    vectors = _VECTOR_LIST.search(text)
    if vectors is not None:
        names = [name.strip() for name in vectors.group(1).split(",")]
        arrangement = names[0].rpartition(".")[2]
        if arrangement in _VECTOR_BYTES and not mnemonic.endswith("r"):
            return len(names) * _VECTOR_BYTES[arrangement]
        # One element of each register, or one replicated to all of its elements.
        return len(names) * _REGISTER_BYTES.get(arrangement[-1:], 0)
    pair = re.match(r"(ldp|stp|ldnp|stnp|ldxp|ldaxp|stxp|stlxp|ldpsw|casp)", mnemonic) is not None
    if mnemonic == "ldpsw" or mnemonic in ("ldrsw", "ldursw", "ldtrsw", "ldapursw"):
        return 8 if pair else 4
    data = operands[1] if re.match(r"stl?x", mnemonic) else operands[0]
    narrow = re.search(r"s?([bh])$", mnemonic)
    if narrow is not None and data[0] in "wx" and not pair:
        return 1 if narrow.group(1) == "b" else 2
    return _REGISTER_BYTES.get(data[0], 0) * (2 if pair else 1)
