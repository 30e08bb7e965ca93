"""Crash dumps of 32-bit Windows at the prompt: complete, of the kernel, small.

The kernel's half begins at 80000000h. What a dump does not hold is absent, and no list is torn because of it.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.memory_images import _elf
from kdump_sample.physical import PAGE
from tests import narrow_machine as narrow
from tests import small_machines as small
from tests.archives import packing
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.options import Options
from volatility3_kdump.writing import plan, write

FULL, SUMMARY, TRIAGE = 1, 2, 4
#: Kernel addresses of these machines: code, data, a thread, its stack, its process, the shared page, the last page.
PLACES = (0x80401000, 0x82F00000, 0x86DF1A00, 0x8B350000, 0x86C2E000, 0xB2342000, 0xFFDF0000, 0xFFFFF000)
_WITH_PLACE = ("!address {}", "!pte {}", "!pool {}", "!thread {}", "!process {} 7", ".thread {}", "!validatelist {}")
_ALONE = ("!process 0 7", "!stacks", "!ready", "!running -it", "!locks", "!analyze -v", "k", "lm", "!dpcs", "!timer")
COMMANDS = (*_WITH_PLACE, "dps {} L2", *_ALONE)
_KERNEL_ADDRESS = re.compile(r"(?<![0-9a-f])(?:0x)?(?:ffffffff)?[89a-f][0-9a-f]{7}(?![0-9a-f])", re.IGNORECASE)
_USER = re.compile(r"user (?:mode|address|stack|space)", re.IGNORECASE)
_DAMAGE = re.compile(r"\btorn\b|damaged|corrupt", re.IGNORECASE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("narrow")


@pytest.fixture(scope="module")
def isf(directory: Path) -> Path:
    return narrow.symbols(directory / "isf")


def machine_pages(path: Path) -> dict[int, bytes]:
    """The pages of a complete dump by page frame."""
    data, at, found = path.read_bytes(), 0x1000, {}
    for run in volatility3_kdump.open(path).header.runs():
        for page in range(run.base_page, run.base_page + run.page_count):
            found[page] = data[at : at + PAGE]
            at += PAGE
    return found


@pytest.fixture(scope="module")
def complete(directory: Path, isf: Path) -> Path:
    machine = narrow.NarrowMachine("pae")
    machine.crash(0xD1, 0x24, 2, 0, narrow.CODE)
    image, path = directory / "machine.elf", directory / "complete.dmp"
    _elf(image, machine.image())
    write(plan(volatility3_kdump.open(image, isf_directories=[isf]), FULL), path)
    return path


def kernel_dump(complete: Path, path: Path, without: int | None = None) -> Path:
    """The same machine as a summary dump, without one page."""
    pages = {number: data for number, data in machine_pages(complete).items() if number != without}
    body = packing.summary(sorted(pages), max(pages) + 1, 32, pages)
    head = bytearray(complete.read_bytes()[:0x1000])
    struct.pack_into("<I", head, 0xF88, SUMMARY)
    path.write_bytes(bytes(head) + bytes(body[0x1000:]))
    return path


def small_dump(path: Path) -> Path:
    machine = small.x86_machine()
    trap = small.x86_trap(machine)
    arguments = (0x24, 2, 0, small.INNER_FAULT_32)
    ebp = small.x86_bug_check(machine, trap, small.KERNEL_CALLS_32["KiTrap0E_bugcheck"], trap, 0xD1, arguments)
    small.x86_blocks(machine)
    return machine.write(path, 0xD1, arguments, small.x86_context(ebp, ebp - 0x20), ebp - 0x20)


def lines(session: Session, command: str) -> list[str]:
    try:
        return list(execute(session, command))
    except KdumpError as error:
        return [str(error)]


def opened(path: Path, isf: Path) -> Session:
    session = Session(Options(isf_directories=(isf,)))
    session.open(str(path))
    return session


@pytest.fixture(params=[FULL, SUMMARY, TRIAGE, "thread absent"])
def session(request: pytest.FixtureRequest, complete: Path, isf: Path, tmp_path: Path) -> Session:
    path = tmp_path / "x.dmp"
    if request.param == TRIAGE:
        return opened(small_dump(path), isf)
    if request.param == FULL:
        return opened(complete, isf)
    without = None
    if request.param != SUMMARY:
        target = volatility3_kdump.open(complete, isf_directories=[isf])
        assert target.layer_name is not None
        without = target.context.layers[target.layer_name].translate(narrow.THREADS[1])[0] >> 12
    return opened(kernel_dump(complete, path, without), isf)


def test_no_kernel_address_is_called_user_mode_and_nothing_absent_torn(session: Session) -> None:
    told = 0
    for command in COMMANDS:
        for line in [command.format(f"{place:x}") for place in PLACES] if "{}" in command else [command]:
            for text in lines(session, line):
                told += 1
                if _KERNEL_ADDRESS.search(text):
                    assert not _USER.search(text), (line, text)
                # A place that holds no list is none; the rest of these lists is sound wherever it is in the dump.
                if not line.startswith("!validatelist"):
                    assert not _DAMAGE.search(text), (line, text)
    assert told > 100


def test_a_list_that_leaves_the_dump_is_not_damaged(complete: Path, isf: Path, tmp_path: Path) -> None:
    session = opened(kernel_dump(complete, tmp_path / "x.dmp"), isf)
    [line] = lines(session, "!validatelist b2342000")
    assert line.startswith("List cannot be followed to its end: 0 entries agree; the link at ")


def test_physical_addresses_from_2_gb_on(complete: Path, isf: Path) -> None:
    """They are no kernel addresses, whose sign the debugger extends."""
    session = opened(complete, isf)
    [line] = lines(session, "!db 86df1a00 L1")
    assert line.lstrip("# ").startswith("86df1a00") or " 86df1a00" in line
    assert "??" in line or "not in the dump" in line


def test_pointers_have_eight_digits(complete: Path, isf: Path, tmp_path: Path) -> None:
    session = opened(small_dump(tmp_path / "x.dmp"), isf)
    assert "FAULTING_THREAD:  86df0a48" in lines(session, "!analyze -v")
    assert any(line.endswith("kernel stack of thread 86df0a48") for line in lines(session, "!address b2342000"))
    assert lines(session, "!for_each_module")[0].split()[1:3] == ["80400000", "80600000"]
