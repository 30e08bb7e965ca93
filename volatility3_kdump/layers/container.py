"""A dump inside a container as a Volatility layer, and the paging files beside it as swap layers."""

from __future__ import annotations

import logging
import urllib.parse
from pathlib import Path

from volatility3.framework import constants, exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical

from volatility3_kdump.archives.containers import Extracted, extract_member, is_container, open_container
from volatility3_kdump.dump import FileSource
from volatility3_kdump.errors import KdumpError, MemberNotChosen
from volatility3_kdump.files import parse_url, path_of
from volatility3_kdump.layers.paging import paged
from volatility3_kdump.layers.plain import SourceLayer
from volatility3_kdump.progress import Progress

vollog = logging.getLogger(__name__)


def local_path(location: str) -> tuple[Path, str | None] | None:
    """The path that a file URL names, and the member that its fragment names; ``None`` for other URLs."""
    path, parts = path_of(location), parse_url(location)
    if path is None or parts is None:
        return None
    return path, urllib.parse.unquote(parts.fragment) or None


class KdumpMemberLayer(SourceLayer):
    """The bytes of a dump inside a container, which were extracted into the cache.

    ``location`` is the file URL of the container; its fragment (``crash.zip#MEMORY.DMP``) may name the member.
    """

    source: FileSource
    what = "a dump inside a container"

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        extracted: Extracted | None = None,
    ) -> None:
        super().__init__(context=context, config_path=config_path, name=name)
        try:
            extracted = extracted or extract(self.config["location"])
            if extracted is None:
                raise KdumpError("the file is no archive")
            self.extracted = extracted
            self.source = self._open(extracted)
        except (KdumpError, OSError) as error:
            raise exceptions.LayerException(name, str(error)) from error

    def _open(self, extracted: Extracted) -> FileSource:
        return FileSource(extracted.path)

    def destroy(self) -> None:
        self.source.close()

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [requirements.StringRequirement(name="location", optional=False)]


class KdumpPagingFileLayer(KdumpMemberLayer):
    """A paging file that the manifest of a container names; ``index`` counts from 0 in the manifest's order."""

    def _open(self, extracted: Extracted) -> FileSource:
        member = extracted.paging_files[self.config["index"]]
        if member is None:
            raise KdumpError("the paging file is not in the archive")
        return FileSource(extract_member(extracted.container, member.number))

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        return [*super().get_requirements(), requirements.IntRequirement(name="index", optional=False)]


def extract(location: str, member: str | None = None, progress: Progress | None = None) -> Extracted | None:
    """The dump in the container at a file URL, ``None`` for other files and URLs.

    ``member`` names it, else the URL's fragment. Raises a :class:`~volatility3_kdump.errors.KdumpError`.
    """
    place = local_path(location)
    if place is None:
        return None
    return open_container(place[0], member or place[1], progress)


def member_layer(
    context: interfaces.context.ContextInterface, config_path: str, location: str, extracted: Extracted
) -> KdumpMemberLayer:
    """The layer of a dump that was extracted, not yet added to the context."""
    plain = urllib.parse.urldefrag(location).url
    path = interfaces.configuration.path_join(config_path, "location")
    # By its number, which is of one member only.
    context.config[path] = f"{plain}#{extracted.member.number}"
    return KdumpMemberLayer(context, config_path, context.layers.free_layer_name("KdumpMemberLayer"), extracted)


def _member_below(
    context: interfaces.context.ContextInterface, layer: interfaces.layers.DataLayerInterface
) -> KdumpMemberLayer | None:
    """The dump inside a container that a layer rests on."""
    while not isinstance(layer, KdumpMemberLayer):
        if not isinstance(layer, interfaces.layers.TranslationLayerInterface) or not layer.dependencies:
            return None
        layer = context.layers[layer.dependencies[0]]
    return layer


def add_swap_layers(
    context: interfaces.context.ContextInterface,
    layer: interfaces.layers.TranslationLayerInterface,
    progress: Progress | None = None,
) -> list[str]:
    """Give an Intel layer over a dump from a container the paging files of the container's manifest.

    The layers are added to the context. Returns what could not be, one line each.
    """
    join = interfaces.configuration.path_join
    base = _member_below(context, layer)
    if base is None or paged(layer) is None or not base.extracted.paging_files:
        return []
    swap_path = join(layer.config_path, "swap_layers")
    complaints = []
    for index, member in enumerate(base.extracted.paging_files):
        path = join(swap_path, f"swap_layers{index}")
        if member is None:
            complaints.append(f"paging file {index} of the archive's manifest is not in the archive")
            continue
        if context.config.get(path, None) in context.layers:
            continue
        try:
            extract_member(base.extracted.container, member.number, progress)
            context.config[join(path, "location")] = base.config["location"]
            context.config[join(path, "index")] = index
            swap = KdumpPagingFileLayer(
                context, path, context.layers.free_layer_name("KdumpPagingFileLayer"), base.extracted
            )
        except (KdumpError, exceptions.LayerException) as error:
            complaints.append(f"paging file {index} of the archive cannot be used: {error}")
            continue
        context.add_layer(swap)
        context.config[path] = swap.name
        context.config[join(path, "class")] = f"{type(swap).__module__}.{type(swap).__qualname__}"
    context.config[join(swap_path, "number_of_elements")] = len(base.extracted.paging_files)
    context.config[swap_path] = True
    # Our layers keep what the configuration says.
    getattr(layer, "refresh", int)()
    return complaints


class KdumpContainerStacker(interfaces.automagic.StackerLayerInterface):
    """Puts the dump inside a container in place of the file, before any stacker looks at what is in it."""

    stack_order = 4
    exclusion_list = ["linux", "mac"]

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> interfaces.layers.DataLayerInterface | None:
        layer = context.layers[layer_name]
        if not isinstance(layer, physical.FileLayer):
            return None
        place = local_path(layer.location)
        try:
            if place is None or not is_container(place[0]):
                return None
            extracted = extract(layer.location, None, progress_callback)
        except OSError:
            return None
        except KdumpError as error:
            # The host goes on with the file itself, so this is the only place that can say why nothing fits.
            hint = f" (for this plugin: -f {urllib.parse.urldefrag(layer.location).url}#NAME)"
            vollog.warning(
                f"kdump: {place[0].name if place else layer.location}: {error}"
                + (hint if isinstance(error, MemberNotChosen) else "")
            )
            return None
        if extracted is None:
            return None
        name = context.layers.free_layer_name("KdumpMemberLayer")
        stacked = member_layer(context, name, layer.location, extracted)
        for warning in extracted.warnings:
            vollog.warning(f"kdump: {warning}")
        return stacked


class KdumpSwapLayers(interfaces.automagic.AutomagicInterface):
    """Adds the paging files of a container to the layers that the host has stacked on its dump.

    The host rebuilds stacked layers from their configuration, but not their lists of swap layers.
    """

    #: Behind the host's stacker (10), before anything reads memory.
    priority = 28
    exclusion_list = ["linux", "mac"]

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        for name in list(context.layers):
            layer = context.layers[name]
            if paged(layer) is not None:
                for complaint in add_swap_layers(context, layer, progress_callback):
                    vollog.warning(f"kdump: {complaint}")
