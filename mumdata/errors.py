"""The errors that a user is expected to meet.

    MumError
    |-- LayoutError    the files under a root are not what the dataset's layout promises
    |-- ModelError     a COLMAP model is truncated, inconsistent or absent
    |-- CatalogError   a Parquet catalog is missing, has another schema, or does not fit its inputs
    |-- ConfigError    an unknown name, key or value given by the user
    `-- DecodeError    an image cannot be decoded
        `-- TruncatedError   an image is cut off

Every message says what is wrong, where, and what to do. The command line turns a MumError into one line and exit
status 1; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CatalogError",
    "ConfigError",
    "DecodeError",
    "LayoutError",
    "ModelError",
    "MumError",
    "TruncatedError",
    "nearest",
    "unknown",
]


class MumError(Exception):
    """An expected failure, told to the user in one line."""


class LayoutError(MumError):
    """The files under a root do not form the layout that was asked for."""


class ModelError(MumError):
    """A COLMAP model cannot be read: files missing, counts that exceed the file, ids that point nowhere."""


class CatalogError(MumError):
    """A catalog is missing, was written with another schema, or does not belong to its inputs."""


class ConfigError(MumError):
    """A name, key or value given by the user is not known or not allowed."""


class DecodeError(MumError):
    """An image is unreadable or not an image."""


class TruncatedError(DecodeError):
    """An image is cut off: its header is whole, its end is not there."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like `name`, or None where nothing is near."""
    import difflib

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that is not in `known`: the nearest one suggested, else all of them listed."""
    names = sorted(known)
    near = nearest(name, names)
    hint = f"did you mean '{near}'?" if near else f"known: {', '.join(names)}"
    return ConfigError(f"unknown {what} '{name}'; {hint}")
