"""What can be asked of one dump: thin views of the same values that prompt and plugins show."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from volatility3_kdump.analysis.crash import Crash, analyze_crash, crash_modules
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.console.commands import execute
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable, terminal_line
from volatility3_kdump.expressions import parse_address, parse_id
from volatility3_kdump.options import Options
from volatility3_kdump.serving.confinement import refuse
from volatility3_kdump.serving.paging import USUAL_PAGE, Result, Results
from volatility3_kdump.symbols.manifest import entries_of, lines_of
from volatility3_kdump.target import Target
from volatility3_kdump.views import drivers, hang, locks, memusage, pool, process, report, stack, thread, vm, waits
from volatility3_kdump.views.grid import KdumpGrid
from volatility3_kdump.windows.listing.processes import ProcessChoice
from volatility3_kdump.windows.listing.stacks import Request, all_threads, request_thread
from volatility3_kdump.windows.listing.threads import ThreadChoice
from volatility3_kdump.windows.opening import open_target
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.stacks.frames import NoStack
from volatility3_kdump.windows.stacks.starts import crash_start, processor_start

Parameters = Mapping[str, Any]

#: Frames of the stack that the verdict is shown with, and of any stack.
_VERDICT_FRAMES, _MOST_FRAMES = 12, 256
_FRAME_KEYS = ("number", "call_site", "trust", "part")
#: What of the document of an analysis answers "what happened"; the rest is asked for by name.
_VERDICT_KEYS = (
    "summary",
    "bug_check",
    "verdict",
    "plausibility",
    "findings",
    "process",
    "interrupted",
    "notes",
    "warnings",
)

_SYSTEM_KEYS = ("release", "kernel_version", "platform", "time_utc", "uptime_seconds")
_FAILURE_KEYS = ("at_fault", "name", "instruction", "access", "access_address")

#: Commands that one line may run, those of its loops included.
_MOST_STEPS = 100_000


class Answers:
    """The answers about one dump. Each is a method that takes the parameters of a request."""

    def __init__(self, path: str, options: Options, triage_ini: str | None, allowed: tuple[str, ...]) -> None:
        """Open the dump. Raises :class:`KdumpError`."""
        self._session = Session(options)
        # Commands inside of others, and what aliases stand for, are asked about as well.
        self._session.guard = lambda command: refuse(command, allowed)
        self._session.open(path, options.member)
        self._options = options
        self._path = path
        self._triage_ini = triage_ini
        self._allowed = allowed
        self._results = Results()

    @property
    def target(self) -> Target:
        return self._session.target

    def ask(self, method: str, parameters: Parameters) -> dict[str, Any]:
        """The answer to one request. Raises :class:`KdumpError`."""
        answer = _METHODS.get(method)
        if answer is None:
            raise KdumpError(f"{method}: no such question")
        self.target.memory.budget.begin()
        return answer(self, parameters)

    # facts ------------------------------------------------------------------------------------------------------

    def facts(self, parameters: Parameters) -> dict[str, Any]:
        """What the dump is."""
        target = self.target
        header = target.header
        return _escaped(
            {
                "file": target.name,
                "type": header.dump_type,
                "bits": header.bits,
                "processors": header.number_processors,
                "bug_check": f"{header.bug_check_code:#x}" if header.bug_check_code is not None else None,
                "kernel_symbols": target.symbol_status,
                "symbol_remedy": target.symbol_remedy or None,
                "warnings": target.warnings,
            }
        )

    @functools.cached_property
    def _crash(self) -> Crash:
        return analyze_crash(self.target, OwnerRules.load(self._triage_ini))

    def analyze(self, parameters: Parameters) -> dict[str, Any]:
        """The verdict with its evidence, or a part of the document by its keys."""
        document = report.report(self.target, self._crash)
        part = parameters.get("part") or "verdict"
        if part == "verdict":
            failure = document["failure"]
            return {
                **{key: document[key] for key in _VERDICT_KEYS},
                "system": {key: document["system"][key] for key in _SYSTEM_KEYS},
                "failure": None if failure is None else {key: failure[key] for key in _FAILURE_KEYS},
                "stack": [
                    {key: frame[key] for key in _FRAME_KEYS} for frame in document["stack"]["frames"][:_VERDICT_FRAMES]
                ],
                "kernel_symbols": document["symbols"]["loaded"],
                "parts": sorted(document),
            }
        if part != "everything" and part not in document:
            raise KdumpError(f"part is {part!r}: choose verdict, everything, or one of {', '.join(sorted(document))}")
        chosen = document if part == "everything" else {part: document[part]}
        lines = json.dumps(chosen, indent=1, ensure_ascii=True).splitlines()
        return self._first(Result(iter(lines), lines=True), parameters)

    # the prompt -------------------------------------------------------------------------------------------------

    def command(self, parameters: Parameters) -> dict[str, Any]:
        """What the prompt answers to a line."""
        line = parameters["line"]
        refuse(line, self._allowed)
        self._results.settle()
        self._session.guard = lambda text: refuse(text, self._allowed)
        self._session.most_steps = _MOST_STEPS
        lines = map(terminal_line, execute(self._session, line))
        return self._first(Result(lines, lines=True, stateful=True), parameters)

    def more(self, parameters: Parameters) -> dict[str, Any]:
        """The next page of an earlier answer."""
        return self._results.following(parameters["token"], parameters.get("size") or USUAL_PAGE)

    # tables -----------------------------------------------------------------------------------------------------

    def _first(self, result: Result, parameters: Parameters) -> dict[str, Any]:
        return self._results.first(result, parameters.get("size") or USUAL_PAGE)

    def _rows(self, grid: KdumpGrid, parameters: Parameters) -> dict[str, Any]:
        return self._first(Result(grid.records(), lines=False), parameters)

    def stack(self, parameters: Parameters) -> dict[str, Any]:
        """The stack of the crash, of a thread, of a processor, or those of all threads, equal ones once."""
        try:
            requests = list(self._stacks(parameters))
        except NoStack as error:
            raise KdumpError(f"{self.target.name}: {error}") from error
        unique = bool(parameters.get("every"))
        return self._rows(stack.stack_grid(self.target, requests, "kn", _MOST_FRAMES, unique), parameters)

    def _stacks(self, parameters: Parameters) -> Iterator[Request]:
        target = self.target
        if parameters.get("thread"):
            yield request_thread(target, parse_address(parameters["thread"], target))
        elif parameters.get("processor") is not None:
            yield Request(None, None, processor_start(target, parameters["processor"]))
        elif parameters.get("every"):
            threads = all_threads(target, None)
            if not threads:
                raise KdumpError(f"{target.name}: no threads found: a small memory dump holds only the crashing one")
            yield from (request_thread(target, address) for address in threads)
        else:
            crashed = crash_thread(target)
            yield Request(None, crashed.address if crashed else None, crash_start(target))

    def processes(self, parameters: Parameters) -> dict[str, Any]:
        """Processes, all or chosen ones."""
        chosen = ProcessChoice(
            pids=[parse_id(parameters["pid"])] if parameters.get("pid") else (),
            names=[parameters["name"]] if parameters.get("name") else (),
        )
        detail = process.STATISTICS if parameters.get("details") else 0
        return self._rows(process.process_grid(self.target, chosen, detail), parameters)

    def threads(self, parameters: Parameters) -> dict[str, Any]:
        """Threads, all or chosen ones."""
        return self._rows(thread.thread_grid(self.target, self._chosen(parameters), False), parameters)

    def waits(self, parameters: Parameters) -> dict[str, Any]:
        """Who waits for whom."""
        return self._rows(waits.waits_grid(self.target, self._chosen(parameters)), parameters)

    def _chosen(self, parameters: Parameters) -> ThreadChoice:
        pids = [parse_id(parameters["pid"])] if parameters.get("pid") else []
        states = [parameters["state"]] if parameters.get("state") else []
        address = [parse_address(parameters["thread"], self.target)] if parameters.get("thread") else []
        return ThreadChoice(address, (), pids, states, (), everything=not (pids or states or address))

    def locks(self, parameters: Parameters) -> dict[str, Any]:
        """Executive resources that are held or waited for."""
        return self._rows(locks.locks_grid(self.target, bool(parameters.get("every"))), parameters)

    def hang(self, parameters: Parameters) -> dict[str, Any]:
        """Who most probably holds the machine up."""
        return self._rows(hang.hang_grid(self.target, bool(parameters.get("details"))), parameters)

    def drivers(self, parameters: Parameters) -> dict[str, Any]:
        """Loaded and unloaded modules."""
        names = [parameters["name"]] if parameters.get("name") else []
        records = drivers.drivers_grid(self.target, names, bool(names)).records()
        if parameters.get("third_party"):
            records = (record for record in records if "third party" in str(record.get("Vendor")))
        return self._first(Result(records, lines=False), parameters)

    def memory(self, parameters: Parameters) -> dict[str, Any]:
        """Where the memory is."""
        what = parameters.get("what") or "counters"
        grids: dict[str, Callable[[], KdumpGrid]] = {
            "counters": lambda: vm.vm_grid(self.target),
            "pool": lambda: pool.usage_grid(self.target),
            "pages": lambda: memusage.memusage_grid(self.target),
        }
        if what not in grids:
            raise KdumpError(f"what is {what!r}: choose one of {', '.join(grids)}")
        return self._rows(grids[what](), parameters)

    def symbols(self, parameters: Parameters) -> dict[str, Any]:
        """The PDB and image files that the dump needs, as a manifest."""
        # Without servers: what is asked here is what there is to fetch.
        options = Options(self._options.isf_directories, None, "", "", self._options.member, offline=True)
        target = open_target(self._path, options)
        modules = target.modules if parameters.get("every") else crash_modules(target)
        entries = list(entries_of(modules, target.images, target.symbol_sources.identity_of))
        if not entries:
            raise KdumpError(f"{target.name}: no module list is in the dump")
        lines = lines_of(target.name, target.header.architecture, entries)
        return self._first(Result(map(printable, lines), lines=True), parameters)


_METHODS: dict[str, Callable[[Answers, Parameters], dict[str, Any]]] = {
    "facts": Answers.facts,
    "analyze": Answers.analyze,
    "command": Answers.command,
    "more": Answers.more,
    "stack": Answers.stack,
    "processes": Answers.processes,
    "threads": Answers.threads,
    "waits": Answers.waits,
    "locks": Answers.locks,
    "hang": Answers.hang,
    "drivers": Answers.drivers,
    "memory": Answers.memory,
    "symbols": Answers.symbols,
}


def _escaped(value: dict[str, Any]) -> dict[str, Any]:
    """A record with its texts made fit for a terminal."""
    escaped: dict[str, Any] = report.escaped(value)
    return escaped
