"""Reading commands from a terminal: with history, completion and paging where prompt_toolkit is installed."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from volatility3_kdump.console.commands import registry
from volatility3_kdump.console.session import Session
from volatility3_kdump.escape import printable

_MORE = "-- more: space for a page, Enter for a line, q to stop --"
_MOST_COMPLETIONS = 200
_LAST_WORD = re.compile(r"[^\s;=(),+\[\]\"*/-]*$")
_FIRST_WORD = re.compile(r"(?:^|;)\s*(\S*)$")


class Reader(Protocol):
    """Reads the user's lines."""

    def read(self, prompt: str) -> str:
        """One line. Raises ``EOFError`` at the end of the input and ``KeyboardInterrupt`` for Ctrl-C."""

    def pager(self) -> Callable[[], bool] | None:
        """A new pager: called after each line of output, true when the user has seen enough; ``None`` for none."""


def make_reader(session: Session) -> Reader:
    """The best reader that there is."""
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        return _Plain()
    return _Toolkit(session)


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

    def pager(self) -> Callable[[], bool] | None:
        return None


class _Toolkit:
    """prompt_toolkit. The history is that of the session: what is asked of a dump is kept nowhere."""

    def __init__(self, session: Session) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion

        class Words(Completer):
            def get_completions(self, document: Any, event: Any) -> Iterable[Any]:
                before = document.text_before_cursor
                for start, word in candidates(session, before):
                    yield Completion(word, start_position=start - len(before))

        self._prompt: Any = PromptSession(completer=Words(), complete_while_typing=False)
        self._more: Any = PromptSession(key_bindings=_more_keys(), erase_when_done=True)

    def read(self, prompt: str) -> str:
        return str(self._prompt.prompt(prompt))

    def pager(self) -> Callable[[], bool] | None:
        return _Pager(lambda: str(self._more.prompt(_MORE)))


def _more_keys() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()
    for key in (" ", "enter", "q", "Q"):

        def leave(event: Any, key: str = key) -> None:
            event.app.exit(result=key)

        keys.add(key)(leave)
    return keys


class _Pager:
    """Stops after each screen of lines and asks with a key what to do."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._ask = ask
        self._left = self._page()

    @staticmethod
    def _page() -> int:
        return max(shutil.get_terminal_size().lines - 2, 1)

    def __call__(self) -> bool:
        if self._left:
            self._left -= 1
            return False
        try:
            key = self._ask().lower()
        except (EOFError, KeyboardInterrupt):
            return True
        self._left = 0 if key == "enter" else self._page()
        return key == "q"


def candidates(session: Session, before: str) -> Iterator[tuple[int, str]]:
    """(where it begins, word) of each completion of the text before the cursor: commands, modules and symbols."""
    first = _FIRST_WORD.search(before)
    if first is not None:
        typed = first[1].lower()
        names = sorted(name for name in registry() if name.lower().startswith(typed))
        yield from ((first.start(1), name) for name in names)
    last = _LAST_WORD.search(before)
    if last is None or not session.dumps or (first is not None and "!" not in last[0][1:]):
        return
    module, mark, symbol = last[0].partition("!")
    prefix = module.lstrip("@")
    target = session.target
    if not mark:
        if prefix:
            modules = sorted(named_module.name for named_module in target.modules)
            yield from ((last.start(), printable(name)) for name in modules if name.lower().startswith(prefix.lower()))
        return
    named_module = next((entry for entry in target.modules if entry.name.lower() == prefix.lower()), None)
    if named_module is not None and symbol:
        for name in target.names.starting_with(named_module, symbol, _MOST_COMPLETIONS):
            yield last.start() + len(module) + 1, printable(name)
