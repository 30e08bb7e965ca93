"""The prompt: what a command costs in a session that has answered others before.

The dump is that of ``processes.py``: 300 processes and 5,000 threads. In one session ``!analyze -v`` comes first, then
``k`` and other commands, each timed from the typed line to its last line of text, escaped as for a terminal: processor
time. ``k`` must stay below 50 ms, which is what a user takes for immediate. Beside it stands a whole ``kdump.stack``
of the host's command line, which opens the dump and reads the symbol table every time: time passed.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from pathlib import Path

import processes
from comparison import NotMeasured, Row, Values, alternate, faster, progress, run, run_worker

_ROUNDS = 3
_LIMIT = 0.050
_COMMANDS = 20


def rows(directory: Path) -> list[Row]:
    """Make the dump in ``directory`` and compare."""
    path = directory / "console.dmp"
    progress("writing a dump with many processes")
    processes.write(path)
    cache = directory / "cache"
    found = alternate(
        "prompt",
        _ROUNDS,
        {
            "session": functools.partial(run_worker, __file__, path),
            "plugin": functools.partial(_plugin, path, cache),
        },
    )
    session, plugin = found["session"], found["plugin"]

    def timed(what: str) -> Values | NotMeasured:
        return session if isinstance(session, NotMeasured) else {"seconds": session[what]}

    return [
        _below("k after !analyze -v in one session", timed("k"), plugin, "vol ... kdump.stack"),
        faster(f"each of {_COMMANDS} more commands kb", timed("twentieth"), plugin, "vol ... kdump.stack"),
        faster("the first k of a session", timed("first"), plugin, "vol ... kdump.stack"),
        faster("!process 0 0", timed("processes"), plugin, "vol ... kdump.stack"),
    ]


def _below(what: str, ours: Values | NotMeasured, peer: Values | NotMeasured, name: str) -> Row:
    """A row with a limit in seconds."""
    row = faster(what, ours, peer, name)
    met = None if isinstance(ours, NotMeasured) else ours["seconds"] < _LIMIT
    return Row(row.what, row.ours, row.peer, row.ratio, f"< {_LIMIT * 1000:.0f} ms", met)


def _plugin(path: Path, cache: Path) -> Values:
    """A stack by the host's command line, as often as it is asked for."""
    start = time.perf_counter()
    output = run("-m", "volatility3_kdump", "vol", "-q", "--offline", "-f", path, "kdump.stack", cache=cache)
    seconds = time.perf_counter() - start
    if "KeBugCheckEx" not in output:
        raise NotMeasured("kdump.stack did not print the stack")
    return {"seconds": seconds}


def _worker(path: str) -> Values:
    from volatility3_kdump.console.commands import execute
    from volatility3_kdump.console.session import Session
    from volatility3_kdump.escape import terminal_line
    from volatility3_kdump.options import Options

    session = Session(Options(offline=True))
    session.open(path)

    def seconds(line: str, expected: str) -> float:
        start = time.process_time()
        text = [terminal_line(shown) for shown in execute(session, line)]
        taken = time.process_time() - start
        if not any(expected in shown for shown in text):
            raise NotMeasured(f"{line} did not show {expected}")
        return taken

    first = seconds("k", "KeBugCheckEx")
    seconds("!analyze -v", "AV_myfault!unknown_function")
    after = seconds("k", "KeBugCheckEx")
    more = [seconds("kb", "KeBugCheckEx") for _ in range(_COMMANDS)]
    return {
        "first": first,
        "k": after,
        "twentieth": max(more),
        "processes": seconds("!process 0 0", "PROCESS ffff919000000080"),
    }


if __name__ == "__main__":
    print(json.dumps(_worker(sys.argv[1])))
