"""MegaDepth: internet photo collections with COLMAP models and depth maps.

In: the original archives (`MegaDepth_v1_SfM/<scene>/{images, sparse/manhattan/<k>}` and
`phoenix/S6/zl548/MegaDepth_v1/<scene>/dense<k>/{imgs,depths}`), D2-Net's `Undistorted_SfM/<scene>`, or both merged as
`<scene>/{dense<k>, sparse/manhattan/<k>, images}`. Out: a stream for each model of a scene, frames in its order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mumdata.colmap import is_model
from mumdata.datasets import Scene, Spec, Stream, first_folder, list_folder, natural_key
from mumdata.datasets.reconstruction import DiskNames, model_stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="megadepth",
    title="MegaDepth",
    rule="chain-overlap",
    licence="not stated for the dataset; the photos belong to their photographers",
    source="two archives from the project's page: MegaDepth_v1 (images, depth) and MegaDepth_SfM_v1 (photos, models)",
    layout="MegaDepth_v1_SfM/<scene>/sparse/manhattan/<k>, phoenix/S6/zl548/MegaDepth_v1/<scene>/dense<k>, "
    "or Undistorted_SfM/<scene>/sparse",
    presets={"mumdata": {"min_frames": 24}, "mum-paper": {"min_frames": 24}},
    eval_scenes={
        **dict.fromkeys(("0015", "0022"), "megadepth-1500"),
        **dict.fromkeys(("0004", "0013", "0017", "0048"), "dkm-megadepth"),
        **dict.fromkeys(("0008", "0019", "0021", "0024", "0025", "0032", "0063", "1589"), "imc-2021"),
    },
)

_SCENE = re.compile(r"\d{4}")
_SFM = ("MegaDepth_v1_SfM", "phoenix/S6/zl548/MegaDepth_v1_SfM", ".")
_DENSE = ("phoenix/S6/zl548/MegaDepth_v1", "MegaDepth_v1", ".")


def scenes(root: Path) -> list[Scene]:
    """List the scenes of all layouts under the root; LayoutError where there is none."""
    bases = {base for base in (*_SFM, *_DENSE, "Undistorted_SfM") if Path(root, base).is_dir()}
    found = {
        name
        for base in bases
        for name in list_folder(Path(root, base))[0]
        if _SCENE.fullmatch(name) and _has_layout(root, base, name)
    }
    if not found:
        raise LayoutError(f"{root} does not look like megadepth; expected {SPEC.layout}")
    return [Scene(None, name) for name in sorted(found)]


def read(root: Path, scene: Scene) -> list[Stream]:
    """Read the models of one scene.

    Where D2-Net's undistorted copy is there, it is taken: its cameras are known and the released depth maps fit it.
    Else the photos that the models were made from; else the undistorted images of MegaDepth_v1, whose intrinsics were
    never released, so that only their poses are known.
    """
    name = scene.scene
    disk, eval_of = DiskNames(root), SPEC.eval_scenes.get(name)
    dense = _under(_DENSE, name, lambda folder: bool(_dense_numbers(root, folder)))
    undistorted = f"Undistorted_SfM/{name}"
    for folder in (f"{undistorted}/sparse", f"{undistorted}/sparse/0", f"{undistorted}/sparse-txt"):
        if is_model(Path(root, folder)):
            depths = f"{dense}/dense0/depths" if dense else None
            return [
                model_stream(
                    root,
                    folder,
                    "0",
                    _below(f"{undistorted}/images"),
                    disk,
                    group=name,
                    eval_of=eval_of,
                    depth_path_of=_depths(depths),
                )
            ]
    sfm = _under(_SFM, name, lambda folder: Path(root, folder, "sparse/manhattan").is_dir())
    streams = []
    photos = f"{sfm}/images" if sfm and Path(root, sfm, "images").is_dir() else None
    numbers = list_folder(Path(root, sfm, "sparse/manhattan"))[0] if sfm else []
    for k in sorted((number for number in numbers if number.isdecimal()), key=int):
        folder, images, depths = f"{sfm}/sparse/manhattan/{k}", photos, None
        if photos is None and dense is not None:
            images, depths = f"{dense}/dense{k}/imgs", f"{dense}/dense{k}/depths"
        streams.append(
            model_stream(
                root,
                folder,
                k,
                _below(images or f"{sfm}/images"),
                disk,
                known_intrinsics=photos is not None,
                group=name,
                eval_of=eval_of,
                depth_path_of=_depths(depths),
            )
        )
    if streams:
        return streams
    # images and depth without the models: nothing is known of what they share
    for k in sorted(_dense_numbers(root, dense), key=int) if dense else ():
        folder = f"{dense}/dense{k}/imgs"
        names = sorted(filter(looks_like_image, list_folder(Path(root, folder))[1]), key=natural_key)
        of = _depths(f"{dense}/dense{k}/depths")
        depths_here = tuple(path if of and disk.find(path := of(image)) else None for image in names)
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
    base = next((base for base in bases if fits(f"{base}/{name}")), None)
    return None if base is None else f"{base}/{name}".removeprefix("./")


def _dense_numbers(root: Path, scene_folder: str) -> list[str]:
    folder = Path(root, scene_folder)
    if not folder.is_dir():
        return []
    names = list_folder(folder)[0]
    return [name[5:] for name in names if re.fullmatch(r"dense\d+", name) and (folder / name / "imgs").is_dir()]


def _has_layout(root: Path, base: str, name: str) -> bool:
    folder = Path(root, base, name)
    if base == "Undistorted_SfM":
        return first_folder(folder, ("images", "sparse", "sparse-txt")) is not None
    return (folder / "sparse" / "manhattan").is_dir() or bool(_dense_numbers(root, f"{base}/{name}"))
