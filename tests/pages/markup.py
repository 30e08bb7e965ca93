"""Reads a page as strictly as XML: every element is closed, in order, and what it holds can be asked for."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """A page's elements and its text. Raises ``AssertionError`` for markup that is not well-formed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.identities: list[str] = []
        self._open: list[str] = []
        self.captions = self.tables = 0
        self.feed(page)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        self.identities += [value or "" for name, value in attrs if name == "id"]
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, (tag, self._open, self.getpos())
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def names(self) -> set[str]:
        """The names of its elements."""
        return {tag for tag, _ in self.elements}

    def attributes(self) -> set[str]:
        """The names of all attributes."""
        return {name for _, attributes in self.elements for name in attributes}
