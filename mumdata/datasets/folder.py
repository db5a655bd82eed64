"""Anybody's own pictures: every sub-folder that holds images is a scene.

In: any folder. Out: a scene for each folder with images in it, named by its path; images in natural order, so that
frame2 comes before frame10. The images of the root itself form a scene named like the root.
"""

from __future__ import annotations

import os
from pathlib import Path

from mumdata.datasets import Scene, Spec, Stream, list_folder, natural_key
from mumdata.errors import LayoutError
from mumdata.images import EXTENSIONS, looks_like_image

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="folder",
    title="a folder of images",
    rule="scene",
    licence="your own; not known",
    source="your own pictures",
    layout="any folder; every sub-folder with images is a scene",
)


def scenes(root: Path) -> list[Scene]:
    """List the folders that hold images, at any depth; LayoutError where there is no image at all."""
    found: list[tuple[str, ...]] = []
    _collect(root, (), found, set())
    if not found:
        raise LayoutError(f"{root} holds no images ({', '.join(EXTENSIONS)}); check the folder")
    taken = {"/".join(parts) for parts in found}
    own = Path(os.path.abspath(root)).name or "."
    name_of_root = own if own not in taken else "."
    return [Scene(None, "/".join(parts) or name_of_root, ("/".join(parts),)) for parts in sorted(found)]


def read(root: Path, scene: Scene) -> list[Stream]:
    """List the images of one folder in natural order; macOS resource forks and hidden images are named as ignored."""
    folder = scene.places[0]
    _, files = list_folder(Path(root, folder))
    prefix = f"{folder}/" if folder else ""
    names = sorted((name for name in files if looks_like_image(name)), key=natural_key)
    hidden = tuple(
        (prefix + name, "hidden", "a macOS resource fork or hidden file with an image's name")
        for name in files
        if name.startswith(".") and looks_like_image(name.lstrip("._"))
    )
    return [Stream(None, tuple(prefix + name for name in names), ignored=hidden)]


def _collect(folder: Path, parts: tuple[str, ...], found: list[tuple[str, ...]], seen: set[tuple[int, int]]) -> None:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:  # a link back up, or to a folder that was listed already
        return
    seen.add((status.st_dev, status.st_ino))
    folders, files = list_folder(folder)
    if any(name.lower().endswith(EXTENSIONS) for name in files):
        found.append(parts)
    for name in folders:
        _collect(folder / name, (*parts, name), found, seen)
