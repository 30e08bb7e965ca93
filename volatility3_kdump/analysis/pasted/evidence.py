"""From a pasted report to its verdict: the facts that the rules ask for, and the same decision as for a dump."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.buckets import FailureFacts
from volatility3_kdump.analysis.bugcheck import BugCheck, describe
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.pasted.frames import Row, with_addresses
from volatility3_kdump.analysis.pasted.places import Places
from volatility3_kdump.analysis.pasted.reasons import Reasons
from volatility3_kdump.analysis.pasted.report import Report, field_of
from volatility3_kdump.analysis.stack_entries import StackEntry
from volatility3_kdump.analysis.verdict import Verdict, decide, turned_to
from volatility3_kdump.analysis.weighing import INVENTED, settled, unseen
from volatility3_kdump.images.modules import debugger_name

#: The first build of Windows 8.
_WINDOWS_8 = 9200
#: Versions of the debugger (6.12 came before 6.3, and 10 after it): with ``AV``, with today's numbers, and the first
#: build whose 0x1E and 0x50 are written as today.
_FIRST_WITH_AV, _FIRST_OF_TODAY, _MODERN_DEBUGGER = (6, 3), (10, 0), (10, 0, 18300)
#: The upper halves of addresses of kernel stacks, drivers and nonpaged pool up to Windows 7.
_OLD_PLACES = {0xFFFFF880, 0xFFFFFA80}
#: Functions that only a dump of a running system has on its stack.
_LIVE = re.compile(r"Dbgk(?:p)?Wer|WdDbgReport|DbgkCaptureLiveDump|IoCaptureLiveDump", re.IGNORECASE)
_VERIFIER = re.compile(r"Vi[A-Z]|Vf[A-Z]|Verifier[A-Z]|Iov[A-Z]")
#: Names of systems before Windows 8.
_OLD_NAMES = ("7", "Vista", "Server 2008", "Longhorn", "XP", "2000", "Server 2003")
_SUSPECT = re.compile(r"(?P<name>[\w.$~-]{1,64}) \(confidence (?P<confidence>high|medium|low): (?P<why>.{1,1000})\)")
_EXCEPTION_STACK = "KxExceptionDispatchOnExceptionStack"


@dataclass(frozen=True)
class PastedVerdict:
    """Our verdict on a pasted text, with what it rests on and the debugger's own where the text has it.

    ``used`` names the parts of the text that the verdict rests on, ``differences`` has a sentence for each field in
    which ours is another, ``notes`` say what was odd about the text or is missing from it.
    """

    bug_check: BugCheck
    verdict: Verdict
    facts: FailureFacts
    used: tuple[str, ...]
    pasted: dict[str, str]
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def judge(report: Report, rules: OwnerRules | None = None) -> PastedVerdict:
    """The verdict on a report. Never raises for any report that :func:`read_report` returns."""
    evidence = _Evidence(report)
    bug_check = evidence.bug_check
    reasons = Reasons(report, bug_check, evidence.places, evidence.process, evidence.facts.generation)
    verdict = decide(
        bug_check,
        evidence.facts,
        evidence.entries,
        reasons.reasoning(),
        rules or OwnerRules.load(),
        evidence.places.resolve,
    )
    verdict = _of_the_dump(report, unseen(verdict, bug_check, None), bug_check)
    notes = [*report.notes, *reasons.notes]
    if not evidence.entries:
        notes.append("the text has no stack")
    return PastedVerdict(
        bug_check,
        verdict,
        evidence.facts,
        tuple(report.used),
        dict(report.pasted),
        tuple(_differences(report, verdict)),
        tuple(notes),
    )


def _of_the_dump(report: Report, verdict: Verdict, bug_check: BugCheck) -> Verdict:
    """The verdict with what our own analysis of the dump says in its text: it saw bytes that no text shows."""
    if buckets.asked_for(bug_check.code):
        return replace(verdict, suspect=None)
    told = _SUSPECT.fullmatch(report.fields.get("SUSPECT", ""))
    if told is None:
        return verdict
    report.use("SUSPECT (of an analysis by kdump)")
    name = told["name"]
    if name not in INVENTED:
        verdict = replace(verdict, suspect=name, confidence=told["confidence"], rule=told["why"])
        image = report.pasted.get("image_name")
        if image != name or verdict.image_name in (name, buckets.UNKNOWN_IMAGE):
            return verdict
        return replace(verdict, symbol_name=None, module_name=debugger_name(name), image_name=name, frame=None)
    turned = turned_to(verdict, name, told["why"], told["confidence"], "the analysis of the dump says so")
    return settled(turned, bug_check)


def _differences(report: Report, verdict: Verdict) -> list[str]:
    ours = {
        "symbol_name": verdict.symbol_name,
        "module_name": verdict.module_name,
        "image_name": verdict.image_name,
        "function_offset": None if verdict.function_offset is None else f"{verdict.function_offset:x}",
        "bucket": verdict.bucket,
        "hash": verdict.bucket_hash,
    }
    sentences = []
    for name, theirs in report.pasted.items():
        mine = ours.get(name)
        if theirs and theirs.lower() != (mine or "").lower():
            sentences.append(f"{name}: the text has {theirs}, ours is {mine or 'none'}")
    return sentences


class _Evidence:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.architecture = self._architecture()
        self.process = self._process()
        self.places = Places(report, self.architecture, self.process)
        arguments = [None if value is None else value & self.places.mask for value in report.arguments]
        self.bug_check = describe(report.code or 0, arguments)
        self.entries = self._entries()
        self.places.entries = self.entries
        self.facts = self._facts()

    # the machine and the debugger -------------------------------------------------------------------------------------

    def _architecture(self) -> str | None:
        pasted = self.report.text
        platform = self.report.fields.get("OSPLATFORM_TYPE", "").lower()
        if platform in ("x64", "x86", "arm64"):
            return platform
        if re.search(r"\barm64fre\b|AArch64|ARM 64-bit|\barm64 target\b", pasted[:200_000], re.IGNORECASE):
            return "arm64"
        if re.search(r"\bamd64fre\b|Free x64|\bx64 target\b", pasted[:200_000]):
            return "x64"
        if re.search(r"\bx86fre\b|x86 compatible", pasted[:200_000]):
            return "x86"
        wide = any((row.stack_pointer or 0) >> 32 or (row.returns_to or 0) >> 32 for row in self.report.rows)
        if wide:
            return "x64"
        addressed = any(row.stack_pointer is not None for row in self.report.rows)
        if addressed or any((row.symbol or "").lstrip("_").startswith("KiTrap0") for row in self.report.rows):
            return "x86"
        values = [value for value in self.report.arguments if value]
        return "x64" if any(value >> 32 not in (0, 0xFFFFFFFF) for value in values) else None

    def _generation(self) -> str:
        """How the debugger that wrote the text writes buckets."""
        report = self.report
        if report.build is not None and report.build < _WINDOWS_8:
            return buckets.CLASSIC
        if report.debugger is not None:
            if report.debugger[0] < _FIRST_OF_TODAY[0] and report.debugger[:2] != _FIRST_WITH_AV:
                return buckets.CLASSIC
            return buckets.MIDDLE if report.debugger < _MODERN_DEBUGGER else buckets.MODERN
        if report.build is not None and report.system in _OLD_NAMES:
            # A debugger that is older than the system calls it by the name of the newest one that it knows.
            return buckets.CLASSIC
        if "BUGCHECK_CODE" in report.fields or report.keys:
            return buckets.MODERN
        kind = report.fields.get("DEFAULT_BUCKET_ID")
        if "DUMP_CLASS" in report.fields or "DUMP_QUALIFIER" in report.fields:
            return buckets.CLASSIC if "WIN7" in (kind or "") else buckets.MIDDLE
        if kind is not None or "BUGCHECK_STR" in report.fields:
            # What the debugger calls the kind of fault, or the system, tells which systems it knew.
            recent = "WIN8" in (kind or "") or report.system is not None
            return buckets.MIDDLE if recent else buckets.CLASSIC
        return buckets.CLASSIC if self._before_windows_8() else buckets.MODERN

    def _before_windows_8(self) -> bool:
        """Whether the machine ran Windows 7 or older: by where its stacks and drivers lie, by functions."""
        rows = self.report.rows
        if self.architecture == "x86":
            return not any((row.symbol or "").startswith("_Ki") for row in rows)
        places = {(row.stack_pointer or 0) >> 32 for row in rows} | {(row.returns_to or 0) >> 32 for row in rows}
        places |= {(value or 0) >> 32 for value in self.report.arguments}
        return bool(_OLD_PLACES & places) or any(row.symbol == "KxStartSystemThread" for row in rows)

    def _process(self) -> str | None:
        value = field_of(self.report, ("PROCESS_NAME",))
        return value.split("  ")[0].strip() or None if value else None

    # the stack --------------------------------------------------------------------------------------------------------

    def _entries(self) -> list[StackEntry]:
        entries = []
        for row, address in with_addresses(self.report.rows, self._first_address()):
            entries.append(self._entry(row, address))
        return entries

    def _first_address(self) -> int | None:
        """The address of the top frame: that of the failure where the stack begins with it."""
        top = self.report.rows[0] if self.report.rows else None
        ip = self._argument_ip() or self.report.ip
        if top is None or ip is None:
            return None
        named = self.report.pairs.get(ip)
        return ip if named is not None and named.replace("+0x", "+") == top.name.replace("+0x", "+") else None

    def _argument_ip(self) -> int | None:
        return buckets.completed(None, self.bug_check).ip

    def _entry(self, row: Row, address: int | None) -> StackEntry:
        place = 0 if address is None else address & self.places.mask
        if row.module is None:
            resolved = self.places.resolve(place) if place else None
            return resolved or StackEntry(None, None, 0, None, place, True)
        image = self.places.image_of(row.module, place)
        return StackEntry(row.module, row.symbol, row.offset, image, place, True, row.unloaded)

    # facts ------------------------------------------------------------------------------------------------------------

    def _facts(self) -> FailureFacts:
        report = self.report
        ip = self._argument_ip()
        at_top = report.ip if ip is None else ip
        in_module = None
        if at_top is not None:
            resolved = self.places.resolve(at_top)
            listed = any(entry.address == at_top & self.places.mask and entry.module is None for entry in self.entries)
            in_module = True if resolved is not None else (False if listed or self._failed_instruction() else None)
        if field_of(report, ("IP_IN_PAGED_CODE",)):
            in_module = True
        access, address = self._access()
        return FailureFacts(
            ip=None if ip is None else ip & self.places.mask,
            in_module=in_module,
            access=access,
            address=address,
            unloaded=self._unloaded(ip, address),
            verifier=self._verifier(),
            small_dump=self._small_dump(),
            live="Live Generated Dump" in report.text or any(_LIVE.match(row.symbol or "") for row in report.rows),
            generation=self._generation(),
            architecture=self.architecture,
            process=self.process,
            region=self._region(),
            bad_stack_pointer=self._bad_stack_pointer(),
        )

    def _failed_instruction(self) -> bool:
        return bool(field_of(self.report, ("FAILED_INSTRUCTION_ADDRESS", "IP_IN_FREE_BLOCK")))

    def _access(self) -> tuple[str | None, int | None]:
        """The access of an exception, from its record; for other codes the arguments tell it."""
        report = self.report
        parameters = report.exception_parameters
        if report.exception_code == buckets.ACCESS_VIOLATION and 0 in parameters and 1 in parameters:
            report.use("EXCEPTION_RECORD")
            return {0: "read", 1: "write", 8: "execute"}.get(parameters[0]), parameters[1]
        return None, None

    def _region(self) -> str | None:
        value = field_of(self.report, ("READ_ADDRESS", "WRITE_ADDRESS"))
        return value.partition(" ")[2].strip() if value else None

    def _unloaded(self, ip: int | None, address: int | None) -> tuple[str, int] | None:
        for place in (ip, address):
            for start, end, name in self.report.unloaded:
                if place is not None and start <= place < end and self.places.module_at(place) is None:
                    self.report.use("the unloaded modules")
                    return self.report.files.get(name.lower(), name), start
        return None

    def _verifier(self) -> bool:
        report = self.report
        if "VERIFIER_ENABLED" in report.fields.get("DEFAULT_BUCKET_ID", ""):
            report.use("DEFAULT_BUCKET_ID (only that Driver Verifier was on)")
            return True
        if report.fields.get("VERIFIER_DRIVER_ENTRY"):
            report.use("VERIFIER_DRIVER_ENTRY")
            return True
        if "special pool" in (self._region() or "").lower():
            return True
        return any(
            (row.module or "").lower() in ("verifierext", "vrfcore")
            or (row.module == "nt" and _VERIFIER.match(row.symbol or ""))
            for row in report.rows
        )

    def _small_dump(self) -> bool:
        pasted, fields = self.report.text, self.report.fields
        named = re.search(
            r"\b\d{6}-\d{1,8}-\d{2}\.dmp\b", fields.get("FILE_IN_CAB", "") or pasted[:20_000], re.IGNORECASE
        )
        return bool(
            named or "CUSTOMER_CRASH_COUNT" in fields or "Mini Kernel Dump File" in pasted or "Triage Dump" in pasted
        )

    def _bad_stack_pointer(self) -> bool:
        if field_of(self.report, ("BAD_STACK_POINTER",)):
            return True
        # The overrun was met while an exception was dispatched, on the stack that there is for that alone.
        on_exception_stack = any(row.symbol == _EXCEPTION_STACK for row in self.report.rows)
        return on_exception_stack and self.bug_check.code == 0xF7
