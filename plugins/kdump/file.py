"""Files, volumes, control areas and page frames."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin
from volatility3_kdump.views.files import control_area_grid, file_grid, frame_grid, volume_grid

_SHOWN = {"address": file_grid, "volume": volume_grid, "control-area": control_area_grid, "page": frame_grid}


class File(KdumpPlugin):
    """Shows a file object, a volume, a control area or a page frame (KD: !fileobj, !vpb, !ca, !pfn)."""

    @classmethod
    def options(cls):
        return [
            requirements.StringRequirement(name="address", description="A FILE_OBJECT", optional=True),
            requirements.StringRequirement(name="volume", description="A VPB", optional=True),
            requirements.StringRequirement(name="control-area", description="A CONTROL_AREA", optional=True),
            requirements.StringRequirement(name="page", description="A page frame number", optional=True),
        ]

    def grid(self, target):
        chosen = [name for name in _SHOWN if self.option(name)]
        if len(chosen) != 1:
            raise KdumpError("choose one of --address, --volume, --control-area and --page")
        return _SHOWN[chosen[0]](target, parse_address(self.option(chosen[0]), target))
