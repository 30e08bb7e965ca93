"""The trees of virtual address descriptors of a made machine, and the sections that they map."""

from __future__ import annotations

from collections.abc import Sequence

from kdump_sample.objects import Objects
from kdump_sample.regions import IMAGE, Region
from kdump_sample.structures import Structure
from kdump_sample.workspace import Workspace

_FILE_TYPE = 5
_OBJECT_HEADER = 0x50
_REFERENCES = 0xF
#: A balance of a node's subtrees of -1 is 3 in its two bits.
_BALANCE = 3


class VadTrees:
    """Makes trees of VADs. Sections of one file are shared by those who map it."""

    def __init__(self, work: Workspace, objects: Objects) -> None:
        self._work = work
        self._objects = objects
        self._subsections: dict[str, int] = {}

    def write(self, process: Structure, regions: Sequence[Region]) -> None:
        """Give a process (an EPROCESS) its VADs."""
        nodes = [(self._node(region), region) for region in sorted(regions, key=lambda region: region.first)]
        # Windows 7: the root is the right child of a node in the table itself, which is the root's parent.
        table = process.place("VadRoot.BalancedRoot")
        root, depth = self._link([node for node, _ in nodes], table or 0)
        process.fill(
            {
                ("VadRoot.Root", "VadRoot.BalancedRoot.RightChild"): root,
                ("VadCount", "VadRoot.NumberGenericTableElements"): len(nodes),
            }
        )
        if table is not None:
            process.fill({"VadRoot.DepthOfTree": depth, "VadRoot.BalancedRoot.u1.Parent": table})

    def _link(self, nodes: Sequence[Structure], parent: int) -> tuple[int, int]:
        """Make a tree of nodes in order; its root and how many levels it has."""
        if not nodes:
            return 0, 0
        middle = len(nodes) // 2
        node = nodes[middle]
        left, left_depth = self._link(nodes[:middle], node.address)
        right, right_depth = self._link(nodes[middle + 1 :], node.address)
        node.fill(
            {
                ("VadNode.Left", "VadNode.LeftChild", "LeftChild"): left,
                ("VadNode.Right", "VadNode.RightChild", "RightChild"): right,
                ("VadNode.ParentValue", "VadNode.u1.Parent", "u1.Parent"): parent | right_depth - left_depth & _BALANCE,
            }
        )
        return node.address, 1 + max(left_depth, right_depth)

    def _node(self, region: Region) -> Structure:
        work = self._work
        type_name, tag = ("_MMVAD_SHORT", "VadS") if region.private else ("_MMVAD", "Vad ")
        address = work.pool("nonpaged", work.structures.size(type_name), tag)
        work.zeroed(type_name, address)
        made = work.structure("_MMVAD_SHORT", address)
        if work.layouts.has("_MMVAD_SHORT", "StartingVpnHigh"):
            made.fill({"StartingVpnHigh": region.first >> 32, "EndingVpnHigh": region.last >> 32})
            made.fill({"StartingVpn": region.first & 0xFFFFFFFF, "EndingVpn": region.last & 0xFFFFFFFF})
        else:
            made.fill({"StartingVpn": region.first, "EndingVpn": region.last})
        made.fill(
            {
                ("u1.VadFlags1.CommitCharge", "u.VadFlags.CommitCharge"): region.commit,
                "u.VadFlags.VadType": region.kind,
                "u.VadFlags.Protection": region.protection,
                "u.VadFlags.PrivateMemory": int(region.private),
            }
        )
        if not region.private:
            work.structure("_MMVAD", address, {"Subsection": self._subsection(region)})
        return made

    def _subsection(self, region: Region) -> int:
        if region.file and region.file in self._subsections:
            return self._subsections[region.file]
        work = self._work
        pages = region.last - region.first + 1
        head = work.structures.size("_CONTROL_AREA")
        size = work.structures.size("_SUBSECTION")
        # The first subsection lies behind its control area, in one block.
        area = work.pool("nonpaged", head + size, "MmCa")
        work.memory.write(area, bytes(head + size))
        segment = work.pool("paged", work.structures.size("_SEGMENT"), "MmSm")
        work.zeroed("_SEGMENT", segment)
        work.structure(
            "_SEGMENT",
            segment,
            {
                "ControlArea": area,
                "TotalNumberOfPtes": pages,
                "SizeOfSegment": pages << 12,
                "NumberOfCommittedPages": region.shared_commit or 0,
            },
        )
        made = work.structure("_CONTROL_AREA", area, {"Segment": segment, "NumberOfMappedViews": 1})
        made.fill({"u.Flags.File": int(bool(region.file)), "u.Flags.Image": int(region.kind == IMAGE)})
        if region.file:
            made.set("FilePointer", self._file(region.file) | _REFERENCES)
            self._subsections[region.file] = area + head
        work.structure("_SUBSECTION", area + head, {"ControlArea": area, "PtesInSubsection": pages})
        return area + head

    def _file(self, path: str) -> int:
        work = self._work
        size = work.structures.size("_FILE_OBJECT")
        body = work.pool("nonpaged", _OBJECT_HEADER + size, "File") + _OBJECT_HEADER
        work.zeroed("_FILE_OBJECT", body)
        made = work.structure("_FILE_OBJECT", body, {"Type": _FILE_TYPE, "Size": size, "Flags": 0x44042})
        made.unicode("FileName", path, work.pool("paged", 2 * len(path) + 2, "IoNm"))
        self._objects.header(body, "File", 0, 16)
        return body
