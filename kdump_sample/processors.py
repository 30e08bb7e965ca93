"""Processors: KPCR, KPRCB, the register record of the crash, and the idle threads."""

from __future__ import annotations

from kdump_sample import context
from kdump_sample.context import Registers
from kdump_sample.images import Images
from kdump_sample.objects import THREAD, Objects
from kdump_sample.processes import STACK_TOP, Processes, StackRange
from kdump_sample.scene import Process, Processor, Thread
from kdump_sample.stacks import Frame, Stack, lay_out
from kdump_sample.workspace import Workspace

_RUNNING = 2
_IDLE_STACK_SIZE = 0x6000
_HIGH_LEVEL, _DISPATCH_LEVEL = 15, 2
_DPC_QUEUES = 2

#: The idle loop; which of the innermost frames there are depends on the kernel.
_IDLE_FRAMES = (
    Frame("KiIdleLoop"),
    Frame("PoIdle"),
    Frame("PpmIdleExecuteTransition"),
    Frame("PpmIdleDefaultExecute"),
    Frame("HalProcessorIdle"),
)

#: IpiFrozen of a processor that has stopped for another one, as small memory dumps of real machines show it.
_FROZEN = 2


class Processors:
    """Makes the processors of a machine. ``blocks`` are then the addresses of the KPRCBs, ``contexts`` those of the
    CONTEXT records, ``idle_threads`` those of the idle threads, each by processor number."""

    def __init__(self, work: Workspace, images: Images, objects: Objects, processes: Processes) -> None:
        self._work = work
        self._images = images
        self._objects = objects
        self._processes = processes
        self.blocks: list[int] = []
        self.contexts: list[int] = []
        self.idle_threads: list[int] = []
        for number, processor in enumerate(work.scene.processors):
            self._processor(number, processor)
        work.variable("KiProcessorBlock", self.blocks)

    def _processor(self, number: int, processor: Processor) -> None:
        work, scene = self._work, self._work.scene
        block = processor.pcr + work.layouts.offset("_KPCR", "Prcb")
        idle_thread = processor.idle_thread or work.required("KiInitialThread")
        idle_stack = self._idle_thread(number, processor, idle_thread)
        running = self._running(number)
        current = idle_thread if running is None else running[1].address
        directory = (scene.processes[0] if running is None else running[0]).directory_table_base
        crashed = number == scene.bug_check.processor
        record = work.pool("nonpaged", context.SIZE)
        state = idle_stack.registers if running is None else self._processes.registers[running[1].address]
        stopped = self._processes.context if crashed else Registers(state, 0x246).context()
        work.memory.write(record, stopped)
        self.blocks.append(block)
        self.contexts.append(record)
        self.idle_threads.append(idle_thread)
        work.zeroed("_KPCR", processor.pcr)
        work.structure(
            "_KPCR",
            processor.pcr,
            {
                "GdtBase": processor.pcr + 0x10FB0,
                "TssBase": processor.pcr + 0x11000,
                "IdtBase": processor.pcr + 0x10000,
                "Self": processor.pcr,
                "CurrentPrcb": block,
                "Irql": _HIGH_LEVEL if crashed else 0,
                "MajorVersion": 1,
                "MinorVersion": 1,
                "KdVersionBlock": 0 if number else work.symbol("KdVersionBlock") or 0,
            },
        )
        made = work.structure(
            "_KPRCB",
            block,
            {
                "MxCsr": context.MXCSR,
                "CurrentThread": current,
                "IdleThread": idle_thread,
                "Number": number,
                "LegacyNumber": number,
                "GroupSetMember": 1 << number,
                "RspBase": self._processes.stacks[current].base - STACK_TOP,
                "CpuType": 6,
                "CpuID": 1,
                "CpuStep": 0x9E0A,
                "MHz": 3192,
                "MinorVersion": 1,
                "MajorVersion": 1,
                "VendorString": "GenuineIntel",
                "InitialApicId": 2 * number,
                "DpcStack": processor.dpc_stack,
                "DebuggerSavedIRQL": _DISPATCH_LEVEL if crashed else 0,
                "IpiFrozen": 0 if crashed else _FROZEN,
                "Context": record,
                "ContextFlagsInit": context.ALL,
            },
        )
        for queue in range(_DPC_QUEUES if work.layouts.has("_KDPC_DATA", "DpcListHead") else 0):
            # Of Windows 7; an empty queue of later kernels is all zeros.
            work.empty_list(made.place(f"DpcData[{queue}].DpcListHead"))
        self._special_registers(block, processor, directory, crashed)

    def _special_registers(self, block: int, processor: Processor, directory: int, crashed: bool) -> None:
        work = self._work
        values = {
            "Cr0": 0x80050033,
            "Cr2": work.scene.bug_check.parameters[0] if crashed else 0,
            "Cr3": directory,
            "Cr4": 0x3506F8,
            "KernelDr6": 0xFFFF0FF0,
            "KernelDr7": 0x400,
            "Gdtr.Limit": 0x57,
            "Gdtr.Base": processor.pcr + 0x10FB0,
            "Idtr.Limit": 0xFFF,
            "Idtr.Base": processor.pcr + 0x10000,
            "Tr": 0x40,
            "MxCsr": context.MXCSR,
            "Cr8": _HIGH_LEVEL if crashed else 0,
            "MsrGsBase": processor.pcr,
            "MsrStar": 0x23001000000000,
            "MsrLStar": work.symbol("KiSystemCall64") or 0,
            "MsrSyscallMask": 0x4700,
            "Xcr0": 0x1F,
        }
        made = work.structures.at("_KPRCB", block)
        for name, value in values.items():
            made.set(f"ProcessorState.SpecialRegisters.{name}", value)

    def _running(self, number: int) -> tuple[Process, Thread] | None:
        """The thread that is not idle on a processor."""
        for process in self._work.scene.processes:
            for thread in process.threads:
                if thread.state == _RUNNING and thread.processor == number:
                    return process, thread
        return None

    def _idle_thread(self, number: int, processor: Processor, address: int) -> Stack:
        work, base = self._work, processor.idle_stack_base
        stack = lay_out(_IDLE_FRAMES, base - STACK_TOP, self._images.find, {})
        self._processes.keep_stack(address, stack, StackRange(stack.sp, base - _IDLE_STACK_SIZE, base))
        idle = work.symbol("KiInitialProcess") or 0
        work.zeroed("_ETHREAD", address)
        made = work.structure(
            "_ETHREAD",
            address,
            {
                "Tcb.InitialStack": base - STACK_TOP,
                "Tcb.StackBase": base,
                "Tcb.StackLimit": base - _IDLE_STACK_SIZE,
                "Tcb.KernelStack": base - STACK_TOP,
                "Tcb.State": _RUNNING,
                "Tcb.NextProcessor": number,
                "Tcb.IdealProcessor": number,
                "Tcb.Process": idle,
                "Tcb.ApcState.Process": idle,
                "Tcb.SystemThread": 1,
                "Tcb.KernelStackResident": 1,
            },
        )
        self._objects.dispatcher_header(made, "Tcb.Header", THREAD)
        return stack
