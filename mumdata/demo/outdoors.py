"""The monuments of the demo world: a cathedral, a temple and a castle.

In: nothing but numbers written here and a seed for the trees. Out: places of solids in metres, z up, the monument
near the origin. All patterns have sizes that fit their walls.
"""

from __future__ import annotations

from mumdata import rng
from mumdata.demo.camera import circle, normalised
from mumdata.demo.render import Light, Place
from mumdata.demo.scenery import BARK, GREEN, houses, tree
from mumdata.demo.shapes import box, column, frustum, gable
from mumdata.demo.solids import Ellipsoid, Solid
from mumdata.demo.texture import Material, hues

__all__ = ["castle", "cathedral", "temple"]


def cathedral(seed: int) -> Place:
    """A cathedral with two towers, dome and apse, on a square with an obelisk, trees and coloured houses."""
    materials = {
        "paving": Material("paving", hues("9e9180 80756b"), (1.6, 1.6), 1, 0.25),
        "stone": Material("bricks", hues("d4c29e b8a380 80705c"), (1.4, 0.6), 2, 0.22),
        "nave": Material("windows", hues("d6c4a1 bda885 ede6cc 33426b"), (4.0, 5.5), 3, 0.2),
        "tower": Material("windows", hues("ccba99 b8a685 ebe0c7 292b3d"), (6.0, 6.0), 4, 0.2),
        "slate": Material("tiles", hues("4d5c6b 6b7a87"), (0.8, 0.7), 5),
        "copper": Material("stripes", hues("5c9e87 40786b"), (0.9, 0.0), 6),
        "door": Material("planks", hues("522914 734021"), (4.0, 0.35), 7),
        "rose": Material("poster", hues("242440 bf3333 3359bf e6bf4d"), (1.2, 1.2), 8),
        "granite": Material("plain", hues("ad8073 8c615c"), (0.8, 0.0), 9),
        "red": Material("windows", hues("b85c42 a34d38 e6decc 405261"), (3.2, 3.0), 10),
        "ochre": Material("windows", hues("e0b361 d1a152 f5f0e0 384754"), (3.2, 3.0), 11),
        "rosy": Material("windows", hues("d6998f c78a80 f2ebe0 334257"), (3.2, 3.0), 12),
        "clay": Material("tiles", hues("a85233 c77047"), (0.7, 0.6), 13),
        "awning": Material("stripes", hues("d92e29 f2ede0"), (0.5, 1.0), 14),
        "green": GREEN,
        "bark": BARK,
    }  # fmt: skip
    solids: list[Solid] = [
        box((0, 0), (220, 220), (-1, 0), "paving"),
        box((0, 3), (12, 28), (0, 12.0), "nave", "slate"),
        gable((0, 3), (28.6, 13), (12, 18), "slate", "stone", 1.0),
        box((0, 6), (24, 8.0), (0, 11), "nave", "slate"),
        gable((0, 6), (24.6, 9), (11, 16), "slate", "stone"),
        box((-8, -12), (6, 6), (0, 24), "tower"),
        box((8, -12), (6, 6), (0, 24), "tower"),
        frustum((-8, -12), (3.3, 0), (24, 34), "copper", 4),
        frustum((8, -12), (3.3, 0), (24, 34), "copper", 4),
        frustum((0, 6), (4.2, 4.2), (14, 20), "stone"),
        Ellipsoid((0, 6, 20), (4.4, 4.4, 4.6), "copper"),
        frustum((0, 6), (0.7, 0), (24.3, 29), "granite"),
        column((0, 17), 6.0, (0, 10), "nave"),
        Ellipsoid((0, 17, 10), (6.2, 6.2, 3.2), "slate"),
        box((0, -11.6), (9, 3), (0, 14), "stone"),
        gable((0, -11.6), (3.2, 9.4), (14, 18), "slate", "stone", 1.0),
        box((0, -13.2), (3.4, 0.5), (0, 5), "door"),
        box((0, -13.2), (4.8, 0.4), (7.5, 12.3), "rose"),
        box((0, -14.2), (13, 3), (0, 0.4), "granite"),
        box((-3.2, -13.9), (0.9, 0.9), (0.4, 6.4), "stone"),
        box((3.2, -13.9), (0.9, 0.9), (0.4, 6.4), "stone"),
        gable((0, -13.9), (1.2, 8.0), (6.4, 8.4), "slate", "stone", 1.0),
        box((6, -26), (3, 3), (0, 1.2), "granite"),
        frustum((6, -26), (0.9, 0.55), (1.2, 10), "granite", 4, yaw=0.125),
        frustum((6, -26), (0.55, 0), (10, 11), "copper", 4, yaw=0.125),
        box((-16, -22), (4, 3), (0, 2.2), "door", yaw=0.3),
        gable((-16, -22), (4.8, 4.2), (2.2, 3.6), "awning", "awning", 0.3),
        box((17, -17), (3.4, 2.6), (0, 2.1), "door", yaw=-0.25),
        gable((17, -17), (4.2, 3.8), (2.1, 3.3), "awning", "awning", -0.25),
    ]
    for at, height in (((-18, -6), 8), ((18, 4), 9), ((-17, 14), 10), ((15, 22), 8.5), ((-9, 29), 9), ((-15, -33), 7)):
        solids += tree(at, height, "green")
    solids += houses(seed, 19, 62.0, ["red", "ochre", "rosy"], "clay", (0.72, 0.77))
    lights = (
        Light(normalised((-0.55, -0.7, 0.75)), (0.78, 0.74, 0.66), (0.38, 0.4, 0.46)),
        Light(normalised((0.7, -0.35, 0.55)), (0.82, 0.7, 0.54), (0.36, 0.37, 0.44), clouds=70),
        Light(normalised((-0.2, 0.6, 0.8)), (0.55, 0.56, 0.58), (0.52, 0.53, 0.56), (0.66, 0.7, 0.76), clouds=80),
    )
    return Place(tuple(solids), materials, lights)


def temple(seed: int) -> Place:
    """A ruined temple on a dry hill: steps, columns with some broken, inner hall, olive trees, blue hills."""
    materials = {
        "earth": Material("grass", hues("b89961 8c8542 d9664d"), (1, 1), 31, 0.5),
        "step": Material("bricks", hues("e6d9bd ccbd9e 998a73"), (2.2, 0.55), 32),
        "fluted": Material("stripes", hues("ede0c4 a89980"), (0.42, 0.0), 33, 0.15),
        "block": Material("bricks", hues("ebdec2 d1c2a3 9e8f78"), (1.8, 0.8), 34, 0.22),
        "frieze": Material("stripes", hues("e0d1b3 855742"), (0.7, 1.0), 35),
        "inner": Material("poster", hues("c78057 994733 e0b873 596b7a"), (2.4, 2.0), 36),
        "roof": Material("tiles", hues("c28057 db9e70"), (0.9, 0.8), 37),
        "olive": Material("leaves", hues("4d5738 99a173"), (0.9, 0.0), 38),
        "cypress": Material("leaves", hues("142e17 385c29"), (0.7, 0.0), 39),
        "hill": Material("grass", hues("808561 9e8f66"), (1, 1), 40),
        "bark": BARK,
    }  # fmt: skip
    solids: list[Solid] = [
        box((0, 0), (160, 160), (-1, 0), "earth"),
        box((0, 0), (22.0, 34.0), (0, 0.55), "step"),
        box((0, 0), (20.4, 32.4), (0.55, 1.1), "step"),
        box((0, 0), (18.8, 30.8), (1.1, 1.65), "step"),
        box((0, 1), (9, 18), (1.65, 8.0), "block"),
        box((0, -8.2), (3.2, 0.6), (1.65, 6.5), "inner"),
        box((0, 10.2), (5.0, 0.5), (2.2, 7.0), "inner"),
        box((4.6, 1), (0.4, 12), (3.2, 6.6), "inner"),
        box((-4.6, 1), (0.4, 12), (3.2, 6.6), "inner"),
        box((0, -2.0), (17.2, 25.0), (9.6, 10.5), "block"),
        box((0, -2.0), (17.5, 25.3), (10.5, 11.6), "frieze"),
        gable((0, -2.0), (25.8, 18.2), (11.6, 15.2), "roof", "frieze", 1.0),
    ]
    for i in range(5):
        x = -7.6 + 3.8 * i
        solids.append(column((x, -13.6), 0.85, (1.65, 9.0), "fluted"))
        solids.append(box((x, -13.6), (2.1, 2.1), (9.0, 9.6), "block"))
        if i not in (1, 3):
            solids.append(column((x, 13.4), 0.85, (1.65, 4.2 + 0.9 * i), "fluted"))
    for i in range(4):
        y = -8.6 + 4.9 * i
        for x in (-7.6, 7.6):
            solids.append(column((x, y), 0.85, (1.65, 9.6), "fluted"))
    solids += [
        box((13.5, -17.0), (1.9, 1.7), (0, 1.5), "block", yaw=0.3),
        box((-14.0, -12.0), (2.4, 1.4), (0, 1.1), "block", yaw=-0.6),
        column((15.5, 4.0), 0.9, (0, 1.7), "fluted"),
        column((-15.0, 9.0), 0.9, (0, 2.6), "fluted"),
        box((9.0, 20.5), (2.6, 1.6), (0, 1.3), "frieze", yaw=0.5),
        frustum((-11.5, -21.0), (1.3, 1.0), (0, 3.0), "step", 6),
        Ellipsoid((-11.5, -21.0, 3.8), (0.9, 0.9, 1.1), "block"),
    ]
    for at, height in (((19, -13), 5), ((-20, -4), 5.5), ((20, 15), 6), ((-18, 22), 5), ((4, 27), 5.5)):
        solids += tree(at, height, "olive", 1.35)
    for x, y in ((-24, -18), (26, 3), (-25, 13), (14, -27), (-6, 33)):
        solids.append(Ellipsoid((x, y, 5.5), (1.3, 1.3, 5.6), "cypress"))
    for i in range(9):
        x, y = circle(i / 9 + 0.03)
        wide = 26.0 + 3.0 * float(rng.below(rng.words(rng.key(seed, "demo", "hills"), 1, i), 5)[0])
        solids.append(Ellipsoid((x * 105, y * 105, -3), (wide, wide * 0.9, 9.0 + 0.4 * wide), "hill"))
    lights = (
        Light(normalised((0.6, -0.6, 0.7)), (0.85, 0.76, 0.62), (0.36, 0.4, 0.48), (0.2, 0.42, 0.8), haze=150),
        Light(
            normalised((-0.8, -0.3, 0.4)),
            (0.95, 0.66, 0.42),
            (0.34, 0.34, 0.44),
            (0.42, 0.5, 0.75),
            (0.98, 0.82, 0.66),
            110,
        ),
        Light(
            normalised((0.2, 0.55, 0.9)), (0.75, 0.74, 0.7), (0.42, 0.45, 0.5), (0.25, 0.5, 0.85), clouds=90, haze=180
        ),
    )
    return Place(tuple(solids), materials, lights)


def castle(seed: int) -> Place:
    """A castle of grey stone with red cone roofs above a meadow with autumn trees and a moat."""
    materials = {
        "meadow": Material("grass", hues("577529 808c38 f2e699"), (1, 1), 51, 0.5),
        "water": Material("plain", hues("335266 527585"), (1.5, 0.0), 52, 0.15),
        "wall": Material("bricks", hues("c7bfae 8f8c86 5a5751"), (1.3, 0.7), 53, 0.28),
        "keep": Material("windows", hues("b8b3a8 99948c 736e6b 1a1a21"), (4.5, 4.6), 54, 0.2),
        "cone": Material("tiles", hues("8c2921 b34233"), (0.7, 0.8), 55),
        "wood": Material("planks", hues("593b21 7a5433"), (3.0, 0.3), 56),
        "banner": Material("stripes", hues("e6bf26 264099"), (0.6, 1.0), 57),
        "autumn": Material("leaves", hues("8c400f e69424"), (1.0, 0.0), 58),
        "fir": Material("leaves", hues("1a331f 3d6133"), (0.9, 0.0), 59),
        "path": Material("bricks", hues("a89980 8f806b 6b614d"), (0.7, 0.5), 60),
        "mountain": Material("plain", hues("6b7585 ccd1db"), (20.0, 0.0), 61),
        "bark": BARK,
    }  # fmt: skip
    solids: list[Solid] = [
        box((0, 0), (160, 160), (-1, 0), "meadow"),
        box((0, 0), (36, 32), (-0.4, 0.12), "water"),
        box((0, 0), (30, 26), (0, 0.8), "path"),
        box((0, -11), (22, 2), (0, 7), "wall"),
        box((0, 11), (22, 2), (0, 7), "wall"),
        box((-12, 0), (2, 20), (0, 7.5), "wall"),
        box((12, 0), (2, 20), (0, 7.5), "wall"),
        box((0, -11.4), (6.4, 4.4), (0, 10), "wall"),
        gable((0, -11.4), (6.8, 5.0), (10, 13.4), "cone", "wall"),
        box((0, -13.7), (2.8, 0.3), (0.8, 4.8), "wood"),
        box((0, -18), (3.4, 8.6), (0.2, 0.9), "wood"),
        box((-2.4, -13.75), (1.2, 0.2), (4.6, 8.6), "banner"),
        box((2.4, -13.75), (1.2, 0.2), (4.6, 8.6), "banner"),
        box((2, 3), (9, 9), (0, 18.4), "keep"),
        frustum((2, 3), (5.2, 0.6), (18.4, 26), "cone", 4),
        box((-6, 5), (6, 9), (0, 11.5), "keep"),
        gable((-6, 5), (9.4, 6.8), (11.5, 15.5), "cone", "keep", 1.0),
        column((8.6, -2.2), 1.7, (0, 21), "wall"),
        frustum((8.6, -2.2), (2.1, 0), (21, 28), "cone"),
    ]
    for x, y, top in ((-12.0, -11.0, 11.5), (12.0, -11.0, 13.0), (-12.0, 11.0, 14.0), (12.0, 11.0, 11.0)):
        solids.append(column((x, y), 2.9, (0, top), "wall"))
        solids.append(column((x, y), 3.2, (top - 1.4, top), "wall"))
        solids.append(frustum((x, y), (3.4, 0), (top, top + 6.5), "cone"))
    for i in range(6):
        for y in (-11.0, 11.0):
            solids.append(box((-8.5 + 3.4 * i, y + (0.7 if y > 0 else -0.7)), (1.4, 0.6), (7, 8.1), "wall"))
    draws = rng.unit(rng.words(rng.key(seed, "demo", "wood"), 60))
    for i in range(15):
        x, y = circle(i / 15 + 0.02)
        far = 29.0 + 12.0 * float(draws[4 * i])
        height = 6.0 + 4.0 * float(draws[4 * i + 1])
        if i % 3 == 1:
            solids.append(frustum((x * far, y * far), (0.24 * height, 0), (0.8, 1.5 * height), "fir", 6))
        elif i % 15 not in (11, 12):
            solids += tree((x * far, y * far), height, "autumn")
    for i in range(10):
        x, y = circle(i / 10 + 0.05)
        tall = 14.0 + 16.0 * float(draws[4 * i + 2])
        solids.append(frustum((x * 120, y * 120), (44, 2), (-2, tall), "mountain", 6))
    lights = (
        Light(normalised((-0.5, -0.75, 0.65)), (0.8, 0.75, 0.64), (0.38, 0.41, 0.48), haze=160),
        Light(
            normalised((0.75, -0.4, 0.45)),
            (0.88, 0.68, 0.46),
            (0.34, 0.36, 0.44),
            (0.45, 0.55, 0.8),
            (0.96, 0.86, 0.74),
            150,
            clouds=75,
        ),
        Light(
            normalised((0.1, 0.5, 0.85)),
            (0.34, 0.35, 0.37),
            (0.62, 0.63, 0.66),
            (0.72, 0.74, 0.78),
            (0.86, 0.87, 0.88),
            90,
            clouds=85,
        ),
    )
    return Place(tuple(solids), materials, lights)
