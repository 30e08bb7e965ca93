"""An executor that needs no processes, and the mark of tests that need those of POSIX."""

from __future__ import annotations

import concurrent.futures
import sys
from pathlib import Path
from typing import Any

import pytest

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Here(concurrent.futures.Executor):
    """An executor that does everything at once, in the caller's thread; ``dies`` names files that break it."""

    def __init__(self, dies: str = "no such file") -> None:
        self.dies = dies
        self.broken = False
        self.files: list[str] = []

    def submit(self, task: Any, /, *arguments: Any, **more: Any) -> concurrent.futures.Future[Any]:
        if self.broken:
            raise concurrent.futures.BrokenExecutor("it is broken")
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        file = arguments[0]
        self.files.append(Path(file.path).name)
        try:
            if self.dies in file.path:
                self.broken = True
                raise concurrent.futures.BrokenExecutor("a worker died")
            future.set_result(task(*arguments, **more))
        except Exception as error:
            future.set_exception(error)
        return future
