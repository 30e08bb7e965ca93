"""Names of Rust as they were written: of the scheme v0 and of the one before it, by the extra ``dwarf``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

_LEGACY = re.compile(r"_?_ZN.+17h[0-9a-f]{16}E(\.llvm\.\d+)?")
#: The letter is that of a path: crate, item, implementations, generic instance, reference back.
_V0 = re.compile(r"_?_R[CNMXYIB][\w.$]*")
_HASH = re.compile(r"::h[0-9a-f]{16}$")


def rust_name(name: str) -> str | None:
    """A linker name of Rust as its programmer wrote it; ``None`` for other names, or without the library.

    On x86 one more underscore stands before the name.
    """
    if name[:1] != "_" or not (_V0.fullmatch(name) or _LEGACY.fullmatch(name)):
        return None
    demangle = _demangler()
    if demangle is None:
        return None
    try:
        return _HASH.sub("", demangle(name[1:] if name.startswith("__") else name))
    except Exception:  # the library raises what it likes for what it does not understand
        return None


@functools.lru_cache(maxsize=1)
def _demangler() -> Callable[[str], str] | None:
    try:
        from rust_demangler import demangle
    except ImportError:
        return None
    return demangle  # type: ignore[no-any-return]
