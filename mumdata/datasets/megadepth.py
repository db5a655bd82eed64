"""MegaDepth: internet photo collections with COLMAP models and depth maps.

In: the original archives (`MegaDepth_v1_SfM/<scene>/{images, sparse/manhattan/<k>}` and
`phoenix/S6/zl548/MegaDepth_v1/<scene>/dense<k>/{imgs,depths}`), D2-Net's `Undistorted_SfM/<scene>`, or both merged as
`<scene>/{dense<k>, sparse/manhattan/<k>, images}`. Out: a stream for each model of a scene, frames in its order.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mumdata.colmap import is_model
from mumdata.datasets import Layout, Scene, Spec, Stream, natural_order
from mumdata.datasets.reconstruction import model_stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

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
                r"(phoenix/S6/zl548/)?MegaDepth_v1/\d{4}/dense\d+/imgs",
                r"\d{4}/sparse/manhattan",
                r"\d{4}/dense\d+/imgs",
            ),
            {
                r"(phoenix/S6/zl548/)?MegaDepth_v1_SfM/\d{4}/sparse/manhattan/\d+": "models: cameras, tracks",
                r"(phoenix/S6/zl548/)?MegaDepth_v1_SfM/\d{4}/images": "photos that the models were made from",
                r"(phoenix/S6/zl548/)?MegaDepth_v1/\d{4}/dense\d+/imgs": "undistorted photos",
                r"(phoenix/S6/zl548/)?MegaDepth_v1/\d{4}/dense\d+/depths": "depth of the undistorted photos",
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
            },
        ),
    ),
    archives=("*.zip", "*.tar"),
    presets={"mumdata": {"min_frames": 24}, "mum-paper": {"min_frames": 24}},
    eval_scenes={
        **dict.fromkeys(("0015", "0022"), "megadepth-1500"),
        **dict.fromkeys(("0004", "0013", "0017", "0048"), "dkm-megadepth"),
        **dict.fromkeys(("0008", "0019", "0021", "0024", "0025", "0032", "0063", "1589"), "imc-2021"),
    },
)

_SCENE = re.compile(r"\d{4}")
_SFM = ("MegaDepth_v1_SfM", "phoenix/S6/zl548/MegaDepth_v1_SfM", "")
_DENSE = ("phoenix/S6/zl548/MegaDepth_v1", "MegaDepth_v1", "")


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes of all layouts under the root; LayoutError where there is none."""
    found = {
        name
        for base in {*_SFM, *_DENSE, "Undistorted_SfM"}
        for name in tree.folders(base)
        if _SCENE.fullmatch(name) and _has_layout(tree, base, name)
    }
    if not found:
        raise LayoutError(f"{tree.root} does not look like megadepth; expected {SPEC.layout}")
    return [Scene(None, name) for name in sorted(found)]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read the models of one scene.

    Where D2-Net's undistorted copy is there, it is taken: its cameras are known and the released depth maps fit it.
    Else the photos that the models were made from; else the undistorted images of MegaDepth_v1, whose intrinsics were
    never released, so that only their poses are known.
    """
    name = scene.scene
    eval_of = SPEC.eval_scenes.get(name)
    dense = _under(_DENSE, name, lambda folder: bool(_dense_numbers(tree, folder)))
    undistorted = f"Undistorted_SfM/{name}"
    for folder in (f"{undistorted}/sparse", f"{undistorted}/sparse/0", f"{undistorted}/sparse-txt"):
        if is_model(folder, tree):
            depths = f"{dense}/dense0/depths" if dense else None
            return [
                model_stream(
                    tree,
                    folder,
                    "0",
                    _below(f"{undistorted}/images"),
                    group=name,
                    eval_of=eval_of,
                    depth_path_of=_depths(depths),
                )
            ]
    sfm = _under(_SFM, name, lambda folder: tree.is_folder(f"{folder}/sparse/manhattan"))
    streams = []
    photos = f"{sfm}/images" if sfm and tree.is_folder(f"{sfm}/images") else None
    numbers = tree.folders(f"{sfm}/sparse/manhattan") if sfm else []
    for k in sorted((number for number in numbers if number.isdecimal()), key=int):
        folder, images, depths = f"{sfm}/sparse/manhattan/{k}", photos, None
        if photos is None and dense is not None:
            images, depths = f"{dense}/dense{k}/imgs", f"{dense}/dense{k}/depths"
        streams.append(
            model_stream(
                tree,
                folder,
                k,
                _below(images or f"{sfm}/images"),
                known_intrinsics=photos is not None,
                group=name,
                eval_of=eval_of,
                depth_path_of=_depths(depths),
            )
        )
    if streams:
        return streams
    # images and depth without the models: nothing is known of what they share
    for k in sorted(_dense_numbers(tree, dense), key=int) if dense else ():
        folder = f"{dense}/dense{k}/imgs"
        names = natural_order(filter(looks_like_image, tree.files(folder)))
        of = _depths(f"{dense}/dense{k}/depths")
        depths_here = tuple(tree.find(of(image)) if of else None for image in names)
        paths = tuple(f"{folder}/{image}" for image in names)
        detail = "no model under MegaDepth_v1_SfM or Undistorted_SfM"
        streams.append(
            Stream(k, paths, name, depth_paths=depths_here, eval_of=eval_of, problem="no_model", detail=detail)
        )
    return streams or [Stream(None, (), name, eval_of=eval_of, problem="no_model", detail="no model and no images")]


def _below(folder: str) -> Callable[[str], str]:
    return lambda image: f"{folder}/{image}"


def _depths(folder: str | None) -> Callable[[str], str] | None:
    if folder is None:
        return None
    return lambda image: f"{folder}/{image.rpartition('.')[0]}.h5"


def _under(bases: tuple[str, ...], name: str, fits: Callable[[str], bool]) -> str | None:
    return next((folder for base in bases if fits(folder := f"{base}/{name}".removeprefix("/"))), None)


def _dense_numbers(tree: Tree, folder: str) -> list[str]:
    names = tree.folders(folder)
    return [name[5:] for name in names if re.fullmatch(r"dense\d+", name) and tree.is_folder(f"{folder}/{name}/imgs")]


def _has_layout(tree: Tree, base: str, name: str) -> bool:
    folder = f"{base}/{name}".removeprefix("/")
    if base == "Undistorted_SfM":
        return tree.first_folder(f"{folder}/{part}" for part in ("images", "sparse", "sparse-txt")) is not None
    return tree.is_folder(f"{folder}/sparse/manhattan") or bool(_dense_numbers(tree, folder))
