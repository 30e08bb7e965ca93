"""SARIF 2.1.0: a rule for each bug check, a result for each dump, with its stack and a fingerprint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from volatility3_kdump.pipelines.analysed import Analysed
from volatility3_kdump.version import __version__

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_MOST_FRAMES = 64
_SECURITY = {"low": "note", "medium": "warning", "high": "warning"}


def sarif(dumps: Sequence[Analysed]) -> str:
    """The log, with one run."""
    rules: dict[str, dict[str, Any]] = {}
    results, problems = [], []
    for dump in dumps:
        if dump.document is None:
            problems.append(_notification(dump))
        else:
            results.append(_result(dump, _rule(dump, rules), list(rules)))
    run = {
        "tool": {
            "driver": {
                "name": "kdump",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": list(rules.values()),
            }
        },
        "invocations": [{"executionSuccessful": not problems, "toolExecutionNotifications": problems}],
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, ensure_ascii=True) + "\n"


def _rule(dump: Analysed, rules: dict[str, dict[str, Any]]) -> str:
    """The id of a dump's rule; it is added where it is new."""
    bug_check = (dump.document or {}).get("bug_check")
    identifier = "no-bug-check" if bug_check is None else str(bug_check["base_code"])
    if identifier not in rules:
        rule: dict[str, Any] = {"id": identifier, "shortDescription": {"text": dump.bug_check}}
        if bug_check is not None and bug_check["name"]:
            rule["name"] = bug_check["name"]
        if bug_check is not None and bug_check["text"]:
            rule["fullDescription"] = {"text": bug_check["text"]}
        rules[identifier] = rule
    return identifier


def _result(dump: Analysed, rule: str, rules: list[str]) -> dict[str, Any]:
    document = dump.document or {}
    verdict = document["verdict"]
    frames = document["stack"]["frames"][:_MOST_FRAMES]
    location = _location(dump)
    if verdict["symbol_name"]:
        location["logicalLocations"] = [_logical(verdict["symbol_name"], verdict["module_name"])]
    result: dict[str, Any] = {
        "ruleId": rule,
        "ruleIndex": rules.index(rule),
        "kind": "fail",
        "level": "error" if dump.matched else _SECURITY.get(verdict["confidence"], "note"),
        "message": {"text": " ".join([dump.sentence + ".", *document["summary"]])},
        "locations": [location],
        "properties": {
            "suspect": dump.suspect,
            "confidence": verdict["confidence"],
            "bucket": verdict["bucket"],
            "fails": list(dump.matched),
        },
    }
    if verdict["hash"]:
        result["partialFingerprints"] = {"failureIdHash/v1": verdict["hash"]}
    if frames:
        result["stacks"] = [
            {"message": {"text": "the stack of the failure"}, "frames": [_frame(frame) for frame in frames]}
        ]
    return result


def _frame(frame: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "location": {
            "logicalLocations": [_logical(frame["call_site"], frame["module"])],
            "message": {"text": f"{frame['call_site']} ({frame['trust']})"},
        }
    }
    if frame["module"]:
        made["module"] = frame["module"]
    return made


def _logical(name: str, module: str | None) -> dict[str, Any]:
    kind = {"kind": "function"} if module else {}
    return {"fullyQualifiedName": name, **kind}


def _location(dump: Analysed) -> dict[str, Any]:
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(dump.path)}, "region": {"startLine": 1}}}


def _uri(path: str) -> str:
    """Relative to the directory where the tool runs, as the reader of a pipeline's log needs it."""
    if os.path.isabs(path):
        relative = os.path.relpath(path)
        if relative.startswith(os.pardir):
            return Path(path).as_uri()
        path = relative
    return quote(path.replace(os.sep, "/"))


def _notification(dump: Analysed) -> dict[str, Any]:
    return {
        "level": "error",
        "message": {"text": f"{dump.name} was not analysed: {dump.error}"},
        "locations": [_location(dump)],
    }
