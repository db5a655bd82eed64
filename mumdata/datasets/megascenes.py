"""MegaScenes: internet photo collections of landmarks, several COLMAP models a scene.

In: `images/<xxx>/<yyy>/commons/<category>/0/pictures/<file>` and `reconstruct/<xxx>/<yyy>/colmap/<k>` (the README of
the dataset says `sparses/<k>`; both are read). Out: a stream for each model, frames in the model's order; photos that
no model registers follow as a stream without a name where they are asked for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mumdata.datasets import Scene, Spec, Stream, first_folder, list_folder, natural_key
from mumdata.datasets.reconstruction import DiskNames, model_stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="megascenes",
    title="MegaScenes",
    rule="chain-viewpoint",
    licence="CC BY 4.0 for the dataset; each photo has its own Wikimedia licence",
    source="an open bucket, file by file; no sign-up",
    layout="reconstruct/<xxx>/<yyy>/colmap/<k> (or sparses/<k>) with images/<xxx>/<yyy>/commons/...",
    presets={"mumdata": {"min_frames": 8}, "mum-paper": {"min_frames": 24}},
)

_THREE = re.compile(r"\d{3}")


def scenes(root: Path) -> list[Scene]:
    """List the scenes that have a reconstruction or images; LayoutError where there is none."""
    found = set()
    for base in ("reconstruct", "images"):
        if Path(root, base).is_dir():
            for high in filter(_THREE.fullmatch, list_folder(Path(root, base))[0]):
                found |= {(high, low) for low in list_folder(Path(root, base, high))[0] if _THREE.fullmatch(low)}
    if not found:
        raise LayoutError(f"{root} does not look like megascenes; expected {SPEC.layout}")
    return [Scene(None, high + low, (f"{high}/{low}",)) for high, low in sorted(found)]


def read(root: Path, scene: Scene) -> list[Stream]:
    """Read the models of one scene, and list the photos that none of them registers as a stream named None."""
    place = scene.places[0]
    disk = DiskNames(root)
    models = first_folder(root, (f"reconstruct/{place}/colmap", f"reconstruct/{place}/sparses"))
    numbers = [name for name in list_folder(Path(root, models))[0] if name.isdecimal()] if models else []
    streams = [
        model_stream(root, f"{models}/{k}", k, lambda name: f"images/{place}/{name}", disk, group=scene.scene)
        for k in sorted(numbers, key=int)
    ]
    registered = {path for stream in streams for path in stream.paths}
    others = sorted((path for path in _photos(root, f"images/{place}") if path not in registered), key=natural_key)
    if others or not streams:
        detail = f"{len(others)} photos that no model registers"
        streams.append(Stream(None, tuple(others), scene.scene, problem="no_model", detail=detail))
    return streams


def _photos(root: Path, folder: str) -> list[str]:
    found = []
    for at, folders, files in os.walk(Path(root, folder)):
        folders.sort()
        if Path(at).name == "pictures":
            below = Path(at).relative_to(root).as_posix()
            found += [f"{below}/{name}" for name in files if looks_like_image(name)]
    return found
