"""Stack backtraces of the target's threads: where they start, how each frame is known, and why they end.

* :func:`crash_start`, :func:`thread_start`, :func:`processor_start`, :func:`trap_start`, :func:`context_start` - the
  registers that a backtrace begins with.
* :class:`StackWalker` - walks from there. One walker serves many threads: what it learns of images is kept.

Frames come from the images' unwind data wherever that can be had. Where it cannot, the kernel's dispatchers, whose
frames have a fixed shape, are stepped over first; then the stack is scanned for return addresses, and every frame found
that way says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from volatility3_kdump import tables
from volatility3_kdump.cpu import Read, amd64, amd64_unwind, arm64, arm64_unwind, x86_unwind
from volatility3_kdump.cpu.context import Context, context_size, parse_context, why_not_context
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.pe import EXCEPTION
from volatility3_kdump.symbols.names import Name

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_Value = TypeVar("_Value")

#: A frame's trust, best first.
CONTEXT, UNWIND, TRAP_FRAME, FRAME_POINTER, SCAN = "context", "unwind", "trap frame", "frame pointer", "scan"

_ARCHITECTURES = ("x64", "x86", "arm64")

MOST_FRAMES = 1024
_MOST_REMEMBERED = 0x10000
_NO_ARGUMENTS: tuple[int | None, ...] = (None,) * 4
_KERNEL_STACK_SIZE = 0x6000
_PAGE_SHIFT = 12
_LARGEST_STACK = 0x20000
#: How far a scan looks for the next return address, in bytes.
_SCAN_REACH = 0x1000
#: How far below its stack an overflow leaves a stack pointer: the guard page, and what is allocated without a probe.
_OVERFLOW = 0x2000
#: How far below the end of its stack a thread's outermost frame begins: behind the save area of the vector registers.
_TOP_OF_STACK = 0x1000
_EXCEPTION_FRAME_SIZE = 0x140
_RIP_IN_TRAP_FRAME = 0x168
#: The lowest address of the kernel's half (x64).
_KERNEL = 0xFFFF_8000_0000_0000
_VOLATILE = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11")

#: KTHREAD.State of threads without a stack, and of those whose switch frame is of no use.
_WITHOUT_STACK = {0: "initialized", 4: "terminated"}
_RUNNING, _TRANSITION = 2, 6


class Frame(NamedTuple):
    """One frame.

    ``sp`` is the stack pointer inside the frame (KD's Child-SP; ``None`` where a frame-pointer chain does not give it),
    ``ip`` where it executes, ``trust`` how it is known.
    ``return_address`` is the next frame's ``ip``, ``None`` for the last one. ``arguments`` are the four pointer-sized
    values at the next frame's stack pointer, KD's "Args to Child": home slots, not necessarily arguments; ``None``
    each where the dump does not hold it. ``call_site`` says that ``ip`` is a return address. ``trap_frame`` is the
    address of the KTRAP_FRAME that this function keeps, ``None`` for ordinary functions. ``fp`` is the frame pointer
    inside the frame, KD's ChildEBP; x86 only.
    """

    number: int
    sp: int | None
    ip: int
    trust: str
    call_site: bool
    return_address: int | None
    arguments: tuple[int | None, ...]
    trap_frame: int | None
    fp: int | None = None


@dataclass(frozen=True)
class Stack:
    """A backtrace. ``end`` says in words why it stops; ``complete`` whether that is a thread's start or user mode."""

    frames: tuple[Frame, ...]
    end: str
    complete: bool

    @property
    def trusted(self) -> bool:
        """Whether no frame was found by a scan."""
        return all(frame.trust != SCAN for frame in self.frames)


@dataclass(frozen=True)
class Start:
    """Where a backtrace begins: registers, how they are known, and the stacks that it may walk on, as (low, high).

    ``user_memory`` says whether the target's user-mode memory is that of the thread: it is that of one process alone.
    ``held`` is a part of the stack that was read already, as (address, bytes).
    """

    context: Context
    trust: str
    segments: tuple[tuple[int, int], ...]
    user_memory: bool = True
    held: tuple[int, bytes] = field(default=(0, b""), repr=False, compare=False)


class NoStack(Exception):
    """A thread has no stack to walk; the text says why."""


# where to start --------------------------------------------------------------------------------------------------


def crash_start(target: Target) -> Start:
    """The failure as the dump header has it. Raises :class:`NoStack` when the header holds no registers."""
    context = target.header_context
    if context is None or context.ip is None or context.sp is None:
        raise NoStack("the dump header holds no registers")
    return Start(context, CONTEXT, _crash_segments(target))


def registers_start(target: Target, context: Context) -> Start:
    """Any registers. Raises :class:`NoStack` when they lack a stack or an instruction pointer."""
    if context.ip is None or context.sp is None:
        raise NoStack("the registers do not give the stack and instruction pointers")
    return Start(context, CONTEXT, _segments_around(target, context.sp))


def context_start(target: Target, address: int) -> Start:
    """A CONTEXT record in memory. Raises :class:`NoStack` when there is none at the address."""
    architecture = target.header.architecture
    if architecture not in _ARCHITECTURES:
        raise NoStack(f"the layout of context records of {architecture} is not known")
    data = target.memory.read(address, context_size(architecture))
    if data is None:
        raise NoStack(f"no context record at {address:#x}: {target.memory.why_unreadable(address)}")
    context = parse_context(data, architecture, "context record", address)
    if context is None or context.ip is None or context.sp is None:
        why = why_not_context(data, architecture) or "it does not give the stack and instruction pointers"
        raise NoStack(f"no context record at {address:#x}: {why}")
    return Start(context, CONTEXT, _segments_around(target, context.sp))


def start_at(target: Target, context: Context) -> Start:
    """Registers that were found elsewhere. Raises :class:`NoStack` where they do not give the stack pointer."""
    if context.ip is None or context.sp is None:
        raise NoStack(f"the {context.source} does not give the stack and instruction pointers")
    return Start(context, CONTEXT, _segments_around(target, context.sp))


def trap_start(target: Target, address: int) -> Start:
    """A KTRAP_FRAME in memory (x64). Raises :class:`NoStack` when there is none at the address."""
    architecture = target.header.architecture
    if architecture != "x64":
        raise NoStack(f"the layout of trap frames of {architecture} is not known")
    context = amd64.trap_frame(target.memory.read, address, target.nt)
    if context is None or context.sp is None:
        why = amd64.why_not_trap_frame(target.memory.read, address, target.nt)
        raise NoStack(f"no trap frame at {address:#x}" + (f": {why}" if why else ""))
    return Start(context, TRAP_FRAME, _segments_around(target, context.sp))


def processor_start(target: Target, number: int) -> Start:
    """What a processor ran when it was stopped. Raises :class:`NoStack`."""
    processor = next((found for found in target.processors if found.number == number), None)
    if processor is None:
        raise NoStack(f"processor {number} has no control block in the dump")
    if processor.context is None or processor.context.sp is None:
        crashing = target.crash_processor
        if crashing is not None and crashing.number == number:
            return crash_start(target)
        raise NoStack(f"the dump holds no registers of processor {number}")
    segments = []
    saved = _saved_stack(target, processor.current_thread) if processor.current_thread else None
    if saved is not None and saved.limit < saved.base:
        segments.append((saved.limit, saved.base))
    segments += _processor_stacks(target, processor.prcb)
    stacks = _with(target, tuple(segments), processor.context.sp)
    return Start(processor.context, CONTEXT, stacks, saved is not None and _maps_user_memory(target, saved))


def thread_start(target: Target, thread: int) -> Start:
    """A thread by its ETHREAD address: its processor's registers while it runs, else those that it saved to wait.

    Raises :class:`NoStack` for a thread whose stack is not there.
    """
    for processor in target.processors:
        if processor.current_thread == thread:
            crashing = target.crash_processor
            if crashing is not None and crashing.number == processor.number:
                return crash_start(target)
            return processor_start(target, processor.number)
    saved = _saved_stack(target, thread)
    if saved is None:
        raise NoStack("the thread object is not in the dump")
    if saved.state in _WITHOUT_STACK:
        raise NoStack(f"the thread is {_WITHOUT_STACK[saved.state]}: it has no stack")
    if saved.state == _RUNNING:
        raise NoStack("the thread is running, and no processor in the dump says that it runs it")
    if saved.resident == 0 or saved.state == _TRANSITION:
        raise NoStack("kernel stack not resident: it is paged out")
    limits = (saved.limit, saved.base)
    stack = saved.kernel
    if not limits[0] <= stack < limits[1]:
        raise NoStack(f"KernelStack {stack:#x} lies outside the stack {limits[0]:#x} to {limits[1]:#x}")
    if target.header.architecture == "arm64":
        return _arm64_waiting(target, thread, stack, limits)
    held = stack, _present(target, stack, min(limits[1], stack + _LARGEST_STACK))
    read = _Covered(target.memory.read, *held).read
    if target.header.architecture == "x64":
        context = _amd64_switch_frame(target, stack, read)
    else:
        context = _x86_switch_frame(target, stack)
    segments = (limits, *_expansions(target, saved.initial, read))
    return Start(context, CONTEXT, segments, _maps_user_memory(target, saved), held)


def _maps_user_memory(target: Target, saved: _SavedStack) -> bool:
    """Whether a thread runs in the address space that the target shows: that of the process that crashed."""
    process = target.crash_process
    return process is not None and saved.process == process.address


class _SavedStack(NamedTuple):
    """Where a thread's kernel stack lies (KTHREAD): bounds, saved and initial stack pointer, state, residency; and the
    process whose address space it runs in."""

    limit: int
    base: int
    kernel: int
    initial: int | None
    state: int | None
    resident: int | None
    process: int | None


def _saved_stack(target: Target, thread: int) -> _SavedStack | None:
    """Read with one access where symbols are at hand: listings do this for thousands of threads."""
    nt = target.nt
    if nt is not None and nt.has("_KTHREAD", "StackLimit"):
        reader = nt.reader(
            "_KTHREAD",
            limit="StackLimit",
            base="StackBase",
            kernel="KernelStack",
            initial="InitialStack",
            state="State",
            resident="KernelStackResident",
            process=("ApcState.Process", "Process"),
        )
        data = target.memory.read(thread, reader.size)
        if data is None:
            return None
        row = reader.unpack(data)
        if target.memory.pointer_size == 4:
            addresses = ("limit", "base", "kernel", "initial", "process")
            row = row._replace(**{name: _extended(getattr(row, name)) for name in addresses})
        return _SavedStack(row.limit, row.base, row.kernel, row.initial, row.state, row.resident, row.process)
    limits = target.stack_limits(thread)
    kernel = _thread_pointer(target, thread, "KernelStack", "OffsetKThreadKernelStack")
    if limits is None or kernel is None:
        return None
    initial = _thread_pointer(target, thread, "InitialStack", "OffsetKThreadInitialStack")
    located = target.offset("_KTHREAD", "State", "OffsetKThreadState")
    state = target.memory.unsigned(thread + located, 1) if located is not None else None
    process = _thread_pointer(target, thread, "ApcState.Process", "OffsetKThreadApcProcess")
    return _SavedStack(*limits, kernel, initial, state, None, process)


def _amd64_switch_frame(target: Target, stack: int, read: Read) -> Context:
    layouts = tables.structures()
    reader = layouts.reader("_KSWITCH_FRAME", rbp="Rbp", ip="Return")
    data = read(stack, reader.size)
    if data is None:
        raise NoStack(f"the switch frame at {stack:#x} cannot be read: {target.memory.why_unreadable(stack)}")
    row = reader.unpack(data)
    module = target.names.module_of(row.ip)
    if module is None or module.name != "nt":
        raise NoStack(f"no switch frame at {stack:#x}: its return address {row.ip:#x} is not in the kernel")
    registers = {"rip": row.ip, "rsp": stack + layouts.size_of("_KSWITCH_FRAME"), "rbp": row.rbp}
    return Context("x64", registers, "switch frame", stack)


def _x86_switch_frame(target: Target, stack: int) -> Context:
    memory = target.memory
    # ExceptionList, ApcBypass, return into KiSwapContext, then what KiSwapContext pushed: ebp first.
    ip, fp = memory.pointer(stack + 8), memory.pointer(stack + 0xC)
    if ip is None or fp is None:
        raise NoStack(f"the switch frame at {stack:#x} cannot be read: {memory.why_unreadable(stack)}")
    registers = {"eip": ip & 0xFFFFFFFF, "esp": (stack + 0xC) & 0xFFFFFFFF, "ebp": fp & 0xFFFFFFFF}
    return Context("x86", registers, "switch frame", stack)


#: KTHREAD.SwitchFrame on ARM64 lies before VfpState; its Fp and Return at these distances (checked on a real dump).
_ARM64_SWITCH_FP, _ARM64_SWITCH_RETURN = 0x10, 0x18
_ARM64_SWITCH_FRAME = {0x910: 0x210}


def _arm64_waiting(target: Target, thread: int, stack: int, limits: tuple[int, int]) -> Start:
    located = target.nt.find("_KTHREAD", "SwitchFrame") if target.nt else None
    size = target.debugger["SizeEThread"] if target.debugger else None
    offset = located.offset if located else _ARM64_SWITCH_FRAME.get(size or 0)
    if offset is None:
        raise NoStack("the thread's switch frame cannot be located without symbols of this kernel")
    fp = target.memory.pointer(thread + offset + _ARM64_SWITCH_FP)
    ip = target.memory.pointer(thread + offset + _ARM64_SWITCH_RETURN)
    if fp is None or ip is None or not limits[0] <= fp < limits[1]:
        raise NoStack("the thread's switch frame is not plausible")
    registers = {"pc": arm64.strip_pointer_authentication(ip), "fp": fp, "sp": stack}
    return Start(Context("arm64", registers, "switch frame", thread + offset), CONTEXT, (limits,))


def _thread_pointer(target: Target, thread: int, path: str, debugger_field: str) -> int | None:
    located = target.offset("_KTHREAD", path, debugger_field)
    return target.memory.pointer(thread + located) if located is not None else None


# which stacks may be walked --------------------------------------------------------------------------------------


def _crash_segments(target: Target) -> tuple[tuple[int, int], ...]:
    segments: list[tuple[int, int]] = []
    if target.crash_thread is not None:
        limits = target.stack_limits(target.crash_thread.address)
        if limits:
            segments.append(limits)
        initial = _thread_pointer(target, target.crash_thread.address, "InitialStack", "OffsetKThreadInitialStack")
        segments += _expansions(target, initial, target.memory.read)
    if target.crash_processor is not None:
        segments += _processor_stacks(target, target.crash_processor.prcb)
    sp = target.header_context.sp if target.header_context else None
    return _with(target, tuple(segments), sp)


def _segments_around(target: Target, sp: int) -> tuple[tuple[int, int], ...]:
    """The crashing thread's stacks where they hold ``sp``, else those of the processors, else a window above it."""
    known = _crash_segments(target)
    if _inside(known, sp):
        return known
    for processor in target.processors:
        limits = target.stack_limits(processor.current_thread) if processor.current_thread else None
        stacks = tuple([limits] if limits else []) + tuple(_processor_stacks(target, processor.prcb))
        if _inside(stacks, sp):
            return stacks
    return _with(target, (), sp)


def _with(target: Target, segments: tuple[tuple[int, int], ...], sp: int | None) -> tuple[tuple[int, int], ...]:
    """The segments, and where none of them holds the stack pointer a window above it."""
    if sp is None or _inside(segments, sp):
        return segments
    triage = target.dump.triage
    if triage is not None and triage.stack is not None:
        low, high = triage.stack.address, triage.stack.address + triage.stack.size
        if low <= sp < high:
            return (*segments, (low, high))
    return (*segments, (sp, sp + _KERNEL_STACK_SIZE))


def _inside(segments: tuple[tuple[int, int], ...], sp: int) -> bool:
    return any(low <= sp < high for low, high in segments)


def _processor_stacks(target: Target, prcb: int | None) -> list[tuple[int, int]]:
    """The DPC and ISR stacks of a processor and those of its interrupt stack table (x64)."""
    if prcb is None:
        return []
    stacks = []
    tops = []
    for path, debugger_field in (("DpcStack", "OffsetPrcbDpcStack"), ("IsrStack", "OffsetPrcbIsrStack")):
        located = target.offset("_KPRCB", path, debugger_field)
        tops.append(target.memory.pointer(prcb + located) if located is not None else None)
    nt = target.nt
    if (
        nt is not None
        and target.header.architecture == "x64"
        and nt.has("_KPCR", "TssBase")
        and nt.has("_KTSS64", "Ist")
    ):
        pcr = prcb - nt.offset("_KPCR", "Prcb")
        task_state = target.memory.pointer(pcr + nt.offset("_KPCR", "TssBase"))
        ist = nt.offset("_KTSS64", "Ist")
        for index in range(1, 8) if task_state else ():
            tops.append(target.memory.pointer((task_state or 0) + ist + 8 * index))
    for top in tops:
        if top and target.is_kernel_address(top):
            stacks.append((top - _KERNEL_STACK_SIZE, top))
    return stacks


def _expansions(target: Target, control: int | None, read: Read) -> list[tuple[int, int]]:
    """Stack segments that a thread left when it expanded its kernel stack.

    ``control`` is KTHREAD.InitialStack, where a KSTACK_CONTROL names the previous segment.
    """
    nt = target.nt
    if nt is None or not nt.has("_KERNEL_STACK_SEGMENT", "StackLimit"):
        return []
    # Windows 8 renamed it.
    types = ("_KSTACK_CONTROL", "_KERNEL_STACK_CONTROL")
    previous = next((nt.offset(name, "Previous") for name in types if nt.has(name, "Previous")), None)
    if previous is None:
        return []
    segments: list[tuple[int, int]] = []
    reader = nt.reader("_KERNEL_STACK_SEGMENT", base="StackBase", limit="StackLimit", initial="InitialStack")
    while control and len(segments) < 8:
        data = read(control + previous, reader.size)
        row = reader.unpack(data) if data else None
        if row is None or not row.base or not row.limit < row.base <= row.limit + _LARGEST_STACK:
            break
        segments.append((row.limit, row.base))
        control = row.initial
    return segments


# walking ---------------------------------------------------------------------------------------------------------


class _Covered:
    """Memory of which a part was read before."""

    __slots__ = ("_data", "_low", "_size", "_source")

    def __init__(self, source: Read, low: int, data: bytes) -> None:
        self._source = source
        self._low = low
        self._data = data
        self._size = len(data)

    def read(self, address: int, size: int) -> bytes | None:
        offset = address - self._low
        if offset >= 0 and offset + size <= self._size:
            return self._data[offset : offset + size]
        return self._source(address, size)


def _present(target: Target, low: int, high: int) -> bytes:
    """What the dump holds of a stack from ``low`` on, without a gap."""
    data = target.memory.read(low, high - low)
    while data is None and high - low > 0x1000:
        high = (high - 1) & ~0xFFF
        data = target.memory.read(low, high - low)
    return data or b""


def _stack_bytes(target: Target, start: Start) -> _Covered:
    """The target's memory, with the used part of the stack that the walk begins on read once."""
    sp, (low, data) = start.context.sp, start.held
    if sp is not None and not low <= sp < low + len(data):
        low, data = 0, b""
        for limit, base in start.segments:
            if limit <= sp < base:
                low, data = sp, _present(target, sp, min(base, sp + _LARGEST_STACK))
    return _Covered(target.memory.read, low, data)


class StackWalker:
    """Walks the stacks of one target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.architecture = target.header.architecture
        self._tables: dict[int, Any] = {}
        self._places: dict[int, tuple[Module, Any] | None] = {}
        self._return_names: dict[int, Name | None] = {}
        #: KDDEBUGGER_DATA64.PointerAuthMask, ``None`` where the kernel does not report it.
        self.authentication = target.debugger["PointerAuthMask"] if target.debugger else None

    def walk(self, start: Start, most: int = MOST_FRAMES) -> Stack:
        """The backtrace from a start; at most ``most`` frames (never more than 1,024)."""
        most = max(1, min(most, MOST_FRAMES))
        walks: dict[str, type[_Amd64Walk | _Arm64Walk | _X86Walk]] = {
            "x64": _Amd64Walk,
            "arm64": _Arm64Walk,
            "x86": _X86Walk,
        }
        if self.architecture not in walks:
            return Stack((), f"no unwinder for {self.architecture}", False)
        # One frame more: it gives the return address and the arguments of the last one.
        stack = walks[self.architecture](self, start, most + 1).run()
        if len(stack.frames) <= most:
            return stack
        return Stack(stack.frames[:most], f"{most} frames, the limit", False)

    def registers_at_trap(self, start: Start, trap: int) -> Context | None:
        """The registers that a trap interrupted, as far as unwinding to its frame recovers them (x64).

        The volatile ones come from the trap frame, the others from what the functions above it saved. ``None`` when the
        walk does not come by that trap frame.
        """
        if self.architecture != "x64":
            return None
        walk = _Amd64Walk(self, start, MOST_FRAMES)
        walk.wanted_trap = trap
        walk.run()
        return walk.found

    def registers_of_frame(self, start: Start, number: int) -> Context | None:
        """The registers inside a frame, as far as unwinding recovers them: x64, and the first frame of any stack.

        Volatile registers are known where a frame was interrupted, and nowhere else. ``None`` where there is no such
        frame, or unwinding does not keep registers.
        """
        if number == 0:
            return start.context
        if self.architecture != "x64":
            return None
        walk = _Amd64Walk(self, start, MOST_FRAMES)
        walk.wanted_frame = number
        walk.run()
        return walk.found

    def name_of(self, frame: Frame) -> Name | None:
        """The name of where a frame executes; a return address is looked up as the call before it."""
        if not frame.call_site:
            return self.target.names.lookup(frame.ip)
        try:
            return self._return_names[frame.ip]
        except KeyError:
            name = self.target.names.lookup_return(frame.ip)
            return _remember(self._return_names, frame.ip, name)

    def place_of(self, ip: int) -> tuple[Module, Any] | None:
        """The module that an address lies in and its function table (see :meth:`table_of`); ``None`` outside of all."""
        try:
            return self._places[ip]
        except KeyError:
            module = self.target.names.module_of(ip)
            return _remember(self._places, ip, None if module is None else (module, self.table_of(module)))

    def table_of(self, module: Module) -> Any:
        """The function table of a module's image, made when first asked for; ``None`` when its headers are absent."""
        table = self._tables.get(module.base)
        if table is None and module.base not in self._tables:
            image = self.target.images.image_of(module)
            headers = image.headers()
            if headers is not None and headers.directories:
                kind = arm64_unwind if self.architecture == "arm64" else amd64_unwind
                table = kind.FunctionTable(image.read, headers.directory(EXCEPTION), module.size)
            self._tables[module.base] = table
        return table


def _remember(known: dict[int, _Value], key: int, value: _Value) -> _Value:
    """Keep what was found for an address: the same functions are on the stacks of many threads."""
    if len(known) >= _MOST_REMEMBERED:
        known.clear()
    known[key] = value
    return value


class _Walk:
    """What the walks of all architectures share: frames, limits, and the reasons to stop."""

    def __init__(self, walker: StackWalker, start: Start, most: int) -> None:
        self.walker = walker
        self.target = walker.target
        self.start = start
        self.most = most
        self.bytes = _stack_bytes(self.target, start)
        self.rows: list[list[Any]] = []
        self.unused = list(start.segments)
        self.segment: tuple[int, int] | None = None
        self.width = self.target.memory.pointer_size

    def add(self, ip: int, sp: int | None, trust: str, call_site: bool, fp: int | None = None) -> None:
        self.rows.append([sp, ip, trust, call_site, None, fp])

    def enter(self, sp: int, interrupted: bool = False) -> str | None:
        """Check a new stack pointer against the known stacks. The reason to stop, or ``None``.

        Code that used up its stack is interrupted with a stack pointer below it.
        """
        if self.segment is not None:
            if self.segment[0] <= sp <= self.segment[1]:
                if self.rows and self.rows[-1][0] is not None and sp < self.rows[-1][0]:
                    return f"the stack pointer goes down, from {self.rows[-1][0]:#x} to {sp:#x}"
                return None
        for segment in self.unused:
            low = segment[0] - _OVERFLOW if interrupted else segment[0]
            if low <= sp <= segment[1]:
                self.unused.remove(segment)
                self.segment = (min(low, sp), segment[1])
                return None
        return f"the stack pointer {sp:#x} lies outside the thread's stacks"

    def finish(self, end: str, complete: bool) -> Stack:
        rows = self.rows
        frames = []
        for number, (sp, ip, trust, call_site, trap, fp) in enumerate(rows[:-1]):
            following = rows[number + 1]
            arguments = self.arguments(following[0])
            frames.append(Frame(number, sp, ip, trust, call_site, following[1], arguments, trap, fp))
        for sp, ip, trust, call_site, trap, fp in rows[-1:]:
            frames.append(Frame(len(frames), sp, ip, trust, call_site, None, _NO_ARGUMENTS, trap, fp))
        return Stack(tuple(frames), end, complete)

    def arguments(self, sp: int | None) -> tuple[int | None, ...]:
        if sp is None or not (self.start.user_memory or self.target.is_kernel_address(sp)):
            return _NO_ARGUMENTS
        width = self.width
        data = self.bytes.read(sp, 4 * width)
        if data is not None:
            return struct.unpack("<4Q" if width == 8 else "<4I", data)
        if sp >> _PAGE_SHIFT == sp + 4 * width - 1 >> _PAGE_SHIFT:
            return _NO_ARGUMENTS
        parts = [self.bytes.read(sp + index * width, width) for index in range(4)]
        return tuple(None if part is None else int.from_bytes(part, "little") for part in parts)

    def pointer(self, address: int) -> int | None:
        data = self.bytes.read(address, self.width)
        return None if data is None else int.from_bytes(data, "little")

    def scan(self, sp: int) -> tuple[int, int] | None:
        """(return address, stack pointer after it) of the next value on the stack that can be a return address."""
        if self.segment is None:
            return None
        target = self.target
        # Calls are made with the stack pointer at a multiple of 16, so that the return address lies 8 below one.
        for address in range((sp + 7 & -16) + 8, min(self.segment[1], sp + _SCAN_REACH), 16):
            value = self.pointer(address)
            if value is None or not target.is_kernel_address(value):
                continue
            module = target.names.module_of(value)
            if module is None or not target.may_be_code(module, value):
                continue
            name = target.names.lookup(value)
            if name is not None and name.symbol is not None and name.offset == 0:
                continue
            if target.follows_call(value) is not False:
                return value, address + self.width
        return None


class _Amd64Walk(_Walk):
    wanted_trap: int | None = None
    wanted_frame: int | None = None
    found: Context | None = None

    def run(self) -> Stack:
        registers = amd64_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        rows = self.rows
        while True:
            ip, sp = registers.rip, registers.rsp
            if self.wanted_frame is not None and len(rows) == self.wanted_frame:
                self.found = registers.to_context("unwind")
                return self.finish("the wanted frame", True)
            if ip == 0 and call_site:
                return self.finish(*self.zero(sp))
            if ip < _KERNEL and not (sp and sp >= _KERNEL):
                self.add(ip, sp, trust, call_site)
                return self.finish("user mode", True)
            problem = self.against(sp, trust)
            if problem is None or not rows:
                rows.append([sp, ip, trust, call_site, None, None])
            if problem is not None:
                return self.finish(problem, False)
            if len(rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            following = self.step(registers, call_site)
            if isinstance(following, str):
                return self.finish(following, False)
            registers, trust, call_site = following
            if self.wanted_trap is not None and rows[-1][4] == self.wanted_trap:
                self.found = registers.to_context("unwind")
                return self.finish("the wanted trap frame", True)

    def against(self, sp: int | None, trust: str) -> str | None:
        """What is wrong with a frame's stack pointer; ``None`` when the walk can go on there."""
        if sp is None:
            return "the stack pointer is not known"
        if sp & 7:
            return f"the stack pointer {sp:#x} is not a multiple of 8"
        before = self.rows[-1][0] if self.rows else None
        if before is not None and self.segment is not None and before < sp <= self.segment[1]:
            return None
        return f"the stack pointer {sp:#x} does not go up" if sp == before else self.enter(sp, trust == TRAP_FRAME)

    def zero(self, sp: int | None) -> tuple[str, bool]:
        """What a return address of zero means: the outermost frame, which lies at the top of its stack."""
        if sp is None or self.segment is None or sp + _TOP_OF_STACK >= self.segment[1]:
            return "start of the thread", True
        return f"the return address below {sp:#x} is zero, far from the top of the stack", False

    def step(self, registers: Any, call_site: bool) -> tuple[Any, str, bool] | str:
        """The caller's registers, how they are known and whether its ip is a return address; or why there is none."""
        place_of = self.walker.place_of
        place = place_of(registers.rip)
        if place is None:
            return self.without_module(registers, call_site)
        module, table = place
        if table is None:
            return self.without_unwind_data(registers, f"the headers of {module.name} are not in the dump")
        outcome = amd64_unwind.unwind(registers, table, module.base, self.bytes.read, call_site=call_site)
        if outcome.registers is None:
            return self.without_unwind_data(registers, outcome.reason or "no unwind data")
        if outcome.machine_frame is not None:
            trap = outcome.machine_frame - _RIP_IN_TRAP_FRAME
            self.rows[-1][4] = trap
            wanted = self.wanted_trap is not None or self.wanted_frame is not None
            if wanted or self.target.is_kernel_address(outcome.registers.rip):
                self.merge_trap_frame(outcome.registers, trap)
            return outcome.registers, TRAP_FRAME, False
        if outcome.leaf and call_site:
            # A function that called another one has unwind data: either the table or the frame is not what it seems.
            return self.without_unwind_data(registers, f"{module.name} has no unwind data for {registers.rip:#x}")
        caller = outcome.registers
        if caller.rip and place_of(caller.rip) is None:
            return f"the return address {caller.rip:#x} lies outside every module"
        return caller, UNWIND, True

    def merge_trap_frame(self, registers: Any, trap: int) -> None:
        """Add the volatile registers that a trap frame saved to those that unwinding kept."""
        context = amd64.trap_frame(self.bytes.read, trap, self.target.nt)
        if context is None or context.ip != registers.rip:
            return
        saved = amd64_unwind.Registers.from_context(context)
        for index, value in enumerate(saved.gpr):
            if value is not None:
                registers.gpr[index] = value

    def without_module(self, registers: Any, call_site: bool) -> tuple[Any, str, bool] | str:
        """A jump to an address outside every module: its caller is on top of the stack, if a call put it there."""
        if call_site:
            return f"the return address {registers.rip:#x} lies outside every module"
        value = self.pointer(registers.rsp)
        module = self.target.names.module_of(value) if value else None
        if value is None or module is None or self.target.follows_call(value) is not True:
            return f"{registers.rip:#x} lies outside every module, and no return address is on top of the stack"
        caller = registers.copy()
        caller.rip = value
        caller.gpr[4] = registers.rsp + 8
        return caller, SCAN, True

    def without_unwind_data(self, registers: Any, reason: str) -> tuple[Any, str, bool] | str:
        known = self.at_entry(registers) or self.dispatcher(registers) or self.trap_handler(registers)
        if known is not None:
            return known
        found = self.scan(registers.rsp)
        if found is None:
            return f"{reason}; no further return address on the stack"
        return self.bare(*found), SCAN, True

    @staticmethod
    def bare(ip: int, sp: int) -> Any:
        return amd64_unwind.Registers.from_context(Context("x64", {"rip": ip, "rsp": sp}, "scan"))

    def at_entry(self, registers: Any) -> tuple[Any, str, bool] | None:
        """At the first instruction of a function the return address is on top of the stack: KeBugCheckEx in a dump."""
        if len(self.rows) != 1:
            return None
        name = self.target.names.lookup(registers.rip)
        first = name is not None and name.symbol is not None and name.offset == 0
        header = self.target.header_context
        bug_check = self.target.header.bug_check_code or 0
        if not first and not (
            header is not None and header.ip == registers.rip and bug_check >> 28 != 1 and self.home_slots()
        ):
            return None
        value = self.pointer(registers.rsp)
        if value is None or self.target.names.module_of(value) is None or self.target.follows_call(value) is False:
            return None
        caller = registers.copy()
        caller.rip = value
        caller.gpr[4] = registers.rsp + 8
        for index in (0, 1, 2, 8, 9, 10, 11):
            caller.gpr[index] = None
        return caller, UNWIND, True

    def home_slots(self) -> bool:
        """Whether the header's registers are those of a call of KeBugCheckEx: rcx holds the bug check code."""
        header = self.target.header_context
        code = self.target.header.bug_check_code
        return header is not None and code is not None and header.get("rcx") == code

    def dispatcher(self, registers: Any) -> tuple[Any, str, bool] | None:
        """KiBugCheckDispatch and its kin keep a KEXCEPTION_FRAME on top of their stack, and a trap frame above it."""
        if not self.rows[-1][3]:
            return None
        frame = registers.rsp
        trap = frame + _EXCEPTION_FRAME_SIZE
        value = self.pointer(trap - 8)
        module = self.target.names.module_of(value) if value else None
        own = self.target.names.module_of(registers.rip)
        if value is None or module is None or own is None or module.name != "nt" or own.name != "nt":
            return None
        if not amd64.looks_like_trap_frame(self.bytes.read, trap, self.target.nt):
            return None
        caller = registers.copy()
        saved = amd64.exception_frame(self.bytes.read, frame, self.target.nt)
        context = Context("x64", {**saved, "rip": value, "rsp": trap}, "exception frame", frame)
        restored = amd64_unwind.Registers.from_context(context)
        caller.gpr = [new if new is not None else None for new in restored.gpr]
        caller.rip = value
        return caller, TRAP_FRAME, True

    def trap_handler(self, registers: Any) -> tuple[Any, str, bool] | None:
        """A trap handler reached through a dispatcher keeps its trap frame at its stack pointer."""
        if self.rows[-1][2] != TRAP_FRAME or not self.rows[-1][3]:
            return None
        context = amd64.trap_frame(self.bytes.read, registers.rsp, self.target.nt)
        if context is None or context.ip is None:
            return None
        self.rows[-1][4] = registers.rsp
        caller = registers.copy()
        caller.rip = context.ip
        self.merge_trap_frame(caller, registers.rsp)
        return caller, TRAP_FRAME, False


class _Arm64Walk(_Walk):
    def run(self) -> Stack:
        registers = arm64_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        seen: set[tuple[int | None, ...]] = set()
        while True:
            ip, sp = registers.pc, registers.sp
            end = self.end_at(registers, trust, call_site)
            if end is None and (ip, sp, registers.fp) in seen:
                end = "the same frame comes again", False
            if end is not None:
                return self.finish(*end)
            seen.add((ip, sp, registers.fp))
            self.add(ip, sp, trust, call_site)
            if len(self.rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            outcome, trust = self.step(registers, call_site)
            if outcome.registers is None:
                ended = outcome.reason == "the frame-pointer chain ends"
                return self.finish("start of the thread" if ended else outcome.reason or "", ended)
            registers = outcome.registers
            call_site = outcome.machine_frame is None and outcome.call_site

    def end_at(self, registers: Any, trust: str, call_site: bool) -> tuple[str, bool] | None:
        ip, sp = registers.pc, registers.sp
        if ip == 0:
            return "start of the thread", True
        if not self.target.is_kernel_address(ip):
            self.add(ip, sp, trust, call_site)
            return "user mode", True
        # The outermost frame record has no frame pointer, and nothing above it to judge.
        problem = self.enter(registers.stack_address) if registers.stack_address else None
        if problem and not self.rows:
            self.add(ip, sp, trust, call_site)
        return (problem, False) if problem else None

    def step(self, registers: Any, call_site: bool) -> tuple[Any, str]:
        """One step by the image's unwind data, else by the frame-pointer chain."""
        module = self.target.names.module_of(registers.pc - 4 if call_site else registers.pc)
        mask = self.walker.authentication
        if module is None and call_site:
            reason = f"the return address {registers.pc:#x} lies outside every module"
            return arm64_unwind.Unwound(None, reason=reason), UNWIND
        table = self.walker.table_of(module) if module is not None else None
        if module is not None and table is not None:
            outcome = arm64_unwind.unwind(
                registers, table, module.base, self.bytes.read, call_site=call_site, mask=mask
            )
            if outcome.registers is not None:
                return outcome, UNWIND if outcome.machine_frame is None else TRAP_FRAME
        chain = arm64_unwind.frame_pointer_step(registers, self.bytes.read, self.segment, mask=mask)
        return chain, FRAME_POINTER


class _X86Walk(_Walk):
    def run(self) -> Stack:
        registers = x86_unwind.Registers.from_context(self.start.context)
        trust, call_site = self.start.trust, self.start.context.source == "switch frame"
        start = (self.start.context.sp or 0) & 0xFFFFFFFF
        segments = [(low & 0xFFFFFFFF, high & 0xFFFFFFFF) for low, high in self.start.segments]
        limits = next((segment for segment in segments if segment[0] <= start < segment[1]), None)
        while True:
            ip = _extended(registers.eip)
            if ip == 0:
                return self.finish("start of the thread", True)
            sp, fp = (None if value is None else _extended(value) for value in (registers.esp, registers.ebp))
            self.add(ip, sp, trust, call_site, fp)
            if not self.target.is_kernel_address(ip):
                return self.finish("user mode", True)
            if len(self.rows) >= self.most:
                return self.finish(f"{self.most} frames, the limit", False)
            outcome = x86_unwind.frame_pointer_step(registers, self.target.memory.read, limits)
            if outcome.registers is None:
                ended = outcome.reason == "the frame-pointer chain ends"
                return self.finish("start of the thread" if ended else outcome.reason or "", ended)
            registers, trust, call_site = outcome.registers, FRAME_POINTER, True


def _extended(address: int) -> int:
    return address | 0xFFFFFFFF00000000 if address & 0x80000000 else address


def walk_threads(walker: StackWalker, threads: Iterator[int], most: int = MOST_FRAMES) -> Iterator[tuple[int, Stack]]:
    """The stacks of many threads, as (ETHREAD address, stack); an empty one has the reason why there is no stack."""
    for thread in threads:
        try:
            yield thread, walker.walk(thread_start(walker.target, thread), most)
        except NoStack as error:
            yield thread, Stack((), str(error), False)
