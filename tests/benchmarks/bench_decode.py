"""How fast one core turns JPEGs into views: decoders and their scales, ways to resize, and `draw_view` beside Pillow.

Run by hand: `python tests/benchmarks/bench_decode.py [--photos DIR] [--pictures N]`. Without a folder of photos it
renders textures of its own. Each set is made of the same pictures at another size: 4:3, the long side given, or 256
pixels on the short side as in packed copies. The plain version opens with Pillow, cuts and resizes the same box with
its bicubic filter, and normalises to float32. All ways run in turns on one thread; the best processor time counts. The
last two columns are grey levels between a view and that of the whole picture decoded.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mumdata.demo.noise import fractal
from mumdata.headers import read_header
from mumdata.images import decode, looks_like_image
from mumtrain.config import DataConfig
from mumtrain.reading.crops import resized
from mumtrain.reading.decode import decode_box
from mumtrain.reading.view import Position, draw_view, view_box

SIZE = 224
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# name: long side (0: short side 256), JPEG quality, views a second or times the plain version that is aimed at
SETS = {
    "1600 px, q90": (1600, 90, "2.8 x"),
    "1024 px, q90": (1024, 90, "2.2 x"),
    "640 px, q90": (640, 90, "1.9 x"),
    "256 px, q95": (0, 95, "1,500/s"),
    "256 px, q90": (0, 90, "1,500/s"),
}


def textures(num: int) -> list[np.ndarray]:
    """Render pictures of noise of many scales, grain, and leaves with sharp edges, uint8 RGB [1200, 1600, 3]."""
    pictures = []
    for seed in range(num):
        random = np.random.default_rng(seed)
        y, x = np.mgrid[0:1200, 0:1600].astype(np.float32)
        sharp = np.ones_like(x)
        layers = [fractal(x, y, 10 * seed + channel, sharp, period=200.0, octaves=8) for channel in range(3)]
        picture = 110 + 150 * np.dstack(layers) + random.normal(0, 2, (1200, 1600, 1))
        picture = picture.clip(0, 255).astype(np.uint8)
        for _ in range(150):
            corners = random.random(2) * (1600, 1200) + random.normal(0, 40, (5, 2))
            hull = cv2.convexHull(corners.astype(np.int32))
            shade = picture[int(corners[0, 1]) % 1200, int(corners[0, 0]) % 1600] * random.uniform(0.6, 1.4)
            cv2.fillConvexPoly(picture, hull, shade.clip(0, 255).tolist(), cv2.LINE_AA)
        pictures.append(picture)
    return pictures


def photos(folder: Path, num: int) -> list[np.ndarray]:
    """Read the `num` largest of the photos below a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and looks_like_image(path.name)]
    found = []
    for path in sorted(paths, key=lambda path: -path.stat().st_size):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None and min(image.shape[:2]) >= 256:
            found.append(image[:, :, ::-1])
        if len(found) == num:
            break
    return found


def as_jpeg(picture: np.ndarray, long_side: int, quality: int) -> bytes:
    """Cut the middle to 4:3, resize and encode."""
    height, width = picture.shape[:2]
    if width < height:
        picture, width, height = np.rot90(picture), height, width
    w, h = min(width, height * 4 // 3), min(height, width * 3 // 4)
    part = picture[(height - h) // 2 :, (width - w) // 2 :][:h, :w]
    size = (long_side, long_side * 3 // 4) if long_side else (341, 256)
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if size[0] < w else cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", part[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def best_of(ways: Mapping[str, Callable[[Any], object]], items: Iterable[Any], turns: int) -> dict[str, float]:
    """Return milliseconds an item for each way, the best of `turns` turns."""
    work, best = list(items), dict.fromkeys(ways, float("inf"))
    for _ in range(turns):
        for name, way in ways.items():
            begin = time.thread_time()
            for item in work:
                way(item)
            best[name] = min(best[name], time.thread_time() - begin)
    return {name: seconds / len(work) * 1e3 for name, seconds in best.items()}


# --- candidates ---


def by_opencv(flags: int) -> Callable[[bytes], object]:
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def by_simplejpeg(eighths: int, **options: bool) -> Callable[[bytes], object]:
    memory = np.empty(1600 * 1200 * 3, np.uint8)

    def way(data: bytes) -> object:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
        smallest = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8)}
        return simplejpeg.decode_jpeg(data, "RGB", buffer=memory, **smallest, **options)

    return way


def by_pillow(by: int) -> Callable[[bytes], object]:
    def way(data: bytes) -> object:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (image.width // by, image.height // by))
        return image.convert("RGB")

    return way


DECODERS: dict[str, Callable[[bytes], object]] = {
    **{f"Pillow, 1/{by}": by_pillow(by) for by in (1, 2, 4, 8)},
    "OpenCV, 1/1": by_opencv(cv2.IMREAD_COLOR),
    "OpenCV, 1/2": by_opencv(cv2.IMREAD_REDUCED_COLOR_2),
    "OpenCV, 1/4": by_opencv(cv2.IMREAD_REDUCED_COLOR_4),
    "OpenCV, 1/8": by_opencv(cv2.IMREAD_REDUCED_COLOR_8),
    **{f"simplejpeg, {eighths}/8": by_simplejpeg(eighths) for eighths in range(8, 0, -1)},
    "simplejpeg, 8/8, fastdct": by_simplejpeg(8, fastdct=True),
    "simplejpeg, 8/8, fastupsample": by_simplejpeg(8, fastupsample=True),
    "simplejpeg, 4/8, fastupsample": by_simplejpeg(4, fastupsample=True),
}


def by_resize(interpolation: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda part: cv2.resize(part, (SIZE, SIZE), interpolation=interpolation)


def bicubic(part: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(part).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


RESIZERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Pillow, bicubic": bicubic,
    "OpenCV, area": by_resize(cv2.INTER_AREA),
    "OpenCV, linear": by_resize(cv2.INTER_LINEAR),
    "OpenCV, cubic": by_resize(cv2.INTER_CUBIC),
    "crops.resized": lambda part: resized(part, SIZE),
}


# --- whole views ---


def plain_view(data: bytes, config: DataConfig, where: Position) -> np.ndarray:
    """What a view is, plainly: float32 [S, S, 3]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    left, top, width, height = view_box(config, *image.size, 0, where)[0]
    square = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return (np.asarray(square, np.float32) / 255 - MEAN) / STD


def difference(data: bytes, config: DataConfig, where: Position) -> float:
    """Mean absolute difference between a view and that of the whole picture decoded, shrunk by averages."""
    header = read_header(lambda at, num: data[at : at + num], len(data))
    box, step = view_box(config, header.width, header.height, 0, where)
    left, top, width, height = box
    part = decode(data, header)[top : top + height, left : left + width]
    small = part if step == 1 else cv2.resize(part, (width // step, height // step), interpolation=cv2.INTER_AREA)
    view = resized(decode_box(data, header, box, step), SIZE)
    return float(np.abs(view.astype(np.int16) - resized(small, SIZE)).mean())


def table(title: str, columns: list[str], rows: dict[str, list[str]]) -> None:
    print(f"\n{title:32}" + "".join(f"{column:>14}" for column in columns))
    for name, cells in rows.items():
        print(f"{name:32}" + "".join(f"{cell:>14}" for cell in cells))


def show_decoding(sets: dict[str, list[bytes]], turns: int) -> None:
    sizes = [f"{np.mean([len(data) for data in files]) / 1000:.0f} kB" for files in sets.values()]
    times = [best_of(DECODERS, files, turns) for files in sets.values()]
    rows = {way: [f"{took[way]:.2f}" for took in times] for way in DECODERS}
    table("decoding, ms", list(sets), {"mean size": sizes, **rows})


def show_resizing(picture: np.ndarray, turns: int) -> None:
    parts = [picture[:h, :w] for w, h in ((200, 180), (230, 240), (300, 280), (440, 420), (580, 440))]
    shapes = [f"{part.shape[1]} x {part.shape[0]}" for part in parts]
    times = [best_of(RESIZERS, [part] * 20, turns) for part in parts]
    table("resizing to 224, ms", shapes, {way: [f"{took[way]:.3f}" for took in times] for way in RESIZERS})
    wanted = [bicubic(part).astype(np.int16) for part in parts]
    apart = {
        way: [f"{np.abs(resize(part) - square).mean():.2f}" for part, square in zip(parts, wanted, strict=True)]
        for way, resize in RESIZERS.items()
    }
    table("grey levels from Pillow's", shapes, apart)


def show_views(sets: dict[str, list[bytes]], config: DataConfig, turns: int) -> None:
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    ways: dict[str, Callable[[tuple[bytes, Position]], object]] = {
        "plain": lambda job: plain_view(job[0], config, job[1]),
        "ours": lambda job: draw_view(job[0], 0, config, job[1], out),
    }
    rows = {}
    for name, files in sets.items():
        jobs = [(data, Position(0, 0, 0, number, 1)) for number in range(8) for data in files]
        took = best_of(ways, jobs, turns)
        apart = [difference(data, config, where) for data, where in jobs]
        rows[name] = [
            f"{took['plain']:.2f} ms",
            f"{took['ours']:.2f} ms",
            f"{1000 / took['ours']:,.0f}/s",
            f"{took['plain'] / took['ours']:.2f} x",
            SETS[name][2],
            f"{np.mean(apart):.2f}",
            f"{max(apart):.2f}",
        ]
    table(f"views, {config.crop}", ["plain", "draw_view", "a second", "ratio", "aim", "mean diff.", "largest"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="measure on the largest photos below this folder")
    parser.add_argument("--pictures", type=int, default=6, help="how many")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    pictures = photos(options.photos, options.pictures) if options.photos else textures(options.pictures)
    if not pictures:
        parser.error(f"no photos of 256 pixels and more below {options.photos}")
    sets = {name: [as_jpeg(picture, long, q) for picture in pictures] for name, (long, q, _) in SETS.items()}
    show_decoding(sets, options.turns)
    show_resizing(pictures[0], options.turns)
    for config in (DataConfig(size=SIZE, crop="random_resized"), DataConfig(size=SIZE, crop="resize")):
        show_views(sets, config, options.turns)


if __name__ == "__main__":
    main()
