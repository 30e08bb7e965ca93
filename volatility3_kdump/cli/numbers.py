"""Numbers on the command line, with the line that argparse shows for any other."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

_LONGEST_TIME = 1e7


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """What reads a whole number from ``lowest`` to ``highest``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {lowest} to {highest}")
        return number

    return read


def seconds(text: str) -> float:
    """A time of more than no seconds and less than ten million."""
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not 0 < time < _LONGEST_TIME:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return time
