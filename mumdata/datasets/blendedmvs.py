"""BlendedMVS and its extension BlendedMVG: photo sets blended with renderings of their models, in MVSNet's format.

In: `<project>/{blended_images,cams,rendered_depth_maps}`, at the root or in a folder of it, with the project lists in
the root, in `project_lists/` or beside the projects. Out: one scene a project, its images by number, cameras.

Conventions: camera files hold OpenCV's cam_from_world and a matrix of intrinsics. Where a pixel's centre lies is not
said anywhere; it is taken to be (0.5, 0.5), with the origin at the image's corner, since MVSNet, by the same authors
and for the same files, samples images so (`get_pixel_grids` starts at 0.5). The scale of a project is arbitrary.

A project may be there twice: 768 x 576, as all 502 are, and 2048 x 1536 (`dataset_full_res_*`), as 113 are. The small
copy is taken, on which the dataset's own experiments were made, and which is the same for all projects; the large one
where there is no other. To index the large ones, give their folder as the root.

Not in the catalog: `_masked.jpg`, the same images with a black background, and the depth range of the camera files.
"""

from __future__ import annotations

import mmap
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from mumdata.datasets import Cameras, Depth, Layout, Scene, Spec, Stream
from mumdata.errors import DecodeError, LayoutError
from mumdata.images import looks_like_image, read_header
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_VALIDATION = (
    "5b7a3890fc8fcf6781e2593a",
    "5c189f2326173c3a09ed7ef3",
    "5b950c71608de421b1e7318f",
    "5a6400933d809f1d8200af15",
    "59d2657f82ca7774b1ec081d",
    "5ba19a8a360c7c30c1c169df",
    "59817e4a1bd4b175e7038d19",
)

SPEC = Spec(
    name="blendedmvs",
    title="BlendedMVS / BlendedMVG",
    rule="chunk",
    licence="CC BY 4.0",
    source=(
        "releases of YoYo000/BlendedMVS: BlendedMVS.zip; BlendedMVS+ and ++ as split archives, to be joined and "
        "unpacked into the same folder; the lists lie in that repository's project_lists/"
    ),
    layouts=(
        Layout(
            "MVSNet format",
            "[BlendedMVS/]<project: 24 hex digits>/{blended_images,cams,rendered_depth_maps}",
            (
                r"[0-9a-f]{24}/(blended_images|cams)",
                r"(BlendedMV[SG]|dataset_low_res).*/[0-9a-f]{24}/(blended_images|cams)",
            ),
            {
                r"[0-9a-f]{24}/blended_images": "frames",
                r"[0-9a-f]{24}/cams": "cameras",
                r"[0-9a-f]{24}/rendered_depth_maps": "depth maps",
                r"project_lists": "splits",
                r"(validation|training|BlendedMV[SG]\+*)_list\.txt": "splits",
                r"BlendedMV[SG](_training|\+*)\.txt": "splits",
            },
        ),
        Layout(
            "high resolution",
            "dataset_full_res_<a>-<b>/<project>/<project>/<project>/{blended_images,cams,rendered_depth_maps}",
            (r"dataset_full_res.*/[0-9a-f]{24}/[0-9a-f]{24}/[0-9a-f]{24}/blended_images",),
        ),
    ),
    archives=("BlendedMVS*.zip", "dataset_low_res*.zip", "dataset_full_res_*.zip"),
    num_scenes=502,
    counts=(
        "113 projects of BlendedMVS (17k images), 194 of BlendedMVS+ and 195 of BlendedMVS++ by the lists; over 110k "
        "images by the authors, 115k by MuM, which takes all projects"
    ),
    eval_scenes=dict.fromkeys(_VALIDATION, "blendedmvs-validation"),
    presets={
        "mumdata": {"chunk_size": 100},
        "mum-paper": {"chunk_size": 100},
        # the released script takes whole projects
        "mum-released": {"rule": "scene"},
    },
)

_PROJECT = re.compile(r"[0-9a-f]{24}")
_CAMERA = re.compile(r"([0-9]{1,18})_cam\.txt")
_NUMBER = re.compile(r"[0-9]{1,18}")
_PFM = re.compile(rb"P[fF]\s+([0-9]{1,6})\s+([0-9]{1,6})\s")
_PUBLISHED = ((768, 576), (2048, 1536))
# principal points lie within this share of half an image from its middle
_OFF_CENTRE = 0.4
_LARGE = re.compile(r"full|high", re.IGNORECASE)

# lists are called <name>.txt in the repository, <name>_list.txt in its description; training_list.txt is an older one
_SUBSETS = ("BlendedMVS", "BlendedMVS+", "BlendedMVS++", "BlendedMVG")
_TRAINING = ("BlendedMVG_training.txt", "BlendedMVS_training.txt", "training_list.txt")
_HELD_OUT = ("validation_list.txt",)


@dataclass(frozen=True)
class _Place:
    # what listing knows of a project
    folder: str
    other_copies: tuple[str, ...]
    listed_in: tuple[str, ...]


def scenes(tree: Tree) -> list[Scene]:
    """List the projects that are on disk, each once; LayoutError where there is none.

    The split is `val` for those of the official validation list. It is `train` for those of a training list, and for
    all others where there is a validation list, since both together are the whole dataset. None where there are no
    lists.
    """
    copies: dict[str, list[str]] = {}
    without: dict[str, str] = {}
    for base in _bases(tree):
        for name in filter(_PROJECT.fullmatch, tree.folders(base)):
            folder = f"{base}/{name}".removeprefix("/")
            if inner := _innermost(tree, folder, name):
                copies.setdefault(name, []).append(inner)
            else:
                without.setdefault(name, folder)
    for name, folder in without.items():
        copies.setdefault(name, [folder])
    if not copies:
        raise LayoutError(f"{tree.root} does not look like blendedmvs; expected {SPEC.layout}")
    held_out, training = _listed(tree, _HELD_OUT), _listed(tree, _TRAINING)
    subsets = {name: _listed(tree, (f"{name}.txt", f"{name}_list.txt")) for name in _SUBSETS}
    found = []
    for name, (folder, *others) in sorted(copies.items()):
        split = "val" if name in held_out else "train" if held_out or name in training else None
        listed_in = tuple(subset for subset, names in subsets.items() if name in names)
        found.append(Scene(split, name, (_Place(folder, tuple(others), listed_in),)))
    return found


def _bases(tree: Tree) -> list[str]:
    # the folders that projects may lie in, those of the large copies last
    inner = [name for name in tree.folders("") if not _PROJECT.fullmatch(name)]
    return ["", *sorted(inner, key=lambda name: (bool(_LARGE.search(name)), name))]


def _innermost(tree: Tree, folder: str, name: str) -> str | None:
    # where a project's parts lie; the large copies are nested: <project>/<project>/<project>
    for _ in range(3):
        if not {"blended_images", "cams"}.isdisjoint(tree.folders(folder)):
            return folder
        folder = f"{folder}/{name}"
    return None


def _listed(tree: Tree, names: tuple[str, ...]) -> set[str]:
    # one project a line; the official validation list ends its lines as Windows does
    found = set()
    for base in _bases(tree):
        for name in names:
            if path := tree.find(f"{base}/{name}".removeprefix("/")):
                found |= {line.strip() for line in tree.read_text(path).splitlines()}
    return found - {""}


@dataclass(frozen=True, eq=False)
class _Camera:
    # a camera file's content; intrinsics fx, fy, cx, cy
    cam_from_world: np.ndarray
    intrinsics: tuple[float, float, float, float]
    has_range: bool  # its depth range is positive


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Join the images of a project with their camera files and depth maps by number, in the order of the numbers."""
    place: _Place = scene.places[0]
    folder, eval_of = place.folder, SPEC.eval_scenes.get(scene.scene)
    images, ignored = _images(tree, f"{folder}/blended_images")
    files = {match[1]: name for name in tree.files(f"{folder}/cams") if (match := _CAMERA.fullmatch(name))}
    notes = [f"listed in {', '.join(place.listed_in)}"] if place.listed_in else []
    notes += [f"another copy in {other} is not used" for other in place.other_copies]
    if not images:
        detail = "; ".join([f"no image, camera files: {len(files)}", *notes])
        return [Stream(None, (), scene.scene, eval_of=eval_of, problem="empty", detail=detail, ignored=ignored)]
    stems = sorted(images.keys() | files.keys(), key=lambda stem: (int(stem), stem))
    ending = next(iter(images.values())).rpartition(".")[2]
    depths = tuple(tree.find(f"{folder}/rendered_depth_maps/{stem}.pfm") for stem in stems)
    found: list[_Camera | None] = []
    wrong = []
    for stem in stems:
        camera = None
        if stem in files:
            try:
                camera = _camera(tree.read_text(f"{folder}/cams/{files[stem]}"))
            except (ValueError, LayoutError) as error:
                wrong.append(f"{files[stem]}: {error}")
        found.append(camera)
    problem = None
    if not any(found):
        problem = "bad_model" if wrong else "no_model"
    if lacking := len(stems) - len(files):
        notes.append(f"images without a camera file: {lacking}")
    if wrong:
        notes.append(f"camera files that cannot be read: {len(wrong)}, the first being {wrong[0]}")
    if num := sum(camera is not None and not camera.has_range for camera in found):
        notes.append(f"camera files whose depth range is not positive: {num}")
    return [
        Stream(
            None,
            tuple(f"{folder}/blended_images/{images.get(stem, f'{stem}.{ending}')}" for stem in stems),
            scene.scene,
            cameras=_cameras(found, _size(tree, depths, folder, images, found)) if any(found) else None,
            depth_paths=depths if any(depths) else None,
            depth=Depth("pfm"),
            eval_of=eval_of,
            problem=problem,
            detail="; ".join(notes) or None,
            ignored=ignored,
        )
    ]


def _images(tree: Tree, folder: str) -> tuple[dict[str, str], tuple[tuple[str, str, str], ...]]:
    # stem -> file name, and what is left out; the masked copies are neither
    found: dict[str, str] = {}
    ignored = []
    for name in tree.files(folder):
        stem = name.rpartition(".")[0]
        if name.startswith("."):
            ignored.append((f"{folder}/{name}", "hidden", "its name starts with a dot"))
        elif looks_like_image(name) and _NUMBER.fullmatch(stem):
            if stem in found:
                ignored.append((f"{folder}/{name}", "named_twice", f"the same number as {found[stem]}"))
            else:
                found[stem] = name
        elif not (looks_like_image(name) and stem.endswith("_masked")):
            ignored.append((f"{folder}/{name}", "unexpected_name", "not <number>.jpg"))
    return found, tuple(ignored)


def _camera(text: str) -> _Camera:
    """Parse a camera file; ValueError where it is none.

    `extrinsic`, the 4x4 matrix world to camera; `intrinsic`, 3x3; then depth_min and depth_interval, mostly also the
    number of depths and depth_max.
    """
    fields = text.split()
    if len(fields) < 27 or fields[0] != "extrinsic" or fields[17] != "intrinsic":
        raise ValueError("not 'extrinsic' with 16 numbers and 'intrinsic' with 9")
    numbers = np.array([float(field) for field in (*fields[1:17], *fields[18:])])
    if not np.isfinite(numbers[:25]).all():
        raise ValueError("a number is not finite")
    pose, k, depth = numbers[:16].reshape(4, 4), numbers[16:25].reshape(3, 3), numbers[25:]
    rotation = pose[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if not off < 1e-3 or not np.linalg.det(rotation) > 0 or (pose[3] != (0, 0, 0, 1)).any():
            raise ValueError("its extrinsic is no rigid motion")
    fx, fy, cx, cy = float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2])
    if not (fx > 0 and fy > 0) or (k != [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]).any():
        raise ValueError("its intrinsic is not that of a pinhole camera without skew")
    return _Camera(pose[:3], (fx, fy, cx, cy), all(depth[place] > 0 for place in (0, 3) if place < len(depth)))


def _cameras(found: list[_Camera | None], size: tuple[int, int]) -> Cameras:
    return Cameras(
        tuple("PINHOLE" if camera else None for camera in found),
        np.array([size if camera else (0, 0) for camera in found], np.int64),
        np.array([camera.intrinsics if camera else (np.nan,) * 4 for camera in found]),
        tuple(() if camera else None for camera in found),
        np.stack([camera.cam_from_world if camera else np.full((3, 4), np.nan) for camera in found]),
    )


def _size(
    tree: Tree, depths: tuple[str | None, ...], folder: str, images: dict[str, str], cameras: list[_Camera | None]
) -> tuple[int, int]:
    """Return the width and height that the camera files speak of, which they do not say themselves.

    It is that of the depth maps, rendered with these cameras, so that images that somebody has scaled are noticed;
    without depth maps that of the images, if the principal points lie near their middle, else the one of the published
    sizes whose middle they lie near; (0, 0) where none can be told. All frames of a project have the same.
    """
    for path in filter(None, depths):
        with suppress(LayoutError):
            if match := _PFM.match(tree.map(path)[:64]):
                return int(match[1]), int(match[2])
    for name in images.values():
        with suppress(DecodeError, LayoutError):
            data = tree.map(f"{folder}/blended_images/{name}")
            header = read_header(partial(_piece, data), len(data))
            known = [camera.intrinsics for camera in cameras if camera]
            middle = 2.0 * np.median([camera[2:] for camera in known], axis=0)
            for size in ((header.width, header.height), *_PUBLISHED):
                if (np.abs(middle / size - 1.0) < _OFF_CENTRE).all():
                    return size
            return 0, 0
    return 0, 0


def _piece(data: bytes | mmap.mmap, at: int, num: int) -> bytes:
    return data[at : at + num]
