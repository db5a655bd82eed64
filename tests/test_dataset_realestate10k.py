"""RealEstate10K: columns, order and numbering against the rendering; equal layouts must give equal catalogs."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog
from mumdata.datasets import Scene, realestate10k
from mumdata.errors import LayoutError
from mumdata.geometry import project
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered copy, as the downloader leaves it."""
    out = tmp_path_factory.mktemp("realestate10k")
    render("realestate10k", out)
    return out / "realestate10k"


@pytest.fixture(scope="module")
def frames(demo: Path) -> pd.DataFrame:
    return indexed(demo, demo.parent / "catalogs")[0]


def indexed(root: Path, catalogs: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    index("realestate10k", root=root, catalogs=catalogs, workers=1)
    return (
        catalog.read_frames("realestate10k", catalogs=catalogs),
        catalog.read_scenes("realestate10k", catalogs=catalogs).set_index("scene"),
    )


def truth_of(demo: Path, clip: str) -> dict[str, np.ndarray]:
    with np.load(demo.parent / "truth/realestate10k" / clip / "0.npz") as file:
        return dict(file)


def text_of(demo: Path, clip: str) -> Path:
    return next(demo.glob(f"RealEstate10K/*/{clip}.txt"))


def with_frames(demo: Path) -> list[tuple[str, str]]:
    """(split, clip) of the clips that have frames."""
    return sorted({(path.parent.parent.name, path.parent.name) for path in demo.glob("dataset/*/*/*.png")})


def crossing(demo: Path) -> str:
    """The clip whose timestamps change their number of digits."""
    clips = [clip for _, clip in with_frames(demo)]
    return next(clip for clip in clips if len({len(str(name)) for name in truth_of(demo, clip)["names"]}) > 1)


def posed(frames: pd.DataFrame, clip: str) -> pd.DataFrame:
    own = frames[(frames.scene == clip) & (frames.status == "ok")].sort_values("frame")
    return own.assign(name=own.path.str.rpartition("/")[2])


def as_arrays(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return np.stack(rows.cam_from_world.tolist()), np.stack(rows.intrinsics_px.tolist())


def grey_at(path: Path, pixels: np.ndarray) -> np.ndarray:
    # intensities between pixel centres, which lie at halves
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.float32)
    at = pixels.astype(np.float32) - np.float32(0.5)
    return cv2.remap(image, at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def test_order_time_split_and_group(demo: Path, frames: pd.DataFrame) -> None:
    """Names as text are in another order than time where the number of digits changes."""
    clip = crossing(demo)
    own = posed(frames, clip)
    stamps = own.name.str.partition(".")[0].astype(int)
    assert own.name.tolist() != sorted(own.name)
    assert stamps.is_monotonic_increasing
    assert own.timestamp_s.tolist() == (stamps / 1e6).tolist()
    for split, name in with_frames(demo):
        rows = frames[frames.scene == name]
        assert set(rows.split) == {split}
        assert set(rows.group) == {text_of(demo, name).read_text().splitlines()[0]}
        assert len(rows) == len(truth_of(demo, name)["names"])  # also where a file is missing
    assert frames.groupby("group", observed=True).scene.nunique().max() == 2


def test_cameras_put_points_where_the_pictures_show_them(demo: Path, frames: pd.DataFrame) -> None:
    """The same point looks the same in all frames; not so with cameras in the order of the names as text."""
    clip = crossing(demo)
    own, truth = posed(frames, clip), truth_of(demo, clip)
    place = {str(name): row for row, name in enumerate(truth["names"])}
    poses, intrinsics = as_arrays(own)
    as_text = np.argsort(np.argsort(own.name.to_numpy()))  # row that a listing gives to each frame
    spread = {}
    for kind, rows in (("by time", np.arange(len(own))), ("as text", as_text)):
        seen: list[list[float]] = [[] for _ in truth["points"]]
        for row, name in zip(rows, own.name, strict=True):
            visible = np.flatnonzero(truth["visible"][place[name]])
            matrix = poses[row].astype(np.float64).reshape(3, 4)
            pixels, depth = project(truth["points"][visible], matrix, "PINHOLE", intrinsics[row], ())
            if kind == "by time":
                camera = truth["points"][visible] @ truth["cam_from_world"][place[name]][:, :3].T
                camera += truth["cam_from_world"][place[name]][:, 3]
                fx, fy, cx, cy = truth["intrinsics"][place[name]]
                expected = camera[:, :2] / camera[:, 2:] * [fx, fy] + [cx, cy]
                assert np.abs(pixels - expected).max() < 0.01
                assert np.allclose(depth, camera[:, 2], rtol=1e-4)
            shown = np.isfinite(pixels).all(axis=1) & (depth > 0)
            greys = grey_at(demo / own.path[own.name == name].item(), pixels[shown])
            for point, grey in zip(visible[shown], greys, strict=True):
                seen[point].append(float(grey))
        assert sum(len(values) >= 5 for values in seen) > 300
        spread[kind] = np.median([np.std(values) for values in seen if len(values) >= 5])
    assert spread["by time"] < 0.3 * spread["as text"]


def test_the_pose_follows_two_zeros(demo: Path, frames: pd.DataFrame) -> None:
    """The numbers of the columns on the dataset's page (2-6 intrinsics, 7-19 pose) do not fit its files."""
    for _, clip in with_frames(demo):
        table = np.array([line.split() for line in text_of(demo, clip).read_text().splitlines()[1:]], np.float64)
        assert table.shape[1] == 19
        assert not table[:, 5:7].any()
        naive = table[0, 6:18].reshape(3, 4)[:, :3]
        assert not np.allclose(naive @ naive.T, np.eye(3), atol=0.1)
        own = posed(frames, clip)
        poses, intrinsics = as_arrays(own)
        rotations = poses.reshape(-1, 3, 4)[:, :, :3].astype(np.float64)
        assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-5)
        truth = truth_of(demo, clip)
        place = [list(map(str, truth["names"])).index(name) for name in own.name]
        assert np.allclose(poses.reshape(-1, 3, 4), truth["cam_from_world"][place], atol=1e-5)
        assert np.allclose(intrinsics, truth["intrinsics"][place], atol=1e-4)


def test_frames_numbered_by_row_are_the_same_frames(demo: Path, frames: pd.DataFrame, tmp_path: Path) -> None:
    """`<clip>/images/%04d.png`: a number is a row of the trajectory, not a timestamp."""
    root = tmp_path / "r"
    for split, clip in with_frames(demo):
        names = [str(name) for name in truth_of(demo, clip)["names"]]
        for row, name in enumerate(names):
            source = demo / "dataset" / split / clip / name
            target = root / clip / "images" / f"{row:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.exists():
                shutil.copy(source, target)
        shutil.copy(text_of(demo, clip), root / f"{clip}.txt")
    other, scenes = indexed(root, tmp_path / "c")
    assert other.split.isna().all()
    assert set(scenes.status) == {"complete", "missing_images"}
    for split, clip in with_frames(demo):
        ours, theirs = posed(other, clip), posed(frames, clip)
        assert ours.timestamp_s.tolist() == theirs.timestamp_s.tolist()
        assert ours.group.tolist() == theirs.group.tolist()
        assert ours.frame.tolist() == theirs.frame.tolist()
        for mine, known in zip(as_arrays(ours), as_arrays(theirs), strict=True):
            assert np.array_equal(mine, known)
        for a, b in zip(ours.path, theirs.name, strict=True):
            assert (root / a).read_bytes() == (demo / "dataset" / split / clip / b).read_bytes()
    missing = other[other.status == "missing"].path.tolist()
    assert len(missing) == 1
    assert missing[0].endswith("/images/0017.png")


@pytest.mark.parametrize("place", ["beside", "inside", "by split", "downloaded"])
def test_where_the_trajectory_of_a_numbered_clip_may_lie(demo: Path, tmp_path: Path, place: str) -> None:
    clip = crossing(demo)
    text = text_of(demo, clip)
    folder = {"by split": f"test/{clip}"}.get(place, clip)
    for row in range(3):
        write_picture(tmp_path / "r" / folder / "images" / f"{row:04d}.jpg", seed=row)
    target = {
        "beside": f"{clip}.txt",
        "inside": f"{clip}/{clip}.txt",
        "by split": f"test/{clip}.txt",
        "downloaded": f"RealEstate10K/test/{clip}.txt",
    }[place]
    (tmp_path / "r" / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(text, tmp_path / "r" / target)
    found, _ = indexed(tmp_path / "r", tmp_path / "c")
    own = found[found.status == "ok"]
    assert len(own) == 3
    assert own.cam_from_world.notna().all()
    assert set(own.split.astype(object).where(own.split.notna(), None)) == {
        None if place in ("beside", "inside") else "test"
    }


def test_a_number_beyond_the_rows_means_that_the_rows_are_not_known(demo: Path, tmp_path: Path) -> None:
    """Frames numbered from 1 would get the camera of their neighbour."""
    clip = crossing(demo)
    num = len(text_of(demo, clip).read_text().splitlines()) - 1
    for row in (1, 2, num):
        write_picture(tmp_path / "r" / clip / "images" / f"{row:04d}.png")
    shutil.copy(text_of(demo, clip), tmp_path / "r" / f"{clip}.txt")
    found, scenes = indexed(tmp_path / "r", tmp_path / "c")
    assert scenes.status[clip] == "bad_model"
    assert f"frame {num} is beyond the rows 0 to {num - 1}" in scenes.detail[clip]
    assert found.status.tolist() == ["ok"] * 3
    assert found.cam_from_world.isna().all()
    assert found.timestamp_s.isna().all()


@pytest.mark.parametrize("layout", ["{split}/{clip}", "{split}/images/{clip}"])
@pytest.mark.parametrize("texts", ["{split}", "RealEstate10K/{split}"])
def test_by_split_gives_the_same_as_the_downloader(
    demo: Path, frames: pd.DataFrame, tmp_path: Path, layout: str, texts: str
) -> None:
    root = tmp_path / "r"
    for split, clip in with_frames(demo):
        shutil.copytree(demo / "dataset" / split / clip, root / layout.format(split=split, clip=clip))
        target = root / texts.format(split=split) / f"{clip}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(text_of(demo, clip), target)
    other, _ = indexed(root, tmp_path / "c")
    ours = frames.drop(columns=["frame_id", "path", "mtime_ns"]).reset_index(drop=True)
    theirs = other.drop(columns=["frame_id", "path", "mtime_ns"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, theirs)


def test_frames_without_trajectories_keep_their_order(demo: Path, tmp_path: Path) -> None:
    clip = crossing(demo)
    shutil.copytree(demo / "dataset/train" / clip, tmp_path / "r/train/images" / clip)
    write_picture(tmp_path / "r/train/images/00000000000000aa/2.jpg")
    write_picture(tmp_path / "r/train/images/00000000000000aa/10.jpg")
    found, scenes = indexed(tmp_path / "r", tmp_path / "c")
    assert set(scenes.status) == {"no_model"}
    stamps = [int(Path(path).stem) for path in found[found.scene == clip].path]
    assert stamps == sorted(stamps)
    numbered = found[found.scene == "00000000000000aa"]
    assert [Path(path).name for path in numbered.path] == ["2.jpg", "10.jpg"]
    assert numbered.timestamp_s.isna().all()  # two frames are not two microseconds
    assert found.cam_from_world.isna().all()


def test_hidden_and_strange_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "r/train/00000000000000aa"
    write_picture(folder / "1000000.png")
    write_picture(folder / "cover.png")
    (folder / "._1000000.png").write_bytes(bytes(64))
    indexed(tmp_path / "r", tmp_path / "c")
    bad = catalog.read(QUARANTINE, tmp_path / "c/realestate10k/quarantine.parquet").to_pandas()
    reasons = dict(zip(bad.path.str.rpartition("/")[2], bad.reason, strict=True))
    assert reasons == {"._1000000.png": "hidden", "cover.png": "unexpected_name"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("train/000000.torch", "pickled"),
        ("re10k/test/000012.torch", "unpickling runs code"),
        ("0123456789abcdef.mp4", "ffmpeg"),
        ("videos/train/0123456789abcdef.mp4", r"\{train,test\}/<clip>/<timestamp>\.png"),
    ],
)
def test_other_forms_are_refused_with_what_to_do(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_bytes(b"\x80\x02")
    with pytest.raises(LayoutError, match=said):
        realestate10k.scenes(Tree(tmp_path))


def test_mining_gives_chunks_of_training_clips(demo: Path, frames: pd.DataFrame) -> None:
    catalogs = demo.parent / "catalogs"
    found = mine_sequences("realestate10k", catalogs=catalogs, workers=1)
    assert found.rule == "chunk"
    used = np.concatenate(catalog.read_sequences("realestate10k", catalogs=catalogs).frames.tolist())
    assert sorted(used) == frames[(frames.split == "train") & (frames.status == "ok")].frame_id.tolist()


ODD = st.lists(st.sampled_from(["nan", "inf", "1e999", "-1", "7", "9" * 30]), min_size=19, max_size=19)
LINE = "1000000 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(
        st.one_of(
            st.just(LINE),
            st.just("https://example.org/watch?v=a"),
            st.text(max_size=40),
            st.builds(lambda at, what: LINE[:at] + what + LINE[at:], st.integers(0, len(LINE)), st.text(max_size=3)),
            ODD.map(" ".join),
        ),
        max_size=4,
    ),
    name=st.sampled_from(["1000000.png", "0000.png", "0001.png"]),
)
def test_any_text_gives_a_camera_or_a_reason(
    lines: list[str], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "any"
    shutil.rmtree(root, ignore_errors=True)
    write_picture(root / "train/00000000000000aa" / name)
    (root / "train/00000000000000aa.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    scene = Scene("train", "00000000000000aa", ("train/00000000000000aa.txt", "train/00000000000000aa"))
    (stream,) = realestate10k.read(Tree(root), scene)
    assert f"train/00000000000000aa/{name}" in stream.paths
    if stream.problem is None:
        assert stream.cameras is not None
        known = np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2))
        assert known.any()
        assert len(stream.cameras.model) == len(stream.paths)
    else:
        assert stream.problem == "bad_model"
        assert stream.detail
        assert stream.detail.startswith(("train/00000000000000aa.txt: ", "frame "))
