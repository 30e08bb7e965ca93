"""What is blanked and what is not, as ASCII and as UTF-16."""

from __future__ import annotations

import struct
import time
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.dump import BytesSource
from volatility3_kdump.dump.smbios import TAG, smbios_structures
from volatility3_kdump.dump.tagged import TaggedBlob
from volatility3_kdump.writing.secrets import Secrets, names_in_environments, user_names_in


def blanked(text: str, secrets: Secrets, encoding: str) -> str:
    data = bytearray(b"\x01\x02" + text.encode(encoding) + b"\0\0\xff\xfe")
    secrets.blank(data)
    assert data[:2] == b"\x01\x02" and data[-4:] == b"\0\0\xff\xfe"
    return bytes(data[2:-4]).decode(encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"C:\Users\alice\a.txt", r"C:\Users\xxxxx\xxxxx"),
        (r"\??\c:\users\b\x", r"\??\c:\users\x\x"),
        (r"C:\Documents and Settings\Bob Example", r"C:\Documents and Settings\xxxxxxxxxxx"),
        (r"C:\Windows\System32\ntdll.dll", r"C:\Windows\System32\ntdll.dll"),
        (r'"C:\Program Files\App\app.exe" --token=5f3a', r'"C:\Program Files\App\app.exe" xxxxxxxxxxxx'),
        (r"C:\Windows\system32\svchost.exe", r"C:\Windows\system32\svchost.exe"),
        ("A=1\0Path=C:\\x\0Temp=D:\\secret", "A=1\0Path=C:\\x\0Temp=D:\\secret"),
        ("logged on: Alice", "logged on: xxxxx"),
        ("alicealice malice alice_2", "alicealice malice alice_2"),
        ("DESKTOP-1234567", "xxxxxxxxxxxxxxx"),
        ("S/N: PF0ABCDE;", "S/N: xxxxxxxx;"),
        (
            "\\REGISTRY\\USER\\S-1-5-21-345139120-26949283-1364705296-1002_Classes",
            "\\REGISTRY\\USER\\S-1-5-21-" + "x" * 34 + "_Classes",
        ),
        ("S-1-12-1-3141592653-1234567890-555-4294967295;", "S-1-12-1-" + "x" * 36 + ";"),
        ("S-1-5-18, S-1-5-32-544, S-1-16-12288, S-1-5-21-x", "S-1-5-18, S-1-5-32-544, S-1-16-12288, S-1-5-21-x"),
    ],
)
def test_texts(text: str, expected: str, encoding: str) -> None:
    secrets = Secrets(["alice", "DESKTOP-1234567", "Public", "ab"], ["PF0ABCDE", "To be filled by O.E.M.", "0000"])
    assert blanked(text, secrets, encoding) == expected


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_environments(encoding: str) -> None:
    block = "ALLUSERSPROFILE=C:\\ProgramData\0USERNAME=carol\0PATHEXT=.COM;.EXE\0ProgramFiles(x86)=C:\\P\0\0"
    assert blanked(block, Secrets([], []), encoding) == (
        "ALLUSERSPROFILE=xxxxxxxxxxxxxx\0USERNAME=xxxxx\0PATHEXT=xxxxxxxxx\0ProgramFiles(x86)=xxxx\0\0"
    )
    assert names_in_environments(block.encode(encoding)) == {"carol"}


def test_wide_texts_right_behind_narrow_ones() -> None:
    """The last letter of a text in ASCII and the zero behind it are no letter in UTF-16."""
    before = b"corp.example\0"
    data = bytearray(before + "alice$\0".encode("utf-16-le"))
    Secrets(["alice"], []).blank(data)
    assert data == before + "xxxxx$\0".encode("utf-16-le")
    block = "A1=secret\0USERNAME=carol\0PATHEXT=.COM\0\0"
    data = bytearray(before + block.encode("utf-16-le"))
    Secrets([], []).blank(data)
    assert data == before + "A1=xxxxxx\0USERNAME=xxxxx\0PATHEXT=xxxx\0\0".encode("utf-16-le")
    narrow_end = b"THE END_\0"
    assert names_in_environments(narrow_end + "USERNAME=carol\0".encode("utf-16-le")) == {"carol"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_users_by_their_directories(encoding: str) -> None:
    text = "C:\\Users\\dave\\x\0\0C:\\Users\\Public\\y\0\0D:\\users\\Eve Long\0\0"
    assert {"dave", "Eve Long"} <= user_names_in(text.encode(encoding))


def test_security_identifiers_as_windows_keeps_them() -> None:
    """SID of [MS-DTYP] 2.4.2.2: of an account here and in the cloud, and of Windows' own administrators."""

    def identifier(authority: int, *numbers: int) -> bytes:
        return bytes([1, len(numbers)]) + authority.to_bytes(6, "big") + struct.pack(f"<{len(numbers)}I", *numbers)

    kept = identifier(5, 32, 544) + identifier(16, 12288) + identifier(5, 18)
    data = bytearray(b"\xff" + identifier(5, 21, 345139120, 26949283, 1364705296, 1002) + kept)
    data += identifier(12, 1, 3141592653, 1234567890, 555, 4294967295)
    assert Secrets([], []).blank(data) == {"accounts": 2}
    assert data == b"\xff" + identifier(5, 21, 0, 0, 0, 1002) + kept + identifier(12, 1, 0, 0, 0, 0)


def test_other_scripts() -> None:
    secrets = Secrets(["Jürgen", "王小明"], [])
    text, expected = '"C:\\Users\\王小明\\図.txt" und JÜRGEN', '"C:\\Users\\xxx\\xxxxx" und xxxxxx'
    assert blanked(text, secrets, "utf-16-le") == expected


def test_bytes_behind_a_string_without_end_stay() -> None:
    """A counted string has no NUL behind it: what follows may be a pool header or a pointer."""
    text = "\\Users\\frank\\a.txt".encode("utf-16-le")
    behind = struct.pack("<QQ", 0xFFFFA001_12345678, 0xFFFFF800_60000000)
    data = bytearray(text + behind)
    assert Secrets([], []).blank(data) == {"paths": 1}
    assert bytes(data[-8:]) == behind[-8:]


def test_serial_numbers_of_smbios() -> None:
    identity = bytes(range(16))

    def structure(kind: int, body: bytes, *strings: bytes) -> bytes:
        return bytes([kind, 4 + len(body), 0, 0]) + body + b"\0".join(strings) + b"\0\0"

    tables = structure(1, bytes([1, 2, 3, 4]) + identity + bytes([6, 1, 2]), b"Maker", b"Product", b"3", b"SERIAL77")
    tables += structure(127, b"")
    data = struct.pack("<BBBBI", 0, 3, 1, 0, len(tables)) + tables
    blob = TaggedBlob(0, uuid.UUID(str(TAG)), 0, len(data), None)
    ((kind, body, strings), *_rest) = smbios_structures(BytesSource(data), [blob])
    assert kind == 1 and strings[body[7] - 1] == "SERIAL77" and body[8:24] == identity
    secrets = Secrets([], ["SERIAL77"], [identity, bytes(16)])
    blanked_data = bytearray(data)
    assert secrets.blank(blanked_data) == {"serial numbers": 2}
    assert b"SERIAL77" not in blanked_data and identity not in blanked_data and b"Maker" in blanked_data


@given(st.binary(max_size=400), st.text(max_size=10))
@settings(max_examples=part(200), deadline=None)
def test_nothing_grows_and_twice_is_as_once(data: bytes, name: str) -> None:
    secrets = Secrets([name], [name])
    once = bytearray(b"C:\\Users\\" + data)
    secrets.blank(once)
    assert len(once) == 9 + len(data)
    again = bytearray(once)
    secrets.blank(again)
    assert again == once


@pytest.mark.parametrize("piece", [b"a=", b"\\Users\\", b"A=B\0", b".exe ", b"a\0=\0", b"\\\0U\0s\0e\0r\0s\0"])
def test_no_bytes_take_long(piece: bytes) -> None:
    data = bytearray(piece * ((1 << 20) // len(piece)))
    before = time.process_time()
    Secrets(["someone"], []).blank(data)
    assert time.process_time() - before < 5
