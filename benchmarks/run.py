"""Compare with other readers of crash dumps, side by side, and print one table.

    make bench                                    everything, a few minutes
    python benchmarks/run.py opening stacks       some subjects: opening, reading, command, stacks,
                                                  translation, containers, processes, yara, locks, console, memusage,
                                                  fleet, pools

The package must be installed (or on PYTHONPATH) with the ``bench`` extra. The dumps are written into a temporary
directory as sparse files: of up to 512 GB by their size, but all together they take up less than 300 MB of disk,
and 1 GB for a while where archives are compared (``--directory`` names another place, on a file system that has sparse
files).

How to read the table: ``ours`` and ``peer`` are the best of several runs, each in a process of its own, in alternating
order, except that the host opens a dump of 64 GB once, as that takes it 20 s and more. ``ratio`` is what the ``floor``
is about, and ``met`` says whether it holds; rows without a floor are there for comparison. ``host`` is Volatility's own
crash layer, ``mmap`` the bytes of the file copied from a mapping, with no format to read, ``objects`` structures that
are read as objects of the host. Opening, stacks, processes, locks, the prompt, batches, searches of pool and counting
page frames are measured in processor time, everything else in time passed. What exactly is timed is written at the top
of ``opening.py``, ``reading.py``, ``command.py``, ``stacks.py``, ``translation.py``, ``containers.py``,
``processes.py``, ``yara_scan.py``, ``locks.py``, ``console.py``, ``memusage.py``, ``fleet.py`` and ``pool_search.py``.

leechcorepyc needs the library libusb-1.0, from the system or from the distribution libusb-package; archives need the
commands gcab and cabextract. What cannot be measured is shown with the reason. Figures of a busy machine vary; the
order of magnitude should not.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import command
import console
import containers
import fleet
import locks
import memusage
import opening
import pool_search
import processes
import reading
import stacks
import translation
import yara_scan
from comparison import environment, table

_SUBJECTS = {
    "opening": opening.rows,
    "reading": reading.rows,
    "command": command.rows,
    "stacks": stacks.rows,
    "translation": translation.rows,
    "containers": containers.rows,
    "processes": processes.rows,
    "yara": yara_scan.rows,
    "locks": locks.rows,
    "console": console.rows,
    "memusage": memusage.rows,
    "fleet": fleet.rows,
    "pools": pool_search.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="what to compare (default: everything)")
    parser.add_argument("--directory", type=Path, help="where to write the dumps for the time being")
    arguments = parser.parse_args()
    unknown = set(arguments.subjects) - set(_SUBJECTS)
    if unknown:
        parser.error(f"unknown subject {min(unknown)}: choose from {', '.join(_SUBJECTS)}")
    rows = []
    for subject in arguments.subjects or _SUBJECTS:
        with tempfile.TemporaryDirectory(prefix="kdump-bench-", dir=arguments.directory) as directory:
            rows += _SUBJECTS[subject](Path(directory))
    print(environment())
    print()
    print(table(rows))


if __name__ == "__main__":
    main()
