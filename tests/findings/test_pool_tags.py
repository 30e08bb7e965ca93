"""Whose a pool tag is: the user's file, and constants in code."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volatility3_kdump
from tests.amounts import part
from tests.patched import patched
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.pool_tags import (
    TAG_FILE_VARIABLE,
    TagFile,
    TagName,
    constants_in,
    load_tag_file,
    parse_line,
    search_code,
    tag_fits,
)

MYFA, LEAK = 0x6146794D, 0x6B61654C

FILE = """\
rem
rem   Notes of our own, in the format of the debugger's file
rem
// Another comment
Abcd - abc.sys      - First of its name
Abcd - other.sys    - Second of its name
 Ab?  - nt!ab       - Three letters and any
Ab*  - nt!wild      - Any beginning with Ab
A-b  - dash.sys     - A tag - with dashes
Irp  - <unknown>    - Requests
Lone - Only a description
Too long - x.sys    - A tag of more than four
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Abcd - abc.sys - Text - more", TagName("Abcd", "abc.sys", "Text - more")),
        ("8042 - i8042prt.sys - PS/2", TagName("8042", "i8042prt.sys", "PS/2")),
        ("Irp  - <unknown> - Requests\r\n", TagName("Irp ", None, "Requests")),
        ("AB   - nt!ab", TagName("AB  ", None, "nt!ab")),
        ("Gh?? - win32k.sys -", TagName("Gh??", "win32k.sys", "")),
        ("Sm* - x - y", TagName("Sm*", "x", "y")),
        ("rem comment - is - this", None),
        ("// Abcd - x - y", None),
        ("Abcde - x - y", None),
        ("", None),
        ("Abcd", None),
    ],
)
def test_lines(line: str, expected: TagName | None) -> None:
    assert parse_line(line) == expected


def test_the_most_exact_line_wins() -> None:
    file = TagFile("test", iter(FILE.splitlines()))
    assert len(file) == 6
    found = {tag: file.find(tag) for tag in ("Abcd", "Abx", "Abxy", "abcd", "A-b", "Irp ", "Irp", "Lone")}
    texts = {tag: name.description if name else None for tag, name in found.items()}
    assert texts == {
        "Abcd": "First of its name",
        "Abx": "Three letters and any",
        "Abxy": "Any beginning with Ab",
        "abcd": None,
        "A-b": "A tag - with dashes",
        "Irp ": "Requests",
        "Irp": "Requests",
        "Lone": "Only a description",
    }


def test_brackets_are_letters() -> None:
    file = TagFile("test", iter(["[a]? - x.sys - Brackets"]))
    assert file.find("[a]z") is not None and file.find("az  ") is None


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TAG_FILE_VARIABLE, raising=False)
    assert load_tag_file(None) is None
    path = tmp_path / "tags.txt"
    path.write_bytes(FILE.encode().replace(b"\n", b"\r\n") + b"\xff\xfe - x - y\n")
    monkeypatch.setenv(TAG_FILE_VARIABLE, str(path))
    file = load_tag_file(None)
    assert file is not None and file.find("Abcd") is not None and file.path == str(path)
    with pytest.raises(KdumpError, match="cannot be opened: No such file"):
        load_tag_file(str(tmp_path / "none.txt"))
    with pytest.raises(KdumpError, match="is a directory, not a file"):
        load_tag_file(str(tmp_path))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(KdumpError, match="is a pipe, not a file"):
            load_tag_file(str(tmp_path / "pipe"))
    path.write_text("nothing of the kind\n")
    with pytest.raises(KdumpError, match=r"no line has the format of pooltag\.txt"):
        load_tag_file(str(path))


@settings(max_examples=part(100), deadline=None)
@given(st.text(max_size=60))
def test_any_line(line: str) -> None:
    name = parse_line(line)
    if name is not None:
        assert 0 < len(name.pattern) <= 4
        assert TagFile("test", iter([line])).find("Abcd") in (None, name)


@pytest.mark.parametrize(
    ("pattern", "tag", "fits"),
    [
        (None, None, True),
        ("Irp", "Irp ", False),
        ("Irp ", "Irp ", True),
        ("Irp?", "Irp ", True),
        ("I*", "Irp ", True),
        ("i*", "Irp ", False),
        ("Ab??", "Ab", True),
        ("*", None, False),
    ],
)
def test_patterns(pattern: str | None, tag: str | None, fits: bool) -> None:
    assert tag_fits(pattern, tag) is fits


# code ---------------------------------------------------------------------------------------------------------------

TAG = b"Leak"


@pytest.mark.parametrize(
    "code",
    [
        b"\x41\xb8" + TAG,  # mov r8d, tag
        b"\xba" + TAG,  # mov edx, tag
        b"\x68" + TAG,  # push tag
        b"\x3d" + TAG,  # cmp eax, tag
        b"\x81\xf9" + TAG,  # cmp ecx, tag
        b"\xc7\x44\x24\x20" + TAG,  # mov dword ptr [rsp+20h], tag
        b"\xc7\x45\xf8" + TAG,  # mov dword ptr [rbp-8], tag
    ],
)
def test_constants_of_instructions(code: bytes) -> None:
    for before in range(5):
        found = list(constants_in(b"\x90" * before + code + b"\xc3", [MYFA, LEAK]))
        assert found == [(before + len(code) - 4, LEAK)]


@pytest.mark.parametrize("code", [TAG, b"\x90" + TAG, b"\x00Leaky text", b"\x81\xc1" + TAG, b"", b"Lea"])
def test_what_is_no_constant(code: bytes) -> None:
    assert list(constants_in(code, [LEAK])) == []


@settings(max_examples=part(60), deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, (1 << 32) - 1), max_size=5))
def test_against_a_plain_search(code: bytes, tags: list[int]) -> None:
    data = code + b"".join(b"\xba" + struct.pack("<I", tag) for tag in tags)
    found = {(offset, tag) for offset, tag in constants_in(data, tags)}
    plain = set()
    for tag in tags:
        at = data.find(struct.pack("<I", tag))
        while at >= 0:
            if at and data[at - 1] == 0xBA:
                plain.add((at, tag))
            at = data.find(struct.pack("<I", tag), at + 1)
    assert plain <= found
    assert all(data[offset : offset + 4] == struct.pack("<I", tag) for offset, tag in found)


def test_drivers_of_the_machine(sample: Callable[..., Path]) -> None:
    target = volatility3_kdump.open(sample())
    found = search_code(target, [MYFA, LEAK, 0x20707249])
    assert {tag: [(item.module.name, item.count) for item in items] for tag, items in found.candidates.items()} == {
        MYFA: [("myfault", 1)],
        LEAK: [("myfault", 1)],
    }
    # mov r8d,6146794Dh is 10h bytes into HighIrqlFault, at RVA 1950h
    assert found.of(MYFA)[0].address == 0xFFFFF80060DA1962
    assert found.problem is not None and "modules is not in the dump" in found.problem
    assert search_code(target, []).candidates == {}


def test_absent_code_is_not_searched(sample: Callable[..., Path]) -> None:
    target = patched(volatility3_kdump.open(sample()), {}, [0xFFFFF80060DA1000])
    target.__dict__.pop("images", None)
    assert search_code(target, [MYFA]).candidates == {}


def test_other_processors(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_arm64_22000.dmp")
    assert search_code(target, [LEAK]).problem == "tags are not looked for in the code of arm64"
