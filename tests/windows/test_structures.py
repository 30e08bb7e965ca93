"""Structures of which the dump holds a part, and lists, in memory that is made up here."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from volatility3_kdump.errors import SymbolsNotFound, Unreadable
from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.structures import read_row, require_symbols

HEAD = 0xFFFF800000001000


def memory_of(pieces: Mapping[int, bytes], pointer_size: int = 8) -> Memory:
    """Memory that consists of some pieces; a read must lie inside one."""

    def read(address: int, size: int) -> bytes | None:
        for start, data in pieces.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start :][:size]
        return None

    return Memory(read, pointer_size, lambda address: "absent")


def layouts(pointer_size: int) -> Layouts:
    pointer = {"kind": "pointer", "subtype": {"kind": "base", "name": "void"}}
    word = {"kind": "base", "name": "unsigned long"}
    return Layouts(
        {
            "base_types": {
                "pointer": {"size": pointer_size, "signed": False, "kind": "int", "endian": "little"},
                "unsigned long": {"size": 4, "signed": False, "kind": "int", "endian": "little"},
            },
            "user_types": {
                "_T": {
                    "kind": "struct",
                    "size": 32,
                    "fields": {
                        "First": {"offset": 0, "type": pointer},
                        "Second": {"offset": 8, "type": word},
                        "Third": {"offset": 24, "type": word},
                    },
                }
            },
            "enums": {},
            "symbols": {},
        }
    )


def test_fields_are_read_one_by_one_where_the_whole_is_not_there() -> None:
    reader = layouts(8).reader("_T", first="First", second="Second", third="Third", fourth="Fourth")
    data = struct.pack("<QIIQI", 1, 2, 0, 0, 3)
    assert read_row(memory_of({HEAD: data}), reader, HEAD) == (1, 2, 3, None)
    assert read_row(memory_of({HEAD: data[:12]}), reader, HEAD) == (1, 2, None, None)
    assert read_row(memory_of({HEAD + 24: data[24:]}), reader, HEAD) == (None, None, 3, None)
    assert read_row(memory_of({}), reader, HEAD) is None


def test_pointers_of_32_bits_are_extended() -> None:
    reader = layouts(4).reader("_T", first="First", second="Second")
    found = read_row(memory_of({HEAD: struct.pack("<III", 0x80001000, 0, 0x80001000)}, 4), reader, HEAD)
    assert found == (0xFFFFFFFF80001000, 0x80001000)


def listed(links: Mapping[int, tuple[int, int]]) -> Memory:
    """Memory that holds LIST_ENTRYs: Flink and Blink by address."""
    return memory_of({address: struct.pack("<QQ", *pair) for address, pair in links.items()})


A, B, C, D = (HEAD + step * 0x100 for step in range(1, 5))
WHOLE = {HEAD: (A, D), A: (B, HEAD), B: (C, A), C: (D, B), D: (HEAD, C)}


def test_a_whole_list() -> None:
    walk = walk_list(listed(WHOLE), HEAD, 10, "list")
    assert (walk.entries, walk.problems, walk.break_at, walk.backwards) == ((A, B, C, D), (), None, None)
    both = walk_list(listed(WHOLE), HEAD, 10, "list", both=True)
    assert (both.entries, both.backwards, both.problems) == ((A, B, C, D), (A, B, C, D), ())


def test_an_empty_list() -> None:
    walk = walk_list(listed({HEAD: (HEAD, HEAD)}), HEAD, 10, "list")
    assert (walk.entries, walk.problems, walk.present) == ((), (), True)


@pytest.mark.parametrize("flink", [0, 0x7FF000001000, B + 1, A, B, 0xFFFF9000DEAD0000])
def test_a_list_that_breaks_is_completed_from_its_end(flink: int) -> None:
    walk = walk_list(listed({**WHOLE, B: (flink, A)}), HEAD, 10, "list")
    # Where the link leads to memory that is not there, that address is an entry of the list as well.
    invented = (flink,) if flink == 0xFFFF9000DEAD0000 else ()
    assert walk.entries == (A, B, *invented, C, D)
    assert walk.break_at == 2 + len(invented)
    assert len(walk.problems) == 1


def test_an_entry_that_is_not_in_the_dump() -> None:
    walk = walk_list(listed({address: pair for address, pair in WHOLE.items() if address != B}), HEAD, 10, "list")
    assert walk.entries == (A, B, C, D)
    assert [f"{B:#x} is not in the dump" in problem for problem in walk.problems] == [True, True]


def test_no_head() -> None:
    walk = walk_list(listed({}), HEAD, 10, "list")
    assert (walk.entries, walk.present, len(walk.problems)) == ((), False, 1)


def test_a_limit() -> None:
    walk = walk_list(listed(WHOLE), HEAD, 2, "list")
    assert walk.entries == (A, B, C, D)
    assert "more than 2 entries" in walk.problems[0]


def test_a_link_back_to_an_entry_is_a_circle() -> None:
    walk = walk_list(listed({HEAD: (A, A), A: (B, HEAD), B: (A, A)}), HEAD, 10, "list")
    assert walk.entries == (A, B)
    assert "the list is cyclic" in walk.problems[0]


def test_what_needs_symbols_says_so_with_its_values() -> None:
    target: Any = SimpleNamespace(name="made.dmp", nt=None, has_names=False, symbol_status="none at hand")
    with pytest.raises(SymbolsNotFound, match=r"^made\.dmp: tokens need the kernel's symbols: none at hand$") as caught:
        require_symbols(target, "tokens", "_TOKEN")
    assert (caught.value.name, caught.value.address, caught.value.reason) == ("tokens", None, "none at hand")
    nt = layouts(8)
    have: Any = SimpleNamespace(name="made.dmp", nt=nt, has_names=False, symbol_status="types alone")
    assert require_symbols(have, "lists", "_T", "_T.Third") is nt
    with pytest.raises(SymbolsNotFound, match=r"do not describe _T\.Fourth, _NOWHERE"):
        require_symbols(have, "lists", "_T", "_T.Fourth", "_NOWHERE")
    with pytest.raises(SymbolsNotFound, match="types alone"):
        require_symbols(have, "lists", names=True)


def test_errors_keep_their_values_within_a_file() -> None:
    error = Unreadable.at(0xFFFF800012340000, "_IRP", "paged out").within("made.dmp")
    assert str(error) == "made.dmp: _IRP at 0xffff800012340000: paged out"
    assert isinstance(error, Unreadable)
    assert (error.name, error.address, error.reason) == ("_IRP", 0xFFFF800012340000, "paged out")
    assert pickle.loads(pickle.dumps(error)).address == 0xFFFF800012340000
