"""Running a model over images into a file of features.

In: images, a model that makes tokens of pictures, and the file. Out: every row of it done, or marked as broken. Images
are decoded by threads ahead of the model, and rows are written by another one behind it.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mumdata.errors import ConfigError, DecodeError
from mumtrain.features.encode import Extractor, Tokens
from mumtrain.features.file import FeatureFile, Layout, Row
from mumtrain.features.source import Images
from mumtrain.features.stored import WAITING
from mumtrain.features.views import Framing, View, read_view, upright_size

__all__ = ["Plan", "plan", "fill"]

# batches that are decoded ahead of the one that the model is at
_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done: the file's layout, and why some images are broken whose size could not be found."""

    images: Images
    framing: Framing
    extractor: Extractor
    layout: Layout
    problems: dict[int, str]


def plan(images: Images, framing: Framing, extractor: Extractor) -> Plan:
    """Find the grid of each image, from the catalog or the images' headers where sizes may differ.

    Raises ConfigError for views of several sizes, DecodeError for a broken one.
    """
    num = len(images.names)
    grids, problems = np.zeros((num, 2), np.int32), {}
    is_even = framing.kind == "square"
    if is_even:
        grids[:] = framing.side // framing.patch
    else:
        for number in range(num):
            try:
                grids[number] = framing.grid(*(images.upright_size(number) or upright_size(images.read(number))))
            except DecodeError as error:
                problems[number] = str(error)
    if extractor.views:
        for number, reason in problems.items():
            raise _broken_view(images, number, reason)
        if len(np.unique(grids, axis=0)) > 1:
            raise ConfigError("views of one scene must have one size; give --size a number, which takes squares")
    layout = Layout(
        grids,
        is_even=is_even,
        width=extractor.width,
        dtype=extractor.dtype,
        has_patches=extractor.kind != "class",
        has_classes=extractor.kind != "patches",
    )
    return Plan(images, framing, extractor, layout, problems)


def fill(file: FeatureFile, what: Plan, *, batch: int, threads: int | None = None) -> int:
    """Do the rows of a file that are not done yet, and return how many these were.

    `batch` pictures of the model's own size go through it together, of larger ones fewer, views of one scene all.
    Raises DecodeError for a broken view; other broken images are marked.
    """
    todo = np.flatnonzero(file.status() == WAITING)
    if not len(todo):
        return 0
    with _pool(threads or _num_threads(what.extractor)) as pool, _pool(1) as writer:
        if what.extractor.views:
            _fill_views(file, what, pool)
        else:
            _fill_images(file, what, todo, batch, pool, writer)
    file.flush()
    return len(todo)


def _num_threads(extractor: Extractor) -> int:
    # a processor that runs the model has no cores to spare: one thread is seldom what it waits for
    return min(16, len(os.sched_getaffinity(0))) if extractor.runtime.device.type == "cuda" else 1


@contextmanager
def _pool(num: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(num)
    try:
        yield pool
    finally:
        # after a failure, what has not begun is not worth waiting for
        pool.shutdown(wait=True, cancel_futures=True)


def _read(what: Plan, number: int) -> View | str:
    # the view, or why there is none
    try:
        view = read_view(what.images.read(number), what.framing)
    except DecodeError as error:
        return str(error)
    rows, columns = (side // what.framing.patch for side in view.picture.shape[:2])
    if [rows, columns] != what.layout.grids[number].tolist():
        return "its size is not what the catalog or its header said"
    return view


def _fill_images(
    file: FeatureFile, what: Plan, todo: np.ndarray, batch: int, pool: ThreadPoolExecutor, writer: ThreadPoolExecutor
) -> None:
    known = [number for number in todo.tolist() if number in what.problems]
    for number in known:
        file.put_broken(number, what.problems[number])
    todo = np.setdiff1d(todo, known)
    written: Future[None] | None = None
    with tqdm(total=len(todo), desc="features", unit="image", disable=None, leave=False, dynamic_ncols=True) as bar:
        for numbers, found in _decoded(what, todo, batch, pool):
            pictures = [one.picture for one in found if isinstance(one, View)]
            tokens = what.extractor(np.stack(pictures)) if pictures else None
            if written is not None:
                written.result()
            written = writer.submit(_write, file, numbers, found, tokens)
            bar.update(len(numbers))
        if written is not None:
            written.result()


def _decoded(
    what: Plan, todo: np.ndarray, batch: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[Sequence[int], list[View | str]]]:
    waiting: deque[tuple[Sequence[int], list[Future[View | str]]]] = deque()
    usual = (what.extractor.config.data.size // what.framing.patch) ** 2
    for numbers in _batches(what.layout.grids, todo, batch, usual):
        waiting.append((numbers, [pool.submit(_read, what, number) for number in numbers]))
        if len(waiting) > _AHEAD:
            first, futures = waiting.popleft()
            yield first, [future.result() for future in futures]
    for first, futures in waiting:
        yield first, [future.result() for future in futures]


def _batches(grids: np.ndarray, todo: np.ndarray, batch: int, usual: int) -> Iterator[list[int]]:
    # images of one grid, which can go through the model together: of those with more patches than usual, fewer at once
    order = todo[np.lexsort((todo, grids[todo, 1], grids[todo, 0]))]
    for _, group in itertools.groupby(order.tolist(), key=lambda number: tuple(grids[number])):
        same = list(group)
        most = max(1, min(batch, batch * usual // max(1, int(grids[same[0]].prod()))))
        for start in range(0, len(same), most):
            yield same[start : start + most]


def _fill_views(file: FeatureFile, what: Plan, pool: ThreadPoolExecutor) -> None:
    # all of them anew, if only one is missing: each one's tokens know of the others
    views: list[View | str] = []
    numbers = range(len(what.images.names))
    for number, view in zip(numbers, pool.map(lambda number: _read(what, number), numbers), strict=True):
        if isinstance(view, str):
            raise _broken_view(what.images, number, view)
        views.append(view)
    tokens = what.extractor(np.stack([view.picture for view in views if isinstance(view, View)]))
    _write(file, numbers, views, tokens)


def _broken_view(images: Images, number: int, reason: str) -> DecodeError:
    return DecodeError(
        f"{images.names[number]}: {reason}; every view counts for the others, so leave it out or mend it"
    )


def _write(file: FeatureFile, numbers: Sequence[int], found: Sequence[View | str], tokens: Tokens | None) -> None:
    at = 0
    for number, one in zip(numbers, found, strict=True):
        if isinstance(one, str):
            file.put_broken(number, one)
            continue
        assert tokens is not None
        patches = None if tokens.patches is None else tokens.patches[at]
        file.put(number, Row(patches, None if tokens.classes is None else tokens.classes[at], one.box))
        at += 1
