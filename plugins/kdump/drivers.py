"""Loaded and unloaded modules."""

from volatility3.framework.configuration import requirements

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_address
from volatility3_kdump.plugin import KdumpPlugin, list_option
from volatility3_kdump.views.drivers import address_grid, check_grid, drivers_grid
from volatility3_kdump.windows.listing.modules import chosen_modules, chosen_unloaded


class Drivers(KdumpPlugin):
    """Shows loaded and unloaded kernel modules, their driver objects and versions (KD: lm, lmv, !drivers, !chkimg).

    --check compares their code with the files on the image path. Addresses are expressions as KD has them.
    """

    @classmethod
    def options(cls):
        return [
            list_option("module", "Only modules of these names, * allowed"),
            list_option("address", "Which module, section and symbol these addresses lie in"),
            requirements.BooleanRequirement(
                name="verbose", description="Versions, sections, driver objects and devices (KD: lmv)", optional=True
            ),
            requirements.BooleanRequirement(
                name="sizes", description="With -r windbg, sizes of code and data (KD: !drivers)", optional=True
            ),
            requirements.BooleanRequirement(
                name="check", description="Compare code with the files on --image-path (KD: !chkimg)", optional=True
            ),
        ]

    def grid(self, target):
        names = self.option("module") or []
        if self.option("address"):
            return address_grid(target, [parse_address(address, target) for address in self.option("address")])
        loaded = chosen_modules(target, names)
        if not loaded and not (names and chosen_unloaded(target, names)):
            because = f": {target.dump.warnings[0]}" if target.dump.warnings else ""
            reason = f"no module is named {' or '.join(names)}" if names else f"no module list is in the dump{because}"
            raise KdumpError(f"{target.name}: {reason}")
        if self.option("check"):
            if not target.images.has_path:
                raise KdumpError(f"{target.name}: --check needs the drivers' files: --image-path names their directory")
            return check_grid(target, names, self._progress_callback)
        verbose, sizes = bool(self.option("verbose")), bool(self.option("sizes"))
        if verbose and sizes:
            raise KdumpError(f"{target.name}: choose one of --verbose and --sizes")
        return drivers_grid(target, names, verbose, self._progress_callback, sizes)
