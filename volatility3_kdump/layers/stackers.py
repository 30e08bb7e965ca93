"""Stackers: how the host's own plugins get the layers, ahead of the host's stackers and scans."""

from __future__ import annotations

import logging

from volatility3.framework import constants, interfaces
from volatility3.framework.layers import crash

from volatility3_kdump.archives.archive import shown
from volatility3_kdump.dump import DumpType, parse_header
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layers.crash import KdumpCrash32Layer, KdumpCrash64Layer, source_of
from volatility3_kdump.layers.translation import build_virtual_layer

vollog = logging.getLogger(__name__)

#: Small memory dumps that a warning was given for: stackers are asked again and again.
_warned: set[str] = set()


class KdumpCrashStacker(interfaces.automagic.StackerLayerInterface):
    """Puts a physical layer over a crash dump, before the host's own crash stacker (order 11) sees it."""

    stack_order = 5
    exclusion_list = ["linux", "mac"]

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> interfaces.layers.DataLayerInterface | None:
        for layer_class in (KdumpCrash64Layer, KdumpCrash32Layer):
            try:
                layer_class.check_header(context.layers[layer_name])
            except crash.WindowsCrashDumpFormatException:
                continue
            if _is_small(context.layers[layer_name]):
                return None
            name = context.layers.free_layer_name(layer_class.__name__)
            context.config[interfaces.configuration.path_join(name, "base_layer")] = layer_name
            try:
                layer = layer_class(context, name, name)
            except crash.WindowsCrashDumpFormatException as error:
                vollog.warning(f"kdump: {error}")
                raise
            for warning in layer.dump.warnings:
                vollog.warning(f"kdump: {warning}")
            return layer
        return None


def _is_small(layer: interfaces.layers.DataLayerInterface) -> bool:
    """Whether a layer is a small memory dump, on which no plugin of the host's runs: the only place to say so."""
    try:
        source = source_of(layer)
        if parse_header(source).dump_type != DumpType.TRIAGE:
            return False
    except KdumpError:
        return False
    if source.name not in _warned:
        _warned.add(source.name)
        name = shown(source.name.replace("\\", "/").rpartition("/")[2])
        vollog.warning(
            f"kdump: {name} is a small memory dump: it holds no physical memory, which this plugin needs. "
            "Use the kdump.* plugins, kdump.analyze first"
        )
    return True


class KdumpIntelStacker(interfaces.automagic.StackerLayerInterface):
    """Uses the page tables that the dump header names instead of scanning for some."""

    stack_order = 6
    exclusion_list = ["linux", "mac"]

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> interfaces.layers.DataLayerInterface | None:
        return build_virtual_layer(context, layer_name, "IntelHelper")
