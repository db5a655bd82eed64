"""ARKitScenes: rooms filmed with a tablet that knows its pose.

In: the downloads `3dod`, `raw` and `upsampling`, any of them, below the root or as the root: `{Training,Validation}/
<video>/...`, and the tables beside them. Out: one scene a video with a stream for each camera or picture size, frames
by the timestamp in their names, cameras in metres; the group is the visit, which several videos share.

* Streams are `lowres_wide`, `vga_wide`, `ultrawide` and `wide` (called `color` in some downloads of `upsampling`).
  Where several downloads hold a stream of a video, that of `3dod` is taken, then `upsampling`, then `raw`: `3dod` has
  the frames whose poses are known, at 10 Hz; `raw` has 60 Hz. The folders that are passed over are listed as ignored.
* Intrinsics are those of the frame's `.pincam` file, whose stamp may be a millisecond off. They are taken to count
  pixels from the corner of the top-left one, as COLMAP does: nobody says, and the dataset's own loader uses them with
  whole numbers at the pixels' centres, half a pixel from that.
* `lowres_wide.traj` holds poses at 10 Hz. A frame whose stamp is within a millisecond of one has that pose; one between
  two poses at most 0.25 s apart has what lies between them (centre on the line, rotation on the shortest turn); one
  beyond, the pose within 5 ms, the tolerance of the dataset's loader; else none. The same poses serve all streams, as
  the authors answer in issue 32: the ultrawide lens sits about a centimetre beside the wide one.
* The world's z is up. `upright_quarter_turns` follows from the pose, not from `sky_direction` of the table, which is
  often wrong. It is unknown where the camera looks up or down within 14.5 degrees of the vertical.
* Depth maps are in millimetres; confidence maps (0 to 2) lie beside them under the same names, and in no catalog.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mumdata.datasets import Cameras, Depth, Layout, Scene, Spec, Stream
from mumdata.errors import LayoutError
from mumdata.geometry import rotation_from_quaternion
from mumdata.images import looks_like_image
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_FOLDS = {"Training": "train", "Validation": "val"}
_VIDEO = r"\d{8}"

_3DOD = rf"(3dod/|threedod/)?(Training|Validation)/{_VIDEO}/{_VIDEO}_frames"
_RAW = rf"(raw/)?(Training|Validation)/{_VIDEO}"
_UPSAMPLING = rf"(upsampling/|depth_upsampling/)?(Training|Validation)/{_VIDEO}"
_VISITS = "which videos belong to one visit"

SPEC = Spec(
    name="arkitscenes",
    title="ARKitScenes",
    rule="chunk",
    licence="Apple's own: non-commercial, with a second grant for companies below 700M monthly users; others list the "
    "data as CC BY-NC-SA 4.0",
    source="download_data.py of apple/ARKitScenes: 3dod (623 GB), upsampling, or raw with the assets wanted",
    layouts=(
        Layout(
            "3dod",
            "3dod/{Training,Validation}/<video>/<video>_frames/{lowres_wide,lowres_wide_intrinsics,lowres_wide.traj}",
            (f"{_3DOD}/lowres_wide",),
            {
                f"{_3DOD}/lowres_wide": "pictures at 10 Hz, 256x192",
                f"{_3DOD}/lowres_wide_intrinsics": "intrinsics",
                rf"{_3DOD}/lowres_wide\.traj": "poses",
                f"{_3DOD}/lowres_depth": "depth maps",
                rf"(3dod/|threedod/)?(Training|Validation)/{_VIDEO}/{_VIDEO}_3dod_mesh\.ply": "meshes",
                r"(3dod/|threedod/)?(metadata|3dod_train_val_splits)\.csv": _VISITS,
            },
        ),
        Layout(
            "raw",
            "raw/{Training,Validation}/<video>/{lowres_wide,vga_wide,ultrawide}",
            (f"{_RAW}/(lowres_wide|vga_wide|ultrawide)",),
            {
                f"{_RAW}/(lowres_wide|vga_wide|ultrawide|wide)": "pictures",
                f"{_RAW}/(lowres_wide|vga_wide|ultrawide|wide)_intrinsics": "intrinsics",
                rf"{_RAW}/lowres_wide\.traj": "poses",
                f"{_RAW}/(lowres|highres)_depth": "depth maps",
                r"(raw/)?(metadata|raw_train_val_splits)\.csv": _VISITS,
            },
        ),
        Layout(
            "upsampling",
            "upsampling/{Training,Validation}/<video>/{wide or color,highres_depth}",
            (f"{_UPSAMPLING}/(wide|color)",),
            {
                f"{_UPSAMPLING}/(wide|color)": "pictures, 1920x1440",
                f"{_UPSAMPLING}/highres_depth": "depth maps",
                r"(upsampling/|depth_upsampling/)?(metadata|upsampling_train_val_splits)\.csv": _VISITS,
            },
        ),
    ),
    archives=(
        *("3dod/*/*.zip", "upsampling/*/*.zip", "raw/*/*/*.zip"),
        *("Training/*.zip", "Validation/*.zip", "Training/*/*.zip", "Validation/*/*.zip"),
    ),
    num_scenes=5071,
    counts="videos of raw: 4,520 of training, 551 of validation; 24 of them without poses, so that 3dod has 4,498 and "
    "549; upsampling has 1,970 and 287; 3dod is 2.5 to 3.4 million frames by estimate",
    presets={
        "mumdata": {"chunk_size": 100},
        "mum-paper": {"chunk_size": 100},
        "mum-released": {"chunk_size": 75, "last_chunk": "released"},
    },
)

# folders of the downloads, in the order of preference; the last is the root itself, one of them or a mixture
_BASES = ("3dod/", "threedod/", "upsampling/", "depth_upsampling/", "raw/", "")
_TABLES = ("metadata.csv", "3dod_train_val_splits.csv", "upsampling_train_val_splits.csv", "raw_train_val_splits.csv")

# stream -> names of its folders
_STREAMS: Mapping[str, tuple[str, ...]] = {
    "lowres_wide": ("lowres_wide",),
    "vga_wide": ("vga_wide",),
    "ultrawide": ("ultrawide",),
    "wide": ("wide", "color"),
}
_DEPTHS: Mapping[str, str] = {"lowres_wide": "lowres_depth", "wide": "highres_depth"}
_TRAJECTORIES = ("lowres_wide.traj", "color.traj")

# published in raw without trajectory, mesh and boxes (download_data.py of apple/ARKitScenes)
_WITHOUT_TRAJECTORY = frozenset(
    {
        *("42446164", "42897421", "42897612", "42897848", "42899148", "42899153", "45261582", "45663223"),
        *("45663226", "45663227", "47332198", "47333152", "47333155", "47333960", "47334515", "47334522"),
        *("47334523", "47429677", "47430089", "47895482", "48018149", "48018733", "48458535", "48458541"),
    }
)

# seconds
_SAME = 0.001
_NEAR = 0.005
_GAP = 0.25
# stamps are compared with a little more: they are decimal numbers
_ROUNDING = 1e-6

# squared length of "up" in the picture's plane below which the camera looks up or down: the square of sin 14.5 degrees
_LEVEL = 0.0625


@dataclass(frozen=True)
class _Video:
    """What `read` needs of a video: its folders in order of preference, its visit, and what is odd about it."""

    folders: tuple[str, ...]
    visit: str
    notes: tuple[str, ...] = ()


def scenes(tree: Tree) -> list[Scene]:
    """List the videos that have a folder in any of the downloads.

    Split and visit come from the tables; without them the split is that of the folder, and each video its own group.
    LayoutError where there is no video, and where a table is not what it should be.
    """
    folders: dict[str, list[tuple[str, str]]] = {}
    for base in _BASES:
        for fold in _FOLDS:
            for name in tree.folders(f"{base}{fold}"):
                if re.fullmatch(_VIDEO, name):
                    folders.setdefault(name, []).append((fold, f"{base}{fold}/{name}"))
    if not folders:
        hint = f"expected {SPEC.layout}"
        if any(re.fullmatch(_VIDEO, name) for name in tree.folders("")):
            hint = "the root is the folder that holds Training or Validation; give the one above"
        raise LayoutError(f"{tree.root} does not look like arkitscenes; {hint}")
    visits, folds = _read_tables(tree)
    found = []
    for video, places in sorted(folders.items()):
        here = {fold for fold, _ in places}
        # in both folders and in no table: rather not trained on
        fold = folds.get(video) or max(here)
        notes = []
        if here != {fold}:
            says = "the tables say" if video in folds else "other folders say"
            notes.append(f"lies in {', '.join(sorted(here - {fold}))}, {says} {fold}")
        if not visits:
            notes.append("no metadata.csv: which videos show the same room is not known")
        place = _Video(tuple(folder for _, folder in places), visits.get(video, video), tuple(notes))
        found.append(Scene(_FOLDS[fold], video, (place,)))
    return found


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read the streams of one video; each from the first of its folders that has pictures of it."""
    video: _Video = scene.places[0]
    # 3dod keeps a video's files one folder deeper
    places = tuple(
        frames if tree.is_folder(frames := f"{folder}/{scene.scene}_frames") else folder for folder in video.folders
    )
    trajectory, problem, why = _find_trajectory(tree, scene.scene, places)
    notes = (*video.notes, why) if why else video.notes
    # in 3dod it lies beside the folder of frames
    mesh_path = tree.first_file(f"{folder}/{scene.scene}_3dod_mesh.ply" for folder in video.folders)
    capture = _Capture(scene.scene, video.visit, places, trajectory, problem, notes, mesh_path)
    found = []
    for name, folders in _STREAMS.items():
        paths = [f"{place}/{folder}" for place in places for folder in folders]
        taken = [path for path in paths if any(map(looks_like_image, tree.files(path)))]
        if taken:
            found.append(_stream(tree, capture, name, taken))
    if found:
        return found
    detail = f"no pictures in {', '.join(_STREAMS)}"
    if any(name.endswith(".mov") for place in places for name in tree.files(place)):
        detail += "; there is the film alone: download lowres_wide or another asset of pictures"
    return [Stream(None, (), video.visit, problem="empty", detail="; ".join([detail, *notes]))]


# ---- tables


def _read_tables(tree: Tree) -> tuple[dict[str, str], dict[str, str]]:
    """Return the visit and the fold of each video, from all tables that are there; the first that knows is believed.

    A visit that the tables call NA is the video itself.
    """
    visits: dict[str, str] = {}
    folds: dict[str, str] = {}
    for base in _BASES:
        for name in _TABLES:
            if not tree.is_file(f"{base}{name}"):
                continue
            for line, row in _rows(tree, f"{base}{name}"):
                video, visit, fold = row["video_id"], row.get("visit_id", ""), row.get("fold", "")
                if not re.fullmatch(_VIDEO, video) or fold not in (*_FOLDS, ""):
                    raise LayoutError(f"{base}{name}: line {line} is not understood; download it again")
                # written as 421254.0 where some visits are NA
                if re.fullmatch(r"\d+(\.0)?", visit):
                    visits.setdefault(video, visit.removesuffix(".0"))
                if fold:
                    folds.setdefault(video, fold)
    return visits, folds


def _rows(tree: Tree, path: str) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        lines = csv.reader(io.StringIO(tree.read_text(path)), strict=True)
        header = next(lines, [])
        if "video_id" not in header:
            raise LayoutError(f"{path} has no column video_id; download it again, or remove it")
        for row in lines:
            if len(row) != len(header):
                raise LayoutError(
                    f"{path}: line {lines.line_num} has {len(row)} of {len(header)} values; download it again"
                )
            yield lines.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise LayoutError(f"{path} is not a table: {error}; download it again, or remove it") from error


# ---- frames


@dataclass(frozen=True, eq=False)
class _Capture:
    """What the streams of a video share. `places` are the folders that hold its streams, in order of preference."""

    video: str
    visit: str
    places: tuple[str, ...]
    trajectory: _Trajectory | None
    problem: str | None
    notes: tuple[str, ...]
    mesh_path: str | None


def _stream(tree: Tree, capture: _Capture, name: str, folders: Sequence[str]) -> Stream:
    # the first folder's pictures; the others are copies, told once a folder
    folder = folders[0]
    names, stamps, ignored = _pictures(tree, capture.video, folder)
    ignored += [(other, "other_copy", f"{folder} is taken") for other in folders[1:]]
    # beside the pictures first: the downloads differ a little
    parent = folder.rpartition("/")[0]
    places = sorted(capture.places, key=lambda place: place != parent)
    lenses = _beside(tree, capture.video, [f"{place}/{own}_intrinsics" for place in places for own in _STREAMS[name]])
    depths = _beside(tree, capture.video, [f"{place}/{_DEPTHS[name]}" for place in places] if name in _DEPTHS else [])
    cameras, notes = _cameras(tree, capture.trajectory, stamps, [_at(lenses, stamp) for stamp in stamps])
    if name == "ultrawide" and capture.trajectory:
        notes.append("poses are those of the wide lens beside it")
    # without poses nothing is known: the files have no orientation tag, which would be taken otherwise
    turns = np.full(len(stamps), -1, np.int8)
    if cameras:
        turns = _from_nearest(_upright_quarter_turns(cameras.cam_from_world), stamps)
    return Stream(
        name,
        tuple(f"{folder}/{each}" for each in names),
        capture.visit,
        cameras=cameras,
        timestamps_s=stamps,
        depth_paths=tuple(_at(depths, stamp) for stamp in stamps) if depths else None,
        depth=Depth("millimetres"),
        mesh_path=capture.mesh_path,
        ordered=True,
        upright_quarter_turns=turns,
        problem=capture.problem,
        detail="; ".join([*capture.notes, *notes]) or None,
        ignored=tuple(ignored),
    )


def _pictures(tree: Tree, video: str, folder: str) -> tuple[list[str], np.ndarray, list[tuple[str, str, str]]]:
    # names in the order of their stamps, the stamps in seconds, and what was left out
    by_stamp: dict[float, str] = {}
    ignored = []
    for name in tree.files(folder):
        if not looks_like_image(name.lstrip(".")):
            continue
        stamp = _stamp(video, name)
        if stamp is None:
            ignored.append((f"{folder}/{name}", "unexpected_name", f"not {video}_<seconds>.png"))
        elif stamp in by_stamp:
            ignored.append((f"{folder}/{name}", "named_twice", f"the same timestamp as {by_stamp[stamp]}"))
        else:
            by_stamp[stamp] = name
    order = sorted(by_stamp)
    return [by_stamp[stamp] for stamp in order], np.array(order, np.float64), ignored


def _stamp(video: str, name: str) -> float | None:
    # the seconds in a name such as 41069021_305.244.png; None where it is another
    match = re.fullmatch(rf"{video}_(\d{{1,9}}\.\d{{1,9}})\.[A-Za-z]+", name)
    return float(match[1]) if match else None


def _beside(tree: Tree, video: str, folders: Iterable[str]) -> dict[int, str]:
    # stamp in milliseconds -> path, of the first folder that has files of this video
    for folder in folders:
        stamps = {name: _stamp(video, name) for name in tree.files(folder)}
        found = {round(1000 * stamp): f"{folder}/{name}" for name, stamp in stamps.items() if stamp is not None}
        if found:
            return found
    return {}


def _at(by_stamp: Mapping[int, str], stamp: float) -> str | None:
    # the file of a stamp, else of the millisecond before or after
    milliseconds = round(1000 * stamp)
    return next(
        (by_stamp[each] for each in (milliseconds, milliseconds - 1, milliseconds + 1) if each in by_stamp), None
    )


# ---- cameras


def _cameras(
    tree: Tree, trajectory: _Trajectory | None, stamps: np.ndarray, lenses: Sequence[str | None]
) -> tuple[Cameras | None, list[str]]:
    num = len(stamps)
    size, intrinsics = np.zeros((num, 2), np.int64), np.full((num, 4), np.nan)
    unreadable = []
    for row, path in enumerate(lenses):
        if path is not None:
            try:
                size[row], intrinsics[row] = _read_pincam(tree, path)
            except LayoutError as error:
                unreadable.append(str(error))
    notes = [f"{len(unreadable)} intrinsics cannot be used ({unreadable[0]})"] if unreadable else []
    poses = np.full((num, 3, 4), np.nan)
    if trajectory is not None:
        poses, between = trajectory.at(stamps)
        if between.any():
            notes.append(f"{int(between.sum())} of {num} poses lie between two of the trajectory")
    known = size[:, 0] > 0
    if not known.any() and not np.isfinite(poses).any():
        return None, notes
    models = tuple("PINHOLE" if has else None for has in known)
    return Cameras(models, size, intrinsics, tuple(() if has else None for has in known), poses), notes


def _read_pincam(tree: Tree, path: str) -> tuple[tuple[int, int], tuple[float, ...]]:
    """Read width, height, fx, fy, cx, cy; LayoutError where they are not six numbers of a camera."""
    fields = tree.read_text(path).split()
    try:
        width, height, *intrinsics = (float(field) for field in fields)
    except ValueError:
        intrinsics = []
    if len(intrinsics) != 4 or not all(map(math.isfinite, (width, height, *intrinsics))):
        raise LayoutError(f"{path} does not hold six numbers")
    if not (0 < width < 1 << 20 and 0 < height < 1 << 20 and intrinsics[0] > 0 and intrinsics[1] > 0):
        raise LayoutError(f"{path} is not that of a camera")
    return (round(width), round(height)), tuple(intrinsics)


def _upright_quarter_turns(cam_from_world: np.ndarray) -> np.ndarray:
    """Return the clockwise quarter turns that make each picture upright, int8 [n]; -1 where that cannot be told.

    "Up" of the world (z) is the third column of the rotation: x to the right of the picture, y down. It is to be
    turned to the picture's top. Where it points at or away from the viewer, within 14.5 degrees, there is no top.
    """
    x, y = cam_from_world[:, 0, 2], cam_from_world[:, 1, 2]
    with np.errstate(invalid="ignore"):
        lying = np.where(x < 0, 1, 3)
        turns = np.where(np.abs(y) >= np.abs(x), np.where(y < 0, 0, 2), lying)
        return np.where(x * x + y * y >= _LEVEL, turns, -1).astype(np.int8)


def _from_nearest(turns: np.ndarray, stamps_s: np.ndarray) -> np.ndarray:
    """Give frames whose turn cannot be told that of the frame nearest in time that has one: the hands stay as they are.

    Else a look at the floor would lie on its side between upright pictures. The earlier frame where two are as near.
    """
    known = np.flatnonzero(turns >= 0)
    if not len(known):
        return turns
    after = np.clip(np.searchsorted(stamps_s[known], stamps_s), 0, len(known) - 1)
    before = np.clip(after - 1, 0, None)
    left = np.abs(stamps_s - stamps_s[known[before]]) <= np.abs(stamps_s[known[after]] - stamps_s)
    filled: np.ndarray = np.where(turns >= 0, turns, turns[known[np.where(left, before, after)]])
    return filled


# ---- trajectories


@dataclass(frozen=True, eq=False)
class _Trajectory:
    """Poses at rising times: float64 [k], cam_from_world's rotations as quaternions wxyz [k, 4], centres [k, 3]."""

    times_s: np.ndarray
    quaternions: np.ndarray
    centres: np.ndarray

    def at(self, stamps_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return cam_from_world [n, 3, 4] at the stamps, NaN where unknown, and which lie between two poses, bool [n].

        The rule stands in the module's docstring.
        """
        times = self.times_s
        after = np.searchsorted(times, stamps_s)
        before, after = np.clip(after - 1, 0, None), np.clip(after, None, len(times) - 1)
        nearest = np.where(stamps_s - times[before] <= times[after] - stamps_s, before, after)
        off = np.abs(stamps_s - times[nearest])
        gap = times[after] - times[before]
        between = (before < after) & (gap <= _GAP + _ROUNDING) & (off > _SAME + _ROUNDING)
        known = between | (off <= _NEAR + _ROUNDING)
        before, after = np.where(between, before, nearest), np.where(between, after, nearest)
        share = np.where(between, (stamps_s - times[before]) / np.where(between, gap, 1.0), 0.0)
        centre = self.centres[before] + share[:, None] * (self.centres[after] - self.centres[before])
        quaternion = _on_the_way(self.quaternions[before], self.quaternions[after], share)
        rotation = rotation_from_quaternion(quaternion)
        poses = np.concatenate([rotation, -_applied(rotation, centre)[:, :, None]], axis=2)
        return np.where(known[:, None, None], poses, np.nan), between


def _find_trajectory(
    tree: Tree, video: str, places: Sequence[str]
) -> tuple[_Trajectory | None, str | None, str | None]:
    # the first trajectory that can be read; else a scene status and the reason
    problem, reason = "no_model", "no lowres_wide.traj"
    if video in _WITHOUT_TRAJECTORY:
        reason = "one of the 24 videos that were published without trajectory"
    for path in (f"{place}/{name}" for place in places for name in _TRAJECTORIES):
        if tree.is_file(path):
            try:
                return _read_trajectory(tree, path), None, None
            except LayoutError as error:
                problem, reason = "bad_model", str(error)
    return None, problem, reason


def _read_trajectory(tree: Tree, path: str) -> _Trajectory:
    """Read lines of time, axis times angle (3) and translation (3) of cam_from_world, seconds, radians and metres.

    LayoutError where a line is another, or a time occurs twice.
    """
    numbers = []
    for line, text in enumerate(tree.read_text(path).splitlines(), start=1):
        fields = text.split()
        if not fields:
            continue
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = []
        if len(values) != 7 or not all(abs(value) < 1e9 for value in values):
            raise LayoutError(f"{path}: line {line} is not seven numbers; download it again")
        if sum(value * value for value in values[1:4]) > 40.0:  # a full turn is 39.5
            raise LayoutError(f"{path}: line {line} turns by more than a full turn")
        numbers.append(values)
    if not numbers:
        raise LayoutError(f"{path} is empty; download it again")
    table = np.array(sorted(numbers), np.float64)
    if not (np.diff(table[:, 0]) > 0).all():
        raise LayoutError(f"{path}: a time occurs twice")
    quaternions = _quaternions(table[:, 1:4])
    world_from_cam = np.swapaxes(rotation_from_quaternion(quaternions), 1, 2)
    return _Trajectory(table[:, 0], quaternions, -_applied(world_from_cam, table[:, 4:7]))


def _quaternions(axis_angle: np.ndarray) -> np.ndarray:
    """Return unit quaternions wxyz [n, 4] of rotations given as axis times angle [n, 3], angles up to a full turn.

    The half angle's sine and cosine by their Taylor series at an eighth of it, then the rotation doubled three times:
    plain arithmetic, which gives the same bits on every machine.
    """
    v = axis_angle / 16.0
    square = v[:, 0] * v[:, 0] + v[:, 1] * v[:, 1] + v[:, 2] * v[:, 2]  # at most 0.155: nine terms are exact
    sine = _series(square, 1)
    w, x, y, z = _series(square, 0), v[:, 0] * sine, v[:, 1] * sine, v[:, 2] * sine
    for _ in range(3):
        w, x, y, z = w * w - x * x - y * y - z * z, 2.0 * w * x, 2.0 * w * y, 2.0 * w * z
    return _normalised(np.stack([w, x, y, z], axis=1))


def _series(square: np.ndarray, first: int) -> np.ndarray:
    """Sum (-square)^k / (2 k + first)! from the smallest term: the cosine for 0, the sine over its angle for 1."""
    total = np.ones_like(square)
    for k in range(9, 0, -1):
        total = 1.0 - square * total / ((2.0 * k + first) * (2.0 * k + first - 1.0))
    return total


def _on_the_way(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return unit quaternions [n, 4] at a share [n] in 0 .. 1 of the shortest turn from a to b (slerp).

    Found by halving, since the middle of two unit quaternions is their normalised sum: 48 times, down to rounding.
    """
    dot = a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2] + a[:, 3] * b[:, 3]
    low, high = a, np.where(dot[:, None] < 0, -b, b)
    for _ in range(48):
        middle = _normalised(low + high)
        share = 2.0 * share
        beyond = share >= 1.0
        share = np.where(beyond, share - 1.0, share)
        low, high = np.where(beyond[:, None], middle, low), np.where(beyond[:, None], high, middle)
    return low


def _normalised(q: np.ndarray) -> np.ndarray:
    norm = np.sqrt(q[:, 0] * q[:, 0] + q[:, 1] * q[:, 1] + q[:, 2] * q[:, 2] + q[:, 3] * q[:, 3])
    return q / norm[:, None]


def _applied(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Multiply [n, 3, 3] x [n, 3], the sums in a fixed order: the same bits on every machine."""
    x, y, z = (vectors[:, i, None] for i in range(3))
    return matrices[:, :, 0] * x + matrices[:, :, 1] * y + matrices[:, :, 2] * z
