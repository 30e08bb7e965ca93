"""Names for kinds of crashes: the failure bucket, built as the debugger builds it, and the hash of the bucket.

``PREFIX_word_word_module!function``, or ``PREFIX_word_IMAGE_file`` where only a file is blamed. A prefix is the bug
check's code or, for access violations of every code, ``AV``. Which words a code adds is data: the ``bucket`` of its
record in ``symbols/kdump/bugchecks.jsonl``. Buckets compare without regard to case, and so does the hash: one bucket
has the same hash here as in the debugger and in published analyses.
"""

from __future__ import annotations

import functools
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from volatility3_kdump import tables
from volatility3_kdump.analysis.bugcheck import BugCheck

if TYPE_CHECKING:
    from volatility3_kdump.analysis.failure import Failure
    from volatility3_kdump.analysis.reasoning import Reasoning
    from volatility3_kdump.target import Target

UNKNOWN_FUNCTION = "unknown_function"
UNKNOWN_MODULE, UNKNOWN_IMAGE = "Unknown_Module", "Unknown_Image"
#: What the debugger writes for the module when nothing on the stack can be blamed.
INCONCLUSIVE = "ANALYSIS_INCONCLUSIVE"
ACCESS_VIOLATION = 0xC0000005

_LETTERS = {"read": "R", "write": "W", "execute": "X"}
_NULL_PAGE = 0x1000


@dataclass(frozen=True)
class FailureFacts:
    """What the choice of bucket and culprit needs to know of a failure; every ``None`` is "not known".

    ``ip`` is the address of the instruction that failed, ``in_module`` whether that lies in a loaded module, ``access``
    ``read``, ``write`` or ``execute``, ``address`` the memory accessed. ``unloaded`` is name and first address of an
    unloaded module that ``ip`` or ``address`` lies in. ``verifier`` says that Driver Verifier checked drivers,
    ``small_dump`` that the dump is a small memory dump, ``live`` that the system went on.
    """

    ip: int | None = None
    in_module: bool | None = None
    access: str | None = None
    address: int | None = None
    unloaded: tuple[str, int] | None = None
    verifier: bool = False
    small_dump: bool = False
    live: bool = False


def failure_facts(target: Target, failure: Failure | None) -> FailureFacts:
    """The facts of a dump's failure."""
    small, live = target.dump.triage is not None, bool((target.header.attributes or 0) & _LIVE_DUMP)
    if failure is None:
        return FailureFacts(small_dump=small, live=live)
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
    )


#: Attribute bit of DUMP_HEADER64 in dumps of a system that went on.
_LIVE_DUMP = 0x10


def failure_hash(bucket: str) -> str:
    """FAILURE_ID_HASH of a bucket of the kernel: a GUID in lower case, without braces.

    It is the MD5 of ``km:`` and the bucket in lower case, as UTF-16LE without terminator, read as a GUID (compare the
    comments on DEBUG_FLR_FAILURE_ID_HASH in the SDK header ``extsfns.h``; the encoding follows from published pairs).
    """
    digest = hashlib.md5(f"km:{bucket.lower()}".encode("utf-16-le", "surrogatepass"), usedforsecurity=False).digest()
    return str(uuid.UUID(bytes_le=digest))


@dataclass(frozen=True)
class Special:
    """A bucket that is complete without a function: the pseudo module and image blamed, who is asked to follow up."""

    bucket: str
    module: str
    image: str
    followup: str | None


@functools.lru_cache(maxsize=1)
def _special_buckets() -> tuple[Mapping[str, Any], ...]:
    return tuple(tables.json_lines("buckets.jsonl"))


def record_of(code: int) -> Mapping[str, Any]:
    """What ``bugchecks.jsonl`` says of the bucket of a bug check code, empty where that is nothing special."""
    record: Mapping[str, Any] = (tables.bug_check_record(code) or {}).get("bucket", {})
    return record


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
    return replace(facts, ip=ip, access=access, address=address)


def is_access_violation(bug_check: BugCheck) -> bool:
    """Whether the bug check reports an access violation, by its code or by its exception."""
    record = record_of(bug_check.code)
    return bool(record.get("violation")) or _exception(bug_check, record) == ACCESS_VIOLATION


def reports_exception(bug_check: BugCheck) -> bool:
    """Whether the bug check reports that an instruction failed, rather than what a check found."""
    record = record_of(bug_check.code)
    return bool(record.get("violation")) or "exception" in record or "ip" in _failure_rule(bug_check.code)


def _exception(bug_check: BugCheck, record: Mapping[str, Any]) -> int | None:
    value = argument(bug_check, record["exception"]) if "exception" in record else None
    return None if value is None else value & 0xFFFFFFFF


def head(bug_check: BugCheck, facts: FailureFacts, reasoning: Reasoning, extra: Sequence[str] = ()) -> str:
    """Everything of the bucket before module or image: ``AV``, ``0x139_3_CORRUPT_LIST_ENTRY``, ``LKD_0x141``.

    Prefix and words that the rule of the code found stand in place of those that the table gives, unless the table's
    only go further. ``extra`` words come last.
    """
    prefix, words = _tabled(bug_check, facts)
    tabled = "_".join((prefix, *words))
    if reasoning.prefix is not None and not reasoning.specifiers:
        text = tabled if _continues(tabled, reasoning.prefix) else reasoning.prefix
    else:
        first = prefix if reasoning.prefix is None else reasoning.prefix
        chosen = "_".join((first, *reasoning.specifiers)) if reasoning.specifiers else tabled
        text = tabled if _continues(tabled, chosen) else chosen
    text = "_".join((text, *(["VRF"] if facts.verifier else []), *extra))
    live = bug_check.live or facts.live
    return f"LKD_{text}" if live and not text.startswith("LKD_") else text


def image_of(words: Sequence[str]) -> str | None:
    """The file that the words of a bucket themselves end with (``..., "IMAGE", "pci.sys"``), ``None`` for others."""
    return words[-1] if len(words) > 1 and words[-2] == "IMAGE" and words[-1] else None


def _continues(text: str, start: str) -> bool:
    return text.lower() == start.lower() or text.lower().startswith(f"{start.lower()}_")


def _tabled(bug_check: BugCheck, facts: FailureFacts) -> tuple[str, list[str]]:
    record = record_of(bug_check.code)
    exception = _exception(bug_check, record)
    words: list[str] = []
    if is_access_violation(bug_check):
        prefix = "AV"
        if record.get("access_word") and facts.access in _LETTERS:
            words.append(_LETTERS[facts.access])
        words += _code_words(facts) if record.get("code_words") else []
        # A word for the kind of fault means something only behind the letter.
        if not record.get("access_word") or words:
            words += _words(bug_check, record)
        return prefix, words
    prefix = record.get("prefix") or f"0x{bug_check.code:X}"
    if exception is not None and not record.get("no_exception_word"):
        words.append(f"{exception:x}")
    words += _words(bug_check, record)
    if facts.small_dump and "small_dump_word" in record:
        words.append(record["small_dump_word"])
    return prefix, words


def _code_words(facts: FailureFacts) -> list[str]:
    """The words for a fault that fetching the instruction itself made."""
    if facts.ip is None or not (facts.access == "execute" or facts.ip == facts.address):
        return []
    if facts.ip < _NULL_PAGE:
        return ["CODE_AV_NULL_IP"]
    return {True: ["CODE_AV_PAGED_IP"], False: ["CODE_AV_BAD_IP"], None: []}[facts.in_module]


def _words(bug_check: BugCheck, record: Mapping[str, Any]) -> list[str]:
    words = []
    for entry in record.get("words", ()):
        value = argument(bug_check, entry["argument"])
        if value is None:
            continue
        if entry.get("fast_fail"):
            word = tables.fast_fail_codes().get(value, {}).get("name")
        elif "values" in entry:
            word = _named(value, entry["values"])
        else:
            word = str(value) if entry.get("base") == 10 else f"{value:x}"
        if word is not None:
            words.append(word)
    return words


def _named(value: int, names: Mapping[str, str]) -> str | None:
    exact = names.get(f"{value:x}")
    if exact is not None:
        return exact
    # Arguments are 64 bits wide, what they hold often 16 or 32.
    width = next(bits for bits in (16, 32, 64, value.bit_length()) if value < 1 << bits)
    if value >> (width - 1) and "negative" in names:
        return names["negative"]
    return names.get("other")


def special(prefix: str | None, bug_check: BugCheck | None, image: str | None) -> Special | None:
    """The bucket for a prefix that needs no module, ``None`` for others.

    ``image`` is that of the culprit the arguments name, for the buckets that carry one.
    """
    if prefix is None:
        return None
    for record in _special_buckets():
        if not _continues(prefix, record["special"]):
            continue
        bucket = prefix
        if record.get("code") and prefix == record["special"] and bug_check is not None:
            bucket += "_AV" if is_access_violation(bug_check) else f"_0x{bug_check.code:X}"
        if record.get("image_in_bucket") and image and prefix == record["special"]:
            bucket += f"_{image}"
        return Special(bucket, record["module"], record["image"], record.get("followup"))
    return None
