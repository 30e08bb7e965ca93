"""``kdump.bugcheck``: the dump's own code, any code by number, and a header that contradicts the kernel."""

from __future__ import annotations

from pathlib import Path

from tests.output import parsed


def rows(finished) -> dict[str, dict]:
    assert finished.returncode == 0, finished.stderr
    return {row["Item"]: row for row in parsed(finished.stdout)}


def test_windbg_text(sample, run_plugin):
    finished = run_plugin("-f", sample(), "-r", "windbg", "kdump.bugcheck")
    assert finished.stdout == (
        "Bugcheck code 000000D1\nArguments ffffd802`4aaa8010 00000000`00000002 00000000`00000000 fffff800`60da1981\n"
    )


def test_kernel_record_agrees(sample, run_plugin):
    table = rows(run_plugin("-f", sample(), "-r", "json", "kdump.bugcheck"))
    assert table["Recorded by the kernel"]["Value"] == 0xD1
    assert table["Recorded by the kernel"]["Meaning"] == "agrees with the dump header"


def test_lying_header_is_reported(sample, run_plugin, tmp_path: Path):
    data = bytearray(sample().read_bytes())
    data[0x38:0x3C] = (0x50).to_bytes(4, "little")
    data[0x48:0x50] = (0x7).to_bytes(8, "little")
    lying = tmp_path / "lying.dmp"
    lying.write_bytes(data)
    table = rows(run_plugin("-f", lying, "-r", "json", "kdump.bugcheck"))
    assert table["Code"]["Value"] == 0x50
    assert "code 0x50 against 0xd1" in table["Recorded by the kernel"]["Meaning"]
    assert "P2 0x7 against 0x2" in table["Recorded by the kernel"]["Meaning"]
    text = run_plugin("-f", lying, "-r", "windbg", "kdump.bugcheck").stdout
    assert "WARNING: the dump header and nt!KiBugCheckData disagree" in text


def test_minidump_variant(shared_data: Path, run_plugin):
    table = rows(run_plugin("-f", shared_data / "dumps" / "triage_x64_19041.dmp", "-r", "json", "kdump.bugcheck"))
    assert table["Code"]["Value"] == 0x1000007E
    assert table["Base code"]["Value"] == 0x7E
    assert table["Argument 4"]["Meaning"] == "address of the context record"


def test_record_of_the_kernel_in_a_real_dump(shared_data: Path, run_plugin):
    table = rows(run_plugin("-f", shared_data / "dumps" / "triage_arm64_22000.dmp", "-r", "json", "kdump.bugcheck"))
    assert table["Recorded by the kernel"]["Value"] == 0x1C8


def test_show_needs_no_dump(run_plugin):
    table = rows(run_plugin("-r", "json", "kdump.bugcheck", "--show", "9f", "3", "ffff8000`12345678"))
    assert table["Code"]["Meaning"] == "DRIVER_POWER_STATE_FAILURE"
    assert table["Argument 2"]["Value"] == 0xFFFF800012345678
    assert "physical device object" in table["Argument 2"]["Meaning"]
    assert table["Argument 4"]["Meaning"] == "blocked IRP"


def test_show_refuses_what_is_not_a_number(run_plugin):
    finished = run_plugin("kdump.bugcheck", "--show", "d1", "seven")
    assert finished.returncode == 1
    assert "kdump: --show takes hexadecimal numbers, not 'seven'" in finished.stderr
    assert "Traceback" not in finished.stderr
