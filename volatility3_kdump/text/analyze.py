"""The output of ``!analyze -v`` from an analysed crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.bugcheck import box, explanation
from volatility3_kdump.text.registers import absent_code_line, code_line, register_block
from volatility3_kdump.text.stacks import stack_text

if TYPE_CHECKING:
    from volatility3_kdump.analysis.crash import Crash
    from volatility3_kdump.analysis.failure import Failure
    from volatility3_kdump.target import Target

NOTE = (
    "NOTE: The trap frame does not contain all registers.",
    "Some register values may be zeroed or incorrect.",
)


def analyze(target: Target, crash: Crash) -> Iterator[str]:
    """Every line, in KD's order and layout."""
    size = target.memory.pointer_size
    yield from box()
    if crash.bug_check is None:
        yield "The bug check code in the dump header was never set."
    else:
        yield from explanation(crash.bug_check, size)
    yield ""
    yield "Debugging Details:"
    yield "------------------"
    yield ""
    for warning in crash.notes:
        yield f"*** WARNING: {warning}"
    if crash.notes:
        yield ""
    if crash.process is not None and crash.process.name:
        yield f"PROCESS_NAME:  {crash.process.name}"
        yield ""
    failure = crash.failure
    if failure is not None and failure.at_fault:
        yield from _failure(target, failure)
    if crash.stack.frames:
        yield "STACK_TEXT:  "
        yield from stack_text(target.walker, crash.stack)
        yield ""
    if failure is not None and failure.at_fault:
        if failure.module is not None:
            yield f"MODULE_NAME: {failure.module.name}"
            yield ""
            yield f"IMAGE_NAME:  {failure.module.image_name}"
            yield ""


def _failure(target: Target, failure: Failure) -> Iterator[str]:
    if failure.exception_record is not None:
        yield f"EXCEPTION_RECORD:  {failure.exception_record:016x} -- (.exr 0x{failure.exception_record:x})"
        yield ""
    if failure.trap_frame is not None:
        yield f"TRAP_FRAME:  {failure.trap_frame:016x} -- (.trap 0x{failure.trap_frame:x})"
        yield from NOTE
    elif failure.context_record is not None:
        yield f"CONTEXT:  {failure.context_record:016x} -- (.cxr 0x{failure.context_record:x})"
    else:
        yield "CONTEXT:  (.ecxr)"
    yield from register_block(failure.shown, kd=True)
    yield from shown_code(target, failure)
    yield "Resetting default scope"
    yield ""


def shown_code(target: Target, failure: Failure) -> Iterator[str]:
    """The symbol line and the instruction line that follow a register block, with KD's own operand note."""
    ip = failure.shown.ip
    if ip is None:
        return
    yield f"{failure.name or pointer(ip, target.memory.pointer_size)}:"
    instruction = failure.shown_instruction
    if instruction is None:
        yield absent_code_line(ip, failure.shown.architecture)
    else:
        yield code_line(instruction, failure.shown, kd=True)
