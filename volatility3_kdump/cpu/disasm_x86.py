"""x64 and x86 instructions: KD's operand text, effective addresses, kinds of access, conditions."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from volatility3_kdump.cpu import NameOf, Read
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.instruction import Instruction, MemoryOperand, Operand
from volatility3_kdump.cpu.notation import masm_number, named

_REGISTER, _IMMEDIATE, _MEMORY = 1, 2, 3

#: MASM's words for operand sizes, by bytes.
_SIZE_WORDS = {
    1: "byte",
    2: "word",
    4: "dword",
    6: "fword",
    8: "qword",
    10: "tbyte",
    16: "xmmword",
    32: "ymmword",
    64: "zmmword",
}

_MNEMONICS = {"movabs": "mov", "repz ret": "rep ret", "pushal": "pushad", "popal": "popad", "xlatb": "xlat"}
_STRING_OPCODES = {
    0x6C: "ins",
    0x6D: "ins",
    0x6E: "outs",
    0x6F: "outs",
    0xA4: "movs",
    0xA5: "movs",
    0xA6: "cmps",
    0xA7: "cmps",
    0xAA: "stos",
    0xAB: "stos",
    0xAC: "lods",
    0xAD: "lods",
    0xAE: "scas",
    0xAF: "scas",
}

#: What KD writes before the operand of a multiplication or division of one operand, by its size.
_ACCUMULATORS = {2: "ax", 4: "eax", 8: "rax"}
#: Instructions with one floating-point number of 8 bytes, whose size KD calls mmword.
_DOUBLES = re.compile(r"movsd$|movq$|(add|sub|mul|div|sqrt|min|max|cmp\w*)sd$|u?comisd$|cvtt?sd2")
#: Instructions whose memory operand KD writes without a size.
_SIZELESS = re.compile(r"lea|invlpg|prefetch|fxsave|fxrstor|xsave|xrstor|clflush|clwb|cldemote")

#: Instructions that name memory without accessing it.
_ADDRESS_ONLY = re.compile(
    r"lea$|nop$|prefetch|invlpg|clflush|clwb|cldemote|bndmk|bndc|bndstx|bndldx|v(gather|scatter)pf"
)

# A memory operand in first place is written, unless the instruction only reads it or changes it in place. Capstone's
# own record of accesses is wrong for some hundred instructions (setcc, SSE and x87 stores, rotates, cmpxchg).
_READS_FIRST = re.compile(
    r"(cmp|test|bt|push|l?call|l?jmp|i?mul|i?div|cmps[bwdq]|outs[bwd]|v?ldmxcsr|fxrstor(64)?|xrstors?(64)?"
    r"|lgdt|lidt|lldt|ltr|lmsw|ver[rw]|vmptrld|vmxon|ptwrite)$|f(?!n?st|n?save|ist|bstp|xsave)"
)
_CHANGES_FIRST = re.compile(
    r"(add|adc|sub|sbb|and|or|xor|inc|dec|neg|not|ro[lr]|rc[lr]|s[ah][lr]|sh[lr]d|xchg|xadd|cmpxchg(8b|16b)?|bt[src]|arpl)$"
)

#: Sizes in bytes of the x87 environment and state, and those with an operand-size prefix.
_ENVIRONMENTS = {"fnsave": (108, 94), "frstor": (108, 94), "fnstenv": (28, 14), "fldenv": (28, 14)}

#: Sizes in bytes of memory operands where Capstone's are not what the processor accesses.
_SIZES = {"comisd": 8, "ucomisd": 8, "comiss": 4, "ucomiss": 4}


def _aliases() -> dict[str, tuple[str, int, int]]:
    """Register name to (name in the x64 context, lowest bit, number of bits)."""
    table: dict[str, tuple[str, int, int]] = {}
    for letter in "abcd":
        full = f"r{letter}x"
        table |= {full: (full, 0, 64), f"e{letter}x": (full, 0, 32), f"{letter}x": (full, 0, 16)}
        table |= {f"{letter}l": (full, 0, 8), f"{letter}h": (full, 8, 8)}
    for short in ("si", "di", "bp", "sp"):
        full = f"r{short}"
        table |= {full: (full, 0, 64), f"e{short}": (full, 0, 32), short: (full, 0, 16), f"{short}l": (full, 0, 8)}
    for number in range(8, 16):
        full = f"r{number}"
        table |= {full: (full, 0, 64), f"{full}d": (full, 0, 32), f"{full}w": (full, 0, 16), f"{full}b": (full, 0, 8)}
    return table


_ALIASES = _aliases()


def register_value(context: Context | None, name: str) -> int | None:
    """The value of a register or of a part of one (``eax``, ``ah``, ``r9d``); ``None`` when it is not known."""
    if context is None:
        return None
    if context.architecture == "x86":
        full, low, bits = _ALIASES.get(name, (name, 0, 64))
        value = context.registers.get("e" + full[1:] if full in _ALIASES else full)
    else:
        full, low, bits = _ALIASES.get(name, (name, 0, 64))
        value = context.registers.get(full)
    return None if value is None else value >> low & ((1 << bits) - 1)


@functools.lru_cache(maxsize=2)
def _disassembler(architecture: str) -> Any:
    import capstone

    disassembler = capstone.Cs(
        capstone.CS_ARCH_X86, capstone.CS_MODE_64 if architecture == "x64" else capstone.CS_MODE_32
    )
    disassembler.detail = True
    return disassembler


def length_of(code: bytes, architecture: str) -> int | None:
    """Bytes of the first instruction of ``code``; ``None`` when the bytes are no complete instruction."""
    light = next(_disassembler(architecture).disasm_lite(code, 0, 1), None)
    return None if light is None else int(light[1])


def decode_x86(
    code: bytes,
    read: Read,
    address: int,
    architecture: str,
    context: Context | None,
    name_of: NameOf | None,
    segment_bases: Mapping[str, int],
) -> Instruction | None:
    """The first instruction of ``code``, evaluated; ``None`` when the bytes are no complete instruction."""
    insn = next(_disassembler(architecture).disasm(code, address, 1), None)
    if insn is None:
        return None
    return _Decoder(insn, read, architecture, context, name_of, segment_bases).instruction()


class _Decoder:
    """One instruction on its way from Capstone's view to ours."""

    def __init__(
        self,
        insn: Any,
        read: Read,
        architecture: str,
        context: Context | None,
        name_of: NameOf | None,
        segment_bases: Mapping[str, int],
    ) -> None:
        self.insn = insn
        self.read = read
        self.architecture = architecture
        self.context = context
        self.name_of = name_of
        self.segment_bases = segment_bases
        self.pointer_size = 8 if architecture == "x64" else 4
        self.mask = (1 << 8 * self.pointer_size) - 1
        self.operands = list(insn.operands)
        self.prefix, self.name = _split(insn.mnemonic)
        self.string = _STRING_OPCODES.get(insn.opcode[0])

    def instruction(self) -> Instruction:
        insn = self.insn
        target = self._target()
        parts = self._parts(target)
        mnemonic = _MNEMONICS.get(insn.mnemonic, insn.mnemonic)
        operands = ",".join(part.text for part in parts)
        if self.string:
            mnemonic = f"{self.prefix} {self.string}".strip()
        elif insn.mnemonic == "int3":
            mnemonic, operands = "int", "3"
        elif insn.mnemonic == "nop" and insn.opcode[0] == 0x90 and 0x66 in insn.prefix:
            mnemonic, operands = "xchg", "ax,ax"
        elif "{" in insn.op_str:
            operands = _masm(insn.op_str)
        memories = self._memories()
        indirect = self._indirect(memories)
        return Instruction(
            address=insn.address,
            size=insn.size,
            raw=bytes(insn.bytes),
            mnemonic=mnemonic,
            operands=operands,
            architecture=self.architecture,
            parts=parts,
            memories=memories,
            stack=self._stack(),
            target=target,
            taken=self._taken(),
            indirect=indirect,
            indirect_name=self._name(indirect),
        )

    # text ---------------------------------------------------------------------------------------------------------

    def _parts(self, target: int | None) -> tuple[Operand, ...]:
        shown = self.operands
        if self.string in ("stos", "lods", "scas"):
            shown = [operand for operand in shown if operand.type == _MEMORY]
        if self.name == "xchg" and shown[0].type == _MEMORY:
            shown = shown[::-1]
        parts = []
        if self.name in ("mul", "div", "idiv") and len(shown) == 1 and shown[0].size in _ACCUMULATORS:
            parts.append(Operand("register", _ACCUMULATORS[shown[0].size]))
        for place, operand in enumerate(shown):
            if operand.type == _REGISTER:
                name = self.insn.reg_name(operand.reg)
                # Of two registers of the x87 stack the top is implied: the second one in these opcodes, else the first.
                if name == "st(0)" and len(shown) == 2 and place == (self.insn.opcode[0] in (0xDC, 0xDE)):
                    name = "st"
                parts.append(Operand("register", name))
            elif operand.type == _MEMORY:
                parts.append(Operand("memory", self._memory_text(operand)))
            elif target is not None:
                parts.append(Operand("target", named(target, self._name(target), self.pointer_size)))
            else:
                value = operand.imm & ((1 << 8 * operand.size) - 1 if operand.size else self.mask)
                parts.append(Operand("immediate", masm_number(value)))
        if self.name == "xlatb":
            parts.append(Operand("memory", f"byte ptr [{'rbx' if self.architecture == 'x64' else 'ebx'}]"))
        return tuple(parts)

    def _memory_text(self, operand: Any) -> str:
        if _SIZELESS.match(self.name):
            return self._place(operand)
        word = _SIZE_WORDS.get(self._size(operand))
        if self.name == "cmpxchg16b":
            word = "oword"
        elif _DOUBLES.match(self.name) and not self.string and self._size(operand) == 8:
            word = "mmword"
        return f"{word} ptr {self._place(operand)}" if word else self._place(operand)

    def _place(self, operand: Any) -> str:
        memory = operand.mem
        segment = self.insn.reg_name(memory.segment) if memory.segment else ""
        if self.architecture == "x64" and segment not in ("fs", "gs"):
            segment = ""
        base = self.insn.reg_name(memory.base) if memory.base else ""
        index = self.insn.reg_name(memory.index) if memory.index else ""
        if base in ("rip", "eip") or not (base or index):
            where = (memory.disp + (self.insn.address + self.insn.size if base else 0)) & self._address_mask()
            if segment in ("fs", "gs"):
                return f"{segment}:[{masm_number(where) if self.architecture == 'x64' else masm_number(where, 8)}]"
            name = self._name(where)
            if name or self.architecture == "x64":
                return f"{segment}[{named(where, name, self.pointer_size)}]"
            return f"{segment or 'ds'}:[{masm_number(where, 8)}]"
        place = base
        if index and index not in ("riz", "eiz"):
            place += ("+" if place else "") + index + (f"*{memory.scale}" if memory.scale > 1 else "")
        if memory.disp:
            place += f"{'-' if memory.disp < 0 else '+'}{masm_number(abs(memory.disp))}"
        return f"{segment}:[{place}]" if segment else f"[{place}]"

    def _name(self, address: int | None) -> str | None:
        return self.name_of(address) if self.name_of is not None and address is not None else None

    # memory -------------------------------------------------------------------------------------------------------

    def _address_mask(self) -> int:
        return (1 << 8 * (self.insn.addr_size or self.pointer_size)) - 1

    def _memories(self) -> tuple[MemoryOperand, ...]:
        operands = [self._evaluate(operand) for operand in self.operands if operand.type == _MEMORY]
        if self.name == "xlatb":
            base = {8: "rbx", 4: "ebx", 2: "bx"}.get(self.insn.addr_size, "rbx")
            operands.append(self._resolve([(base, 1), ("al", 1)], 0, 1, self._segment_override() or "ds", "read"))
        if self.name in ("maskmovq", "maskmovdqu", "vmaskmovdqu"):
            base = {8: "rdi", 4: "edi", 2: "di"}[self.insn.addr_size]
            size = 8 if self.name == "maskmovq" else 16
            operands.append(self._resolve([(base, 1)], 0, size, self._segment_override() or "ds", "write"))
        return tuple(operands)

    def _segment_override(self) -> str | None:
        return {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}.get(self.insn.prefix[1])

    def _evaluate(self, operand: Any) -> MemoryOperand:
        memory = operand.mem
        terms: list[tuple[str, int]] = []
        displacement = memory.disp
        base = self.insn.reg_name(memory.base) if memory.base else ""
        index = self.insn.reg_name(memory.index) if memory.index else ""
        if base in ("rip", "eip"):
            displacement += self.insn.address + self.insn.size
        elif base:
            terms.append((base, 1))
        if index and index not in ("riz", "eiz"):
            terms.append((index, memory.scale))
        if memory.segment:
            segment = self.insn.reg_name(memory.segment)
        elif self.string in ("movs", "stos", "scas", "cmps", "ins") and base in ("rdi", "edi", "di"):
            segment = "es"
        else:
            segment = "ss" if base in ("rsp", "rbp", "esp", "ebp", "bp") else "ds"
        if self.name == "pop" and base in ("rsp", "esp"):
            displacement += operand.size
        bit = self.operands[1] if self.name in ("bt", "bts", "btr", "btc") and len(self.operands) > 1 else None
        bit_register = self.insn.reg_name(bit.reg) if bit is not None and bit.type == _REGISTER else None
        return self._resolve(
            terms, displacement, self._size(operand), segment, self._access(operand), bit_register=bit_register
        )

    def _resolve(
        self,
        terms: list[tuple[str, int]],
        displacement: int,
        size: int,
        segment: str,
        access: str | None,
        *,
        bit_register: str | None = None,
    ) -> MemoryOperand:
        registers: list[tuple[str, int | None]] = []
        total = displacement
        for name, scale in terms:
            value = register_value(self.context, name)
            registers.append((name, value))
            total += (value or 0) * scale
        if bit_register is not None:
            # A bit offset in a register reaches outside the operand: in units of it, rounded down.
            value = register_value(self.context, bit_register)
            registers.append((bit_register, value))
            bits = 8 * size
            signed = (value or 0) - (1 << bits if (value or 0) >> (bits - 1) else 0)
            total += (signed // bits) * size
        zeroed = total & self._address_mask()
        unknown = tuple(dict.fromkeys(name for name, value in registers if value is None))
        offset = None if unknown else zeroed
        address = offset
        if offset is not None and segment in ("fs", "gs"):
            base = self.segment_bases.get(segment)
            address = None if base is None else (offset + base) & self.mask
        value_bytes = None
        if address is not None and access is not None and address + size <= self.mask + 1:
            value_bytes = self.read(address, size)
        return MemoryOperand(
            address, offset, zeroed, unknown, size, segment, access, value_bytes, tuple(dict.fromkeys(registers))
        )

    def _size(self, operand: Any) -> int:
        if self.name in _ENVIRONMENTS:
            return _ENVIRONMENTS[self.name][0x66 in self.insn.prefix]
        if self.name in _SIZES:
            return _SIZES[self.name]
        if self.name in ("lds", "les", "lfs", "lgs", "lss"):
            return int(self.operands[0].size) + 2
        if self.name in ("fxsave", "fxsave64", "fxrstor", "fxrstor64"):
            return 512
        if self.name.startswith(("xsave", "xrstor")):
            # The legacy region and the header; what follows depends on the features enabled in XCR0.
            return 576
        return int(operand.size)

    def _access(self, operand: Any) -> str | None:
        if _ADDRESS_ONLY.match(self.name):
            return None
        first = self.operands[0] is operand
        if self.name == "xchg" or (first and _CHANGES_FIRST.match(self.name)):
            return "read-write"
        if self.string == "movs":
            return "write" if first else "read"
        return "write" if first and self.string != "lods" and not _READS_FIRST.match(self.name) else "read"

    def _stack(self) -> MemoryOperand | None:
        pointer_register = "rsp" if self.architecture == "x64" else "esp"
        # An operand-size prefix makes a push or pop 16 bits wide, unless REX.W overrules it.
        size = 2 if 0x66 in self.insn.prefix and not self.insn.rex & 8 else self.pointer_size
        if self.name in ("push", "pushf", "pushfd", "pushfq"):
            return self._resolve([(pointer_register, 1)], -size, size, "ss", "write")
        if self.name == "call":
            return self._resolve([(pointer_register, 1)], -self.pointer_size, self.pointer_size, "ss", "write")
        if self.name in ("pop", "popf", "popfd", "popfq"):
            return self._resolve([(pointer_register, 1)], 0, size, "ss", "read")
        if self.name == "ret":
            return self._resolve([(pointer_register, 1)], 0, self.pointer_size, "ss", "read")
        if self.name == "leave":
            frame = "rbp" if self.architecture == "x64" else "ebp"
            return self._resolve([(frame, 1)], 0, size, "ss", "read")
        if self.name == "enter":
            size *= 1 + (self.operands[1].imm & 31)
            return self._resolve([(pointer_register, 1)], -size, size, "ss", "write")
        if self.name in ("pushal", "pushaw", "popal", "popaw"):
            size = 8 * (4 if self.name.endswith("l") else 2)
            if self.name.startswith("pop"):
                return self._resolve([(pointer_register, 1)], 0, size, "ss", "read")
            return self._resolve([(pointer_register, 1)], -size, size, "ss", "write")
        if self.name == "iretq":
            return self._resolve([(pointer_register, 1)], 0, 40, "ss", "read")
        return None

    # branches -----------------------------------------------------------------------------------------------------

    def _is_branch(self) -> bool:
        return self.name in ("jmp", "call", "xbegin") or self.name in _CONDITIONS or self.name in _COUNTED

    def _target(self) -> int | None:
        if self._is_branch() and len(self.operands) == 1 and self.operands[0].type == _IMMEDIATE:
            return int(self.operands[0].imm) & self.mask
        return None

    def _indirect(self, memories: tuple[MemoryOperand, ...]) -> int | None:
        if self.name not in ("jmp", "call") or not self.operands:
            return None
        if self.operands[0].type == _REGISTER:
            return register_value(self.context, self.insn.reg_name(self.operands[0].reg))
        if memories and memories[0].value is not None and memories[0].size == self.pointer_size:
            return int.from_bytes(memories[0].value, "little")
        return None

    def _taken(self) -> bool | None:
        if self.name in _COUNTED:
            counter = {8: "rcx", 4: "ecx", 2: "cx"}[self.insn.addr_size]
            count = register_value(self.context, counter)
            if count is None:
                return None
            if self.name in ("jrcxz", "jecxz", "jcxz"):
                return count == 0
            again = count != 1
            if self.name == "loop":
                return again
            flags = register_value(self.context, "eflags")
            if flags is None:
                return None
            return again and bool(flags & 0x40) == (self.name == "loope")
        if self.name not in _CONDITIONS:
            return None
        flags = register_value(self.context, "eflags")
        return None if flags is None else condition(self.name[1:], flags)


_COUNTED = ("jrcxz", "jecxz", "jcxz", "loop", "loope", "loopne")
_CONDITIONS = frozenset(
    ("jo", "jno", "jb", "jae", "je", "jne", "jbe", "ja", "js", "jns", "jp", "jnp", "jl", "jge", "jle", "jg")
)


def condition(code: str, eflags: int) -> bool:
    """Whether a condition (``e``, ``ne``, ``b``, ``g``...) holds for the flags (Intel SDM volume 1, appendix B)."""
    carry, parity, zero = bool(eflags & 1), bool(eflags & 4), bool(eflags & 0x40)
    sign, overflow = bool(eflags & 0x80), bool(eflags & 0x800)
    return {
        "o": overflow,
        "no": not overflow,
        "b": carry,
        "ae": not carry,
        "e": zero,
        "ne": not zero,
        "be": carry or zero,
        "a": not (carry or zero),
        "s": sign,
        "ns": not sign,
        "p": parity,
        "np": not parity,
        "l": sign != overflow,
        "ge": sign == overflow,
        "le": zero or sign != overflow,
        "g": not zero and sign == overflow,
    }[code]


def _split(mnemonic: str) -> tuple[str, str]:
    """Prefixes and instruction of Capstone's mnemonic: ``lock cmpxchg`` is ``lock`` and ``cmpxchg``."""
    prefix, _, name = mnemonic.rpartition(" ")
    return prefix, name


def _masm(operands: str) -> str:
    """Capstone's operand text in KD's manner, for the operand forms that are not built up here."""
    operands = re.sub(r"0x([0-9a-f]+)", lambda match: masm_number(int(match.group(1), 16)), operands)
    return re.sub(r"\s*([,+\-*])\s*", r"\1", operands)
