"""Where a dataset's files lie.

In: a dataset's name and the catalogs folder. Out: its root folder, from `--root`, else the environment variable
MUM_ROOT_<NAME>, else catalogs/roots.toml (hand-written), else catalogs/<name>/root.toml (written by `mumdata index`).

A relative path in root.toml counts from that file's folder: the files came with their catalog, as those of a packed
copy do, and move with it. The environment variable, which tells where the dataset itself lies, does not apply then.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from mumdata.errors import ConfigError, LayoutError
from mumdata.files import relative_to_folder, write_text

__all__ = ["find_root", "read_toml", "remember_root", "remembered_dataset", "variable_name"]


def variable_name(name: str) -> str:
    """Return the environment variable that holds a dataset's root: `my-trip` -> `MUM_ROOT_MY_TRIP`."""
    return "MUM_ROOT_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def find_root(name: str, catalogs: Path, root: Path | None = None) -> Path:
    """Return the root folder of a dataset; LayoutError where none is known or it is not a folder."""
    variable = variable_name(name)
    by_hand, written = catalogs / "roots.toml", catalogs / name / "root.toml"
    remembered = str(read_toml(written).get("root", "")) if root is None and written.exists() else None
    base = Path()
    advice = f"run 'mumdata index {name} --root DIR', or set {variable}=DIR"
    if root is None and remembered and _is_relative(remembered):
        advice = "its files moved apart from their catalog: put them back beside it, or pack again"
    if root is not None:
        found, source = str(root), "--root"
    elif os.environ.get(variable) and not (remembered and _is_relative(remembered)):
        found, source = os.environ[variable], variable
    elif by_hand.exists() and name in (table := read_toml(by_hand)):
        found, source = str(table[name]), str(by_hand)
    elif remembered is not None:
        found, source, base = remembered, str(written), written.parent
    else:
        raise LayoutError(f"no root is known for '{name}'; {advice}")
    folder = base / Path(found).expanduser()
    if not found or not folder.exists():
        raise LayoutError(f"the root of '{name}', {found or 'nothing'} (from {source}), does not exist; {advice}")
    if not folder.is_dir():
        raise LayoutError(f"the root of '{name}', {found} (from {source}), is not a folder; {advice}")
    return folder


def remember_root(name: str, catalogs: Path, root: Path, dataset: str, *, relative: bool = False) -> None:
    """Write catalogs/<name>/root.toml, unless it already says so; `dataset` is what the catalog was indexed as.

    `relative` writes the root as seen from that folder, for files that move together with their catalog.
    """
    target = catalogs / name / "root.toml"
    path = relative_to_folder(root, target.parent) if relative else str(root.absolute())
    text = f"root = {json.dumps(path, ensure_ascii=False)}\n"
    text += f"dataset = {json.dumps(dataset)}\n"
    if not target.exists() or target.read_bytes() != text.encode():
        write_text(target, text)


def remembered_dataset(name: str, catalogs: Path) -> str | None:
    """Return what a catalog was last indexed as (`colmap` for one's own `holiday`, say), or None."""
    written = catalogs / name / "root.toml"
    return str(read_toml(written).get("dataset")) if written.is_file() else None


def _is_relative(path: str) -> bool:
    return not Path(path).expanduser().is_absolute()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; ConfigError naming the file and line where it is not TOML."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
