"""Pairs from the tracks of a COLMAP model.

In: a stream with a model. Out: pairs with shared points, angles and scale ratios.
"""

from __future__ import annotations

import numpy as np

from mumdata.colmap import Model, read_model
from mumdata.covisibility import Pairs, covisibility
from mumdata.datasets import Stream
from mumdata.sources.source import Source, SourceOptions
from mumdata.tree import Tree

__all__ = ["TRACKS", "tracks"]


def tracks(tree: Tree, key: tuple[str | None, ...], stream: Stream, options: SourceOptions) -> Pairs | None:
    """Return the pairs of frames that share points of the stream's model; None where it has none.

    With `check_tracks` the model is read once more, all keypoints of it; ModelError where its files contradict.
    """
    model, rows = stream.model, stream.rows
    if model is None or rows is None:
        return None
    if options.check_tracks:
        read_model(model.folder, tree, check_tracks=True)  # raises where the two files contradict each other
    image_of, point_of = _observations(model, rows)
    return covisibility(
        len(rows),
        image_of,
        point_of,
        points=model.points,
        cam_from_world=model.cam_from_world[rows],
        intrinsics=model.intrinsics[rows],
    )


def _observations(model: Model, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the observations of some of a model's images as (position in `rows`, point), sorted as the model's are."""
    if np.array_equal(rows, np.arange(len(model.image_ids))):
        return model.image_of, model.point_of
    start = np.cumsum(model.num_points, dtype=np.int64) - model.num_points
    length = model.num_points[rows].astype(np.int64)
    position = np.repeat(np.arange(len(rows), dtype=np.int32), length)
    shift = start[rows] - (np.cumsum(length) - length)  # from places in the result to places in the model's lists
    return position, model.point_of[np.arange(len(position)) + shift[position]]


TRACKS = Source(tracks)
