"""What the firmware says of the machine."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.machine import smbios_grid


class Smbios(KdumpPlugin):
    """Shows the SMBIOS tables of the dump: maker, firmware, processors, memory modules, slots (KD: !sysinfo smbios)."""

    @classmethod
    def options(cls):
        return [
            requirements.ListRequirement(
                name="group",
                element_type=str,
                description="Only structures of these groups: devices, memory, power, processor, system",
                optional=True,
            ),
        ]

    def grid(self, target):
        return smbios_grid(target, self.option("group") or ())
