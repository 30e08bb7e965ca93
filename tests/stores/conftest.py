"""What the tests of symbols have of images serves here too."""

from __future__ import annotations

from tests.symbols.conftest import xcpt4

__all__ = ["xcpt4"]
