"""ImageNet in the demo: four classes of single objects.

In: a seed and sizes. Out: a layout, a plain list of what is to be rendered and written where.
"""

from __future__ import annotations

from mumdata import rng
from mumdata.demo.album import Album, Layout, Picture, Sizes, build_place
from mumdata.demo.objects import OBJECTS
from mumdata.demo.shots import around_object

__all__ = ["plan"]


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out four classes of single objects: twelve training photos each, two or three for validation."""
    albums, val_number = [], 0
    for index, wnid in enumerate(sorted(OBJECTS)):
        # two grounds and skies a class, so that the background does not give the object away
        for half in range(2):
            look = seed + 5 * index + 3 * half + index
            place = build_place(wnid, look)
            pictures = []
            for number in range(6):
                key = rng.key(seed, "demo", "imagenet", wnid, half, number)
                file = f"{wnid}_{17 + 211 * half + 37 * number + int(rng.below(rng.words(key, 1), 30)[0])}.JPEG"
                pictures.append(Picture((f"train/{wnid}/{file}",), around_object(place, key, sizes.object)))
            for number in range(1 + half * (index % 2)):
                val_number += 13
                key = rng.key(seed, "demo", "imagenet", "val", wnid, half, number)
                path = f"val/{wnid}/ILSVRC2012_val_{val_number:08d}.JPEG"
                pictures.append(Picture((path,), around_object(place, key, sizes.object)))
            albums.append(Album(wnid, look, tuple(pictures)))
    return Layout(tuple(albums))
