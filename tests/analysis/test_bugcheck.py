"""The bug check table against the published facts, and its use."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import data_directory
from volatility3_kdump import tables
from volatility3_kdump.analysis.bugcheck import describe, known_codes

FACTS = data_directory().parent / "spec" / "bugchecks-facts.json"


@pytest.fixture(scope="module")
def facts() -> list[dict]:
    if not FACTS.is_file():
        pytest.skip("the published bug check facts are not beside the checkout")
    return json.loads(FACTS.read_text(encoding="utf-8"))["bugchecks"]


def test_every_published_code_is_known_by_name(facts):
    known = known_codes()
    assert len(known) == 540
    for record in facts:
        assert known[record["code"]] == record["name"]


def test_no_sentence_is_taken_from_the_documentation(facts):
    """Only short technical phrases may coincide."""
    published = json.dumps(facts)
    for record in tables.json_lines("bugchecks.jsonl"):
        texts = [record.get("text"), *(variant.get("text") for variant in record.get("variants", ()))]
        for text in texts:
            assert not text or len(text) <= 45 or json.dumps(text)[1:-1] not in published, (record["name"], text)


def test_documented_parameters_have_meanings(facts):
    """Where the documentation describes a parameter of every variant alike, the table does too."""
    table = {int(record["code"], 16): record for record in tables.json_lines("bugchecks.jsonl")}
    for record in facts:
        for number in range(1, 5):
            parameter = record["params"].get(f"p{number}")
            meaning = (parameter or {}).get("meaning", "")
            # Some pages only refer to a list of values that the facts do not hold.
            if not meaning or "below" in meaning.lower() or record.get("variants"):
                continue
            ours = table[record["code"]]
            in_variants = any((variant.get("args") or [None] * 4)[number - 1] for variant in ours.get("variants", ()))
            assert (ours.get("args") or [None] * 4)[number - 1] or in_variants, (record["name"], number)


@pytest.mark.parametrize(
    ("code", "name", "base"),
    [
        (0xD1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL", 0xD1),
        (0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M", 0x7E),
        (0x100000D1, "DRIVER_IRQL_NOT_LESS_OR_EQUAL", 0xD1),
        (0xC000021A, "WINLOGON_FATAL_ERROR", 0xC000021A),
        (0xDEADDEAD, "MANUALLY_INITIATED_CRASH1", 0xDEADDEAD),
        (0xA0000001, None, 0xA0000001),
    ],
)
def test_minidump_bit_is_taken_off_only_where_it_is_one(code, name, base):
    found = describe(code, [1, 2, 3, 4])
    assert (found.name, found.code, found.raw_code) == (name, base, code)
    assert [argument.value for argument in found.arguments] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("code", "parameters", "words"),
    [
        (0x9F, [3, 0, 0, 0], "IRP"),
        (0x9F, [4, 0, 0, 0], "PnP"),
        (0xC4, [0x81, 0, 0, 0], "MDL"),
        (0x133, [0, 0, 0, 0], "DPC"),
        (0xFE, [8, 6, 5, 0], "time"),
    ],
)
def test_variants_are_chosen_by_their_key(code, parameters, words):
    found = describe(code, parameters)
    assert found.variant is not None
    everything = " ".join([found.variant, *(argument.text or "" for argument in found.arguments)])
    assert words.lower() in everything.lower()


def test_enumerated_values_are_explained():
    access = describe(0xD1, [0x10, 2, 1, 0]).arguments[2]
    assert access.value_meaning == "write"
    fast_fail = describe(0x139, [3, 0, 0, 0]).arguments[0]
    assert "LIST_ENTRY" in (fast_fail.value_meaning or "")


@given(st.integers(0, 2**32 - 1), st.lists(st.one_of(st.none(), st.integers(0, 2**64 - 1)), max_size=6))
def test_any_code_and_any_arguments(code, parameters):
    found = describe(code, parameters)
    assert len(found.arguments) == 4
    assert found.raw_code == code


def test_every_record_is_usable():
    for record in tables.json_lines("bugchecks.jsonl"):
        for variant in record.get("variants", ()):
            assert variant["when"], record["name"]
            values = [None, None, None, None]
            for number, wanted in {**variant.get("and", {}), str(record.get("key", 1)): variant["when"]}.items():
                try:
                    values[int(number) - 1] = int(wanted[0].split("-")[0], 16)
                except ValueError:
                    break
            else:
                assert describe(int(record["code"], 16), values).name == record["name"]
        assert all(argument is None or len(argument) <= 160 for argument in record.get("args", ()))
