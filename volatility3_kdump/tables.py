"""The tables that the package ships: structures that public symbols lack, kernel index, bug checks.

They live in ``symbols/kdump`` of a source checkout and in ``volatility3/symbols/kdump`` after installation.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from volatility3_kdump.errors import SymbolsNotFound
from volatility3_kdump.layout import Layouts

_MARKER = "structures.json"
#: One record per bug check code: meaning, argument kinds, where its failure is recorded, words of its bucket.
BUG_CHECKS = "bugchecks.jsonl"
#: The reduced kernel table of the demonstration dump; hidden from the host's symbol search by its suffix.
_KERNEL_TABLE = "ntkrnlmp-19041.isf.xz"


@functools.lru_cache(maxsize=1)
def directory() -> Path:
    """The directory of the shipped tables. Raises :class:`SymbolsNotFound` when the installation is incomplete."""
    beside = Path(__file__).resolve().parents[1]
    candidates = [beside / "symbols" / "kdump", beside / "volatility3" / "symbols" / "kdump"]
    spec = importlib.util.find_spec("volatility3")
    for location in (spec.submodule_search_locations or []) if spec else []:
        candidates.append(Path(location) / "symbols" / "kdump")
    for candidate in candidates:
        if (candidate / _MARKER).is_file():
            return candidate
    raise SymbolsNotFound(
        f"the package's own tables were not found (looked for {_MARKER} in "
        f"{', '.join(str(candidate) for candidate in candidates)}); reinstall volatility3-kdump"
    )


def data_path(name: str) -> Path:
    """Path of a shipped table by file name."""
    return directory() / name


@functools.lru_cache(maxsize=1)
def structures() -> Layouts:
    """Layouts of the dump file's own structures and of the NT structures that public symbols lack."""
    return Layouts.load(data_path(_MARKER))


def kernel_table_path() -> Path:
    """Path of the shipped kernel symbol table (Windows 10 19041, the kernel of the demonstration dump)."""
    return data_path(_KERNEL_TABLE)


def json_lines(name: str) -> Iterator[dict[str, Any]]:
    """The records of a shipped JSON Lines table."""
    with data_path(name).open(encoding="utf-8") as stream:
        for line in stream:
            if line.strip():
                yield json.loads(line)


@functools.lru_cache(maxsize=64)
def bug_check_record(code: int) -> Mapping[str, Any] | None:
    """The record of ``bugchecks.jsonl`` for a bug check code, ``None`` for a code that it does not have.

    Only the line of the code is parsed. Its keys are described in ``symbols/README.md``.
    """
    start = f'{{"code": "{code:#x}",'
    with data_path(BUG_CHECKS).open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith(start):
                record: dict[str, Any] = json.loads(line)
                return record
    return None


@functools.lru_cache(maxsize=1)
def fast_fail_codes() -> dict[int, dict[str, Any]]:
    """The codes of __fastfail: ``name`` (FAST_FAIL_ constants of ``winnt.h``, without that prefix) and ``text``."""
    return {record["code"]: record for record in json_lines("fastfail.jsonl")}


@functools.lru_cache(maxsize=1)
def status_names() -> dict[int, str]:
    """The names of NTSTATUS values."""
    return {int(record["code"], 16): record["name"] for record in json_lines("ntstatus.jsonl")}


@functools.lru_cache(maxsize=1)
def win32_names() -> dict[str, dict[int, str]]:
    """By kind, ``Win32`` and ``HRESULT``, the names of error codes."""
    names: dict[str, dict[int, str]] = {"Win32": {}, "HRESULT": {}}
    for record in json_lines("winerrors.jsonl"):
        names[record["kind"]][int(record["code"], 16)] = record["name"]
    return names
