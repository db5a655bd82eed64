"""ImageNet-1K (ILSVRC-2012): single images in class folders.

In: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, or the same below `ILSVRC/Data/CLS-LOC` with flat val and test.
Out: one scene a class and split, images in natural order.
"""

from __future__ import annotations

from pathlib import Path

from mumdata.datasets import Scene, Spec, Stream, first_folder, list_folder, natural_key
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="imagenet",
    title="ImageNet-1K",
    rule="single",
    licence="ImageNet terms of access: non-commercial research and education",
    source="an account with ImageNet, or the Kaggle copy of the object localization challenge",
    layout="train/<wnid>/*.JPEG, val/<wnid>/*.JPEG; or ILSVRC/Data/CLS-LOC/{train/<wnid>,val,test}",
    single_view=True,
)

# images that lie directly in a split's folder have no class: Kaggle's val and everybody's test
UNLABELLED = "unlabelled"


def scenes(root: Path) -> list[Scene]:
    """List (split, class) pairs; LayoutError where there is neither train nor val."""
    base = first_folder(root, ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")) or "."
    found = []
    for split in ("train", "val", "test"):
        if Path(root, base, split).is_dir():
            folders, files = list_folder(Path(root, base, split))
            found += [Scene(split, wnid, (f"{base}/{split}/{wnid}",)) for wnid in folders]
            if any(looks_like_image(name) for name in files):
                found.append(Scene(split, UNLABELLED, (f"{base}/{split}",)))
    if not found:
        raise LayoutError(f"{root} does not look like imagenet; expected {SPEC.layout}")
    return found


def read(root: Path, scene: Scene) -> list[Stream]:
    """List the images of one class."""
    folder = scene.places[0].removeprefix("./")
    _, files = list_folder(Path(root, folder))
    names = sorted((name for name in files if looks_like_image(name)), key=natural_key)
    others = tuple((f"{folder}/{name}", "not_an_image", "by its name") for name in files if not looks_like_image(name))
    return [Stream(None, tuple(f"{folder}/{name}" for name in names), ignored=others)]
