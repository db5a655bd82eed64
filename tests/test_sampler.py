"""Batches: what the paper says about their frequencies, drawn without state, from sequences that may be drawn."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mumdata import rng
from mumdata.errors import ConfigError
from mumtrain.config import Config, apply
from mumtrain.recipes import recipe
from mumtrain.sampler import Batch, Sampler, SequenceTable
from mumtrain.sampling.sequence_index import build_index


def make_table(lengths: list[int], units: list[float] | None = None, num_chunks: int = 1) -> pa.Table:
    """Sequences of given lengths over frames 0, 1, 2, ... in order, in one or several chunks."""
    ends = np.cumsum([0, *lengths])
    rows = [list(range(a, b)) for a, b in itertools.pairwise(ends)]
    table = pa.table(
        {
            "num_frames": pa.array(lengths, pa.int32()),
            "frames": pa.array(rows, pa.large_list(pa.int32())),
            "holdout_unit": pa.array(units or [0.5] * len(lengths), pa.float64()),
            "scene": pa.array([0] * len(lengths), pa.int32()),
        }
    )
    cuts = np.linspace(0, len(lengths), num_chunks + 1).astype(int)
    return pa.concat_tables([table.slice(a, b - a) for a, b in itertools.pairwise(cuts)])


def sequences(
    lengths: list[int],
    *,
    name: str = "x",
    weight: float = 1.0,
    single_view: bool = False,
    min_frames: int = 2,
    holdout: float = 0.0,
    units: list[float] | None = None,
    num_chunks: int = 1,
) -> SequenceTable:
    return SequenceTable(
        make_table(lengths, units, num_chunks),
        name=name,
        weight=weight,
        single_view=single_view,
        min_frames=min_frames,
        holdout=holdout,
    )


def config(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), ["data.views_min=2", "data.views_max=6", "data.frames_per_slot=16", *sets])


def same(one: Batch, other: Batch) -> bool:
    return (one.step, one.slot, one.views, len(one.sequences)) == (
        other.step,
        other.slot,
        other.views,
        len(other.sequences),
    ) and all(
        (a.dataset, a.sequence) == (b.dataset, b.sequence) and np.array_equal(a.frame_ids, b.frame_ids)
        for a, b in zip(one.sequences, other.sequences, strict=True)
    )


def chi_square_p(counts: list[int], shares: list[float]) -> float:
    total = sum(counts)
    expected = np.array(shares) / sum(shares) * total
    return float(stats.chisquare(counts, expected).pvalue)


def test_frequencies_are_those_of_the_paper() -> None:
    """Single-view batches, V, datasets for each V, sequences and frames: chi-square of 8,000 batches, seed fixed."""
    tables = [
        sequences([9, 3, 6], name="long", weight=0.5),
        sequences([4, 4], name="short", weight=0.3, min_frames=3),
        sequences([1] * 5, name="single", weight=0.2, single_view=True, min_frames=1),
    ]
    sampler = Sampler(tables, config())
    assert sampler.law().probabilities[sampler.law().kinds.index((True, 1))] == pytest.approx(0.2)
    single = np.zeros(2, int)
    views = dict.fromkeys(range(2, 7), 0)
    datasets = {v: [0, 0] for v in range(2, 7)}
    rows = {v: [0, 0, 0] for v in range(2, 7)}
    frames = np.zeros(9, int)
    for step in range(8000):
        batch = sampler.batch(step, 0)
        is_single = {drawn.dataset for drawn in batch.sequences} == {2}
        single[int(is_single)] += 1
        assert len(batch.sequences) == 16 // batch.views
        if is_single:
            assert batch.views == 1
            continue
        views[batch.views] += 1
        for drawn in batch.sequences:
            datasets[batch.views][drawn.dataset] += 1
            if drawn.dataset == 0:
                rows[batch.views][drawn.sequence] += 1
                if drawn.sequence == 0:
                    frames[drawn.frame_ids] += 1
    assert chi_square_p(single.tolist(), [0.8, 0.2]) > 1e-3
    assert chi_square_p(list(views.values()), [1.0] * 5) > 1e-3
    for v in (2, 3, 4):
        assert chi_square_p(datasets[v], [0.5, 0.3]) > 1e-3
    for v in (5, 6):  # the second dataset has no sequence of five frames: all its weight goes to the first
        assert datasets[v][1] == 0
    for v in (2, 3):
        assert chi_square_p(rows[v], [1.0] * 3) > 1e-3
    for v in (4, 5, 6):  # row 1 has three frames
        assert rows[v][1] == 0
        assert chi_square_p([rows[v][0], rows[v][2]], [1.0, 1.0]) > 1e-3
    assert chi_square_p(frames.tolist(), [1.0] * 9) > 1e-3


def test_a_batch_is_a_function_of_seed_step_and_slot() -> None:
    tables = [sequences([12, 8, 30, 5]), sequences([1] * 9, weight=0.3, single_view=True, min_frames=1)]
    one, other = Sampler(tables, config()), Sampler(tables, config())
    for step in (5, 3, 10**6, 0, 10**12):
        for slot in (0, 1, 63):
            assert same(one.batch(step, slot), other.batch(step, slot))
    assert not all(same(one.batch(s, 0), dataclasses.replace(one.batch(s, 1), slot=0)) for s in range(5))
    reseeded = Sampler(tables, config("seed=1"))
    assert not all(same(one.batch(s, 0), reseeded.batch(s, 0)) for s in range(5))


def test_a_far_step_costs_no_more_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in work, not time: no key but the step's own is asked for."""
    sampler = Sampler([sequences([12, 8, 30, 5])], config())
    asked: list[tuple[int | str | None, ...]] = []
    key = rng.key

    def counted(*parts: int | str | None) -> int:
        asked.append(parts)
        return key(*parts)

    monkeypatch.setattr(rng, "key", counted)
    sampler.batch(10**6, 2)
    assert asked == [(0, 10**6, 2, "batch")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.floats(0, 0.999)), min_size=1, max_size=40),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3, 0.7]),
    st.integers(1, 3),
)
def test_eligible_sequences_are_those_of_brute_force(
    rows: list[tuple[int, float]], min_frames: int, holdout: float, num_chunks: int
) -> None:
    lengths, units = [length for length, _ in rows], [unit for _, unit in rows]
    table = sequences(lengths, units=units, min_frames=min_frames, holdout=holdout, num_chunks=num_chunks)
    for views in range(1, 14):
        wanted = {r for r, (n, u) in enumerate(rows) if n >= max(views, min_frames) and not u < holdout}
        assert table.num_eligible(views) == len(wanted)
        index = build_index(table, "sequence", None, 12)
        eligible = index.rows[: index.num_sequences(views) if views <= 12 else 0]
        assert set(map(int, eligible)) == wanted
    starts = np.cumsum([0, *lengths])
    for row, length in enumerate(lengths):
        assert table.frames(row).tolist() == list(range(starts[row], starts[row] + length))


def test_frames_of_a_sequence_are_views_of_the_mapped_file() -> None:
    arrow = make_table([5, 7, 3])
    table = SequenceTable(arrow, name="x", weight=1, single_view=False, min_frames=2, holdout=0)
    values = arrow.column("frames").chunk(0).values.to_numpy()
    assert np.shares_memory(table.frames(1), values)
    assert not table.frames(1).flags.writeable


def test_every_view_of_a_sequence_is_another_frame_of_it() -> None:
    lengths = [6, 2, 9, 4]
    sampler = Sampler([sequences(lengths)], config())
    starts = np.cumsum([0, *lengths])
    for step in range(200):
        batch = sampler.batch(step, 0)
        for drawn in batch.sequences:
            assert len(set(drawn.frame_ids.tolist())) == batch.views == len(drawn.frame_ids)
            assert (drawn.frame_ids >= starts[drawn.sequence]).all()
            assert (drawn.frame_ids < starts[drawn.sequence + 1]).all()


def test_held_out_sequences_are_never_drawn() -> None:
    units = np.random.default_rng(0).random(60).tolist()
    sampler = Sampler([sequences([5] * 60, units=units, holdout=0.4)], config())
    drawn = {d.sequence for step in range(600) for d in sampler.batch(step, 0).sequences}
    assert drawn == {row for row, unit in enumerate(units) if unit >= 0.4}


def test_single_view_mixes_and_mixes_without() -> None:
    only_single = Sampler([sequences([1, 4], single_view=True, min_frames=1)], config())
    assert {only_single.batch(step, 0).views for step in range(200)} == {1}
    assert len(only_single.batch(0, 0).sequences) == 16
    no_single = Sampler([sequences([4, 5])], config())
    assert {no_single.batch(step, 0).views for step in range(300)} == {2, 3, 4, 5}  # no sequence has six


def test_one_view_of_a_multi_view_dataset_is_possible() -> None:
    """With views_min = 1 a batch of one view each may come from either kind, and never mixes them."""
    tables = [sequences([4, 5]), sequences([1] * 3, single_view=True, min_frames=1)]
    sampler = Sampler(tables, config("data.views_min=1"))
    kinds = [
        {d.dataset for d in batch.sequences}
        for batch in (sampler.batch(step, 0) for step in range(400))
        if batch.views == 1
    ]
    assert {0} in kinds
    assert {1} in kinds
    assert all(len(kind) == 1 for kind in kinds)


def test_nothing_to_draw_is_an_error_that_says_why() -> None:
    with pytest.raises(ConfigError, match=r"views_min=2 .* x \(longest 0, min_frames 9\)"):
        Sampler([sequences([5, 6], min_frames=9)], config())
    with pytest.raises(ConfigError, match="holdout"):
        Sampler([sequences([5], units=[0.1], holdout=0.5)], config())
    with pytest.raises(ConfigError, match="no sequence may be drawn from one"):
        Sampler([sequences([1], name="one", single_view=True, units=[0.1], holdout=0.5, min_frames=1)], config())
    with pytest.raises(ConfigError, match="no dataset"):
        Sampler([], config())


def test_a_dataset_that_is_never_drawn_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Sampler([sequences([5], name="good"), sequences([3], name="mute", min_frames=4)], config())
    assert [record.getMessage() for record in caplog.records if "mute" in record.getMessage()]
    assert "good" not in caplog.text


def test_many_sequences_cost_no_python_objects() -> None:
    """A quarter of a million sequences are opened and drawn from without a list each."""
    import tracemalloc

    lengths = np.full(250_000, 4, np.int32)
    offsets = np.arange(0, 1_000_001, 4)
    frames = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.arange(1_000_000, dtype=np.int32)))
    arrow = pa.table({"num_frames": lengths, "frames": frames, "holdout_unit": np.full(250_000, 0.5)})
    tracemalloc.start()
    sampler = Sampler([SequenceTable(arrow, name="x", weight=1, single_view=False, min_frames=2, holdout=0)], config())
    for step in range(100):
        sampler.batch(step, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * len(lengths)  # a list of four integers takes 88 bytes and more
