"""Mining rules, against slow versions written from their definitions, and the cosines they decide on."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import rng
from mumdata.covisibility import Pairs, coherence, covisibility, neighbours
from mumdata.errors import ConfigError
from mumdata.geometry import axis_cos, cos_deg, rotation_cos, rotation_from_quaternion
from mumdata.mining import RULES, Options, Stream, explain_nothing, mine, parameters
from mumdata.mining.chain_overlap import power

KEY = ("toy", None, "scene", None)
CHAINS = ("chain-overlap", "chain-viewpoint", "topk", "walk")


class Scene:
    """A small stream, and what its frames share in plain dictionaries: overlap and shared of ordered pairs."""

    def __init__(self, seed: int, num: int, num_points: int = 12, seen: int = 9, *, counted: bool = True) -> None:
        random = np.random.default_rng(seed)
        # frames see few points of a small set: ties, separate parts and frames that see nothing are common
        sets = [
            set((i // 3 + random.integers(0, num_points, random.integers(0, seen + 1))).tolist()) for i in range(num)
        ]
        image_of = np.array([i for i, points in enumerate(sets) for _ in points], dtype=np.int32)
        point_of = np.array([point for points in sets for point in sorted(points)], dtype=np.int32)
        pairs = covisibility(num, image_of, point_of)
        # few distinct cosines: equal scores, and angles on the gates (cos 60 = 0.5) and outside of them
        cosines = {
            f"{name}_cos": random.choice([1.0, 0.9, 0.5, 0.25, 0.0, -0.4, math.nan], len(pairs.a))
            for name in ("rotation", "axis", "triangulation")
        }
        if not counted:
            # overlaps of a source without counts: few values, and some that are 0 one way round
            ab, ba = (random.choice([0.0, 0.25, 0.5, 0.75, 1.0], len(pairs.a)).astype(np.float32) for _ in range(2))
            pairs = replace(pairs, num_points=np.zeros(num, np.int32), shared=None, overlap_ab=ab, overlap_ba=ba)
        pairs = replace(pairs, **cosines)
        self.stream = Stream(KEY, random.random(num) > 0.15, pairs)
        self.usable: list[int] = np.flatnonzero(self.stream.usable).tolist()
        self.sets = sets if counted else None
        self.overlap: dict[tuple[int, int], float] = {}
        self.iou: dict[tuple[int, int], float] = {}
        self.cos: dict[str, dict[tuple[int, int], float]] = {"rotation": {}, "axis": {}, "triangulation": {}}
        for row, (a, b) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)):
            for now, frame, column in ((a, b, pairs.overlap_ab), (b, a, pairs.overlap_ba)):
                if column is None:
                    self.overlap[now, frame] = len(sets[now] & sets[frame]) / len(sets[now])
                    self.iou[now, frame] = len(sets[now] & sets[frame]) / len(sets[now] | sets[frame])
                else:
                    self.overlap[now, frame] = float(column[row])
                for angle, values in self.cos.items():
                    values[now, frame] = cosines[f"{angle}_cos"][row]
            if pairs.shared is None:
                x, y = self.overlap[a, b], self.overlap[b, a]
                self.iou[a, b] = self.iou[b, a] = 1 / (1 / x + 1 / y - 1) if x > 0 and y > 0 else 0.0

    def shares(self, now: int, frame: int, least: int) -> bool:
        return self.sets is None or len(self.sets[now] & self.sets[frame]) >= least

    def linked(self, now: int, frame: int, options: Options) -> bool:
        value = self.overlap.get((now, frame), 0.0)
        band = options.min_overlap <= value <= options.max_overlap
        return value > 0 and band and self.shares(now, frame, max(1, options.min_shared))

    def fits(self, chain: list[int], frame: int, options: Options) -> bool:
        """Whether the bounds let a frame into a chain, wherever it is linked."""
        return frame not in chain and self.overlap.get((chain[0], frame), 0.0) >= options.anchor_overlap

    def coherent(self, chain: list[int], options: Options) -> bool:
        total = sum((Fraction(self.overlap.get((a, b), 0.0)) for a in chain for b in chain if a != b), Fraction(0))
        return len(chain) < 2 or float(total) / (len(chain) * (len(chain) - 1)) >= options.min_mean_overlap


def given_overlaps(overlap: dict[tuple[int, int], tuple[float, float]], num: int) -> Pairs:
    """Pairs of a source without counts: (a, b) -> overlap a->b and b->a."""
    a, b = np.array(sorted(overlap), dtype=np.int32).T.copy()
    ab, ba = np.array([overlap[pair] for pair in sorted(overlap)], dtype=np.float32).T.copy()
    return Pairs(a, b, np.zeros(num, np.int32), overlap_ab=ab, overlap_ba=ba)


def as_lists(sequences: list[np.ndarray]) -> list[list[int]]:
    assert all(some.dtype == np.int32 for some in sequences)
    return [some.tolist() for some in sequences]


def bounds(seed: int) -> dict[str, float]:
    """Options of the bounds; two thirds of all seeds leave each of them alone."""
    return {
        "min_overlap": [0.0, 0.0, 0.25][seed % 3],
        "max_overlap": [1.0, 0.75, 1.0][seed % 3],
        "anchor_overlap": [0.0, 0.2, 0.0, 0.0][seed % 4],
        "min_mean_overlap": [0.0, 0.0, 0.3, 0.25, 0.0][seed % 5],
    }


# --- chains from anchors: chain-overlap and walk ----------------------------------------------------------------------


def drawn(able: list[int], weight: list[float], draw: float) -> int:
    total = 0.0
    for value in weight:
        total += value
    sum_, target = 0.0, draw * total
    for frame, value in zip(able, weight, strict=True):
        sum_ += value
        if sum_ > target:
            return frame
    raise AssertionError("weights that are all zero do not occur here")


def draws_of(rule: str, seed: int, round_: int, anchor: int, num: int) -> list[float]:
    return rng.unit(rng.words(rng.key(seed, *KEY, rule, "next", round_, anchor), num)).tolist()


def slow_overlap_chain(anchor: int, scene: Scene, options: Options, most: int, round_: int = 0) -> list[int]:
    chain = [anchor]
    draws = draws_of("chain-overlap", options.seed, round_, anchor, most)
    while len(chain) < most:
        now = chain[-1]
        linked = [frame for frame in scene.usable if scene.linked(now, frame, options)]
        able = [frame for frame in linked if scene.fits(chain, frame, options)]
        if not able:
            break
        best = min(able, key=lambda frame: (-scene.overlap[now, frame], frame))
        if options.temperature > 0:
            highest = max(scene.overlap[now, frame] for frame in linked)
            weight = [
                float(power(np.array([scene.overlap[now, frame] / highest]), 1 / options.temperature)[0])
                for frame in able
            ]
            best = drawn(able, weight, draws[len(chain) - 1])
        if not scene.coherent([*chain, best], options):
            break
        chain.append(best)
    return chain


def slow_walk(anchor: int, scene: Scene, options: Options, most: int, round_: int = 0) -> list[int]:
    chain = [anchor]
    draws = draws_of("walk", options.seed, round_, anchor, most)
    while len(chain) < most:
        ways = [
            [frame for frame in scene.usable if scene.linked(now, frame, options) and scene.fits(chain, frame, options)]
            for now in chain
        ]
        able = next((way for way in reversed(ways) if way), None)
        if able is None:
            break
        following = drawn(able, [1.0] * len(able), draws[len(chain) - 1])
        if not scene.coherent([*chain, following], options):
            break
        chain.append(following)
    return chain


def slow_from_anchors(rule: str, scene: Scene, options: Options, redraws: bool) -> list[list[int]]:
    """Definition of the order: rounds of all usable frames, later ones only while they bring something new."""
    most, least = options.max_frames or 256, options.min_frames or 24
    slow = {"chain-overlap": slow_overlap_chain, "walk": slow_walk}[rule]
    num = 10**6 if options.per_scene == "auto" else int(options.per_scene)
    found: list[list[int]] = []
    round_, fresh = 0, True

    def order() -> list[int]:
        words = rng.words(rng.key(options.seed, *KEY, rule), len(scene.usable), round_ * len(scene.usable)).tolist()
        return [frame for _, _, frame in sorted(zip(words, range(len(words)), scene.usable, strict=True))]

    while fresh and (round_ == 0 or redraws):
        fresh = False
        waiting = order()
        while waiting:
            uncovered = [frame for frame in waiting if not any(frame in chain for chain in found)]
            if options.per_scene == "auto" and not uncovered:
                return found
            first = options.cover or options.per_scene == "auto"
            anchor = uncovered[0] if first and uncovered else waiting[0]
            waiting.remove(anchor)
            chain = slow(anchor, scene, options, most, round_)
            if len(chain) >= least and chain not in found:
                fresh = True
                found.append(chain)
                if len(found) == num:
                    return found
        round_ += 1
        if options.per_scene == "auto":
            return found
    result = list(found)
    while found and len(result) < num:
        result += [chain for anchor in order() for chain in found if chain[0] == anchor]
        round_ += 1
    return result[:num]


@pytest.mark.parametrize("seed", range(60))
def test_overlap_chains_equal_their_definition(seed: int) -> None:
    scene = Scene(seed, num=5 + seed % 40, counted=seed % 4 > 0)
    options = Options(
        seed=seed,
        min_shared=seed % 3,
        min_frames=1 + seed % 6,
        max_frames=6 + seed % 30,
        per_scene=[37, 5, 90, "auto"][seed % 4],
        cover=seed % 2 > 0,
        temperature=[0.0, 0.0, 0.7][seed // 3 % 3],
        **bounds(seed // 2),  # type: ignore[arg-type]
    )
    chains = as_lists(mine("chain-overlap", scene.stream, options))
    assert chains == slow_from_anchors("chain-overlap", scene, options, options.temperature > 0)
    assert as_lists(mine("chain-overlap", scene.stream, options)) == chains


@pytest.mark.parametrize("seed", range(60))
def test_walks_equal_their_definition(seed: int) -> None:
    scene = Scene(seed, num=5 + seed % 30, counted=seed % 4 > 0)
    options = Options(
        seed=seed,
        min_shared=seed % 3,
        min_frames=1 + seed % 6,
        max_frames=6 + seed % 30,
        per_scene=[37, 5, "auto"][seed % 3],
        cover=seed % 2 > 0,
        **bounds(seed // 2),  # type: ignore[arg-type]
    )
    chains = as_lists(mine("walk", scene.stream, options))
    assert chains == slow_from_anchors("walk", scene, options, True)


def test_the_comparisons_compare_something() -> None:
    """Long chains, chains ended by each bound, ways back and several rounds occur among the scenes above."""
    scene = Scene(3, 40)
    loose = Options(min_shared=1, min_frames=2, per_scene=30)
    lengths = {
        name: sum(map(len, mine("chain-overlap", scene.stream, replace(loose, **change))))  # type: ignore[arg-type]
        for name, change in {
            "none": {},
            "anchor": {"anchor_overlap": 0.2},
            "mean": {"min_mean_overlap": 0.3},
            "band": {"min_overlap": 0.3},
            "top": {"max_overlap": 0.5},
        }.items()
    }
    assert lengths["none"] > 30 * 15
    assert all(0 < lengths[name] < lengths["none"] for name in lengths if name != "none")
    walks = as_lists(mine("walk", scene.stream, loose))
    assert any((a, b) not in scene.overlap for some in walks for a, b in itertools.pairwise(some))


def test_overlap_chains_of_long_candidate_lists() -> None:
    scene = Scene(5, 90, num_points=25, seen=60)
    options = Options(min_shared=1, per_scene=len(scene.usable))
    chains = as_lists(mine("chain-overlap", scene.stream, options))
    assert len(chains) == len(scene.usable)
    for chain in chains[:2]:
        assert chain == slow_overlap_chain(chain[0], scene, options, 256)
        assert len(chain) > 60


@pytest.mark.parametrize("rule", ["chain-overlap", "walk", "topk"])
def test_sequences_depend_on_seed_and_stream_alone(rule: str) -> None:
    stream = Scene(3, 60).stream
    options = Options(min_shared=1, min_frames=2, max_frames=30, per_scene=20)
    found = as_lists(mine(rule, stream, options))
    assert len(found) > 9
    if rule != "topk":  # a try of topk may be lost
        assert as_lists(mine(rule, stream, replace(options, per_scene=9))) == found[:9]
    many = as_lists(mine(rule, stream, replace(options, per_scene=200)))
    assert many[: len(found)] == found
    assert len(many) > len(found)
    assert as_lists(mine(rule, stream, replace(options, seed=1))) != found
    assert as_lists(mine(rule, replace(stream, key=("toy", "train", "scene", None)), options)) != found
    assert as_lists(mine(rule, replace(stream), replace(options, chunk_size=3, metric="overlap"))) == found


def test_chains_repeat_only_when_there_are_no_others() -> None:
    stream = Scene(7, 30).stream
    options = Options(min_shared=1, min_frames=4, per_scene=500)
    chains = [tuple(chain) for chain in as_lists(mine("chain-overlap", stream, options))]
    num = len(set(chains))
    assert len(chains) == 500
    assert 5 < num <= 30
    for start in range(0, 500, num):  # all of them once, then all of them again, in another order
        turn = chains[start : start + num]
        assert len(set(turn)) == len(turn)
    assert chains[:num] != chains[num : 2 * num]
    warm = [tuple(some) for some in as_lists(mine("chain-overlap", stream, replace(options, temperature=1.0)))]
    assert len(set(warm)) == 500
    assert len(set(warm[:30])) == 30


@pytest.mark.parametrize("rule", ["chain-overlap", "walk", "topk"])
def test_auto_covers_every_frame_that_can_be_covered(rule: str) -> None:
    for seed in range(6):
        stream = Scene(seed, 50).stream
        options = Options(min_shared=1, min_frames=6, max_frames=12, per_scene="auto")
        chains = as_lists(mine(rule, stream, options))
        covered: set[int] = set()
        for chain in chains:
            assert chain[0] not in covered
            covered |= set(chain)
        # every anchor of the whole stream, to see which frames have a valid chain of their own
        plenty = replace(options, per_scene=2000 if rule == "topk" else 50)
        assert covered >= {chain[0] for chain in as_lists(mine(rule, stream, plenty))} or rule == "walk"
        assert len(chains) < 40


def test_cover_comes_first_and_changes_the_order_alone() -> None:
    stream = Scene(2, 60).stream
    options = Options(min_shared=1, min_frames=6, max_frames=12, per_scene=60)
    plain, covering = (as_lists(mine("chain-overlap", stream, replace(options, cover=on))) for on in (False, True))
    auto = as_lists(mine("chain-overlap", stream, replace(options, per_scene="auto")))
    assert covering[: len(auto)] == auto
    assert plain != covering
    assert {tuple(chain) for chain in plain} == {tuple(chain) for chain in covering}


@given(st.floats(1e-9, 1.0), st.floats(1e-3, 50.0))
def test_power_is_the_power(base: float, exponent: float) -> None:
    rounded = max(1, round(exponent * 2**20)) / 2**20
    assert power(np.array([base]), exponent)[0] == pytest.approx(base**rounded, rel=1e-12, abs=1e-300)


def test_power_of_exact_cases() -> None:
    base = np.array([0.0, 0.0625, 0.25, 1.0])
    assert power(base, 1.0).tolist() == base.tolist()
    assert power(base, 0.5).tolist() == [0.0, 0.25, 0.5, 1.0]
    assert power(base, 2.5).tolist() == [0.0, 2.0**-10, 2.0**-5, 1.0]
    assert power(base, 1e300).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert power(base, 1e-300)[3] == 1.0


def test_temperature_draws_by_its_weights() -> None:
    """Of three frames with overlaps 0.25, 0.5 and 0.75 the one drawn has the odds of overlap^(1 / temperature)."""
    pairs = given_overlaps({(0, 1): (0.25, 0.0), (0, 2): (0.5, 0.0), (0, 3): (0.75, 0.0)}, 4)
    for temperature in (0.5, 1.0, 2.0):
        weight = np.array([0.25, 0.5, 0.75]) ** (1 / temperature)
        count = np.zeros(3)
        for seed in range(1200):
            options = Options(seed=seed, min_frames=2, max_frames=2, per_scene=1, temperature=temperature)
            count[mine("chain-overlap", Stream(KEY, np.ones(4, bool), pairs), options)[0][1] - 1] += 1
        expected = 1200 * weight / weight.sum()
        assert ((count - expected) ** 2 / expected).sum() < 14  # chi square of 2 degrees, p = 0.001


def test_a_low_temperature_is_the_greedy_rule() -> None:
    """So are weights that have all gone under: then the best of what is left follows."""
    stream = Scene(4, 40).stream
    options = Options(min_shared=1, min_frames=2, max_frames=2, per_scene=20)
    greedy = {some[0]: some[1] for some in as_lists(mine("chain-overlap", stream, options))}
    scene = Scene(4, 40)
    for anchor, following in as_lists(mine("chain-overlap", stream, replace(options, temperature=1e-6))):
        assert scene.overlap[anchor, following] == scene.overlap[anchor, greedy[anchor]]
    # 0 is used when 1 goes on, and was the best there: beside it the weights of 2 and 3 are nothing
    pairs = given_overlaps({(0, 1): (1.0, 1.0), (1, 2): (0.2, 0.0), (1, 3): (0.3, 0.0)}, 4)
    cold = Options(min_frames=3, per_scene=1, temperature=1e-6)
    assert as_lists(mine("chain-overlap", Stream(KEY, np.ones(4, bool), pairs), cold)) == [[0, 1, 3]]


def test_small_overlaps_are_drawn_by_their_ratio() -> None:
    """0.002^200 is nothing in float64, and yet 0.00199 is drawn with odds of about 0.37 to 1."""
    pairs = given_overlaps({(0, 1): (0.002, 0.0), (0, 2): (0.00199, 0.0)}, 3)
    options = Options(min_frames=2, per_scene=1, temperature=0.005)
    following = [
        mine("chain-overlap", Stream(KEY, np.ones(3, bool), pairs), replace(options, seed=seed))[0][1]
        for seed in range(300)
    ]
    assert 50 < following.count(2) < 110


def test_draws_pick_by_the_running_sum() -> None:
    """One step of the kernel: the first frame whose running sum exceeds draw x total, the last one at the very end."""
    from mumdata.kernels.chains import grow

    indptr, other = np.array([0, 3, 3, 3, 3]), np.array([1, 2, 3], np.int32)
    score = np.array([0.1, 0.3, 0.2])
    for weight, free, draw, expected in (
        ([1.0, 1.0, 1.0], [1, 2, 3], 0.0, 1),
        ([1.0, 1.0, 2.0], [1, 2, 3], 0.25, 2),
        ([1.0, 1.0, 2.0], [1, 2, 3], 0.5, 3),
        ([1.0, 1.0, 2.0], [1, 2], 0.5, 2),
        ([0.1, 0.2, 0.3], [1, 2, 3], 1 - 2**-53, 3),
        ([0.1, 0.2, 0.0], [1, 2, 3], 1 - 2**-53, 2),
        ([0.0, 0.0, 1.0], [1, 2, 3], 0.0, 3),
        ([0.0, 0.0, 0.0], [1, 2, 3], 0.7, 2),
        ([0.0, 0.0, 1.0], [1], 0.7, 1),
    ):
        marks = np.isin(np.arange(4), [0, *free])
        chain = np.zeros(2, np.int32)
        assert grow(0, indptr, other, score, np.array(weight), np.array([draw]), False, marks, chain) == 2
        assert chain.tolist() == [0, expected]
        assert np.flatnonzero(marks).tolist() == [frame for frame in free if frame != expected]


def test_overlap_chains_need_shared_points() -> None:
    stream = Scene(1, 20, 8, 8).stream
    empty = np.empty(0, dtype=np.int32)
    for rule in CHAINS:
        assert mine(rule, replace(stream, pairs=None), Options(min_frames=1)) == []
        assert mine(rule, replace(stream, usable=np.zeros(20, dtype=bool)), Options(min_frames=1)) == []
        assert mine(rule, Stream(KEY, np.empty(0, dtype=bool), covisibility(0, empty, empty)), Options()) == []
    with pytest.raises(ConfigError, match="per_scene"):
        Options(min_frames=1, per_scene=0)
    blind = Stream(KEY, np.ones(4, dtype=bool), covisibility(4, empty, empty))
    for rule in ("chain-overlap", "walk", "topk"):
        found = as_lists(mine(rule, blind, Options(min_frames=1)))
        assert {tuple(chain) for chain in found} == {(0,), (1,), (2,), (3,)}


@pytest.mark.parametrize("seed", range(8))
def test_mean_overlap_is_what_coherence_measures(seed: int) -> None:
    stream = Scene(seed, 50, counted=seed % 2 > 0).stream
    assert stream.pairs is not None
    graph = neighbours(stream.pairs)
    options = Options(min_shared=1, min_frames=2, min_mean_overlap=0.35)
    for rule in ("chain-overlap", "walk"):
        for chain in mine(rule, stream, options)[:20]:
            mean = coherence(chain, graph).mean_overlap
            assert mean is not None
            assert mean >= 0.35


# --- topk -------------------------------------------------------------------------------------------------------------


def slow_topk(scene: Scene, options: Options) -> list[list[int]]:
    num, tries = len(scene.stream.usable), int(options.per_scene)
    most, least = options.max_frames or 256, options.min_frames or 24
    result = []
    for word in rng.words(rng.key(options.seed, *KEY, "topk"), tries).tolist():
        anchor = word * num >> 64
        if anchor not in scene.usable:
            continue
        able = []
        for frame in scene.usable:
            overlap = scene.overlap.get((anchor, frame), 0.0)
            enough = overlap > 0 and scene.shares(anchor, frame, options.min_shared)
            if options.min_shared == 0:
                enough = True
            if frame != anchor and enough and options.min_overlap <= overlap <= options.max_overlap:
                able.append((-overlap, frame))
        star = [anchor, *(frame for _, frame in sorted(able)[: most - 1])]
        if len(star) >= least:
            result.append(star)
    return result


@pytest.mark.parametrize("seed", range(40))
def test_topk_equals_its_definition(seed: int) -> None:
    scene = Scene(seed, num=4 + seed, counted=seed % 3 > 0)
    most = 3 + seed % 20
    options = Options(
        seed=seed,
        min_shared=seed % 4,
        min_frames=[1, 3, most][seed % 3],
        max_frames=most,
        per_scene=50,
        min_overlap=[0.0, 0.0, 0.3][seed % 3],
        max_overlap=[1.0, 0.7][seed % 2],
    )
    assert as_lists(mine("topk", scene.stream, options)) == slow_topk(scene, options)


def test_topk_as_released() -> None:
    """Released: overlap -1 where a frame is not usable and on the diagonal, candidates at 0 and above, all or none."""
    scene = Scene(8, 40)
    most = 20
    matrix = np.full((40, 40), -1.0)
    for a in scene.usable:
        for b in scene.usable:
            if a != b:
                matrix[a, b] = scene.overlap.get((a, b), 0.0)
    expected = []
    for anchor in rng.below(rng.words(rng.key(0, *KEY, "topk"), 100), 40).tolist():
        valid = [frame for frame in range(40) if frame != anchor and matrix[anchor, frame] >= 0]
        if len(valid) >= most - 1:
            expected.append([anchor, *sorted(valid, key=lambda frame: (-matrix[anchor, frame], frame))[: most - 1]])
    options = Options(min_shared=0, min_frames=most, max_frames=most, per_scene=100)
    assert as_lists(mine("topk", scene.stream, options)) == expected
    assert 50 < len(expected) < 100
    assert mine("topk", scene.stream, replace(options, min_frames=39, max_frames=39)) == []


# --- chain-viewpoint --------------------------------------------------------------------------------------------------


def slow_viewpoint_chains(scene: Scene, options: Options, least: int) -> list[list[int]]:
    def score(now: int, frame: int) -> float | None:
        cos = scene.cos[options.angle].get((now, frame), math.nan)
        if math.isnan(cos) or not scene.linked(now, frame, options):
            return None
        metric = (scene.iou if options.metric == "iou" else scene.overlap)[now, frame]
        degrees = {1.0: 0, 0.9: 25.8419, 0.5: 60, 0.25: 75.5225, 0.0: 90, -0.4: 113.578}[cos]
        if metric < options.min_metric or not options.min_angle_deg <= degrees <= options.max_angle_deg:
            return None
        return metric * 4.0 * cos * (1.0 - cos)

    def sees(frame: int) -> float:
        if scene.sets is not None:
            return len(scene.sets[frame])
        return math.fsum(value for (now, _), value in scene.overlap.items() if now == frame)  # exact: quarters

    used: set[int] = set()
    chains = []
    for seed in sorted(scene.usable, key=lambda frame: (-sees(frame), frame)):
        if seed in used:
            continue
        chain = [seed]
        while options.max_frames is None or len(chain) < options.max_frames:
            rest = [frame for frame in scene.usable if frame not in used and scene.fits(chain, frame, options)]
            scores = {frame: score(chain[-1], frame) for frame in rest}
            able = [(-value, frame) for frame, value in scores.items() if value is not None]
            if not able or not scene.coherent([*chain, min(able)[1]], options):
                break
            chain.append(min(able)[1])
        if len(chain) >= least:
            used |= set(chain)
            chains.append(chain)
    return chains


@pytest.mark.parametrize("seed", range(90))
def test_viewpoint_chains_equal_their_definition(seed: int) -> None:
    scene = Scene(seed, 6 + seed % 40, 14, 10, counted=seed % 5 > 0)
    options = Options(
        min_shared=seed % 4,
        min_frames=None if seed % 5 == 0 else 1 + seed % 5,
        max_frames=[None, 9][seed % 2],
        metric=["iou", "overlap"][seed % 2],
        angle=["axis", "rotation", "triangulation"][seed // 2 % 3],
        min_metric=[0.1, 0.0, 0.25][seed % 3],
        min_angle_deg=[10, 0, 60][seed % 3],
        max_angle_deg=[90, 60, 180][seed % 3],
        **bounds(seed // 3),  # type: ignore[arg-type]
    )
    expected = slow_viewpoint_chains(scene, options, options.min_frames or 8)
    assert as_lists(mine("chain-viewpoint", scene.stream, options)) == expected
    every = [frame for chain in expected for frame in chain]
    assert len(set(every)) == len(every)


def test_viewpoint_chains_exist_in_the_comparison() -> None:
    """The comparison above compares something: chains of several frames, and streams with several chains."""
    options = Options(min_frames=2, min_shared=1)
    lengths = [
        [len(chain) for chain in mine("chain-viewpoint", Scene(seed, 40, 14, 10).stream, options)] for seed in range(5)
    ]
    assert max(map(len, lengths)) > 1
    assert max(max(some) for some in lengths if some) > 8


def released_chains(seen: dict[int, set[int]], rotation: np.ndarray) -> list[list[int]]:
    """The chaining released with MuM for MegaScenes, in plain words: images in the order of the file."""

    def following(now: int, used: set[int]) -> int | None:
        best, best_score = None, -math.inf
        for other in seen:
            if other == now or other in used:
                continue
            containment = len(seen[now] & seen[other]) / len(seen[now])
            cos = (np.trace(rotation[other] @ rotation[now].T) - 1) / 2
            if np.degrees(np.arccos(np.clip(cos, -1, 1))) < 10 or containment < 0.1:
                continue
            score = containment * 4 * cos * (1 - cos)
            if score > best_score:
                best, best_score = other, score
        return best

    used: set[int] = set()
    chains = []
    for seed in sorted(seen, key=lambda image: len(seen[image]), reverse=True):
        if seed in used:
            continue
        chain = [seed]
        used.add(seed)
        while (nearest := following(chain[-1], used)) is not None:
            chain.append(nearest)
            used.add(nearest)
        if len(chain) >= 3:
            chains.append(chain)
        else:
            used -= set(chain)
    return chains


def quarter_turns() -> np.ndarray:
    """The 24 rotations that map axes to axes: exact in any arithmetic, angles of 0, 90, 120 and 180 degrees."""
    found = []
    for code in range(6 * 8):
        matrix = np.zeros((3, 3))
        matrix[range(3), [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)][code // 8]] = [
            1 - 2 * (code >> bit & 1) for bit in range(3)
        ]
        if np.linalg.det(matrix) > 0:
            found.append(matrix)
    return np.array(found)


@pytest.mark.parametrize("exact", [True, False])
def test_released_settings_give_the_released_chains(exact: bool) -> None:
    opposite = longest = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        num = 4 + seed % 30
        seen = {i: set((i // 4 + random.integers(0, 10, random.integers(1, 9))).tolist()) for i in range(num)}
        if exact:
            turns = quarter_turns()
            rotation = turns[random.integers(0, 1 + seed % 24, num)]
        else:
            rotation = rotation_from_quaternion(random.normal(size=(num, 4)) + [[seed % 3 * 2, 0, 0, 0]] * num)
        image_of = np.array([i for i, points in seen.items() for _ in points])
        point_of = np.array([point for points in seen.values() for point in sorted(points)])
        pairs = covisibility(num, image_of, point_of)
        cos = rotation_cos(rotation, pairs.a, pairs.b)
        stream = Stream(KEY, np.ones(num, dtype=bool), replace(pairs, rotation_cos=cos))
        options = Options(
            metric="overlap", angle="rotation", min_metric=0.1, max_angle_deg=180, min_frames=3, min_shared=1
        )
        expected = released_chains(seen, rotation)
        assert as_lists(mine("chain-viewpoint", stream, options)) == expected
        at = {(a, b): value for a, b, value in zip(pairs.a.tolist(), pairs.b.tolist(), cos.tolist(), strict=True)}
        opposite += sum(at[min(a, b), max(a, b)] < -0.9 for chain in expected for a, b in itertools.pairwise(chain))
        longest = max([longest, *map(len, expected)])
    assert opposite > 20
    assert longest > 15


def test_the_gate_of_ten_degrees_is_the_released_one() -> None:
    """Angles around ten degrees, nearer to it than poses are known: both ways to compare decide alike."""
    for deg in np.concatenate([10 + np.geomspace(1e-11, 1, 200), 10 - np.geomspace(1e-11, 1, 200)]):
        cos = math.cos(math.radians(deg))
        assert (np.degrees(np.arccos(np.clip(cos, -1, 1))) < 10) == (cos > cos_deg(10.0))


def test_ninety_degrees_may_follow_and_more_only_on_request() -> None:
    image_of = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    pairs = covisibility(3, image_of, np.array([1, 2, 3, 4, 1, 2, 3, 1, 2]))
    cos = np.array([0.0, -0.5, -0.5])  # 0-1: 90 degrees; the others: 120
    pairs = replace(pairs, axis_cos=cos, rotation_cos=cos)
    stream = Stream(KEY, np.ones(3, dtype=bool), pairs)
    loose = Options(min_frames=2, min_shared=1)
    assert as_lists(mine("chain-viewpoint", stream, loose)) == [[0, 1]]
    assert as_lists(mine("chain-viewpoint", stream, replace(loose, max_angle_deg=120.0))) == [[0, 1, 2]]
    assert mine("chain-viewpoint", stream, replace(loose, max_angle_deg=89.999)) == []
    assert mine("chain-viewpoint", stream, replace(loose, min_shared=4)) == []
    assert mine("chain-viewpoint", stream, Options(min_frames=2)) == []  # 30 shared points by default
    assert mine("chain-viewpoint", replace(stream, pairs=replace(pairs, axis_cos=None)), loose) == []
    assert mine("chain-viewpoint", replace(stream, pairs=None), loose) == []


# --- scene, single ----------------------------------------------------------------------------------------------------


def test_scene_and_single() -> None:
    stream = Stream(KEY, np.array([True, False, True, True]))
    assert as_lists(mine("scene", stream, Options())) == [[0, 2, 3]]
    assert mine("scene", stream, Options(min_frames=4)) == []
    assert as_lists(mine("single", stream, Options())) == [[0], [2], [3]]
    nothing = Stream(KEY, np.zeros(3, dtype=bool))
    assert mine("scene", nothing, Options()) == mine("single", nothing, Options()) == []


# --- options and explanations -----------------------------------------------------------------------------------------


def test_rules_read_exactly_the_options_they_name() -> None:
    streams = [Scene(seed, 10 + 12 * seed, 16, 10).stream for seed in range(6)]
    start = Options(min_frames=3, max_frames=20, per_scene=50, min_shared=2, min_angle_deg=0)
    other = {
        "seed": 5,
        "min_frames": 12,
        "max_frames": 8,
        "per_scene": 49,
        "cover": True,
        "min_shared": 4,
        "min_overlap": 0.3,
        "max_overlap": 0.6,
        "temperature": 0.5,
        "min_mean_overlap": 0.3,
        "anchor_overlap": 0.2,
        "metric": "overlap",
        "angle": "rotation",
        "min_metric": 0.3,
        "min_angle_deg": 30.0,
        "max_angle_deg": 70.0,
        "chunk_size": 8,
        "chunk_stride": 2,
        "chunk_overlap": 1,
        "last_chunk": "released",
    }
    for rule in CHAINS:
        for name, value in other.items():
            changed = any(
                as_lists(mine(rule, stream, start)) != as_lists(mine(rule, stream, replace(start, **{name: value})))  # type: ignore[arg-type]
                for stream in streams
            )
            assert changed == (name in RULES[rule].uses), (rule, name)


def test_parameters_hold_the_rules_own_defaults() -> None:
    found = parameters("chain-overlap", Options())
    assert list(found) == sorted(found)
    assert {name: found[name] for name in ("max_frames", "min_frames", "min_shared", "per_scene", "temperature")} == {
        "max_frames": 256,
        "min_frames": 24,
        "min_shared": 30,
        "per_scene": 1000,
        "temperature": 0.0,
    }
    for rule in ("walk", "topk"):
        assert (parameters(rule, Options())["min_frames"], parameters(rule, Options())["max_frames"]) == (24, 256)
    assert parameters("chain-viewpoint", Options())["min_frames"] == 8
    assert parameters("chain-viewpoint", Options())["max_frames"] is None
    assert parameters("scene", Options(min_frames=4)) == {"min_frames": 4}
    assert parameters("single", Options()) == {}
    assert [RULES[rule].links for rule in CHAINS] == ["next", "next", "anchor", "next"]
    with pytest.raises(ConfigError, match="did you mean 'chunk'"):
        parameters("chunks", Options())


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_frames": 0},
        {"chunk_size": 0},
        {"metric": "ious"},
        {"angle": "roll"},
        {"min_metric": 1.5},
        {"min_angle_deg": 91.0},
        {"max_angle_deg": math.nan},
        {"min_frames": 9, "max_frames": 8},
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Options(**wrong)  # type: ignore[arg-type]


def test_limits_that_contradict_a_default_are_refused() -> None:
    stream = Scene(0, 10, 8, 8).stream
    with pytest.raises(ConfigError, match="min_frames 24 exceeds max_frames 12"):
        mine("chain-overlap", stream, Options(max_frames=12))
    mine("chunk", stream, Options(max_frames=12, min_frames=1))


def test_explanations_name_the_reason() -> None:
    pairs = covisibility(5, np.array([0, 1, 1, 2, 3, 4]), np.array([1, 1, 2, 2, 7, 8]))
    cos = np.full(len(pairs.a), 0.5)
    pairs = replace(pairs, rotation_cos=cos, axis_cos=cos)
    stream = Stream(KEY, np.ones(5, dtype=bool), pairs)
    loose = Options(min_shared=1, min_frames=4)
    explain = explain_nothing
    assert explain(Stream(KEY, np.zeros(0, dtype=bool)), Options(), "chunk") == "it has no frames"
    assert explain(Stream(KEY, np.zeros(3, dtype=bool)), Options(), "single") == "no frame is usable (of 3)"
    longest = "longest chain has 3 frames, at least 4 needed (largest group that can follow each other: 3)"
    for rule in CHAINS:
        assert mine(rule, stream, loose) == mine(rule, stream, replace(loose, min_shared=30)) == []
        assert explain(stream, Options(min_frames=6), rule) == "5 usable frames, at least 6 needed"
        assert explain(stream, Options(min_frames=4), rule) == "no two usable frames share 30 points (most: 1)"
        narrow = replace(loose, min_overlap=0.6, max_overlap=0.7)
        assert explain(stream, narrow, rule) == "no two usable frames have an overlap of 0.6 to 0.7"
        assert explain(stream, loose, rule) == (
            "no frame has more than 2 others, at least 3 needed" if rule == "topk" else longest
        )
        assert "no model" in explain(replace(stream, pairs=None), loose, rule)
        apart = replace(stream, usable=np.array([True, False, True, True, True]))
        assert explain(apart, loose, rule) == "no two usable frames share anything"
    assert explain(stream, replace(loose, min_mean_overlap=0.6), "chain-overlap").startswith("longest chain has 2")
    assert explain(stream, replace(loose, min_frames=3, per_scene=1, seed=2), "topk").startswith("none of 1 tries")
    assert "iou >= 0.9 and an axis angle of 10 to 90" in explain(
        stream, replace(loose, min_metric=0.9), "chain-viewpoint"
    )
    without = replace(stream, pairs=replace(pairs, axis_cos=None))
    assert "no axis angle" in explain(without, loose, "chain-viewpoint")


# --- cosines ----------------------------------------------------------------------------------------------------------


@given(st.floats(-720, 720))
def test_cos_deg_is_the_cosine(deg: float) -> None:
    reduced = math.fmod(deg, 360.0)
    assert cos_deg(deg) == pytest.approx(math.cos(math.radians(reduced)), abs=2e-15)
    assert cos_deg(deg) == cos_deg(-deg)


def test_cos_deg_is_exact_where_it_can_be_and_monotonic() -> None:
    exact = {0: 1.0, 60: 0.5, 90: 0.0, 120: -0.5, 180: -1.0, 240: -0.5, 270: 0.0, 300: 0.5, 360: 1.0}
    assert {deg: cos_deg(deg) for deg in exact} == exact
    values = [cos_deg(tenth / 10) for tenth in range(1801)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 1801
    # the bits, written out: the same on every machine
    assert [cos_deg(deg).hex() for deg in (10, 30, 45)] == EXPECTED_BITS
    with pytest.raises(ValueError, match="not an angle"):
        cos_deg(math.inf)


EXPECTED_BITS = ["0x1.f838b8c811c17p-1", "0x1.bb67ae8584cabp-1", "0x1.6a09e667f3bccp-1"]


def turned(axis: list[float], deg: float) -> np.ndarray:
    half = math.radians(deg) / 2
    unit = np.array(axis) / np.linalg.norm(axis)
    return np.array([math.cos(half), *(math.sin(half) * unit)])


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 0.01),
    st.floats(0, 180),
)
def test_angles_between_cameras(start: list[float], deg: float) -> None:
    """A camera, and one turned by `deg` about its own y (the axis turns too) and z (roll: the axis stays)."""
    camera = rotation_from_quaternion(np.array([start]))[0]
    pan, roll = rotation_from_quaternion(np.array([turned([0, 1, 0], deg), turned([0, 0, 1], deg)]))
    cameras = np.zeros((3, 3, 4))
    cameras[:, :, :3] = [camera, pan @ camera, roll @ camera]
    a, b = np.array([0, 0, 0]), np.array([1, 2, 0])
    cos = math.cos(math.radians(deg))
    np.testing.assert_allclose(rotation_cos(cameras, a, b), [cos, cos, 1], atol=1e-14)
    np.testing.assert_allclose(axis_cos(cameras, a, b), [cos, 1, 1], atol=1e-14)
    assert (rotation_cos(cameras, b, a) == rotation_cos(cameras, a, b)).all()
    assert (np.abs(axis_cos(cameras, a, b)) <= 1).all()


def test_a_quaternion_of_any_length_is_its_rotation_and_zero_is_none() -> None:
    q = np.array([[1, 2, -3, 4], [1e200, 2e200, -3e200, 4e200], [-1, -2, 3, -4], [0, 0, 0, 0]], dtype=np.float64)
    rotation = rotation_from_quaternion(q)
    np.testing.assert_allclose(rotation[0] @ rotation[0].T, np.eye(3), atol=1e-15)
    assert np.linalg.det(rotation[0]) == pytest.approx(1)
    np.testing.assert_allclose(rotation[1], rotation[0], atol=1e-15)
    np.testing.assert_allclose(rotation[2], rotation[0], atol=1e-15)
    assert np.isnan(rotation[3]).all()
