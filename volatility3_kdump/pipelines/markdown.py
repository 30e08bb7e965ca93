"""Markdown that fits an issue: GitHub's dialect, names in code spans, nothing of the dump as markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from volatility3_kdump.pipelines.analysed import Analysed

#: An issue takes 65,536 characters.
LARGEST = 60_000
_MOST_FRAMES, _MOST_FINDINGS, _MOST_SENTENCES = 40, 15, 10
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#!|~$&])")
_LONGEST = 600


def markdown(dumps: Sequence[Analysed]) -> str:
    """The dumps one after the other; those that do not fit any more are counted."""
    if not dumps:
        return "No crash dump.\n"
    parts: list[str] = []
    used = 0
    for number, dump in enumerate(dumps):
        part = "\n".join(_dump(dump)) + "\n"
        if used + len(part) > LARGEST:
            parts.append(f"\n{len(dumps) - number} more dumps are left out here: an issue takes no more.\n")
            break
        parts.append(part)
        used += len(part)
    return "\n".join(parts)


def _dump(dump: Analysed) -> Iterator[str]:
    document = dump.document
    if document is None:
        yield f"### {code(dump.name)} was not analysed"
        yield ""
        yield plain(dump.error or "")
        return
    verdict = document["verdict"]
    yield f"### {code(dump.bug_check)} in {code(dump.suspect or 'nobody is named')}"
    yield ""
    if dump.matched:
        yield f"**Fails:** {', '.join(code(condition) for condition in dump.matched)}"
        yield ""
    yield from (f"- {plain(sentence)}" for sentence in document["summary"][:_MOST_SENTENCES])
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {label} | {code(value, cell=True)} |" for label, value in _facts(dump, verdict, document) if value)
    yield ""
    yield from _stack(document, verdict)
    findings = [finding for finding in document["findings"][:_MOST_FINDINGS] if finding["value"]]
    if findings:
        yield "<details><summary>Findings</summary>"
        yield ""
        yield "| field | value |"
        yield "|---|---|"
        yield from (f"| {code(entry['tag'], cell=True)} | {code(entry['value'], cell=True)} |" for entry in findings)
        yield ""
        yield "</details>"
        yield ""
    for note in (*document["notes"], *document["warnings"])[:_MOST_SENTENCES]:
        yield f"> {plain(note)}"
        yield ""


def _facts(dump: Analysed, verdict: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    system, process, failure = document["system"], document["process"], document["failure"]
    yield "Dump", dump.path
    yield "Confidence", ": ".join(filter(None, (verdict["confidence"], verdict["confidence_reason"])))
    yield "Symbol", verdict["symbol_name"]
    yield "Version", verdict["image_version"]
    yield "Bucket", verdict["bucket"]
    yield "Hash", verdict["hash"]
    yield "Instruction", failure["instruction"] if failure and failure["at_fault"] else None
    yield "Process", process["name"] if process else None
    yield "System", " ".join(filter(None, (system["release"], system["kernel_version"], system["platform"])))
    yield "Time", system["time_utc"]


def _stack(document: dict[str, Any], verdict: dict[str, Any]) -> Iterator[str]:
    frames = document["stack"]["frames"]
    if not frames:
        return
    lines = [
        f"{'>' if index == verdict['frame'] else ' '} {frame['number']:02x} {frame['call_site']}"
        f"{'' if frame['trust'] != 'scan' else '  (found by scanning)'}"
        for index, frame in enumerate(frames[:_MOST_FRAMES])
    ]
    if len(frames) > _MOST_FRAMES:
        lines.append(f"  {len(frames) - _MOST_FRAMES} more frames")
    yield from fenced(lines)
    yield ""


def fenced(lines: Sequence[str]) -> Iterator[str]:
    """Lines as a block of code, whatever is in them."""
    fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
    yield f"{fence}text"
    yield from (line[:_LONGEST] for line in lines)
    yield fence


def code(content: str, cell: bool = False) -> str:
    """A text as a code span: nothing in it is markup, a link or a mention; ``cell`` is for one in a table."""
    content = content[:_LONGEST] or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", content)), default=0))
    room = " " if content[0] in "` " or content[-1] in "` " else ""
    span = f"{fence}{room}{content}{room}{fence}"
    # A table is cut into cells before anything else is read.
    return span.replace("|", "\\|") if cell else span


def plain(text: str) -> str:
    """A sentence as text: names in it are no markup, link or mention."""
    escaped = _SPECIAL.sub(r"\\\1", text[: 4 * _LONGEST])
    # What begins a list, a heading or a definition.
    escaped = re.sub(r"^(\s*\d*)([-+=.):])", r"\1\\\2", escaped)
    # Mentions, references, addresses and emoji are made of plain text as well: an empty comment keeps them apart.
    escaped = re.sub(r"@(?=\w)", "@<!-- -->", escaped)
    escaped = re.sub(r"(?i)\b(gh-|www\.|https?:|ftp:|mailto:|xmpp:)(?=\S)", r"\1<!-- -->", escaped)
    escaped = re.sub(r":(?=[\w+-]+:)", ":<!-- -->", escaped)
    return re.sub(r"\\#(?=\w)", r"\\#<!-- -->", escaped)
