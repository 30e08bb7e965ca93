"""Child processes that can be interrupted, and that do not outlive their test.

A shell's background job ignores SIGINT, and so does every process that it starts, unless somebody restores the default.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A process that SIGINT interrupts whatever started the tests; it is killed if it still runs at the end.

    ``options`` are those of :class:`subprocess.Popen`.
    """
    if sys.platform != "win32":
        options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
