"""What holds processors up: DPCs and raised IRQLs that last, spin locks that are not released, threads that starve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.analysis.hang.evidence import (
    DPCS,
    PROCESSORS,
    READY,
    SECOND,
    SPIN_LOCKS,
    Evidence,
    Section,
    Suspicion,
    counted,
    seconds,
)
from volatility3_kdump.analysis.hang.observed import Observed
from volatility3_kdump.windows.machine.dpcs import read_dpc_queues
from volatility3_kdump.windows.machine.spin_locks import read_queued_locks
from volatility3_kdump.windows.processes.crashed import crash_processor
from volatility3_kdump.windows.processes.ready import ProcessorState, shared_queues
from volatility3_kdump.windows.stacks.frames import Frame, Stack
from volatility3_kdump.windows.structures import read_row

_DISPATCH = 2
#: A DPC, and all of them together, end in well under this.
_LONG_DPC, _LONG_DISPATCH = SECOND, SECOND
#: The balance set manager helps a thread that has been ready for about four seconds (Windows Internals, chapter 4).
_STARVED, _LONG_STARVED = 4 * SECOND, 10 * SECOND
#: Frames from the top in which the wait for a spin lock must be: above it lies how the processor was stopped.
_TOP = 16
#: The routines in which a processor waits for a spin lock that another one has.
_SPINS = re.compile(
    r"K[xi](WaitForSpinLockAndAcquire|WaitForLockOwnerShip|WaitForLockChainValid|AcquireQueuedSpinLock\w*)"
    r"|Ke?Acquire(InStackQueued)?SpinLock\w*|KeAcquireQueuedSpinLock\w*"
    r"|Exp?(WaitForSpinLock(Exclusive|Shared)AndAcquire|AcquireSpinLock(Exclusive|Shared)\w*)",
    re.IGNORECASE,
)
_COUNTERS = {
    "dpc_ticks": "DpcTimeCount",
    "dpc_limit": ("DpcTimeLimitTicks", "DpcTimeLimit"),
    "dispatch_ticks": "DpcWatchdogCount",
    "dispatch_limit": ("DpcWatchdogPeriodTicks", "DpcWatchdogPeriod"),
}


@dataclass(frozen=True)
class _Running:
    """A processor and what it does."""

    state: ProcessorState
    stack: Stack
    routine: int | None
    dpc_ticks: int | None
    dpc_limit: int | None
    dispatch_ticks: int | None
    crashed: bool


def _running(observed: Observed) -> Iterator[_Running]:
    target = observed.target
    active = {queue.processor: queue.active for queue in read_dpc_queues(target) if queue.active is not None}
    crashed = crash_processor(target)
    for state in observed.states:
        row: Any = None
        if target.nt is not None:
            row = read_row(target.memory, target.nt.reader("_KPRCB", **_COUNTERS), state.prcb)
        dpc = active.get(state.number)
        yield _Running(
            state,
            observed.processor_stack(state.number),
            dpc.routine if dpc is not None else None,
            getattr(row, "dpc_ticks", None),
            getattr(row, "dpc_limit", None) or None,
            getattr(row, "dispatch_ticks", None),
            crashed is not None and crashed.number == state.number,
        )


# processors -----------------------------------------------------------------------------------------------------------


def processors_section(observed: Observed) -> Section:
    """What every processor runs, since when, at which IRQL."""
    if not observed.states:
        observed.require("what the processors run")
        return Section(PROCESSORS, absent="no processor's control block is in the dump")
    return Section(PROCESSORS, tuple(_processor(observed, running) for running in _running(observed)))


def _processor(observed: Observed, running: _Running) -> Evidence:
    state = running.state
    current = state.current or None
    level = f" at IRQL {state.irql}" if state.irql else ""
    since = ""
    sentence = f"processor {state.number} "
    age = None
    if state.idle:
        sentence += "is idle"
    elif current is None:
        sentence += "runs a thread that is not in the dump"
    else:
        age = observed.thread(current).wait_time
        sentence += f"runs {observed.title(current)}"
        if age is not None:
            since = f", {seconds(age)} after it last waited or became ready"
    sentence += level + since
    raised = _raised(observed, running)
    if raised is not None:
        sentence += f", at DISPATCH_LEVEL or above for {seconds(raised)}"
    suspicions = []
    busy = _long_dpc(observed, running) or _long_dispatch(observed, running)
    if busy is not None:
        suspicions.append(busy)
    if state.dpc_active:
        name = observed.target.name_of(running.routine) if running.routine else None
        sentence += f", in the DPC {name or hex(running.routine)}" if running.routine else ", in DPCs"
        ran = observed.of_ticks(running.dpc_ticks)
        if running.dpc_ticks and ran is not None:
            limit = f" of {running.dpc_limit} allowed" if running.dpc_limit else ""
            sentence += f" for {seconds(ran)} ({counted(running.dpc_ticks, 'tick')}{limit})"
    return Evidence(
        sentence,
        thread=current,
        processor=state.number,
        age=age,
        stack=None if state.idle and not state.dpc_active else running.stack,
        suspicions=tuple(suspicions),
    )


def _long_dpc(observed: Observed, running: _Running) -> Suspicion | None:
    """KPRCB.DpcTimeCount: clock ticks of the DPC that runs; the watchdog's limit is DpcTimeLimit."""
    ran = observed.of_ticks(running.dpc_ticks)
    if not running.state.dpc_active or not running.dpc_ticks or ran is None:
        return None
    beyond = running.dpc_limit is not None and running.dpc_ticks >= running.dpc_limit
    if not beyond and ran < _LONG_DPC:
        return None
    why = f"its DPC has run on processor {running.state.number} for {seconds(ran)}"
    if beyond:
        why += f", longer than the watchdog allows ({running.dpc_limit} ticks)"
    return _of_code(observed, running, why, 90 if beyond else 75)


def _long_dispatch(observed: Observed, running: _Running) -> Suspicion | None:
    raised = _raised(observed, running)
    if raised is None:
        return None
    why = f"processor {running.state.number} has been at DISPATCH_LEVEL or above for {seconds(raised)}"
    return _of_code(observed, running, why, 70)


def _raised(observed: Observed, running: _Running) -> int | None:
    """How long the IRQL of a processor has been raised, where that is long.

    KPRCB.DpcWatchdogCount: clock ticks since it was last below DISPATCH_LEVEL.
    """
    raised = observed.of_ticks(running.dispatch_ticks)
    if raised is None or raised < _LONG_DISPATCH or (running.state.irql or 0) < _DISPATCH:
        return None
    return raised


def _of_code(observed: Observed, running: _Running, why: str, weight: int) -> Suspicion | None:
    """A suspicion of what a processor runs: the DPC's driver, the one on the stack, the thread."""
    module = observed.target.names.module_of(running.routine) if running.routine else None
    if module is None or not observed.is_third_party(module):
        module = observed.driver_on(running.stack.frames) or module
    if module is not None:
        return observed.suspect_driver(module, why, weight, running.state.current)
    name = next((str(frame.name) for frame in running.stack.frames if frame.name is not None), None)
    if name is None and running.state.current:
        return observed.suspect_thread(running.state.current, why, weight)
    return Suspicion(f"{name}", name, why, weight, None, running.state.current) if name is not None else None


# spin locks -----------------------------------------------------------------------------------------------------------


def spin_locks_section(observed: Observed) -> Section:
    """Processors that spin for a lock, with whoever owns it where the kernel keeps that."""
    if not observed.states:
        return Section(SPIN_LOCKS, absent="no processor's control block is in the dump")
    evidence = list(_queued(observed))
    every = list(_running(observed))
    spinning = {entry.state.number: wanted for entry in every if (wanted := _wanted(entry.stack)) is not None}
    for entry in every:
        if entry.state.number in spinning:
            evidence.append(_spinner(observed, entry, spinning[entry.state.number], every, set(spinning)))
    unseen = [entry for entry in every if not entry.state.idle and not entry.stack.frames]
    if unseen and not evidence:
        numbers = ", ".join(str(entry.state.number) for entry in unseen)
        word = "processor" if len(unseen) == 1 else "processors"
        why = unseen[0].stack.end.removeprefix(f"no registers of processor {unseen[0].state.number}: ")
        return Section(SPIN_LOCKS, absent=f"no stack of {word} {numbers}: {why}")
    return Section(SPIN_LOCKS, tuple(evidence))


def _queued(observed: Observed) -> Iterator[Evidence]:
    """The numbered queued spin locks that somebody waits for: these name their owner."""
    locks = read_queued_locks(observed.target)
    current = {state.number: state.current for state in observed.states}
    for lock in locks.locks:
        if not lock.waiting or lock.owner is None:
            continue
        owner = current.get(lock.owner)
        name = " ".join(lock.name.split())
        why = f"processor {lock.owner} owns the spin lock {name}, for which {_those(lock.waiting)}"
        suspicions = () if not owner else (observed.suspect_thread(owner, why, 70),)
        yield Evidence(why, owner or None, lock.address, processor=lock.owner, suspicions=suspicions)


def _those(numbers: tuple[int, ...]) -> str:
    named = ", ".join(str(number) for number in numbers)
    return f"processor {named} waits" if len(numbers) == 1 else f"processors {named} wait"


def _wanted(stack: Stack) -> int | None:
    """The index of the frame that wants a spin lock, on a stack that waits for one."""
    spins = [index for index, frame in enumerate(stack.frames[:_TOP]) if frame.name and _is_spin(frame)]
    return spins[-1] + 1 if spins and spins[-1] + 1 < len(stack.frames) else None


def _is_spin(frame: Frame) -> bool:
    return frame.name is not None and frame.name.module == "nt" and bool(_SPINS.fullmatch(frame.name.symbol or ""))


def _spinner(observed: Observed, entry: _Running, wanted: int, every: list[_Running], spinning: set[int]) -> Evidence:
    frames = entry.stack.frames
    caller = frames[wanted]
    module = observed.target.names.module_of(caller.ip)
    number = entry.state.number
    sentence = f"processor {number} spins for a lock that {caller.name or hex(caller.ip)} wants"
    suspicions: list[Suspicion] = []
    holders = [
        other
        for other in every
        if other.state.number not in spinning
        and (other.state.irql or 0) >= _DISPATCH
        and module is not None
        and any(observed.target.names.module_of(frame.ip) == module for frame in other.stack.frames)
    ]
    if len(holders) == 1 and module is not None and module.name != "nt":
        (holder,) = holders
        sentence += (
            f"; processor {holder.state.number} runs {module.image_name} at IRQL {holder.state.irql} and may hold it"
        )
        why = (
            f"processor {number} spins for a lock of its, and processor {holder.state.number} is in it at a raised IRQL"
        )
        suspicions.append(observed.suspect_driver(module, why, 65, holder.state.current or None))
    elif module is not None and observed.is_third_party(module):
        why = f"its code spins for a lock on processor {number}; the lock does not say who holds it"
        suspicions.append(observed.suspect_driver(module, why, 50, entry.state.current or None))
    else:
        sentence += "; the lock does not say who holds it"
    return Evidence(
        sentence,
        entry.state.current or None,
        module=module.image_name if module is not None else None,
        processor=number,
        stack=entry.stack,
        suspicions=tuple(suspicions),
    )


# ready threads --------------------------------------------------------------------------------------------------------


def ready_section(observed: Observed) -> Section:
    """Threads that are ready and get no processor."""
    if not observed.states:
        observed.require("ready queues")
        return Section(READY, absent="no processor's control block is in the dump")
    shared = shared_queues(observed.target, observed.states)
    starving: list[_Starving] = []
    waiting = 0
    for queue, states in [
        *((state.queue, [state]) for state in observed.states),
        *(
            (queue, [state for state in observed.states if (queue.affinity or 0) >> state.number & 1])
            for queue in shared
        ),
    ]:
        for priority, address in queue.threads:
            waiting += 1
            age = observed.thread(address).wait_time
            if age is not None and age >= _STARVED:
                starving.append(_Starving(address, priority, age, tuple(states)))
    starving.sort(key=lambda thread: -thread.age)
    evidence = tuple(_starved(observed, starving, thread) for thread in starving)
    notes = tuple(problem for state in observed.states for problem in state.queue.problems)
    rest = waiting - len(evidence)
    if rest:
        notes += (f"{counted(rest, 'thread')} ready for less than {_STARVED // SECOND} s, which is usual",)
    return Section(READY, evidence, notes=notes)


@dataclass(frozen=True)
class _Starving:
    """A thread that has been ready for long, and the processors that could run it."""

    address: int
    priority: int
    age: int
    states: tuple[ProcessorState, ...]


def _starved(observed: Observed, starving: list[_Starving], thread: _Starving) -> Evidence:
    """A thread that starves. Only the one that has for longest points at who runs, for all of them."""
    address, priority, age, states = thread.address, thread.priority, thread.age, thread.states
    numbers = ", ".join(str(state.number) for state in states)
    sentence = (
        f"{observed.title(address)} (priority {priority}) has been ready for {seconds(age)} on processor {numbers}"
    )
    suspicions: list[Suspicion] = []
    alike = [other for other in starving if other.states == states]
    busy = [state for state in states if state.current and not state.idle]
    crashed = crash_processor(observed.target)
    if states and len(busy) == len(states):
        for state in busy:
            assert state.current is not None
            runner = observed.thread(state.current)
            sentence += f"; processor {state.number} runs {observed.title(state.current)} (priority {runner.priority})"
            stopped = crashed is not None and crashed.number == state.number
            raised = (state.irql or 0) >= _DISPATCH or state.dpc_active
            if stopped or alike[0] is not thread or not (raised or (runner.priority or 0) >= priority):
                continue
            which = observed.title(address)
            if len(alike) > 1:
                which = f"{len(alike)} threads, {which} for longest,"
            why = f"{which} {'has' if len(alike) == 1 else 'have'} been ready for {'' if len(alike) == 1 else 'up to '}"
            why += f"{seconds(age)} while processor {state.number} runs this"
            suspicions.append(observed.suspect_thread(state.current, why, 72 if age >= _LONG_STARVED else 45))
    elif states:
        sentence += ", which is idle" if len(states) == 1 else ", of which one is idle"
    return Evidence(
        sentence, address, processor=states[0].number if states else None, age=age, suspicions=tuple(suspicions)
    )


# DPC queues -----------------------------------------------------------------------------------------------------------


def dpcs_section(observed: Observed) -> Section:
    """DPCs that wait behind one that runs."""
    if not observed.states:
        observed.require("DPC queues")
        return Section(DPCS, absent="no processor's control block is in the dump")
    evidence = []
    notes: list[str] = []
    for queue in read_dpc_queues(observed.target):
        if queue.problem is not None:
            notes.append(queue.problem)
        if not queue.queued:
            continue
        names = [_routine(observed, dpc.routine) for dpc in queue.queued[:8]]
        sentence = f"{counted(len(queue.queued), 'DPC')} queued on processor {queue.processor} ({queue.kind.lower()})"
        if queue.active is not None:
            sentence += f", behind {_routine(observed, queue.active.routine)}"
        evidence.append(Evidence(sentence, processor=queue.processor, count=len(queue.queued), details=tuple(names)))
    return Section(DPCS, tuple(evidence), notes=tuple(notes))


def _routine(observed: Observed, routine: int | None) -> str:
    if routine is None:
        return "a routine that is not in the dump"
    return observed.target.name_of(routine) or f"{routine:x}"
