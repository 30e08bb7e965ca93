"""The machine and its processors in the words of KD's ``!sysinfo`` and ``!cpuinfo``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from volatility3_kdump.dump.cpuid import ProcessorIdentity
from volatility3_kdump.dump.smbios import MachineInformation
from volatility3_kdump.dump.smbios_details import SmbiosField
from volatility3_kdump.windows.machine.processors import ProcessorModel

#: KD's columns without those that only a running machine has (MSR 8B) or that are not documented (ArchitectureClass).
_MODEL_HEADER = "CP    F/M/S Manufacturer  MHz Update Signature Features"
#: What the kernel calls the makers' processors in the registry.
_FAMILIES = {"GenuineIntel": "Intel64", "AuthenticAMD": "AMD64", "CentaurHauls": "VIA64"}
_NOT_IN_DUMP = "not in the dump"
#: The model-specific register with the microcode's revision.
_MICROCODE = 0x8B


def machine_lines(machine: MachineInformation) -> Iterator[str]:
    """``!sysinfo machineid``. What the firmware leaves out is left out."""
    version = ".".join(map(str, machine.smbios_version))
    yield (
        f"Machine ID Information [From Smbios {version}, DMIVersion {machine.dmi_revision}, Size={machine.tables_size}]"
    )
    yield from (f"{key} = {value}" for key, value in machine_pairs(machine))


def machine_pairs(machine: MachineInformation) -> Iterator[tuple[str, str]]:
    """What the firmware says of itself and the machine."""
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
            yield key, value


def _first(models: Sequence[ProcessorModel]) -> ProcessorModel | None:
    return models[0] if models else None


def processor_pairs(models: Sequence[ProcessorModel], identity: ProcessorIdentity | None) -> Iterator[tuple[str, str]]:
    """``!sysinfo cpuinfo``: what the kernel writes into the registry of a processor, from KPRCB and CPUID."""
    model = _first(models)
    if model is not None and model.mhz is not None:
        yield "~MHz", f"REG_DWORD {model.mhz}"
    vendor = (model.vendor if model is not None else None) or (identity.vendor if identity is not None else None)
    numbers: tuple[int | None, ...] = ()
    if model is not None:
        numbers = (model.family, model.model, model.stepping)
    elif identity is not None:
        numbers = (identity.family, identity.model, identity.stepping)
    if vendor in _FAMILIES and numbers and None not in numbers:
        identifier = " ".join(
            f"{name} {value}" for name, value in zip(("Family", "Model", "Stepping"), numbers, strict=True)
        )
        yield "Identifier", f"REG_SZ {_FAMILIES[vendor]} {identifier}"
    if identity is not None and identity.brand is not None:
        yield "ProcessorNameString", f"REG_SZ {identity.brand}"
    if model is not None and model.update_signature is not None:
        data = model.update_signature.to_bytes(8, "little")
        yield "Update Signature", f"REG_BINARY {','.join(f'{byte:x}' for byte in data)}"
    if vendor is not None:
        yield "VendorIdentifier", f"REG_SZ {vendor}"
    if identity is not None and _MICROCODE in identity.registers:
        yield "MSR8B", f"REG_QWORD {identity.registers[_MICROCODE][0]:x}"


def microcode_pairs(models: Sequence[ProcessorModel], identity: ProcessorIdentity | None) -> Iterator[tuple[str, str]]:
    """``!sysinfo cpumicrocode``: the update that runs, by KPRCB or the register that says it."""
    model = _first(models)
    value = None if model is None else model.update_signature
    if value is None and identity is not None and _MICROCODE in identity.registers:
        value = identity.registers[_MICROCODE][0]
    yield "Initial Microcode Version", f"{_NOT_IN_DUMP} (the registry has it)"
    yield "Cached Microcode Version", _NOT_IN_DUMP if value is None else f"{value:016x}"


def speed_pairs(
    models: Sequence[ProcessorModel], identity: ProcessorIdentity | None, most: SmbiosField | None
) -> Iterator[tuple[str, str]]:
    """``!sysinfo cpuspeed``: the processor's name, the highest speed by the firmware, and the kernel's measure."""
    brand = None if identity is None else identity.brand
    model = _first(models)
    mhz = None if model is None else model.mhz
    speed = most.value if most is not None and isinstance(most.value, int) else None
    yield "CPUID", _NOT_IN_DUMP if brand is None else f'"{brand}"'
    yield "MaxSpeed", f"{speed} (SMBIOS)" if speed else _NOT_IN_DUMP
    yield "CurrentSpeed", _NOT_IN_DUMP if mhz is None else str(mhz)


def register_lines(saved: Mapping[int, int], recorded: Mapping[int, Sequence[int]]) -> Iterator[str]:
    """``!sysinfo registers``: those that KPRCB has, and those that the kernel recorded for the dump."""
    yield from (f"MSR {number:08x}h = {value:016x}  (KPRCB)" for number, value in saved.items())
    for number, values in recorded.items():
        shown = ", ".join(f"{value:016x}" for value in dict.fromkeys(values))
        yield f"MSR {number:08x}h = {shown}  (tagged data)"


def model_lines(models: Iterable[ProcessorModel]) -> Iterator[str]:
    """``!cpuinfo``: a line for each processor; question marks for what the dump does not hold."""
    yield _MODEL_HEADER
    for model in models:
        numbers = ",".join("?" if part is None else str(part) for part in (model.family, model.model, model.stepping))
        signature = "?" * 16 if model.update_signature is None else f"{model.update_signature:016x}"
        features = "?" * 8 if model.features is None else f"{model.features:08x}"
        mhz = "?" if model.mhz is None else str(model.mhz)
        yield f"{model.number:2d} {numbers:>8} {model.vendor or '?':<12} {mhz:>4} {signature} {features}"
