"""The debugger's own objects for ``dx``: sessions, processes, threads, modules, handles, frames, utilities.

Names are those of "Native debugger objects" in the debugger's documentation. What the dump does not hold is an
:class:`EvaluationError` where it is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.expressions import cpp_values as cpp
from volatility3_kdump.expressions.cpp_names import CppNames
from volatility3_kdump.expressions.cpp_values import CppValue, EvaluationError
from volatility3_kdump.expressions.data_model import Failure, Items, Key, Make, Model
from volatility3_kdump.expressions.debugger_devices import Devices
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.types import TypeReference
from volatility3_kdump.windows.listing.handles import HandleChoice, ListedHandle, process_handles
from volatility3_kdump.windows.processes.crashed import crash_process
from volatility3_kdump.windows.processes.process_lists import walk_processes, walk_threads
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.user_mode import process_memory
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.expressions.names import Scope
    from volatility3_kdump.images.modules import Module
    from volatility3_kdump.target import Target
    from volatility3_kdump.windows.stacks.frames import Frame, Start

_MOST_ENTRIES = 1 << 20
#: The structure that an object of a type is.
_BODIES = {
    **{"Process": "_EPROCESS", "Thread": "_ETHREAD", "File": "_FILE_OBJECT", "Event": "_KEVENT", "Mutant": "_KMUTANT"},
    **{"Semaphore": "_KSEMAPHORE", "Token": "_TOKEN", "Key": "_CM_KEY_BODY", "Section": "_SECTION", "Job": "_EJOB"},
    **{"Directory": "_OBJECT_DIRECTORY", "Device": "_DEVICE_OBJECT", "Driver": "_DRIVER_OBJECT", "Timer": "_ETIMER"},
    **{
        "SymbolicLink": "_OBJECT_SYMBOLIC_LINK",
        "ALPC Port": "_ALPC_PORT",
        "IoCompletion": "_KQUEUE",
        "Type": "_OBJECT_TYPE",
    },
}


class DebuggerObjects:
    """The objects of a dump.

    ``scope`` is the current place, ``start`` gives where the current stack begins, ``title`` is what the session is
    called, and ``variables`` those that the user set. What is wrong with a list is a line in ``notes``.
    """

    def __init__(
        self,
        target: Target,
        names: CppNames,
        scope: Scope,
        start: Callable[[], Start],
        title: str,
        variables: dict[str, Any],
    ) -> None:
        self.notes: list[str] = []
        self._target = target
        self._names = names
        self._scope = scope
        self._start = start
        self._title = title
        self._variables = variables

    def roots(self) -> dict[str, Make]:
        """The names from which everything is reached."""
        return {
            "Debugger": self._debugger,
            "$cursession": self._session,
            "$curprocess": self._current_process,
            "$curthread": self._current_thread,
            "$curstack": lambda: self._stack(self._start),
            "$curframe": lambda: self._frame(self._frames(self._start)[0]),
            "$vars": self._user_variables,
            "$debuggerRootNamespace": lambda: Model({"Debugger": self._debugger}),
        }

    def _note(self, lines: Iterable[str]) -> None:
        self.notes.extend(line for line in lines if line not in self.notes)

    # Debugger ---------------------------------------------------------------------------------------------------

    def _debugger(self) -> Model:
        return Model(
            {
                "Sessions": lambda: Items(lambda: [(0, self._session())]),
                "State": lambda: Model({"UserVariables": self._user_variables}),
                "Utility": lambda: Model({"Collections": self._collections}),
            }
        )

    def _collections(self) -> Model:
        return Model(methods={"FromListEntry": self._from_list_entry})

    def _user_variables(self) -> Model:
        return Model(
            {name: functools.partial(self._variables.__getitem__, name) for name in self._variables},
            methods={"Remove": self._remove_variable},
        )

    def _remove_variable(self, name: Any) -> bool:
        return self._variables.pop(cpp.text_of(name) or "", None) is not None

    def _from_list_entry(self, head: Any, type_name: Any, field: Any, link: Any = "Flink") -> Items:
        """The structures of a list: its head, ``"nt!_EPROCESS"``, ``"ActiveProcessLinks"``, and the link to follow."""
        texts = [cpp.text_of(value) for value in (type_name, field, link)]
        if None in texts or not isinstance(head, CppValue):
            raise EvaluationError('FromListEntry takes a list head, a type and a field: (head, "nt!_X", "Links")')
        name, path, direction = (string or "" for string in texts)
        if direction not in ("Flink", "Blink"):
            raise EvaluationError(f"a list has no link {printable(direction)}: Flink or Blink")
        definition = self._names.type_named(name)
        if definition is None:
            raise EvaluationError(f"Unable to find type '{printable(name)}' {self._names.why_no_type(name)}".rstrip())
        type_, reader = definition
        offset = cpp.field_of(reader, type_, path).offset
        address = cpp.address_in(head)
        memory = reader.memory if reader is not None else self._target.memory

        def entries() -> Iterator[tuple[Key, Any]]:
            user = not self._target.is_kernel_address(address)
            walk = walk_list(memory, address, _MOST_ENTRIES, f"the list at {address:#x}", user=user)
            self._note(walk.problems)
            order = walk.entries if direction == "Flink" else tuple(reversed(walk.entries))
            for number, entry in enumerate(order):
                yield number, CppValue(type_, reader, (entry - offset) % (1 << 64))

        return Items(entries)

    # session ----------------------------------------------------------------------------------------------------

    def _session(self) -> Model:
        return Model(
            {
                "Processes": self._processes,
                "Id": lambda: cpp.integer(0),
                "Threads": self._all_threads,
                "Modules": self._modules,
                "Devices": lambda: Devices(self._target, self._typed).model(),
            },
            lambda: self._title,
        )

    def _process_addresses(self) -> list[int]:
        target = self._target
        walk = walk_processes(target)
        if target.dump.triage is None and walk.entries:
            self._note(walk.problems)
            return list(walk.entries)
        crashed = crash_process(target)
        if crashed is None:
            raise EvaluationError(walk.problems[0] if walk.problems else "the dump holds no process")
        if target.dump.triage is not None:
            self._note(["a small memory dump holds the process that crashed: the others are not in the dump"])
        return [crashed.address]

    def _pid(self, address: int) -> int:
        offset = field_offset(self._target, "_EPROCESS", "UniqueProcessId", None, generation="UniqueProcessId")
        pid = self._target.memory.pointer(address + offset) if offset is not None else None
        if pid is None:
            raise EvaluationError(f"the id of process {address:x} is not in the dump")
        return pid

    def _processes(self) -> Items:
        def listed() -> Iterator[tuple[Key, Any]]:
            for address in self._process_addresses():
                try:
                    yield self._pid(address), self._process(address)
                except KdumpError as error:
                    yield 0, Failure(error)

        return Items(listed, count=lambda: len(self._process_addresses()))

    def _all_threads(self) -> Items:
        def listed() -> Iterator[tuple[Key, Any]]:
            for address in self._process_addresses():
                yield from self._threads(address).pairs()

        return Items(listed)

    def _typed(self, structure: str, address: int, memory: Memory | None = None) -> CppValue:
        reader = self._names.nt(memory)
        description = reader.describe(structure) if reader is not None else None
        if reader is None or description is None:
            raise EvaluationError(f"nt!{structure} is not known: {self._target.symbol_status}")
        return CppValue(TypeReference(description.kind, structure, description.size), reader, address)

    # processes --------------------------------------------------------------------------------------------------

    def _current_process(self) -> Model:
        address = self._scope.process
        if address is None:
            raise EvaluationError("the dump does not say which process is the current one")
        return self._process(address)

    def _process(self, address: int) -> Model:
        target = self._target

        def name() -> str:
            image_name = read_process(target, address).name
            if image_name is None:
                raise EvaluationError("its name is not in the dump")
            return image_name

        return Model(
            {
                "KernelObject": lambda: self._typed("_EPROCESS", address),
                "Name": name,
                "Id": lambda: cpp.unsigned64(self._pid(address)),
                "Threads": lambda: self._threads(address),
                "Modules": self._modules,
                "Environment": lambda: self._environment(address),
                "Io": lambda: Model({"Handles": lambda: self._handles(address)}),
            },
            name,
            identity=("process", address),
        )

    def _environment(self, address: int) -> Model:
        def block() -> CppValue:
            process = read_process(self._target, address)
            memory = process_memory(self._target, process)
            if not process.peb or memory is None:
                raise EvaluationError("it has no PEB, or its page tables are not in the dump")
            return self._typed("_PEB", process.peb, memory)

        return Model({"EnvironmentBlock": block})

    def _handles(self, address: int) -> Items:
        def listed() -> Iterator[tuple[Key, Any]]:
            handles = process_handles(self._target, address, HandleChoice(objects=False))
            self._note(handles.problems)
            for handle in handles.handles:
                yield handle.handle.value, self._handle(address, handle)

        def find(key: Key) -> Any:
            if isinstance(key, int):
                for handle in process_handles(self._target, address, HandleChoice(key, objects=False)).handles:
                    return self._handle(address, handle)
            raise EvaluationError(f"Unable to find object at index [{key if isinstance(key, str) else f'{key:#x}'}]")

        return Items(listed, find)

    def _handle(self, process: int, listed: ListedHandle) -> Model:
        handle = listed.handle

        @functools.cache
        def named() -> ListedHandle:
            handles = process_handles(self._target, process, HandleChoice(handle.value)).handles
            if not handles or handles[0].object is None:
                raise EvaluationError(
                    handles[0].problem or "its object is not in the dump" if handles else "it is gone"
                )
            return handles[0]

        def type_name() -> str:
            referenced = named().object
            return (referenced.type_name if referenced is not None else None) or "?"

        def header() -> CppValue:
            referenced = named().object
            return self._typed("_OBJECT_HEADER", referenced.header if referenced is not None else 0)

        def body() -> CppValue:
            structure = _BODIES.get(type_name())
            if structure is None:
                raise EvaluationError(f"what an object of the type {printable(type_name())} consists of is not known")
            return self._typed(structure, handle.object)

        def name() -> str:
            referenced = named().object
            return (referenced.path or referenced.name or "") if referenced is not None else ""

        return Model(
            {
                "Handle": lambda: cpp.integer(handle.value, cpp.UNSIGNED_LONG),
                "Type": type_name,
                "GrantedAccess": lambda: cpp.integer(handle.access, cpp.UNSIGNED_LONG),
                "Object": header,
                "ObjectType": type_name,
                "ObjectName": name,
                "UnderlyingObject": body,
            }
        )

    # threads ----------------------------------------------------------------------------------------------------

    def _threads(self, process: int) -> Items:
        target = self._target

        def addresses() -> list[int]:
            if target.dump.triage is not None:
                thread = self._scope.thread
                self._note(["a small memory dump holds the thread that crashed: the others are not in the dump"])
                return [thread] if thread is not None else []
            walk = walk_threads(target, process)
            self._note(walk.problems)
            return list(walk.entries)

        def listed() -> Iterator[tuple[Key, Any]]:
            for address in addresses():
                try:
                    yield self._tid(address), self._thread(address)
                except KdumpError as error:
                    yield 0, Failure(error)

        return Items(listed, count=lambda: len(addresses()))

    def _tid(self, address: int) -> int:
        offset = field_offset(self._target, "_ETHREAD", "Cid.UniqueThread", None)
        tid = self._target.memory.pointer(address + offset) if offset is not None else None
        if tid is None:
            raise EvaluationError(f"the id of thread {address:x} is not in the dump")
        return tid

    def _current_thread(self) -> Model:
        address = self._scope.thread
        if address is None:
            raise EvaluationError("the dump does not say which thread is the current one")
        return self._thread(address, self._start)

    def _thread(self, address: int, start: Callable[[], Start] | None = None) -> Model:
        target = self._target

        def block() -> CppValue:
            offset = field_offset(target, "_ETHREAD", "Tcb.Teb", "OffsetKThreadTeb")
            teb = target.memory.pointer(address + offset) if offset is not None else None
            if not teb:
                raise EvaluationError("it has no TEB")
            return self._typed("_TEB", teb)

        return Model(
            {
                "KernelObject": lambda: self._typed("_ETHREAD", address),
                "Id": lambda: cpp.unsigned64(self._tid(address)),
                "Stack": lambda: self._stack(start or (lambda: thread_start(target, address))),
                "Environment": lambda: Model({"EnvironmentBlock": block}),
            },
            identity=("thread", address),
        )

    # stacks -----------------------------------------------------------------------------------------------------

    def _frames(self, start: Callable[[], Start]) -> tuple[Frame, ...]:
        frames = walker(self._target).walk(start()).frames
        if not frames:
            raise EvaluationError("the stack has no frames")
        return frames

    def _stack(self, start: Callable[[], Start]) -> Model:
        def frames() -> Items:
            return Items(lambda: ((frame.number, self._frame(frame)) for frame in self._frames(start)))

        return Model({"Frames": frames})

    def _frame(self, frame: Frame) -> Model:
        def title() -> str:
            name = frame.name
            if name is None:
                return f"{frame.ip:#x}"
            stem = name.module if name.symbol is None else f"{name.module}!{name.symbol}"
            return f"{stem} + {name.offset:#x}" if name.offset else stem

        def given(number: int | None) -> Make:
            def get() -> CppValue:
                if number is None:
                    raise EvaluationError("it is not known")
                return cpp.unsigned64(number)

            return get

        attributes = {
            "InstructionOffset": given(frame.ip),
            "ReturnOffset": given(frame.return_address),
            "StackOffset": given(frame.sp),
            "FrameNumber": lambda: cpp.integer(frame.number, cpp.UNSIGNED_LONG),
        }
        return Model({"Attributes": lambda: Model(attributes)}, title)

    # modules ----------------------------------------------------------------------------------------------------

    def _modules(self) -> Items:
        modules = self._target.modules

        def find(key: Key) -> Any:
            for number, module in enumerate(modules):
                named = isinstance(key, str) and key.lower() in (module.name.lower(), module.image_name.lower())
                if named or number == key:
                    return self._module(module)
            raise EvaluationError(f"no module is [{printable(str(key))}]")

        return Items(lambda: ((number, self._module(module)) for number, module in enumerate(modules)), find)

    def _module(self, module: Module) -> Model:
        title = module.path or module.image_name
        return Model(
            {
                "BaseAddress": lambda: cpp.unsigned64(module.base),
                "Name": lambda: title,
                "Size": lambda: cpp.unsigned64(module.size),
            },
            lambda: title,
            identity=("module", module.base),
        )
