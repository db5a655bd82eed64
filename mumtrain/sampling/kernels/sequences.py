"""Drawing datasets and sequences, and sorting sequences for it; see `mumtrain.sampling.sequence_index`."""

from __future__ import annotations

import numpy as np

from mumtrain.sampling.kernels import DATASET, SCENE, SEQUENCE, below, jit, place_in, unit_of, word_of

__all__ = ["choose_datasets", "draw_rows", "group_by_scene", "length_shares", "order_by_length"]


@jit
def choose_datasets(
    key: int,
    start: int,
    attempt: int,
    batch_word: int,
    able: np.ndarray,
    cumulative: np.ndarray,
    keys: np.ndarray,
    datasets: np.ndarray,
) -> None:
    """Write the keys of the sequences whose words of the batch's `key` begin at `start`, and the dataset of each.

    The dataset is drawn among `able` (int32 [m]) by the running sums of their weights (float64 [m]): by each sequence
    for itself, or by word `batch_word` of the batch's key for all where that is not negative.
    """
    for i in range(len(keys)):
        keys[i] = word_of(word_of(key, start + i), attempt)
        word = word_of(key, batch_word) if batch_word >= 0 else word_of(keys[i], DATASET)
        datasets[i] = able[place_in(cumulative, len(cumulative), unit_of(word))]


@jit
def _num_at_least(rows: np.ndarray, begin: int, end: int, lengths: np.ndarray, least: int) -> int:
    # how many of rows[begin:end], longest first, have at least `least` frames
    low, high = begin, end
    while low < high:
        middle = (low + high) // 2
        if lengths[rows[middle]] >= least:
            low = middle + 1
        else:
            high = middle
    return low - begin


@jit
def draw_rows(
    keys: np.ndarray,
    datasets: np.ndarray,
    dataset: int,
    rows: np.ndarray,
    starts: np.ndarray,
    cumulative: np.ndarray,
    num_sequences: int,
    num_scenes: int,
    least: int,
    lengths: np.ndarray,
    out: np.ndarray,
) -> None:
    """Draw the row of each sequence of one dataset among those with at least `least` frames: see SequenceIndex."""
    for i in range(len(keys)):
        if datasets[i] != dataset:
            continue
        if len(starts) == 0:
            out[i] = rows[below(word_of(keys[i], SEQUENCE), num_sequences)]
            continue
        word = word_of(keys[i], SCENE)
        if len(cumulative):
            scene = place_in(cumulative, num_scenes, unit_of(word))
        else:
            scene = below(word, num_scenes)
        num = _num_at_least(rows, starts[scene], starts[scene + 1], lengths, least)
        out[i] = rows[starts[scene] + below(word_of(keys[i], SEQUENCE), num)]


@jit
def order_by_length(lengths: np.ndarray, keep: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Order the rows to keep by length, longest first, equal ones as they stand; lengths count up to `most`.

    int32 [n] lengths, bool [n] keep. Returns rows int32 [m] and how many have at least 0, 1, ... `most` frames.
    """
    at_least = np.zeros(most + 2, np.int64)
    for row in range(len(lengths)):
        if keep[row]:
            at_least[min(lengths[row], most)] += 1
    for length in range(most, -1, -1):
        at_least[length] += at_least[length + 1]
    place = at_least[1:].copy()  # those of a length come after all that are longer
    rows = np.empty(at_least[0], np.int32)
    for row in range(len(lengths)):
        if keep[row]:
            length = min(lengths[row], most)
            rows[place[length]] = row
            place[length] += 1
    return rows, at_least[:-1]


@jit
def group_by_scene(rows: np.ndarray, scenes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put rows of one scene side by side, scenes in the order of their first rows, rows of a scene as they come.

    int32 [m] rows, int32 [n] scenes (of all rows, from 0 up). Returns rows int32 [m] and where each scene begins,
    int32 [s + 1].
    """
    highest = -1
    for row in rows:
        highest = max(highest, scenes[row])
    order = np.full(highest + 1, -1, np.int32)
    num = 0
    for row in rows:
        if order[scenes[row]] < 0:
            order[scenes[row]] = num
            num += 1
    starts = np.zeros(num + 1, np.int32)
    for row in rows:
        starts[order[scenes[row]] + 1] += 1
    for scene in range(num):
        starts[scene + 1] += starts[scene]
    place = starts[:-1].copy()
    grouped = np.empty_like(rows)
    for row in rows:
        scene = order[scenes[row]]
        grouped[place[scene]] = row
        place[scene] += 1
    return grouped, starts


@jit
def length_shares(
    rows: np.ndarray,
    starts: np.ndarray,
    cumulative: np.ndarray,
    num_scenes: int,
    least: int,
    most: int,
    lengths: np.ndarray,
) -> np.ndarray:
    """Return how likely `draw_rows` by scenes draws a sequence of 0, 1, ... `most` frames; longer ones count there."""
    shares = np.zeros(most + 1)
    before = 0.0
    for scene in range(num_scenes):
        share = 1.0 / num_scenes
        if len(cumulative):
            share = (cumulative[scene] - before) / cumulative[num_scenes - 1]
            before = cumulative[scene]
        begin = starts[scene]
        num = _num_at_least(rows, begin, starts[scene + 1], lengths, least)
        for place in range(begin, begin + num):
            shares[min(lengths[rows[place]], most)] += share / num
    return shares
