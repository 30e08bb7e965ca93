"""Addresses as users write them: hexadecimal numbers and ``module!symbol+offset``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_HIGHEST = (1 << 64) - 1
_NUMBER = re.compile(r"(0x)?[0-9a-f]{1,16}", re.IGNORECASE)
_NAME = re.compile(r"(?P<module>[\w.~$-]+)(!(?P<symbol>[^+\s]+))?")


def parse_address(text: str, target: Target | None = None) -> int:
    """The address that a text names: ``fffff800`60da1981``, ``0xfffff80060da1981``, ``nt!KeBugCheckEx+5``.

    Numbers are hexadecimal, as in KD; those of a 32-bit target are sign-extended, as all addresses are here. Raises
    :class:`KdumpError` with what is wrong.
    """
    base_text, plus, offset_text = text.replace("`", "").strip().partition("+")
    offset = _number(offset_text, text) if plus else 0
    match = _NAME.fullmatch(base_text)
    if _NUMBER.fullmatch(base_text):
        address = _number(base_text, text) + offset
    elif match is None or target is None:
        raise KdumpError(f"{text!r} is not an address: use hexadecimal digits or module!symbol+offset")
    else:
        address = _named(target, match["module"], match["symbol"], text) + offset
    if address > _HIGHEST:
        raise KdumpError(f"{text!r} is not an address: it is beyond 64 bits")
    if target is not None and target.memory.pointer_size == 4 and 0x80000000 <= address <= 0xFFFFFFFF:
        address |= 0xFFFFFFFF00000000
    return address


def _number(text: str, whole: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise KdumpError(f"{whole!r} is not an address: {text!r} is no hexadecimal number of at most 64 bits")
    return int(text, 16)


def _named(target: Target, module_name: str, symbol: str | None, whole: str) -> int:
    module = next((found for found in target.modules if found.name.lower() == module_name.lower()), None)
    if module is None:
        raise KdumpError(f"{whole!r}: no loaded module is named {module_name}")
    if symbol is None:
        return module.base
    found = target.names.address_of(module, symbol)
    if found is None:
        status = target.symbol_status_of(module)
        raise KdumpError(f"{whole!r}: {module.name} has no symbol {symbol} ({status})")
    return found


def parse_id(text: str) -> int:
    """A process or thread id: decimal, or hexadecimal after ``0x``. Raises :class:`KdumpError`."""
    try:
        value = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        raise KdumpError(f"{text!r} is not an id: use decimal digits, or 0x and hexadecimal ones")
    return value
