"""Who observes what: the tracks of a COLMAP model against its images.

In: the records of the images and points3D files. Out: the distinct (image, point) observations in order; a ModelError
where a track names what is not there, where two tracks claim one keypoint, or, if asked, where the two files disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mumdata.colmap.records import NO_POINT, Images, Tracks, file_name
from mumdata.errors import ModelError

__all__ = ["Elements", "compare_keypoints", "distinct_observations", "place_elements", "refuse_repeats"]

# image ids up to so many an image are looked up in a table, beyond that by bisection
_TABLE_PER_IMAGE, _TABLE = 16, 1 << 16


@dataclass(frozen=True, eq=False)
class Elements:
    """The elements of all tracks, in file order; each is a keypoint of an image that a point was seen at."""

    image_rows: np.ndarray  # uint16 or int64 [m]
    point_rows: np.ndarray  # int32 [m]
    keypoints: np.ndarray  # uint32 [m]
    order: np.ndarray  # int64 [m], the elements by image, then as in the file


def refuse_repeats(path: str, ids: np.ndarray, what: str) -> None:
    """Raise ModelError where an id occurs twice."""
    ordered = np.sort(ids)
    repeated = ordered[1:] == ordered[:-1]
    if repeated.any():
        raise ModelError(f"{path}: {what} id {ordered[1:][repeated][0]} occurs twice; export the model again")


def place_elements(images: Images, tracks: Tracks) -> Elements:
    """Check every track element and find its image.

    ModelError where a point's id is taken or none, where a track names an image or a keypoint that is not there, and
    where two points claim one keypoint.
    """
    refuse_repeats(tracks.path, tracks.ids, "point")
    if len(tracks.ids) and int(tracks.ids.min()) < 0:
        raise ModelError(f"{tracks.path}: point id {int(tracks.ids.min()) % (1 << 64)} is none; export the model again")
    rows = _rows_of(images, tracks)
    point_rows = np.repeat(np.arange(len(tracks.ids), dtype=np.int32), tracks.lengths)
    outside = tracks.keypoints >= images.num_keypoints.take(rows)
    if outside.any():
        at = int(np.argmax(outside))
        raise ModelError(
            f"{tracks.path}: point {tracks.ids[point_rows[at]]} names keypoint {tracks.keypoints[at]} of image "
            f"{tracks.image_ids[at]}, which has {images.num_keypoints[rows[at]]}; copy the files of one model together"
        )
    first_slots = np.cumsum(images.num_keypoints) - images.num_keypoints
    slots = first_slots.take(rows)
    slots += tracks.keypoints
    claimed = np.zeros(int(images.num_keypoints.sum()), dtype=bool)
    claimed[slots] = True
    if np.count_nonzero(claimed) < len(slots):
        _refuse_shared_keypoints(tracks, slots, point_rows)
    return Elements(rows, point_rows, tracks.keypoints, _stable_order(rows))


def _rows_of(images: Images, tracks: Tracks) -> np.ndarray:
    """Return the row of each element's image, uint16 where that is enough, else int64 [m]."""
    num = len(images.ids)
    # 16 bits: NumPy sorts them in linear time
    dtype = np.uint16 if num <= np.iinfo(np.uint16).max else np.int64
    highest = int(images.ids.max(initial=0))
    if highest < _TABLE + _TABLE_PER_IMAGE * num:
        table = np.full(highest + 2, num, dtype=dtype)  # num stands for an image that is not there
        table[images.ids] = np.arange(num, dtype=dtype)
        rows = table.take(tracks.image_ids, mode="clip")
    else:
        order = np.argsort(images.ids)
        ordered = images.ids[order]
        place = np.minimum(np.searchsorted(ordered, tracks.image_ids), num - 1)
        rows = np.where(ordered[place] == tracks.image_ids, order[place], num).astype(dtype)
    if len(rows) and int(rows.max()) == num:
        stranger = tracks.image_ids[int(np.argmax(rows == num))]
        raise ModelError(
            f"{tracks.path}: a track names image {stranger}, which is not in {file_name(images.path)}; copy the files "
            "of one model together"
        )
    return rows


def _refuse_shared_keypoints(tracks: Tracks, slots: np.ndarray, point_rows: np.ndarray) -> None:
    """Raise ModelError where a keypoint is in the tracks of two points; twice in the track of one is legal."""
    order = np.argsort(slots, kind="stable")
    same = slots[order[1:]] == slots[order[:-1]]
    foreign = same & (point_rows[order[1:]] != point_rows[order[:-1]])
    if foreign.any():
        at = int(order[1:][foreign].min())
        raise ModelError(
            f"{tracks.path}: keypoint {tracks.keypoints[at]} of image {tracks.image_ids[at]} does not belong to point "
            f"{tracks.ids[point_rows[at]]} alone; export the model again"
        )


def _stable_order(rows: np.ndarray) -> np.ndarray:
    """Sort by image, leaving the elements of one image as they are: two passes where rows exceed 16 bits."""
    if rows.dtype == np.uint16:
        return rows.argsort(kind="stable")
    order = (rows & 0xFFFF).astype(np.uint16).argsort(kind="stable")
    return order[(rows[order] >> 16).astype(np.uint16).argsort(kind="stable")]


def distinct_observations(elements: Elements) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct (image row, point row), int32 [m] each, sorted by image, then point."""
    # elements come by point, so that a stable sort by image leaves the points of each image in order
    image_of = elements.image_rows[elements.order]
    point_of = elements.point_rows[elements.order]
    new = np.ones(len(image_of), dtype=bool)
    np.not_equal(point_of[1:], point_of[:-1], out=new[1:])
    new[1:] |= image_of[1:] != image_of[:-1]
    if not new.all():
        image_of, point_of = image_of[new], point_of[new]
    return image_of.astype(np.int32), point_of


def compare_keypoints(images: Images, tracks: Tracks, elements: Elements) -> None:
    """Compare both ways which keypoint belongs to which point; ModelError where images and points3D disagree.

    Every keypoint that names a point has to be an element of that point's track, and every element's keypoint has to
    name the point.
    """
    per_image = np.bincount(elements.image_rows, minlength=len(images.ids))
    ends = np.cumsum(per_image)
    num_wrong, first = 0, ""
    for row, (start, end) in enumerate(zip((ends - per_image).tolist(), ends.tolist(), strict=True)):
        mine = elements.order[start:end]
        said = images.point_ids(row)
        tracked = np.full(len(said), NO_POINT, dtype=np.int64)
        tracked[elements.keypoints[mine]] = tracks.ids[elements.point_rows[mine]]
        wrong = np.flatnonzero(said != tracked)
        if len(wrong) and not num_wrong:
            at = int(wrong[0])
            first = (
                f"keypoint {at} of image {images.ids[row]}, which belongs to {_point(said[at])} there and to "
                f"{_point(tracked[at])} here"
            )
        num_wrong += len(wrong)
    if num_wrong:
        raise ModelError(
            f"{images.path} and {file_name(tracks.path)} disagree about {num_wrong} "
            f"keypoint{'s' * (num_wrong > 1)}, the first of them {first}; copy the files of one model together"
        )


def _point(number: int) -> str:
    return "no point" if number == NO_POINT else f"point {int(number) % (1 << 64)}"
