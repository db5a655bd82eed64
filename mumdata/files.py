"""Files: whole or not at all, and never outside their root.

In: a target path and something that writes. Out: the finished file under its name, or the old one untouched.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mumdata.errors import ConfigError, LayoutError, MumError

__all__ = [
    "atomic_path",
    "check_apart",
    "inside",
    "natural_key",
    "printable_name",
    "relative_to_folder",
    "remove_abandoned",
    "write_errors",
    "write_text",
]


# a folder may be shared by machines, whose processes have the same numbers
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:64] or "host"


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of `atomic_path` in a folder whose process, on this machine, is no more."""
    for path in Path(folder).glob(f".*.{_HOST}.*.tmp"):
        number = path.name.split(".")[-2]
        if number.isdecimal() and not Path("/proc", number).exists():
            path.unlink(missing_ok=True)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success it is flushed to disk and renamed to the target.

    On any error the temporary file is removed and the target stays as it was; see `write_errors`.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.tmp")
    try:
        with write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        # where the folder itself is the trouble there is nothing to remove, and the error above is the one to tell
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission, an impossible name and the like into a MumError that names the target."""
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOSPC: "no space left on the device; free some and run the command again",
            errno.EFBIG: "the file would exceed the size allowed; raise the limit (ulimit -f)",
            errno.EDQUOT: "disk quota exceeded; free some space and run the command again",
            errno.EACCES: "permission denied; choose another folder",
            errno.ENOENT: "its folder is not there and cannot be made; choose another place",
            errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
            errno.ENOTDIR: "a file stands where its folder should be; choose another place",
            errno.EEXIST: "a file stands where its folder should be; choose another place",
            errno.EISDIR: "a folder has that name; choose another",
            errno.EROFS: "the file system is read-only; choose another folder",
        }.get(error.errno or 0)
        # where the folder is there, something else than the target is missing
        if remedy is None or (error.errno == errno.ENOENT and Path(target).parent.is_dir()):
            raise
        raise MumError(f"cannot write {target}: {remedy}") from error


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raise ConfigError where an output, under whatever name, is one of the files that it is made of."""
    try:
        found = os.stat(out)
    except (OSError, ValueError):
        return  # nothing is there that could be lost
    for path in inputs:
        with suppress(OSError, ValueError):
            if os.path.samestat(found, os.stat(path)):
                raise ConfigError(f"writing {out} would replace {path}, which is an input; name another output")


def printable_name(path: Path | str) -> str:
    """Return a path as text that can be encoded: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def write_text(target: Path, text: str) -> None:
    """Write a small text file atomically, as UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def inside(root: Path, path: str) -> Path:
    """Join a catalog's path to its root; a path that is absolute or climbs out of the root is a LayoutError."""
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise LayoutError(f"path '{path}' leaves its root {root}; index the dataset again")
    return Path(root, path)


def relative_to_folder(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder` with forward slashes, so that both can move together."""
    return Path(os.path.relpath(Path(path).absolute(), Path(folder).absolute())).as_posix()


def natural_key(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key under which frame2 comes before frame10; names that differ in zeros alone fall back to text."""
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece)) if piece.isdecimal() else (1, piece) for piece in pieces if piece], name
