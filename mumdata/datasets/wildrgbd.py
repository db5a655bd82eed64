"""WildRGB-D: phone videos around objects, with depth, masks and metric cameras.

In: `<category>/scenes/scene_<id>/{rgb,depth,masks}/<frame>.png` with `metadata` and `cam_poses.txt`. Out: one scene a
video, `<category>/scene_<id>`, since ids repeat across categories; frames by number.

Cameras: `metadata` is the JSON of the app that recorded, Record3D: `K` column by column, w, h. Its principal point is
counted from the corner of the image, as Apple documents it for the phone's camera, so that nothing is added for the
half pixel. `cam_poses.txt` gives world-from-camera matrices in metres and OpenCV axes, a line a frame: its number, then
the 4x4 matrix row by row. Numbers must be 0, 1, 2, ...: some tools join lines and images by the number, others by the
line, and where the two disagree no camera can be told. Depth is 16-bit, millimetres along the axis.

Two lists in each category divide its scenes, for two tasks that know nothing of each other; both may be absent.
`nvs_list.json` (view synthesis) gives the split. `eval_of` names the list that validates on the scene:
`wildrgbd-camera` for `camera_eval_list.json`, else `wildrgbd-nvs`. So what is left for training is what both lists
train on. `types.json` (whether a video shows one object, several, or a hand) has no place in the catalog.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from mumdata.datasets import Cameras, Depth, KnownBad, Layout, Scene, Spec, Stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

Parsed = TypeVar("Parsed")

SPEC = Spec(
    name="wildrgbd",
    title="WildRGB-D",
    rule="scene",
    licence="MIT by the repository; no separate licence for the data",
    source="download.py of wildrgbd/wildrgbd; parts of an archive (.z01, ...) are merged with zip -F",
    layouts=(
        Layout(
            "categories",
            "<category>/scenes/scene_<id>/{rgb,depth,masks}/<frame>.png with metadata and cam_poses.txt",
            (
                r"\w+/scenes/scenes?_\d+/cam_poses\.txt",
                r"\w+/scenes/scenes?_\d+/metadata",
                r"\w+/scenes/scenes?_\d+/rgb/\d+\.png",
            ),
            {
                r"\w+/scenes/scenes?_\d+/rgb/\d+\.png": "frames",
                r"\w+/scenes/scenes?_\d+/depth/\d+\.png": "depth maps, millimetres",
                r"\w+/scenes/scenes?_\d+/masks/\d+\.png": "masks of the object",
                r"\w+/scenes/scenes?_\d+/metadata": "intrinsics",
                r"\w+/scenes/scenes?_\d+/cam_poses\.txt": "camera poses",
                r"\w+/nvs_list\.json": "split: training and validation for view synthesis",
                r"\w+/camera_eval_list\.json": "training and validation for camera poses",
            },
        ),
    ),
    archives=("*.zip",),
    num_scenes=23_049,
    num_frames=3_352_000,
    counts="videos by the paper's table (its abstract says nearly 20,000); frames as MuM counted them, in thousands",
    evaluation="validation scenes of camera_eval_list.json and of nvs_list.json (not mined)",
    known_bad=(
        KnownBad(
            "the whole category is left out, no reason given",
            "preprocessing in the VGGT fork of MuM's author",
            "chair/*",
            drop=False,
        ),
        KnownBad("left out by loaders, which give no reason", "CUT3R's loader of WildRGB-D", "box/scene_257"),
    ),
    presets={
        "mumdata": {},
        # min_frames is inferred: the paper tells no least length, the released script keeps more than 23 frames. That
        # one does not sort the frames; here they are in the order of time
        "mum-paper": {"min_frames": 24},
        "mum-released": {"min_frames": 24},
    },
)

_SCENE = re.compile(r"scenes?_[0-9]+")
_STEM = re.compile(r"[0-9]{1,9}")
_NVS, _CAMERA = "nvs_list.json", "camera_eval_list.json"

# a rotation that was written with few digits is off by less than this
_RIGID = 1e-3


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes on disk and in the categories' lists; LayoutError where there is none, or a list is broken."""
    found = []
    for category in tree.folders(""):
        folder = f"{category}/scenes"
        on_disk = {name for name in tree.folders(folder) if _SCENE.fullmatch(name)}
        (nvs, trouble), (camera, other) = (_try_list(tree, f"{category}/{name}") for name in (_NVS, _CAMERA))
        troubles = "; ".join(filter(None, (trouble, other))) or None
        for name in sorted(on_disk | nvs.keys() | camera.keys()):
            eval_of = "wildrgbd-camera" if camera.get(name) == "val" else None
            if eval_of is None and nvs.get(name) == "val":
                eval_of = "wildrgbd-nvs"
            found.append(Scene(nvs.get(name), f"{category}/{name}", (f"{folder}/{name}", eval_of, troubles)))
    if not found:
        raise LayoutError(f"{tree.root} does not look like wildrgbd; expected {SPEC.layout}")
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read one video: the frames that are on disk or have a pose, in the order of their numbers."""
    folder, eval_of, troubles = scene.places
    images, ignored = _images(tree, f"{folder}/rgb")
    calibration, no_calibration = _try(_parse_metadata, tree, f"{folder}/metadata")
    found, no_poses = _try(_parse_poses, tree, f"{folder}/cam_poses.txt")
    poses = np.zeros((0, 3, 4)) if found is None else found
    if not images:
        detail = f"no frame on disk; {len(poses)} have a pose"
        return [Stream(None, (), scene.scene, eval_of=eval_of, problem="empty", detail=detail, ignored=ignored)]
    numbers = sorted(images.keys() | range(len(poses)))
    names = [images.get(number, f"{number:05d}.png") for number in numbers]
    stems = [name.rpartition(".")[0] for name in names]
    bad_lists = None if troubles is None else ("bad_lists", troubles)
    problems = [problem for problem in (no_calibration, no_poses, bad_lists) if problem is not None]
    notes = [text for _, text in problems]
    if lost := int(np.isnan(poses[:, 0, 0]).sum()):
        notes.append(f"cam_poses.txt: {lost} matrices are not a rotation and a shift")
    return [
        Stream(
            None,
            tuple(f"{folder}/rgb/{name}" for name in names),
            scene.scene,
            cameras=_cameras(numbers, calibration, poses),
            depth_paths=tuple(tree.find(f"{folder}/depth/{stem}.png") for stem in stems),
            mask_paths=tuple(tree.find(f"{folder}/masks/{stem}.png") for stem in stems),
            depth=Depth("millimetres"),
            ordered=True,
            eval_of=eval_of,
            # bad_lists before bad_model before no_model: without lists it is not known what is evaluated
            problem=min((problem for problem, _ in problems), default=None),
            detail="; ".join(notes) or None,
            ignored=ignored,
        )
    ]


def _cameras(numbers: list[int], calibration: tuple[np.ndarray, np.ndarray] | None, poses: np.ndarray) -> Cameras:
    num, known = len(numbers), calibration is not None
    size, intrinsics = calibration or (np.zeros(2, np.int64), np.full(4, np.nan))
    cam_from_world = np.full((num, 3, 4), np.nan)
    for row, number in enumerate(numbers):
        if number < len(poses):
            cam_from_world[row] = poses[number]
    return Cameras(
        ("PINHOLE" if known else None,) * num,
        np.tile(size, (num, 1)),
        np.tile(intrinsics, (num, 1)),
        (() if known else None,) * num,
        cam_from_world,
    )


def _try_list(tree: Tree, path: str) -> tuple[dict[str, str], str | None]:
    # a broken list does not end the run: the category's scenes have no split, and say why
    try:
        return _listed(tree, path), None
    except LayoutError as error:
        return {}, str(error)


def _listed(tree: Tree, path: str) -> dict[str, str]:
    # scene -> "train" or "val", of which "val" is the safe side where a scene is in both; {} where there is no list
    if not tree.is_file(path):
        return {}
    lists = tree.read_json(path)
    found: dict[str, str] = {}
    for split in ("train", "val"):
        entries = lists.get(split) if isinstance(lists, dict) else None
        if not isinstance(entries, list):
            raise LayoutError(f"{path} has no list '{split}'; unpack the category again, or remove the file")
        for entry in entries:
            name = entry.rpartition("/")[2] if isinstance(entry, str) else ""
            if not _SCENE.fullmatch(name):
                raise LayoutError(f"{path}: {entry!r} is not scenes/scene_<id>; unpack the category again")
            found[name] = split
    return found


def _images(tree: Tree, folder: str) -> tuple[dict[int, str], tuple[tuple[str, str, str], ...]]:
    # frame number -> file name, and what else lies there
    images: dict[int, str] = {}
    ignored = []
    for name in tree.files(folder):
        stem = name.rpartition(".")[0]
        if name.startswith("."):
            ignored.append((f"{folder}/{name}", "hidden", "a hidden file"))
        elif not looks_like_image(name) or not _STEM.fullmatch(stem):
            ignored.append((f"{folder}/{name}", "unexpected_name", "not <frame>.png"))
        elif int(stem) in images:
            ignored.append((f"{folder}/{name}", "named_twice", f"the same frame as {images[int(stem)]}"))
        else:
            images[int(stem)] = name
    return images, tuple(ignored)


def _try(parse: Callable[[Tree, str], Parsed], tree: Tree, path: str) -> tuple[Parsed | None, tuple[str, str] | None]:
    # what a file says, or (status of the scene, detail) where it is absent or broken
    name = path.rpartition("/")[2]
    if not tree.is_file(path):
        return None, ("no_model", f"no {name}")
    try:
        return parse(tree, path), None
    except LayoutError as error:
        return None, ("bad_model", str(error))
    except ValueError as error:
        return None, ("bad_model", f"{name}: {error}")


def _parse_metadata(tree: Tree, path: str) -> tuple[np.ndarray, np.ndarray]:
    # (width, height), and (fx, fy, cx, cy) in pixels from the image's corner
    about = tree.read_json(path)
    if not isinstance(about, dict):
        raise ValueError("not a JSON object")
    columns, sides = about.get("K"), (about.get("w"), about.get("h"))
    if not all(isinstance(side, int) and 0 < side < 1 << 16 for side in sides):
        raise ValueError(f"w and h are {sides[0]!r} and {sides[1]!r}, not a size in pixels")
    if not isinstance(columns, list) or len(columns) != 9 or not all(map(_is_plain, columns)):
        raise ValueError("K is not a list of 9 numbers")
    k = np.array(columns, np.float64).reshape(3, 3).T
    if k[0, 0] <= 0 or k[1, 1] <= 0 or k[0, 1] or k[1, 0] or k[2].tolist() != [0.0, 0.0, 1.0]:
        raise ValueError("K is not fx 0 0, 0 fy 0, cx cy 1, column by column")
    return np.array(sides, np.int64), np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2]])


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float) and -1e6 < value < 1e6


def _parse_poses(tree: Tree, path: str) -> np.ndarray:
    # cam_from_world float64 [n, 3, 4] of frames 0 .. n - 1, NaN where the matrix is no motion of a camera
    rows = []
    for number, line in enumerate(tree.read_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 17:
            raise ValueError(f"line {number} has {len(fields)} columns, not 17")
        rows.append([float(field) for field in fields])
    table = np.array(rows, np.float64).reshape(-1, 17)
    astray = np.flatnonzero(table[:, 0] != np.arange(len(table)))
    if len(astray):
        row = int(astray[0])
        raise ValueError(f"line {row + 1} is of frame {table[row, 0]:g}, not {row}: lines and numbers disagree")
    world_from_cam = table[:, 1:].reshape(-1, 4, 4)
    world_from_cam[~_is_rigid(world_from_cam)] = np.nan
    # the inverse of a rotation is its transpose
    rotation, centre = world_from_cam[:, :3, :3].transpose(0, 2, 1), world_from_cam[:, :3, 3]
    shift = -(rotation * centre[:, None, :]).sum(axis=2)
    return np.concatenate([rotation, shift[:, :, None]], axis=2)


def _is_rigid(matrices: np.ndarray) -> np.ndarray:
    # which of the matrices [n, 4, 4] are a rotation and a shift, bool [n]
    x, y, z = (matrices[:, row, :3] for row in range(3))
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.stack([(axis * axis).sum(axis=1) for axis in (x, y, z)], axis=1)
        # of a rotation, and of no reflection, the third row is the cross product of the others
        crossed = np.cross(x, y) - z
        errors = np.concatenate([lengths - 1.0, crossed, matrices[:, 3] - (0.0, 0.0, 0.0, 1.0)], axis=1)
        return np.isfinite(matrices).all(axis=(1, 2)) & (np.abs(errors).max(axis=1) < _RIGID)
