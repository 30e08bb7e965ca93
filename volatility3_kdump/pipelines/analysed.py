"""Dumps with their analyses, as every format shows them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from volatility3_kdump.batch.files import File, collect
from volatility3_kdump.collecting import let_go_of_dump
from volatility3_kdump.errors import KdumpError, ReadLimit
from volatility3_kdump.escape import printable
from volatility3_kdump.options import Options
from volatility3_kdump.pipelines.conditions import Condition


@dataclass(frozen=True)
class Analysed:
    """A dump: its path, its document (``docs/analyze-schema.md``) or why there is none, and the conditions it meets."""

    path: str
    document: dict[str, Any] | None
    error: str | None
    seconds: float
    matched: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's own name, fit to be shown."""
        return printable(os.path.basename(self.path))

    @property
    def bug_check(self) -> str:
        """``DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)``."""
        bug_check = (self.document or {}).get("bug_check")
        if bug_check is None:
            return "no bug check"
        code = bug_check["base_code"][2:]
        return f"{bug_check['name']} ({code})" if bug_check["name"] else f"bug check {code}"

    @property
    def suspect(self) -> str | None:
        """What is held responsible."""
        verdict = (self.document or {}).get("verdict") or {}
        return verdict.get("suspect") or None

    @property
    def sentence(self) -> str:
        """What happened, in one line."""
        if self.document is None:
            return f"not analysed: {self.error}"
        verdict, failure = self.document["verdict"], self.document["failure"]
        at = f" at {failure['name'] or failure['address']}" if failure and failure["at_fault"] else ""
        blamed = (
            f"{self.suspect} is held responsible (confidence {verdict['confidence']})"
            if self.suspect
            else "nobody is named"
        )
        if self.suspect and verdict["all_microsoft"] and verdict["confidence"] != "high" and not self._by_argument():
            blamed = f"it showed in {self.suspect}, but every frame of the stack is Windows' own"
        bucket = f"; {verdict['bucket']}" if verdict["bucket"] else ""
        digest = f" {{{verdict['hash']}}}" if verdict["hash"] else ""
        return f"{self.bug_check}{at}: {blamed}{bucket}{digest}"

    def _by_argument(self) -> bool:
        """Whether the arguments name the suspect: it is neither on the stack nor at the instruction that failed."""
        document = self.document or {}
        verdict, failure = document["verdict"], document["failure"] or {}
        at_fault = failure["module"] if failure.get("at_fault") else None
        return verdict["frame"] is None and verdict["module_name"] not in ("nt", (at_fault or {}).get("name"))


def analyse(
    paths: Sequence[str], options: Options, triage_ini: str | None, conditions: Sequence[Condition]
) -> Iterator[Analysed]:
    """The dumps at some paths, directories searched, in order; what cannot be analysed comes with its error."""
    from volatility3_kdump.analysis.owners import OwnerRules

    rules = OwnerRules.load(triage_ini)
    files, _ = collect(paths)
    for file in files:
        started = time.monotonic()
        document, error = _document(file, options, rules)
        analysed = Analysed(printable(_shown(file, paths)), document, error, round(time.monotonic() - started, 3))
        matched = tuple(condition.text for condition in conditions if condition.holds(document, error))
        yield replace(analysed, matched=matched)
        let_go_of_dump(alone=False)


def _shown(file: File, given: Iterable[str]) -> str:
    """A path as it was given, or from here where the file lies below."""
    if file.path in {os.path.abspath(path) for path in given}:
        return next(path for path in given if os.path.abspath(path) == file.path)
    relative = os.path.relpath(file.path)
    # What begins with a colon may be a command for who reads the log.
    relative = os.path.join(os.curdir, relative) if relative.startswith(":") else relative
    return file.path if relative.startswith(os.pardir) else relative


def _document(file: File, options: Options, rules: Any) -> tuple[dict[str, Any] | None, str | None]:
    from volatility3_kdump.analysis.crash import analyze_crash
    from volatility3_kdump.views.report import report
    from volatility3_kdump.windows.opening import open_target

    if file.problem is not None:
        return None, printable(file.problem)
    try:
        target = open_target(file.path, options)
        target.memory.budget.begin()
        return report(target, analyze_crash(target, rules)), None
    except (KdumpError, ReadLimit) as failure:
        return None, printable(str(failure))
