"""The 3D points of a demo scene and who sees them.

In: a place and cameras. Out: points on the surfaces that are seen, their colours, and exact visibility; COLMAP models
and ground-truth files made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mumdata import rng
from mumdata.demo.album import Model
from mumdata.demo.camera import Camera, project, quaternion, rays
from mumdata.demo.render import Place, sees, shade
from mumdata.demo.solids import nearest
from mumdata.files import atomic_path

__all__ = ["Cloud", "sample_points", "write_colmap", "write_truth"]


@dataclass(frozen=True)
class Cloud:
    """Points in the world, float64 [P, 3], colours uint8 [P, 3], and visibility, bool [images, P]."""

    xyz: np.ndarray
    rgb: np.ndarray
    visible: np.ndarray


def sample_points(place: Place, cameras: Sequence[Camera], num: int, key: int) -> Cloud:
    """Draw `num` random pixels of the cameras in turn, keep what they hit and at least two of the cameras see."""
    draws = rng.unit(rng.words(rng.key(key, "pixels"), 2 * num)).reshape(num, 2)
    hits: list[list[np.ndarray]] = []
    for number, camera in enumerate(cameras):
        mine = draws[number :: len(cameras)]
        d = rays(camera, mine[:, 0] * camera.width, mine[:, 1] * camera.height)
        t, which, face = nearest(place.solids, camera.centre, d)
        rows = np.flatnonzero(which >= 0)
        origin = [np.full(rows.size, x) for x in camera.centre]
        hits.append([*origin, *(x[rows] for x in d), t[rows], which[rows], face[rows]])
    ox, oy, oz, dx, dy, dz, t, which, face = (np.concatenate(column) for column in zip(*hits, strict=True))
    xyz = np.stack([ox + t * dx, oy + t * dy, oz + t * dz], axis=1)
    # all points in one call: shading costs by the call as much as by the point
    pixel = 1.0 / cameras[0].focal
    bands = shade(place, place.lights[0], pixel, (ox, oy, oz), (dx, dy, dz), t, which, face)
    all_rgb = np.stack(
        [np.clip(band * np.float32(255.0) + np.float32(0.5), 0.0, 255.0).astype(np.uint8) for band in bands], axis=1
    )
    visible = np.stack([sees(place, camera, xyz) for camera in cameras])
    kept = visible.sum(axis=0) >= 2
    return Cloud(np.ascontiguousarray(xyz[kept]), np.ascontiguousarray(all_rgb[kept]), visible[:, kept])


def write_truth(path: Path, model: Model, cloud: Cloud) -> None:
    """Write what the renderer knows, as plain arrays in the model's gauge.

    names [n], visible bool [n, P], points float64 [P, 3], cam_from_world float64 [n, 3, 4], intrinsics [n, 4] (fx, fy,
    cx, cy in pixels of the image that `names` stands for), distortion [n, 1] (k of SIMPLE_RADIAL), sizes [n, 2] (width,
    height); where undistorted copies exist, also dense_intrinsics and dense_sizes.
    """
    cameras = [model.gauge.camera(camera) for camera in model.cameras]
    arrays = {
        "names": np.array(model.names),
        "visible": cloud.visible,
        "points": model.gauge.points(cloud.xyz),
        "cam_from_world": np.stack([camera.cam_from_world() for camera in cameras]),
        "intrinsics": np.array([camera.intrinsics() for camera in cameras]),
        "distortion": np.array([[camera.radial] for camera in cameras]),
        "sizes": np.array([(camera.width, camera.height) for camera in cameras]),
    }
    if model.dense:
        arrays["dense_intrinsics"] = np.array([camera.intrinsics() for camera in model.dense])
        arrays["dense_sizes"] = np.array([(camera.width, camera.height) for camera in model.dense])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class _Keypoints:
    xy: np.ndarray  # float64 [k, 2]
    point: np.ndarray  # int64 [k], number of the point or -1


def _keypoints(camera: Camera, xyz: np.ndarray, visible: np.ndarray, twice: np.ndarray, key: int) -> _Keypoints:
    """Return an image's keypoints in random order: observations, second observations, unmatched ones."""
    x, y, _ = project(camera, xyz)
    seen = np.flatnonzero(visible)
    again = np.flatnonzero(twice & visible)
    # a detector that fires twice on one corner: a quarter of a pixel beside the first, inside the picture
    shift_x = np.where(x[again] + 0.25 < camera.width, 0.25, -0.25)
    shift_y = np.where(y[again] + 0.15 < camera.height, 0.15, -0.15)
    num_loose = 5 + seen.size // 5
    loose = rng.unit(rng.words(rng.key(key, "loose"), 2 * num_loose)).reshape(num_loose, 2)
    xs = np.concatenate([x[seen], x[again] + shift_x, loose[:, 0] * camera.width])
    ys = np.concatenate([y[seen], y[again] + shift_y, loose[:, 1] * camera.height])
    point = np.concatenate([seen, again, np.full(num_loose, -1)])
    order = rng.permutation(rng.key(key, "order"), point.size)
    return _Keypoints(np.stack([xs, ys], axis=1)[order], point[order])


def write_colmap(root: Path, model: Model, cloud: Cloud) -> None:
    """Write the model as COLMAP does, with what real models are full of.

    Image ids have gaps and do not follow the names; images have unmatched keypoints; about one track in seventy holds
    one image twice. All versions of pycolmap's interface are met in this function alone. Only cameras, images and
    points3D are kept: these datasets were made before COLMAP had rigs.
    """
    import pycolmap

    num, num_points = len(model.names), len(cloud.xyz)
    order = rng.permutation(rng.key(model.key, "ids"), num)
    gaps = 1 + rng.below(rng.words(rng.key(model.key, "gaps"), num), 4)
    image_ids = np.zeros(num, dtype=np.int64)
    image_ids[order] = np.cumsum(gaps) + 10
    # the first image that sees a chosen point sees it twice
    chosen = rng.below(rng.words(rng.key(model.key, "twice"), num_points), 70) == 0
    first = np.argmax(cloud.visible, axis=0)

    reconstruction = pycolmap.Reconstruction()
    cameras = [model.gauge.camera(camera) for camera in model.cameras]
    points = model.gauge.points(cloud.xyz)
    point_ids = [1 + i + i // 7 for i in range(num_points)]
    tracks: list[list[pycolmap.TrackElement]] = [[] for _ in range(num_points)]
    camera_ids: dict[tuple[float, ...], int] = {}
    for number in sorted(range(num), key=lambda n: int(image_ids[n])):
        camera, image_id = cameras[number], int(image_ids[number])
        f, _, cx, cy = camera.intrinsics()
        radial = model.camera_model == "SIMPLE_RADIAL"
        params = [f, cx, cy, camera.radial] if radial else [f, f, cx, cy]
        lens = (camera.width, camera.height, *params)
        if lens not in camera_ids:
            camera_ids[lens] = len(camera_ids) + 1
            reconstruction.add_camera_with_trivial_rig(
                pycolmap.Camera(
                    camera_id=camera_ids[lens],
                    model=model.camera_model,
                    width=camera.width,
                    height=camera.height,
                    params=params,
                )
            )
        keypoints = _keypoints(
            model.cameras[number],
            cloud.xyz,
            cloud.visible[number],
            chosen & (first == number),
            rng.key(model.key, "keypoints", number),
        )
        for position, point in enumerate(keypoints.point.tolist()):
            if point >= 0:
                tracks[point].append(pycolmap.TrackElement(image_id, position))
        image = pycolmap.Image(
            name=model.names[number], keypoints=keypoints.xy, camera_id=camera_ids[lens], image_id=image_id
        )
        rotation = pycolmap.Rotation3d(np.array(quaternion(camera.rotation)))
        pose = pycolmap.Rigid3d(rotation, camera.cam_from_world()[:, 3])
        reconstruction.add_image_with_trivial_frame(image, pose)
    for number in range(num_points):
        point3d = pycolmap.Point3D(
            xyz=points[number], color=cloud.rgb[number], error=0.0, track=pycolmap.Track(tracks[number])
        )
        reconstruction.add_point3D_with_id(point_ids[number], point3d)
        for element in tracks[number]:
            reconstruction.images[element.image_id].set_point3D_for_point2D(element.point2D_idx, point_ids[number])
    for folder, suffix in ((model.folder, "bin"), (model.text_folder, "txt")):
        if folder:
            (root / folder).mkdir(parents=True, exist_ok=True)
            write = reconstruction.write_binary if suffix == "bin" else reconstruction.write_text
            write(root / folder)
            for name in ("rigs", "frames"):
                (root / folder / f"{name}.{suffix}").unlink(missing_ok=True)
