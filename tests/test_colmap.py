"""Sparse models: equal to what COLMAP reads, and refused in one line where the files make no sense."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mumdata.colmap import Model, is_model, read_model
from mumdata.colmap import binary as colmap_binary
from mumdata.colmap import model as colmap
from mumdata.colmap import tracks as colmap_tracks
from mumdata.errors import ModelError
from mumdata.geometry import (
    CAMERA_MODELS,
    NUM_PARAMS,
    intrinsics_from_params,
    project,
    rotation_from_quaternion,
    scale_intrinsics,
)
from mumdata.tree import Tree

PARAMS: dict[str, list[float]] = {
    "SIMPLE_PINHOLE": [500.0, 310.0, 250.0],
    "PINHOLE": [500.0, 520.0, 310.0, 250.0],
    "SIMPLE_RADIAL": [500.0, 310.0, 250.0, 0.05],
    "RADIAL": [500.0, 310.0, 250.0, 0.05, -0.01],
    "OPENCV": [500.0, 520.0, 310.0, 250.0, 0.05, -0.01, 0.002, -0.003],
    "FULL_OPENCV": [500.0, 520.0, 310.0, 250.0, 0.05, -0.01, 0.002, -0.003, 0.01, 0.02, -0.01, 0.003],
    "OPENCV_FISHEYE": [500.0, 520.0, 310.0, 250.0, 0.05, -0.01, 0.002, -0.003],
    "SIMPLE_RADIAL_FISHEYE": [500.0, 310.0, 250.0, 0.05],
    "RADIAL_FISHEYE": [500.0, 310.0, 250.0, 0.05, -0.01],
}


def assert_equal_models(left: Model, right: Model) -> None:
    """All fields but where the model lies and the bytes that were read, arrays with their types."""
    for field in fields(Model):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        elif field.name not in ("bytes_read", "folder"):
            assert one == other, field.name


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = 3
    yield
    pycolmap.logging.minloglevel = before


def synthetic(model: str = "SIMPLE_RADIAL", cameras_per_rig: int = 1) -> pycolmap.Reconstruction:
    """A small scene whose points are seen by a few images each; images are renamed to awkward names."""
    pycolmap.set_random_seed(7)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, cameras_per_rig, 4
    options.num_points3D, options.track_length = 60, 3
    options.camera_width, options.camera_height = 640, 480
    options.camera_model_id = getattr(pycolmap.CameraModelId, model)
    options.camera_params = PARAMS[model]
    scene = pycolmap.synthesize_dataset(options)
    for number, image_id in enumerate(sorted(scene.images)):
        scene.images[image_id].name = f"côté {number}/Iron Pillar, ({number})  b.jpg"
    return scene


def write(scene: pycolmap.Reconstruction, folder: Path, kind: str) -> Path:
    folder.mkdir(exist_ok=True)
    (scene.write_binary if kind == "bin" else scene.write_text)(str(folder))
    return folder


def assert_equals_colmap(model: Model, scene: pycolmap.Reconstruction) -> None:
    assert sorted(model.image_ids.tolist()) == sorted(scene.images)
    assert sorted(model.point_ids.tolist()) == sorted(scene.points3D)
    for row, image_id in enumerate(model.image_ids.tolist()):
        image = scene.images[image_id]
        camera = scene.cameras[image.camera_id]
        assert model.names[row] == image.name.encode()
        assert model.camera_model[row] == camera.model.name
        assert model.camera_size[row].tolist() == [camera.width, camera.height]
        intrinsics = [camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y]
        assert model.intrinsics[row].tolist() == intrinsics
        assert list(model.distortion[row]) == [camera.params[i] for i in camera.extra_params_idxs()]
        np.testing.assert_allclose(model.cam_from_world[row], image.cam_from_world().matrix(), atol=1e-12)
        seen = {keypoint.point3D_id for keypoint in image.points2D if keypoint.has_point3D()}
        observed = model.point_of[model.image_of == row]
        assert set(model.point_ids[observed].tolist()) == seen
        assert model.num_points[row] == len(observed) == len(seen)
    for row, point_id in enumerate(model.point_ids.tolist()):
        assert model.points[row].tolist() == scene.points3D[point_id].xyz.tolist()
    assert model.num_repeated + len(model.image_of) == scene.compute_num_observations()
    order = list(zip(model.image_of.tolist(), model.point_of.tolist(), strict=True))
    assert order == sorted(set(order))
    assert model.frame_of is not None
    assert model.rig_of is not None
    for row, image_id in enumerate(model.image_ids.tolist()):
        frame = scene.frames[scene.images[image_id].frame_id]
        assert (model.frame_of[row], model.rig_of[row]) == (frame.frame_id, frame.rig_id)


@pytest.mark.parametrize("kind", ["bin", "txt"])
@pytest.mark.parametrize("camera_model", sorted(PARAMS))
def test_models_equal_colmaps(tmp_path: Path, camera_model: str, kind: str) -> None:
    scene = synthetic(camera_model)
    folder = write(scene, tmp_path / "m", kind)
    assert_equals_colmap(read_model(folder), scene)
    if kind == "bin":  # from text COLMAP cuts names at the first space
        assert_equals_colmap(read_model(folder, check_tracks=True), pycolmap.Reconstruction(str(folder)))


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_rigs_of_several_cameras_equal_colmaps(tmp_path: Path, kind: str) -> None:
    scene = synthetic(cameras_per_rig=3)
    folder = write(scene, tmp_path / "m", kind)
    assert (folder / f"rigs.{kind}").is_file()
    assert (folder / f"frames.{kind}").is_file()
    assert len({image.camera_id for image in scene.images.values()}) == 6
    assert_equals_colmap(read_model(folder), scene)  # not reread: COLMAP cuts names in text files at the first space


def test_binary_is_preferred_where_complete_else_text(tmp_path: Path) -> None:
    folder = write(synthetic(), tmp_path / "m", "bin")
    write(synthetic(), folder, "txt")
    (folder / "images.txt").write_text("nonsense\n")
    (folder / "project.ini").write_text("log_to_stderr=false\n")
    assert len(read_model(folder).names) == 8
    (folder / "images.bin").unlink()
    assert is_model(folder)
    with pytest.raises(ModelError, match=r"images\.txt, line 1: "):
        read_model(folder)
    (folder / "points3D.txt").unlink()
    assert not is_model(folder)
    with pytest.raises(ModelError, match=r"images\.bin missing"):
        read_model(folder)
    with pytest.raises(ModelError, match="no complete model"):
        read_model(tmp_path / "nowhere")


CAMERAS_TXT = "# a comment\n1 PINHOLE 640 480 500 510 320 240\n\n2 SIMPLE_RADIAL 320 240 250 160 120 0.1\n"
IMAGES_TXT = (
    "# IMAGE_ID, ...\n"
    "7 1 0 0 0 0 0 0 1 a b  c.jpg\n"
    "1 2 20 3 4 20 5 6 10 7 8 -1\n"
    "3 2 0 0 0 1 2 3 2 sub/ünï.jpg\n"
    "\n"
    "5 0.5 0.5 0.5 0.5 0 0 1 1 last.png\n"
    "1 1 10 2 2 -1\n"
)
POINTS_TXT = "# POINT3D_ID, ...\n20 1 2 3 9 9 9 0.5 7 0 7 1\n10 4 5 6 9 9 9 0.5 7 2 5 0\n30 7 8 9 9 9 9 0.5 5 1\n"


def write_text(folder: Path, cameras: str = CAMERAS_TXT, images: str = IMAGES_TXT, points: str = POINTS_TXT) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_by_hand(tmp_path: Path, end: str) -> None:
    texts = (text.replace("\n", end) for text in (CAMERAS_TXT, IMAGES_TXT, POINTS_TXT))
    model = read_model(write_text(tmp_path / "m", *texts))
    assert model.names == (b"a b  c.jpg", "sub/ünï.jpg".encode(), b"last.png")
    assert model.image_ids.tolist() == [7, 3, 5]
    assert model.point_ids.tolist() == [20, 10, 30]
    # point 20 is seen twice by image 7; keypoint 1 of image 5 says -1, its track says 30: COLMAP follows the track
    assert (model.image_of.tolist(), model.point_of.tolist()) == ([0, 0, 2, 2], [0, 1, 1, 2])
    assert model.num_repeated == 1
    assert model.num_points.tolist() == [2, 0, 2]
    assert model.camera_model == ("PINHOLE", "SIMPLE_RADIAL", "PINHOLE")
    assert model.distortion == ((), (0.1,), ())
    assert model.intrinsics[1].tolist() == [250.0, 250.0, 160.0, 120.0]
    assert model.cam_from_world[1].tolist() == [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]]  # quaternion of length 2
    assert model.cam_from_world[2].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]]  # x -> y -> z -> x


def test_last_keypoint_line_may_be_missing(tmp_path: Path) -> None:
    images = "3 1 0 0 0 1 2 3 2 only.jpg"
    assert read_model(write_text(tmp_path / "m", images=images, points="")).names == (b"only.jpg",)


def binary(folder: Path, name: bytes = b"x.jpg", num_keypoints: int = 2, point_id: int = 4) -> Path:
    """One camera, two images, one point that the first image sees twice, written byte by byte."""
    folder.mkdir(exist_ok=True)
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ3d", 1, 1, 0, 640, 480, 500.0, 320.0, 240.0))
    images = struct.pack("<Q", 2)
    for image_id, some in ((1, name), (2, b"y.jpg")):
        images += struct.pack("<I7dI", image_id, 1, 0, 0, 0, 0, 0, 0, 1) + some + b"\0"
        images += struct.pack("<Q", num_keypoints) + struct.pack("<ddQ", 1.0, 2.0, point_id) * 2
    (folder / "images.bin").write_bytes(images)
    points = struct.pack("<QQ3d3BdQ6I", 1, 4, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 3, 1, 0, 1, 1, 2, 0)
    (folder / "points3D.bin").write_bytes(points)
    return folder


def test_names_are_raw_bytes(tmp_path: Path) -> None:
    model = read_model(binary(tmp_path / "m", name=b"caf\xe9 \xff.jpg"))
    assert model.names == (b"caf\xe9 \xff.jpg", b"y.jpg")
    assert (model.image_of.tolist(), model.point_of.tolist(), model.num_repeated) == ([0, 1], [0, 0], 1)


@pytest.mark.parametrize("point_id", [5, 2**64 - 1, 2**63])
def test_what_keypoints_say_counts_where_tracks_are_checked(tmp_path: Path, point_id: int) -> None:
    """Both keypoints of image 1 and one of image 2 are in the track of point 4; the other names a point all alone."""
    folder = binary(tmp_path / "m", point_id=point_id)
    assert read_model(folder).image_of.tolist() == [0, 1]
    num, said = (3, "no point") if point_id == 2**64 - 1 else (4, f"point {point_id}")
    message = (
        rf"images\.bin and points3D\.bin disagree about {num} keypoints, the first of them keypoint 0 of image 1, "
        rf"which belongs to {said} there and to point 4 here; copy"
    )
    with pytest.raises(ModelError, match=message):
        read_model(folder, check_tracks=True)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_tracks_are_checked_both_ways(tmp_path: Path, kind: str) -> None:
    scene = synthetic(cameras_per_rig=2)
    folder = write(scene, tmp_path / "m", kind)
    assert_equal_models(read_model(folder, check_tracks=True), read_model(folder))
    image = scene.images[min(scene.images)]
    free = next(number for number, keypoint in enumerate(image.points2D) if not keypoint.has_point3D())
    taken = next(number for number, keypoint in enumerate(image.points2D) if keypoint.has_point3D())
    point_id = image.points2D[taken].point3D_id

    def disagrees(what: str) -> None:
        write(scene, folder, kind)
        read_model(folder)
        with pytest.raises(ModelError, match=rf"disagree about 1 keypoint, the first of them keypoint {what}; copy"):
            read_model(folder, check_tracks=True)

    image.points2D[free].point3D_id = point_id  # a keypoint that names a point whose track does not hold it
    disagrees(f"{free} of image {image.image_id}, which belongs to point {point_id} there and to no point here")
    image.points2D[free].point3D_id = 2**64 - 1
    image.points2D[taken].point3D_id = 2**64 - 1  # a track with a keypoint that names no point
    disagrees(f"{taken} of image {image.image_id}, which belongs to no point there and to point {point_id} here")


@pytest.mark.parametrize("check_tracks", [False, True])
def test_a_keypoint_of_two_points_is_refused_always(tmp_path: Path, check_tracks: bool) -> None:
    folder = binary(tmp_path / "m")
    points = struct.pack("<QQ3d3BdQ2I", 2, 4, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 1, 1, 0)
    points += struct.pack("<Q3d3BdQ4I", 7, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 2, 2, 0, 1, 0)
    (folder / "points3D.bin").write_bytes(points)
    with pytest.raises(ModelError, match="keypoint 0 of image 1 does not belong to point 7 alone"):
        read_model(folder, check_tracks=check_tracks)
    # the same keypoint twice in one track is one observation
    points = struct.pack("<QQ3d3BdQ4I", 1, 4, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 2, 2, 1, 2, 1)
    (folder / "points3D.bin").write_bytes(points)
    model = read_model(folder)
    assert (model.image_of.tolist(), model.point_of.tolist(), model.num_repeated) == ([1], [0], 1)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_models_without_images_or_points_are_legal(tmp_path: Path, kind: str) -> None:
    model = read_model(write(pycolmap.Reconstruction(), tmp_path / "m", kind))
    assert (model.names, len(model.points), len(model.image_of)) == ((), 0, 0)
    assert model.cam_from_world.shape == (0, 3, 4)
    assert model.camera_size.shape == (0, 2)
    assert model.num_points.shape == (0,)
    no_points = read_model(write_text(tmp_path / "n", points="")) if kind == "txt" else None
    if no_points is not None:
        assert no_points.num_points.tolist() == [0, 0, 0]


BROKEN_TEXT = {
    "unknown camera of an image": ("images", "3 2 0 0 0 1 2 3 2 sub", "3 2 0 0 0 1 2 3 9 sub", "names camera 9"),
    "image id twice": ("images", "3 2 0 0 0", "7 2 0 0 0", "image id 7 occurs twice"),
    "camera id twice": ("cameras", "2 SIMPLE_RADIAL", "1 SIMPLE_RADIAL", "camera id 1 occurs twice"),
    "point id twice": ("points", "30 7 8 9", "10 7 8 9", "point id 10 occurs twice"),
    "unknown camera model": ("cameras", "SIMPLE_RADIAL", "SIMPLE_RADAR", "unknown camera model 'SIMPLE_RADAR'"),
    "too few parameters": ("cameras", " 0.1", "", "has 4 parameters, not 3"),
    "no size": ("cameras", "640 480", "0 480", "has the size"),
    "infinite parameter": ("cameras", " 0.1", " inf", "not finite"),
    "zero quaternion": ("images", "3 2 0 0 0", "3 0 0 0 0", "zero quaternion"),
    "infinite quaternion": ("images", "3 2 0 0 0", "3 1e999 0 0 0", "not finite"),
    "translation that is no number": ("images", "1 2 3 2 sub", "1 nan 3 2 sub", "not finite"),
    "track of an unknown image": ("points", "7 2 5 0", "7 2 6 0", "names image 6"),
    "keypoint out of range": ("points", "0.5 5 1", "0.5 5 2", "names keypoint 2 of image 5, which has 2"),
    "negative keypoint": ("points", "0.5 5 1", "0.5 5 -1", r"points3D\.txt, line 4: the track names keypoint -1"),
    "image beyond 32 bits": ("points", "0.5 5 1", "0.5 4294967296 1", "line 4: the track names image 4294967296"),
    "image beyond 64 bits": ("points", "7 2 5 0", "7 2 99999999999999999999 0", "line 3: the track names image 9999"),
    "keypoint that is no integer": ("points", "7 2 5 0", "7 2.5 5 0", r"line 3: the track names keypoint 2\.5"),
    "point of a keypoint beyond 64 bits": ("images", "4 20 5", "4 99999999999999999999 5", r"images\.txt, line 3"),
    "point of a keypoint that is no integer": ("images", "4 20 5", "4 2.5 5", r"images\.txt, line 3"),
    "keypoint of two points": ("points", "0.5 5 1", "0.5 5 0", "does not belong to point"),
    "commas": ("images", "7 1 0 0 0 0 0 0 1 a", "7, 1, 0, 0, 0, 0, 0, 0, 1, a", r"images\.txt, line 2"),
    "no name": ("images", "1 last.png", "1", r"images\.txt, line 6"),
    "torn keypoints": ("images", "7 8 -1", "7 8", r"images\.txt, line 3"),
    "torn track": ("points", "0.5 5 1", "0.5 5", r"points3D\.txt, line 4"),
    "id beyond 64 bits": ("points", "30 7 8", "99999999999999999999 7 8", r"points3D\.txt, line 4"),
}


@pytest.mark.parametrize("what", sorted(BROKEN_TEXT))
def test_broken_text_is_refused(tmp_path: Path, what: str) -> None:
    file, old, new, message = BROKEN_TEXT[what]
    texts = {"cameras": CAMERAS_TXT, "images": IMAGES_TXT, "points": POINTS_TXT}
    assert texts[file].count(old) == 1
    texts[file] = texts[file].replace(old, new)
    with pytest.raises(ModelError, match=message) as caught:
        read_model(write_text(tmp_path / "m", **texts))
    assert "\n" not in str(caught.value)


def test_broken_binary_is_refused(tmp_path: Path) -> None:
    def refused(file: str, at: int, new: bytes, message: str) -> None:
        folder = binary(tmp_path / "m")
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[:at] + new + data[at + len(new) :])
        with pytest.raises(ModelError, match=message):
            read_model(folder)

    refused("points3D.bin", 0, struct.pack("<Q", 5_000_000), r"promises 5000000 points, the file holds at most 1; copy")
    refused("points3D.bin", 0, struct.pack("<Q", 0), "holds 75 bytes after the last of the points")
    refused("points3D.bin", 51, struct.pack("<Q", 2**61), "the track of point 0 leaves the file")
    refused("points3D.bin", 8, struct.pack("<Q", 2**64 - 1), "point id")
    refused("images.bin", 0, struct.pack("<Q", 2**64 - 1), "promises 18446744073709551615 images")
    refused("images.bin", 0, struct.pack("<Q", 3), "bytes of an image|promises 3 images")
    refused("images.bin", 72, b"z" * 400, "does not end")
    refused("images.bin", 78, struct.pack("<Q", 2**40), "keypoints in image 1")
    refused("cameras.bin", 12, struct.pack("<i", 99), "unknown model id 99")
    refused("cameras.bin", 12, struct.pack("<i", -1), "unknown model id -1")
    refused("cameras.bin", 12, struct.pack("<i", 6), "bytes of camera parameters")
    refused("cameras.bin", 16, struct.pack("<Q", 2**40), "has the size")
    for file in ("cameras.bin", "images.bin", "points3D.bin"):
        folder = binary(tmp_path / "m")
        (folder / file).write_bytes(b"")
        with pytest.raises(ModelError, match="has 0 bytes"):
            read_model(folder)
        folder = binary(tmp_path / "m")
        with open(folder / file, "ab") as out:
            out.write(b"more")
        with pytest.raises(ModelError, match="holds 4 bytes after"):
            read_model(folder)


@dataclass(frozen=True)
class Plain:
    """A model as plain lists: images as (id, number of keypoints), points as (id, track of (image id, keypoint))."""

    images: list[tuple[int, int]]
    points: list[tuple[int, list[tuple[int, int]]]]

    def write(self, folder: Path, kind: str) -> Path:
        """Write it with one camera; keypoints name the points whose tracks hold them."""
        folder.mkdir(exist_ok=True)
        owner = {element: point_id for point_id, track in self.points for element in track}
        named = {
            image_id: [owner.get((image_id, keypoint), -1) for keypoint in range(num)] for image_id, num in self.images
        }
        if kind == "txt":
            (folder / "cameras.txt").write_text("3 PINHOLE 640 480 500 510 320 240\n")
            images = [
                f"{image_id} 1 0 0 0 0 0 0 3 {image_id}.jpg\n" + " ".join(f"0.5 1e2 {one}" for one in named[image_id])
                for image_id, _ in self.images
            ]
            (folder / "images.txt").write_text("\n".join([*images, ""]))
            points = [
                f"{point_id} 1 2 3 4 5 6 0.1 " + " ".join(f"{image_id} {keypoint}" for image_id, keypoint in track)
                for point_id, track in self.points
            ]
            (folder / "points3D.txt").write_text("\n".join([*points, ""]))
            return folder
        (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 3, 1, 640, 480, 500.0, 510.0, 320.0, 240.0))
        blocks = [struct.pack("<Q", len(self.images))]
        for image_id, num in self.images:
            blocks.append(struct.pack("<I7dI", image_id, 1, 0, 0, 0, 0, 0, 0, 3) + f"{image_id}.jpg".encode() + b"\0")
            blocks.append(struct.pack("<Q", num))
            blocks += [struct.pack("<ddq", 0.5, 1e2, one) for one in named[image_id]]
        (folder / "images.bin").write_bytes(b"".join(blocks))
        data = struct.pack("<Q", len(self.points))
        for point_id, track in self.points:
            data += struct.pack("<Q3d3BdQ", point_id, 1, 2, 3, 4, 5, 6, 0.1, len(track))
            data += b"".join(struct.pack("<II", *element) for element in track)
        (folder / "points3D.bin").write_bytes(data)
        return folder

    def observations(self) -> list[tuple[int, int]]:
        row_of = {image_id: row for row, (image_id, _) in enumerate(self.images)}
        return sorted({(row_of[image_id], row) for row, (_, track) in enumerate(self.points) for image_id, _ in track})


@st.composite
def plain_models(draw: st.DrawFn) -> Plain:
    ids = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))
    image_ids = draw(st.lists(ids, max_size=6, unique=True))
    images = [(image_id, draw(st.integers(0, 5))) for image_id in image_ids]
    free = draw(st.permutations([(image_id, keypoint) for image_id, num in images for keypoint in range(num)]))
    point_ids = draw(st.lists(st.integers(0, 2**63 - 1), max_size=8, unique=True))
    points = []
    for point_id in point_ids:
        length = draw(st.integers(0, 4))
        points.append((point_id, free[:length]))
        free = free[length:]
    return Plain(images, points)


def compiled_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colmap_binary, "_walked", colmap_binary._WORTH_LOADING)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(plain=plain_models())
def test_observations_equal_their_definition(tmp_path: Path, plain: Plain) -> None:
    for kind in ("bin", "txt"):
        folder = plain.write(tmp_path / kind, kind)
        model = read_model(folder, check_tracks=True)
        assert list(zip(model.image_of.tolist(), model.point_of.tolist(), strict=True)) == plain.observations()
        assert model.image_ids.tolist() == [image_id for image_id, _ in plain.images]
        assert model.point_ids.tolist() == [point_id for point_id, _ in plain.points]
        assert model.num_repeated == sum(len(track) for _, track in plain.points) - len(plain.observations())
        counts = [sum(row == image for image, _ in plain.observations()) for row in range(len(plain.images))]
        assert model.num_points.tolist() == counts
        assert (model.image_of.dtype, model.point_of.dtype, model.num_points.dtype) == (np.int32, np.int32, np.int32)
        with pytest.MonkeyPatch.context() as monkeypatch:
            compiled_walk(monkeypatch)
            assert_equal_models(read_model(folder), model)


def test_ways_of_looking_up_and_sorting_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image ids by table or bisection, rows of 16 bits or more: by the number of images, with one result."""
    folder = write(synthetic(), tmp_path / "m", "bin")
    expected = read_model(folder)
    monkeypatch.setattr(colmap_tracks, "_TABLE", 0)
    monkeypatch.setattr(colmap_tracks, "_TABLE_PER_IMAGE", 0)
    assert_equal_models(read_model(folder), expected)
    for stranger in (0, 3, 2**32 - 1):
        broken = binary(tmp_path / "stranger")
        points = struct.pack("<QQ3d3BdQ2I", 1, 4, 1.0, 2.0, 3.0, 1, 2, 3, 0.5, 1, stranger, 0)
        (broken / "points3D.bin").write_bytes(points)
        for table in (0, 1 << 16):
            monkeypatch.setattr(colmap_tracks, "_TABLE", table)
            with pytest.raises(ModelError, match=f"a track names image {stranger}, which is not in images"):
                read_model(broken)
    random = np.random.default_rng(0)
    wide = random.integers(200_000, size=5000)
    wide[::2] = wide[1::2] ^ 0x10000  # equal in the low 16 bits
    assert colmap_tracks._stable_order(wide).tolist() == np.argsort(wide, kind="stable").tolist()
    many = Plain(
        [(2 * number + 1, number % 3) for number in range(66_000)], [(1, [(131_999, 1), (3, 0), (131_999, 0)])]
    )
    many = replace(many, images=[*many.images[:-1], (131_999, 2)])
    model = read_model(many.write(tmp_path / "many", "bin"))
    assert list(zip(model.image_of.tolist(), model.point_of.tolist(), strict=True)) == [(1, 0), (65_999, 0)]


def test_the_compiled_walk_is_used_where_it_pays_and_equals_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mumdata.kernels import colmap as kernel

    folder = write(synthetic(), tmp_path / "m", "bin")
    monkeypatch.setattr(colmap_binary, "_walked", 0)
    expected = read_model(folder)
    assert colmap_binary._walked == len(expected.points) == 60
    calls = []
    monkeypatch.setattr(
        kernel, "walk", lambda *arrays, walk=kernel.walk: (calls.append(len(arrays[1])), walk(*arrays))[1]
    )
    monkeypatch.setattr(colmap_binary, "_WORTH_LOADING", 120)
    assert_equal_models(read_model(folder), expected)
    assert calls == [61]
    path = folder / "points3D.bin"
    whole = path.read_bytes()
    second = 51 + 8 * struct.unpack_from("<Q", whole, 8 + 43)[0]  # where the second record starts, less 8
    broken = [whole[:end] for end in (8, 58, 59, 60, 8 + second, 9 + second, 58 + second, 59 + second, len(whole) - 1)]
    for length in (2**61, 2**63, 2**64 - 1, 2**32, 10**4, 4, 2):
        broken.append(whole[: 8 + 43 + second] + struct.pack("<Q", length) + whole[8 + 51 + second :])
    for data in broken:
        path.write_bytes(data)
        monkeypatch.setattr(colmap_binary, "_WORTH_LOADING", 0)
        with pytest.raises(ModelError) as compiled:
            read_model(folder)
        monkeypatch.setattr(colmap_binary, "_WORTH_LOADING", 10**9)
        with pytest.raises(ModelError) as plain:
            read_model(folder)
        assert str(compiled.value) == str(plain.value)
    assert len(calls) > 8


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_models_in_zip_files_are_read_in_place(tmp_path: Path, kind: str, packing: int) -> None:
    scene = synthetic(cameras_per_rig=2)
    folder = write(scene, tmp_path / "plain", kind)
    (tmp_path / "root").mkdir()
    with zipfile.ZipFile(tmp_path / "root" / "scene.zip", "w", packing) as archive:
        for path in folder.iterdir():
            archive.write(path, f"sparse/0/{path.name}")
    tree = Tree(tmp_path / "root", ("*.zip",))
    assert is_model("sparse/0", tree)
    model = read_model("sparse/0", tree, check_tracks=True)
    assert_equals_colmap(model, scene)
    assert model.bytes_read == model.bytes_total == sum(path.stat().st_size for path in folder.iterdir())
    assert_equal_models(model, read_model(folder))


def test_keypoints_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the keypoint blocks does not matter, and is not counted as read, until tracks are checked."""
    folder = write(synthetic(), tmp_path / "m", "bin")
    expected = read_model(folder)
    images = (folder / "images.bin").read_bytes()
    total = sum((folder / f"{part}.bin").stat().st_size for part in ("cameras", "images", "points3D", "rigs", "frames"))
    assert expected.bytes_total == expected.bytes_read == total  # so small a file is read at once
    monkeypatch.setattr(colmap, "_MOST_COPIED", {"images": 0})
    mapped = read_model(folder)
    assert_equal_models(mapped, expected)
    names = sum(len(name) + 1 for name in mapped.names)
    others = total - len(images)
    assert mapped.bytes_read == others + 8 + 8 * (4 + 56 + 4 + 8) + names
    assert read_model(folder, check_tracks=True).bytes_read == total
    monkeypatch.setattr(colmap_binary, "_SPARSE", 0)  # the system is told not to read ahead
    assert_equal_models(read_model(folder), expected)
    broken, position = bytearray(images), 8
    for name in expected.names:
        position += 64 + len(name) + 1
        (num,) = struct.unpack_from("<Q", images, position)
        broken[position + 8 : position + 8 + 24 * num] = b"\xa5" * (24 * num)
        position += 8 + 24 * num
    (folder / "images.bin").write_bytes(broken)
    assert_equal_models(read_model(folder), expected)
    with pytest.raises(ModelError, match="disagree about"):
        read_model(folder, check_tracks=True)


RIGS_TXT = "# rigs\n1 2 CAMERA 1 CAMERA 2 1 0.5 0.5 0.5 0.5 1 2 3\n4 1 CAMERA 1\n"
FRAMES_TXT = "# frames\n9 1 1 0 0 0 0 0 0 2 CAMERA 2 3 CAMERA 1 7\n2 4 1 1 1 1 0 0 1 1 CAMERA 1 5\n"
# image 3 is where camera 2 of rig 1 is: its x is the rig's y, and so on, then moved by 1, 2, 3
RIG_IMAGES_TXT = IMAGES_TXT.replace("3 2 0 0 0 1 2 3 2", "3 0.5 0.5 0.5 0.5 1 2 3 2")


def write_rigs(folder: Path, rigs: str = RIGS_TXT, frames: str = FRAMES_TXT, images: str = RIG_IMAGES_TXT) -> Path:
    write_text(folder, images=images)
    (folder / "rigs.txt").write_text(rigs)
    (folder / "frames.txt").write_text(frames)
    return folder


def test_rigs_by_hand(tmp_path: Path) -> None:
    model = read_model(write_rigs(tmp_path / "m"))
    assert model.image_ids.tolist() == [7, 3, 5]
    assert model.frame_of is not None
    assert model.rig_of is not None
    assert (model.frame_of.tolist(), model.rig_of.tolist()) == ([9, 9, 2], [1, 1, 4])
    assert (model.frame_of.dtype, model.rig_of.dtype) == (np.int64, np.int64)
    model = read_model(write_text(tmp_path / "without"))
    assert (model.frame_of, model.rig_of) == (None, None)


def test_sensors_without_a_pose_and_other_kinds_of_sensors_are_legal(tmp_path: Path) -> None:
    """The pose of an image cannot be compared where its sensor's is not known; an IMU takes no images."""
    rigs = "1 4 CAMERA 1 IMU 2 0 CAMERA 2 0 IMU 7 1 1 0 0 0 0 0 0\n4 1 CAMERA 1\n5 0\n6 1 IMU 1\n"
    frames = FRAMES_TXT.replace("2 CAMERA 2 3", "4 IMU 2 3 IMU 7 99999999999 CAMERA 2 3") + "8 6 1 0 0 0 0 0 0 0\n"
    folder = write_rigs(tmp_path / "m", rigs, frames, IMAGES_TXT)
    text = read_model(folder)
    assert text.frame_of is not None
    assert text.frame_of.tolist() == [9, 9, 2]
    scene = synthetic(cameras_per_rig=3)
    imu = pycolmap.sensor_t(pycolmap.SensorType.IMU, 1000)
    for rig in scene.rigs.values():
        rig.add_sensor(imu, None)
        rig.add_sensor(pycolmap.sensor_t(pycolmap.SensorType.IMU, 1001), pycolmap.Rigid3d())
    for frame in scene.frames.values():
        frame.add_data_id(pycolmap.data_t(imu, 2**31 + frame.frame_id))
    for kind in ("bin", "txt"):
        folder = write(scene, tmp_path / f"imu_{kind}", kind)
        assert_equals_colmap(read_model(folder), scene)
    with_pose = (folder / "rigs.txt").read_text().split("\n")
    unknown = []
    for line in with_pose:
        parts = line.split()
        if line and not line.startswith("#") and (at := parts.index("CAMERA", 4)) and parts[at + 2] == "1":
            line = " ".join([*parts[: at + 2], "0", *parts[at + 10 :]])
        unknown.append(line)
    assert unknown != with_pose
    (folder / "rigs.txt").write_text("\n".join(unknown))
    assert_equals_colmap(read_model(folder), scene)


FRAME_9 = "9 1 1 0 0 0 0 0 0 2 CAMERA 2 3 CAMERA 1 7"
BROKEN_RIGS = {
    "rig twice": ("rigs", "4 1 CAMERA 1", "1 1 CAMERA 1", r"rigs\.txt: rig id 1 occurs twice"),
    "sensor twice": ("rigs", "CAMERA 2 1", "CAMERA 1 1", "rig 1 lists a sensor twice"),
    "camera that is not there": ("rigs", "4 1 CAMERA 1", "4 2 CAMERA 1 CAMERA 9 0", "rig 4 names camera 9"),
    "too few sensors": ("rigs", "1 2 CAMERA", "1 3 CAMERA", r"rigs\.txt, line 2: expected RIG_ID"),
    "pose of a sensor cut short": ("rigs", " 1 2 3\n", " 1 2\n", r"rigs\.txt, line 2"),
    "pose that is neither there nor not": ("rigs", "CAMERA 2 1", "CAMERA 2 2", r"rigs\.txt, line 2"),
    "no pose, said oddly": ("rigs", "4 1 CAMERA 1", "4 2 CAMERA 1 CAMERA 2 7", r"rigs\.txt, line 3"),
    "rig without its sensors": ("rigs", "4 1 CAMERA 1", "4 1", r"rigs\.txt, line 3"),
    "rig id below zero": ("rigs", "4 1 CAMERA 1", "-4 1 CAMERA 1", r"rigs\.txt, line 3"),
    "moved sensor": ("rigs", " 1 2 3\n", " 1 2.001 3\n", r"image 3 is not where frame 9 of frames\.txt"),
    "sensor that is nowhere": ("rigs", " 1 2 3\n", " 1 inf 3\n", "sensor 2 of rig 1 has a zero quaternion or a number"),
    "turned sensor": ("rigs", "0.5 0.5 0.5 0.5", "0.5001 0.5 0.5 0.5", "image 3 is not where"),
    "sensor without a direction": ("rigs", "0.5 0.5 0.5 0.5", "0 0 0 0", "sensor 2 of rig 1 has a zero quaternion"),
    "sensor too far away": ("rigs", " 1 2 3\n", " 1 1e308 3\n", "image 3 is not where"),
    "frame too far away": (
        "frames",
        FRAME_9,
        FRAME_9.replace("0 0 0 2", "1e308 1e308 1e308 2"),
        "image 7 is not where",
    ),
    "frame twice": ("frames", "2 4 1 1", "9 4 1 1", r"frames\.txt: frame id 9 occurs twice"),
    "unknown rig": ("frames", "2 4 1 1", "2 5 1 1", r"frames\.txt: a frame names rig 5"),
    "wrong rig": ("frames", "9 1 1 0", "9 4 1 0", "image 3 is of camera 2, which rig 4 does not have"),
    "image in no frame": ("frames", "1 CAMERA 1 5", "0", "image 5 is in 0 frames"),
    "image in two frames": ("frames", "1 CAMERA 1 5", "2 CAMERA 1 5 CAMERA 1 7", r"image 7 is in 2 .* \(1 such"),
    "image twice in a frame": ("frames", "1 CAMERA 1 5", "2 CAMERA 1 5 CAMERA 1 5", "image 5 is in 2"),
    "image that is not there": ("frames", "1 CAMERA 1 5", "2 CAMERA 1 5 CAMERA 1 6", "names image 6, which is not in"),
    "image of another camera": ("frames", "CAMERA 2 3", "CAMERA 1 3", "image 3 is said to be of camera 1, in images"),
    "IMU in place of a camera": ("frames", "CAMERA 1 5", "IMU 1 5", "image 5 is in 0 frames"),
    "moved frame": ("frames", "0 0 1 1 CAMERA", "0 0 1.00001 1 CAMERA", "image 5 is not where frame 2"),
    "frame without a direction": ("frames", "1 1 1 1 0", "0 0 0 0 0", r"frames\.txt: frame 2 has a zero quaternion"),
    "frame that is nowhere": ("frames", FRAME_9, FRAME_9.replace("0 0 0 2", "0 nan 0 2"), r"frame 9 has .* \(1 such"),
    "too few measurements": ("frames", "2 CAMERA 2", "3 CAMERA 2", r"frames\.txt, line 2: expected FRAME_ID"),
    "frame without its number": ("frames", "1 1 CAMERA 1 5", "1", r"frames\.txt, line 3"),
}


@pytest.mark.parametrize("what", sorted(BROKEN_RIGS))
def test_broken_rigs_are_refused(tmp_path: Path, what: str) -> None:
    file, old, new, message = BROKEN_RIGS[what]
    texts = {"rigs": RIGS_TXT, "frames": FRAMES_TXT}
    assert texts[file].count(old) == 1
    texts[file] = texts[file].replace(old, new)
    with pytest.raises(ModelError, match=message) as caught:
        read_model(write_rigs(tmp_path / "m", **texts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_poses_may_differ_from_their_rigs_by_rounding(tmp_path: Path, scale: float) -> None:
    """Within 1e-6 of the largest number of the translations, whatever the unit."""
    rigs = RIGS_TXT.replace(" 1 2 3\n", f" {scale} {2 * scale} {3 * scale}\n")

    def images(last: float) -> str:
        return RIG_IMAGES_TXT.replace("0.5 1 2 3 2 sub", f"0.5 {scale} {2 * scale} {last * scale} 2 sub")

    read_model(write_rigs(tmp_path / "m", rigs=rigs, images=images(3.0 + 2e-6)))
    with pytest.raises(ModelError, match="image 3 is not where"):
        read_model(write_rigs(tmp_path / "m", rigs=rigs, images=images(3.0 + 4e-6)))
    turned = RIG_IMAGES_TXT.replace("3 0.5 0.5", "3 0.5 0.5000003")
    read_model(write_rigs(tmp_path / "m", images=turned))
    with pytest.raises(ModelError, match="image 3 is not where"):
        read_model(write_rigs(tmp_path / "m", images=turned.replace("0.5000003", "0.500003")))


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_rigs_and_frames_come_together(tmp_path: Path, kind: str) -> None:
    for part, other in (("rigs", "frames"), ("frames", "rigs")):
        folder = write(synthetic(), tmp_path / part, kind)
        (folder / f"{part}.{kind}").unlink()
        with pytest.raises(ModelError, match=rf"holds {other}\.{kind} and no {part}\.{kind}; copy"):
            read_model(folder)
        (folder / f"{other}.{kind}").unlink()
        assert read_model(folder).frame_of is None


def test_broken_binary_rigs_are_refused(tmp_path: Path) -> None:
    def refused(file: str, change: Callable[[bytes], bytes], message: str) -> None:
        folder = write(synthetic(cameras_per_rig=2), tmp_path / "m", "bin")
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(change(data))
        with pytest.raises(ModelError, match=message):
            read_model(folder)

    def put(at: int, form: str, value: float) -> Callable[[bytes], bytes]:
        return lambda data: data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]

    # rigs.bin: count 8; rig: id 4, sensors 4, reference 8, then type 4, id 4, known 1, pose 56
    refused("rigs.bin", put(0, "<Q", 2**60), "promises 1152921504606846976 rigs")
    refused("rigs.bin", put(0, "<Q", 1), "holds 81 bytes after the last of the rigs")
    refused("rigs.bin", put(0, "<Q", 3), "bytes of a rig")
    refused("rigs.bin", put(12, "<I", 2**32 - 1), "promises 4294967295 sensors in rig 1")
    refused("rigs.bin", put(20, "<I", 9), "rig 1 names camera 9")
    refused("rigs.bin", put(32, "<B", 7), "a sensor of rig 1 is marked 7")
    refused("rigs.bin", put(65, "<d", 3.0), "is not where frame 1")
    for end in (7, 8, 12, 20, 30, 32, 40, 88, 89):
        refused("rigs.bin", lambda data, end=end: data[:end], r"rigs\.bin")
    refused("rigs.bin", lambda data: data + b"x", "holds 1 bytes after")
    # frames.bin: count 8; frame: id 4, rig 4, pose 56, measurements 4, then type 4, sensor 4, id 8
    refused("frames.bin", put(0, "<Q", 2**40), "promises 1099511627776 frames")
    refused("frames.bin", put(0, "<Q", 7), r"holds 100 bytes after the last of the frames")
    refused("frames.bin", put(72, "<I", 2**32 - 1), "frame number 0 leaves the file")
    refused("frames.bin", put(12, "<I", 77), "a frame names rig 77")
    refused("frames.bin", put(76, "<i", -1), r"image 1 is in 0 frames, not in one \(1 such")
    refused("frames.bin", put(84, "<Q", 2**63), "image 1 is in 0 frames")
    for end in (7, 8, 75, 76, 83, 107, 108, 109):
        refused("frames.bin", lambda data, end=end: data[:end], r"frames\.bin")
    refused("frames.bin", lambda data: data + b"more", "holds 4 bytes after")


@pytest.mark.parametrize("camera_model", sorted(PARAMS))
def test_projection_equals_colmaps(camera_model: str) -> None:
    random = np.random.default_rng(1)
    points = random.uniform([-1, -1, 2], [1, 1, 5], (50, 3))
    points[0] = [0, 0, 3]  # on the axis
    points[1] = [0.5, 0.2, -2]  # behind the camera
    wxyz = np.array([[0.9, 0.1, -0.2, 0.05]])
    rotation = rotation_from_quaternion(wxyz)[0]
    expected = pycolmap.Rotation3d(wxyz[0, [1, 2, 3, 0]] / np.linalg.norm(wxyz)).matrix()
    np.testing.assert_allclose(rotation, expected, atol=1e-15)
    cam_from_world = np.concatenate([rotation, [[0.1], [-0.2], [0.3]]], axis=1)
    world = (points - cam_from_world[:, 3]) @ rotation  # so that `points` are what the camera sees
    intrinsics, distortion = intrinsics_from_params(camera_model, PARAMS[camera_model])
    pixels, depth = project(world, cam_from_world, camera_model, intrinsics, distortion)
    camera = pycolmap.Camera(model=camera_model, width=640, height=480, params=PARAMS[camera_model])
    np.testing.assert_allclose(depth, points[:, 2], atol=1e-12)
    assert np.isnan(pixels[1]).all()
    front = np.arange(len(points)) != 1
    np.testing.assert_allclose(pixels[front], camera.img_from_cam(points[front]), atol=1e-9)


def test_resized_images_project_to_resized_pixels() -> None:
    """The corner of the image, not the centre of its first pixel, is what scaling leaves in place."""
    camera = pycolmap.Camera(model="OPENCV", width=640, height=480, params=PARAMS["OPENCV"])
    camera.rescale(320, 120)
    intrinsics, distortion = intrinsics_from_params("OPENCV", PARAMS["OPENCV"])
    scaled = scale_intrinsics(np.array(intrinsics), (640, 480), (320, 120))
    assert scaled.tolist() == camera.params[:4].tolist()
    points = np.array([[0.3, -0.2, 2.0], [-0.1, 0.4, 3.0]])
    pixels, _ = project(points, np.eye(3, 4), "OPENCV", scaled, distortion)
    np.testing.assert_allclose(pixels, camera.img_from_cam(points), atol=1e-9)
    with pytest.raises(ValueError, match="size"):
        scale_intrinsics(np.array(intrinsics), (0, 480), (320, 240))


def test_camera_models_are_colmaps() -> None:
    known = {name: value for name, value in pycolmap.CameraModelId.__members__.items() if name != "INVALID"}
    assert {name: entry[0] for name, entry in CAMERA_MODELS.items()} == {k: int(v) for k, v in known.items()}
    for name in known:
        camera = pycolmap.Camera.create_from_model_name(1, name, 500.0, 640, 480)
        assert NUM_PARAMS[name] == len(camera.params)
        if name == "EQUIRECTANGULAR":
            intrinsics, distortion = intrinsics_from_params(name, camera.params.tolist())
            # a radian on the equator, and one towards the pole
            assert intrinsics == pytest.approx((640 / (2 * np.pi), 480 / np.pi, 320, 240))
            assert distortion == ()
            continue
        params = np.arange(1.0, 1.0 + len(camera.params))
        camera.params = params.tolist()
        intrinsics, distortion = intrinsics_from_params(name, params.tolist())
        colmaps = (camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y)
        assert intrinsics == colmaps
        assert list(distortion) == [params[i] for i in camera.extra_params_idxs()]
    with pytest.raises(ModelError, match="unknown camera model"):
        intrinsics_from_params("PINHOLES", [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ModelError, match="cannot be projected"):
        project(np.zeros((1, 3)), np.eye(3, 4), "EUCM", np.ones(4), (0.5, 1.0))
