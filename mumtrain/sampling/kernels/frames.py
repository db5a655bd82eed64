"""Drawing frames of sequences by places and by seconds; see `mumtrain.sampling.frame_subsets`."""

from __future__ import annotations

import numpy as np

from mumtrain.sampling.kernels import FRAMES, PLACE, below, jit, word_of

__all__ = ["choose", "draw_frames", "draw_timed", "longest_of", "repeat"]


@jit
def choose(key: int, start: int, num: int, out: np.ndarray, moved: np.ndarray) -> None:
    """Write len(out) <= num different places of 0 .. num - 1 in random order, by words `start`, start + 1, ....

    The first steps of Fisher and Yates' shuffle of 0 .. num - 1, of which only the places are kept whose content has
    moved: moved[0] are the places, moved[1] what they hold; int64 [2, len(out)].
    """
    num_moved = 0
    for i in range(len(out)):
        j = i + below(word_of(key, start + i), num - i)
        here, there, entry = i, j, num_moved
        for m in range(num_moved):
            if moved[0, m] == i:
                here = moved[1, m]
            if moved[0, m] == j:
                there, entry = moved[1, m], m
        out[i] = there
        if entry == num_moved:
            num_moved += 1
        moved[0, entry], moved[1, entry] = j, here


@jit
def repeat(key: int, start: int, num: int, out: np.ndarray, moved: np.ndarray) -> None:
    """Write each place of 0 .. num - 1 as often as the others, or once more, in random order; num < len(out)."""
    rest = len(out) % num
    choose(key, start, num, out[:rest], moved)
    for i in range(rest, len(out)):
        out[i] = (i - rest) % num
    for i in range(len(out) - 1):
        j = i + below(word_of(key, start + rest + i), len(out) - i)
        out[i], out[j] = out[j], out[i]


@jit
def draw_frames(
    keys: np.ndarray,
    datasets: np.ndarray,
    dataset: int,
    rows: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
    window: int,
    stride: int,
    out: np.ndarray,
) -> None:
    """Write the V frames of each sequence of one dataset, int32 out [B, V].

    With `stride` above 0 they are so many places apart, or as many as fit; else they are drawn out of `window`
    neighbouring places, or out of V where that is more.
    """
    V = out.shape[1]
    places, moved = np.empty(V, np.int64), np.empty((2, V), np.int64)
    for i in range(len(keys)):
        if datasets[i] != dataset:
            continue
        begin, key = offsets[rows[i]], keys[i]
        num = offsets[rows[i] + 1] - begin
        if num < V:
            repeat(key, FRAMES, num, places, moved)
        elif stride > 0:
            step = min(stride, (num - 1) // (V - 1)) if V > 1 else 1
            first = below(word_of(key, PLACE), num - step * (V - 1))
            for view in range(V):
                places[view] = first + step * view
        else:
            width = min(num, max(window, V))
            choose(key, FRAMES, width, places, moved)
            if width < num:
                begin += below(word_of(key, PLACE), num - width + 1)
        for view in range(V):
            out[i, view] = values[begin + places[view]]


@jit
def longest_of(datasets: np.ndarray, dataset: int, rows: np.ndarray, offsets: np.ndarray) -> int:
    longest = 0
    for i in range(len(datasets)):
        if datasets[i] == dataset:
            longest = max(longest, offsets[rows[i] + 1] - offsets[rows[i]])
    return longest


@jit
def _within(times: np.ndarray, anchor: int, half: float, least: int, found: np.ndarray) -> int:
    """Write the places within `half` of the anchor's time, or the `least` nearest ones; return how many there are."""
    num, middle = 0, times[anchor]
    for place in range(len(times)):
        found[num] = place
        num += abs(times[place] - middle) <= half
    if num >= least:
        return num
    num = 0
    for place in range(len(times)):  # the nearest so far, in order; of equal ones the earlier place first
        distance = abs(times[place] - middle)
        if num == least and distance >= abs(times[found[num - 1]] - middle):
            continue
        at = num if num < least else least - 1
        while at > 0 and abs(times[found[at - 1]] - middle) > distance:
            found[at] = found[at - 1]
            at -= 1
        found[at] = place
        num = min(num + 1, least)
    return num


@jit
def _read_times(frames: np.ndarray, seconds: np.ndarray, valid: np.ndarray, shift: int, times: np.ndarray) -> bool:
    # False where a frame has no time
    for place in range(len(frames)):
        frame = frames[place]
        if not 0 <= frame < len(seconds):
            return False
        bit = frame + shift
        if len(valid) and not (valid[bit >> 3] >> (bit & 7)) & 1:
            return False
        times[place] = seconds[frame]
        if not np.isfinite(times[place]):
            return False
    return True


@jit
def draw_timed(
    keys: np.ndarray,
    datasets: np.ndarray,
    dataset: int,
    rows: np.ndarray,
    offsets: np.ndarray,
    values: np.ndarray,
    seconds: np.ndarray,
    valid: np.ndarray,
    shift: int,
    half: float,
    out: np.ndarray,
) -> None:
    """Write the V frames of each sequence of one dataset, drawn out of those within `half` seconds of a random one.

    float64 `seconds` of all frames, with Arrow's bitmap `valid` (uint8; empty where none is missing) that begins at bit
    `shift`. Where these are fewer than V, they are the V nearest ones; where a time is missing, all of the sequence.
    """
    V = out.shape[1]
    places, moved = np.empty(V, np.int64), np.empty((2, V), np.int64)
    longest = longest_of(datasets, dataset, rows, offsets)
    times, found = np.empty(longest), np.empty(longest, np.int64)
    for i in range(len(keys)):
        if datasets[i] != dataset:
            continue
        frames, key = values[offsets[rows[i]] : offsets[rows[i] + 1]], keys[i]
        num = len(frames)
        if num < V:
            repeat(key, FRAMES, num, places, moved)
        elif _read_times(frames, seconds, valid, shift, times):
            num = _within(times[:num], below(word_of(key, PLACE), num), half, V, found)
            choose(key, FRAMES, num, places, moved)
            for view in range(V):
                places[view] = found[places[view]]
        else:
            choose(key, FRAMES, num, places, moved)
        for view in range(V):
            out[i, view] = frames[places[view]]
