"""Mining rules, against slow versions written from their definitions, and the cosines they decide on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata.covisibility import covisibility
from mumdata.errors import ConfigError
from mumdata.geometry import axis_cos, cos_deg, rotation_cos, rotation_from_quaternion
from mumdata.mining import MIN_FRAMES, RULES, USES, Options, Stream, explain_nothing, mine, parameters

KEY = ("toy", None, "scene", None)


def random_stream(seed: int, num: int, num_points: int, seen: int) -> tuple[Stream, list[set[int]]]:
    """Frames that see few points of a small set: ties, separate parts and frames that see nothing are common."""
    random = np.random.default_rng(seed)
    sets: list[set[int]] = [
        set((i // 3 + random.integers(0, num_points, random.integers(0, seen + 1))).tolist()) for i in range(num)
    ]
    image_of = np.array([i for i, points in enumerate(sets) for _ in points], dtype=np.int32)
    point_of = np.array([point for points in sets for point in sorted(points)], dtype=np.int32)
    pairs = covisibility(num, image_of, point_of)
    # few distinct cosines: equal scores, and angles on the gates (cos 60 = 0.5) and outside of them
    choices = [1.0, 0.9, 0.5, 0.25, 0.0, -0.4, math.nan]
    cosines = [random.choice(choices, len(pairs.a)) for _ in range(2)]
    stream = Stream(KEY, random.random(num) > 0.15, pairs, cosines[0], cosines[1])
    return stream, sets


def as_lists(sequences: list[np.ndarray]) -> list[list[int]]:
    assert all(some.dtype == np.int32 for some in sequences)
    return [some.tolist() for some in sequences]


# --- chain-overlap ----------------------------------------------------------------------------------------------------


def slow_overlap_chain(anchor: int, stream: Stream, sets: list[set[int]], options: Options, most: int) -> list[int]:
    chain = [anchor]
    while len(chain) < most:
        now = sets[chain[-1]]
        able = [
            frame
            for frame in range(len(sets))
            if stream.usable[frame] and frame not in chain and len(now & sets[frame]) >= max(1, options.min_shared)
        ]
        if not able:
            break
        chain.append(min(able, key=lambda frame: (-len(now & sets[frame]) / len(now), frame)))
    return chain


@pytest.mark.parametrize("seed", range(40))
def test_overlap_chains_equal_their_definition(seed: int) -> None:
    stream, sets = random_stream(seed, num=5 + seed, num_points=12, seen=9)
    options = Options(seed=seed, min_shared=seed % 3, min_frames=1 + seed % 6, max_frames=6 + seed % 30, per_scene=37)
    chains = as_lists(mine("chain-overlap", stream, options))
    valid = {}
    for anchor in np.flatnonzero(stream.usable).tolist():
        chain = slow_overlap_chain(anchor, stream, sets, options, 6 + seed % 30)
        if len(chain) >= 1 + seed % 6:
            valid[anchor] = chain
    assert len(chains) == (37 if valid else 0)
    assert all(chain == valid[chain[0]] for chain in chains)
    # no chain comes a second time before all have come once, nor a third time before all have come twice
    for start in range(0, len(chains), max(len(valid), 1)):
        turn = [chain[0] for chain in chains[start : start + len(valid)]]
        assert len(set(turn)) == len(turn)
    assert as_lists(mine("chain-overlap", stream, options)) == chains


def test_overlap_chains_of_long_candidate_lists() -> None:
    """Every frame shares with every other: the walk has to look far behind the first candidates."""
    random = np.random.default_rng(5)
    sets = [set(random.integers(0, 60, 30).tolist()) for _ in range(90)]
    image_of = np.array([i for i, points in enumerate(sets) for _ in points])
    point_of = np.array([point for points in sets for point in sorted(points)])
    stream = Stream(KEY, np.ones(90, dtype=bool), covisibility(90, image_of, point_of))
    options = Options(min_shared=1, per_scene=90)
    chains = as_lists(mine("chain-overlap", stream, options))
    assert sorted(chain[0] for chain in chains) == list(range(90))
    for chain in chains[:6]:
        assert chain == slow_overlap_chain(chain[0], stream, sets, options, 256)
        assert sorted(chain) == list(range(90))


def test_anchors_depend_on_seed_and_stream_alone() -> None:
    stream, _ = random_stream(3, num=60, num_points=8, seen=8)
    options = Options(min_shared=1, min_frames=2, per_scene=20)

    def anchors(stream: Stream, options: Options) -> list[int]:
        return [chain[0] for chain in as_lists(mine("chain-overlap", stream, options))]

    first = anchors(stream, options)
    assert anchors(stream, replace(options, per_scene=9)) == first[:9]
    assert anchors(stream, replace(options, seed=1)) != first
    assert anchors(replace(stream, key=("toy", "train", "scene", None)), options) != first
    assert anchors(replace(stream, axis_cos=None), replace(options, chunk_size=3)) == first


def test_overlap_chains_need_shared_points() -> None:
    stream, _ = random_stream(1, num=20, num_points=8, seen=8)
    assert mine("chain-overlap", replace(stream, pairs=None), Options(min_frames=1)) == []
    with pytest.raises(ConfigError, match="per_scene"):
        Options(min_frames=1, per_scene=0)
    assert mine("chain-overlap", replace(stream, usable=np.zeros(20, dtype=bool)), Options(min_frames=1)) == []
    empty = np.empty(0, dtype=np.int32)
    assert mine("chain-overlap", Stream(KEY, np.empty(0, dtype=bool), covisibility(0, empty, empty)), Options()) == []
    blind = Stream(KEY, np.ones(4, dtype=bool), covisibility(4, empty, empty))
    assert {tuple(chain) for chain in as_lists(mine("chain-overlap", blind, Options(min_frames=1)))} == {
        (0,),
        (1,),
        (2,),
        (3,),
    }


# --- chain-viewpoint --------------------------------------------------------------------------------------------------


def slow_viewpoint_chains(stream: Stream, sets: list[set[int]], options: Options, least: int) -> list[list[int]]:
    assert stream.pairs is not None
    column = stream.axis_cos if options.angle == "axis" else stream.rotation_cos
    assert column is not None
    angle = {}
    for a, b, cos in zip(stream.pairs.a.tolist(), stream.pairs.b.tolist(), column.tolist(), strict=True):
        angle[a, b] = angle[b, a] = cos

    def score(now: int, frame: int) -> float | None:
        cos = angle.get((now, frame), math.nan)
        below = sets[now] | sets[frame] if options.metric == "iou" else sets[now]
        if math.isnan(cos):
            return None
        metric = len(sets[now] & sets[frame]) / len(below)
        degrees = {1.0: 0, 0.9: 25.8419, 0.5: 60, 0.25: 75.5225, 0.0: 90, -0.4: 113.578}[cos]
        if metric < options.min_metric or not options.min_angle_deg <= degrees <= options.max_angle_deg:
            return None
        return metric * 4.0 * cos * (1.0 - cos)

    used: set[int] = set()
    chains = []
    usable = np.flatnonzero(stream.usable).tolist()
    for seed in sorted(usable, key=lambda frame: (-len(sets[frame]), frame)):
        if seed in used:
            continue
        chain = [seed]
        while options.max_frames is None or len(chain) < options.max_frames:
            rest = [frame for frame in usable if frame not in used and frame not in chain]
            scores = {frame: score(chain[-1], frame) for frame in rest}
            able = [(-value, frame) for frame, value in scores.items() if value is not None]
            if not able:
                break
            chain.append(min(able)[1])
        if len(chain) >= least:
            used |= set(chain)
            chains.append(chain)
    return chains


@pytest.mark.parametrize("seed", range(60))
def test_viewpoint_chains_equal_their_definition(seed: int) -> None:
    stream, sets = random_stream(seed, num=6 + seed % 40, num_points=14, seen=10)
    options = Options(
        min_frames=None if seed % 5 == 0 else 1 + seed % 5,
        max_frames=[None, 9][seed % 2],
        metric=["iou", "overlap"][seed % 2],
        angle=["axis", "rotation"][seed // 2 % 2],
        min_metric=[0.1, 0.0, 0.25][seed % 3],
        min_angle_deg=[10, 0, 60][seed % 3],
        max_angle_deg=[90, 60, 180][seed % 3],
    )
    expected = slow_viewpoint_chains(stream, sets, options, options.min_frames or 8)
    assert as_lists(mine("chain-viewpoint", stream, options)) == expected
    every = [frame for chain in expected for frame in chain]
    assert len(set(every)) == len(every)


def test_viewpoint_chains_exist_in_the_comparison() -> None:
    """The comparison above compares something: chains of several frames, and streams with several chains."""
    lengths = [
        [len(chain) for chain in mine("chain-viewpoint", random_stream(seed, 40, 14, 10)[0], Options(min_frames=2))]
        for seed in range(5)
    ]
    assert max(map(len, lengths)) > 1
    assert max(max(some) for some in lengths if some) > 8


def test_ninety_degrees_may_follow_and_more_only_on_request() -> None:
    sets = [{1, 2, 3, 4}, {1, 2, 3}, {1, 2}]
    image_of = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    pairs = covisibility(3, image_of, np.array([1, 2, 3, 4, 1, 2, 3, 1, 2]))
    cos = np.array([0.0, -0.5, -0.5])  # 0-1: 90 degrees; the others: 120
    stream = Stream(KEY, np.ones(3, dtype=bool), pairs, axis_cos=cos, rotation_cos=cos)
    assert len(sets) == 3
    assert as_lists(mine("chain-viewpoint", stream, Options(min_frames=2))) == [[0, 1]]
    assert as_lists(mine("chain-viewpoint", stream, Options(min_frames=2, max_angle_deg=120))) == [[0, 1, 2]]
    assert mine("chain-viewpoint", stream, Options(min_frames=2, max_angle_deg=89.999)) == []
    assert mine("chain-viewpoint", replace(stream, axis_cos=None), Options(min_frames=2)) == []
    assert mine("chain-viewpoint", replace(stream, pairs=None), Options(min_frames=2)) == []


# --- chunk, scene, single ---------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=350), st.integers(1, 120), st.integers(1, 40))
def test_chunks_cover_every_usable_frame_once(usable: list[bool], size: int, least: int) -> None:
    stream = Stream(KEY, np.array(usable, dtype=bool))
    frames = [position for position, good in enumerate(usable) if good]
    chunks = as_lists(mine("chunk", stream, Options(chunk_size=size)))
    assert [frame for some in chunks for frame in some] == frames
    assert len(chunks) == math.ceil(len(frames) / size)
    lengths = [len(some) for some in chunks]
    assert lengths == sorted(lengths, reverse=True)
    assert not lengths or (lengths[0] - lengths[-1] <= 1 and lengths[0] <= size)
    kept = as_lists(mine("chunk", stream, Options(chunk_size=size, min_frames=least)))
    assert kept == [some for some in chunks if len(some) >= least]


def test_scene_and_single() -> None:
    stream = Stream(KEY, np.array([True, False, True, True]))
    assert as_lists(mine("scene", stream, Options())) == [[0, 2, 3]]
    assert mine("scene", stream, Options(min_frames=4)) == []
    assert as_lists(mine("single", stream, Options())) == [[0], [2], [3]]
    nothing = Stream(KEY, np.zeros(3, dtype=bool))
    assert mine("scene", nothing, Options()) == mine("single", nothing, Options()) == []


# --- options and explanations -----------------------------------------------------------------------------------------


def test_rules_read_exactly_the_options_they_name() -> None:
    assert set(RULES) == set(USES) == set(MIN_FRAMES)
    streams = [random_stream(seed, 10 + 12 * seed, num_points=16, seen=10)[0] for seed in range(6)]
    start = Options(min_frames=3, max_frames=20, per_scene=50, min_shared=2, chunk_size=9, min_angle_deg=0)
    other = {
        "seed": 5,
        "min_frames": 12,
        "max_frames": 8,
        "per_scene": 49,
        "min_shared": 4,
        "chunk_size": 8,
        "metric": "overlap",
        "angle": "rotation",
        "min_metric": 0.3,
        "min_angle_deg": 30.0,
        "max_angle_deg": 70.0,
    }
    for rule, names in USES.items():
        for name, value in other.items():
            changed = any(
                as_lists(mine(rule, stream, start)) != as_lists(mine(rule, stream, replace(start, **{name: value})))  # type: ignore[arg-type]
                for stream in streams
            )
            assert changed == (name in names), (rule, name)


def test_parameters_hold_the_rules_own_defaults() -> None:
    found = parameters("chain-overlap", Options())
    assert found == {"max_frames": 256, "min_frames": 24, "min_shared": 30, "per_scene": 1000, "seed": 0}
    assert list(found) == sorted(found)
    assert parameters("chain-viewpoint", Options())["min_frames"] == 8
    assert parameters("chain-viewpoint", Options())["max_frames"] is None
    assert parameters("chunk", Options(min_frames=4)) == {"chunk_size": 100, "min_frames": 4}
    assert parameters("single", Options()) == {}
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
    stream, _ = random_stream(0, 10, 8, 8)
    with pytest.raises(ConfigError, match="min_frames 24 exceeds max_frames 12"):
        mine("chain-overlap", stream, Options(max_frames=12))
    mine("chunk", stream, Options(max_frames=12, min_frames=1))


def test_explanations_name_the_reason() -> None:
    pairs = covisibility(5, np.array([0, 1, 1, 2, 3, 4]), np.array([1, 1, 2, 2, 7, 8]))
    cos = np.full(len(pairs.a), 0.5)
    stream = Stream(KEY, np.ones(5, dtype=bool), pairs, cos, cos)
    loose = Options(min_shared=1, min_frames=4)
    explain = explain_nothing
    assert explain(Stream(KEY, np.zeros(0, dtype=bool)), Options(), "chunk") == "it has no frames"
    assert explain(Stream(KEY, np.zeros(3, dtype=bool)), Options(), "single") == "no frame is usable (of 3)"
    assert explain(stream, Options(), "chain-overlap") == "5 usable frames, at least 24 needed"
    assert explain(stream, Options(min_frames=4), "chain-overlap") == "no two usable frames share 30 points (most: 1)"
    assert explain(stream, loose, "chain-overlap").startswith(
        "longest chain has 3 frames, at least 4 needed (largest group that can follow each other: 3)"
    )
    assert explain(stream, loose, "chain-viewpoint").startswith("longest chain has 3 frames, at least 4 needed")
    assert "iou >= 0.9 and an axis angle of 10 to 90" in explain(
        stream, Options(min_frames=4, min_metric=0.9), "chain-viewpoint"
    )
    assert "no axis angle" in explain(replace(stream, axis_cos=None), loose, "chain-viewpoint")
    assert "no 3D points" in explain(replace(stream, pairs=None), loose, "chain-overlap")
    apart = replace(stream, usable=np.array([True, False, True, True, True]))
    assert explain(apart, loose, "chain-viewpoint") == "no two usable frames share a 3D point"
    long = Stream(KEY, np.ones(30, dtype=bool))
    assert (
        explain(long, Options(chunk_size=10, min_frames=12), "chunk")
        == "longest chunk has 10 frames, at least 12 needed"
    )


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
