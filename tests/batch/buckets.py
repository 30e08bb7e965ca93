"""A bucket of objects on loopback that speaks as much of S3's protocol as a client needs to list and read.

Requests and answers as the API reference of Amazon S3 has them: ListObjectsV2, HeadObject, GetObject with Range.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

_MODIFIED = "2026-11-27T08:00:00.000Z"
_HTTP_MODIFIED = "Fri, 27 Nov 2026 08:00:00 GMT"


class Bucket(http.server.ThreadingHTTPServer):
    """``objects`` are bytes by key in the bucket ``crashes``; ``asked`` is every request with its Range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.server.asked.append((self.command, key, self.headers.get("Range")))
        if "AWS4-HMAC-SHA256 Credential=key/" not in self.headers.get("Authorization", ""):
            self._send(403, _error("AccessDenied"), with_body)
        elif bucket != "crashes":
            self._send(404, _error("NoSuchBucket"), with_body)
        elif not key:
            query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
            self._send(200, self._listed(query), with_body)
        elif key not in self.server.objects:
            self._send(404, _error("NoSuchKey"), with_body)
        else:
            self._object(self.server.objects[key], with_body)

    def _object(self, data: bytes, with_body: bool) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, data, with_body, "application/octet-stream")
            return
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        if first >= len(data):
            self._send(416, _error("InvalidRange"), with_body)
            return
        part = data[first : last + 1]
        shown = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        self._send(206, part, with_body, "application/octet-stream", {"Content-Range": shown})

    def _listed(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, groups = [], set()
        for key in sorted(self.server.objects):
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                groups.add(prefix + rest[: rest.index(delimiter) + 1])
                continue
            contents.append(
                f"<Contents><Key>{escape(quote(key))}</Key><LastModified>{_MODIFIED}</LastModified>"
                f"<ETag>&quot;1&quot;</ETag><Size>{len(self.server.objects[key])}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        shown = "".join(f"<CommonPrefixes><Prefix>{escape(quote(group))}</Prefix></CommonPrefixes>" for group in groups)
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>crashes</Name><Prefix>{escape(quote(prefix))}</Prefix><KeyCount>{len(contents)}</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            f"{''.join(contents)}{shown}</ListBucketResult>"
        ).encode()

    def _send(
        self,
        status: int,
        body: bytes,
        with_body: bool,
        kind: str = "application/xml",
        more: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": '"1"', **(more or {})}
        for name, value in {**headers, "Last-Modified": _HTTP_MODIFIED, "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


@contextlib.contextmanager
def serving() -> Iterator[Bucket]:
    """A bucket that is served while the context lasts."""
    with Bucket() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
