"""Crashes counted by bucket."""

from __future__ import annotations

import gc
import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.batch.results import Line
from volatility3_kdump.batch import Summary


def test_the_summary_groups_by_bucket(dumps: Path, lines: list[Line]) -> None:
    documents = []
    for seed in range(5):
        mixed = list(lines)
        random.Random(seed).shuffle(mixed)
        summary = Summary()
        for line in mixed:
            summary.add(line)
        documents.append((summary.document(), list(summary.text())))
    assert all(made == documents[0] for made in documents)
    document, text = documents[0]
    assert (document["analysed"], document["failed"]) == (7, 6)
    # The dumps of the batch are a large and small ones of one crash, and copies; two are of another one.
    assert document["crashes"] == 2 and document["culprits"] == [{"name": "myfault.sys", "count": 2}]
    second, first = document["groups"]
    assert (first["bucket"], first["count"], first["culprit"]) == ("AV_myfault!unknown_function", 1, "myfault.sys")
    assert first["dumps"] == 5
    assert first["hash"] == "9745090a-9bce-ccba-c096-ca6e9ca04c64" and first["bug_check"] is None
    assert first["first_utc"] == first["last_utc"] == "2021-10-07T11:33:12.945381+00:00"
    assert [(Path(example["path"]).name, example["member"]) for example in first["examples"]] == [
        *[("again.DMP", None), ("kernel.dmp", None), ("small.dmp", None)],
        *[("small.dmp.gz", "small.dmp"), ("three.zip", "x/one.dmp")],
    ]
    assert (second["count"], second["dumps"]) == (1, 2) and second["bucket"] == "0x7f_8_myfault!unknown_function"
    assert sum(error["count"] for error in document["errors"]) == 6
    assert text[0].split() == ["1", second["bucket"], "myfault.sys"]
    assert "        5 dumps of 1 crash" in text
    assert text[-1] == "7 analysed of 2 crashes in 2 groups, 6 failed"


def test_dumps_of_one_crash_are_counted_once() -> None:
    """A small dump and a large one that saw more; the same time on another machine is another crash."""

    def dump(number: int, size: int, confidence: str, machine: str | None, value: str = "1") -> Line:
        line = crash(
            "2021-02-03T04:05:06+00:00",
            f"/{number}",
            suspect=f"s{number}.sys",
            confidence=confidence,
            bucket=f"b{number}",
        )
        line["bug_check"]["arguments"] = [{"value": value}]
        line["file"]["size"] = size
        return {**line, "machine": {"smbios_digest": machine}}

    summary = Summary()
    for line in (
        dump(1, 10, "medium", "m"),
        dump(2, 99, "high", None),
        dump(3, 999, "low", "m"),
        dump(4, 10, "high", None, "2"),
    ):
        summary.add(line)
    groups = summary.document()["groups"]
    assert [(group["bucket"], group["count"], group["dumps"]) for group in groups] == [("b2", 1, 3), ("b4", 1, 1)]
    summary.add(dump(5, 10, "high", "other"))
    # Now nothing tells which of the two machines the second dump is of.
    found = [(group["bucket"], group["dumps"]) for group in summary.document()["groups"]]
    assert found == [("b1", 2), ("b2", 1), ("b4", 1), ("b5", 1)]


def crash(when: str | None, path: str, **verdict: Any) -> Line:
    verdict = {"hash": "h", "bucket": "b", "suspect": None, "image_name": "x.sys", **verdict}
    file = {"path": path, "size": 1, "modified": "m", "sha256": None, "member": None}
    return {
        **{"error": None, "file": file, "verdict": verdict},
        **{"system": {"time_utc": when}, "bug_check": {"name": "NAME", "code": "0xd1"}},
    }


def test_the_first_and_the_last_crash_and_the_most_frequent_culprit() -> None:
    summary = Summary()
    for line in (
        crash("2021-02-03T04:05:06+00:00", "/3", suspect="y.sys"),
        crash("2020-01-01T00:00:00.500000+00:00", "/2"),
        crash(None, "/1"),
        crash("2020-01-01T00:00:00+00:00", "/4", suspect="y.sys"),
        crash("2021-01-01T00:00:00+00:00", "/5", hash=None, bucket=None, image_name=None),
        *[crash("2022-01-01T00:00:00+00:00", f"/{number}", suspect="y.sys") for number in range(6, 10)],
    ):
        summary.add(line)
    first, second = summary.document()["groups"]
    assert (first["count"], first["culprit"], first["bug_check"]) == (8, "y.sys", None)
    assert (first["first_utc"], first["last_utc"]) == ("2020-01-01T00:00:00+00:00", "2022-01-01T00:00:00+00:00")
    assert [example["path"] for example in first["examples"]] == ["/1", "/4", "/2", "/3", "/6"]
    assert (second["hash"], second["bucket"], second["bug_check"], second["culprit"]) == (None, None, "NAME", None)
    assert "        and 3 more" in list(summary.text())


def test_addresses_in_buckets_do_not_part_crashes() -> None:
    summary = Summary()
    start, end = "0xEF_csrss.exe_BUGCHECK_CRITICAL_PROCESS", "ntdll!NtTerminateProcess"
    for number, word in enumerate(("66897700_", "1a2b3080_", "")):
        crash_line = crash("2021-01-01T00:00:00+00:00", f"/{number}", bucket=f"{start}_{word}{end}", hash=f"h{number}")
        summary.add(crash_line)
    (group,) = summary.document()["groups"]
    assert (group["bucket"], group["count"]) == (f"{start}_{end}", 3)
    assert (group["hash"], group["hashes"]) == (None, ["h0", "h1", "h2"])
    assert "        3 different FAILURE_ID_HASH" in list(summary.text())


def _kept(summary: Summary) -> tuple[int, int]:
    """How many objects a summary is made of, without classes, and their bytes."""
    seen: dict[int, int] = {}
    queue: list[object] = [summary]
    while queue:
        value = queue.pop()
        if id(value) not in seen and not isinstance(value, type):
            seen[id(value)] = sys.getsizeof(value)
            queue += gc.get_referents(value)
    return len(seen), sum(seen.values())


def test_little_is_kept_of_each_line() -> None:
    """Nothing that other lines say as well, nor the line: a dozen objects for a crash, none for a failure."""

    def analysed(number: int) -> Line:
        line = crash(f"2021-02-03T04:05:06.{number:06}+00:00", f"/dumps/of/a/day/{number:06}.dmp", suspect="driver.sys")
        line["bug_check"]["arguments"] = [{"value": f"{number:#018x}"} for _ in range(4)]
        line["system"]["kernel_version"] = "10.0.19041.1"
        line["machine"] = {"smbios_digest": "a" * 64, "manufacturer": "maker"}
        return line

    def failed(number: int) -> Line:
        line = crash(None, f"/dumps/of/a/day/{number:06}.dmp")
        return {**line, "error": {"kind": "NotACrashDump", "message": f"message {number}"}}

    summary = Summary()
    sizes = []
    for made, numbers in ((analysed, range(200)), (analysed, range(200, 1000)), (failed, range(800))):
        for number in numbers:
            # As they come out of a file or another process: every text is an object of its own.
            summary.add(json.loads(json.dumps(made(number))))
        sizes.append(_kept(summary))
    few, many, with_failures = sizes
    assert (many[0] - few[0]) / 800 <= 12
    assert (many[1] - few[1]) / 800 <= 1200
    assert with_failures[0] - many[0] < 60
