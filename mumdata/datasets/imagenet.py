"""ImageNet-1K (ILSVRC-2012): single images in class folders.

In: `{train,val}/<wnid>/*.JPEG`; or the same below `ILSVRC/Data/CLS-LOC`, as Kaggle gives it, with flat val and test; or
the original tars, which the tree shows as those folders. Out: one scene a class and split, images in natural order. The
classes of flat val come from Kaggle's `LOC_val_solution.csv`; images without a class form the scene `unlabelled`.
"""

from __future__ import annotations

import csv
from collections import defaultdict

from mumdata.datasets import KnownBad, Layout, Scene, Spec, Stream, natural_order
from mumdata.datasets.imagenet_shards import PATTERN, shard_scenes, shard_stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_CMYK = (
    "n01739381_1309 n02077923_14822 n02447366_23489 n02492035_15739 n02747177_10752 n03018349_4028 n03062245_4620 "
    "n03347037_9675 n03467068_12171 n03529860_11437 n03544143_17228 n03633091_5218 n03710637_5125 n03961711_5286 "
    "n04033995_2932 n04258138_17003 n04264628_27969 n04336792_7448 n04371774_5854 n04596742_4225 n07583066_647 "
    "n13037406_4650"
)


def _odd(stem: str, reason: str) -> KnownBad:
    source = "TensorFlow's conversion script for ImageNet"
    return KnownBad(reason, source, scene=stem.partition("_")[0], path=f"/{stem}.JPEG", drop=False)


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
            {
                r"train/n\d{8}/.+\.(JPEG|jpg|jpeg|png)": "images for training",
                r"val/n\d{8}/.+\.(JPEG|jpg|jpeg|png)": "images for validation",
                r"test/.+": "images for testing, without classes (not needed)",
                r"(extra|labels\.txt)": "labels and tables for the DINOv2 loader (not needed)",
            },
        ),
        Layout(
            "Kaggle",
            "ILSVRC/Data/CLS-LOC/{train/<wnid>,val,test}",
            (
                r"ILSVRC/Data/CLS-LOC/train/n\d{8}/.+\.JPEG",
                r"ILSVRC/Data/CLS-LOC/(val|test)/(n\d{8}|ILSVRC2012_.+\.JPEG)",
            ),
            {
                r"ILSVRC/Data/CLS-LOC/train/n\d{8}/.+\.JPEG": "images for training",
                r"ILSVRC/Data/CLS-LOC/val/(n\d{8}|ILSVRC2012_.+\.JPEG)": "images for validation",
                r"LOC_val_solution\.csv": "classes of the validation images",
                r"ILSVRC/Data/CLS-LOC/test/.+\.JPEG": "images for testing, without classes (not needed)",
                r"(ILSVRC/(ImageSets|Annotations)|LOC_.+\.(csv|txt))": "lists and boxes (not needed)",
            },
        ),
        Layout(
            "original tars",
            "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar",
            (r"ILSVRC2012_img_(train|val)\.tar", r"val/ILSVRC2012_val_\d{8}\.JPEG"),
            {
                r"(ILSVRC2012_img_train\.tar|train/n\d{8})": "images for training",
                r"(ILSVRC2012_img_val\.tar|val/ILSVRC2012_val_\d{8}\.JPEG)": "images for validation",
                r"LOC_val_solution\.csv": "classes of the validation images (Kaggle has them)",
                r"(ILSVRC2012_img_test.*\.tar|ILSVRC2012_devkit.*|test)": "images for testing, tools (not needed)",
            },
        ),
        Layout(
            "Parquet shards",
            "data/{train,validation,test}-<number>-of-<number>.parquet",
            (rf"data/{PATTERN}", PATTERN),
            {
                r"(data/)?train-\d{5}-of-\d{5}\.parquet": "images for training",
                r"(data/)?validation-\d{5}-of-\d{5}\.parquet": "images for validation",
                r"(data/)?test-\d{5}-of-\d{5}\.parquet": "images for testing, without classes (not needed)",
            },
        ),
    ),
    single_view=True,
    archives=(
        "ILSVRC2012_img_train.tar => train",
        "ILSVRC2012_img_val.tar => val",
        "ILSVRC2012_img_test*.tar => test",
        "imagenet-object-localization-challenge.zip",
    ),
    num_scenes=1_000,
    num_frames=1_431_167,
    counts="1,000 classes; 1,281,167 images for training, 50,000 for validation, 100,000 for testing without classes",
    known_bad=(
        _odd("n02105855_2933", "a PNG with four channels under a JPEG's name"),
        *(_odd(stem, "a JPEG in CMYK") for stem in _CMYK.split()),
    ),
    presets={"mumdata": {}, "mum-paper": {}, "mum-released": {}},
)

# images that lie directly in a split's folder have no class: everybody's test, and val without its table
UNLABELLED = "unlabelled"

# the table lies at the root of Kaggle's archive; people move it
_SOLUTIONS = ("LOC_val_solution.csv", "ILSVRC/LOC_val_solution.csv", "val/LOC_val_solution.csv")


def scenes(tree: Tree) -> list[Scene]:
    """List (split, class) pairs; LayoutError where there is neither train nor val nor test."""
    found = _in_folders(tree)
    taken = {(scene.split, scene.scene) for scene in found}
    found += [scene for scene in shard_scenes(tree, UNLABELLED) if (scene.split, scene.scene) not in taken]
    if not found:
        raise LayoutError(f"{tree.root} does not look like imagenet; expected {SPEC.layout}")
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """List the images of one class.

    Where a table tells the class, `places` holds the names that it gives: one that is not on disk keeps its path.
    """
    if scene.places[0] == "shards":
        return [shard_stream(scene)]
    folder, names = scene.places
    if scene.scene != UNLABELLED and names is not None:
        if not names:
            return [Stream(None, (), problem="empty", detail="none of its images in LOC_val_solution.csv is on disk")]
        return [Stream(None, tuple(f"{folder}/{name}" for name in natural_order(names)))]
    listed, labelled = tree.listing(folder)[1], set(names or ())
    images = natural_order(name for name in listed if looks_like_image(name) and name not in labelled)
    others = tuple((f"{folder}/{name}", *_reason(name)) for name in listed if not looks_like_image(name))
    return [Stream(None, tuple(f"{folder}/{name}" for name in images), ignored=others)]


def _in_folders(tree: Tree) -> list[Scene]:
    found = []
    for split in ("train", "val", "test"):
        folder = tree.first_folder(f"{base}{split}" for base in ("ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/", ""))
        if folder is None:
            continue
        # the test tar of 2019 holds a folder of its own
        classes = [name for name in tree.folders(folder) if name != split]
        found += [Scene(split, wnid, (f"{folder}/{wnid}", None)) for wnid in classes]
        flat = next((place for place in (folder, f"{folder}/{split}") if _has_images(tree, place)), None)
        if flat is not None:
            found += _without_folders(tree, split, flat, set(classes))
    return found


def _without_folders(tree: Tree, split: str, folder: str, known: set[str]) -> list[Scene]:
    # classes of a folder that holds images side by side; `known` have a folder, which comes first
    on_disk = {name for name in tree.files(folder) if looks_like_image(name)}
    by_class: dict[str, list[str]] = defaultdict(list)
    for name, wnid in (_solution(tree) if split == "val" else {}).items():
        if wnid not in known:
            by_class[wnid].append(name)
    labelled = {name for names in by_class.values() for name in names}
    # a class of which nothing is there is a row without frames, not fifty missing ones
    found = [
        Scene(split, wnid, (folder, () if on_disk.isdisjoint(names) else tuple(names)))
        for wnid, names in sorted(by_class.items())
    ]
    if on_disk - labelled:
        found.append(Scene(split, UNLABELLED, (folder, tuple(sorted(labelled)))))
    return found


def _has_images(tree: Tree, folder: str) -> bool:
    return any(looks_like_image(name) for name in tree.files(folder))


def _solution(tree: Tree) -> dict[str, str]:
    # file name -> wnid by Kaggle's table: ImageId, then wnid and box for each object, all of the image's class
    path = tree.first_file(_SOLUTIONS)
    if path is None:
        return {}
    try:
        rows = list(csv.DictReader(tree.read_text(path).splitlines()))
    except csv.Error as error:
        raise LayoutError(f"{path} is not the table of classes: {error}; download it again or move it away") from error
    found = {}
    for row in rows:
        image, objects = row.get("ImageId"), (row.get("PredictionString") or "").split()
        if image and objects and "/" not in image + objects[0]:
            found[f"{image}.JPEG"] = objects[0]
    return found


def _reason(name: str) -> tuple[str, str]:
    if name.startswith("."):
        return "hidden", "a macOS resource fork or hidden file"
    return "not_an_image", "by its name"
