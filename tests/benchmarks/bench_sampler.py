"""How long the sampler takes for a slot of 96 frames, beside the plain version of the same definitions.

Run by hand: `python tests/benchmarks/bench_sampler.py [--sequences N] [--batches M]`. A made-up mix of twelve datasets
of the paper's weights: sequences of 24 to 256 frames in scenes of 1 to 1,000 sequences, and one dataset of single
images. Ours is `Sampler.batch`, whole, for single images, for some numbers of views, for the slowest number and for the
mean over the law of slots, at steps that it has not seen before; the plain version (`tests/plain_sampler.py`, one
Python call a decision) draws some of the same batches, compared frame by frame. Both take turns in one process, the
best of the turns counts; compilation and sorting are measured apart.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from mumdata import rng
from mumtrain.config import Config, apply
from mumtrain.recipes import recipe
from mumtrain.sampler import Sampler
from mumtrain.sampling.sequence_index import SequenceIndex, build_index
from mumtrain.sampling.sequence_table import SequenceTable
from tests.plain_sampler import PlainDataset, PlainSampler

WEIGHTS = (0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05)
SINGLE = 4  # the fifth one is of single images

TURNS = 5

# neighbours of a frame, its next ones in the sequence
DEGREE = 40


class Lists:
    """The frames of sequences one after the other, as a list of lists for the plain version, without the lists."""

    def __init__(self, table: SequenceTable) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> list[int]:
        return self.table.frames(row).tolist()


def made_up(number: int, num: int) -> SequenceTable:
    """Build one dataset of `num` sequences, whose frames are each of its own and follow each other."""
    random = np.random.default_rng(number)
    lengths = np.ones(num, np.int32) if number == SINGLE else random.integers(24, 257, num, dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    # scenes of 1, 30 or 1,000 sequences
    scenes = np.arange(num, dtype=np.int32) // (1, 30, 1000)[number % 3]
    table = pa.table(
        {
            "scene": scenes,
            "num_frames": lengths,
            "frames": pa.LargeListArray.from_arrays(
                pa.array(offsets), pa.array(np.arange(offsets[-1], dtype=np.int32))
            ),
            "holdout_unit": random.random(num),
            "mean_overlap": random.random(num, dtype=np.float32),
        }
    )
    return opened(number, table, timestamps=pa.chunked_array([pa.array(np.arange(offsets[-1]) / 30)]))


def opened(number: int, table: pa.Table, **more: Any) -> SequenceTable:
    name, weight, single_view = f"d{number}", WEIGHTS[number], number == SINGLE
    return SequenceTable(table, name=name, weight=weight, single_view=single_view, min_frames=1, holdout=0.01, **more)


def plain_of(table: SequenceTable) -> PlainDataset:
    """The same dataset for the plain version, with what it needs for uniform, window and stride."""
    units = table._table.column("holdout_unit").to_numpy()
    dataset = PlainDataset(table.name, [], [], [], [], table.weight, table.single_view, 1, table.holdout)
    dataset.frames = Lists(table)  # type: ignore[assignment]
    drawable = np.flatnonzero(units >= table.holdout)
    dataset.units = drawable  # type: ignore[assignment]
    return dataset


class Prefixes(PlainSampler):
    """The plain version with sequences sorted by numpy: a sort of millions in Python would be measured instead."""

    def _in_order(self, number: int, stage: Any) -> np.ndarray:
        rows = self.datasets[number].units
        self.sorted_lengths = getattr(self, "sorted_lengths", {})
        frames: Any = self.datasets[number].frames
        lengths = np.minimum(frames.table.lengths[rows], self.data.frames_per_slot)
        order = np.argsort(-lengths, kind="stable")
        self.sorted_lengths[number] = -lengths[order]
        return np.asarray(rows)[order]

    def _eligible(self, number: int, stage: Any, least: int) -> np.ndarray:
        rows = self.in_order(number, stage)
        return rows[: np.searchsorted(self.sorted_lengths[number], -least, side="right")]


def best_of_turns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(TURNS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def settings(*sets: str) -> Config:
    return apply(recipe("mum-vitl16"), sets)


def batches_in_turn(sampler: Sampler, steps: list[int], num: int) -> Callable[[], None]:
    """Return a function that draws the next `num` of the steps at each call."""
    left = iter(steps)
    return lambda: batches(sampler, list(itertools.islice(left, num)))


def steps_by_views(sampler: Sampler, num: int) -> dict[int, list[int]]:
    """Return the first `num` steps of each number of views."""
    found: dict[int, list[int]] = {views: [] for _, views in sampler.law().kinds}
    step = 0
    while any(len(steps) < num for steps in found.values()):
        views = sampler._stage(step).kind(rng.key(sampler.seed, step, 0, "batch"))[1]  # nothing else is drawn yet
        if len(found[views]) < num:
            found[views].append(step)
        step += 1
    return found


def batches(sampler: Any, steps: list[int]) -> None:
    for step in steps:
        sampler.batch(step, 0)


def measure(tables: list[SequenceTable], rules: tuple[str, ...], num: int, plain: bool) -> None:
    sampler = Sampler(tables, settings(*rules))
    by_views = steps_by_views(sampler, num * TURNS)
    calls: dict[str, Callable[[], object]] = {
        f"ours {views}": batches_in_turn(sampler, steps, num) for views, steps in by_views.items()
    }
    few = max(1, num // 50)
    if plain:
        other = Prefixes([plain_of(table) for table in tables], settings(*rules))
        same = 0
        for steps in by_views.values():
            for step in steps[:few]:
                batch = sampler.batch(step, 0)
                drawn = [(d.dataset, d.sequence, d.frame_ids.tolist()) for d in batch.sequences]
                assert (batch.views, drawn) == other.batch(step, 0)
                same += 1
        calls |= {f"plain {v}": functools.partial(batches, other, steps[:few]) for v, steps in by_views.items()}
    best = best_of_turns(calls)
    law = sampler.law()
    shares = {views: share for (_, views), share in zip(law.kinds, law.probabilities, strict=True)}
    ours = {views: best[f"ours {views}"] / num * 1e6 for views in shares}
    mean = sum(shares[v] * ours[v] for v in shares)
    slowest = max(ours, key=lambda v: ours[v])
    told = "  ".join(f"V={v} {ours[v]:.0f}" for v in (1, 2, 3, 6, 12, 24))
    name = " ".join(rule.removeprefix("data.") for rule in rules)
    line = f"{name:40}{mean:6.1f} us a slot; {told}; slowest V={slowest} {ours[slowest]:.0f}"
    if plain:
        mean_plain = sum(shares[v] * best[f"plain {v}"] / few * 1e6 for v in shares)
        line += f"; plain {mean_plain:,.0f} us = {mean_plain / mean:.0f} x; {same} batches equal"
    print(line, flush=True)


def with_pairs(table: SequenceTable) -> SequenceTable:
    """Add the next and previous frames of each frame, within the sequence, as pairs of random overlap."""
    if table.single_view:
        return table
    num = len(table.values)
    first, last = (np.repeat(a, table.lengths) for a in (table.offsets[:-1], table.offsets[1:]))
    here = np.arange(num)
    low, high = np.maximum(here - DEGREE // 2, first), np.minimum(here + DEGREE // 2 + 1, last)
    counts = high - low - 1
    indptr = np.concatenate([[0], np.cumsum(counts)])
    entry = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts) + np.repeat(low, counts)
    other = (entry + (entry >= np.repeat(here, counts))).astype(np.int32)
    overlap = np.random.default_rng(0).random(len(other), dtype=np.float32)
    pairs = pa.table(
        {
            name: pa.LargeListArray.from_arrays(pa.array(indptr), pa.array(values))
            for name, values in (("other", other), ("overlap", overlap))
        }
    )
    return opened(int(table.name[1:]), table._table, pairs=pairs)


def sort_all(tables: list[SequenceTable], balance: Any) -> list[SequenceIndex]:
    return [build_index(table, balance, None, 96) for table in tables]


def size_of(index: SequenceIndex) -> int:
    return sum(value.nbytes for value in vars(index).values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=2_000_000, help="sequences of all datasets")
    parser.add_argument("--batches", type=int, default=200, help="batches of each number of views, a turn")
    options = parser.parse_args()
    rng.words(0, 1)
    tables = [made_up(number, options.sequences // 12) for number in range(12)]
    num_frames = sum(len(table.values) for table in tables)
    print(f"12 datasets, {sum(map(len, tables)):,} sequences, {num_frames:,} frames in them")
    before = time.perf_counter()
    Sampler(tables, settings("data.subset=window:8")).batch(0, 0)
    print(f"first batch of the process {time.perf_counter() - before:.2f} s, kernels compiled or read from the cache")
    build_index(tables[0], "sqrt", None, 96)
    for balance in ("sequence", "scene", "sqrt"):
        seconds = best_of_turns({"": functools.partial(sort_all, tables, balance)})[""]
        size = sum(map(size_of, sort_all(tables, balance)))
        print(f"sorting, balance={balance}: {seconds * 1e3:.0f} ms, {size / 1e6:.1f} MB")
    seconds = best_of_turns({"": lambda: Sampler([opened(n, t._table) for n, t in enumerate(tables)], settings())})[""]
    print(f"opening tables and sampler, checks included: {seconds * 1e3:.0f} ms")
    for rule in ("uniform", "window:32", "stride:4"):
        measure(tables, (f"data.subset={rule}",), options.batches, plain=True)
    for balance in ("scene", "sqrt"):
        measure(tables, (f"data.balance={balance}",), options.batches, plain=False)
    measure(tables, ("data.weighting=per_frame", "data.short=cap"), options.batches, plain=False)
    measure(tables, ("data.subset=window:2.5s",), options.batches, plain=False)
    small = [with_pairs(made_up(number, min(options.sequences, 60_000) // 12)) for number in range(12)]
    measure(small, ("data.subset=covisible",), options.batches, plain=False)
    print(f"(covisible: {len(small) * len(small[0]):,} sequences, {DEGREE} neighbours a frame)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB, frames of the mix included")


if __name__ == "__main__":
    main()
