"""``kdump.memory``: rows and KD's text."""

from __future__ import annotations

import pytest

import volatility3_kdump
from tests.output import rows
from volatility3_kdump.expressions import TargetNames, parse_bounds
from volatility3_kdump.target import Target
from volatility3_kdump.views.memory import FORMATS, memory_grid


def test_pointers_on_the_stack(sample, run_plugin) -> None:
    found = rows(
        run_plugin("-q", "-f", sample(), "-r", "json", "kdump.memory", "--address", "@rsp L3", "--layout", "ps")
    )
    assert [(row["Address"], row["Value"], row["Symbol"]) for row in found] == [
        (0xFFFFD48F77AF9698, 0xFFFFF80062A09169, "nt!KiBugCheckDispatch+0x69"),
        (0xFFFFD48F77AF96A0, 0xA, None),
        (0xFFFFD48F77AF96A8, 0xFFFFD8024AAA8010, None),
    ]


def test_what_is_absent_is_said(sample, run_plugin) -> None:
    found = rows(
        run_plugin(
            "-q", "-f", sample(), "-r", "json", "kdump.memory", "--address", "0", "--length", "1", "--layout", "q"
        )
    )
    assert [(row["Value"], row["Bytes"], row["Absent"]) for row in found] == [
        (None, "?? ?? ?? ?? ?? ?? ?? ??", "not mapped, or its page table is not in the dump")
    ]


def test_text_and_searches(sample, run_plugin) -> None:
    finished = run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.memory", "--address", "nt L10")
    assert finished.stdout.splitlines() == [
        "fffff800`62600000  4d 5a 90 00 03 00 00 00-04 00 00 00 ff ff 00 00  MZ.............."
    ]
    found = rows(
        run_plugin("-q", "-f", sample(), "-r", "json", "kdump.memory", "--address", "nt L?1000", "--find", "program")
    )
    assert [(row["Address"], row["Text"]) for row in found] == [(0xFFFFF80062600053, "program cannot b")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name an --address"),
        (("--address", "1 2 3"), "'1 2 3' is not a range: ADDRESS, ADDRESS Lcount"),
        (("--address", "nt L9", "--find-bytes", "xy"), "'xy' is nothing that --find-bytes can search for"),
    ],
)
def test_errors_in_one_line(sample, run_plugin, arguments: tuple[str, ...], message: str) -> None:
    finished = run_plugin("-q", "-f", sample(), "kdump.memory", *arguments)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.fixture(scope="module")
def target(sample) -> Target:
    return volatility3_kdump.open(sample())


@pytest.mark.parametrize("layout", FORMATS)
def test_rows_and_text_tell_of_the_same_addresses(target: Target, layout: str) -> None:
    """Every format gives both; the text begins where the rows do."""
    start = "poi(nt!PsLoadedModuleList)+58" if layout in ("s", "S") else "nt+4e"
    wanted, _ = parse_bounds(f"{start} L8", TargetNames(target))
    grid = memory_grid(target, wanted, layout)
    seen = []
    grid.populate(lambda node, _: seen.append(node.values))
    lines = [line for line in grid.kd_lines() if line[:1] == "f"]
    assert int(lines[0][:17].replace("`", ""), 16) == int(seen[0][0])
    assert all(value is not None for row in seen for value in row)
