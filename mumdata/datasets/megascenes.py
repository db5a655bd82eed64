"""MegaScenes: internet photo collections of landmarks, several COLMAP models a scene.

In: `images/<xxx>/<yyy>/commons/<category>/0/pictures/<file>` and `reconstruct/<xxx>/<yyy>/colmap/<k>` (the README of
the dataset says `sparses/<k>`; both are read), or the same in `images.zip` and `reconstruct.zip`. Out: a stream for
each model, frames in the model's order; photos that no model registers follow as a stream without a name where they
are asked for.
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
                r"metadata": "names of the scenes, licences of the photos (not needed)",
                r"databases": "features and matches (not needed)",
            },
        ),
    ),
    # the bucket has none; people pack what they fetched from it
    archives=("images.zip", "reconstruct.zip"),
    num_scenes=81_638,
    num_frames=2_000_000,
    counts="81,638 scenes have 104,266 models, which register about 2 million photos; about 430,000 scenes and 9 "
    "million photos in all",
    copies_by_name=True,
    presets={
        # real models hold 20 photos on average
        "mumdata": {"min_frames": 8},
        "mum-paper": {
            "min_frames": 24,
            # all others are inferred: the paper speaks of an IoU, of a score like CroCo's and of enough difference in
            # viewpoint, without a figure; 0.1 and 10 degrees are those of the released functions
            "metric": "iou",
            "angle": "axis",
            "min_metric": 0.1,
            "min_angle_deg": 10.0,
            "max_angle_deg": 90.0,
            "min_shared": 30,
        },
        # the functions that are released, with their own defaults; the script itself never calls them
        "mum-released": {
            "min_frames": 3,
            "metric": "overlap",
            "angle": "rotation",
            "min_metric": 0.1,
            "min_angle_deg": 10.0,
            "max_angle_deg": 180.0,
            "min_shared": 1,
            "keep_copies": True,
        },
    },
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
    streams = [
        model_stream(tree, folder, k, lambda name: f"images/{place}/{name}", group=scene.scene)
        for k, folder in _models(tree, f"reconstruct/{place}")
    ]
    registered = {path for stream in streams for path in stream.paths}
    photos, ignored = _photos(tree, f"images/{place}")
    others = sorted((path for path in photos if path not in registered), key=natural_key)
    if others or ignored or not streams:
        detail = f"{len(others)} photos that no model registers"
        streams.append(
            Stream(None, tuple(others), scene.scene, problem="no_model", detail=detail, ignored=tuple(ignored))
        )
    return streams


def _models(tree: Tree, folder: str) -> list[tuple[str, str]]:
    # (number, folder) of each model; the name that the bucket gives their folder before the one in the README
    found: dict[str, str] = {}
    for name in ("sparses", "colmap"):
        found.update((k, f"{folder}/{name}/{k}") for k in tree.folders(f"{folder}/{name}") if k.isdecimal())
    return [(k, found[k]) for k in sorted(found, key=int)]


def _photos(tree: Tree, folder: str) -> tuple[list[str], list[tuple[str, str, str]]]:
    # the photos of a scene, and the other files beside them with the reason why they are none
    photos: list[str] = []
    ignored: list[tuple[str, str, str]] = []
    if not tree.is_folder(folder):
        return photos, ignored
    for here, _, files in tree.walk(folder):
        if not here.endswith("/pictures"):
            continue
        for name in files:
            path = f"{here}/{name}"
            if looks_like_image(name):
                photos.append(path)
            elif name.startswith("."):
                ignored.append((path, "hidden", "a macOS resource fork or hidden file"))
            else:
                ignored.append((path, "not_an_image", "by its name"))
    return photos, ignored
