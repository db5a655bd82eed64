"""Packages whose public functions are found when first asked for, so that importing them loads nothing heavy.

In: a package and its names with the modules that define them. Out: the package resolves each name to the function,
also where a module has the function's name (`mumdata.index` is the function, `from mumdata.index import ...` works).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["resolve_lazily"]


def resolve_lazily(package: str, names: Mapping[str, str]) -> None:
    """Make `package` resolve each of `names` (public name -> module) on first use."""

    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name not in names:
                raise AttributeError(f"module '{package}' has no attribute '{name}'")
            value = getattr(importlib.import_module(names[name]), name)
            object.__setattr__(self, name, value)
            return value

        def __setattr__(self, name: str, value: Any) -> None:
            # importing a submodule binds it in its package: not over the function of that name
            if name in names and isinstance(value, ModuleType):
                return
            object.__setattr__(self, name, value)

        def __dir__(self) -> list[str]:
            return sorted({*names, *self.__dict__})

    sys.modules[package].__class__ = Lazy
