"""ScanNet++: rooms photographed with a fisheye DSLR and filmed with an iPhone, metric and aligned to a laser scan.

In: `data/<10 hex>/{dslr,iphone}` with `splits/*.txt` beside `data` (a root that is the folder `data` itself is read as
well, without splits). Out: one scene a room, with the streams `dslr` and `iphone`.

DSLR
* Frames are those of train_test_lists.json, first `train`, then `test`, each in the list's order: the test pictures
  were taken apart from the others and continue no path. Images on disk that no list names follow by number: the
  dataset was revised, and pictures with bad poses left the lists. Test pictures count as evaluated, each for itself;
  where none of them is on disk, the benchmark keeps them to itself, and they are no frames.
* One kind of picture is taken: resized_undistorted_images, else undistorted_images (what the toolkit makes), else
  resized_images, else original_images.
* Poses and tracks come from colmap/, else the poses from nerfstudio/*.json, whose world is turned back to the scan's.
  The intrinsics of undistorted pictures stand in transforms_undistorted.json alone: those of colmap/ are the fisheye's.
* Pictures that `is_bad` marks in nerfstudio/*.json are declared unusable.

iPhone
* Frames are the unpacked `rgb/frame_%06d.jpg` by number, and those that colmap/ registers. A video that nobody has
  unpacked gives a stream without frames that says so.
* Poses, intrinsics and tracks come from colmap/, whose names may start with `iphone/` or `video/`; it registers some of
  the frames. Without it they come from pose_intrinsic_imu.json, from ARKit: `aligned_pose` is camera-to-world in OpenCV
  axes and in the scan's world. Times are that file's in both cases.

Masks, of either stream, hide people and names: 255 is valid. A scene of the official validation and test lists counts
as evaluated as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mumdata.colmap import Model
from mumdata.datasets import Depth, Layout, Scene, Spec, Stream, natural_order
from mumdata.datasets.nerfstudio import (
    OLD_WORLD,
    Lens,
    Transforms,
    View,
    cameras_of,
    inverted,
    is_name,
    matrix_of,
    model_in,
    number_of,
    numbers_of,
    pictures_in,
    read_transforms,
    rows_of,
    stem_of,
    views_of_model,
)
from mumdata.errors import LayoutError
from mumdata.tree import Tree

__all__ = ["SPEC", "read", "scenes"]

_ID = r"[0-9a-f]{10}"
_IMAGES = r"(resized_undistorted|undistorted|resized|original)_images"


def _layout(name: str, shape: str, scene: str, others: Mapping[str, str]) -> Layout:
    return Layout(
        name,
        shape,
        (rf"{scene}/dslr/(train_test_lists\.json|{_IMAGES}|colmap)", rf"{scene}/iphone/(pose_intrinsic_imu\.json|rgb)"),
        {
            rf"{scene}/dslr/{_IMAGES}": "DSLR pictures",
            rf"{scene}/dslr/train_test_lists\.json": "order and test part of the DSLR pictures",
            rf"{scene}/dslr/colmap/images\.txt": "models: DSLR poses, tracks",
            rf"{scene}/dslr/nerfstudio/transforms_undistorted\.json": "intrinsics of undistorted DSLR pictures",
            rf"{scene}/iphone/rgb": "iPhone frames, unpacked by the toolkit",
            rf"{scene}/iphone/depth": "iPhone depth, unpacked by the toolkit",
            rf"{scene}/iphone/colmap/images\.txt": "models: iPhone poses, tracks",
            rf"{scene}/iphone/pose_intrinsic_imu\.json": "iPhone times, and poses by ARKit",
            rf"{scene}/scans/mesh_aligned_0\.05\.ply": "mesh of the laser scan",
            **others,
        },
    )


SPEC = Spec(
    name="scannetpp",
    title="ScanNet++",
    rule="chunk",
    licence="ScanNet++ Terms of Use: non-commercial research and education, no redistribution",
    source="application form, then the official download script with a personal token",
    layouts=(
        _layout(
            "release",
            "data/<10 hex>/{dslr,iphone} with splits/*.txt",
            rf"data/{_ID}",
            {r"splits/nvs_sem_train\.txt": "lists of the scenes of each split"},
        ),
        _layout("scenes alone", "<10 hex>/{dslr,iphone}", _ID, {}),
    ),
    # it comes as files; where files are rationed, people pack a scene into one
    archives=("*.tar", "*.zip", "data/*.tar", "data/*.zip"),
    evaluation="scenes of nvs_sem_val, nvs_test, nvs_test_iphone and sem_test, and the test frames of all scenes "
    "(not mined)",
    num_scenes=1_006,
    counts=(
        "second release: 856 scenes for training, 50 for validation, and two test lists, about 1,006 in all (the total "
        "is not verified); MuM's table gives 1,045 thousand DSLR pictures in the training part of their scenes"
    ),
    presets={
        "mumdata": {"chunk_size": 100},
        "mum-paper": {"chunk_size": 100},
        "mum-released": {"chunk_size": 100, "last_chunk": "released"},
    },
)

_SCENE = re.compile(_ID)
# a scene that several lists name belongs to the first: what is evaluated must not pass for training data
_SPLITS = ("nvs_test", "nvs_test_iphone", "sem_test", "nvs_sem_val", "nvs_sem_train")
_EVALUATED = {
    "nvs_test": "scannetpp-nvs",
    "nvs_test_iphone": "scannetpp-nvs-iphone",
    "sem_test": "scannetpp-sem",
    "nvs_sem_val": "scannetpp-val",
}
_TEST_FRAME = "scannetpp-nvs"

# pictures, their masks, and whether they are undistorted, best first
_KINDS = (
    ("resized_undistorted_images", "resized_undistorted_masks", True),
    ("undistorted_images", "undistorted_anon_masks", True),
    ("resized_images", "resized_anon_masks", False),
    ("original_images", "original_anon_masks", False),
)
_IS_BAD = "marked is_bad in nerfstudio/*.json"
_VIDEOS = ("rgb.mkv", "rgb.mp4")
_MESH = "scans/mesh_aligned_0.05.ply"
_IPHONE_SIZE = (1920, 1440)  # of the video that the intrinsics of pose_intrinsic_imu.json belong to


def scenes(tree: Tree) -> list[Scene]:
    """List the scenes that have a folder, with their splits; LayoutError where there is none."""
    for base in ("data/", ""):
        names = [name for name in tree.folders(base.rstrip("/")) if _SCENE.fullmatch(name)]
        if names:
            above = tree.root.absolute().parent
            if not base and (above / "splits").is_dir():
                raise LayoutError(f"{tree.root}: the lists of evaluated scenes lie beside it; give {above} as the root")
            split_of = _splits(tree)
            return [Scene(split_of.get(name), name, (f"{base}{name}",)) for name in names]
    raise LayoutError(f"{tree.root} does not look like scannetpp; expected {SPEC.layout}")


def read(tree: Tree, scene: Scene) -> list[Stream]:
    """Read the streams of one scene; one without a name and without frames where there is neither."""
    place = scene.places[0]
    parts = tree.folders(place)
    eval_of = _EVALUATED.get(scene.split or "")
    streams = []
    if "dslr" in parts:
        streams.append(_dslr(tree, f"{place}/dslr", scene.scene, eval_of))
    if "iphone" in parts:
        streams.append(_iphone(tree, f"{place}/iphone", scene.scene, eval_of))
    if not streams:
        return [Stream(None, (), scene.scene, eval_of=eval_of, problem="empty", detail="neither dslr nor iphone")]
    # both are aligned to the laser scan
    mesh_path = tree.find(f"{place}/{_MESH}")
    return [replace(stream, mesh_path=mesh_path) for stream in streams]


def _splits(tree: Tree) -> dict[str, str]:
    found: dict[str, str] = {}
    for split in _SPLITS:
        path = f"splits/{split}.txt"
        if tree.is_file(path):
            for name in tree.read_text(path).split():
                found.setdefault(name, split)
    return found


class _Notes:
    """What is wrong with a stream: the state that the first trouble gives it, and all of it in words."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._texts: list[str] = []

    def add(self, problem: str, text: str | None) -> None:
        if text:
            self.problem = self.problem or problem
            self._texts.append(text)

    @property
    def detail(self) -> str | None:
        return "; ".join(self._texts) or None


# --- DSLR -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lists:
    # train_test_lists.json: names with their endings, by stem, in the lists' order; the state it is in, and in words
    train: Mapping[str, str] = field(default_factory=dict)
    test: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    trouble: str | None = None


def _dslr(tree: Tree, folder: str, scene: str, eval_of: str | None) -> Stream:
    kind, masks, undistorted = next((row for row in _KINDS if pictures_in(tree, f"{folder}/{row[0]}")[0]), _KINDS[0])
    files, ignored = pictures_in(tree, f"{folder}/{kind}")
    notes = _Notes()
    fisheye = _transforms(tree, f"{folder}/nerfstudio/transforms.json", notes)
    flat = _transforms(tree, f"{folder}/nerfstudio/transforms_undistorted.json", notes)
    lists = _lists(tree, folder, fisheye or flat)
    if not files:
        kinds = ", ".join(row[0] for row in _KINDS)
        detail = f"no picture in {kinds}; {len(lists.train) + len(lists.test)} listed"
        return Stream("dslr", (), scene, eval_of=eval_of, problem="empty", detail=detail)

    model, trouble = model_in(tree, (f"{folder}/colmap",))
    notes.add("bad_model", trouble)
    views, other = _dslr_views(model, fisheye, flat, undistorted, notes)
    notes.add(lists.problem, lists.trouble)
    hidden = {} if any(stem in files for stem in lists.test) else lists.test
    names = _in_order(lists, hidden, files, views)
    stems = list(names)
    bad = {stem for each in (fisheye, flat) if each for stem in each.bad}
    kept_back = "a test picture; the benchmark keeps those of this scene to itself"
    return Stream(
        "dslr",
        tuple(f"{folder}/{kind}/{name}" for name in names.values()),
        scene,
        cameras=cameras_of([views.get(stem, other) for stem in stems]) if views else None,
        mask_paths=_beside(tree, f"{folder}/{masks}", stems),
        eval_of=tuple(_TEST_FRAME if stem in lists.test else eval_of for stem in stems),
        bad={row: ("known_bad", _IS_BAD) for row, stem in enumerate(stems) if stem in bad},
        problem=notes.problem,
        detail=notes.detail,
        ignored=(*ignored, *((f"{folder}/{kind}/{name}", "hidden_test", kept_back) for name in hidden.values())),
        **_tracks(model, stems),
    )


def _in_order(
    lists: _Lists, hidden: Mapping[str, str], files: Mapping[str, str], views: Mapping[str, View]
) -> dict[str, str]:
    """Return the frames' file names by stem, in order: the lists', then images that are in none of them."""
    listed = {**lists.train, **{stem: name for stem, name in lists.test.items() if stem not in hidden}}
    others = {stem: name for stem, name in files.items() if stem not in lists.train and stem not in lists.test}
    if not lists.train:
        # without lists, what has a pose is what should be there
        ending = next(iter(files.values())).rpartition(".")[2]
        others |= {stem: f"{stem}.{ending}" for stem in views if stem not in files}
    names = {**listed, **{stem: others[stem] for stem in natural_order(others)}}
    # a file may have been renamed from .JPG to .jpg
    return {stem: files.get(stem, name) for stem, name in names.items()}


def _lists(tree: Tree, folder: str, transforms: Transforms | None) -> _Lists:
    path = f"{folder}/train_test_lists.json"
    problem, trouble = "no_lists", "no train_test_lists.json"
    if tree.is_file(path):
        try:
            document = tree.read_json(path)
            return _Lists(_names(document, "train", path), _names(document, "test", path))
        except LayoutError as error:
            problem, trouble = "bad_lists", str(error)
    if transforms is not None:
        # the same division; endings are the toolkit's
        train, test = ({stem: f"{stem}.JPG" for stem in part} for part in (transforms.frames, transforms.test_frames))
        return _Lists(train, test, problem, f"{trouble}; order and test part as in nerfstudio/*.json")
    return _Lists(problem=problem, trouble=f"{trouble}; nothing tells the test pictures from the others")


def _names(document: Any, key: str, path: str) -> dict[str, str]:
    names = document.get(key, []) if isinstance(document, dict) else None
    if not isinstance(names, list) or (key == "train" and not names):
        raise LayoutError(f"{path} has no list '{key}'")
    found: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not is_name(name) or "/" in name:
            raise LayoutError(f"{path}: '{key}' holds {str(name)[:80]!a}, no picture's name")
        found.setdefault(stem_of(name), name)
    return found


def _dslr_views(
    model: Model | None, fisheye: Transforms | None, flat: Transforms | None, undistorted: bool, notes: _Notes
) -> tuple[dict[str, View], View]:
    """Return what is known of the pictures by stem, and of all others: poses from the model if there is one."""
    own = flat if undistorted else fisheye
    source = own or fisheye or flat
    if model is not None:
        views = views_of_model(model)
        if not undistorted:
            return views, View()
    elif source is not None:
        notes.add("partial_poses", source.summary)
        views = dict(source.views)
    else:
        notes.add("no_model", "no colmap/, no nerfstudio/*.json: no poses")
        return {}, View()
    lens = own.lens if own else None
    if lens is None:
        what = f"nerfstudio/transforms{'_undistorted' if undistorted else ''}.json"
        notes.add("no_intrinsics", own.summary if own and own.summary else f"no intrinsics in {what}")
    # any other lens than the one of this kind belongs to other pictures
    return {stem: View(view.cam_from_world, lens) for stem, view in views.items()}, View(None, lens)


# --- iPhone -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arkit:
    # pose_intrinsic_imu.json by stem: views, seconds; how many frames have no usable camera
    views: Mapping[str, View] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    num_broken: int = 0


def _iphone(tree: Tree, folder: str, scene: str, eval_of: str | None) -> Stream:
    files, ignored = pictures_in(tree, f"{folder}/rgb")
    if not files:
        video = tree.first_file(f"{folder}/{name}" for name in _VIDEOS)
        detail = "no rgb/ and no video"
        if video is not None:
            detail = f"{video.rpartition('/')[2]} is not unpacked; run iphone.prepare_iphone_data of the toolkit"
        return Stream("iphone", (), scene, eval_of=eval_of, problem="empty", detail=detail)
    notes = _Notes()
    model, trouble = model_in(tree, (f"{folder}/colmap",))
    notes.add("bad_model", trouble)
    arkit = _Arkit()
    path = f"{folder}/pose_intrinsic_imu.json"
    if tree.is_file(path):
        try:
            arkit = _arkit(tree, path)
        except LayoutError as error:
            notes.add("bad_model", str(error))
    transforms = _transforms(tree, f"{folder}/nerfstudio/transforms.json", notes)
    views: Mapping[str, View] = arkit.views
    if model is not None:
        views = views_of_model(model)
    elif not views:
        notes.add("no_model", "no colmap/, no pose_intrinsic_imu.json: no poses")
    elif arkit.num_broken:
        notes.add("partial_poses", f"{path}: {arkit.num_broken} frames without a usable camera")

    # ARKit knows every frame of the video; that some of them were not unpacked is somebody's choice
    stems = natural_order({*files, *views} if model is not None else files)
    ending = next(iter(files.values())).rpartition(".")[2]
    bad = transforms.bad if transforms else frozenset()
    times = np.array([arkit.times.get(stem, np.nan) for stem in stems])
    return Stream(
        "iphone",
        tuple(f"{folder}/rgb/{files.get(stem, f'{stem}.{ending}')}" for stem in stems),
        scene,
        cameras=cameras_of([views.get(stem, View()) for stem in stems]) if views else None,
        timestamps_s=times if np.isfinite(times).any() else None,
        depth_paths=_beside(tree, f"{folder}/depth", stems),
        depth=Depth("millimetres"),
        ordered=True,
        mask_paths=_beside(tree, f"{folder}/rgb_masks", stems),
        eval_of=eval_of,
        bad={row: ("known_bad", _IS_BAD) for row, stem in enumerate(stems) if stem in bad},
        problem=notes.problem,
        detail=notes.detail,
        ignored=ignored,
        **_tracks(model, stems),
    )


def _arkit(tree: Tree, path: str) -> _Arkit:
    document = tree.read_json(path)
    if not isinstance(document, dict):
        raise LayoutError(f"{path} does not map frames to cameras")
    views: dict[str, View] = {}
    times: dict[str, float] = {}
    num_broken = 0
    for name, record in document.items():
        stem = stem_of(name)
        if not isinstance(record, dict) or not is_name(stem):
            num_broken += 1
            continue
        pose, lens = inverted(matrix_of(record.get("aligned_pose"))), _arkit_lens(record.get("intrinsic"))
        num_broken += pose is None or lens is None
        views[stem] = View(pose, lens)
        with suppress(ValueError):  # a time is a help, not a need
            times[stem] = number_of(record.get("timestamp"), "timestamp")
    return _Arkit(views, times, num_broken)


def _arkit_lens(value: Any) -> Lens | None:
    matrix = numbers_of(value, 9)
    if matrix is None or min(matrix[0], matrix[4]) <= 0:
        return None
    fx, fy, cx, cy = (float(matrix[place]) for place in (0, 4, 2, 5))
    return Lens("PINHOLE", _IPHONE_SIZE, (fx, fy, cx, cy), ())


# --- both -------------------------------------------------------------------------------------------------------------


def _transforms(tree: Tree, path: str, notes: _Notes) -> Transforms | None:
    if not tree.is_file(path):
        return None
    try:
        return read_transforms(tree, path, OLD_WORLD)
    except LayoutError as error:
        notes.add("bad_model", str(error))
        return None


def _beside(tree: Tree, folder: str, stems: Iterable[str]) -> tuple[str | None, ...] | None:
    # the PNG of each frame in another folder; None where there is no such folder
    if not tree.files(folder):
        return None
    return tuple(tree.find(f"{folder}/{stem}.png") for stem in stems)


def _tracks(model: Model | None, stems: list[str]) -> dict[str, Any]:
    if model is None:
        return {}
    padded, rows = rows_of(model, stems)
    return {"model": padded, "rows": rows}
