"""What a pasted text says of addresses and modules: which module an address lies in, and which file a module is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from volatility3_kdump.analysis.pasted.report import Report
from volatility3_kdump.analysis.stack_entries import StackEntry

#: An address so far above the nearest module whose size is not known is not taken for a part of it.
_LARGEST_DISTANCE = 1 << 28
#: ``module!function+offset`` and ``module+offset``.
_NAME = re.compile(
    r"(?P<module>[^!+\s]{1,128})(?:!(?P<symbol>[^\s]{1,1024}?))?(?:\+(?:0x)?(?P<offset>[0-9a-fA-F]{1,16}))?$"
)
#: Files whose name is not that of the module with ``.sys``.
_FILES = {
    **{
        name.lower(): f"{name}.dll"
        for name in ("hal", "PSHED", "CI", "BOOTVID", "kdcom", "kd", "mcupdate_GenuineIntel")
    },
    **{name.lower(): f"{name}.dll" for name in ("mcupdate_AuthenticAMD", "cdd", "ATMFD", "vrfcore", "kdnet")},
}
_USER_MODULES = frozenset(
    {
        *("ntdll", "kernel32", "kernelbase", "user32", "win32u", "gdi32", "gdi32full", "wow64", "wow64cpu", "wow64win"),
        *("advapi32", "sechost", "rpcrt4", "combase", "ucrtbase", "msvcrt"),
    }
)


class Places:
    """The modules of a report. ``entries`` is its stack, once that is known; ``mask`` the width of its addresses."""

    def __init__(self, report: Report, architecture: str | None, process: str | None) -> None:
        self._report = report
        self._architecture = architecture
        self._process = process
        self.mask = 0xFFFFFFFF if architecture == "x86" else 0xFFFFFFFFFFFFFFFF
        self.entries: Sequence[StackEntry] = ()

    def image_of(self, module: str, address: int) -> str:
        """The file of a module: as the text has it, else by the debugger's habit."""
        name = module.lower()
        if name == "nt":
            return self._kernel_image()
        written = self._report.files.get(name)
        if written is not None:
            return written
        for stem, file in self._report.files.items():
            # The debugger puts an underscore for what cannot stand in a symbol.
            if re.sub(r"[^\w]", "_", stem) == name:
                return file
        file_name = _FILES.get(name)
        if file_name is not None:
            return file_name
        if self._process is not None and self._process.lower().removesuffix(".exe") == name:
            return self._process
        user = 0 < address < (1 << 31 if self._architecture == "x86" else 1 << 47)
        return f"{module}.dll" if user or name in _USER_MODULES else f"{module}.{'SYS' if module.isupper() else 'sys'}"

    def _kernel_image(self) -> str:
        for stem in ("ntkrpamp", "ntkrnlpa", "ntkrnlmp"):
            if stem in self._report.files:
                return self._report.files[stem]
        return "ntkrpamp.exe" if self._architecture == "x86" else "ntkrnlmp.exe"

    def resolve(self, address: int) -> StackEntry | None:
        address &= self.mask
        for title, name in self._report.pairs.items():
            if title & self.mask == address:
                entry = self._of_name(name, address)
                if entry is not None:
                    return entry
        for entry in self.entries:
            if entry.address == address and entry.module is not None:
                return entry
        module = self.module_at(address)
        if module is None:
            return None
        start, name = module
        self._report.use(f"the module list ({name})")
        return StackEntry(name, None, address - start, self.image_of(name, address), address, True)

    def module_at(self, address: int) -> tuple[int, str] | None:
        exact = None
        nearest = None
        for start, end, name in self._report.modules:
            first = start & self.mask
            if end and first <= address < end & self.mask:
                exact = first, name
            elif not end and first <= address < first + _LARGEST_DISTANCE and (nearest is None or first > nearest[0]):
                nearest = first, name
        return exact or nearest

    def _of_name(self, name: str, address: int) -> StackEntry | None:
        matched = _NAME.match(name)
        if not matched:
            return None
        module = matched["module"]
        return StackEntry(
            module, matched["symbol"], int(matched["offset"] or "0", 16), self.image_of(module, address), address, True
        )
