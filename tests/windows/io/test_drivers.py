"""Modules, driver objects and devices as the host's plugins find them, on kernels of several generations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import volatility3_kdump
from tests.host import ADDRESS, host_kernel
from volatility3_kdump.windows.io.drivers import driver_objects

pytestmark = pytest.mark.newest_host

#: The oldest kernel, one of the middle, the newest.
KERNELS = {"Windows 7": "339E7413", "Windows 10 1809": "00F31FD8", "Windows 11 22H2": "66546C89"}


@pytest.mark.parametrize(
    "kernel", [pytest.param(kernel, marks=() if kernel == "Windows 7" else pytest.mark.thorough) for kernel in KERNELS]
)
def test_the_host_finds_the_same(kernel: str, sample: Callable[..., Path], isf_paths: list[Path]) -> None:
    from volatility3.plugins.windows import devicetree, driverscan, modules, unloadedmodules

    table = next((path for path in isf_paths if path.name.startswith(KERNELS[kernel])), None)
    if table is None:
        pytest.skip(f"no symbol table {KERNELS[kernel]}... in the test data")
    path = sample(1, table)
    target = volatility3_kdump.open(path, isf_file=table)
    host = host_kernel(path, table)
    context = host.context

    # windows.modules
    theirs = {
        (int(item.DllBase), int(item.SizeOfImage), item.BaseDllName.get_string(), item.FullDllName.get_string())
        for item in modules.Modules.list_modules(context, host.name)
    }
    assert {(item.base & ADDRESS, item.size, item.image_name, item.path) for item in target.modules} == theirs
    assert len(theirs) == 18

    # windows.unloadedmodules
    types = unloadedmodules.UnloadedModules.create_unloadedmodules_table(context, host.symbol_table_name, "unloaded")
    unloaded = {
        (str(name), int(start) & ADDRESS, int(end) & ADDRESS)
        for name, start, end, _ in unloadedmodules.UnloadedModules.list_unloadedmodules(context, host.name, types)
    }
    assert {(item.name, item.start & ADDRESS, item.end & ADDRESS) for item in target.unloaded_modules} == unloaded
    assert len(unloaded) == 3

    # windows.driverscan, which looks for pool tags where we walk the object directory: before Windows 10 in physical
    # memory
    virtual = context.layers[host.layer_name]

    def place(address: int) -> int:
        where: int = virtual.translate(address & ADDRESS)[0] if kernel == "Windows 7" else address & ADDRESS
        return where

    found = {
        (item.get_driver_name(), int(item.vol.offset), int(item.DriverStart) & ADDRESS)
        for item in driverscan.DriverScan.scan_drivers(context, host.name)
    }
    ours = driver_objects(target).found
    assert found == {
        (
            (item.driver.name or "").rsplit("\\", 1)[-1],
            place(item.driver.address),
            (item.driver.start or 0) & ADDRESS,
        )
        for item in ours
    }
    assert len(found) == 6

    # windows.devicetree
    context.config["tree.kernel"] = host.name
    rows = list(devicetree.DeviceTree(context, "tree")._generator())
    trees = {(int(row[0]), str(row[2]).rsplit("\\", 1)[-1]) for _, row in rows if row[1] == "DEV"}
    assert {
        (place(item.driver.address), (item.driver.name or "").rsplit("\\", 1)[-1]) for item in ours if item.devices
    } == trees
