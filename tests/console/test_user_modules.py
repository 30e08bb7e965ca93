"""Names, code and modules of a process's user mode at the prompt, and the 32-bit half of its threads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kdump_sample.scenes import user_stacks as scene
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError

Sample = Callable[..., Path]
Shown = Callable[[str], list[str]]


def _prompt(path: Path) -> tuple[Session, Shown]:
    session = session_over(path)
    return session, lambda line: list(execute(session, line))


@pytest.fixture
def shown(sample: Sample) -> Shown:
    _, shown = _prompt(sample(1, None, "user-stacks"))
    shown(f".process /p {scene.PROCESS:x}")
    return shown


WAIT = f"{scene.PROGRAM + 0x1400:x}"


def test_names_of_user_code(shown: Shown) -> None:
    """Of the functions that the scene put there, by the export table: ``ln``, ``x``, ``?``, ``dps``."""
    assert shown(f"ln {WAIT}+10") == ["(00007ff7`c1a01400)   service!Wait+0x10   |  (00007ff7`c1a01600)   service!Work"]
    assert [line.split()[:2] for line in shown("x service!*")] == [
        ["00007ff7`c1a01000", "service!main"],
        ["00007ff7`c1a01200", "service!Serve"],
        ["00007ff7`c1a01400", "service!Wait"],
        ["00007ff7`c1a01600", "service!Work"],
    ]
    assert shown("? service!Wait + 10") == ["Evaluate expression: 140702082143248 = 00007ff7`c1a01410"]
    at = scene.USER_STACKS[0] - 0xE0
    assert any(line.endswith("kernel32!BaseThreadInitThunk+0x14") for line in shown(f"dps {at:x} L1c"))
    # The kernel's names stay what they were.
    assert shown("? nt!KeBugCheckEx")[0].startswith("Evaluate expression: ")


def test_code_of_user_mode(shown: Shown) -> None:
    code = shown("u service!Wait L2")
    assert code == [
        "service!Wait:",
        "00007ff7`c1a01400 53              push    rbx",
        "00007ff7`c1a01401 4883ec30        sub     rsp,30h",
    ]
    function = shown(f"uf {scene.PROGRAM + 0x1244:x}")
    # The whole function by its unwind data, from the middle of it.
    assert function[:2] == ["service!Serve:", "00007ff7`c1a01200 55              push    rbp"]
    assert function[-2] == "00007ff7`c1a01283 e878010000      call    service!Wait (00007ff7`c1a01400)"
    assert "BeginAddress      = 00000000`00001200" in shown(f".fnent {scene.PROGRAM + 0x1244:x}")


def test_modules_are_listed_with_the_kernels_when_they_are_loaded(shown: Shown) -> None:
    assert not any("service" in line for line in shown("lm"))
    loaded = shown(f".process /p /r {scene.PROCESS:x}")
    assert loaded[1:] == ["Loading User Symbols", "...."]
    listed = shown("lm")
    assert [line.split()[2] for line in listed[1:5]] == ["service", "KERNELBASE", "kernel32", "ntdll"]
    assert any(line.split()[2:3] == ["nt"] for line in listed)
    assert not any("service" in line for line in shown("lm k"))
    details = shown("lmvm service")
    assert "    Image path: C:\\Program Files\\Contoso\\service.exe" in details
    assert "    CheckSum:         00001234" in details
    # What the scene fills of the image.
    assert any(re.fullmatch(r"    Pages in dump:    [1-9]\d? of 18", line) for line in details)
    # Those of another process are other ones, or none.
    assert not any("service" in line for line in shown(".process; lm"))


def test_a_dump_of_the_kernel_alone_says_why(sample: Sample) -> None:
    _, shown = _prompt(sample(6, None, "user-stacks"))
    assert shown(f".process /r {scene.PROCESS:x}")[-1].startswith("NOTE: no user modules: ")


# the 32-bit half ------------------------------------------------------------------------------------------------------


@pytest.fixture
def wow(sample: Sample) -> tuple[Session, Shown]:
    return _prompt(sample(1, None, "wow64-stacks"))


STACK_32 = [
    " # ChildEBP RetAddr  ",
    "00 0019f040 76f2000b ntdll_77a00000!NtWaitForSingleObject+0xc",
    "01 0019f040 0040150b kernel32!WaitFor32+0xb",
    "02 0019f090 00000000 old!Main32+0xb",
]


def test_context_of_wow64(wow: tuple[Session, Shown]) -> None:
    """``.thread /w``: registers, stack, code and pointers are those of the 32-bit program."""
    session, shown = wow
    thread = f"{scene.NARROW_THREADS[0]:x}"
    assert shown(f".thread /w {thread}")[1] == "x86 context set"
    assert session.prompt == "2: kd:x86> "
    assert shown("k")[1:] == STACK_32
    assert shown("r")[1].startswith("eax=00000000 ebx=00001234")
    assert shown("r")[-2:] == ["ntdll_77a00000!NtWaitForSingleObject+0xc:", "77a7100c c20c00          ret     0Ch"]
    assert shown("u old!Main32 L2")[1:] == [
        "00401500 55              push    ebp",
        "00401501 8bec            mov     ebp,esp",
    ]
    assert shown("? poi(@esp)") == [f"Evaluate expression: {scene.KERNEL32_32 + 0x2000B} = 00000000`76f2000b"]
    assert shown("dps @esp L1") == ["00000000`0019f000  76f2000b kernel32!WaitFor32+0xb"]
    assert shown("!wow64exts.sw") == ["Switched to Host mode"]
    assert session.prompt == "2: kd> " and shown("? @rip")[0].endswith("fffff800`629fdf46")
    both = shown("!wow64exts.k")
    assert any("wow64cpu!BTCpuSimulate" in line for line in both) and any("old!Main32" in line for line in both)
    assert shown(".effmach x86") == ["Effective machine: x86 compatible (x86)"]
    assert shown("k")[1:] == STACK_32
    assert shown(".effmach .") == ["Effective machine: x64 (AMD64)"]


def test_code_that_was_interrupted_in_32_bits(wow: tuple[Session, Shown]) -> None:
    """What WOW64 saved last is older than the registers of the interrupt."""
    _, shown = wow
    shown(f".thread /w {scene.NARROW_THREADS[1]:x}")
    assert [line.split()[-1] for line in shown("k")[2:]] == ["old!Main32+0x6", "old!Main32+0xb"]


def test_threads_without_a_32_bit_half(wow: tuple[Session, Shown], sample: Sample) -> None:
    session, _ = wow
    with pytest.raises(KdumpError, match="has no 32-bit context: "):
        session.current.choose_guest()
    assert session.state.machine is None
    _, native = _prompt(sample(1, None, "user-stacks"))
    assert native(f".thread /w {scene.THREADS[0]:x}") == [
        f"the thread {scene.THREADS[0]:x} has no 32-bit context: its process has no WOW64 state: it runs no 32-bit code"
    ]
