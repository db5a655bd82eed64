"""Copies of photos are found, and videos are left alone: on cameras and points made up here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mumdata.covisibility import Pairs, covisibility, overlaps
from mumdata.geometry import axis_cos, rotation_cos, rotation_from_quaternion
from mumdata.mining.copies import copies


class World:
    """Points in a ball about the origin; a frame sees those in front of it within its field of view, less a few."""

    def __init__(self, seed: int = 0, num_points: int = 1500) -> None:
        self.random = np.random.default_rng(seed)
        self.points = self.random.normal(size=(num_points, 3))
        self.cameras: list[np.ndarray] = []
        self.seen: list[np.ndarray] = []

    def shoot(self, centre: list[float], turn_deg: tuple[float, float] = (0.0, 0.0), field_deg: float = 50.0) -> int:
        """Add a camera that looks along +z from its centre, turned by pan and roll; return its position."""
        pan, roll = np.radians(turn_deg) / 2
        turns = rotation_from_quaternion(
            np.array([[math.cos(pan), 0, math.sin(pan), 0], [math.cos(roll), 0, 0, math.sin(roll)]])
        )
        rotation = turns[1] @ turns[0]
        self.cameras.append(np.column_stack([rotation, -rotation @ centre]))
        local = (self.points - centre) @ rotation.T
        inside = np.maximum(abs(local[:, 0]), abs(local[:, 1])) < local[:, 2] * math.tan(math.radians(field_deg) / 2)
        self.seen.append(np.flatnonzero(inside))
        return len(self.cameras) - 1

    def lose(self, frame: int, share: float) -> None:
        """Let a frame miss a share of its points, as another compression makes a detector miss them."""
        self.seen[frame] = self.seen[frame][self.random.random(len(self.seen[frame])) >= share]

    @property
    def cam_from_world(self) -> np.ndarray:
        return np.array(self.cameras)

    def pairs(self) -> Pairs:
        image_of = np.concatenate([np.full(len(seen), frame) for frame, seen in enumerate(self.seen)])
        pairs = covisibility(len(self.seen), image_of, np.concatenate(self.seen))
        cameras = self.cam_from_world
        centre = -np.einsum("nji,nj->ni", cameras[:, :, :3], cameras[:, :, 3])
        median = []
        for a, b in zip(pairs.a.tolist(), pairs.b.tolist(), strict=True):
            common = self.points[np.intersect1d(self.seen[a], self.seen[b])]
            x, y = common - centre[a], common - centre[b]
            cos = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
            median.append(min(1.0, float(np.median(cos))))
        angles = {name: of(cameras, pairs.a, pairs.b) for name, of in (("rotation", rotation_cos), ("axis", axis_cos))}
        return replace(
            pairs, triangulation_cos=np.array(median), rotation_cos=angles["rotation"], axis_cos=angles["axis"]
        )


def photos(seed: int = 0) -> World:
    """Twelve photos from different places, some degrees and more apart."""
    world = World(seed)
    for place in range(12):
        world.shoot([place * 0.4 - 2.0, 0.3 * (place % 3), -6.0], (place * 1.5, place * 4.0))
    return world


@pytest.mark.parametrize("known", ["triangulation", "centres"])
def test_copies_of_photos_are_found_whatever_their_detectors_missed(known: str) -> None:
    world = photos()
    renamed = world.shoot([0.4 * 3 - 2.0 + 0.004, 0.0, -6.003], (3 * 1.5 + 0.04, 12.03))
    edited = world.shoot([0.4 * 3 - 2.0 - 0.003, 0.002, -6.0], (3 * 1.5 - 0.03, 12.0))
    cropped = world.shoot([0.4 * 7 - 2.0, 0.3, -6.002], (7 * 1.5, 28.02), field_deg=18)
    exact = world.shoot([0.4 * 9 - 2.0, 0.0, -6.0], (9 * 1.5, 36.0))
    turned = world.shoot([0.4 * 10 - 2.0, 0.3, -6.0], (10 * 1.5 + 0.6, 40.0), field_deg=51)
    world.lose(renamed, 0.2)
    world.lose(3, 0.05)
    world.lose(edited, 0.3)
    world.lose(turned, 0.06)
    pairs = world.pairs()
    iou = overlaps(pairs)[2]
    at = {(a, b): row for row, (a, b) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))}
    assert iou[at[renamed, edited]] < 0.75
    assert iou[at[7, cropped]] < 0.5
    assert 0.9 < iou[at[10, turned]] < 0.95
    expected = np.full(len(world.seen), -1)
    expected[[renamed, edited, cropped, exact, turned]] = [3, 3, 7, 9, 10]
    cameras = world.cam_from_world
    if known == "triangulation":
        found = [copies(pairs, cameras), copies(pairs, None)]
    else:
        found = [copies(replace(pairs, triangulation_cos=None), cameras)]
        unknown = np.full(len(pairs.a), math.nan)
        found.append(copies(replace(pairs, triangulation_cos=unknown), cameras))
    for each in found:
        assert each.dtype == np.int32
        assert each.tolist() == expected.tolist()


def test_without_poses_or_rotations_nothing_is_a_copy() -> None:
    world = photos()
    world.shoot([0.4 * 3 - 2.0, 0.0, -6.0], (4.5, 12.0))
    pairs, cameras = world.pairs(), world.cam_from_world
    assert copies(pairs, cameras)[12] == 3
    lost = np.full_like(cameras, math.nan)
    for blind, poses in (
        (replace(pairs, rotation_cos=None), cameras),
        (replace(pairs, rotation_cos=np.full(len(pairs.a), math.nan)), cameras),
        (replace(pairs, triangulation_cos=None), None),
        (replace(pairs, triangulation_cos=None), lost),
    ):
        assert (copies(blind, poses) == -1).all()
    half = cameras.copy()
    half[5] = math.nan  # poses that are not known say nothing of the others
    assert copies(replace(pairs, triangulation_cos=None), half)[12] == 3
    empty = np.empty(0, dtype=np.int32)
    nothing = replace(covisibility(3, empty, empty), rotation_cos=np.empty(0))
    assert copies(nothing, None).tolist() == [-1, -1, -1]
    assert copies(covisibility(0, empty, empty), None).tolist() == []


@pytest.mark.parametrize("step_deg", [0.03, 0.1, 0.25, 0.6])
@pytest.mark.parametrize("known", ["triangulation", "centres"])
def test_a_slow_video_is_left_whole(step_deg: float, known: str) -> None:
    """On an arc about the points and along a line: neighbours share more than nine tenths of their points."""
    for arc in (True, False):
        world = World(1, num_points=300)
        for frame in range(max(24, math.ceil(3 / step_deg))):
            angle = math.radians(step_deg * frame)
            if arc:
                world.shoot([-6 * math.sin(angle), 0.0, -6 * math.cos(angle)], (-math.degrees(angle), 0.0))
            else:
                world.shoot([6 * angle, 0.0, -6.0])
        pairs = world.pairs()
        if known == "centres":
            pairs = replace(pairs, triangulation_cos=None)
        next_to = pairs.b == pairs.a + 1
        assert np.median(overlaps(pairs)[2][next_to]) > 0.9
        moved = world.cam_from_world  # where the world has its origin says nothing
        moved[:, :, 3] -= moved[:, :, :3] @ np.array([500.0, -300.0, 0.0])
        for cameras in (world.cam_from_world, moved):
            assert (copies(pairs, cameras) == -1).all()


def test_a_still_video_and_doubled_frames_are_copies() -> None:
    world = World(2)
    for frame in range(40):
        angle = math.radians(1.5 * (frame // 2))  # each frame twice
        world.shoot([6 * math.sin(angle), 0.0, -6 * math.cos(angle)], (math.degrees(angle), 0.0))
    found = copies(world.pairs(), world.cam_from_world)
    assert found[0::2].tolist() == [-1] * 20
    assert found[1::2].tolist() == list(range(0, 40, 2))
    still = World(3)
    for _ in range(10):
        still.shoot([0.001 * still.random.random(), 0.0, -6.0])
    assert np.count_nonzero(copies(still.pairs(), still.cam_from_world) == -1) == 1


def test_shots_from_one_place_are_not_copies() -> None:
    """A turn by half a degree or a little zoom: the same place, but not the same photo."""
    world = photos()
    other = world.shoot([0.4 * 3 - 2.0, 0.0, -6.0], (3 * 1.5 + 0.5, 12.0), field_deg=38)
    rolled = world.shoot([0.4 * 5 - 2.0, 0.6, -6.0], (5 * 1.5, 20.0 + 90.0))
    pairs = world.pairs()
    at = {(a, b): row for row, (a, b) in enumerate(zip(pairs.a.tolist(), pairs.b.tolist(), strict=True))}
    assert 0.5 < overlaps(pairs)[2][at[3, other]] < 0.9
    assert overlaps(pairs)[2][at[5, rolled]] > 0.9
    assert (copies(pairs, world.cam_from_world) == -1).all()


def test_of_many_copies_the_one_with_most_points_stays() -> None:
    world = photos(4)
    group = [4, *(world.shoot([0.4 * 4 - 2.0, 0.3, -6.0], (6.0, 16.0)) for _ in range(4))]
    for frame, share in zip(group, (0.2, 0.1, 0.0, 0.0, 0.3), strict=True):
        world.lose(frame, share)
    pairs, cameras = world.pairs(), world.cam_from_world
    found = copies(pairs, cameras)
    assert {frame: int(found[frame]) for frame in group} == {4: 13, 12: 13, 13: -1, 14: 13, 15: 13}
    # what cannot be used stands for nothing, and is no copy
    usable = np.ones(len(found), dtype=bool)
    usable[[13, 15]] = False
    found = copies(pairs, cameras, usable)
    assert {frame: int(found[frame]) for frame in group} == {4: 14, 12: 14, 13: -1, 14: -1, 15: -1}
    kept = found[found >= 0]
    assert (found[kept] == -1).all()


def test_sources_without_counts_keep_the_lower_position() -> None:
    world = photos(5)
    world.shoot([0.4 * 4 - 2.0, 0.3, -6.0], (6.0, 16.0))
    world.shoot([0.4 * 4 - 2.0, 0.3, -6.0], (6.0, 16.0))
    pairs = world.pairs()
    ab, ba, _ = overlaps(pairs)
    bare = replace(
        pairs,
        num_points=np.zeros_like(pairs.num_points),
        shared=None,
        overlap_ab=ab.astype(np.float32),
        overlap_ba=ba.astype(np.float32),
    )
    assert copies(bare, world.cam_from_world)[[4, 12, 13]].tolist() == [-1, 4, 4]
