"""The output of ``!analyze -v`` from an analysed crash, in KD's order and layout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.buckets import asked_for
from volatility3_kdump.analysis.failure import failure_rule
from volatility3_kdump.analysis.plausibility import MISALIGNED
from volatility3_kdump.analysis.weighing import INVENTED
from volatility3_kdump.cpu.exception import (
    STACK_BUFFER_OVERRUN,
    ExceptionRecord,
    access_kind,
    accessed_address,
    code_text,
)
from volatility3_kdump.tables import fast_fail_codes
from volatility3_kdump.text.addresses import plain, pointer
from volatility3_kdump.text.bugcheck import box, explanation
from volatility3_kdump.text.registers import absent_code_line, code_line, register_block
from volatility3_kdump.text.stacks import stack_text

if TYPE_CHECKING:
    from volatility3_kdump.analysis.crash import Crash
    from volatility3_kdump.analysis.failure import Failure
    from volatility3_kdump.analysis.reasoning import Finding
    from volatility3_kdump.analysis.verdict import Verdict
    from volatility3_kdump.symbols.names import Name

NOTE = (
    "NOTE: The trap frame does not contain all registers.",
    "Some register values may be zeroed or incorrect.",
)
_RESET = "Resetting default scope"
_FAST_FAIL, _SECOND = 0x139, 10_000_000

#: Tags that KD prints behind PROCESS_NAME; all others of the per-code findings come before it.
_LATE = frozenset(
    {
        "ERROR_CODE",
        "EXCEPTION_CODE",
        "EXCEPTION_CODE_STR",
        "EXCEPTION_PARAMETER1",
        "EXCEPTION_PARAMETER2",
        "EXCEPTION_STR",
        "DPC_STACK_BASE",
        "LOCK_ADDRESS",
        "PNP_TRIAGE_DATA",
        "FAILED_INSTRUCTION_ADDRESS",
        "BAD_STACK_POINTER",
    }
)
#: Tags with one space behind the colon instead of two.
_ONE_SPACE = frozenset(
    {
        "MODULE_NAME",
        "DUMP_FILE_ATTRIBUTES",
        "DEVICE_OBJECT",
        "DRIVER_OBJECT",
        "FAULTING_MODULE",
        "ERROR_CODE",
        "BLACKBOXBSD",
        "BLACKBOXNTFS",
        "BLACKBOXPNP",
        "BLACKBOXWINLOGON",
        "BUGCHECK_P1",
        "BUGCHECK_P2",
        "BUGCHECK_P3",
        "BUGCHECK_P4",
    }
)
_RUNNING = (
    "What is shown is what its first processor was doing; !running -it shows all of them, !analyze -hang looks for "
    "what holds it up."
)
_ATTRIBUTE_WORDS = {
    "HiberCrash": "Hiber Crash Dump",
    "DumpDevicePowerOff": "Dump Device Power Off",
    "InsufficientDumpfileSize": "Insufficient Dumpfile Size",
    "KernelGeneratedTriageDump": "Kernel Generated Triage Dump",
    "LiveDumpGeneratedDump": "Live Generated Dump",
    "DumpIsGeneratedOffline": "Dump Is Generated Offline",
    "FilterDumpFile": "Filter Dump File",
    "EarlyBootCrash": "Early Boot Crash",
    "EncryptedDumpData": "Encrypted Dump Data",
    "DecryptedDump": "Decrypted Dump",
}


def analyze(crash: Crash, size: int, site: Name | None) -> Iterator[str]:
    """Every line. ``size`` is that of a pointer in bytes, ``site`` the name of where the exception was."""
    yield from box()
    if crash.bug_check is None:
        yield f"{crash.no_bug_check}."
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
    yield from _key_values(crash)
    yield from _first_fields(crash)
    yield from _plausibility(crash)
    if crash.faulting_module is not None:
        yield from field("FAULTING_MODULE", f"{_address(crash.faulting_module, size)} {crash.verdict.module_name}")
    yield from _findings(crash, late=False)
    failure = crash.failure
    if failure is not None:
        yield from _records(failure, size, site)
    yield from _black_boxes(crash)
    if crash.process is not None and crash.process.name:
        yield from field("PROCESS_NAME", crash.process.name)
    yield from _findings(crash, late=True)
    if failure is not None and failure.trap_frame is not None:
        yield f"TRAP_FRAME:  {_address(failure.trap_frame, size)} -- (.trap 0x{failure.trap_frame:x})"
        yield from NOTE
        yield from _registers(failure, size)
    if crash.stack.frames:
        yield "STACK_TEXT:  "
        yield from stack_text(crash.stack, size)
        yield ""
    yield from _last_fields(crash)


def brief(crash: Crash) -> Iterator[str]:
    """The output of ``!analyze`` without ``-v``."""
    yield from box()
    yield "Use !analyze -v to get detailed debugging information."
    yield ""
    if crash.bug_check is None:
        yield f"{crash.no_bug_check}."
    else:
        values = (argument.value for argument in crash.bug_check.arguments)
        listed = ", ".join("?" if value is None else f"{value:x}" for value in values)
        yield f"BugCheck {crash.bug_check.raw_code:X}, {{{listed}}}"
    yield ""
    verdict = crash.verdict
    asked = _asked(crash)
    if asked is not None:
        yield nobody(asked)
        yield ""
    elif verdict.image_name:
        named = otherwise_named(verdict)
        site = f" ( {verdict.symbol_name} )" if verdict.symbol_name and named is None else ""
        yield f"Probably caused by : {named or verdict.image_name}{site}"
        yield ""
    if crash.crashed is False:
        yield _RUNNING
        return
    yield f"Followup:     {verdict.followup}"
    yield "---------"


def field(tag: str, value: str) -> Iterator[str]:
    """A field and the blank line behind it."""
    yield f"{tag}:{' ' if tag in _ONE_SPACE else '  '}{value}"
    yield ""


def _key_values(crash: Crash) -> Iterator[str]:
    """KEY_VALUES_STRING: the keys that the dump itself tells, sorted as KD sorts them."""
    values: dict[str, str] = {}
    for finding in crash.reasoning.findings:
        if "." in finding.tag:
            values[finding.tag] = finding.value
    if crash.bug_check is not None:
        if crash.recorded.code is not None:
            values["Bugcheck.Code.KiBugCheckData"] = f"0x{crash.recorded.code:x}"
        values["Bugcheck.Code.LegacyAPI"] = f"0x{crash.bug_check.raw_code:x}"
        values["Bugcheck.Code.TargetModel"] = f"0x{crash.bug_check.raw_code:x}"
    facts, verdict = crash.facts, crash.verdict
    if facts.attributes is not None:
        values["Dump.Attributes.AsUlong"] = f"0x{facts.attributes:x}"
        for name in facts.attribute_names:
            if not name.startswith("0x"):
                values[f"Dump.Attributes.{name}"] = "1"
    if facts.last_line:
        values["Dump.Attributes.LastLine"] = facts.last_line
    if verdict.bucket:
        values["Failure.Bucket"] = verdict.bucket
    values.update(_exception_keys(crash))
    if verdict.bucket_hash:
        values["Failure.Hash"] = f"{{{verdict.bucket_hash}}}"
    if crash.bug_check is not None and crash.bug_check.code == _FAST_FAIL:
        entry = fast_fail_codes().get(crash.bug_check.arguments[0].value or 0)
        if entry is not None:
            values["FailFast.Name"] = entry["name"]
            values["FailFast.Type"] = str(crash.bug_check.arguments[0].value)
    if facts.build_lab:
        values["WER.OS.Branch"] = facts.build_lab
    if facts.os_version:
        values["WER.OS.Version"] = facts.os_version
    if facts.up_time is not None:
        values["Timeline.OS.Boot.DeltaSec"] = str(facts.up_time // _SECOND)
    yield "KEY_VALUES_STRING: 1"
    yield ""
    for name in sorted(values):
        yield f"    Key  : {name}"
        yield f"    Value: {values[name]}"
        yield ""


def _exception_keys(crash: Crash) -> Iterator[tuple[str, str]]:
    """The keys of the exception record, and those of the instruction where an argument of the bug check names it."""
    failure, bug_check = crash.failure, crash.bug_check
    if failure is None or bug_check is None:
        return
    if failure.exception is not None and failure.exception_record is not None and _goes_by_record(failure):
        # A status is widened with its sign.
        code = failure.exception.code | (0xFFFFFFFF << 32 if failure.exception.code >> 31 else 0)
        yield "Failure.Exception.Code", f"0x{code:x}"
        yield "Failure.Exception.Record", f"0x{failure.exception_record:x}"
    number = failure_rule(bug_check.code).get("ip")
    ip = bug_check.arguments[number - 1].value if number else None
    if ip is None or not failure.at_fault or failure.context.ip != ip:
        return
    yield "Failure.Exception.IP.Address", f"0x{ip:x}"
    if failure.module is not None:
        yield "Failure.Exception.IP.Module", failure.module.name
        yield "Failure.Exception.IP.Offset", f"0x{ip - failure.module.base:x}"


def _first_fields(crash: Crash) -> Iterator[str]:
    facts = crash.facts
    if crash.bug_check is not None:
        yield from field("BUGCHECK_CODE", f"{crash.bug_check.raw_code:x}")
        for argument in crash.bug_check.arguments:
            if argument.value is not None:
                yield from field(f"BUGCHECK_P{argument.number}", f"{argument.value:x}")
    yield from field("FILE_IN_CAB", facts.dump_file)
    if facts.virtual_machine:
        yield from field("VIRTUAL_MACHINE", facts.virtual_machine)
    if facts.attributes is not None:
        yield f"DUMP_FILE_ATTRIBUTES: 0x{facts.attributes:x}"
        # KD has no line for the bits without words, which are among the keys where they have a name.
        yield from (f"  {_ATTRIBUTE_WORDS[name]}" for name in facts.attribute_names if name in _ATTRIBUTE_WORDS)
        yield ""
    # Where a rule says more of the thread, that line is the only one.
    told = any(finding.tag == "FAULTING_THREAD" for finding in crash.reasoning.findings)
    if facts.faulting_thread is not None and crash.crashed is not False and not told:
        yield from field("FAULTING_THREAD", plain(facts.faulting_thread, 4 if facts.platform == "x86" else 8))
    if crash.recorded.driver:
        yield from field("BUGCHECKING_DRIVER", crash.recorded.driver)


def _plausibility(crash: Crash) -> Iterator[str]:
    """KD's MISALIGNED_IP where RIP is in the middle of an instruction; the other outcomes under a tag of our own."""
    judged = crash.plausibility
    if judged is None:
        return
    if judged.outcome == MISALIGNED and judged.address is not None:
        name = crash.failure.name if crash.failure is not None and crash.failure.at_fault else None
        yield "MISALIGNED_IP: "
        yield f"{name or f'{judged.address:016x}'}"
        yield ""
    if judged.outcome is not None:
        yield from field("PLAUSIBILITY", f"{judged.outcome} ({judged.says})")
    for flip in judged.flips:
        yield from field("BIT_FLIP", f"bit {flip.bit} ({flip.says})")


def _findings(crash: Crash, late: bool) -> Iterator[str]:
    own = {"TRAP_FRAME", "CONTEXT", "EXCEPTION_RECORD", "PROCESS_NAME", "MODULE_NAME", "IMAGE_NAME"}
    for finding in crash.reasoning.findings:
        # Tags with a dot are keys of the block KEY_VALUES_STRING.
        if (finding.tag in _LATE) == late and finding.tag not in own and "." not in finding.tag:
            yield from field(finding.tag, _finding_text(finding))


def _finding_text(finding: Finding) -> str:
    return finding.value if not finding.note else f"{finding.value} ({finding.note})"


def _address(value: int, size: int) -> str:
    return pointer(value & (1 << 8 * size) - 1, size, tick=False)


def _goes_by_record(failure: Failure) -> bool:
    """Whether the debugger shows the exception record: not where the arguments name a context without one (0x3B)."""
    return failure.record_named or failure.context_record is None


def _records(failure: Failure, size: int, site: Name | None) -> Iterator[str]:
    if failure.exception_record is not None and failure.exception is not None and _goes_by_record(failure):
        yield f"EXCEPTION_RECORD:  {_address(failure.exception_record, size)} -- (.exr 0x{failure.exception_record:x})"
        yield from exception_lines(failure.exception, size, site)
        yield ""
    if failure.context_record is not None:
        yield f"CONTEXT:  {_address(failure.context_record, size)} -- (.cxr 0x{failure.context_record:x})"
        yield from _registers(failure, size)


def _registers(failure: Failure, size: int) -> Iterator[str]:
    yield from register_block(failure.shown, kd=True)
    yield from shown_code(failure, size)
    yield _RESET
    yield ""


def exception_lines(record: ExceptionRecord, size: int, name: Name | None) -> Iterator[str]:
    """The output of ``.exr`` for an exception record; ``name`` is that of its address."""
    site = ""
    if name is not None:
        stem = name.module if name.symbol is None else f"{name.module}!{name.symbol}"
        # KD writes no offset of zero.
        site = f" ({stem}+0x{name.offset:016x})" if name.offset else f" ({stem})"
    code_words = code_text(record.code)
    yield f"ExceptionAddress: {pointer(record.address, size, tick=False)}{site}"
    yield f"   ExceptionCode: {record.code:08x}" + (f" ({code_words})" if code_words else "")
    yield f"  ExceptionFlags: {record.flags:08x}"
    yield f"NumberParameters: {len(record.parameters)}"
    for number, value in enumerate(record.parameters):
        yield f"   Parameter[{number}]: {pointer(value, size, tick=False)}"
    kind = access_kind(record)
    if kind is not None:
        phrase = {"read": "read from", "write": "write to", "execute": "execute non-executable"}[kind]
        yield f"Attempt to {phrase} address {pointer(accessed_address(record), size, tick=False)}"
    if record.code == STACK_BUFFER_OVERRUN and record.parameters:
        code = record.parameters[0]
        fast_fail = fast_fail_codes().get(code)
        yield f"Subcode: 0x{code:x}" + (f" FAST_FAIL_{fast_fail['name']}" if fast_fail else "")


def _black_boxes(crash: Crash) -> Iterator[str]:
    for name in crash.facts.black_boxes:
        yield from field(name, f"1 (!{name.lower()})")
    if crash.facts.crash_count is not None:
        yield from field("CUSTOMER_CRASH_COUNT", str(crash.facts.crash_count))


def _last_fields(crash: Crash) -> Iterator[str]:
    verdict, facts, source = crash.verdict, crash.facts, crash.source
    offset = verdict.function_offset
    for tag, value in (
        # KD has the path twice.
        ("FAULTING_SOURCE_LINE", None if source is None else source.file),
        ("FAULTING_SOURCE_FILE", None if source is None else source.file),
        ("FAULTING_SOURCE_LINE_NUMBER", None if source is None else str(source.line)),
        ("SYMBOL_NAME", verdict.symbol_name),
        ("MODULE_NAME", verdict.module_name),
        ("IMAGE_NAME", verdict.image_name),
        ("IMAGE_VERSION", crash.image_version),
        ("STACK_COMMAND", facts.stack_command),
        ("BUCKET_ID_FUNC_OFFSET", None if offset is None else f"{offset:x}"),
        ("FAILURE_BUCKET_ID", verdict.bucket),
        ("OS_VERSION", facts.os_version),
        ("BUILDLAB_STR", facts.build_lab),
        ("OSPLATFORM_TYPE", facts.platform),
        ("OSNAME", facts.os_name),
        ("FAILURE_ID_HASH", None if verdict.bucket_hash is None else f"{{{verdict.bucket_hash}}}"),
    ):
        if value is not None:
            yield from field(tag, value)
    if crash.crashed is False:
        yield _RUNNING
        return
    named, asked = otherwise_named(verdict), _asked(crash)
    if asked is not None:
        yield nobody(asked)
        yield ""
    elif verdict.suspect is not None and (named is not None or verdict.frame is None or verdict.suspect in INVENTED):
        told = f"confidence {verdict.confidence}: {verdict.rule}"
        yield from field("SUSPECT", f"{verdict.suspect} ({told})")
    yield f"Followup:     {verdict.followup}"
    yield "---------"


def otherwise_named(verdict: Verdict) -> str | None:
    """The component held responsible where the debugger, which goes by the stack, names another one."""
    if verdict.suspect is None or verdict.suspect in (verdict.image_name, verdict.module_name):
        return None
    return None if verdict.image_name in INVENTED.values() else verdict.suspect


def _asked(crash: Crash) -> str | None:
    return asked_for(crash.bug_check.code) if crash.bug_check is not None else None


def nobody(why: str) -> str:
    """The sentence for crashes that nobody is to blame for."""
    return f"No component is to blame: {why}."


def shown_code(failure: Failure, size: int, kd: bool = True) -> Iterator[str]:
    """The symbol line and the instruction line that follow a register block.

    The note on the operand is KD's own, for which an unknown register is zero; without ``kd`` it is made from the
    registers that are known.
    """
    ip = failure.shown.ip
    if ip is None:
        return
    yield f"{failure.name or pointer(ip, size)}:"
    instruction = failure.shown_instruction if kd else failure.instruction
    if instruction is None:
        yield absent_code_line(ip, failure.shown.architecture)
    else:
        yield code_line(instruction, failure.shown if kd else failure.context, kd=kd)
