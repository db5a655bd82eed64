"""Finding archives by glob patterns.

In: a root folder and patterns, relative to it and bounded: every component is matched in one folder. Out: the paths of
the files that fit, and the folder into which each is mounted.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["matches", "mounted_into"]

_PACKED_TAR = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".Z")


def matches(root: Path, patterns: Iterable[str]) -> list[tuple[str, str]]:
    """Return (path, folder that it is mounted into) of the files that fit the patterns, in text order of the paths.

    Compressed relatives of a `.tar` are found too, to be refused by name.
    """
    beside: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for pattern in patterns:
        where, arrow, folder = (text.strip() for text in pattern.partition("=>"))
        for path in _glob(root, where):
            if arrow:
                elsewhere[path] = folder.replace("*", path.rpartition(".")[0])
            else:
                beside[path] = path.rpartition("/")[0]
    return sorted((beside | elsewhere).items())


def mounted_into(folder: str, path: str, first_member: str) -> str:
    """Return the folder an archive is mounted into: for one of its own name ("=> *"), beside it if it brings that."""
    own = path.rpartition(".")[0]
    parent, _, name = own.rpartition("/")
    return parent if folder == own and first_member.startswith(f"{name}/") else folder


def _glob(root: Path, pattern: str) -> list[str]:
    *folders, last = pattern.split("/")
    if not {"", ".", "..", "**"}.isdisjoint((*folders, last)):
        raise ValueError(f"'{pattern}' is no bounded pattern relative to a root")
    found = [""]
    for part in folders:
        found = [f"{folder}{name}/" for folder in found for name in _names(root / folder, [part])]
    endings = [last, *(last + ending for ending in _PACKED_TAR if last.endswith(".tar"))]
    if last.endswith(".tar"):
        endings.append(last.removesuffix(".tar") + ".tgz")
    return [folder + name for folder in found for name in _names(root / folder, endings)]


def _names(folder: Path, patterns: list[str]) -> list[str]:
    """Return the names in a folder that fit a pattern; hidden ones only where the pattern is."""
    fits = re.compile("|".join(map(fnmatch.translate, patterns)))
    hidden = patterns[0].startswith(".")
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if fits.match(entry.name) and entry.name.startswith(".") == hidden]
    except OSError:
        return []
