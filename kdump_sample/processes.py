"""Processes and threads of a scene, with their kernel stacks and the few user pages that full dumps hold."""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass

from kdump_sample import paging
from kdump_sample.context import Registers
from kdump_sample.images import Images
from kdump_sample.kernel_data import SHARED_DATA
from kdump_sample.objects import PROCESS, THREAD, Objects
from kdump_sample.physical import PAGE
from kdump_sample.scene import SECOND, Process, Thread
from kdump_sample.stacks import Frame, Placed, Stack, lay_out
from kdump_sample.structures import Structure
from kdump_sample.tokens import write_token
from kdump_sample.user_modules import UserMode
from kdump_sample.vads import VadTrees
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import FieldPath

_USER_SHARED_DATA = 0x7FFE0000
_RUNNING = 2
_IMAGE_NAME = 14
_STILL_ACTIVE = 0x103

#: KeBugCheckEx is entered with interrupts still enabled.
_BUG_CHECK_FLAGS = 0x40286
_BUG_CHECK_CONTEXT_FLAGS = 0x10000F

#: No stack of a scene is larger.
_LARGEST_STACK = 0x6000

#: Bytes between the stack pointer of a thread without user mode, or of one that entered from it, and its stack base.
STACK_TOP = 0x30

#: Facts that structures place differently from one build to the next.
_FIELDS: dict[str, FieldPath] = {
    "QuotaPaged": "ProcessQuotaUsage[1]",
    "QuotaNonPaged": "ProcessQuotaUsage[0]",
    "WorkingSetSize": ("Vm.Instance.WorkingSetSize", "Vm.WorkingSetSize"),
    "MinimumWorkingSetSize": ("Vm.Instance.MinimumWorkingSetSize", "Vm.MinimumWorkingSetSize"),
    "MaximumWorkingSetSize": ("Vm.Instance.MaximumWorkingSetSize", "Vm.MaximumWorkingSetSize"),
    "PeakWorkingSetSize": ("Vm.Instance.PeakWorkingSetSize", "Vm.PeakWorkingSetSize"),
    "PageFaultCount": ("Vm.Instance.PageFaultCount", "Vm.PageFaultCount"),
    "VadCount": ("VadCount", "VadRoot.NumberGenericTableElements"),
}


@dataclass(frozen=True)
class StackRange:
    """A thread's kernel stack: stack pointer, lowest address, and the first address beyond the highest.

    ``others`` are the used parts of further stacks that the thread went on to, as (lowest address, first above), the
    last one first. ``pointer`` is then where it left its own.
    """

    pointer: int
    limit: int
    base: int
    others: tuple[tuple[int, int], ...] = ()

    @property
    def used(self) -> list[tuple[int, int]]:
        """The parts in use, as (lowest address, first above), that with the stack pointer first."""
        return [*self.others, (self.pointer, self.base)]


class Processes:
    """Makes the processes of a machine. ``context`` is then the CONTEXT record of the bug check; ``stacks``,
    ``frames`` (outermost first) and ``registers`` (of the innermost frame) are by the address of the thread."""

    def __init__(self, work: Workspace, images: Images, objects: Objects) -> None:
        self._work = work
        self._images = images
        self._objects = objects
        self._vads = VadTrees(work, objects)
        self.context = b""
        self.stacks: dict[int, StackRange] = {}
        self.registers: dict[int, dict[str, int]] = {}
        self.frames: dict[int, list[Placed]] = {}
        for process in work.scene.processes:
            self._process(process)
        self._link()

    def _link(self) -> None:
        work, processes = self._work, self._work.scene.processes
        links = work.layouts.offset("_EPROCESS", "ActiveProcessLinks")
        head = work.symbol("PsActiveProcessHead")
        if head is not None:
            listed = [process for process in processes if "list" not in process.hidden_from]
            work.structures.link(head, [process.address + links for process in listed])
        system = next((process for process in processes if process.pid == 4), None)
        if system is not None:
            work.variable("PsInitialSystemProcess", system.address)
        idle = work.symbol("KiInitialProcess")
        if idle is not None:
            base = processes[0].directory_table_base
            work.zeroed("_EPROCESS", idle)
            made = work.structure("_EPROCESS", idle, {"Pcb.DirectoryTableBase": base, "ImageFileName": "Idle"})
            self._objects.dispatcher_header(made, "Pcb.Header", PROCESS)
            work.variable("PsIdleProcess", idle)

    def _process(self, process: Process) -> None:
        work = self._work
        created = work.scene.system_time - min(round(process.created * SECOND), work.scene.uptime)
        work.zeroed("_EPROCESS", process.address)
        made = work.structure(
            "_EPROCESS",
            process.address,
            {
                "Pcb.DirectoryTableBase": process.directory_table_base,
                "UniqueProcessId": process.pid,
                "InheritedFromUniqueProcessId": process.parent,
                "ImageFileName": process.image[:_IMAGE_NAME],
                "CreateTime": created,
                "Peb": process.peb,
                "ObjectTable": process.handle_table,
                # an EX_FAST_REF: the low four bits count references
                "Token": process.token | 0xD if process.token else 0,
                "DeviceMap": process.device_map,
                "ActiveThreads": len(process.threads),
                "PriorityClass": 2,
                "SectionBaseAddress": process.image_base,
                "ExitStatus": _STILL_ACTIVE,
                "Flags": 0x144D0C01,
                ("VadRoot.Root", "VadRoot.BalancedRoot.RightChild"): process.vad_root,
            },
        )
        made.fill({_FIELDS.get(name, name): value for name, value in process.fields.items()})
        self._objects.dispatcher_header(made, "Pcb.Header", PROCESS)
        self._objects.header(process.address, "Process", 4, 0x7FF0)
        if process.handle_table:
            self._handle_table(process)
        if process.session is not None:
            self._session(made, process.session)
        if process.path:
            self._image_path(made, process.path)
        if process.regions:
            self._vads.write(made, process.regions)
        elif process.vad_root:
            self._vad(process)
        if process.identity is not None:
            write_token(work.structures, work.layouts, process.token, process.identity)
            self._objects.header(process.token, "Token", 0, 0x10)
        user = UserMode(work, process)
        for thread in process.threads:
            self._thread(process, _entering(thread, user))
        self._link_threads(process)
        if process.command_line:
            self._user_memory(process, user)

    def _handle_table(self, process: Process) -> None:
        made = self._work.structure(
            "_HANDLE_TABLE",
            process.handle_table,
            {
                "QuotaProcess": process.address,
                "UniqueProcessId": process.pid,
                ("FreeLists[0].HandleCount", "HandleCount"): process.handles,
            },
        )
        self._work.empty_list(made.place("HandleTableList"))

    def _session(self, made: Structure, number: int) -> None:
        address = self._work.scene.session_space + 0x6000 * number
        made.fill({"Session": address, "ProcessInSession": 1})
        for type_name in ("_MM_SESSION_SPACE", "_PSP_SESSION_SPACE"):
            if self._work.layouts.has_type(type_name):
                self._work.structure(type_name, address, {"SessionId": number, "ReferenceCount": 4})

    def _image_path(self, made: Structure, path: str) -> None:
        buffer = self._work.pool("paged", 0x10 + 2 * len(path) + 2)
        name = self._work.structure("_OBJECT_NAME_INFORMATION", buffer)
        name.unicode("Name", path, buffer + 0x10)
        made.set("SeAuditProcessCreationInfo.ImageFileName", buffer)

    def _vad(self, process: Process) -> None:
        """The root of the VAD tree alone: the private region of the PEB and the first TEB."""
        first, last = process.peb // PAGE, process.peb // PAGE + 3
        made = self._work.structure("_MMVAD_SHORT", process.vad_root)
        if self._work.layouts.has("_MMVAD_SHORT", "StartingVpnHigh"):
            made.fill({"StartingVpnHigh": first >> 32, "EndingVpnHigh": last >> 32})
        made.fill({"StartingVpn": first, "EndingVpn": last})

    def _link_threads(self, process: Process) -> None:
        layouts = self._work.layouts
        for list_path, type_name in (("ThreadListHead", "_ETHREAD"), ("Pcb.ThreadListHead", "_KTHREAD")):
            head = layouts.find("_EPROCESS", list_path)
            entry = layouts.find(type_name, "ThreadListEntry")
            if head is not None and entry is not None:
                entries = [thread.address + entry.offset for thread in process.threads]
                self._work.structures.link(process.address + head.offset, entries)

    # threads --------------------------------------------------------------------------------------------------------

    def _thread(self, process: Process, thread: Thread) -> None:
        work, scene = self._work, self._work.scene
        limit, initial = thread.stack_base - thread.stack_size, thread.stack_base - STACK_TOP
        stack = lay_out(thread.frames, initial, self._images.find, thread.registers)
        running = thread.state == _RUNNING
        if running and thread.processor == scene.bug_check.processor:
            stack.call(work.required("KeBugCheckEx"))
            self.context = self._bug_check_context(stack)
        self.keep_stack(thread.address, stack, StackRange(stack.sp, limit, thread.stack_base))
        worker = work.symbol("ExpWorkerThread") or 0
        work.zeroed("_ETHREAD", thread.address)
        made = work.structure(
            "_ETHREAD",
            thread.address,
            {
                "Cid.UniqueProcess": process.pid,
                "Cid.UniqueThread": thread.tid,
                "CreateTime": scene.system_time - round(thread.created * SECOND),
                "StartAddress": thread.start_address or worker,
                "Win32StartAddress": thread.win32_start_address or worker,
                "ThreadInserted": 1,
                "ThreadIoPriority": thread.io_priority,
                "ThreadPagePriority": thread.page_priority,
                "Tcb.InitialStack": initial,
                "Tcb.StackLimit": limit,
                "Tcb.StackBase": thread.stack_base,
                # of a running thread: where it last stopped, overwritten since
                "Tcb.KernelStack": initial - 0x500 if running else stack.sp,
                "Tcb.State": thread.state,
                "Tcb.Running": int(running),
                "Tcb.NextProcessor": thread.processor,
                "Tcb.IdealProcessor": thread.ideal_processor,
                "Tcb.UserIdealProcessor": thread.ideal_processor,
                "Tcb.Process": process.address,
                "Tcb.ApcState.Process": process.address,
                "Tcb.Teb": thread.teb,
                "Tcb.Win32Thread": thread.win32_thread,
                "Tcb.WaitTime": thread.wait_time,
                "Tcb.WaitReason": thread.wait_reason,
                "Tcb.WaitMode": thread.wait_mode,
                "Tcb.ContextSwitches": thread.context_switches,
                "Tcb.KernelTime": thread.kernel_ticks,
                "Tcb.UserTime": thread.user_ticks,
                "Tcb.Priority": thread.priority,
                "Tcb.BasePriority": thread.base_priority,
                "Tcb.PreviousMode": int(bool(thread.teb)),
                "Tcb.KernelStackResident": 1,
                "Tcb.SystemThread": int(not thread.teb),
            },
        )
        trap_frames = [placed.trap_frame for placed in stack.placed if placed.trap_frame is not None]
        if trap_frames:
            made.set("Tcb.TrapFrame", trap_frames[0])
        work.empty_list(made.place("IrpList"))
        self._objects.dispatcher_header(made, "Tcb.Header", THREAD)
        self._objects.header(thread.address, "Thread", 1, 0x7FF0)
        self._objects.wait(made, thread)

    def _bug_check_context(self, stack: Stack) -> bytes:
        """The registers at KeBugCheckEx's first instruction."""
        check = self._work.scene.bug_check
        arguments = dict(zip(("rcx", "rdx", "r8", "r9"), check.called_with, strict=False))
        registers = Registers({**check.volatile, **arguments, **stack.registers}, _BUG_CHECK_FLAGS)
        return registers.context(_BUG_CHECK_CONTEXT_FLAGS)

    def keep_stack(self, thread: int, stack: Stack, extent: StackRange) -> None:
        """Write a thread's stack, from the page of its lowest word to its base, and remember it. The same for other
        stacks that its frames lie on."""
        others: list[tuple[int, int]] = []
        for top in stack.tops:
            kept = {address: value for address, value in stack.words.items() if top - _LARGEST_STACK <= address < top}
            base = extent.base if top == stack.tops[0] else top
            start = min(kept, default=base) // PAGE * PAGE
            content = bytearray(base - start)
            for address, value in kept.items():
                struct.pack_into("<Q", content, address - start, value)
            self._work.memory.write(start, content)
            if top != stack.tops[0]:
                others.insert(0, (stack.sp if top == stack.tops[-1] else min(kept), top))
            elif len(stack.tops) > 1:
                extent = dataclasses.replace(extent, pointer=min(kept))
        self.stacks[thread] = dataclasses.replace(extent, others=tuple(others))
        self.frames[thread] = stack.placed
        self.registers[thread] = stack.registers
        for placed in stack.placed:
            if placed.trap_frame is not None:
                self._trap_frame(placed.frame, placed.trap_frame)

    def _trap_frame(self, frame: Frame, address: int) -> None:
        """The fields of a trap frame that are not on the stack through pushes."""
        assert frame.trap is not None
        made = self._work.structure("_KTRAP_FRAME", address, {"MxCsr": 0x1F80})
        for name, value in frame.trap.registers.items():
            made.set(name.capitalize(), value)
        for name, value in frame.trap.fields.items():
            made.set(name, value)

    # user mode ------------------------------------------------------------------------------------------------------

    def _user_memory(self, process: Process, user: UserMode) -> None:
        """PEB, TEBs and process parameters, and the shared page that every process sees."""
        work, root = self._work, process.directory_table_base
        parameters = process.parameters
        peb = work.structures.at("_PEB", process.peb, root)
        peb.fill(
            {
                "ImageBaseAddress": process.image_base,
                "ProcessParameters": parameters,
                "NumberOfProcessors": len(work.scene.processors),
                "OSMajorVersion": work.era.version[0],
                "OSMinorVersion": work.era.version[1],
                "OSBuildNumber": work.era.build,
                "OSPlatformId": 2,
                "SessionId": process.session or 0,
            }
        )
        made = work.structures.at("_RTL_USER_PROCESS_PARAMETERS", parameters, root)
        made.fill({"MaximumLength": PAGE, "Length": PAGE, "Flags": 1})
        image = work.scene.system_root[:2] + "\\" + process.path.split("\\", 3)[3]
        made.unicode("ImagePathName", image, parameters + 0x800)
        made.unicode("CommandLine", process.command_line, parameters + 0xA00)
        made.unicode("WindowTitle", image, parameters + 0xC00)
        if process.dlls:
            peb.set("Ldr", user.loader())
        if process.environment:
            address, size = user.environment()
            made.fill({"Environment": address, "EnvironmentSize": size})
        for thread in process.threads:
            teb = work.structures.at("_TEB", thread.teb, root)
            teb.fill(
                {
                    "NtTib.Self": thread.teb,
                    "ClientId.UniqueProcess": process.pid,
                    "ClientId.UniqueThread": thread.tid,
                    "ProcessEnvironmentBlock": process.peb,
                    "NtTib.StackBase": thread.user_stack_base,
                    "NtTib.StackLimit": thread.user_stack_base and thread.user_stack_base - 0x4000,
                    "LastErrorValue": thread.last_error,
                    "LastStatusValue": thread.last_status,
                }
            )
        if process.wow64:
            user.narrow()
        shared = work.memory.translate(SHARED_DATA)
        if shared is not None:
            work.memory.map(_USER_SHARED_DATA, shared, paging.USER_READ_ONLY, root)


def _entering(thread: Thread, user: UserMode) -> Thread:
    """The thread with the entry into the kernel where its frames in user mode end."""
    if not thread.user_frames:
        return thread
    made = user.stack(thread)
    entry, *rest = thread.frames
    assert entry.trap is not None
    trap = dataclasses.replace(entry.trap, rip=made.registers["rip"], rsp=made.sp)
    registers = {name: value for name, value in made.registers.items() if name not in ("rip", "rsp")}
    frames = (dataclasses.replace(entry, trap=trap), *rest)
    return dataclasses.replace(thread, frames=frames, registers=registers)
