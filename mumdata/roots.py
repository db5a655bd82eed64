"""Where a dataset's files lie.

In: a dataset's name and the catalogs folder. Out: its root folder, from `--root`, else the environment variable
MUM_ROOT_<NAME>, else catalogs/roots.toml (hand-written), else catalogs/<name>/root.toml (written by `mumdata index`).
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from mumdata.errors import ConfigError, LayoutError
from mumdata.files import write_text

__all__ = ["find_root", "remember_root", "variable_name", "read_toml"]


def variable_name(name: str) -> str:
    """Return the environment variable that holds a dataset's root: `my-trip` -> `MUM_ROOT_MY_TRIP`."""
    return "MUM_ROOT_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def find_root(name: str, catalogs: Path, root: Path | None = None) -> Path:
    """Return the root folder of a dataset; LayoutError where none is known or it is not a folder."""
    variable = variable_name(name)
    by_hand, written = catalogs / "roots.toml", catalogs / name / "root.toml"
    if root is not None:
        found, source = str(root), "--root"
    elif os.environ.get(variable):
        found, source = os.environ[variable], variable
    elif by_hand.exists() and name in (table := read_toml(by_hand)):
        found, source = str(table[name]), str(by_hand)
    elif written.exists():
        found, source = str(read_toml(written).get("root", "")), str(written)
    else:
        raise LayoutError(f"no root is known for '{name}'; give --root DIR or set {variable}")
    folder = Path(found).expanduser()
    if not found or not folder.exists():
        raise LayoutError(
            f"the root of '{name}', {found or 'nothing'} (from {source}), does not exist; give --root DIR"
        )
    if not folder.is_dir():
        raise LayoutError(f"the root of '{name}', {found} (from {source}), is not a folder; give --root DIR")
    return folder


def remember_root(name: str, catalogs: Path, root: Path) -> None:
    """Write catalogs/<name>/root.toml, unless it already says so."""
    target = catalogs / name / "root.toml"
    text = f"root = {json.dumps(str(root.absolute()), ensure_ascii=False)}\n"
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        write_text(target, text)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; ConfigError naming the file and line where it is not TOML."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
