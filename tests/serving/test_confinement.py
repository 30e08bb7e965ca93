"""What the process of a dump may touch. The hook cannot be taken away again, so processes of their own try it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from volatility3_kdump.serving.confinement import Refused, refuse
from volatility3_kdump.serving.folders import is_within

_TRY = """
import os, sys, socket, subprocess, pathlib, shutil
sys.path.insert(0, sys.argv[1])
inside, outside, cache = sys.argv[2:5]
from volatility3_kdump.serving.confinement import confine, limit_memory
from volatility3_kdump.serving.folders import program_folders
import json
limit_memory(1 << 30)
confine([inside, *program_folders()], [cache], sys.executable, True)
def tried(act):
    try:
        act()
        return "done"
    except PermissionError as error:
        return "refused"
    except Exception as error:
        return type(error).__name__
def room():
    return bytearray(2 << 30)
print(json.dumps({
    "read inside": tried(lambda: open(inside + "/a").read()),
    "read outside": tried(lambda: open(outside + "/a").read()),
    "read by os.open": tried(lambda: os.open(outside + "/a", os.O_RDONLY)),
    "read through a link": tried(lambda: open(inside + "/link").read()),
    "read with dots": tried(lambda: open(inside + "/../outside/a").read()),
    "read passwd": tried(lambda: open("/etc/passwd").read()),
    "list outside": tried(lambda: os.listdir(outside)),
    "list inside": tried(lambda: os.listdir(inside)),
    "write inside": tried(lambda: open(inside + "/b", "w")),
    "append inside": tried(lambda: open(inside + "/a", "ab")),
    "change inside": tried(lambda: open(inside + "/a", "r+b")),
    "write by Path": tried(lambda: pathlib.Path(inside + "/b").write_text("x")),
    "write cache": tried(lambda: open(cache + "/b", "w").close()),
    "remove inside": tried(lambda: os.remove(inside + "/a")),
    "rename out of the cache": tried(lambda: os.rename(cache + "/b", inside + "/c")),
    "truncate": tried(lambda: os.truncate(inside + "/a", 0)),
    "make a folder": tried(lambda: os.mkdir(inside + "/d")),
    "remove a tree": tried(lambda: shutil.rmtree(inside)),
    "run": tried(lambda: subprocess.run(["id"])),
    "run by system": tried(lambda: os.system("id")),
    "run this Python": tried(lambda: subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    "import": tried(lambda: __import__("xml.dom.minidom")),
    "memory": tried(room),
    "nothing": tried(lambda: open(os.devnull, "w").close()),
}))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    import json

    place = tmp_path_factory.mktemp("confined")
    for name in ("inside", "outside", "cache"):
        (place / name).mkdir()
        (place / name / "a").write_text("x")
    (place / "inside" / "link").symlink_to(place / "outside" / "a")
    finished = subprocess.run(
        [sys.executable, "-c", _TRY, str(CHECKOUT), *(str(place / name) for name in ("inside", "outside", "cache"))],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
    )
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, str] = json.loads(finished.stdout)
    assert (place / "inside" / "a").read_text() == "x"
    return answer


def test_what_is_allowed(outcomes: dict[str, str]) -> None:
    allowed = ("read inside", "list inside", "write cache", "run this Python", "import", "nothing")
    assert {name: outcomes[name] for name in allowed} == dict.fromkeys(allowed, "done")


def test_everything_else_is_refused(outcomes: dict[str, str]) -> None:
    rest = {name: outcome for name, outcome in outcomes.items() if outcome != "refused"}
    allowed = {"read inside", "list inside", "write cache", "run this Python", "import", "nothing", "memory"}
    assert set(rest) == allowed
    if sys.platform == "linux":
        assert outcomes["memory"] == "MemoryError"


@pytest.mark.parametrize(
    "line",
    [
        *(".logopen x", "k; .logopen x", ".LOGOPEN x", "!analyze -v;.logappend x", ".opendump x", ".shell dir"),
        *("$<x", "$$><x", "$$>a<x y", "k;$$<x", "$><x", ".writemem x nt L1", "q", "qq", ".sympath /etc", ".exepath+ /"),
        *(".sympath srv*/etc*https://msdl.microsoft.com/download/symbols", ".sympath http://127.0.0.1:80/x", "||1s"),
        *(".symfix /tmp", ".symfix+ /tmp", ".sympath cache*/tmp;srv*"),
    ],
)
def test_refused_lines(line: str) -> None:
    with pytest.raises(Refused):
        refuse(line, ("/nowhere",))


@pytest.mark.parametrize(
    "line",
    [
        *("!analyze -v", "k; r; u", ".sympath", ".symfix", ".sympath srv*", "dt nt!_EPROCESS", "* .logopen x", ".help"),
        *(".sympath srv*https://msdl.microsoft.com/download/symbols", ".echo .logopen", "? 1+2", "nosuch", ""),
    ],
)
def test_other_lines(line: str) -> None:
    refuse(line, ("/nowhere",))


def test_within(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    folders = [str((tmp_path / "a").resolve())]
    assert is_within(str(tmp_path / "a"), folders) and is_within(str(tmp_path / "a" / "x"), folders)
    assert not is_within(str(tmp_path / "ab"), folders) and not is_within(str(tmp_path / "a" / ".." / "ab"), folders)
    assert not is_within("x\0y", folders)


def test_the_process_of_a_dump_starts_before_the_protocol_is_imported(tmp_path: Path) -> None:
    """The two imports, each longer than an analysis, go on beside each other; the server never imports the host."""
    pytest.importorskip("mcp")
    program = """
import sys, anyio
from volatility3_kdump.cli import main
late = ("mcp", "pydantic", "volatility3", "volatility3_kdump.symbols", "volatility3_kdump.analysis")
def run(serve, dumps, listening):
    print([name for name in late if name in sys.modules])
    from volatility3_kdump.cli.mcp import _built
    _built(dumps)
    print([name for name in (*late, "volatility3_kdump.console") if name in sys.modules])
anyio.run = run
main(["mcp", "--root", sys.argv[1]])
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n['mcp', 'pydantic']\n"
