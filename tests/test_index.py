"""Indexing: counts, order, splits and cameras against the rendered world; broken trees against statuses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from mumdata import catalog, geometry
from mumdata.errors import ConfigError, LayoutError
from mumdata.index import index
from mumdata.schema import FRAMES, QUARANTINE, SCENES

from .conftest import DEMO_DATASETS, write_picture


def truth_files(world: Path) -> list[tuple[str, str, str, Path]]:
    return [
        (name, path.parent.name, path.stem, path)
        for name in DEMO_DATASETS
        for path in sorted(world.glob(f"truth/{name}/*/*.npz"))
    ]


def statuses(folder: Path) -> dict[str, str]:
    table = catalog.read(FRAMES, folder / "frames.parquet")
    return dict(zip(table.column("path").to_pylist(), table.column("status").to_pylist(), strict=True))


def quarantined(folder: Path) -> dict[str, str]:
    table = catalog.read(QUARANTINE, folder / "quarantine.parquet")
    return dict(zip(table.column("path").to_pylist(), table.column("reason").to_pylist(), strict=True))


def test_every_rendered_frame_is_listed_once_a_stream_with_its_true_camera(world: Path, catalogs: Path) -> None:
    files = truth_files(world)
    assert len(files) >= 8
    for name, scene, stream, path in files:
        truth = np.load(path)
        frames = catalog.read_frames(name, catalogs=catalogs)
        own = frames[frames.scene == scene]
        if name != "realestate10k":
            own = own[own["stream"] == stream]
        by_name = {row.path.rpartition("/")[2]: row for row in own.itertuples()}
        if name == "megascenes":
            by_name = {row.path.split("/", 3)[3]: row for row in own.itertuples()}
        names = [str(image) for image in truth["names"]]
        assert sorted(by_name) == sorted(names), (name, scene, stream)
        for place, image in enumerate(names):
            row = by_name[image]
            seen = np.flatnonzero(truth["visible"][place])[:20]
            if row.status == "missing":
                continue
            assert (row.width, row.height) == tuple(truth["sizes"][place])
            if name != "realestate10k":
                assert row.num_points == truth["visible"][place].sum()
            pixels, depth = geometry.project(
                truth["points"][seen],
                np.asarray(row.cam_from_world, np.float64).reshape(3, 4),
                row.camera_model,
                row.intrinsics_px,
                row.distortion,
            )
            matrix = truth["cam_from_world"][place]
            camera = truth["points"][seen] @ matrix[:, :3].T + matrix[:, 3]
            fx, fy, cx, cy = truth["intrinsics"][place]
            flat = camera[:, :2] / camera[:, 2:]
            flat = flat * (1 + truth["distortion"][place][0] * (flat**2).sum(axis=1, keepdims=True))
            expected = flat * [fx, fy] + [cx, cy]
            assert np.abs(pixels - expected).max() < 0.02, (name, image)
            assert np.abs(depth - camera[:, 2]).max() < 1e-3 * camera[:, 2].max()


def test_order_is_the_models_for_photos_and_time_for_video(world: Path, catalogs: Path) -> None:
    import pycolmap

    frames = catalog.read_frames("megadepth", catalogs=catalogs)
    folder = world / "megadepth/MegaDepth_v1_SfM"
    scene = next(path.name for path in folder.iterdir())
    own = frames[(frames.scene == scene) & (frames["stream"] == "0")]
    assert own.frame.tolist() == list(range(len(own)))
    written = [image.name for image in pycolmap.Reconstruction(folder / scene / "sparse/manhattan/0").images.values()]
    assert sorted(own.path.str.rpartition("/")[2]) == sorted(written)
    clips = catalog.read_frames("realestate10k", catalogs=catalogs)
    widths = set()
    for _, clip in clips.groupby(["split", "scene"], observed=True):
        stamps = [int(path.rpartition("/")[2].partition(".")[0]) for path in clip.path]
        assert stamps == sorted(stamps)
        assert clip.timestamp_s.tolist() == [stamp / 1e6 for stamp in stamps]
        widths.add(len({len(str(stamp)) for stamp in stamps}))
    assert max(widths) > 1  # one clip crosses from 8 to 9 digits, where text order is wrong


def test_rows_are_sorted_and_ids_run_through(catalogs: Path) -> None:
    for name in DEMO_DATASETS:
        frames = catalog.read_frames(name, catalogs=catalogs)
        assert frames.frame_id.tolist() == list(range(len(frames)))
        keys = [
            tuple((value is not None, value or "") for value in row)
            for row in frames[["split", "scene", "stream"]].astype(object).where(lambda t: t.notna(), None).values
        ]
        assert keys == sorted(keys)
        scenes = catalog.read_scenes(name, catalogs=catalogs)
        assert scenes.num_frames.sum() == len(frames)
        first = scenes.first_frame_id.dropna().astype(int)
        assert (frames.frame.loc[first] == 0).all()


def test_what_is_not_there_is_said(world: Path, catalogs: Path) -> None:
    clips = catalog.read_scenes("realestate10k", catalogs=catalogs)
    assert set(clips.status) == {"complete", "empty", "missing_images"}
    empty = clips[clips.status == "empty"]
    assert (empty.num_frames == 0).all()
    assert empty.detail.str.contains("none on disk").all()
    bad = quarantined(catalogs / "realestate10k")
    assert list(bad.values()) == ["missing"]
    shared = catalog.read_frames("realestate10k", catalogs=catalogs)
    shared = shared[shared.split == "train"].groupby("group", observed=True).scene.nunique()
    assert shared.max() == 2  # two clips of one video


def test_photos_without_a_model_come_only_when_asked_for(world: Path, tmp_path: Path) -> None:
    plain = index("megascenes", root=world / "megascenes", catalogs=tmp_path / "a")
    more = index("megascenes", root=world / "megascenes", catalogs=tmp_path / "b", all_images=True)
    assert more.num_frames > plain.num_frames
    frames = catalog.read_frames("megascenes", catalogs=tmp_path / "b")
    extra = frames[frames["stream"].isna()]
    assert len(extra) == more.num_frames - plain.num_frames
    assert extra.cam_from_world.isna().all()


def test_the_same_bytes_for_any_workers_and_listing_order(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(folder: Path) -> list[bytes]:
        return [(folder / "realestate10k" / name).read_bytes() for name in ("frames.parquet", "scenes.parquet")]

    index("realestate10k", root=world / "realestate10k", catalogs=tmp_path / "a", workers=1)
    index("realestate10k", root=world / "realestate10k", catalogs=tmp_path / "b", workers=2)
    assert whole(tmp_path / "a") == whole(tmp_path / "b")
    listed, scanned = os.listdir, os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with scanned(path) as entries:
                self.entries = list(entries)[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda path: listed(path)[::-1])
    index("realestate10k", root=world / "realestate10k", catalogs=tmp_path / "c", workers=1)
    assert whole(tmp_path / "a") == whole(tmp_path / "c")


def test_indexing_again_changes_nothing(world: Path, tmp_path: Path) -> None:
    first = index("imagenet", root=world / "imagenet", catalogs=tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = index("imagenet", catalogs=tmp_path)  # the root is remembered
    assert first.changed
    assert not again.changed
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == stamps


def test_scenes_are_kept_up_to_date_without_losing_what_mining_added(world: Path, tmp_path: Path) -> None:
    from mumdata.sequences import mine_sequences

    root = tmp_path / "re"
    shutil.copytree(world / "realestate10k", root)
    index("realestate10k", root=root, catalogs=tmp_path / "c")
    mine_sequences("realestate10k", catalogs=tmp_path / "c")
    before = catalog.read_scenes("realestate10k", catalogs=tmp_path / "c")
    dead = before[before.status == "empty"].scene.iloc[0]
    (root / f"RealEstate10K/train/{dead}.txt").rename(root / "RealEstate10K/train/00000000000000aa.txt")
    assert not index("realestate10k", root=root, catalogs=tmp_path / "c").changed  # the frames are the same
    after = catalog.read_scenes("realestate10k", catalogs=tmp_path / "c")
    assert "00000000000000aa" in set(after.scene)
    kept = after[after.num_frames > 0].num_sequences.tolist()
    assert kept == before[before.num_frames > 0].num_sequences.tolist()
    assert sum(kept) > 0


def test_a_folder_of_pictures_in_natural_order_with_broken_ones(tmp_path: Path) -> None:
    root = tmp_path / "trip"
    for name in ("frame10.jpg", "frame2.jpg", "frame1.jpg", "-dash.png", "with space.jpg", "Größe.png"):
        write_picture(root / "day 1" / name)
    write_picture(root / "day 2/deep/a.webp")
    write_picture(root / "top.jpg")
    (root / "day 1/empty.jpg").write_bytes(b"")
    (root / "day 1/one.png").write_bytes(b"\n")
    (root / "day 1/text.jpg").write_text("../../images/a.jpg")
    cut = write_picture(root / "day 1/cut.jpg", 200, 200)
    cut.write_bytes(cut.read_bytes()[:2000])
    (root / "day 1/._frame1.jpg").write_bytes(bytes(4096))
    (root / "day 1/notes.txt").write_text("x")
    (root / "day 1/dangling.jpg").symlink_to("nowhere.jpg")
    (root / "loop").symlink_to(root)
    found = index("folder", root=root, name="trip", catalogs=tmp_path / "c")
    frames = catalog.read_frames("trip", catalogs=tmp_path / "c")
    assert frames.scene.unique().tolist() == ["day 1", "day 2/deep", "trip"]
    names = [path.rpartition("/")[2] for path in frames[frames.scene == "day 1"].path]
    assert [name for name in names if name.startswith("frame")] == ["frame1.jpg", "frame2.jpg", "frame10.jpg"]
    assert found.frame_statuses == {"ok": 8, "empty": 1, "unreadable": 2, "truncated": 1, "missing": 1}
    assert statuses(tmp_path / "c/trip")["day 1/cut.jpg"] == "truncated"
    bad = quarantined(tmp_path / "c/trip")
    assert bad["day 1/._frame1.jpg"] == "hidden"
    assert set(bad) == {
        f"day 1/{n}" for n in ("._frame1.jpg", "cut.jpg", "dangling.jpg", "empty.jpg", "one.png", "text.jpg")
    }


def test_names_that_are_not_utf8_are_kept_out_and_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "r/a.jpg")
    os.rename(os.fsencode(tmp_path / "r/a.jpg"), os.fsencode(tmp_path / "r") + b"/caf\xe9.jpg")
    write_picture(tmp_path / "r/b.jpg")
    index("folder", root=tmp_path / "r", name="r", catalogs=tmp_path / "c")
    assert statuses(tmp_path / "c/r") == {"caf\\xe9.jpg": "name_not_utf8", "b.jpg": "ok"}


@pytest.mark.parametrize("name", [*DEMO_DATASETS, "folder", "colmap"])
def test_a_missing_or_empty_root_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(LayoutError, match="does not exist"):
        index(name, root=tmp_path / "nowhere", catalogs=tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match="empty"):
        index(name, root=tmp_path / "empty", catalogs=tmp_path / "c")
    with pytest.raises(LayoutError, match="no root is known"):
        index(name, catalogs=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_names_of_catalogs(tmp_path: Path) -> None:
    write_picture(tmp_path / "r/b.jpg")
    for name in ("../x", "a b", "imagenet", "", ".hidden", "mixes"):
        with pytest.raises(ConfigError):
            index("folder", root=tmp_path / "r", name=name, catalogs=tmp_path / "c")
    with pytest.raises(ConfigError, match="did you mean 'megadepth'"):
        index("megadept", root=tmp_path)


def colmap_scene(world: Path, target: Path, model: str = "sparse/0") -> Path:
    """One scene of the world in the layout that COLMAP itself leaves."""
    source = next((world / "megadepth/MegaDepth_v1_SfM").iterdir())
    shutil.copytree(source / "images", target / "images")
    shutil.copytree(source / "sparse/manhattan/0", target / model)
    return target


@pytest.mark.parametrize("model", ["sparse/0", "sparse", "dense/0/sparse", "colmap/sparse/3", "sparse_txt"])
def test_colmap_layouts(world: Path, tmp_path: Path, model: str) -> None:
    import pycolmap

    root = colmap_scene(world, tmp_path / "mine", model)
    if model == "sparse_txt":
        pycolmap.Reconstruction(root / model).write_text(root / model)
        for path in (root / model).glob("*.bin"):
            path.unlink()
    index("colmap", root=root, name="mine", catalogs=tmp_path / "c")
    frames = catalog.read_frames("mine", catalogs=tmp_path / "c")
    posed = frames[frames["stream"].notna()]
    assert set(posed.status) == {"ok"}
    assert posed.scene.unique().tolist() == ["mine"]
    assert posed["stream"].unique().tolist() == ["3" if model.endswith("3") else "0"]
    assert len(posed) == pycolmap.Reconstruction(root / model).num_reg_images()
    # the photos that belong to the other sub-model alone are listed too, without a stream
    assert len(frames) == len(list((root / "images").iterdir()))


def test_colmap_with_several_scenes_models_and_sizes(world: Path, tmp_path: Path) -> None:
    import cv2

    root = tmp_path / "all"
    one = colmap_scene(world, root / "01")
    source = next((world / "megadepth/MegaDepth_v1_SfM").iterdir())
    shutil.copytree(source / "sparse/manhattan/1", one / "sparse/1")
    two = colmap_scene(world, root / "02")
    shutil.copytree(two / "images", root / "03/photos")  # no model at all
    paths = sorted((two / "images").iterdir())
    for path in paths[1:]:  # half size, as people downscale
        image = cv2.imdecode(np.fromfile(path, np.uint8), 1)
        cv2.imencode(".jpg", cv2.resize(image, None, fx=0.5, fy=0.5))[1].tofile(path)
    index("colmap", root=root, name="all", catalogs=tmp_path / "c")
    frames = catalog.read_frames("all", catalogs=tmp_path / "c")
    assert set(frames.scene) == {"01", "02", "03"}
    labels = frames["stream"].astype(object).where(frames["stream"].notna(), None)
    streams = set(zip(frames.scene, labels, strict=True))
    assert {("01", "0"), ("01", "1"), ("02", "0"), ("03", None)} <= streams
    full = frames[(frames.scene == "01") & (frames["stream"] == "0")].set_index("frame")
    half = frames[(frames.scene == "02") & (frames["stream"] == "0")].set_index("frame")
    for place in full.index:
        ratio = half.width[place] / full.width[place]
        assert np.allclose(half.intrinsics_px[place][[0, 2]], full.intrinsics_px[place][[0, 2]] * ratio, rtol=1e-6)


def test_broken_models_and_images_are_statuses(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "all"
    good = colmap_scene(world, root / "good")
    cut = colmap_scene(world, root / "cut")
    data = (cut / "sparse/0/images.bin").read_bytes()
    (cut / "sparse/0/images.bin").write_bytes(data[: len(data) // 2])
    many = colmap_scene(world, root / "many")
    points = bytearray((many / "sparse/0/points3D.bin").read_bytes())
    points[:8] = (1 << 60).to_bytes(8, "little")
    (many / "sparse/0/points3D.bin").write_bytes(points)
    images = sorted((good / "images").iterdir())
    absent, wrong = images[0], images[1]
    absent.unlink()
    write_picture(wrong, 40, 90)
    index("colmap", root=root, name="all", catalogs=tmp_path / "c")
    scenes = catalog.read_scenes("all", catalogs=tmp_path / "c")
    status = {(row.scene, row.stream): (row.status, row.detail) for row in scenes.itertuples()}
    assert status["cut", "0"][0] == status["many", "0"][0] == "bad_model"
    assert "images.bin" in status["cut", "0"][1]
    assert "points3D.bin" in status["many", "0"][1]
    assert str(tmp_path) not in "".join(str(detail) for _, detail in status.values())
    frames = catalog.read_frames("all", catalogs=tmp_path / "c")
    of_good = frames[(frames.scene == "good") & (frames["stream"] == "0")]
    found = {path.rpartition("/")[2]: state for path, state in zip(of_good.path, of_good.status, strict=True)}
    if absent.name in found:
        assert found[absent.name] == "missing"
    if wrong.name in found:
        assert found[wrong.name] == "size_mismatch"
    assert set(found.values()) - {"ok"}
    # the photos of a scene whose model is broken are still there to be seen
    assert (frames[frames.scene == "cut"]["stream"].isna()).all()
    assert len(frames[frames.scene == "cut"]) == len(images)


def test_a_model_with_a_file_missing_is_named(world: Path, tmp_path: Path) -> None:
    root = colmap_scene(world, tmp_path / "half")
    (root / "sparse/0/cameras.bin").unlink()
    index("colmap", root=root, name="half", catalogs=tmp_path / "c")
    scenes = catalog.read_scenes("half", catalogs=tmp_path / "c")
    assert set(scenes.status) == {"bad_model", "no_model"}
    assert "cameras" in scenes[scenes.status == "bad_model"].detail.iloc[0]


def test_only_broken_models_and_no_images_is_an_error(world: Path, tmp_path: Path) -> None:
    root = colmap_scene(world, tmp_path / "cut")
    shutil.rmtree(root / "images")
    (root / "sparse/0/cameras.bin").write_bytes(b"\1\2\3")
    with pytest.raises(LayoutError, match=r"cameras\.bin"):
        index("colmap", root=root, name="cut", catalogs=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_model_that_names_files_outside_its_root(tmp_path: Path) -> None:
    folder = tmp_path / "r/sparse"
    folder.mkdir(parents=True)
    write_picture(tmp_path / "secret.jpg")
    write_picture(tmp_path / "r/images/ok.jpg")
    (folder / "cameras.txt").write_text("1 PINHOLE 32 24 20 20 16 12\n")
    names = ("../../secret.jpg", str(tmp_path / "secret.jpg"), "ok.jpg")
    lines = [f"{place + 1} 1 0 0 0 0 0 0 1 {name}\n\n" for place, name in enumerate(names)]
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text("")
    index("colmap", root=tmp_path / "r", name="r", catalogs=tmp_path / "c")
    assert statuses(tmp_path / "c/r") == {"images/ok.jpg": "ok"}
    assert sorted(quarantined(tmp_path / "c/r").values()) == ["leaves_root", "leaves_root"]
    scenes = catalog.read_scenes("r", catalogs=tmp_path / "c")
    assert scenes.status.tolist() == ["bad_images"]
    assert "2 leaves_root" in scenes.detail[0]


def test_names_match_by_unicode_form(tmp_path: Path) -> None:
    import unicodedata

    folder = tmp_path / "r/sparse"
    folder.mkdir(parents=True)
    composed, split = "Cópia de é.png", unicodedata.normalize("NFD", "Cópia de é.png")
    write_picture(tmp_path / "r/images" / split)
    (folder / "cameras.txt").write_text("1 PINHOLE 32 24 20 20 16 12\n")
    (folder / "images.txt").write_text(f"1 1 0 0 0 0 0 0 1 {composed}\n\n")
    (folder / "points3D.txt").write_text("")
    index("colmap", root=tmp_path / "r", name="r", catalogs=tmp_path / "c")
    assert statuses(tmp_path / "c/r") == {f"images/{split}": "ok"}


def test_d2nets_copy_reads_the_same_from_binary_and_text_with_its_depth(
    world: Path, catalogs: Path, tmp_path: Path
) -> None:
    source = world / "megadepth/Undistorted_SfM"
    scene = next(source.iterdir()).name
    shutil.copytree(source / scene, tmp_path / "m/Undistorted_SfM" / scene)
    index("megadepth", root=tmp_path / "m", catalogs=tmp_path / "a")
    shutil.rmtree(tmp_path / "m/Undistorted_SfM" / scene / "sparse")
    index("megadepth", root=tmp_path / "m", catalogs=tmp_path / "b")
    binary, text = (catalog.read_frames("megadepth", catalogs=tmp_path / name) for name in "ab")
    assert sorted(binary.path) == sorted(text.path)
    joined = binary.merge(text, on="path", suffixes=("", "_text"))
    assert (joined.num_points == joined.num_points_text).all()
    assert set(joined.camera_model) == set(joined.camera_model_text) == {"PINHOLE"}
    assert np.allclose(np.stack(joined.cam_from_world), np.stack(joined.cam_from_world_text), atol=1e-4)
    assert binary.depth_path.isna().all()
    whole = catalog.read_frames("megadepth", catalogs=catalogs)
    depths = whole[whole.scene == scene].depth_path
    assert depths.notna().all()
    assert all((world / "megadepth" / path).is_file() for path in depths)


def test_eval_scenes_are_marked(tmp_path: Path, world: Path) -> None:
    source = next((world / "megadepth/MegaDepth_v1_SfM").iterdir())
    shutil.copytree(source, tmp_path / "m/MegaDepth_v1_SfM/0022")
    index("megadepth", root=tmp_path / "m", catalogs=tmp_path / "c")
    frames = catalog.read_frames("megadepth", catalogs=tmp_path / "c")
    assert set(frames.eval_of) == {"megadepth-1500"}
    assert catalog.read(SCENES, tmp_path / "c/megadepth/scenes.parquet").num_rows == 2


def test_the_root_is_found_in_the_documented_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: Path
) -> None:
    from mumdata.roots import find_root, remember_root

    for name in "abcd":
        (tmp_path / name).mkdir()
    catalogs = tmp_path / "c"
    remember_root("x-y", catalogs, tmp_path / "a", "folder")
    assert find_root("x-y", catalogs) == tmp_path / "a"
    (catalogs / "roots.toml").write_text(f'"x-y" = "{tmp_path / "b"}"\n')
    assert find_root("x-y", catalogs) == tmp_path / "b"
    monkeypatch.setenv("MUM_ROOT_X_Y", str(tmp_path / "c2"))
    with pytest.raises(LayoutError, match="MUM_ROOT_X_Y"):
        find_root("x-y", catalogs)
    monkeypatch.setenv("MUM_ROOT_X_Y", str(tmp_path / "c"))
    assert find_root("x-y", catalogs) == tmp_path / "c"
    assert find_root("x-y", catalogs, tmp_path / "d") == tmp_path / "d"


def test_links_pipes_and_loops_do_not_stop_an_index(tmp_path: Path) -> None:
    root = tmp_path / "r"
    write_picture(root / "a/one.jpg")
    (root / "a/self.jpg").symlink_to("self.jpg")
    (root / "a/up").symlink_to("..")
    os.mkfifo(root / "a/pipe.jpg")
    for name in ("folder", "colmap"):
        index(name, root=root, name=f"{name}-x", catalogs=tmp_path / "c")
        found = statuses(tmp_path / f"c/{name}-x")
        assert found == {"a/one.jpg": "ok", "a/self.jpg": "unreadable", "a/pipe.jpg": "unreadable"}


def test_clips_with_strange_trajectories(world: Path, tmp_path: Path) -> None:
    root = tmp_path / "re"
    shutil.copytree(world / "realestate10k", root)
    texts = sorted((root / "RealEstate10K/train").glob("*.txt"))
    whole = [path for path in texts if any((root / "dataset/train" / path.stem).glob("*.png"))]
    lines = whole[0].read_text().splitlines()
    for change in (lines[1:], [lines[0], "9" * 20 + lines[1][lines[1].index(" ") :]], [lines[0], "-1 2 3"], []):
        whole[0].write_text("\n".join(change) + "\n")
        index("realestate10k", root=root, catalogs=tmp_path / "c")
        scenes = catalog.read_scenes("realestate10k", catalogs=tmp_path / "c").set_index("scene")
        assert scenes.status[whole[0].stem] == "bad_model"
        assert whole[0].name in scenes.detail[whole[0].stem]
    frame = next((root / "dataset/train" / whole[1].stem).glob("*.png"))
    shutil.copy(frame, frame.with_name("0" + frame.name))
    index("realestate10k", root=root, catalogs=tmp_path / "c")
    assert "named_twice" in quarantined(tmp_path / "c/realestate10k").values()


def test_a_catalog_of_ones_own_is_indexed_again_by_its_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "r/a.jpg")
    index("folder", root=tmp_path / "r", name="trip", catalogs=tmp_path / "c")
    path = tmp_path / "c/trip/frames.parquet"
    path.write_bytes(path.read_bytes()[:100])
    assert index("trip", catalogs=tmp_path / "c").changed
    assert statuses(tmp_path / "c/trip") == {"a.jpg": "ok"}


def test_a_damaged_page_is_written_anew(world: Path, tmp_path: Path) -> None:
    index("imagenet", root=world / "imagenet", catalogs=tmp_path)
    path = tmp_path / "imagenet/frames.parquet"
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(300)
    path.write_bytes(data)
    from mumdata.errors import CatalogError

    with pytest.raises(CatalogError, match="run 'mumdata index imagenet'"):
        catalog.read(FRAMES, path)
    index("imagenet", root=world / "imagenet", catalogs=tmp_path)
    assert catalog.read(FRAMES, path).num_rows == 58
