"""Objects and handles, against the host's objects and against tables laid out by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import volatility3_kdump
from tests.edited import edited
from tests.host import ADDRESS, host_kernel
from tests.prompt import answer
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.windows.io.drivers import driver_objects
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.handle_table import FreeEntry, handle_pages
from volatility3_kdump.windows.processes.objects import find_object, link_target, read_handles, read_object, read_slots

LOCK = 1
PROTECTED = 8


def with_handles(target: Target, source: Path, path: Path, isf: Path | None) -> tuple[Target, dict[int, tuple]]:
    """A copy of a dump whose crashing process has three handles, and what they are: (object, access).

    The page of entries is one of the kernel's table of ids, which it takes the place of.
    """
    nt = target.nt
    ids = target.memory.pointer(target.symbol("PspCidTable"))
    page = next(iter(handle_pages(target, nt, ids, [], "ids")))[1]
    table = target.memory.pointer(crash_process(target).address + nt.offset("_EPROCESS", "ObjectTable"))
    body = nt.offset("_OBJECT_HEADER", "Body")
    entries = bytearray(0x1000)
    expected = {
        4: (crash_process(target).address, 0x1FFFFF),
        8: (crash_thread(target).address, 0x1F0003),
        0x3FC: (find_object(target, "\\Driver\\ACPI"), 1),
    }
    for handle, (address, access) in expected.items():
        header = address - body
        modern = nt.has("_HANDLE_TABLE_ENTRY", "ObjectPointerBits")
        low = (header & 0xFFFFFFFFFFFF) >> 4 << 20 | LOCK if modern else header | LOCK
        if handle == PROTECTED:
            # OBJ_PROTECT_CLOSE and OBJ_INHERIT; before Windows 8 the former is a bit of the access.
            low |= 3 << 17 if modern else 2
            access |= 0 if modern else 0x2000000
        struct.pack_into("<QQ", entries, handle * 4, low, access)
    # A free entry: no object, and the next free one.
    struct.pack_into("<QQ", entries, 12 * 4, 0, 0x10)
    changes = {page: bytes(entries), table + nt.offset("_HANDLE_TABLE", "TableCode"): struct.pack("<Q", page)}
    return edited(target, source, path, changes, isf_file=isf), expected


def test_handles_of_every_kernel(sample, isf_path: Path, tmp_path: Path) -> None:
    source = sample(6, isf_path)
    target, expected = with_handles(
        volatility3_kdump.open(source, isf_file=isf_path), source, tmp_path / "handles.dmp", isf_path
    )
    table = target.memory.pointer(crash_process(target).address + target.nt.offset("_EPROCESS", "ObjectTable"))
    problems: list[str] = []
    found = list(read_handles(target, table, problems))
    assert {handle.value: (handle.object, handle.access) for handle in found} == expected
    assert [handle.value for handle in found if handle.protected] == [PROTECTED]
    assert [handle.value for handle in found if handle.inherited] == [PROTECTED]
    used = {handle.value: handle for handle in found}
    assert [slot for slot in read_slots(target, table, problems) if not isinstance(slot, FreeEntry)] == found
    free = [slot for slot in read_slots(target, table, problems) if isinstance(slot, FreeEntry)]
    assert [slot.handle for slot in free] == [handle for handle in range(0, 0x400, 4) if handle not in used]
    assert {slot.handle: slot.following for slot in free}[12] == 0x10
    assert problems == []


def test_headers_against_the_host(sample, isf_paths: list[Path]) -> None:
    for table in (isf_paths[0], isf_paths[-1]):
        dump = sample(1, table)
        target = volatility3_kdump.open(dump, isf_file=table)
        kernel = host_kernel(dump, table)
        driver = find_object(target, "\\Driver\\ACPI")
        assert driver is not None
        for address in (crash_process(target).address, crash_thread(target).address, driver):
            mine = read_object(target, address)
            theirs = kernel.object("_OBJECT_HEADER", mine.header & ADDRESS, absolute=True)
            assert theirs.Body.vol.offset == address & ADDRESS
            assert (mine.handle_count, mine.pointer_count) == (int(theirs.HandleCount), int(theirs.PointerCount))
        assert find_object(target, "\\driver\\acpi") == driver
        assert find_object(target, "\\Driver\\nosuch") is None


@pytest.fixture(scope="module")
def session(sample, tmp_path_factory) -> Session:
    opened = Session()
    source = sample()
    target = opened.open(str(source)).target
    made, _ = with_handles(target, source, tmp_path_factory.mktemp("handles") / "handles.dmp", None)
    opened.dumps[0] = OpenDump("handles.dmp", made)
    return opened


def test_kd_text_of_objects(session: Session) -> None:
    lines = answer(session, "!object $proc")
    assert len(lines) == 3
    assert lines[0].startswith("Object: ffff91895301a080  Type: (ffff9189")
    assert lines[0].endswith(") Process")
    assert lines[1] == "    ObjectHeader: ffff91895301a050 (new version)"
    lines = answer(session, "!object \\Driver\\ACPI")
    directory = find_object(session.target, "\\Driver")
    assert lines[-1] == f"    Directory Object: {directory:016x}  Name: ACPI"
    assert answer(session, "!object \\Driver\\ACPI 21")[-1].endswith("  Name: \\Driver\\ACPI")
    assert answer(session, f"!object {find_object(session.target, chr(92) + 'Driver' + chr(92) + 'ACPI'):x}") == lines
    lines = answer(session, "!object \\Driver")
    assert lines[0].endswith(") Directory")
    assert [line.split()[-1] for line in lines[7:]] == ["intelppm", "ACPI", "MYFAULT", "pci"]
    assert lines[3].endswith("  Name: Driver")
    assert lines[4:6] == ["", "    Hash Address          Type          Name"]
    assert lines[7][4:9].strip().isdigit()
    # What a directory holds is shown where 1 and 8 are set.
    assert answer(session, f"!object {directory:x} 9") == lines
    assert answer(session, f"!object {directory:x} 1") == lines[:4]
    assert answer(session, f"!object {directory:x} 8") == lines[:2]
    assert "Directory" in answer(session, "!object \\")[3]
    assert answer(session, "!object \\nosuch")[0].startswith("Object \\nosuch not found")
    assert answer(session, "!object 0")[0].startswith("0: the object's header is not in the dump: not mapped")
    assert answer(session, "!object")[0].startswith("!object needs ADDRESS|PATH, an object, or a path such as \\Driver")


def test_where_a_symbolic_link_leads(session: Session, sample, tmp_path: Path) -> None:
    target = session.target
    link = find_object(target, "\\Driver\\ACPI")
    place = link + target.nt.offset("_OBJECT_SYMBOLIC_LINK", "LinkTarget")
    words = "\\Device\\Tdx".encode("utf-16-le")
    text = {place: struct.pack("<HHIQ", len(words), len(words), 0, link + 0x60), link + 0x60: words}
    assert link_target(edited(target, sample(), tmp_path / "text.dmp", text), link) == "\\Device\\Tdx"
    routine = {place: struct.pack("<QQ", target.symbol("KeBugCheckEx"), 0)}
    assert link_target(edited(target, sample(), tmp_path / "routine.dmp", routine), link) is None


def test_kd_text_of_handles(session: Session) -> None:
    lines = answer(session, "!handle 0 1")
    # The process as ``!process 0 0`` shows it.
    assert lines[:5] == [*answer(session, "!process ffff91895301a080 0")[:4], ""]
    assert lines[0] == "PROCESS ffff91895301a080"
    assert lines[3] == "    Image: notmyfault64.exe"
    assert lines[5].endswith(" with 3 entries in use")
    assert lines[7].startswith("0004: Object: ffff91895301a080  GrantedAccess: 001fffff Entry: ")
    assert [line[:4] for line in lines[7::2]] == ["0004", "0008", "03fc"]
    lines = answer(session, "!handle 8")
    assert lines[7].startswith("0008: Object: ffff918952f55080  GrantedAccess: 001f0003 (Protected) (Inherit) Entry: ")
    assert lines[8].endswith(") Thread")
    # What is not there is said; the kernel's own process has no table in this dump.
    lines = answer(session, "!handle 0 3 poi(nt!PsInitialSystemProcess)")
    assert lines[5].endswith(" with 0 entries in use that can be read")
    assert lines[6].startswith("NOTE: handle table ")


def test_further_forms_of_handles(session: Session) -> None:
    """Free entries, the kernel's table, ids, every process; an unknown type of objects says so."""
    lines = answer(session, "!handle c 1")
    assert lines[7].startswith("000c: free handle, Entry address ")
    assert lines[7].endswith(", Next Entry 0000000000000010")
    assert sum("free handle" in line for line in answer(session, "!handle 0 5")) == 0x100 - 3
    assert answer(session, "!handle 1c58 20")[0].startswith("Object: ffff91895301a080  Type: ")
    assert "has the id 1c54" in answer(session, "!handle 1c54 20")[0]
    assert answer(session, "!handle 0 11")[5].startswith("Kernel handle table at ")
    every = answer(session, "!handle 0 3 0 Thread")
    assert [line for line in every if line.startswith("0008: ")] == [
        line for line in answer(session, "!handle 8 3") if line.startswith("0008: ")
    ]


def test_objects_of_a_type(session: Session) -> None:
    lines = answer(session, "!object 0 Driver")
    named = [line.split()[-1] for line in lines if "Name:" in line]
    assert lines[0] == f"{len(named)} objects of type Driver that handles, names and lists lead to"
    drivers = driver_objects(session.target).found
    assert sorted(named) == sorted((driver.driver.name or "").rpartition("\\")[2] for driver in drivers)
    assert (
        "no handle and no name leads to an object of type driver; its name is written Driver"
        in (answer(session, "!object 0 driver")[0])
    )
    assert answer(session, "!object \\Driver\\ACPI 10")[2:] == [
        "Optional Headers:",
        f"    NameInfo({find_object(session.target, chr(92) + 'Driver' + chr(92) + 'ACPI') - 0x50:016x})",
    ]


def test_what_is_no_object(session: Session) -> None:
    with pytest.raises(KdumpError, match=r"not in the dump|Not a valid object"):
        read_object(session.target, session.target.header_context.sp)
