"""Facts of a crash that need no judgement: what system it was, which dump, which thread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.bugcheck import describe
from volatility3_kdump.analysis.failure import Failure
from volatility3_kdump.dump.cpuid import ProcessorIdentity, processor_identity
from volatility3_kdump.dump.smbios import MachineInformation, machine_information
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.version_resource import module_version
from volatility3_kdump.windows.machine.releases import kernel_version
from volatility3_kdump.windows.machine.shared_data import shared_data
from volatility3_kdump.windows.machine.version import build_lab, windows_name
from volatility3_kdump.windows.processes.crashed import crash_thread

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MINIDUMP_NAME = re.compile(r"\d{6}-\d+-(\d+)\.dmp", re.IGNORECASE)
_BUILD_LAB = re.compile(r"(?P<build>\d+)\.(?P<revision>\d+)\.(?P<kind>[^.]+)\.(?P<branch>[^.]+)")
#: Tagged data of the black boxes, by the tag that the debugger prints when they are there.
_BLACK_BOXES = {
    "f57308df-cc45-4e01-ad76-29a4ebb010ec": "BLACKBOXBSD",
    "00afe9c4-940d-4213-8016-cd3719b5bc20": "BLACKBOXNTFS",
    "b7631941-532a-4cd6-b1b1-edb5917d4557": "BLACKBOXPNP",
    "80cc79cf-a719-4af1-bf97-fe29ff76ebc1": "BLACKBOXWINLOGON",
}
#: Attribute bit LiveDumpGeneratedDump of the dump header.
_LIVE_DUMP = 0x10
#: Tools that dump a running system and say so in the header's comment.
_LIVE_TOOLS = ("LiveKD", "DumpIt", "winpmem", "elf2dmp")
#: Version numbers before KUSER_SHARED_DATA is consulted, by the first build that has them.
_VERSIONS = ((10240, "10.0"), (9600, "6.3"), (9200, "6.2"), (7600, "6.1"), (6000, "6.0"), (3790, "5.2"), (2600, "5.1"))


@dataclass(frozen=True)
class Facts:
    """What ``!analyze -v`` prints of the system and the dump; ``None`` where the dump does not tell.

    ``os_version`` is ``10.0.BUILD.REVISION`` with the revision of the build lab string, where that is not in the dump
    the kernel's version; ``attributes`` the header's DUMP_FILE_ATTRIBUTES, ``last_line`` what the dump's
    writer said last; ``crash_count`` the number in a small memory
    dump's file name. ``live`` says how it is known that the system was not stopped, ``None`` where it was;
    ``up_time`` is in units of 100 ns. ``machine`` and ``processor`` are by the dump's tagged data.
    """

    dump_file: str
    virtual_machine: str | None
    attributes: int | None
    attribute_names: tuple[str, ...]
    last_line: str | None
    faulting_thread: int | None
    black_boxes: tuple[str, ...]
    crash_count: int | None
    os_version: str | None
    build_lab: str | None
    platform: str
    os_name: str | None
    stack_command: str
    live: str | None = None
    up_time: int | None = None
    machine: MachineInformation | None = None
    processor: ProcessorIdentity | None = None


def gather_facts(target: Target, failure: Failure | None, thread: int | None) -> Facts:
    """The facts of a crash; ``thread`` is the ETHREAD that is held responsible."""
    header = target.header
    machine = machine_information(target.dump.source, target.dump.tagged)
    counted = _MINIDUMP_NAME.fullmatch(target.dump_file)
    lab = _BUILD_LAB.match(build_lab(target) or "")
    build = header.build_number
    shared = shared_data(target)
    version = next((version_name for first, version_name in _VERSIONS if build is not None and build >= first), None)
    if shared is not None:
        version = f"{shared.major_version}.{shared.minor_version}"
    kernel = kernel_version(target)
    os_version = kernel.text if kernel is not None else None
    if version and lab:
        os_version = f"{version}.{lab['build']}.{lab['revision']}"
    record = failure.context_record if failure is not None else None
    tags = {str(blob.tag) for blob in target.dump.tagged}
    return Facts(
        dump_file=target.dump_file,
        virtual_machine=machine.virtual_machine if machine else None,
        attributes=header.attributes,
        attribute_names=header.attribute_names or (),
        last_line=header.last_line,
        faulting_thread=thread,
        black_boxes=tuple(name for tag, name in _BLACK_BOXES.items() if tag in tags),
        crash_count=int(counted[1]) if counted and target.dump.triage is not None else None,
        os_version=os_version,
        build_lab=lab["branch"] if lab else None,
        platform=header.architecture,
        os_name=windows_name(build),
        stack_command=_stack_command(target, thread, record),
        live=live_reason(target),
        up_time=header.system_up_time,
        machine=machine,
        processor=processor_identity(target.dump.source, target.dump.tagged),
    )


def live_reason(target: Target) -> str | None:
    """How it is known that the dump is of a system that was not stopped; ``None`` where nothing says so.

    Codes of live dumps, the attribute that the kernel sets in them (``mindumpdef.h``), and comments of tools that dump
    a running system.
    """
    header = target.header
    code = header.bug_check_code
    if code is not None and describe(code, ()).live:
        return "its code is one of live dumps"
    if header.attributes is not None and header.attributes & _LIVE_DUMP:
        return "the attributes in its header say so"
    comment = (header.comment or "").lower()
    tool = next((name for name in _LIVE_TOOLS if name.lower() in comment), None)
    return f"the comment in its header is that of {tool}" if tool else None


def _stack_command(target: Target, thread: int | None, record: int | None) -> str:
    """What shows the analysed stack at the prompt: another thread's, that of a context record, or the crash's."""
    crashed = crash_thread(target)
    if thread is not None and crashed is not None and thread != crashed.address:
        return f".thread 0x{thread:x} ; kb"
    return ".thread ; .cxr ; kb" if record is None else f".cxr 0x{record:x} ; kb"


def version_of(target: Target, module: Module | None) -> str | None:
    """The file version of a module's image; ``None`` when its resources are not in the dump and in no image file.

    The kernel's is known from a table as well.
    """
    if module is None:
        return None
    version = module_version(target.images.image_of(module))
    if version is not None:
        return version.file_version
    kernel = kernel_version(target) if target.kernel is not None and target.kernel.base == module.base else None
    return kernel.text if kernel is not None else None
