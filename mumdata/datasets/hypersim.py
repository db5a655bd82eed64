"""Hypersim: rendered rooms, each filmed along a few random walks of 100 frames.

In: scenes `ai_VVV_NNN/{images/scene_cam_XX_*, _detail}` below the root, below `evermotion_dataset/scenes` or
`contrib/99991/downloads` of the project's repository, and that repository's split and camera tables. Out: one stream a
camera path, frames by frame id, cameras in metres.

* Pictures are the preview JPEGs of one kind: `tonemap` or `color`, whichever a camera path has more of, `tonemap` where
  it has as many. The other kinds (`diff`, `gamma`, `lambertian`, ...) show the same frames and are passed over.
* Pose i of a camera path belongs to frame id i. Frames that the release leaves out are gaps in the ids, not in the
  list of poses.
* Positions are in asset units; times `meters_per_asset_unit` they are metres, as the depth maps are. Those hold the
  distance to the optical centre, not the depth along the axis.
* Most scenes were rendered with tilt-shift lenses, whose picture plane is not perpendicular to the axis of the stored
  orientation. Their projection is still that of a pinhole camera, one that is turned about its centre: the scene's
  matrix is split into intrinsics and that turn, and the turn goes into `cam_from_world`. Where the pixel grid is skewed
  (shifts in both directions), fx, fy, cx and cy cannot say it: these scenes have poses, but no intrinsics.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mumdata.datasets import Cameras, Depth, KnownBad, Layout, Scene, Spec, Stream
from mumdata.errors import LayoutError
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_ISSUE_22 = "issue 22 of apple/ml-hypersim, a users' list"
_CHECKED_22 = "issue 22 of apple/ml-hypersim, a users' list made finer by others"
_LOADER = "a VGGT training loader by MuM's author skips it as problematic"


def _doubts() -> Iterator[KnownBad]:
    reason = "broken rendering: textures, lights or geometry are missing"
    for scene in (
        *("ai_012_007", "ai_013_001", "ai_015_006", "ai_023_006", "ai_023_009", "ai_026_013", "ai_026_018"),
        *("ai_026_020", "ai_038_007", "ai_046_001", "ai_046_009", "ai_048_004", "ai_053_005"),
    ):
        yield KnownBad(reason, _ISSUE_22, scene, drop=False)
    for scene, stream in (
        ("ai_003_001", "cam_00"),
        ("ai_004_009", "cam_01"),
        ("ai_023_004", "cam_01"),
        ("ai_023_008", "cam_01"),
    ):
        yield KnownBad(reason, _CHECKED_22, scene, stream, drop=False)
    for scene in ("ai_024_012", "ai_026_008", "ai_026_013"):
        yield KnownBad("problematic", _LOADER, scene, drop=False)


_SPLIT_TABLE, _CAMERA_TABLE = "metadata_images_split_scene_v1.csv", "metadata_camera_parameters.csv"


def _layout(name: str, shape: str, base: str, split_folder: str, camera_folder: str) -> Layout:
    scene = rf"{base}ai_\d{{3}}_\d{{3}}"
    return Layout(
        name,
        f"{shape}ai_VVV_NNN/{{images/scene_cam_XX_final_preview,_detail}}",
        (rf"{scene}/images/scene_cam_\d\d_(final|geometry)_(preview|hdf5)",),
        {
            rf"{scene}/images/scene_cam_\d\d_final_preview": "pictures",
            rf"{scene}/_detail/metadata_scene\.csv": "metres per asset unit",
            rf"{scene}/_detail/cam_\d\d/camera_keyframe_(positions|orientations)\.hdf5": "poses",
            rf"{scene}/images/scene_cam_\d\d_geometry_hdf5": "distance maps",
            f"({split_folder})?{re.escape(_SPLIT_TABLE)}": "splits",
            f"({camera_folder})?{re.escape(_CAMERA_TABLE)}": "intrinsics",
        },
    )


SPEC = Spec(
    name="hypersim",
    title="Hypersim",
    rule="scene",
    licence="CC BY-SA 3.0",
    source="dataset_download_images.py of apple/ml-hypersim (1.9 TB), or its contrib/99991/download.py for a part",
    layouts=(
        _layout("scenes", "", "(scenes/|downloads/)?", "scenes/|analysis/", "scenes/|analysis/"),
        _layout(
            "the repository with scenes in it",
            "evermotion_dataset/scenes/",
            "(evermotion_dataset/scenes/|contrib/99991/downloads/)",
            "evermotion_dataset/analysis/",
            "contrib/mikeroberts3000/|evermotion_dataset/analysis/",
        ),
    ),
    archives=("ai_*.zip", "scenes/ai_*.zip", "downloads/ai_*.zip", "evermotion_dataset/scenes/ai_*.zip"),
    num_scenes=457,
    num_frames=74_619,
    counts="the public release by metadata_images_split_scene_v1.csv: 769 camera paths; train 59,543, val 7,386, test "
    "7,690 frames; cam_00 alone 43,619",
    known_bad=tuple(_doubts()),
    # the released script takes cam_00 alone; here every camera path is a stream, and each gives its sequence
    presets={"mumdata": {}, "mum-paper": {}, "mum-released": {}},
)

_SCENE = re.compile(r"ai_\d{3}_\d{3}")
_BASES = ("", "evermotion_dataset/scenes/", "contrib/99991/downloads/", "scenes/", "downloads/")
_PREVIEW = re.compile(r"frame\.(\d{4})\.([A-Za-z_]+)\.jpg")
_KINDS = ("tonemap", "color")
_FLAGS = {"True": True, "False": False}
_MOST_POSES = 10_000

# pixels by which the skew of a pixel grid may move the picture's far edge before the intrinsics count as unknown
_SKEW_PX = 0.1
# how far a stored orientation may be from a rotation (largest element of R R^T - 1) and still be taken as the nearest
_ROTATION_OFF = 1e-3

_Numbers = tuple[float, ...]


@dataclass(frozen=True)
class _Lens:
    """A scene's projection: the size it is for, fx, fy, cx, cy, and the true camera's turn against the stored one.

    `turn` is a rotation, row-major, OpenCV axes; intrinsics are None where the grid is skewed by `skew_px` pixels.
    """

    size: tuple[int, int]
    intrinsics: _Numbers | None
    turn: _Numbers
    skew_px: float


@dataclass(frozen=True)
class _Place:
    """What `read` needs of a scene: its folder, what the tables say of it, and what they fail to say.

    `released` holds (camera path, frame ids); `withheld` (camera path, frame id, reason); `unit` metres per asset unit.
    """

    folder: str
    released: tuple[tuple[str, tuple[int, ...]], ...] = ()
    withheld: tuple[tuple[str, int, str], ...] = ()
    lens: _Lens | None = None
    unit: float | None = None
    note: str | None = None


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes on the disk; splits and lenses come from the repository's tables, read once.

    LayoutError where there is no scene, and where a table that is there is not what it should be.
    """
    folders: dict[str, str] = {}
    for base in _BASES:
        for name in tree.folders(base.rstrip("/")):
            if _SCENE.fullmatch(name):
                folders.setdefault(name, f"{base}{name}")
    if not folders:
        raise LayoutError(f"{tree.root} does not look like hypersim; expected {SPEC.layout}")
    split_path = tree.first_file(_table_paths(_SPLIT_TABLE, "evermotion_dataset/analysis/"))
    camera_path = tree.first_file(_table_paths(_CAMERA_TABLE, "contrib/mikeroberts3000/"))
    splits = _splits(tree, split_path, folders) if split_path else {}
    lenses = _lenses(tree, camera_path, folders) if camera_path else {}
    found = []
    for name, folder in sorted(folders.items()):
        split, released, withheld = splits.get(name, (None, (), ()))
        lens, unit, note = lenses.get(name, (None, None, _no_lens(camera_path)))
        found.append(Scene(split, name, (_Place(folder, released, withheld, lens, unit, note),)))
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read the camera paths of one scene: those on the disk, and those that the split table says were released."""
    place: _Place = scene.places[0]
    released = dict(place.released)
    images = f"{place.folder}/images"
    found = {
        match[1]
        for name in tree.folders(images)
        if (match := re.fullmatch(r"scene_(cam_\d\d)_(?:final|geometry)_(?:preview|hdf5)", name))
    }
    names = sorted(found | released.keys())
    if not names:
        return [Stream(None, (), scene.scene, problem="empty", detail=f"no camera path below {images}")]
    return [_stream(tree, scene.scene, place, name, released.get(name, ())) for name in names]


# ---- frames


def _stream(tree: Tree, group: str, place: _Place, name: str, released: tuple[int, ...]) -> Stream:
    folder = f"{place.folder}/images/scene_{name}_final_preview"
    by_kind, ignored = _previews(tree, folder)
    # the kind that shows most frames; where equal, the first one named
    kind = max(_KINDS, key=lambda kind: (len(by_kind.get(kind, ())), -_KINDS.index(kind)))
    on_disk = by_kind.get(kind, {})
    if not on_disk:
        status, why = _without_pictures(tree, place, name, by_kind, released)
        return Stream(name, (), group, problem=status, detail=why, ignored=ignored)
    ids = sorted(on_disk.keys() | set(released))
    paths = tuple(f"{folder}/{on_disk.get(i, f'frame.{i:04d}.{kind}.jpg')}" for i in ids)
    withheld = {i: reason for camera, i, reason in place.withheld if camera == name}
    geometry = f"{place.folder}/images/scene_{name}_geometry_hdf5"
    cameras, problem, details = _cameras(tree, place, name, ids)
    return Stream(
        name,
        paths,
        group,
        cameras=cameras,
        depth_paths=tuple(tree.find(f"{geometry}/frame.{i:04d}.depth_meters.hdf5") for i in ids),
        depth=Depth("distance"),
        ordered=True,
        bad={
            row: ("known_bad", f"not in the public release: {withheld[i]}")
            for row, i in enumerate(ids)
            if i in withheld
        },
        problem=problem,
        detail="; ".join(details) or None,
        ignored=ignored,
    )


def _previews(tree: Tree, folder: str) -> tuple[dict[str, dict[int, str]], tuple[tuple[str, str, str], ...]]:
    # kind -> frame id -> name; and what else looks like a picture
    found: dict[str, dict[int, str]] = {}
    ignored = []
    for name in tree.files(folder):
        if match := _PREVIEW.fullmatch(name):
            found.setdefault(match[2], {})[int(match[1])] = name
        elif looks_like_image(name.lstrip(".")):
            ignored.append((f"{folder}/{name}", "unexpected_name", "not frame.IIII.<kind>.jpg"))
    return found, tuple(ignored)


def _without_pictures(
    tree: Tree, place: _Place, name: str, by_kind: dict[str, dict[int, str]], released: tuple[int, ...]
) -> tuple[str, str]:
    images = f"{place.folder}/images"
    num = sum(file.endswith(".color.hdf5") for file in tree.files(f"{images}/scene_{name}_final_hdf5"))
    if num:
        return (
            "no_preview",
            f"{num} frames in scene_{name}_final_hdf5 alone, which are no pictures yet; unpack "
            f"scene_{name}_final_preview too, or write frame.IIII.tonemap.jpg there with scene_generate_images_tonemap",
        )
    if by_kind:
        return "no_preview", f"previews of the kinds {', '.join(sorted(by_kind))} alone, none of tonemap or color"
    return "empty", f"{len(released)} frames released, none on disk" if released else "no pictures"


# ---- cameras


def _metres_per_unit(tree: Tree, place: _Place) -> tuple[float | None, str | None]:
    """Return metres per asset unit, or None and the reason why it is not known.

    It stands in the scene's own table; the camera table has it too, from the same source.
    """
    path = f"{place.folder}/_detail/metadata_scene.csv"
    if not tree.is_file(path):
        return place.unit, None if place.unit else f"no {path}: metres per asset unit are not known"
    try:
        values = {row[0]: row[1] for row in csv.reader(io.StringIO(tree.read_text(path))) if len(row) >= 2}
        unit = float(values["meters_per_asset_unit"])
    except (LayoutError, KeyError, ValueError, csv.Error):
        unit = math.nan
    if not (math.isfinite(unit) and unit > 0):
        return None, f"{path} has no usable meters_per_asset_unit"
    return unit, None


def _cameras(tree: Tree, place: _Place, name: str, ids: Sequence[int]) -> tuple[Cameras | None, str | None, list[str]]:
    # cameras of the frames, a scene status where there are no poses, and what one should know
    details = [place.note] if place.note else []
    problem = None
    num = len(ids)
    poses = np.full((num, 3, 4), np.nan)
    detail = f"{place.folder}/_detail/{name}"
    unit, reason = _metres_per_unit(tree, place)
    if unit is None:
        problem = "no_model"
        details += [reason] if reason else []
    elif not tree.is_file(f"{detail}/camera_keyframe_positions.hdf5"):
        problem = "no_model"
        details.append(f"no {detail}/camera_keyframe_positions.hdf5")
    else:
        try:
            row_of, centres, world_from_cam = _trajectory(tree, detail)
        except LayoutError as error:
            problem = "bad_model"
            details.append(str(error))
        else:
            poses, note = _poses(ids, row_of, centres, world_from_cam, unit, place.lens)
            details += [note] if note else []
    lens = place.lens
    intrinsics = lens.intrinsics if lens else None
    if intrinsics is None and not np.isfinite(poses).any():
        return None, problem, details
    if intrinsics is None:
        problem = problem or "no_intrinsics"
    cameras = Cameras(
        ("PINHOLE" if intrinsics else None,) * num,
        np.tile(np.array(lens.size if lens and intrinsics else (0, 0), np.int64), (num, 1)),
        np.tile(np.array(intrinsics or (np.nan,) * 4), (num, 1)),
        (() if intrinsics else None,) * num,
        poses,
    )
    return cameras, problem, details


def _trajectory(tree: Tree, detail: str) -> tuple[dict[int, int], np.ndarray, np.ndarray]:
    """Read a camera path: row of each frame id, centres [n, 3] in asset units, orientations [n, 3, 3].

    Orientations map camera to world, camera axes x right, y up, z backwards. Without the file of frame ids row i is
    frame i; the authors say that it is so in all released scenes (issues 58 and 69 of apple/ml-hypersim).
    """
    centres = _hdf5_array(tree, f"{detail}/camera_keyframe_positions.hdf5", (3,))
    turns = _hdf5_array(tree, f"{detail}/camera_keyframe_orientations.hdf5", (3, 3))
    if len(turns) != len(centres):
        raise LayoutError(f"{detail}: {len(centres)} positions, but {len(turns)} orientations")
    path = f"{detail}/camera_keyframe_frame_indices.hdf5"
    if not tree.is_file(path):
        return {i: i for i in range(len(centres))}, centres, turns
    numbers = _hdf5_array(tree, path, ())
    row_of = {int(number): row for row, number in enumerate(numbers) if np.isfinite(number)}
    if len(numbers) != len(centres) or len(row_of) != len(centres):
        raise LayoutError(f"{detail}: {len(centres)} positions, but {len(row_of)} different frame ids")
    return row_of, centres, turns


def _hdf5_array(tree: Tree, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the array `dataset` of an HDF5 file, float64 [n, *shape]; LayoutError where it is anything else.

    Links and storage outside the file are refused: a file from elsewhere must not make us read other files.
    """
    import h5py

    data = tree.read_bytes(path)
    # the bytes as an image in HDF5's own memory: its reader of Python files leaks errors of damaged files to stderr
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    try:
        access.set_file_image(data)
        with h5py.File(h5py.h5f.open(b"in memory", h5py.h5f.ACC_RDONLY, fapl=access)) as file:
            if not isinstance(file.get("dataset", getlink=True), h5py.HardLink):
                raise LayoutError(f"{path} has no array called dataset")
            found = file["dataset"]
            if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu":
                raise LayoutError(f"{path}: dataset is not an array of numbers")
            if found.shape[1:] != shape or found.ndim != 1 + len(shape) or not 0 < found.shape[0] <= _MOST_POSES:
                raise LayoutError(f"{path}: dataset has the shape {found.shape}, not (n, {', '.join(map(str, shape))})")
            if found.external or found.is_virtual:
                raise LayoutError(f"{path} keeps its numbers in other files, which are not read")
            return np.asarray(found[()], np.float64)
    except LayoutError:
        raise
    except Exception as error:  # damaged files raise errors of every kind here
        raise LayoutError(f"{path} is damaged: {error}") from error


def _poses(
    ids: Sequence[int],
    row_of: dict[int, int],
    centres: np.ndarray,
    world_from_cam: np.ndarray,
    unit: float,
    lens: _Lens | None,
) -> tuple[np.ndarray, str | None]:
    """Return cam_from_world [n, 3, 4] of the frames by their ids, OpenCV axes and the lens' turn applied.

    Frames without a row, without finite numbers, or whose orientation is no rotation get NaN.
    """
    rows = np.array([row_of.get(i, -1) for i in ids], np.int64)
    with np.errstate(invalid="ignore", over="ignore"):
        taken = np.where(rows[:, None, None] >= 0, world_from_cam[rows], np.nan)
        centre = np.where(rows[:, None] >= 0, unit * centres[rows], np.nan)
        stored = np.swapaxes(taken, 1, 2) * np.array([1.0, -1.0, -1.0])[:, None]  # rows y and z turn round
        off = np.abs(_product(stored, np.swapaxes(stored, 1, 2)) - np.eye(3)).max(axis=(1, 2))
        wrong = (rows >= 0) & ~((off <= _ROTATION_OFF) & (_determinant(stored) > 0) & np.isfinite(centre).all(axis=1))
        rotation = _nearest_rotation(stored)
        if lens is not None:
            rotation = _product(np.broadcast_to(np.array(lens.turn).reshape(1, 3, 3), rotation.shape), rotation)
        poses = np.concatenate([rotation, -_product(rotation, centre[:, :, None])], axis=2)
    poses[wrong | (rows < 0)] = np.nan
    if not wrong.any():
        return poses, None
    numbers = ", ".join(str(ids[row]) for row in np.flatnonzero(wrong)[:5])
    return (
        poses,
        f"no rotation in {int(wrong.sum())} of the orientations (frame {numbers}; issue 103 of apple/ml-hypersim)",
    )


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply matrices [n, 3, 3] x [n, 3, k], the sums in a fixed order: the same bits on every machine."""
    return (
        a[:, :, 0, None] * b[:, None, 0, :] + a[:, :, 1, None] * b[:, None, 1, :] + a[:, :, 2, None] * b[:, None, 2, :]
    )


def _determinant(a: np.ndarray) -> np.ndarray:
    minors = [
        a[:, 1, (i + 1) % 3] * a[:, 2, (i + 2) % 3] - a[:, 1, (i + 2) % 3] * a[:, 2, (i + 1) % 3] for i in range(3)
    ]
    return a[:, 0, 0] * minors[0] + a[:, 0, 1] * minors[1] + a[:, 0, 2] * minors[2]


def _nearest_rotation(a: np.ndarray) -> np.ndarray:
    """Return the rotations nearest to matrices [n, 3, 3] that nearly are: two Newton-Schulz steps to the polar factor.

    The error e of R R^T becomes 3/4 e^2 (Higham, Functions of Matrices, 8.3): from 1e-3 to below 1e-12.
    """
    for _ in range(2):
        a = 1.5 * a - 0.5 * _product(_product(a, np.swapaxes(a, 1, 2)), a)
    return a


# ---- tables


def _table_paths(name: str, folder: str) -> list[str]:
    # beside the scenes, in the root, or where the repository has it
    return [
        *(f"{base}{name}" for base in _BASES),
        f"{folder}{name}",
        f"ml-hypersim/{folder}{name}",
        f"analysis/{name}",
        f"evermotion_dataset/analysis/{name}",
    ]


def _table(tree: Tree, path: str, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, values of the named columns) of a CSV file; LayoutError where a line or a column is missing."""
    remedy = "take it from apple/ml-hypersim again"
    try:
        rows = csv.reader(io.StringIO(tree.read_text(path)), strict=True)
        header = next(rows, [])
        lost = [name for name in columns if name not in header]
        if lost:
            raise LayoutError(f"{path} has no column {lost[0]}; {remedy}")
        places = [header.index(name) for name in columns]
        for row in rows:
            if len(row) != len(header):
                raise LayoutError(f"{path}: line {rows.line_num} has {len(row)} of {len(header)} values; {remedy}")
            yield rows.line_num, [row[place] for place in places]
    except csv.Error as error:
        raise LayoutError(f"{path} is not a table: {error}; {remedy}") from error


def _splits(tree: Tree, path: str, wanted: dict[str, str]) -> dict[str, tuple[str | None, Any, Any]]:
    # scene -> (split, released ids by camera path, withheld ids)
    split: dict[str, str] = {}
    released: dict[str, dict[str, list[int]]] = {name: {} for name in wanted}
    withheld: dict[str, list[tuple[str, int, str]]] = {name: [] for name in wanted}
    columns = ("scene_name", "camera_name", "frame_id", "included_in_public_release", "exclude_reason")
    for line, row in _table(tree, path, (*columns, "split_partition_name")):
        scene, camera, number, included, reason, partition = row
        if scene not in released:
            continue
        if not re.fullmatch(r"\d{1,4}", number) or included not in _FLAGS or not re.fullmatch(r"cam_\d\d", camera):
            raise LayoutError(f"{path}: line {line} is not understood; take it from apple/ml-hypersim again")
        if not _FLAGS[included]:
            withheld[scene].append((camera, int(number), reason or "no reason given"))
            continue
        released[scene].setdefault(camera, []).append(int(number))
        if split.setdefault(scene, partition) != partition:
            raise LayoutError(f"{path}: {scene} is in two splits, {split[scene]} and {partition}")
    return {
        name: (
            split.get(name) or None,
            tuple((camera, tuple(sorted(set(ids)))) for camera, ids in sorted(released[name].items())),
            tuple(withheld[name]),
        )
        for name in wanted
    }


def _lenses(tree: Tree, path: str, wanted: dict[str, str]) -> dict[str, tuple[_Lens | None, float | None, str | None]]:
    # scene -> (lens, metres per asset unit, what is wrong with them)
    matrix = [f"M_proj_{i}{j}" for i in range(4) for j in range(4)]
    sizes = ["settings_output_img_width", "settings_output_img_height", "settings_units_info_meters_scale"]
    found: dict[str, tuple[_Lens | None, float | None, str | None]] = {}
    for line, (scene, *texts) in _table(tree, path, ["scene_name", *sizes, *matrix]):
        if scene not in wanted:
            continue
        try:
            values = [float(text) for text in texts]
        except ValueError as error:
            raise LayoutError(f"{path}: line {line}: {error}; take it from apple/ml-hypersim again") from error
        lens = _lens(values[0], values[1], values[3:])
        note = None
        if lens is None:
            note = f"{path}: the projection of {scene} is not that of a camera; its intrinsics are not known"
        elif lens.intrinsics is None:
            note = f"the lens is shifted both ways: pixels are skewed by up to {lens.skew_px:.2f}, no intrinsics"
        found[scene] = (lens, values[2] if math.isfinite(values[2]) and values[2] > 0 else None, note)
    return found


def _no_lens(path: str | None) -> str:
    if path is None:
        return (
            f"no {_CAMERA_TABLE} in the root: intrinsics are not known, nor how a tilt-shift lens turns the axis; it "
            "lies in contrib/mikeroberts3000 of apple/ml-hypersim"
        )
    return f"{path} has no line for this scene: its intrinsics are not known"


def _lens(width: float, height: float, projection: Sequence[float]) -> _Lens | None:
    """Split a projection matrix [4 x 4, row-major] into intrinsics and a turn of the camera; None where it is neither.

    Camera axes are OpenGL's (y up, z backwards), and so are the normalised coordinates: x right and y up over -1 .. 1,
    from edge to edge of the picture. A pixel is at ((x + 1) / 2 width, (1 - y) / 2 height), which puts the centre of
    the top-left one at (0.5, 0.5). Together, rows 0, 1 and 3 make a 3x3 matrix from camera axes to pixels: an upper
    triangular matrix of intrinsics times a rotation (RQ decomposition: Hartley and Zisserman, Multiple View Geometry,
    A4.1.1), taken here row by row from below, with fx, fy > 0.
    """
    m = [list(projection[4 * i : 4 * i + 4]) for i in range(4)]
    if not all(map(math.isfinite, (width, height, *projection))) or not (0 < width < 1 << 20 and 0 < height < 1 << 20):
        return None
    if m[0][3] or m[1][3] or m[3][3]:  # the centre of projection is not the camera's
        return None
    half_x, half_y = 0.5 * width, 0.5 * height
    flip = (1.0, -1.0, -1.0)  # from OpenCV axes to OpenGL's
    x = [flip[j] * (half_x * m[0][j] + half_x * m[3][j]) for j in range(3)]
    y = [flip[j] * (half_y * m[3][j] - half_y * m[1][j]) for j in range(3)]
    z = [flip[j] * m[3][j] for j in range(3)]

    def times(a: Sequence[float], b: Sequence[float]) -> float:
        return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]

    def without(a: Sequence[float], part: float, b: Sequence[float]) -> list[float]:
        return [a[j] - part * b[j] for j in range(3)]

    scale = math.sqrt(times(z, z))
    if not scale > 0:
        return None
    z = [value / scale for value in z]
    cy = times(y, z)
    y = without(y, cy, z)
    fy = math.sqrt(times(y, y))
    cx = times(x, z)
    x = without(x, cx, z)
    if not fy > 0:
        return None
    y = [value / fy for value in y]
    skew = times(x, y)
    x = without(x, skew, y)
    fx = math.sqrt(times(x, x))
    if not fx > 0:
        return None
    x = [value / fx for value in x]
    turn = (*x, *y, *z)
    if not _determinant(np.array(turn).reshape(1, 3, 3))[0] > 0:  # a mirrored picture
        return None
    fx, fy, cx, cy, skew = (value / scale for value in (fx, fy, cx, cy, skew))
    skew_px = abs(skew) * max(abs(cy), abs(height - cy)) / fy
    size = (int(width), int(height))
    return _Lens(size, None if skew_px > _SKEW_PX else (fx, fy, cx, cy), turn, skew_px)
