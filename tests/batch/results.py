"""What is expected of the directory of dumps, and how lines are compared."""

from __future__ import annotations

import json
from typing import Any

from volatility3_kdump.batch import Done

Line = dict[str, Any]

#: (path below the directory, name of the member, words of the error), in the order of the lines.
EXPECTED = [
    ("cut.cab", None, r"^cut\.cab: the CAB archive ends at offset"),
    ("empty.dmp", None, r"^empty\.dmp: the file is empty"),
    ("kernel.dmp", None, None),
    ("small.dmp", None, None),
    ("small.dmp.gz", "small.dmp", None),
    ("three.zip", "x/one.dmp", None),
    ("three.zip", "two.dmp", None),
    ("three.zip", "bad.dmp", r"^three\.zip: bad\.dmp inside: .*NumberOfRuns never set"),
    ("Later/named otherwise", None, None),
    ("a/again.DMP", None, None),
    ("a/cut", None, r"^cut: .*BitmapSize"),
    ("a/user.mdmp", None, r"^user\.mdmp: .*user-mode minidump"),
    ("a/zeros.dmp", None, r"^zeros\.dmp: the file holds only zeros"),
]


def place(line: Line) -> tuple[str, str | None]:
    member = line["file"]["member"]
    return line["file"]["path"], None if member is None else member["name"]


def without_time(lines: list[Line]) -> list[str]:
    """What is the same in every run, in an order of its own."""
    return sorted(json.dumps({**line, "elapsed_seconds": None}) for line in lines)


def known(lines: list[Line]) -> Done:
    done = Done()
    for line in lines:
        done.add(line)
    return done
