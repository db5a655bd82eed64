"""Shared points and what follows from them, against Python sets."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import covisibility as module
from mumdata.covisibility import (
    Graph,
    Pairs,
    coherence,
    coherences,
    covisibility,
    links,
    neighbours,
    overlaps,
    shared_points,
)

# For each image the points it sees, as a list: repeats are points seen twice, empty lists images that see nothing;
# point ids have gaps, and few of them make ties and separate parts likely.
SCENES = st.lists(st.lists(st.sampled_from([0, 1, 2, 5, 9, 70, 71, 10**6]), max_size=10), max_size=9)


def observations(scene: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows = [(image, point) for image, points in enumerate(scene) for point in points]
    table = np.array(rows, dtype=np.int32).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def pairs_of(scene: list[list[int]]) -> Pairs:
    return covisibility(len(scene), *observations(scene))


def graph_of(scene: list[list[int]]) -> Graph:
    return neighbours(pairs_of(scene))


def overlap(scene: list[list[int]], a: int, b: int) -> Fraction:
    one, two = set(scene[a]), set(scene[b])
    return Fraction(len(one & two), len(one)) if one else Fraction(0)


@given(SCENES)
def test_pairs_equal_set_intersections(scene: list[list[int]]) -> None:
    sets = [set(points) for points in scene]
    expected = [
        (a, b, len(sets[a] & sets[b])) for a in range(len(sets)) for b in range(a + 1, len(sets)) if sets[a] & sets[b]
    ]
    pairs = pairs_of(scene)
    assert list(zip(pairs.a.tolist(), pairs.b.tolist(), pairs.shared.tolist(), strict=True)) == expected
    assert pairs.num_points.tolist() == [len(points) for points in sets]
    assert {column.dtype for column in (pairs.a, pairs.b, pairs.shared, pairs.num_points)} == {np.dtype(np.int32)}
    overlap_ab, overlap_ba, iou = overlaps(pairs)
    assert overlap_ab.tolist() == [n / len(sets[a]) for a, _, n in expected]
    assert overlap_ba.tolist() == [n / len(sets[b]) for _, b, n in expected]
    assert iou.tolist() == [n / len(sets[a] | sets[b]) for a, b, n in expected]
    assert (iou <= np.minimum(overlap_ab, overlap_ba)).all()


@given(SCENES, st.integers(1, 4), st.randoms(use_true_random=False))
def test_blocks_and_order_of_observations_change_nothing(scene: list[list[int]], rows: int, random) -> None:  # type: ignore[no-untyped-def]
    image_of, point_of = observations(scene)
    order = list(range(len(image_of)))
    random.shuffle(order)
    one = covisibility(len(scene), image_of, point_of)
    two = covisibility(len(scene), image_of[order], point_of[order], block_rows=rows)
    for name in ("a", "b", "shared", "num_points"):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()


@given(SCENES)
def test_neighbours_are_the_pairs_from_both_sides(scene: list[list[int]]) -> None:
    pairs = pairs_of(scene)
    graph = neighbours(pairs)
    both = {(a, b): row for row, (a, b) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))}
    both |= {(b, a): row for (a, b), row in both.items()}
    entries = list(zip(graph.row.tolist(), graph.other.tolist(), strict=True))
    assert entries == sorted(both)
    assert graph.pair.tolist() == [both[entry] for entry in entries]
    assert graph.shared.tolist() == [int(pairs.shared[both[entry]]) for entry in entries]
    for image in range(len(scene)):
        part = graph.other[graph.indptr[image] : graph.indptr[image + 1]]
        assert part.tolist() == sorted(b for a, b in both if a == image)


@given(SCENES.filter(bool), st.data())
def test_shared_points_and_links_equal_sets(scene: list[list[int]], data: st.DataObject) -> None:
    frames = data.draw(st.lists(st.integers(0, len(scene) - 1), min_size=1, max_size=8))
    graph = graph_of(scene)
    a, b = frames[:-1], frames[1:]
    expected = [len(set(scene[i]) & set(scene[j])) for i, j in zip(a, b, strict=True)]
    assert shared_points(np.array(a, dtype=int), np.array(b, dtype=int), graph).tolist() == expected
    wanted = [float(overlap(scene, i, j)) for i, j in zip(a, b, strict=True)]
    assert links(np.array(frames, dtype=np.int32), graph).tolist() == wanted


def measured_by_hand(scene: list[list[int]], frames: list[int]) -> tuple[Fraction | None, Fraction | None, int]:
    distinct = sorted(set(frames))
    ordered = [(a, b) for a in distinct for b in distinct if a != b]
    linked = [pair for pair in ordered if overlap(scene, *pair) >= Fraction(1, 10)]
    part = {frame: frame for frame in distinct}
    for a, b in linked:
        part = {frame: part[a] if name == part[b] else name for frame, name in part.items()}
    if not ordered:
        return None, None, len(distinct)
    mean = sum((overlap(scene, *pair) for pair in ordered), Fraction(0)) / len(ordered)
    return mean, Fraction(len(linked), len(ordered)), len(set(part.values()))


@given(SCENES.filter(bool), st.data())
@settings(max_examples=60)
def test_coherence_equals_its_definition(scene: list[list[int]], data: st.DataObject) -> None:
    frames = st.lists(st.integers(0, len(scene) - 1), min_size=1, max_size=8)
    sequences = data.draw(st.lists(frames, min_size=1, max_size=12))
    graph = graph_of(scene)
    arrays = [np.array(some, dtype=np.int32) for some in sequences]
    many = coherences(arrays, graph)
    assert many == [coherence(some, graph) for some in arrays]  # one by one: from lists, not from a matrix
    for some, found in zip(sequences, many, strict=True):
        mean, density, components = measured_by_hand(scene, some)
        assert found.mean_overlap == (None if mean is None else pytest.approx(float(mean), abs=1e-15))
        assert found.density == (None if density is None else float(density))
        assert found.components == components


def test_threshold_is_met_at_exactly_a_tenth() -> None:
    scene = [list(range(10)), [0, *range(100, 110)], list(range(30, 40))]  # 1/10 one way, 1/11 the other
    found = coherence(np.array([0, 1, 2]), graph_of(scene))
    assert (found.density, found.components) == (1 / 6, 2)
    assert coherence(np.array([1]), graph_of(scene)) == module.Coherence(None, None, 1)


def test_dense_and_sparse_ways_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    scene = [random.integers(0, 400, random.integers(0, 90)).tolist() for _ in range(60)]
    graph = graph_of(scene)
    sequences = [random.permutation(60)[: random.integers(1, 40)] for _ in range(30)]
    dense = coherences(sequences, graph)
    monkeypatch.setattr(module, "_DENSE_FRAMES", 0)
    assert coherences(sequences, graph) == dense
    assert len({found.mean_overlap for found in dense}) > 20


def test_long_chain_of_frames_is_one_part() -> None:
    scene = [[i, i + 1] for i in range(300)]
    found = coherence(np.arange(300)[::-1], graph_of(scene))
    assert found.components == 1
    assert coherence(np.arange(0, 300, 2), graph_of(scene)).components == 150


def test_observations_of_unknown_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0 \.\. 1"):
        covisibility(2, np.array([0, 2]), np.array([5, 5]))
