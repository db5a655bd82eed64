"""MegaDepth in the demo: one scene as in the original archives, one as undistorted for D2-Net.

In: a seed and sizes. Out: a layout, a plain list of what is to be rendered and written where.
"""

from __future__ import annotations

from mumdata import rng
from mumdata.demo.album import Album, Layout, Model, Picture, Sizes, build_place
from mumdata.demo.camera import undistorted
from mumdata.demo.shots import Shot, Walk, gauge, tourists

__all__ = ["plan"]

_MEGADEPTH_RAW, _MEGADEPTH_UNDISTORTED = "0070", "0148"
_V1 = "phoenix/S6/zl548/MegaDepth_v1"

_FRONT = Walk((0.53, 0.97), (23, 54), ((0, -6, 13), (0, -13, 5), (8, -12, 16), (-8, -12, 16), (6, -26, 4)), radial=0.1)
_BACK = Walk((0.03, 0.47), (26, 52), ((0, 8, 12), (0, 20, 5), (10, 6, 7), (-10, 8, 7), (0, 6, 18)), radial=0.1)
_ROUND = Walk((0.0, 1.0), (18, 40), ((0, 0, 6), (0, -13, 6), (7, -3, 6), (-7, -3, 6), (0, 11, 5)))


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


def plan(seed: int, sizes: Sizes) -> Layout:
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
