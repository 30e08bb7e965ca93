"""The machine in plain words: processor, firmware, board, memory modules."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.dump.cpuid import ProcessorIdentity
from volatility3_kdump.dump.smbios import MachineInformation, filled_in


def machine_facts(machine: MachineInformation | None, processor: ProcessorIdentity | None) -> Iterator[tuple[str, str]]:
    """(name, value) of each fact that the dump's tagged data holds."""
    if processor is not None:
        yield "Processor", processor.text
    elif machine is not None and machine.processor:
        yield "Processor", machine.processor
    if machine is None:
        return
    for name, parts in (
        ("System", (machine.manufacturer, machine.product, machine.version)),
        ("Board", (machine.baseboard_manufacturer, machine.baseboard_product)),
        ("Firmware", (machine.bios_vendor, machine.bios_version, machine.bios_date)),
    ):
        joined = ", ".join(part for part in parts if part is not None and filled_in(part))
        if joined:
            yield name, joined
    slots = [module.slot for module in machine.memory]
    for module in machine.memory:
        # Boards name the slots of each channel alike.
        bank = f", {module.bank}" if module.bank and slots.count(module.slot) > 1 else ""
        yield "Memory module", f"{module.text}{bank}"
