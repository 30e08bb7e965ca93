"""Dumps in buckets of S3, through s3fs, at an address that AWS_ENDPOINT_URL names."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.batch.buckets import Bucket, serving
from tests.batch.executors import Here
from volatility3_kdump import batch

s3fs = pytest.importorskip("s3fs")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """A bucket that s3fs is led to as its users lead it, with keys and addresses of the environment only."""
    with serving() as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
        }.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
        s3fs.S3FileSystem.clear_instance_cache()


def lines_of(*paths: str) -> dict[str, Any]:
    return {line["file"]["path"]: line for line in batch.batch(list(paths), executor=Here(), jobs=1)}


def test_the_dumps_below_a_prefix(bucket: Bucket, sample: Any) -> None:
    whole = sample(4).read_bytes()
    bucket.objects |= {
        "2026/11/one.dmp": whole,
        "2026/11/a host/two + three.dmp": whole,
        "2026/11/broken.dmp": bytes(0x3000),
        "2026/11/readme.txt": b"text",
        "2026/12/later.dmp": whole,
    }
    found = lines_of("s3://crashes/2026/11/")
    assert set(found) == {
        f"s3://crashes/2026/11/{name}" for name in ("one.dmp", "a host/two + three.dmp", "broken.dmp")
    }
    (own,) = batch.batch([sample(4)], executor=Here(), jobs=1)
    for name in ("one.dmp", "a host/two + three.dmp"):
        line = found[f"s3://crashes/2026/11/{name}"]
        assert line["verdict"] == own["verdict"] and line["file"]["sha256"] == own["file"]["sha256"]
        assert line["file"]["size"] == len(whole) and line["file"]["modified"].startswith("2026-11-27T08:00:00")
    assert found["s3://crashes/2026/11/broken.dmp"]["error"] is not None
    # Of what is no dump only the head is fetched, and of a dump the head and once the whole.
    parts = {key: [part for _, asked, part in bucket.asked if asked == key] for key in bucket.objects}
    assert parts["2026/11/readme.txt"] == ["bytes=0-17"]
    assert parts["2026/11/one.dmp"] == ["bytes=0-17", f"bytes=0-{len(whole) - 1}"]
    assert not any(key.startswith("2026/12") for _, key, _ in bucket.asked)


def test_an_archive_in_a_bucket(bucket: Bucket, sample: Any, tmp_path: Path) -> None:
    """It is told by its first bytes."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(sample(4), "MEMORY.DMP")
    bucket.objects |= {"x/archive": (tmp_path / "x.zip").read_bytes(), "x/tiny": b"a", "x/empty.dmp": b"", "x/y/": b""}
    found = lines_of("s3://crashes/x")
    assert set(found) == {"s3://crashes/x/archive", "s3://crashes/x/empty.dmp"}
    line = found["s3://crashes/x/archive"]
    assert line["error"] is None and line["file"]["member"]["name"] == "MEMORY.DMP"
    assert "empty" in found["s3://crashes/x/empty.dmp"]["error"]["message"]


def test_what_is_not_there_or_not_allowed_is_a_line(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("s3://crashes/none.dmp", "s3://elsewhere/one.dmp"):
        (line,) = lines_of(url).values()
        assert line["error"]["kind"] == "KdumpError" and "cannot be reached" in line["error"]["message"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    s3fs.S3FileSystem.clear_instance_cache()
    (line,) = lines_of("s3://crashes/none.dmp").values()
    assert "cannot be reached" in line["error"]["message"] and "\n" not in line["error"]["message"]
