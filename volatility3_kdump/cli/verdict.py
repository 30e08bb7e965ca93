"""``kdump verdict``: the culprit, the bucket and its hash for a pasted analysis."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from volatility3_kdump.cli.command import Command
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import FileFailure, open_file, read_at_most, reason

_WIDTH = 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump verdict``."""
    parser.description = (
        "Read a pasted `!analyze -v`, or a bug check and a stack, and give the verdict of our own rules: symbol, "
        "module, image, failure bucket and hash, why, who came second, how sure. The verdict that the text itself has "
        "is only compared with ours. Buckets are written the way of the debugger that made the text."
    )
    parser.add_argument("file", metavar="FILE", help="the text; - reads it from stdin")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines (docs/verdict-schema.md)")
    parser.add_argument("--triage-ini", metavar="FILE", type=Path, help="own owner rules, over the shipped ones")


def run(arguments: argparse.Namespace) -> int:
    """``kdump verdict``: 0 for a verdict. Raises :class:`KdumpError` for a text that holds no bug check."""
    from volatility3_kdump.analysis.owners import OwnerRules
    from volatility3_kdump.analysis.pasted.evidence import judge
    from volatility3_kdump.analysis.pasted.report import read_report
    from volatility3_kdump.analysis.pasted.source import decode

    name = "standard input" if arguments.file == "-" else arguments.file
    rules = OwnerRules.load(arguments.triage_ini)
    record = as_record(judge(read_report(decode(_read(arguments.file), name), name), rules))
    if arguments.json:
        print(json.dumps(_escaped(record), indent=2, ensure_ascii=False))
    else:
        print("\n".join(printable(line) for line in as_lines(record)))
    return 0


def _read(file: str) -> bytes:
    from volatility3_kdump.analysis.pasted.source import LARGEST

    if file == "-":
        return read_at_most(sys.stdin.buffer, LARGEST + 1)
    try:
        with open_file(file) as stream:
            return read_at_most(stream, LARGEST + 1)
    except FileFailure as failure:
        raise KdumpError(f"{file}: {failure}") from failure
    except OSError as error:
        raise KdumpError(f"{file}: cannot be read: {reason(error)}") from error


def as_record(judged: Any) -> dict[str, Any]:
    """A verdict on a text as ``docs/verdict-schema.md`` describes it; ``judged`` is a :class:`PastedVerdict`."""
    from volatility3_kdump.analysis.buckets import grouping

    verdict, bug_check = judged.verdict, judged.bug_check
    return {
        "bug_check": {
            "code": f"{bug_check.raw_code:x}",
            "name": bug_check.name,
            "arguments": [None if entry.value is None else f"{entry.value:x}" for entry in bug_check.arguments],
        },
        "symbol_name": verdict.symbol_name,
        "module_name": verdict.module_name,
        "image_name": verdict.image_name,
        "suspect": verdict.suspect,
        "function_offset": None if verdict.function_offset is None else f"{verdict.function_offset:x}",
        "bucket": verdict.bucket,
        "hash": verdict.bucket_hash,
        "group": None if verdict.bucket is None else grouping(verdict.bucket),
        "rule": verdict.rule,
        "runner_up": verdict.runner_up,
        "runner_up_rule": verdict.runner_up_rule,
        "confidence": verdict.confidence,
        "confidence_reason": verdict.confidence_reason or None,
        "process": judged.facts.process,
        "generation": judged.facts.generation,
        "used": list(judged.used),
        "pasted": judged.pasted or None,
        "differences": list(judged.differences),
        "notes": list(judged.notes),
    }


def as_lines(record: dict[str, Any]) -> list[str]:
    """The same for readers."""
    bug_check = record["bug_check"]
    arguments = ", ".join(value or "?" for value in bug_check["arguments"])
    title = f"{bug_check['name'] or 'unknown code'} ({bug_check['code']})"
    lines = [_line("BUGCHECK", f"{title} {{{arguments}}}")]
    for label, key in (
        ("SYMBOL_NAME", "symbol_name"),
        ("MODULE_NAME", "module_name"),
        ("IMAGE_NAME", "image_name"),
        ("FUNC_OFFSET", "function_offset"),
        ("FAILURE_BUCKET_ID", "bucket"),
        ("FAILURE_ID_HASH", "hash"),
    ):
        value = record[key]
        lines.append(_line(label, "none" if value is None else f"{{{value}}}" if key == "hash" else value))
    if record["suspect"] not in (record["image_name"], record["module_name"]):
        lines.append(_line("SUSPECT", record["suspect"] or "nobody"))
    lines.append(_line("RULE", record["rule"]))
    if record["runner_up"] is not None:
        lines.append(_line("RUNNER_UP", f"{record['runner_up']} ({record['runner_up_rule']})"))
    reason = record["confidence_reason"]
    lines.append(_line("CONFIDENCE", record["confidence"] + (f": {reason}" if reason else "")))
    lines.append(_line("USED", "; ".join(record["used"])))
    lines += [_line("NOTE", note) for note in record["notes"]]
    if record["pasted"] is not None:
        lines += [_line("DIFFERS", sentence) for sentence in record["differences"]]
        if not record["differences"]:
            lines.append(_line("DIFFERS", "in nothing from the verdict in the text"))
    return lines


def _line(label: str, text: str) -> str:
    return f"{label + ':':{_WIDTH + 1}} {text}"


def _escaped(value: Any) -> Any:
    """Every text in a record made fit for a terminal."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {key: _escaped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_escaped(entry) for entry in value]
    return value


COMMAND = Command("verdict", "give culprit, bucket and hash for a pasted `!analyze -v` or stack", run, add_arguments)
