"""A machine whose page-frame database is in the dump: files, processes, pools, large pages, bad pages."""

from __future__ import annotations

import dataclasses

from kdump_sample.memory_use import MappedFile, MemoryUse, PageFile, PageFrames
from kdump_sample.myfault import high_irql_fault
from kdump_sample.scene import Scene
from kdump_sample.scenes import scene
from volatility3_kdump.layout import Layouts

_NOTEPAD, _EXPLORER = 0x1D822D000, 0x1C01C6000
_LARGE_PAGE = 0x1E0000
#: As little memory as the machine can do with, in runs: page frames that the demonstration uses, and a few more.
_RUNS = ((0x1, 0x9F), (0x110000, 0x180), (0x120000, 0x300), (0x1A4000, 0x180))


@scene("memory")
def memory(layouts: Layouts) -> Scene:
    """The demonstration on a machine with little memory, and failures of the memory manager."""
    model = high_irql_fault()
    single = [(process.directory_table_base >> 12, 1) for process in model.processes]
    blocks = [(model.large_page[1], 0x200), (_LARGE_PAGE, 0x200)]
    runs = tuple(sorted([*_RUNS, *single, *blocks]))
    plain = MemoryUse()
    failures = {"stack pte failures": 351_175, "kernel stacks": 66}
    return dataclasses.replace(
        model,
        memory=runs,
        memory_use=dataclasses.replace(
            plain,
            counters={**plain.counters, **failures},
            commit_failures=(0, 3, 0, 0),
            page_files=(*plain.page_files, PageFile("", 262_144, 250_000, 262_144, 262_144, 12_144)),
        ),
        page_frames=PageFrames(
            files=(
                MappedFile(
                    "\\Windows\\System32\\shell32.dll",
                    image=True,
                    address=0x7FF8F0A40000,
                    processes=(_NOTEPAD, _EXPLORER),
                    mapped=51,
                    standby=39,
                    transition=1,
                    locked=2,
                ),
                MappedFile("\\$Mft", False, 0x1A8D0000000, (_EXPLORER,), 3, 20, 6, 5, 0, 2),
                MappedFile("", False, 0x1A8E0000000, (_NOTEPAD, _EXPLORER), 7, 2, 4),
            ),
            private=(_NOTEPAD, 0x1A8F0000000, 9, 11),
            large=(_EXPLORER, 0x1C000000000, _LARGE_PAGE),
            zeroed=60,
            bad=2,
            cached=13,
            dangling=(1, 2),
            without_pte=4,
        ),
    )
