"""Shared points, angles and what follows from them, against Python sets, fractions and plain formulas."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mumdata import covisibility as module
from mumdata import geometry
from mumdata.colmap import Model
from mumdata.covisibility import (
    Coherence,
    Graph,
    Pairs,
    coherence,
    coherences,
    covisibility,
    links,
    memory_needed,
    neighbours,
    overlap_between,
    overlaps,
)
from mumdata.datasets import Stream
from mumdata.kernels import covisibility as kernels
from mumdata.sources import SourceOptions
from mumdata.sources.tracks import tracks
from mumdata.tree import Tree

# For each image the points it sees, as a list: repeats are points seen twice, empty lists images that see nothing;
# point ids have gaps, and few of them make ties and separate parts likely.
SCENES = st.lists(st.lists(st.sampled_from([0, 1, 2, 5, 9, 70, 71, 10**6]), max_size=10), max_size=9)
SMALL = st.integers(-4, 4).map(float)
calmly = settings(deadline=None)  # the first call compiles


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


def equal_bits(one: Pairs, two: Pairs) -> bool:
    """Tell whether all columns are equal to the bit, NaN included."""
    for field in fields(Pairs):
        x, y = getattr(one, field.name), getattr(two, field.name)
        if isinstance(x, np.ndarray):
            if x.dtype != y.dtype or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True


# counts


@given(SCENES)
@calmly
def test_pairs_equal_set_intersections(scene: list[list[int]]) -> None:
    sets = [set(points) for points in scene]
    expected = [
        (a, b, len(sets[a] & sets[b])) for a in range(len(sets)) for b in range(a + 1, len(sets)) if sets[a] & sets[b]
    ]
    pairs = pairs_of(scene)
    assert pairs.shared is not None
    assert list(zip(pairs.a.tolist(), pairs.b.tolist(), pairs.shared.tolist(), strict=True)) == expected
    assert pairs.num_points.tolist() == [len(points) for points in sets]
    assert {column.dtype for column in (pairs.a, pairs.b, pairs.shared, pairs.num_points)} == {np.dtype(np.int32)}
    overlap_ab, overlap_ba, iou = overlaps(pairs)
    assert overlap_ab.tolist() == [n / len(sets[a]) for a, _, n in expected]
    assert overlap_ba.tolist() == [n / len(sets[b]) for _, b, n in expected]
    assert iou.tolist() == [n / len(sets[a] | sets[b]) for a, b, n in expected]
    assert (iou <= np.minimum(overlap_ab, overlap_ba)).all()


@pytest.mark.parametrize("shift", [-7, 10**12])
def test_points_may_have_any_numbers(shift: int) -> None:
    image_of, point_of = np.array([0, 0, 1, 1, 2]), np.array([5, 9, 9, 5, 7])
    assert equal_bits(covisibility(3, image_of, point_of), covisibility(3, image_of, point_of + shift))
    assert covisibility(3, image_of, point_of + shift).shared.tolist() == [2]  # type: ignore[union-attr]


def test_scenes_with_more_pairs_than_a_block_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    sets = [set(random.integers(0, 700, random.integers(0, 50)).tolist()) for _ in range(90)]
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 100)
    pairs = covisibility(90, *observations([list(points) for points in sets]))
    counts = {(a, b): len(sets[a] & sets[b]) for a, b in itertools.combinations(range(90), 2)}
    assert pairs.shared is not None
    found = zip(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True), pairs.shared.tolist(), strict=True)
    assert list(found) == [(pair, count) for pair, count in counts.items() if count]
    assert len(pairs.a) > 1000


def test_observations_that_make_no_sense_are_refused() -> None:
    two = np.array([0, 1])
    with pytest.raises(ValueError, match=r"image outside 0 \.\. 1"):
        covisibility(2, np.array([0, 2]), np.array([5, 5]))
    with pytest.raises(ValueError, match=r"image outside 0 \.\. 1"):
        covisibility(2, np.array([-1, 1]), np.array([5, 5]))
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match=r"point outside 0 \.\. 2"):
            covisibility(2, two, np.array(wrong), points=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="one length"):
        covisibility(2, two, np.array([0]))
    with pytest.raises(ValueError, match="block_rows"):
        covisibility(2, two, two, block_rows=0)
    for name, shape in (("cam_from_world", (3, 3, 4)), ("intrinsics", (2, 3)), ("points", (2, 4))):
        with pytest.raises(ValueError, match=f"{name} has the shape"):
            covisibility(2, two, two, **{name: np.zeros(shape)})  # type: ignore[arg-type]


# angles and ratios


@dataclass
class World:
    """Cameras turned by multiples of 90 degrees and whole numbers everywhere, so that nothing is rounded."""

    seen: list[list[int]]
    points: np.ndarray
    rotation: np.ndarray
    centre: np.ndarray
    focal: np.ndarray  # fx, fy of each camera

    @property
    def cam_from_world(self) -> np.ndarray:
        translation = -np.einsum("nij,nj->ni", self.rotation, self.centre)
        return np.concatenate([self.rotation, translation[:, :, None]], axis=2)

    @property
    def intrinsics(self) -> np.ndarray:
        return np.concatenate([self.focal, np.full((len(self.focal), 2), 7.0)], axis=1)

    def pairs(self, order: np.ndarray | slice = slice(None), block_rows: int | None = None) -> Pairs:
        image_of, point_of = observations(self.seen)
        return covisibility(
            len(self.seen),
            image_of[order],
            point_of[order],
            points=self.points,
            cam_from_world=self.cam_from_world,
            intrinsics=self.intrinsics,
            block_rows=block_rows,
        )


TURNS = [
    np.diag(signs)[list(order)].astype(float)
    for order in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
    if np.linalg.det(np.diag(signs)[list(order)]) > 0
]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    num, num_points = draw(st.integers(1, 6)), draw(st.integers(1, 12))

    def table(rows: int, columns: int, values: st.SearchStrategy[float]) -> np.ndarray:
        flat = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
        return np.array(flat).reshape(rows, columns)

    return World(
        draw(st.lists(st.lists(st.integers(0, num_points - 1), max_size=14), min_size=num, max_size=num)),
        table(num_points, 3, SMALL),
        np.array(draw(st.lists(st.sampled_from(TURNS), min_size=num, max_size=num))),
        table(num, 3, SMALL),
        table(num, 2, st.integers(1, 900).map(float)),
    )


def angle(u: np.ndarray, v: np.ndarray) -> float:
    """Angle in degrees, exact for small and flat ones too."""
    return math.degrees(math.atan2(float(np.linalg.norm(np.cross(u, v))), float(np.dot(u, v))))


def assert_angle(cos: float, degrees: float) -> None:
    assert abs(cos - math.cos(math.radians(degrees))) < 1e-15
    if 0.001 < degrees < 179.999:  # where a cosine tells angles well enough
        assert abs(math.degrees(math.acos(cos)) - degrees) < 1e-9


def medians(points: np.ndarray, centre_a: np.ndarray, centre_b: np.ndarray) -> float | None:
    rays = [(point - centre_a, point - centre_b) for point in points]
    angles = [angle(u, v) for u, v in rays if u.any() and v.any()]
    return float(np.median(angles)) if angles else None


@given(worlds())
@settings(calmly, max_examples=100)
def test_angles_and_ratios_equal_their_definitions(world: World) -> None:
    pairs = world.pairs()
    assert pairs.triangulation_cos is not None
    assert pairs.scale_ratio is not None
    assert (pairs.triangulation_cos.dtype, pairs.scale_ratio.dtype) == (np.dtype(np.float64), np.dtype(np.float32))
    for k, (a, b) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)):
        common = world.points[sorted(set(world.seen[a]) & set(world.seen[b]))]
        median = medians(common, world.centre[a], world.centre[b])
        if median is None:
            assert math.isnan(pairs.triangulation_cos[k])
        else:
            assert_angle(float(pairs.triangulation_cos[k]), median)
        ratios = []
        for point in common:
            depth_a, depth_b = (int((world.rotation[i] @ (point - world.centre[i]))[2]) for i in (a, b))
            if depth_a > 0 and depth_b > 0:
                ratio = Fraction(depth_a, int(world.focal[a].sum())) / Fraction(depth_b, int(world.focal[b].sum()))
                ratios.append(max(ratio, 1 / ratio))
        expected = np.float32(float(min(ratios))) if ratios else np.float32(np.nan)
        np.testing.assert_array_equal(pairs.scale_ratio[k], expected)


@given(worlds(), st.integers(1, 4), st.randoms(use_true_random=False))
@calmly
def test_blocks_and_order_of_observations_change_no_bit(world: World, rows: int, random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(sum(map(len, world.seen))))
    random.shuffle(order)
    once = world.pairs()
    assert equal_bits(once, world.pairs(np.array(order, dtype=int), rows))
    # the rows of `points` may be any, too
    place = list(range(len(world.points)))
    random.shuffle(place)
    moved = np.empty_like(world.points)
    moved[place] = world.points
    again = replace(world, points=moved, seen=[[place[point] for point in some] for some in world.seen])
    assert equal_bits(once, again.pairs())


def plain_world(num: int, num_points: int, seed: int, share: float = 0.5) -> World:
    """Cameras turned anyhow that look at a cloud from outside: all points in front of all of them."""
    random = np.random.default_rng(seed)
    rotation = geometry.rotation_from_quaternion(random.standard_normal((num, 4)))
    points = random.uniform(-1, 1, (num_points, 3))
    centre = -random.uniform(3, 9, (num, 1)) * rotation[:, 2]
    seen = [np.flatnonzero(random.random(num_points) < share).tolist() for _ in range(num)]
    return World(seen, points, rotation, centre, random.uniform(300, 900, (num, 2)))


def test_measures_equal_those_of_d2_net() -> None:
    world = plain_world(9, 400, 0)
    pairs = world.pairs()
    matrix = world.cam_from_world
    ab, ba, _ = overlaps(pairs)
    assert len(pairs.a) == 36
    for k, (i, j) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)):
        common = set(world.seen[i]) & set(world.seen[j])
        assert (ab[k], ba[k]) == (len(common) / len(world.seen[i]), len(common) / len(world.seen[j]))
        ratios = []
        for p in common:
            one, two = (
                (matrix[n, 2, :3] @ world.points[p] + matrix[n, 2, 3]) / (0.5 * (world.focal[n, 0] + world.focal[n, 1]))
                for n in (i, j)
            )
            ratios.append(max(one / two, two / one))
        assert pairs.scale_ratio[k] == pytest.approx(min(ratios), rel=1e-7)  # type: ignore[index]
        axes = np.clip(matrix[i, 2, :3] @ matrix[j, 2, :3], -1, 1)
        assert abs(np.degrees(np.arccos(pairs.axis_cos[k])) - np.degrees(np.arccos(axes))) < 1e-6  # type: ignore[index]
        assert_angle(
            float(pairs.triangulation_cos[k]),  # type: ignore[index]
            medians(world.points[sorted(common)], world.centre[i], world.centre[j]) or 0.0,
        )


@pytest.mark.parametrize("num_points", [1, 2, 3, 8, 9, 10, 63, 64, 65, 500, 501])
def test_median_of_many_angles(num_points: int) -> None:
    world = plain_world(3, num_points, num_points, share=2.0)
    pairs = world.pairs()
    assert pairs.shared.tolist() == [num_points] * 3  # type: ignore[union-attr]
    for k, (a, b) in enumerate([(0, 1), (0, 2), (1, 2)]):
        median = medians(world.points, world.centre[a], world.centre[b])
        assert median is not None
        assert_angle(float(pairs.triangulation_cos[k]), median)  # type: ignore[index]


# angles as the kernels hold them: up to 0.5 as they rise to 90 degrees, from there from -0.5 to -0.0
VALUES = st.one_of(st.floats(-0.5, 0.5), st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5, 5e-324, -5e-324]))


def in_order(value: float) -> tuple[bool, float]:
    return math.copysign(1.0, value) < 0, value


@given(st.one_of(st.lists(VALUES, min_size=1, max_size=90), st.integers(1, 700)), st.integers(0, 3), st.booleans())
@settings(calmly, max_examples=300)
def test_middle_values_equal_those_of_sorting(source: list[float] | int, begin: int, ties: bool) -> None:
    if isinstance(source, int):
        random = np.random.default_rng(source)
        source = ((random.integers(0, 6, source) - 2.5) / 5 if ties else random.random(source) - 0.5).tolist()
    ordered, num = sorted(source, key=in_order), len(source)
    bits = np.array([0.0] * begin + source + [0.0]).view(np.int64)
    found = kernels.middle(bits, begin, begin + num, np.empty(num + 31, np.int64))
    expected = np.array([ordered[(num - 1) // 2], ordered[num // 2]])
    alone = [kernels.middle(one.view(np.int64), 0, 1, np.empty(32, np.int64))[0] for one in np.split(expected, 2)]
    assert list(found) == alone
    assert [rank > 1 << 62 for rank in alone] == [math.copysign(1.0, value) < 0 for value in expected]


@pytest.mark.parametrize("degrees", [1e-3, 1e-2, 1.0, 90.0, 179.0, 180.0])
def test_small_and_flat_angles_survive(degrees: float) -> None:
    # two cameras at a distance of 1 from the point, and another point that doubles the angle: the mean of the two
    half = math.radians(degrees) / 2
    centres = np.array([[math.sin(half), 0, -math.cos(half)], [-math.sin(half), 0, -math.cos(half)]])
    poses = np.concatenate([np.tile(np.eye(3), (2, 1, 1)), -centres[:, :, None]], axis=2)
    points = np.zeros((2, 3))
    points[1] = (centres[0] + centres[1]) / 2 + [0, 0, math.sin(half) / math.tan(min(1.5 * half, math.pi / 2))]
    one = covisibility(2, np.array([0, 1]), np.array([0, 0]), points=points, cam_from_world=poses)
    both = covisibility(2, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), points=points, cam_from_world=poses)
    for pairs in (one, both):
        assert pairs.triangulation_cos is not None
        median = medians(points[: int(pairs.shared[0])], centres[0], centres[1])  # type: ignore[index]
        assert median is not None
        assert abs(pairs.triangulation_cos[0] - math.cos(math.radians(median))) < 2.3e-16
    assert math.degrees(math.acos(one.triangulation_cos[0])) == pytest.approx(degrees, rel=1e-6)  # type: ignore[index]
    assert one.scale_ratio is None


def test_opposite_views_stay_within_the_cosines() -> None:
    random = np.random.default_rng(8)
    for direction in random.standard_normal((100, 3)):
        centres = np.stack([direction, -direction])
        poses = np.concatenate([np.tile(np.eye(3), (2, 1, 1)), -centres[:, :, None]], axis=2)
        points = random.uniform(-0.9, 0.9, (4, 1)) * direction  # between the two: rounding alone parts the angles
        pairs = covisibility(2, np.repeat([0, 1], 4), np.tile(np.arange(4), 2), points=points, cam_from_world=poses)
        assert pairs.triangulation_cos is not None
        assert -1.0 <= pairs.triangulation_cos[0] < -1.0 + 1e-15


def test_what_is_not_known_is_nan_and_does_no_harm() -> None:
    world = plain_world(5, 60, 4)
    known = world.pairs()
    poses, intrinsics, points = world.cam_from_world, world.intrinsics, world.points.copy()
    poses[3] = np.nan
    intrinsics[1, 0] = np.nan
    intrinsics[0, :2] = 0.0
    image_of, point_of = observations(world.seen)
    with np.errstate(all="raise"):
        pairs = covisibility(
            5, image_of, point_of, points=points, cam_from_world=poses, intrinsics=intrinsics, block_rows=2
        )
    no_pose = (pairs.a == 3) | (pairs.b == 3)
    no_focal = (pairs.a <= 1) | no_pose
    for name, unknown in (
        ("rotation_cos", no_pose),
        ("axis_cos", no_pose),
        ("triangulation_cos", no_pose),
        ("scale_ratio", no_focal),
    ):
        expected = np.where(unknown, np.nan, getattr(known, name))
        np.testing.assert_array_equal(getattr(pairs, name), expected)
    # points without a place, or with an absurd one, are left out of the measures and still count
    points[:30] = np.nan
    points[30:40] = 1e200
    hidden = covisibility(5, image_of, point_of, points=points, cam_from_world=world.cam_from_world)
    seen = [[point for point in some if point >= 40] for some in world.seen]
    few = replace(world, seen=seen).pairs()
    assert hidden.shared.tolist() == known.shared.tolist()  # type: ignore[union-attr]
    np.testing.assert_array_equal(hidden.triangulation_cos, few.triangulation_cos)  # type: ignore[arg-type]


def test_points_behind_a_camera_are_no_measure_of_scale() -> None:
    # depths (1, 2), (-0.5, 0.5), (-3, -2), (0, 1), (-1, 0); D2-Net's formula as it stands would say -1
    points = np.array([[0.0, 0, 1], [0, 0, -0.5], [0, 0, -3], [0, 0, 0], [0, 0, -1]])
    poses = np.zeros((2, 3, 4))
    poses[:, :, :3] = np.eye(3)
    poses[1, 2, 3] = 1.0

    def ratio(some: list[int]) -> float:
        image_of = np.repeat([0, 1], len(some))
        pairs = covisibility(
            2, image_of, np.array(some * 2), points=points, cam_from_world=poses, intrinsics=np.ones((2, 4))
        )
        assert pairs.scale_ratio is not None
        return float(pairs.scale_ratio[0])

    assert ratio([0, 1, 2, 3, 4]) == 2.0
    for point in range(1, 5):
        assert math.isnan(ratio([point]))


def test_cosines_equal_those_of_geometry_to_the_bit() -> None:
    world = plain_world(40, 30, 5)
    poses = world.cam_from_world
    poses[::3, :, :3] *= 1.0 + 1e-9  # as rounding may do: takes cosines beyond 1
    poses[5] = poses[3]
    poses[10] = -poses[9]
    poses[8] = np.nan
    image_of, point_of = observations(world.seen)
    pairs = covisibility(40, image_of, point_of, cam_from_world=poses)
    assert pairs.rotation_cos is not None
    assert pairs.axis_cos is not None
    assert (pairs.triangulation_cos, pairs.scale_ratio) == (None, None)
    assert pairs.rotation_cos.tobytes() == geometry.rotation_cos(poses, pairs.a, pairs.b).tobytes()
    assert pairs.axis_cos.tobytes() == geometry.axis_cos(poses, pairs.a, pairs.b).tobytes()
    assert {-1.0, 1.0} <= set(pairs.rotation_cos.tolist())
    assert {-1.0, 1.0} <= set(pairs.axis_cos.tolist())


@pytest.mark.parametrize(
    ("num", "num_points", "share", "shuffled"),
    [(60, 20000, 0.2, False), (60, 20000, 0.2, True), (1000, 12, 0.5, False)],  # the last: nearly all are pairs
)
def test_memory_is_what_was_announced(num: int, num_points: int, share: float, shuffled: bool) -> None:
    world = plain_world(num, num_points, 6, share)
    image_of, point_of = observations(world.seen)
    order = np.random.default_rng(0).permutation(len(image_of)) if shuffled else slice(None)
    image_of, point_of = image_of[order].copy(), point_of[order].copy()
    arguments = {"points": world.points, "cam_from_world": world.cam_from_world, "intrinsics": world.intrinsics}
    covisibility(num, image_of, point_of, **arguments)  # compiles
    tracemalloc.start()
    try:
        pairs = covisibility(num, image_of, point_of, **arguments)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    estimate = memory_needed(num, len(image_of), len(pairs.a))
    assert estimate / 5 < peak < estimate


# graphs


@given(SCENES)
@calmly
def test_neighbours_are_the_pairs_from_both_sides(scene: list[list[int]]) -> None:
    pairs = pairs_of(scene)
    graph = neighbours(pairs)
    both = {(a, b): row for row, (a, b) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))}
    both |= {(b, a): row for (a, b), row in both.items()}
    entries = list(zip(graph.row.tolist(), graph.other.tolist(), strict=True))
    assert entries == sorted(both)
    assert graph.pair.tolist() == [both[entry] for entry in entries]
    assert graph.shared.tolist() == [int(pairs.shared[both[entry]]) for entry in entries]  # type: ignore[union-attr,index]
    assert graph.overlap.tolist() == [float(overlap(scene, *entry)) for entry in entries]
    assert (graph.indptr.dtype, graph.other.dtype, graph.pair.dtype) == (np.int64, np.int32, np.int64)
    for image in range(len(scene)):
        part = graph.other[graph.indptr[image] : graph.indptr[image + 1]]
        assert part.tolist() == sorted(b for a, b in both if a == image)


@pytest.mark.parametrize(
    ("a", "b"), [([1], [0]), ([0, 0], [1, 1]), ([0, 0], [2, 1]), ([1, 0], [2, 1]), ([0], [3]), ([-1], [2]), ([1], [1])]
)
def test_pairs_out_of_order_are_refused(a: list[int], b: list[int]) -> None:
    pairs = Pairs(np.array(a, np.int32), np.array(b, np.int32), np.full(3, 5, np.int32), np.ones(len(a), np.int32))
    with pytest.raises(ValueError, match=r"pair"):
        neighbours(pairs)


@given(SCENES.filter(bool), st.data())
@calmly
def test_overlap_between_and_links_equal_sets(scene: list[list[int]], data: st.DataObject) -> None:
    frames = data.draw(st.lists(st.integers(0, len(scene) - 1), min_size=1, max_size=8))
    graph = graph_of(scene)
    a, b = frames[:-1], frames[1:]
    wanted = [float(overlap(scene, i, j)) for i, j in zip(a, b, strict=True)]
    assert overlap_between(np.array(a, dtype=int), np.array(b, dtype=int), graph).tolist() == wanted
    assert links(np.array(frames, dtype=np.int32), graph).tolist() == wanted


def test_sources_without_counts() -> None:
    ab, ba = np.array([0.5, 0.25, 0.0], np.float32), np.array([1.0, 0.0, 0.75], np.float32)
    a, b = np.array([0, 0, 2], np.int32), np.array([1, 3, 3], np.int32)
    for column in (a, b, ab, ba):
        column.flags.writeable = False  # as Arrow gives them
    pairs = Pairs(a, b, np.zeros(5, np.int32), overlap_ab=ab, overlap_ba=ba, source="d2net")
    graph = neighbours(pairs)
    assert overlaps(pairs)[2].tolist() == [0.5, 0.0, 0.0]
    assert graph.shared is None
    assert graph.row.tolist() == [0, 0, 1, 2, 3, 3]
    assert graph.other.tolist() == [1, 3, 0, 3, 0, 2]
    assert graph.overlap.tolist() == [0.5, 0.25, 1.0, 0.0, 0.0, 0.75]
    assert links(np.array([0, 1, 0, 0, 3, 2, 4, 4]), graph).tolist() == [0.5, 1.0, 1.0, 0.25, 0.75, 0.0, 0.0]
    assert coherence(np.array([3, 1, 0, 2, 4]), graph) == Coherence(2.5 / 20, 4 / 20, 2)


def test_images_that_are_not_there_are_refused() -> None:
    graph = graph_of([[1], [1]])
    for wrong in (-1, 2):
        with pytest.raises(IndexError, match=r"outside 0 \.\. 1"):
            links(np.array([0, wrong]), graph)
        with pytest.raises(IndexError, match=r"outside 0 \.\. 1"):
            links(np.array([wrong, 0]), graph)
        with pytest.raises(IndexError, match=r"outside 0 \.\. 1"):
            coherence(np.array([0, wrong]), graph)
    with pytest.raises(ValueError, match="cannot be paired"):
        overlap_between(np.array([0]), np.array([0, 1]), graph)


# sequences


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
@settings(calmly, max_examples=60)
def test_coherence_equals_its_definition(scene: list[list[int]], data: st.DataObject) -> None:
    frames = st.lists(st.integers(0, len(scene) - 1), max_size=8)
    sequences = data.draw(st.lists(frames, max_size=12))
    graph = graph_of(scene)
    arrays = [np.array(some, dtype=np.int32) for some in sequences]
    many = coherences(arrays, graph)
    assert many == [coherence(some, graph) for some in arrays]  # no sequence changes another
    for some, found in zip(sequences, many, strict=True):
        mean, density, components = measured_by_hand(scene, some)
        assert found.mean_overlap == (None if mean is None else pytest.approx(float(mean), abs=1e-15))
        assert found.density == (None if density is None else float(density))
        assert found.components == components


def test_coherences_of_a_large_scene_are_sums_in_rising_order() -> None:
    random = np.random.default_rng(0)
    scene = [random.integers(0, 400, random.integers(0, 90)).tolist() for _ in range(60)]
    graph = graph_of(scene)
    sequences = [random.permutation(60)[: random.integers(2, 40)] for _ in range(30)]
    found = coherences(sequences, graph)
    for some, one in zip(sequences, found, strict=True):
        frames = sorted(some.tolist())
        total = 0.0
        for a, b in itertools.permutations(frames, 2):
            total += float(overlap(scene, a, b))
        assert one.mean_overlap == total / (len(frames) * (len(frames) - 1))
        assert (one.density, one.components) == (
            float(measured_by_hand(scene, frames)[1] or 0),
            measured_by_hand(scene, frames)[2],
        )
    assert len({one.mean_overlap for one in found}) > 20


def test_threshold_is_met_at_exactly_a_tenth() -> None:
    scene = [list(range(10)), [0, *range(100, 110)], list(range(30, 40))]  # 1/10 one way, 1/11 the other
    found = coherence(np.array([0, 1, 2]), graph_of(scene))
    assert (found.density, found.components) == (1 / 6, 2)
    assert coherence(np.array([1]), graph_of(scene)) == Coherence(None, None, 1)


def test_long_chain_of_frames_is_one_part() -> None:
    scene = [[i, i + 1] for i in range(300)]
    found = coherence(np.arange(300)[::-1], graph_of(scene))
    assert found.components == 1
    assert coherence(np.arange(0, 300, 2), graph_of(scene)).components == 150


# streams


def model_of(world: World) -> Model:
    image_of, point_of = observations([sorted(set(points)) for points in world.seen])
    num = len(world.seen)
    return Model(
        image_ids=np.arange(num) * 3 + 2,
        names=tuple(b"%d.jpg" % image for image in range(num)),
        camera_model=("PINHOLE",) * num,
        camera_size=np.full((num, 2), 14),
        intrinsics=world.intrinsics,
        distortion=((),) * num,
        cam_from_world=world.cam_from_world,
        point_ids=np.arange(len(world.points)),
        points=world.points,
        image_of=image_of,
        point_of=point_of,
        num_points=np.bincount(image_of, minlength=num).astype(np.int32),
        num_repeated=0,
    )


@given(worlds(), st.randoms(use_true_random=False), st.data())
@calmly
def test_tracks_take_the_frames_of_the_stream_in_its_order(world: World, random, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    rows = list(range(len(world.seen)))
    if data.draw(st.booleans()):
        random.shuffle(rows)
        rows = rows[: data.draw(st.integers(0, len(rows)))]
    stream = Stream(None, tuple(f"{row}.jpg" for row in rows), model=model_of(world), rows=np.array(rows, np.int64))
    found = tracks(Tree("."), ("name", None, "scene", None), stream, SourceOptions())  # type: ignore[arg-type]
    expected = World(
        [world.seen[row] for row in rows],
        world.points,
        world.rotation[rows],
        world.centre[rows],
        world.focal[rows],
    ).pairs()
    assert found is not None
    assert equal_bits(found, expected)


def test_streams_without_a_model_have_no_tracks() -> None:
    stream = Stream(None, ("a.jpg",))
    assert tracks(Tree("."), ("name", None, "scene", None), stream, SourceOptions()) is None  # type: ignore[arg-type]
