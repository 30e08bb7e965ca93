"""Executive worker queues that nobody serves any more, and timers that are not expired."""

from __future__ import annotations

import collections

from volatility3_kdump.analysis.hang.evidence import (
    SECOND,
    TIMERS,
    WORKERS,
    Evidence,
    Section,
    Suspicion,
    counted,
    seconds,
)
from volatility3_kdump.analysis.hang.observed import Observed
from volatility3_kdump.analysis.hang.waits import end_of, place_of
from volatility3_kdump.windows.machine.timers import Timer, read_timers
from volatility3_kdump.windows.machine.work_queues import WorkItem, WorkQueue
from volatility3_kdump.windows.processes.threads import WAITING

_MOST_SHOWN = 8
#: Timers are expired at the next clock tick on a processor that is not idle.
_OVERDUE = SECOND


def workers_section(observed: Observed) -> Section:
    """The queues in which items wait, and whether a worker is left to take them."""
    observed.require("work queues")
    if not observed.queues:
        return Section(WORKERS, absent="no work queue is in the dump")
    evidence = [fact for queue in observed.queues if (fact := _queue(observed, queue)) is not None]
    return Section(
        WORKERS, tuple(evidence), notes=tuple(problem for queue in observed.queues for problem in queue.problems)
    )


def busy_workers(observed: Observed, queue: WorkQueue) -> list[int]:
    """The threads of a queue that do not wait in it for work."""
    return [
        address
        for address in queue.threads
        if not any(queue.serves(wait.address) for wait in observed.thread(address).waits)
    ]


def _queue(observed: Observed, queue: WorkQueue) -> Evidence | None:
    busy = busy_workers(observed, queue)
    blocked = [address for address in busy if observed.thread(address).state == WAITING]
    if not queue.items:
        return None
    sentence = f"{counted(len(queue.items), 'item')} in the {queue.name} queue of node {queue.node}; "
    sentence += f"{len(busy)} of {counted(len(queue.threads), 'worker')} busy"
    if queue.most_threads:
        sentence += f", {queue.most_threads} at most"
    details = _routines(observed, queue.items)
    suspicions: list[Suspicion] = []
    stack = None
    age = None
    if busy and len(busy) == len(queue.threads):
        sentence += ": none is left"
        ages = [thread.wait_time for thread in map(observed.thread, blocked) if thread.wait_time is not None]
        age = min(ages, default=None)
        full = bool(queue.most_threads) and len(queue.threads) >= (queue.most_threads or 0)
        if blocked:
            stack = observed.stack(blocked[0])
            suspicions.append(_blocked(observed, queue, busy, blocked, full))
    return Evidence(
        sentence,
        busy[0] if busy else None,
        queue.address,
        count=len(queue.items),
        age=age,
        details=details,
        threads=tuple(busy),
        stack=stack,
        suspicions=tuple(suspicions),
    )


def _blocked(observed: Observed, queue: WorkQueue, busy: list[int], blocked: list[int], full: bool) -> Suspicion:
    """Whoever holds most of the workers up: who they all wait for, else the place where most of them stand."""
    why = f"all {len(busy)} workers of the {queue.name} queue are busy while {counted(len(queue.items), 'item')} wait"
    weight = 75 if full else 60
    ends = collections.Counter(end_of(observed, address) for address in blocked)
    end, number = ends.most_common(1)[0]
    if number > 1 or end not in blocked:
        return observed.suspect_thread(end, f"{why}; {number} of them wait for {observed.title(end)}", weight)
    places = collections.Counter(place_of(observed.stack(address)) for address in blocked)
    place, number = places.most_common(1)[0]
    standing = next(address for address in blocked if place_of(observed.stack(address)) == place)
    why += f"; {number} of them stand in {place or 'a place without a name'}"
    driver = observed.driver_on(observed.stack(standing).frames)
    if driver is not None:
        return observed.suspect_driver(driver, why, weight, standing)
    return Suspicion(f"what {place or 'they'} waits for", place or queue.address, why, weight, None, standing)


def _routines(observed: Observed, items: tuple[WorkItem, ...]) -> tuple[str, ...]:
    """The routines of the items that wait, the most frequent first."""
    counts = collections.Counter(work.routine for work in items)
    lines = []
    for routine, count in counts.most_common(_MOST_SHOWN):
        name = "a routine that is not in the dump" if routine is None else observed.target.name_of(routine)
        lines.append(f"{count} for {name or hex(routine or 0)}")
    if len(counts) > _MOST_SHOWN:
        lines.append(f"{len(counts) - _MOST_SHOWN} more routines")
    return tuple(lines)


def timers_section(observed: Observed) -> Section:
    """Timers that are due for long: their processor does not get to expire them."""
    observed.require("timers", "_KPRCB.TimerTable")
    listed = read_timers(observed.target)
    late = [timer for timer in listed.timers if (timer.overdue or 0) >= _OVERDUE]
    by_processor: dict[int, list[Timer]] = collections.defaultdict(list)
    for timer in late:
        by_processor[timer.processor].append(timer)
    evidence = []
    states = {state.number: state for state in observed.states}
    for number, timers in by_processor.items():
        oldest = max(timers, key=lambda timer: timer.overdue or 0)
        sentence = f"{counted(len(timers), 'timer')} of processor {number} overdue, by up to {seconds(oldest.overdue)}"
        state = states.get(number)
        suspicions: list[Suspicion] = []
        if state is not None and state.current and not state.idle:
            why = f"timers of processor {number}, which runs this, are overdue by up to {seconds(oldest.overdue)}"
            suspicions.append(observed.suspect_thread(state.current, why, 40))
        details = tuple(_timer(observed, timer) for timer in timers[:_MOST_SHOWN])
        evidence.append(
            Evidence(
                sentence,
                object=oldest.address,
                processor=number,
                count=len(timers),
                age=oldest.overdue,
                details=details,
                suspicions=tuple(suspicions),
            )
        )
    absent = None if listed.now is not None else "the interrupt time (KUSER_SHARED_DATA) is not in the dump"
    return Section(TIMERS, tuple(evidence), absent, listed.problems)


def _timer(observed: Observed, timer: Timer) -> str:
    line = f"{timer.address:x}, by {seconds(timer.overdue)}"
    if timer.routine:
        return f"{line}: {observed.target.name_of(timer.routine) or hex(timer.routine)}"
    return f"{line}: {observed.title(timer.thread)}" if timer.thread else line
