"""What the tests of symbols have of images serves here too."""

from __future__ import annotations

from tests.symbols.conftest import image_path, memory, module_of, xcpt4

__all__ = ["image_path", "memory", "module_of", "xcpt4"]
