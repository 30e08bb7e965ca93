"""Requests that drivers do not complete."""

from __future__ import annotations

import collections

from volatility3_kdump.analysis.hang.evidence import REQUESTS, SECOND, Evidence, Section, Suspicion, counted, seconds
from volatility3_kdump.analysis.hang.observed import SMALL_DUMP, Observed
from volatility3_kdump.findings.pending_requests import PendingRequest
from volatility3_kdump.images.modules import Module
from volatility3_kdump.windows.processes.threads import WAITING, Thread

_POWER, _PNP = 22, 27
_CONTROLS = (13, 14, 15)
#: IRP_MJ_DIRECTORY_CONTROL, LOCK_CONTROL: pending until something changes, or somebody unlocks.
_PATIENT = (12, 17)
_EXECUTIVE = ("Executive", "WrExecutive")
_KERNEL = 0
_CANCELLED, _LONG, _VERY_LONG = 10 * SECOND, 30 * SECOND, 60 * SECOND
_MOST_SHOWN = 8


def requests_section(observed: Observed) -> Section:
    """The pending requests by the driver that has each, with how old they are at least.

    A thread that waits cannot have sent a request since, so that its requests are at least as old as its wait.
    """
    if observed.small:
        return Section(REQUESTS, absent=SMALL_DUMP)
    by_driver: dict[str, list[tuple[PendingRequest, Module | None]]] = collections.defaultdict(list)
    for request in observed.pending.requests:
        module = observed.holder_module(request)
        held_by = request.view.holder if request.view is not None else None
        name = module.image_name if module is not None else (held_by or "a driver that is not known").split(",")[0]
        by_driver[name].append((request, module))
    evidence = [_of_driver(observed, name, held) for name, held in by_driver.items()]
    evidence.sort(key=lambda fact: (-(fact.age or 0), -(fact.count or 0)))
    return Section(REQUESTS, tuple(evidence), notes=tuple(observed.pending.problems))


def age_of(request: PendingRequest) -> int | None:
    """How old a request is at least."""
    thread = request.thread.thread
    return thread.wait_time if thread.state == WAITING else None


def _of_driver(observed: Observed, name: str, held: list[tuple[PendingRequest, Module | None]]) -> Evidence:
    held = sorted(held, key=lambda entry: -(age_of(entry[0]) or 0))
    ages = [age for age in (age_of(request) for request, _ in held) if age is not None]
    age = max(ages, default=None)
    sentence = f"{name} has {counted(len(held), 'request')}"
    if age is not None:
        sentence += f", the oldest for {seconds(age)} at least" if len(held) > 1 else f", for {seconds(age)} at least"
    details = [_line(observed, request) for request, _ in held[:_MOST_SHOWN]]
    if len(held) > _MOST_SHOWN:
        details.append(f"{len(held) - _MOST_SHOWN} more")
    suspicions = [
        suspicion
        for request, module in held
        if module is not None and (suspicion := _suspicion(observed, request, module)) is not None
    ]
    strongest = max(suspicions, key=lambda suspicion: suspicion.weight, default=None)
    return Evidence(
        sentence,
        held[0][0].thread.thread.address,
        held[0][0].address,
        held[0][1].image_name if held[0][1] is not None else None,
        count=len(held),
        age=age,
        details=tuple(details),
        threads=tuple(dict.fromkeys(request.thread.thread.address for request, _ in held)),
        suspicions=(strongest,) if strongest is not None else (),
    )


def _line(observed: Observed, request: PendingRequest) -> str:
    view = request.view
    if view is None:
        return f"{request.address:x} of {observed.title(request.thread.thread.address)}: {request.reason}"
    age = age_of(request)
    line = f"{request.address:x} {view.request or '?'} of {observed.title(request.thread.thread.address)}"
    if view.irp.cancelled:
        line += ", cancelled"
    return line + (f", {seconds(age)} at least" if age is not None else "")


def _suspicion(observed: Observed, request: PendingRequest, module: Module) -> Suspicion | None:
    view, age, thread = request.view, age_of(request), request.thread.thread
    current = view.irp.current if view is not None else None
    if view is None or current is None or age is None or current.major is None:
        return None
    what = f"it has the request {request.address:x} ({view.request})"
    if current.major in (_POWER, _PNP) and age >= _LONG:
        why = f"{what}, which was to be completed soon, for {seconds(age)}"
        return observed.suspect_driver(module, why, 75, thread.address)
    if view.irp.cancelled and age >= _CANCELLED:
        why = f"{what}, which was cancelled, and has not completed it for {seconds(age)}"
        return observed.suspect_driver(module, why, 65, thread.address)
    if not _synchronous(thread) or current.major in _PATIENT:
        return None
    if current.major in _CONTROLS:
        if age < _VERY_LONG or not observed.is_third_party(module):
            return None
        why = f"{what}, for which {observed.title(thread.address)} waits since {seconds(age)}"
        return observed.suspect_driver(module, why, 45, thread.address)
    if age >= _LONG:
        why = f"{what}, for which {observed.title(thread.address)} waits since {seconds(age)}"
        return observed.suspect_driver(module, why, 58, thread.address)
    return None


def _synchronous(thread: Thread) -> bool:
    """Whether a thread waits in the kernel for a request to be completed, not at a user's pleasure."""
    return thread.wait_mode == _KERNEL and thread.wait_reason_name in _EXECUTIVE
