"""The page of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pages.hostile import NAME, unsafe
from tests.pages.markup import Page
from volatility3_kdump.batch import Summary
from volatility3_kdump.cli import main
from volatility3_kdump.pages.batch import MOST_GROUPS, batch_page


def line(when: str | None, number: int, name: str = "x.sys", machine: str = "digest") -> dict[str, Any]:
    return {
        "file": {"path": f"/dumps/{number}-{name}.dmp", "member": None},
        "error": None,
        "verdict": {"hash": f"h{number}", "bucket": f"AV_{name}_{number}!f", "suspect": name, "image_name": name},
        "bug_check": {"name": name, "code": "0x1", "base_code": "0x1", "arguments": [{"value": f"{number:#x}"}]},
        "system": {"time_utc": when, "boot_id": number, "os_version": "10.0"},
        "machine": {"smbios_digest": machine, "manufacturer": name, "product": "p"},
        "plausibility": None,
    }


def page_of(*lines: dict[str, Any]) -> str:
    summary = Summary()
    for entry in lines:
        summary.add(entry)
    return batch_page(summary.document())


@pytest.mark.thorough
def test_the_page_of_a_batch(sample: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.dmp").write_bytes(b"nothing")
    out = tmp_path / "page.html"
    arguments = ["batch", str(sample()), str(sample(4)), str(tmp_path / "bad.dmp"), "--jobs", "1"]
    assert main([*arguments, "--jsonl", str(tmp_path / "lines"), "--html", str(out)]) == 1
    text = Page(out.read_text(encoding="utf-8"))
    assert "2 crash dumps in 1 groups" in text.text and "AV_myfault!unknown_function" in text.text
    assert "{9745090a-9bce-ccba-c096-ca6e9ca04c64}" in text.text
    assert "2021-10-07: 1" in text.text  # the column of the day
    assert "NotACrashDump" in text.text and "bad.dmp" in text.text
    assert "Contoso Ltd, Workstation 5" in text.text


def test_days_become_months_where_they_are_many() -> None:
    days = Page(page_of(line("2024-03-01T10:00:00+00:00", 1), line("2024-03-03T10:00:00+00:00", 2))).text
    assert "2024-03-01: 1" in days and "Crashes by day (UTC), 1 at most" in days
    months = Page(page_of(*(line(f"2024-{month:02}-01T10:00:00+00:00", month) for month in range(1, 13)))).text
    assert "2024-12: 1" in months and "Crashes by month with crashes" in months


@pytest.mark.parametrize("when", [None, "never", "2021-13-77T", "9999-12-31T00:00:00+00:00"])
def test_times_that_are_none_do_no_harm(when: str | None) -> None:
    page = Page(page_of(line(when, 1)))
    assert ("No dump says when it crashed" in page.text) == (when is None or when[0] != "9")


def test_an_empty_batch_has_a_page() -> None:
    page = Page(page_of())
    assert "No dump was analysed" in page.text and "Every dump was analysed" in page.text


def test_hostile_names_stay_text() -> None:
    page = page_of(line("2024-03-01T10:00:00+00:00", 1, NAME), line("2024-03-01T10:00:01+00:00", 2, NAME))
    assert not unsafe(page)
    read = Page(page)
    assert read.names() == Page(page_of(*(line("2024-03-01T10:00:00+00:00", n, "a" * n) for n in (1, 2)))).names()
    assert "<script>alert(1)</script>" in read.text and "<script" not in page


@pytest.mark.thorough
def test_ten_thousand_dumps_make_a_small_page() -> None:
    lines = (
        line(f"20{n % 20 + 10}-0{n % 9 + 1}-1{n % 9}T10:00:00+00:00", n, f"driver{n}.sys", f"m{n % 500}")
        for n in range(10_000)
    )
    page = page_of(*lines)
    assert len(page.encode()) < 300_000
    assert f"{MOST_GROUPS} of 10000 groups" in Page(page).text
