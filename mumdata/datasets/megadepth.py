"""MegaDepth: internet photo collections with COLMAP models and depth maps.

In: the original archives (`MegaDepth_v1_SfM/<scene>/{images, sparse/manhattan/<k>}` and
`phoenix/S6/zl548/MegaDepth_v1/<scene>/dense<k>/{imgs,depths}`); D2-Net's `Undistorted_SfM/<scene>`; both merged as
`<scene>/{dense<k>, sparse/manhattan/<k>, images}`; or any of these below `train`, `test` or `data/megadepth`, as LoFTR,
DKM and RoMa want it. Out: a stream for each model of a scene, frames in its order; the split by D2-Net's lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from mumdata.colmap import is_model
from mumdata.datasets import Depth, KnownBad, Layout, Scene, Spec, Stream, natural_order
from mumdata.datasets.reconstruction import model_stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_PHOTO = r"\d+_[0-9a-f]+_[a-z]\.(jpg|JPG|jpeg|png)"  # the names that the photo site gave them
_NEST = r"((data/megadepth/)?(train|test)/|data/megadepth/)"
_LISTS = r"(megadepth_utils/)?(train|valid)_scenes\.txt"

# scenes that RoMa's lists call "loftr_ignore"
_LOFTR_IGNORE = "0121 0133 0168 0178 0229 0349 0412 0430 0443 1001 5014 5015 5016"

SPEC = Spec(
    name="megadepth",
    title="MegaDepth",
    rule="chain-overlap",
    licence="not stated for the dataset; the photos belong to their photographers",
    source="two archives from the project's page: MegaDepth_v1 (images, depth) and MegaDepth_SfM_v1 (photos, models)",
    layouts=(
        Layout(
            "original archives",
            "MegaDepth_v1_SfM/<scene>/sparse/manhattan/<k> with phoenix/S6/zl548/MegaDepth_v1/<scene>/dense<k>",
            (
                r"(phoenix/S6/zl548/)?MegaDepth_v1_SfM/\d{4}/sparse/manhattan",
                rf"(phoenix/S6/zl548/)?MegaDepth_v1_SfM/\d{{4}}/images/{_PHOTO}",
                r"(phoenix/S6/zl548/)?MegaDepth_v1/\d{4}/dense\d+/imgs",
            ),
            {
                r"(phoenix/S6/zl548/)?MegaDepth_v1_SfM/\d{4}/sparse/manhattan/\d+": "models: cameras, tracks",
                r"(phoenix/S6/zl548/)?MegaDepth_v1_SfM/\d{4}/images": "photos that the models were made from",
                r"(phoenix/S6/zl548/)?MegaDepth_v1/\d{4}/dense\d+/imgs": "undistorted photos",
                r"(phoenix/S6/zl548/)?MegaDepth_v1/\d{4}/dense\d+/depths": "depth of the undistorted photos",
                _LISTS: "D2-Net's splits (not needed)",
            },
        ),
        Layout(
            "undistorted for D2-Net",
            "Undistorted_SfM/<scene>/{images,sparse or sparse-txt}",
            (r"Undistorted_SfM/\d{4}/(images|sparse|sparse-txt)",),
            {
                r"Undistorted_SfM/\d{4}/images": "photos",
                r"Undistorted_SfM/\d{4}/(sparse|sparse-txt)": "models: cameras, tracks",
                r"phoenix/S6/zl548/MegaDepth_v1/\d{4}/dense\d+/depths": "depth of the undistorted photos",
                _LISTS: "D2-Net's splits (not needed)",
                r"(scene_info/\d{4}\.npz|prep_scene_info/\d{4}\.npy)": "overlaps by D2-Net or DKM (not needed)",
            },
        ),
        Layout(
            "merged by scene",
            "<scene>/{dense<k>,sparse/manhattan/<k>,images}",
            (r"\d{4}/sparse/manhattan", r"\d{4}/dense\d+/imgs", rf"\d{{4}}/images/{_PHOTO}"),
            {
                r"\d{4}/sparse/manhattan/\d+": "models: cameras, tracks",
                r"\d{4}/images": "photos that the models were made from",
                r"\d{4}/dense\d+/imgs": "undistorted photos",
                r"\d{4}/dense\d+/depths": "depth of the undistorted photos",
                _LISTS: "D2-Net's splits (not needed)",
                r"megadepth_pairs\.npz": "pairs by DUSt3R (not needed)",
            },
        ),
        Layout(
            "nested",
            "any of these below {train,test}, data/megadepth or data/megadepth/{train,test}",
            (
                rf"{_NEST}Undistorted_SfM/\d{{4}}/(images|sparse|sparse-txt)",
                rf"{_NEST}phoenix/S6/zl548/MegaDepth_v1/\d{{4}}/dense\d+/imgs",
            ),
            {
                rf"{_NEST}Undistorted_SfM/\d{{4}}/images": "photos",
                rf"{_NEST}Undistorted_SfM/\d{{4}}/(sparse|sparse-txt)": "models: cameras, tracks",
                rf"{_NEST}phoenix/S6/zl548/MegaDepth_v1/\d{{4}}/dense\d+/depths": "depth of the undistorted photos",
                _LISTS: "D2-Net's splits (not needed)",
                r"((data/megadepth/)?index|(data/megadepth/)?prep_scene_info)": "pairs by LoFTR or DKM (not needed)",
            },
        ),
    ),
    archives=("*.zip", "*.tar"),
    num_scenes=196,
    counts="117 scenes in D2-Net's training list, 77 in its validation list, 0092 and 0132 in neither; the 117 hold "
    "204,684 undistorted photos",
    known_bad=(
        KnownBad(
            "it has no model 0, so that D2-Net's lists leave it out",
            "issue 83 of mihaidusmanu/d2-net",
            scene="0092",
            drop=False,
        ),
        KnownBad(
            "MegaDepth_v1 lacks its undistorted photos and depth",
            "issue 59 of zhengqili/MegaDepth",
            scene="0132",
            drop=False,
        ),
        KnownBad(
            "some COLMAP versions undistort it to images that do not fit their cameras",
            "issue 94 of mihaidusmanu/d2-net",
            scene="5017",
            drop=False,
        ),
        KnownBad(
            "some depth files hold ordinal labels, small or negative integers, instead of depth",
            "issues 1 and 38 of zhengqili/MegaDepth",
            drop=False,
        ),
        *(
            KnownBad("RoMa leaves it out of training", "loftr_ignore in Parskatt/RoMa", scene=scene, drop=False)
            for scene in _LOFTR_IGNORE.split()
        ),
    ),
    presets={
        "mumdata": {"min_frames": 8, "cover": True},
        # the paper: 1,000 chains a scene, of positive overlap. The lengths are inferred: 24 is the paper's least for
        # MegaScenes and that of the released loader, 256 the length of the released sequences
        "mum-paper": {"per_scene": 1000, "min_shared": 1, "min_frames": 24, "max_frames": 256},
        # the released script takes an anchor and its 255 best neighbours, even where they share nothing, so that models
        # with fewer photos give none
        "mum-released": {"rule": "topk", "per_scene": 1000, "min_shared": 0, "min_frames": 256, "max_frames": 256},
    },
    eval_scenes={
        **dict.fromkeys(("0015", "0022"), "megadepth-1500"),
        **dict.fromkeys(("0004", "0013", "0017", "0048"), "dkm-megadepth"),
        **dict.fromkeys(("0008", "0019", "0021", "0024", "0025", "0032", "0063", "1589"), "imc-2021"),
    },
)

_SCENE = re.compile(r"\d{4}")

# LoFTR's `train` and `test` often link to the same photos and are no split: each scene is listed once
_NESTS = ("", "data/megadepth/", "train/", "test/", "data/megadepth/train/", "data/megadepth/test/")
_UNDISTORTED, _SFM, _DENSE = (
    tuple(f"{nest}{name}".rstrip("/") for nest in _NESTS for name in names)
    for names in (
        ("Undistorted_SfM",),
        ("MegaDepth_v1_SfM", "phoenix/S6/zl548/MegaDepth_v1_SfM", ""),
        ("phoenix/S6/zl548/MegaDepth_v1", "MegaDepth_v1", ""),
    )
)
_MODEL_PARTS = ("sparse", "sparse/0", "sparse-txt")  # of an undistorted scene
_UTILS = ("", "megadepth_utils/", "data/megadepth/", "data/megadepth/megadepth_utils/")


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes of all layouts under the root; LayoutError where there is none."""
    # scene -> the folders that hold it in each of the three forms, the first of each form
    found: dict[str, list[str | None]] = {}
    for form, bases in enumerate((_UNDISTORTED, _SFM, _DENSE)):
        for base in bases:
            for name in filter(_SCENE.fullmatch, tree.folders(base)):
                folder = f"{base}/{name}".removeprefix("/")
                places = found.get(name, [None] * 3)
                if places[form] is None and _HOLDS[form](tree, folder):
                    places[form] = folder
                    found[name] = places
    if not found:
        raise LayoutError(f"{tree.root} does not look like megadepth; expected {SPEC.layout}")
    split_of = _splits(tree)
    return [Scene(split_of.get(name), name, tuple(places)) for name, places in sorted(found.items())]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read the models of one scene.

    Where D2-Net's undistorted copy is there, it is taken: its cameras are known and the released depth maps fit it.
    Else the photos that the models were made from; else the undistorted images of MegaDepth_v1, whose intrinsics were
    never released, so that only their poses are known. The depth maps do not fit the photos.
    """
    name = scene.scene
    undistorted, sfm, dense = scene.places
    eval_of = SPEC.eval_scenes.get(name)
    for folder in (f"{undistorted}/{part}" for part in _MODEL_PARTS if undistorted):
        if is_model(folder, tree):
            stream = model_stream(
                tree,
                folder,
                "0",
                _below(f"{undistorted}/images"),
                group=name,
                eval_of=eval_of,
                depth_path_of=_depths(f"{dense}/dense0/depths" if dense else None),
            )
            return [replace(stream, depth=Depth("megadepth"))]
    streams = []
    photos = f"{sfm}/images" if sfm and tree.is_folder(f"{sfm}/images") else None
    numbers = tree.folders(f"{sfm}/sparse/manhattan") if sfm else []
    for k in sorted((number for number in numbers if number.isdecimal()), key=int):
        images, depths = photos, None
        if photos is None and dense is not None:
            images, depths = f"{dense}/dense{k}/imgs", f"{dense}/dense{k}/depths"
        streams.append(
            model_stream(
                tree,
                f"{sfm}/sparse/manhattan/{k}",
                k,
                _below(images or f"{sfm}/images"),
                known_intrinsics=photos is not None,
                group=name,
                eval_of=eval_of,
                depth_path_of=_depths(depths),
            )
        )
    return streams or _without_models(tree, scene)


def _without_models(tree: Tree, scene: Scene) -> list[Stream]:
    # photos, and depth where there is some, but nothing is known of what they share
    undistorted, sfm, dense = scene.places
    depth_of = {k: f"{dense}/dense{k}/depths" for k in _dense_numbers(tree, dense)} if dense else {}
    images: dict[str | None, str] = {}
    if undistorted:
        images["0"] = f"{undistorted}/images"
    elif depth_of:
        images = {k: f"{dense}/dense{k}/imgs" for k in sorted(depth_of, key=int)}
    elif sfm:
        images[None] = f"{sfm}/images"
    problem, detail = "no_model", "no model under MegaDepth_v1_SfM or Undistorted_SfM"
    for part in _MODEL_PARTS if undistorted else ():
        if any(name.startswith(("cameras.", "images.", "points3D.")) for name in tree.files(f"{undistorted}/{part}")):
            problem, detail = "bad_model", f"{undistorted}/{part} holds no complete model"
    streams = []
    for stream, folder in images.items():
        names = natural_order(filter(looks_like_image, tree.files(folder)))
        depth = _depths(depth_of.get(stream or ""))
        depths = tuple(tree.find(depth(name)) for name in names) if depth else None
        others = (name for name in tree.files(folder) if not looks_like_image(name))
        streams.append(
            Stream(
                stream,
                tuple(f"{folder}/{name}" for name in names),
                scene.scene,
                depth_paths=depths,
                eval_of=SPEC.eval_scenes.get(scene.scene),
                problem=problem,
                detail=detail,
                ignored=tuple((f"{folder}/{name}", *_reason(name)) for name in others),
            )
        )
    return streams


def _reason(name: str) -> tuple[str, str]:
    if name.startswith("."):
        return "hidden", "a macOS resource fork or hidden file"
    return "not_an_image", "by its name"


def _below(folder: str) -> Callable[[str], str]:
    return lambda image: f"{folder}/{image}"


def _depths(folder: str | None) -> Callable[[str], str] | None:
    if folder is None:
        return None
    return lambda image: f"{folder}/{image.rpartition('.')[0]}.h5"


def _splits(tree: Tree) -> dict[str, str]:
    # scene -> split, by D2-Net's lists; a scene that is in both is not trained on
    found: dict[str, str] = {}
    for split, file in (("train", "train_scenes.txt"), ("val", "valid_scenes.txt")):
        path = tree.first_file(f"{folder}{file}" for folder in _UTILS)
        if path is not None:
            found.update((word, split) for word in tree.read_text(path).split() if _SCENE.fullmatch(word))
    return found


def _dense_numbers(tree: Tree, folder: str) -> list[str]:
    names = tree.folders(folder)
    return [name[5:] for name in names if re.fullmatch(r"dense\d+", name) and tree.is_folder(f"{folder}/{name}/imgs")]


def _holds_undistorted(tree: Tree, folder: str) -> bool:
    return tree.first_folder(f"{folder}/{part}" for part in ("images", "sparse", "sparse-txt")) is not None


def _holds_sfm(tree: Tree, folder: str) -> bool:
    return tree.is_folder(f"{folder}/sparse/manhattan") or tree.is_folder(f"{folder}/images")


def _holds_dense(tree: Tree, folder: str) -> bool:
    return bool(_dense_numbers(tree, folder))


_HOLDS = (_holds_undistorted, _holds_sfm, _holds_dense)
