"""The streams and places of the process: closed, full, or left by whoever reads them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from volatility3_kdump.errors import KdumpError, ReadLimit
from volatility3_kdump.escape import printable, show_every_character

#: What shells say of a process that Ctrl-C ended.
_INTERRUPTED = 130
_HOST_CACHE = "volatility3.framework.constants"


def run_guarded(run: Callable[[], int]) -> int:
    """Run a command and give the exit status; what the process cannot write ends it with one line and status 1.

    Ctrl-C ends a command with one line and status 130. A reader that has seen enough (``| head``) is no failure.
    Where the process was started without an output, there is nobody to tell, and without an input, nothing to read.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    show_every_character(sys.stdout)
    try:
        status = run()
        sys.stdout.flush()
        return status
    except (KdumpError, ReadLimit) as error:
        message = str(error)
    except KeyboardInterrupt:
        _abandon_output()
        print("kdump: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return 0
    except OSError as error:
        message = _unwritable(error)
        _abandon_output()
    print(f"kdump: {printable(message)}", file=sys.stderr)
    return 1


def _unwritable(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.filename is None:
        return f"the output cannot be written: {reason}"
    message = f"{os.fsdecode(error.filename)}: {reason}"
    if _HOST_CACHE not in sys.modules:
        # The host makes its cache directory when it is imported.
        message += ": set XDG_CACHE_HOME to a directory that can be written"
    return message


def _abandon_output() -> None:
    """Send what is still buffered for stdout nowhere: Python would complain of it once more when it ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
