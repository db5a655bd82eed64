"""MegaScenes in the demo: a castle with its great hall as second sub-model, and a pagoda.

In: a seed and sizes. Out: a layout, a plain list of what is to be rendered and written where.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes, build_place
from mumdata.demo.shots import Shot, Walk, gauge, tourists

__all__ = ["plan"]

_CASTLE = Walk((0.45, 1.05), (21, 46), ((0, -4, 9), (0, -13, 4), (-12, -11, 9), (12, -11, 9), (2, 3, 15)), radial=0.1)
_HALL = Walk(
    (0.0, 1.0), (2.6, 3.6), ((0, 0, 1.6), (0, 0, 2.2), (0, 0, 1.0)), (1.3, 2.0),
    clearance=1.6, radial=0.06, outward=True,
)  # fmt: skip
_PAGODA = Walk((0.0, 1.0), (15, 40), ((0, 0, 8), (0, -4, 3), (0, 0, 16), (-14, 4, 2), (11, -7, 1)), radial=0.1)


def _category_files(folder: str, name: str, files: Sequence[str]) -> dict[str, str]:
    """Return the small files beside a category's photos."""

    def text(value: object) -> str:
        return json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n"

    about = {"category": name, "num_files": len(files)}
    licences = {file: {"license_short_name": "CC BY-SA 4.0"} for file in files}
    return {
        f"{folder}/category.json": text(about),
        f"{folder}/raw_metadata.json": text(licences),
        f"{folder}/0/category.json": text(about),
    }


def _wiki_scene(
    scene: str,
    subcategories: Sequence[str],
    stems: Sequence[str],
    parts: Sequence[tuple[str, int, list[Shot], list[Shot]]],
) -> Layout:
    """Lay out one MegaScenes scene from (place, seed, registered shots, loose shots) for each sub-model.

    The first photo of sub-model 0 is filed under a second category as well, and registered under both names.
    """
    half = f"{scene[:3]}/{scene[3:]}"
    files: dict[str, list[str]] = {name: [] for name in subcategories}
    albums, count = [], 0
    for k, (place_name, seed, shots, loose) in enumerate(parts):
        pictures, names, cameras = [], [], []
        for number, shot in enumerate([*shots, *loose]):
            category = subcategories[(number // 3 + k) % len(subcategories)]
            file = f"{stems[count % len(stems)]} {count + 1:02d}.{'JPG' if count % 9 == 4 else 'jpg'}"
            count += 1
            under = [category]
            if k == 0 and number == 0:
                under.append(subcategories[1])
            for name in under:
                files[name].append(file)
            inner = [f"commons/{name}/0/pictures/{file}" for name in under]
            pictures.append(Picture(tuple(f"images/{half}/{path}" for path in inner), shot))
            if number < len(shots):
                names += inner
                cameras += [shot.camera] * len(inner)
        key = rng.key(seed, "demo", "megascenes", scene, k)
        model = Model(
            truth=f"{scene}/{k}.npz",
            names=tuple(names),
            cameras=tuple(cameras),
            gauge=gauge(key),
            key=key,
            folder=f"reconstruct/{half}/colmap/{k}",
            camera_model="SIMPLE_RADIAL",
        )
        albums.append(Album(place_name, seed, tuple(pictures), (model,)))
    texts: dict[str, str] = {}
    for name, inside in files.items():
        texts |= _category_files(f"images/{half}/commons/{name}", name, inside)
    return Layout(tuple(albums), texts)


def plan(seed: int, sizes: Sizes) -> Layout:
    """Lay out two MegaScenes scenes: a castle with its great hall as second sub-model, and a pagoda."""

    def shots(place_name: str, num: int, walk: Walk, what: str) -> list[Shot]:
        key = rng.key(seed, "demo", "megascenes", place_name, what)
        return tourists(build_place(place_name, seed), key, num, walk, sizes.photos())

    castle = _wiki_scene(
        "014142",
        ("Rabenfels_Castle", "Rabenfels_Castle_in_autumn", "Exterior_of_Rabenfels_Castle_(south)"),
        ("Burg Rabenfels (Südseite)", "King's gate, Rabenfels", "Rabenfels - château fort", "IMG_20140813 Rabenfels"),
        [
            ("castle", seed, shots("castle", 40, _CASTLE, "photos"), shots("castle", 3, _CASTLE, "loose")),
            ("hall", seed, shots("hall", 12, _HALL, "photos"), []),
        ],
    )
    pagoda = _wiki_scene(
        "271828",
        ("Akamatsu-ji", "Pagoda_of_Akamatsu-ji", "赤松寺"),
        ("赤松寺 五重塔", "Akamatsu-ji (pagoda), Kyōto side", "Visitor's view of Akamatsu-ji", "P1040711"),
        [("pagoda", seed, shots("pagoda", 36, _PAGODA, "photos"), shots("pagoda", 2, _PAGODA, "loose"))],
    )
    categories = json.dumps({"Rabenfels_Castle": 14142, "Akamatsu-ji": 271828}, sort_keys=True) + "\n"
    return Layout(
        (*castle.albums, *pagoda.albums), {**castle.texts, **pagoda.texts, "metadata/categories.json": categories}
    )
