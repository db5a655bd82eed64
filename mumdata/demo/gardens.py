"""The gardens of the demo world: a pagoda among cherry trees and a villa with a pool.

In: nothing but numbers written here and a seed for the trees. Out: places of solids in metres, z up, the monument
near the origin. All patterns have sizes that fit their walls.
"""

from __future__ import annotations

from mumdata import rng
from mumdata.demo.camera import circle, normalised
from mumdata.demo.render import Light, Place
from mumdata.demo.scenery import BARK, tree
from mumdata.demo.shapes import box, column, frustum, gable
from mumdata.demo.solids import Ellipsoid, Solid
from mumdata.demo.texture import Material, hues

__all__ = ["pagoda", "villa"]


def pagoda(seed: int) -> Place:
    """A red pagoda of four storeys in a garden of cherry trees with a pond, lanterns and a bridge."""
    materials = {
        "gravel": Material("plain", hues("ccc4b3 a8a191"), (0.5, 0.0), 71, 0.5),
        "moss": Material("grass", hues("4d702e 758f3d fabfd1"), (1, 1), 72, 0.5),
        "pond": Material("plain", hues("295757 4d807a"), (1.2, 0.0), 73, 0.2),
        "red": Material("windows", hues("c2291f a81f17 f2e0b3 4d3326"), (2.0, 2.4), 74, 0.15),
        "roof": Material("tiles", hues("2e4247 4d6666"), (0.45, 0.5), 75),
        "eave": Material("stripes", hues("cc3324 f2d980"), (0.35, 1.0), 76),
        "gold": Material("plain", hues("f2c740 bf8c1f"), (0.4, 0.0), 77),
        "stone": Material("bricks", hues("9e9e99 80807a 5c5e57"), (0.9, 0.4), 78, 0.5),
        "blossom": Material("leaves", hues("d17394 ffccdb"), (0.8, 0.0), 79),
        "pine": Material("leaves", hues("143824 386b38"), (0.6, 0.0), 80),
        "planks": Material("planks", hues("b83324 d95233"), (1.5, 0.22), 81),
        "paper": Material("windows", hues("ede6cc e6dbbf 664229 bfb89e"), (1.1, 1.4), 82, 0.1),
        "fuji": Material("plain", hues("808cad e6ebf5"), (30.0, 0.0), 83),
        "bark": BARK,
    }  # fmt: skip
    solids: list[Solid] = [
        box((0, 0), (150, 150), (-1, 0), "moss"),
        box((0, 0), (17, 17), (-0.5, 0.15), "gravel"),
        box((0, -16), (4, 16), (-0.5, 0.12), "stone"),
        box((0, 0), (11, 11), (0, 1.2), "stone"),
        box((0, -6.4), (3, 2), (0, 0.7), "stone"),
    ]
    z, wide = 1.2, 8.0
    for _ in range(4):
        solids.append(box((0, 0), (wide, wide), (z, z + 3.0), "red"))
        solids.append(box((0, 0), (wide + 0.9, wide + 0.9), (z + 2.7, z + 3.0), "eave"))
        solids.append(frustum((0, 0), (wide / 2 + 2.0, wide / 2 - 0.9), (z + 3.0, z + 4.6), "roof", 4))
        z, wide = z + 4.5, wide - 1.3
    solids += [
        frustum((0, 0), (1.8, 0.3), (z, z + 1.6), "roof", 4),
        column((0, 0), 0.22, (z + 1.4, z + 6), "gold"),
        *(frustum((0, 0), (0.75 - 0.1 * i, 0.3), (z + 2.0 + i, z + 2.4 + i), "gold") for i in range(4)),
        Ellipsoid((13, -6, 0.0), (7.5, 6, 0.18), "pond"),
        Ellipsoid((13, -6, -1.2), (1.2, 7.2, 2.9), "planks"),
        Ellipsoid((15.5, -10.5, 0.2), (1.2, 0.9, 0.8), "stone"),
        Ellipsoid((8.4, -9.4, 0.1), (0.9, 1.1, 0.7), "stone"),
        box((-14, 4), (7.7, 5.5), (0, 2.8), "paper", yaw=0.15),
        gable((-14, 4), (9.2, 7.2), (2.8, 5.6), "roof", "paper", 0.15),
        box((0, -20), (0.6, 0.6), (0, 0.1), "stone"),
        column((-3.2, -21), 0.35, (0, 6.0), "planks"),
        column((3.2, -21), 0.35, (0, 6.0), "planks"),
        box((0, -21), (9.4, 0.6), (6.0, 6.7), "planks"),
        box((0, -21), (7.0, 0.4), (4.7, 5.2), "planks"),
    ]
    for x, y in ((-2.9, -11.0), (2.9, -11.0), (-2.9, -16.0), (2.9, -16.0), (7.0, 8.0)):
        solids += [
            column((x, y), 0.25, (0, 1.2), "stone"),
            frustum((x, y), (0.4, 0.5), (1.2, 1.9), "paper", 6),
            frustum((x, y), (0.8, 0.1), (1.9, 2.5), "stone", 6),
        ]
    draws = rng.unit(rng.words(rng.key(seed, "demo", "cherry"), 60))
    for i in range(11):
        x, y = circle(i / 11 + 0.06)
        far = 20.0 + 9.0 * float(draws[3 * i])
        if abs(x * far) < 5 and y < 0:
            continue
        height = 5.0 + 3.0 * float(draws[3 * i + 1])
        if i % 3:
            solids += tree((x * far, y * far), height, "blossom", 1.3)
        else:
            for k in range(3):
                middle = (x * far, y * far, 1.6 + 1.5 * k)
                solids.append(Ellipsoid(middle, (2.4 - 0.6 * k, 2.2 - 0.5 * k, 0.8), "pine"))
            solids.append(column((x * far, y * far), 0.25, (0, 5), "bark"))
    solids.append(frustum((-30, 130), (60, 6), (-2, 44), "fuji", 8))
    for i in range(9):
        x, y = circle(i / 9)
        solids.append(Ellipsoid((x * 95, y * 95, -2), (30, 30, 11 + 2.0 * (i % 3)), "pine"))
    lights = (
        Light(normalised((-0.6, -0.6, 0.7)), (0.76, 0.72, 0.66), (0.42, 0.44, 0.48), haze=120),
        Light(
            normalised((0.65, -0.5, 0.5)),
            (0.86, 0.68, 0.52),
            (0.38, 0.38, 0.46),
            (0.5, 0.58, 0.82),
            (1.0, 0.88, 0.82),
            110,
            clouds=95,
        ),
        Light(
            normalised((0.3, 0.6, 0.75)), (0.5, 0.52, 0.56), (0.54, 0.56, 0.58), (0.6, 0.72, 0.84), clouds=99, haze=100
        ),
    )
    return Place(tuple(solids), materials, lights)


def villa(seed: int) -> Place:
    """A white villa with glass fronts, a pool, loungers, palms and hedges."""
    materials = {
        "lawn": Material("grass", hues("4d8c33 6ba842"), (1, 1), 101, 0.4),
        "deck": Material("planks", hues("9e754d bd9166"), (3.0, 0.25), 102),
        "terrace": Material("paving", hues("dbd6cc c2bab0"), (1.2, 1.2), 103, 0.15),
        "water": Material("paving", hues("33a8c2 4dc2d6"), (0.5, 0.5), 104, 0.3),
        "white": Material("plain", hues("edebe6 dbd9d4"), (2.0, 0.0), 105, 0.12),
        "glass": Material("windows", hues("e6e3de e0ded9 333338 4d758c"), (2.6, 3.2), 106, 0.05),
        "slats": Material("planks", hues("804d2b a36b40"), (6.0, 0.18), 107),
        "rock": Material("bricks", hues("998c80 736b66 4d4745"), (0.7, 0.3), 108, 0.5),
        "hedge": Material("leaves", hues("1a4d1a 4d802e"), (0.4, 0.0), 109),
        "palm": Material("leaves", hues("26571f 80a840"), (0.5, 0.0), 110),
        "cushion": Material("stripes", hues("2659a6 f2f2f2"), (0.2, 1.0), 111),
        "parasol": Material("stripes", hues("f28033 faf0d9"), (0.6, 1.0), 112),
        "pot": Material("bricks", hues("bf6140 b35433 8c4026"), (0.3, 0.2), 113),
        "bark": BARK,
    }  # fmt: skip
    solids: list[Solid] = [
        box((0, 0), (120, 120), (-1, 0), "lawn"),
        box((0, -4), (22, 16), (-0.5, 0.15), "terrace"),
        box((2, -6.5), (10.6, 5.6), (0, 0.24), "deck"),
        box((2, -6.5), (9.6, 4.6), (0, 0.28), "water"),
        box((0, 6), (15.6, 8), (0.15, 3.35), "glass", "white"),
        box((0, 5.6), (17.6, 10.2), (3.35, 3.8), "white"),
        box((3.2, 6.5), (7.8, 6.4), (3.8, 7.0), "glass", "white"),
        box((3.2, 6.2), (9.2, 8.0), (7.0, 7.4), "white"),
        box((-8.6, 5), (2.0, 9.4), (0.15, 5.2), "rock"),
        box((-3.6, 2.0), (3.0, 0.3), (0.15, 3.35), "slats"),
        box((-5.4, 6), (3.2, 5), (3.8, 4.9), "slats"),
        box((0, 18), (44, 1.4), (0, 2.6), "hedge"),
        box((-19, 2), (1.4, 32), (0, 2.2), "hedge"),
        box((19, 2), (1.4, 32), (0, 2.4), "hedge"),
        column((-6.2, -6.4), 0.06, (0.15, 3.0), "slats"),
        frustum((-6.2, -6.4), (2.0, 0.05), (2.5, 3.3), "parasol"),
    ]
    for i, x in enumerate((-7.6, -5.0)):
        solids.append(box((x, -6.6), (0.8, 2.0), (0.45, 0.62), "cushion", yaw=0.1 * i))
        solids.append(box((x, -5.7), (0.8, 0.3), (0.45, 1.2), "cushion", yaw=0.1 * i))
    for x, y in ((-9.5, -1.2), (8.6, 0.6), (8.8, -10.4), (-3.4, -10.8)):
        solids += [frustum((x, y), (0.4, 0.55), (0.15, 1.0), "pot"), Ellipsoid((x, y, 1.6), (0.8, 0.8, 0.9), "hedge")]
    draws = rng.unit(rng.words(rng.key(seed, "demo", "palms"), 30))
    for i, (x, y) in enumerate(((12.5, -4), (-13, -9), (14, 9), (-14, 11), (11, -14), (-4, -17), (3, 22), (-10, 24))):
        tall = 5.5 + 3.0 * float(draws[i])
        solids += [column((x, y), 0.2, (0, tall), "bark"), Ellipsoid((x, y, tall), (2.0, 1.8, 0.9), "palm")]
        solids.append(Ellipsoid((x + 0.4, y - 0.3, tall - 0.6), (1.3, 2.1, 0.7), "palm"))
    for i in range(8):
        x, y = circle(i / 8 + 0.04)
        solids.append(Ellipsoid((x * 80, y * 80, -2), (30, 28, 9 + 3.0 * (i % 2)), "hedge"))
    light = Light(
        normalised((-0.6, -0.55, 0.75)), (0.7, 0.66, 0.58), (0.42, 0.44, 0.5), (0.22, 0.5, 0.86), haze=110, clouds=120
    )
    return Place(tuple(solids), materials, (light,))
