from __future__ import annotations

import os
from pathlib import Path

import pytest

from volatility3_kdump.archives.cache import default_directory
from volatility3_kdump.stores.paths import Element, SearchPath, safe_file_name
from volatility3_kdump.stores.servers import MICROSOFT


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


#: A path with ``@`` for a directory, and its elements: the places of each, and the stores that downloads go to.
GRAMMAR = [
    ("@/a;@/b", [("@/a",), ("@/b",)], [(), ()]),
    (";; @/a ; '@/a';", [("@/a",)], [()]),
    ("srv*@/a", [("@/a",)], [()]),
    ("srv*https://s.invalid/x", [("DEFAULT", "https://s.invalid/x")], [("DEFAULT",)]),
    ("http://s.invalid", [("DEFAULT", "http://s.invalid")], [("DEFAULT",)]),
    ("SRV*@/new*https://s.invalid", [("@/new", "https://s.invalid")], [("@/new",)]),
    ("srv**https://s.invalid", [("DEFAULT", "https://s.invalid")], [("DEFAULT",)]),
    ("srv*@/n1*@/n2*https://s.invalid", [("@/n1", "@/n2", "https://s.invalid")], [("@/n1", "@/n2")]),
    ("srv*@/n1*@/b", [("@/n1", "@/b")], [()]),
    ("srv*", [("DEFAULT", MICROSOFT)], [("DEFAULT",)]),
    ("srv**", [("DEFAULT", MICROSOFT)], [("DEFAULT",)]),
    ("symsrv*symsrv.dll*@/n*https://s.invalid", [("@/n", "https://s.invalid")], [("@/n",)]),
    ("SymSrv*symsrv.dll*@/b", [("@/b",)], [()]),
    ("cache*@/c;srv*https://s.invalid", [("@/c",), ("https://s.invalid",)], [(), ("@/c",)]),
    ("cache*;srv*", [("DEFAULT",), ("DEFAULT", MICROSOFT)], [(), ("DEFAULT",)]),
    ("srv*https://s.invalid;cache*@/c", [("DEFAULT", "https://s.invalid"), ("@/c",)], [("DEFAULT",), ()]),
    ("cache*@/c;srv*@/n*https://s.invalid", [("@/c",), ("@/n", "https://s.invalid")], [(), ("@/c", "@/n")]),
]


@pytest.mark.parametrize(("text", "places", "caches"), GRAMMAR, ids=[text for text, _, _ in GRAMMAR])
def test_elements_of_the_debuggers_grammar(
    text: str, places: list[tuple[str, ...]], caches: list[tuple[str, ...]], tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()

    def expected(entry: str) -> Path | str:
        if entry == "DEFAULT":
            return default_directory() / "symbols"
        return Path(entry.replace("@", str(tmp_path))) if entry.startswith("@") else entry

    path = SearchPath.parse(text.replace("@", str(tmp_path)).replace("'", '"'), "symbol path")
    assert path.complaints == ()
    found = [element.places for element in path.elements]
    # With a cache in front of it a server needs no default store; that of ``srv*`` is written down.
    assert found == [tuple(expected(entry) for entry in element) for element in places]
    assert [element.caches for element in path.elements if any(isinstance(p, str) for p in element.places)] == [
        tuple(expected(entry) for entry in element) for element in caches if element
    ]
    assert {element.plain for element in path.elements} == {"*" not in text and "://" not in text}


def test_several_paths_follow_each_other(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    path = SearchPath.parse([tmp_path / "b", f"{tmp_path / 'a'};{tmp_path / 'b'}"], "symbol path")
    assert path.elements == tuple(Element((tmp_path / name,), plain=True) for name in "ba")
    assert path.directories == (tmp_path / "b", tmp_path / "a")


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    path = SearchPath.parse(f"{tmp_path / 'absent'};srv*ftp://u:secret@example.invalid/x;odd*thing", "image path")
    assert path.directories == () and not path
    assert path.complaints == (
        f"image path: {tmp_path / 'absent'} is not a directory, ignored",
        "image path: ftp://example.invalid/x is neither http nor https, ignored",
        "image path: odd*thing is not a directory, ignored",
    )
    assert path.quiet().complaints == ()


@pytest.mark.skipif(os.name == "nt", reason="paths of Windows are good there")
def test_a_cache_of_windows_makes_no_directory_of_that_name_here() -> None:
    path = SearchPath.parse(r"srv*C:\sym*\\server\share*https://s.invalid", "symbol path")
    assert path.elements == (
        Element((default_directory() / "symbols", "https://s.invalid"), caches=(default_directory() / "symbols",)),
    )
    assert path.complaints == (
        r"symbol path: C:\sym is a path of Windows, ignored",
        r"symbol path: \\server\share is a path of Windows, ignored",
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


def test_kinds_of_images_and_directories_below(tmp_path: Path) -> None:
    make(
        tmp_path,
        "sys/x.pdb",
        "symbols/dll/x.pdb",
        "deep/er/X.PDB",
        "deep/store/x.pdb/AB1/x.pdb",
        "deep/store/x.pdb/AB2/x.pdb",
        "deep/store/y.pdb/x.pdb",
    )
    found = [file.relative_to(tmp_path).as_posix() for file in SearchPath([tmp_path]).files("x.pdb", "AB2")]
    assert found == ["sys/x.pdb", "symbols/dll/x.pdb", "deep/er/X.PDB", "deep/store/x.pdb/AB2/x.pdb"]
    # A store is searched as a store only.
    assert [*SearchPath.parse(f"srv*{tmp_path}", "symbol path").files("x.pdb", "AB2")] == []


def test_the_search_below_a_directory_has_an_end(tmp_path: Path) -> None:
    make(tmp_path, "/".join("abcdefghijkl") + "/x.pdb", "a/b/x.pdb")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [*SearchPath([tmp_path]).files("x.pdb", None)] == [tmp_path / "a/b/x.pdb"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("http://[", "symbol path: http://[ is no URL, ignored"),
        ("srv*http://user:word@[::1", "symbol path: http://[::1 is no URL, ignored"),
        ("ftp://[", "symbol path: ftp://[ is neither http nor https, ignored"),
        ("http://h/\x7f", "symbol path: http://h/\\x7f is no URL, ignored"),
        ("x" * 300, f"symbol path: {'x' * 300} is not a directory, ignored"),
        ("a\0b", "symbol path: a\\x00b is not a directory, ignored"),
        ("\udc80\x1b", "symbol path: \\udc80\\x1b is not a directory, ignored"),
    ],
)
def test_what_cannot_be_a_place_is_one_line(text: str, complaint: str) -> None:
    assert SearchPath.parse(text, "symbol path").complaints == (complaint,)


def test_names_longer_than_the_file_system_has_are_not_there(tmp_path: Path) -> None:
    """128 characters of three bytes are more than the 255 bytes of a name."""
    name = safe_file_name("\u4e2d" * 124 + ".pdb")
    assert name is not None
    path = SearchPath.parse([tmp_path, f"srv*{tmp_path}"], "symbol path")
    assert list(path.files(name, "AB1")) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pointer_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "x.pdb" / "AB1").mkdir(parents=True)
    os.mkfifo(tmp_path / "x.pdb" / "AB1" / "file.ptr")
    assert list(SearchPath.parse(f"srv*{tmp_path}", "symbol path").files("x.pdb", "AB1")) == []


def test_directories_that_may_not_be_entered_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = SearchPath.parse(f"{tmp_path};srv*{tmp_path}*{tmp_path}", "symbol path")
    assert path.complaints == (f"symbol path: {tmp_path} cannot be entered: Permission denied, ignored",) * 3
