"""Lays out a scene in physical memory, with the structures of one kernel's symbol table."""

from __future__ import annotations

from kdump_sample import paging
from kdump_sample.error_log import write_error_log
from kdump_sample.images import Images
from kdump_sample.kernel_data import write_debugger_data, write_kernel_data
from kdump_sample.lists import write_lists
from kdump_sample.memory_counters import write_memory_counters, write_paged_pools
from kdump_sample.objects import Objects
from kdump_sample.page_frames import Frame, PageFrameDatabase
from kdump_sample.processes import Processes
from kdump_sample.processors import Processors
from kdump_sample.queues import write_timers, write_work_queues
from kdump_sample.resources import write_resources
from kdump_sample.scene import Scene
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import Layouts

#: A page-file PTE: offset 0x2A31C in page file 0, protection read-write, not swizzled.
_PAGED_OUT = 0x2A31C << 32 | 4 << 5 | 1 << 4


class Machine:
    """A scene laid out: its parts, and in ``work.physical`` the pages of a dump.

    Raises :class:`~volatility3_kdump.layout.LayoutError` for a symbol table that is not one of an x64 kernel.
    """

    def __init__(self, scene: Scene, layouts: Layouts) -> None:
        self.scene = scene
        self.work = Workspace(scene, layouts)
        for process in scene.processes:
            self.work.memory.add_process(process.directory_table_base)
        self.work.memory.map_large(*scene.large_page, paging.KERNEL_DATA)
        self.images = Images(self.work)
        self.images.link()
        self.objects = Objects(self.work, self.images)
        write_kernel_data(self.work, self.images)
        self.processes = Processes(self.work, self.images, self.objects)
        for driver in scene.driver_objects:
            self.objects.driver(driver)
        for request in scene.requests:
            self.objects.request(request)
        for pending in scene.pending:
            self.objects.pending(pending)
        self.processors = Processors(self.work, self.images, self.objects, self.processes)
        write_lists(self.work, self.processors)
        write_memory_counters(self.work, self.processors)
        write_resources(self.work, self.processes)
        write_work_queues(self.work)
        write_timers(self.work, self.processors)
        write_error_log(self.work)
        database = PageFrameDatabase(self.work, scene.page_frames) if scene.page_frames is not None else None
        self._extras(scene)
        write_paged_pools(self.work)
        self.debugger_data = write_debugger_data(self.work)
        for address in scene.paged_out:
            self.work.memory.set_entry(address, _PAGED_OUT)
        for process in scene.processes:
            for address in process.paged_out:
                self.work.memory.set_entry(address, _PAGED_OUT, process.directory_table_base)
        # the sections of the kernel follow from what lies in it, and every mapping must be there before the roots
        self.images.finish()
        #: What the page-frame database says, where the scene has one.
        self.page_frames: list[Frame] = database.write() if database is not None else []
        self.work.memory.finish()

    def _extras(self, scene: Scene) -> None:
        """What the scene itself adds, over everything that the other parts have written."""
        work = self.work
        for structure in scene.structures:
            made = work.structure(structure.type_name, structure.address, structure.fields)
            for path, string in structure.strings.items():
                made.unicode(path, string, work.pool("paged", 2 * len(string) + 2))
        # from here on nothing is allocated
        work.pools.finish()
        for variable in scene.variables:
            work.variable(variable.symbol, variable.value, variable.size)
        for record in scene.records:
            work.memory.write(record.address, record.data)
