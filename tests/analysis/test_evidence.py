"""Evidence beside the arguments: samples, records on stacks, frames that fill a stack, drivers that stop the system."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text.summary import MOST_LINES, summary
from volatility3_kdump.views.dpc_watchdog import watchdog_lines
from volatility3_kdump.windows.machine import dpc_watchdog

Scene = Callable[..., Target]
BLOCK = 0xFFFF91894ED42000


def value(crash: Crash, tag: str) -> str | None:
    finding = crash.reasoning.finding(tag)
    return finding.value if finding is not None else None


def lines(target: Target) -> tuple[Crash, list[str]]:
    crash = analyze_crash(target)
    told = summary(crash, target.has_names)
    assert len(told) <= MOST_LINES and len(set(told)) == len(told)
    return crash, told


@pytest.mark.parametrize("dump_type", [6, 4])
def test_samples_of_the_dpc_watchdog(scene: Scene, dump_type: int) -> None:
    target = scene("dpc-samples", dump_type)
    crash, _ = lines(target)
    shares = [finding.value for finding in crash.reasoning.findings if finding.tag == "DPC_WATCHDOG_PROFILE"]
    # 12 + 6 stacks of three addresses and 2 of two, of which one is in no module.
    assert shares == ["nt: 38 of 56 sampled addresses (68 %)", "myfault: 18 of 56 sampled addresses (32 %)"]
    assert crash.verdict.suspect == "myfault.sys"
    assert "18 of the 18 sampled addresses outside the kernel" in crash.verdict.rule
    shown = list(watchdog_lines(target))
    assert shown[0] == "CPU#2: 58 addresses sampled at 0xffff91894ed43000"
    assert "            12    myfault+0x1a60" in shown and "             6    myfault+0x1a64" in shown


def test_rows_of_the_samples(sample: Callable[..., Path], run_plugin) -> None:  # type: ignore[no-untyped-def]
    shown = run_plugin("-q", "-f", sample(4, None, "dpc-samples"), "-r", "json", "kdump.dpcwatchdog")
    rows = json.loads(shown.stdout)
    assert [(row["Module"], row["Count"], row["Percent"]) for row in rows] == [("nt", 38, 68), ("myfault", 18, 32)]
    places = [(place["Symbol"], place["Count"]) for place in rows[1]["__children"]]
    assert places == [("myfault+0x1a60", 12), ("myfault+0x1a64", 6)]
    refused = run_plugin("-q", "-f", sample(4), "kdump.dpcwatchdog")
    assert refused.returncode != 0 and "only bug check 133" in refused.stdout + refused.stderr


def test_a_block_that_is_none(scene: Scene) -> None:
    target = scene("dpc-samples")
    assert dpc_watchdog.triage_block(target, BLOCK).profile_length == 0x1000
    for address in (BLOCK + 8, 0, 0xFFFFA00000001000):
        with pytest.raises(KdumpError, match=r"the watchdog's block|no DPC_WATCHDOG_GLOBAL_TRIAGE_BLOCK"):
            dpc_watchdog.triage_block(target, address)
    with pytest.raises(KdumpError, match="only bug check 133"):
        list(watchdog_lines(scene("myfault")))


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_buffer_of_any_length(sample: Callable[..., Path], tmp_path: Path, length: int) -> None:
    path = tmp_path / "length.dmp"
    data = bytearray(sample(4, None, "dpc-samples").read_bytes())
    place = data.index((0xAEBECEDE).to_bytes(4, "little"))
    data[place + 12 : place + 16] = length.to_bytes(4, "little")
    path.write_bytes(data)
    crash = analyze_crash(volatility3_kdump.open(path))
    assert value(crash, "DPC_WATCHDOG_PROFILE") == "not known"


def test_the_reason_why_a_process_ended(scene: Scene) -> None:
    crash, told = lines(scene("critical-fast-fail"))
    assert value(crash, "FAST_FAIL_RECORD") == "c0000409 subcode 23h"
    assert any("FAST_FAIL_UNEXPECTED_HEAP_EXCEPTION" in line for line in told)
    assert value(analyze_crash(scene("critical-process")), "FAST_FAIL_RECORD") is None


def test_a_real_process_that_ended(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041_0xef.dmp")
    crash, _ = lines(target)
    fast, user = crash.reasoning.finding("FAST_FAIL_RECORD"), crash.reasoning.finding("USER_EXCEPTION")
    assert fast is not None and fast.address == 0xFFFF8C856C3F01D0
    assert user is not None and user.address == 0x4063EFF0F0
    assert user.value == "STATUS_ACCESS_VIOLATION, read of 0xcd000000010"


def test_the_driver_below_that_the_request_waits_for(scene: Scene) -> None:
    target = scene("raid-power-irp")
    crash, told = lines(target)
    verdict = crash.verdict
    assert (verdict.suspect, verdict.image_name, verdict.bucket) == (
        "RtsPer.sys",
        "RtsPer.sys",
        "0x9F_3_pci_IMAGE_RtsPer.sys",
    )
    assert "waits for the device of \\Driver\\RtsPer (RtsPer.sys) below it" in " ".join(told)
    # where a third party's driver has the request, it is the one
    assert analyze_crash(scene("blocked-power-irp")).verdict.suspect == "RtsPer.sys"


def test_a_real_power_request(shared_data: Path) -> None:
    target = volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041_0x9f.dmp")
    crash, told = lines(target)
    assert (crash.verdict.suspect, crash.verdict.image_name) == ("iaStorAC.sys", "iaStorAC.sys")
    assert any("IRP_MN_SET_POWER (device power state D3)" in line for line in told)
    assert any(line.startswith("iaStorAC.sys is most probably to blame") for line in told)
    assert crash.interrupted == "while a DPC ran"
    assert not any("EpicGames" in line and "interrupted" not in line for line in told)


def test_the_driver_that_fills_the_stack(scene: Scene) -> None:
    crash, told = lines(scene("stuck-display-thread"))
    assert value(crash, "LOOPING_DRIVER") == "gpudrv.sys"
    assert "6 of 9 frames" in " ".join(told) and crash.verdict.suspect == "gpudrv.sys"


def test_a_changed_stack_cookie(scene: Scene) -> None:
    crash, _ = lines(scene("stack-cookie"))
    assert value(crash, "SECURITY_COOKIE") == "Expected 0000f3a1c5d27e88 found 0000f3a1c5d27688"
    assert any("differ only in bit 11" in note for note in crash.notes)
    assert crash.verdict.suspect == "myfault.sys"


def test_a_code_that_is_not_meant_for_drivers(scene: Scene) -> None:
    crash, told = lines(scene("borrowed-code"))
    assert value(crash, "BUGCHECK_CALLER") == "myfault+0x1b20"
    assert any(line.startswith("myfault.sys itself stopped the system, with a code that is not meant") for line in told)
    assert value(analyze_crash(scene("myfault")), "BUGCHECK_CALLER") is None


def test_a_code_of_its_own(shared_data: Path) -> None:
    _, told = lines(volatility3_kdump.open(shared_data / "dumps" / "triage_x64_9600.dmp"))
    assert "atikmdag.sys itself stopped the system, with a code of its own." in told


def test_faults_in_the_handling_of_a_fault(scene: Scene) -> None:
    crash, told = lines(scene("hung-in-faults"))
    assert value(crash, "NESTED_FAULTS") == "12 machine frames of nt!KiPageFault, 190h apart"
    assert told[1] == "It was noticed on processor 2; it is about thread ffff91894c2d3040 of process System."
    assert value(analyze_crash(scene("hung-processor")), "NESTED_FAULTS") is None


def test_an_instruction_fetch(scene: Scene) -> None:
    crash, told = lines(scene("instruction-fetch"))
    assert crash.failure is not None and crash.failure.access == "execute"
    assert any("lies in no module" in line for line in told)


def test_a_page_that_could_not_be_read(scene: Scene) -> None:
    crash, told = lines(scene("page-read-failure"))
    assert value(crash, "ERROR_CODE") == "(NTSTATUS) 0xc000000e - the device does not exist any more"
    assert (crash.verdict.bucket or "").startswith("0x7a_c000000e_")
    meanings = [argument.meaning for argument in crash.bug_check.arguments] if crash.bug_check else []
    assert meanings[0] == "lock type that was held" and meanings[2] == "current process"
    assert any("status 0xc000000e" in line for line in told)


def _changed(path: Path, directory: Path, offset: int, data: bytes) -> Path:
    """A copy of a dump with other bytes in its header."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    copy = directory / "changed.dmp"
    copy.write_bytes(content)
    return copy


def test_a_dump_of_a_tool_that_stops_nothing(sample: Callable[..., Path], tmp_path: Path) -> None:
    target = volatility3_kdump.open(_changed(sample(4), tmp_path, 0xFB0, b"LiveKD live system view\0"))
    crash, told = lines(target)
    assert crash.facts.live == "the comment in its header is that of LiveKD"
    assert told[0].startswith("The system was not stopped") and not any("The system stopped" in line for line in told)


def test_a_live_dump_by_its_attributes(sample: Callable[..., Path], tmp_path: Path) -> None:
    _, told = lines(volatility3_kdump.open(_changed(sample(4), tmp_path, 0x1050, (0x10).to_bytes(4, "little"))))
    assert told[0].startswith("The system was not stopped")
