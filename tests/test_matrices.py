"""Pairs from D2-Net's matrices and DKM's lists, against the definitions written plainly."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import geometry
from mumdata.colmap import Model
from mumdata.covisibility import Pairs, covisibility, overlaps
from mumdata.datasets import Cameras, Stream
from mumdata.errors import ConfigError, MumError
from mumdata.sources import SOURCES, SourceOptions
from mumdata.sources.matrices import match_paths
from mumdata.tree import Tree

KEY = ("megadepth", "train", "0015", "0")
FOLDER = "Undistorted_SfM/0015/images"


class Scene:
    """Images that see points, with cameras; what D2-Net and DKM would write of it, and the stream of it."""

    def __init__(self, seed: int, num: int = 7, num_points: int = 25, share: float = 0.3) -> None:
        random = np.random.default_rng(seed)
        self.sees = random.random((num, num_points)) < share
        self.names = [f"{place:02}_{random.integers(1 << 30):x}_o.jpg" for place in range(num)]
        quaternions = random.normal(size=(num, 4))
        translations = random.normal(size=(num, 3, 1))
        self.poses = np.concatenate([geometry.rotation_from_quaternion(quaternions), translations], axis=2)
        self.depths = random.uniform(1, 9, (num, num_points))  # of each point in each image, over its focal length
        self.usable = random.random(num) < 0.9

    @property
    def num(self) -> int:
        return len(self.names)

    def matrices(self) -> dict[str, Any]:
        """D2-Net's definitions, pair by pair; overlaps of images that see nothing would be a division by zero."""
        sets = [set(np.flatnonzero(row).tolist()) for row in self.sees]
        overlap, ratio = np.full((self.num, self.num), -1.0), np.full((self.num, self.num), -1.0)
        for i in range(self.num):
            for j in range(self.num):
                if i == j or not self.usable[i] or not self.usable[j]:
                    continue
                common = sets[i] & sets[j]
                overlap[i, j] = len(common) / len(sets[i]) if sets[i] else 0.0
                if common:
                    both = [(self.depths[i, p], self.depths[j, p]) for p in common]
                    ratio[i, j] = min(max(x / y, y / x) for x, y in both)
        paths = [f"{FOLDER}/{name}" if ok else None for name, ok in zip(self.names, self.usable, strict=True)]
        poses = np.empty(self.num, object)
        for place, pose in enumerate(self.poses):
            poses[place] = np.vstack([pose, [0, 0, 0, 1]]) if self.usable[place] else None
        return {
            "image_paths": np.array(paths, object),
            "overlap_matrix": overlap,
            "scale_ratio_matrix": ratio,
            "n_points3D": np.array([len(one) for one in sets]),
            "poses": poses,
            "points3D_id_to_2D": np.array([{point: [0.5, 1.5] for point in one} for one in sets], object),
        }

    def lists(self) -> dict[str, Any]:
        """DKM's: those entries of the matrix that are above 0."""
        found = self.matrices()
        where = np.where(found["overlap_matrix"] > 0)
        return {
            "image_paths": found["image_paths"],
            "poses": found["poses"],
            "pairs": np.stack(where, axis=1),
            "overlaps": found["overlap_matrix"][where],
        }

    def stream(self, order: list[int] | None = None, with_model: bool = True) -> Stream:
        order = list(range(self.num)) if order is None else order
        paths = tuple(f"{FOLDER}/{self.names[place]}" for place in order)
        if not with_model:
            return Stream("0", paths)
        model, rows = self.model(), np.array(order, np.int64)
        return Stream("0", paths, model=model, rows=rows, cameras=Cameras.of_model(model, rows))

    def model(self) -> Model:
        image, point = np.nonzero(self.sees)
        return Model(
            np.arange(self.num),
            tuple(name.encode() for name in self.names),
            ("PINHOLE",) * self.num,
            np.full((self.num, 2), 100),
            np.ones((self.num, 4)),
            ((),) * self.num,
            self.poses,
            np.arange(self.sees.shape[1]),
            np.zeros((self.sees.shape[1], 3)),
            image.astype(np.int32),
            point.astype(np.int32),
            self.sees.sum(axis=1).astype(np.int32),
            0,
        )


def read(source: str, files: Path, stream: Stream, key: tuple[str | None, ...] = KEY) -> Pairs | None:
    return SOURCES[source].pairs(Tree(files), key, stream, SourceOptions(files=files))


def write(folder: Path, values: dict[str, Any], name: str = "0015.npz") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **values)
    else:
        np.save(path, np.array(values, object))
    return path


def expected(scene: Scene, order: list[int]) -> list[tuple[int, int, float, float]]:
    """The pairs by position with something in common, and both overlaps, from sets."""
    found = []
    for a in range(len(order)):
        for b in range(a + 1, len(order)):
            i, j = order[a], order[b]
            common = int((scene.sees[i] & scene.sees[j]).sum())
            if common and scene.usable[i] and scene.usable[j]:
                found.append((a, b, common / int(scene.sees[i].sum()), common / int(scene.sees[j].sum())))
    return found


def rows_of(pairs: Pairs) -> list[tuple[int, int, float, float]]:
    ab, ba, _ = overlaps(pairs)
    return list(zip(pairs.a.tolist(), pairs.b.tolist(), ab.tolist(), ba.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), with_model=st.booleans(), source=st.sampled_from(["d2net", "dkm"]))
def test_pairs_are_those_of_the_definition(
    seed: int, with_model: bool, source: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    scene = Scene(seed)
    # the stream holds the images in another order, and not all
    order = np.random.default_rng(seed + 1).permutation(scene.num)[: scene.num - 2].tolist()
    stream = scene.stream(order, with_model)
    write(
        folder,
        scene.matrices() if source == "d2net" else scene.lists(),
        f"0015.{'npz' if source == 'd2net' else 'npy'}",
    )
    wanted = expected(scene, order)
    if not scene.usable[order].any():
        return
    pairs = read(source, folder, stream)
    assert pairs is not None
    assert pairs.source == source
    counted = source == "d2net" and with_model
    rounded = wanted if counted else [(a, b, float(np.float32(x)), float(np.float32(y))) for a, b, x, y in wanted]
    assert rows_of(pairs) == rounded
    assert pairs.a.dtype == pairs.b.dtype == pairs.num_points.dtype == np.int32
    if counted:
        assert pairs.shared is not None
        assert pairs.overlap_ab is None
        assert pairs.num_points.tolist() == scene.sees[order].sum(axis=1).tolist()
        points = [int((scene.sees[order[a]] & scene.sees[order[b]]).sum()) for a, b, _, _ in wanted]
        assert pairs.shared.tolist() == points
    else:
        assert pairs.shared is None
        assert pairs.overlap_ab is not None
        assert pairs.overlap_ab.dtype == np.float32
        assert not pairs.num_points.any()
    places = np.array(order)
    first, second = places[pairs.a], places[pairs.b]
    assert pairs.rotation_cos is not None
    assert pairs.rotation_cos.tolist() == geometry.rotation_cos(scene.poses, first, second).tolist()
    assert pairs.axis_cos is not None
    assert pairs.axis_cos.tolist() == geometry.axis_cos(scene.poses, first, second).tolist()
    if source == "d2net":
        assert pairs.scale_ratio is not None
        ratio = scene.matrices()["scale_ratio_matrix"][first, second]
        assert pairs.scale_ratio.tolist() == ratio.astype(np.float32).tolist()
        assert (ratio >= 1).all()
    else:
        assert pairs.scale_ratio is None


def test_recovered_counts_are_those_of_the_tracks(tmp_path: Path) -> None:
    scene = Scene(3, num=30, num_points=4000)
    scene.usable[:] = True
    write(tmp_path, scene.matrices())
    pairs = read("d2net", tmp_path, scene.stream())
    truth = covisibility(scene.num, *np.nonzero(scene.sees))
    assert pairs is not None
    for name in ("a", "b", "shared", "num_points"):
        assert getattr(pairs, name).tolist() == getattr(truth, name).tolist()


def test_images_and_frames_that_do_not_meet_are_counted(tmp_path: Path) -> None:
    scene = Scene(4)
    scene.usable[:] = True
    values = scene.matrices()
    for usable, order, told in (
        ([], list(range(7)), ()),
        ([], [0, 2, 5], ("0015.npz: 4 of its 7 images are no frames here; 0 frames are not in it",)),
        ([1], [1, 2, 5], ("0015.npz: 4 of its 6 images are no frames here; 1 frames are not in it",)),
    ):
        values["image_paths"][usable] = None
        write(tmp_path, values)
        pairs = read("d2net", tmp_path, scene.stream(order))
        assert pairs is not None
        assert pairs.notes == told


def change(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (values | changes).items() if value is not None}


def test_counts_that_do_not_follow_are_not_made_up(tmp_path: Path) -> None:
    scene = Scene(5)
    scene.usable[:] = True
    values, stream = scene.matrices(), scene.stream()
    rounded = values["overlap_matrix"].astype(np.float32)
    for changes in (
        {"overlap_matrix": rounded},
        {"n_points3D": values["n_points3D"] + 1},
        {"n_points3D": None},
        {"n_points3D": values["n_points3D"].astype(float)},
        {"n_points3D": values["n_points3D"][:2]},
    ):
        write(tmp_path, change(values, **changes))
        pairs = read("d2net", tmp_path, stream)
        assert pairs is not None
        assert pairs.shared is None
        wanted = [(a, b, float(np.float32(x)), float(np.float32(y))) for a, b, x, y in expected(scene, list(range(7)))]
        assert rows_of(pairs) == wanted


def test_what_d2net_wrote_at_first_is_read(tmp_path: Path) -> None:
    # shared / min(n_i, n_j) both ways, and ratios of areas that are each other's inverse; poses were flat
    overlap = np.array([[-1.0, 0.8, -1.0], [0.8, -1.0, 0.0], [-1.0, 0.0, -1.0]])
    ratio = np.array([[-1.0, 0.5, -1.0], [2.0, -1.0, -1.0], [-1.0, -1.0, -1.0]])
    poses = np.empty(3, object)
    poses[0] = np.eye(4).ravel()
    poses[1] = np.diag([1.0, -1.0, -1.0, 1.0]).ravel()
    values = {"image_paths": ["a.jpg", "b.jpg", "c.jpg"], "overlap_matrix": overlap, "scale_ratio_matrix": ratio}
    write(tmp_path, {**values, "poses": poses}, "7.0.npz")
    for key in (("x", None, "7", None), ("x", None, "7", "0")):
        pairs = read("d2net", tmp_path, Stream(key[3], ("p/a.jpg", "p/c.jpg", "p/b.jpg")), key)
        assert pairs is not None
        assert rows_of(pairs) == [(0, 2, float(np.float32(0.8)), float(np.float32(0.8)))]
        assert pairs.scale_ratio is not None
        assert pairs.scale_ratio.tolist() == [2.0]
        assert pairs.rotation_cos is not None
        assert pairs.rotation_cos.tolist() == [-1.0]
        assert pairs.axis_cos is not None
        assert pairs.axis_cos.tolist() == [-1.0]


def test_cameras_of_the_stream_come_before_those_of_the_file(tmp_path: Path) -> None:
    scene = Scene(8)
    scene.usable[:] = True
    values = scene.matrices()
    values["poses"][:] = None
    write(tmp_path, values)
    pairs = read("d2net", tmp_path, scene.stream())
    assert pairs is not None
    assert pairs.rotation_cos is not None
    assert np.isfinite(pairs.rotation_cos).all()
    bare = read("d2net", tmp_path, scene.stream(with_model=False))
    assert bare is not None
    assert bare.rotation_cos is None
    stream = scene.stream()
    assert stream.cameras is not None
    unknown = replace(stream.cameras, cam_from_world=np.full((7, 3, 4), np.nan))
    poses = scene.matrices()["poses"]
    write(tmp_path, {**values, "poses": poses})
    again = read("d2net", tmp_path, Stream("0", stream.paths, cameras=unknown))
    assert again is not None
    assert again.rotation_cos is not None
    assert again.rotation_cos.tolist() == pairs.rotation_cos.tolist()


def test_a_pair_listed_one_way_round_counts_for_both(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    listed = [(1, 0, 0.25), (2, 1, 0.5), (1, 2, 1.0), (0, 2, 0.75), (0, 3, 0.0), (1, 3, -1.0), (2, 2, 1.0)]
    pairs, overlap = np.array([one[:2] for one in listed]), np.array([one[2] for one in listed])
    write(tmp_path, {"image_paths": names, "pairs": pairs, "overlaps": overlap}, "s.npy")
    found = read("dkm", tmp_path, Stream(None, tuple(names)), ("x", None, "s", None))
    assert found is not None
    assert rows_of(found) == [(0, 1, 0.25, 0.25), (0, 2, 0.75, 0.75), (1, 2, 1.0, 0.5)]


@pytest.mark.parametrize(
    ("key", "file", "found"),
    [
        (KEY, "0015.npz", True),
        (KEY, "0015.0.npz", True),
        (KEY, "scene_info/0015.npz", True),
        (KEY, "prep_scene_info/0015.npy", True),
        (("x", None, "0015", "1"), "0015.1.npz", True),
        (("x", None, "0015", "1"), "0015.npz", False),
        (("x", None, "0015", None), "0015.npy", True),
        (("x", None, "0015", "dslr"), "0015.dslr.npz", True),
        (("x", None, "apple/1", None), "apple/1.npz", True),
        (("x", None, "../files/0015", None), "0015.npz", False),
        (("x", None, "0015", None), "0016.npz", False),
        (("x", None, "0015", "0/../0015"), "0015.0/a.npz", False),
        (("x", None, "0015", "0/../0015"), "0015.npz", False),
    ],
)
def test_the_file_of_a_stream(tmp_path: Path, key: tuple[str | None, ...], file: str, found: bool) -> None:
    scene = Scene(2)
    write(tmp_path / "files", scene.matrices(), file)
    pairs = read("d2net", tmp_path / "files", scene.stream(), key)
    assert (pairs is not None) == found


def test_one_file_may_be_given_and_no_file_is_no_pairs(tmp_path: Path) -> None:
    scene = Scene(2)
    path = write(tmp_path, scene.matrices(), "any name.npz")
    assert read("d2net", path, scene.stream()) is not None
    assert read("d2net", path, Stream(None, ("other.jpg",))) is None
    assert read("d2net", tmp_path, scene.stream()) is None
    assert read("d2net", tmp_path, Stream(None, ())) is None
    with pytest.raises(ConfigError, match="--from-dir"):
        SOURCES["d2net"].pairs(Tree(tmp_path), KEY, scene.stream(), SourceOptions())


def test_a_file_of_other_images_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, Scene(2).matrices())
    with pytest.raises(MumError, match=r"none of its .* images"):
        read("d2net", tmp_path, Stream("0", ("other.jpg",)))


NAN = np.full((7, 7), np.nan)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"overlap_matrix": None}, "has no 'overlap_matrix'"),
        ({"image_paths": None}, "has no 'image_paths'"),
        ({"overlap_matrix": np.ones((7, 6))}, "7 x 7"),
        ({"overlap_matrix": np.ones((6, 6))}, "7 x 7"),
        ({"overlap_matrix": np.ones(49)}, "7 x 7"),
        ({"overlap_matrix": np.full((7, 7), "0.5")}, "7 x 7"),
        ({"overlap_matrix": np.full((7, 7), 0.5, object)}, "7 x 7"),
        ({"overlap_matrix": NAN}, "0 .. 1"),
        ({"overlap_matrix": np.full((7, 7), 1.5)}, "0 .. 1"),
        ({"overlap_matrix": np.full((7, 7), -np.inf)}, "0 .. 1"),
        ({"image_paths": np.arange(7)}, "no path"),
        ({"image_paths": np.array([["a"]])}, "no list"),
        ({"scale_ratio_matrix": np.ones((3, 3))}, "7 x 7"),
        ({"overlap_matrix": None, "pair_infos": np.zeros(2)}, "LoFTR"),
        ({"overlap_matrix": None, "overlaps": np.zeros(2)}, "--from dkm"),
    ],
)
def test_broken_matrices_are_errors(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    scene = Scene(2)
    write(tmp_path, change(scene.matrices(), **changes))
    with pytest.raises(MumError, match=r"0015\.npz") as caught:
        read("d2net", tmp_path, scene.stream())
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairs": np.array([[0, 7]]), "overlaps": np.ones(1)}, "not among the 7"),
        ({"pairs": np.array([[0, -1]]), "overlaps": np.ones(1)}, "not among the 7"),
        ({"pairs": np.array([[0, 1], [0, 1]]), "overlaps": np.ones(2)}, "twice"),
        ({"pairs": np.array([[0, 1]]), "overlaps": np.ones(2)}, "k numbers"),
        ({"pairs": np.array([[0.0, 1.0]]), "overlaps": np.ones(1)}, "k numbers"),
        ({"pairs": np.array([[0, 1, 2]]), "overlaps": np.ones(1)}, "k numbers"),
        ({"pairs": np.array([0, 1]), "overlaps": np.ones(2)}, "k numbers"),
        ({"pairs": {"a": 1}}, "k numbers"),
        ({"pairs": np.array([[0, 1]]), "overlaps": np.array([np.nan])}, "0 .. 1"),
        ({"pairs": None, "overlap_matrix": np.ones((7, 7))}, "--from d2net"),
    ],
)
def test_broken_lists_are_errors(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    scene = Scene(2)
    write(tmp_path, change(scene.lists(), **changes), "0015.npy")
    with pytest.raises(MumError, match=r"0015\.npy") as caught:
        read("dkm", tmp_path, scene.stream())
    assert told in str(caught.value)


def test_files_that_are_something_else_are_errors(tmp_path: Path) -> None:
    stream = Scene(2).stream()
    for data in (b"", b"text", pickle.dumps([1, 2]), pickle.dumps(np.zeros(3)), pickle.dumps(MumError)):
        (tmp_path / "0015.npy").write_bytes(data)
        for source in ("d2net", "dkm"):
            with pytest.raises(MumError, match=r"0015\.npy"):
                read(source, tmp_path, stream)


def test_an_empty_list_is_a_stream_without_pairs(tmp_path: Path) -> None:
    write(tmp_path, {"image_paths": ["a", "b"], "pairs": [], "overlaps": []}, "0015.npy")
    pairs = read("dkm", tmp_path, Stream("0", ("x/a", "x/b")))
    assert pairs is not None
    assert len(pairs.a) == 0


# ---- paths


@pytest.mark.parametrize(
    ("paths", "frames", "found"),
    [
        (["x/a.jpg", "x/b.jpg"], ["y/b.jpg", "y/a.jpg"], [1, 0]),
        (["a.jpg", None], ["y/a.jpg"], [0, -1]),
        (["p/1/a.jpg", "p/2/a.jpg"], ["q/2/a.jpg", "q/1/a.jpg"], [1, 0]),
        (["a.jpg"], ["1/a.jpg", "2/a.jpg"], [-1]),  # either
        (["1/a.jpg", "2/a.jpg"], ["a.jpg"], [-1, -1]),
        (["1/a.jpg", "a.jpg"], ["1/a.jpg", "2/a.jpg"], [0, -1]),
        (["r/a.jpg", "q/a.jpg"], ["q/a.jpg"], [-1, 0]),
        (["q/a.jpg", "q/a.jpg"], ["q/a.jpg"], [-1, -1]),
        (["/abs//q/./a.jpg"], ["z/q/a.jpg"], [0]),
        (["q\\a.jpg"], ["q/a.jpg"], [0]),
        (["Co\u0301pia.jpg"], ["C\xf3pia.jpg"], [0]),
        (["A.jpg", "a.jpeg", "xa.jpg"], ["a.jpg"], [-1, -1, -1]),
        ([], ["a"], []),
        (["a"], [], [-1]),
        (["", "/"], ["a"], [-1, -1]),
    ],
)
def test_paths_are_matched_by_their_ends(paths: list[str | None], frames: list[str], found: list[int]) -> None:
    assert match_paths(paths, frames).tolist() == found


def common(one: str, other: str) -> int:
    count = 0
    for x, y in zip(reversed(one.split("/")), reversed(other.split("/")), strict=False):
        if x != y:
            break
        count += 1
    return count


PATHS = st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map("/".join), max_size=5)


@given(PATHS, PATHS.map(lambda paths: list(dict.fromkeys(paths))))
def test_matching_equals_the_plain_definition(paths: list[str], frames: list[str]) -> None:
    found = []
    for place, path in enumerate(paths):
        best = max((common(path, frame) for frame in frames), default=0)
        fits = [at for at, frame in enumerate(frames) if common(path, frame) == best]
        rivals = (
            [at for at, other in enumerate(paths) if at != place and common(other, frames[fits[0]]) >= best]
            if fits
            else []
        )
        found.append(fits[0] if best and len(fits) == 1 and not rivals else -1)
    assert match_paths(paths, frames).tolist() == found


def test_long_paths_take_little(tmp_path: Path) -> None:
    deep = "a/" * 50_000
    assert match_paths([deep + "x.jpg", deep + "y.jpg"], [deep + "y.jpg"]).tolist() == [-1, 0]
