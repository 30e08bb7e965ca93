from __future__ import annotations

from pathlib import Path

import pytest

from volatility3_kdump.symbols.paths import SearchPath, safe_file_name


def make(directory: Path, *names: str) -> None:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("myfault.sys", "myfault.sys"),
        (r"\SystemRoot\System32\drivers\NETIO.SYS", "NETIO.SYS"),
        (r"C:\build/out\x.pdb", "x.pdb"),
        ("a b (1)~$.dll", "a b (1)~$.dll"),
        ("..", None),
        (".", None),
        (r"..\..", None),
        ("drivers/", None),
        ("", None),
        (".hidden", None),
        ("trailing.", None),
        ("trailing ", None),
        ("C:evil.sys", None),
        ("x.sys:stream", None),
        ("*.sys", None),
        ("a\0b", None),
        ("a\x1b[31m", None),
        ("NUL", None),
        ("com1.sys", None),
        ("a" * 129, None),
    ],
)
def test_only_plain_file_names_are_looked_for(text: str, name: str | None) -> None:
    assert safe_file_name(text) == name


def test_elements_of_the_debuggers_grammar(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("plain", "down", "cache", "dll store", "second")]
    for place in places:
        place.mkdir()
    plain, down, cache, dll, second = map(str, places)
    text = f'{plain};srv*{down}*https://example.invalid/symbols; cache*{cache} ;;SYMSRV*symsrv.dll*{dll};"{plain}"'
    path = SearchPath.parse([text, second], "symbol path")
    assert [str(directory) for directory in path.directories] == [plain, down, cache, dll, second]
    assert path.complaints == ("symbol path: nothing is downloaded, https://example.invalid/symbols is ignored",)


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    path = SearchPath.parse(f"{tmp_path / 'absent'};http://example.invalid;srv*", "image path")
    assert path.directories == ()
    assert path.complaints == (
        f"image path: {tmp_path / 'absent'} is not a directory, ignored",
        "image path: nothing is downloaded, http://example.invalid is ignored",
    )


def test_no_path_is_an_empty_path() -> None:
    assert SearchPath.parse(None, "symbol path").directories == ()
    assert SearchPath.parse("", "symbol path").complaints == ()


def test_plain_directories_and_stores_in_the_order_of_the_path(tmp_path: Path) -> None:
    make(tmp_path, "one/x.sys/AB12/x.sys", "one/x.sys/FFFF/x.sys", "two/x.sys", "two/x.sys.bak")
    path = SearchPath([tmp_path / "two", tmp_path / "one"])
    found = [file.relative_to(tmp_path).as_posix() for file in path.files("x.sys", "AB12")]
    assert found == ["two/x.sys", "one/x.sys/AB12/x.sys"]
    assert [file.name for file in path.files("x.sys", None)] == ["x.sys"]


def test_letter_case_does_not_matter(tmp_path: Path) -> None:
    make(tmp_path, "X.SYS/5f3a0c12E000/x.Sys", "plain/NetIO.sys")
    assert [*SearchPath([tmp_path]).files("x.sys", "5F3A0C12e000")] == [tmp_path / "X.SYS/5f3a0c12E000/x.Sys"]
    assert [*SearchPath([tmp_path / "plain"]).files("NETIO.SYS", "1")] == [tmp_path / "plain/NetIO.sys"]


def test_stores_of_two_tiers(tmp_path: Path) -> None:
    make(tmp_path, "index2.txt", "nt/ntoskrnl.exe/1234/ntoskrnl.exe")
    assert [*SearchPath([tmp_path]).files("ntoskrnl.exe", "1234")] == [tmp_path / "nt/ntoskrnl.exe/1234/ntoskrnl.exe"]


def test_directories_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "x.sys" / "1" / "x.sys").mkdir(parents=True)
    assert [*SearchPath([tmp_path]).files("x.sys", "1")] == []
