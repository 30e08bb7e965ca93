"""Lines as Parquet files, read by DuckDB; the queries of the documentation."""

from __future__ import annotations

import copy
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from volatility3_kdump import batch
from volatility3_kdump.batch import parquet
from volatility3_kdump.errors import KdumpError

pytest.importorskip("pyarrow")
duckdb = pytest.importorskip("duckdb")
CHECKOUT = Path(__file__).parent.parent.parent

from tests.batch.executors import Here  # noqa: E402
from tests.pages.hostile import NAME, unsafe  # noqa: E402


@pytest.fixture(scope="module")
def analysed(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    bad = tmp_path_factory.mktemp("bad") / "bad.dmp"
    bad.write_bytes(bytes(0x3000))
    return list(batch.batch([sample(6), str(bad)], executor=Here(), jobs=1))


@pytest.fixture
def written(analysed: list[Any], tmp_path: Path) -> Path:
    assert parquet.write(tmp_path / "tables", analysed) == 2
    return tmp_path / "tables"


def query(directory: Path, text: str) -> list[tuple[Any, ...]]:
    connection = duckdb.connect()
    for name in parquet.TABLES:
        connection.execute(f"create view {name} as select * from read_parquet('{directory / name}.parquet')")
    rows: list[tuple[Any, ...]] = connection.execute(text).fetchall()
    return rows


def test_the_demonstration(written: Path) -> None:
    assert query(written, "select code, argument1, suspect, confidence, hash from dumps where error_kind is null") == [
        (0xD1, 0xFFFFD8024AAA8010, "myfault.sys", "high", "9745090a-9bce-ccba-c096-ca6e9ca04c64")
    ]
    ((seconds,),) = query(written, "select epoch(time) from dumps where error_kind is null")
    assert round(seconds, 6) == datetime(2021, 10, 7, 11, 33, 12, 945381, timezone.utc).timestamp()
    assert query(written, "select dump from dumps where error_kind is not null") == [(2,)]
    frames = query(written, "select number, call_site from frames order by number")
    assert frames[0] == (0, "nt!KeBugCheckEx") and frames[3][1] == "myfault+0x1981"
    assert query(written, "select base, size from modules where name = 'myfault.sys'") == [(0xFFFFF80060DA0000, 36864)]
    assert query(written, "select value from findings where tag = 'READ_ADDRESS'")[0][0].startswith("ffffd8024aaa8010")
    assert query(written, "select manufacturer from machines") == [("Contoso Ltd",)]


def test_every_query_of_the_documentation_answers(written: Path) -> None:
    text = (CHECKOUT / "docs" / "fleet.md").read_text(encoding="utf-8")
    queries = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(queries) >= 5
    assert [bool(query(written, one)) for one in queries].count(True) >= 3


def test_every_column_is_in_the_documentation() -> None:
    text = (CHECKOUT / "docs" / "fleet.md").read_text(encoding="utf-8")
    for name, (columns, _) in parquet.TABLES.items():
        (section,) = re.findall(rf"\n\| `{name}` \|([^\n]*)", text)
        assert set(re.findall(r"`([a-z_0-9]+)`", section)) == set(columns) - {"dump"}, name


@pytest.mark.thorough
def test_many_lines_take_little_memory(analysed: list[Any], tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    assert parquet.write(tmp_path, (copy.copy(analysed[0]) for _ in range(3000))) == 3000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 << 20
    assert query(tmp_path, "select count(*), count(distinct dump) from dumps") == [(3000, 3000)]


@pytest.mark.parametrize("damage", [None, 5, "x", [], {"code": "0x" + "f" * 40, "arguments": 7, "frames": [None, 3]}])
def test_lines_of_any_shape(analysed: list[Any], damage: Any, tmp_path: Path) -> None:
    """Lines of an earlier run are input of strangers: only the part that resuming needs is checked."""
    line = {**analysed[0], **dict.fromkeys(("bug_check", "stack", "verdict", "machine", "system", "modules"), damage)}
    assert parquet.write(tmp_path, [line]) == 1
    assert query(tmp_path, "select code, suspect from dumps") == [(None, None)]


def test_hostile_names_are_escaped(analysed: list[Any], tmp_path: Path) -> None:
    """Lines of an earlier run may be anybody's; a database's client and a spreadsheet show what is in a table."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [changed(inner) for inner in value]
        return NAME if isinstance(value, str) else value

    assert parquet.write(tmp_path / "tables", [changed(analysed[0])]) == 1
    (shown,) = query(tmp_path / "tables", "select suspect from dumps")
    assert "<script>" in shown[0] and "\\x1b" in shown[0]
    for name in parquet.TABLES:
        for row in query(tmp_path / "tables", f"select * from {name}"):
            assert not unsafe("".join(map(str, row)))


def test_a_place_that_cannot_be_written(analysed: list[Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KdumpError, match="cannot be written"):
        parquet.write(tmp_path / "file", analysed)
