"""Device stacks of the machine, and a request that waits in one of them."""

from __future__ import annotations

from kdump_sample.scene import Device, DeviceNode, DriverObject, Location, PendingRequest

_ACPI_DRIVER, _PCI_DRIVER, _PPM_DRIVER = 0xFFFF91894E210DF0, 0xFFFF91894E214DF0, 0xFFFF91894E218DF0
_NTFS_DRIVER, _FILTER_DRIVER = 0xFFFF91894E21CDF0, 0xFFFF91894E220DF0
_PROCESSOR_PDO, _ROOT_PDO, _PCI_PDO = 0xFFFF91894E231060, 0xFFFF91894E232060, 0xFFFF91894E233060
_PCI_FILTER, _PCI_BUS, _PROCESSOR_FDO = 0xFFFF91894E234A20, 0xFFFF91894E235A20, 0xFFFF91894E236A20
_NTFS_DEVICE, _FILTER_DEVICE = 0xFFFF91894E237060, 0xFFFF91894E238060
_DISPATCH_RVA, _COMPLETION_RVA = 0x1000, 0x1420
_ACPI_TYPE, _UNKNOWN_TYPE, _FILE_SYSTEM_TYPE, _BUS_TYPE = 0x32, 0x22, 0x8, 0x4
_EVERY_DISPATCH = dict.fromkeys((0, 2, 14, 15, 22, 23, 27), _DISPATCH_RVA)
_FILE_DISPATCH = dict.fromkeys((0, 2, 3, 4, 5, 6, 9, 12, 13, 14, 18), _DISPATCH_RVA)
_DIRECTORY_CONTROL, _NOTIFY_CHANGE = 12, 2

DRIVER_OBJECTS = (
    DriverObject(
        "ACPI",
        _ACPI_DRIVER,
        "\\Driver\\ACPI",
        _PROCESSOR_PDO,
        _ACPI_TYPE,
        "",
        devices=(
            Device(
                _PROCESSOR_PDO,
                _ACPI_TYPE,
                "\\Device\\0000001c",
                node=DeviceNode(0xFFFF91894E241A20, "ACPI\\GenuineIntel_-_Intel64_Family_6_Model_158\\_1", "intelppm"),
            ),
            Device(
                _ROOT_PDO,
                _ACPI_TYPE,
                "\\Device\\00000018",
                node=DeviceNode(0xFFFF91894E242A20, "ACPI\\PNP0A08\\0", "pci"),
            ),
            Device(_PCI_FILTER, _ACPI_TYPE, below=_PCI_PDO, extension=0xFFFF91894C4E0010),
        ),
        majors=_EVERY_DISPATCH,
    ),
    DriverObject(
        "pci",
        _PCI_DRIVER,
        "\\Driver\\pci",
        _PCI_PDO,
        _UNKNOWN_TYPE,
        "",
        devices=(
            Device(
                _PCI_PDO,
                _UNKNOWN_TYPE,
                "\\Device\\NTPNP_PCI0007",
                extension=_PCI_PDO + 0x150,
                node=DeviceNode(
                    0xFFFF91894E243A20, "PCI\\VEN_8086&DEV_A36D&SUBSYS_86941043&REV_10\\3&11583659&0&A0", ""
                ),
            ),
            Device(_PCI_BUS, _BUS_TYPE, below=_ROOT_PDO, extension=_PCI_BUS + 0x150),
        ),
        majors=_EVERY_DISPATCH,
    ),
    DriverObject(
        "intelppm",
        _PPM_DRIVER,
        "\\Driver\\intelppm",
        _PROCESSOR_FDO,
        _UNKNOWN_TYPE,
        "",
        devices=(Device(_PROCESSOR_FDO, _UNKNOWN_TYPE, below=_PROCESSOR_PDO, extension=_PROCESSOR_FDO + 0x150),),
        majors=_EVERY_DISPATCH,
    ),
    DriverObject(
        "Ntfs",
        _NTFS_DRIVER,
        "\\FileSystem\\Ntfs",
        _NTFS_DEVICE,
        _FILE_SYSTEM_TYPE,
        "",
        devices=(Device(_NTFS_DEVICE, _FILE_SYSTEM_TYPE, "\\Ntfs"),),
        majors=_FILE_DISPATCH,
    ),
    DriverObject(
        "FLTMGR",
        _FILTER_DRIVER,
        "\\FileSystem\\FltMgr",
        _FILTER_DEVICE,
        _FILE_SYSTEM_TYPE,
        "",
        devices=(Device(_FILTER_DEVICE, _FILE_SYSTEM_TYPE, below=_NTFS_DEVICE, extension=_FILTER_DEVICE + 0x150),),
        majors=_FILE_DISPATCH,
    ),
)

#: Explorer waits for changes of a directory: the filter manager has passed the request on to the file system.
DIRECTORY_CHANGES = PendingRequest(
    0xFFFF91894E250A60,
    0xFFFF91894F200080 + 6 * 0x41000 + 0x3000,
    0xFFFF91894E251A20,
    "\\Users\\user\\Desktop",
    (
        Location(
            _DIRECTORY_CONTROL,
            _NOTIFY_CHANGE,
            _NTFS_DEVICE,
            1,
            0xE1,
            (0x1000, 0x15F, 0, 0),
            ("FLTMGR", _COMPLETION_RVA),
            0xFFFF91894E252B10,
        ),
        Location(_DIRECTORY_CONTROL, _NOTIFY_CHANGE, _FILTER_DEVICE, 1, 0x1, (0x1000, 0x15F, 0, 0)),
    ),
    1,
)
