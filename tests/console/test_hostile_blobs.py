"""Tagged data of strangers: nothing in it reaches the terminal as it is, and every blob is shown by name or in hex."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from tests.archives import packing
from volatility3_kdump.dump.blackboxes import BOXES
from volatility3_kdump.dump.smbios import TAG
from volatility3_kdump.dump.tagged import tag_names

#: Sets the window's title, turns the direction of writing, clears the screen, begins lines.
_HOSTILE = "\x1b]0;owned\x07\u202egnp.sys\x1b[2J\r\nFollowup:     nobody\n"
#: Where the texts of black boxes begin.
_TEXT_AT = {"pnp": 0x2C, "winlogon": 12, "bsd": 0x40, "ntfs": 0x18}
_RECORDER = 2


def blobs() -> list[tuple[uuid.UUID, bytes, int, int]]:
    wide, narrow = (_HOSTILE + "\0").encode("utf-16-le"), _HOSTILE.encode() + b"\0"
    made = [(uuid.UUID(tag), wide + narrow + wide, 0, 0) for tag in sorted(tag_names()) if tag not in BOXES]
    made += [(uuid.UUID(tag), bytes(_TEXT_AT[name]) + wide, 0, 0) for tag, name in BOXES.items()]
    # Blobs that would name themselves: by an image, by a component of the recorder, by a signature.
    made += [
        (uuid.UUID(int=number), data, 0, 0)
        for number, data in enumerate(
            (
                "\\Device\\".encode("utf-16-le") + wide,
                b"\x1b[2Jcomponent".ljust(0x1C, b"\0") + b"WPLg" + bytes(16),
                b"\x1b[2J" + bytes(40),
            ),
            1,
        )
    ]
    # SMBIOS: a system whose maker and product are hostile.
    system = bytes((1, 27, 1, 0, 1, 2, 0, 0)) + bytes(19) + narrow + narrow + b"\0"
    header = bytes((0, 3, 1, 0)) + len(system).to_bytes(4, "little")
    return [entry for entry in made if entry[0] != TAG] + [(uuid.UUID(str(TAG)), header + system, 0, 0)]


def test_nothing_reaches_the_terminal(kdump: Callable[..., list[str]], tmp_path: Path) -> None:
    made = blobs()
    (tmp_path / "blobs.dmp").write_bytes(packing.triage(blobs=packing.tagged(made)))
    commands = [*(f"!blackbox{name}" for name in BOXES.values()), ".enumtag", "!sysinfo machineid", "!analyze -v"]
    shown = kdump("-z", tmp_path / "blobs.dmp", "-c", "; ".join([*commands, "q"]))
    assert not any(ord(letter) < 0x20 or letter in "\x7f\u202e" for line in shown for letter in line)
    assert not any(line.startswith("Followup:     nobody") for line in shown)
    # Every blob has its line; those without a name only their bytes.
    for tag, data, _, _ in made:
        [line] = [line for line in shown if line.startswith(f"{{{str(tag).upper()}}} - 0x{len(data):x} bytes")]
        # The recorder's mark still says what it is; of which component does not count.
        name = line.partition(" bytes")[2].strip()
        assert name == tag_names().get(str(tag), "WPP recorder log" if tag.int == _RECORDER else ""), line
