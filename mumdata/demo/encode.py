"""Pictures, depth maps and masks as the bytes of files, in the formats that datasets use.

In: arrays of the renderer. Out: bytes that are the same for the same input.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from mumdata.demo.album import Picture
from mumdata.demo.camera import Camera

__all__ = ["DEPTH_KINDS", "encode_depth", "encode_mask", "encode_picture", "hdf5"]

_JPEG_QUALITY = 92


def encode_picture(path: str, rgb: np.ndarray) -> bytes:
    """Encode a picture, uint8 [height, width, 3], by its path's suffix: PNG, else JPEG."""
    import cv2

    if path.endswith(".png"):
        return _encoded(".png", rgb[:, :, ::-1], [int(cv2.IMWRITE_PNG_COMPRESSION), 6])
    return _encoded(".jpg", rgb[:, :, ::-1], [int(cv2.IMWRITE_JPEG_QUALITY), _JPEG_QUALITY])


def encode_mask(mask: np.ndarray) -> bytes:
    """Encode a mask, bool [height, width], as a PNG of 0 and 255."""
    return _encoded(".png", mask.astype(np.uint8) * 255, [])


def encode_depth(kind: str, depth: np.ndarray, picture: Picture, camera: Camera) -> bytes:
    """Encode a depth map, float32 [height, width] in metres along the axis with 0 for the sky, in one of the kinds."""
    return DEPTH_KINDS[kind](depth * np.float32(picture.depth_scale), camera)


def hdf5(**datasets: np.ndarray) -> bytes:
    """Return an HDF5 file that holds the arrays under their names; no times in it, so that the bytes repeat."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in datasets.items():
            options = {"compression": "gzip", "shuffle": True} if values.size > 64 else {}
            file.create_dataset(name, data=values, track_times=False, **options)
    return buffer.getvalue()


def _megadepth(depth: np.ndarray, camera: Camera) -> bytes:
    # dataset `depth`, along the axis, 0 where nothing is known
    return hdf5(depth=depth)


def _millimetres(depth: np.ndarray, camera: Camera) -> bytes:
    # 16-bit PNG; what is too far is 0, unknown
    millimetres = np.where(depth < 65.0, depth * np.float32(1000.0) + np.float32(0.5), 0.0)
    return _encoded(".png", millimetres.astype(np.uint16), [])


def _half_bits(depth: np.ndarray, camera: Camera) -> bytes:
    # 16-bit PNG whose bits are those of float16, as CO3D stores them
    return _encoded(".png", depth.astype(np.float16).view(np.uint16), [])


def _pfm(depth: np.ndarray, camera: Camera) -> bytes:
    # Portable Float Map: rows from the bottom up, little-endian, 0 where nothing is known
    head = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode()
    return head + np.ascontiguousarray(depth[::-1]).astype("<f4").tobytes()


def _distance(depth: np.ndarray, camera: Camera) -> bytes:
    # dataset `dataset`: the distance to the optical centre, NaN where there is no geometry, as Hypersim stores it
    xs = (np.arange(camera.width) + 0.5 - camera.cx) / camera.focal
    ys = (np.arange(camera.height) + 0.5 - camera.cy) / camera.focal
    x, y = xs[None, :], ys[:, None]
    length = np.sqrt(1.0 + x * x + y * y)
    return hdf5(dataset=np.where(depth > 0, depth * length, np.nan).astype(np.float16))


DEPTH_KINDS: dict[str, Callable[[np.ndarray, Camera], bytes]] = {
    "megadepth": _megadepth,
    "millimetres": _millimetres,
    "half-bits": _half_bits,
    "pfm": _pfm,
    "distance": _distance,
}


def _encoded(suffix: str, pixels: np.ndarray, options: list[int]) -> bytes:
    import cv2

    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode a {suffix} file")
    return bytes(data.tobytes())
