"""The photo collections of the demo: MegaDepth, MegaScenes and ImageNet, in their layouts on disk.

In: a seed and sizes. Out: layouts, plain lists of what is to be rendered and written where.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes, build_place
from mumdata.demo.camera import undistorted
from mumdata.demo.objects import OBJECTS
from mumdata.demo.shots import Shot, Walk, around_object, gauge, tourists

__all__ = ["imagenet", "megadepth", "megascenes"]

# of D2-Net's training list, and of no test set
_MEGADEPTH_RAW, _MEGADEPTH_UNDISTORTED = "0070", "0148"
_V1 = "phoenix/S6/zl548/MegaDepth_v1"

_FRONT = Walk((0.53, 0.97), (23, 54), ((0, -6, 13), (0, -13, 5), (8, -12, 16), (-8, -12, 16), (6, -26, 4)), radial=0.1)
_BACK = Walk((0.03, 0.47), (26, 52), ((0, 8, 12), (0, 20, 5), (10, 6, 7), (-10, 8, 7), (0, 6, 18)), radial=0.1)
_ROUND = Walk((0.0, 1.0), (18, 40), ((0, 0, 6), (0, -13, 6), (7, -3, 6), (-7, -3, 6), (0, 11, 5)))
_CASTLE = Walk((0.45, 1.05), (21, 46), ((0, -4, 9), (0, -13, 4), (-12, -11, 9), (12, -11, 9), (2, 3, 15)), radial=0.1)
_HALL = Walk(
    (0.0, 1.0), (2.6, 3.6), ((0, 0, 1.6), (0, 0, 2.2), (0, 0, 1.0)), (1.3, 2.0),
    clearance=1.6, radial=0.06, outward=True,
)  # fmt: skip
_PAGODA = Walk((0.0, 1.0), (15, 40), ((0, 0, 8), (0, -4, 3), (0, 0, 16), (-14, 4, 2), (11, -7, 1)), radial=0.1)


def _photo_names(key: int, num: int) -> list[str]:
    """Return file names as a photo site gives them: two random numbers."""
    draws = rng.words(key, 2 * num)
    ids = 100_000_000 + rng.below(draws[:num], 4_000_000_000)
    return [f"{int(ids[i])}_{int(draws[num + i]) >> 24:010x}_o.jpg" for i in range(num)]


def _raw_megadepth(seed: int, sizes: Sizes) -> Album:
    """Scene A: the original archives. Two sub-models, front and back, share four photos; three photos are in none."""
    scene, key = _MEGADEPTH_RAW, rng.key(seed, "demo", "megadepth", _MEGADEPTH_RAW)
    place = build_place("cathedral", seed)
    front = tourists(place, rng.key(key, "front"), 36, _FRONT, sizes.photos())
    back = tourists(place, rng.key(key, "back"), 32, _BACK, sizes.photos())
    loose = tourists(place, rng.key(key, "loose"), 3, _FRONT, sizes.photos())
    shots = [*front, *back, *loose]
    names = _photo_names(rng.key(key, "names"), len(shots))
    # the photos nearest to the seams between front and back belong to both
    members = [[*range(36), 36, 37, 66, 67], [0, 1, 34, 35, *range(36, 68)]]
    sfm = f"MegaDepth_v1_SfM/{scene}"
    pictures = [Picture((f"{sfm}/images/{name}",), shot) for name, shot in zip(names, shots, strict=True)]
    models = []
    for k, rows in enumerate(members):
        model_gauge = gauge(rng.key(key, "gauge", k))
        dense = [undistorted(shots[i].camera) for i in rows]
        for i, camera in zip(rows, dense, strict=True):
            stem = f"{_V1}/{scene}/dense{k}"
            shot = Shot(camera, shots[i].light, shots[i].gain)
            depth = f"{stem}/depths/{names[i].removesuffix('.jpg')}.h5"
            pictures.append(Picture((f"{stem}/imgs/{names[i]}",), shot, depth, model_gauge.scale))
        models.append(
            Model(
                truth=f"{scene}/{k}.npz",
                names=tuple(names[i] for i in rows),
                cameras=tuple(shots[i].camera for i in rows),
                gauge=model_gauge,
                key=rng.key(key, "model", k),
                folder=f"{sfm}/sparse/manhattan/{k}",
                camera_model="SIMPLE_RADIAL",
                dense=tuple(dense),
            )
        )
    return Album("cathedral", seed, tuple(pictures), tuple(models))


def _undistorted_megadepth(seed: int, sizes: Sizes) -> Album:
    """Scene B: D2-Net's undistorted layout, with the depth maps of the original archive beside it."""
    scene, key = _MEGADEPTH_UNDISTORTED, rng.key(seed, "demo", "megadepth", _MEGADEPTH_UNDISTORTED)
    shots = tourists(build_place("temple", seed), rng.key(key, "round"), 40, _ROUND, sizes.photos())
    names = _photo_names(rng.key(key, "names"), len(shots))
    model_gauge, flat, dense = gauge(key), f"Undistorted_SfM/{scene}", f"{_V1}/{scene}/dense0"
    pictures = [
        Picture(
            (f"{flat}/images/{name}", f"{dense}/imgs/{name}"),
            shot,
            f"{dense}/depths/{name.removesuffix('.jpg')}.h5",
            model_gauge.scale,
        )
        for name, shot in zip(names, shots, strict=True)
    ]
    model = Model(
        truth=f"{scene}/0.npz",
        names=tuple(names),
        cameras=tuple(shot.camera for shot in shots),
        gauge=model_gauge,
        key=rng.key(key, "model"),
        folder=f"{flat}/sparse",
        text_folder=f"{flat}/sparse-txt",
    )
    return Album("temple", seed, tuple(pictures), (model,))


def megadepth(seed: int, sizes: Sizes) -> Layout:
    """Lay out two MegaDepth scenes: one as in the original archives, one as undistorted for D2-Net."""
    raw, flat = _raw_megadepth(seed, sizes), _undistorted_megadepth(seed, sizes)
    stereo = f"Undistorted_SfM/{_MEGADEPTH_UNDISTORTED}/stereo"
    names = flat.models[0].names
    texts = {
        f"{stereo}/fusion.cfg": "".join(f"{name}\n" for name in names),
        f"{stereo}/patch-match.cfg": "".join(f"{name}\n__auto__, 20\n" for name in names),
    }
    folders = tuple(f"{stereo}/{name}" for name in ("consistency_graphs", "depth_maps", "normal_maps"))
    return Layout((raw, flat), texts, folders)


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


def megascenes(seed: int, sizes: Sizes) -> Layout:
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


def imagenet(seed: int, sizes: Sizes) -> Layout:
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
