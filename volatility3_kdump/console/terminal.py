"""Reading commands from a terminal: with history, completion and paging where prompt_toolkit is installed."""

from __future__ import annotations

import contextlib
import select
import shutil
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from volatility3_kdump.console.completion import candidates
from volatility3_kdump.console.session import Session
from volatility3_kdump.escape import printable

_MORE = "-- more: space a page, Enter a line, G to the end, / search, q stop --"


class Reader(Protocol):
    """Reads the user's lines."""

    def read(self, prompt: str) -> str:
        """One line. Raises ``EOFError`` at the end of the input and ``KeyboardInterrupt`` for Ctrl-C."""

    def forget(self) -> None:
        """Lines that were pasted and have not run yet do not run."""

    def pager(self) -> Callable[[str], bool] | None:
        """A new pager: called after each line of output, true when the user has seen enough; ``None`` for none."""


def make_reader(session: Session, history_file: str | None = None) -> Reader:
    """The best reader that there is."""
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        return _Plain()
    return _Toolkit(session, history_file)


class _Plain:
    """``input()``, with the line editing of readline where Python has it."""

    def __init__(self) -> None:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401

    def read(self, prompt: str) -> str:
        try:
            return input(prompt)
        except KeyboardInterrupt:
            print()
            raise

    def forget(self) -> None:
        pass

    def pager(self) -> Callable[[str], bool] | None:
        return None


class _Toolkit:
    """prompt_toolkit. The history is that of the session, unless a file is named for it.

    A block of lines that is pasted is one text for prompt_toolkit: its lines are given one by one, as if typed.
    """

    def __init__(self, session: Session, history_file: str | None = None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion

        class Words(Completer):
            def get_completions(self, document: Any, event: Any) -> Iterable[Any]:
                before = document.text_before_cursor
                for start, word in candidates(session, before):
                    yield Completion(word, start_position=start - len(before))

        history: Any = None
        if history_file:
            from prompt_toolkit.history import FileHistory

            history = FileHistory(history_file)
        self._lines: list[str] = []
        self._search: Any = PromptSession(erase_when_done=True)
        self._prompt: Any = PromptSession(completer=Words(), complete_while_typing=False, history=history)
        self._more: Any = PromptSession(key_bindings=_more_keys(), erase_when_done=True)

    def read(self, prompt: str) -> str:
        if self._lines:
            line = self._lines.pop(0)
            print(f"{prompt}{printable(line)}")
            return line
        first, *self._lines = str(self._prompt.prompt(prompt)).splitlines() or [""]
        return first

    def forget(self) -> None:
        """After Ctrl-C: what was pasted and has not run yet does not run."""
        self._lines.clear()

    def pager(self) -> Callable[[str], bool] | None:
        if self._lines:
            # What is pasted runs line by line, without a stop.
            return None
        return _Pager(
            lambda: str(self._more.prompt(_MORE)), lambda: str(self._search.prompt("/")), self._is_typed_ahead
        )

    def _is_typed_ahead(self) -> bool:
        """Whether keys wait: in the terminal, or taken out of it with those of the line before."""
        from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead

        source = self._prompt.app.input
        keys = get_typeahead(source)
        store_typeahead(source, keys)
        return bool(keys or select.select([source.fileno()], [], [], 0)[0])


def _more_keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    for key in (" ", "enter", "q", "Q", "G", "/"):

        def leave(event: Any, key: str = key) -> None:
            event.app.exit(result=key)

        keys.add(key)(leave)
    return keys


class _Pager:
    """Stops after each screen and asks with a key what to do. A line that is wider than the screen is several rows.

    Where commands are typed ahead it does not stop: their keys are no answers to it.
    """

    def __init__(
        self, ask: Callable[[], str], search: Callable[[], str] = str, ahead: Callable[[], bool] = bool
    ) -> None:
        self._ask, self._search, self._ahead = ask, search, ahead
        self._left = self._page()
        self._endless = False
        self._wanted = ""

    @staticmethod
    def _page() -> int:
        return max(shutil.get_terminal_size().lines - 2, 1)

    @staticmethod
    def _rows(line: str) -> int:
        return max(-(-len(line) // max(shutil.get_terminal_size().columns, 1)), 1)

    def __call__(self, line: str = "") -> bool:
        if self._endless:
            return False
        if self._wanted:
            if self._wanted not in line.lower():
                return False
            self._wanted, self._left = "", self._page()
        self._left -= self._rows(line)
        if self._left >= 0:
            return False
        if self._ahead():
            self._endless = True
            return False
        try:
            key = self._ask()
            self._wanted = self._search().lower() if key == "/" else ""
        except (EOFError, KeyboardInterrupt):
            return True
        self._endless = key == "G"
        self._left = 0 if key == "enter" else self._page()
        return key.lower() == "q"
