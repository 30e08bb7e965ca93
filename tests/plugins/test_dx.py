"""``kdump.dx``: the data model as rows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.output import lines, parsed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.views.dx import DxOptions, DxView, dx_grid


def test_rows(sample, run_plugin) -> None:
    finished = run_plugin("-q", "-f", sample(), "-r", "json", "kdump.dx", "--expression", "nt!PsActiveProcessHead")
    assert finished.returncode == 0, finished.stderr
    (row,) = parsed(finished.stdout)
    assert (row["Type"], row["Text"], row["Address"]) == ("_LIST_ENTRY", None, 0xFFFFF8006321DFC0)
    flink, blink = row["__children"]
    assert (flink["Name"], flink["Value"], flink["Offset"]) == ("Flink", 0xFFFF91894C27A488, 0)
    assert (blink["Name"], blink["Type"], blink["Offset"]) == ("Blink", "_LIST_ENTRY *", 8)


def test_lines_and_errors(sample, run_plugin) -> None:
    query = "@$cursession.Processes.Select(p => p.Name),1"
    shown = lines(run_plugin("-q", "-f", sample(), "-r", "windbg", "kdump.dx", "--expression", query))
    assert [line.rstrip() for line in shown] == [query, "    [0x4]            : System", "    [...]"]
    with pytest.raises(KdumpError, match="Error: Unable to bind name 'Nothing'"):
        dx_grid(Target.open(sample()), "@$curprocess.Nothing")


@pytest.mark.parametrize(("dump_type", "processes"), [(6, 10), (5, 10), (4, 1)])
def test_types_of_dump(sample, dump_type: int, processes: int) -> None:
    """A small memory dump holds one process, and says so."""
    view = DxView(Target.open(sample(dump_type)), "@$cursession.Processes", DxOptions(1))
    shown = list(view.lines())
    assert sum(line.startswith("    [") for line in shown) == processes
    assert any("small memory dump" in line for line in shown) == (dump_type == 4)


def test_a_list_that_is_damaged_is_told(sample) -> None:
    """What is behind a broken link is not in the answer, and the answer says so."""
    target = Target.open(sample())
    head = target.symbol("PsActiveProcessHead")
    assert head is not None
    second = target.memory.pointer(head)
    read = target.memory.read
    target.memory.read = lambda address, size: (  # type: ignore[method-assign]
        b"\0" * size if address == second else read(address, size)
    )
    expression = (
        'Debugger.Utility.Collections.FromListEntry(nt!PsActiveProcessHead, "nt!_EPROCESS", "ActiveProcessLinks")'
    )
    shown = list(DxView(target, expression).lines())
    assert shown[-1].startswith("NOTE: the list at 0xfffff8006321dfc0")


@pytest.mark.thorough
def test_5000_threads_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dump of the benchmark: 300 processes and 5,000 threads, which takes seconds to write."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import processes

    path = tmp_path / "processes.dmp"
    processes.write(path)
    target = Target.open(path)
    list(DxView(target, "@$cursession.Processes.Count()").lines())
    for query, shown in (
        ("@$cursession.Processes.Select(p => p.Threads.Count()).Sum()", "0x1388"),
        ("@$cursession.Threads.Where(t => t.KernelObject.Tcb.State == 5).Count()", "0x1387"),
        ("@$cursession.Processes.Where(p => p.Threads.Any(t => t.KernelObject.Tcb.State == 2)).Count()", "0x1"),
    ):
        started = time.process_time()
        (line,) = DxView(target, query).lines()
        assert time.process_time() - started < 1
        assert line.endswith(f": {shown}")
