"""What every decoder has in common: its limits, and one line for whatever it raises on damaged data."""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Iterator
from typing import IO, Any

from volatility3_kdump.archives.archive import CHUNK, shown
from volatility3_kdump.errors import CorruptContainer, KdumpError, UnsupportedContainer

#: Most bytes of a list of files, unpacked: archives of dumps have a few entries.
MOST_DIRECTORY = 16 << 20
#: Most bytes of dictionary that a decoder is given.
MOST_DICTIONARY = 256 << 20


def pieces(stream: IO[bytes] | Any) -> Iterator[bytes]:
    """What a stream holds, in pieces."""
    while data := stream.read(CHUNK):
        yield data


@contextlib.contextmanager
def damage(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises for damaged data into one line."""
    try:
        yield
    except (KdumpError, GeneratorExit):
        raise
    except EOFError as error:
        raise CorruptContainer(f"{what} is cut short: the file is truncated") from error
    except lzma.LZMAError as error:
        if "Memory usage limit" in str(error):
            raise UnsupportedContainer(
                f"{what} needs more than {MOST_DICTIONARY:,} bytes of memory to decompress: extract it first"
            ) from error
        raise CorruptContainer(f"{what} does not decompress: {error}") from error
    except NotImplementedError as error:
        raise UnsupportedContainer(f"{what} cannot be decompressed: {error}") from error
    except MemoryError as error:
        raise UnsupportedContainer(f"{what} needs more memory to decompress than there is") from error
    except Exception as error:
        # The readers of zip and 7z raise many kinds, their own and others, where an archive contradicts itself.
        if type(error).__name__ == "PasswordRequired":
            raise UnsupportedContainer(f"{what} is encrypted: extract it with its password first") from error
        if type(error).__name__ == "UnsupportedCompressionMethodError":
            raise UnsupportedContainer(f"{what} is compressed by a method that is not supported") from error
        complaint = shown(str(error) or type(error).__name__, 120)
        raise CorruptContainer(f"{what} is damaged: {complaint}") from error
