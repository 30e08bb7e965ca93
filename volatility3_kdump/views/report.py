"""The analysis as one JSON document; its keys are described in ``docs/analyze-schema.md`` and only grow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from volatility3_kdump.analysis.crash import Crash
from volatility3_kdump.analysis.failure import Failure
from volatility3_kdump.escape import printable
from volatility3_kdump.files import write_text
from volatility3_kdump.target import Target
from volatility3_kdump.text.registers import code_line
from volatility3_kdump.text.stacks import call_site
from volatility3_kdump.text.summary import summary
from volatility3_kdump.text.times import filetime
from volatility3_kdump.windows.machine.releases import kernel_version, release
from volatility3_kdump.windows.machine.version import build_lab

SCHEMA = 1


def write_report(path: Path, target: Target, crash: Crash) -> None:
    """Write the document. Raises :class:`KdumpError` when the file cannot be written."""
    document = json.dumps(report(target, crash), indent=2, ensure_ascii=True) + "\n"
    write_text("--report", path, document)


def report(target: Target, crash: Crash) -> dict[str, Any]:
    """The document as plain values; addresses are ``0x`` strings, since JSON numbers lose precision beyond 2**53."""
    document = {
        "schema": SCHEMA,
        "dump": _dump(target, crash),
        "system": _system(target, crash),
        "bug_check": _bug_check(crash),
        "summary": summary(crash, target.has_names),
        "plausibility": _plausibility(crash),
        "verdict": _verdict(crash),
        "findings": [
            {"tag": finding.tag, "value": finding.value, "address": _hex(finding.address), "note": finding.note or None}
            for finding in crash.reasoning.findings
        ],
        "machine": _machine(crash),
        "processor": crash.processor.number if crash.processor else None,
        "process": _process(crash),
        "thread": _thread(crash),
        "interrupted": crash.interrupted,
        "failure": _failure(crash.failure),
        "stack": _stack(target, crash),
        "notes": list(crash.notes),
        "warnings": target.warnings,
        "symbols": {
            "loaded": target.has_names,
            "types": target.nt is not None,
            "status": target.symbol_status,
            "remedy": target.symbol_remedy or None,
        },
    }
    made: dict[str, Any] = escaped(document)
    return made


def _dump(target: Target, crash: Crash) -> dict[str, Any]:
    pages = target.dump.pages
    facts = crash.facts
    return {
        "file": target.name,
        "size": target.dump.source.size,
        "type": target.header.dump_type,
        "container": target.header.container,
        "crashed": target.header.crashed,
        "attributes": _hex(facts.attributes),
        "attribute_names": list(facts.attribute_names),
        "pages": {"declared": pages.declared, "present": pages.present} if pages is not None else None,
        "black_boxes": list(facts.black_boxes),
        "customer_crash_count": facts.crash_count,
    }


def _system(target: Target, crash: Crash) -> dict[str, Any]:
    header, facts = target.header, crash.facts
    moment = filetime(header.system_time)
    return {
        "os_name": facts.os_name,
        "os_version": facts.os_version,
        "kernel_version": kernel.text if (kernel := kernel_version(target)) is not None else None,
        "release": release(target),
        "build": header.build_number,
        "build_lab": build_lab(target),
        "build_branch": facts.build_lab,
        "platform": facts.platform,
        "processors": header.number_processors,
        "time_utc": moment.isoformat() if moment else None,
        "uptime_seconds": header.system_up_time / 10_000_000 if header.system_up_time is not None else None,
        "kernel_base": _hex(target.kernel.base) if target.kernel else None,
        "virtual_machine": facts.virtual_machine,
        "boot_id": header.boot_id,
    }


def _machine(crash: Crash) -> dict[str, Any]:
    machine, processor = crash.facts.machine, crash.facts.processor
    return {
        "processor": processor.brand if processor else machine.processor if machine else None,
        "processor_signature": _hex(processor.signature) if processor else None,
        "microcode": _hex(processor.microcode) if processor else None,
        "smbios_digest": machine.digest if machine else None,
        "manufacturer": machine.manufacturer if machine else None,
        "product": machine.product if machine else None,
        "board": [machine.baseboard_manufacturer, machine.baseboard_product] if machine else None,
        "firmware": [machine.bios_vendor, machine.bios_version, machine.bios_date] if machine else None,
        "memory_modules": [
            {
                "slot": module.slot,
                "size": module.size,
                "speed": module.speed,
                "configured_speed": module.configured,
                "manufacturer": module.manufacturer,
                "part": module.part,
                "bank": module.bank,
            }
            for module in machine.memory
        ]
        if machine
        else None,
    }


def _bug_check(crash: Crash) -> dict[str, Any] | None:
    bug_check = crash.bug_check
    if bug_check is None:
        return None
    return {
        "code": _hex(bug_check.raw_code),
        "base_code": _hex(bug_check.code),
        "name": bug_check.name,
        "text": bug_check.text,
        "variant": bug_check.variant,
        "live": crash.facts.live is not None,
        "driver": crash.recorded.driver,
        "arguments": [
            {"value": _hex(argument.value), "meaning": argument.meaning, "value_meaning": argument.value_meaning}
            for argument in bug_check.arguments
        ],
    }


def _plausibility(crash: Crash) -> dict[str, Any] | None:
    judged = crash.plausibility
    if judged is None:
        return None
    return {
        "outcome": judged.outcome,
        "says": judged.says or None,
        "address": _hex(judged.address),
        "instruction": judged.instruction,
        "evidence": list(judged.evidence),
        "remains": judged.remains,
        "debugger_word": judged.debugger_word,
        "flips": [
            {
                "subject": flip.subject,
                "value": _hex(flip.value),
                "repaired": _hex(flip.repaired),
                "bit": flip.bit,
                "says": flip.says,
            }
            for flip in judged.flips
        ],
    }


def _verdict(crash: Crash) -> dict[str, Any]:
    verdict = crash.verdict
    return {
        "symbol_name": verdict.symbol_name,
        "module_name": verdict.module_name,
        "image_name": verdict.image_name,
        "image_version": crash.image_version,
        "suspect": verdict.suspect,
        "bucket": verdict.bucket,
        "hash": verdict.bucket_hash,
        "function_offset": _hex(verdict.function_offset),
        "rule": verdict.rule,
        "runner_up": verdict.runner_up,
        "runner_up_rule": verdict.runner_up_rule,
        "confidence": verdict.confidence,
        "confidence_reason": verdict.confidence_reason or None,
        "frame": verdict.frame,
        "all_microsoft": verdict.all_microsoft,
        "followup": verdict.followup,
        "stack_command": crash.facts.stack_command,
    }


def _process(crash: Crash) -> dict[str, Any] | None:
    process = crash.process
    if process is None:
        return None
    return {
        "address": _hex(process.address),
        "pid": process.pid,
        "name": process.name,
        "image_path": process.image_path,
    }


def _thread(crash: Crash) -> dict[str, Any] | None:
    thread = crash.thread
    return None if thread is None else {"address": _hex(thread.address), "pid": thread.pid, "tid": thread.tid}


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    instruction, module, record = failure.instruction, failure.module, failure.exception
    return {
        "origin": failure.origin,
        "at_fault": failure.at_fault,
        "address": _hex(failure.context.ip),
        "name": failure.name,
        "module": None
        if module is None
        else {
            "name": module.name,
            "image": module.image_name,
            "path": module.path,
            "base": _hex(module.base),
            "size": module.size,
            "timestamp": _hex(module.timestamp),
            "checksum": _hex(module.checksum),
        },
        "unloaded_module": failure.unloaded.name if failure.unloaded else None,
        "instruction": code_line(instruction, failure.context) if instruction else None,
        "instruction_bytes": instruction.raw.hex() if instruction else None,
        "instruction_absent": failure.instruction_absent,
        "access": failure.access,
        "access_address": _hex(failure.address),
        "operand_address": _hex(failure.operand),
        "operand_agrees": failure.operand_agrees,
        "trap_frame": _hex(failure.trap_frame),
        "context_record": _hex(failure.context_record),
        "exception_record": None
        if record is None
        else {
            "address": _hex(failure.exception_record),
            "code": _hex(record.code),
            "flags": _hex(record.flags),
            "exception_address": _hex(record.address),
            "parameters": [_hex(value) for value in record.parameters],
        },
        "registers": {name: _hex(value) for name, value in failure.context.registers.items()},
        "recovered_registers": list(failure.recovered),
    }


def _stack(target: Target, crash: Crash) -> dict[str, Any]:
    frames = []
    for frame in crash.stack.frames:
        name = frame.name
        frames.append(
            {
                "number": frame.number,
                "call_site": call_site(frame, target.memory.pointer_size),
                "module": name.module if name else None,
                "symbol": name.symbol if name else None,
                "offset": _hex(name.offset) if name else None,
                "address": _hex(frame.ip),
                "child_sp": _hex(frame.sp),
                "return_address": _hex(frame.return_address),
                "arguments": [_hex(value) for value in frame.arguments],
                "trap_frame": _hex(frame.trap_frame),
                "trust": frame.trust,
                "part": frame.part or None,
                "source_file": frame.line.file if frame.line else None,
                "source_line": frame.line.line if frame.line else None,
            }
        )
    return {
        "frames": frames,
        "end": crash.stack.end,
        "complete": crash.stack.complete,
        "remarks": list(crash.stack.remarks),
    }


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:#x}"


def escaped(value: Any) -> Any:
    """The value with every text in it made fit for a terminal: names come from the dump."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: escaped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [escaped(entry) for entry in value]
    return value
