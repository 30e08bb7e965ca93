"""Control regions and blocks of processors, against the host's objects on three kernels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.amounts import only
from tests.edited import edited
from tests.host import ADDRESS, host_kernel
from volatility3_kdump.text.machine import model_lines
from volatility3_kdump.text.processors import block_lines, region_lines
from volatility3_kdump.windows.machine.processors import control_region, processor_models, processors

Sample = Callable[..., Path]

#: Counters that the made machine leaves at zero, with values that tell them apart.
COUNTERS = {"InterruptCount": 0x11223344, "DpcTime": 0x21, "InterruptTime": 0x32, "KernelTime": 0x43, "UserTime": 0x54}

#: Where the answers of CPUID stand in the tagged data of a machine with an Intel processor.
_LEAF_0, _LEAF_1 = 8, 48


@pytest.mark.parametrize("which", only((7,), (0, 7, -1)))
def test_fields_are_those_of_the_host(isf_paths: list[Path], sample: Sample, tmp_path: Path, which: int) -> None:
    table = isf_paths[which]
    source = sample(1, table)
    original = volatility3_kdump.open(source, isf_file=table)
    nt = original.nt
    assert nt is not None
    processor = processors(original)[2]
    assert processor.prcb is not None
    changes = {processor.prcb + nt.offset("_KPRCB", name): struct.pack("<I", value) for name, value in COUNTERS.items()}
    path = tmp_path / "counters.dmp"
    target = edited(original, source, path, changes, isf_file=table)
    found = control_region(target, processors(target)[2])
    assert found is not None

    kernel = host_kernel(path, table)
    region = kernel.object("_KPCR", offset=found.address & ADDRESS, absolute=True)
    block = kernel.object("_KPRCB", offset=found.prcb & ADDRESS, absolute=True)
    assert region.member("Self") & ADDRESS == found.address & ADDRESS
    assert region.Prcb.vol.offset & ADDRESS == found.prcb & ADDRESS
    for name, member in (("prcb", "CurrentPrcb"), ("idt", "IdtBase"), ("gdt", "GdtBase"), ("tss", "TssBase")):
        assert (found.region[name] or 0) & ADDRESS == region.member(member) & ADDRESS
    for name, member in (("irql", "Irql"), ("major", "MajorVersion"), ("minor", "MinorVersion")):
        assert found.region[name] == region.member(member)
    for name, member in (("current", "CurrentThread"), ("next", "NextThread"), ("idle", "IdleThread")):
        assert (found.block[name] or 0) & ADDRESS == block.member(member) & ADDRESS
    for name, member in (
        ("number", "Number"),
        ("group", "Group"),
        ("group_member", "GroupSetMember"),
        ("saved_irql", "DebuggerSavedIRQL"),
        ("interrupts", "InterruptCount"),
        ("dpc_time", "DpcTime"),
        ("interrupt_time", "InterruptTime"),
        ("kernel_time", "KernelTime"),
        ("user_time", "UserTime"),
    ):
        assert found.block[name] == block.member(member), name

    lines = list(block_lines(found))
    assert lines[4:] == [
        "Interrupt Count -- 11223344",
        "Times -- Dpc    00000021 Interrupt 00000032 ",
        "         Kernel 00000043 User      00000054 ",
    ]
    assert lines[3].startswith("Processor Index 2 Number (0, ")
    assert list(region_lines(found))[:3] == [
        "KPCR for Processor 2 at ffffc3014f460000:",
        "    Major 1 Minor 1",
        "\t            SelfPcr: ffffc3014f460000",
    ]


def test_a_block_that_is_not_in_the_dump(sample: Sample, tmp_path: Path) -> None:
    source = sample(6)
    original = volatility3_kdump.open(source)
    processor = processors(original)[1]
    assert processor.prcb is not None
    page = processor.prcb & ~0xFFF
    target = edited(original, source, tmp_path / "absent.dmp", absent=[page])
    found = control_region(target, processor)
    assert found is not None
    assert found.region["irql"] is None
    assert "\t               Irql: ????????" in list(region_lines(found))
    assert "Threads--  Current ???????????????? Next ???????????????? Idle ????????????????" in list(block_lines(found))


@pytest.mark.parametrize("which", only((0,), (0, 7, -1)))
def test_models_are_those_of_the_host(isf_paths: list[Path], sample: Sample, tmp_path: Path, which: int) -> None:
    table = isf_paths[which]
    source = sample(1, table)
    original = volatility3_kdump.open(source, isf_file=table)
    nt, prcb = original.nt, processors(original)[1].prcb
    assert nt is not None and prcb is not None
    changes = {
        prcb + nt.offset("_KPRCB", "UpdateSignature"): struct.pack("<Q", 0x12F << 32),
        prcb + nt.offset("_KPRCB", "FeatureBits"): struct.pack("<I", 0x351B3FFF),
    }
    path = tmp_path / "models.dmp"
    target = edited(original, source, path, changes, isf_file=table)
    models = processor_models(target)
    assert [model.number for model in models] == [0, 1, 2]
    found = models[1]
    block = host_kernel(path, table).object("_KPRCB", offset=prcb & ADDRESS, absolute=True)
    assert (found.family, found.mhz, found.features) == (block.CpuType, block.MHz, block.FeatureBits)
    assert ((found.model or 0) << 8 | (found.stepping or 0)) == block.CpuStep
    assert found.update_signature == block.UpdateSignature.QuadPart
    assert list(model_lines([found])) == [
        "CP    F/M/S Manufacturer  MHz Update Signature Features",
        " 1 6,158,10 GenuineIntel 3192 0000012f00000000 351b3fff",
    ]


def test_models_of_a_real_machine(shared_data: Path) -> None:
    """The processors are what CPUID says of the one whose answers are in the dump's tagged data: leaf 1, EAX."""
    path = shared_data / "dumps" / "triage_x64_19041_0x1a.dmp"
    target = volatility3_kdump.open(path, isf_directories=[shared_data / "isf"])
    models = processor_models(target)
    assert [model.number for model in models] == list(range(12))
    assert {(model.family, model.model, model.stepping, model.vendor) for model in models} == {
        (6, 151, 5, "GenuineIntel")
    }
    [blob] = [blob for blob in target.dump.tagged if blob.name == "processor registers and CPUID"]
    answers = target.dump.source.read(blob.offset, blob.size)
    assert answers[_LEAF_0 + 4 : _LEAF_0 + 16] == b"GenuntelineI"
    signature = int.from_bytes(answers[_LEAF_1 : _LEAF_1 + 4], "little")
    assert signature >> 8 & 0xF == models[0].family
    assert signature >> 4 & 0xF | signature >> 12 & 0xF0 == models[0].model
    assert signature & 0xF == models[0].stepping
