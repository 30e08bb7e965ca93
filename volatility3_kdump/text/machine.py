"""The machine and its processors in the words of KD's ``!sysinfo machineid`` and ``!cpuinfo``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.dump.smbios import MachineInformation
from volatility3_kdump.windows.machine.processors import ProcessorModel

#: KD's columns without those that only a running machine has (MSR 8B) or that are not documented (ArchitectureClass).
_MODEL_HEADER = "CP  F/M/S Manufacturer  MHz PRCB Signature   Features"


def machine_lines(machine: MachineInformation) -> Iterator[str]:
    """``!sysinfo machineid``. What the firmware leaves out is left out."""
    version = ".".join(map(str, machine.smbios_version))
    yield (
        f"Machine ID Information [From Smbios {version}, DMIVersion {machine.dmi_revision}, Size={machine.tables_size}]"
    )
    for key, value in (
        ("BiosVendor", machine.bios_vendor),
        ("BiosVersion", machine.bios_version),
        ("BiosReleaseDate", machine.bios_date),
        ("SystemManufacturer", machine.manufacturer),
        ("SystemProductName", machine.product),
        ("SystemVersion", machine.version),
        ("BaseBoardManufacturer", machine.baseboard_manufacturer),
        ("BaseBoardProduct", machine.baseboard_product),
    ):
        if value is not None:
            yield f"{key} = {value}"


def model_lines(models: Iterable[ProcessorModel]) -> Iterator[str]:
    """``!cpuinfo``: a line for each processor; question marks for what the dump does not hold."""
    yield _MODEL_HEADER
    for model in models:
        numbers = ",".join("?" if part is None else str(part) for part in (model.family, model.model, model.stepping))
        signature = "?" * 16 if model.update_signature is None else f"{model.update_signature:016x}"
        features = "?" * 8 if model.features is None else f"{model.features:08x}"
        mhz = "?" if model.mhz is None else str(model.mhz)
        yield f"{model.number:2d} {numbers:>8} {model.vendor or '?':<12} {mhz:>4} {signature} {features}"
