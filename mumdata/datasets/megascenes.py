"""MegaScenes: internet photo collections of landmarks, several COLMAP models a scene.

In: `images/<xxx>/<yyy>/commons/<category>/0/pictures/<file>` and `reconstruct/<xxx>/<yyy>/colmap/<k>` (the README of
the dataset says `sparses/<k>`; both are read). Out: a stream for each model, frames in the model's order; photos that
no model registers follow as a stream without a name where they are asked for.
"""

from __future__ import annotations

import re

from mumdata.datasets import Layout, Scene, Spec, Stream, natural_key
from mumdata.datasets.reconstruction import model_stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="megascenes",
    title="MegaScenes",
    rule="chain-viewpoint",
    licence="CC BY 4.0 for the dataset; each photo has its own Wikimedia licence",
    source="an open bucket, file by file; no sign-up",
    layouts=(
        Layout(
            "bucket",
            "reconstruct/<xxx>/<yyy>/colmap/<k> (or sparses/<k>) with images/<xxx>/<yyy>/commons/...",
            (r"reconstruct/\d{3}/\d{3}/(colmap|sparses)/\d+", r"images/\d{3}/\d{3}/commons"),
            {
                r"reconstruct/\d{3}/\d{3}/(colmap|sparses)/\d+/images\.(bin|txt)": "models: cameras, tracks",
                r"images/\d{3}/\d{3}/commons/.+/0/pictures": "photos",
                r"metadata/categories\.json": "names of the scenes (not needed)",
            },
        ),
    ),
    archives=("*.zip",),
    copies_by_name=True,
    presets={"mumdata": {"min_frames": 8}, "mum-paper": {"min_frames": 24}},
)

_THREE = re.compile(r"\d{3}")


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes that have a reconstruction or images; LayoutError where there is none."""
    found = set()
    for base in ("reconstruct", "images"):
        for high in filter(_THREE.fullmatch, tree.folders(base)):
            found |= {(high, low) for low in tree.folders(f"{base}/{high}") if _THREE.fullmatch(low)}
    if not found:
        raise LayoutError(f"{tree.root} does not look like megascenes; expected {SPEC.layout}")
    return [Scene(None, high + low, (f"{high}/{low}",)) for high, low in sorted(found)]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read the models of one scene, and list the photos that none of them registers as a stream named None."""
    place = scene.places[0]
    models = tree.first_folder((f"reconstruct/{place}/colmap", f"reconstruct/{place}/sparses"))
    numbers = [name for name in tree.folders(models) if name.isdecimal()] if models else []
    streams = [
        model_stream(tree, f"{models}/{k}", k, lambda name: f"images/{place}/{name}", group=scene.scene)
        for k in sorted(numbers, key=int)
    ]
    registered = {path for stream in streams for path in stream.paths}
    others = sorted((path for path in _photos(tree, f"images/{place}") if path not in registered), key=natural_key)
    if others or not streams:
        detail = f"{len(others)} photos that no model registers"
        streams.append(Stream(None, tuple(others), scene.scene, problem="no_model", detail=detail))
    return streams


def _photos(tree: Tree, folder: str) -> list[str]:
    if not tree.is_folder(folder):
        return []
    return [
        f"{here}/{name}"
        for here, _, files in tree.walk(folder)
        if here.endswith("/pictures")
        for name in files
        if looks_like_image(name)
    ]
