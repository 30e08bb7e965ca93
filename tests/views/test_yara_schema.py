"""The written schema of ``kdump.yara`` has the sizes of the code."""

from __future__ import annotations

from pathlib import Path

from volatility3_kdump.findings import yara_scan
from volatility3_kdump.views import yara

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "yara-schema.md"


def test_sizes_are_those_of_the_code() -> None:
    text = " ".join(SCHEMA.read_text(encoding="utf-8").split())
    chunk, overlap = yara_scan.CHUNK >> 20, yara_scan.OVERLAP >> 10
    assert f"in chunks of {chunk} MB that overlap by {overlap} KB" in text
    assert f"the first {yara._MOST_BYTES} of them" in text
    assert f"in chunks of {chunk} MB" in " ".join((yara_scan.__doc__ or "").split())
