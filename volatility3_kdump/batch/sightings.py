"""Which dumps of a batch are of one crash: small and large dumps of it, and copies.

Dumps are of one crash when time, bug check and arguments are equal, and so are the SMBIOS tables where they have some.
What is told of a crash is from the dump whose verdict is surest, then from the largest. Lines may come from a file of
an earlier run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CONFIDENCE = {"high": 3, "medium": 2, "low": 1}


@dataclass(frozen=True)
class Sighting:
    """What a line says of a crash.

    ``rank`` orders the dumps of one crash, the one that tells of it first. ``name`` is the bug check where there is no
    hash. ``place`` is (time of the crash, path, number and name of the member).
    """

    rank: tuple[int, int, str, int]
    bucket: str | None
    name: str | None
    digest: str | None
    culprit: str | None
    when: str | None
    place: tuple[str, str, int, str | None]


class Sightings:
    """The dumps of a batch by their crashes; the result does not depend on the order of lines."""

    def __init__(self) -> None:
        self._joined: dict[tuple[str, ...], dict[str | None, list[Sighting]]] = {}
        self._single: list[Sighting] = []

    def add(self, line: Mapping[str, Any], sighting: Sighting) -> None:
        """Take note of a line."""
        bug_check = _mapping(line.get("bug_check"))
        arguments = bug_check.get("arguments")
        if sighting.when is None or not isinstance(arguments, list):
            self._single.append(sighting)
            return
        values = [str(_mapping(entry).get("value")) for entry in arguments]
        key = (sighting.when, str(bug_check.get("base_code") or bug_check.get("code")), *values)
        identity = _mapping(line.get("machine")).get("smbios_digest")
        machines = self._joined.setdefault(key, {})
        machines.setdefault(identity if isinstance(identity, str) and identity else None, []).append(sighting)

    def crashes(self) -> Iterator[list[Sighting]]:
        """The dumps of each crash, the one that tells of it first."""
        for sighting in self._single:
            yield [sighting]
        for machines in self._joined.values():
            identified = [sightings for identity, sightings in machines.items() if identity is not None]
            unknown = machines.get(None, [])
            if len(identified) == 1:
                # What does not say which machine it is of, is of the only one that crashed so.
                identified, unknown = [[*identified[0], *unknown]], []
            for sightings in (*identified, unknown):
                if sightings:
                    yield sorted(sightings, key=lambda sighting: sighting.rank)


def rank_of(line: Mapping[str, Any]) -> tuple[int, int, str, int]:
    """The order among dumps of one crash: the surest, the largest, then by name."""
    file = _mapping(line.get("file"))
    confidence, size = _mapping(line.get("verdict")).get("confidence"), file.get("size")
    member = _mapping(file.get("member")).get("number")
    return (
        -CONFIDENCE.get(str(confidence), 0),
        -size if isinstance(size, int) else 0,
        str(file.get("path")),
        member if isinstance(member, int) else 0,
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
