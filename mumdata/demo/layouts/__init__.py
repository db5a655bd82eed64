"""The demo's datasets, one file each, found by its name.

A file here offers `plan(seed, sizes) -> Layout`: what is to be rendered, and where it is written below OUT/<name>.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import cast

from mumdata.demo.album import Layout, Sizes

__all__ = ["NAMES", "load"]

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Callable[[int, Sizes], Layout]:
    """Return the plan of one dataset."""
    return cast(Callable[[int, Sizes], Layout], importlib.import_module(f"{__name__}.{name}").plan)
