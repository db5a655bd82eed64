"""Files: whole or not at all, and never outside their root.

In: a target path and something that writes. Out: the finished file under its name, or the old one untouched.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mumdata.errors import LayoutError, MumError

__all__ = ["atomic_path", "write_text", "inside", "relative_to_folder", "remove_abandoned"]


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

    On any error the temporary file is removed and the target stays as it was. A full disk, a missing permission or
    a read-only file system becomes a MumError that names the target.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{_HOST}.{os.getpid()}.tmp")
    try:
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
    except OSError as error:
        remedy = {
            errno.ENOSPC: "no space left on the device; free some and run the command again",
            errno.EFBIG: "the file would exceed the size allowed; raise the limit (ulimit -f)",
            errno.EDQUOT: "disk quota exceeded; free some space and run the command again",
            errno.EACCES: "permission denied; choose another folder",
            errno.ENOTDIR: "a file stands where its folder should be; choose another place",
            errno.EEXIST: "a file stands where its folder should be; choose another place",
            errno.EISDIR: "a folder has that name; choose another",
            errno.EROFS: "the file system is read-only; choose another folder",
        }.get(error.errno or 0)
        if remedy is None:
            raise
        raise MumError(f"cannot write {target}: {remedy}") from error
    finally:
        # where the folder itself is the trouble there is nothing to remove, and the error above is the one to tell
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


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
