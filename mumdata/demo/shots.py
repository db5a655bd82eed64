"""Where the demo world's cameras stand: tourists around a monument, a video through a room, single objects.

In: a place, a key for the random draws, sizes. Out: shots, each a camera with its light and exposure, none of them
inside a solid or with its nose against a wall.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mumdata import rng
from mumdata.demo.camera import Camera, Gauge, Vector, circle, look_at, matmul, rays, turn
from mumdata.demo.render import Place
from mumdata.demo.solids import inside, nearest
from mumdata.demo.texture import Colour

__all__ = ["Shot", "Walk", "around_object", "gauge", "same_view_gauge", "tourists", "video"]

_ATTEMPTS = 40


@dataclass(frozen=True)
class Shot:
    """A photo to be taken: camera, number of the place's light, gains of red, green and blue."""

    camera: Camera
    light: int = 0
    gain: Colour = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Walk:
    """Part of the way around a monument: turns and distances between which people stand, and what they look at.

    Each third viewpoint is an overview of the first target, each third one nearer, each third a detail.
    """

    turns: tuple[float, float]
    reach: tuple[float, float]
    targets: tuple[Vector, ...]
    heights: tuple[float, float] = (1.5, 4.0)
    centre: Vector = (0.0, 0.0, 0.0)
    clearance: float = 5.0  # metres that must be free along the optical axis
    radial: float = 0.0  # strongest lens distortion
    outward: bool = False  # look from one side of the centre to the other, as in a room


def _draws(key: int) -> Iterator[float]:
    start = 0
    while True:
        yield from (float(x) for x in rng.unit(rng.words(key, 64, start)))
        start += 64


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _free(place: Place, camera: Camera, clearance: float) -> bool:
    """Tell whether nothing stands close before the middle, and little before the rest of the picture."""
    if inside(place.solids, camera.centre, 0.25):
        return False
    steps = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    xs, ys = np.tile(steps * camera.width, 5), np.repeat(steps * camera.height, 5)
    t, which, _ = nearest(place.solids, camera.centre, rays(camera, xs, ys))
    near = t < 0.6 * clearance
    return bool(t[12] > clearance and int(near.sum()) <= 2 and int((which < 0).sum()) <= 15)


def tourists(
    place: Place, key: int, num: int, walk: Walk, sizes: Sequence[tuple[int, int]], per_spot: int = 4
) -> list[Shot]:
    """Take `num` photos from num / per_spot viewpoints; those of one viewpoint differ by steps, lens, roll and time.

    One photo in thirteen is held upright though stored lying (or the other way round): a roll of a quarter turn.
    """
    shots: list[Shot] = []
    draw = _draws(key)
    num_spots = -(-num // per_spot)
    for number in range(num):
        spot, member = divmod(number, per_spot)
        kind = spot % 3
        for attempt in range(_ATTEMPTS):
            slack = 1.0 + 0.06 * attempt
            spot_draw = _draws(rng.key(key, "spot", spot, attempt // 4))
            turns = _between(*walk.turns, (spot + 0.2 + 0.6 * next(spot_draw)) / num_spots)
            far = _between(*walk.reach, (0.75, 0.4, 0.05)[kind] + 0.25 * next(spot_draw))
            pick = int(next(spot_draw) * len(walk.targets))
            target = walk.targets[0 if kind == 0 else pick]
            x, y = circle(turns + 0.012 * slack * (next(draw) - 0.5))
            far = far * (1.0 + 0.1 * slack * (next(draw) - 0.5))
            level = _between(*walk.heights, next(draw) * next(spot_draw))
            position = (walk.centre[0] + x * far, walk.centre[1] + y * far, walk.centre[2] + level)
            aim = 0.05 * far
            if walk.outward:
                target = (2.0 * walk.centre[0] - position[0], 2.0 * walk.centre[1] - position[1], target[2])
                aim = 0.4 * far
            goal = (
                target[0] + aim * slack * (next(draw) - 0.5),
                target[1] + aim * slack * (next(draw) - 0.5),
                target[2] + 0.5 * aim * (next(draw) - 0.5),
            )
            width, height = sizes[(number + spot) % len(sizes)]
            focal = (0.85, 0.95, 1.25)[kind] * max(width, height) * (0.9 + 0.25 * next(draw))
            focal = int(focal * 64.0 + 0.5) / 64.0
            roll = 0.16 * (next(draw) - 0.5)
            if number % 13 == 7:
                roll += 1.0 if next(draw) < 0.5 else -1.0
            radial = int(walk.radial * (1.6 * next(draw) - 1.0) * 4096.0) / 4096.0
            camera = Camera(
                width, height, focal, width / 2, height / 2, look_at(position, goal, roll), position, radial
            )
            if _free(place, camera, walk.clearance):
                break
        else:
            raise RuntimeError(f"no free viewpoint for photo {number} of key {key}: the walk leads through solids")
        tint = 1.0 + 0.12 * (next(draw) - 0.5)
        level = 0.92 + 0.2 * next(draw)
        light = (spot * 2 + member) % len(place.lights)
        shots.append(Shot(camera, light, (level * tint, level, level * (2.0 - tint))))
    return shots


def _spline(knots: Sequence[Vector], share: float) -> Vector:
    """Return the point of a Catmull-Rom curve through the knots, share in 0 .. 1."""
    at = share * (len(knots) - 1)
    i = min(int(at), len(knots) - 2)
    t = at - i
    a, b, c, d = (knots[max(0, min(len(knots) - 1, i + k))] for k in (-1, 0, 1, 2))
    x, y, z = (
        0.5
        * (2.0 * q + (r - p) * t + (2.0 * p - 5.0 * q + 4.0 * r - s) * t * t + (3.0 * q - p - 3.0 * r + s) * t * t * t)
        for p, q, r, s in zip(a, b, c, d, strict=True)
    )
    return x, y, z


def video(
    num: int, size: tuple[int, int], focal: float, positions: Sequence[Vector], targets: Sequence[Vector]
) -> list[Shot]:
    """Film `num` frames along a smooth path, looking at a point that moves along another; a slight sway for a hand."""
    shots = []
    for number in range(num):
        share = number / (num - 1)
        position, target = _spline(positions, share), _spline(targets, share)
        wave = share * 6.0 - int(share * 6.0) - 0.5
        roll = 0.03 * wave * (0.25 - wave * wave) * (1.0 if int(share * 6.0) % 2 else -1.0) * 8.0
        width, height = size
        camera = Camera(width, height, focal, width / 2, height / 2, look_at(position, target, roll), position)
        shots.append(Shot(camera))
    return shots


def around_object(place: Place, key: int, long_side: int) -> Shot:
    """Take one photo of what stands at the origin, about 2 m large, from a random side."""
    draw = _draws(key)
    for _ in range(_ATTEMPTS):
        x, y = circle(next(draw))
        far, level = _between(2.6, 4.8, next(draw)), _between(0.35, 2.2, next(draw))
        short = int(long_side * _between(0.66, 0.95, next(draw))) // 2 * 2
        width, height = (long_side, short) if next(draw) < 0.7 else (short, long_side)
        target = (0.5 * (next(draw) - 0.5), 0.5 * (next(draw) - 0.5), 0.55 + 0.4 * next(draw))
        position = (x * far, y * far, level)
        rotation = look_at(position, target, 0.16 * (next(draw) - 0.5))
        camera = Camera(width, height, 1.1 * long_side, width / 2, height / 2, rotation, position)
        gain = 0.92 + 0.2 * next(draw)
        if _free(place, replace(camera, focal=2.0 * camera.focal), 1.2):
            return Shot(camera, 0, (gain, gain, gain))
    raise RuntimeError(f"no free viewpoint for the object photo of key {key}")


def gauge(key: int) -> Gauge:
    """Draw the arbitrary scale, turn and origin of one reconstruction."""
    draw = _draws(key)
    a, b = turn(next(draw) - 0.5), turn(next(draw) - 0.5)
    c = turn(0.6 * next(draw) - 0.3)
    about_x = (1.0, 0.0, 0.0, 0.0, a[0], -a[1], 0.0, a[1], a[0])
    about_y = (b[0], 0.0, b[1], 0.0, 1.0, 0.0, -b[1], 0.0, b[0])
    about_z = (c[0], -c[1], 0.0, c[1], c[0], 0.0, 0.0, 0.0, 1.0)
    shift = (4.0 * next(draw) - 2.0, 4.0 * next(draw) - 2.0, 4.0 * next(draw) - 2.0)
    return Gauge(0.1 + 0.25 * next(draw), matmul(about_x, matmul(about_y, about_z)), shift)


def same_view_gauge(first: Camera, scale: float) -> Gauge:
    """Return the gauge in which the first camera of a video is the origin and looks along z."""
    r, (x, y, z) = first.rotation, first.centre
    shift = tuple(-scale * (r[i] * x + r[i + 1] * y + r[i + 2] * z) for i in (0, 3, 6))
    return Gauge(scale, r, (shift[0], shift[1], shift[2]))
