"""What a run would read: against laws worked out by hand, plain counting, and the batches that the sampler draws."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import catalog, rng
from mumdata.errors import ConfigError
from mumdata.mix import mix
from mumdata.schema import COVISIBILITY, FRAMES, SCENES, SEQUENCES
from mumdata.subsets import measure_subsets
from mumdata.tables import render
from mumtrain import cli
from mumtrain.config import apply
from mumtrain.flops import slot_flops
from mumtrain.plan import DatasetPlan, Plan, plan
from mumtrain.planning.expected import expect, time_lost
from mumtrain.recipes import recipe
from mumtrain.sampler import open_sampler
from mumtrain.sampling.law import Law

# slots of 12 frames: single images; 2 views, where both datasets may be drawn; 5 views, where only the second may
LAW = Law(
    ((True, 1), (False, 2), (False, 5)),
    np.array([0.25, 0.5, 0.25]),
    np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0, 1]]),
    np.array([[9, 0, 0], [0, 4, 3], [0, 0, 2]]),
    12,
)


# ---- expectations of a law


def test_expectations_of_a_law_by_hand() -> None:
    found = expect(LAW, "per_sequence")
    assert found.num_sequences.tolist() == [12, 6, 2]
    assert found.sequences.tolist() == [[3, 0, 0], [0, 1.5, 1.5], [0, 0, 0.5]]
    assert found.frames.tolist() == [[3, 0, 0], [0, 3, 3], [0, 0, 2.5]]
    # six draws of two datasets alike: one is absent once in 64 slots
    assert found.slots.tolist() == [0.25, 0.5 * 63 / 64, 0.5 * 63 / 64 + 0.25]
    # three quarters of the slots are of several views, and hold 3.5 sequences
    assert found.got == pytest.approx([0.25, 0.75 * 1.5 / 3.5, 0.75 * 2 / 3.5])
    assert expect(LAW, "per_frame").got == pytest.approx([3 / 11.5, 3 / 11.5, 5.5 / 11.5])
    batches = expect(LAW, "per_batch")
    assert batches.slots.tolist() == batches.got.tolist() == [0.25, 0.25, 0.5]


# ---- waiting


def lost_by_enumeration(costs: list[int], chances: list[Fraction], ranks: int, each: int) -> Fraction:
    mean = slowest = Fraction(0)
    for drawn in itertools.product(range(len(costs)), repeat=ranks * each):
        chance = math.prod((chances[place] for place in drawn), start=Fraction(1))
        work = [sum(costs[place] for place in drawn[r * each : (r + 1) * each]) for r in range(ranks)]
        mean += chance * Fraction(sum(work), ranks)
        slowest += chance * max(work)
    return 1 - mean / slowest


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=3),
    st.sampled_from([(1, 1), (2, 1), (5, 1), (1, 3), (2, 2), (3, 2), (2, 3)]),
)
def test_waiting_is_that_of_all_cases(kinds: list[tuple[int, int]], split: tuple[int, int]) -> None:
    costs, weights = [cost for cost, _ in kinds], [weight for _, weight in kinds]
    chances = [Fraction(weight, sum(weights)) for weight in weights]
    expected = float(lost_by_enumeration(costs, chances, *split))
    found = time_lost(costs, np.array([float(chance) for chance in chances]), ranks=split[0], slots_per_rank=split[1])
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-12 if split[1] == 1 else 2e-5)


def test_nobody_waits_alone_or_where_all_slots_cost_the_same() -> None:
    chances = np.array([0.3, 0.7])
    assert time_lost([2, 9], chances, ranks=1, slots_per_rank=64) == pytest.approx(0, abs=1e-12)
    assert time_lost([5, 5], chances, ranks=64, slots_per_rank=1) == pytest.approx(0, abs=1e-15)
    # a thousand ranks: one of them surely has the slow slot
    assert time_lost([1, 2], np.array([0.5, 0.5]), ranks=1000, slots_per_rank=1) == pytest.approx(0.25, abs=1e-12)


# ---- a mix by hand

Pair = tuple[int, int]


def write(
    catalogs: Path,
    name: str,
    sequences: list[list[int]],
    *,
    scene: list[str] | None = None,
    pairs: dict[Pair, tuple[float, int]] | None = None,
    overlap: list[float | None] | None = None,
    times: list[float | None] | None = None,
    depth: bool = False,
) -> None:
    """Write a dataset: its frames in scenes of ten, sequences, and the overlap and shared points of pairs."""
    num = 1 + max(max(one) for one in [*sequences, *(pairs or ())])
    scenes = [f"s{frame // 10:03}" for frame in range(num)]
    columns: dict[str, Any] = {"dataset": [name] * num, "frame_id": range(num), "frame": range(num)}
    columns |= {"scene": scenes, "path": [f"{frame}.jpg" for frame in range(num)], "status": ["ok"] * num}
    columns |= {"timestamp_s": times, "depth_path": [f"{frame}.png" for frame in range(num)] if depth else None}
    folder = catalogs / name
    frames = catalog.build(FRAMES, columns)
    module = {"dataset": "imagenet" if name == "one" else "folder"}
    digest, _ = catalog.write(FRAMES, frames, folder / "frames.parquet", parameters=module)
    about = {"dataset": [name], "scene": ["s"], "status": ["complete"], "num_frames": [num], "num_posed": [0]}
    catalog.write(SCENES, catalog.build(SCENES, about), folder / "scenes.parquet")
    inputs = {"frames": digest}
    if pairs is not None:
        at = sorted(pairs)
        rows: dict[str, Any] = {"dataset": [name] * len(at), "scene": ["s"] * len(at), "source": ["tracks"] * len(at)}
        rows |= {"frame_a": [a for a, _ in at], "frame_b": [b for _, b in at]}
        rows |= {"overlap_ab": [pairs[p][0] for p in at], "overlap_ba": [pairs[p][0] / 2 for p in at]}
        rows |= {"shared_points": [pairs[p][1] for p in at]}
        table = catalog.build(COVISIBILITY, rows)
        inputs["covisibility"], _ = catalog.write(COVISIBILITY, table, folder / "covisibility.parquet", inputs=inputs)
    kinds: dict[str, Any] = {
        "dataset": [name] * len(sequences),
        "scene": scene or [scenes[one[0]] for one in sequences],
        "sequence": range(len(sequences)),
        "rule": ["chunk"] * len(sequences),
        "frames": sequences,
        "num_frames": [len(one) for one in sequences],
        "mean_overlap": overlap or [None if pairs is None else 0.5] * len(sequences),
    }
    catalog.write(SEQUENCES, catalog.build(SEQUENCES, kinds), folder / "sequences.parquet", inputs=inputs, seed=0)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three datasets: `long` (frames shared between sequences), `short` (five short ones), `one` (single images)."""
    catalogs = tmp_path_factory.mktemp("plan") / "catalogs"
    write(catalogs, "long", [list(range(start, start + 9)) for start in (0, 3, 20, 40)] + [[1, 2, 3]])
    pairs = {
        (a, b): (0.05 if (a + b) % 3 else 0.8 / (b - a), 10 * (b - a)) for a in range(50) for b in range(a + 1, 50)
    }
    pairs = {pair: of for pair, of in pairs.items() if pair[1] - pair[0] < 6}
    chunks = [[0, 1, 2, 3], [10, 11, 12], [20, 21], [30, 31, 32, 33, 34], [12, 10, 14]]
    write(catalogs, "short", chunks, pairs=pairs, overlap=[0.1, 0.3, None, 0.5, 0.7])
    write(catalogs, "one", [[frame] for frame in range(7)], scene=["s000"] * 7)
    return catalogs


def mixed(catalogs: Path, weights: dict[str, float], **how: Any) -> Path:
    return mix("only", weight=[f"{name}={weight}" for name, weight in weights.items()], catalogs=catalogs, **how).path


def rows_of(found: Plan) -> dict[str, DatasetPlan]:
    return {row.dataset: row for row in found.datasets}


SET = ["data.frames_per_slot=12", "data.slots=4", "data.views_min=2", "data.views_max=6", "steps=500"]


@pytest.mark.parametrize("weighting", ["per_sequence", "per_batch", "per_frame"])
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["data.short=repeat", "data.balance=scene"],
        ["data.short=repeat", "data.balance=sqrt"],
        ["data.short=cap"],
        ["data.stages=0 views=2:3 overlap=0.2:0.6; 200 weight.short=3 views=3:6; 900 views=2:4"],
        ["data.views_per=step", "data.subset=window:3"],
    ],
    ids=["drop", "repeat-scene", "repeat-sqrt", "cap", "stages", "step"],
)
def test_a_plan_is_what_the_sampler_draws(by_hand: Path, weighting: str, more: list[str]) -> None:
    # every batch of the run is drawn and counted: a plan that errs by a few standard errors fails
    path = mixed(by_hand, {"long": 5, "short": 3, "one": 2})
    how = [*SET, f"data.weighting={weighting}", *more]
    found = plan(path, recipe="debug-cpu", set=how, num=0)
    config = apply(recipe("debug-cpu"), how)
    sampler = open_sampler(catalog.open_mix(path), config)
    slots: Counter[int] = Counter()
    drawn: Counter[int] = Counter()
    frames: Counter[int] = Counter()
    repeats: Counter[int] = Counter()
    views: Counter[int] = Counter()
    seen: dict[int, set[int]] = defaultdict(set)
    used: dict[int, set[int]] = defaultdict(set)
    for step, slot in itertools.product(range(config.steps), range(config.data.slots)):
        one = sampler.batch(step, slot)
        slots.update({of.dataset for of in one.sequences})
        views[one.views] += 1
        for of in one.sequences:
            drawn[of.dataset] += 1
            frames[of.dataset] += one.views
            repeats[of.dataset] += one.views - len(set(of.frame_ids.tolist()))
            seen[of.dataset].update(of.frame_ids.tolist())
            used[of.dataset].add(of.sequence)
    num = config.steps * config.data.slots
    # steps are independent, slots of a step need not be
    error = 4 / math.sqrt(config.steps if config.data.views_per == "step" else num)
    for number, row in enumerate(found.datasets):
        assert row.num_sequences == len(used[number])
        assert row.num_frames == len(seen[number])
        assert row.slots == pytest.approx(slots[number] / num, abs=error / 2)
        assert row.sequences == pytest.approx(drawn[number] / drawn.total(), abs=error)
        assert row.frames == pytest.approx(frames[number] / frames.total(), abs=error)
        assert row.visits_per_sequence == pytest.approx(drawn[number] / len(used[number]), rel=5 * error)
        assert row.visits_per_frame == pytest.approx(frames[number] / len(seen[number]), rel=5 * error)
        assert row.repeated == pytest.approx(repeats[number] / frames[number], abs=error)
        assert (row.repeated > 0) == (repeats[number] > 0)
    total = sum(stage.frames_per_slot * (stage.last_step - stage.first_step + 1) for stage in found.stages)
    assert total / config.steps == pytest.approx(frames.total() / num, rel=error)
    for number in views:
        share = sum(
            row.slots * (stage.last_step - stage.first_step + 1)
            for stage in found.stages
            for row in stage.views
            if row.views == number
        )
        assert share / config.steps == pytest.approx(views[number] / num, abs=error)
    costs = sum(slot_flops(config, 12 // V, V) * num for V, num in views.items())
    assert found.flops == pytest.approx(costs, rel=2 * error)


def test_shares_add_up_and_sequences_are_those_that_may_be_drawn(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 5, "short": 3, "one": 2})
    for short, weighting in itertools.product(("drop", "repeat", "cap"), ("per_sequence", "per_batch", "per_frame")):
        how = [*SET, f"data.short={short}", f"data.weighting={weighting}", "data.overlap=0.3:0.6"]
        sampler = open_sampler(catalog.open_mix(path), apply(recipe("debug-cpu"), how))
        (stage,) = plan(path, recipe="debug-cpu", set=how, num=0).stages
        for name in ("weight", "got", "sequences", "frames"):
            assert math.fsum(getattr(row, name) for row in stage.datasets) == pytest.approx(1, rel=1e-12)
        for name in ("slots", "sequences", "frames"):
            assert math.fsum(getattr(row, name) for row in stage.views) == pytest.approx(1, rel=1e-12)
        assert [row.num_sequences for row in stage.datasets] == sampler.law(0).eligible.max(axis=0).tolist()
        assert [row.num_frames for row in stage.datasets][1] == {"drop": 10, "repeat": 10, "cap": 10}[short]


def test_held_out_sequences_are_not_counted(by_hand: Path, tmp_path: Path) -> None:
    path = mixed(by_hand, {"one": 1}, holdout=0.3, out=tmp_path / "mix.parquet")
    (dataset,) = catalog.open_mix(path).datasets
    left = (catalog.map_sequences(dataset).column("holdout_unit").to_numpy() >= 0.3).sum()
    (row,) = plan(path, recipe="debug-cpu", num=0).datasets
    assert (row.num_sequences, row.num_frames) == (left, left)
    assert 0 < left < 7


# ---- what frames share


def test_what_frames_share_is_that_of_the_runs_batches(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 5, "short": 5})
    how = [*SET, "data.short=repeat"]
    found = plan(path, recipe="debug-cpu", set=how, num=3000)
    # only of `short` something is known, and of four of its five sequences
    rows = rows_of(found)
    assert (rows["long"].looked_at, rows["long"].lone, rows["long"].shared_points) == (0, None, None)
    assert found.batches_looked_at == 3000
    pairs = catalog.read_covisibility("short", catalogs=by_hand)
    linked = {(a, b) for a, b, o in zip(pairs.frame_a, pairs.frame_b, pairs.overlap_ab, strict=True) if o >= 0.1}
    sampler = open_sampler(catalog.open_mix(path), apply(recipe("debug-cpu"), how))
    lone: Counter[int] = Counter()
    looked: Counter[int] = Counter()
    for step, slot in itertools.product(range(500), range(4)):
        one = sampler.batch(step, slot)
        for of in one.sequences:
            if of.dataset != 1 or of.sequence == 2:
                continue
            looked[one.views] += 1
            frames = of.frame_ids.tolist()
            for frame in frames:
                others = [(min(frame, other), max(frame, other)) for other in frames]
                lone[one.views] += not any(pair in linked for pair in others)
    for row in found.stages[0].views:
        assert row.looked_at > 100
        expected = lone[row.views] / (looked[row.views] * row.views)
        assert row.lone == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(min(row.looked_at, looked[row.views])))
    assert sum(row.looked_at for row in found.stages[0].views) == rows["short"].looked_at
    assert rows["short"].lone == pytest.approx(
        math.fsum((row.lone or 0) * row.looked_at * row.views for row in found.stages[0].views)
        / sum(row.looked_at * row.views for row in found.stages[0].views)
    )


def test_a_repeated_frame_is_no_second_view(by_hand: Path) -> None:
    # six views of two frames: were a frame paired with itself, with which it has no row, 24 of 60 pairs would share
    # nothing, and 20 were the median
    pairs = {(0, 1): (0.5, 20), (2, 3): (0.5, 30), (4, 5): (0.5, 30), (6, 7): (0.5, 30)}
    write(by_hand, "two", [[0, 1], [2, 3], [4, 5], [6, 7]], pairs=pairs)
    path = mixed(by_hand, {"two": 1}, out=by_hand / "two.parquet")
    (stage,) = plan(path, recipe="debug-cpu", set=[*SET, "data.short=repeat"], num=400).stages
    assert [row.views for row in stage.views] == [2, 3, 4, 5, 6]
    assert {row.shared_points for row in stage.views} == {30.0}
    assert {row.lone for row in stage.views} == {0.0}
    repeated = math.fsum(row.frames * (1 - 2 / row.views) for row in stage.views)
    assert stage.datasets[0].repeated == pytest.approx(repeated)


@pytest.mark.parametrize("balance", ["sequence", "scene", "sqrt"])
def test_repeated_frames_are_counted_as_scenes_are_balanced(by_hand: Path, balance: str) -> None:
    # nine sequences of two frames in one scene, one of six in another: 1/10, 1/2 or 1/4 of the draws repeat nothing
    write(by_hand, "uneven", [[frame, frame + 1] for frame in range(9)] + [list(range(10, 16))])
    path = mixed(by_hand, {"uneven": 1}, out=by_hand / "uneven.parquet")
    how = [*SET, "data.short=repeat", f"data.balance={balance}", "data.views_min=6"]
    (row,) = plan(path, recipe="debug-cpu", set=how, num=0).datasets
    # sequences shorter than the fewest views are drawn as well
    assert (row.num_sequences, row.num_longest, row.num_frames) == (10, 1, 16)
    rare = {"sequence": 9 / 10, "scene": 1 / 2, "sqrt": 3 / 4}[balance]
    assert row.repeated == pytest.approx(rare * 4 / 6, rel=1e-12)


def test_nothing_is_looked_up_where_nothing_is_asked_or_known(by_hand: Path) -> None:
    short = mixed(by_hand, {"short": 1})
    assert plan(short, recipe="debug-cpu", set=SET, num=0).batches_looked_at == 0
    found = plan(mixed(by_hand, {"long": 1}), recipe="debug-cpu", set=SET)
    assert found.batches_looked_at == 0
    assert all(row.lone is None for row in found.stages[0].views)


def test_given_subsets_are_measured_row_by_row(by_hand: Path) -> None:
    path = by_hand / "short" / "covisibility.parquet"
    given_ = [np.array([[0, 1, 4], [0, 3, 40], [2, 2, 5]], np.int32), np.array([[0, 3], [7, 9]], np.int32)]
    three, two = measure_subsets(path, given_)
    # linked are frames less than 6 apart whose numbers add up to a multiple of 3
    assert three.num_lone.tolist() == [3, 1, 3]
    assert three.num_connected.tolist() == [1, 2, 1]
    assert three.shared_points is not None
    assert three.shared_points.tolist() == [[10, 40, 30], [30, 0, 0], [0, 30, 30]]
    assert two.num_lone.tolist() == [0, 2]
    assert two.overlap_ab == pytest.approx(np.array([[0.8 / 3], [0.05]]))
    assert two.overlap_ba == pytest.approx(np.array([[0.4 / 3], [0.025]]))


# ---- warnings, texts, arguments


def test_what_is_odd_is_told(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 2, "short": 2, "one": 6})
    told = plan(path, recipe="debug-cpu", set=[*SET, "data.views_min=4"], num=0).warnings
    assert any(text.startswith("short gets 1") and "2 sequences have enough" in text for text in told), told
    assert not any("one gets" in text or "never" in text for text in told)
    told = plan(path, recipe="debug-cpu", set=[*SET, "data.views_min=6", "steps=100000"], num=0).warnings
    assert any(text.startswith("short has 20.0 % of the weight and is never drawn") for text in told), told
    often = [text for text in told if text.startswith("each frame is read 1,000 times or more")]
    assert len(often) == 1
    assert "one (" in often[0]
    assert "short (" not in often[0]
    how = [*SET, "data.short=repeat", "data.stages=0 views=2:6; 600 views=2:3"]
    told = plan(path, recipe="debug-cpu", set=how, num=0).warnings
    assert any(text.startswith("the stage from step 601 on is never reached") for text in told), told
    assert any("frames drawn from short repeat" in text for text in told)
    assert any("frames drawn from long repeat" in text for text in told)  # its last sequence has three frames
    assert not any("frames drawn from one repeat" in text for text in told)


def test_a_mix_without_oddities_has_no_warnings(by_hand: Path) -> None:
    found = plan(mixed(by_hand, {"long": 1, "one": 1}), recipe="debug-cpu", set=[*SET, "steps=100"], num=0)
    assert found.warnings == ()


def test_stages_follow_each_other(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 5, "short": 5})
    how = [*SET, "data.stages=100 views=2:3 weight.short=0; 300 views=4 overlap=0.4:"]
    first, second, third = plan(path, recipe="debug-cpu", set=how, num=0).stages
    assert [(s.first_step, s.last_step) for s in (first, second, third)] == [(1, 100), (101, 300), (301, 500)]
    assert [row.views for row in second.views] == [2, 3]
    assert [row.views for row in third.views] == [4]
    assert (second.datasets[1].weight, second.datasets[1].sequences, second.datasets[0].sequences) == (0, 0, 1)
    assert (second.overlap, third.overlap) == (None, (0.4, 1.0))
    assert third.datasets[1].num_sequences == 1


def test_each_stage_is_looked_at_for_itself(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 5, "short": 5})
    how = [*SET, "data.stages=0 views=2:3; 200 views=3:4"]
    found = plan(path, recipe="debug-cpu", set=how, num=200)
    assert found.batches_looked_at == 400
    (whole,) = (row.looked_at for row in found.datasets if row.dataset == "short")
    assert whole == sum(row.looked_at for stage in found.stages for row in stage.datasets)
    assert whole == sum(row.looked_at for stage in found.stages for row in stage.views)
    assert all(row.looked_at for stage in found.stages for row in stage.views)


def test_the_papers_mean_batch_has_91_of_96_frames(tmp_path: Path) -> None:
    write(tmp_path, "many", [list(range(30)), list(range(20, 60))])
    path = mixed(tmp_path, {"many": 1})
    (stage,) = plan(path, num=0).stages
    assert stage.frames_per_slot == pytest.approx(sum(96 // v * v for v in range(2, 25)) / 23)
    assert f"{stage.frames_per_slot:.1f}" == "91.3"
    assert stage.views[0].sequences == pytest.approx(48 / sum(96 // v for v in range(2, 25)))
    assert stage.lost_per_slot == pytest.approx(0.15, abs=0.01)
    assert stage.lost_per_step == 0
    alone, few = (plan(path, num=0, ranks=ranks).stages[0].lost_per_slot for ranks in (1, 8))
    assert alone == 0
    # 64 slots among 8 ranks: eight each, one after the other
    words = rng.words(rng.key("waiting"), 4000 * 64)
    config = apply(recipe("mum-vitl16"), [])
    costs = np.array([slot_flops(config, 96 // v, v) for v in range(2, 25)], np.float64)
    work = costs[rng.below(words, 23)].reshape(4000, 8, 8).sum(axis=2)
    assert few == pytest.approx(1 - work.mean() / work.max(axis=1).mean(), abs=0.001)
    assert 0 < few < stage.lost_per_slot / 2


def told_of(found: Plan, words: str) -> str:
    """Return the one warning that holds some words."""
    lines = [line for line in found.warnings if words in line]
    assert len(lines) == 1, lines
    (line,) = lines
    return line


def test_a_dataset_that_is_never_drawn_is_told_with_the_true_reason(tmp_path: Path) -> None:
    write(tmp_path, "wide", [[0, 1, 2, 3], [4, 5, 6, 7]], overlap=[0.5, 0.8])
    write(tmp_path, "narrow", [[0, 1, 2, 3], [4, 5, 6, 7]], overlap=[0.01, 0.12])
    write(tmp_path, "brief", [[0, 1, 2], [4, 5]], overlap=[0.5, 0.9])
    path = mixed(tmp_path, {"wide": 2, "narrow": 1, "brief": 1})
    found = plan(path, recipe="debug-cpu", set=[*SET, "data.overlap=0.3:", "data.views_min=4"], num=0)
    start = "has 25.0 % of the weight and is never drawn: "
    assert told_of(found, "narrow") == (
        f"narrow {start}no sequence has a mean overlap in 0.3 to 1 (theirs: 0.01 to 0.12); lower the band, use "
        "data.subset=covisible, or mine shorter chains"
    )
    assert told_of(found, "brief ").startswith(f"brief {start}its longest sequence has 3 of the 4 frames needed; mine")
    assert not any("wide" in line and "never" in line for line in found.warnings)
    with pytest.raises(ConfigError, match=r"narrow .*: no sequence has a mean overlap in 0.3 to 1 \(theirs: 0.01"):
        plan(
            mixed(tmp_path, {"narrow": 1}, out=tmp_path / "narrow.parquet"),
            recipe="debug-cpu",
            set=[*SET, "data.overlap=0.3:"],
        )
    # above the band, and only in one of the stages
    stages = "data.stages=0 overlap=:0.3; 200 overlap="
    told = told_of(plan(path, recipe="debug-cpu", set=[*SET, stages], num=0), "wide has")
    assert told.startswith(
        "stage 1: wide has 50.0 % of the weight and is not drawn: no sequence has a mean overlap in 0"
    )
    assert told.endswith("(theirs: 0.5 to 0.8); raise the band, or use data.subset=covisible")


def test_what_is_held_out_is_said_to_be(tmp_path: Path) -> None:
    # which scene is held out is hashed: of some datasets it is that of their only long sequence
    names = [f"some{number}" for number in range(12)]
    for name in names:
        write(tmp_path, name, [[0, 1, 2, 3], *([10 * scene, 10 * scene + 1] for scene in range(1, 15))])
    path = mixed(tmp_path, dict.fromkeys(names, 1.0), holdout=0.5)
    found = plan(path, recipe="debug-cpu", set=[*SET, "data.views_min=4"], num=0)
    held = {
        of.name
        for of in catalog.open_mix(path).datasets
        if catalog.map_sequences(of).column("holdout_unit")[0].as_py() < 0.5
    }
    assert 0 < len(held) < 12
    told = {line.split()[0]: line for line in found.warnings if "never drawn" in line}
    assert set(told) == held
    why = "all of its sequences of 4 frames or more (1) are held out; lower the mix's holdout"
    assert all(line.endswith(f"is never drawn: {why}") for line in told.values())


def test_sequences_that_pass_any_band_are_counted(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 5, "short": 3, "one": 2})
    found = plan(path, recipe="debug-cpu", set=[*SET, "data.overlap=0.2:0.6"], num=0)
    assert [row.num_unknown for row in found.datasets] == [5, 1, 0]
    assert told_of(found, "not known").endswith("they pass any band: long (5 of 5), short (1 of 3)")
    assert all(row.num_unknown == 0 for row in plan(path, recipe="debug-cpu", set=SET, num=0).datasets)


def test_views_that_no_sequence_has_are_told(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 1, "short": 1})
    found = plan(path, recipe="debug-cpu", set=[*SET, "data.views_max=12"], num=0)
    assert (found.stages[0].views_max, found.stages[0].views_asked, found.stages[0].longest) == (9, 12, "long")
    assert told_of(found, "V goes").startswith("V goes up to 9, not to data.views_max=12: ")
    assert not any("V goes" in line for line in plan(path, recipe="debug-cpu", set=SET, num=0).warnings)


# ---- where the rule for frames fails


def test_covisible_tells_how_often_no_pair_leads_on(tmp_path: Path) -> None:
    # two pairs side by side, one of them too weak for the usual band
    write(tmp_path, "two", [[0, 1, 2, 3]], pairs={(0, 1): (0.5, 9), (2, 3): (0.05, 9)})
    path = mixed(tmp_path, {"two": 1})

    def unfollowed(*more: str) -> list[float | None]:
        how = [*SET, "data.subset=covisible", "data.views_max=4", *more]
        found = plan(path, recipe="debug-cpu", set=how, num=1500)
        (row,) = found.datasets
        views = found.stages[0].views
        assert row.unfollowed == pytest.approx(
            sum((one.unfollowed or 0) * one.looked_at for one in views) / row.looked_at
        )
        assert any("finds no pair" in line and "of two" in line for line in found.warnings) == bool(row.unfollowed)
        return [one.unfollowed for one in views]

    # two views: whoever begins with the weak pair goes on at random
    assert unfollowed() == [pytest.approx(0.5, abs=0.04), 1.0, 1.0]
    assert unfollowed("data.overlap=0.05:") == [0.0, 1.0, 1.0]
    assert unfollowed("data.overlap=0.6:") == [1.0, 1.0, 1.0]


def test_covisible_fails_where_its_draws_show_it(by_hand: Path) -> None:
    path = mixed(by_hand, {"short": 1})
    how = [*SET, "data.subset=covisible", "data.overlap=0.2:", "data.short=repeat", "data.views_max=4"]
    found = plan(path, recipe="debug-cpu", set=how, num=3000)
    pairs = catalog.read_covisibility("short", catalogs=by_hand)
    most = np.maximum(pairs.overlap_ab, pairs.overlap_ba)
    linked = {frozenset(pair) for *pair, o in zip(pairs.frame_a, pairs.frame_b, most, strict=True) if o >= 0.2}
    config = apply(recipe("debug-cpu"), how)
    sampler = open_sampler(catalog.open_mix(path), config)
    drawn: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for step, slot in itertools.product(range(config.steps), range(config.data.slots)):
        one = sampler.batch(step, slot)
        for of in one.sequences:
            drawn[one.views] += 1
            ids = of.frame_ids.tolist()
            failed[one.views] += len(set(ids)) == len(ids) and not all(
                any(frozenset((ids[at], before)) in linked for before in ids[:at]) for at in range(1, len(ids))
            )
    for row in found.stages[0].views:
        share = failed[row.views] / drawn[row.views]
        assert 0.05 < share < 0.95
        assert row.unfollowed == pytest.approx(share, abs=0.05)


def test_datasets_without_pairs_share_one_line(tmp_path: Path) -> None:
    write(tmp_path, "paired", [[0, 1, 2, 3]], pairs={(0, 1): (0.5, 9), (1, 2): (0.5, 9), (2, 3): (0.5, 9)})
    for name in ("deep", "bare"):
        write(tmp_path, name, [[0, 1, 2, 3]], depth=name == "deep")
    write(tmp_path, "since", [[0, 1, 2, 3]])
    path = mixed(tmp_path, {"paired": 1, "deep": 1, "bare": 1, "since": 1})
    (tmp_path / "since" / "covisibility.parquet").write_bytes(b"")
    found = plan(path, recipe="debug-cpu", set=[*SET, "data.subset=covisible", "steps=50"], num=10)
    assert told_of(found, "no pairs in the mix") == (
        "deep, bare, since have no pairs in the mix: data.subset=covisible draws their frames uniformly, which are "
        "those of 75.0 % of the sequences of several views; for those with depth maps (deep) 'mumdata mine-sequences "
        "NAME --from depth' finds pairs; of since pairs have been mined since; then run 'mumdata mix' again"
    )
    assert not any("no pairs" in line for line in plan(path, recipe="debug-cpu", set=SET, num=0).warnings)


def test_a_window_that_is_too_narrow_is_told(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 1, "one": 1})
    found = plan(path, recipe="debug-cpu", set=[*SET, "data.subset=window:4", "steps=50"], num=0)
    rows = found.stages[0].views
    assert [row.unfollowed for row in rows] == [None, 0.0, 0.0, 0.0, 1.0, 1.0]
    share = sum(row.sequences for row in rows if row.views > 4) / sum(row.sequences for row in rows[1:])
    told = told_of(found, "window:4")
    assert f"from V=5 on: {100 * share:.1f} % of the sequences of several views" in told
    wide = plan(path, recipe="debug-cpu", set=[*SET, "data.subset=window:6", "steps=50"], num=0)
    assert not any("window" in line for line in wide.warnings)


def test_a_window_in_seconds_is_widened_by_the_frames_around_which_too_few_lie(tmp_path: Path) -> None:
    # around 0, 1, 2 and 10 seconds there are 2, 3, 2 and 1 frames within one second
    write(tmp_path, "timed", [[2, 0, 3, 1]], times=[0.0, 1.0, 2.0, 10.0])
    write(tmp_path, "partly", [[0, 1, 2, 3]], times=[0.0, 1.0, 2.0, None])
    write(tmp_path, "bare", [[0, 1, 2, 3]])
    how = [*SET, "data.subset=window:2s", "steps=50"]
    found = plan(mixed(tmp_path, {"timed": 1}), recipe="debug-cpu", set=how, num=50)
    assert [row.unfollowed for row in found.stages[0].views] == [0.25, 0.75, 1.0]
    assert "25.0 % with V=2, 75.0 % with V=3, 100.0 % with V=4" in told_of(found, "window:2s")
    found = plan(mixed(tmp_path, {"timed": 1, "partly": 1, "bare": 2}), recipe="debug-cpu", set=how, num=50)
    timed, partly, bare = found.datasets
    assert (partly.unfollowed, bare.unfollowed) == (1.0, None)
    assert 0.25 < (timed.unfollowed or 0) < 1
    assert "bare has no timestamps: data.subset=window:2s draws its frames uniformly" in told_of(found, "no timestamps")
    assert "50.0 % of the sequences" in told_of(found, "no timestamps")


# ---- before and after


def test_folders_that_are_not_there_are_noted(by_hand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mixed(by_hand, {"long": 1, "short": 1})
    (note,) = plan(path, recipe="debug-cpu", set=SET, num=0).notes
    assert note.startswith("the folders of long, short cannot be found")
    assert "MUM_ROOT_LONG=DIR, or run 'mumdata index long --root DIR' and so on" in note
    monkeypatch.setenv("MUM_ROOT_LONG", str(tmp_path))
    (note,) = plan(path, recipe="debug-cpu", set=SET, num=0).notes
    assert note.startswith("the folder of short cannot be found")
    monkeypatch.setenv("MUM_ROOT_SHORT", str(tmp_path))
    assert plan(path, recipe="debug-cpu", set=SET, num=0).notes == ()


def test_everything_fits_eighty_columns_and_names_the_next_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["a_dataset_with_a_very_long_name", "another_of_the_same_kind"]
    pairs = {(a, a + 1): (0.5, 123_456) for a in range(0, 30)}
    write(tmp_path, names[0], [list(range(start, start + 9)) for start in range(20)], pairs=pairs)
    write(tmp_path, names[1], [[0, 1, 2], [3, 4, 5]])
    mixed(tmp_path, {name: 1 for name in names})
    monkeypatch.chdir(tmp_path)
    path = Path("mix.parquet")
    more = ["data.stages=0 views=2:3; 1000000 views=2:24", "data.short=repeat", "data.subset=covisible"]
    sets = ["steps=20000000", "data.slots=64", "data.frames_per_slot=96", *more]
    cli.plan(path, recipe="mum-vitb16", set=sets, num=300)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert not caplog.records  # the plan says the same
    assert "e+" not in out
    assert re.search(r"\d,\d\d\d,\d\d\d,000 frames in ", out)
    assert f"are of datasets with pairs: {names[0]}" in " ".join(out.split())
    looked = [int(n.replace(",", "")) for n in re.findall(r"of\s+the\s+([\d,]+)\s+sequences\s+of\s+several", out)]
    assert len(looked) == 2
    words = shlex.split(out[out.index("next: ") :].removeprefix("next: ").replace("\\\n", " "))
    options = [word for setting in sets for word in ("--set", setting)]
    assert words == ["mumtrain", "pretrain", str(path), "--recipe", "mum-vitb16", *options]
    cli.plan(path, recipe="debug-cpu", num=0, format="json")
    json.loads(capsys.readouterr().out)  # and nothing else


def test_batches_looked_at_are_those_that_hold_the_sequences(by_hand: Path) -> None:
    path = mixed(by_hand, {"long": 5, "short": 5, "one": 5})
    found = plan(path, recipe="debug-cpu", set=SET, num=200)
    (stage,) = found.stages
    assert found.batches_asked == found.batches_looked_at == 200
    several = [row for row in stage.views if not row.single_view]
    each = sum(row.slots * row.sequences_per_slot for row in several)
    assert stage.num_drawn == pytest.approx(200 * each, rel=0.2)
    # those of unknown overlap are not looked up
    assert sum(row.looked_at for row in several) < stage.num_drawn


@pytest.mark.parametrize("ranks", [0, -1, 3, 128])
def test_ranks_must_divide_the_slots(by_hand: Path, ranks: int) -> None:
    with pytest.raises(ConfigError, match="at least 1, not" if ranks < 1 else "do not divide"):
        plan(mixed(by_hand, {"long": 1}), ranks=ranks)


def test_num_must_not_be_negative(by_hand: Path) -> None:
    with pytest.raises(ConfigError, match="num is -1"):
        plan(mixed(by_hand, {"long": 1}), num=-1)


@pytest.mark.parametrize("more", [[], ["data.short=repeat", "data.stages=0 views=2:3; 200 views=2:6 overlap=0.2:0.9"]])
def test_a_plan_is_told_in_tables_json_and_csv(by_hand: Path, more: list[str]) -> None:
    found = plan(mixed(by_hand, {"long": 5, "short": 3, "one": 2}), recipe="debug-cpu", set=[*SET, *more], num=100)
    text = "\n".join(
        "\n".join([*lines, *([render(t, width=100)] if t is not None else [])]) for lines, t in found.tables()
    )
    assert all(
        len(line) <= 100 for _, t in found.tables() if t is not None for line in render(t, width=100).split("\n")
    )
    for word in ("long", "short", "one", "single", "lone %", "waiting for the slowest of 4 ranks", *found.warnings):
        assert word in text
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["dataset"] for row in values["datasets"]] == ["long", "short", "one"]
    assert values["stages"][0]["views"][0]["single_view"] is True
    frame = found.to_frame()
    assert len(frame) == 3 + sum(len(stage.datasets) + len(stage.views) for stage in found.stages)
    assert "views" in render(frame, "csv").split("\n")[0].split(",")
    assert len(json.loads(render(frame, "json"))) == len(frame)


def test_what_masks_hide_is_told() -> None:
    from mumtrain.planning.hiding import hidden_shares

    def told(name: str, *settings: str) -> list[str]:
        return list(hidden_shares(apply(recipe(name), settings)))

    assert told("mum-vitb16") == ["masks: random hides 75.0% of a view's patches"]
    # 20 of 196 stay, and the other view
    assert told("croco-v2-vitb16") == [
        "masks: random hides 89.8% of a view's patches; 44.9% of all patches of 2 views, as some stay whole"
    ]
    random, rectangle, ellipse = told("muskie-vitb16")
    assert random.startswith("masks: random hides 90.3% of a view's patches; 56.4% of all patches of 8 views")
    for line, low, high in ((rectangle, 60, 68), (ellipse, 54, 62)):
        found = re.search(r"hides ([\d.]+)% of a masked view's patches on average \(.*\), 75% asked for; ", line)
        assert found is not None
        assert low < float(found[1]) < high
