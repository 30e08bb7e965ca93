"""The ``kdump`` command: what it passes on, what it prints, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kdump_sample as sample
from volatility3_kdump import __version__, cli
from volatility3_kdump.errors import CorruptDump

CHECKOUT = Path(__file__).resolve().parents[2]

#: Replaces the writer of the sample dump: receives (out, dump_type, isf, scene).
Writer = Callable[[Path, int, Path | None, str], None]


@pytest.fixture
def written_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Writer], None]:
    return lambda writer: monkeypatch.setattr(sample, "write_sample", writer, raising=False)


@pytest.mark.parametrize(
    "options, expected, scene",
    [
        ([], 6, "myfault"),
        (["--type", "10"], 10, "myfault"),
        (["--type", "0xA"], 10, "myfault"),
        (["--type=1", "--scene", "double-fault"], 1, "double-fault"),
    ],
)
def test_sample_writes_the_type_that_is_asked_for(
    written_by: Callable[[Writer], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    expected: int,
    scene: str,
) -> None:
    calls = []

    def write(out: Path, dump_type: int, isf: Path | None, scene: str) -> None:
        calls.append((out, dump_type, isf, scene))
        out.write_bytes(bytes(1234))

    written_by(write)
    out = tmp_path / "MEMORY.DMP"
    assert cli.main(["sample", str(out), *options, "--isf", "nt.json"]) == 0
    assert calls == [(out, expected, Path("nt.json"), scene)]
    assert capsys.readouterr().out == f"{out}: 1,234 bytes, dump type {expected}\n"


@pytest.mark.parametrize("error", [CorruptDump("nothing is left"), PermissionError(13, "Permission denied", "there")])
def test_a_failure_is_one_line_and_status_1(
    written_by: Callable[[Writer], None], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(out: Path, dump_type: int, isf: Path | None, scene: str) -> None:
        raise error

    written_by(fail)
    assert cli.main(["sample", "MEMORY.DMP"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err in {"kdump: nothing is left\n", "kdump: there: Permission denied\n"}


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["sample"], ["sample", "x", "--type", "3"], ["doctor", "x"]])
def test_a_wrong_command_line_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "kdump" in capsys.readouterr().err


def run_module(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "volatility3_kdump", *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "HOME": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_module_runs_as_the_command_does(tmp_path: Path) -> None:
    finished = run_module("--version", home=tmp_path)
    assert (finished.returncode, finished.stdout) == (0, f"kdump {__version__}\n")


def test_vol_knows_our_plugins_and_renderer_on_every_host(tmp_path: Path) -> None:
    finished = run_module("vol", "--help", home=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "usage: vol" in finished.stdout
    for path in (CHECKOUT / "plugins" / "kdump").glob("[!_]*.py"):
        assert f"    kdump.{path.stem}." in finished.stdout
    assert "windbg" in finished.stdout


@pytest.mark.thorough
@pytest.mark.newest_host
def test_vol_indexes_no_symbol_tables_for_our_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Callable[..., Path]
) -> None:
    """The host's own plugins fill its cache as ever."""
    import sqlite3

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tables = tmp_path / "symbols" / "windows" / "x.pdb"
    tables.mkdir(parents=True)
    (tables / f"{'A' * 32}-1.json").write_text('{"metadata": {}, "base_types": {}, "user_types": {}, "enums": {}}')

    def indexed(plugin: str) -> int:
        run_module("vol", "-q", "-s", str(tmp_path / "symbols"), "-f", str(sample(4)), plugin, home=tmp_path)
        with sqlite3.connect(next((tmp_path / "cache").rglob("identifier.cache"))) as connection:
            return int(connection.execute("select count(*) from cache where location like '%x.pdb%'").fetchone()[0])

    assert indexed("kdump.bugcheck") == 0
    assert indexed("windows.info") == 1


@pytest.mark.thorough
def test_vol_hands_its_status_on(tmp_path: Path) -> None:
    finished = run_module("vol", "-q", "no.such.plugin", home=tmp_path)
    assert finished.returncode == 2
    assert "invalid choice no.such.plugin" in finished.stderr


def test_a_scene_that_does_not_exist_lists_those_that_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sample", str(tmp_path / "x.dmp"), "--scene", "nonsense"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("kdump: no scene nonsense: choose one of myfault")
    assert printed.count("\n") == 1
    assert not (tmp_path / "x.dmp").exists()


def test_the_default_scene_of_the_command_is_that_of_the_maker() -> None:
    from kdump_sample.scenes import DEFAULT
    from volatility3_kdump.cli.sample import DEFAULT_SCENE

    assert DEFAULT_SCENE == DEFAULT


def test_the_sample_as_a_memory_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kdump_sample.memory_images import KINDS
    from volatility3_kdump.cli.sample import IMAGE_KINDS

    assert set(IMAGE_KINDS) == set(KINDS)
    path = tmp_path / "machine.lime"
    assert cli.main(["sample", "--image", "lime", "--running", str(path)]) == 0
    assert "memory image (lime)" in capsys.readouterr().out and path.read_bytes()[:4] == b"EMiL"


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (("batch", "dumps", "--jsonl", "out", "--jobs", "0"), "--jobs: '0' is no whole number from 1 to "),
        (("batch", "dumps", "--jsonl", "out", "--jobs", "two"), "--jobs: 'two' is no whole number from 1 to "),
        (("batch", "dumps", "--jsonl", "out", "--time-limit", "nan"), "--time-limit: 'nan' is no number of seconds"),
        (("mcp", "--root", ".", "--http", "65536"), "--http: '65536' is no whole number from 0 to 65535"),
    ],
)
def test_numbers_out_of_range(arguments: tuple[str, ...], refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert ended.value.code == 2
    assert f"error: argument {refused}" in capsys.readouterr().err


def test_commands_are_found_by_their_names() -> None:
    names = list(cli._PLACES)
    assert [command.name for command in cli.commands()] == names
    assert [command.name for name in names for command in cli.commands([name])] == names


def test_a_command_imports_no_other() -> None:
    program = """
import sys
from volatility3_kdump.cli import main
try:
    main(["mcp", "--help"])
except SystemExit:
    modules = {name for name in sys.modules if name.startswith("volatility3_kdump.cli.")}
    print(sorted(name.rpartition(".")[2] for name in modules))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    imported = printed.stdout.splitlines()[-1]
    assert "'mcp'" in imported and not any(f"'{name}'" in imported for name in ("batch", "slice", "symbols", "verdict"))
