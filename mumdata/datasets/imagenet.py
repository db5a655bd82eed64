"""ImageNet-1K (ILSVRC-2012): single images in class folders.

In: `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, or the same below `ILSVRC/Data/CLS-LOC` with flat val and test.
Out: one scene a class and split, images in natural order.
"""

from __future__ import annotations

from mumdata.datasets import Layout, Scene, Spec, Stream, natural_order
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="imagenet",
    title="ImageNet-1K",
    rule="single",
    licence="ImageNet terms of access: non-commercial research and education",
    source="an account with ImageNet, or the Kaggle copy of the object localization challenge",
    layouts=(
        Layout(
            "class folders",
            "train/<wnid>/*.JPEG, val/<wnid>/*.JPEG",
            (r"(train|val)/n\d{8}/.+\.(JPEG|jpg|jpeg|png)",),
        ),
        Layout(
            "Kaggle",
            "ILSVRC/Data/CLS-LOC/{train/<wnid>,val,test}",
            (r"ILSVRC/Data/CLS-LOC/(train|val)",),
        ),
    ),
    single_view=True,
)

# images that lie directly in a split's folder have no class: Kaggle's val and everybody's test
UNLABELLED = "unlabelled"


def scenes(tree: Tree) -> list[Scene]:
    """List (split, class) pairs; LayoutError where there is neither train nor val."""
    base = tree.first_folder(("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"))
    prefix = f"{base}/" if base else ""
    found = []
    for split in ("train", "val", "test"):
        folder = f"{prefix}{split}"
        found += [Scene(split, wnid, (f"{folder}/{wnid}",)) for wnid in tree.folders(folder)]
        if any(looks_like_image(name) for name in tree.files(folder)):
            found.append(Scene(split, UNLABELLED, (folder,)))
    if not found:
        raise LayoutError(f"{tree.root} does not look like imagenet; expected {SPEC.layout}")
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """List the images of one class."""
    folder = scene.places[0]
    files = tree.listing(folder)[1]
    names = natural_order(name for name in files if looks_like_image(name))
    others = tuple((f"{folder}/{name}", "not_an_image", "by its name") for name in files if not looks_like_image(name))
    return [Stream(None, tuple(f"{folder}/{name}" for name in names), ignored=others)]
