"""The rooms of the demo world: a living room, a kitchen, an attic, a great hall.

In: numbers written here. Out: places of solids in metres, z up, floor at 0, middle of the room at the origin.
"""

from __future__ import annotations

from mumdata.demo.render import Light, Place
from mumdata.demo.shapes import box, column, frustum, room
from mumdata.demo.solids import Ellipsoid, Solid
from mumdata.demo.texture import Colour, Material, hues

__all__ = ["attic", "hall", "kitchen", "living_room"]

BOOKS: tuple[Colour, ...] = (
    (0.45, 0.3, 0.18), (0.2, 0.13, 0.08),
    (0.7, 0.2, 0.18), (0.2, 0.35, 0.55), (0.85, 0.75, 0.5), (0.25, 0.45, 0.3), (0.9, 0.88, 0.82), (0.55, 0.3, 0.5),
)  # fmt: skip
ART: tuple[Colour, ...] = (
    (0.92, 0.88, 0.78),
    (0.85, 0.25, 0.18),
    (0.12, 0.3, 0.6),
    (0.95, 0.75, 0.2),
    (0.1, 0.1, 0.12),
)
VIEW: tuple[Colour, ...] = ((0.95, 0.95, 0.93), (0.6, 0.8, 1.0), (0.45, 0.58, 0.5), (0.22, 0.4, 0.18))


def _lamp(at: tuple[float, float, float], warm: Colour = (0.85, 0.78, 0.66), fill: float = 0.42) -> Light:
    return Light(at, warm, (fill, fill, fill * 1.04), haze=0.0, lamp=True)


def living_room(seed: int) -> Place:
    """A living room: sofa, bookcase, table with vase, rug, pictures, plant, two windows."""
    materials = {
        "floor": Material("planks", hues("8c5c33 b3804d"), (1.6, 0.18), 201, 0.3),
        "sage": Material("plain", hues("a8bda3 9cb099"), (1.5, 0.0), 202, 0.1),
        "cream": Material("stripes", hues("e6d9bd d6c7a8"), (0.35, 1.0), 203, 0.1),
        "ceiling": Material("paving", hues("f2f0eb e8e6e0"), (1.2, 1.2), 204, 0.05),
        "window": Material("view", VIEW, (1.9, 1.5), 205, 0.1),
        "books": Material("shelf", BOOKS, (0.075, 0.36), 206),
        "sofa": Material("plain", hues("335980 29476b"), (0.25, 0.0), 207, 0.3),
        "pillow": Material("stripes", hues("f2b340 faf2e0"), (0.09, 1.0), 208),
        "wood": Material("planks", hues("664024 855733"), (1.0, 0.1), 209),
        "rug": Material("carpet", hues("b8332e e6d1a8 263866"), (1.1, 1.0), 210),
        "art": Material("poster", ART, (0.7, 0.7), 211, 0.2),
        "art2": Material("poster", (ART[2], ART[3], ART[0], (0.3, 0.6, 0.55)), (0.5, 0.6), 212, 0.2),
        "plant": Material("leaves", hues("1a521f 599940"), (0.25, 0.0), 213),
        "pot": Material("bricks", hues("d9ccb8 c7b39e 73594d"), (0.12, 0.1), 214),
        "shade": Material("stripes", hues("ffebb3 e6c785"), (0.08, 0.0), 215, 0.1),
        "screen": Material("poster", hues("12141a 1a4066 266680 99804d"), (0.8, 0.6), 216),
        "door": Material("windows", hues("f2f0e6 edebe0 d9d6cc ccc7b8"), (0.5, 1.05), 217, 0.05),
    }  # fmt: skip
    solids: list[Solid] = [
        room((6.4, 5.2, 2.7), ("sage", "cream", "sage", "cream"), "floor", "ceiling"),
        box((-1.3, 2.58), (1.9, 0.1), (0.8, 2.3), "window"),
        box((1.3, 2.58), (1.9, 0.1), (0.8, 2.3), "window"),
        box((-3.0, -0.6), (0.4, 2.4), (0, 2.2), "books", "wood"),
        box((2.65, -0.2), (0.95, 2.5), (0.1, 0.46), "sofa"),
        box((3.02, -0.2), (0.25, 2.5), (0.46, 0.95), "sofa"),
        box((2.65, 1.15), (0.95, 0.24), (0.1, 0.66), "sofa"),
        box((2.65, -1.55), (0.95, 0.24), (0.1, 0.66), "sofa"),
        box((2.8, 0.7), (0.2, 0.5), (0.46, 0.88), "pillow", yaw=0.15),
        box((2.8, -1.0), (0.2, 0.5), (0.46, 0.86), "pillow", yaw=-0.12),
        box((0.9, -0.1), (2.6, 2.2), (0, 0.025), "rug"),
        box((0.9, -0.1), (0.8, 1.3), (0.36, 0.42), "wood"),
        *(box((0.9 + x, -0.1 + y), (0.07, 0.07), (0, 0.36), "wood") for x in (-0.33, 0.33) for y in (-0.56, 0.56)),
        frustum((0.85, 0.15), (0.09, 0.14), (0.42, 0.7), "pot"),
        Ellipsoid((0.85, 0.15, 0.86), (0.2, 0.2, 0.2), "plant"),
        box((1.0, -0.45), (0.25, 0.35), (0.42, 0.47), "art2", yaw=0.2),
        box((3.17, -0.2), (0.06, 1.5), (1.3, 2.2), "art"),
        box((-3.17, 1.55), (0.06, 0.9), (1.0, 2.0), "art2"),
        box((-0.9, -2.35), (1.9, 0.42), (0.0, 0.55), "wood"),
        box((-0.9, -2.54), (1.5, 0.08), (0.75, 1.6), "screen"),
        box((2.0, -2.57), (0.95, 0.08), (0, 2.1), "door"),
        frustum((-2.5, 2.0), (0.2, 0.28), (0, 0.5), "pot"),
        Ellipsoid((-2.5, 2.0, 1.0), (0.5, 0.45, 0.55), "plant"),
        column((2.75, 2.0), 0.03, (0, 1.5), "wood"),
        frustum((2.75, 2.0), (0.3, 0.18), (1.4, 1.8), "shade"),
        box((-0.9, 1.2), (0.7, 0.7), (0.1, 0.44), "pillow", yaw=0.3),
        box((-1.15, 1.35), (0.2, 0.75), (0.44, 0.95), "sofa", yaw=0.3),
    ]
    return Place(tuple(solids), materials, (_lamp((0.2, 0.3, 2.5)),))


def kitchen(seed: int) -> Place:
    """A kitchen of the same house: blue cupboards, tiled wall, island with fruit, chequered floor."""
    materials = {
        "floor": Material("paving", hues("ebe6db 333840"), (0.45, 0.45), 231, 0.1),
        "tile": Material("bricks", hues("f2f2ed dbe6e6 8c999e"), (0.3, 0.15), 232, 0.1),
        "yellow": Material("plain", hues("edd180 e6c773"), (1.2, 0.0), 233, 0.1),
        "ceiling": Material("planks", hues("f2ede6 e6e0d6"), (3.0, 0.2), 234, 0.05),
        "cupboard": Material("windows", hues("294d6b 264766 1f3852 38668a"), (0.6, 0.8), 235, 0.05),
        "top": Material("plain", hues("d9d4cc 99948f"), (0.12, 0.0), 236, 0.3),
        "wood": Material("planks", hues("a87547 cc9966"), (0.9, 0.09), 237),
        "steel": Material("stripes", hues("c7ccd1 9ea3ab"), (0.2, 0.0), 238, 0.1),
        "oven": Material("windows", hues("b3b8bd adb3b8 4d4d52 26262e"), (0.6, 0.85), 239, 0.05),
        "window": Material("view", VIEW, (1.5, 1.2), 240, 0.1),
        "orange": Material("plain", hues("f28c1a d96b0d"), (0.05, 0.0), 241),
        "apple": Material("plain", hues("bf1f1a cca633"), (0.1, 0.0), 242),
        "basil": Material("leaves", hues("1f661f 66b340"), (0.12, 0.0), 243),
        "pot": Material("bricks", hues("cc6b47 b85c3d 80402e"), (0.1, 0.06), 244),
        "calendar": Material("poster", (ART[0], ART[1], ART[2], (0.3, 0.65, 0.4)), (0.4, 0.4), 245),
        "jars": Material("shelf", BOOKS, (0.13, 0.4), 246),
        "lampshade": Material("stripes", hues("d94d33 f2e6cc"), (0.12, 1.0), 247, 0.1),
    }  # fmt: skip
    solids: list[Solid] = [
        room((5.2, 4.4, 2.6), ("yellow", "tile", "tile", "yellow"), "floor", "ceiling"),
        box((0.3, 1.9), (4.2, 0.6), (0, 0.85), "cupboard"),
        box((0.3, 1.88), (4.3, 0.66), (0.85, 0.9), "top"),
        box((-2.3, -0.2), (0.6, 3.0), (0, 0.85), "cupboard"),
        box((-2.28, -0.2), (0.66, 3.1), (0.85, 0.9), "top"),
        box((-2.4, -0.9), (0.4, 1.8), (1.5, 2.3), "cupboard"),
        box((1.7, 2.05), (1.2, 0.34), (1.5, 2.3), "cupboard"),
        box((0.0, 2.18), (1.5, 0.08), (1.1, 2.3), "window"),
        box((-2.2, 1.7), (0.7, 0.8), (0, 2.0), "steel"),
        box((1.7, 1.58), (0.6, 0.06), (0.05, 0.82), "oven"),
        box((0.35, -0.3), (1.5, 0.8), (0, 0.88), "wood"),
        box((0.35, -0.3), (1.7, 1.0), (0.88, 0.94), "top"),
        frustum((0.1, -0.35), (0.12, 0.26), (0.94, 1.06), "steel"),
        *(Ellipsoid((0.1 + x, -0.35 + y, 1.08), (0.085, 0.085, 0.085), m) for x, y, m in
          ((-0.09, -0.06, "orange"), (0.09, -0.04, "apple"), (0.0, 0.1, "orange"), (0.0, 0.0, "apple"))),
        frustum((0.75, -0.1), (0.08, 0.12), (0.94, 1.12), "pot"),
        Ellipsoid((0.75, -0.1, 1.2), (0.17, 0.17, 0.15), "basil"),
        box((0.75, -0.5), (0.4, 0.25), (0.94, 0.97), "wood", yaw=0.2),
        column((-2.3, 0.6), 0.11, (0.9, 1.1), "steel"),
        column((-2.25, 0.25), 0.08, (0.9, 1.2), "pot"),
        column((-0.9, 1.85), 0.1, (0.9, 1.15), "steel"),
        box((0.5, 1.9), (0.5, 0.3), (0.9, 1.2), "steel"),
        box((2.54, -0.4), (0.06, 0.7), (1.1, 2.0), "calendar"),
        box((2.45, 0.9), (0.28, 1.2), (1.2, 2.0), "jars", "wood"),
        box((1.2, -2.15), (1.2, 0.08), (1.0, 1.9), "calendar"),
        box((-0.9, -2.16), (0.95, 0.08), (0, 2.05), "wood"),
        column((0.35, -0.3), 0.02, (2.1, 2.6), "steel"),
        frustum((0.35, -0.3), (0.26, 0.08), (1.85, 2.12), "lampshade"),
        *(column((x, -1.15), 0.16, (0.55, 0.62), "lampshade") for x in (-0.05, 0.75)),
        *(column((x, -1.15), 0.03, (0.0, 0.55), "steel") for x in (-0.05, 0.75)),
    ]  # fmt: skip
    return Place(tuple(solids), materials, (_lamp((-0.7, 0.5, 2.4), (0.85, 0.82, 0.76)),))


def attic(seed: int) -> Place:
    """A brick attic with a bed, a desk, a wardrobe, posters and beams."""
    materials = {
        "floor": Material("planks", hues("4d382b 6b523d"), (2.0, 0.22), 261, 0.3),
        "brick": Material("bricks", hues("a85238 8a3d2b bdad99"), (0.36, 0.15), 262, 0.3),
        "plum": Material("plain", hues("735275 66476b"), (1.0, 0.0), 263, 0.1),
        "ceiling": Material("planks", hues("bf9e73 d9b88a"), (2.0, 0.3), 264, 0.1),
        "quilt": Material("carpet", hues("33808c e6e0cc e6804d"), (0.5, 0.5), 265),
        "sheet": Material("plain", hues("f2f0eb dbdbe0"), (0.3, 0.0), 266, 0.1),
        "wood": Material("planks", hues("b89466 d1ad80"), (1.0, 0.12), 267),
        "window": Material("view", VIEW, (1.2, 1.1), 268, 0.1),
        "poster": Material("poster", ((0.1, 0.12, 0.2), ART[1], ART[3], (0.4, 0.75, 0.8)), (0.6, 0.7), 269, 0.1),
        "poster2": Material("poster", hues("f2e64d 1a1a1a e64d80"), (0.4, 0.4), 270, 0.1),
        "books": Material("shelf", BOOKS, (0.06, 0.3), 271),
        "rug": Material("stripes", hues("d9bf99 4d7380"), (0.25, 1.0), 272, 0.4),
        "globe": Material("plain", hues("2666a6 73994d"), (0.2, 0.0), 273),
        "red": Material("plain", hues("cc3326 b3261f"), (0.2, 0.0), 274),
    }  # fmt: skip
    solids: list[Solid] = [
        room((5.6, 4.6, 2.9), ("brick", "plum", "brick", "plum"), "floor", "ceiling"),
        *(box((0, y), (5.5, 0.16), (2.6, 2.85), "wood") for y in (-1.5, 0.0, 1.5)),
        box((-1.7, 1.0), (2.0, 1.5), (0.1, 0.5), "quilt"),
        box((-2.4, 1.0), (0.5, 1.3), (0.5, 0.64), "sheet"),
        box((-2.72, 1.0), (0.1, 1.7), (0, 1.05), "wood"),
        box((-0.1, 2.28), (1.2, 0.08), (1.0, 2.1), "window"),
        box((2.3, 1.1), (0.75, 1.5), (0.72, 0.77), "wood"),
        *(box((2.3 + x, 1.1 + y), (0.06, 0.06), (0, 0.72), "wood") for x in (-0.3, 0.3) for y in (-0.65, 0.65)),
        box((2.45, 1.15), (0.08, 0.7), (0.85, 1.3), "poster"),
        column((2.4, 0.6), 0.06, (0.77, 0.85), "wood"),
        Ellipsoid((2.4, 0.6, 1.0), (0.16, 0.16, 0.16), "globe"),
        box((1.5, 1.1), (0.45, 0.45), (0.42, 0.48), "red", yaw=0.2),
        box((1.3, 1.1), (0.06, 0.45), (0.48, 0.95), "red", yaw=0.2),
        column((1.5, 1.1), 0.04, (0, 0.42), "wood"),
        box((2.5, -1.4), (0.55, 1.5), (0, 2.1), "wood"),
        box((2.77, -0.1), (0.06, 0.8), (1.1, 2.1), "poster2"),
        box((0.3, -2.1), (1.8, 0.36), (0, 1.2), "books", "wood"),
        Ellipsoid((0.0, -2.1, 1.4), (0.2, 0.2, 0.2), "red"),
        box((0.7, -2.1), (0.3, 0.2), (1.2, 1.5), "poster2", yaw=0.2),
        box((-1.6, -2.27), (0.9, 0.06), (1.0, 2.2), "poster"),
        box((-2.77, -0.8), (0.06, 0.9), (1.0, 2.0), "poster2"),
        box((0.2, -0.3), (2.0, 1.3), (0, 0.02), "rug", yaw=0.1),
        box((-0.1, -0.4), (0.4, 0.4), (0.02, 0.4), "quilt", yaw=0.4),
    ]
    return Place(tuple(solids), materials, (_lamp((0.4, -0.6, 2.45), (0.95, 0.8, 0.6), 0.36),))


def hall(seed: int) -> Place:
    """The great hall inside the castle: long table, columns, banners, throne."""
    materials = {
        "floor": Material("paving", hues("8c8073 4d4747"), (1.0, 1.0), 281, 0.25),
        "wall": Material("bricks", hues("9e948a 80756e 57524d"), (1.0, 0.5), 282, 0.4),
        "beam": Material("planks", hues("5c3d26 7a5433"), (3.0, 0.4), 283),
        "column": Material("bricks", hues("bfb39e ada18f 807566"), (0.8, 0.7), 284, 0.2),
        "blue": Material("stripes", hues("1f388c ebc740"), (0.3, 1.0), 285, 0.3),
        "red": Material("poster", hues("991a1a ebcc4d f2ebd9"), (0.9, 0.9), 286, 0.2),
        "window": Material("view", ((0.3, 0.28, 0.27), *VIEW[1:]), (1.2, 2.4), 287, 0.1),
        "carpet": Material("carpet", hues("991f24 cc9e4d 331a33"), (1.2, 1.4), 288),
        "gold": Material("plain", hues("f2cc59 cc9933"), (0.2, 0.0), 289),
    }  # fmt: skip
    solids: list[Solid] = [
        room((14, 9, 5.5), ("wall", "wall", "wall", "wall"), "floor", "beam"),
        *(box((x, 0), (0.4, 8.9), (4.9, 5.45), "beam") for x in (-4.5, 0.0, 4.5)),
        *(column((x, y), 0.38, (0, 4.9), "column") for x in (-4.5, 0.0, 4.5) for y in (-2.9, 2.9)),
        box((0, 0), (12, 1.8), (0, 0.02), "carpet"),
        box((-0.6, 0), (6.0, 1.2), (0.78, 0.9), "beam"),
        *(box((x, 0), (0.3, 1.0), (0, 0.78), "beam") for x in (-3.0, 0.0, 1.8)),
        *(box((-0.6, y), (5.6, 0.4), (0.4, 0.5), "beam") for y in (-1.1, 1.1)),
        *(column((x, 0.1), 0.06, (0.9, 1.25), "gold") for x in (-2.4, -0.6, 1.2)),
        *(Ellipsoid((x, -0.2, 1.0), (0.14, 0.14, 0.1), "gold") for x in (-1.6, 0.4)),
        box((6.0, 0), (1.2, 3.0), (0, 0.4), "column"),
        box((6.1, 0), (0.8, 1.0), (0.4, 1.0), "red"),
        box((6.5, 0), (0.25, 1.1), (0.4, 2.4), "red"),
        *(box((x, 4.45), (1.2, 0.08), (1.8, 4.2), "window") for x in (-2.2, 2.2)),
        *(box((x, 4.44), (1.0, 0.1), (1.4, 4.4), "blue") for x in (-5.8, 5.8)),
        *(box((x, -4.44), (1.0, 0.1), (1.4, 4.4), "red") for x in (-5.8, -2.2, 2.2, 5.8)),
        *(box((-6.94, y), (0.1, 1.1), (1.2, 4.2), "blue") for y in (-2.2, 2.2)),
        box((-6.9, 0), (0.2, 1.8), (0, 3.0), "beam"),
        frustum((2.2, 0), (0.6, 0.8), (3.4, 3.6), "gold"),
        column((2.2, 0), 0.03, (3.6, 5.4), "gold"),
    ]
    return Place(tuple(solids), materials, (_lamp((-1.5, 0.8, 4.6), (1.25, 1.0, 0.72), 0.4),))
