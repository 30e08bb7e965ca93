"""Which dumps of a batch are of one crash: small and large dumps of it, and copies.

Dumps are of one crash when time, bug check and arguments are equal, and so are the SMBIOS tables where they have some.
What is told of a crash is from the dump whose verdict is surest, then from the largest. Lines may come from a file of
an earlier run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_CONFIDENCE = {"high": 3, "medium": 2, "low": 1}


#: The order among dumps of one crash: the surest, the largest, then by path and number of the member.
Rank = tuple[int, int, str, int]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a line says of a crash. One is kept for each line of a batch: texts are those that others have as well.

    ``rank`` orders the dumps of one crash, the one that tells of it first. ``name`` is the bug check where there is no
    hash; ``member`` the name of the member of an archive.
    """

    rank: Rank
    bucket: str | None
    name: str | None
    digest: str | None
    culprit: str | None
    when: str | None
    member: str | None

    @property
    def place(self) -> tuple[str, str, int, str | None]:
        """Time of the crash, path, number and name of the member."""
        return self.when or "", self.rank[2], self.rank[3], self.member


class CrashKey(NamedTuple):
    """What dumps of one crash have in common: time, bug check without the mark of small dumps, and its arguments.

    The arguments are one text, which is smaller. ``time`` and ``arguments`` are ``None`` where the line has none.
    """

    time: str | None
    code: str
    arguments: str | None


class Sightings:
    """The dumps of a batch by their crashes; the result does not depend on the order of lines."""

    def __init__(self) -> None:
        #: By crash: the digest of the machine, ``None`` where it is not known, and what was seen.
        self._joined: dict[CrashKey, list[tuple[str | None, Sighting]]] = {}
        self._single: list[Sighting] = []

    def add(self, line: Mapping[str, Any], key: CrashKey, sighting: Sighting) -> None:
        """Take note of a line, of which ``key`` is what :func:`crash_of` says."""
        if key.time is None or key.arguments is None:
            self._single.append(sighting)
            return
        identity = shared(mapping(line.get("machine")).get("smbios_digest"))
        self._joined.setdefault(key, []).append((identity, sighting))

    def crashes(self) -> Iterator[list[Sighting]]:
        """The dumps of each crash, the one that tells of it first."""
        for sighting in self._single:
            yield [sighting]
        for seen in self._joined.values():
            machines: dict[str | None, list[Sighting]] = {}
            for machine, sighting in seen:
                machines.setdefault(machine, []).append(sighting)
            identified = [sightings for identity, sightings in machines.items() if identity is not None]
            unknown = machines.get(None, [])
            if len(identified) == 1:
                # What does not say which machine it is of, is of the only one that crashed so.
                identified, unknown = [[*identified[0], *unknown]], []
            for sightings in (*identified, unknown):
                if sightings:
                    yield sorted(sightings, key=lambda sighting: sighting.rank)


def crash_of(line: Mapping[str, Any]) -> CrashKey:
    """The crash that a line is of."""
    bug_check, time = mapping(line.get("bug_check")), mapping(line.get("system")).get("time_utc")
    arguments = bug_check.get("arguments")
    return CrashKey(
        time if isinstance(time, str) and time else None,
        sys.intern(str(bug_check.get("base_code") or bug_check.get("code"))),
        json.dumps([str(mapping(entry).get("value")) for entry in arguments]) if isinstance(arguments, list) else None,
    )


def rank_of(line: Mapping[str, Any]) -> Rank:
    """The order among dumps of one crash: the surest, the largest, then by name."""
    file = mapping(line.get("file"))
    confidence, size = mapping(line.get("verdict")).get("confidence"), file.get("size")
    member = mapping(file.get("member")).get("number")
    return (
        -_CONFIDENCE.get(str(confidence), 0),
        -size if isinstance(size, int) else 0,
        str(file.get("path")),
        member if isinstance(member, int) else 0,
    )


def shared(value: object) -> str | None:
    """A text of a line, the same object for equal ones; ``None`` for an empty one and for what is none."""
    return sys.intern(value) if type(value) is str and value else None


def mapping(value: object) -> Mapping[str, Any]:
    """An object of a line, empty where there is none: lines may come from a file."""
    return value if isinstance(value, Mapping) else {}
