"""Sparse models: equal to what COLMAP reads, and refused in one line where the files make no sense."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from mumdata.colmap import Model, is_model, read_model
from mumdata.errors import ModelError
from mumdata.geometry import (
    CAMERA_MODELS,
    NUM_PARAMS,
    intrinsics_from_params,
    project,
    rotation_from_quaternion,
    scale_intrinsics,
)

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


@pytest.mark.parametrize("kind", ["bin", "txt"])
@pytest.mark.parametrize("camera_model", sorted(PARAMS))
def test_models_equal_colmaps(tmp_path: Path, camera_model: str, kind: str) -> None:
    scene = synthetic(camera_model)
    assert_equals_colmap(read_model(write(scene, tmp_path / "m", kind)), scene)


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


def test_unassigned_keypoints_are_legal_foreign_ones_are_not(tmp_path: Path) -> None:
    assert len(read_model(binary(tmp_path / "m", point_id=2**64 - 1)).image_of) == 2
    with pytest.raises(ModelError, match="does not belong to point 4 alone"):
        read_model(binary(tmp_path / "m", point_id=5))


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
    "negative keypoint": ("points", "0.5 5 1", "0.5 5 -1", "names keypoint -1"),
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


def mutants(data: bytes, random: np.random.Generator, num: int) -> Iterator[bytes]:
    for number in range(num):
        broken = bytearray(data)
        if number % 3 == 0:
            for _ in range(int(random.integers(1, 4))):
                broken[random.integers(len(broken))] ^= 1 << int(random.integers(8))
        elif number % 3 == 1:
            del broken[random.integers(len(broken)) :]
        else:
            at = int(random.integers(max(1, len(broken) - 8)))
            broken[at : at + 8] = random.choice(
                [b"\xff" * 8, b"\0\0\0\0\0\0\0\x40", b"99999999", b"\0\0\0\x10\0\0\0\0"]
            )
        yield bytes(broken)


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_mutants_give_a_result_or_a_model_error(tmp_path: Path, kind: str) -> None:
    """Whatever the damage: no other exception, and no memory beyond a few times the files."""
    folder = write(synthetic(), tmp_path / "m", kind)
    random = np.random.default_rng(3)
    results = {"read": 0, "refused": 0}
    tracemalloc.start()
    try:
        for name in ("cameras", "images", "points3D"):
            path = folder / f"{name}.{kind}"
            data = path.read_bytes()
            for broken in mutants(data, random, 60):
                path.write_bytes(broken)
                try:
                    model = read_model(folder)
                    assert np.isfinite(model.cam_from_world).all()
                    results["read"] += 1
                except ModelError:
                    results["refused"] += 1
            path.write_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert min(results.values()) > 10  # the mutants reach both ends


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
