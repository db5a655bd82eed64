"""Rules that need no shared points (chunks, neighbours by camera), pairs, and lists of pairs, against slow versions."""

from __future__ import annotations

import itertools
import math
import unicodedata
from dataclasses import replace
from decimal import Decimal, getcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import rng
from mumdata.covisibility import Pairs, covisibility, overlap_between
from mumdata.covisibility import neighbours as graph_of
from mumdata.errors import ConfigError
from mumdata.geometry import acos_deg, cos_deg, rotation_from_quaternion
from mumdata.mining import RULES, Options, Stream, explain_nothing, mine
from mumdata.mining.pose_rank import pose_distances
from mumdata.pair_lists import ListedPair, listed_pairs, read_pair_list, resolve

KEY = ("toy", None, "scene", None)
calmly = settings(deadline=None)  # the machine may be busy


def as_lists(sequences: list[np.ndarray]) -> list[list[int]]:
    assert all(some.dtype == np.int32 for some in sequences)
    return [some.tolist() for some in sequences]


def frames(num: int) -> Stream:
    return Stream(KEY, np.ones(num, dtype=bool))


def lengths(num: int, options: Options) -> list[int]:
    return [len(some) for some in mine("chunk", frames(num), options)]


# --- arc cosine -------------------------------------------------------------------------------------------------------


def decimal_cos_deg(deg: Decimal) -> Decimal:
    """The series of the cosine with 60 digits."""
    getcontext().prec = 60
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
    x = deg * pi / 180
    term, total, n = Decimal(1), Decimal(0), 0
    while abs(term) > Decimal(10) ** -58:
        total += term
        term *= -x * x / ((n + 1) * (n + 2))
        n += 2
    return total


@calmly
@given(st.floats(-1, 1) | st.floats(0, 1e-6).map(lambda x: 1 - x) | st.floats(0, 1e-6).map(lambda x: x - 1))
def test_acos_deg_is_within_1e_12_degrees(cos: float) -> None:
    found = Decimal(float(acos_deg(np.array([cos]))[0]))
    # the cosine falls: the angle of `cos` lies between the angles 1e-12 below and above what was found
    step = Decimal("1e-12")
    assert found < step or decimal_cos_deg(found - step) > Decimal(cos)
    assert found > 180 - step or decimal_cos_deg(found + step) < Decimal(cos)
    assert abs(float(found) - math.degrees(math.acos(cos))) < 1e-12


def test_acos_deg_is_exact_where_it_must_be_and_its_bits_are_fixed() -> None:
    cosines = np.array([1.0, 0.0, -0.0, -1.0, 1.0 + 1e-9, -7.0, math.nan])
    np.testing.assert_array_equal(acos_deg(cosines), [0, 90, 90, 180, 0, 180, math.nan])
    degrees = np.linspace(0, 180, 181)
    np.testing.assert_allclose(acos_deg(np.array([cos_deg(deg) for deg in degrees])), degrees, rtol=0, atol=1e-11)
    assert (np.diff(acos_deg(np.linspace(1, -1, 20001))) > 0).all()
    assert acos_deg(np.full((2, 3), 0.5)).shape == (2, 3)
    # written out: the same on every machine
    found = acos_deg(np.array([0.9999, 0.7, 0.4, -0.3, -0.9]))
    assert [float(deg).hex() for deg in found] == EXPECTED_BITS


EXPECTED_BITS = [
    "0x1.9ede84ecda066p-1",
    "0x1.6c957eed2a3a1p+5",
    "0x1.09aff1fb237d0p+6",
    "0x1.add495e9cbbc4p+6",
    "0x1.3450ee3059886p+7",
]


# --- chunk ------------------------------------------------------------------------------------------------------------


@calmly
@given(
    usable=st.lists(st.booleans(), max_size=300),
    size=st.integers(1, 60),
    overlap=st.integers(0, 59),
    stride=st.integers(1, 7),
    least=st.integers(1, 30),
)
def test_even_chunks(usable: list[bool], size: int, overlap: int, stride: int, least: int) -> None:
    overlap = min(overlap, size - 1)
    taken = [position for position, good in enumerate(usable) if good][::stride]
    stream = Stream(KEY, np.array(usable, dtype=bool))
    options = Options(chunk_size=size, chunk_overlap=overlap, chunk_stride=stride)
    chunks = as_lists(mine("chunk", stream, options))
    assert [frame for at, some in enumerate(chunks) for frame in some[overlap if at else 0 :]] == taken
    assert all(one[len(one) - overlap :] == other[:overlap] for one, other in itertools.pairwise(chunks))
    if not taken:
        assert chunks == []
        return
    long = [len(some) for some in chunks]
    assert long == sorted(long, reverse=True)
    assert long[0] - long[-1] <= 1
    assert long[0] <= size
    # no fewer chunks would do: `num` chunks of at most `size` frames hold num * (size - overlap) + overlap of them
    assert len(chunks) == 1 or (len(chunks) - 1) * (size - overlap) + overlap < len(taken)
    kept = as_lists(mine("chunk", stream, replace(options, min_frames=least)))
    assert kept == [some for some in chunks if len(some) >= least]


@calmly
@given(num=st.integers(0, 400), size=st.integers(1, 50), overlap=st.integers(0, 49))
def test_released_chunks_are_those_of_the_script(num: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    chunks = as_lists(mine("chunk", frames(num), Options(chunk_size=size, last_chunk="released")))
    assert [frame for some in chunks for frame in some] == list(range(num))
    whole = max((num - 1) // size, 1)
    if num:
        assert [len(some) for some in chunks] == [size] * (whole - 1) + [num - size * (whole - 1)]
    shared = as_lists(
        mine("chunk", frames(num), Options(chunk_size=size, chunk_overlap=overlap, last_chunk="released"))
    )
    assert [frame for at, some in enumerate(shared) for frame in some[overlap if at else 0 :]] == list(range(num))
    assert all(one[len(one) - overlap :] == other[:overlap] for one, other in itertools.pairwise(shared))
    assert all(len(some) == size for some in shared[:-1])
    assert num <= size or (size + 1 <= len(shared[-1]) <= 2 * size - overlap)


def test_chunks_by_hand() -> None:
    released = Options(last_chunk="released")
    table = {
        **{1: [1], 100: [100], 101: [101], 200: [200], 201: [100, 101], 250: [100, 150], 300: [100, 200]},
        **{301: [100, 100, 101], 400: [100, 100, 200]},
    }
    assert {num: lengths(num, released) for num in table} == table
    assert lengths(250, Options()) == [84, 83, 83]
    assert lengths(0, Options()) == lengths(0, released) == []
    shared = Options(chunk_size=4, chunk_overlap=1)
    assert as_lists(mine("chunk", frames(9), shared)) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8]]
    assert as_lists(mine("chunk", frames(7), replace(shared, chunk_stride=2))) == [[0, 2, 4, 6]]
    assert as_lists(mine("chunk", frames(2), Options(chunk_size=9, chunk_overlap=5))) == [[0, 1]]
    holes = Stream(KEY, np.array([True, False, True, True, False, True, True]))
    assert as_lists(mine("chunk", holes, Options(chunk_size=2, chunk_stride=2))) == [[0, 3], [6]]
    assert explain_nothing(frames(30), Options(chunk_size=10, min_frames=12), "chunk") == (
        "longest chunk has 10 frames, at least 12 needed"
    )
    assert explain_nothing(frames(3), Options(chunk_stride=3, min_frames=2), "chunk") == (
        "longest chunk has 1 frame, at least 2 needed"
    )


# --- pose-rank --------------------------------------------------------------------------------------------------------


def cameras(seed: int, num: int, *, unknown: float = 0.0, standing: float = 0.0) -> np.ndarray:
    """Cameras anywhere, some of them equal to others, and some unknown."""
    random = np.random.default_rng(seed)
    result = np.zeros((num, 3, 4))
    result[:, :, :3] = rotation_from_quaternion(random.normal(size=(num, 4)))
    result[:, :, 3] = random.normal(size=(num, 3)) * 10.0 ** random.integers(-2, 3)
    for row in np.flatnonzero(random.random(num) < standing).tolist():
        result[row] = result[random.integers(0, num)]
    result[random.random(num) < unknown] = np.nan
    return result


def slow_distances(matrices: np.ndarray) -> np.ndarray:
    num = len(matrices)
    centres = [-matrix[:, :3].T @ matrix[:, 3] for matrix in matrices]
    apart = np.array([[np.linalg.norm(a - b) for b in centres] for a in centres])
    angle = np.zeros((num, num))
    for a, b in itertools.product(range(num), repeat=2):
        turn = matrices[b][:, :3] @ matrices[a][:, :3].T
        angle[a, b] = math.degrees(math.acos(min(1.0, max(-1.0, (np.trace(turn) - 1) / 2))))
    return angle / 180 + apart / (apart.max() or 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_pose_distances_equal_their_definition(seed: int, num: int) -> None:
    matrices = cameras(seed, num, standing=0.2)
    found = pose_distances(matrices, np.arange(num))
    # the arc cosine of a trace is that far off for small angles
    np.testing.assert_allclose(found, slow_distances(matrices), rtol=0, atol=1e-7)
    assert (found == found.T).all()
    assert (np.diag(found) == 0).all()
    assert (found <= 2).all()
    moved = matrices.copy()  # another origin and another unit of the world
    moved[:, :, 3] = 7 * (matrices[:, :, 3] + matrices[:, :, :3] @ np.array([3.0, -4.0, 5.0]))
    np.testing.assert_allclose(pose_distances(moved, np.arange(num)), found, rtol=0, atol=1e-7)


def test_pose_distances_by_hand() -> None:
    """Four cameras on a line; the second turns by 90 degrees, the third by a tiny angle, which float32 keeps."""
    matrices = np.tile(np.eye(3, 4), (4, 1, 1))
    tiny = 0.003
    for row, deg in ((1, 90.0), (2, tiny)):
        cos, sin = math.cos(math.radians(deg)), math.sin(math.radians(deg))
        matrices[row, :3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
    for row, x in enumerate([0.0, 1.0, 0.0, -4.0]):
        matrices[row, :, 3] = -matrices[row, :, :3] @ [x, 0, 0]
    found = pose_distances(matrices.astype(np.float32), np.array([0]))
    np.testing.assert_allclose(found, [[0, 0.5 + 1 / 5, tiny / 180, 4 / 5]], atol=1e-9)
    assert pose_distances(matrices[:1], np.array([0])).tolist() == [[0.0]]


def test_the_second_term_is_relative_to_the_largest_distance_of_all() -> None:
    """Points towards the corners of triangles: the two farthest are often not both among the outermost ones."""
    for seed in range(120):
        random = np.random.default_rng(seed)
        corners = random.normal(size=(3, 3))
        points = corners[random.integers(0, 3, 300)] * random.uniform(0.5, 1, (300, 1))
        matrices = np.tile(np.eye(3, 4), (300, 1, 1))
        matrices[:, :, 3] = points
        largest = max(np.sqrt(((points - point) ** 2).sum(axis=1)).max() for point in points)
        apart = np.sqrt(((points - points[0]) ** 2).sum(axis=1)) / largest
        np.testing.assert_allclose(pose_distances(matrices, np.array([0]))[0], apart, rtol=0, atol=1e-12)


def random_posed_stream(seed: int, num: int) -> Stream:
    random = np.random.default_rng(seed)
    matrices = cameras(seed, num, unknown=0.2, standing=0.3)
    return Stream(KEY, random.random(num) > 0.15, cam_from_world=matrices)


def slow_pose_ranks(stream: Stream, most: int) -> dict[int, list[int]]:
    """For each anchor the nearest frames, by the rule's own distances."""
    assert stream.cam_from_world is not None
    able = [
        at for at in range(len(stream.usable)) if stream.usable[at] and np.isfinite(stream.cam_from_world[at]).all()
    ]
    distance = pose_distances(stream.cam_from_world[able], np.arange(len(able)))
    result = {}
    for at, anchor in enumerate(able):
        others = sorted((distance[at, other], frame) for other, frame in enumerate(able) if frame != anchor)
        result[anchor] = [anchor] + [frame for _, frame in others[: most - 1]]
    return result


@pytest.mark.parametrize("seed", range(30))
def test_pose_ranks_equal_their_definition(seed: int) -> None:
    num = (3, 20, 150)[seed % 3]  # the largest takes several blocks
    stream = random_posed_stream(seed, num)
    options = Options(seed=seed, per_scene=1 + 17 * (seed % 7), max_frames=[None, 2, 9][seed // 3 % 3])
    expected = slow_pose_ranks(stream, options.max_frames or 24)
    found = as_lists(mine("pose-rank", stream, options))
    if len(expected) < 2:
        assert found == []
        return
    assert len(found) == options.per_scene
    assert all(sequence == expected[sequence[0]] for sequence in found)
    # no sequence comes a second time before all have come once
    for start in range(0, len(found), len(expected)):
        turn = [sequence[0] for sequence in found[start : start + len(expected)]]
        assert len(set(turn)) == len(turn)


@pytest.mark.parametrize("seed", range(6))
def test_pose_ranks_cover_every_posed_frame(seed: int) -> None:
    stream = random_posed_stream(seed, 120)
    able = set(slow_pose_ranks(stream, 2))
    found = as_lists(mine("pose-rank", stream, Options(seed=seed, per_scene="auto", max_frames=7)))
    assert {frame for sequence in found for frame in sequence} == able
    seen: set[int] = set()
    for sequence in found:  # none of them was needless when it came
        assert sequence[0] not in seen
        seen |= set(sequence)
    covering = as_lists(mine("pose-rank", stream, Options(seed=seed, per_scene=len(found), cover=True, max_frames=7)))
    assert covering == found
    random_order = as_lists(mine("pose-rank", stream, Options(seed=seed, per_scene=len(found), max_frames=7)))
    assert {frame for sequence in random_order for frame in sequence} < able


def test_pose_ranks_depend_on_seed_and_key_and_need_cameras() -> None:
    stream = random_posed_stream(3, 60)
    first = as_lists(mine("pose-rank", stream, Options(per_scene=9)))
    assert as_lists(mine("pose-rank", stream, Options(per_scene=30)))[:9] == first
    words = rng.words(rng.key(0, *KEY, "pose-rank"), len(stream.positions))
    able = slow_pose_ranks(stream, 2)
    order = [frame for frame in stream.positions[np.argsort(words)].tolist() if frame in able]
    assert [sequence[0] for sequence in first] == order[:9]
    assert as_lists(mine("pose-rank", stream, Options(per_scene=9, seed=1))) != first
    assert (
        as_lists(mine("pose-rank", replace(stream, key=("toy", "train", "scene", None)), Options(per_scene=9))) != first
    )
    assert RULES["pose-rank"].needs == "poses"
    assert RULES["pose-rank"].links == "anchor"
    blind = replace(stream, cam_from_world=None)
    assert mine("pose-rank", blind, Options()) == []
    assert explain_nothing(blind, Options(), "pose-rank") == "no usable frame has a known camera"
    one = Stream(KEY, np.ones(3, dtype=bool), cam_from_world=np.array([np.eye(3, 4), *np.full((2, 3, 4), np.nan)]))
    assert mine("pose-rank", one, Options()) == []
    assert explain_nothing(one, Options(), "pose-rank") == "1 usable frame with a known camera, at least 2 needed"
    assert as_lists(mine("pose-rank", one, Options(min_frames=1, per_scene=2))) == [[0], [0]]


def test_frames_on_one_spot_follow_by_position_and_the_anchor_leads() -> None:
    stream = Stream(KEY, np.ones(5, dtype=bool), cam_from_world=np.tile(np.eye(3, 4), (5, 1, 1)))
    found = as_lists(mine("pose-rank", stream, Options(per_scene=5, max_frames=3)))
    assert sorted(found) == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1], [4, 0, 1]]


# --- pair -------------------------------------------------------------------------------------------------------------

ANGLES = {1.0: 0.0, 0.9: 25.8419, 0.5: 60.0, 0.25: 75.5225, 0.0: 90.0, -0.4: 113.578}


def random_stream(seed: int, num: int, *, counted: bool = True) -> tuple[Stream, list[set[int]]]:
    """Frames that see some of few points, with few distinct cosines: ties are common."""
    random = np.random.default_rng(seed)
    sets = [set((i // 3 + random.integers(0, 14, random.integers(0, 11))).tolist()) for i in range(num)]
    image_of = np.array([i for i, points in enumerate(sets) for _ in points], dtype=np.int32)
    point_of = np.array([point for points in sets for point in sorted(points)], dtype=np.int32)
    pairs = covisibility(num, image_of, point_of)
    cosines = [random.choice([*ANGLES, math.nan], len(pairs.a)) for _ in range(3)]
    pairs = replace(pairs, axis_cos=cosines[0], rotation_cos=cosines[1], triangulation_cos=cosines[2])
    if not counted:
        graph = graph_of(pairs)
        ab, ba = overlap_between(pairs.a, pairs.b, graph), overlap_between(pairs.b, pairs.a, graph)
        pairs = replace(pairs, shared=None, overlap_ab=ab.astype(np.float32), overlap_ba=ba.astype(np.float32))
    return Stream(KEY, random.random(num) > 0.15, pairs), sets


def slow_candidates(stream: Stream, sets: list[set[int]], options: Options) -> list[tuple[float, int, int, int, int]]:
    """(-score, a, b, first, second) of every pair that may be chosen."""
    assert stream.pairs is not None
    cosines = getattr(stream.pairs, f"{options.angle}_cos")
    result = []
    for a, b, cos in zip(stream.pairs.a.tolist(), stream.pairs.b.tolist(), cosines.tolist(), strict=True):
        if math.isnan(cos) or not options.min_angle_deg <= ANGLES[cos] <= options.max_angle_deg:
            continue
        shared = len(sets[a] & sets[b])
        if not (stream.usable[a] and stream.usable[b]) or shared < max(1, options.min_shared):
            continue
        ways = []
        for first, second in ((a, b), (b, a)):
            overlap = shared / len(sets[first])
            metric = shared / len(sets[a] | sets[b]) if options.metric == "iou" else overlap
            if metric >= options.min_metric and options.min_overlap <= overlap <= options.max_overlap:
                ways.append((-(metric * 4.0 * cos * (1.0 - cos)), a, b, first, second))
        if ways:
            result.append(min(ways, key=lambda way: (way[0], way[3])))
    return result


def slow_pairs(stream: Stream, sets: list[set[int]], options: Options) -> list[list[int]]:
    left = slow_candidates(stream, sets, options)
    to_cover = {frame for way in left for frame in way[3:]}
    used = dict.fromkeys(to_cover, 0)
    result: list[list[int]] = []
    while left and len(result) != options.per_scene:
        if options.per_scene == "auto" and min(used.values()) > 0:
            break
        best = min(
            left,
            key=lambda way: (min(used[way[3]], used[way[4]]), max(used[way[3]], used[way[4]]), *way[:3]),
        )
        left.remove(best)
        for frame in best[3:]:
            used[frame] += 1
        result.append(list(best[3:]))
    return result


@pytest.mark.parametrize("seed", range(48))
def test_pairs_equal_their_definition(seed: int) -> None:
    stream, sets = random_stream(seed, 4 + seed % 30)
    options = Options(
        metric=["iou", "overlap"][seed % 2],
        angle=["axis", "rotation", "triangulation"][seed % 3],
        min_metric=[0.1, 0.0, 0.25][seed // 2 % 3],
        min_angle_deg=[10, 0, 60][seed // 3 % 3],
        max_angle_deg=[90, 180][seed // 4 % 2],
        min_shared=[1, 0, 3][seed // 5 % 3],
        min_overlap=[0.0, 0.3][seed // 6 % 2],
        max_overlap=[1.0, 0.7][seed // 7 % 2],
        per_scene=["auto", 1, 7, 1000][seed % 4],
    )
    assert as_lists(mine("pair", stream, options)) == slow_pairs(stream, sets, options)


def test_pairs_exist_in_the_comparison() -> None:
    """The comparison compares something: many pairs, turned ones, and frames that come several times."""
    found = as_lists(mine("pair", random_stream(1, 30)[0], Options(metric="overlap", min_shared=1)))
    assert len(found) > 40
    assert any(a > b for a, b in found)
    assert any(a < b for a, b in found)


def test_pairs_of_long_streams_take_several_blocks() -> None:
    num = 130  # 8385 pairs
    random = np.random.default_rng(0)
    a, b = np.triu_indices(num, 1)
    cos = random.random(len(a))
    shared = random.integers(5, 50, len(a)).astype(np.int32)
    pairs = Pairs(a.astype(np.int32), b.astype(np.int32), np.full(num, 60, np.int32), shared, axis_cos=cos)
    stream = Stream(KEY, np.ones(num, dtype=bool), pairs)
    iou = shared / (120.0 - shared)
    score = np.where((iou >= 0.1) & (cos <= math.cos(math.radians(10))) & (shared >= 9), iou * 4 * cos * (1 - cos), -1)
    for per_scene in (65, 400):
        used, expected = np.zeros(num, dtype=int), []
        left = score.copy()
        for _ in range(per_scene):
            key = 10 * np.minimum(used[a], used[b]) + np.maximum(used[a], used[b]) + np.where(left >= 0, 0, 10**6)
            best = int(np.argmax(np.where(key == key.min(), left, -1)))
            left[best] = -1
            used[[a[best], b[best]]] += 1
            expected.append([a[best], b[best]])
        assert as_lists(mine("pair", stream, Options(min_shared=9, per_scene=per_scene))) == expected


def test_the_best_pair_comes_first_and_frames_take_turns() -> None:
    pairs = Pairs(
        np.array([0, 0, 0, 1, 1, 2], np.int32),
        np.array([1, 2, 3, 2, 3, 3], np.int32),
        np.full(4, 100, np.int32),
        np.array([90, 80, 35, 70, 36, 60], np.int32),
        axis_cos=np.full(6, 0.5),
    )
    stream = Stream(KEY, np.ones(4, dtype=bool), pairs)
    assert as_lists(mine("pair", stream, Options())) == [[0, 1], [2, 3], [0, 2], [1, 3], [1, 2], [0, 3]]
    assert as_lists(mine("pair", stream, Options(per_scene="auto"))) == [[0, 1], [2, 3]]
    assert as_lists(mine("pair", stream, Options(min_shared=65, per_scene="auto"))) == [[0, 1], [0, 2]]
    assert as_lists(
        mine("pair", replace(stream, usable=np.array([False, True, True, True])), Options(per_scene=1))
    ) == [[1, 2]]


def test_pairs_without_counts_or_angles() -> None:
    stream, _ = random_stream(2, 25, counted=False)
    loose = Options(min_angle_deg=0, max_angle_deg=180, min_metric=0)
    assert len(mine("pair", stream, loose)) > 20
    assert mine("pair", replace(stream, pairs=None), loose) == []
    assert stream.pairs is not None
    blind = replace(stream, pairs=replace(stream.pairs, axis_cos=None))
    assert mine("pair", blind, loose) == []
    assert explain_nothing(blind, loose, "pair") == "no axis angle between frames is known"
    assert "iou >= 0.99" in explain_nothing(stream, replace(loose, min_metric=0.99, max_overlap=0.5), "pair")
    assert explain_nothing(frames(1), loose, "pair") == "no model tells what its frames share"


@pytest.mark.parametrize("counted", [True, False])
def test_listed_pairs_are_taken_as_they_come(counted: bool) -> None:
    stream, sets = random_stream(5, 30, counted=counted)
    random = np.random.default_rng(0)
    listed = random.integers(0, 30, (200, 2)).astype(np.int32)
    listed = listed[listed[:, 0] != listed[:, 1]]
    usable = [[a, b] for a, b in listed.tolist() if stream.usable[a] and stream.usable[b]]
    unknown = replace(stream, pairs=None, listed=listed)
    assert as_lists(mine("pair", unknown, Options(min_shared=9, min_overlap=0.9, per_scene=3))) == usable
    known = replace(stream, listed=listed)
    options = Options(min_shared=2 if counted else 0, min_overlap=0.1, max_overlap=0.6, per_scene=3, min_metric=0.9)
    expected = []
    for a, b in usable:
        shared = len(sets[a] & sets[b])
        if shared >= options.min_shared and shared and 0.1 <= np.float32(shared / len(sets[a])) <= np.float32(0.6):
            expected.append([a, b])
    assert 5 < len(expected) < len(usable) - 5
    assert as_lists(mine("pair", known, options)) == expected
    # pairs that share nothing are taken where nothing is asked for
    assert as_lists(mine("pair", known, Options(min_shared=0))) == usable
    none = np.empty(0, np.int32)
    values = {"shared": none} if counted else {"overlap_ab": none, "overlap_ba": none}
    alone = replace(stream, pairs=Pairs(none, none, np.zeros(30, np.int32), **values), listed=listed)
    assert as_lists(mine("pair", alone, Options(min_shared=0))) == usable
    assert mine("pair", alone, Options(min_overlap=0.1, min_shared=0)) == []


def test_lists_that_give_nothing_say_why() -> None:
    stream = replace(frames(4), usable=np.array([True, True, False, True]))
    explain = RULES["pair"].explain
    assert "names no pair" in explain(replace(stream, listed=np.empty((0, 2), np.int32)), Options())
    assert mine("pair", replace(stream, listed=np.empty((0, 2), np.int32)), Options()) == []
    lost = replace(stream, listed=np.array([[0, 2], [2, 1]], np.int32))
    assert mine("pair", lost, Options()) == []
    assert explain(lost, Options()) == "no pair of usable frames is listed (of 2)"
    few = replace(stream, listed=np.array([[0, 3]], np.int32))
    assert "30 shared points (of 1)" in explain(few, Options())


# --- lists of pairs ---------------------------------------------------------------------------------------------------


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def names_in(folder: Path, text: str | bytes) -> list[tuple[str, str]]:
    return [(pair.first, pair.second) for pair in read_pair_list(written(folder, text))]


def test_plain_lists(tmp_path: Path) -> None:
    assert names_in(tmp_path, "a/1.jpg b/2.jpg\r\n\n# note\na/1.jpg  c.PNG 0.5 7 x\n") == [
        ("a/1.jpg", "b/2.jpg"),
        ("a/1.jpg", "c.PNG"),
    ]
    assert names_in(tmp_path, "name 1.jpg\tname, 2.jpg\t0.4\n") == [("name 1.jpg", "name, 2.jpg")]
    assert names_in(tmp_path, "a.jpg,b.jpg\tc.jpg") == [("a.jpg,b.jpg", "c.jpg")]
    assert names_in(tmp_path, "name 1.jpg, name 2.jpg, 3") == [("name 1.jpg", "name 2.jpg")]
    assert names_in(tmp_path, "Tower,_left.jpg Tower,_right.jpg") == [("Tower,_left.jpg", "Tower,_right.jpg")]
    assert names_in(tmp_path, "\ufeffimage1,image2,score\na.jpg,b.jpg,1") == [("a.jpg", "b.jpg")]
    assert names_in(tmp_path, "\ufeffa.jpg b.jpg\n  # note\n \t\nc.jpg d.jpg") == [
        ("a.jpg", "b.jpg"),
        ("c.jpg", "d.jpg"),
    ]
    assert names_in(tmp_path, "é.jpg ü.jpg".encode("latin-1")) == [("\udce9.jpg", "\udcfc.jpg")]
    assert next(read_pair_list(written(tmp_path, "a.jpg b.jpg 90"))) == ListedPair("a.jpg", "b.jpg", None)


CROPS = """# img1, img2, rotation
train/1/a b.jpg, train/1/b.jpg, 0
0, 100, 0, 100, 20, 140, 30, 150
5, 105, 0, 100, 20, 140, 30, 150
c.jpg, d.jpg, -91.5
0, 1, 0, 1, 0, 1, 0, 1
"""


def test_lists_of_crops(tmp_path: Path) -> None:
    assert list(read_pair_list(written(tmp_path, CROPS))) == [
        ListedPair("train/1/a b.jpg", "train/1/b.jpg", 0.0),
        ListedPair("c.jpg", "d.jpg", -91.5),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg b.jpg\na.jpg c\n", "line 2: 'a.jpg c' does not begin"),
        ("a.jpg\nb.jpg c.jpg\n", "line 1: 'a.jpg' does not begin"),
        ("one two\n" * 17 + "a.jpg b.jpg", "line 17"),
        ("", "lists no pairs"),
        ("# a.jpg b.jpg\nheader\n", "lists no pairs"),
        ("1, 2, 3, 4, 5, 6, 7, 8\na.jpg, b.jpg, 0", "line 1: a crop before"),
        ("a.jpg, b.jpg, 0\n1, 2, 3, 4, 5, 5, 7, 8", "line 2: the crops"),
        ("a.jpg, b.jpg, 0\n1, 2, 4, 3, 5, 6, 7, 8", "line 2: the crops"),
        ("a.jpg, b.jpg, 0\n1, 2, 3, 4, 5, 6, 7", "line 2: '1, 2, 3"),
        ("a.jpg, b.jpg, 0\n1, 2, 3, 4, 5, 6, 7, x", "line 2: '1, 2, 3"),
        ("a.jpg, b.jpg\n1, 2, 3, 4, 5, 6, 7, 8", "needs a rotation"),
        ("a.jpg, b.jpg, nan\n1, 2, 3, 4, 5, 6, 7, 8", "needs a rotation"),
        ("a.jpg b.jpg\n" + "x" * 70000, "line 2: this is not text"),
        (b"a.jpg b.jpg\n\x00\x01", "line 2: this is not text"),
        ("a.jpg b.jpg".encode("utf-16"), "line 1: this is not text"),
    ],
)
def test_broken_lists_are_refused_with_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(read_pair_list(written(tmp_path, text)))


def test_a_list_that_is_not_there_is_an_error_in_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            list(read_pair_list(path))


def test_names_mean_the_path_that_ends_in_them() -> None:
    paths = ["x/0015/images/a.jpg", "x/0022/images/a.jpg", "x/0015/images/b.jpg", "a.jpg"]
    assert resolve(["0015/images/a.jpg", "0022/images/a.jpg", "images/b.jpg"], paths) == [(0,), (1,), (2,)]
    assert resolve(["images/a.jpg", "b.jpg"], paths) == [(), (2,)]  # two paths end in the first
    assert resolve(["a.jpg"], paths) == [(3,)]  # equal comes before longer
    assert resolve(["5/images/a.jpg", "mages/b.jpg", "b.jp", "c.jpg", "b.jpg"], paths) == [(), (), (), (), (2,)]
    assert resolve(["/x/0015/images/a.jpg", "./x/0022/images/a.jpg"], paths) == [(0,), (1,)]
    assert resolve(["b.jpg"], ["s/b.jpg", "c.jpg", "s/b.jpg"]) == [(0, 2)]
    assert resolve([], paths) == []
    assert resolve(["b.jpg"], []) == [()]


def test_leading_folders_of_names_are_left_out_only_if_they_are_the_same() -> None:
    paths = ["0015/images/a.jpg", "0015/images/b.jpg", "0022/images/c.jpg"]
    names = ["data/md/0015/images/a.jpg", "data/md/0022/images/c.jpg", "data/md/0099/images/b.jpg"]
    assert resolve(names, paths) == [(0,), (2,), ()]
    # frame 7 of another scene is not frame 7 of this one
    assert resolve(["one/7.jpg", "two/7.jpg"], ["7.jpg", "8.jpg"]) == [(), ()]
    assert resolve(["one/7.jpg", "two/9.jpg"], ["7.jpg", "8.jpg"]) == [(0,), ()]
    assert resolve(["one/7.jpg", "two/7.jpg"], ["one/7.jpg"]) == [(0,), ()]


def test_names_match_byte_for_byte_and_then_by_nfc() -> None:
    composed, decomposed = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert resolve([composed, decomposed], [f"x/{composed}", f"y/{decomposed}"]) == [(0,), (1,)]
    assert resolve([composed], [f"y/{decomposed}", "z.jpg"]) == [(0,)]
    assert resolve([decomposed, "z.jpg"], [f"y/{composed}", "z.jpg"]) == [(0,), (1,)]
    assert resolve(["\udce9.jpg"], ["y/\udce9.jpg", "y/\udcea.jpg"]) == [(0,)]


@calmly
@given(
    st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=12), st.data()
)
def test_names_that_are_ends_of_paths_equal_their_definition(paths: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(paths))
    cut = data.draw(st.integers(0, name.count("/")))
    name = "/".join(name.split("/")[cut:])
    ends = {path for path in paths if f"/{path}".endswith(f"/{name}")}
    means = name if name in ends else next(iter(ends)) if len(ends) == 1 else None
    expected = tuple(at for at, path in enumerate(paths) if path == means)
    # a name that is found keeps the others from losing their leading folders
    anchor = ["c"] if expected else []
    assert resolve([name, *anchor], [*paths, "c"])[0] == expected or not expected


def test_listed_pairs_are_placed_by_stream(tmp_path: Path) -> None:
    # two scenes; the second photo of the first is in both of its models
    paths = ["s/a.jpg", "s/b.jpg", "s/b.jpg", "s/c.jpg", "t/a.jpg", "t/d.jpg"]
    group_of = np.array([0, 0, 1, 1, 2, 2])
    first = np.array([0, 2, 4])
    text = "s/b.jpg s/a.jpg\ns/b.jpg s/c.jpg\ns/a.jpg s/c.jpg\nt/d.jpg t/a.jpg\nt/d.jpg t/d.jpg\ns/a.jpg u/a.jpg\n"
    found = listed_pairs(written(tmp_path, text + "s/b.jpg s/a.jpg\nx.jpg y.jpg"), paths, group_of, first)
    assert {group: pairs.tolist() for group, pairs in found.of_group.items()} == {
        0: [[1, 0], [1, 0]],
        1: [[0, 1]],
        2: [[1, 0]],
    }
    assert all(pairs.dtype == np.int32 for pairs in found.of_group.values())
    assert (found.num_listed, found.num_unmatched, found.num_crossing, found.num_twins) == (8, 2, 1, 1)
    assert found.examples == ("u/a.jpg", "x.jpg", "y.jpg")
    assert found.digest != listed_pairs(written(tmp_path, text), paths, group_of, first).digest
    both = ["s/a.jpg", "s/b.jpg"] * 2  # a pair that two models hold goes to the first
    once = listed_pairs(written(tmp_path, "b.jpg a.jpg"), both, np.array([0, 0, 1, 1]), np.array([0, 2]))
    assert {group: pairs.tolist() for group, pairs in once.of_group.items()} == {0: [[1, 0]]}
