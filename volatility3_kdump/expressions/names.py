"""What the names in an expression mean in an opened dump: registers, pseudo-registers, modules, symbols, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from volatility3_kdump.cpu.registers import Part, is_common, register_part
from volatility3_kdump.expressions.grammar import MASK, NO_REGISTER, Unresolved
from volatility3_kdump.memory import PAGE_SIZE, Memory, sign_extended
from volatility3_kdump.windows.processes.crashed import crash_context, crash_process, crash_thread
from volatility3_kdump.windows.stacks.walker import walker

if TYPE_CHECKING:
    from volatility3_kdump.cpu.context import Context
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.target import Target

#: The most bytes that ``$vvalid`` looks at.
_LONGEST_RANGE = 1 << 28
_MEMORY_ERROR = "Memory access error at"


class Scope(Protocol):
    """The place that an expression is about: ``None`` for what is not known there.

    ``memory`` is the address space, ``registers`` the current context, ``process`` and ``thread`` the addresses of the
    current EPROCESS and ETHREAD.
    """

    @property
    def memory(self) -> Memory: ...

    @property
    def registers(self) -> Context | None: ...

    @property
    def process(self) -> int | None: ...

    @property
    def thread(self) -> int | None: ...


class CrashScope:
    """The crash: registers of the dump header, the crashing thread and its process."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def memory(self) -> Memory:
        return self._target.memory

    @property
    def registers(self) -> Context | None:
        return crash_context(self._target)

    @property
    def process(self) -> int | None:
        process = crash_process(self._target)
        return None if process is None else process.address

    @property
    def thread(self) -> int | None:
        thread = crash_thread(self._target)
        return None if thread is None else thread.address


class NoNames:
    """The names of an expression without a dump: there are none."""

    def __init__(self, pointer_size: int = 8) -> None:
        self.pointer_size = pointer_size

    def common_register(self, name: str) -> int | None:
        return None

    def register(self, name: str) -> int:
        raise Unresolved("registers need a dump", NO_REGISTER)

    def symbol(self, name: str) -> int | None:
        raise Unresolved("names need a dump")

    def read(self, address: int, size: int, physical: bool) -> int:
        raise Unresolved("there is no memory without a dump", _MEMORY_ERROR)

    def is_valid(self, address: int, length: int) -> bool:
        return False


class TargetNames:
    """The names of an expression in a dump.

    ``scope`` is the place that registers are of, by default the crash. ``variables`` are further pseudo-registers
    (``t0``, ``exp``), named without their ``$``.
    """

    def __init__(
        self, target: Target, scope: Scope | None = None, variables: Mapping[str, int | None] | None = None
    ) -> None:
        self._target = target
        self._scope: Scope = scope or CrashScope(target)
        self._variables = variables or {}

    @property
    def pointer_size(self) -> int:
        return self._target.memory.pointer_size

    # registers --------------------------------------------------------------------------------------------------

    def common_register(self, name: str) -> int | None:
        if not is_common(self._target.header.architecture, name):
            return None
        return self.register(name)

    def register(self, name: str) -> int:
        if name.startswith("$"):
            return self._pseudo(name[1:].lower())
        part = register_part(self._target.header.architecture, name)
        if part is None:
            value = self._variables.get(name.lower())
            if value is not None:
                return value
            raise Unresolved("", NO_REGISTER)
        return self._part(part)

    def _part(self, part: Part) -> int:
        context = self._context()
        value = context.get(part.register)
        if value is None:
            raise Unresolved(f"the {context.source} does not give {part.register}", NO_REGISTER)
        value = value >> part.shift & ((1 << part.bits) - 1)
        if part.bits == 32 and part.register != "eflags":
            return sign_extended(value, self.pointer_size)
        return value

    def _context(self) -> Context:
        context = self._scope.registers
        if context is None:
            raise Unresolved("no registers are known here", NO_REGISTER)
        return context

    def _pseudo(self, name: str) -> int:
        value = self._variables.get(name)
        if value is not None:
            return value
        find = _PSEUDO.get(name)
        if find is None:
            raise Unresolved("", NO_REGISTER)
        value = find(self)
        if value is None:
            raise Unresolved(f"${name} is not in the dump", NO_REGISTER)
        return value & MASK

    def _pointer_register(self, name: str) -> int | None:
        context = self._context()
        value = {"ip": context.ip, "sp": context.sp, "fp": context.fp}[name]
        return None if value is None else sign_extended(value, self.pointer_size)

    def _return_address(self) -> int | None:
        from volatility3_kdump.windows.stacks.starts import start_at

        context = self._context()
        if context.ip is None or context.sp is None:
            return None
        frames = walker(self._target).walk(start_at(self._target, context), 2).frames
        return frames[0].return_address if frames else None

    def _return_value(self) -> int | None:
        architecture = self._target.header.architecture
        return self._context().get({"x64": "rax", "x86": "eax"}.get(architecture, "x0"))

    def _bug_check(self, index: int | None) -> int | None:
        header = self._target.header
        return header.bug_check_code if index is None else header.bug_check_parameters[index]

    def _of_process(self, attribute: str) -> int | None:
        from volatility3_kdump.windows.processes.processes import read_process

        address = self._scope.process
        return None if address is None else getattr(read_process(self._target, address), attribute)

    def _of_thread(self, attribute: str) -> int | None:
        from volatility3_kdump.windows.processes.threads import read_thread

        address = self._scope.thread
        return None if address is None else getattr(read_thread(self._target, address), attribute)

    # symbols ----------------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> int | None:
        module_name, qualified, symbol = name.partition("!")
        module = self._module(module_name)
        if not qualified:
            return module.base if module is not None else self._anywhere(name)
        if module is None:
            raise Unresolved(f"no loaded module is named {module_name}")
        address = self._target.names.address_of(module, symbol)
        if address is None:
            raise Unresolved(f"{module.name} has no symbol {symbol} ({self._target.names.status_of(module)})")
        return address

    def _module(self, name: str) -> Module | None:
        return next((module for module in self._target.modules if module.name.lower() == name.lower()), None)

    def _anywhere(self, name: str) -> int | None:
        """A symbol of the kernel, else of another module whose symbols have been looked for already."""
        for module in self._searched():
            address = self._target.names.address_of(module, name)
            if address is not None:
                return address
        return None

    def _searched(self) -> Iterator[Module]:
        for index, module in enumerate(self._target.modules):
            if index == 0 or self._target.names.status_of(module) not in ("deferred", "no symbols"):
                yield module

    # memory -----------------------------------------------------------------------------------------------------

    def read(self, address: int, size: int, physical: bool) -> int:
        memory = self._target.physical_memory if physical else self._scope.memory
        value = memory.unsigned(address, size)
        if value is None:
            where = "physical address " if physical else ""
            raise Unresolved(f"{where}{address:#x}: {memory.why_unreadable(address)}", _MEMORY_ERROR)
        return value

    def is_valid(self, address: int, length: int) -> bool:
        if length > _LONGEST_RANGE:
            raise Unresolved(f"a range of more than {_LONGEST_RANGE:#x} bytes", "Overflow error at")
        position, end = address, address + max(length, 1)
        while position < end:
            size = min(PAGE_SIZE - position % PAGE_SIZE, end - position)
            if self._scope.memory.read(position, size) is None:
                return False
            position += size
        return True


def _entry_point(names: TargetNames) -> int | None:
    """Where the image of the current process starts: PEB.ImageBaseAddress and its headers, in user-mode memory."""
    target = names._target
    peb = names._of_process("peb")
    field = target.nt.find("_PEB", "ImageBaseAddress") if target.nt else None
    memory = names._scope.memory
    base = memory.pointer(peb + field.offset) if peb and field else None
    header = memory.unsigned(base + 0x3C, 4) if base else None
    entry = memory.unsigned(base + header + 0x28, 4) if base and header is not None and header < PAGE_SIZE else None
    return base + entry if base and entry else None


#: KD's automatic pseudo-registers.
_PSEUDO: dict[str, Callable[[TargetNames], int | None]] = {
    "ip": lambda names: names._pointer_register("ip"),
    "eventip": lambda names: names._pointer_register("ip"),
    "scopeip": lambda names: names._pointer_register("ip"),
    "csp": lambda names: names._pointer_register("sp"),
    "fp": lambda names: names._pointer_register("fp"),
    "ra": TargetNames._return_address,
    "retreg": TargetNames._return_value,
    "retreg64": TargetNames._return_value,
    "proc": lambda names: names._scope.process,
    "thread": lambda names: names._scope.thread,
    "peb": lambda names: names._of_process("peb"),
    "teb": lambda names: names._of_thread("teb"),
    "tpid": lambda names: names._of_process("pid"),
    "tid": lambda names: names._of_thread("tid"),
    "exentry": _entry_point,
    "bug_code": lambda names: names._bug_check(None),
    "bug_param1": lambda names: names._bug_check(0),
    "bug_param2": lambda names: names._bug_check(1),
    "bug_param3": lambda names: names._bug_check(2),
    "bug_param4": lambda names: names._bug_check(3),
    "ptrsize": lambda names: names.pointer_size,
    "pagesize": lambda names: PAGE_SIZE,
}

#: The names of the pseudo-registers, with their ``$``.
PSEUDO_REGISTERS = tuple(f"${name}" for name in _PSEUDO)
