"""What the names in an expression mean in an opened dump: registers, pseudo-registers, modules, symbols, memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from volatility3_kdump.cpu.exception import MAXIMUM_PARAMETERS, ExceptionRecord, parse_exception_record
from volatility3_kdump.cpu.registers import Part, is_common, register_part
from volatility3_kdump.expressions.cpp import CppParser
from volatility3_kdump.expressions.cpp_names import KERNEL_NAMES, CppNames
from volatility3_kdump.expressions.cpp_values import CppValue, address_in, bounded
from volatility3_kdump.expressions.grammar import MASK, NO_REGISTER, Unresolved
from volatility3_kdump.memory import PAGE_SIZE, Memory, sign_extended
from volatility3_kdump.windows.machine.processors import control_region, processors
from volatility3_kdump.windows.machine.special_registers import NAMES as SPECIAL_REGISTERS
from volatility3_kdump.windows.machine.special_registers import special_registers
from volatility3_kdump.windows.processes.crashed import (
    crash_context,
    crash_process,
    crash_processor,
    crash_thread,
)
from volatility3_kdump.windows.stacks.walker import walker

if TYPE_CHECKING:
    from volatility3_kdump.cpu.context import Context
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.target import Target

#: The most bytes that ``$vvalid`` looks at.
_LONGEST_RANGE = 1 << 28
_FILETIME_OF_1970 = 116_444_736_000_000_000
_MEMORY_ERROR = "Memory access error at"


class Scope(Protocol):
    """The place that an expression is about: ``None`` for what is not known there.

    ``memory`` is the address space, ``registers`` the current context, ``process`` and ``thread`` the addresses of the
    current EPROCESS and ETHREAD, ``processor`` the number of the current processor.
    """

    @property
    def memory(self) -> Memory: ...

    @property
    def registers(self) -> Context | None: ...

    @property
    def process(self) -> int | None: ...

    @property
    def thread(self) -> int | None: ...

    @property
    def processor(self) -> int | None: ...


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

    @property
    def processor(self) -> int | None:
        processor = crash_processor(self._target)
        return None if processor is None else processor.number


class NoNames:
    """The names of an expression without a dump: there are none."""

    def __init__(self, pointer_size: int = 8) -> None:
        self.pointer_size = self.machine_size = pointer_size

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

    def typed(self, name: str) -> CppValue | None:
        return None

    def cpp(self, text: str, position: int) -> tuple[int, int]:
        raise Unresolved("C++ expressions need a dump", "Syntax error at")


class TargetNames:
    """The names of an expression in a dump.

    ``scope`` is the place that registers are of, by default the crash. ``variables`` are further pseudo-registers
    (``t0``, ``exp``), named without their ``$``, ``computed`` those that take time to find, and ``typed`` those that
    have a type in C++ expressions. ``machine`` is the architecture of the registers where it is not the target's own.
    """

    def __init__(
        self,
        target: Target,
        scope: Scope | None = None,
        variables: Mapping[str, int | None] | None = None,
        computed: Mapping[str, Callable[[], int | None]] | None = None,
        radix: int = 16,
        typed: Mapping[str, CppValue] | None = None,
        machine: str | None = None,
    ) -> None:
        self._target = target
        self._architecture = machine or target.header.architecture
        self._scope: Scope = scope or CrashScope(target)
        self._variables = variables or {}
        self._computed = computed or {}
        self._radix = radix
        self._typed = typed or {}

    @property
    def pointer_size(self) -> int:
        return self._target.memory.pointer_size

    @property
    def machine_size(self) -> int:
        return 4 if self._architecture == "x86" else self.pointer_size

    # registers --------------------------------------------------------------------------------------------------

    def common_register(self, name: str) -> int | None:
        if not is_common(self._architecture, name):
            return None
        return self.register(name)

    def register(self, name: str) -> int:
        if name.startswith("$"):
            return self._pseudo(name[1:].lower())
        part = register_part(self._architecture, name)
        if part is None:
            value = self._variables.get(name.lower())
            if value is not None:
                return value
            return self._special(name.lower())
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

    def _special(self, name: str) -> int:
        """A control, debug or descriptor register of the current processor."""
        if name not in SPECIAL_REGISTERS:
            raise Unresolved("", NO_REGISTER)
        register = special_registers(self._target, self._scope.processor).get(name)
        if register is None or register.value is None:
            raise Unresolved(f"the processor's control block, which has {name}, is not at hand", NO_REGISTER)
        return register.value

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
        compute = self._computed.get(name)
        if find is None and compute is None and not name.startswith("exr_param"):
            raise Unresolved("", NO_REGISTER)
        if compute is not None:
            value = compute()
        else:
            value = find(self) if find is not None else self._exception_parameter(name)
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

    def _exception(self) -> ExceptionRecord | None:
        return parse_exception_record(self._target.header.exception_record, self.pointer_size)

    def _exception_parameter(self, name: str) -> int | None:
        number = name.removeprefix("exr_param")
        if not number.isdecimal() or int(number) >= MAXIMUM_PARAMETERS:
            raise Unresolved("", NO_REGISTER)
        record = self._exception()
        if record is None or int(number) >= len(record.parameters):
            return None
        return record.parameters[int(number)]

    def _exception_count(self) -> int | None:
        record = self._exception()
        return None if record is None else len(record.parameters)

    def _of_exception(self, attribute: str) -> int | None:
        record = self._exception()
        return None if record is None else getattr(record, attribute)

    def _control(self, attribute: str) -> int | None:
        number = self._scope.processor
        for processor in processors(self._target):
            if processor.number == number:
                if attribute == "prcb":
                    return processor.prcb
                region = control_region(self._target, processor)
                return None if region is None else region.address
        return None

    def _of_process(self, attribute: str) -> int | None:
        from volatility3_kdump.windows.processes.processes import read_process

        address = self._scope.process
        return None if address is None else getattr(read_process(self._target, address), attribute)

    def _of_thread(self, attribute: str) -> int | None:
        from volatility3_kdump.windows.processes.threads import read_thread

        address = self._scope.thread
        return None if address is None else getattr(read_thread(self._target, address), attribute)

    def typed(self, name: str) -> CppValue | None:
        """What ``r?`` gave a pseudo-register with its type; ``None`` where it has none."""
        return self._typed.get(name.removeprefix("$").lower()) if name.startswith("$") else None

    # symbols ----------------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> int | None:
        module_name, qualified, symbol = name.partition("!")
        module = self._module(module_name)
        if not qualified:
            return module.base if module is not None else self._anywhere(name)
        if module is None:
            raise Unresolved(f"no loaded module is named {module_name}")
        address = self._in_module(module, symbol)
        if address is None:
            raise Unresolved(f"{module.name} has no symbol {symbol} ({self._target.names.status_of(module)})")
        return address

    def _module(self, name: str) -> Module | None:
        modules = self._target.modules
        if name.lower() in KERNEL_NAMES and modules and modules[0].name == "nt":
            return modules[0]
        return next((module for module in modules if module.name.lower() == name.lower()), None)

    def _anywhere(self, name: str) -> int | None:
        """A symbol of the kernel, else of another module whose symbols have been looked for already."""
        for module in self._searched():
            address = self._in_module(module, name)
            if address is not None:
                return address
        return None

    def _in_module(self, module: Module, name: str) -> int | None:
        """A symbol by its name; members of a class also with two underscores for the colons."""
        address = self._target.names.address_of(module, name)
        if address is None and "__" in name.strip("_"):
            stem = len(name) - len(name.lstrip("_"))
            address = self._target.names.address_of(module, name[:stem] + name[stem:].replace("__", "::"))
        return address

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

    # the other evaluator ----------------------------------------------------------------------------------------

    def cpp(self, text: str, position: int) -> tuple[int, int]:
        parser = CppParser(text, CppNames(self._target, self, self._scope.memory, self._radix), position)
        with bounded():
            value = parser.group()({})
        return address_in(value) & MASK, parser.position


def _now() -> int:
    """The time of this machine as a FILETIME."""
    return int(time.time() * 10_000_000) + _FILETIME_OF_1970


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
    "pcr": lambda names: names._control("pcr"),
    "pcrb": lambda names: names._control("prcb"),
    "prcb": lambda names: names._control("prcb"),
    "exr_code": lambda names: names._of_exception("code"),
    "exr_numparams": lambda names: names._exception_count(),
    "dbgtime": lambda names: _now(),
    "ptrsize": lambda names: names.machine_size,
    "pagesize": lambda names: PAGE_SIZE,
}

#: The names of the pseudo-registers, with their ``$``.
PSEUDO_REGISTERS = tuple(f"${name}" for name in _PSEUDO)
