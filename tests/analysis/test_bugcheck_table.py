"""Every record of ``bugchecks.jsonl`` against what the code reads of it: a word that nothing reads is a typo."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from volatility3_kdump import tables
from volatility3_kdump.analysis.arguments import KINDS
from volatility3_kdump.analysis.owners import OwnerRules

RECORD = {
    *("code", "name", "aliases", "text", "live", "startup", "same_as", "kd", "failure", "bucket", "asked"),
    *("args", "kinds", "values", "key", "variants"),
}
VARIANT = {"when", "and", "text", "args", "kinds", "values", "symbol", "rule"}
FAILURE = {"address", "irql", "access", "accesses", "older_accesses", "access_is", "ip", "pte"} | {
    *(
        "exception_code",
        "access_kind",
        "access_address",
        "exception_record",
        "context",
        "trap_frame",
        "trap_frame_pointer",
        "task_state",
    ),
}
BUCKET = {
    *("violation", "access_word", "code_words", "exception", "no_exception_word", "accesses", "prefix", "words"),
    *(
        "uncertain",
        "blameless",
        "telling",
        "named",
        "unnamed",
        "image_since_modern",
        "doubts",
        "special",
        "driver",
        "routine",
        "small_dump_word",
    ),
    *("verifier", "guard", "hardware", "user_frames", "remains", "coded_before_modern", "reporters"),
}
WORD = {"argument", "status", "values", "fast_fail", "base", "text", "process", "cookie", "page_state", "rule"}
ACCESSES = {"read", "write", "execute"}


def hexadecimal(text: str) -> bool:
    return text == f"{int(text, 16):x}"


def is_range(text: str) -> bool:
    """A value, a range of values, or the name of a value that has no public number."""
    if "_" in text or text == "unnamed":
        return text in (text.upper(), "unnamed")
    low, _, high = text.partition("-")
    return int(low, 16) <= int(high or low, 16)


def numbers(record: Mapping[str, Any], names: Iterable[str]) -> bool:
    return all(record[name] in (1, 2, 3, 4) for name in names if name in record)


def check_arguments(holder: Mapping[str, Any]) -> None:
    meanings, kinds = holder.get("args", []), holder.get("kinds", [])
    assert len(meanings) <= 4
    assert all(meaning is None or (isinstance(meaning, str) and meaning.strip() == meaning) for meaning in meanings)
    assert "kinds" not in holder or len(kinds) == len(meanings)
    for meaning, kind in zip(meanings, kinds, strict=False):
        assert kind is None or (kind in KINDS and meaning)
    for number, names in holder.get("values", {}).items():
        assert number in ("1", "2", "3", "4")
        assert all(is_range(value) and text for value, text in names.items())


def check_failure(failure: Mapping[str, Any]) -> None:
    assert failure.keys() <= FAILURE
    assert numbers(failure, FAILURE - {"accesses", "older_accesses", "access_is"})
    assert failure.get("access_is", "read") in ACCESSES
    assert ("accesses" in failure) == ("access" in failure)
    for value, access in failure.get("accesses", {}).items():
        assert hexadecimal(value) and access in ACCESSES


def check_bucket(bucket: Mapping[str, Any]) -> None:
    assert bucket.keys() <= BUCKET
    assert numbers(bucket, ("exception", "driver", "routine"))
    for entry in (*bucket.get("words", ()), *bucket.get("telling", ())):
        assert numbers(entry, ("argument",))
    for entry in bucket.get("words", ()):
        assert entry.keys() <= WORD
        assert all(value in ("negative", "other") or hexadecimal(value) for value in entry.get("values", {}))
    for entry in bucket.get("telling", ()):
        assert entry.keys() == {"argument", "value", "below", "frames", "word"}
    further = {"guard": {"word"}, "hardware": {"module", "image"}}
    for name in ("named", "unnamed", "accesses", "guard", "hardware"):
        condition = bucket.get(name)
        assert not condition or condition.keys() == {"argument", "values"} | further.get(name, set())
        assert not condition or numbers(condition, ("argument",))


def check(record: Mapping[str, Any]) -> None:
    assert record.keys() <= RECORD
    assert record["code"] == f"{int(record['code'], 16):#x}" and record["name"].strip() == record["name"]
    assert "same_as" not in record or tables.bug_check_record(int(record["same_as"], 16)) is not None
    assert ("key" in record) <= ("variants" in record) and numbers(record, ("key",))
    check_arguments(record)
    for variant in record.get("variants", ()):
        assert variant.keys() <= VARIANT and variant["when"]
        assert all(is_range(value) for value in variant["when"])
        for number, wanted in variant.get("and", {}).items():
            assert number in ("1", "2", "3", "4") and all(is_range(value) for value in wanted)
        check_arguments(variant)
    check_failure(record.get("failure", {}))
    check_bucket(record.get("bucket", {}))


RECORDS = list(tables.json_lines(tables.BUG_CHECKS))


def test_every_record_says_only_what_is_read() -> None:
    for record in RECORDS:
        check(record)


def test_every_code_has_one_record_that_is_found_by_its_code() -> None:
    codes = [int(record["code"], 16) for record in RECORDS]
    assert len(set(codes)) == len(codes)
    for record, code in zip(RECORDS, codes, strict=True):
        assert tables.bug_check_record(code) == record
    assert tables.bug_check_record(0xABCDEF) is None


@pytest.mark.parametrize(
    "before, after",
    [
        ('"kinds": [null, "irql"', '"kinds": [null, "irq"'),
        ('"failure": {"address"', '"failure": {"adress"'),
        ('"access": 3', '"access": 5'),
        ('"8": "execute"}, "ip"', '"8": "exec"}, "ip"'),
        ('"violation"', '"violaton"'),
        ('"code": "0xa"', '"code": "10"'),
    ],
)
def test_a_typo_is_refused(before: str, after: str) -> None:
    line = json.dumps(tables.bug_check_record(0xA))
    assert before in line
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check(json.loads(line.replace(before, after, 1)))


def test_every_shipped_owner_rule_is_understood() -> None:
    assert OwnerRules.load().problems == ()
