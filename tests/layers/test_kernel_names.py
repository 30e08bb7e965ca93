"""What a dump calls its kernel's PDB file is no path for the host, and an offline host asks nobody for it."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def test_a_name_that_leads_out_of_the_directory_is_not_handed_on(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "hostile" / "pdbname-dots.dmp.xz"
    if not source.exists():
        pytest.skip(f"no {source}")
    dump = tmp_path / "dots.dmp"
    dump.write_bytes(lzma.decompress(source.read_bytes()))
    code = f"""
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event in ("open", "os.remove") else None)
sys.argv = ["vol", "--offline", "-q", "-f", {str(dump)!r}, "windows.info"]
from volatility3_kdump.cli import main
try:
    main(sys.argv)
except SystemExit:
    pass
print([name for name in opened if "..-" in str(name) or "/../" in str(name) or "%2E%2E" in str(name)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


@pytest.mark.parametrize(
    "value, expected", [("1", "True"), ("0", "False"), pytest.param("", "False", marks=pytest.mark.thorough)]
)
def test_the_host_is_offline_too(value: str, expected: str) -> None:
    code = "import volatility3_kdump.layers; from volatility3.framework import constants; print(constants.OFFLINE)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "KDUMP_OFFLINE": value},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == expected, done.stderr
