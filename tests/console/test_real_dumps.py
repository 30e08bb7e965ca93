"""Every command on real small memory dumps: what they lack is said, and nothing is a mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.amounts import only
from tests.prompt import session_over
from volatility3_kdump.console.commands import execute, registry
from volatility3_kdump.console.script import split
from volatility3_kdump.options import Options

DUMPS = ("triage_arm64_22000", "triage_x64_17763", "triage_x64_19041", "triage_x64_19041_0x1a", "triage_x64_9600")
#: Commands with arguments, in the order of a session; all others follow without.
LINES = """
    !analyze -v; r; kv 5; .frame 2; .ecxr; r; k; .cxr; u . L3; ub . L2; uf .; lmv; lmu; lm a .; !process 0 7;
    !process -1 7; !running -i -t; !stacks 2; .exr -1; !drvobj tcpip; k = @$csp @$ip 3; .trap @$csp; .cxr @$csp;
    !devobj @$csp; !devstack @$csp; !irp @$csp; .process /p @$proc; .thread @$thread; r; k; .thread; ~0s; ~0 k; ||0s
"""


@pytest.mark.parametrize("name", only(("triage_arm64_22000", "triage_x64_9600"), DUMPS))
def test_every_command_is_answered(shared_data: Path, name: str) -> None:
    session = session_over(
        shared_data / "dumps" / f"{name}.dmp", Options(isf_directories=[str(shared_data / "isf")], offline=True)
    )
    rest = sorted({entry.names[0] for entry in registry().values()} - {"q", ".reload", ".logopen"})
    for line in (*split(LINES), *rest):
        shown = list(execute(session, line))
        assert not [text for text in shown if "mistake of kdump" in text], line


@pytest.mark.parametrize("name", DUMPS)
def test_hardly_anything_of_the_thread_is_unknown(shared_data: Path, name: str) -> None:
    """With the types of a sibling, and without one name; whatever is unknown has its reason."""
    offline = Options(symbol_path="", image_path="", offline=True)
    shown = list(execute(session_over(shared_data / "dumps" / f"{name}.dmp", offline), "!thread"))
    block = shown[: next(number for number, line in enumerate(shown) if line.startswith("Child-SP"))]
    unknown = [line.split()[0] for line in block for _ in re.findall(r"(?<!\?)\?+", line)]
    reasons = " ".join(line for line in block if line.startswith("    NOTE: "))
    # The idle process of the last is not in the dump.
    assert len(unknown) <= (4 if name == "triage_x64_9600" else 3), unknown
    assert ("Wait" in unknown) == ("tick count is not in the dump" in reasons)
    assert bool({"UserTime", "KernelTime"} & set(unknown)) == ("KeMaximumIncrement is not in the dump" in reasons)
    assert bool({"DeviceMap", "Owning"} & set(unknown)) == ("EPROCESS is not in the dump" in reasons)


def test_a_stack_of_a_real_dump(shared_data: Path) -> None:
    session = session_over(
        shared_data / "dumps" / "triage_x64_19041.dmp",
        Options(isf_directories=[str(shared_data / "isf")], offline=True),
    )
    assert next(execute(session, ".bugcheck")) == "Bugcheck code 1000007E"
    assert next(execute(session, "u . L1")) == "amdppm+0x334c:"
    first = list(execute(session, "kc 1"))[1]
    assert first == "00 amdppm+0x334c"
    assert next(execute(session, ".exr -1")).startswith("ExceptionAddress: fffff8047bdf5a80 (nt!KeBugCheckEx")


def test_black_boxes(shared_data: Path) -> None:
    session = session_over(shared_data / "dumps" / "triage_x64_26100_0xbe.dmp")
    assert "Last boot id: 171" in list(execute(session, "!blackboxbsd"))
    assert list(execute(session, "!blackboxwinlogon")) == ["State: ShellStartupShellStarted"]
    assert "has no black box of that kind" in " ".join(execute(session, "!blackboxpnp"))
    assert "is not public" in " ".join(execute(session, "!blackboxscm"))
