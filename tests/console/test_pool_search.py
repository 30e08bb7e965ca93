"""``!poolfind``, ``!irpfind`` and ``!poolval`` in KD's layout, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edited import edited
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.target import Target


@pytest.fixture
def at(sample: Callable[..., Path]) -> Callable[[str], Session]:
    """A session over a scene."""

    def opened(scene: str) -> Session:
        path = sample(scene=scene)
        return session_on(Target.open(path))

    return opened


def test_requests_in_the_columns_of_a_published_search(at: Callable[[str], Session]) -> None:
    """The columns of a search that a reader of dumps published for Windows 7 x64; the values are the scene's."""
    assert answer(at("blocked-power-irp"), "!irpfind") == [
        "Scanning large pool allocation table for tag 0x3f707249 (Irp?) (ffff91894d631000 : ffff91894d631300)",
        "",
        "  Irp            [ Thread ]         irpStack: (Mj,Mn)   DevObj          [Driver]         MDL Process",
        "",
        "Searching nonpaged pool (ffff918000000000 : ffffa18000000000) for tag 0x3f707249 (Irp?)",
        "",
        r"ffff91894e250a60 [ffff91894f389080] irpStack: ( c, 2)  ffff91894e237060 [ \FileSystem\Ntfs]",
        r"ffff91894ed94d70 [ffff918952f55080] irpStack: ( e, 0)  ffff91894ed31e00 [ \Driver\MYFAULT]",
        r"ffff91894ef3a010 [0000000000000000] irpStack: (16, 2)  ffff91894ef42b10 [ \Driver\RtsPer]",
        "",
        "3 IRPs found",
    ]


def test_from_an_address_and_in_full(at: Callable[[str], Session]) -> None:
    lines = answer(at("blocked-power-irp"), "!irpfind -v 0 ffff91894ef00000")
    assert "Searching nonpaged pool (ffff91894ef00000 : ffffa18000000000) for tag 0x3f707249 (Irp?)" in lines
    assert "Irp is active with 4 stacks 3 is current (= 0xffff91894ef3a170)" in lines
    assert lines[-1] == "1 IRP found"


def test_blocks_in_the_columns_of_a_published_search(session: Session) -> None:
    lines = answer(session, "!poolfind CM16 1")
    assert lines[:3] == [
        "Scanning large pool allocation table for tag 0x36314d43 (CM16) (ffff91894d631000 : ffff91894d631300)",
        "",
        "ffffd80248017000 : tag CM16, size   0x24000, Paged pool",
    ]
    assert lines[-1] == "1 block found"
    assert answer(session, "!poolfind 0x36314d43 -paged") == lines
    assert answer(session, "!poolfind -tag CM16 -global -large")[2] == lines[2]
    assert answer(session, "!poolfind CM16 -paged -small")[-1] == "0 blocks found"


def test_damaged_headers(at: Callable[[str], Session]) -> None:
    lines = answer(at("pool-overrun"), "!poolval ffff91894ef70000 1")
    assert lines == [
        "Pool page ffff91894ef70000 region is Nonpaged pool",
        "",
        "Validating Pool headers for pool page: ffff91894ef70000",
        "",
        "Pool page [ ffff91894ef70000 ] is INVALID.",
        "",
        " ffff91894ef70000 size:  100",
        " ffff91894ef70100 size:   c0",
        " ffff91894ef701c0 size:   70",
        "",
        "Analyzing linked list...",
        "[ ffff91894ef70230 --> ffff91894ef71000 (size = 0xdd0 bytes)]: Corrupt region",
        "NOTE: the pool header at 0xffff91894ef70230 is damaged: it says that the block before it has 0x410 bytes, "
        "which has 0x70",
        "",
        "Scanning for single bit errors...",
        "",
        "None found",
    ]


def test_one_bit_that_mends_a_page(at: Callable[[str], Session], sample: Callable[..., Path], tmp_path: Path) -> None:
    """Four blocks that fill a page, of which one has a bit of its size changed."""
    sizes = (0x400, 0x300, 0x500, 0x400)
    page = bytearray()
    previous = 0
    for size in sizes:
        page += bytes((previous // 16, 0, size // 16, 2)) + b"Tst1" + bytes(size - 8)
        previous = size
    session = at("pool-overrun")
    source = sample(scene="pool-overrun")

    def checked(data: bytes) -> list[str]:
        changed = edited(session.target, source, tmp_path / "changed.dmp", {0xFFFF91894EF70000: data}, offline=True)
        other = session_on(changed)
        return answer(other, "!poolval ffff91894ef70123")

    assert checked(bytes(page))[-1] == "Pool page [ ffff91894ef70000 ] is VALID."
    page[0x400 + 2] ^= 0x08
    assert checked(bytes(page))[-1] == "[ ffff91894ef70400 ]: bit 19 of its sizes inverted makes all headers agree"


def test_pages_of_the_segment_heap_are_not_judged(session: Session) -> None:
    lines = answer(session, "!poolval ffff91894d629060")
    assert lines[-1].startswith("Pool page [ ffff91894d629000 ] cannot be validated: it belongs to the segment heap")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("!poolfind", "!poolfind takes a pool tag"),
        ("!poolfind Leaky", "Leaky is no pool tag: it has four characters, with ? and * for any"),
        ("!poolfind 0xzz", "0xzz is no number of a pool tag"),
        ("!poolfind Leak 3", "!poolfind knows no pool type 3: use 0 nonpaged, 1 paged, 2 special, 4 session"),
        ("!poolfind Leak -x dt", "!poolfind -x: it runs no commands here"),
        ("!irpfind 0 0 thread", "!irpfind: the criterion thread needs a value"),
        (
            "!irpfind 0 0 irql 2",
            "no criterion is called irql: use arg, device, fileobject, mdlprocess, thread, userevent",
        ),
        ("!poolval nt 4", "!poolval knows no level 4: use 0 to 3"),
        ("!irpfind -q", "!irpfind knows no option -q"),
        ("!poolval nt -v", "!poolval knows no option -v"),
        ("!poolfind Leak -q", "!poolfind knows no option -q"),
        ("!poolfind Leak 0 1", "!poolfind knows no argument 1"),
        ("!poolval", "!poolval needs ADDRESS, in the page"),
    ],
)
def test_what_is_refused(session: Session, line: str, error: str) -> None:
    (shown,) = answer(session, line)
    assert shown.partition(": it takes")[0] == error
