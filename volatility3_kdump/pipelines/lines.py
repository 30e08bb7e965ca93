"""A line for each dump: for readers, as JSON, and as GitHub's workflow commands."""

from __future__ import annotations

import json
from collections.abc import Sequence

from volatility3_kdump.pipelines.analysed import Analysed
from volatility3_kdump.version import __version__

SCHEMA = 1


def text(dumps: Sequence[Analysed]) -> str:
    """One line for each dump."""
    if not dumps:
        return "no crash dump\n"
    return "".join(f"{dump.path}: {dump.sentence}{_marks(dump)}\n" for dump in dumps)


def _marks(dump: Analysed) -> str:
    return f"  [fails: {'; '.join(dump.matched)}]" if dump.matched else ""


def as_json(dumps: Sequence[Analysed]) -> str:
    """One object: ``docs/pipelines.md``."""
    document = {
        "schema": SCHEMA,
        "kdump_version": __version__,
        "dumps": [
            {
                "path": dump.path,
                "error": dump.error,
                "seconds": dump.seconds,
                "fails": list(dump.matched),
                "analysis": dump.document,
            }
            for dump in dumps
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=True) + "\n"


def github(dumps: Sequence[Analysed]) -> str:
    """Workflow commands: an error for a dump that fails or could not be analysed, a notice for the others."""
    lines = []
    for dump in dumps:
        level = "error" if dump.matched else "warning" if dump.error is not None else "notice"
        title = f"{dump.bug_check}: {dump.suspect or 'nobody is named'}" if dump.error is None else "not analysed"
        message = f"{dump.name}: {dump.sentence}{_marks(dump)}"
        lines.append(f"::{level} file={_property(dump.path)},title={_property(title)}::{_data(message)}\n")
    return "".join(lines)


def _data(value: str) -> str:
    """As the toolkit escapes messages: what the runner reads is one line."""
    return value.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
