"""Files, control areas, page frames, and memory that is written to a file, at the prompt."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edited import edited
from tests.prompt import answer, session_on
from volatility3_kdump.console.session import Session
from volatility3_kdump.layout import Layouts
from volatility3_kdump.options import Options
from volatility3_kdump.target import Target

FILE, DEVICE = 0xFFFF91894E251A20, 0xFFFF91894E237060


@pytest.fixture
def memory_scene(sample: Callable[..., Path], isf_path: Path) -> Session:
    path = sample(isf=isf_path, scene="memory")
    return session_on(Target.open(path, Options(offline=True, isf_file=str(isf_path))))


def test_a_file_object(session: Session) -> None:
    """The layout of published listings."""
    assert answer(session, f"!fileobj {FILE:x}") == [
        "",
        "\\Users\\user\\Desktop",
        "",
        f"Device Object: 0x{DEVICE:x}   \\FileSystem\\Ntfs",
        "Vpb is NULL",
        "",
        "Flags:  0x40002",
        "\tSynchronous IO",
        "\tHandle Created",
        "",
        "CurrentByteOffset: 0",
    ]


def test_a_file_with_a_volume_and_a_cache(
    session: Session, sample: Callable[..., Path], tmp_path: Path, layouts: Layouts
) -> None:
    """The values of a published listing: rights, sharing, context, section pointers; and a VPB."""
    vpb, pointers = FILE + 0x200, FILE + 0x300

    def field(type_name: str, name: str, base: int, value: int, size: int = 8) -> tuple[int, bytes]:
        return base + layouts.offset(type_name, name), value.to_bytes(size, "little")

    changes = dict(
        [
            field("_FILE_OBJECT", "Vpb", FILE, vpb),
            field("_FILE_OBJECT", "ReadAccess", FILE, 1, 1),
            field("_FILE_OBJECT", "WriteAccess", FILE, 1, 1),
            field("_FILE_OBJECT", "SharedRead", FILE, 1, 1),
            field("_FILE_OBJECT", "SharedWrite", FILE, 1, 1),
            field("_FILE_OBJECT", "Flags", FILE, 0x44000A, 4),
            field("_FILE_OBJECT", "FsContext", FILE, 0xFFFFFA801B0E0310),
            field("_FILE_OBJECT", "FsContext2", FILE, 0xFFFFF8A00114A160),
            field("_FILE_OBJECT", "SectionObjectPointer", FILE, pointers),
        ]
    )
    if not layouts.has("_VPB", "VolumeLabel"):
        pytest.skip("these symbols have no _VPB")
    label = "Windows".encode("utf-16-le")
    changes[vpb] = (10).to_bytes(2, "little") + bytes(0x5E)
    changes.update(
        dict(
            [
                field("_VPB", "Flags", vpb, 1, 2),
                field("_VPB", "VolumeLabelLength", vpb, len(label), 2),
                field("_VPB", "DeviceObject", vpb, DEVICE),
                field("_VPB", "SerialNumber", vpb, 0x5C3A91F2, 4),
                field("_VPB", "ReferenceCount", vpb, 42, 4),
            ]
        )
    )
    changes[vpb + layouts.offset("_VPB", "VolumeLabel")] = label
    changes[pointers] = bytes(0x18)
    other = session_on(edited(session.target, sample(), tmp_path / "changed.dmp", changes, offline=True))
    assert answer(other, f"!fileobj {FILE:x}")[3:] == [
        f"Device Object: 0x{DEVICE:x}   \\FileSystem\\Ntfs",
        f"Vpb: 0x{vpb:x}",
        "Access: Read Write SharedRead SharedWrite",
        "",
        "Flags:  0x44000a",
        "\tSynchronous IO",
        "\tNo Intermediate Buffering",
        "\tHandle Created",
        "\tVolume Open",
        "",
        "FsContext: 0xfffffa801b0e0310\tFsContext2: 0xfffff8a00114a160",
        "CurrentByteOffset: 0",
        "Cache Data:",
        f"  Section Object Pointers: {pointers:x}",
        "  Shared Cache Map: 0000000000000000",
    ]
    assert answer(other, f"!vpb {vpb:x}") == [
        f"Vpb at 0x{vpb:x}",
        "Flags: 0x1 mounted",
        f"DeviceObject: 0x{DEVICE:x} (\\FileSystem\\Ntfs)",
        "RealDevice:   0x0000000000000000",
        "RefCount: 42",
        "Volume Label: Windows  Serial: 5C3A91F2",
    ]


def test_control_areas_that_memusage_lists(memory_scene: Session) -> None:
    lines = answer(memory_scene, "!memusage")
    areas = [line.split() for line in lines if "mapped_file(" in line]
    assert areas
    for row in areas:
        shown = answer(memory_scene, f"!ca {row[0]}")
        assert shown[1] == f"ControlArea  @ {row[0]}"
        (file,) = (line for line in shown if line.startswith("      File: "))
        assert file.endswith(f"\\{row[8]}")


def test_page_frames_of_page_table_entries(memory_scene: Session) -> None:
    """A page that a PTE maps names that PTE, and the page that the PTE is in."""
    lines = answer(memory_scene, "!pte @rsp")
    pte = re.findall(r"at ([0-9A-F]{16})", lines[1])[-1]
    *_, containing, page = re.findall(r"pfn ([0-9a-f]+)", lines[3])
    shown = answer(memory_scene, f"!pfn {page}")
    assert shown[0].startswith(f"    PFN {int(page, 16):08X} at address FFFF")
    assert shown[1].endswith(f"pteaddress {pte}")
    assert f"containing page {int(containing, 16):06X}  Active" in shown[3]
    (refused,) = answer(memory_scene, "!pfn fffffffff")
    assert "has no page fffffffff" in refused or "not mapped" in refused


def test_memory_in_a_file(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "nt.bin"
    assert answer(session, f".writemem {path} nt L100") == ["Writing 100 bytes."]
    assert path.read_bytes() == session.target.memory.read(session.evaluate("nt"), 0x100)
    assert answer(session, f".writemem {path} nt L10") == [f"{path}: not written: it exists, and is not overwritten"]
    assert path.stat().st_size == 0x100
    absent = tmp_path / "absent.bin"
    assert "of 0x100 bytes are not in the dump" in answer(session, f".writemem {absent} 10000 L100")[0]
    assert not absent.exists()
    assert "No such file or directory" in answer(session, f".writemem {tmp_path}/no/file nt L10")[0]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("!fileobj nt", "no file object at"),
        ("!fileobj -q", "!fileobj knows no option -q"),
        ("!vpb -q", "!vpb knows no option -q"),
        ("!vpb nt", "VPB"),
        ("!ca -q", "!ca knows no option -q"),
        ("!pfn -q", "!pfn knows no option -q"),
        (".writemem -q", ".writemem knows no option -q"),
        (".writemem /tmp/x", ".writemem needs RANGE"),
    ],
)
def test_what_is_refused(session: Session, line: str, error: str) -> None:
    (shown,) = answer(session, line)
    assert error in shown
