"""The recipes and all their settings, in words.

In: the recipes, and the comments above the fields of `mumtrain.config`. Out: lines of at most a width.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import mumtrain.config
from mumdata.errors import unknown
from mumtrain.config import TowerConfig
from mumtrain.recipes import RECIPES, recipe

__all__ = ["recipe_lines", "setting_lines"]


def recipe_lines(width: int = 80) -> Iterator[str]:
    """Yield the recipes, each with the first line of its docstring."""
    column = max(map(len, RECIPES)) + 2
    for name, make in RECIPES.items():
        about = (make.__doc__ or "").strip().splitlines()[0]
        yield from textwrap.wrap(
            f"{name:{column}}{about}", width, subsequent_indent=" " * column, break_on_hyphens=False
        )


def setting_lines(name: str, width: int = 80) -> Iterator[str]:
    """Yield a recipe's docstring and its settings with their values and what they mean; ConfigError for its name."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    config, comments = recipe(name), _comments()
    for part in _paragraphs(inspect.cleandoc(RECIPES[name].__doc__ or "")):
        yield from textwrap.wrap(part, width, break_on_hyphens=False) or [""]
    yield ""
    for key, value, comment in _settings(config, "", comments):
        yield f"{key}={_text(value)}"
        yield from textwrap.wrap(
            comment, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )


def _paragraphs(text: str) -> list[str]:
    # lines that belong together are one; a command, in backticks, has a line of its own
    parts: list[str] = []
    is_open = False
    for line in text.splitlines():
        if is_open and line and not line.startswith("`"):
            parts[-1] += f" {line}"
        else:
            parts.append(line)
        is_open = bool(line) and not line.endswith("`")
    return parts


def _settings(node: Any, prefix: str, comments: dict[tuple[str, str], str]) -> Iterator[tuple[str, Any, str]]:
    # (key, value, comment), plain values of a section before its own sections
    fields = dataclasses.fields(node)
    for field in sorted(fields, key=lambda field: dataclasses.is_dataclass(getattr(node, field.name))):
        value, key = getattr(node, field.name), f"{prefix}{field.name}"
        about = comments.get((type(node).__name__, field.name), "")
        if not dataclasses.is_dataclass(value):
            yield key, value, _with_choices(type(node), field.name, about)
            continue
        for inner, what, told in _settings(value, f"{key}.", comments):
            # of a tower: which one it is
            yield inner, what, f"{told} ({field.name}: {about})" if isinstance(value, TowerConfig) else told


def _with_choices(kind: type, name: str, about: str) -> str:
    hint = typing.get_type_hints(kind)[name]
    if typing.get_origin(hint) is not typing.Literal:
        return about
    return f"{about} [{', '.join(map(str, typing.get_args(hint)))}]"


def _comments() -> dict[tuple[str, str], str]:
    # (class, field) -> the comment lines right above the field
    text = inspect.getsource(mumtrain.config)
    lines = text.splitlines()
    found = {}
    for node in ast.parse(text).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                above = item.lineno - 1
                while lines[above - 1].lstrip().startswith("#"):
                    above -= 1
                told = (line.strip().removeprefix("#").strip() for line in lines[above : item.lineno - 1])
                found[node.name, item.target.id] = " ".join(told)
    return found


def _text(value: Any) -> str:
    # as --set takes it
    return ",".join(map(_text, value)) if isinstance(value, tuple) else str(value)
