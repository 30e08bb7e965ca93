"""Buckets that were published without a stack: the words of each kind, and who may be blamed.

``published_buckets.jsonl`` has the shape of ``published_verdicts.jsonl``. Bucket and hash are published, with their
source; the frames are made so that they lead to the symbol of the bucket as the debugger's stacks of that code do.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.analysis.pasted_text import pasted
from volatility3_kdump.analysis.pasted.evidence import judge
from volatility3_kdump.analysis.pasted.report import read_report
from volatility3_kdump.analysis.pasted.source import lines_of

BUCKETS = [json.loads(line) for line in Path(__file__).with_name("published_buckets.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("vector", BUCKETS, ids=lambda vector: vector["bucket"])
def test_published_buckets(vector: dict) -> None:
    verdict = judge(read_report(lines_of(pasted(vector)), vector["bucket"])).verdict
    assert verdict.bucket is not None and verdict.bucket.lower() == vector["bucket"].lower()
    if vector.get("hash"):
        assert verdict.bucket_hash == vector["hash"]
    assert len(vector["source"]) > 10
