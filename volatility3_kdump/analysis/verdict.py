"""The verdict: which component is to blame for a crash, why that one, which came second, and how sure it is.

The choice follows the debugger's documented algorithm ("Using the !analyze Extension" in Microsoft's debugger
documentation). An owner is looked up for every frame from the top; the strongest owner wins, among equals the one
nearest the top (:mod:`volatility3_kdump.analysis.owners`). What the arguments of the bug check name goes before that.

One file over 500 lines: the steps of the choice are one class, since each goes by the same candidates and their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from volatility3_kdump.analysis import buckets
from volatility3_kdump.analysis.buckets import FailureFacts
from volatility3_kdump.analysis.bugcheck import BugCheck
from volatility3_kdump.analysis.doubts import doubt
from volatility3_kdump.analysis.own_bug_check import CALLER
from volatility3_kdump.analysis.owners import (
    DEFAULT_OWNER,
    IGNORE,
    LAST,
    LAST_IGNORE,
    MAYBE,
    MICROSOFT,
    PLAIN,
    POOL_CORRUPTION,
    RANKS,
    OwnerRules,
    Ownership,
)
from volatility3_kdump.analysis.reasoning import Culprit, Reasoning
from volatility3_kdump.analysis.stack_entries import StackEntry
from volatility3_kdump.images.modules import debugger_name
from volatility3_kdump.windows.stacks.frames import FAULT, INTERRUPTED

HIGH, MEDIUM, LOW = "high", "medium", "low"
_LEVELS = (LOW, MEDIUM, HIGH)
#: Why a component comes second where what is left to suspect is no module.
SHOWED = "where it showed"
#: The kernel's entry points for faults, and for system calls (below which is the process).
_TRAP_ENTRY = re.compile(r"_?KiTrap[0-9A-F]{2}|Ki\w+(?:Fault|Abort)", re.IGNORECASE)
_SERVICE_ENTRY = re.compile(r"KiSystemService|KiSystemCall|KiFastCallEntry", re.IGNORECASE)
#: Where the kernel's half of the address space begins, without and with 32 bits.
_USER_END = (1 << 47, 1 << 31)
#: The kernel is known by the file name that it was built with, not by that on disk.
_KERNEL_IMAGE, _KERNEL_IMAGES = "ntkrnlmp.exe", ("ntkrnlpa.exe", "ntkrpamp.exe")


@dataclass(frozen=True)
class Verdict:
    """Who is to blame.

    ``symbol_name``, ``module_name``, ``image_name``, ``bucket``, ``bucket_hash`` (no braces) and ``function_offset``
    are the debugger's SYMBOL_NAME, MODULE_NAME, IMAGE_NAME, FAILURE_BUCKET_ID, FAILURE_ID_HASH and
    BUCKET_ID_FUNC_OFFSET, chosen as the debugger chooses. ``suspect`` is the file, else the module, that we hold most
    probably responsible: the same component, unless the arguments name one where the debugger goes by the stack, or
    what is left to suspect is no module. It is ``None`` where nobody is.
    ``rule`` says why, ``runner_up`` and ``runner_up_rule`` who came second and why not first.
    ``confidence`` is ``high``, ``medium`` or ``low``, ``confidence_reason`` why. ``frame`` is the index of the
    entry blamed. ``all_microsoft`` says that no frame belongs to anyone but Microsoft. ``followup`` is the owner.
    ``None`` is "there is none", or "not known".
    """

    symbol_name: str | None
    module_name: str | None
    image_name: str | None
    bucket: str | None
    bucket_hash: str | None
    function_offset: int | None
    rule: str
    runner_up: str | None
    runner_up_rule: str | None
    confidence: str
    frame: int | None
    all_microsoft: bool
    followup: str
    confidence_reason: str = ""
    suspect: str | None = None


def no_verdict(why: str) -> Verdict:
    """The verdict where there is nothing to be blamed for."""
    return Verdict(
        symbol_name=None,
        module_name=None,
        image_name=None,
        bucket=None,
        bucket_hash=None,
        function_offset=None,
        rule=why,
        runner_up=None,
        runner_up_rule=None,
        confidence="none",
        frame=None,
        all_microsoft=False,
        followup="none",
        confidence_reason=why,
    )


class _Candidate(NamedTuple):
    """A frame with its owner. ``number`` is its index, negative for the instruction that failed where the stack lacks
    that frame."""

    number: int
    entry: StackEntry
    ownership: Ownership


def decide(
    bug_check: BugCheck | None,
    facts: FailureFacts | None,
    entries: Sequence[StackEntry],
    reasoning: Reasoning,
    rules: OwnerRules,
    resolve: Callable[[int], StackEntry | None] | None = None,
) -> Verdict:
    """Choose the culprit.

    ``entries`` is the stack of the failure, its top first. ``resolve`` names an address
    (:func:`~volatility3_kdump.analysis.stack_entries.entry_at`); it serves arguments that are themselves addresses of
    code. Never raises for any content of the arguments.
    """
    return _Decision(bug_check, facts, entries, reasoning, rules, resolve).verdict()


def turned_to(verdict: Verdict, suspect: str, rule: str, confidence: str, reason: str) -> Verdict:
    """What is left to suspect; the component on the stack becomes the place where it showed."""
    showed = verdict.symbol_name or verdict.image_name
    return replace(
        verdict,
        suspect=suspect,
        rule=rule,
        confidence=confidence,
        confidence_reason=reason,
        runner_up=showed or verdict.runner_up,
        runner_up_rule=SHOWED if showed else verdict.runner_up_rule,
        all_microsoft=False,
    )


class _Decision:
    def __init__(
        self,
        bug_check: BugCheck | None,
        facts: FailureFacts | None,
        entries: Sequence[StackEntry],
        reasoning: Reasoning,
        rules: OwnerRules,
        resolve: Callable[[int], StackEntry | None] | None,
    ) -> None:
        self.bug_check = bug_check
        self.facts = buckets.completed(facts, bug_check)
        self.reasoning = reasoning
        self.resolve = resolve
        self.record = buckets.record_of(bug_check.code) if bug_check is not None else {}
        self.entries = entries
        self.rules = rules
        caller = reasoning.finding(CALLER)
        self.doubt = doubt(bug_check, entries, rules, caller.value if caller is not None else None)
        self.reporters = self._reporters()
        every = [
            _Candidate(index, entry, self._owner(entry))
            for index, entry in enumerate(entries[: self._kernel_frames()])
            if entry.module is not None
        ]
        # Without a symbol the owner rules cannot know what only reports a failure; its place in the stack tells.
        every = [candidate for candidate in every if not candidate.entry.reports] or every
        self.top, missing = self._top()
        if missing is not None:
            every.insert(0, _Candidate(-1, missing, self._owner(missing)))
        below = [candidate for candidate in every if candidate.number >= self.top]
        if not any(candidate.ownership.strength != IGNORE for candidate in below):
            # The instruction that failed lies in no module and nothing called it: what is left is who reported it.
            self.top, below = -1, every
        self.candidates = below
        considered = [
            candidate for candidate in self.candidates if candidate.ownership.strength not in (IGNORE, LAST_IGNORE)
        ]
        self.all_microsoft = bool(self.candidates) and all(candidate.ownership.microsoft for candidate in considered)
        self.ranked = sorted(
            (candidate for candidate in self.candidates if candidate.ownership.strength != IGNORE),
            key=lambda candidate: (-RANKS[candidate.ownership.strength], candidate.number),
        )

    def _owner(self, entry: StackEntry) -> Ownership:
        """Who owns a frame. Classic debuggers count the entry of a fault as a frame of the kernel like any other."""
        owner = self.rules.owner(entry.module or "", entry.symbol)
        if (
            self.facts.generation == buckets.CLASSIC
            and owner.strength == LAST_IGNORE
            and _TRAP_ENTRY.fullmatch(entry.symbol or "")
        ):
            return owner._replace(owner=MICROSOFT, strength=LAST)
        if owner.strength == PLAIN and (entry.module or "").lower() in self.reporters:
            return owner._replace(strength=LAST)
        return owner

    def _reporters(self) -> frozenset[str]:
        """Modules that only report what another one did, for this code and these arguments."""
        condition = self.record.get("reporters")
        if condition is None or not self._holds(condition):
            return frozenset()
        return frozenset(name.lower() for name in condition["modules"])

    def _kernel_frames(self) -> int:
        """How many frames count: those of the kernel, unless the process itself is what the bug check is about."""
        if self.record.get("user_frames"):
            return len(self.entries)
        previous: StackEntry | None = None
        for index, entry in enumerate(self.entries):
            if 0 < entry.address < _USER_END[self.facts.architecture == "x86"] and entry.module is not None:
                return index
            if previous is not None and previous.module == "nt" and _SERVICE_ENTRY.match(previous.symbol or ""):
                if entry.module != "nt":
                    return index
            previous = entry
        return len(self.entries)

    def _is_at(self, entry: StackEntry, ip: int) -> bool:
        """Whether an entry is at an address; those of x86 may be sign-extended."""
        mask = 0xFFFFFFFF if self.facts.architecture == "x86" else 0xFFFFFFFFFFFFFFFF
        return entry.address & mask == ip & mask

    def _top(self) -> tuple[int, StackEntry | None]:
        """Where the walk starts when an exception is reported: at the instruction that failed; above it are handlers.

        The entry is that instruction where the stack does not have it.
        """
        ip = self.facts.ip
        if ip is None or not self._reports_exception():
            return -1, None
        index = next((index for index, entry in enumerate(self.entries) if self._is_at(entry, ip)), None)
        if index is not None:
            # Classic debuggers walk from the very top.
            return -1 if self.facts.generation == buckets.CLASSIC else index, None
        entry = self._entry(ip)
        return -1, entry if entry is not None and entry.module is not None else None

    # who ------------------------------------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        culprit = self.reasoning.culprit
        special = buckets.special(
            self.reasoning.prefix, self.bug_check, culprit.image_name if culprit else None, self.facts
        )
        if special is not None:
            return self._special(special)
        if self._goes_by_name():
            named = self._named(culprit) or self._driver()
            if named is None and not self._waits():
                named = self._unnamed()
            if named is not None:
                return named
        chosen = self._routine() or self._unloaded() or self._walked()
        remains = self.doubt.get("remains")
        if remains is not None and culprit is None:
            reason = "its arguments say so" if "argument" in self.doubt else "nothing else explains this code"
            return turned_to(chosen, remains, self.doubt["uncertain"], MEDIUM, reason)
        return self._suspecting(chosen, culprit)

    def _goes_by_name(self) -> bool:
        """Whether the debugger blames a file that the arguments name, for this code and these arguments."""
        return self.reasoning.by_name or self._holds(self.record.get("named"))

    def _holds(self, condition: Mapping[str, Any] | None) -> bool:
        """Whether a condition on an argument holds; one without an argument always does."""
        if condition is None:
            return False
        value = self._argument(condition.get("argument"))
        return not condition or (value is not None and f"{value:x}" in condition["values"])

    def _waits(self) -> bool:
        """Whether the stack is that of a thread that waits, which the debugger shows where it has the request."""
        top = self.entries[0] if self.entries else None
        return top is not None and top.module == "nt" and top.symbol == "KiSwapContext"

    def _shows_the_report(self) -> bool:
        """Whether the stack is that of whoever reported the failure."""
        top = self.entries[0] if self.entries else None
        return top is None or top.reports or (top.module == "nt" and (top.symbol or "").startswith("KeBugCheck"))

    def _suspecting(self, chosen: Verdict, culprit: Culprit | None) -> Verdict:
        """A verdict on the stack, with the component that the arguments name where that is another one."""
        name = culprit.image_name or culprit.module_name if culprit is not None else None
        if culprit is None or name is None:
            return chosen
        module = culprit.module_name or debugger_name(name)
        if chosen.module_name is not None and module.lower() == chosen.module_name.lower():
            rule = culprit.why if chosen.frame is None else f"{culprit.why}; on the stack, {chosen.rule}"
            agreed = chosen.confidence_reason if chosen.confidence == HIGH else "it is on the stack, too"
            return replace(chosen, rule=rule, confidence=HIGH, confidence_reason=agreed)
        return replace(
            chosen,
            rule=culprit.why,
            runner_up=chosen.symbol_name if chosen.frame is not None else chosen.runner_up,
            runner_up_rule=f"the stack alone would name it: {chosen.rule}"
            if chosen.frame is not None
            else chosen.runner_up_rule,
            confidence=MEDIUM if self.rules.owner(module, None).microsoft else HIGH,
            confidence_reason="the arguments of the bug check name it",
            all_microsoft=False,
            suspect=name,
        )

    def _special(self, special: buckets.Special) -> Verdict:
        runner_up, why = self._second(None)
        return Verdict(
            symbol_name=special.symbol,
            module_name=special.module,
            image_name=special.image,
            bucket=special.bucket,
            bucket_hash=buckets.failure_hash(special.bucket),
            function_offset=None,
            rule=self.reasoning.culprit.why
            if self.reasoning.culprit is not None
            else f"what was found ({special.bucket}) speaks against every driver on the stack",
            runner_up=runner_up,
            runner_up_rule=why,
            confidence=MEDIUM,
            confidence_reason="the damage was found, but not when or how it came about",
            frame=None,
            all_microsoft=False,
            followup=special.followup or DEFAULT_OWNER,
            suspect=special.suspect or special.image,
        )

    def _named(self, culprit: Culprit | None) -> Verdict | None:
        """The component that the rule of the code took from the arguments."""
        if culprit is None:
            return None
        entry = self._entry(culprit.address)
        image = culprit.image_name or (entry.image if entry is not None else None)
        module = culprit.module_name or (debugger_name(image) if image else None)
        if module is None and entry is not None:
            module = entry.module
        if module is None and image is None:
            return None
        if self.reasoning.uncertain:
            return self._by_argument(module, image, entry, culprit.why, MEDIUM, self.reasoning.uncertain)
        return self._by_argument(module, image, entry, culprit.why, HIGH, "the arguments of the bug check name it")

    def _unnamed(self) -> Verdict | None:
        """What the debugger writes where the arguments lead to a driver that the dump does not hold."""
        if not self._holds(self.record.get("unnamed")):
            return None
        shown = buckets.image_of(self.reasoning.specifiers)
        if shown is not None:
            why = f"the device that the arguments lead to belongs to {shown}, and no other driver can be named"
            return self._by_argument(debugger_name(shown), shown, None, why, LOW, why)
        why = "the arguments lead to the driver, but the dump does not hold what they point at"
        return self._by_argument(None, None, None, why, LOW, why)

    def _driver(self) -> Verdict | None:
        """Codes with an argument that is an address inside the driver to blame."""
        number = self.record.get("driver")
        entry = self._entry(self._argument(number)) if number else None
        if entry is None or entry.module is None:
            return None
        why = f"argument {number} is the address {entry.name}, inside the driver that the bug check is about"
        if entry.module == "nt":
            # The kernel is no driver: what the argument should say is something else.
            return self._by_argument(entry.module, entry.image, entry, why, LOW, "the address is the kernel's own")
        return self._by_argument(entry.module, entry.image, entry, why, HIGH, "the arguments of the bug check name it")

    def _by_argument(
        self, module: str | None, image: str | None, entry: StackEntry | None, why: str, confidence: str, reason: str
    ) -> Verdict:
        image_name = _image_name(module, image)
        # A rule may name another file for the bucket: that of the device, where the culprit is the driver in its stack.
        shown = buckets.image_of(self.reasoning.specifiers)
        runner_up, runner_up_rule = self._second(module)
        owner = self.rules.owner(module or buckets.UNKNOWN_MODULE, None)
        told = image_name is not None and not (
            self.record.get("image_since_modern") and self.facts.generation != buckets.MODERN
        )
        # The start of a module is where it lies, and no place in its code.
        named = entry is not None and entry.module is not None and (entry.symbol is not None or entry.offset != 0)
        symbol = entry.name if entry is not None and named and not shown else None
        return Verdict(
            symbol_name=symbol,
            module_name=debugger_name(shown) if shown else module or buckets.UNKNOWN_MODULE,
            image_name=shown or image_name or buckets.UNKNOWN_IMAGE,
            **self._bucket(f"IMAGE_{image_name}" if told else None),
            function_offset=None,
            rule=why,
            runner_up=runner_up,
            runner_up_rule=runner_up_rule,
            confidence=confidence,
            confidence_reason=reason,
            frame=None,
            all_microsoft=self.all_microsoft and owner.microsoft,
            followup=_followup(owner),
            suspect=image_name or module,
        )

    def _routine(self) -> Verdict | None:
        """Codes with an argument that is the address of a worker routine that misbehaved."""
        number = self.record.get("routine")
        entry = self._entry(self._argument(number)) if number else None
        if entry is None or entry.module is None:
            return None
        owner = self.rules.owner(entry.module, entry.symbol)
        if owner.microsoft:
            confidence, reason = LOW, "the routine is a part of Windows that may have acted for a driver"
        else:
            confidence, reason = HIGH, "the arguments of the bug check name it"
        why = f"argument {number} is the address of the routine that misbehaved, {entry.name}"
        return self._of_entry(entry, owner, None, why, confidence, reason)

    def _unloaded(self) -> Verdict | None:
        if self.facts.unloaded is None:
            return None
        executing = self.facts.ip is not None and self.facts.in_module is False
        if not executing and self.record and "violation" not in self.record:
            return None
        name, start = self.facts.unloaded
        module = debugger_name(name)
        place = self.facts.ip if executing else self.facts.address
        offset = place - start if place is not None and place >= start else 0
        entry = StackEntry(module, None, offset, name, start + offset, True, True)
        what = "the instruction that failed lies" if executing else "the address that was accessed lies"
        why = f"{what} where {name} was before it was unloaded"
        confidence, reason = (HIGH, "") if executing else (MEDIUM, ": its old addresses may have been used again")
        return self._of_entry(
            entry, self.rules.owner(module, None), None, why, confidence, f"the driver was unloaded too early{reason}"
        )

    def _walked(self) -> Verdict:
        chosen, extra = self._telltale() or ((self.ranked[0] if self.ranked else None), ())
        if chosen is None:
            return self._nothing()
        confidence, reason = self._confidence(chosen)
        return self._of_entry(chosen.entry, chosen.ownership, chosen, self._why(chosen), confidence, reason, extra)

    def _telltale(self) -> tuple[_Candidate, tuple[str, ...]] | None:
        """A function that tells what was corrupt, when it is the first below the report; with the word for it."""
        for entry in self.record.get("telling", ()):
            if self._argument(entry["argument"]) != entry["value"]:
                continue
            for candidate in self.candidates:
                name = f"{candidate.entry.module}!{candidate.entry.symbol}"
                if candidate.ownership.strength in (IGNORE, LAST_IGNORE) or name in entry["below"]:
                    continue
                if name in entry["frames"]:
                    return candidate, (entry["word"],)
                break
        return None

    def _nothing(self) -> Verdict:
        if not self.entries:
            why = "the dump holds no stack of the failure"
        elif not self.candidates:
            why = "no frame of the stack lies in a module"
        else:
            why = "every frame of the stack only reports the failure"
        return Verdict(
            symbol_name=buckets.INCONCLUSIVE,
            module_name=buckets.UNKNOWN_MODULE,
            image_name=buckets.UNKNOWN_IMAGE,
            **self._bucket(
                buckets.INCONCLUSIVE
                if self.facts.generation == buckets.CLASSIC
                else f"{buckets.INCONCLUSIVE}!{buckets.UNKNOWN_FUNCTION}"
            ),
            function_offset=None,
            rule=f"nobody can be blamed: {why}",
            runner_up=None,
            runner_up_rule=None,
            confidence=LOW,
            confidence_reason=why,
            frame=None,
            all_microsoft=False,
            followup=DEFAULT_OWNER,
        )

    # how it is told ---------------------------------------------------------------------------------------------------

    def _of_entry(
        self,
        entry: StackEntry,
        owner: Ownership,
        chosen: _Candidate | None,
        why: str,
        confidence: str,
        reason: str,
        extra: Sequence[str] = (),
    ) -> Verdict:
        runner_up, runner_up_rule = self._second(entry.module, chosen)
        image = _image_name(entry.module, entry.image)
        pool = POOL_CORRUPTION if owner.pool_corruption else None
        return Verdict(
            symbol_name=entry.name,
            module_name=pool or entry.module,
            image_name=pool or image,
            **self._bucket(
                buckets.tail(
                    entry.module, entry.symbol, entry.offset, self.facts, entry.image if entry.unloaded else None
                ),
                extra,
            ),
            function_offset=None if self.facts.generation == buckets.CLASSIC else entry.offset,
            rule=why,
            runner_up=runner_up,
            runner_up_rule=runner_up_rule,
            confidence=confidence,
            confidence_reason=reason,
            frame=chosen.number if chosen is not None and chosen.number >= 0 else None,
            all_microsoft=self.all_microsoft and (owner.microsoft or owner.owner == IGNORE),
            followup=_followup(owner),
            suspect=image or entry.module,
        )

    def _bucket(self, tail: str | None, extra: Sequence[str] = ()) -> dict[str, str | None]:
        if self.bug_check is None:
            return {"bucket": None, "bucket_hash": None}
        facts = self._placed()
        if not self._shows_the_report():
            # The registers of whoever the failure is about were in the small dump.
            facts = replace(facts, small_dump=False)
        head = buckets.head(self.bug_check, facts, self.reasoning, extra)
        bucket = head if tail is None or buckets.image_of(self.reasoning.specifiers) else f"{head}_{tail}"
        return {"bucket": bucket, "bucket_hash": buckets.failure_hash(bucket)}

    def _placed(self) -> FailureFacts:
        """The facts with what the stack and the symbols say of the instruction's module."""
        facts = self.facts
        if facts.in_module is not None or facts.ip is None:
            return facts
        ip = facts.ip
        entry = next((entry for entry in self.entries if self._is_at(entry, ip)), None) or self._entry(ip)
        if entry is None:
            return facts
        in_module = entry.module is not None and not entry.unloaded
        return replace(facts, in_module=in_module)

    def _why(self, chosen: _Candidate) -> str:
        strength = chosen.ownership.strength
        what = {
            PLAIN: "the first frame from the top that may be blamed",
            MAYBE: "no frame has a stronger owner, and it is the first of its kind",
            LAST: "nothing on the stack but the kernel and what counts as the kernel here; the first frame of these",
            LAST_IGNORE: "nothing else on the stack can be blamed",
        }[strength]
        passed = [candidate for candidate in self.candidates if candidate.number < chosen.number]
        reason = f"{what} (rule {chosen.ownership.rule!r}, {chosen.ownership.source})"
        if self.top > 0:
            reason += f"; the walk starts at the instruction that failed, frame {self.top}"
        if passed:
            noun = "frame" if len(passed) == 1 else "frames"
            owners = sorted({candidate.ownership.rule for candidate in passed})
            shown = ", ".join(repr(rule) for rule in owners[:3]) + (", ..." if len(owners) > 3 else "")
            reason += f"; passed over {len(passed)} {noun} above it ({shown})"
        if self.all_microsoft:
            reason += (
                "; every frame belongs to Microsoft, so this is where the failure showed "
                "and what caused it may have left no frame"
            )
        return reason

    def _confidence(self, chosen: _Candidate) -> tuple[str, str]:
        """How sure the choice of a frame is, and why."""
        level, reasons = 2, []
        weaker, why = self._owner_doubt(chosen)
        if why is not None:
            level -= weaker
            reasons.append(why)
        above = [candidate for candidate in self.candidates if candidate.number < chosen.number]
        failed = self._instruction_failed(chosen, above)
        between = [candidate for candidate in above if candidate.ownership.strength not in (IGNORE, LAST_IGNORE)]
        if self.reasoning.uncertain:
            level -= 2
            reasons.append(self.reasoning.uncertain)
        # The reason not to be sure is about the thread that stopped the system, not one that the arguments name.
        doubted = bool(self.doubt.get("uncertain")) and self.reasoning.thread is None
        if doubted:
            level -= 2 if self.doubt.get("blameless") else 1
            reasons.append(self.doubt["uncertain"])
        if chosen.entry.part == INTERRUPTED:
            level -= 2
            reasons.append("it was only interrupted by the DPC in which the failure happened")
        elif not doubted and failed and between:
            level -= 1
            reasons.append("the instruction that failed is in a function that it called")
        if not all(entry.trusted for entry in self.entries[: chosen.number + 1]):
            level -= 1
            reasons.append("the frame or one above it was found by a scan of the stack, not by unwinding")
        if chosen.ownership.microsoft and chosen.entry.symbol is None:
            reasons.append(
                f"{chosen.entry.module} has no symbols here, so that a debugger with symbols may choose otherwise"
            )
        if chosen.entry.unloaded:
            reasons.append("the driver had been unloaded")
        if not reasons:
            if self.reasoning.thread is not None:
                reasons.append("the thread that the arguments name was there")
            elif failed:
                reasons.append("the instruction that failed is its own")
            else:
                reasons.append("the system was stopped in a function that it called")
        return _LEVELS[max(level, 0)], "; ".join(reasons)

    def _owner_doubt(self, chosen: _Candidate) -> tuple[int, str | None]:
        """By how much the frame's owner makes the choice less sure, and why."""
        if self.all_microsoft:
            return 2, "every frame on the stack belongs to Microsoft"
        if chosen.ownership.strength in (LAST, LAST_IGNORE):
            return 2, "the stack holds nothing but frames that are blamed last"
        if chosen.ownership.microsoft:
            return 2, "the frame belongs to Microsoft, and the stack holds a driver that does not"
        if chosen.ownership.strength == MAYBE:
            return 1, "its owner rule says maybe"
        return 0, None

    def _instruction_failed(self, chosen: _Candidate, above: Sequence[_Candidate]) -> bool:
        """Whether an instruction failed in the frame or in one that it called; else the system was stopped there."""
        if chosen.number < 0 or chosen.entry.part == FAULT or (not above and self._reports_exception()):
            return True
        # Driver Verifier stops the system by itself, where no instruction has failed.
        if self.facts.verifier and self.record.get("verifier") and not self._reports_exception():
            return False
        return self.top >= 0 or any(
            candidate.number < 0 or candidate.ownership.strength == LAST_IGNORE for candidate in above
        )

    def _second(self, module: str | None, chosen: _Candidate | None = None) -> tuple[str | None, str | None]:
        """The best candidate of another module; one that is not Microsoft's before those of Microsoft."""
        others = [
            candidate
            for candidate in self.ranked
            if (candidate.entry.module or "").lower() != (module or "").lower() and candidate.entry.part != INTERRUPTED
        ]
        if not others:
            return None, None
        foreign = [
            candidate
            for candidate in others
            if not candidate.ownership.microsoft and candidate.ownership.owner != IGNORE
        ]
        second = foreign[0] if foreign else others[0]
        name, rule = second.entry.name, repr(second.ownership.rule)
        place = f"frame {second.number}" if second.number >= 0 else "the instruction that failed"
        if chosen is None:
            return name, f"{place}: on the stack (rule {rule}), but the stack was not what decided"
        if RANKS[second.ownership.strength] < RANKS[chosen.ownership.strength]:
            return name, f"{place}: its owner is weaker (rule {rule})"
        return name, f"{place}: as strong (rule {rule}), but farther from the top"

    def _reports_exception(self) -> bool:
        return self.bug_check is not None and buckets.reports_exception(self.bug_check)

    def _argument(self, number: int | None) -> int | None:
        return None if number is None or self.bug_check is None else buckets.argument(self.bug_check, number)

    def _entry(self, address: int | None) -> StackEntry | None:
        return self.resolve(address) if address is not None and self.resolve is not None else None


def _image_name(module: str | None, image: str | None) -> str | None:
    """The file name as the debugger has it."""
    if module is not None and module.lower() == "nt":
        return image if image is not None and image.lower() in _KERNEL_IMAGES else _KERNEL_IMAGE
    return image


def _followup(owner: Ownership) -> str:
    if owner.pool_corruption:
        return owner.owner
    return DEFAULT_OWNER if owner.microsoft or owner.owner == IGNORE else owner.owner
