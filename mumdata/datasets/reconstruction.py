"""What the datasets with COLMAP models share: a model turned into a stream, or into a stated problem.

In: a model's folder and how its image names become paths. Out: a `Stream` with tracks and cameras; a model that
cannot be read becomes a stream without frames whose problem is `bad_model`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from mumdata.colmap import Model, read_model
from mumdata.datasets import Cameras, Stream, natural_key
from mumdata.errors import ModelError
from mumdata.tree import Tree

__all__ = ["bad_model", "model_stream"]


def model_stream(
    tree: Tree,
    folder: str,
    stream: str | None,
    path_of: Callable[[str], str],
    *,
    model: Model | None = None,
    natural_order: bool = False,
    known_intrinsics: bool = True,
    group: str | None = None,
    eval_of: str | None = None,
    depth_path_of: Callable[[str], str] | None = None,
    mask_path_of: Callable[[str], str] | None = None,
) -> Stream:
    """Read the model in `folder` (unless it is given) and name its images' files.

    Frames keep the model's order unless `natural_order`.

    An image whose file is not there keeps the path where it was looked for. Names that leave the root are ignored
    with a reason.
    """
    if model is None:
        try:
            model = read_model(folder, tree)
        except ModelError as error:
            return bad_model(tree, str(error), stream, group, eval_of)
    names = [os.fsdecode(name) for name in model.names]
    rows, paths, ignored = [], [], []
    seen: set[str] = set()
    order = sorted(range(len(names)), key=lambda row: natural_key(names[row])) if natural_order else range(len(names))
    for row in order:
        path = path_of(names[row])
        if names[row].startswith("/") or ".." in names[row].split("/") or not names[row] or "\0" in names[row]:
            ignored.append((path, "leaves_root", f"named by the model in {folder}"))
            continue
        path = tree.find(path) or path
        if path in seen:
            ignored.append((path, "named_twice", f"by the model in {folder}"))
            continue
        seen.add(path)
        rows.append(row)
        paths.append(path)
    taken = np.array(rows, np.int64)

    def beside(path_of: Callable[[str], str] | None) -> tuple[str | None, ...] | None:
        return None if path_of is None else tuple(tree.find(path_of(names[row])) for row in rows)

    return Stream(
        stream,
        tuple(paths),
        group,
        model=model,
        rows=taken,
        cameras=Cameras.of_model(model, taken, known_intrinsics),
        depth_paths=beside(depth_path_of),
        mask_paths=beside(mask_path_of),
        eval_of=eval_of,
        ignored=tuple(ignored),
    )


def bad_model(tree: Tree, message: str, stream: str | None, group: str | None, eval_of: str | None = None) -> Stream:
    """Make the stream without frames that stands for a model which cannot be read."""
    # catalogs speak of paths relative to the root, so that the same data gives the same catalog anywhere
    detail = message.replace(f"{tree.root}/", "").replace(f"{tree.root.absolute()}/", "")
    return Stream(stream, (), group, eval_of=eval_of, problem="bad_model", detail=detail)
