"""3D Street View: cameras made of places and angles hit what was rendered; torn archives and texts are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, geometry
from mumdata.datasets import Stream
from mumdata.datasets.streetview import read, scenes
from mumdata.demo.album import SIZES, build_place
from mumdata.demo.camera import Camera
from mumdata.demo.layouts import load
from mumdata.demo.render import picture
from mumdata.errors import LayoutError
from mumdata.index import index
from mumdata.schema import QUARANTINE
from mumdata.sequences import mine_sequences
from mumdata.tree import Tree

from .conftest import render, write_picture

# a text with made-up places and the numbers that follow from them on the sphere: distance over ground, heading, pitch.
# Its file would be 0000075_0038536_0000003_0006132: dataset, patch, street view, target, while line d begins with
# dataset, target, patch, street view.
SAMPLE = (
    "d 75 6132 38536 3 4.820710000000000e+01 1.636730000000000e+01 "
    "1.832500000000000e+02 -6.000000000000000e-01 -8.000000000000000e-01 0.000000000000000e+00 4.820701000000000e+01 "
    "1.636747000000000e+01 1.785000000000000e+02 1.608900201229432e+01 "
    "-5.153676650548444e+01 1.644832541031076e+01 0.000000000000000e+00\n"
)
RADIUS = 6_371_000.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("streetview") / "world"
    render("streetview", out)
    return out


@pytest.fixture(scope="module")
def catalogs(world: Path) -> Path:
    index("streetview", root=world / "streetview", catalogs=world / "catalogs", workers=1)
    return world / "catalogs"


@pytest.fixture(scope="module")
def frames(catalogs: Path) -> pd.DataFrame:
    return named(catalog.read_frames("streetview", catalogs=catalogs))


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `-` for the stream that has no name, so that rows can be grouped by it."""
    return table.assign(stream=table["stream"].astype(object).fillna("-"))


def stem(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".jpg")


def truth_of(world: Path, scene: str) -> dict[str, np.ndarray]:
    with np.load(world / f"truth/streetview/{scene}/0.npz") as file:
        return dict(file)


def matrix(row: pd.Series) -> np.ndarray:
    return np.asarray(row.cam_from_world, np.float64).reshape(3, 4)


def centre(cam_from_world: np.ndarray) -> np.ndarray:
    return -cam_from_world[:, :3].T @ cam_from_world[:, 3]


def earth_centred(latitude: float, longitude: float, height: float, level: float) -> np.ndarray:
    """A point outside the sphere that goes through the height `level`, in metres from its middle."""
    phi, lam = np.radians([latitude, longitude])
    up = np.array([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    return (RADIUS + height - level) * up


def east_north_up(point: list[float], origin: list[float]) -> np.ndarray:
    """A point's place on the sphere's tangent plane at `origin`: no formula of the code under test."""
    phi, lam = np.radians(origin[:2])
    east = np.array([-np.sin(lam), np.cos(lam), 0.0])
    north = np.array([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)])
    up = np.cross(east, north)
    far = earth_centred(*point, origin[2]) - earth_centred(*origin, origin[2])
    return np.array([east @ far, north @ far, up @ far])


def numbers(text: str) -> list[float]:
    """Target, street view, heading and pitch of line `d`, by their places in the documentation's list."""
    fields = [float(field) for field in text.splitlines()[0].split()[1:]]
    return fields[4:7] + fields[10:13] + fields[14:16]


def tree(root: Path, texts: dict[str, str | None], folder: str = "dataset_aligned/0075") -> Tree:
    """Pictures with their texts; None for a picture without."""
    for name, text in texts.items():
        write_picture(root / folder / f"{name}.jpg")
        if text is not None:
            (root / folder / f"{name}.txt").write_text(text)
    return Tree(root)


def only(found: Tree) -> Stream:
    (scene,) = scenes(found)
    (stream,) = read(found, scene)
    return stream


# ------------------------------------------------------------------------------------------------------------ listing


def test_each_rectangle_is_a_scene_and_each_set_a_stream(world: Path, catalogs: Path, frames: pd.DataFrame) -> None:
    found = catalog.read_scenes("streetview", catalogs=catalogs)
    assert list(zip(found.scene, found["stream"].astype(object).fillna("-"), found.num_frames, strict=True)) == [
        ("0002", "-", 27),
        ("0009", "-", 8),
        ("0009", "unaligned", 8),  # the same rectangle in the other set: a scene's name alone would be there twice
        ("0058", "unaligned", 9),
    ]
    assert found.split.isna().all()
    assert found.group.tolist() == found.scene.tolist()  # both sets of a rectangle stay together
    pictures = {path.relative_to(world / "streetview").as_posix() for path in world.glob("streetview/*/*/0*.jpg")}
    assert set(frames[frames.status == "ok"].path) == pictures
    assert frames.eval_of.isna().all()
    assert (frames.width.dropna() == 64).all()


def test_frames_come_by_number_and_views_of_a_target_follow_each_other(world: Path, frames: pd.DataFrame) -> None:
    for (scene, _), own in frames.groupby(["scene", "stream"], observed=True):
        names = [stem(path) for path in own.path]
        assert names == [str(name).removesuffix(".jpg") for name in truth_of(world, scene)["names"]]
        targets = [name.split("_")[3] for name in names]
        runs = [target for i, target in enumerate(targets) if i == 0 or target != targets[i - 1]]
        assert len(runs) == len(set(runs))
        assert 2 <= min(map(targets.count, runs)) <= max(map(targets.count, runs)) <= 7
        # naive: the second field as the target; it is the patch, different in every name
        assert len({name.split("_")[1] for name in names}) == len(names)


def test_order_is_numeric_where_numbers_are_not_padded(tmp_path: Path) -> None:
    """Naive: text order, where 10 comes before 9."""
    names = ["75_9_1_2", "75_10_2_2", "75_100_1_3"]
    assert sorted(names) != names
    stream = only(tree(tmp_path, dict.fromkeys(names, SAMPLE)))
    assert [stem(path) for path in stream.paths] == names


def test_what_an_archive_that_breaks_off_leaves_is_told(catalogs: Path, frames: pd.DataFrame) -> None:
    scene = catalog.read_scenes("streetview", catalogs=catalogs).set_index("scene").loc["0002"]
    assert scene.status == "partial_poses"
    assert scene.num_posed == 24
    assert "without text: 1" in scene.detail
    assert "unusable texts: 2, the first 0000002_0001011_" in scene.detail
    assert "1 missing" in scene.detail
    own = frames[frames.scene == "0002"]
    assert own.frame[own.status == "missing"].tolist() == [5]  # its text is there, and tells its camera
    assert own.frame[own.cam_from_world.isna()].tolist() == [9, 14, 20]
    bad = catalog.read(QUARANTINE, catalogs / "streetview/quarantine.parquet").to_pylist()
    assert sorted(row["reason"] for row in bad) == ["hidden", "missing"]


def test_mined_sequences_are_chunks_of_the_order(catalogs: Path, frames: pd.DataFrame) -> None:
    mined = mine_sequences("streetview", catalogs=catalogs, workers=1)
    assert mined.rule == "chunk"
    assert mined.options["chunk_size"] == 100
    found = named(catalog.read_sequences("streetview", catalogs=catalogs))
    usable = frames[frames.status == "ok"]
    for row in found.itertuples():
        own = usable[(usable.scene == row.scene) & (usable["stream"] == row.stream)]
        assert list(row.frames) == own.frame_id.tolist()
    assert found.num_frames.tolist() == [26, 8, 8, 9]


# ------------------------------------------------------------------------------------------------------------ cameras


def test_known_points_land_where_the_renderer_puts_them(world: Path, frames: pd.DataFrame) -> None:
    num = 0
    for (scene, _), own in frames.groupby(["scene", "stream"], observed=True):
        truth = truth_of(world, scene)
        for place, (_, row) in enumerate(own.iterrows()):
            if row.cam_from_world is None:
                continue
            true = truth["cam_from_world"][place]
            assert np.abs(centre(matrix(row)) - centre(true)).max() < 5e-3  # metres from the first target
            if row.status == "missing":
                continue
            points = truth["points"][truth["visible"][place]][:50]
            seen, depth = geometry.project(points, matrix(row), row.camera_model, row.intrinsics_px, row.distortion)
            expected, z = geometry.project(points, true, "PINHOLE", truth["intrinsics"][place], ())
            assert np.abs(seen - expected).max() < 0.01, row.path
            assert np.abs(depth - z).max() < 5e-3
            num += len(points)
    assert num > 1000


def test_the_target_is_in_the_middle_of_every_picture(world: Path, frames: pd.DataFrame) -> None:
    """Target and street view from the text on a sphere, by formulas of this file; heading and pitch by the catalog."""
    num = 0
    for _, own in frames.groupby(["scene", "stream"], observed=True):
        posed = own[own.cam_from_world.notna()]
        texts = [(world / "streetview" / path).with_suffix(".txt").read_text() for path in posed.path]
        origin = numbers(texts[0])[0:3]
        for (_, row), text in zip(posed.iterrows(), texts, strict=True):
            target, view = (east_north_up(numbers(text)[i : i + 3], origin) for i in (0, 3))
            assert np.abs(centre(matrix(row)) - view).max() < 5e-3
            if row.status == "missing":
                continue
            pixel, depth = geometry.project(target[None], matrix(row), "PINHOLE", row.intrinsics_px, ())
            assert np.abs(pixel - 32.0).max() < 0.01
            assert depth[0] == pytest.approx(np.linalg.norm(target - view), abs=5e-3)
            assert row.intrinsics_px[2:] == pytest.approx([32.0, 32.0])
            num += 1
    assert num == 23 + 8 + 8 + 9


def test_a_picture_rendered_with_the_catalogs_camera_is_the_stored_picture(world: Path, frames: pd.DataFrame) -> None:
    """Naive: the API's usual 90 degrees, the heading counted the other way, the pitch down."""
    album = load("streetview")(0, SIZES["tiny"]).albums[0]
    place, shift = build_place(album.place, album.seed), np.array(album.models[0].gauge.shift)
    truth = truth_of(world, "0002")
    names = [str(name).removesuffix(".jpg") for name in truth["names"]]

    def difference(row: pd.Series, cam_from_world: np.ndarray, focal: float) -> float:
        rotation = tuple(float(value) for value in cam_from_world[:, :3].reshape(-1))
        x, y, z = (float(value) for value in centre(cam_from_world) - shift)
        camera = Camera(64, 64, focal, *map(float, row.intrinsics_px[2:]), rotation, (x, y, z))  # type: ignore[arg-type]
        stored = cv2.imread(str(world / "streetview" / row.path))[:, :, ::-1]
        return float(np.abs(picture(place, camera).astype(float) - stored).mean())

    for _, row in frames[frames.scene == "0002"].iloc[[0, 8, 17]].iterrows():
        own, focal = matrix(row), float(row.intrinsics_px[0])
        right = difference(row, own, focal)
        true = truth["cam_from_world"][names.index(stem(row.path))]
        assert right < difference(row, true, focal) + 0.02  # the rest is what JPEG costs
        assert difference(row, own, 32.0) > 1.2 * right
        axis, at = own[2, :3], centre(own)
        for turned in (axis * [-1, 1, 1], axis * [1, 1, -1]):
            side = np.cross(turned, [0.0, 0.0, 1.0])
            side /= np.linalg.norm(side)
            rotation = np.stack([side, np.cross(turned, side), turned])
            assert difference(row, np.column_stack([rotation, -rotation @ at]), focal) > 3 * right


def test_a_text_fits_its_own_numbers(tmp_path: Path) -> None:
    """The conventions against spherical trigonometry: heading from north to the east, pitch up, ground distance."""
    stream = only(tree(tmp_path, {"0000075_0038536_0000003_0006132": SAMPLE}))
    assert stream.cameras is not None
    cam_from_world = stream.cameras.cam_from_world[0]
    fields = SAMPLE.split()
    distance, heading, pitch = (float(fields[i]) for i in (14, 15, 16))
    east, north, up = -centre(cam_from_world)  # the target is the origin
    assert np.hypot(east, north) == pytest.approx(distance, abs=1e-4)
    assert np.degrees(np.arctan2(east, north)) == pytest.approx(heading, abs=1e-3)
    assert np.degrees(np.arctan2(up, distance)) == pytest.approx(pitch, abs=1e-3)
    # in the camera the target lies ahead: x and y are 0
    assert np.abs(cam_from_world[:2, 3]).max() < 1e-4
    assert cam_from_world[2, 3] == pytest.approx(np.hypot(distance, up), abs=1e-3)
    # x is level and to the right of the axis, y points down
    assert cam_from_world[0, 2] == 0.0
    assert cam_from_world[1, 2] < 0.0
    np.testing.assert_allclose(cam_from_world[:, :3] @ cam_from_world[:, :3].T, np.eye(3), atol=1e-14)
    assert np.linalg.det(cam_from_world[:, :3]) == pytest.approx(1.0)


@pytest.mark.parametrize("latitude", [36.1, 52.4, -55.0])
@pytest.mark.parametrize(("north", "east"), [(5000, 0), (0, -5000), (3500, 3500), (-3500, 3500)])
def test_far_from_the_origin_it_is_still_nearly_right(
    tmp_path: Path, latitude: float, north: float, east: float
) -> None:
    """What the plain map projection leaves out, against the sphere: 0.15 per cent and 0.1 degrees at 5 km."""
    degree = RADIUS * np.pi / 180
    at = [latitude + north / degree, 4.9 + east / (degree * np.cos(np.radians(latitude))), 20.0]
    target = [at[0] + 30 / degree, at[1] + 20 / degree, 31.0]
    bearing, pitch = 27.123, 15.0

    def text(where: list[float]) -> str:
        values = [*target, 1.0, 0.0, 0.0, *where, 25.0, bearing, pitch, 0.0]
        return "d 75 1 1 1 " + " ".join(f"{value:.15e}" for value in values)

    origin = f"d 75 9 9 9 {latitude} 4.9 20.0 1 0 0 {latitude} 4.9 20.0 25 0 0 0"
    stream = only(tree(tmp_path, {"75_1_1_1": origin, "75_2_1_1": text(at)}))
    assert stream.cameras is not None
    found, true = stream.cameras.cam_from_world[1], east_north_up(at, [latitude, 4.9, 20.0])
    assert np.linalg.norm(centre(found) - true) < 0.0015 * 5000
    # the axis by the sphere: level directions at the camera itself, not at the origin
    phi, lam = np.radians(at[:2])
    ahead = np.array([-np.sin(lam), np.cos(lam), 0.0]) * np.sin(np.radians(bearing))
    ahead += np.array([-np.sin(phi) * np.cos(lam), -np.sin(phi) * np.sin(lam), np.cos(phi)]) * np.cos(
        np.radians(bearing)
    )
    here = earth_centred(*at, 20.0)
    on_sphere = here + 1000.0 * ahead
    phi0, lam0 = np.radians([latitude, 4.9])
    axes = np.array(
        [
            [-np.sin(lam0), np.cos(lam0), 0.0],
            [-np.sin(phi0) * np.cos(lam0), -np.sin(phi0) * np.sin(lam0), np.cos(phi0)],
        ]
    )
    sphere, flat = axes @ (on_sphere - here), found[2, :2]
    angle = np.degrees(np.arctan2(*sphere) - np.arctan2(*flat))
    assert abs(angle) < 0.1


# -------------------------------------------------------------------------------------------------------------- texts


def test_texts_may_hold_more_than_is_documented(tmp_path: Path) -> None:
    first = SAMPLE.strip()
    texts = {
        "75_1_1_1": SAMPLE,
        "75_2_1_1": f"{first} 17 18\r\na " + " ".join(["1.5"] * 57) + "\n",
        "75_3_1_1": f"a 1 2 3\n\n{first}\nz\n",
        "75_4_1_1": f"{first}\na nonsense",
    }
    stream = only(tree(tmp_path, dict(texts)))
    assert stream.problem is None
    assert stream.cameras is not None
    assert (stream.cameras.cam_from_world == stream.cameras.cam_from_world[0]).all()


BROKEN = [
    "",
    "\n\n",
    "d",
    "a 1 2 3\n",
    SAMPLE[:200],
    SAMPLE.replace("1.785000000000000e+02", "nan"),
    SAMPLE.replace("1.785000000000000e+02", "1e999"),
    SAMPLE.replace("4.820701000000000e+01", "north"),
    SAMPLE.replace("-5.153676650548444e+01", "-62360"),
    SAMPLE.replace("0.000000000000000e+00\n", "3.0\n"),  # a roll, whose sense nobody tells
    "\0" * 100,
    "d " + "9" * 5000,
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_text_costs_its_own_frame_alone(tmp_path: Path, text: str) -> None:
    stream = only(tree(tmp_path, {"75_1_1_1": text, "75_2_1_1": SAMPLE}))
    assert stream.problem == "partial_poses"
    assert "75_1_1_1.txt" in (stream.detail or "")
    assert stream.cameras is not None
    posed = np.isfinite(stream.cameras.cam_from_world).all(axis=(1, 2))
    assert posed.tolist() == [False, True]
    assert np.abs(stream.cameras.cam_from_world[1, :2, 3]).max() < 1e-4  # its own target is the origin


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(SAMPLE)))
def test_no_text_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz/dataset_aligned/0075"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "75_1_1_1.jpg").touch()
    (folder / "75_1_1_1.txt").write_bytes(SAMPLE[:at].encode() + junk + SAMPLE[at:].encode())
    stream = only(Tree(folder.parent.parent))
    assert stream.cameras is not None
    posed = bool(np.isfinite(stream.cameras.cam_from_world).all())
    assert posed == (stream.problem is None)
    assert posed or stream.detail


def test_without_texts_there_are_pictures_and_no_poses(tmp_path: Path) -> None:
    stream = only(tree(tmp_path, {"75_1_1_1": None, "75_2_1_1": None}))
    assert (stream.problem, len(stream.paths)) == ("no_model", 2)


# ------------------------------------------------------------------------------------------------------------ layouts


def test_one_set_alone_and_archives_unpacked_into_folders_of_their_own(world: Path, tmp_path: Path) -> None:
    source = world / "streetview/dataset_unaligned/0058"
    shutil.copytree(source, tmp_path / "one/0058")
    shutil.copytree(source, tmp_path / "own/dataset_unaligned/0058/0058")
    for root, stream, folder in (("one", None, "0058"), ("own", "unaligned", "dataset_unaligned/0058/0058")):
        found = only(Tree(tmp_path / root))
        assert found.stream == stream
        assert found.paths[0].rpartition("/")[0] == folder
        assert len(found.paths) == 9
        assert found.problem is None
    with pytest.raises(LayoutError, match="does not look like streetview"):
        scenes(Tree(source))


def test_an_empty_folder_is_a_row_and_odd_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_aligned/0003").mkdir(parents=True)
    found = tree(tmp_path, {"75_1_1_1": SAMPLE})
    write_picture(tmp_path / "dataset_aligned/0075/cover.jpg")
    (tmp_path / "dataset_aligned/0075/Readme.txt").write_text("x")
    (tmp_path / "dataset_aligned/readme").mkdir()
    empty, full = (read(found, scene)[0] for scene in scenes(found))
    assert empty.problem == "empty"
    assert len(full.paths) == 1
    assert {path.rpartition("/")[2]: why for path, why, _ in full.ignored} == {
        "cover.jpg": "unexpected_name",
        "Readme.txt": "unexpected_name",
    }


def test_archives_known_to_be_damaged_are_doubted_not_dropped(tmp_path: Path) -> None:
    """0075 is damaged in the unaligned set alone; its files that can be read stay."""
    for which in ("aligned", "unaligned"):
        tree(tmp_path / "r", {"75_1_1_1": SAMPLE}, f"dataset_{which}/0075")
    index("streetview", root=tmp_path / "r", catalogs=tmp_path / "c", workers=1)
    assert (catalog.read_frames("streetview", catalogs=tmp_path / "c").status == "ok").all()
    found = catalog.read_scenes("streetview", catalogs=tmp_path / "c")
    assert found["stream"].astype(object).fillna("-").tolist() == ["-", "unaligned"]
    assert pd.isna(found.detail[0])
    assert "checksum" in found.detail[1]
