"""Dumps that are not files of this machine: at URLs that fsspec reads, or sent along as bytes.

Whoever analyses one copies it into a directory of its own for as long as that takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from volatility3_kdump.batch.files import DUMP_SUFFIXES, HEAD_SIZE, File, begins_as_dump, collect, moment
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import parse_url
from volatility3_kdump.stores.paths import safe_file_name

#: What fsspec may be asked for: chains of its file systems could read anything.
SCHEMES = ("https", "http", "s3", "gs", "gcs", "az", "abfs", "abfss")
_CHUNK = 1 << 22


def is_url(text: str) -> bool:
    """Whether an argument is a URL that dumps can be at."""
    parts = parse_url(text)
    return parts is not None and parts.scheme in SCHEMES and "::" not in text


def collect_everywhere(paths: Iterable[str | os.PathLike[str]], patterns: Sequence[str] = ()) -> tuple[list[File], int]:
    """As :func:`~volatility3_kdump.batch.files.collect`; URLs name files, or the dumps and archives below them."""
    paths = list(paths)
    urls = {path for path in paths if isinstance(path, str) and is_url(path)}
    files: dict[str, File] = {}
    left_out = 0
    for local, group in itertools.groupby(paths, lambda path: path not in urls):
        if local:
            more, others = collect(group, patterns)
            left_out += others
        else:
            more = [file for url in group for file in look_at_url(str(url))]
        for file in more:
            if file.path not in files or (file.explicit and not files[file.path].explicit):
                files[file.path] = file
    return list(files.values()), left_out


@contextlib.contextmanager
def at_hand(file: File) -> Iterator[File]:
    """The file under a path of this machine: itself, or a copy for as long as the context lasts.

    Raises :class:`KdumpError` where it cannot be fetched.
    """
    if file.content is None and not is_url(file.path):
        yield file
        return
    name = os.path.basename(urlsplit(file.path).path if is_url(file.path) else file.path)
    with tempfile.TemporaryDirectory(prefix="kdump-") as directory:
        path = os.path.join(directory, safe_file_name(name) or "dump")
        try:
            with open(path, "xb") as out:
                if file.content is not None:
                    out.write(file.content)
                else:
                    _fetch(file.path, out, directory)
        except OSError as error:
            raise KdumpError(f"{name}: cannot be copied for the analysis: {error.strerror or error}") from error
        yield dataclasses.replace(file, path=path, content=None)


def _fetch(url: str, out: Any, directory: str) -> None:
    system, path = _system(url)
    try:
        size = system.info(path).get("size")
        if isinstance(size, int) and size > shutil.disk_usage(directory).free:
            raise KdumpError(f"{url}: {size:,} bytes, more than there is room for in {directory}")
        with system.open(path, "rb") as stream:
            shutil.copyfileobj(stream, out, _CHUNK)
    except KdumpError:
        raise
    except Exception as error:
        raise KdumpError(f"{url}: cannot be fetched: {_line(error)}") from error


def look_at_url(url: str) -> list[File]:
    """The files at a URL: the one that it names, or the dumps and archives below it.

    One with a problem stands for what cannot be looked at.
    """
    try:
        system, path = _system(url)
        scheme = url.partition("://")[0]
        if scheme in ("http", "https") or not system.isdir(path):
            return [_file(url, system, path, True)]
        below = system.find(path, detail=False)
        files = [_file(f"{scheme}://{entry.partition('://')[2] or entry}", system, entry, False) for entry in below]
    except KdumpError as error:
        return [File(url, problem=str(error))]
    except Exception as error:
        return [File(url, problem=f"cannot be reached: {_line(error)}")]
    return [file for file in files if file.archive or file.problem is not None or _is_dump(file)]


def _is_dump(file: File) -> bool:
    return file.path.lower().endswith(DUMP_SUFFIXES)


def _file(url: str, system: Any, path: str, explicit: bool) -> File:
    from volatility3_kdump.archives.containers import recognise

    try:
        facts = system.info(path)
        # Bytes by name: s3fs has the version of an object in front of them. None are to be had of what is empty.
        head = system.cat_file(path, start=0, end=HEAD_SIZE)[:HEAD_SIZE] if facts.get("size") != 0 else b""
    except Exception as error:
        return File(url, explicit=explicit, problem=f"cannot be reached: {_line(error)}")
    size = facts.get("size")
    archive = not begins_as_dump(head) and recognise(head) is not None
    return File(url, size if isinstance(size, int) else None, _modified(facts), explicit, archive=archive)


def _modified(info: dict[str, Any]) -> str | None:
    for key in ("LastModified", "last_modified", "mtime", "updated"):
        value = info.get(key)
        if isinstance(value, datetime.datetime):
            return moment(int(value.timestamp() * 1_000_000_000))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return moment(int(value * 1_000_000_000))
    tag = info.get("ETag") or info.get("etag")
    return None if tag is None else f"ETag {str(tag)[:80]}"


def _system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise KdumpError("dumps at URLs need fsspec: pip install 'volatility3-kdump[fleet]'") from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise KdumpError(f"{url}: {_line(error)}") from error
    return system, str(path)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
