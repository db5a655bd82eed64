"""CO3D, versions 2 and 1: videos that walk round an object of everyday life, cameras in PyTorch3D's convention.

In: `<category>/<sequence>/{images,masks,depths}`, `<category>/{frame,sequence}_annotations.jgz`, and the set lists
(`set_lists/set_lists_*.json`; version 1: `set_lists.json`); instead of the official annotations also VGGT's
`<category>_{train,test}.jgz`. Out: one scene a sequence, its frames by time, cameras in OpenCV's convention.

The split is the set that a whole sequence belongs to: `test` where a test list evaluates on it, else `dev` where a dev
list does, else `train` where a list trains on it, else None. The lists of one file are not that set:
`set_lists_fewview_dev.json` holds dev sequences under "val" and "test", and under "train" those of the training set;
`set_lists_fewview_train.json` names the same frames under "train" and "test". Where a category has no set lists,
VGGT's `train` is the training set, and its `test` the dev set, from which it was made.

Not in the catalog, but read where overlap is measured by depth: the `scale_adjustment` that a depth map's values
(float16 bits in a 16-bit PNG) are multiplied by, which is 1 in every release so far, and `depth_masks`.
"""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mumdata.datasets import Cameras, Depth, KnownBad, Layout, Scene, Spec, Stream, natural_key, natural_order
from mumdata.datasets.annotations import OFFICIAL, VGGT, inflated, opened
from mumdata.errors import DecodeError, LayoutError
from mumdata.images import looks_like_image, read_header
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

SPEC = Spec(
    name="co3d",
    title="CO3Dv2",
    rule="scene",
    licence="CC BY-NC 4.0",
    source="download_dataset.py of facebookresearch/co3d: zips of 20 GB, 5.5 TB in all; or its single-sequence subset",
    layouts=(
        Layout(
            "version 2",
            "<category>/{frame,sequence}_annotations.jgz with <category>/<sequence>/{images,masks,depths,depth_masks}",
            (r"[a-z]+/frame_annotations\.jgz", r"[a-z]+/set_lists/set_lists_\w+\.json"),
            {
                r"[a-z]+/frame_annotations\.jgz": "cameras, times",
                r"[a-z]+/sequence_annotations\.jgz": "names and scores of the sequences",
                r"[a-z]+/set_lists/set_lists_\w+\.json": "splits",
                r"[a-z]+/\d+_\d+_\d+/images": "frames",
                r"[a-z]+/\d+_\d+_\d+/masks": "masks of the object",
                r"[a-z]+/\d+_\d+_\d+/depths": "depth maps",
            },
        ),
        Layout(
            "version 1",
            "the same with <category>/set_lists.json",
            (r"[a-z]+/set_lists\.json",),
            {
                r"[a-z]+/frame_annotations\.jgz": "cameras, times",
                r"[a-z]+/set_lists\.json": "splits",
                r"[a-z]+/\d+_\d+_\d+/images": "frames",
            },
        ),
        Layout(
            "images alone",
            "<category>/<sequence>/images, with VGGT's <category>_{train,test}.jgz or without annotations",
            (r"[a-z]+/\d+_\d+_\d+/images",),
            {
                r"[a-z]+/\d+_\d+_\d+/images": "frames",
                r"[a-z]+_(train|test)\.jgz": "VGGT's annotations: cameras (not needed)",
            },
        ),
    ),
    archives=("CO3D_*.zip", "*_[0-9][0-9][0-9].zip", "*_[0-9][0-9][0-9]_singlesequence.zip"),
    evaluation="sequences that a set list names under dev or test (not mined)",
    counts=(
        "51 categories; about 36,000 sequences (issue 79 of facebookresearch/co3d), most of 100 or 200 frames. "
        "MuM's 546k frames come from 41 of them: all but ball, book, couch, frisbee, hotdog, kite, remote, sandwich, "
        "skateboard, suitcase"
    ),
    known_bad=(
        KnownBad(
            "in version 1 about 20 frames show another car",
            "issue 38 of facebookresearch/co3d",
            scene="car/336_34852_64130",
            drop=False,
        ),
    ),
    presets={
        "mumdata": {"min_frames": 24},
        # min_frames is inferred: the paper tells no least length, the released script asks for 24 frames
        "mum-paper": {"min_frames": 24},
        "mum-released": {"min_frames": 24},
    },
)

_SEQUENCE = re.compile(r"\d+_\d+_\d+")
_FRAMES, _SEQUENCES, _V1_LISTS = "frame_annotations.jgz", "sequence_annotations.jgz", "set_lists.json"
_V2_LIST = re.compile(r"set_lists_((fewview|manyview)_(train|dev|test))(_\d+)?\.json")
_NO_SEQUENCES = frozenset(("set_lists", "eval_batches"))
_VGGT_FOLDERS = ("", "annotations", "co3d_anno", "co3d_anno/cleaned")
_VGGT = re.compile(r"([a-z]+)_(train|test)\.jgz")
# VGGT took both from the parts of set_lists_fewview_dev.json
_VGGT_SETS: dict[str, tuple[str, str | None]] = {"train": ("train", None), "test": ("dev", "co3d-fewview-dev")}

# at or below this viewpoint_quality_score the usual loaders (DUSt3R, VGGT) do not trust a sequence's cameras
_LOW_SCORE = 0.5
# cameras that far out, in units in which the object is about 1 large, are failures (VGGT leaves them out)
_FARTHEST = 1e5
# principal points lie within this share of an image from its middle
_OFF_CENTRE = 0.2


@dataclass(frozen=True)
class _Place:
    # what listing knows of a sequence
    category: str
    sequence: str
    eval_of: str | None
    score: float | None  # viewpoint_quality_score
    hidden: tuple[str, ...]  # paths of images that the lists declare to be targets of the challenge
    is_v1: bool
    vggt: tuple[str, ...]  # VGGT's annotations of the category
    troubles: tuple[str, ...]  # lists of the category that cannot be read


def scenes(tree: Tree) -> list[Scene]:
    """List the sequences that are on disk, annotated, or named by a set list; LayoutError where there is none."""
    vggt: dict[str, list[tuple[str, str]]] = {}
    for folder in _VGGT_FOLDERS:
        for name in tree.files(folder):
            if match := _VGGT.fullmatch(name):
                vggt.setdefault(match[1], []).append((match[2], f"{folder}/{name}".removeprefix("/")))
    found = [scene for category in tree.folders("") for scene in _category(tree, category, vggt.get(category, []))]
    if not found:
        raise LayoutError(f"{tree.root} does not look like co3d; expected {SPEC.layout}")
    return found


def _category(tree: Tree, category: str, vggt: list[tuple[str, str]]) -> list[Scene]:
    files, folders = tree.files(category), tree.folders(category)
    is_known = bool({_FRAMES, _SEQUENCES, _V1_LISTS}.intersection(files)) or "set_lists" in folders or bool(vggt)
    names = {name for name in folders if _SEQUENCE.fullmatch(name) or (is_known and name not in _NO_SEQUENCES)}
    if not is_known and not names:
        return []
    lists = _set_lists(tree, category)
    scores = _scores(tree, category, lists.troubles) if _SEQUENCES in files else {}
    if not lists.num_files:
        for split, path in vggt:
            try:
                for name in opened(tree, path, VGGT).spans:
                    lists.add(name, *_VGGT_SETS[split])
            except LayoutError as error:
                lists.troubles.append(str(error))
    names |= scores.keys() | lists.set_of.keys()
    shared = (_V1_LISTS in files, tuple(path for _, path in vggt), tuple(lists.troubles))
    found = []
    for name in sorted(names):
        if not _is_name(name):
            continue
        hidden = tuple(lists.hidden.get(name, ()))
        place = _Place(category, name, lists.eval_of.get(name), scores.get(name), hidden, *shared)
        found.append(Scene(lists.set_of.get(name), f"{category}/{name}", (place,)))
    return found


def _is_name(name: str) -> bool:
    # a folder may have the name, and it does not lead out of the category
    try:
        return bool(name.strip(".")) and b"/" not in (data := os.fsencode(name)) and b"\0" not in data
    except UnicodeEncodeError:
        return False


def _scores(tree: Tree, category: str, troubles: list[str]) -> dict[str, float | None]:
    # sequence -> viewpoint_quality_score
    path = f"{category}/{_SEQUENCES}"
    try:
        records = json.loads(inflated(tree.map(path)))
        return {str(record["sequence_name"]): _number(record.get("viewpoint_quality_score")) for record in records}
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError, zlib.error) as error:
        troubles.append(f"{path} cannot be read: {error}")
    except LayoutError as error:
        troubles.append(str(error))
    return {}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


# ---- set lists


@dataclass
class _Lists:
    # what the set lists of a category say of its sequences
    set_of: dict[str, str] = field(default_factory=dict)
    eval_of: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, list[str]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    num_files: int = 0

    def add(self, sequence: str, sequence_set: str, benchmark: str | None) -> None:
        # a sequence that one list holds out and another trains on is held out
        if _RANK[sequence_set] > _RANK.get(self.set_of.get(sequence, ""), -1):
            self.set_of[sequence] = sequence_set
            if benchmark:
                self.eval_of[sequence] = benchmark


_RANK = {"train": 0, "dev": 1, "test": 2}


def _set_lists(tree: Tree, category: str) -> _Lists:
    found = _Lists()
    for path, name in _list_files(tree, category):
        found.num_files += 1
        try:
            for part, entries in tree.read_json(path).items():
                _add_list(found, name, part, entries)
        except LayoutError as error:
            found.troubles.append(str(error))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            found.troubles.append(f"{path} does not hold lists of (sequence, frame number, path)")
    return found


def _list_files(tree: Tree, category: str) -> Iterator[tuple[str, str]]:
    # (path, "fewview_train" and the like); "" for version 1
    if _V1_LISTS in tree.files(category):
        yield f"{category}/{_V1_LISTS}", ""
    for name in tree.files(f"{category}/set_lists"):
        if match := _V2_LIST.fullmatch(name):
            yield f"{category}/set_lists/{name}", match[1]


def _add_list(found: _Lists, name: str, part: str, entries: list[Any]) -> None:
    sequence_set, benchmark = _meaning(name, part)
    for sequence in dict.fromkeys(str(entry[0]) for entry in entries):
        found.add(sequence, sequence_set, benchmark)
    if name == "manyview_test" and part != "train":
        for sequence, _, image, *_ in entries:
            found.hidden.setdefault(str(sequence), []).append(str(image))


def _meaning(name: str, part: str) -> tuple[str, str | None]:
    # the set that the sequences of a part of a list belong to, and the benchmark that evaluates on them
    if not name:
        return ("test", "co3d-v1") if part.startswith("test") else ("train", None)
    task, _, sequence_set = name.partition("_")
    if sequence_set == "train" or (task == "fewview" and part == "train"):
        return "train", None
    return sequence_set, f"co3d-{task}-{sequence_set}"


# ---- one sequence


class _Frame(NamedTuple):
    # one image and its annotation; NaN for what is not known. Pixels with the centre of the top-left one at (0.5, 0.5)
    path: str
    time_s: float = math.nan
    number: int = 0
    size: tuple[int, int] = (0, 0)
    intrinsics: tuple[float, ...] = (math.nan,) * 4
    cam_from_world: tuple[float, ...] = (math.nan,) * 12
    depth_scale: float = 1.0
    is_hidden: bool = False


_TARGET = ("hidden_target", "a target of the CO3D challenge, published as a black image")

# an ignored file: path, reason, detail
_Ignored = tuple[str, str, str]


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Join a sequence's annotation with its images by path, in the order of time.

    The order is that of `frame_timestamp`, then `frame_number`; the number in a file's name need not follow either.
    Images that the annotation does not name come last, by name. VGGT's annotation has no times: with it, or without
    any, all images are ordered by name.
    """
    place: _Place = scene.places[0]
    found = _annotated(tree, place)
    frames, ignored = _located(tree, found.frames)
    others, unexpected = _not_annotated(tree, f"{scene.scene}/images", {frame.path for frame in frames})
    if not others and not any(tree.find(frame.path) for frame in frames):
        detail = "; ".join([f"annotated: {len(frames)}, on disk: none", *found.notes, *place.troubles])
        return [Stream(None, (), scene.scene, eval_of=place.eval_of, problem="empty", detail=detail)]
    notes = list(found.notes)
    cameras = None
    # times that some annotated frames lack did not give the order, and could contradict it
    is_timed = bool(frames) and all(math.isfinite(frame.time_s) for frame in frames)
    if frames:
        if others:
            notes.append(f"images that are not annotated: {len(others)}")
        if found.has_order:
            frames = _in_time(frames) + others
        else:
            frames = sorted(frames + others, key=lambda frame: natural_key(frame.path))
        cameras, odd = _cameras(tree, frames)
        notes += odd
    else:
        frames = others
    paths = tuple(frame.path for frame in frames)
    hidden = [row for row, frame in enumerate(frames) if frame.is_hidden or frame.path in place.hidden]
    times = np.array([frame.time_s for frame in frames])
    return [
        Stream(
            None,
            paths,
            scene.scene,
            cameras=cameras,
            timestamps_s=times if is_timed else None,
            depth_paths=_beside(tree, paths, "depths", lambda name: f"{name}.geometric.png"),
            mask_paths=_beside(tree, paths, "masks", lambda name: f"{name.rpartition('.')[0]}.png"),
            depth=Depth(
                "float16-bits",
                _beside(tree, paths, "depth_masks", lambda name: f"{name.rpartition('.')[0]}.png"),
                np.array([frame.depth_scale for frame in frames]),
            ),
            ordered=found.has_order,
            eval_of=place.eval_of,
            bad=dict.fromkeys(hidden, _TARGET),
            problem=found.problem or ("bad_lists" if place.troubles else None),
            detail="; ".join([*notes, *place.troubles]) or None,
            ignored=(*ignored, *unexpected),
        )
    ]


@dataclass(frozen=True)
class _Annotated:
    # the annotated frames of a sequence; `has_order` tells whether the annotation says which came first
    frames: list[_Frame]
    has_order: bool
    problem: str | None
    notes: tuple[str, ...]


def _annotated(tree: Tree, place: _Place) -> _Annotated:
    """Read the official annotation of a sequence, else VGGT's, else say why there is none."""
    path, notes = f"{place.category}/{_FRAMES}", []
    if place.score is not None and not place.score > _LOW_SCORE:  # NaN is low
        notes.append(f"viewpoint_quality_score {place.score:.2f}: the cameras may be wrong")
    problem: str | None = "no_model"
    sources: list[tuple[str, re.Pattern[bytes], Callable[[Any], _Frame | None]]] = [
        (path, OFFICIAL, functools.partial(_official, place.sequence, place.is_v1)),
        *((other, VGGT, _vggt) for other in place.vggt),
    ]
    for source, pattern, convert in sources:
        if not tree.is_file(source):
            notes.append(f"no {source}")
            continue
        try:
            records = opened(tree, source, pattern).records(tree, place.sequence)
        except LayoutError as error:
            problem = "bad_model"
            notes.append(str(error))
            continue
        if not records:
            notes.append(f"{source} does not name it")
            continue
        frames = [frame for record in records if (frame := convert(record))]
        problem = None
        if num_broken := len(records) - len(frames):
            problem = "partial_poses" if frames else "bad_model"
            notes.append(f"{source}: records that cannot be read: {num_broken} of {len(records)}")
        return _Annotated(frames, source == path, problem, tuple(notes))
    return _Annotated([], False, problem, tuple(notes))


# what a record of another shape than expected raises on its way to numbers
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def _official(sequence: str, is_v1: bool, record: Any) -> _Frame | None:
    """Convert a record of frame_annotations.jgz; None where it cannot be read."""
    try:
        if record["sequence_name"] != sequence:
            return None
        image, time, view = record["image"], record.get("frame_timestamp"), record.get("viewpoint")
        high, wide = (int(length) for length in image["size"])  # in this order
        if not (0 < wide < 1 << 20 and 0 < high < 1 << 20):
            return None
        frame = _Frame(
            _path(image["path"]),
            float(time) if time is not None and time >= 0 else math.nan,
            int(record["frame_number"]),
            (wide, high),
            depth_scale=_depth_scale(record.get("depth")),
            # version 1 was published with all its images
            is_hidden=not is_v1 and (record.get("meta") or {}).get("frame_type") == "test_unseen",
        )
        if view:
            frame = frame._replace(intrinsics=_intrinsics(view, wide, high), cam_from_world=_pose(view))
        return frame
    except _MALFORMED:
        return None


def _depth_scale(depth: Any) -> float:
    # what the values of a depth map are multiplied by; NaN where that cannot be told
    try:
        return float((depth or {}).get("scale_adjustment", 1.0))
    except _MALFORMED:
        return math.nan


def _intrinsics(view: Any, wide: int, high: int) -> tuple[float, ...]:
    """Return fx, fy, cx, cy in pixels, of PyTorch3D's normalised device coordinates; NaN where the format is unknown.

    Their origin is the middle of the image, x points left and y up. In `ndc_isotropic` the shorter side runs from -1
    to 1, and its scale holds for both axes; in `ndc_norm_image_bounds`, which is meant where nothing is said, each side
    runs from -1 to 1. Both end at the outer edges of the outer pixels (PyTorch3D's documentation of cameras), so that
    the centre of the top-left pixel comes to lie at (0.5, 0.5).
    """
    kind = str(view.get("intrinsics_format", "ndc_norm_image_bounds")).lower()
    if kind == "ndc_isotropic":
        scale_x = scale_y = min(wide, high) / 2
    elif kind == "ndc_norm_image_bounds":
        scale_x, scale_y = wide / 2, high / 2
    else:
        scale_x = scale_y = math.nan
    (fx, fy), (px, py) = view["focal_length"], view["principal_point"]
    return fx * scale_x, fy * scale_y, wide / 2 - px * scale_x, high / 2 - py * scale_y


def _pose(view: Any) -> tuple[float, ...]:
    """Return OpenCV's cam_from_world, 3x4 row-major, of PyTorch3D's R and T.

    There points are rows, x_cam = x_world R + T, with x to the left and y up: the rotation is transposed, and the
    camera's first two axes change their sign.
    """
    (a, b, c), (tx, ty, tz) = view["R"], view["T"]
    x, y, z = zip(a, b, c, strict=True)
    rows = (*(-float(value) for value in (*x, tx, *y, ty)), *(float(value) for value in (*z, tz)))
    if len(rows) != 12:
        raise ValueError("R is not 3x3")
    return rows


def _vggt(record: Any) -> _Frame | None:
    """Convert a record of VGGT's annotation; None where it cannot be read.

    `extri` is OpenCV's cam_from_world, `intri` a matrix in pixels of the published image. That its origin is the corner
    of the image, as in what it was made from, is taken for granted.
    """
    try:
        if "R" in record:  # as the script of its evaluation writes it; without sizes the intrinsics are of no use
            return _Frame(_path(record["filepath"]), cam_from_world=_pose(record))
        k, pose = record["intri"], tuple(float(value) for row in record["extri"][:3] for value in row)
        if len(pose) != 12:
            return None
        intrinsics = tuple(float(value) for value in (k[0][0], k[1][1], k[0][2], k[1][2]))
        return _Frame(_path(record["filepath"]), intrinsics=intrinsics, cam_from_world=pose)
    except _MALFORMED:
        return None


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value or b"\0" in os.fsencode(value):
        raise ValueError("not a path")
    return value


def _located(tree: Tree, frames: list[_Frame]) -> tuple[list[_Frame], list[_Ignored]]:
    # frames under the paths where their files are, or should be; and what is left out
    located: dict[str, _Frame] = {}
    ignored = []
    for frame in frames:
        if frame.path.startswith("/") or ".." in frame.path.split("/"):
            ignored.append((frame.path, "leaves_root", "named by the annotation"))
            continue
        path = tree.find(frame.path) or frame.path
        if path in located:
            ignored.append((path, "named_twice", "by the annotation"))
        else:
            located[path] = frame._replace(path=path)
    return list(located.values()), ignored


def _not_annotated(tree: Tree, folder: str, named: set[str]) -> tuple[list[_Frame], list[_Ignored]]:
    frames, ignored = [], []
    for name in natural_order(tree.files(folder)):
        path = f"{folder}/{name}"
        if looks_like_image(name):
            if path not in named:
                frames.append(_Frame(path))
        elif name.startswith("."):
            ignored.append((path, "hidden", "its name starts with a dot"))
        else:
            ignored.append((path, "unexpected_name", "not an image"))
    return frames, ignored


def _in_time(frames: list[_Frame]) -> list[_Frame]:
    # where a time is missing the numbers alone decide
    is_timed = all(math.isfinite(frame.time_s) for frame in frames)
    return sorted(frames, key=lambda frame: (is_timed and frame.time_s, frame.number, natural_key(frame.path)))


def _cameras(tree: Tree, frames: list[_Frame]) -> tuple[Cameras, list[str]]:
    """Return the frames' cameras, those that cannot be cameras as unknown, and what is to be said about them."""
    size = np.array([frame.size for frame in frames], np.int64)
    intrinsics = np.array([frame.intrinsics for frame in frames], np.float64)
    poses = np.array([frame.cam_from_world for frame in frames], np.float64).reshape(-1, 3, 4)
    unlike = np.zeros(len(frames), bool)
    has_lens = np.isfinite(intrinsics).all(axis=1) & (intrinsics[:, 0] > 0) & (intrinsics[:, 1] > 0)
    intrinsics[~has_lens] = np.nan
    if has_lens.any() and not size.any():
        size[:] = _stored_size(tree, frames)  # VGGT gives none, and all images of a sequence have the same
        # scaled and cropped copies: the principal point is far from their middle
        with np.errstate(invalid="ignore", divide="ignore"):
            fits = (np.abs(intrinsics[:, 2:] / size - 0.5) < _OFF_CENTRE).all(axis=1)
        unlike = has_lens & ~fits
        has_lens &= fits
        intrinsics[~has_lens] = np.nan
    given = ~np.isnan(poses).all(axis=(1, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        rotations = poses[:, :, :3]
        off = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
        is_camera = (off < 1e-3) & (np.linalg.det(rotations) > 0) & (np.abs(poses[:, :, 3]).max(axis=1) < _FARTHEST)
    poses[~is_camera] = np.nan
    notes = []
    if num_odd := int((given & ~is_camera).sum()):
        notes.append(f"cameras that are no rotation, or absurdly far away: {num_odd}")
    if num_unlike := int(unlike.sum()):
        notes.append(f"intrinsics of another size than the images, which are scaled or cropped: {num_unlike}")
    if num_blind := int((is_camera & ~has_lens & ~unlike).sum()):
        notes.append(f"cameras without intrinsics of a known format: {num_blind}")
    known = [bool(has) for has in has_lens]
    cameras = Cameras(
        tuple("PINHOLE" if has else None for has in known), size, intrinsics,
        tuple(() if has else None for has in known), poses,
    )  # fmt: skip
    return cameras, notes


def _stored_size(tree: Tree, frames: list[_Frame]) -> tuple[int, int]:
    for frame in frames:
        if tree.find(frame.path):
            data = tree.map(frame.path)
            with suppress(DecodeError):
                header = read_header(functools.partial(_piece, data), len(data))
                return header.width, header.height
    return 0, 0


def _piece(data: bytes | mmap.mmap, at: int, num: int) -> bytes:
    return data[at : at + num]


def _beside(
    tree: Tree, paths: tuple[str, ...], folder: str, name_of: Callable[[str], str]
) -> tuple[str | None, ...] | None:
    # <sequence>/images/<name> -> <sequence>/<folder>/<name_of(name)>, where that file is there
    found = []
    for path in paths:
        images, _, name = path.rpartition("/")
        found.append(tree.find(f"{images.rpartition('/')[0]}/{folder}/{name_of(name)}"))
    return tuple(found) if any(found) else None
