"""Critical processes that end, and crashes on request: 0xEF, 0xF4, 0xE2, 0x161."""

from __future__ import annotations

import dataclasses

from kdump_sample.code import Allocate, Call, Function
from kdump_sample.dispatch import TERMINATION
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import Process, Record, Scene
from kdump_sample.scenes import scene
from kdump_sample.scenes.crashes import add, request
from kdump_sample.stacks import Frame
from kdump_sample.variants import crashed, crashing, with_frames, with_process
from volatility3_kdump.layout import Layouts

_ACCESS_VIOLATION, _KILLED = 0xC0000005, 1
_PROCESS = 3
_MESSAGE = 0xFFFF91894EF20000


def _named(made: Scene, image: str) -> Process:
    return next(process for process in made.processes if process.image == image)


def _terminated(status: int) -> Scene:
    """csrss.exe is being ended by a system call of the crashing thread."""
    made = high_irql_fault()
    outer = crashing(made)[1].frames[0]
    frames = (outer, *(Frame(function.name) for function in reversed(TERMINATION)))
    made = with_frames(made, frames)
    victim = _named(made, "csrss.exe")
    made = with_process(made, dataclasses.replace(victim, fields={**victim.fields, "ExitStatus": status}))
    return dataclasses.replace(made, requests=(), paged_out=(), kernel_functions=TERMINATION)


@scene("critical-process")
def critical_process(layouts: Layouts) -> Scene:
    """0xEF: notmyfault64.exe ends csrss.exe."""
    made = _terminated(_KILLED)
    victim = _named(made, "csrss.exe").address
    made = add(made, blocks=((victim, layouts.size_of("_EPROCESS")),))
    return crashed(made, 0xEF, (victim, 0, 0, 0))


@scene("critical-termination")
def critical_termination(layouts: Layouts) -> Scene:
    """0xF4: csrss.exe ended with an access violation."""
    made = _terminated(_ACCESS_VIOLATION)
    victim = _named(made, "csrss.exe").address
    message = b"Terminating critical process 0x%p (%s)\n\0"
    made = add(
        made,
        records=(Record(_MESSAGE, message),),
        blocks=((victim, layouts.size_of("_EPROCESS")), (_MESSAGE, len(message))),
    )
    name = victim + layouts.offset("_EPROCESS", "ImageFileName")
    return crashed(made, 0xF4, (_PROCESS, victim, name, _MESSAGE))


def _on_request() -> Scene:
    return request(
        Function("Crash", (Allocate(0x38),), (Call(0x20, "import:KeBugCheckEx"),), returns=False),
        (Frame("myfault!Crash"),),
        imports=("KeBugCheckEx",),
    )


@scene("manual")
def manual(layouts: Layouts) -> Scene:
    """0xE2: somebody asked for it."""
    return crashed(_on_request(), 0xE2, (0, 0, 0, 0))


@scene("live-dump")
def live_dump(layouts: Layouts) -> Scene:
    """0x161: Task Manager asked for a dump of the running system."""
    return crashed(_on_request(), 0x161, (int.from_bytes(b"Taskmgr", "big"), 0, 0, 0))
