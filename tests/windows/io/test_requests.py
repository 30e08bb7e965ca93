"""IRPs, devices and drivers, laid out byte by byte as ``wdm.h`` has them for 64-bit drivers."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.errors import KdumpError, SymbolsNotFound, Unreadable
from volatility3_kdump.images.modules import Module
from volatility3_kdump.layout import Layouts
from volatility3_kdump.memory import Memory
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.tables import kernel_table_path
from volatility3_kdump.windows.io import devices
from volatility3_kdump.windows.io import requests as io

IRP, UPPER, LOWER = 0xFFFF800000001000, 0xFFFF800000002000, 0xFFFF800000003000
UPPER_DRIVER, LOWER_DRIVER = 0xFFFF800000004000, 0xFFFF800000005000
NODE, NAMES = 0xFFFF800000006000, 0xFFFF800000007000
IMAGE = 0xFFFFF80012340000
IRP_SIZE, LOCATION_SIZE, DEVICE_SIZE = 0xD0, 0x48, 0x150
UPPER_MODULE = Module("upper", "upper.sys", None, IMAGE, 0x8000, None, None)


def put(memory: dict[int, int], address: int, data: bytes) -> None:
    memory.update(enumerate(data, address))


def put_name(memory: dict[int, int], field: int, buffer: int, text: str) -> None:
    data = text.encode("utf-16-le")
    put(memory, field, struct.pack("<HHIQ", len(data), len(data), 0, buffer))
    put(memory, buffer, data)


def put_device(memory: dict[int, int], address: int, driver: int, above: int, below: int, node: int) -> None:
    device = bytearray(DEVICE_SIZE)
    struct.pack_into("<HHi4Q", device, 0, 3, 0x1D0, 0, driver, 0, above, 0)
    struct.pack_into("<II", device, 0x30, 0x2050, 0x100)
    struct.pack_into("<Q", device, 0x40, address + 0x800)
    struct.pack_into("<IB", device, 0x48, 0x22, 2)
    struct.pack_into("<Q", device, 0x138, address + DEVICE_SIZE)
    extension = bytearray(0x70)
    struct.pack_into("<HHIQ", extension, 0, 13, 0, 0, address)
    struct.pack_into("<QQ", extension, 0x28, node, below)
    put(memory, address, bytes(device + extension))


def put_driver(memory: dict[int, int], address: int, start: int, name: str, buffer: int) -> None:
    driver = bytearray(0x150)
    struct.pack_into("<HHIQIIQI", driver, 0, 4, 0x150, 0, 0, 0x12, 0, start, 0x8000)
    put(memory, address, bytes(driver))
    put_name(memory, address + 0x38, buffer, name)


def machine() -> dict[int, int]:
    """An IRP with three locations, the second of which is at the upper of two devices."""
    memory: dict[int, int] = {}
    irp = bytearray(IRP_SIZE + 3 * LOCATION_SIZE)
    struct.pack_into("<HH", irp, 0, 6, len(irp))
    struct.pack_into("<QI", irp, 8, 0xFFFF80000000A000, 0x60000)
    struct.pack_into("<iIQ", irp, 0x30, -0x3FFFFF45, 0, 7)
    struct.pack_into("<8B", irp, 0x40, 1, 1, 3, 2, 1, 0, 0, 4)
    struct.pack_into("<Q", irp, 0x68, IMAGE + 0x1234)
    struct.pack_into("<Q", irp, 0x98, 0xFFFF80000000B080)
    struct.pack_into("<Q", irp, 0xB8, IRP + IRP_SIZE + LOCATION_SIZE)
    struct.pack_into("<Q", irp, 0xC0, 0xFFFF80000000C000)
    at = IRP_SIZE + LOCATION_SIZE
    struct.pack_into("<4B", irp, at, 22, 2, 0, 0xE1)
    struct.pack_into("<4Q", irp, at + 8, 0x51100, 1, 4, 2)
    struct.pack_into("<4Q", irp, at + 0x28, UPPER, 0xFFFF80000000C000, IMAGE + 0x2000, 0xFFFF80000000D000)
    put(memory, IRP, bytes(irp))
    put_device(memory, UPPER, UPPER_DRIVER, 0, LOWER, 0)
    put_device(memory, LOWER, LOWER_DRIVER, UPPER, 0, NODE)
    put_driver(memory, UPPER_DRIVER, IMAGE, "\\Driver\\upper", NAMES)
    put_driver(memory, LOWER_DRIVER, 0xFFFFF80099990000, "\\Driver\\lower", NAMES + 0x100)
    put(memory, NODE, bytes(0x48))
    put(memory, NODE + 0x20, LOWER.to_bytes(8, "little"))
    put_name(memory, NODE + 0x28, NAMES + 0x200, "ROOT\\UPPER\\0000")
    put_name(memory, NODE + 0x38, NAMES + 0x300, "upper")
    return memory


@pytest.fixture(scope="module")
def shipped() -> Layouts:
    return load_table_file(kernel_table_path())


def target_of(memory: dict[int, int], nt: Layouts | None, pointer_size: int = 8) -> SimpleNamespace:
    def read(address: int, size: int) -> bytes | None:
        try:
            return bytes(memory[position] for position in range(address, address + size))
        except KeyError:
            return None

    def module_of(address: int) -> Module | None:
        return UPPER_MODULE if IMAGE <= address < IMAGE + 0x8000 else None

    return SimpleNamespace(
        memory=Memory(read, pointer_size, lambda address: "gone"),
        nt=nt,
        names=SimpleNamespace(module_of=module_of),
        symbol_status="none",
    )


@pytest.mark.parametrize("with_symbols", [True, False])
def test_an_irp_and_its_locations(shipped: Layouts, with_symbols: bool) -> None:
    """Without symbols of this kernel the shipped table serves: drivers are compiled against these structures."""
    irp = io.read_irp(target_of(machine(), shipped if with_symbols else None), IRP)
    assert (irp.size, irp.flags, irp.stack_count, irp.current_location) == (0x1A8, 0x60000, 3, 2)
    assert (irp.thread, irp.file, irp.mdl) == (0xFFFF80000000B080, 0xFFFF80000000C000, 0xFFFF80000000A000)
    assert (irp.status, irp.information) == (0xC00000BB, 7)
    assert (irp.pending_returned, irp.cancelled, irp.cancel_routine) == (1, 1, IMAGE + 0x1234)
    assert [location.number for location in irp.locations] == [1, 2, 3]
    current = irp.current
    assert current is not None and current.number == 2
    assert (current.major, current.minor, current.control) == (22, 2, 0xE1)
    assert (current.device, current.file) == (UPPER, 0xFFFF80000000C000)
    assert (current.completion_routine, current.context) == (IMAGE + 0x2000, 0xFFFF80000000D000)
    assert current.parameters == (0x51100, 1, 4, 2)
    assert current.request == "IRP_MJ_POWER, IRP_MN_SET_POWER"
    assert io.power_request(current) == "device power state D3"
    assert irp.notes == ()


def test_every_kernel_has_them_at_the_same_place(isf_path) -> None:
    irp = io.read_irp(target_of(machine(), load_table_file(isf_path)), IRP)  # type: ignore[arg-type]
    assert irp.current is not None and irp.current.device == UPPER
    stack = devices.device_stack(target_of(machine(), load_table_file(isf_path)), LOWER)  # type: ignore[arg-type]
    assert [device.address for device in stack] == [UPPER, LOWER]


def test_a_device_stack_from_either_end(shipped: Layouts) -> None:
    target = target_of(machine(), shipped)
    for start in (UPPER, LOWER):
        upper, lower = devices.device_stack(target, start)
        assert (upper.address, upper.below, upper.above, upper.node) == (UPPER, LOWER, 0, 0)
        assert (lower.address, lower.below, lower.above, lower.node) == (LOWER, 0, UPPER, NODE)
        assert (upper.device_type, upper.flags, upper.characteristics, upper.stack_size) == (0x22, 0x2050, 0x100, 2)
    assert upper.driver is not None and upper.driver.module is UPPER_MODULE
    assert upper.driver_text == "\\Driver\\upper (upper.sys)"
    # an image that is no loaded module
    assert lower.driver is not None and lower.driver.module is None
    assert lower.driver_text == "\\Driver\\lower"


def test_a_device_node(shipped: Layouts) -> None:
    node = devices.read_node(target_of(machine(), shipped), NODE)
    assert (node.device, node.instance_path, node.service) == (LOWER, "ROOT\\UPPER\\0000", "upper")


def test_stacks_that_loop_end(shipped: Layouts) -> None:
    memory = machine()
    put_device(memory, UPPER, UPPER_DRIVER, LOWER, LOWER, 0)
    put_device(memory, LOWER, LOWER_DRIVER, UPPER, UPPER, 0)
    stack = devices.device_stack(target_of(memory, shipped), LOWER)
    assert sorted(device.address for device in stack) == [UPPER, LOWER]


def gone(memory: dict[int, int], start: int, size: int) -> None:
    for address in range(start, start + size):
        memory.pop(address, None)


def test_an_irp_without_its_other_locations(shipped: Layouts) -> None:
    memory = machine()
    gone(memory, IRP + IRP_SIZE, LOCATION_SIZE)
    gone(memory, IRP + IRP_SIZE + 2 * LOCATION_SIZE, LOCATION_SIZE)
    irp = io.read_irp(target_of(memory, shipped), IRP)
    assert [location.number for location in irp.locations] == [2]
    assert irp.current is not None and irp.current.device == UPPER


def test_an_irp_of_which_only_the_tail_is_there(shipped: Layouts) -> None:
    memory = machine()
    gone(memory, IRP, 0xB0)
    irp = io.read_irp(target_of(memory, shipped), IRP)
    assert (irp.stack_count, irp.status, irp.thread) == (None, None, None)
    assert irp.current is not None and (irp.current.number, irp.current.device) == (0, UPPER)


def test_a_location_without_its_parameters(shipped: Layouts) -> None:
    memory = machine()
    gone(memory, IRP + IRP_SIZE + LOCATION_SIZE + 0x10, 0x10)
    current = io.read_irp(target_of(memory, shipped), IRP).current
    assert current is not None and current.parameters == (0x51100, None, None, 2)
    assert io.power_request(current) is None


def test_a_device_whose_driver_is_gone(shipped: Layouts) -> None:
    memory = machine()
    gone(memory, UPPER_DRIVER, 0x150)
    gone(memory, UPPER + DEVICE_SIZE, 0x70)
    device = devices.read_device(target_of(memory, shipped), UPPER)
    assert (device.driver, device.driver_address, device.below, device.node) == (None, UPPER_DRIVER, None, None)
    assert device.driver_text == f"driver object {UPPER_DRIVER:#x}, not in the dump"


def test_a_driver_without_the_characters_of_its_name(shipped: Layouts) -> None:
    memory = machine()
    gone(memory, NAMES, 0x40)
    driver = devices.read_driver(target_of(memory, shipped), UPPER_DRIVER)
    assert (driver.name, driver.text) == (None, "upper.sys")


def test_an_irp_that_no_driver_has(shipped: Layouts) -> None:
    memory = machine()
    put(memory, IRP + 0x43, b"\x04")
    put(memory, IRP + 0xB8, (IRP + IRP_SIZE + 3 * LOCATION_SIZE).to_bytes(8, "little"))
    irp = io.read_irp(target_of(memory, shipped), IRP)
    assert irp.current is None and irp.notes == ()


def test_a_location_pointer_that_contradicts_the_number(shipped: Layouts) -> None:
    memory = machine()
    put(memory, IRP + 0x43, b"\x03")
    irp = io.read_irp(target_of(memory, shipped), IRP)
    assert irp.current is not None and irp.current.number == 2
    assert len(irp.notes) == 1 and "is at stack location 3 of 3" in irp.notes[0]


def test_something_else_is_refused(shipped: Layouts) -> None:
    target = target_of(machine(), shipped)
    with pytest.raises(Unreadable, match="no IRP at 0xffff800000002000: its type is 3, not 6"):
        io.read_irp(target, UPPER)
    with pytest.raises(Unreadable, match="no device object"):
        devices.read_device(target, IRP)
    with pytest.raises(Unreadable, match="_DRIVER_OBJECT at 0x5000: gone"):
        devices.read_driver(target, 0x5000)


def test_32_bit_kernels_need_symbols() -> None:
    with pytest.raises(SymbolsNotFound, match="need symbols"):
        io.read_irp(target_of(machine(), None, pointer_size=4), IRP)


@pytest.mark.parametrize(
    ("major", "minor", "text"),
    [
        (0, 0, "IRP_MJ_CREATE"),
        (14, 0, "IRP_MJ_DEVICE_CONTROL"),
        (22, 2, "IRP_MJ_POWER, IRP_MN_SET_POWER"),
        (22, 0, "IRP_MJ_POWER, IRP_MN_WAIT_WAKE"),
        (27, 7, "IRP_MJ_PNP, IRP_MN_QUERY_DEVICE_RELATIONS"),
        (27, 14, "IRP_MJ_PNP, minor function 0xe"),
        (200, 3, "major function 0xc8, minor function 0x3"),
        (22, None, "IRP_MJ_POWER"),
    ],
)
def test_names_of_requests(major: int, minor: int | None, text: str) -> None:
    assert io.request_name(major, minor) == text


HOLES = st.lists(st.tuples(st.sampled_from([IRP, UPPER, LOWER, UPPER_DRIVER, NODE, NAMES]), st.integers(0, 0x1C0)))
CHANGES = st.lists(
    st.tuples(
        st.sampled_from([IRP, UPPER, LOWER, UPPER_DRIVER, NODE]),
        st.integers(0, 0x1A0),
        st.binary(min_size=1, max_size=8),
    )
)


@settings(max_examples=part(60), deadline=None)
@given(holes=HOLES, changes=CHANGES)
def test_holes_and_damage_never_raise_anything_else(holes, changes) -> None:
    memory = machine()
    for base, offset, data in changes:
        put(memory, base + offset, data)
    for base, offset in holes:
        gone(memory, base + offset, 0x20)
    target = target_of(memory, None)
    for read, address in (
        (io.read_irp, IRP),
        (devices.device_stack, LOWER),
        (devices.read_driver, UPPER_DRIVER),
        (devices.read_node, NODE),
    ):
        try:
            found = read(target, address)
        except KdumpError:
            continue
        if isinstance(found, io.Irp):
            assert len(found.locations) <= 128
        if isinstance(found, list):
            assert 1 <= len(found) <= 64
