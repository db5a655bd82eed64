"""What the datasets with COLMAP models share: a model turned into a stream, or into a stated problem.

In: a model's folder and how its image names become paths. Out: a `Stream` with tracks and cameras; a model that
cannot be read becomes a stream without frames whose problem is `bad_model`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mumdata.colmap import Model, read_model
from mumdata.datasets import Cameras, Stream, natural_key
from mumdata.errors import ModelError

__all__ = ["DiskNames", "bad_model", "model_stream"]


class DiskNames:
    """Finds files by name: byte for byte, else by Unicode NFC. Each folder is listed once, and only when needed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str | None:
        """Return the path under which a file is on disk, or None."""
        folder, _, name = path.rpartition("/")
        names = self._folders.get(folder)
        if names is None:
            names = self._folders[folder] = self._list(folder)
        found = names.get(name) or names.get(unicodedata.normalize("NFC", name))
        if found is None:
            return None
        return f"{folder}/{found}" if folder else found

    def _list(self, folder: str) -> dict[str, str]:
        try:
            on_disk = sorted(os.listdir(Path(self._root, folder)))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        names = {unicodedata.normalize("NFC", name): name for name in reversed(on_disk)}
        names.update((name, name) for name in on_disk)
        return names


def model_stream(
    root: Path,
    folder: str,
    stream: str | None,
    path_of: Callable[[str], str],
    disk: DiskNames,
    *,
    model: Model | None = None,
    natural_order: bool = False,
    known_intrinsics: bool = True,
    group: str | None = None,
    eval_of: str | None = None,
    depth_path_of: Callable[[str], str] | None = None,
) -> Stream:
    """Read the model in `root/folder` (unless it is given) and name its images' files.

    Frames keep the model's order unless `natural_order`.

    An image whose file is not there keeps the path where it was looked for. Names that leave the root are ignored
    with a reason.
    """
    if model is None:
        try:
            model = read_model(Path(root, folder))
        except ModelError as error:
            return bad_model(root, str(error), stream, group, eval_of)
    names = [os.fsdecode(name) for name in model.names]
    rows, paths, ignored = [], [], []
    seen: set[str] = set()
    order = sorted(range(len(names)), key=lambda row: natural_key(names[row])) if natural_order else range(len(names))
    for row in order:
        path = path_of(names[row])
        if names[row].startswith("/") or ".." in names[row].split("/") or not names[row]:
            ignored.append((path, "leaves_root", f"named by the model in {folder}"))
            continue
        path = disk.find(path) or path
        if path in seen:
            ignored.append((path, "named_twice", f"by the model in {folder}"))
            continue
        seen.add(path)
        rows.append(row)
        paths.append(path)
    taken = np.array(rows, np.int64)
    depths = None
    if depth_path_of is not None:
        wanted = (depth_path_of(names[row]) for row in rows)
        depths = tuple(path if disk.find(path) else None for path in wanted)
    return Stream(
        stream,
        tuple(paths),
        group,
        model=model,
        rows=taken,
        cameras=Cameras.of_model(model, taken, known_intrinsics),
        depth_paths=depths,
        eval_of=eval_of,
        ignored=tuple(ignored),
    )


def bad_model(root: Path, message: str, stream: str | None, group: str | None, eval_of: str | None = None) -> Stream:
    """Make the stream without frames that stands for a model which cannot be read."""
    # catalogs speak of paths relative to the root, so that the same data gives the same catalog anywhere
    detail = message.replace(f"{root}/", "").replace(f"{root.absolute()}/", "")
    return Stream(stream, (), group, eval_of=eval_of, problem="bad_model", detail=detail)
