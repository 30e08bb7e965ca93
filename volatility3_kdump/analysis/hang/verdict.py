"""Who most probably holds the machine up: what the evidence points at, added up.

A suspicion weighs from 0 to 100. What cannot be otherwise (a circle of waits, a DPC beyond the watchdog's limit, what a
bug check names) weighs 90; what a healthy machine does not show (a starved thread, pool at its limit, workers that all
stand) 60 to 80; what may be in order less than that. Facts that point at the same one strengthen each other: each
further one takes away a quarter of what is left of the doubt that its own weight leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from volatility3_kdump.analysis.hang.evidence import Section, Suspicion

HIGH, MEDIUM, LOW = "high", "medium", "low"
#: Below this, what there is may be seen on any machine.
_LEAST = 40
_HIGH, _MEDIUM = 80, 58
_CLOSE = 10
_SHARE = 0.25

NOTHING = "nothing points at a hang"


@dataclass(frozen=True)
class Suspect:
    """One that suspicions point at: who it is, its weight, and the reasons, the strongest first."""

    who: str
    weight: int
    reasons: tuple[str, ...]
    module: str | None
    thread: int | None


@dataclass(frozen=True)
class HangVerdict:
    """``suspect`` is ``None`` where nothing points at a hang. ``confidence`` is ``high``, ``medium`` or ``low``,
    ``confidence_reason`` says why; ``runner_up`` is who came second."""

    suspect: Suspect | None
    runner_up: Suspect | None
    confidence: str
    confidence_reason: str

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.suspect is None:
            return f"{NOTHING}{f'; {self.confidence_reason}' if self.confidence_reason else ''}"
        return f"{self.suspect.who} most probably holds the machine up"


def judge(sections: Sequence[Section]) -> HangVerdict:
    """Add the suspicions of all evidence up."""
    suspects = sorted(_suspects(sections), key=lambda suspect: -suspect.weight)
    absent = [section.subject for section in sections if section.absent is not None]
    strong = [suspect for suspect in suspects if suspect.weight >= _LEAST]
    if not strong:
        return HangVerdict(None, suspects[0] if suspects else None, *_without_suspect(sections, absent))
    first, second = strong[0], strong[1] if len(strong) > 1 else None
    level = HIGH if first.weight >= _HIGH else MEDIUM if first.weight >= _MEDIUM else LOW
    reason = f"{first.weight} of 100 by {_facts(len(first.reasons))}"
    if second is not None and first.weight - second.weight < _CLOSE:
        level = {HIGH: MEDIUM, MEDIUM: LOW}.get(level, LOW)
        reason += f"; {second.who} is nearly as probable ({second.weight})"
    if absent:
        reason += f"; not known: {', '.join(absent)}"
    return HangVerdict(first, second, level, reason)


def _facts(number: int) -> str:
    return "one fact" if number == 1 else f"{number} facts"


def _without_suspect(sections: Sequence[Section], absent: Sequence[str]) -> tuple[str, str]:
    if len(absent) == len(sections):
        return LOW, "the dump holds none of what would show it"
    if absent:
        return LOW, f"not known: {', '.join(absent)}"
    return HIGH, ""


def _suspects(sections: Iterable[Section]) -> list[Suspect]:
    by_key: dict[int | str, list[Suspicion]] = {}
    for section in sections:
        for fact in section.evidence:
            for suspicion in fact.suspicions:
                by_key.setdefault(suspicion.key, []).append(suspicion)
    return [_suspect(suspicions) for suspicions in by_key.values()]


def _suspect(suspicions: Sequence[Suspicion]) -> Suspect:
    ordered = sorted(suspicions, key=lambda suspicion: -suspicion.weight)
    reasons = tuple(dict.fromkeys(suspicion.why for suspicion in ordered))
    weights = {suspicion.why: suspicion.weight for suspicion in reversed(ordered)}
    doubt = 100.0 - ordered[0].weight
    for why in reasons[1:]:
        doubt *= 1 - _SHARE * weights[why] / 100
    strongest = ordered[0]
    return Suspect(strongest.who, round(100 - doubt), reasons, strongest.module, strongest.thread)
