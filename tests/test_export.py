"""Exported matrices against D2-Net's definitions written plainly, and back through the source that reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, geometry
from mumdata import export as module
from mumdata.covisibility import Pairs, overlaps
from mumdata.datasets import Stream
from mumdata.errors import CatalogError, ConfigError, LayoutError, MumError
from mumdata.export import export
from mumdata.schema import COVISIBILITY, FRAMES, SCENES
from mumdata.sources import SOURCES, SourceOptions
from mumdata.tree import Tree

Key = tuple[str | None, str, str | None]


@dataclass
class Truth:
    """One stream: what its frames see, from where, and which of their files are whole."""

    key: Key
    sees: np.ndarray  # bool [n, p]
    poses: np.ndarray  # float32 [n, 3, 4], NaN: not known
    intrinsics: np.ndarray  # float32 [n, 4], NaN: not known
    ok: np.ndarray  # bool [n]
    ratio: np.ndarray  # float32 [n, n], symmetric, NaN: not computed

    @property
    def num(self) -> int:
        return len(self.ok)

    def paths(self) -> list[str]:
        folder = "/".join(part for part in self.key if part)
        return [f"{folder}/{place:03}.jpg" for place in range(self.num)]

    def depth_paths(self) -> list[str | None]:
        return [f"{path}.h5" if place % 3 else None for place, path in enumerate(self.paths())]

    def pairs(self) -> list[tuple[int, int, int]]:
        found = []
        for a in range(self.num):
            for b in range(a + 1, self.num):
                if shared := int((self.sees[a] & self.sees[b]).sum()):
                    found.append((a, b, shared))
        return found


def truth(key: Key, seed: int, num: int = 6, num_points: int = 30, share: float = 0.3) -> Truth:
    random = np.random.default_rng(seed)
    rotations = geometry.rotation_from_quaternion(random.normal(size=(num, 4)))
    poses = np.concatenate([rotations, random.normal(size=(num, 3, 1))], axis=2).astype(np.float32)
    intrinsics = random.uniform(100, 900, (num, 4)).astype(np.float32)
    poses[random.random(num) < 0.15] = np.nan
    intrinsics[random.random(num) < 0.15] = np.nan
    ratio = random.uniform(1, 3, (num, num)).astype(np.float32)
    ratio[random.random((num, num)) < 0.2] = np.nan
    return Truth(
        key,
        random.random((num, num_points)) < share,
        poses,
        intrinsics,
        random.random(num) < 0.85,
        np.maximum(ratio, ratio.T),
    )


def write_catalogs(folder: Path, truths: list[Truth], counted: bool = True) -> None:
    """Write the three catalogs of a dataset, streams in the order that is given."""
    columns: dict[str, list[Any]] = {name: [] for name in FRAMES.columns.names}
    pairs: dict[str, list[Any]] = {name: [] for name in COVISIBILITY.columns.names}
    scenes: dict[str, list[Any]] = {name: [] for name in SCENES.columns.names}
    for one in truths:
        first, seen = len(columns["frame_id"]), one.sees.sum(axis=1).tolist()
        of_key = dict(zip(("split", "scene", "stream"), one.key, strict=True))
        for place in range(one.num):
            known = not np.isnan(one.poses[place]).any()
            row = {
                "frame_id": first + place,
                "frame": place,
                "path": one.paths()[place],
                "depth_path": one.depth_paths()[place],
                "num_points": seen[place],
                "status": "ok" if one.ok[place] else "missing",
                "cam_from_world": one.poses[place].ravel() if known else None,
                "intrinsics_px": None if np.isnan(one.intrinsics[place]).any() else one.intrinsics[place],
            } | of_key
            for name in columns:
                columns[name].append(row.get(name, "x" if name == "dataset" else None))
        for a, b, shared in one.pairs():
            row = {
                "frame_a": first + a,
                "frame_b": first + b,
                "shared_points": shared if counted else None,
                "overlap_ab": shared / seen[a],
                "overlap_ba": shared / seen[b],
                "scale_ratio": None if np.isnan(one.ratio[a, b]) else one.ratio[a, b],
                "source": "tracks" if counted else "depth",
            } | of_key
            for name in pairs:
                pairs[name].append(row.get(name, "x" if name == "dataset" else None))
        row = {"status": "complete", "first_frame_id": first, "num_frames": one.num, "num_posed": 0} | of_key
        for name in scenes:
            scenes[name].append(row.get(name, "x" if name == "dataset" else None))
    digest, _ = catalog.write(FRAMES, catalog.build(FRAMES, columns), folder / "frames.parquet")
    catalog.write(
        COVISIBILITY, catalog.build(COVISIBILITY, pairs), folder / "covisibility.parquet", inputs={"frames": digest}
    )
    # scenes stand in the order of their names, not of their frames
    backwards = {name: column[::-1] for name, column in scenes.items()}
    catalog.write(SCENES, catalog.build(SCENES, backwards), folder / "scenes.parquet", inputs={"frames": digest})


def plain(one: Truth, counted: bool = True) -> dict[str, np.ndarray]:
    """D2-Net's matrices, entry by entry."""
    num = one.num
    overlap, ratio, angles = np.full((num, num), -1.0), np.full((num, num), -1.0), np.full((num, num), np.nan)
    sets = [set(np.flatnonzero(row).tolist()) for row in one.sees]
    for i in range(num):
        for j in range(num):
            axes = one.poses[i, 2, :3].astype(float), one.poses[j, 2, :3].astype(float)
            cosine = float(axes[0] @ axes[1]) / math.sqrt(float(axes[0] @ axes[0]) * float(axes[1] @ axes[1]))
            if not math.isnan(cosine):
                angles[i, j] = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
            if i == j or not one.ok[i] or not one.ok[j]:
                continue
            common = sets[i] & sets[j]
            overlap[i, j] = len(common) / len(sets[i]) if sets[i] else 0.0
            if not counted:
                overlap[i, j] = np.float32(overlap[i, j])
            if common and not math.isnan(one.ratio[i, j]):
                ratio[i, j] = one.ratio[i, j]
    return {"overlap_matrix": overlap, "scale_ratio_matrix": ratio, "angles": angles}


def as_numpy_reads(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:  # without pickles
        return dict(found)


def check(path: Path, one: Truth, counted: bool = True) -> None:
    found, wanted = as_numpy_reads(path), plain(one, counted)
    assert found["overlap_matrix"].tolist() == wanted["overlap_matrix"].tolist()
    assert found["scale_ratio_matrix"].tolist() == wanted["scale_ratio_matrix"].tolist()
    np.testing.assert_allclose(found["angles"], wanted["angles"], atol=1e-4)
    assert found["n_points3D"].tolist() == one.sees.sum(axis=1).tolist()
    assert found["image_paths"].tolist() == one.paths()
    assert found["depth_paths"].tolist() == [path or "" for path in one.depth_paths()]
    for place in range(one.num):
        pose, fx_fy_cx_cy = found["poses"][place], one.intrinsics[place].astype(float)
        if np.isnan(one.poses[place]).any():
            assert np.isnan(pose).all()
        else:
            assert pose.tolist() == [*one.poses[place].astype(float).tolist(), [0, 0, 0, 1]]
        if np.isnan(fx_fy_cx_cy).any():
            assert np.isnan(found["intrinsics"][place]).all()
        else:
            fx, fy, cx, cy = fx_fy_cx_cy.tolist()
            assert found["intrinsics"][place].tolist() == [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), block=st.sampled_from([1, 13, 1 << 20]), counted=st.booleans())
def test_matrices_are_those_of_the_definition(
    seed: int, block: int, counted: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("export")
    truths = [truth((None, f"s{place}", None), seed + place, num=1 + (seed + 3 * place) % 8) for place in range(3)]
    write_catalogs(folder / "x", truths, counted)
    known = [one for one in truths if (one.sees.any() if counted else one.pairs()) and one.ok.any()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_CELLS", block)
        if not known:
            return
        paths = export("x", out=folder / "out", catalogs=folder)
    # without counts a stream without pairs is unknown, unless its frames are known to see points
    by_name = {f"{one.key[1]}.npz": one for one in truths}
    assert {path.name for path in paths} >= {f"{one.key[1]}.npz" for one in known}
    for path in paths:
        check(path, by_name[path.name], counted)


def test_a_round_trip_keeps_the_overlaps(tmp_path: Path) -> None:
    for counted in (True, False):
        one = truth((None, "s", "1"), 4, num=12, num_points=400)
        write_catalogs(tmp_path / "x", [one], counted)
        export("x", out=tmp_path / "out", catalogs=tmp_path)
        stream = Stream("1", tuple(f"elsewhere/{path}" for path in one.paths()))
        options = SourceOptions(files=tmp_path / "out")
        pairs = SOURCES["d2net"].pairs(Tree(tmp_path), ("x", None, "s", "1"), stream, options)
        assert isinstance(pairs, Pairs)
        seen = one.sees.sum(axis=1).tolist()
        wanted = [
            (a, b, float(np.float32(shared / seen[a])), float(np.float32(shared / seen[b])))
            for a, b, shared in one.pairs()
            if one.ok[a] and one.ok[b]
        ]
        ab, ba, _ = overlaps(pairs)
        assert list(zip(pairs.a.tolist(), pairs.b.tolist(), ab.tolist(), ba.tolist(), strict=True)) == wanted


def test_files_are_named_by_scene_and_stream_and_hold_their_own_rows(tmp_path: Path) -> None:
    keys: list[Key] = [
        ("train", "a", "0"),
        ("train", "a", "1"),
        ("train", "b/c", None),
        ("val", "d", None),
    ]
    truths = [truth(key, place) for place, key in enumerate(keys)]
    write_catalogs(tmp_path / "x", truths)
    out = tmp_path / "out"
    names = ["a.0.npz", "a.1.npz", "b/c.npz", "d.npz"]
    assert export("x", out=out, catalogs=tmp_path) == [out / name for name in names]
    for name, one in zip(names, truths, strict=True):
        check(out / name, one)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == names
    for options, wanted in (
        ({"split": "val"}, ["d.npz"]),
        ({"split": "all"}, names),
        ({"scene": "a"}, ["a.0.npz", "a.1.npz"]),
        ({"split": "train", "scene": "b/c"}, ["b/c.npz"]),
    ):
        other = tmp_path / "other" / str(options)
        assert export("x", out=other, catalogs=tmp_path, **options) == [other / name for name in wanted]
        for name in wanted:
            assert (other / name).read_bytes() == (out / name).read_bytes()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    write_catalogs(tmp_path / "x", [truth((None, "s", None), 1)])
    (path,) = export("x", out=tmp_path / "out", catalogs=tmp_path)
    before = path.read_bytes()
    export("x", out=tmp_path / "out", catalogs=tmp_path)
    assert path.read_bytes() == before


def test_lists_of_pairs_are_those_above_the_bound(tmp_path: Path) -> None:
    one = truth((None, "s", "0"), 3, num=9)
    one.sees[2:5, :15] = True  # overlaps with these are larger from the other side
    one.ok[:] = True
    one.ok[[1, 8]] = False
    write_catalogs(tmp_path / "x", [one])
    one_way = [0, 0]
    for bound in (0.0, 0.1, 0.25, 0.3, 0.35, 0.4, 1.0):
        (path,) = export("x", format="pairs", out=tmp_path / "out", catalogs=tmp_path, min_overlap=bound)
        assert path == tmp_path / "out" / "s.0.txt"
        seen, names = one.sees.sum(axis=1).tolist(), one.paths()
        wanted = [
            f"{names[a]} {names[b]}"
            for a, b, shared in one.pairs()
            if one.ok[a] and one.ok[b] and max(shared / seen[a], shared / seen[b]) >= bound
        ]
        assert path.read_text().splitlines() == wanted
        for a, b, shared in one.pairs():
            if one.ok[a] and one.ok[b]:
                one_way[0] += shared / seen[a] < bound <= shared / seen[b]
                one_way[1] += shared / seen[b] < bound <= shared / seen[a]
    assert min(one_way) > 0


def test_paths_that_a_list_cannot_tell_are_refused(tmp_path: Path) -> None:
    one = truth((None, "with space", None), 3)
    write_catalogs(tmp_path / "x", [one])
    with pytest.raises(MumError, match="holds a space"):
        export("x", format="pairs", out=tmp_path / "out", catalogs=tmp_path)
    assert not list((tmp_path / "out").glob("*"))
    assert export("x", out=tmp_path / "out", catalogs=tmp_path)


def test_names_do_not_leave_the_folder_or_meet(tmp_path: Path) -> None:
    for place, scene in enumerate(("../s", "/abs", "a/../../s")):
        write_catalogs(tmp_path / f"x{place}", [truth((None, scene, None), 1)])
        with pytest.raises(LayoutError):
            export(f"x{place}", out=tmp_path / "out", catalogs=tmp_path)
    write_catalogs(tmp_path / "y", [truth(("train", "s", None), 1), truth(("val", "s", None), 2)])
    with pytest.raises(ConfigError, match=r"both be s\.npz.*--split"):
        export("y", out=tmp_path / "out", catalogs=tmp_path)
    assert export("y", out=tmp_path / "out", catalogs=tmp_path, split="val") == [tmp_path / "out" / "s.npz"]
    write_catalogs(tmp_path / "z", [truth((None, "s", "1"), 1), truth((None, "s.1", None), 2)])
    with pytest.raises(ConfigError, match=r"both be s\.1\.npz"):
        export("z", out=tmp_path / "out", catalogs=tmp_path)


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    write_catalogs(tmp_path / "x", [truth(("train", "garden", None), 1)])
    for options, told in (
        ({"format": "d2nett"}, "d2net"),
        ({"split": "trian"}, "train"),
        ({"scene": "gardn"}, "garden"),
        ({"min_overlap": 1.5}, "0 .. 1"),
        ({"min_overlap": float("nan")}, "0 .. 1"),
    ):
        with pytest.raises(ConfigError, match=told):
            export("x", out=tmp_path / "out", catalogs=tmp_path, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_catalogs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    one = truth((None, "s", None), 1)
    with pytest.raises(CatalogError, match="does not exist"):
        export("x", out=tmp_path / "out", catalogs=tmp_path)
    for file in ("frames", "covisibility", "scenes"):
        write_catalogs(tmp_path / "x", [one])
        (tmp_path / f"x/{file}.parquet").unlink()
        with pytest.raises(CatalogError, match=file):
            export("x", out=tmp_path / "out", catalogs=tmp_path)
    write_catalogs(tmp_path / "x", [one])
    write_catalogs(tmp_path / "y", [truth((None, "other", None), 2)])
    for file in ("covisibility", "scenes"):
        write_catalogs(tmp_path / "x", [one])
        (tmp_path / f"y/{file}.parquet").rename(tmp_path / f"x/{file}.parquet")
        with pytest.raises(CatalogError, match=f"{file}.*other frames"):
            export("x", out=tmp_path / "out", catalogs=tmp_path)


def test_a_stream_of_which_nothing_is_known_is_left_out(tmp_path: Path) -> None:
    blind = truth((None, "blind", None), 1, share=0.0)
    lone = truth((None, "lone", None), 1, num=1)
    write_catalogs(tmp_path / "x", [blind, lone])
    assert [path.name for path in export("x", out=tmp_path / "out", catalogs=tmp_path)] == ["lone.npz"]
    check(tmp_path / "out/lone.npz", lone)
    write_catalogs(tmp_path / "y", [blind])
    with pytest.raises(MumError, match="nothing is known"):
        export("y", out=tmp_path / "out", catalogs=tmp_path)


def test_matrices_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = truth((None, "s", None), 1, num=8)
    write_catalogs(tmp_path / "x", [one])
    monkeypatch.setattr(module, "_physical_bytes", lambda: 8 * 64 - 1)
    with pytest.raises(MumError, match="memory"):
        export("x", out=tmp_path / "out", catalogs=tmp_path)
    assert not list((tmp_path / "out").glob("*"))
    monkeypatch.setattr(module, "_physical_bytes", lambda: 8 * 64)
    assert export("x", out=tmp_path / "out", catalogs=tmp_path)


def test_angles_are_right_where_a_cosine_says_little(tmp_path: Path) -> None:
    one = truth((None, "s", None), 1, num=5)
    degrees = [0.0, 0.01, 90.0, 179.99, 180.0]
    radians = np.radians(degrees)
    one.poses[:] = 0.0
    one.poses[:, 0, 0] = 1.0
    one.poses[:, 2, 1], one.poses[:, 2, 2] = np.sin(radians), np.cos(radians)
    write_catalogs(tmp_path / "x", [one])
    (path,) = export("x", out=tmp_path / "out", catalogs=tmp_path)
    np.testing.assert_allclose(as_numpy_reads(path)["angles"][0], degrees, atol=2e-5)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalogs(tmp_path / "x", [truth((None, "s", None), 1)])
    (path,) = export("x", out=tmp_path / "out", catalogs=tmp_path)
    before = path.read_bytes()

    def fails(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_angle_rows", fails)
    with pytest.raises(KeyboardInterrupt):
        export("x", out=tmp_path / "out", catalogs=tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
