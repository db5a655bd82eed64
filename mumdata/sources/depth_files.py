"""Depth maps as datasets store them.

In: the bytes of a file, and the name of its form. Out: its values as they are stored, what turns them into depth, and
where they may be trusted. Sizes are checked before anything is allocated; whatever else a file holds is a DecodeError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mumdata.errors import DecodeError, LayoutError
from mumdata.images import read_header
from mumdata.tree import Tree

__all__ = ["FORMS", "DepthMap", "read_depth"]

Decoded = TypeVar("Decoded")

_MOST_PIXELS = 1 << 26
_PFM = re.compile(rb"(P[fF])\s+([0-9]{1,6})\s+([0-9]{1,6})\s+([-+]?[0-9.eE+-]{1,32})\s")


@dataclass(frozen=True, eq=False)
class DepthMap:
    """A depth map, [height, width] of any kind of number; what is not finite, or not above 0, is not known.

    Times `scale` the values are in the unit of the cameras. They lie along the optical axis, or, if `is_distance`, on
    the ray. Where `mask`, bool [height, width], is false, nothing is known.
    """

    values: np.ndarray
    scale: float = 1.0
    is_distance: bool = False
    mask: np.ndarray | None = None


def _png(data: bytes) -> np.ndarray:
    # a grey image, [height, width], of 8 or 16 bits
    import cv2

    header = read_header(lambda at, num: data[at : at + num], len(data))
    if header.width * header.height > _MOST_PIXELS:
        raise DecodeError(f"{header.width} x {header.height} pixels are too many")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DecodeError("the image is damaged")
    if image.ndim != 2:
        raise DecodeError(f"the image has {image.shape[2]} channels, not one")
    return np.asarray(image)


def _sixteen_bits(data: bytes) -> np.ndarray:
    image = _png(data)
    if image.dtype != np.uint16:
        raise DecodeError(f"the image holds {image.dtype} values, not of 16 bits")
    return image


def _millimetres(data: bytes) -> DepthMap:
    return DepthMap(_sixteen_bits(data), 0.001)


def _float16_bits(data: bytes) -> DepthMap:
    return DepthMap(_sixteen_bits(data).view(np.float16))


def _pfm(data: bytes) -> DepthMap:
    # Portable Float Map: rows from the bottom up, little-endian where the number after the size is negative
    match = _PFM.match(data[:128])
    if match is None:
        raise DecodeError("it does not begin as a PFM file does")
    if match[1] != b"Pf":
        raise DecodeError("it has colours, where depth is one number a pixel")
    width, height = int(match[2]), int(match[3])
    if not 0 < width * height <= _MOST_PIXELS:
        raise DecodeError(f"{width} x {height} pixels cannot be")
    if len(data) - match.end() < 4 * width * height:
        raise DecodeError(f"it is cut off: {len(data) - match.end()} of {4 * width * height} bytes are there")
    kind = "<f4" if match[4].startswith(b"-") else ">f4"
    values = np.frombuffer(data, kind, width * height, match.end())
    return DepthMap(values.reshape(height, width)[::-1])


def _hdf5(data: bytes, name: str) -> np.ndarray:
    """Return the two-dimensional array of an HDF5 file; links and storage outside the file are refused."""
    import h5py

    # the bytes as an image in HDF5's own memory: its reader of Python files leaks errors of damaged files to stderr
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    try:
        access.set_file_image(data)
        with h5py.File(h5py.h5f.open(b"in memory", h5py.h5f.ACC_RDONLY, fapl=access)) as file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise DecodeError(f"it has no array called {name}")
            found = file[name]
            if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu" or found.ndim != 2:
                raise DecodeError(f"{name} is not an array of numbers in rows and columns")
            if not 0 < found.shape[0] * found.shape[1] <= _MOST_PIXELS:
                raise DecodeError(f"{name} has the shape {found.shape}")
            if found.external or found.is_virtual:
                raise DecodeError(f"{name} keeps its numbers in other files, which are not read")
            return np.asarray(found[()])
    except DecodeError:
        raise
    except Exception as error:  # damaged files raise errors of every kind here
        raise DecodeError(f"it is damaged: {error}") from error


def _distance(data: bytes) -> DepthMap:
    return DepthMap(_hdf5(data, "dataset"), is_distance=True)


def _megadepth(data: bytes) -> DepthMap:
    values = _hdf5(data, "depth")
    if (values < 0).any():
        raise DecodeError("it tells which things are nearer, not how far they are")
    return DepthMap(values)


# what the names mean that `mumdata.datasets.Depth` gives
FORMS: dict[str, Callable[[bytes], DepthMap]] = {
    "millimetres": _millimetres,  # 16-bit PNG
    "float16-bits": _float16_bits,  # 16-bit PNG whose bits are those of float16
    "pfm": _pfm,
    "megadepth": _megadepth,  # HDF5 with the array `depth`; files with negative values hold an order of things instead
    "distance": _distance,  # HDF5 with the array `dataset`, the distance to the optical centre
}


def read_depth(tree: Tree, form: str, path: str, mask_path: str | None = None, scale: float = 1.0) -> DepthMap:
    """Read a depth map, and the mask of what may be trusted of it, if any.

    `scale` multiplies what is stored. Raises LayoutError where a file cannot be read, DecodeError where it is damaged
    or something else; both name it.
    """
    found = _decoded(tree, path, FORMS[form])
    mask = None
    if mask_path is not None:
        mask = _decoded(tree, mask_path, _png) > 0
        if mask.shape != found.values.shape:
            raise DecodeError(f"{mask_path} is not of the size of {path}")
    if not (np.isfinite(scale) and scale > 0):
        raise LayoutError(f"{path} is to be multiplied by {scale}")
    return DepthMap(found.values, found.scale * scale, found.is_distance, mask)


def _decoded(tree: Tree, path: str, decode: Callable[[bytes], Decoded]) -> Decoded:
    data = tree.read_bytes(path)
    try:
        return decode(data)
    except DecodeError as error:
        raise DecodeError(f"{path}: {error}") from error
