"""Names for kinds of crashes: the failure bucket, built as the debugger builds it, and the hash of the bucket.

``PREFIX_word_word_module!function``, or ``PREFIX_word_IMAGE_file`` where only a file is blamed. A prefix is the bug
check's code or, for access violations of every code, ``AV``. Which words a code adds is data: the ``bucket`` of its
record in ``symbols/kdump/bugchecks.jsonl``. Buckets compare without regard to case, and so does the hash: one bucket
has the same hash here as in the debugger and in published analyses.
"""

from __future__ import annotations

import functools
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.findings.regions import region_of
from volatility3_kdump.windows.machine.verifier import verifier_level
from volatility3_kdump.windows.processes.crashed import crash_process

if TYPE_CHECKING:
    from volatility3_kdump.analysis.failure import Failure
    from volatility3_kdump.analysis.reasoning import Reasoning
    from volatility3_kdump.cpu.context import Context
    from volatility3_kdump.target import Target

UNKNOWN_FUNCTION = "unknown_function"
UNKNOWN_MODULE, UNKNOWN_IMAGE = "Unknown_Module", "Unknown_Image"
#: What the debugger writes for the module when nothing on the stack can be blamed.
INCONCLUSIVE = "ANALYSIS_INCONCLUSIVE"
ACCESS_VIOLATION = 0xC0000005

#: How debuggers write buckets, by when they did. ``CLASSIC`` (before 6.3, and for systems before Windows 8 ever since):
#: the code in place of ``AV``, ``X64_`` before it, the offset behind the function. ``MIDDLE`` (2013 to 2019) differs
#: from ``MODERN`` in the words of 0x1E and 0x50.
CLASSIC, MIDDLE, MODERN = "classic", "middle", "modern"

_LETTERS = {"read": "R", "write": "W", "execute": "X"}
_NULL_PAGE = 0x1000
#: Bug check codes from here on are NTSTATUS values.
_STATUS_CODES = 0xC0000000
#: MM_INTERNAL_CODE (argument 4 of 0x50): the address has no page table entry.
_NO_PAGE_TABLE = 2
#: Words that the debugger adds after it has seen to Driver Verifier.
_LATE = ("CODE_AV", "BAD_IP", "NULL_IP", "DPC", "ISR")
_ILLEGAL_INSTRUCTION = 0xC000001D
#: A driver left pool behind; Driver Verifier finds nothing else out here, and its mark is left away.
LEAKED_POOL = "LEAKED_POOL"
#: What a function's name has that a bucket has not: ``ST_STORE<SM_TRAITS>::StDmPageError`` is there as
#: ``ST_STORE_SM_TRAITS_::StDmPageError``.
_NO_WORD = re.compile(r"[`'<>&~ ]")
#: What differs from crash to crash of one kind: an address; the low half of one, where a code is meant to be.
_ADDRESS = re.compile(r"_[0-9a-f]{9,16}(?=_)", re.IGNORECASE)
_THREAD = re.compile(r"(?<=_BUGCHECK_CRITICAL_PROCESS)(_TERMINATED_BY_.+?)??_[0-9a-f]{1,8}(?=_)", re.IGNORECASE)


@dataclass(frozen=True)
class FailureFacts:
    """What the choice of bucket and culprit needs to know of a failure; every ``None`` is "not known".

    ``ip`` is the address of the instruction that failed, ``in_module`` whether that lies in a loaded module, ``access``
    ``read``, ``write`` or ``execute``, ``address`` the memory accessed. ``unloaded`` is name and first address of an
    unloaded module that ``ip`` or ``address`` lies in. ``verifier`` says that Driver Verifier checked drivers,
    ``small_dump`` that the dump is a small memory dump, ``live`` that the system went on. ``generation`` is whose way
    of writing buckets is asked for (:data:`MODERN` and its kin), ``architecture`` ``x64``, ``x86`` or ``arm64``.
    ``process`` is the name of the process that ran, ``region`` what the debugger calls the place of ``address``
    (``Paged pool``). ``bad_stack_pointer`` says that the stack pointer lay outside the thread's stack.
    """

    ip: int | None = None
    in_module: bool | None = None
    access: str | None = None
    address: int | None = None
    unloaded: tuple[str, int] | None = None
    verifier: bool = False
    small_dump: bool = False
    live: bool = False
    generation: str = MODERN
    architecture: str | None = None
    process: str | None = None
    region: str | None = None
    bad_stack_pointer: bool = False


def failure_facts(target: Target, failure: Failure | None) -> FailureFacts:
    """The facts of a dump's failure."""
    small, live = target.dump.triage is not None, bool((target.header.attributes or 0) & _LIVE_DUMP)
    architecture = target.header.architecture
    crashed = crash_process(target)
    process = crashed.name if crashed is not None else None
    verifier = bool(verifier_level(target))
    if failure is None:
        return FailureFacts(small_dump=small, live=live, architecture=architecture, process=process, verifier=verifier)
    ip = failure.context.ip if failure.at_fault else None
    unloaded = None
    for place in (ip, failure.address):
        if place is not None and unloaded is None and target.names.module_of(place) is None:
            unloaded = next(((m.name, m.start) for m in target.unloaded_modules if m.start <= place < m.end), None)
    return FailureFacts(
        ip=ip,
        in_module=None if ip is None else failure.module is not None,
        access=failure.access,
        address=failure.address,
        unloaded=unloaded,
        small_dump=small,
        live=live,
        verifier=verifier,
        architecture=architecture,
        process=process,
        region=None if failure.address is None else region_of(target, failure.address).debugger_words,
        bad_stack_pointer=failure.at_fault and _off_every_stack(target, failure.context),
    )


def _off_every_stack(target: Target, context: Context) -> bool:
    """Whether code of the kernel ran with a stack pointer that is none of the kernel's (x64)."""
    code, sp = context.registers.get("cs"), context.sp
    if context.architecture != "x64" or code is None or code & 3 or sp is None:
        return False
    return not target.is_kernel_address(sp)


#: Attribute bit of DUMP_HEADER64 in dumps of a system that went on.
_LIVE_DUMP = 0x10


def failure_hash(bucket: str) -> str:
    """FAILURE_ID_HASH of a bucket of the kernel: a GUID in lower case, without braces.

    It is the MD5 of ``km:`` and the bucket in lower case, as UTF-16LE without terminator, read as a GUID (compare the
    comments on DEBUG_FLR_FAILURE_ID_HASH in the SDK header ``extsfns.h``; the encoding follows from published pairs).
    """
    digest = hashlib.md5(f"km:{bucket.lower()}".encode("utf-16-le", "surrogatepass"), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes_le=digest))


def grouping(bucket: str) -> str:
    """The bucket without the addresses in it: the same for all crashes of a kind.

    >>> grouping("0xEF_csrss.exe_BUGCHECK_CRITICAL_PROCESS_66897700_ntdll!NtTerminateProcess")
    '0xEF_csrss.exe_BUGCHECK_CRITICAL_PROCESS_ntdll!NtTerminateProcess'
    """
    prefix, mark, function = bucket.partition("!")
    return _ADDRESS.sub("", _THREAD.sub(r"\1", prefix)) + mark + function


@dataclass(frozen=True)
class Special:
    """A bucket that is complete without a function: the pseudo module and image blamed, who is asked to follow up, what
    the debugger prints as the symbol, and what is to be suspected where that is not the image."""

    bucket: str
    module: str
    image: str
    followup: str | None
    symbol: str | None = None
    suspect: str | None = None


@functools.lru_cache(maxsize=1)
def _special_buckets() -> tuple[Mapping[str, Any], ...]:
    return tuple(tables.json_lines("buckets.jsonl"))


def record_of(code: int) -> Mapping[str, Any]:
    """What ``bugchecks.jsonl`` says of the bucket of a bug check code, empty where that is nothing special."""
    record: Mapping[str, Any] = (tables.bug_check_record(code) or {}).get("bucket", {})
    return record


def asked_for(code: int) -> str | None:
    """Why nobody is to blame for a code: somebody asked for the dump."""
    reason: str | None = (tables.bug_check_record(code) or {}).get("asked")
    return reason


def startup_only(code: int) -> bool:
    """Whether Windows itself raises a code only while it starts."""
    return bool((tables.bug_check_record(code) or {}).get("startup"))


def _failure_rule(code: int) -> Mapping[str, Any]:
    rule: Mapping[str, Any] = (tables.bug_check_record(code) or {}).get("failure", {})
    return rule


def argument(bug_check: BugCheck, number: int) -> int | None:
    """Argument 1 to 4, ``None`` when it was never set."""
    return bug_check.arguments[number - 1].value if 1 <= number <= len(bug_check.arguments) else None


def completed(facts: FailureFacts | None, bug_check: BugCheck | None) -> FailureFacts:
    """The facts, with what the arguments of the bug check say where they are not known."""
    facts = facts or FailureFacts()
    if bug_check is None:
        return facts
    rule = _failure_rule(bug_check.code)
    record = record_of(bug_check.code)
    ip, address, access = facts.ip, facts.address, facts.access
    if ip is None and "ip" in rule:
        ip = argument(bug_check, rule["ip"]) or None
    if address is None and "address" in rule:
        address = argument(bug_check, rule["address"])
    if access is None:
        kinds = record.get("accesses") or {"argument": rule.get("access", 0), "values": rule.get("accesses", {})}
        value = argument(bug_check, kinds["argument"])
        if "exception" not in record or _exception(bug_check, record) == ACCESS_VIOLATION:
            access = rule.get("access_is") or (None if value is None else kinds["values"].get(f"{value:x}"))
    verifier = facts.verifier or _is_verifiers(bug_check, record)
    return replace(facts, ip=ip, access=access, address=address, verifier=verifier)


def _is_verifiers(bug_check: BugCheck, record: Mapping[str, Any]) -> bool:
    """Whether it is Driver Verifier that raises the bug check: for this code, or for all but some arguments."""
    condition = record.get("verifier")
    if not isinstance(condition, Mapping):
        return bool(condition)
    value = argument(bug_check, condition["argument"])
    return value is not None and f"{value:x}" not in condition["except"]


def is_access_violation(bug_check: BugCheck) -> bool:
    """Whether the bug check reports an access violation, by its code or by its exception."""
    record = record_of(bug_check.code)
    return bool(record.get("violation")) or _exception(bug_check, record) == ACCESS_VIOLATION


def reports_exception(bug_check: BugCheck) -> bool:
    """Whether the bug check reports that an instruction failed, rather than what a check found."""
    record = record_of(bug_check.code)
    return bool(record.get("violation")) or "exception" in record or "ip" in _failure_rule(bug_check.code)


def exception_code(bug_check: BugCheck) -> int | None:
    """The exception that an argument of the bug check names, as an NTSTATUS value."""
    return _exception(bug_check, record_of(bug_check.code))


def _exception(bug_check: BugCheck, record: Mapping[str, Any]) -> int | None:
    value = argument(bug_check, record["exception"]) if "exception" in record else None
    return None if value is None else value & 0xFFFFFFFF


def head(bug_check: BugCheck, facts: FailureFacts, reasoning: Reasoning, extra: Sequence[str] = ()) -> str:
    """Everything of the bucket before module or image: ``AV``, ``0x139_3_CORRUPT_LIST_ENTRY``, ``LKD_0x141``.

    Prefix and words that the rule of the code found stand in place of those that the table gives, unless the table's
    only go further. ``extra`` words come last. The mark of Driver Verifier stands before the words that a closer look
    at the failed instruction added, a wrong stack pointer after them.
    """
    tabled = _tabled(bug_check, facts)
    if facts.generation == CLASSIC and is_access_violation(bug_check) and not reasoning.specifiers:
        chosen = tabled
    elif reasoning.prefix is not None and not reasoning.specifiers:
        chosen = tabled if _continues("_".join(tabled), reasoning.prefix) else [reasoning.prefix]
    elif reasoning.specifiers:
        first = tabled[0] if reasoning.prefix is None or facts.generation == CLASSIC else reasoning.prefix
        chosen = [first, *reasoning.specifiers]
        chosen = tabled if _continues("_".join(tabled), "_".join(chosen)) else chosen
    else:
        chosen = tabled
    late = next((index for index, word in enumerate(chosen) if word.startswith(_LATE)), len(chosen))
    verified = facts.verifier and LEAKED_POOL not in chosen
    parts = [*chosen[:late], *(["VRF"] if verified else []), *chosen[late:]]
    parts += ["STACKPTR_ERROR"] if facts.bad_stack_pointer else []
    joined = "_".join((*parts, *extra))
    if (bug_check.live or facts.live) and not joined.startswith("LKD_"):
        joined = f"LKD_{joined}"
    classic_x64 = facts.generation == CLASSIC and facts.architecture == "x64"
    return f"X64_{joined}" if classic_x64 else joined


def tail(module: str | None, symbol: str | None, offset: int, facts: FailureFacts, gone: str | None = None) -> str:
    """The end of the bucket for a place in a module: ``module!function``, classic debuggers with the offset.

    ``gone`` is the file of a module that had been unloaded."""
    if gone is not None and facts.generation == MODERN:
        return f"{gone}!Unloaded"
    symbol = None if symbol is None else _NO_WORD.sub("_", symbol)
    if facts.generation == CLASSIC:
        return f"{module}+{offset:x}" if symbol is None else f"{module}!{symbol}+{offset:x}"
    return f"{module}!{symbol or UNKNOWN_FUNCTION}"


def image_of(components: Sequence[str]) -> str | None:
    """The file that the words of a bucket themselves end with (``..., "IMAGE", "pci.sys"``), ``None`` for others."""
    return components[-1] if len(components) > 1 and components[-2] == "IMAGE" and components[-1] else None


def _continues(text: str, start: str) -> bool:
    return text.lower() == start.lower() or text.lower().startswith(f"{start.lower()}_")


def _tabled(bug_check: BugCheck, facts: FailureFacts) -> list[str]:
    """Prefix and words as the table has them."""
    record = record_of(bug_check.code)
    exception = _exception(bug_check, record)
    classic = facts.generation == CLASSIC
    parts: list[str] = []
    if is_access_violation(bug_check) and not (record.get("coded_before_modern") and facts.generation != MODERN):
        parts.append(_prefix(bug_check, record) if classic else "AV")
        letter = _LETTERS.get(facts.access or "") if record.get("access_word") and not classic else None
        parts += [letter] if letter else []
        parts += [f"CODE_AV_{word}" for word in _code_words(facts)] if record.get("code_words") else []
        # A word for the kind of fault means something only behind the letter.
        if not record.get("access_word") or letter:
            parts += _words(bug_check, record, facts)
        # Codes that report a fault at a raised IRQL say more of code that could not be fetched.
        if record.get("code_words"):
            return parts
        return parts + (["NULL_IP"] if _at_null(bug_check, record) else _outside(_code_words(facts)))
    # Classic debuggers do not know the names of statuses.
    parts.append(f"0x{bug_check.code:X}" if classic and "prefix" not in record else _prefix(bug_check, record))
    # Classic debuggers name the exception for 0x1E only.
    if exception is not None and not record.get("no_exception_word") and (not classic or record.get("access_word")):
        parts.append(f"{exception:x}")
        if exception == ACCESS_VIOLATION and facts.access in _LETTERS:
            parts.append(_LETTERS[facts.access])
            parts += _outside(_code_words(facts))
        elif exception == _ILLEGAL_INSTRUCTION and facts.in_module is False:
            parts.append("BAD_IP")
    guard = record.get("guard")
    if guard is not None and f"{argument(bug_check, guard['argument']) or 0:x}" in guard["values"]:
        return [*parts, guard["word"]]
    parts += _words(bug_check, record, facts)
    if facts.small_dump and "small_dump_word" in record:
        parts.append(record["small_dump_word"])
    return parts


def _at_null(bug_check: BugCheck, record: Mapping[str, Any]) -> bool:
    """Whether the argument for the instruction of an exception is null: what was fetched there is what failed."""
    number = _failure_rule(bug_check.code).get("ip")
    return "exception" in record and number is not None and argument(bug_check, number) == 0


def _prefix(bug_check: BugCheck, record: Mapping[str, Any]) -> str:
    """What the bucket begins with: the code, or the name of a code that is an NTSTATUS."""
    prefix: str | None = record.get("prefix")
    if prefix is None and bug_check.code >= _STATUS_CODES:
        prefix = tables.status_names().get(bug_check.code)
    return prefix or f"0x{bug_check.code:X}"


def _code_words(facts: FailureFacts) -> list[str]:
    """The word for a fault that fetching the instruction itself made."""
    if facts.ip is None or not (facts.access == "execute" or facts.ip == facts.address):
        return []
    if facts.ip < _NULL_PAGE:
        return ["NULL_IP"]
    return {True: ["PAGED_IP"], False: ["BAD_IP"], None: []}[facts.in_module]


def _outside(components: list[str]) -> list[str]:
    return [word for word in components if word != "PAGED_IP"]


def _words(bug_check: BugCheck, record: Mapping[str, Any], facts: FailureFacts) -> list[str]:
    """The words of the table, in its order; those whose facts are not known are left out."""
    parts: list[str | None] = []
    for entry in record.get("words", ()):
        if "text" in entry:
            parts.append(entry["text"])
        elif "process" in entry:
            parts.append(facts.process)
        elif "cookie" in entry:
            parts.append(_cookie_word(*(argument(bug_check, index) for index in entry["cookie"])))
        elif "page_state" in entry:
            parts.append(_page_state(bug_check, facts))
        elif "rule" in entry:
            parts += _rule_words(bug_check)
        else:
            parts.append(_argument_word(argument(bug_check, entry["argument"]), entry))
    return [word for word in parts if word]


def _argument_word(value: int | None, entry: Mapping[str, Any]) -> str | None:
    if value is None:
        return None
    if entry.get("status"):
        # An NTSTATUS stands sign-extended in the argument.
        return f"{value & 0xFFFFFFFF:x}"
    if entry.get("fast_fail"):
        name: str | None = tables.fast_fail_codes().get(value, {}).get("name")
        return name
    if "values" in entry:
        return _named(value, entry["values"])
    if value >> 32 == 0xFFFFFFFF:
        value &= 0xFFFFFFFF  # an NTSTATUS, widened with its sign
    return str(value) if entry.get("base") == 10 else f"{value:x}"


def _cookie_word(expected: int | None, found: int | None) -> str | None:
    """How far the stack cookie that was found differs from the one that should be there."""
    if expected is None or found is None:
        return None
    return {1: "ONE_BIT", 2: "TWO_BIT", 3: "THREE_BIT"}.get((expected ^ found).bit_count())


def _page_state(bug_check: BugCheck, facts: FailureFacts) -> str:
    """The second word of 0x50. Debuggers of today print a missing string for it, unless the page tables have no entry
    for an address inside a pool (argument 4 is 2)."""
    no_page_table = argument(bug_check, 4) == _NO_PAGE_TABLE and "pool" in (facts.region or "").lower()
    return "INVALID" if facts.generation == MIDDLE or no_page_table else "(null)"


def _rule_words(bug_check: BugCheck) -> list[str]:
    """Argument 1 of 0xC4: the name of the rule that was broken, marked as one of the DDI rules, else the number."""
    value = argument(bug_check, 1)
    if value is None:
        return []
    record = tables.bug_check_record(bug_check.code) or {}
    for variant in record.get("variants", ()):
        if "rule" in variant and f"{value:x}" in variant["when"]:
            return [variant["rule"], "XDV"]
    return [f"{value:x}"]


def _named(value: int, names: Mapping[str, str]) -> str | None:
    exact = names.get(f"{value:x}")
    if exact is not None:
        return exact
    # Arguments are 64 bits wide, what they hold often 16 or 32.
    width = next(bits for bits in (16, 32, 64, value.bit_length()) if value < 1 << bits)
    if value >> (width - 1) and "negative" in names:
        return names["negative"]
    return names.get("other")


def special(
    prefix: str | None, bug_check: BugCheck | None, image: str | None, facts: FailureFacts | None = None
) -> Special | None:
    """The bucket for a prefix that needs no module, or for arguments that speak of the hardware; ``None`` for others.

    ``image`` is that of the culprit the arguments name, for the buckets that carry one.
    """
    facts = facts or FailureFacts()
    prefix = prefix if prefix is not None else _special_argument(bug_check)
    for record in _special_buckets() if prefix is not None else ():
        if prefix is None or not _continues(prefix, record["special"]):
            continue
        bare = record.get("bare_before_modern") and facts.generation == CLASSIC
        bucket = prefix if bare else _completed(prefix, record, bug_check, image, facts)
        if facts.generation == CLASSIC and facts.architecture == "x64" and not bare:
            bucket = f"X64_{bucket}"
        return Special(
            bucket,
            record["module"],
            record["image"],
            record.get("followup"),
            record.get("symbol"),
            record.get("suspect"),
        )
    return _hardware(bug_check, facts)


def _completed(
    prefix: str, record: Mapping[str, Any], bug_check: BugCheck | None, image: str | None, facts: FailureFacts
) -> str:
    """The words behind the prefix of a special bucket; none where it has some already."""
    if prefix != record["special"] or bug_check is None:
        return prefix
    parts = [prefix]
    if record.get("code"):
        parts.append("AV" if is_access_violation(bug_check) else f"0x{bug_check.code:X}")
    if record.get("words"):
        parts += _tabled(bug_check, facts)
    if record.get("image_in_bucket") and image:
        parts.append(image)
    return "_".join(parts)


def _special_argument(bug_check: BugCheck | None) -> str | None:
    """The prefix of a special bucket that an argument alone stands for."""
    condition = record_of(bug_check.code).get("special") if bug_check is not None else None
    if bug_check is None or condition is None:
        return None
    value = argument(bug_check, condition["argument"])
    prefix: str | None = None if value is None else condition["values"].get(f"{value:x}")
    return prefix


def _hardware(bug_check: BugCheck | None, facts: FailureFacts) -> Special | None:
    """The bucket of arguments that only failing hardware explains."""
    condition = record_of(bug_check.code).get("hardware") if bug_check is not None else None
    if bug_check is None or condition is None:
        return None
    value = argument(bug_check, condition["argument"])
    if value is None or f"{value:x}" not in condition["values"]:
        return None
    bucket = f"{'_'.join(_tabled(bug_check, facts))}_IMAGE_{condition['image']}"
    return Special(bucket, condition["module"], condition["image"], None)
