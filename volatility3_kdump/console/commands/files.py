"""Commands on files, volumes, control areas, page frames, and memory that is written to a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, file, number, rest
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import parse_bounds
from volatility3_kdump.files import reason
from volatility3_kdump.windows.memory.contents import held_bytes, pieces

_CHUNK = 1 << 20
_MOST_WRITTEN = 1 << 36


_UNUSED_SEGMENTS = (1 << 64) - 1


@command(
    "!fileobj",
    help="a file object: device, flags, cache",
    arguments=(number("ADDRESS", "of a FILE_OBJECT", required=True),),
    examples=(Example("!fileobj ffff9189`4e251a20"),),
    plugin="file",
)
def file_object(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.files import file_grid

    return file_grid(session.target, arguments.number("ADDRESS") or 0).kd_lines()


@command(
    "!vpb",
    help="a volume parameter block",
    arguments=(number("ADDRESS", "of a VPB", required=True),),
    examples=(Example("!vpb ffff9189`4e251b10"),),
    plugin="file",
)
def volume(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.files import volume_grid

    return volume_grid(session.target, arguments.number("ADDRESS") or 0).kd_lines()


@command(
    "!ca",
    help="a control area: what is mapped of a file",
    arguments=(number("ADDRESS", "of a CONTROL_AREA; 0 for all that have pages", required=True),),
    examples=(Example("!ca ffff9189`4d6320b0"), Example("!ca 0", "all that have pages")),
    plugin="file",
)
def control_area(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.files import control_area_grid

    address = arguments.number("ADDRESS") or 0
    if not address:
        from volatility3_kdump.views.memusage import control_area_lines

        return control_area_lines(session.target, session.progress)
    if address == _UNUSED_SEGMENTS:
        raise KdumpError("!ca -1 is not there: no public symbol names the list of unused segments")
    return control_area_grid(session.target, address).kd_lines()


@command(
    "!pfn",
    help="a page frame: what uses it, and its list",
    arguments=(number("PAGE", "the page frame number", required=True),),
    examples=(Example("!pfn 1f3a2"),),
    plugin="file",
)
def page_frame(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.files import frame_grid

    return frame_grid(session.target, arguments.number("PAGE") or 0).kd_lines()


@command(
    ".writemem",
    help="writes memory to a new file",
    arguments=(
        file("FILE", "a file that does not exist yet", required=True),
        rest("RANGE", "ADDRESS LCOUNT, or ADDRESS END", required=True),
    ),
    examples=(Example(".writemem /tmp/nt.bin nt L1000"),),
)
def write_memory(session: Session, arguments: Arguments) -> Iterator[str]:
    """Nothing is written where a byte of the range is absent: a file with holes would be taken for the memory."""
    name = arguments.word("FILE") or ""
    wanted, left = parse_bounds(arguments.word("RANGE") or "", session.names, session.state.radix)
    length = wanted.length(1) if wanted is not None else None
    if wanted is None or left or not length:
        raise KdumpError(".writemem needs a file and a range: .writemem FILE nt L1000")
    if length > _MOST_WRITTEN:
        raise KdumpError(f".writemem writes at most {_MOST_WRITTEN:#x} bytes, not {length:#x}")
    memory = session.current.memory
    held = held_bytes(memory, wanted.start, length)
    if held != length:
        raise KdumpError(f"{name}: not written: {length - held:#x} of {length:#x} bytes are not in the dump")
    path = Path(os.path.expanduser(name))
    try:
        with path.open("xb") as output:
            for piece in pieces(memory, wanted.start, length, _CHUNK):
                output.write(piece)
    except FileExistsError:
        raise KdumpError(f"{name}: not written: it exists, and is not overwritten") from None
    except (OSError, ValueError) as error:
        raise KdumpError(f"{name}: not written: {reason(error)}") from error
    yield f"Writing {length:x} bytes."
