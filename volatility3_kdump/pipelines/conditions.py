"""``--fail-on``: which verdicts fail a pipeline.

``TERM[,TERM...]``: all terms must hold. Names are compared without regard to case; ``*`` and ``?`` stand for any
characters, and ``.sys`` may be left out of a driver's name.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.errors import KdumpError

Document = Mapping[str, Any]
Test = Callable[[Document, str], bool]

_CONFIDENCE = ("low", "medium", "high")


class BadCondition(KdumpError):
    """A condition that cannot be read; the message says what there is."""


@dataclass(frozen=True)
class Condition:
    """One condition, as it was written, and its terms."""

    text: str
    terms: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition. Raises :class:`BadCondition`."""
        terms = []
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            name, value = name.strip().lower(), value.strip()
            if name in _PLAIN and not equals:
                terms.append((name, ""))
            elif name in _VALUED and value:
                if name == "confidence" and value.lower() not in _CONFIDENCE:
                    raise BadCondition(f"--fail-on {text}: confidence is one of {', '.join(_CONFIDENCE)}")
                terms.append((name, value.lower()))
            else:
                choices = ", ".join((*_PLAIN, *(f"{valued}=..." for valued in _VALUED)))
                raise BadCondition(f"--fail-on {text}: {part.strip()!r} is none of {choices}")
        return cls(text, tuple(terms))

    def holds(self, document: Document | None, error: str | None) -> bool:
        """Whether a dump meets it; one that could not be analysed meets ``error`` only."""
        if document is None:
            return error is not None and self.terms == (("error", ""),)
        return all(_holds(name, value, document) for name, value in self.terms)


def _holds(name: str, value: str, document: Document) -> bool:
    test = _VALUED.get(name)
    return test(document, value) if test is not None else _PLAIN[name](document)


def _fits(name: object, pattern: str) -> bool:
    return isinstance(name, str) and fnmatch.fnmatchcase(name.lower(), pattern)


def _driver_fits(names: list[object], pattern: str) -> bool:
    return any(_fits(name, wanted) for name in names for wanted in (pattern, f"{pattern}.sys"))


def _driver(document: Document, pattern: str) -> bool:
    verdict = document["verdict"]
    return _driver_fits([verdict["suspect"], verdict["image_name"], verdict["module_name"]], pattern)


def _stack(document: Document, pattern: str) -> bool:
    stem = pattern.removesuffix(".sys")
    return any(_fits(frame["module"], stem) for frame in document["stack"]["frames"])


def _bug_check(document: Document, pattern: str) -> bool:
    bug_check = document["bug_check"]
    if bug_check is None:
        return False
    try:
        return int(pattern, 16) in (int(bug_check["code"], 16), int(bug_check["base_code"], 16))
    except ValueError:
        return _fits(bug_check["name"], pattern)


def _confidence(document: Document, least: str) -> bool:
    confidence = document["verdict"]["confidence"]
    return confidence in _CONFIDENCE and _CONFIDENCE.index(confidence) >= _CONFIDENCE.index(least)


def _third_party(document: Document) -> bool:
    verdict = document["verdict"]
    return not verdict["all_microsoft"] and not _hardware(document) and bool(verdict["suspect"])


def _hardware(document: Document) -> bool:
    return bool((document["plausibility"] or {}).get("remains"))


_PLAIN: dict[str, Callable[[Document], bool]] = {
    "any": lambda document: True,
    "error": lambda document: False,
    "third-party": _third_party,
    "hardware": _hardware,
}
_VALUED: dict[str, Test] = {
    "driver": _driver,
    "stack": _stack,
    "bugcheck": _bug_check,
    "bucket": lambda document, pattern: _fits(document["verdict"]["bucket"], pattern),
    "hash": lambda document, value: _fits(document["verdict"]["hash"], value.strip("{}")),
    "process": lambda document, pattern: _fits((document["process"] or {}).get("name"), pattern),
    "confidence": _confidence,
}
