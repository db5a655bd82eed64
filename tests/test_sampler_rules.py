"""The sampler's rules: kernels beside the plain version, frequencies beside the law, the law beside enumeration."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from mumdata import rng
from mumdata.catalog import Mix, MixDataset
from mumdata.errors import CatalogError, ConfigError
from mumtrain.config import Config, apply
from mumtrain.recipes import recipe
from mumtrain.sampler import Batch, Law, Sampler, open_sampler, rank_slots
from mumtrain.sampling.law import frame_weights
from mumtrain.sampling.sequence_index import SequenceIndex, build_index
from mumtrain.sampling.sequence_table import SequenceTable
from tests.plain_sampler import PlainDataset, PlainSampler

WEIGHTINGS, BALANCES, SHORTS = (
    ("per_sequence", "per_batch", "per_frame"),
    ("sequence", "scene", "sqrt"),
    ("drop", "repeat", "cap"),
)
SUBSETS = ("uniform", "window:4", "window:2.5s", "stride:3", "covisible")


def config(*sets: str) -> Config:
    return apply(recipe("debug-cpu"), ["data.views_min=2", "data.views_max=6", "data.frames_per_slot=12", *sets])


def plain(lengths: list[int], *, step: int = 1, **more: Any) -> PlainDataset:
    """Sequences of given lengths over frames 0, 1, 2, ... (each list turned round where `step` is -1)."""
    ends = np.cumsum([0, *lengths]).tolist()
    return PlainDataset(
        more.pop("name", "x"),
        [list(range(a, b))[::step] for a, b in itertools.pairwise(ends)],
        more.pop("scenes", [0] * len(lengths)),
        more.pop("units", [0.5] * len(lengths)),
        more.pop("overlaps", [None] * len(lengths)),
        **more,
    )


def table_of(dataset: PlainDataset) -> SequenceTable:
    table = pa.table(
        {
            "num_frames": pa.array([len(f) for f in dataset.frames], pa.int32()),
            "frames": pa.array(dataset.frames, pa.large_list(pa.int32())),
            "holdout_unit": pa.array(dataset.units, pa.float64()),
            "scene": pa.array(dataset.scenes, pa.int32()),
            "mean_overlap": pa.array(dataset.overlaps, pa.float32()),
        }
    )
    times = pa.chunked_array([pa.array(dataset.times, pa.float64())]) if dataset.times else None
    pairs = None
    if dataset.pairs:
        others = [[other for other, _ in row] for row in dataset.pairs]
        overlaps = [[overlap for _, overlap in row] for row in dataset.pairs]
        pairs = pa.table(
            {
                "other": pa.array(others, pa.large_list(pa.int32())),
                "overlap": pa.array(overlaps, pa.large_list(pa.float32())),
            }
        )
    return SequenceTable(
        table,
        name=dataset.name,
        weight=dataset.weight,
        single_view=dataset.single_view,
        min_frames=dataset.min_frames,
        holdout=dataset.holdout,
        timestamps=times,
        pairs=pairs,
    )


def samplers(datasets: list[PlainDataset], *sets: str) -> tuple[Sampler, PlainSampler]:
    """The sampler and the plain one; the weights solved for per_frame are the only thing that the second takes over."""
    made = config(*sets)
    sampler, other = Sampler([table_of(d) for d in datasets], made), PlainSampler(datasets, made)
    if made.data.weighting == "per_frame":
        take_solved(sampler.law(), other)
    return sampler, other


def take_solved(law: Law, other: PlainSampler) -> None:
    other.solved = dict(zip(law.kinds, law.datasets.tolist(), strict=True))
    other.solved_share = float(sum(p for (s, _), p in zip(law.kinds, law.probabilities, strict=True) if s))


def as_plain(batch: Batch) -> tuple[int, list[tuple[int, int, list[int]]]]:
    return batch.views, [(d.dataset, d.sequence, d.frame_ids.tolist()) for d in batch.sequences]


def p_value(counts: dict[Any, int], shares: dict[Any, float]) -> float:
    """Chi-square of counts against shares; what the shares exclude must not occur; rare cells are put together."""
    assert {k for k, n in counts.items() if n} <= {k for k, share in shares.items() if share > 0}
    total, whole = sum(counts.values()), sum(shares.values())
    cells = [(counts.get(k, 0), share / whole * total) for k, share in shares.items() if share > 0]
    common = [cell for cell in cells if cell[1] >= 5]
    rare = [cell for cell in cells if cell[1] < 5]
    if rare and (expected := sum(e for _, e in rare)) > 1:
        common.append((sum(n for n, _ in rare), expected))
    if len(common) < 2:
        return 1.0
    seen, expected_all = np.array([n for n, _ in common], float), np.array([e for _, e in common])
    return float(stats.chisquare(seen, expected_all * seen.sum() / expected_all.sum()).pvalue)


# ---- a small mix in which every rule makes a difference


def small_mix() -> list[PlainDataset]:
    """Scenes of different sizes and lengths, a dataset of short sequences, one of single images."""
    generator = np.random.default_rng(3)
    wide = plain(
        [9, 3, 6, 2, 2, 5, 9, 4],
        name="wide",
        weight=0.45,
        scenes=[0, 0, 1, 1, 1, 2, 3, 3],
        units=[0.5, 0.9, 0.3, 0.4, 0.6, 0.8, 0.05, 0.7],
        holdout=0.1,
    )
    short = plain([4, 4, 3, 2, 3], name="short", weight=0.3, min_frames=3, scenes=[5, 5, 2, 2, 2], step=-1)
    single = plain([1] * 5, name="single", weight=0.25, single_view=True, scenes=[0, 0, 0, 1, 2])
    for dataset in (wide, short):
        num = sum(map(len, dataset.frames))
        dataset.times = [float(t) for t in np.cumsum(generator.random(num))]
        near = [(a, b) for a in range(num) for b in range(a + 1, min(num, a + 4)) if generator.random() < 0.7]
        overlap = {pair: float(np.float32(generator.random())) for pair in near}
        dataset.pairs = [
            sorted(
                [(b, o) for (a, b), o in overlap.items() if a == f]
                + [(a, o) for (a, b), o in overlap.items() if b == f]
            )
            for f in range(num)
        ]
    return [wide, short, single]


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("short", SHORTS)
def test_kernels_draw_what_the_plain_version_draws(weighting: str, balance: str, short: str) -> None:
    rules = (f"data.weighting={weighting}", f"data.balance={balance}", f"data.short={short}")
    for per, subset in itertools.product(("slot", "step"), SUBSETS):
        sampler, other = samplers(small_mix(), *rules, f"data.views_per={per}", f"data.subset={subset}")
        for step in (*range(12), 10**6, 10**15):
            batch = sampler.batch(step, step % 3)
            assert as_plain(batch) == other.batch(step, step % 3)
            is_single = sampler.tables[batch.sequences[0].dataset].single_view
            key = rng.key(0, step, step % 3, "batch")
            for number, attempt in ((0, 0), (len(batch.sequences) - 1, 0), (1, 3)):
                drawn = sampler.draw(step, step % 3, number, batch.views, is_single, attempt)
                wanted = other.draw(key, number, other.stage(step), (is_single, batch.views), attempt)
                assert (drawn.dataset, drawn.sequence, drawn.frame_ids.tolist()) == wanted


def scene_shares(dataset: PlainDataset, balance: str, least: int) -> dict[int, float]:
    """How likely each sequence of a dataset is, by the definition."""
    drawable = [
        row
        for row, frames in enumerate(dataset.frames)
        if dataset.units[row] >= dataset.holdout and len(frames) >= dataset.min_frames
    ]
    able = [row for row in drawable if len(dataset.frames[row]) >= least]
    if balance == "sequence":
        return {row: 1 / len(able) for row in able}
    size = Counter(dataset.scenes[row] for row in drawable)
    num_able = Counter(dataset.scenes[row] for row in able)
    weight = {scene: 1.0 if balance == "scene" else math.sqrt(size[scene]) for scene in num_able}
    return {row: weight[dataset.scenes[row]] / sum(weight.values()) / num_able[dataset.scenes[row]] for row in able}


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("short", SHORTS)
def test_frequencies_are_those_of_the_law(weighting: str, balance: str, short: str) -> None:
    """Kinds, datasets for each kind, sequences of each dataset for each V, seed fixed; V drawn for each slot."""
    mix = small_mix()
    sampler, _ = samplers(mix, f"data.weighting={weighting}", f"data.balance={balance}", f"data.short={short}")
    law = sampler.law()
    kinds: Counter[tuple[bool, int]] = Counter()
    datasets: dict[tuple[bool, int], Counter[int]] = {}
    rows: dict[tuple[int, int], Counter[int]] = {}
    for step in range(3000):
        batch = sampler.batch(step, 1)
        kind = (mix[batch.sequences[0].dataset].single_view, batch.views)
        kinds[kind] += 1
        of = [drawn.dataset for drawn in batch.sequences]
        assert len(of) == law.frames_per_slot // batch.views
        if weighting == "per_batch":
            assert len(set(of)) == 1
            of = of[:1]
        datasets.setdefault(kind, Counter()).update(of)
        for drawn in batch.sequences:
            rows.setdefault((drawn.dataset, batch.views), Counter())[drawn.sequence] += 1
    assert math.isclose(math.fsum(law.probabilities), 1, abs_tol=1e-12)
    assert p_value(kinds, dict(zip(law.kinds, law.probabilities.tolist(), strict=True))) > 1e-3
    for kind, shares, eligible in zip(law.kinds, law.datasets.tolist(), law.eligible.tolist(), strict=True):
        assert math.isclose(math.fsum(shares), 1, abs_tol=1e-12)
        assert p_value(datasets[kind], dict(enumerate(shares))) > 1e-4
        for number, share in enumerate(shares):
            if share:
                least = 1 if short == "repeat" else kind[1]
                wanted = scene_shares(mix[number], balance, least)
                assert eligible[number] == len(wanted)
                if rows[number, kind[1]].total() > 100:
                    assert p_value(rows[number, kind[1]], wanted) > 1e-4
            else:
                assert eligible[number] == 0


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_law_of_kinds_is_that_of_enumeration(weighting: str, balance: str) -> None:
    """All of the law but the solved weights, from the definition: exact, not sampled."""
    mix = small_mix()
    for short in SHORTS:
        law = samplers(mix, f"data.weighting={weighting}", f"data.balance={balance}", f"data.short={short}")[0].law()
        of_views = dict.fromkeys(range(2, 7), 1 / 5)
        if short == "cap":  # a pilot by the weights as given, among sequences of two frames and more
            of_views = dict.fromkeys(range(2, 7), 0.0)
            for v, (dataset, share) in itertools.product(range(2, 7), ((mix[0], 0.6), (mix[1], 0.4))):
                for row, p in scene_shares(dataset, balance, 2).items():
                    of_views[min(v, len(dataset.frames[row]))] += share * p / 5
        slot = dict(zip(law.kinds, law.probabilities.tolist(), strict=True))
        single = slot.pop((True, 1))
        assert slot == pytest.approx({(False, v): q * (1 - single) for v, q in of_views.items()}, rel=1e-12)
        if weighting != "per_frame":
            assert single == pytest.approx(0.25)
            for (is_single, v), shares in zip(law.kinds, law.datasets.tolist(), strict=True):
                both = short == "repeat" or v <= 4  # the second dataset has no sequence of five frames
                wanted = [0, 0, 1] if is_single else [0.6, 0.4, 0] if both else [1, 0, 0]
                assert shares == pytest.approx(wanted)
        else:
            num_frames = np.array([12 // v * v for _, v in law.kinds]) * law.probabilities
            got = (num_frames[:, None] * law.datasets).sum(axis=0) / num_frames.sum()
            assert got == pytest.approx([0.45, 0.3, 0.25], abs=1e-9)


def test_weights_for_shares_of_frames() -> None:
    """What can be met is met; what cannot, as near as the scaling gets; the weights are positive numbers."""
    able = [[True, True, True], [True, True, False], [True, False, False]]
    weights, got = frame_weights([0.5, 0.3, 0.2], able, [0.5, 0.3, 0.2])
    assert got == pytest.approx([0.5, 0.3, 0.2], abs=1e-9)
    assert min(weights) > 0
    # the first alone can fill the last row, so it cannot get less than its half of the frames
    weights, got = frame_weights([0.1, 0.6, 0.3], able, [0.3, 0.2, 0.5])
    assert got == pytest.approx([0.5, 1 / 3, 1 / 6], abs=1e-6)  # the rest as 6 : 3, as far as rows allow
    assert min(weights) > 0


def test_shares_of_frames_that_cannot_be_had_are_told(caplog: pytest.LogCaptureFixture) -> None:
    mix = [plain([9, 9], name="long", weight=0.2), plain([3] * 4, name="brief", weight=0.6)]
    mix.append(plain([1, 1], name="one", weight=0.2, single_view=True))
    sampler, _ = samplers(mix, "data.weighting=per_frame")
    law = sampler.law()
    told = [record.getMessage() for record in caplog.records]
    frames = np.array([12 // v * v for _, v in law.kinds]) * law.probabilities
    got = (frames[:, None] * law.datasets).sum(axis=0) / frames.sum()
    assert got[2] == pytest.approx(0.2)
    assert got[0] == pytest.approx(
        0.8 * (12 + 10 + 12) / (12 * 4 + 10), abs=1e-6
    )  # V = 4, 5 and 6 are the first's alone
    assert len(told) == 1
    assert f"long {got[0]:.1%} instead of 20.0%, brief {got[1]:.1%} instead of 60.0%" in told[0]


# ---- frames of a sequence


def one_sequence(num: int, views: int, *sets: str, draws: int = 6000, **more: Any) -> Counter[tuple[int, ...]]:
    """How often each tuple of frames is drawn from one sequence of frames 0 .. num-1."""
    made = apply(
        recipe("debug-cpu"),
        [f"data.views_min={views}", f"data.views_max={views}", f"data.frames_per_slot={8 * views}", *sets],
    )
    sampler = Sampler([table_of(plain([num], **more))], made)
    batches = (sampler.batch(step, 0) for step in range(-(-draws // 8)))
    return Counter(tuple(d.frame_ids.tolist()) for batch in batches for d in batch.sequences)


def uniform(tuples: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    return dict.fromkeys(tuples, 1.0)


def test_uniform_every_ordered_choice_is_as_likely() -> None:
    for num, views in ((5, 3), (4, 4), (6, 1), (7, 2)):
        assert p_value(one_sequence(num, views), uniform(itertools.permutations(range(num), views))) > 1e-3


def test_window_every_start_and_choice_in_it_is_as_likely() -> None:
    for num, views, width in ((6, 2, 4), (5, 3, 2), (4, 2, 9)):  # the window holds at least V, at most n places
        size = min(num, max(views, width))
        wanted: Counter[tuple[int, ...]] = Counter()
        for first in range(num - size + 1):
            wanted.update(itertools.permutations(range(first, first + size), views))
        assert p_value(one_sequence(num, views, f"data.subset=window:{width}"), dict(wanted)) > 1e-3


def test_stride_every_start_is_as_likely_and_short_sequences_take_smaller_steps() -> None:
    for num, views, stride, step in ((9, 3, 2, 2), (9, 3, 7, 4), (10, 4, 3, 3), (5, 5, 3, 1), (6, 1, 4, 1)):
        starts = range(num - step * (views - 1))
        wanted = uniform(tuple(first + step * view for view in range(views)) for first in starts)
        assert p_value(one_sequence(num, views, f"data.subset=stride:{stride}"), wanted) > 1e-3


def test_window_in_seconds() -> None:
    """An anchor, then V of those within half the window of it, or the V nearest; the places are not in time's order."""
    times = [4.0, 0.0, 1.0, 1.5, 9.0, 2.5]
    wanted: Counter[tuple[int, ...]] = Counter()
    for anchor in range(6):
        within = [p for p in range(6) if abs(times[p] - times[anchor]) <= 1.5]
        nearest = sorted(range(6), key=lambda p: (abs(times[p] - times[anchor]), p))[:3]
        near = within if len(within) >= 3 else nearest
        for choice in itertools.permutations(near, 3):
            wanted[choice] += 240 // math.perm(len(near), 3)
    counts = one_sequence(6, 3, "data.subset=window:3s", times=times)
    assert p_value(counts, dict(wanted)) > 1e-3
    assert (4, 0, 5) in counts  # nothing is near frame 4
    assert (0, 1, 4) not in counts


def test_sequences_with_a_frame_without_timestamp_are_drawn_from_uniformly() -> None:
    for missing in (None, math.nan):
        times = [0.0, 1.0, missing, 50.0, 60.0]
        counts = one_sequence(5, 2, "data.subset=window:1s", times=times)
        assert p_value(counts, uniform(itertools.permutations(range(5), 2))) > 1e-3
    # a bitmap that does not begin with a byte, as slices have it
    column = pa.chunked_array([pa.array([9.0, None, 7.0, 0.0, 1.0, 50.0, 51.0, 99.0])]).slice(3, 5)
    table = table_of(plain([4]))
    sliced = SequenceTable(
        table._table, name="x", weight=1, single_view=False, min_frames=1, holdout=0, timestamps=column
    )
    sampler = Sampler([sliced], config("data.views_max=2", "data.subset=window:2s"))
    drawn = {tuple(sorted(d.frame_ids.tolist())) for s in range(40) for d in sampler.batch(s, 0).sequences}
    assert drawn == {(0, 1), (2, 3)}


def test_datasets_that_a_rule_cannot_be_followed_in_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    timed = plain([5], name="timed", times=[0.0, 1, 2, 3, 4])
    bare, single = plain([5], name="bare"), plain([1], name="single", single_view=True)
    with pytest.raises(ConfigError, match=r"window:2\.5s needs timestamps, and no frame of bare has one"):
        samplers([bare, single], "data.subset=window:2.5s")
    Sampler([table_of(d) for d in (timed, bare, single)], config("data.subset=window:2.5s"))
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "bare has no timestamps: data.subset=window:2.5s draws its frames uniformly"
    ]
    caplog.clear()
    sampler, _ = samplers([bare, single], "data.subset=covisible")
    for step in range(30):
        sampler.batch(step, 0)
    assert len(caplog.records) == 1
    assert "bare has no covisibility.parquet" in caplog.text
    assert p_value(
        one_sequence(5, 3, "data.subset=covisible"), uniform(itertools.permutations(range(5), 3))
    ) > 1e-3  # fmt: skip


def grown(pairs: set[tuple[int, int]], num: int, views: int) -> dict[tuple[int, ...], float]:
    """How likely each order of frames is, grown along unordered pairs."""
    shares: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(views):
        longer: dict[tuple[int, ...], float] = {}
        for chosen, share in shares.items():
            free = [f for f in range(num) if f not in chosen]
            linked = [f for f in free if any((f, c) in pairs or (c, f) in pairs for c in chosen)] or free
            for frame in linked:
                longer[*chosen, frame] = share / len(linked)
        shares = longer
    return shares


def test_covisible_grows_along_pairs_of_the_band() -> None:
    overlaps = {(0, 1): 0.7, (1, 2): 0.3, (2, 3): 0.05, (3, 4): 0.9, (0, 4): 0.1, (1, 5): 0.7}
    num = 7  # frame 6 shares nothing
    pairs = [sorted((a if b == f else b, o) for (a, b), o in overlaps.items() if f in (a, b)) for f in range(num)]
    for band, low, high in (("", 0.1, 1.0), ("0.3:0.7", 0.3, 0.7), ("0.05:0.3", 0.05, 0.3), ("0.7:", 0.7, 1.0)):
        wanted = grown({pair for pair, overlap in overlaps.items() if low <= overlap <= high}, num, 4)
        counts = one_sequence(num, 4, "data.subset=covisible", f"data.overlap={band}", pairs=pairs, draws=16000)
        assert p_value(counts, wanted) > 1e-3


def test_frames_repeat_evenly_and_in_random_order() -> None:
    for num, views in ((3, 5), (2, 4), (1, 3), (3, 6)):
        counts = one_sequence(num, views, "data.short=repeat")
        wanted: Counter[tuple[int, ...]] = Counter()
        for extra in itertools.combinations(range(num), views % num):
            wanted.update(itertools.permutations([*range(num), *extra] + [*range(num)] * (views // num - 1)))
        assert p_value(counts, dict(wanted)) > 1e-3
        for rule in SUBSETS[1:]:
            times = [float(t) for t in range(num)]
            rows: list[list[tuple[int, float]]] = [[] for _ in range(num)]
            if num > 1:
                rows[0], rows[1] = [(1, 0.5)], [(0, 0.5)]
            sets = ("data.short=repeat", f"data.subset={rule}")
            assert one_sequence(num, views, *sets, times=times, pairs=rows, draws=80).keys() <= wanted.keys()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_mixes(data: st.DataObject) -> None:
    """Random tables, settings and steps: the plain version draws the same, and only what may be drawn."""
    num_datasets = data.draw(st.integers(1, 4))
    datasets = []
    for number in range(num_datasets):
        single = data.draw(st.booleans())
        lengths = data.draw(st.lists(st.integers(1, 1 if single else 14), min_size=1, max_size=15))
        num, some = sum(lengths), st.floats(0, 1, width=32)
        links = data.draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, num - 1), some), max_size=30))
        met = {(min(a, b), max(a, b)): o for a, b, o in links if a != b}
        pairs = [sorted((a + b - f, o) for (a, b), o in met.items() if f in (a, b)) for f in range(num)]
        times = st.one_of(st.none(), st.floats(0, 20)) if data.draw(st.booleans()) else st.floats(0, 20)
        rows = len(lengths)
        datasets.append(
            plain(
                lengths,
                name=f"d{number}",
                step=data.draw(st.sampled_from([1, -1])),
                weight=data.draw(st.sampled_from([0.0, 0.1, 1.0, 3.0])),
                single_view=single,
                min_frames=data.draw(st.integers(1, 4)),
                holdout=data.draw(st.sampled_from([0.0, 0.3])),
                scenes=data.draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows)),
                units=data.draw(st.lists(st.floats(0, 0.999), min_size=rows, max_size=rows)),
                overlaps=data.draw(st.lists(st.one_of(st.none(), some), min_size=rows, max_size=rows)),
                times=data.draw(st.lists(times, min_size=num, max_size=num)) if not single else [],
                pairs=pairs if met and not single else [],
            )
        )
    least = data.draw(st.integers(1, 4))
    sets = [
        f"data.views_min={least}",
        f"data.views_max={data.draw(st.integers(least, 12))}",
        f"data.overlap={data.draw(st.sampled_from(['', '0.2:', '0.1:0.6']))}",
        *(
            f"data.{key}={data.draw(st.sampled_from(values))}"
            for key, values in (
                ("weighting", WEIGHTINGS),
                ("balance", BALANCES),
                ("short", SHORTS),
                ("subset", SUBSETS),
                ("views_per", ("slot", "step")),
            )
        ),
    ]
    try:
        sampler, other = samplers(datasets, *sets)
    except ConfigError:
        return
    for step in data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=8)):
        assert as_plain(sampler.batch(step, 2)) == other.batch(step, 2)


# ---- stages, steps, ranks


def staged() -> list[PlainDataset]:
    one = plain([8, 8, 8, 5, 3], name="one", overlaps=[0.1, 0.4, 0.7, None, 0.5])
    two = plain([6, 6], name="two", weight=0.5, overlaps=[0.7, 0.2])
    return [one, two, plain([1, 1], name="lone", weight=0.5, single_view=True, overlaps=[0.95, None])]


STAGES = (
    "data.stages=0 views=2:3 overlap=0.4:0.7; 50 views=4:5 weight.two=0; 70 weight.lone=0 overlap=:0.3; 90 weight.one=0"
)


@pytest.mark.parametrize("balance", BALANCES)
def test_stages_draw_by_their_own_views_bands_and_weights(balance: str) -> None:
    sampler, other = samplers(staged(), STAGES, f"data.balance={balance}")
    seen: dict[int, set[tuple[int, int]]] = {0: set(), 50: set(), 70: set(), 90: set()}
    for step in range(110):
        batch = sampler.batch(step, 0)
        assert as_plain(batch) == other.batch(step, 0)
        start = max(s for s in seen if s <= step)
        seen[start].update((d.dataset, d.sequence) for d in batch.sequences)
        if batch.sequences[0].dataset != 2:
            assert batch.views in {0: (2, 3), 50: (4, 5)}.get(start, range(2, 7))
    single = {(2, 0), (2, 1)}
    assert seen[0] == {(0, 1), (0, 2), (0, 3), (0, 4), (1, 0)} | single
    assert seen[50] == {(0, 0), (0, 1), (0, 2), (0, 3)} | single
    assert seen[70] == {(0, 0), (0, 3), (1, 1)}
    assert seen[90] == {(1, 0), (1, 1)} | single
    assert [law.kinds[-1][1] for law in map(sampler.law, range(4))] == [3, 5, 6, 6]


@pytest.mark.parametrize("rules", [(), ("data.weighting=per_frame", "data.balance=sqrt", "data.short=cap")])
def test_a_step_that_is_jumped_to_equals_one_that_is_reached(rules: tuple[str, ...]) -> None:
    made = config(STAGES, *rules)
    tables = [table_of(d) for d in staged()]
    reached = Sampler(tables, made)
    batches = {(step, slot): as_plain(reached.batch(step, slot)) for step in range(100) for slot in range(2)}
    backwards = Sampler(tables, made)
    for key in sorted(batches, reverse=True):
        assert as_plain(backwards.batch(*key)) == batches[key]
    far = as_plain(reached.batch(10**6, 5))
    assert as_plain(Sampler(tables, made).batch(10**6, 5)) == far
    assert as_plain(reached.batch(10**6 + 1, 5)) != far


def test_stages_that_filter_alike_share_their_sorted_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []

    def counted(*arguments: Any) -> SequenceIndex:
        built.append(arguments)
        return build_index(*arguments)

    monkeypatch.setattr("mumtrain.sampler.build_index", counted)
    stages = "data.stages=0 views=2:3; 5 views=2:4; 9 overlap=0.5:; 12 overlap=0.5: weight.one=3"
    sampler = Sampler([table_of(d) for d in staged()], config(stages))
    assert not built  # nothing is sorted before it is needed
    for step in range(20):
        sampler.batch(step, 0)
    assert len(built) == 2 * 3
    covisible = [plain([8], pairs=[[] for _ in range(8)])]
    covisible[0].pairs[0], covisible[0].pairs[1] = [(1, 0.5)], [(0, 0.5)]
    built.clear()
    sampler, _ = samplers(covisible, "data.subset=covisible", "data.stages=0 overlap=0.5:; 5 overlap=0.1:0.2")
    for step in range(10):
        sampler.batch(step, 0)
    assert len(built) == 1


def test_stages_are_checked_when_the_run_begins(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match=r"unknown dataset of data.stages 'twoo'; did you mean 'two'\?"):
        samplers(staged(), "data.stages=9 weight.twoo=1")
    with pytest.raises(ConfigError, match=r"from step 9 on: .*mean overlap of 0.9 to 1.*one \(longest 5.*widen"):
        samplers(
            [plain([8, 5], name="one", overlaps=[0.2, None])], "data.stages=9 views=6 overlap=0.9:", "data.views_max=6"
        )
    with pytest.raises(ConfigError, match="from step 9 on: the mix has no dataset with a weight above 0"):
        samplers([plain([8], name="one")], "data.stages=9 weight.one=0")
    caplog.clear()
    samplers(staged(), "data.stages=9 overlap=0.9: weight.one=1")
    assert ["two has weight 0.5 but is never drawn from step 9 on" in r.getMessage() for r in caplog.records] == [True]


def test_views_drawn_once_a_step_are_those_of_all_slots() -> None:
    for short in SHORTS:
        sampler, _ = samplers(small_mix(), "data.views_per=step", f"data.short={short}")
        kinds: Counter[tuple[bool, int]] = Counter()
        for step in range(1500):
            batches = [sampler.batch(step, slot) for slot in range(3 if step < 200 else 1)]
            assert len({(b.views, b.sequences[0].dataset == 2) for b in batches}) == 1
            kinds[batches[0].sequences[0].dataset == 2, batches[0].views] += 1
            if len(batches) > 1:
                assert as_plain(batches[0]) != as_plain(batches[1])
        law = sampler.law()
        assert p_value(kinds, dict(zip(law.kinds, law.probabilities.tolist(), strict=True))) > 1e-3


def test_ranks_own_slots_side_by_side() -> None:
    for num_slots in range(1, 40):
        for num_ranks in range(1, 45):
            if num_slots % num_ranks:
                with pytest.raises(ConfigError, match=f"{num_ranks} ranks do not divide data.slots={num_slots}"):
                    rank_slots(0, num_ranks, num_slots)
                continue
            owned = [rank_slots(rank, num_ranks, num_slots) for rank in range(num_ranks)]
            assert [slot for slots in owned for slot in slots] == list(range(num_slots))
            assert len({len(slots) for slots in owned}) == 1
    for rank, num_ranks in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(ConfigError, match="not one of"):
            rank_slots(rank, num_ranks, 4)


def test_lists_that_do_not_fit_their_lengths_are_refused() -> None:
    table = table_of(plain([4, 3]))._table
    column = table.schema.get_field_index("num_frames")
    broken = table.set_column(column, "num_frames", pa.array([4, 9], pa.int32()))
    with pytest.raises(CatalogError, match="x: num_frames does not fit"):
        SequenceTable(broken, name="x", weight=1, single_view=False, min_frames=1, holdout=0)


def test_frames_outside_of_the_frames_table_share_nothing_and_have_no_time() -> None:
    """A damaged file may point anywhere; what is drawn stays inside of the arrays."""
    dataset = plain([6], times=[0.0, 1.0, 2.0], pairs=[[(1, 0.5)], [(0, 0.5)], []])
    for subset in ("window:1s", "covisible"):
        sampler, _ = samplers([dataset], f"data.subset={subset}")
        drawn = {f for step in range(50) for d in sampler.batch(step, 0).sequences for f in d.frame_ids.tolist()}
        assert drawn == set(range(6))


def test_a_table_without_sequences_and_tables_in_several_chunks() -> None:
    full = table_of(plain([5, 4, 6], overlaps=[0.1, None, 0.9], scenes=[1, 0, 1]))._table
    pieces = pa.concat_tables([full.slice(0, 1), full.slice(1, 1), full.slice(2, 1)])
    whole, cut = (
        SequenceTable(t, name="x", weight=1, single_view=False, min_frames=1, holdout=0) for t in (full, pieces)
    )
    none = SequenceTable(full.slice(0, 0), name="none", weight=1, single_view=False, min_frames=1, holdout=0)
    made = config("data.balance=sqrt", "data.overlap=0.05:0.5")
    one, other = Sampler([none, whole], made), Sampler([none, cut], made)
    for step in range(20):
        assert as_plain(one.batch(step, 0)) == as_plain(other.batch(step, 0))
    assert none.longest == none.num_eligible(1) == 0


def test_a_mix_gives_timestamps_and_pairs_to_the_rules_that_need_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `mumdata.catalog` maps is made by hand here; what the rule does not need is not mapped."""
    frames = pa.table({"timestamp_s": pa.array([0.0, 1.0, 2.0, None, 4.0], pa.float64())})
    neighbours, overlaps = [[2], [3], [0], [1], []], [[0.3], [0.6], [0.3], [0.6], []]
    pairs = pa.table(
        {
            "other": pa.array(neighbours, pa.large_list(pa.int32())),
            "overlap": pa.array(overlaps, pa.large_list(pa.float32())),
        }
    )
    asked: list[str] = []

    def gives(name: str, tables: dict[str, pa.Table]) -> None:
        def mapped(dataset: MixDataset) -> pa.Table:
            asked.append(f"{name} {dataset.name}")
            return tables[dataset.name]

        monkeypatch.setattr(f"mumtrain.sampler.{name}", mapped)

    gives("map_sequences", {d.name: table_of(d)._table for d in (plain([5], name="many"), plain([1, 1], name="one"))})
    gives("map_frames", {"many": frames})
    gives("map_covisibility", {"many": pairs})
    bare: dict[str, Any] = {field.name: None for field in dataclasses.fields(MixDataset)}
    bare |= {"weight": 1.0, "min_frames": 1, "holdout": 0.0}
    datasets = tuple(MixDataset(**bare | {"name": name, "single_view": name == "one"}) for name in ("many", "one"))
    mix = Mix(Path("mix.parquet"), "", datasets)
    needs = {"uniform": [], "window:2.5s": ["map_frames many"], "covisible": ["map_covisibility many"]}
    for subset, needed in needs.items():
        asked.clear()
        many, one = open_sampler(mix, config(f"data.subset={subset}")).tables
        assert sorted(asked) == sorted(["map_sequences many", "map_sequences one", *needed])
        assert (one.timestamps, one.neighbours) == (None, None)
        if subset == "covisible":
            assert many.neighbours is not None
            assert many.neighbours.indptr.tolist() == [0, 1, 2, 3, 4, 4]
            assert many.neighbours.other.tolist() == [2, 3, 0, 1]
            assert many.neighbours.overlap.tolist() == pytest.approx([0.3, 0.6, 0.3, 0.6])
        elif subset == "window:2.5s":
            assert many.timestamps is not None
            assert many.timestamps.seconds[4] == 4
