"""The lines of a batch as Parquet files, for DuckDB, pandas and their like: dumps, frames, modules, findings, machines.

``docs/fleet.md`` describes the columns. Rows of one dump have its number, ``dump``, which counts the lines.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volatility3_kdump.batch.task import Line
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are kept before they are written.
_ROWS = 5_000
_SIGN = 1 << 64

Row = dict[str, Any]


def require() -> None:
    """Raise :class:`KdumpError` where pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise KdumpError("--parquet needs pyarrow: pip install 'volatility3-kdump[fleet]'") from error


def write(directory: Path, lines: Iterable[Line]) -> int:
    """Write the tables of some lines into a directory, whose files of these names are replaced; how many lines.

    Raises :class:`KdumpError` where they cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as closing:
            tables = {}
            for name, (columns, _) in TABLES.items():
                schema = pa.schema([(column, _type(kind)) for column, kind in columns.items()])
                path = directory / f"{name}.parquet"
                tables[name] = _Table(closing.enter_context(pq.ParquetWriter(path, schema, compression="zstd")), schema)
            for number, line in enumerate(lines, 1):
                for name, (_, rows_of) in TABLES.items():
                    tables[name].add({"dump": number, **row} for row in rows_of(line))
            for table in tables.values():
                table.flush()
    except OSError as error:
        raise KdumpError(f"--parquet {directory}: cannot be written: {error.strerror or error}") from error
    return number


class _Table:
    """Collects rows and writes them in groups."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = [[row.get(name) for row in self._rows] for name in self._schema.names]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
            self._rows.clear()


def _type(kind: str) -> Any:
    import pyarrow as pa

    return {
        "text": pa.string(),
        "number": pa.int64(),
        "address": pa.uint64(),
        "real": pa.float64(),
        "flag": pa.bool_(),
        "time": pa.timestamp("us", tz="UTC"),
        "texts": pa.list_(pa.string()),
    }[kind]


# the tables -----------------------------------------------------------------------------------------------------------


def _get(line: Mapping[str, Any], *keys: str) -> Any:
    value: Any = line
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(value: object) -> int | None:
    """A number, or one in hexadecimal digits, of 64 bits."""
    if isinstance(value, str):
        try:
            value = int(value, 16)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _SIGN else None


def _text(value: object) -> str | None:
    return None if value is None else printable(str(value))


def _time(value: object) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _dump_rows(line: Line) -> Iterator[Row]:
    arguments = _get(line, "bug_check", "arguments")
    values = [_number(_get(entry, "value")) for entry in arguments[:4]] if isinstance(arguments, list) else []
    row: Row = {
        "path": _text(_get(line, "file", "path")),
        "member": _text(_get(line, "file", "member", "name")),
        "size": _number(_get(line, "file", "size")),
        "sha256": _text(_get(line, "file", "sha256")),
        "error_kind": _text(_get(line, "error", "kind")),
        "error_message": _text(_get(line, "error", "message")),
        "elapsed_seconds": _get(line, "elapsed_seconds"),
        "dump_type": _number(_get(line, "dump", "type")),
        "code": _number(_get(line, "bug_check", "code")),
        "bug_check": _text(_get(line, "bug_check", "name")),
        **{f"argument{index + 1}": values[index] if index < len(values) else None for index in range(4)},
        "bucket": _text(_get(line, "verdict", "bucket")),
        "hash": _text(_get(line, "verdict", "hash")),
        "symbol": _text(_get(line, "verdict", "symbol_name")),
        "image": _text(_get(line, "verdict", "image_name")),
        "image_version": _text(_get(line, "verdict", "image_version")),
        "suspect": _text(_get(line, "verdict", "suspect")),
        "confidence": _text(_get(line, "verdict", "confidence")),
        "plausibility": _text(_get(line, "plausibility", "outcome")),
        "time": _time(_get(line, "system", "time_utc")),
        "uptime_seconds": _get(line, "system", "uptime_seconds"),
        "build": _number(_get(line, "system", "build")),
        "kernel_version": _text(_get(line, "system", "kernel_version")),
        "release": _text(_get(line, "system", "release")),
        "architecture": _text(_get(line, "system", "platform")),
        "processors": _number(_get(line, "system", "processors")),
        "process": _text(_get(line, "process", "name")),
        "machine": _text(_get(line, "machine", "smbios_digest")),
        "boot_id": _text(_get(line, "system", "boot_id")),
        "symbols": _get(line, "symbols", "loaded"),
    }
    yield row


def _entries(line: Mapping[str, Any], *keys: str) -> list[Any]:
    value = _get(line, *keys)
    return value if isinstance(value, list) else []


def _frame_rows(line: Line) -> Iterator[Row]:
    for frame in _entries(line, "stack", "frames"):
        yield {
            "number": _number(_get(frame, "number")),
            "call_site": _text(_get(frame, "call_site")),
            "module": _text(_get(frame, "module")),
            "symbol": _text(_get(frame, "symbol")),
            "offset": _number(_get(frame, "offset")),
            "address": _number(_get(frame, "address")),
            "child_sp": _number(_get(frame, "child_sp")),
            "return_address": _number(_get(frame, "return_address")),
            "trust": _text(_get(frame, "trust")),
            "part": _text(_get(frame, "part")),
        }


def _module_rows(line: Line) -> Iterator[Row]:
    for module in _entries(line, "modules"):
        yield {
            "name": _text(_get(module, "name")),
            "base": _number(_get(module, "base")),
            "size": _number(_get(module, "size")),
            "timestamp": _number(_get(module, "timestamp")),
        }


def _finding_rows(line: Line) -> Iterator[Row]:
    for finding in _entries(line, "findings"):
        yield {
            "tag": _text(_get(finding, "tag")),
            "value": _text(_get(finding, "value")),
            "address": _number(_get(finding, "address")),
            "note": _text(_get(finding, "note")),
        }


def _machine_rows(line: Line) -> Iterator[Row]:
    machine = _get(line, "machine")
    if isinstance(machine, Mapping):
        yield {
            "machine": _text(machine.get("smbios_digest")),
            "manufacturer": _text(machine.get("manufacturer")),
            "product": _text(machine.get("product")),
            "processor": _text(machine.get("processor")),
            "microcode": _number(machine.get("microcode")),
            "firmware": [printable(str(entry)) for entry in _entries(machine, "firmware") if entry is not None],
            "board": [printable(str(entry)) for entry in _entries(machine, "board") if entry is not None],
        }


#: Each table's columns with their kinds, and what makes its rows of a line.
TABLES: dict[str, tuple[dict[str, str], Callable[[Line], Iterator[Row]]]] = {
    "dumps": (
        {
            "dump": "number",
            "path": "text",
            "member": "text",
            "size": "number",
            "sha256": "text",
            "error_kind": "text",
            "error_message": "text",
            "elapsed_seconds": "real",
            "dump_type": "number",
            "code": "number",
            "bug_check": "text",
            "argument1": "address",
            "argument2": "address",
            "argument3": "address",
            "argument4": "address",
            "bucket": "text",
            "hash": "text",
            "symbol": "text",
            "image": "text",
            "image_version": "text",
            "suspect": "text",
            "confidence": "text",
            "plausibility": "text",
            "time": "time",
            "uptime_seconds": "real",
            "build": "number",
            "kernel_version": "text",
            "release": "text",
            "architecture": "text",
            "processors": "number",
            "process": "text",
            "machine": "text",
            "boot_id": "text",
            "symbols": "flag",
        },
        _dump_rows,
    ),
    "frames": (
        {
            "dump": "number",
            "number": "number",
            "call_site": "text",
            "module": "text",
            "symbol": "text",
            "offset": "address",
            "address": "address",
            "child_sp": "address",
            "return_address": "address",
            "trust": "text",
            "part": "text",
        },
        _frame_rows,
    ),
    "modules": (
        {"dump": "number", "name": "text", "base": "address", "size": "number", "timestamp": "number"},
        _module_rows,
    ),
    "findings": (
        {"dump": "number", "tag": "text", "value": "text", "address": "address", "note": "text"},
        _finding_rows,
    ),
    "machines": (
        {
            "dump": "number",
            "machine": "text",
            "manufacturer": "text",
            "product": "text",
            "processor": "text",
            "microcode": "number",
            "firmware": "texts",
            "board": "texts",
        },
        _machine_rows,
    ),
}
