"""Templates to pages. Every text is escaped twice over: control and format characters first, then for HTML.

A page states that nothing may be loaded and no script may run, and the one style sheet is allowed by its hash. Nothing
in it depends on when or where it was made.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.escape import printable
from volatility3_kdump.files import FileFailure, open_file, open_output, reason
from volatility3_kdump.version import __version__

#: How every page begins: only pages are written over.
_START = b"<!DOCTYPE html>"
_TEMPLATES = Path(__file__).parent / "templates"


class ExtraMissing(KdumpError):
    """A library of an extra is not installed; the message says which."""


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ExtraMissing(
            "HTML pages need jinja2: pip install 'volatility3-kdump[report]' (or jinja2) into this environment"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_fit,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment


def require() -> None:
    """Raise :class:`ExtraMissing` now where pages cannot be made: before an analysis that takes its time."""
    _environment()


def _fit(value: Any) -> Any:
    """A value on its way into a template: text of the dump may hold what turns or hides the text around it."""
    return printable(value) if type(value) is str else value


def style_sheet() -> str:
    """The style sheet of every page."""
    return (_TEMPLATES / "style.css").read_text(encoding="utf-8")


def policy(style: str) -> str:
    """The Content-Security-Policy of a page with this style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def render(template: str, **values: Any) -> str:
    """A page. Raises :class:`ExtraMissing` without the library that makes it."""
    from volatility3_kdump.pages import drawing, facts

    environment = _environment()
    import markupsafe

    style = style_sheet()
    page: str = environment.get_template(template).render(
        style=markupsafe.Markup(style),
        policy=policy(style),
        version=__version__,
        share=drawing.share,
        ago=drawing.ago,
        size_words=facts.size_words,
        machine_name=facts.machine_name,
        **values,
    )
    return page


def refuse_other_files(option: str, path: Path) -> None:
    """Raise :class:`KdumpError` for a file that is there and is no page: it may be the dump itself."""
    try:
        with open_file(path) as stream:
            start = stream.read(len(_START))
    except FileFailure:
        return  # a file that is not there, or that writing will complain of
    try:
        _refuse_no_page(start)
    except FileFailure as error:
        raise KdumpError(f"{option} {path}: {error}") from error


def _refuse_no_page(start: bytes) -> None:
    if start and not start.startswith(_START):
        raise FileFailure("is there already, and is no HTML page: name another file")


def write_page(option: str, path: Path, page: str) -> None:
    """Write a page. Raises :class:`KdumpError`, which names the option, when the file cannot be written."""
    try:
        with open_output(path, check=_refuse_no_page) as file:
            file.write(page)
    except FileFailure as error:
        raise KdumpError(f"{option} {path}: {error}") from error
    except (OSError, ValueError) as error:
        raise KdumpError(f"{option} {path}: cannot be written: {reason(error)}") from error
