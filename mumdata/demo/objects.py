"""The single objects of the demo world: basketball, barrel, church, triumphal arch.

In: an ImageNet class and a seed for ground, sky and sun. Out: a place with the object at the origin, about 2 m large.
"""

from __future__ import annotations

from mumdata.demo.camera import normalised
from mumdata.demo.render import Light, Place
from mumdata.demo.shapes import box, column, frustum, gable
from mumdata.demo.solids import Ellipsoid, Solid
from mumdata.demo.texture import Material, hues

__all__ = ["OBJECTS", "object_place"]


def _basketball() -> tuple[list[Solid], dict[str, Material]]:
    materials = {
        "skin": Material("ball", hues("d96b26 1f140f"), (0.6, 0.0), 301, 0.5),
        "bench": Material("planks", hues("668ca6 80a8bd"), (2.0, 0.2), 302),
    }
    return [
        Ellipsoid((0, 0, 0.6), (0.6, 0.6, 0.6), "skin"),
        box((1.6, 1.4), (1.6, 0.4), (0, 0.5), "bench", yaw=0.3),
    ], materials


def _barrel() -> tuple[list[Solid], dict[str, Material]]:
    materials = {
        "stave": Material("stripes", hues("9e6633 66401f"), (0.16, 0.0), 303, 0.5),
        "hoop": Material("plain", hues("47474d 6b5c52"), (0.2, 0.0), 304),
        "crate": Material("planks", hues("b38f5c cca875"), (0.8, 0.16), 305),
    }
    solids: list[Solid] = [frustum((0, 0), (0.48, 0.6), (0, 0.65), "stave", 16)]
    solids.append(frustum((0, 0), (0.6, 0.48), (0.65, 1.3), "stave", 16))
    solids += [
        frustum((0, 0), (r, r), (z, z + 0.08), "hoop", 16)
        for r, z in ((0.53, 0.12), (0.61, 0.5), (0.61, 0.78), (0.53, 1.1))
    ]
    solids.append(box((1.2, 0.7), (0.7, 0.7), (0, 0.7), "crate", yaw=0.2))
    return solids, materials


def _church() -> tuple[list[Solid], dict[str, Material]]:
    materials = {
        "wall": Material(
            "windows",
            ((0.95, 0.94, 0.9), (0.9, 0.88, 0.84), (0.7, 0.66, 0.6), (0.2, 0.25, 0.35)),
            (0.36, 0.6),
            306,
            0.1,
        ),
        "roof": Material("tiles", hues("803329 9e4d38"), (0.12, 0.12), 307),
        "door": Material("planks", hues("4d331a 664729"), (1.0, 0.06), 308),
        "tree": Material("leaves", hues("1f4d1a 5c8c33"), (0.2, 0.0), 309),
    }
    solids: list[Solid] = [
        box((0.3, 0), (1.5, 0.84), (0, 0.62), "wall"),
        gable((0.3, 0), (1.56, 0.94), (0.62, 1.05), "roof", "wall"),
        box((-0.65, 0), (0.46, 0.46), (0, 1.2), "wall"),
        frustum((-0.65, 0), (0.26, 0), (1.2, 2.0), "roof", 8),
        box((-0.89, 0), (0.04, 0.2), (0, 0.4), "door"),
        Ellipsoid((0.9, 1.0, 0.4), (0.3, 0.3, 0.4), "tree"),
        Ellipsoid((-0.5, -1.0, 0.25), (0.2, 0.2, 0.25), "tree"),
    ]
    return solids, materials


def _arch() -> tuple[list[Solid], dict[str, Material]]:
    materials = {
        "stone": Material("bricks", hues("e0d4b8 c7b899 8c806b"), (0.3, 0.12), 310, 0.4),
        "relief": Material("poster", hues("d6c7a8 c2b08c e3d9c0"), (0.25, 0.25), 311),
        "bronze": Material("plain", hues("59806b 736640"), (0.1, 0.0), 312),
    }
    solids: list[Solid] = [
        *(box((x, 0), (0.55, 0.6), (0, 1.1), "stone") for x in (-0.65, 0.65)),
        *(box((x, 0), (0.4, 0.66), (0.3, 0.85), "relief") for x in (-0.65, 0.65)),
        box((0, 0), (1.95, 0.68), (1.1, 1.2), "stone"),
        box((0, 0), (1.85, 0.6), (1.2, 1.65), "relief", "stone"),
        *(column((x, -0.42), 0.08, (0, 1.1), "stone") for x in (-0.9, -0.42, 0.42, 0.9)),
        box((0, 0), (0.5, 0.3), (1.65, 1.8), "stone"),
        Ellipsoid((0, 0, 1.95), (0.22, 0.1, 0.17), "bronze"),
    ]
    return solids, materials


# wnid -> what it shows
OBJECTS = {"n02802426": _basketball, "n02795169": _barrel, "n03028079": _church, "n04486054": _arch}


def object_place(wnid: str, seed: int) -> Place:
    """Build one object on a ground of its own; `seed` picks ground, sky and sun."""
    solids, materials = OBJECTS[wnid]()
    grounds = (
        Material("grass", hues("4d732e 738c40"), (1, 1), 320, 0.5),
        Material("planks", hues("9e6b3d bf8c57"), (1.5, 0.2), 321),
        Material("paving", hues("b3ada3 8c8a85"), (0.5, 0.5), 322),
        Material("plain", hues("d1b885 b89e6b"), (0.4, 0.0), 323, 0.5),
        Material("bricks", hues("9e5742 854733 66574d"), (0.3, 0.15), 324),
    )
    materials = {
        **materials,
        "ground": grounds[seed % 5],
        "back": Material("grass", hues("4d6b52 738059"), (1, 1), 325),
    }
    solids = [box((0, 0), (60, 60), (-1, 0), "ground"), *solids]
    solids += [
        Ellipsoid((20.0 * x, 20.0 * y, -1), (11, 11, 3.0 + seed % 3), "back")
        for x, y in ((1, 1), (-1, 1), (1, -1), (-1, -1))
    ]
    suns = ((-0.5, -0.7, 0.7), (0.7, -0.5, 0.5), (0.3, 0.7, 0.8))
    skies = (hues("4d85d9 d9e6f2"), hues("808cbf fadbb8"), hues("b3bac7 e0e0e0"))
    sun, (zenith, horizon) = suns[seed % 3], skies[seed // 3 % 3]
    light = Light(normalised(sun), (0.74, 0.7, 0.62), (0.42, 0.43, 0.46), zenith, horizon, 45.0, clouds=130 + seed % 7)
    return Place(tuple(solids), materials, (light,))
