"""The crashes of a batch, counted by their buckets without the addresses in them; several dumps may be of one crash."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.analysis.buckets import grouping
from volatility3_kdump.batch.machines import Machines, machine_lines
from volatility3_kdump.batch.sightings import Sighting, Sightings, crash_of, rank_of, shared
from volatility3_kdump.batch.task import SCHEMA, Line
from volatility3_kdump.escape import printable
from volatility3_kdump.version import __version__

#: Example files that the summary names for each group.
EXAMPLES = 5


@dataclass
class _Group:
    count: int = 0
    dumps: int = 0
    hashes: set[str] = dataclasses.field(default_factory=set)
    culprits: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: str | None = None
    last: str | None = None
    #: (time of the crash, path, number of the member, name of the member)
    examples: list[tuple[str, str, int, str | None]] = dataclasses.field(default_factory=list)

    def add(self, sightings: Sequence[Sighting]) -> None:
        """Count a crash, of which there may be several dumps; the first tells of it."""
        best = sightings[0]
        self.count += 1
        self.dumps += len(sightings)
        if best.digest is not None:
            self.hashes.add(best.digest)
        if best.culprit is not None:
            self.culprits[best.culprit] += 1
        if best.when is not None:
            self.first = best.when if self.first is None else min(self.first, best.when)
            self.last = best.when if self.last is None else max(self.last, best.when)
        self.examples += [sighting.place for sighting in sightings]
        self.examples.sort(key=lambda example: example[:3])
        del self.examples[EXAMPLES:]

    @property
    def culprit(self) -> str | None:
        """The most frequent one; the first by name where several are."""
        return min(self.culprits, key=lambda name: (-self.culprits[name], name), default=None)

    def example_files(self) -> list[dict[str, Any]]:
        return [{"path": path, "member": name} for _, path, _, name in self.examples]


class Summary:
    """Crashes counted by bucket; the result does not depend on the order of lines."""

    def __init__(self) -> None:
        self._sightings = Sightings()
        self._errors: dict[str, _Group] = {}
        self._machines = Machines()
        self.analysed = 0
        self.failed = 0

    def add(self, line: Line) -> None:
        """Count a line."""
        error, rank = line["error"], rank_of(line)
        member = (line["file"]["member"] or {}).get("name")
        if error is not None:
            self.failed += 1
            sighting = Sighting(rank, None, None, None, None, None, member)
            self._errors.setdefault(error["kind"], _Group()).add([sighting])
            return
        self.analysed += 1
        key = crash_of(line)
        self._machines.add(line, key, rank)
        verdict = line["verdict"]
        bug_check = line["bug_check"] or {}
        digest, suspect = shared(verdict["hash"]), shared(verdict["suspect"])
        name = None if digest else shared(bug_check.get("name") or bug_check.get("code"))
        bucket = None if verdict["bucket"] is None else sys.intern(grouping(verdict["bucket"]))
        # The time is in the key as well: one text for both.
        when = line["system"]["time_utc"]
        self._sightings.add(line, key, Sighting(rank, bucket, name, digest, suspect, when, member))

    def document(self) -> dict[str, Any]:
        """The summary as plain values: ``docs/batch-schema.md``."""
        #: By bucket without addresses and bug check, the latter only where there is no hash.
        groups: dict[tuple[str | None, str | None], _Group] = {}
        days: collections.Counter[str] = collections.Counter()
        culprits: collections.Counter[str] = collections.Counter()
        crashes = 0
        for sightings in self._sightings.crashes():
            crashes += 1
            best = sightings[0]
            groups.setdefault((best.bucket, best.name), _Group()).add(sightings)
            day = _day(best.when)
            if day is not None:
                days[day] += 1
            if best.culprit is not None:
                culprits[best.culprit] += 1
        return {
            "batch": SCHEMA,
            "kdump_version": __version__,
            "analysed": self.analysed,
            "failed": self.failed,
            "crashes": crashes,
            "groups": [
                {
                    "hash": min(group.hashes) if len(group.hashes) == 1 else None,
                    "hashes": sorted(group.hashes),
                    "bucket": bucket,
                    "bug_check": name,
                    "count": group.count,
                    "dumps": group.dumps,
                    "culprit": group.culprit,
                    "first_utc": group.first,
                    "last_utc": group.last,
                    "examples": group.example_files(),
                }
                for (bucket, name), group in sorted(groups.items(), key=_rank)
            ],
            "days": [{"day": day, "count": count} for day, count in sorted(days.items())],
            "culprits": [
                {"name": name, "count": count}
                for name, count in sorted(culprits.items(), key=lambda entry: (-entry[1], entry[0]))
            ],
            "machines": self._machines.document(),
            "errors": [
                {"kind": kind, "count": group.count, "examples": group.example_files()}
                for kind, group in sorted(self._errors.items(), key=_rank)
            ],
        }

    def text(self) -> Iterator[str]:
        """The summary for a reader, line by line."""
        document = self.document()
        for group in document["groups"]:
            what = group["bucket"] or group["bug_check"] or "no bug check"
            yield printable(f"{group['count']:6}  {what}  {group['culprit'] or 'no culprit'}")
            yield printable(f"        {_hash_words(group)}")
            if group["dumps"] > group["count"]:
                yield f"        {group['dumps']} dumps of {counted(group['count'], 'crash')}"
            if group["first_utc"] is not None:
                yield printable(f"        {group['first_utc']} to {group['last_utc']}")
            yield from _example_lines(group)
        yield from (printable(line) for line in machine_lines(document["machines"]))
        for error in document["errors"]:
            yield printable(f"{error['count']:6}  not analysed: {error['kind']}")
            yield from _example_lines(error)
        crashes = f" of {counted(document['crashes'], 'crash')}" if document["crashes"] < self.analysed else ""
        yield f"{self.analysed} analysed{crashes} in {counted(len(document['groups']), 'group')}, {self.failed} failed"


def counted(number: int, noun: str) -> str:
    ending = "es" if noun.endswith("sh") else "s"
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{ending}"


def _day(when: str | None) -> str | None:
    """The day of a time in a line, which may come from a file of an earlier run."""
    try:
        return datetime.datetime.fromisoformat(when).date().isoformat() if when is not None else None
    except ValueError:
        return None


def _rank(entry: tuple[Any, _Group]) -> tuple[int, str]:
    return -entry[1].count, repr(entry[0])


def _hash_words(group: dict[str, Any]) -> str:
    if group["hash"]:
        return f"{{{group['hash']}}}"
    return f"{len(group['hashes'])} different FAILURE_ID_HASH" if group["hashes"] else "no FAILURE_ID_HASH"


def _example_lines(group: dict[str, Any]) -> Iterator[str]:
    for example in group["examples"]:
        yield printable(f"        {example['path']}" + (f" ({example['member']})" if example["member"] else ""))
    total = group.get("dumps", group["count"])
    if total > len(group["examples"]):
        yield f"        and {total - len(group['examples'])} more"
