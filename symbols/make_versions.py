"""Pack the versions of kernels by time stamp and size of their images.

Run as ``python symbols/make_versions.py KERNELS.tsv`` in the checkout; the input has a line ``arch file version
timestamp size ...`` for each kernel, separated by tabs, under a line of titles. The output is sorted and deterministic.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

_MACHINES = {"amd64": "8664", "arm64": "aa64", "x86": "14c"}


def main(arguments: list[str]) -> int:
    lines = Path(arguments[0]).read_text("ascii").splitlines()[1:]
    kernels = []
    for line in lines:
        architecture, file, version, timestamp, size = line.split("\t")[:5]
        kernels.append((_MACHINES[architecture], version, timestamp, size, file))
    kernels.sort(key=lambda kernel: (kernel[0], [int(part) for part in kernel[1].split(".")], kernel[2:]))
    text = "".join("\t".join(kernel) + "\n" for kernel in kernels).encode("ascii")
    target = Path(__file__).resolve().parent / "kdump" / "versions.tsv.xz"
    target.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32))
    print(f"{target}: {len(kernels):,} kernels, {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
