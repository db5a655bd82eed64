"""Mining runs: repeated, interrupted, in parallel, in little memory, over scenes of which some have changed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mumdata import catalog, engine, mined
from mumdata.errors import CatalogError, ConfigError, MumError
from mumdata.index import index
from mumdata.schema import COVISIBILITY, SCENES, SEQUENCES
from mumdata.sequences import Mined, mine_sequences
from mumdata.sources import tracks

FILES = ("covisibility.parquet", "sequences.parquet", "scenes.parquet")


def write_scene(folder: Path, seed: int, num_images: int = 9, num_points: int = 90) -> None:
    """A text model: cameras on a line that look ahead, each seeing a run of the points in front."""
    draw = np.random.default_rng(seed)
    model = folder / "sparse" / "0"
    model.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    (model / "cameras.txt").write_text("1 PINHOLE 64 48 50 50 32 24\n")
    sees = draw.random((num_images, num_points)) < 0.7
    slot = np.cumsum(sees, axis=1) - 1
    images, points = [], []
    for image in range(num_images):
        images.append(f"{image + 1} 1 0 0 0 {-0.3 * image} 0 0 1 {image:03d}.jpg")
        images.append(" ".join(f"{point} 1 {point + 1}" for point in np.flatnonzero(sees[image])))
    for point in range(num_points):
        x, y, z = draw.uniform((-1, -1, 4), (1, 1, 6))
        track = " ".join(f"{image + 1} {slot[image, point]}" for image in np.flatnonzero(sees[:, point]))
        points.append(f"{point + 1} {x} {y} {z} 0 0 0 1 {track}".rstrip())
    (model / "images.txt").write_text("\n".join(images) + "\n")
    (model / "points3D.txt").write_text("\n".join(points) + "\n")


@pytest.fixture(scope="module")
def trip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trip")
    for scene in range(14):
        write_scene(root / f"scene{scene:02d}", scene, num_images=5 + scene % 5)
    return root


def indexed(root: Path, catalogs: Path) -> Path:
    index("colmap", root=root, name="trip", catalogs=catalogs, workers=1)
    return catalogs


def mined_in(catalogs: Path, **options: object) -> Mined:
    settings: dict[str, object] = {"allow_missing": True, "per_scene": 20, "min_shared": 5, "workers": 1}
    return mine_sequences("trip", catalogs=catalogs, **(settings | options))  # type: ignore[arg-type]


def contents(catalogs: Path) -> dict[str, bytes]:
    return {name: (catalogs / "trip" / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def fresh(trip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    catalogs = indexed(trip, tmp_path_factory.mktemp("fresh"))
    found = mined_in(catalogs)
    assert found.num_scenes == 14
    assert found.num_kept == 0
    assert found.num_sequences == 14 * 20
    assert found.num_covered == found.num_usable == sum(5 + scene % 5 for scene in range(14))
    return contents(catalogs)


@pytest.fixture
def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The streams whose tracks were read in this process."""
    from mumdata import mine
    from mumdata.sources import SOURCES, Source

    seen: list[str] = []

    def counted(tree, key, stream, options):  # type: ignore[no-untyped-def]
        seen.append(key[2])
        return tracks.tracks(tree, key, stream, options)

    monkeypatch.setitem(mine.SOURCES, "tracks", Source(counted, SOURCES["tracks"].uses))
    return seen


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(
    trip: Path, fresh: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PROBE_S", -1.0)  # processes from the second scene on, although the work is brief
    monkeypatch.setattr(engine, "_WORTH_S", -1.0)
    mined_in(indexed(trip, tmp_path), workers=3)
    assert contents(tmp_path) == fresh


def test_parts_of_any_size_give_the_same_bytes(
    trip: Path, fresh: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mumdata.sequences._PART_SCENES", 3)
    mined_in(indexed(trip, tmp_path))
    assert contents(tmp_path) == fresh
    assert [path.name for path in (tmp_path / "trip/.mine").iterdir()] == ["streams.parquet"]


def killed_at_part(catalogs: Path, number: int) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from mumdata import mined, sequences\n"
        "sequences._PART_SCENES = 4\nwrite = mined.write_part\nleft = [int(sys.argv[2])]\n"
        "def stop(*what):\n"
        "    write(*what)\n    left[0] -= 1\n    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "mined.write_part = stop\n"
        "sequences.mine_sequences('trip', catalogs=Path(sys.argv[1]), allow_missing=True, per_scene=20, min_shared=5,"
        " workers=1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, catalogs, str(number)], check=False)
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(
    trip: Path, fresh: dict[str, bytes], tmp_path: Path, count_reads: list[str]
) -> None:
    indexed(trip, tmp_path)
    killed_at_part(tmp_path, 2)
    assert not (tmp_path / "trip/sequences.parquet").exists()
    (tmp_path / "trip/.mine/part-000007.streams.parquet").write_bytes(b"PAR1 half a part")
    found = mined_in(tmp_path)
    assert found.num_kept == 8
    assert count_reads == [f"scene{scene:02d}" for scene in range(8, 14)]
    assert contents(tmp_path) == fresh


@pytest.mark.slow
def test_a_killed_runs_pairs_are_used_by_other_options_and_its_sequences_are_not(
    trip: Path, tmp_path: Path, count_reads: list[str]
) -> None:
    indexed(trip, tmp_path / "a")
    killed_at_part(tmp_path / "a", 2)
    assert mined_in(tmp_path / "a", min_frames=3, seed=7).num_kept == 0
    assert count_reads == [f"scene{scene:02d}" for scene in range(8, 14)]
    indexed(trip, tmp_path / "b")
    mined_in(tmp_path / "b", min_frames=3, seed=7)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_nothing_is_done_again_where_nothing_changed(
    trip: Path, fresh: dict[str, bytes], tmp_path: Path, count_reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(trip, tmp_path)
    first = mined_in(tmp_path)
    times = {name: (tmp_path / "trip" / name).stat().st_mtime_ns for name in FILES}
    count_reads.clear()
    monkeypatch.setattr("mumdata.sequences.mine_scene", None)  # not even called
    second = mined_in(tmp_path)
    assert (first.changed, second.changed) == (True, False)
    assert second.num_kept == second.num_scenes == 14
    for name in ("num_sequences", "num_distinct", "num_pairs", "num_covered", "num_usable", "reasons", "options"):
        assert getattr(first, name) == getattr(second, name)
    assert {name: (tmp_path / "trip" / name).stat().st_mtime_ns for name in FILES} == times
    assert not count_reads


def test_other_options_take_the_pairs_and_give_what_a_fresh_run_gives(
    trip: Path, tmp_path: Path, count_reads: list[str]
) -> None:
    indexed(trip, tmp_path / "a")
    mined_in(tmp_path / "a")
    indexed(trip, tmp_path / "b")
    for options in (
        {"rule": "chain-viewpoint", "min_angle_deg": 0.0, "min_frames": 2, "min_shared": None, "per_scene": None},
        {"overlap": (0.5, 0.7), "min_frames": 2},
        {"max_frames": 4, "seed": 3},
    ):
        count_reads.clear()
        mined_in(tmp_path / "a", **options)
        assert not count_reads
        again = mined_in(tmp_path / "b", **options, again=True)
        assert len(count_reads) == 14
        assert again.num_kept == 0
        assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_only_scenes_that_changed_are_done_again(trip: Path, tmp_path: Path, count_reads: list[str]) -> None:
    root = tmp_path / "r"
    for scene in range(6):
        write_scene(root / f"scene{scene:02d}", scene)
    indexed(root, tmp_path / "a")
    mined_in(tmp_path / "a")
    write_scene(root / "scene02", 77, num_images=7)  # another model
    write_scene(root / "scene025", 5)  # a new scene between the old ones: all later frames get other numbers
    (root / "scene04/sparse/0/points3D.txt").unlink()  # no model any more
    indexed(root, tmp_path / "a")
    count_reads.clear()
    found = mined_in(tmp_path / "a")
    assert set(count_reads) <= {"scene02", "scene025", "scene04"}
    assert found.num_kept == 4
    mined_in(indexed(root, tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_scenes_that_moved_keep_their_pairs_under_their_new_numbers(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for scene in range(3):
        write_scene(root / f"scene{scene:02d}", scene)
    mined_in(indexed(root, tmp_path / "a"))
    before = catalog.read_covisibility("trip", catalogs=tmp_path / "a")
    write_scene(root / "another", 9, num_images=4)
    indexed(root, tmp_path / "a")
    assert mined_in(tmp_path / "a").num_kept == 3
    after = catalog.read_covisibility("trip", catalogs=tmp_path / "a")
    for scene in ("scene00", "scene01", "scene02"):
        old, new = before[before.scene == scene], after[after.scene == scene]
        assert (new.frame_a.to_numpy() == old.frame_a.to_numpy() + 4).all()
        assert (new.shared_points.to_numpy() == old.shared_points.to_numpy()).all()
    for row in catalog.read_sequences("trip", catalogs=tmp_path / "a").itertuples():
        frames = catalog.read_frames("trip", catalogs=tmp_path / "a").loc[list(row.frames)]
        assert set(frames.scene) == {row.scene}


def test_a_scene_that_exceeds_the_memory_allowed_is_done_alone(
    trip: Path, fresh: dict[str, bytes], tmp_path: Path
) -> None:
    found = mined_in(indexed(trip, tmp_path), memory_gb=1e-6, workers=2)
    assert "done alone" in found.notes[0]
    assert contents(tmp_path) == fresh
    with pytest.raises(ConfigError, match="positive"):
        mined_in(tmp_path, memory_gb=0.0, again=True)


def _note(folder: str, number: int) -> int:
    (Path(folder) / f"begin{number}-{time.monotonic_ns()}").touch()
    time.sleep(0.02)
    (Path(folder) / f"end{number}-{time.monotonic_ns()}").touch()
    return number


def most_at_once(folder: Path, costs: list[int]) -> int:
    events = sorted(
        (int(path.name.split("-")[1]), path.name.startswith("begin"), path.name.split("-")[0])
        for path in folder.iterdir()
    )
    now = most = 0
    for _, begins, name in events:
        cost = costs[int(name.removeprefix("begin").removeprefix("end"))]
        now += cost if begins else -cost
        most = max(most, now)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("budget", [7, 12, 100])
def test_work_under_way_stays_within_the_budget(tmp_path: Path, budget: int) -> None:
    costs = [3, 3, 9, 1, 1, 1, 5, 2, 6, 3, 3, 3]
    done = list(engine.each(_note, list(range(12)), 3, "noting", shared=str(tmp_path), costs=costs, budget=budget))
    assert done == list(range(12))
    assert most_at_once(tmp_path, costs) <= max(budget, 9)


def test_a_model_that_contradicts_itself_is_reported_when_tracks_are_checked(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for scene in range(3):
        write_scene(root / f"scene{scene:02d}", scene)
    images = root / "scene01/sparse/0/images.txt"
    lines = images.read_text().splitlines()
    keypoints = lines[1].split()
    keypoints[2] = "-1"  # the track of that point names this keypoint, which says that it belongs to none
    images.write_text("\n".join([lines[0], " ".join(keypoints), *lines[2:]]) + "\n")
    indexed(root, tmp_path / "c")
    assert not mined_in(tmp_path / "c").problems
    found = mined_in(tmp_path / "c", check_tracks=True, source="tracks")
    assert list(found.problems) == ["scene01/0"]
    assert found.num_scenes_without == 1
    scenes = catalog.read_scenes("trip", catalogs=tmp_path / "c").set_index("scene")
    assert scenes.why_no_sequence["scene01"] == found.problems["scene01/0"]
    assert str(tmp_path) not in found.problems["scene01/0"]


def test_pairs_are_computed_for_rules_that_need_none_only_when_asked(trip: Path, tmp_path: Path) -> None:
    indexed(trip, tmp_path)
    plain = {"rule": "chunk", "per_scene": None, "min_shared": None}
    found = mined_in(tmp_path, **plain)
    assert found.num_pairs is None
    assert not (tmp_path / "trip/covisibility.parquet").exists()
    assert catalog.read_sequences("trip", catalogs=tmp_path).links.isna().all()
    found = mined_in(tmp_path, **plain, source="tracks")
    sequences = catalog.read_sequences("trip", catalogs=tmp_path)
    assert found.num_pairs == len(catalog.read_covisibility("trip", catalogs=tmp_path)) > 0
    assert sequences.mean_overlap.between(0.3, 1).all()
    footer = catalog.read_footer(COVISIBILITY, tmp_path / "trip/covisibility.parquet")
    assert footer.parameters == {"source": "tracks"}
    assert "covisibility" in catalog.read_footer(SEQUENCES, tmp_path / "trip/sequences.parquet").inputs


def test_a_list_of_pairs_gives_these_pairs_and_nothing_else(trip: Path, tmp_path: Path) -> None:
    indexed(trip, tmp_path)
    (tmp_path / "pairs.txt").write_text(
        "scene03/images/001.jpg scene03/images/000.jpg\nscene07/images/002.jpg scene07/images/004.jpg\n"
        "scene03/images/002.jpg scene04/images/002.jpg\nscene03/images/002.jpg nowhere.jpg\n"
    )
    plain = {"rule": "pair", "per_scene": None, "min_shared": None}
    found = mined_in(tmp_path, **plain, pairs=tmp_path / "pairs.txt")
    assert found.num_sequences == 2
    assert len(found.notes) == 2
    frames = catalog.read_frames("trip", catalogs=tmp_path)
    sequences = catalog.read_sequences("trip", catalogs=tmp_path)
    assert [[frames.path[frame] for frame in row] for row in sequences.frames] == [
        ["scene03/images/001.jpg", "scene03/images/000.jpg"],
        ["scene07/images/002.jpg", "scene07/images/004.jpg"],
    ]
    assert sequences.links.isna().all()
    (tmp_path / "pairs.txt").write_text("scene03/images/001.jpg scene03/images/002.jpg\n")  # another list
    assert mined_in(tmp_path, **plain, pairs=tmp_path / "pairs.txt").num_sequences == 1


def test_a_list_is_placed_among_all_scenes(trip: Path, tmp_path: Path) -> None:
    root = tmp_path / "r"
    write_scene(root / "one", 1)
    indexed(root, tmp_path / "a")
    (tmp_path / "pairs.txt").write_text("000.jpg 001.jpg\n001.jpg 002.jpg\n")
    plain = {"rule": "pair", "per_scene": None, "min_shared": None, "pairs": tmp_path / "pairs.txt"}
    assert mined_in(tmp_path / "a", **plain).num_sequences == 2
    write_scene(root / "two", 2)  # has pictures of these names, too
    indexed(root, tmp_path / "a")
    with pytest.raises(MumError, match="no scene yields"):
        mined_in(tmp_path / "a", **plain)
    with pytest.raises(ConfigError, match="need --from"):
        mined_in(tmp_path / "a", **plain, overlap=(0.1, 0.9))


def test_a_run_without_result_leaves_what_is_there(trip: Path, fresh: dict[str, bytes], tmp_path: Path) -> None:
    mined_in(indexed(trip, tmp_path))
    with pytest.raises(MumError, match="no mesh"):
        mined_in(tmp_path, source="mesh")
    assert contents(tmp_path) == fresh
    mined_in(tmp_path)
    assert contents(tmp_path) == fresh


def test_matrices_that_changed_are_read_again(trip: Path, tmp_path: Path) -> None:
    from mumdata.export import export

    indexed(trip, tmp_path / "a")
    mined_in(tmp_path / "a")
    export("trip", out=tmp_path / "m", catalogs=tmp_path / "a", allow_missing=True)
    indexed(trip, tmp_path / "b")
    files = sorted((tmp_path / "m").iterdir())
    mined_in(tmp_path / "b", source="d2net", from_dir=tmp_path / "m")
    before = contents(tmp_path / "b")
    assert mined_in(tmp_path / "b", source="d2net", from_dir=tmp_path / "m").num_kept == 14
    files[3].unlink()
    found = mined_in(tmp_path / "b", source="d2net", from_dir=tmp_path / "m")
    assert found.num_kept == 0
    assert found.num_scenes_without == 1
    assert contents(tmp_path / "b") != before


def test_cameras_that_changed_are_noticed(trip: Path, tmp_path: Path) -> None:
    root = tmp_path / "r"
    write_scene(root / "one", 1)
    write_scene(root / "two", 2)
    mined_in(indexed(root, tmp_path / "a"))
    (root / "two/sparse/0/cameras.txt").write_text("1 PINHOLE 64 48 25 25 32 24\n")
    indexed(root, tmp_path / "a")
    assert mined_in(tmp_path / "a").num_kept == 1
    mined_in(indexed(root, tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.slow
def test_parts_without_pairs_are_not_taken_for_pairs(trip: Path, tmp_path: Path) -> None:
    """A run that only mines again leaves parts without pairs; when the frames change, these are found anew."""
    root = tmp_path / "r"
    for scene in range(8):
        write_scene(root / f"scene{scene:02d}", scene)
    indexed(root, tmp_path / "a")
    mined_in(tmp_path / "a", min_frames=3, seed=9)
    killed_at_part(tmp_path / "a", 1)
    (tmp_path / "a/trip/.mine/streams.parquet").unlink()
    write_scene(root / "scene07", 70)
    indexed(root, tmp_path / "a")
    mined_in(tmp_path / "a")
    mined_in(indexed(root, tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_streams_that_are_not_mined_keep_their_histograms(world: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        index("hypersim", root=world / "hypersim", catalogs=tmp_path / folder, workers=1)
    options = {"rule": "chain-overlap", "source": "depth", "min_frames": 2, "workers": 1}
    mine_sequences("hypersim", catalogs=tmp_path / "a", **options)
    mine_sequences("hypersim", catalogs=tmp_path / "a", **options, seed=1)
    mine_sequences("hypersim", catalogs=tmp_path / "b", **options, seed=1)
    for name in FILES:
        assert (tmp_path / "a/hypersim" / name).read_bytes() == (tmp_path / "b/hypersim" / name).read_bytes()


def test_damaged_pairs_are_told(trip: Path, tmp_path: Path) -> None:
    mined_in(indexed(trip, tmp_path))
    path = tmp_path / "trip/covisibility.parquet"
    data = bytearray(path.read_bytes())
    for place in range(20, 4000):
        data[place] ^= 255
    path.write_bytes(data)
    with pytest.raises(CatalogError, match="--again"):
        mined_in(tmp_path, min_frames=3)
    mined_in(tmp_path, min_frames=3, again=True)


def test_the_footer_says_what_a_preset_chose(trip: Path, tmp_path: Path) -> None:
    indexed(trip, tmp_path)
    mined_in(tmp_path, preset="mum-paper", min_frames=2)
    parameters = catalog.read_footer(SEQUENCES, tmp_path / "trip/sequences.parquet").parameters
    assert parameters["preset"] == "mum-paper"
    assert parameters["min_frames"] == 2
    assert parameters["max_frames"] == 256
    assert list(parameters) == sorted(parameters)


def test_wrong_options_are_told(trip: Path, tmp_path: Path) -> None:
    indexed(trip, tmp_path)
    for options, match in (
        ({"source": "dept"}, "depth"),
        ({"window": 3}, "--window has no meaning"),
        ({"source": "d2net"}, "--from-dir"),
        ({"source": "tracks", "window": 3}, "no meaning for --from tracks"),
        ({"overlap": (0.6, 0.2)}, "band"),
        ({"overlap": (0.6, 1.2)}, "0 .. 1"),
        ({"rule": "chunk", "overlap": (0.1, 0.2), "per_scene": None, "min_shared": None}, "--overlap has no meaning"),
        ({"preset": "mum-papr"}, "mum-paper"),
        ({"pairs": tmp_path / "none.txt"}, "--rule pair"),
        ({"pairs": tmp_path / "none.txt", "rule": "pair"}, "no file"),
        ({"engine": "rey"}, "ray"),
    ):
        with pytest.raises(ConfigError, match=match):
            mined_in(tmp_path, **options)
    with pytest.raises(MumError, match="no scene yields"):
        mined_in(tmp_path, min_frames=200)


def test_a_catalog_of_scenes_that_does_not_fit_is_refused(trip: Path, tmp_path: Path) -> None:
    indexed(trip, tmp_path)
    path = tmp_path / "trip/scenes.parquet"
    catalog.write(SCENES, catalog.read(SCENES, path), path, inputs={"frames": "0" * 64})
    with pytest.raises(CatalogError, match="other frames"):
        mined_in(tmp_path)


def test_a_damaged_record_costs_only_time(trip: Path, fresh: dict[str, bytes], tmp_path: Path) -> None:
    mined_in(indexed(trip, tmp_path))
    for damage in (b"", b"PAR1", b"\0" * 100):
        (tmp_path / "trip/.mine/streams.parquet").write_bytes(damage)
        assert mined.read_record(tmp_path / "trip/.mine/streams.parquet") is None
        mined_in(tmp_path)
        assert contents(tmp_path) == fresh


@pytest.mark.slow
def test_on_ray_the_same_bytes(trip: Path, fresh: dict[str, bytes], tmp_path: Path) -> None:
    mined_in(indexed(trip, tmp_path), engine="ray", workers=2)
    assert contents(tmp_path) == fresh


@pytest.mark.slow
def test_kills_at_any_time_leave_whole_catalogs_or_none(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for scene in range(1500):
        write_scene(root / f"scene{scene:04d}", scene % 7)
    mined_in(indexed(root, tmp_path / "fresh"))
    expected = contents(tmp_path / "fresh")
    indexed(root, tmp_path / "c")
    command = [
        sys.executable,
        "-m",
        "mumdata",
        "mine-sequences",
        "trip",
        "--catalogs",
        tmp_path / "c",
        "--allow-missing",
    ]
    command += ["--per-scene", "20", "--min-shared", "5"]
    draw = np.random.default_rng(1)
    for _ in range(20):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 8.0))
        process.kill()
        process.wait()
        for name in FILES[:2]:
            path = tmp_path / "c/trip" / name
            assert not path.exists() or path.read_bytes() == expected[name]
    mined_in(tmp_path / "c")
    assert contents(tmp_path / "c") == expected
    assert not [path for path in (tmp_path / "c/trip").rglob("*.tmp")]
