"""``lm`` in its variants, and the commands on devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.amounts import part
from tests.prompt import answer, session_over
from volatility3_kdump.console.session import Session
from volatility3_kdump.options import Options

HEADER = "start             end                 module name"
MYFAULT = "fffff800`60da0000 fffff800`60da9000   myfault     "


def modules(lines: list[str]) -> list[str]:
    """The names in a list of loaded modules."""
    return [line.split()[2] for line in lines[1 : lines.index("") if "" in lines else None]]


def test_all_modules_by_address(session: Session) -> None:
    shown = answer(session, "lm")
    assert shown[0] == HEADER
    loaded = sorted(session.target.modules, key=lambda module: module.base)
    assert modules(shown) == [module.name for module in loaded]
    assert "Unloaded modules:" in shown
    assert len(shown) == len(loaded) + len(session.target.unloaded_modules) + 3


@pytest.mark.parametrize("line", ("lm m myfault", "lmm myfault", "lm m MYF*", "lmkm myfault", "lm k m myfault"))
def test_patterns(session: Session, line: str) -> None:
    shown = answer(session, line)
    assert shown[0] == HEADER
    assert [text[: len(MYFAULT)] for text in shown[1:]] == [MYFAULT]


def test_names_alone_and_sorted(session: Session) -> None:
    everything = {module.name for module in session.target.modules}
    assert set(answer(session, "lm1m")) == everything
    by_name = answer(session, "lm 1m sm")
    assert by_name == sorted(everything, key=str.lower)
    assert modules(answer(session, "lmsm")) == by_name


def test_times_and_paths(session: Session) -> None:
    times = answer(session, "lmtn m myfault")
    assert times[1] == f"{MYFAULT.rstrip()}  myfault.sys  Wed Jul 17 18:39:54 2019 (5D2F6B7A)"
    assert answer(session, "lm t n m myfault") == times == answer(session, "lmt m myfault")
    assert answer(session, "lmf m myfault")[1].endswith(r"\??\C:\Windows\system32\drivers\myfault.sys")


@pytest.mark.parametrize("line", ("lm t n", "lmtsm", "lmt"))
def test_unloaded_modules_with_time_stamps(session: Session, line: str) -> None:
    shown = answer(session, line)
    rows = shown[shown.index("Unloaded modules:") + 1 :]
    gone = session.target.unloaded_modules
    assert len(rows) == 4 * len(gone) > 0
    for index, module in enumerate(gone):
        block = rows[4 * index : 4 * index + 4]
        assert block[0].endswith(module.name)
        assert block[1:3] == ["    Timestamp: unavailable (00000000)", "    Checksum:  00000000"]
        assert block[3] == f"    ImageSize:  {module.end - module.start:08X}"


@pytest.mark.parametrize("line", ("lm", "lm n", "lmf", "lmsm"))
def test_unloaded_modules_without_time_stamps(session: Session, line: str) -> None:
    shown = answer(session, line)
    assert len(shown) == shown.index("Unloaded modules:") + 1 + len(session.target.unloaded_modules)


def test_symbols_that_were_looked_up(session: Session) -> None:
    session.target.name_of(0xFFFFF80060DA1981)
    assert "myfault" in modules(answer(session, "lm e"))
    assert "myfault" not in modules(answer(session, "lm l"))
    (nt,) = (line for line in answer(session, "lm l") if line.split()[2:3] == ["nt"])
    assert nt.endswith(
        f"nt          (pdb symbols)          {session.target.names.reason_of(session.target.modules[0])}"
    )
    assert "nt" not in modules(answer(session, "lm e"))


def test_user_modules_are_not_in_a_kernel_dump(session: Session) -> None:
    why = "no user modules: the loader's lists: user page 7ae6a10000 is not in the dump"
    assert answer(session, "lmu") == [f"{session.target.name}: {why}"]


def test_user_modules(sample) -> None:
    whole = session_over(sample(1))
    # The made process has no loader data.
    assert answer(whole, ".process ffff9189527e9080; lmu")[1].endswith("the loader's lists: PEB.Ldr leads nowhere")
    whole.open(str(sample(1, None, "user-stacks")))
    assert answer(whole, ".process ffff918962000080; lmu")[1:] == [
        HEADER,
        "00007ff7`c1a00000 00007ff7`c1a12000   service.exe C:\\Program Files\\Contoso\\service.exe",
        "00007ff8`ee980000 00007ff8`eec48000   KERNELBASE.dll C:\\Windows\\System32\\KERNELBASE.dll",
        "00007ff8`f0b40000 00007ff8`f0bfe000   kernel32.dll C:\\Windows\\System32\\kernel32.dll",
        "00007ff8`f1600000 00007ff8`f17f5000   ntdll.dll   C:\\Windows\\System32\\ntdll.dll",
    ]
    assert len(answer(whole, "lmum NT*")) == 2


@pytest.mark.parametrize(
    ("line", "words"),
    (
        ("lm m", "lm m takes a pattern"),
        ("lm a", "lm a takes an address"),
        ("lmx", "lm knows no argument x: it takes [OPTIONS] [m PATTERN | a ADDRESS] (.help lm)"),
        ("lm -v", "lm knows no option -v: it takes [OPTIONS] [m PATTERN | a ADDRESS] (.help lm)"),
        ("lm a zz", "Couldn't resolve error at 'zz'"),
    ),
)
def test_wrong_options(session: Session, line: str, words: str) -> None:
    assert answer(session, line) == [words]


def test_nothing_of_that_name(session: Session) -> None:
    assert answer(session, "lm m nothing*") == [HEADER]


@settings(max_examples=part(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("lekuovtfnpcidDsm1Ma *?x5!", max_size=12))
def test_any_options(session: Session, text: str) -> None:
    for line in answer(session, f"lm{text}"):
        assert "mistake of kdump" not in line


def test_a_device(session: Session) -> None:
    assert answer(session, "!devobj ffff91894ed31e00")[:2] == [
        "Device object (ffff91894ed31e00) is for:",
        r" \Driver\MYFAULT DriverObject ffff91894ed30c80",
    ]
    assert answer(session, "!devobj 0xfffff80062600000")[0].endswith("its type is 23117, not 3")
    assert answer(session, "!devobj nt")[0].startswith("no device is named nt, which is a module: ")
    assert answer(session, "!devobj") == [
        "!devobj needs ADDRESS|NAME, a device object, or its name in \\Device: it takes ADDRESS|NAME (.help !devobj)"
    ]


def test_image_check_needs_files(session: Session, sample: Callable[..., Path]) -> None:
    # Without a path of the user's there is the store in the cache, which has none here.
    assert answer(session, "!chkimg myfault") == ["myfault: not compared: no file for myfault.sys on the image path"]
    without = session_over(sample(), Options(symbol_path=""))
    assert answer(without, "!chkimg myfault") == [
        "!chkimg needs the drivers' files: .exepath or -i names their directory"
    ]
    assert answer(session, "!chkimg -d !nothing")[0].endswith("no module is named nothing")
