"""Memory that is used up: commit, available pages, pools, system addresses."""

from __future__ import annotations

from volatility3_kdump.analysis.hang.evidence import MEMORY, Evidence, Section, Suspicion
from volatility3_kdump.analysis.hang.observed import Observed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.pool_tags import search_code
from volatility3_kdump.windows.memory.memory_counters import PAGE_SIZE, Counter, read_counters
from volatility3_kdump.windows.memory.page_files import page_files
from volatility3_kdump.windows.memory.pool_usage import TagUse, read_usage
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import Process, read_process

#: Of the limit; and available pages below which the working set manager takes pages from everybody.
_NEARLY_ALL = 0.95
_MOST_OF_POOL = 0.9
_FEW_PAGES, _FEW_OF_ALL = 0x1000, 0.005
_FEW_ENTRIES = 1000
_MIB = 1 << 20
_SHOWN = 3


def memory_section(observed: Observed) -> Section:
    """The counters that are at their limits, with who uses most; the others as they are."""
    counters = read_counters(observed.target)
    evidence = [
        fact
        for fact in (
            _commit(observed, counters),
            _available(observed, counters),
            _pool(observed, counters, "NonPagedPool", paged=False),
            _pool(observed, counters, "PagedPool", paged=True),
            _entries(counters),
            _failures(counters),
        )
        if fact is not None
    ]
    evidence += _page_files(observed)
    counted = any(counters[label].value is not None for label in ("Committed pages", "Available Pages"))
    absent = None if counted else counters["Committed pages"].reason
    unknown = [
        f"{label}: {counters[label].reason}"
        for label in ("Commit limit", "NonPagedPool Max", "PagedPool Maximum")
        if counted and counters[label].value is None
    ]
    return Section(MEMORY, tuple(evidence), absent, tuple(unknown))


def _value(counters: dict[str, Counter], label: str) -> int | None:
    return counters[label].value


def _size(pages: int) -> str:
    return f"{pages * PAGE_SIZE / _MIB:,.0f} MB"


def _commit(observed: Observed, counters: dict[str, Counter]) -> Evidence | None:
    used, limit = _value(counters, "Committed pages"), _value(counters, "Commit limit")
    most = _value(counters, "Commit limit maximum")
    if used is None or not limit:
        return None
    sentence = f"commit: {_size(used)} of {_size(limit)}"
    full = used >= _NEARLY_ALL * limit
    # Page files can still grow up to the maximum.
    grows = most is not None and most > limit and used < _NEARLY_ALL * most
    if full and grows and most is not None:
        sentence += f", which page files can extend to {_size(most)}"
    if not full:
        return Evidence(sentence)
    processes = sorted(_processes(observed), key=lambda process: -(process.commit_charge or 0))[:_SHOWN]
    details = tuple(
        f"{process.name or '?'} {process.pid or 0:x}: {_size(process.commit_charge or 0)}" for process in processes
    )
    largest = processes[0] if processes else None
    why = f"nearly all of the commit limit is used ({_size(used)} of {_size(limit)})"
    suspicion = Suspicion("exhausted commit", "commit", why, 40 if grows else 75)
    if largest is not None and (largest.commit_charge or 0) * 4 >= used:
        who = f"{largest.name or '?'} {largest.pid or 0:x}"
        why += f", {_size(largest.commit_charge or 0)} by {who}"
        suspicion = Suspicion(f"the process {who}", largest.address, why, suspicion.weight)
    return Evidence(sentence, details=details, suspicions=(suspicion,))


def _processes(observed: Observed) -> list[Process]:
    return [read_process(observed.target, address) for address in process_addresses(observed.target)]


def _available(observed: Observed, counters: dict[str, Counter]) -> Evidence | None:
    free, total = _value(counters, "Available Pages"), _value(counters, "Physical Memory")
    if free is None:
        return None
    sentence = f"available: {_size(free)}" + (f" of {_size(total)}" if total else "")
    if free >= _FEW_PAGES and (total is None or free >= _FEW_OF_ALL * total):
        return Evidence(sentence)
    why = f"hardly any memory is available ({_size(free)}): threads wait for pages"
    return Evidence(sentence, suspicions=(Suspicion("the lack of physical memory", "available", why, 65),))


def _pool(observed: Observed, counters: dict[str, Counter], name: str, paged: bool) -> Evidence | None:
    used = _value(counters, f"{name} Usage")
    most = _value(counters, "PagedPool Maximum" if paged else "NonPagedPool Max")
    total = _value(counters, "Physical Memory")
    if used is None:
        return None
    word = "paged pool" if paged else "nonpaged pool"
    sentence = f"{word}: {_size(used)}" + (f" of {_size(most)}" if most else "")
    full = bool(most) and used >= _MOST_OF_POOL * (most or 0)
    # Nonpaged pool may take most of the memory of a machine without ever reaching its limit.
    heavy = not paged and total is not None and 0.5 * total <= used <= total
    if not full and not heavy:
        return Evidence(sentence)
    why = f"{word} is nearly exhausted" if full else f"{word} takes half of the machine's memory"
    tags, problem = _tags(observed, paged)
    details = tuple(f"{_tag(use)}: {_bytes(use, paged):,} bytes" for use in tags[:_SHOWN])
    if problem:
        details = (problem,)
    suspicion = Suspicion(f"exhausted {word}", word, f"{why} ({sentence.split(': ')[1]})", 70)
    if tags and _bytes(tags[0], paged) * 4 >= used * PAGE_SIZE:
        suspicion = _leak(observed, tags[0], paged, f"{why} ({sentence.split(': ')[1]})")
    return Evidence(sentence, details=details, suspicions=(suspicion,))


def _tags(observed: Observed, paged: bool) -> tuple[list[TagUse], str | None]:
    try:
        usage = read_usage(observed.target, observed.progress)
    except KdumpError as error:
        return [], str(error)
    return sorted(usage.tags, key=lambda use: -_bytes(use, paged)), None


def _bytes(use: TagUse, paged: bool) -> int:
    return use.paged.bytes if paged else use.nonpaged.bytes


def _tag(use: TagUse) -> str:
    return use.tag or f"{use.tag_value:#010x}"


def _leak(observed: Observed, use: TagUse, paged: bool, why: str) -> Suspicion:
    """The driver in whose code the tag is, where that is one only."""
    why += f"; the tag {_tag(use)} has {_bytes(use, paged):,} bytes of it"
    candidates = search_code(observed.target, [use.tag_value], observed.progress).of(use.tag_value)
    if len(candidates) == 1:
        return observed.suspect_driver(candidates[0].module, f"{why}, and this driver alone has it in its code", 82)
    return Suspicion(f"whoever allocates the pool tag {_tag(use)}", f"tag {use.tag_value:x}", why, 78)


def _entries(counters: dict[str, Counter]) -> Evidence | None:
    free = _value(counters, "Free System PTEs")
    if free is None or free >= _FEW_ENTRIES:
        return None
    sentence = f"system PTEs: {free} free"
    why = f"only {free} system PTEs are free: nothing can be mapped"
    return Evidence(sentence, suspicions=(Suspicion("the lack of system PTEs", "ptes", why, 70),))


def _failures(counters: dict[str, Counter]) -> Evidence | None:
    failures = [
        f"{counter.value} {label[0].lower()}{label[1:]}"
        for label, counter in counters.items()
        if counter.definition.group == "failures" and counter.value
    ]
    return Evidence(f"since the start: {', '.join(failures)}") if failures else None


def _page_files(observed: Observed) -> list[Evidence]:
    files, _ = page_files(observed.target)
    evidence = []
    for file in files:
        if file.kind != "file" or file.size is None or file.free is None or not file.size:
            continue
        grows = file.maximum is not None and file.maximum > file.size
        if file.free <= (1 - _NEARLY_ALL) * file.size and not grows:
            name = file.name or f"page file {file.number}"
            sentence = f"{name}: {_size(file.free)} of {_size(file.size)} free, and it cannot grow"
            suspicion = Suspicion("a full page file", "page file", sentence, 45)
            evidence.append(Evidence(sentence, suspicions=(suspicion,)))
    return evidence
