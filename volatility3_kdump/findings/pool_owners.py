"""Who pool tags belong to: by the user's list, and by a search of the drivers' code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.findings.pool_tags import (
    Candidate,
    TagFile,
    TagName,
    TagSearch,
    load_tag_file,
    search_code,
)
from volatility3_kdump.progress import Progress

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


class TagOwners:
    """Who tags belong to: the user's file, and a search of the drivers' code for some of them."""

    def __init__(self, target: Target, tag_file: str | None, progress: Progress | None) -> None:
        self._target = target
        self._progress = progress
        self.file: TagFile | None = load_tag_file(tag_file)
        self._search: TagSearch | None = None
        self._tags: set[int] = set()

    def want(self, tags: Sequence[int | None]) -> None:
        """The tags that :meth:`candidates` is going to be asked for."""
        self._tags = {tag for tag in tags if tag is not None}

    def name(self, tag: str | None) -> TagName | None:
        """What the user's list says of a tag."""
        return self.file.find(tag) if self.file is not None and tag is not None else None

    def candidates(self, tag: int | None) -> tuple[Candidate, ...]:
        """The drivers whose code has a tag in it."""
        return () if tag is None else self.search.of(tag)

    @property
    def search(self) -> TagSearch:
        """The search for the tags that were wanted, made once."""
        if self._search is None:
            self._search = search_code(self._target, self._tags, self._progress)
        return self._search
