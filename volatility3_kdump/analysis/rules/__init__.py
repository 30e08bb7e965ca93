"""The rules, one module a theme. Importing this package fills :data:`volatility3_kdump.analysis.reasoning.RULES`."""

from __future__ import annotations

import importlib
import pkgutil

for _module in sorted(entry.name for entry in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
