"""Take the names of Win32 errors and HRESULTs from ``winerror.h`` of mingw-w64, which is in the public domain.

Run as ``python symbols/make_winerrors.py winerror.h symbols/kdump/winerrors.jsonl``. Win32 errors are written as
decimal numbers there, HRESULTs in hexadecimal; facilities, severities and synonyms of other names are left out.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

_DEFINED = re.compile(
    r"^#define\s+(?P<name>\w+)\s+(?:_HRESULT_TYPEDEF_\(|\(\(HRESULT\))?\s*"
    r"(?:__MSABI_LONG\()?(?P<value>0x[0-9a-fA-F]{8}|\d+)[lL]?\)*\s*$",
    re.MULTILINE,
)
_OTHER = re.compile(
    r"FACILITY_|SEVERITY_|_WINERROR_|__|WINBASE|\w+_(FIRST|LAST|BASE|MASK)$|NO_ERROR$|SEC_E_OK$",
)


def records(header: str) -> list[dict[str, str]]:
    """One record for each value of each kind, by value; the first name of a value counts."""
    named: dict[tuple[str, int], str] = {}
    for match in _DEFINED.finditer(header):
        if _OTHER.match(match["name"]):
            continue
        kind = "HRESULT" if match["value"].startswith("0x") else "Win32"
        named.setdefault((kind, int(match["value"], 0)), match["name"])
    return [{"kind": kind, "code": f"{code:#010x}", "name": name} for (kind, code), name in sorted(named.items())]


def main(header: str, output: str) -> None:
    """Write the records of a header."""
    lines = [json.dumps(record) for record in records(Path(header).read_text(encoding="utf-8", errors="replace"))]
    Path(output).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
