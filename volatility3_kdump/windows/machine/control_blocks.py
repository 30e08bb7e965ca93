"""The control region, control block and model of each processor, as far as the dump has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.machine.dpcs import DpcQueue, read_dpc_queues
from volatility3_kdump.windows.machine.processors import (
    ControlRegion,
    ProcessorModel,
    control_region,
    processor_models,
    processors,
)
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


@dataclass(frozen=True)
class ControlBlock:
    """A processor's KPCR and KPRCB, and its model; ``model`` is ``None`` where its KPRCB names none."""

    region: ControlRegion
    model: ProcessorModel | None


def control_blocks(target: Target, numbers: Iterable[int] = ()) -> list[ControlBlock]:
    """Those of the processors of these numbers, or of all. Raises :class:`KdumpError` where there are none."""
    wanted = set(numbers)
    require_symbols(target, "control blocks")
    models = {model.number: model for model in processor_models(target)}
    regions = [
        region
        for processor in processors(target)
        if not wanted or processor.number in wanted
        if (region := control_region(target, processor)) is not None
    ]
    missing = wanted - {region.number for region in regions}
    if missing or not regions:
        which = f"processor {min(missing):x} has no" if missing else "no processor has a"
        raise KdumpError(f"{target.name}: {which} control block in the dump")
    return [ControlBlock(region, models.get(region.number)) for region in regions]


def models_of(target: Target, number: int | None = None) -> list[ProcessorModel]:
    """The models of the processors, or of one. Raises :class:`KdumpError` where they are not known."""
    models = [model for model in processor_models(target) if number in (None, model.number)]
    if not models:
        missing = "no such control block is in the dump, or it names no model"
        why = target.symbol_status if target.nt is None else missing
        raise KdumpError(f"{target.name}: the processors' models are not known: {why}")
    return models


def dpc_queues_of(target: Target, number: int | None = None) -> list[DpcQueue]:
    """The DPC queues of every processor, or of one. Raises :class:`KdumpError` where they are not known."""
    queues = [queue for queue in read_dpc_queues(target) if number in (None, queue.processor)]
    if not queues:
        why = target.symbol_status if target.nt is None else "no such control block is in the dump"
        raise KdumpError(f"{target.name}: the queues of DPCs are not known: {why}")
    return queues
