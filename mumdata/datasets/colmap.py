"""Any images with a COLMAP model: one scene, or a folder of scenes.

In: a folder that holds models (`sparse/<k>`, `sparse`, `dense/<k>/sparse`, ...; binary or text) and images (`images`,
`input`, ...), or folders of such. Out: a stream for every model, frames in natural order; photos that no model
registers form a stream without a name.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict

from mumdata.colmap import is_model, read_model
from mumdata.datasets import Layout, Scene, Spec, Stream, natural_key, natural_order
from mumdata.datasets.reconstruction import bad_model, model_stream
from mumdata.errors import LayoutError, ModelError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="colmap",
    title="images with a COLMAP model",
    rule="chain-overlap",
    licence="your own; not known",
    source="your own pictures and COLMAP",
    layouts=(
        Layout(
            "COLMAP",
            "images/ with sparse/<k>/, sparse/ or dense/<k>/sparse/; or folders of such",
            (
                r"(sparse|colmap)(/\d+)?/(images|points3D)\.(bin|txt)",
                r"[^/]+/(sparse|colmap)(/\d+)?/(images|points3D)\.(bin|txt)",
            ),
        ),
    ),
    archives=("*.zip",),
    # MuM's are those for MegaDepth, whose models are such; but models with fewer than 256 photos count
    presets={
        "mumdata": {"min_frames": 2, "cover": True},
        "mum-paper": {"per_scene": 1000, "min_shared": 1, "min_frames": 24, "max_frames": 256},
        "mum-released": {"rule": "topk", "per_scene": 1000, "min_shared": 0, "min_frames": 24, "max_frames": 256},
    },
)

# folders that belong to a scene rather than being one
_MODEL_FOLDER = re.compile(r"(sparse|colmap|reconstruction|model|distorted|undistorted|dense)s?([-_]?te?xt|[-_]?bin)?")
_MODEL_FILES = {"images.bin", "points3D.bin", "points3D.txt"}
_IMAGE_FOLDERS = ("images", "input", "imgs", "image", "rgb", "photos")
# downscaled copies that other tools write beside the photos: not photos of their own
_COPIES = re.compile(r"(images|input|imgs|image|rgb|photos)_\d+")
_MAX_DEPTH = 8


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes under the root; LayoutError where there is neither a model nor an image."""
    models: dict[str, list[str]] = defaultdict(list)
    photos: dict[str, list[str]] = defaultdict(list)
    for folder, folders, files in tree.walk():
        # a model with a file missing is listed as well: reading it names the file
        if is_model(folder, tree) or _MODEL_FILES & set(files):
            models[_scene_of_model(folder)].append(folder)
        if any(looks_like_image(name) for name in files):
            photos[_scene_of_photos(folder)].append(folder)
        deep = folder.count("/") >= _MAX_DEPTH
        folders[:] = [name for name in folders if not deep and not _COPIES.fullmatch(name)]
    if not models and not photos:
        raise LayoutError(f"{tree.root} holds no COLMAP model and no images; expected {SPEC.layout}")
    names = _merge(set(models), set(photos))
    own = os.path.basename(os.path.abspath(tree.root)) or "."
    of_root = own if own not in names else "."
    found = []
    for name in sorted(names):
        photo_folders = sorted((path for scene in names[name] for path in photos.get(scene, ())), key=natural_key)
        places = (name, tuple(sorted(models.get(name, ()), key=natural_key)), tuple(photo_folders))
        found.append(Scene(None, name or of_root, places))
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read every model of one scene, then list the photos that none of them registers."""
    base, models, photo_folders = scene.places
    streams: list[Stream] = []
    taken: set[str] = set()
    for folder in models:
        own = folder[len(base) :].strip("/")
        number = re.findall(r"(?:^|/)(\d+)(?=/|$)", own)
        name = number[-1] if number else "0"
        if name in taken:
            name = own
        taken.add(name)
        streams.append(_best(tree, base, folder, name, photo_folders, scene.scene))
    registered = {path for stream in streams for path in stream.paths}
    others = [
        f"{folder}/{name}" if folder else name
        for folder in photo_folders
        for name in tree.files(folder)
        if looks_like_image(name)
    ]
    others = natural_order(path for path in others if path not in registered)
    if others or not streams:
        detail = f"{len(others)} photos that no model registers" if streams else "no COLMAP model"
        streams.append(Stream(None, tuple(others), scene.scene, problem="no_model", detail=detail))
    return streams


def _best(tree: Tree, base: str, folder: str, name: str, photo_folders: tuple[str, ...], group: str) -> Stream:
    # the model does not say where its images lie: the folder that holds most of them by name is taken
    prefix = f"{base}/" if base else ""
    beside = folder.rpartition("/")[0]
    candidates = [f"{beside}/images" if beside else "images"]  # dense/<k>/{images,sparse}
    candidates += [prefix + image for image in _IMAGE_FOLDERS]
    candidates += [base, *photo_folders]
    try:
        model = read_model(folder, tree)
    except ModelError as error:
        return bad_model(tree, str(error), name, group)
    images = [os.fsdecode(image) for image in model.names]

    def held(candidate: str) -> int:
        return sum(tree.find(f"{candidate}/{image}" if candidate else image) is not None for image in images)

    best = max(dict.fromkeys(candidates), key=held)
    if not held(best):
        best = prefix + "images"

    def path_of(image: str) -> str:
        return f"{best}/{image}" if best else image

    return model_stream(tree, folder, name, path_of, model=model, natural_order=True, group=group)


def _scene_of_model(folder: str) -> str:
    return "/".join(_without_layout(folder.split("/") if folder else []))


def _scene_of_photos(folder: str) -> str:
    parts = folder.split("/") if folder else []
    for place, name in enumerate(parts):
        if name.lower() in _IMAGE_FOLDERS:
            parts = parts[:place]
            break
    return "/".join(_without_layout(parts))


def _without_layout(parts: list[str]) -> list[str]:
    # strip sparse, sparse/<k>, dense/<k>/sparse, ...; a number alone is a scene's own name
    while parts:
        if _MODEL_FOLDER.fullmatch(parts[-1].lower()):
            parts = parts[:-1]
        elif parts[-1].isdecimal() and len(parts) > 1 and _MODEL_FOLDER.fullmatch(parts[-2].lower()):
            parts = parts[:-2]
        else:
            break
    return parts


def _merge(models: set[str], photos: set[str]) -> dict[str, set[str]]:
    # a folder of photos below a scene with a model belongs to that scene; else it is a scene of its own
    names: dict[str, set[str]] = {name: {name} for name in models}
    for name in photos:
        owner = name
        while owner not in models and owner:
            owner = owner.rpartition("/")[0]
        names.setdefault(owner if owner in models else name, set()).add(name)
    return names
