"""What held-out frames show of each other: against the rendered truth, hand-made scenes, and what was asked for."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mumdata.correspondences as stage
from mumdata import catalog, geometry
from mumdata.catalog import MixDataset
from mumdata.colmap import Model
from mumdata.correspond.draw import Plan, _Sequence, plan
from mumdata.correspond.measure import PairPoints, measure
from mumdata.correspondences import correspondences
from mumdata.correspondences_file import (
    Sample,
    carry_correspondences,
    correspondences_path,
    read_correspondences,
)
from mumdata.datasets import Cameras, Depth, Stream
from mumdata.demo import layouts
from mumdata.demo.album import SIZES, Album, build_place
from mumdata.demo.camera import Camera, project, rays
from mumdata.demo.render import Place, sees
from mumdata.demo.solids import nearest
from mumdata.errors import CatalogError, ConfigError, LayoutError, ModelError
from mumdata.mix import mix as make_mix
from mumdata.pack import pack
from mumdata.schema import CORRESPONDENCES
from mumdata.sources.lens import lens_of
from mumdata.tree import Tree

DATASETS = ("arkitscenes", "blendedmvs", "megascenes")  # depth, depth, tracks
HOLDOUT = 0.45  # holds some groups of each out, and leaves some


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Catalogs of three datasets with geometry, and one without."""
    from mumdata.index import index
    from mumdata.sequences import mine_sequences

    catalogs = tmp_path_factory.mktemp("held-out") / "catalogs"
    for name in (*DATASETS, "realestate10k"):
        index(name, root=world / name, catalogs=catalogs, workers=1)
        mine_sequences(name, catalogs=catalogs, workers=1, min_frames=2)
    return catalogs


def mixed(catalogs: Path, name: str, holdout: float, datasets: tuple[str, ...] = DATASETS) -> Path:
    weight = [f"{dataset}=1" for dataset in datasets]
    return make_mix("only", weight=weight, catalogs=catalogs, out=catalogs / name, holdout=holdout).path


@pytest.fixture(scope="module")
def mix_file(folder: Path) -> Path:
    return mixed(folder, "held.parquet", HOLDOUT)


ASKED = {"num": 9, "views": 5, "grid": 16, "seed": 5}


@pytest.fixture(scope="module")
def found(mix_file: Path) -> stage.Corresponded:
    return correspondences(mix_file, **ASKED)


@pytest.fixture(scope="module")
def samples(mix_file: Path, found: stage.Corresponded) -> list[Sample]:
    return read_correspondences(catalog.open_mix(mix_file))


# ------------------------------------------------------------------------------------------------ truth of the renderer


def rendered(name: str) -> dict[str, tuple[Camera, Album]]:
    albums = layouts.load(name)(0, SIZES["tiny"]).albums
    return {
        path: (picture.shot.camera, album) for album in albums for picture in album.pictures for path in picture.paths
    }


def truth(place: Place, a: Camera, b: Camera, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cast rays through places of picture a: whether b sees what they hit, bool [n], and where, pixels [n, 2]."""
    directions = rays(a, x.astype(np.float64) * a.width, y.astype(np.float64) * a.height)
    t, which, _ = nearest(place.solids, a.centre, directions)
    t = np.where(which >= 0, t, 1e6)
    points = np.stack([c + t * d for c, d in zip(a.centre, directions, strict=True)], axis=1)
    px, py, _ = project(b, points)
    return sees(place, b, points) & (which >= 0), np.stack([px, py], axis=1)


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_said_is_so_in_the_rendered_world(
    samples: list[Sample], mix_file: Path, folder: Path, name: str
) -> None:
    """Of points that are told to be seen at most 1 % are not, places within 1/20 pixel; of the unseen, 0.5 %."""
    cameras, paths = rendered(name), catalog.read_frames(name, catalogs=folder)["path"]
    counts: Counter[str] = Counter()
    off = []
    for sample in (sample for sample in samples if sample.dataset == name):
        known = [cameras[paths[frame]] for frame in sample.frame_ids.tolist()]
        place = build_place(known[0][1].place, known[0][1].seed)
        for pair in sample.pairs[:: 4 if name == "megascenes" else 2]:  # casting rays takes a while
            a, b = known[pair.a][0], known[pair.b][0]
            visible, at = truth(place, a, b, pair.x_a, pair.y_a)
            shown = np.stack([pair.x_b * b.width, pair.y_b * b.height], axis=1)
            off.append(np.abs(at - shown).max(axis=1)[pair.seen == 1])
            for label in (-1, 0, 1):
                counts[f"{label}"] += int((pair.seen == label).sum())
                counts[f"visible {label}"] += int((visible & (pair.seen == label)).sum())
    assert counts["1"] > 400
    assert counts["0"] > 150
    assert counts["visible 1"] >= 0.99 * counts["1"]
    assert counts["visible 0"] <= 0.005 * counts["0"]
    assert np.mean(np.concatenate(off) > 0.05) < 0.005
    # most of what is visible is told to be
    visible_at_all = sum(counts[f"visible {label}"] for label in (-1, 0, 1))
    assert counts["visible 1"] >= (0.6 if name == "blendedmvs" else 0.9) * visible_at_all


# ---------------------------------------------------------------------------------------------------- what is asked for


def test_samples_are_held_out_frames_of_one_sequence(samples: list[Sample], mix_file: Path) -> None:
    opened = catalog.open_mix(mix_file)
    for dataset in opened.datasets:
        table = catalog.map_sequences(dataset)
        sequences = catalog.read_sequences(dataset.name, catalogs=dataset.catalog.parent)
        own = [sample for sample in samples if sample.dataset == dataset.name]
        assert len(own) == 3  # nine over three datasets
        assert len({tuple(sample.frame_ids) for sample in own}) == 3
        for sample in own:
            assert table["holdout_unit"][sample.sequence].as_py() < HOLDOUT
            row = sequences.iloc[sample.sequence]
            assert (row["sequence"], row["scene"]) == (sample.sequence, sample.scene)
            order = [row["frames"].tolist().index(frame) for frame in sample.frame_ids.tolist()]
            assert order == sorted(set(order))
            assert len(order) == ASKED["views"]
            ordered = [(a, b) for a in range(len(order)) for b in range(len(order)) if a != b]
            assert [(pair.a, pair.b) for pair in sample.pairs] == ordered
            for pair in sample.pairs:
                first = sample.pairs[pair.a * (len(order) - 1)]
                assert np.array_equal(pair.x_a, first.x_a)  # a frame's points are the same in all its pairs
                assert len(pair.x_a) == len(pair.y_a) == len(pair.x_b) == len(pair.y_b) == len(pair.seen) <= 16 * 16
                assert set(pair.seen.tolist()) <= {-1, 0, 1}
        assert {sample.source for sample in own} == {"tracks" if dataset.name == "megascenes" else "depth"}


def test_points_lie_on_a_regular_grid_of_the_stored_frame(samples: list[Sample], folder: Path) -> None:
    (sample, *_) = [sample for sample in samples if sample.dataset == "arkitscenes"]
    frame = catalog.read_frames("arkitscenes", catalogs=folder).loc[int(sample.frame_ids[0])]
    width, height = int(frame["width"]), int(frame["height"])
    rows = round(16 * height / width)
    x, y = sample.pairs[0].x_a, sample.pairs[0].y_a
    assert len(x) == 16 * rows
    cells = {(int(i), int(j)) for i, j in zip(x * 16, y * rows, strict=True)}
    assert cells == {(i, j) for i in range(16) for j in range(rows)}
    # in the middle of a cell, as near as a pixel of the depth map is
    assert np.abs(x * 16 % 1 - 0.5).max() * width / 16 <= 0.51
    assert np.abs(y * rows % 1 - 0.5).max() * height / rows <= 0.51


def test_the_footer_says_what_it_was_made_of(mix_file: Path, found: stage.Corresponded) -> None:
    footer = catalog.read_footer(CORRESPONDENCES, found.path)
    assert found.path == correspondences_path(mix_file) == mix_file.with_name("held.correspondences.parquet")
    assert footer.inputs == {"mix": catalog.open_mix(mix_file).content_digest}
    assert (footer.seed, footer.parameters) == (5, {"num": 9, "views": 5, "grid": 16})
    assert pq.read_schema(found.path).equals(CORRESPONDENCES.columns)


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(mix_file: Path, found: stage.Corresponded, tmp_path: Path) -> None:
    options = [word for name, value in ASKED.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "again.parquet"
    command = [sys.executable, "-m", "mumdata", "correspondences", str(mix_file), *options, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.read_bytes() == found.path.read_bytes()
    lines = done.stdout.splitlines()
    assert max(map(len, lines[:6])) <= 80
    assert lines[0].split()[:2] == ["dataset", "from"]
    assert lines[2].split()[:3] == ["arkitscenes", "depth", "3"]
    assert lines[2].split()[4] == str(3 * 5 * 4)
    assert lines[-1] == f"next: mumtrain pretrain {mix_file}"
    again = correspondences(mix_file, **ASKED)
    assert not again.changed
    other = correspondences(mix_file, **{**ASKED, "seed": 6, "grid": 4}, out=tmp_path / "other.parquet")
    drawn = [
        [tuple(sample.frame_ids) for sample in read_correspondences(catalog.open_mix(mix_file), file.path)]
        for file in (found, other)
    ]
    assert drawn[0] != drawn[1]
    with pytest.raises(CatalogError, match="another mix"):
        read_correspondences(catalog.open_mix(mixed(mix_file.parent, "twin.parquet", 0.4)), out)


def test_the_summary_counts_what_is_in_the_file(samples: list[Sample], found: stage.Corresponded) -> None:
    for total in found.datasets:
        own = [sample for sample in samples if sample.dataset == total.dataset]
        labels = np.concatenate([pair.seen for sample in own for pair in sample.pairs])
        assert (total.seen, total.not_there, total.unknown) == tuple(int((labels == k).sum()) for k in (1, 0, -1))
        assert total.points == len(labels)
        assert total.samples == len(own)
        assert len(total.scenes) == len({(sample.split, sample.scene) for sample in own})


def test_where_one_dataset_has_no_more_the_others_give(mix_file: Path, tmp_path: Path) -> None:
    wide = correspondences(mix_file, num=12, views=64, grid=4, out=tmp_path / "wide.parquet")
    views = {
        sample.dataset: len(sample.frame_ids) for sample in read_correspondences(catalog.open_mix(mix_file), wide.path)
    }
    assert all(2 <= few < 64 for few in views.values())  # as many as the longest sequence has
    # whole sequences: there are only so many
    assert sum(total.samples for total in wide.datasets) < 12
    assert "there are no more that differ" in "\n".join(wide.lines())


# -------------------------------------------------------------------------------------------------------- what is drawn


DATASET = MixDataset(
    "made", 1.0, False, 2, 0.5, 0, 0, Path("c"), Path("f"), "", Path("s"), "", "", covisibility=None,
    covisibility_digest=None,
)  # fmt: skip


def made_up(lengths: dict[str, list[int]], views: int) -> Plan:
    scenes = {}
    for scene, own in lengths.items():
        first = 1000 * int(scene)
        scenes[None, scene] = [
            _Sequence(10 * int(scene) + n, None, first, 1000, first + np.arange(num), "depth")
            for n, num in enumerate(own)
        ]
    return Plan(DATASET, views, len(lengths), 0, scenes)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.dictionaries(
        st.integers(0, 99).map(str), st.lists(st.integers(4, 40), min_size=1, max_size=3), min_size=1, max_size=6
    ),
    seed=st.integers(0, 1 << 40),
)
def test_draws_go_round_the_scenes_and_depend_on_their_own_alone(lengths: dict[str, list[int]], seed: int) -> None:
    drawn = list(islice(made_up(lengths, 4).draws(seed), 60))
    assert len({draw.frame_ids for draw in drawn}) == len(drawn)
    assert {draw.scene for draw in drawn[: len(lengths)]} == set(lengths)  # each once before any comes twice
    of_scene = defaultdict(list)
    for draw in drawn:
        of_scene[draw.scene].append(draw)
        number = draw.sequence - 10 * int(draw.scene)
        length = lengths[draw.scene][number]
        positions = np.array(draw.frame_ids) - draw.first
        assert len(positions) == 4
        assert (np.diff(positions) > 0).all()
        assert 0 <= positions[0] <= positions[-1] < length
    for scene, own in of_scene.items():
        alone = list(islice(made_up({scene: lengths[scene]}, 4).draws(seed), len(own)))
        assert alone == own


def test_windows_of_all_lengths_are_drawn() -> None:
    draws = islice(made_up({str(k): [200] for k in range(100)}, 4).draws(0), 400)
    spans = np.array([draw.frame_ids[-1] - draw.frame_ids[0] + 1 for draw in draws])
    for low, high, share in ((4, 4, 0.25), (5, 8, 0.25), (9, 16, 0.25), (17, 200, 0.25)):
        assert abs(((low <= spans) & (spans <= high)).mean() - share) < 0.09
    starts = [draw.frame_ids[0] - draw.first for draw in islice(made_up({"1": [200]}, 4).draws(1), 200)]
    assert min(starts) < 20
    assert max(starts) > 150


def test_a_scene_that_has_no_more_is_left() -> None:
    drawn = list(made_up({"1": [4], "2": [4, 4]}, 4).draws(0))
    # in each scene the same four frames, whichever sequence they are taken of
    assert sorted(draw.scene for draw in drawn) == ["1", "2"]


# ----------------------------------------------------------------------------------------- a wall and a board before it


LENSES = {"PINHOLE": (), "OPENCV": (0.09, -0.04, 0.002, -0.001), "OPENCV_FISHEYE": (0.031, -0.012, 0.004, -0.0006)}
WIDTH, HEIGHT, FOCAL = 120, 90, 80.0
WALL, BOARD, HALF = 4.0, 2.0, 0.4  # depths, and half the side of the board
EYES = (-0.6, 0.6)  # where the two cameras stand, both looking straight at the wall


def lens_rays(model: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL, (np.arange(HEIGHT) + 0.5 - HEIGHT / 2) / FOCAL)
    return lens_of(model, LENSES[model]).rays(x, y)


def wall_and_board(model: str, eye: float) -> np.ndarray:
    u, v = lens_rays(model)
    before = (np.abs(eye + BOARD * u) <= HALF) & (np.abs(BOARD * v) <= HALF)
    return np.where(before, BOARD, WALL)


def poses(eyes: tuple[float, ...]) -> np.ndarray:
    found = np.tile(np.eye(3, 4), (len(eyes), 1, 1))
    found[:, 0, 3] = -np.array(eyes)
    return found


def stream_of(root: Path, model: str, maps: list[np.ndarray]) -> Stream:
    for number, depth in enumerate(maps):
        data = depth[::-1].astype("<f4").tobytes()
        (root / f"{number}.pfm").write_bytes(f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode() + data)
    num = len(maps)
    cameras = Cameras(
        (model,) * num,
        np.tile([WIDTH, HEIGHT], (num, 1)),
        np.tile([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], (num, 1)),
        (LENSES[model],) * num,
        poses(EYES),
    )
    return Stream(
        None,
        tuple(f"{number}.jpg" for number in range(num)),
        cameras=cameras,
        depth=Depth("pfm"),
        depth_paths=tuple(f"{number}.pfm" for number in range(num)),
    )


def world_points(model: str, pair: PairPoints) -> np.ndarray:
    """The points of a pair by hand: the wall or the board on the ray of each place."""
    column, row = (np.floor(pair.place_a / 65535 * (WIDTH, HEIGHT))).astype(int).T
    u, v = (each[row, column] for each in lens_rays(model))
    z = wall_and_board(model, EYES[pair.a])[row, column]
    return np.stack([EYES[pair.a] + u * z, v * z, z], axis=1)


@pytest.mark.parametrize("model", LENSES)
def test_a_board_hides_the_wall(tmp_path: Path, model: str) -> None:
    maps = [wall_and_board(model, eye) for eye in EYES]
    pairs = measure(Tree(tmp_path), stream_of(tmp_path, model, maps), [0, 1], "depth", 120)
    assert [(pair.a, pair.b) for pair in pairs] == [(0, 1), (1, 0)]
    for pair in pairs:
        eye, points = EYES[pair.b], world_points(model, pair)
        at, _ = geometry.project(
            points, poses(EYES)[pair.b], model, (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2), LENSES[model]
        )
        inside = (at >= 0).all(axis=1) & (at < (WIDTH, HEIGHT)).all(axis=1)
        # where the line from the eye to the point goes through the plane of the board
        crossing = np.stack([eye + (points[:, 0] - eye) * BOARD / points[:, 2], points[:, 1] * BOARD / points[:, 2]], 1)
        edge = HALF - np.abs(crossing).max(axis=1)  # of the board; above 0: on it
        on_wall = points[:, 2] == WALL
        # the wall is not told from the board within two pixels of its edge, the board itself up to its last pixel is
        clear = np.abs(edge) > np.where(on_wall, 2.2, 0.75) * BOARD / FOCAL
        expected = np.where(~inside, 0, np.where(on_wall & (edge > 0), 0, 1))
        assert len(points) == WIDTH * HEIGHT
        assert (expected == 1).sum() > 100
        assert (on_wall & (edge > 0) & inside).sum() > 10
        assert np.array_equal(pair.seen[clear], expected[clear])
        wrong = pair.seen != expected
        assert (pair.seen[wrong] == -1).all()
        assert wrong.mean() < 0.1
        seen = pair.seen == 1
        assert np.abs(pair.place_b[seen] / 65535 * (WIDTH, HEIGHT) - at[seen]).max() < 0.002


def test_what_no_map_tells_is_not_known(tmp_path: Path) -> None:
    wall = np.full((HEIGHT, WIDTH), WALL)
    told = wall.copy()
    told[:, 40:60] = 0.0  # not known
    told[:, 60:80] = 5.0  # farther than what the other frame shows: one of them is wrong
    told[:, 80:100] = 4.07  # within the tolerance of 1 % by none, too near to it to be sure: 1.7 % farther
    pair = measure(Tree(tmp_path), stream_of(tmp_path, "PINHOLE", [wall, told]), [0, 1], "depth", 60)[0]
    x = pair.place_b[:, 0] / 65535 * WIDTH
    for low, high, label in ((2, 38, 1), (42, 58, -1), (62, 78, -1), (82, 98, -1)):
        mine = pair.seen[(x > low) & (x < high) & (pair.place_b.any(axis=1))]
        assert len(mine) > 50
        assert (mine == label).all()
    near = wall * 0.97
    pair = measure(Tree(tmp_path), stream_of(tmp_path, "PINHOLE", [wall, near]), [0, 1], "depth", 60)[0]
    assert not pair.seen.any()
    nearly = wall * 0.992
    pair = measure(Tree(tmp_path), stream_of(tmp_path, "PINHOLE", [wall, nearly]), [0, 1], "depth", 60)[0]
    assert set(pair.seen[pair.place_b.any(axis=1)].tolist()) == {-1}
    with pytest.raises(ModelError, match="no depth"):
        measure(Tree(tmp_path), stream_of(tmp_path, "PINHOLE", [wall * 0, wall * 0]), [0, 1], "depth", 60)


def test_depth_maps_may_be_smaller_than_their_frames(tmp_path: Path) -> None:
    small = np.full((HEIGHT // 3, WIDTH // 3), WALL)
    pair = measure(Tree(tmp_path), stream_of(tmp_path, "PINHOLE", [small, small]), [0, 1], "depth", 20)[0]
    shift = (EYES[1] - EYES[0]) * FOCAL / WALL / WIDTH  # to the left in b, as a share of the width
    seen = pair.seen == 1
    assert np.array_equal(seen, pair.place_a[:, 0] / 65535 - shift >= 0)
    assert np.abs((pair.place_a[seen, 0] - pair.place_b[seen, 0]) / 65535.0 - shift).max() < 1e-4


# --------------------------------------------------------------------------------------------------------------- tracks


def test_tracks_tell_what_is_seen_and_what_lies_outside(tmp_path: Path) -> None:
    # frame a at the origin, b at (1, 0, 2), both looking along z: a point that both observe, one that a alone observes,
    # one beside b's picture, one behind b, and one that b alone observes
    points = np.array([[1.0, 0.0, 4.0], [1.2, 0.1, 4.0], [-2.5, 0.0, 4.0], [0.95, 0.2, 1.5], [0.0, -0.5, 4.0]])
    cam_from_world = poses((0.0, 1.0))
    cam_from_world[1, 2, 3] = -2.0
    image_of, point_of = np.array([0, 0, 0, 0, 1, 1], np.int32), np.array([0, 1, 2, 3, 0, 4], np.int32)
    model = Model(
        image_ids=np.arange(2),
        names=(b"0.jpg", b"1.jpg"),
        camera_model=("PINHOLE",) * 2,
        camera_size=np.array([[120, 90]] * 2),
        intrinsics=np.array([[80.0, 80.0, 60.0, 45.0]] * 2),
        distortion=((), ()),
        cam_from_world=cam_from_world,
        point_ids=np.arange(5),
        points=points,
        image_of=image_of,
        point_of=point_of,
        num_points=np.array([4, 2], np.int32),
        num_repeated=0,
    )
    rows = np.array([1, 0])  # of the model: the stream has its own order
    stream = Stream(None, ("1.jpg", "0.jpg"), model=model, rows=rows, cameras=Cameras.of_model(model, rows))
    there, back = measure(Tree(tmp_path), stream, [1, 0], "tracks", 60)
    places = (there.place_a / 65535 * (120, 90)).round(1).tolist()
    of_point = [places.index(place) for place in ([80.0, 45.0], [84.0, 47.0], [10.0, 45.0], [110.7, 55.7])]
    assert there.seen[of_point].tolist() == [1, -1, 0, 0]
    assert (there.place_b[of_point[0]] / 65535 * (120, 90)).round(2).tolist() == [60.0, 45.0]
    assert len(places) == 4
    # of b's points the first is seen by a; the other falls into a's picture
    assert dict(zip((back.place_a[:, 0] / 65535 * 120).round().tolist(), back.seen.tolist(), strict=True)) == {
        60.0: 1,
        20.0: -1,
    }
    # one point a cell, the one nearest to its middle: the first two share the third of four
    coarse = measure(Tree(tmp_path), stream, [1, 0], "tracks", 4)[0]
    assert coarse.seen.tolist() == [0, 1, 0]


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("option", [{"num": 0}, {"views": 1}, {"grid": 2}, {"num": 5000}, {"views": 65}])
def test_options_that_make_no_sense(mix_file: Path, option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(option))} .* is not in"):
        correspondences(mix_file, **option)


def test_a_mix_without_held_out_sequences(folder: Path) -> None:
    for holdout in (0.0, 0.001):
        path = mixed(folder, "none.parquet", holdout)
        with pytest.raises(ConfigError, match=r"mumdata mix --holdout 0.05"):
            correspondences(path)
        assert not correspondences_path(path).exists()


def test_nothing_with_geometry(folder: Path) -> None:
    path = mixed(folder, "video.parquet", 0.97, ("realestate10k",))
    with pytest.raises(CatalogError, match=r"realestate10k.*depth maps, or a COLMAP model"):
        correspondences(path)


def test_scenes_without_geometry_are_counted(folder: Path, tmp_path: Path) -> None:
    (dataset,) = catalog.open_mix(mixed(folder, "video.parquet", 0.97, ("realestate10k",))).datasets
    nothing = plan(dataset, 8)
    assert nothing.num_scenes == nothing.num_without > 0
    assert not nothing.scenes


def test_a_packed_copy_is_refused(folder: Path, tmp_path: Path, mix_file: Path) -> None:
    packed = tmp_path / "catalogs" / "mix.parquet"
    packed.parent.mkdir()
    for name in DATASETS:
        (tmp_path / "catalogs" / name).symlink_to(folder / name)
    packed.write_bytes(mix_file.read_bytes())
    packed.with_name("packed.json").write_text("{}")
    with pytest.raises(ConfigError, match="packed from"):
        correspondences(packed)


@pytest.mark.slow
def test_a_packed_copy_gets_those_of_its_mix(mix_file: Path, found: stage.Corresponded, tmp_path: Path) -> None:
    """frame_ids are the same in a copy, and places are shares of the sides, so the rows are as well."""
    copy = pack(mix_file, out=tmp_path / "packed", size=24, workers=1).path
    theirs, ours = (read_correspondences(catalog.open_mix(path)) for path in (mix_file, copy))
    assert len(theirs) == len(ours) == sum(one.samples for one in found.datasets)
    for one, other in zip(theirs, ours, strict=True):
        assert (one.dataset, one.scene, one.sequence) == (other.dataset, other.scene, other.sequence)
        assert (one.frame_ids == other.frame_ids).all()
        assert all(
            (a.x_b == b.x_b).all() and (a.seen == b.seen).all() for a, b in zip(one.pairs, other.pairs, strict=True)
        )
    paths = [catalog.map_frames(dataset).column("path") for dataset in catalog.open_mix(copy).datasets]
    assert all(paths)
    # a file of another mix is no file of this one
    correspondences_path(mix_file).rename(tmp_path / "kept")
    try:
        correspondences_path(copy).unlink()
        assert carry_correspondences(catalog.open_mix(mix_file), catalog.open_mix(copy)) is None
        assert not correspondences_path(copy).exists()
    finally:
        (tmp_path / "kept").rename(correspondences_path(mix_file))


def test_all_takes_what_is_not_held_out_as_well(folder: Path, tmp_path: Path) -> None:
    path = mixed(folder, "whole.parquet", 0.0)
    made = correspondences(path, num=12, views=2, grid=4, all=True)
    held_out = correspondences(mixed(folder, "part.parquet", HOLDOUT), num=12, views=2, grid=4)
    scenes = [
        {(one.dataset, one.scene) for one in read_correspondences(catalog.open_mix(of.mix))} for of in (made, held_out)
    ]
    assert scenes[0] > scenes[1]
    assert catalog.read_footer(CORRESPONDENCES, made.path).parameters["all"] is True
    assert "all" not in catalog.read_footer(CORRESPONDENCES, held_out.path).parameters
    assert made.lines()[-1] == f"next: mumtrain gain RUN --mix {path}"


def test_a_missing_root_and_changed_files(
    mix_file: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUM_ROOT_BLENDEDMVS", str(tmp_path / "gone"))
    with pytest.raises(LayoutError, match=r"blendedmvs.*does not exist.*mumdata index blendedmvs"):
        correspondences(mix_file, num=3, out=tmp_path / "out.parquet")
    monkeypatch.setattr("mumdata.correspond.scenes.same_paths", lambda paths, indexed: False)
    monkeypatch.delenv("MUM_ROOT_BLENDEDMVS")
    with pytest.raises(CatalogError, match=r"has changed since it was indexed; run 'mumdata index"):
        correspondences(mix_file, num=3, out=tmp_path / "out.parquet")


def test_an_input_is_not_written_over(mix_file: Path, folder: Path) -> None:
    for path in (mix_file, folder / "blendedmvs" / "frames.parquet"):
        with pytest.raises(ConfigError, match="is an input"):
            correspondences(mix_file, out=path)


def test_scenes_that_cannot_be_read_are_told(mix_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = stage.measure

    def broken(tree: Tree, stream: Stream, *rest: object) -> list[PairPoints]:
        if "blendedmvs" in str(tree.root):
            raise ModelError("it is cut off")
        return right(tree, stream, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "measure", broken)
    some = correspondences(mix_file, num=4, views=3, grid=4, out=tmp_path / "some.parquet")
    assert len(some.notes) == 1
    assert some.notes[0].startswith("blendedmvs/")
    assert some.notes[0].endswith("is left out: it is cut off")
    assert {total.dataset: total.samples for total in some.datasets} == {"arkitscenes": 2, "megascenes": 2}
    monkeypatch.setattr(stage, "measure", lambda *_: (_ for _ in ()).throw(ModelError("it is cut off")))
    with pytest.raises(CatalogError, match="could be measured; the first"):
        correspondences(mix_file, num=4, out=tmp_path / "none.parquet")


def test_reading_says_what_to_run(mix_file: Path, tmp_path: Path) -> None:
    opened = catalog.open_mix(mix_file)
    with pytest.raises(CatalogError, match=r"does not exist; run 'mumdata correspondences .*held.parquet'"):
        read_correspondences(replace(opened, path=tmp_path / "held.parquet"))
