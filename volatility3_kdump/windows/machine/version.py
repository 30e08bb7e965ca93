"""Which Windows it is: name, product, suites and architecture from the header, the build's own name from the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_NAMES = (
    (10240, "Windows 10"),
    (9600, "Windows 8.1"),
    (9200, "Windows 8"),
    (7600, "Windows 7"),
    (6000, "Windows Vista"),
    (3790, "Windows Server 2003"),
    (2600, "Windows XP"),
    (2195, "Windows 2000"),
)
_PRODUCTS = {1: "WinNt", 2: "LanManNt", 3: "Server"}
#: VER_SUITE bits as the debugger names them.
_SUITES = (
    "SmallBusiness",
    "Enterprise",
    "BackOffice",
    "CommunicationServer",
    "TerminalServer",
    "SmallBusinessRestricted",
    "EmbeddedNT",
    "DataCenter",
    "SingleUserTS",
    "Personal",
    "Blade",
    "EmbeddedRestricted",
)
_ARCHITECTURES = {
    "x64": "x64",
    "x86": "x86 compatible",
    "arm64": "ARM 64-bit (AArch64)",
    "arm": "ARM (NT)",
    "ia64": "IA64",
}


def build_lab(target: Target) -> str | None:
    """The build string (``19041.1.amd64fre.vb_release.191206-1406``), ``None`` when it is not in the dump."""
    return target.once(_read_build_lab)


def _read_build_lab(target: Target) -> str | None:
    for address in (target.symbol("NtBuildLabEx"), target.variable("NtBuildLab", "NtBuildLab")):
        build = target.memory.c_string(address) if address else None
        if build:
            return build
    return None


def windows_name(build: int | None) -> str | None:
    """The debugger's name for a build; builds of Windows 11 are still named Windows 10 there."""
    if build is None:
        return None
    return next((name for first, name in _NAMES if build >= first), f"Windows NT build {build}")


def product_name(product_type: int | None) -> str | None:
    """``WinNt``, ``LanManNt`` (domain controller) or ``Server``."""
    if product_type is None:
        return None
    return _PRODUCTS.get(product_type, f"{product_type:#x}")


def suite_names(mask: int | None) -> tuple[str, ...] | None:
    """The names of the suite bits that are set; bits without a name in hexadecimal."""
    if mask is None:
        return None
    names = [name for bit, name in enumerate(_SUITES) if mask >> bit & 1]
    rest = mask >> len(_SUITES) << len(_SUITES)
    return (*names, f"{rest:#x}") if rest else tuple(names)


def architecture_name(architecture: str) -> str:
    """The debugger's words for an architecture."""
    return _ARCHITECTURES.get(architecture, architecture)
