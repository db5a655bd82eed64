"""COLMAP's sparse models: read fast, and checked throughout.

In: a folder with cameras, images and points3D, binary or text. Out: a `Model` of arrays, or a ModelError.
"""

from mumdata.colmap.model import Model, is_model, read_model

__all__ = ["Model", "is_model", "read_model"]
