"""Long results, a page at a time: what is not asked for is not made."""

from __future__ import annotations

import collections
import itertools
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from volatility3_kdump.errors import KdumpError, ReadLimit

#: Characters of a page.
LEAST_PAGE, USUAL_PAGE, LARGEST_PAGE = 500, 20_000, 100_000
#: Unfinished results that are kept for each dump, and what of a result is kept when another command comes.
_MOST_RESULTS = 8
_MOST_KEPT = 2 << 20
_LONGEST_SETTLING = 1.0
_CUT = "the rest is left out: another command ran on this dump before it was asked for; run this one again"


class Result:
    """The rows or lines of one result, made as they are asked for.

    ``lines`` tells text from rows; ``stateful`` says that what follows depends on the state of the session.
    """

    def __init__(self, items: Iterator[Any], lines: bool, stateful: bool = False) -> None:
        self.lines = lines
        self.stateful = stateful
        self._items = items
        self._waiting: collections.deque[Any] = collections.deque()

    def page(self, size: int) -> dict[str, Any]:
        """The next items of about ``size`` characters together: ``items``, ``ended``, and ``note`` where it broke off.

        At least one item is on every page; a line that is longer is cut, and goes on on the next page.
        """
        items: list[Any] = []
        used = 0
        note = None
        try:
            while used < size:
                row = self._next()
                if row is _END:
                    return {"items": items, "ended": True, "note": None}
                length = len(row) + 1 if self.lines else len(json.dumps(row))
                if used and used + length > size:
                    self._waiting.appendleft(row)
                    break
                if self.lines and length > size:
                    row, rest = row[: size - 1], row[size - 1 :]
                    self._waiting.appendleft(rest)
                items.append(row)
                used += length
            if not self._waiting:
                following = self._next()
                if following is not _END:
                    self._waiting.append(following)
        except KeyboardInterrupt:
            note = "stopped: the limit of time was reached, or the call was cancelled; the rest is left out"
        except (KdumpError, ReadLimit) as error:
            note = str(error)
        if note is not None:
            self._waiting.clear()
            self._items = iter(())
        return {"items": items, "ended": not self._waiting, "note": note}

    def settle(self) -> None:
        """Make what follows now, as far as that is little: the state that it depends on is about to change."""
        kept, started = 0, time.monotonic()
        made: list[Any] = list(self._waiting)
        for row in self._items:
            made.append(row)
            kept += len(row)
            if kept > _MOST_KEPT or time.monotonic() - started > _LONGEST_SETTLING:
                made.append(_CUT)
                break
        self._waiting = collections.deque(made)
        self._items = iter(())

    def _next(self) -> Any:
        if self._waiting:
            return self._waiting.popleft()
        return next(self._items, _END)


_END = object()


class Results:
    """The unfinished results of a dump, by their tokens; the oldest make room."""

    def __init__(self) -> None:
        self._results: collections.OrderedDict[str, Result] = collections.OrderedDict()

    def first(self, result: Result, size: int) -> dict[str, Any]:
        """The first page of a new result."""
        return self._page(secrets.token_urlsafe(9), result, size)

    def following(self, token: str, size: int) -> dict[str, Any]:
        """The next page of an earlier one. Raises :class:`KdumpError`."""
        result = self._results.pop(token, None)
        if result is None:
            raise KdumpError("no such continuation: the result has ended, or was too long ago; ask for it again")
        return self._page(token, result, size)

    def settle(self) -> None:
        """A command is about to change the state of the session."""
        for result in self._results.values():
            if result.stateful:
                result.settle()

    def _page(self, token: str, result: Result, size: int) -> dict[str, Any]:
        page = result.page(max(LEAST_PAGE, min(size, LARGEST_PAGE)))
        if not page.pop("ended"):
            self._results[token] = result
            page["more"] = token
            for old in list(itertools.islice(self._results, max(len(self._results) - _MOST_RESULTS, 0))):
                del self._results[old]
        return page
