"""The workers of a Dask scheduler as an executor of a batch.

Tasks and results travel as pickles between machines that trust each other: connect to schedulers of yours only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib
import json
from collections.abc import Callable
from typing import Any

from volatility3_kdump.batch.task import WorkerDied
from volatility3_kdump.errors import KdumpError

_TIMEOUT = 10
#: Dead workers after which the scheduler tries a task again. It counts all that waited at the worker; the batch tries
#: each of them alone, which tells the one from its neighbours.
_ALLOWED_FAILURES = 0


class FleetExecutor(concurrent.futures.Executor):
    """Does tasks on the workers of a scheduler. ``jobs`` is how many to give them at a time.

    ``send`` reads files here and sends their bytes along, for workers that do not see the same paths. ``ahead`` tasks
    wait at each thread of a worker, so that it does not wait for the next one.
    """

    def __init__(self, address: str, send: bool = False, ahead: int = 0) -> None:
        """Connect. Raises :class:`KdumpError` where nobody answers, or no worker is there."""
        try:
            distributed: Any = importlib.import_module("distributed")
        except ImportError as error:
            raise KdumpError("--scheduler needs dask: pip install 'volatility3-kdump[fleet]'") from error
        self._address = address
        self._send = send
        try:
            self._client: Any = distributed.Client(address, timeout=_TIMEOUT, set_as_default=False, name="kdump-batch")
        except (OSError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:200]
            raise KdumpError(f"{address}: no Dask scheduler answers: {reason or type(error).__name__}") from error
        try:
            self._client.run_on_scheduler(_allow_failures, count=_ALLOWED_FAILURES)
            self._client.wait_for_workers(1, timeout=_TIMEOUT)
        except Exception as error:
            self._client.close()
            raise KdumpError(f"{address}: the scheduler has no workers: dask worker {address}") from error
        self._quiet = self._make_quiet()
        self.jobs = max(1, sum(self._client.nthreads().values())) * (1 + ahead)

    def _make_quiet(self) -> str | None:
        """Have workers do less for themselves; the name of what does that, ``None`` where they do not let it."""
        from volatility3_kdump.batch.quiet import Quiet

        try:
            self._client.register_plugin(Quiet())
        except Exception:
            # A version of Dask that has it otherwise, or workers without this module: they work all the same.
            return None
        return Quiet.name

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **more: Any) -> concurrent.futures.Future[Any]:
        """Hand a task to a worker. Raises ``BrokenExecutor`` where the scheduler is gone."""
        if self._client.status != "running":
            raise concurrent.futures.BrokenExecutor(f"the scheduler at {self._address} went away")
        if self._send:
            arguments = tuple(map(_with_content, arguments))
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()
        # Large arguments belong into one message, not into the graph.
        remote = self._client.submit(_packed, task, *arguments, pure=False, retries=0, **more)

        def settled(done: Any) -> None:
            if outcome.done():
                return
            try:
                if done.status == "finished":
                    outcome.set_result(_unpacked(done.result(timeout=_TIMEOUT)))
                elif done.status == "error":
                    failure = done.exception(timeout=_TIMEOUT)
                    died = type(failure).__name__ == "KilledWorker"
                    outcome.set_exception(WorkerDied() if died else failure)
                else:
                    raise ConnectionError
            except Exception:
                gone = f"the scheduler at {self._address} went away"
                outcome.set_exception(concurrent.futures.BrokenExecutor(gone))

        remote.add_done_callback(settled)
        return outcome

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the scheduler; it and its workers go on, as they were."""
        if self._quiet is not None and self._client.status == "running":
            with contextlib.suppress(Exception):
                self._client.unregister_worker_plugin(self._quiet)
        self._client.close(timeout=_TIMEOUT)


def _allow_failures(count: int, dask_scheduler: Any = None) -> None:
    """Run by the scheduler: how many dead workers make it give up a task."""
    dask_scheduler.allowed_failures = min(count, dask_scheduler.allowed_failures)


def _packed(task: Callable[..., Any], /, *arguments: Any, **more: Any) -> Any:
    """Run by a worker: a line as one piece. Dask walks through everything that is in a nested result, several times."""
    result = task(*arguments, **more)
    return json.dumps(result).encode("ascii") if isinstance(result, dict) else result


def _unpacked(result: Any) -> Any:
    return json.loads(result) if isinstance(result, bytes) else result


def _with_content(argument: Any) -> Any:
    from volatility3_kdump.batch.files import File
    from volatility3_kdump.batch.places import is_url

    if not isinstance(argument, File) or argument.problem is not None or is_url(argument.path):
        return argument
    try:
        with open(argument.path, "rb") as stream:
            return dataclasses.replace(argument, content=stream.read())
    except OSError as error:
        return dataclasses.replace(argument, problem=f"cannot be read: {error.strerror or error}")
