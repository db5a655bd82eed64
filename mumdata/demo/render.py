"""Rendering: what a camera sees of a place, and which points it sees.

In: a place (solids, materials, light) and cameras. Out: pictures (uint8 RGB), depth maps (along the optical axis, 0 for
the sky) and exact visibility, in an order of operations that never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mumdata.demo.camera import Camera, Vector, normalised, project, rays
from mumdata.demo.noise import fractal
from mumdata.demo.solids import Convex, Cylinder, Solid, Triple, Vectors, nearest, occluded
from mumdata.demo.texture import Colour, Material, Surface, colour_of

__all__ = ["Light", "Place", "depth_map", "look_along", "object_mask", "picture", "sees", "shade"]

TOLERANCE = 1e-6  # a point is seen where the nearest hit is this near to it, as a share of its distance
_BLOCK = 32768  # rays worked on at a time: their arrays stay in the processor's cache


@dataclass(frozen=True)
class Light:
    """One sun or one lamp, and what the rest of the sky gives."""

    sun: Vector  # direction to the sun, or position of the lamp
    strength: Colour
    ambient: Colour
    zenith: Colour = (0.35, 0.55, 0.85)
    horizon: Colour = (0.85, 0.9, 0.95)
    haze: float = 120.0  # metres at which half of a surface's colour is gone; 0 indoors
    lamp: bool = False
    clouds: int = 0


@dataclass(frozen=True)
class Place:
    """Solids in metres with z up, the materials they name, and the lights that photos can be taken under."""

    solids: tuple[Solid, ...]
    materials: Mapping[str, Material]
    lights: tuple[Light, ...]


def _material_name(solid: Solid, face: int) -> str:
    return solid.materials[face] if isinstance(solid, Convex) else solid.material


def _face_axes(normal: Vector, axis: tuple[float, float]) -> tuple[Vector, Vector]:
    """Return the directions of u (level) and v (up the slope) on a flat face."""
    if abs(normal[2]) > 0.99:
        return (axis[0], axis[1], 0.0), (-axis[1], axis[0], 0.0)
    u = normalised((-normal[1], normal[0], 0.0))
    v = (normal[1] * u[2] - normal[2] * u[1], normal[2] * u[0] - normal[0] * u[2], normal[0] * u[1] - normal[1] * u[0])
    return u, v


def _around(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a number in -2 .. 2 that grows with the angle of (x, y): the way round a square, for want of arctan."""
    total = np.abs(x) + np.abs(y)
    slope = y / np.where(total > 0.0, total, 1.0)
    return np.where(x >= 0.0, slope, np.where(y >= 0.0, 2.0 - slope, -2.0 - slope))


def _chart(solid: Solid, face: int, p: Triple) -> tuple[Triple, np.ndarray, np.ndarray]:
    """Return the outward normal, u and v of points p [n] x 3 given relative to the solid's anchor."""
    x, y, z = p
    if isinstance(solid, Convex):
        a, b, c, _ = solid.planes[face]
        (ux, uy, uz), (vx, vy, vz) = _face_axes((a, b, c), solid.axis)
        sign = -1.0 if solid.hollow else 1.0
        one = np.full(x.shape, sign)
        return (a * one, b * one, c * one), ux * x + uy * y + uz * z, vx * x + vy * y + vz * z
    if isinstance(solid, Cylinder):
        if face:
            zero = np.zeros(x.shape)
            return (zero, zero, zero + (1.0 if face == 1 else -1.0)), x, y
        radius = solid.thickness
        return (x / radius, y / radius, np.zeros(x.shape)), _around(x, y) * (1.5707963 * radius), z
    rx, ry, rz = solid.radii
    nx, ny, nz = x / (rx * rx), y / (ry * ry), z / (rz * rz)
    length = np.sqrt(nx * nx + ny * ny + nz * nz)
    return (nx / length, ny / length, nz / length), _around(x, y) * rx, z


def shade(
    place: Place, light: Light, pixel: float, o: Vectors, d: Triple, t: np.ndarray, which: np.ndarray, face: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return red, green and blue, float32 [n] each, of rays that hit `face` of solid `which` at `t`.

    `pixel` is the width of a sample at distance 1.
    """
    out = np.zeros((3, t.size), dtype=np.float32)
    x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
    dd = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    normal = np.zeros((3, t.size))
    combined = which.astype(np.int32) * 32 + face
    for code in np.unique(combined):
        rows = np.flatnonzero(combined == code)
        solid, its_face = place.solids[code // 32], int(code % 32)
        anchor = solid.anchor
        p = (x[rows] - anchor[0], y[rows] - anchor[1], z[rows] - anchor[2])
        n, u, v = _chart(solid, its_face, p)
        facing = -(n[0] * d[0][rows] + n[1] * d[1][rows] + n[2] * d[2][rows]) / dd[rows]
        footprint = t[rows] * pixel / np.maximum(facing, 0.2)
        single = [a.astype(np.float32) for a in (u, v, *p, footprint)]
        surface = Surface(single[0], single[1], (single[2], single[3], single[4]), single[5])
        for channel, values in enumerate(colour_of(surface, place.materials[_material_name(solid, its_face)])):
            out[channel, rows] = values
        for i in range(3):
            normal[i, rows] = n[i]
    lift = 1e-4  # metres off the surface, so that it does not shade itself
    start = tuple(a + lift * n for a, n in zip((x, y, z), normal, strict=True))
    if light.lamp:
        to_lamp = [light.sun[i] - start[i] for i in range(3)]
        square = to_lamp[0] * to_lamp[0] + to_lamp[1] * to_lamp[1] + to_lamp[2] * to_lamp[2]
        slope = (normal[0] * to_lamp[0] + normal[1] * to_lamp[1] + normal[2] * to_lamp[2]) / np.sqrt(square)
        slope = slope * (14.0 / (6.0 + square))
        lit = np.flatnonzero(slope > 0.0)
        # from the lamp to the surface: one origin for all rays is less work
        away = (-to_lamp[0][lit], -to_lamp[1][lit], -to_lamp[2][lit])
        dark = occluded(place.solids, light.sun, away, 1.0)
    else:
        slope = normal[0] * light.sun[0] + normal[1] * light.sun[1] + normal[2] * light.sun[2]
        lit = np.flatnonzero(slope > 0.0)
        dark = occluded(place.solids, (start[0][lit], start[1][lit], start[2][lit]), light.sun, np.inf)
    direct = np.zeros(t.size)
    direct[lit] = np.where(dark, 0.0, slope[lit])
    sky = 0.78 + 0.22 * normal[2]
    veil = 0.0 if light.haze == 0.0 else (t * dd / light.haze) * (t * dd / light.haze)
    for channel in range(3):
        colour = out[channel] * (light.ambient[channel] * sky + light.strength[channel] * direct)
        out[channel] = (colour + light.horizon[channel] * veil) / (1.0 + veil)
    return out[0], out[1], out[2]


def _sky(light: Light, d: Triple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    length = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    up = np.maximum(d[2] / length, 0.0)
    rise = up * (2.0 - up)
    flat = 1.0 / (up + 0.12)
    u, v = (d[0] / length * flat).astype(np.float32), (d[1] / length * flat).astype(np.float32)
    cloud = np.clip(2.6 * fractal(u, v, light.clouds, np.full(u.shape, 0.02, np.float32), 1.4, 5) - 0.05, 0.0, 0.9)
    cloud = cloud * np.minimum(up * 6.0, 1.0)
    r, g, b = (
        (low + (high - low) * rise) * (1.0 - cloud) + 0.97 * cloud
        for low, high in zip(light.horizon, light.zenith, strict=True)
    )
    return r, g, b


def look_along(place: Place, light: Light, pixel: float, o: Vector, d: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Return colours [3, n] in about 0 .. 1 and t [n] (inf for the sky) of rays from `o` along `d`."""
    colours = np.zeros((3, d[0].size), dtype=np.float32)
    depth = np.zeros(d[0].size)
    for first in range(0, d[0].size, _BLOCK):
        part = slice(first, first + _BLOCK)
        rays_here = (d[0][part], d[1][part], d[2][part])
        t, which, face = nearest(place.solids, o, rays_here)
        depth[part] = t
        for hit in (True, False):
            rows = np.flatnonzero((which >= 0) == hit)
            if rows.size == 0:
                continue
            dx, dy, dz = rays_here
            directions = (dx[rows], dy[rows], dz[rows])
            if hit:
                values = shade(place, light, pixel, o, directions, t[rows], which[rows], face[rows])
            else:
                values = _sky(light, directions)
            for channel in range(3):
                colours[channel, first + rows] = values[channel]
    return colours, depth


def picture(
    place: Place, camera: Camera, light: int = 0, gain: Colour = (1.0, 1.0, 1.0), samples: int = 2
) -> np.ndarray:
    """Render a photo, uint8 [height, width, 3] in RGB: the mean of samples x samples rays a pixel.

    `gain` is the exposure and white balance of this photo.
    """
    num = camera.height * camera.width
    columns = np.tile(np.arange(camera.width, dtype=np.float64), camera.height)
    rows = np.repeat(np.arange(camera.height, dtype=np.float64), camera.width)
    step = 1.0 / samples
    shifts = [(i + 0.5) * step for i in range(samples)]
    xs = np.concatenate([columns + shift for _ in shifts for shift in shifts])
    ys = np.concatenate([rows + shift for shift in shifts for _ in shifts])
    d = rays(camera, xs, ys)
    colours, _ = look_along(place, place.lights[light], step / camera.focal, camera.centre, d)
    colours = np.minimum(colours * np.array(gain, dtype=np.float32)[:, None], np.float32(1.0))
    # a film's curve: shadows are lifted, lights kept
    colours = colours * (np.float32(1.42) - np.float32(0.42) * colours)
    total = colours[:, :num].copy()
    for first in range(num, samples * samples * num, num):
        total += colours[:, first : first + num]
    values = np.clip(total * np.float32(255.0 / (samples * samples)) + np.float32(0.5), 0.0, 255.0).astype(np.uint8)
    return np.ascontiguousarray(values.reshape(3, camera.height, camera.width).transpose(1, 2, 0))


def depth_map(place: Place, camera: Camera) -> np.ndarray:
    """Render the depth along the optical axis at the pixels' centres, float32 [height, width], 0 for the sky."""
    columns = np.tile(np.arange(camera.width, dtype=np.float64), camera.height)
    rows = np.repeat(np.arange(camera.height, dtype=np.float64), camera.width)
    t, _, _ = nearest(place.solids, camera.centre, rays(camera, columns + 0.5, rows + 0.5))
    return np.where(np.isfinite(t), t, 0.0).astype(np.float32).reshape(camera.height, camera.width)


def object_mask(place: Place, camera: Camera) -> np.ndarray:
    """Render the mask of what stands at the origin, bool [height, width]: within 1.5 m of it and above the ground."""
    columns = np.tile(np.arange(camera.width, dtype=np.float64), camera.height)
    rows = np.repeat(np.arange(camera.height, dtype=np.float64), camera.width)
    d = rays(camera, columns + 0.5, rows + 0.5)
    t, _, _ = nearest(place.solids, camera.centre, d)
    far = np.where(np.isfinite(t), t, 1e9)
    x, y, z = (centre + far * part for centre, part in zip(camera.centre, d, strict=True))
    return ((x * x + y * y < 2.25) & (z > 0.01) & np.isfinite(t)).reshape(camera.height, camera.width)


def sees(place: Place, camera: Camera, xyz: np.ndarray) -> np.ndarray:
    """Return which of the points [P, 3] on surfaces the camera sees, bool [P].

    Seen means: projected inside the picture, and the nearest hit of the ray towards the point is the point itself.
    """
    x, y, depth = project(camera, xyz)
    seen = (depth > 0.0) & (x >= 0.0) & (x < camera.width) & (y >= 0.0) & (y < camera.height)
    rows = np.flatnonzero(seen)
    c = camera.centre
    t, _, _ = nearest(place.solids, c, (xyz[rows, 0] - c[0], xyz[rows, 1] - c[1], xyz[rows, 2] - c[2]))
    seen[rows] = np.abs(t - 1.0) <= TOLERANCE
    return seen
