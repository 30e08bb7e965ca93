"""A dump whose names are all hostile: whatever a command prints of them, nothing reaches the terminal raw."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.prompt import session_on
from volatility3_kdump.console.application import Console
from volatility3_kdump.console.commands import registry
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target

#: An escape sequence, one control character of eight bits, a change of direction, ends of lines, a null, a tab.
_HOSTILE = "\x1b[2J\x9b\u202e\r\n\x07\u2028\t\x7f"
_NARROW = "\x1b[2J\x9b\r\n\x07\t\x7f\x08"
#: Names of the demonstration: of images, drivers, devices, files, processes.
_NAMES = ("notmyfault", "myfault", "explorer", "services", "winlogon", "System32", "Device", "MYFAULT", "csrss")
#: Commands that write files, end the session, or run for long.
_LEFT_OUT = {".writemem", ".logopen", ".logappend", ".opendump", "q", "qq", "qd", ".dump", "$<", "$><", "$$<", "$$><"}
#: What a user types to see names.
_QUICK = ("!process 0 0", "lm t n", "lmvm my*", "!drvobj \\Driver\\MYFAULT 7", "!vm", ".tlist", "kv")
_TYPED = (
    *_QUICK,
    *("!process 0 7", "!object \\", "!devnode 0 1", "!handle 0 3 0", "!stacks 2", "!locks -v", "!memusage", "!address"),
    *(
        "!token",
        "!tokens",
        "!analyze -v",
        "!irpfind",
        "!dlls",
        "!peb",
        "!for_each_module",
        "!running -it",
        "!us",
        "!tl",
    ),
    *("!tl", "!lt", "!di", "lm1m", "!for_each_process .echo x", "!poolused", "!sysinfo smbios", "dS @rsp", "da @rsp"),
    *("dx -r2 @$cursession.Processes", "dx -r2 @$cursession.Modules", "x *!*"),
    *(".foreach (x { lm1m }) { .echo x }", ".foreach (x { !process 0 0 }) { .echo x }"),
)


def _changed(data: bytes) -> bytes:
    """Every name overwritten, in both widths, by as many hostile characters."""
    for name in _NAMES:
        wide = (_HOSTILE * 2)[: len(name)].encode("utf-16-le")
        narrow = (_NARROW * 2)[: len(name)].encode("latin-1")
        data = data.replace(name.encode("utf-16-le"), wide).replace(name.encode(), narrow)
    return data


@pytest.fixture(scope="module")
def hostile(sample: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Target]:
    def opened(scene: str) -> Target:
        path = tmp_path_factory.mktemp("hostile") / "names.dmp"
        data = sample(1, None, scene).read_bytes()
        # Behind the header, whose texts have their own tests.
        path.write_bytes(data[:0x2000] + _changed(data[0x2000:]))
        return Target.open(path)

    return opened


def shown(session: Session, line: str) -> str:
    output = io.StringIO()
    Console(session, output).answer(line)
    return output.getvalue()


def _examples() -> list[str]:
    entries = {entry.names[0]: entry for entry in registry().values()}
    return [
        example.line
        for name, entry in sorted(entries.items())
        if name not in _LEFT_OUT
        for example in entry.syntax.examples
    ]


def _raw(text: str) -> set[str]:
    """Characters that a terminal would obey. A tab is KD's own in some layouts."""
    return {letter for letter in text if not letter.isprintable() and letter not in "\n\t"}


@pytest.mark.parametrize(
    ("lines", "least"), [(_QUICK, 4), pytest.param(_TYPED, 15, marks=pytest.mark.thorough)], ids=["quick", "all"]
)
def test_what_users_type(hostile: Callable[[str], Target], lines: tuple[str, ...], least: int) -> None:
    session = session_on(hostile("myfault"))
    session.most_steps = 2000
    met = 0
    for line in lines:
        text = shown(session, line)
        assert not _raw(text), (line, _raw(text))
        assert "failed by a mistake" not in text, line
        # Each name begins with the escape sequence: where one is shown, it is shown as an escape.
        met += "\\x1b[2J" in text
        assert not re.search(r"^ *\[2J", text, re.MULTILINE), line
    assert met >= least


@pytest.mark.thorough
@pytest.mark.parametrize("scene", ["myfault", "waits", "blocked-power-irp", "user-mode", "error-log", "hang-workers"])
def test_every_example(hostile: Callable[[str], Target], scene: str) -> None:
    session = session_on(hostile(scene))
    session.most_steps = 200
    for line in _examples():
        text = shown(session, line)
        assert not _raw(text), (line, _raw(text))
        assert "failed by a mistake" not in text, (line, text[-300:])
