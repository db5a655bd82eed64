"""Anybody's own pictures: every sub-folder that holds images is a scene.

In: any folder. Out: a scene for each folder with images in it, named by its path; images in natural order, so that
frame2 comes before frame10. The images of the root itself form a scene named like the root.
"""

from __future__ import annotations

import os

from mumdata.datasets import Layout, Scene, Spec, Stream, natural_order
from mumdata.errors import LayoutError
from mumdata.images import EXTENSIONS, looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="folder",
    title="a folder of images",
    rule="scene",
    licence="your own; not known",
    source="your own pictures",
    layouts=(Layout("folders", "any folder; every sub-folder with images is a scene", ()),),
    archives=("*.zip", "*.tar"),
    presets={"mumdata": {}, "mum-paper": {}, "mum-released": {}},
)


def scenes(tree: Tree) -> list[Scene]:
    """List the folders that hold images, at any depth; LayoutError where there is no image at all."""
    found = {folder for folder, _, files in tree.walk() if any(name.lower().endswith(EXTENSIONS) for name in files)}
    if not found:
        raise LayoutError(f"{tree.root} holds no images ({', '.join(EXTENSIONS)}); check the folder")
    own = os.path.basename(os.path.abspath(tree.root)) or "."
    name_of_root = own if own not in found else "."
    return [Scene(None, folder or name_of_root, (folder,)) for folder in sorted(found)]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """List the images of one folder in natural order; macOS resource forks and hidden images are named as ignored."""
    folder = scene.places[0]
    files = tree.listing(folder)[1]
    prefix = f"{folder}/" if folder else ""
    names = natural_order(filter(looks_like_image, files))
    hidden = tuple(
        (prefix + name, "hidden", "a macOS resource fork or hidden file with an image's name")
        for name in files
        if name.startswith(".") and looks_like_image(name.lstrip("._"))
    )
    return [Stream(None, tuple(prefix + name for name in names), ignored=hidden)]
