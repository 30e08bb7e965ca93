"""What a command may read of a dump: enough for every sound one, and an end for lists that overlap."""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import answer, session_over
from tests.vol_here import VolHere
from volatility3_kdump.cli import main
from volatility3_kdump.errors import ReadLimit
from volatility3_kdump.memory import LIMIT_VARIABLE, ReadBudget

CHECKOUT = Path(__file__).resolve().parents[1]
Vol = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_budget_is_by_what_the_dump_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert ReadBudget.of_dump(1 << 20).limit == 128 << 20
    assert ReadBudget.of_dump(1 << 40).limit == 16 << 40
    monkeypatch.setenv(LIMIT_VARIABLE, "3M")
    assert ReadBudget.of_dump(1 << 40).limit == 3 << 20
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    assert ReadBudget.of_dump(1 << 40).limit is None


def test_each_command_has_all_of_it(sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "64k")
    session = session_over(sample())
    for _ in range(30):
        lines = answer(session, "db @rsp L10")
        assert len(lines) == 1 and lines[0].startswith("ffff")
    (line,) = answer(session, "s -a nt L?1000000 nowhere")[-1:]
    assert line.startswith("stopped: this has read 65,536 bytes, many times what the dump holds")
    assert LIMIT_VARIABLE in line
    assert answer(session, "db @rsp L10") == lines


def test_scripts_have_no_limit() -> None:
    budget = ReadBudget(100)
    budget.left -= 1000
    assert budget.left > 0
    budget.begin()
    budget.left -= 101
    assert budget.left < 0
    with pytest.raises(ReadLimit, match="read 100 bytes"):
        raise budget.spent()


@pytest.mark.parametrize(
    "name, command",
    [
        ("chain-ps", "!process 0 0"),
        ("chain-res", "!locks"),
        ("selfmap", "s -a ffff8000`00000000 L?7fffffffffff x"),
    ],
)
def test_lists_that_lead_through_each_other_end(
    name: str, command: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_data / "hostile" / f"{name}.dmp.xz"
    if not source.exists():
        pytest.skip(f"no {source}")
    monkeypatch.setenv(LIMIT_VARIABLE, "4M")
    path = tmp_path / "chain.dmp"
    path.write_bytes(lzma.decompress(source.read_bytes()))
    session = session_over(path)
    assert answer(session, command)[-1].startswith("stopped: this has read 4,194,304 bytes")


@pytest.mark.parametrize(
    "command", ["!for_each_process", '!for_each_process "!process @#Process 7"', '!list -x "dt nt!_LIST_ENTRY" {}']
)
def test_commands_for_each_entry_share_one_budget(
    command: str, sample: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of a dump says how many they are: with a budget each, one command would take hours."""
    monkeypatch.setenv(LIMIT_VARIABLE, "64k")
    session = session_over(sample())
    lines = answer(session, command.format("nt!PsActiveProcessHead"))
    assert [line.startswith("stopped: this has read 65,536 bytes") for line in lines].count(True) == 1
    assert lines[-1].startswith("stopped:")
    # The next command has all of its own.
    assert len(answer(session, "db @rsp L10")) == 1


@pytest.mark.thorough
def test_what_was_read_before_the_end_is_shown(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_data / "hostile" / "chain-ps.dmp.xz"
    if not source.exists():
        pytest.skip(f"no {source}")
    monkeypatch.setenv(LIMIT_VARIABLE, "96M")
    path = tmp_path / "chain.dmp"
    path.write_bytes(lzma.decompress(source.read_bytes()))
    session = session_over(path)
    lines = answer(session, "!process 0 0")
    assert lines[:2] == ["**** NT ACTIVE PROCESS DUMP ****", "PROCESS ffffa00000010bb8"]
    assert lines[-1].startswith("stopped: this has read 100,663,296 bytes")


def test_plugins_end_with_one_line(sample: Callable[..., Path], vol_environment: dict[str, str], home: Path) -> None:
    vol = VolHere({**vol_environment, LIMIT_VARIABLE: "20k"})
    done = vol.run(["-q", "--offline", "-f", str(sample()), "kdump.process"], home)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "kdump: stopped: this has read 20,480 bytes" in done.stderr


def test_errors_while_rows_are_made_end_with_one_line(sample: Callable[..., Path], run_plugin: Vol) -> None:
    done = run_plugin("-f", str(sample()), "kdump.type", "--type", "nt!_KTHREAD", "--address", "$thread", "--link", "q")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "kdump: " in done.stderr and "field" in done.stderr


def test_commands_end_with_one_line(
    sample: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "4k")
    assert main(["report", str(sample()), "-o", str(tmp_path / "page.html")]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("kdump: stopped: this has read 4,096 bytes") and shown.err.count("\n") == 1
