"""What is in a file of features, finished or not.

In: its path. Out: what it says it is, its tokens, and its broken images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mumdata.errors import MumError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "BROKEN",
    "DONE",
    "WAITING",
    "StoredTokens",
    "check_same",
    "open_stored",
    "read_about",
    "read_broken",
    "read_tokens",
    "token_shapes",
]

# values of `status`
WAITING, DONE, BROKEN = 0, 1, 2


class StoredTokens(NamedTuple):
    """Patch tokens [N, D] of image `number`, its rows and columns of patches, and the box that they show."""

    number: int
    tokens: np.ndarray
    grid: tuple[int, int]
    box: tuple[int, int, int, int]


def open_stored(path: Path) -> h5py.File:
    """Open a file for reading; MumError where it is no whole HDF5 file."""
    import h5py

    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise MumError(f"{path} is no file; name another one (-o)")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise MumError(f"{path} is no whole HDF5 file; name another file (-o), or remove that one") from error


def read_about(path: Path) -> dict[str, Any]:
    """Return what a file of features, finished or not, says it is; MumError where it is none or is damaged."""
    with open_stored(path) as file:
        try:
            about = json.loads(file.attrs["about"])
        except (KeyError, ValueError, TypeError) as error:
            raise MumError(f"{path} is no file of features; name another one (-o), or remove it") from error
    if not isinstance(about, dict):
        raise MumError(f"{path} is no file of features; name another one (-o), or remove it")
    return about


def read_broken(path: Path) -> list[tuple[str, str]]:
    """Return names of broken images and what is wrong with them."""
    with open_stored(path) as file:
        rows = np.flatnonzero(file["status"][...] == BROKEN)
        names, problems = file["paths"].asstr()[...][rows], file["problems"][...][rows]
        return [(name, problem.decode("utf-8", "replace")) for name, problem in zip(names, problems, strict=True)]


def read_tokens(path: Path) -> Iterator[StoredTokens]:
    """Yield the patch tokens of each image that is not broken."""
    with open_stored(path) as file:
        tokens, offsets = file["patch_tokens"], file.get("offsets")
        for number in np.flatnonzero(file["status"][...] == DONE).tolist():
            part = tokens[number] if offsets is None else tokens[offsets[number] : offsets[number + 1]]
            grid, box = file["grids"][number].tolist(), file["boxes"][number].tolist()
            yield StoredTokens(number, part, tuple(grid), tuple(box))


def token_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the data sets of tokens."""
    with open_stored(path) as file:
        return {name: file[name].shape for name in ("patch_tokens", "class_tokens") if name in file}


def check_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise MumError naming what differs, where a file was made of other images, by another model, or otherwise."""
    differing = [key for key in sorted({*was, *now}) if was.get(key) != now.get(key)]
    if differing:
        told = ", ".join(f"{key} (there {_short(was.get(key))}, now {_short(now.get(key))})" for key in differing)
        raise MumError(f"{path} holds other features: {told}; name another file (-o), or remove that one")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
