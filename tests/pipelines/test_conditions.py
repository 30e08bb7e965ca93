"""Which verdicts fail a pipeline, and the exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import volatility3_kdump
from volatility3_kdump.analysis.crash import analyze_crash
from volatility3_kdump.cli import main
from volatility3_kdump.cli.analyze import FORMATS
from volatility3_kdump.pipelines.conditions import BadCondition, Condition
from volatility3_kdump.target import Target
from volatility3_kdump.views.report import report

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "pipelines.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(plain: Target) -> dict[str, Any]:
    return report(plain, analyze_crash(plain))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        *(
            ("any", True),
            ("error", False),
            ("driver=myfault.sys", True),
            ("driver=MYFAULT", True),
            ("driver=my*", True),
        ),
        *(("driver=nt", False), ("driver=myfaul", False), ("stack=myfault.sys", True), ("stack=nt", True)),
        *(("stack=tcpip", False), ("bugcheck=d1", True), ("bugcheck=0xD1", True), ("bugcheck=9f", False)),
        *(("bugcheck=DRIVER_IRQL*", True), ("bucket=AV_myfault!*", True), ("bucket=x", False)),
        *(("hash={9745090a-9bce-ccba-c096-ca6e9ca04c64}", True), ("hash=9745*", True), ("hash=0", False)),
        *(("process=notmyfault64.exe", True), ("process=x", False), ("third-party", True), ("hardware", False)),
        *(("confidence=low", True), ("confidence=high", True), ("driver=myfault,confidence=high", True)),
        *(("driver=myfault,bugcheck=9f", False), ("DRIVER=myfault", True), (" driver = myfault ", True)),
    ],
)
def test_conditions(document: dict[str, Any], text: str, holds: bool) -> None:
    assert Condition.parse(text).holds(document, None) is holds


def test_dumps_that_could_not_be_analysed_meet_one_condition_only() -> None:
    assert Condition.parse("error").holds(None, "damaged")
    assert not any(Condition.parse(text).holds(None, "damaged") for text in ("any", "driver=*", "error,any"))


def test_hardware_is_no_third_party(scene: Callable[..., Target]) -> None:
    target = scene("acquitted-read")
    acquitted = report(target, analyze_crash(target))
    assert Condition.parse("hardware").holds(acquitted, None)
    assert not Condition.parse("third-party").holds(acquitted, None)
    assert not Condition.parse("driver=myfault").holds(acquitted, None)
    assert Condition.parse("stack=myfault").holds(acquitted, None)


@pytest.mark.parametrize(
    "text", ["", "x", "driver", "driver=", "any=1", "confidence=sure", "driver=a,,", "=x", "any;rm"]
)
def test_wrong_conditions_say_what_there_is(text: str) -> None:
    with pytest.raises(BadCondition, match=r"^--fail-on .*(is none of any, error|is one of low)"):
        Condition.parse(text)


def test_every_term_is_in_the_page() -> None:
    from volatility3_kdump.pipelines.conditions import _PLAIN, _VALUED

    assert all(f"`{term}`" in PAGE for term in _PLAIN) and all(f"`{term}=" in PAGE for term in _VALUED)
    assert all(f"| `{name}` |" in PAGE for name in FORMATS)


# the command ----------------------------------------------------------------------------------------------------------


def test_exit_status(sample: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump, bad, empty = str(sample()), tmp_path / "bad.dmp", tmp_path / "empty"
    bad.write_bytes(b"")
    empty.mkdir()
    for arguments, status in (
        *(((dump,), 0), ((dump, "--fail-on", "driver=x"), 0), ((dump, "--fail-on", "driver=myfault"), 3)),
        *(((dump, "--fail-on", "x=1", "--offline"), 1), ((str(bad),), 1), ((str(bad), "--fail-on", "error"), 3)),
        *(((dump, str(bad), "--fail-on", "driver=x", "--fail-on", "any"), 3), ((str(empty),), 0)),
        *(((str(tmp_path / "nosuch"),), 1), ((dump, "--format", "nosuch"), 1), ((dump, str(bad), "--member", "1"), 1)),
        *(((dump, "--format", "text", "--format", "json"), 1), ((dump, "--format", f"json={tmp_path}"), 1)),
    ):
        assert main(["analyze", *arguments]) == status, arguments
        said = capsys.readouterr()
        assert "Traceback" not in said.err and said.err.count("\n") <= 1
        assert said.out or said.err


def test_several_formats_at_once(
    sample: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in FORMATS if name != "text"}
    formats = [part for name, path in files.items() for part in ("--format", f"{name}={path}")]
    assert main(["analyze", str(sample()), "--format", "text", *formats]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert all(path.stat().st_size for path in files.values())
    assert json.loads(files["json"].read_text())["dumps"][0]["error"] is None


# the example ----------------------------------------------------------------------------------------------------------


def workflow() -> dict[Any, Any]:
    yaml = pytest.importorskip("yaml")
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 1
    document: dict[Any, Any] = yaml.safe_load(blocks[0])
    return document


def test_the_example_is_a_workflow() -> None:
    document = workflow()
    # `on` is a boolean for YAML 1.1.
    assert set(document) == {"name", True, "permissions", "jobs"}
    for job in document["jobs"].values():
        assert ("uses" in job) != ("runs-on" in job)
        # A job that waits for one that there is not makes the whole workflow invalid.
        assert job.get("needs", "tests") in document["jobs"]
        for step in job.get("steps", ()):
            assert set(step) <= {"name", "uses", "with", "run", "if", "env"}
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a/b@v1"))


def _program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
    path.chmod(0o755 | stat.S_IXUSR)


@pytest.fixture
def runner(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Runs a script as a runner does, in a directory of its own; ``pip`` and ``gh`` only say what they were given."""
    tools = tmp_path / "bin"
    tools.mkdir()
    start = "import sys; from volatility3_kdump.cli import main; sys.exit(main(sys.argv[1:]))"
    _program(tools / "kdump", f"exec '{sys.executable}' -c '{start}' \"$@\"")
    _program(tools / "pip", 'echo "pip $*"')
    _program(tools / "gh", 'echo "gh $*"', "cat")
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(CHECKOUT),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }

    def run(script: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "step.sh").write_text(script, encoding="utf-8")
        return subprocess.run(
            ["bash", "-e", str(tmp_path / "step.sh")],
            cwd=workspace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


NEEDS_BASH = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="runs the shell of a runner")


def _scripts() -> list[str]:
    return [step["run"] for job in workflow()["jobs"].values() for step in job.get("steps", ()) if "run" in step]


@NEEDS_BASH
@pytest.mark.thorough
def test_the_steps_of_the_example_run(
    runner: Callable[[str], subprocess.CompletedProcess[str]], sample: Callable[..., Path], tmp_path: Path
) -> None:
    """Every artifact comes in a directory of its own, as it does without ``merge-multiple``."""
    workspace = tmp_path / "workspace"
    (workspace / "dumps" / "dumps-vm1").mkdir(parents=True)
    shutil.copy(sample(), workspace / "dumps" / "dumps-vm1" / "t1.dmp")
    install, analyse = _scripts()
    installed = runner(install)
    assert (installed.returncode, installed.stdout) == (0, "pip install ./tools/volatility3-kdump\n")
    finished = runner(analyse)
    assert finished.returncode == 3, finished.stderr
    assert finished.stdout.startswith("::error file=dumps/dumps-vm1/t1.dmp,title=DRIVER_IRQL_NOT_LESS_OR_EQUAL")
    assert "myfault.sys" in (tmp_path / "summary.md").read_text()
    assert json.loads((workspace / "kdump.sarif").read_text())["version"] == "2.1.0"
    assert "<failure" in (workspace / "kdump.xml").read_text()
    (kept,) = [step["with"] for step in workflow()["jobs"]["crashes"]["steps"] if "sarif" in step.get("uses", "")]
    assert (workspace / kept["sarif_file"]).is_file()


@NEEDS_BASH
@pytest.mark.thorough
def test_the_example_passes_where_nothing_crashed(
    runner: Callable[[str], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """No artifact, so no directory either."""
    finished = runner(_scripts()[-1])
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads((tmp_path / "workspace" / "kdump.sarif").read_text())["runs"][0]["results"] == []


@NEEDS_BASH
@pytest.mark.thorough
def test_the_issue_of_the_page_is_made(
    runner: Callable[[str], subprocess.CompletedProcess[str]], sample: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copy(sample(), tmp_path / "workspace" / "t1.dmp")
    (command,) = re.findall(r"`(kdump analyze [^`]* \| gh [^`]*)`", PAGE)
    finished = runner(command)
    assert finished.returncode == 0, finished.stderr
    made, _, body = finished.stdout.partition("\n")
    assert made == "gh issue create --title Crash in myfault.sys --body-file -"
    assert body.startswith("### `DRIVER_IRQL_NOT_LESS_OR_EQUAL (d1)` in `myfault.sys`")


def test_the_line_of_the_page_is_what_is_printed(plain: Target) -> None:
    from volatility3_kdump.pipelines.analysed import Analysed

    dump = Analysed("dumps/t1.dmp", report(plain, analyze_crash(plain)), None, 0.1)
    assert f"    {dump.path}: {dump.sentence}\n" in PAGE
    assert volatility3_kdump.__version__
