"""The machines of a batch: their crashes in order, and what these have in common.

Dumps are of one machine when their SMBIOS tables are equal. Two dumps of one time with the same bug check are one
crash, a small and a large dump of it: what is told of it is from the one that is surer, then larger; one without SMBIOS
tables belongs to the machine of the other. Lines may come from a file of an earlier run: other shapes are left out.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from volatility3_kdump.batch.sightings import CrashKey, Rank, crash_of, mapping, rank_of, shared
from volatility3_kdump.dump.smbios import filled_in

#: How many crashes make a pattern.
_FEWEST, _MANY_CODES = 2, 3
#: Words that stand for no driver.
_NO_DRIVER = frozenset({"hardware", "memory", "processor", "memory_corruption", "unknown_image", "genuineintel.sys"})
_KERNEL = frozenset({"ntkrnlmp.exe", "ntoskrnl.exe", "nt"})


@dataclass(frozen=True, slots=True)
class Dump:
    """What a line says of a crash. ``rank`` orders the dumps of one crash: the surest, then the largest first."""

    rank: Rank
    boot_id: int | None
    bug_check: str
    suspect: str | None
    bits: tuple[int, ...]
    acquitted: bool
    kernel: str | None
    file: str


@dataclass(slots=True)
class Crash:
    """One crash of a machine: when, in which boot, with which bug check; who is suspected, which bits had changed.

    ``code`` is the bug check's, without the mark of small memory dumps.
    """

    time: str | None
    code: str
    dumps: list[Dump] = field(default_factory=list)

    @property
    def best(self) -> Dump:
        return min(self.dumps, key=lambda dump: dump.rank)

    @property
    def bits(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(bit for dump in sorted(self.dumps, key=_rank) for bit in dump.bits))

    @property
    def boot_id(self) -> int | None:
        return next((dump.boot_id for dump in sorted(self.dumps, key=_rank) if dump.boot_id is not None), None)

    @property
    def kernel(self) -> str | None:
        return max(
            (dump.kernel for dump in self.dumps if dump.kernel), key=lambda text: (len(text), text), default=None
        )

    @property
    def files(self) -> list[str]:
        return sorted(dump.file for dump in self.dumps)


def _rank(dump: Dump) -> Rank:
    return dump.rank


@dataclass
class Machine:
    """A machine by its SMBIOS tables: its name, and its crashes by time and bug check with arguments."""

    name: str
    crashes: dict[CrashKey, Crash] = field(default_factory=dict)

    def ordered(self) -> list[Crash]:
        """The crashes, the earliest first; those without a time last."""
        return sorted(self.crashes.values(), key=lambda crash: (crash.time is None, crash.time or "", crash.files))

    def patterns(self) -> Iterator[str]:
        """What the crashes have in common, one sentence each."""
        crashes = self.ordered()
        total = len(crashes)
        if total < _FEWEST:
            return
        bits = collections.Counter(bit for crash in crashes for bit in set(crash.bits))
        for bit, count in sorted(bits.items(), key=lambda entry: (-entry[1], entry[0])):
            if count >= _FEWEST:
                yield f"bit {bit} had changed in {count} of {total} crashes: the memory or the processor is at fault"
        acquitted = sum(crash.best.acquitted for crash in crashes)
        if acquitted >= _FEWEST:
            yield f"in {acquitted} of {total} crashes no code can have raised the exception: suspect the hardware"
        codes = {crash.code for crash in crashes}
        suspects = collections.Counter(crash.best.suspect for crash in crashes if _is_driver(crash.best.suspect))
        if len(codes) >= _MANY_CODES and (not suspects or max(suspects.values()) * 2 < total):
            many = f"{total} crashes with {len(codes)} different bug checks"
            yield f"{many} and no driver in common: suspect the hardware"
        for suspect, count in suspects.most_common(1):
            if count >= _FEWEST and count * 2 >= total:
                yield f"{suspect} is suspected in {count} of {total} crashes"


class Machines:
    """The machines of a batch; the result does not depend on the order of lines."""

    def __init__(self) -> None:
        self._machines: dict[str, Machine] = {}
        #: Dumps that do not say which machine they are of.
        self._others: dict[CrashKey, list[Dump]] = {}

    def add(self, line: Mapping[str, Any], key: CrashKey | None = None, rank: Rank | None = None) -> None:
        """Take note of a line; ``key`` and ``rank`` are its :func:`crash_of` and :func:`rank_of`, if made already."""
        machine = mapping(line.get("machine"))
        key, dump = key or crash_of(line), _dump(line, rank or rank_of(line))
        identity = shared(machine.get("smbios_digest"))
        if identity is None:
            if key.time is not None:
                self._others.setdefault(key, []).append(dump)
            return
        counted = self._machines.get(identity) or self._machines.setdefault(identity, Machine(_name(machine)))
        counted.crashes.setdefault(key, Crash(key.time, key.code)).dumps.append(dump)

    def _joined(self) -> dict[str, Machine]:
        """The machines, with the dumps of their crashes that do not say which machine they are of."""
        joined = {
            identity: Machine(
                machine.name,
                {key: Crash(crash.time, crash.code, list(crash.dumps)) for key, crash in machine.crashes.items()},
            )
            for identity, machine in self._machines.items()
        }
        for key, dumps in self._others.items():
            owners = [machine for machine in joined.values() if key in machine.crashes]
            if len(owners) == 1:
                owners[0].crashes[key].dumps += dumps
        return joined

    def document(self) -> list[dict[str, Any]]:
        """Each machine as plain values, the one with the most crashes first."""
        ranked = sorted(self._joined().items(), key=lambda entry: (-len(entry[1].crashes), entry[0]))
        return [
            {
                "smbios_digest": identity,
                "name": machine.name,
                "patterns": list(machine.patterns()),
                "crashes": [
                    {
                        "time_utc": crash.time,
                        "boot_id": crash.boot_id,
                        "bug_check": crash.best.bug_check,
                        "suspect": crash.best.suspect,
                        "bits": list(crash.bits),
                        "kernel": crash.kernel,
                        "files": crash.files,
                    }
                    for crash in machine.ordered()
                ],
            }
            for identity, machine in ranked
        ]


def machine_lines(machines: list[dict[str, Any]]) -> Iterator[str]:
    """The machines with more than one crash, for a reader."""
    for machine in machines:
        crashes = machine["crashes"]
        if len(crashes) < _FEWEST:
            continue
        yield f"machine {machine['name']}: {len(crashes)} crashes"
        for pattern in machine["patterns"]:
            yield f"        {pattern}"
        for crash in crashes:
            boot = f" boot {crash['boot_id']}" if crash["boot_id"] is not None else ""
            bits = "".join(f" bit {bit}" for bit in crash["bits"])
            when = f"{crash['time_utc'] or 'no time'}{boot}"
            yield f"        {when}  {crash['bug_check']}  {crash['suspect'] or '-'}{bits}"


def _dump(line: Mapping[str, Any], rank: Rank) -> Dump:
    system, bug_check = mapping(line.get("system")), mapping(line.get("bug_check"))
    verdict, judged = mapping(line.get("verdict")), mapping(line.get("plausibility"))
    boot_id, flips = system.get("boot_id"), judged.get("flips")
    bits = [mapping(flip).get("bit") for flip in flips] if isinstance(flips, list) else []
    member = mapping(mapping(line.get("file")).get("member")).get("name")
    path = rank[2]
    return Dump(
        rank,
        boot_id if isinstance(boot_id, int) else None,
        sys.intern(str(bug_check.get("name") or bug_check.get("base_code") or bug_check.get("code") or "no bug check")),
        shared(verdict.get("suspect")),
        tuple(bit for bit in bits if isinstance(bit, int)),
        shared(judged.get("remains")) is not None,
        shared(system.get("kernel_version")) or shared(system.get("os_version")) or shared(system.get("build_lab")),
        f"{path} ({member})" if member else path,
    )


def _is_driver(suspect: str | None) -> bool:
    return suspect is not None and suspect.lower() not in _NO_DRIVER | _KERNEL


def _name(machine: Mapping[str, Any]) -> str:
    board = machine.get("board")
    parts = [machine.get("manufacturer"), machine.get("product"), *(board if isinstance(board, list) else ())]
    parts.append(machine.get("processor"))
    told = dict.fromkeys(part for part in parts if isinstance(part, str) and filled_in(part))
    return ", ".join(told) or "without a name"
