"""One memory image with two Windows, as nested virtualisation leaves it: both are told, and one is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

import volatility3_kdump
from kdump_sample.memory_images import Image, Processor, _elf, image_machine, image_of
from tests.conftest import RunVol
from tests.layers import test_narrow_images as narrow
from volatility3_kdump.console.application import main
from volatility3_kdump.errors import KdumpError, NotACrashDump
from volatility3_kdump.layout import Layouts
from volatility3_kdump.options import kernel_base

WIDE, NARROW = 0xFFFFF80062600000, narrow.HIGH | narrow.BASE


@pytest.fixture(scope="module")
def both(layouts: Layouts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made machine, and behind its processors one that runs a 32-bit Windows in the same memory."""
    image = image_of(image_machine("myfault", layouts, True))
    other = narrow._memory("pae").pages
    assert not other.keys() & image.physical.pages.keys()
    image.physical.pages.update(other)
    path = tmp_path_factory.mktemp("both") / "nested.elf"
    guest = Processor(bytes(0x4D0), narrow.ROOT << 12, 0)
    _elf(path, Image(image.physical, (*image.processors, guest)))
    return path


def test_the_first_is_shown_and_the_other_told(both: Path) -> None:
    target = volatility3_kdump.open(both)
    assert target.kernel is not None and (target.kernel.base, target.header.architecture) == (WIDE, "x64")
    assert len(target.dump.processors) == 3
    (line,) = [line for line in target.warnings if "another Windows" in line]
    assert line == (
        f"processor 3 ran another Windows kernel, at {NARROW:#x} with the page tables at {narrow.ROOT << 12:#x}: one "
        f"is a guest in the other (--kernel {NARROW:#x} shows this one)"
    )


def test_the_other_is_chosen(both: Path) -> None:
    target = volatility3_kdump.open(both, kernel=NARROW)
    assert target.kernel is not None and (target.kernel.base, target.header.architecture) == (NARROW, "x86")
    assert volatility3_kdump.open(both, kernel=WIDE).header.architecture == "x64"


def test_one_that_is_not_there(both: Path) -> None:
    told = f"no Windows kernel at 0xfffff80000000000 in it; there is one at {WIDE:#x}, {NARROW:#x}"
    with pytest.raises(NotACrashDump, match=told):
        volatility3_kdump.open(both, kernel=0xFFFFF80000000000)


def test_a_crash_dump_has_one_kernel(shared_data: Path) -> None:
    with pytest.raises(KdumpError, match="a crash dump holds one kernel: choosing one is for memory images"):
        volatility3_kdump.open(shared_data / "dumps" / "triage_x64_19041.dmp", kernel=WIDE)


def test_addresses_as_people_write_them() -> None:
    assert kernel_base("0xfffff80062600000") == kernel_base("fffff800`62600000") == WIDE
    assert kernel_base("81800000") == NARROW
    for text in ("", "nt", "-1", "`", "123456789012345678"):
        with pytest.raises(ValueError, match="is no address"):
            kernel_base(text)


def test_the_plugins_and_the_prompt_choose(both: Path, run_plugin: RunVol, capsys: pytest.CaptureFixture[str]) -> None:
    finished = run_plugin("-f", both, "-r", "json", "kdump.info", "--kernel-base", f"{narrow.BASE:08x}")
    assert finished.returncode == 0 and f"{NARROW:#x}" in finished.stdout
    wrong = run_plugin("-f", both, "kdump.info", "--kernel-base", "nt")
    assert wrong.returncode != 0 and "--kernel-base: 'nt' is no address" in wrong.stderr
    assert main(["-z", str(both), "--kernel", f"{narrow.BASE:08x}", "-c", ".effmach; q"]) == 0
    assert "Effective machine: x86 compatible (x86)" in capsys.readouterr().out
